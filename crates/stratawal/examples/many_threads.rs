//! Many threads append to one stream, each append synced: they share the syncs.
//!
//! `cargo run --release --example many_threads [DIR]` works in DIR, or in a temporary directory
//! that it removes. An in-memory file system does not really sync, so use a DIR on a disk to see
//! the effect.

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use stratawal::{Result, Stream, Wal};

const APPENDS: u64 = 512;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| temporary.path().join("log"), PathBuf::from);
    let wal = Wal::open(&dir)?;
    for threads in [1, 8, 64] {
        let stream = wal.stream(&format!("by {threads} threads"))?;
        let began = Instant::now();
        append(&stream, threads)?;
        let per_second = APPENDS as f64 / began.elapsed().as_secs_f64();
        println!("{threads:2} threads: {per_second:8.0} synced appends a second");
        check(&stream, threads)?;
    }
    Ok(wal.close()?)
}

/// Appends `APPENDS` entries from `threads` threads.
fn append(stream: &Stream, threads: u64) -> Result<()> {
    thread::scope(|scope| {
        let worker = |thread: u64| {
            // A clone is another handle on the same stream. No lock is held during the append: with
            // one, a single thread at a time would wait for the disk, and no sync would be shared.
            let stream = stream.clone();
            scope.spawn(move || (0..APPENDS / threads).try_for_each(|i| append_one(&stream, thread, i)))
        };
        let workers: Vec<_> = (0..threads).map(worker).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// Returns once the entry is on stable storage.
fn append_one(stream: &Stream, thread: u64, i: u64) -> Result<()> {
    stream.append([thread.to_le_bytes(), i.to_le_bytes()].concat()).map(|_| ())
}

/// Checks that every entry exists, and that those of each thread are in the order in which it
/// appended them.
fn check(stream: &Stream, threads: u64) -> std::result::Result<(), Box<dyn Error>> {
    let mut next = vec![0; usize::try_from(threads)?];
    for entry in stream.iter(..) {
        let entry = entry?;
        let (thread, i) = entry.data().split_at(8);
        let thread = usize::try_from(u64::from_le_bytes(thread.try_into()?))?;
        if u64::from_le_bytes(i.try_into()?) != next[thread] {
            return Err(format!("entry {} is out of order", entry.seq()).into());
        }
        next[thread] += 1;
    }
    if next.iter().sum::<u64>() != APPENDS { Err("an entry is missing".into()) } else { Ok(()) }
}
