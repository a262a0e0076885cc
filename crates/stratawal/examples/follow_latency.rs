//! How soon a process sees what another one appends. The writer appends durable entries, one every
//! few milliseconds; a second process follows the stream, and reports when it has seen each of
//! them.
//!
//! Prints the time from the acknowledgement of an append to the sight of its entry in the other
//! process, which may be sooner. Run it with `--release` for figures that mean something:
//! `cargo run --release --package stratawal --example follow_latency [ENTRIES [DIR]]`

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stratawal::{Options, Wal};

/// The first argument of the process that follows.
const FOLLOW: &str = "--follow";

/// The time by the clock that all processes share.
fn now() -> Result<Duration, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// Prints the seq of each entry and when it was seen, until `count` were.
fn follow(dir: &Path, from: u64, count: usize) -> Result<(), Box<dyn Error>> {
    let wal = Options::new().open_read_only(dir)?;
    let follow = wal.stream("s")?.follow(from);
    println!("ready");
    for entry in follow.filter_map(|event| event.map(|event| event.into_entry()).transpose()).take(count) {
        let seen = now()?;
        println!("{} {}", entry?.seq(), seen.as_nanos());
    }
    Ok(())
}

fn write(dir: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    let wal = Wal::open(dir)?;
    let stream = wal.stream("s")?;
    let first = stream.next_seq();
    let mut child = Command::new(std::env::current_exe()?)
        .arg(FOLLOW)
        .arg(dir)
        .args([first.to_string(), count.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("the child has no output")?).lines();
    let ready = lines.next().ok_or("the child has ended")??;
    assert_eq!(ready, "ready");
    let began = Instant::now();
    let mut acknowledged = Vec::with_capacity(count);
    let mut took = Vec::with_capacity(count);
    for i in 0..count {
        let before = Instant::now();
        stream.append("an entry that another process waits for")?;
        acknowledged.push(now()?);
        took.push(before.elapsed());
        // From 1 to 7 ms, so that the follower is idle and the entries come at no fixed time.
        thread::sleep(Duration::from_micros(1000 + (i as u64 * 2_654_435_761) % 6000));
    }
    let mut late = Vec::with_capacity(count);
    for (seq, line) in (first..).zip(lines) {
        let line = line?;
        let (seen_seq, at) = line.split_once(' ').ok_or("a line has two numbers")?;
        assert_eq!(seen_seq.parse::<u64>()?, seq, "each entry is seen once, and in order");
        let at = Duration::from_nanos(at.parse()?);
        late.push(at.saturating_sub(acknowledged[late.len()]));
    }
    assert!(child.wait()?.success() && late.len() == count, "every entry is seen");
    late.sort_unstable();
    took.sort_unstable();
    let at = |sorted: &[Duration], percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    println!("{count} durable entries in {:?}", began.elapsed());
    println!("an append took {:?} (median), {:?} (99 %)", at(&took, 50), at(&took, 99));
    let most = at(&late, 100);
    println!("seen {:?} (median), {:?} (99 %), {most:?} (most) after it", at(&late, 50), at(&late, 99));
    Ok(wal.close()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, dir, from, count] = &arguments[..]
        && flag == FOLLOW
    {
        return follow(Path::new(dir), from.parse()?, count.parse()?);
    }
    let count = arguments.first().map_or(Ok(300), |text| text.parse())?;
    let temporary = tempfile::tempdir()?;
    let dir = arguments.get(1).map_or_else(|| temporary.path().join("log"), PathBuf::from);
    write(&dir, count)
}
