//! Verifying a log in several threads finds the same as in one.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use stratawal::inspect::{self, StreamCheck, VerifyOptions};
use stratawal::{ErrorKind, Options, StreamOptions};

fn shown(check: stratawal::Result<StreamCheck>) -> String {
    let StreamCheck { stream, state, first_seq, next_seq, segments, torn, damage, .. } = check.unwrap();
    let damage: Vec<String> = damage.iter().map(ToString::to_string).collect();
    format!("{stream} {state:?} {first_seq:?} {next_seq:?} {segments} {torn:?} {damage:?}")
}

/// Streams of one segment and of many, some of them damaged.
fn damaged_log(dir: &Path) {
    let small = StreamOptions::new().segment_bytes(64 << 10);
    let wal = Options::new().journal(false).stream_defaults(small).open(dir).unwrap();
    for i in 0..9 {
        let stream = wal.stream(&format!("s{i}")).unwrap();
        for _ in 0..10 + i % 3 * 300 {
            stream.append([7; 1000]).unwrap();
        }
    }
    wal.close().unwrap();
    for i in [1, 5, 6] {
        let name = format!("s{i}");
        let files = inspect::segment_files(dir, &name).unwrap();
        for file in files.iter().step_by(2) {
            let path = dir.join("streams").join(&name).join(&file.name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[6000] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn threads_find_the_same_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let alone: Vec<String> = inspect::verify(dir.path(), None).unwrap().map(shown).collect();
    assert_eq!(alone.iter().filter(|check| check.contains("Damaged")).count(), 3);
    for threads in [0, 1, 2, 8] {
        let mut found = Vec::new();
        let options = VerifyOptions::new().threads(threads);
        inspect::verify_with(dir.path(), None, &options, |check| found.push(shown(check))).unwrap();
        assert_eq!(found, alone, "{threads} threads");
        let mut one = Vec::new();
        inspect::verify_with(dir.path(), Some("s5"), &options, |check| one.push(shown(check))).unwrap();
        assert_eq!(one, [alone[5].clone()], "{threads} threads");
    }
}

#[test]
fn progress_counts_the_bytes_of_each_file_once() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let files = (0..9).flat_map(|i| inspect::segment_files(dir.path(), &format!("s{i}")).unwrap());
    let total: u64 = files.map(|file| file.bytes).sum();
    let read = AtomicU64::new(0);
    let count = |bytes| {
        read.fetch_add(bytes, Ordering::Relaxed);
    };
    let options = VerifyOptions::new().threads(3).progress(&count);
    inspect::verify_with(dir.path(), None, &options, |check| drop(check.unwrap())).unwrap();
    assert_eq!(read.load(Ordering::Relaxed), total);
}

#[test]
fn unknown_stream_is_an_error_of_the_call() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let error = inspect::verify_with(dir.path(), Some("none"), &VerifyOptions::new(), drop).unwrap_err();
    assert_eq!((error.kind(), error.stream()), (ErrorKind::Missing, Some("none")));
}
