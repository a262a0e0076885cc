//! Limits that the system sets on a process: what they refuse fails by itself, and nothing else. Each test runs in a process of
//! its own, whose limits it lowers.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratawal::{Durability, ErrorKind, Options, StreamOptions, Wal};

/// Names the test that a child process runs.
const CHILD: &str = "STRATAWAL_LIMITS_CHILD";

/// Whether this process is to run `test`, whose limits it may lower; otherwise a child has run it.
fn is_child(test: &str) -> bool {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return true;
    }
    // The signal that a limit on the length of files sends would end the process before its call fails.
    let output = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
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

#[test]
fn a_limit_on_the_length_of_files_refuses_appends_and_nothing_else() {
    if !is_child("a_limit_on_the_length_of_files_refuses_appends_and_nothing_else") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append("first").unwrap();
    let before = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
    for round in 1..=2 {
        limit(Resource::Fsize, round * (300 << 10));
        let refused = (0..1000).find_map(|_| stream.append([7; 3000]).err()).expect("the limit is met");
        assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
        assert!(refused.to_string().contains("cannot append: I/O failed"), "{refused}");
        let end = stream.next_seq();
        assert_eq!(stream.iter(..).filter(Result::is_ok).count() as u64, end - stream.first_seq());
        stream.truncate_before(end - 10).unwrap();
        limit(Resource::Fsize, before);
        assert_eq!(stream.append("without a recovery").unwrap(), end);
    }
    let end = stream.next_seq();
    wal.close().unwrap();
    drop((stream, wal));
    assert_eq!(Wal::open(dir.path()).unwrap().stream("s").unwrap().next_seq(), end);
}

#[test]
fn unsynced_segments_leave_descriptors_for_all_streams() {
    if !is_child("unsynced_segments_leave_descriptors_for_all_streams") {
        return;
    }
    limit(Resource::Nofile, 256);
    let dir = tempfile::tempdir().unwrap();
    let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
    let wal = Options::new().stream_defaults(streams).open(dir.path()).unwrap();
    let streams: Vec<_> = (0..60).map(|i| wal.stream(&format!("s{i}")).unwrap()).collect();
    for _ in 0..200 {
        for stream in &streams {
            stream.append([7; 3000]).unwrap();
        }
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 60 + 64 + 40, "{open} files are open");
    wal.close().unwrap();
}
