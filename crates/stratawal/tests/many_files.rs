//! A log with a journal and more streams than its process may have open files. The test changes its
//! process's limit, so it needs a process of its own.
#![cfg(target_os = "linux")]

use std::fs;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratawal::{Durability, Options, Stream, Wal};

const STREAMS: usize = 2_000;
const FILES_MAX: u64 = 256;
const THREADS: usize = 8;
const ROUNDS: usize = 6;

fn open(dir: &std::path::Path) -> Wal {
    Options::new().journal(true).journal_bytes(1 << 20).open(dir).unwrap()
}

fn entry(stream: usize, round: usize) -> Vec<u8> {
    format!("entry {round} of stream {stream} ").repeat(10).into_bytes()
}

/// Calls `act` for all streams, in several threads.
fn for_all(act: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for first in 0..THREADS {
            let act = &act;
            scope.spawn(move || (first..STREAMS).step_by(THREADS).for_each(act));
        }
    });
}

#[test]
fn streams_outnumber_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES_MAX), maximum }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path());
    let streams: Vec<Stream> = (0..STREAMS).map(|i| wal.stream(&format!("s{i}")).unwrap()).collect();
    for round in 0..ROUNDS {
        let durability = [Durability::Synced, Durability::Flushed, Durability::Buffered][round % 3];
        for_all(|i| assert_eq!(streams[i].with_durability(durability).append(entry(i, round)).unwrap(), round as u64));
        assert!(fs::read_dir("/proc/self/fd").unwrap().count() < 200);
    }
    wal.sync().unwrap();
    let check = |stream: &Stream, i: usize| {
        let found = stream.iter(..).map(|entry| entry.unwrap().data().to_vec());
        assert!(found.eq((0..ROUNDS).map(|round| entry(i, round))), "stream {i}");
    };
    for_all(|i| check(&streams[i], i));
    wal.close().unwrap();
    drop((streams, wal));
    let wal = open(dir.path());
    for_all(|i| check(&wal.stream(&format!("s{i}")).unwrap(), i));
    wal.close().unwrap();
}
