//! A log with more segments to scan than its process may have open files. The test changes its
//! process's limit, so it needs a process of its own.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratawal::{Durability, Options, Stream, StreamOptions, Wal};

const SEGMENTS: u64 = 200;
const FILES_MAX: u64 = 64;
const STREAM: &str = "s";

fn options() -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
    Options::new()
        .journal(false)
        .stream_defaults(streams.unsynced_bytes_max(1 << 30).unsynced_segments_max(2 * SEGMENTS as usize))
}

fn entry(seq: u64) -> Vec<u8> {
    let mut entry = vec![7; 6_000];
    entry[..8].copy_from_slice(&seq.to_le_bytes());
    entry
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

/// Reads all entries, forwards and one at a time.
fn assert_entries(stream: &Stream, entries: u64) {
    let found = stream.iter(..).map(|entry| entry.unwrap());
    let is_same = found.enumerate().filter(|(i, found)| found.data()[..] == entry(*i as u64)).count();
    assert_eq!(is_same as u64, entries);
    for seq in (0..entries).step_by(97) {
        assert_eq!(stream.get(seq).unwrap().unwrap().data()[..], entry(seq));
    }
}

#[test]
fn unsynced_segments_open_with_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let left = dir.path().join("left");
    let wal: Wal = options().open(&live).unwrap();
    let stream = wal.stream(STREAM).unwrap();
    let mut entries = 0;
    while stream.stats().unwrap().segments < SEGMENTS {
        for _ in 0..10 {
            stream.append(entry(entries)).unwrap();
            entries += 1;
        }
    }
    // The files as a process killed now would leave them.
    copy(&live, &left);
    drop((wal, stream));

    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES_MAX), maximum }).unwrap();
    // The reader comes first, before a recovery seals the segments.
    let wal = options().open_read_only(&left).unwrap();
    let stream = wal.stream(STREAM).unwrap();
    assert!(stream.report().scanned_bytes > (SEGMENTS - 10) << 15, "{:?}", stream.report());
    assert_entries(&stream, entries);
    drop((wal, stream));
    let wal = options().open(&left).unwrap();
    let stream = wal.stream(STREAM).unwrap();
    assert!(stream.report().rewritten_bytes > 0, "{:?}", stream.report());
    assert_entries(&stream, entries);
    assert_eq!(stream.append(entry(entries)).unwrap(), entries);
    wal.close().unwrap();
}
