//! Limits that the system sets on a process: what they refuse fails by itself, and nothing else. Each test runs in a process of
//! its own, whose limits it lowers.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratawal::{Durability, Options, StreamOptions};

/// Names the test that a child process runs.
const CHILD: &str = "STRATAWAL_LIMITS_CHILD";

/// Whether this process is to run `test`, whose limits it may lower; otherwise a child has run it.
fn is_child(test: &str) -> bool {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, test)
        .output()
        .unwrap();
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {}{}", output.status, shown(&output.stdout), shown(&output.stderr));
    false
}

fn limit(resource: Resource, current: u64) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(current), maximum }).unwrap();
}

#[test]
fn a_segment_that_cannot_be_mapped_is_read() {
    if !is_child("a_segment_that_cannot_be_mapped_is_read") {
        return;
    }
    const ENTRY_LEN: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let streams = StreamOptions::new().segment_bytes(64 << 20).durability(Durability::Flushed);
    let options = Options::new().stream_defaults(streams);
    let wal = options.open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    for i in 0..70 {
        stream.append(vec![i; ENTRY_LEN]).unwrap();
    }
    wal.close().unwrap();
    drop((stream, wal));
    // SAFETY: the folder is this test's own, and no other process uses its files.
    #[allow(unsafe_code)]
    let options = unsafe { options.map_reads() };
    let wal = options.open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    let pages: u64 = fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
    limit(Resource::As, pages * 4096 + (32 << 20));
    for (seq, byte) in [(0, 0), (33, 33), (69, 69)] {
        assert_eq!(stream.get(seq).unwrap().unwrap().data()[..], [byte; ENTRY_LEN]);
    }
    assert_eq!(stream.iter(..).map(|entry| entry.unwrap().data().len()).sum::<usize>(), 70 * ENTRY_LEN);
    let mapped = fs::read_to_string("/proc/self/maps").unwrap().contains(".seg");
    assert!(!mapped, "the limit forbids a mapping of 64 MiB");
}
