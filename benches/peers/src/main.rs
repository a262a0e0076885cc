//! The same work by stratawal, by other crates, and by raw loops. One case by one subject in one process:
//!
//! `stratawal-peers CASE SUBJECT DIR [SECONDS]` prints one line of JSON. Without arguments it lists both.
//!
//! Each case checks what it has done (the number of entries, and their bytes where they are read), so that no figure is
//! of something else. Payloads are pseudorandom. The data are removed at the end.
#![forbid(unsafe_code)]

mod ironwal;
mod ours;
mod raw;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What an append is acknowledged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Survives the death of the process.
    Flushed,
    /// Survives power loss.
    Synced,
}

/// Something that entries are appended to and read from.
trait Subject: Sync {
    /// Appends one entry.
    fn append(&self, entry: &[u8]);
    /// Appends a batch.
    fn append_batch(&self, entries: &[Vec<u8>]);
    /// Reads everything, telling each entry to `see`.
    fn scan(&self, see: &mut dyn FnMut(&[u8]));
}

/// One of the workloads.
struct Case {
    name: &'static str,
    what: &'static str,
    run: fn(&str, &Path, Duration) -> Option<Figures>,
}

/// What a case measured.
struct Figures {
    unit: &'static str,
    value: f64,
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    entries: u64,
    seconds: f64,
}

const ENTRY_LEN: usize = 128;

const CASES: [Case; 7] = [
    Case {
        name: "W1b",
        what: "append 128 B, one call each, flushed, 1 thread",
        run: |s, d, t| appends(s, d, t, Level::Flushed, 1),
    },
    Case { name: "W2", what: "batches of 100 x 128 B, flushed", run: batches },
    Case { name: "W3/1", what: "append 128 B, synced, 1 thread", run: |s, d, t| appends(s, d, t, Level::Synced, 1) },
    Case {
        name: "W3/8",
        what: "append 128 B, synced, 8 threads, one stream",
        run: |s, d, t| appends(s, d, t, Level::Synced, 8),
    },
    Case {
        name: "W3/64",
        what: "append 128 B, synced, 64 threads, one stream",
        run: |s, d, t| appends(s, d, t, Level::Synced, 64),
    },
    Case { name: "W5", what: "warm scan, 128 B, single appends", run: |s, d, _| scan(s, d, 1) },
    Case { name: "W5b", what: "warm scan, 128 B, batches of 100", run: |s, d, _| scan(s, d, 100) },
];

const SUBJECTS: [&str; 3] = ["raw", "stratawal", "ironwal"];

fn subject(name: &str, dir: &Path, level: Level) -> Option<Box<dyn Subject>> {
    Some(match name {
        "raw" => Box::new(raw::Raw::new(dir, level)),
        "stratawal" => Box::new(ours::Ours::new(dir, level)),
        "ironwal" => Box::new(ironwal::Ironwal::new(dir, level)),
        _ => return None,
    })
}

/// Pseudorandom bytes that follow from a number.
fn entry(n: u64) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    let mut state = n;
    for piece in bytes.chunks_exact_mut(8) {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        piece.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes
}

fn appends(name: &str, dir: &Path, time: Duration, level: Level, threads: u64) -> Option<Figures> {
    let subject = subject(name, dir, level)?;
    subject.append(&entry(u64::MAX));
    let (barrier, appended) = (Barrier::new(usize::try_from(threads).ok()?), AtomicU64::new(0));
    let work = |thread: u64| {
        let mut took = Vec::with_capacity(1 << 20);
        barrier.wait();
        let began = Instant::now();
        let mut n = thread << 32;
        while began.elapsed() < time {
            let bytes = entry(n);
            let one = Instant::now();
            subject.append(&bytes);
            took.push(u64::try_from(one.elapsed().as_nanos()).unwrap_or(u64::MAX));
            n += 1;
        }
        appended.fetch_add(took.len() as u64, Ordering::Relaxed);
        (took, began.elapsed())
    };
    let all: Vec<(Vec<u64>, Duration)> = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a case does not panic")).collect()
    });
    let seconds = all.iter().map(|one| one.1.as_secs_f64()).fold(0.0, f64::max);
    let mut took: Vec<u64> = all.into_iter().flat_map(|one| one.0).collect();
    let entries = appended.into_inner();
    let mut found = 0;
    subject.scan(&mut |bytes| found += u64::from(bytes.len() == ENTRY_LEN));
    assert_eq!(found, entries + 1, "{name} has not what was appended");
    took.sort_unstable();
    let at = |part: f64| took[((took.len() as f64 * part) as usize).min(took.len() - 1)];
    let (unit, value) = match threads {
        1 => ("ns an append", seconds * 1e9 / entries as f64),
        _ => ("acknowledgements a second", entries as f64 / seconds),
    };
    Some(Figures { unit, value, p50_ns: at(0.5), p99_ns: at(0.99), p999_ns: at(0.999), entries, seconds })
}

fn batches(name: &str, dir: &Path, time: Duration) -> Option<Figures> {
    let subject = subject(name, dir, Level::Flushed)?;
    let batch: Vec<Vec<u8>> = (0..100).map(|n| entry(n).to_vec()).collect();
    let began = Instant::now();
    let mut entries = 0;
    while began.elapsed() < time {
        subject.append_batch(&batch);
        entries += 100;
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut found = 0_u64;
    subject.scan(&mut |_| found += 1);
    assert_eq!(found, entries, "{name} has not what was appended");
    let value = entries as f64 / seconds / 1e6;
    Some(Figures { unit: "million entries a second", value, p50_ns: 0, p99_ns: 0, p999_ns: 0, entries, seconds })
}

fn scan(name: &str, dir: &Path, batch_len: u64) -> Option<Figures> {
    const ENTRIES: u64 = 1_000_000;
    let subject = subject(name, dir, Level::Flushed)?;
    let mut n = 0;
    while n < ENTRIES {
        if batch_len == 1 {
            subject.append(&entry(n));
        } else {
            let batch: Vec<Vec<u8>> = (n..n + batch_len).map(|n| entry(n).to_vec()).collect();
            subject.append_batch(&batch);
        }
        n += batch_len;
    }
    let expected = (0..ENTRIES).fold(0_u64, |sum, n| sum.wrapping_add(u64::from(crc32fast::hash(&entry(n)))));
    let (mut sum, mut found) = (0_u64, 0);
    // The first pass warms the page cache, and checks.
    subject.scan(&mut |bytes| {
        sum = sum.wrapping_add(u64::from(crc32fast::hash(bytes)));
        found += 1;
    });
    assert_eq!((found, sum), (ENTRIES, expected), "{name} has other bytes");
    let began = Instant::now();
    let mut lens = 0_u64;
    subject.scan(&mut |bytes| lens += std::hint::black_box(bytes).len() as u64);
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(lens, ENTRIES * ENTRY_LEN as u64);
    let value = seconds * 1e9 / ENTRIES as f64;
    Some(Figures { unit: "ns an entry", value, p50_ns: 0, p99_ns: 0, p999_ns: 0, entries: ENTRIES, seconds })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(case), Some(name), Some(dir)) = (arguments.first(), arguments.get(1), arguments.get(2)) else {
        CASES.iter().for_each(|case| println!("{:8}{}", case.name, case.what));
        println!("subjects: {}", SUBJECTS.join(" "));
        return ExitCode::SUCCESS;
    };
    let seconds = arguments.get(3).and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let Some(found) = CASES.iter().find(|known| known.name == case) else {
        eprintln!("there is no case {case}");
        return ExitCode::from(2);
    };
    let dir = Path::new(dir).join(format!("{name}-{}", case.replace('/', "-")));
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir).expect("the folder can be made");
    let figures = (found.run)(name, &dir, Duration::from_secs_f64(seconds));
    drop(std::fs::remove_dir_all(&dir));
    let Some(f) = figures else {
        eprintln!("there is no subject {name}");
        return ExitCode::from(2);
    };
    println!(
        r#"{{"case":"{case}","subject":"{name}","unit":"{}","value":{:.2},"p50_ns":{},"p99_ns":{},"p999_ns":{},"entries":{},"seconds":{:.3}}}"#,
        f.unit, f.value, f.p50_ns, f.p99_ns, f.p999_ns, f.entries, f.seconds
    );
    ExitCode::SUCCESS
}
