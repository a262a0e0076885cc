//! Two streams of one log, a batch, a restart, and reading back.
//!
//! `cargo run --example quickstart [DIR]` works in DIR, or in a temporary directory that it
//! removes.

use std::error::Error;
use std::path::{Path, PathBuf};

use stratawal::{Batch, Durability, Wal};

fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| temporary.path().join("log"), PathBuf::from);
    write(&dir)?;
    read(&dir)
}

fn write(dir: &Path) -> Result<(), Box<dyn Error>> {
    let wal = Wal::open(dir)?;
    // A stream is created by its first entry.
    let accounts = wal.stream("accounts")?;
    accounts.append("open alice")?;

    // After any crash, both entries exist or neither does.
    let transfer: Batch = ["alice -5", "bob +5"].into_iter().collect();
    let seqs = accounts.append_batch(&transfer)?;
    println!("the transfer has the seqs {seqs:?}");

    // A page view may be lost in a power failure, so its append does not wait for the disk.
    let views = wal.stream("page views")?.with_durability(Durability::Flushed);
    views.append("alice /balance")?;

    // Makes everything durable, including the view, and reports errors. Dropping the log does not
    // report them.
    Ok(wal.close()?)
}

fn read(dir: &Path) -> Result<(), Box<dyn Error>> {
    let wal = Wal::open(dir)?;
    for name in wal.streams()? {
        let stream = wal.stream(&name)?;
        println!("{name}: entries {}..{}", stream.first_seq(), stream.next_seq());
        for entry in stream.iter(..) {
            let entry = entry?;
            println!("  {}: {}", entry.seq(), String::from_utf8_lossy(entry.data()));
        }
    }
    Ok(wal.close()?)
}
