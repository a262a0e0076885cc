//! The files of active segments in a log with a journal: few of them are open.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal::{Durability, ErrorKind, Options, Stream, Wal};
use stratawal_storage::MemoryStorage;
use stratawal_testkit::{HookedStorage, Operation};

/// More than the journal takes in one record, so that an append goes through the files.
const LARGE: usize = 100 << 10;

/// The operating system's error number for a process that has no descriptor left.
const EMFILE: i32 = 24;

fn options() -> Options {
    Options::new().journal(true).journal_bytes(1 << 20).maintenance_thread(false).sync_interval(None).active_files(1)
}

fn open(storage: &HookedStorage) -> Wal {
    options().open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap()
}

fn lens(stream: &Stream) -> Vec<usize> {
    stream.iter(..).map(|entry| entry.unwrap().data().len()).collect()
}

/// Appends to the stream through its file, which closes the files of the others.
fn use_file(stream: &Stream) {
    stream.append(vec![7; LARGE]).unwrap();
}

/// Lets each operation that opens a file of the stream `name` fail.
fn fail_opens(storage: &HookedStorage, name: &'static str) {
    storage.set(move |operation, path| {
        let fails = operation == Operation::Open && path.starts_with(Path::new("/log/streams").join(name));
        if fails { Err(io::Error::from_raw_os_error(EMFILE)) } else { Ok(()) }
    });
}

#[test]
fn closed_file_is_opened_by_reads_and_appends() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open(&storage);
    let streams: Vec<Stream> = (0..5).map(|i| wal.stream(&format!("s{i}")).unwrap()).collect();
    for round in 0..4 {
        for stream in &streams {
            use_file(stream);
            stream.append("short").unwrap();
            stream.with_durability(Durability::Flushed).append("waits").unwrap();
            stream.sync().unwrap();
        }
        for stream in &streams {
            assert_eq!(lens(stream), [LARGE, 5, 5].repeat(round + 1));
        }
    }
    drop((streams, wal));
    let wal = open(&storage);
    for i in 0..5 {
        assert_eq!(lens(&wal.stream(&format!("s{i}")).unwrap()), [LARGE, 5, 5].repeat(4));
    }
}

#[test]
fn iterator_continues_in_a_closed_file() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open(&storage);
    let (stream, other) = (wal.stream("s").unwrap(), wal.stream("other").unwrap());
    (0..10).for_each(|_| use_file(&stream));
    let mut entries = stream.iter(..);
    for _ in 0..10 {
        assert_eq!(entries.next().unwrap().unwrap().data().len(), LARGE);
        use_file(&other);
    }
    assert!(entries.next().is_none());
}

/// Accepts entries that are too long for the journal together, and closes the stream's file.
fn let_wait(stream: &Stream, other: &Stream) {
    use_file(stream);
    use_file(stream);
    for _ in 0..3 {
        stream.with_durability(Durability::Buffered).append(vec![7; LARGE / 3]).unwrap();
    }
    use_file(other);
}

#[test]
fn append_without_a_descriptor_changes_nothing() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open(&storage);
    let (stream, other) = (wal.stream("s").unwrap(), wal.stream("other").unwrap());
    use_file(&stream);
    use_file(&other);
    fail_opens(&storage, "s");
    // The journal takes them as long as they need no more space in the file.
    let mut taken = 1;
    let error = loop {
        match stream.append([1; 500]) {
            Ok(seq) => assert_eq!(seq, taken),
            Err(error) => break error,
        }
        taken += 1;
    };
    assert!(taken > 1 && error.kind() == ErrorKind::Io, "{taken}: {error}");
    other.append("others continue").unwrap();
    storage.clear();
    assert_eq!(stream.append([1; 500]).unwrap(), taken);
    let entries = lens(&stream);
    drop((stream, other, wal));
    assert_eq!(lens(&open(&storage).stream("s").unwrap()), entries);
}

#[test]
fn journal_is_released_without_a_descriptor() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open(&storage);
    let (stream, other) = (wal.stream("s").unwrap(), wal.stream("other").unwrap());
    use_file(&stream);
    use_file(&other);
    stream.append("in the journal alone").unwrap();
    fail_opens(&storage, "s");
    // Many times the length of the journal.
    for _ in 0..10_000 {
        other.append([1; 500]).unwrap();
    }
    storage.clear();
    assert!(wal.stats().unwrap().journal_bytes <= 1 << 20);
    assert_eq!(stream.append("next").unwrap(), 2);
    drop((stream, other, wal));
    assert_eq!(lens(&open(&storage).stream("s").unwrap()), [LARGE, 20, 4]);
}

#[test]
fn sync_without_a_descriptor_fails_and_reopen_continues() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open(&storage);
    let (stream, other) = (wal.stream("s").unwrap(), wal.stream("other").unwrap());
    let_wait(&stream, &other);
    fail_opens(&storage, "s");
    let error = stream.sync().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    assert_eq!(other.append("others continue").unwrap(), 1);
    storage.clear();
    stream.reopen().unwrap();
    stream.sync().unwrap();
    assert_eq!(lens(&stream), [LARGE, LARGE, LARGE / 3, LARGE / 3, LARGE / 3]);
}

#[test]
fn file_that_was_replaced_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let wal = options().open(dir.path()).unwrap();
    let (stream, other) = (wal.stream("s").unwrap(), wal.stream("other").unwrap());
    let_wait(&stream, &other);
    let files: Vec<PathBuf> =
        fs::read_dir(dir.path().join("streams/s")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let original = dir.path().join("original");
    fs::rename(file, &original).unwrap();
    fs::copy(&original, file).unwrap();
    let copied = fs::read(file).unwrap();
    let error = stream.sync().unwrap_err();
    assert!(error.kind() == ErrorKind::Poisoned && error.to_string().contains("another file has the name"), "{error}");
    assert!(fs::read(file).unwrap() == copied);
    fs::rename(&original, file).unwrap();
    stream.reopen().unwrap();
    stream.sync().unwrap();
    assert_eq!(lens(&stream), [LARGE, LARGE, LARGE / 3, LARGE / 3, LARGE / 3]);
    wal.close().unwrap();
}

#[test]
fn deleted_streams_end_iterators_in_closed_files() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open(&storage);
    let (stream, other) = (wal.stream("s").unwrap(), wal.stream("other").unwrap());
    (0..10).for_each(|_| use_file(&stream));
    let mut entries = stream.iter(..);
    entries.next().unwrap().unwrap();
    use_file(&other);
    wal.delete_stream("s").unwrap();
    wal.stream("s").unwrap().append("new").unwrap();
    use_file(&other);
    let rest: Vec<_> = entries.collect();
    let error = rest.last().unwrap().as_ref().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Cut { .. }), "{error}");
}

#[test]
fn flushed_load_on_many_streams_keeps_few_files_open() {
    let dir = tempfile::tempdir().unwrap();
    let wal = options().active_files(8).open(dir.path()).unwrap();
    let streams: Vec<Stream> =
        (0..40).map(|i| wal.stream(&format!("s{i}")).unwrap().with_durability(Durability::Flushed)).collect();
    let open_files = || {
        let names =
            fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        names.filter(|name| name.starts_with(dir.path().join("streams"))).collect::<Vec<_>>()
    };
    for stream in (0..20).flat_map(|_| &streams) {
        stream.append(vec![7; LARGE]).unwrap();
        // One call may find that too many are open, after it has opened its own.
        let open = open_files();
        assert!(open.len() <= 10, "{open:?}");
    }
    wal.close().unwrap();
    drop((streams, wal));
    let wal = options().open(dir.path()).unwrap();
    assert!((0..40).all(|i| lens(&wal.stream(&format!("s{i}")).unwrap()) == [LARGE; 20]));
}
