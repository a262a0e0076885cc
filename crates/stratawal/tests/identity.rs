//! A log is the directory that was opened, even if its path later leads elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use stratawal::{ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::SimStorage;

/// Options with segments of 64 KiB, so that a few entries need another file.
fn small() -> Options {
    Options::new().stream_defaults(StreamOptions::new().segment_bytes(64 << 10))
}

/// Appends entries that name their owner, across several segments.
fn fill(stream: &Stream, owner: &str) {
    for _ in 0..40 {
        stream.append(format!("{owner}{}", ".".repeat(4000))).unwrap();
    }
}

/// Checks that the stream `s` of a log has only entries of `owner`.
fn belongs_to(wal: &Wal, owner: &str) -> u64 {
    let stream = wal.stream("s").unwrap();
    for entry in stream.iter(..) {
        assert!(entry.unwrap().data().starts_with(owner.as_bytes()), "an entry of another log");
    }
    stream.next_seq() - stream.first_seq()
}

/// Checks that calls on log `a` do not change log `b` after `mislead` has changed where the path of
/// `a` leads.
fn calls_reach_the_opened_log(dir: &Path, path: &Path, b: &Wal, mislead: impl FnOnce()) -> Wal {
    let a = small().open(path).unwrap();
    let stream = a.stream("s").unwrap();
    let doomed = a.stream("doomed").unwrap();
    fill(&stream, "a");
    doomed.append("a").unwrap();
    mislead();
    fill(&stream, "a");
    // Names that neither log has looked up so far.
    a.stream("new").unwrap().append("a").unwrap();
    assert_eq!(b.streams().unwrap(), ["doomed", "s"], "in {}", dir.display());
    assert_eq!(a.streams().unwrap(), ["doomed", "new", "s"]);
    stream.truncate_before(60).unwrap();
    a.delete_stream("doomed").unwrap();
    a.stream("new").unwrap().truncate_from(0).unwrap();
    assert_eq!(belongs_to(b, "b"), 40);
    assert_eq!(b.stream("doomed").unwrap().next_seq(), 1);
    assert_eq!(belongs_to(&a, "a"), 20);
    // Sealed segments are opened only when they are read.
    assert_eq!(stream.get(65).unwrap().unwrap().data()[0], b'a');
    a
}

fn other_log(path: &Path) -> Wal {
    let wal = small().open(path).unwrap();
    fill(&wal.stream("s").unwrap(), "b");
    wal.stream("doomed").unwrap().append("b").unwrap();
    wal
}

#[test]
fn renamed_log_is_still_the_one_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let b = other_log(&at("b"));
    let a = calls_reach_the_opened_log(dir.path(), &at("a"), &b, || {
        fs::rename(at("a"), at("a-moved")).unwrap();
        fs::rename(at("b"), at("a")).unwrap();
    });
    a.close().unwrap();
    assert_eq!(belongs_to(&Wal::open(at("a-moved")).unwrap(), "a"), 20);
}

#[test]
fn retargeted_link_does_not_lead_to_another_log() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("a")).unwrap();
    symlink(at("a"), at("log")).unwrap();
    let b = other_log(&at("b"));
    calls_reach_the_opened_log(dir.path(), &at("log"), &b, || {
        fs::remove_file(at("log")).unwrap();
        symlink(at("b"), at("log")).unwrap();
    });
}

const DIR: &str = "STRATAWAL_TEST_DIR";

/// The body of the next test. It runs in its own process, because the working directory is
/// process-wide.
#[test]
fn in_another_working_directory() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    fs::create_dir_all(dir.join("elsewhere")).unwrap();
    std::env::set_current_dir(&dir).unwrap();
    let b = other_log(&dir.join("elsewhere/log"));
    calls_reach_the_opened_log(&dir, Path::new("log"), &b, || {
        std::env::set_current_dir(dir.join("elsewhere")).unwrap();
    });
}

#[test]
fn changed_working_directory_keeps_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["in_another_working_directory", "--exact"]).env(DIR, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(dir.path().join("log/FORMAT").exists());
}

#[test]
fn long_path_leaves_room_for_streams() {
    let dir = tempfile::tempdir().unwrap();
    // PATH_MAX is 4,096 bytes including the final zero. The path of this root leaves too few for
    // the path of a segment.
    let mut path = dir.path().to_owned();
    while path.as_os_str().len() < 4095 - 101 {
        path.push("d".repeat(100));
    }
    path.push("e".repeat(4094 - path.as_os_str().len()));
    let mut deep = PathBuf::from(dir.path());
    // The system cannot create such a path in one call, so each directory is created from its
    // parent.
    for component in path.strip_prefix(dir.path()).unwrap() {
        deep.push(component);
        fs::create_dir(&deep).unwrap();
    }
    let name = "n".repeat(240);
    for life in 0..3 {
        let wal = Wal::open(&path).unwrap();
        let stream = wal.stream(&name).unwrap();
        assert_eq!(stream.append("an entry").unwrap(), life);
        wal.close().unwrap();
    }
    assert_eq!(Options::new().open_read_only(&path).unwrap().stream(&name).unwrap().next_seq(), 3);
}

fn assert_removed(result: Result<(), stratawal::Error>, call: &str) {
    let error = result.expect_err(call);
    assert!(error.to_string().contains("removed"), "{call}: {error}");
    assert_eq!(error.kind(), ErrorKind::Io, "{call}: {error}");
}

/// Checks the errors of all calls on names in the log after its directory was removed.
fn reports_the_removed_directory(wal: &Wal, stream: &Stream) {
    assert_removed(wal.streams().map(drop), "streams");
    assert_removed(wal.stream("another").map(drop), "stream");
    assert_removed(wal.delete_stream("another"), "delete_stream");
    assert_removed(stream.truncate_from(1).map(drop), "truncate_from");
}

#[test]
fn removed_directory_is_reported_by_every_call() {
    for journal in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let wal = Options::new().journal(journal).open(&path).unwrap();
        let stream = wal.stream("s").unwrap();
        stream.append("1").unwrap();
        stream.append("2").unwrap();
        fs::remove_dir_all(&path).unwrap();
        reports_the_removed_directory(&wal, &stream);
        // Another log with that name is not used instead.
        let _other = Wal::open(&path).unwrap();
        reports_the_removed_directory(&wal, &stream);
        assert_removed(wal.delete_stream("s"), "delete_stream of an open one");
        assert_removed(wal.sync(), "sync");
        assert_removed(wal.close(), "close");
    }
}

#[test]
fn replaced_directory_is_not_changed() {
    let disk = SimStorage::new(1);
    let open = |path: &str| small().open_on(Arc::new(disk.clone()), Path::new(path), false).unwrap();
    let a = open("/a");
    let b = open("/b");
    for (wal, owner) in [(&a, "a"), (&b, "b")] {
        fill(&wal.stream("s").unwrap(), owner);
    }
    disk.rename(Path::new("/a"), Path::new("/c")).unwrap();
    disk.rename(Path::new("/b"), Path::new("/a")).unwrap();
    fill(&a.stream("s").unwrap(), "a");
    a.stream("s").unwrap().truncate_before(50).unwrap();
    assert_eq!((belongs_to(&a, "a"), belongs_to(&b, "b")), (30, 40));
    drop((a, b));
    assert_eq!((belongs_to(&open("/c"), "a"), belongs_to(&open("/a"), "b")), (30, 40));
}

#[test]
fn empty_path_is_not_the_working_directory() {
    assert_eq!(Wal::open("").unwrap_err().kind(), ErrorKind::Missing);
}
