//! A stored log of format 1. It must always open, for reading and for writing.
//!
//! With `STRATAWAL_BLESS=1` a missing log is created. An existing log is never rewritten.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal::{Batch, Durability, Options, StreamOptions, Wal, inspect};
use stratawal_storage::{Access, MemoryStorage, Storage};

/// The name, the first seq, the next seq, and whether the stream was closed cleanly.
const STREAMS: [(&str, u64, u64, bool); 4] =
    [("closed", 0, 40, true), ("killed", 0, 31, false), ("cut/both sides", 7, 25, true), ("日本", 0, 1, true)];

fn kept() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1"))
}

fn entry(stream: &str, seq: u64) -> Vec<u8> {
    let mut bytes = format!("{stream} {seq}").into_bytes();
    bytes.extend(std::iter::repeat_n(b'.', usize::try_from(seq * 7 % 50).unwrap()));
    if seq == 3 { Vec::new() } else { bytes }
}

fn open(storage: &MemoryStorage) -> Wal {
    let options = Options::new().journal(false).stream_defaults(StreamOptions::new().frame_bytes(300));
    options.open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap()
}

fn append(wal: &Wal, name: &str, to: u64) {
    let stream = wal.stream(name).unwrap();
    while stream.next_seq() < to {
        let next = stream.next_seq();
        let batch: Batch = (next..(next + 1 + next % 4).min(to)).map(|seq| entry(name, seq)).collect();
        stream.with_durability(Durability::Flushed).append_batch(&batch).unwrap();
    }
    stream.sync().unwrap();
}

/// Writes a log in format 1, in several lives that end cleanly and one that does not.
fn make() -> MemoryStorage {
    let storage = MemoryStorage::new().with_seed(1).with_clock(1_750_000_000_000_000, 50);
    let wal = open(&storage);
    append(&wal, "closed", 20);
    append(&wal, "cut/both sides", 40);
    append(&wal, "日本", 1);
    append(&wal, "killed", 10);
    wal.close().unwrap();
    let wal = open(&storage);
    append(&wal, "closed", 40);
    let cut = wal.stream("cut/both sides").unwrap();
    cut.truncate_from(20).unwrap();
    cut.truncate_before(7).unwrap();
    append(&wal, "cut/both sides", 25);
    wal.close().unwrap();
    let wal = open(&storage);
    append(&wal, "killed", 31);
    storage.snapshot()
}

fn bless(storage: &MemoryStorage) {
    let mut dirs = vec![PathBuf::from("/log")];
    while let Some(dir) = dirs.pop() {
        fs::create_dir_all(kept().join(dir.strip_prefix("/log").unwrap())).unwrap();
        for found in storage.list(&dir).unwrap() {
            let path = dir.join(&found.name);
            let Ok(file) = storage.open(&path, Access::Read) else {
                dirs.push(path);
                continue;
            };
            if found.name == "RESERVE" {
                continue;
            }
            let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            fs::write(kept().join(path.strip_prefix("/log").unwrap()), bytes).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for found in fs::read_dir(from).unwrap() {
        let path = found.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn assert_entries(wal: &Wal) {
    for (name, first, next, _) in STREAMS {
        let stream = wal.stream(name).unwrap();
        assert_eq!((stream.first_seq(), stream.next_seq()), (first, next), "{name}");
        let found: Vec<_> = stream.iter(..).map(|found| found.unwrap().data().to_vec()).collect();
        assert_eq!(found, (first..next).map(|seq| entry(name, seq)).collect::<Vec<_>>(), "{name}");
    }
    let mut names = wal.streams().unwrap();
    names.sort();
    let mut expected = STREAMS.map(|stream| stream.0.to_owned());
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn log_of_format_1_opens() {
    if !kept().exists() && std::env::var_os("STRATAWAL_BLESS").is_some_and(|v| v == "1") {
        bless(&make());
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&kept(), dir.path());
    assert_entries(&Options::new().open_read_only(dir.path()).unwrap());
    for check in inspect::verify(dir.path(), None).unwrap().map(Result::unwrap) {
        assert!(check.damage.is_empty() && check.state == inspect::CheckState::Sound, "{check:?}");
    }
    for _ in 0..2 {
        let wal = Wal::open(dir.path()).unwrap();
        assert_entries(&wal);
        wal.close().unwrap();
    }
    let wal = Wal::open(dir.path()).unwrap();
    for (name, _, next, _) in STREAMS {
        assert_eq!(wal.stream(name).unwrap().append("continues").unwrap(), next);
    }
}

#[test]
fn report_states_whether_a_stream_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    copy(&kept(), dir.path());
    let wal = Wal::open(dir.path()).unwrap();
    for (name, _, _, closed) in STREAMS {
        assert_eq!(wal.stream(name).unwrap().report().clean, closed, "{name}");
    }
}

/// Opening with the defaults gives the log a journal, and `journal(false)` takes it away.
#[test]
fn log_of_format_1_gets_a_journal_and_loses_it() {
    let dir = tempfile::tempdir().unwrap();
    copy(&kept(), dir.path());
    let format = || fs::read(dir.path().join("FORMAT")).unwrap();
    let before = format();
    assert_entries(&Options::new().open_read_only(dir.path()).unwrap());
    assert!(!inspect::has_journal(dir.path()).unwrap(), "a reader changes nothing");
    let wal = Wal::open(dir.path()).unwrap();
    wal.stream("new").unwrap().append("in the journal alone").unwrap();
    wal.close_fast().unwrap();
    drop(wal);
    assert!(inspect::has_journal(dir.path()).unwrap() && format() != before);
    let wal = Options::new().journal(false).open(dir.path()).unwrap();
    assert_eq!(wal.stream("new").unwrap().next_seq(), 1);
    wal.delete_stream("new").unwrap();
    assert_entries(&wal);
    wal.close().unwrap();
    assert!(!inspect::has_journal(dir.path()).unwrap() && format() == before);
    assert!(!dir.path().join("journal").exists(), "no file of the journal is left");
}
