//! The system's limits on a process: only the operation that meets a limit fails. Each test runs in
//! its own process, whose limits it lowers.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratawal::{Durability, ErrorKind, Options, StreamOptions, Wal};

/// The variable that names the test of a child process.
const CHILD: &str = "STRATAWAL_LIMITS_CHILD";

/// Whether this process is the child that runs `test` and may lower its own limits. If not, runs
/// the test in a child.
fn is_child(test: &str) -> bool {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return true;
    }
    // Exceeding the limit on file length raises a signal, which would end the process before the
    // call fails.
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
fn segment_that_cannot_be_mapped_is_read() {
    if !is_child("segment_that_cannot_be_mapped_is_read") {
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
    // SAFETY: the directory belongs to this test, and no other process uses its files.
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
fn file_size_limit_refuses_only_appends() {
    if !is_child("file_size_limit_refuses_only_appends") {
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
fn unsynced_segments_leave_descriptors_free() {
    if !is_child("unsynced_segments_leave_descriptors_free") {
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

/// Opens files until the process has no descriptor left.
fn use_up_descriptors() -> Vec<File> {
    limit(Resource::Nofile, 256);
    let mut opened = Vec::new();
    let refused = loop {
        match File::open("/dev/null") {
            Ok(file) => opened.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()), "{refused}");
    opened
}

#[test]
fn cache_closes_files_for_lack_of_descriptors() {
    if !is_child("cache_closes_files_for_lack_of_descriptors") {
        return;
    }
    limit(Resource::Nofile, 256);
    let dir = tempfile::tempdir().unwrap();
    let streams = StreamOptions::new().segment_bytes(64 << 10);
    let options = Options::new().stream_defaults(streams).cache_bytes(64 << 20).cache_files(1_000);
    let wal = options.open(dir.path()).unwrap();
    let batch: stratawal::Batch = (0..20).map(|_| [7; 3000]).collect();
    for name in ["s", "looked up", "deleted"] {
        let stream = wal.stream(name).unwrap();
        for _ in 0..12 {
            stream.append_batch(&batch).unwrap();
        }
    }
    wal.close().unwrap();
    drop(wal);
    let wal = options.open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    let read = wal.stream("deleted").unwrap();
    let acts: [(&str, &dyn Fn() -> stratawal::Result<()>); 9] = [
        ("read", &|| read.get(0).map(drop)),
        ("look up", &|| wal.stream("looked up").map(drop)),
        ("iterate", &|| wal.stream("looked up")?.iter(..).try_for_each(|entry| entry.map(drop))),
        ("append", &|| (0..5).try_for_each(|_| stream.append_batch(&batch).map(drop))),
        ("create", &|| wal.stream("created")?.append("first").map(drop)),
        ("list", &|| wal.streams().map(drop)),
        ("measure", &|| stream.stats().map(drop)),
        ("truncate", &|| wal.stream("looked up")?.truncate_before(230)),
        ("delete", &|| wal.delete_stream("deleted")),
    ];
    for (name, act) in acts {
        limit(Resource::Nofile, 512);
        assert!(stream.iter(..).all(|entry| entry.is_ok()));
        let cached = wal.stats().unwrap().cache.segments;
        assert!(cached >= 10, "{cached} files are cached");
        let others = use_up_descriptors();
        act().unwrap_or_else(|error| panic!("{name}: {error}"));
        drop(others);
    }
    wal.close().unwrap();
}

#[test]
fn rotation_closes_unsynced_segments() {
    if !is_child("rotation_closes_unsynced_segments") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
    let options = Options::new().stream_defaults(streams);
    let wal = options.open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    let append = |count| {
        for _ in 0..count {
            stream.append([7; 3000]).unwrap();
        }
    };
    append(100);
    let is_segment = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|link| fs::read_link(link.unwrap().path()).ok());
    let open = links.filter(is_segment).count();
    assert!(open > 4, "only {open} segments are open");
    let others = use_up_descriptors();
    append(300);
    drop(others);
    wal.close().unwrap();
    drop((stream, wal));
    let stream = options.open(dir.path()).unwrap().stream("s").unwrap();
    assert_eq!(stream.iter(..).filter(|entry| entry.as_ref().unwrap().data()[..] == [7; 3000]).count(), 400);
}
