//! A process without free descriptors: only operations that need another file fail, and the log
//! continues once descriptors are free. The test changes its process's limit, so it needs a process
//! of its own.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratawal::{Durability, ErrorKind, Options, StreamOptions, Wal};

const STREAMS: usize = 40;
const THREADS: usize = 8;
const ROUNDS: usize = 400;

fn limit_files(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
}

fn open(dir: &Path) -> Wal {
    let options = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
    Options::new().journal(false).stream_defaults(options).open(dir).unwrap()
}

#[test]
fn lack_of_descriptors_is_not_permanent() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path());
    let names: Vec<String> = (0..STREAMS).map(|i| format!("s{i}")).collect();
    // Half of the streams already exist; the others are created now.
    for name in &names[..STREAMS / 2] {
        wal.stream(name).unwrap().append("first").unwrap();
    }
    let acknowledged: Vec<Mutex<Vec<(u64, u64)>>> = names.iter().map(|_| Mutex::default()).collect();
    let number = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    let before = getrlimit(Resource::Nofile).current.unwrap_or(1 << 16);
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    // Leaves descriptors for only a few new files, so that concurrent rotations and creations
    // constantly meet the limit.
    limit_files(files + 6);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let wal = &wal;
            let names = &names;
            let acknowledged = &acknowledged;
            let number = &number;
            let refused = &refused;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let i = (round * 7 + thread * 5) % STREAMS;
                    let text = number.fetch_add(1, Ordering::Relaxed);
                    let mut entry = vec![7; 3_000];
                    entry[..8].copy_from_slice(&text.to_le_bytes());
                    match wal.stream(&names[i]).and_then(|stream| stream.append(&entry)) {
                        Ok(seq) => acknowledged[i].lock().unwrap().push((seq, text)),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    limit_files(before);
    assert!(refused.into_inner() > 100, "the limit was not met");
    let check = |wal: &Wal| {
        for (name, acknowledged) in names.iter().zip(&acknowledged) {
            let stream = wal.stream(name).unwrap();
            for &(seq, text) in &*acknowledged.lock().unwrap() {
                assert_eq!(stream.get(seq).unwrap().unwrap().data()[..8], text.to_le_bytes(), "{name} {seq}");
            }
        }
    };
    check(&wal);
    // Once descriptors are free, no stream needs to be recovered first.
    for name in &names {
        wal.stream(name).unwrap().append("continues").unwrap();
    }
    wal.close().unwrap();
    drop(wal);
    check(&open(dir.path()));
}
