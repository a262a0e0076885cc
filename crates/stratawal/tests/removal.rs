//! Calls for the whole log during the deletion of a stream.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stratawal::{Durability, ErrorKind, Options, Wal};
use stratawal_storage::MemoryStorage;
use stratawal_testkit::{HookedStorage, Operation};

/// A log without a journal, so that both streams have files. The streams "a" and "b" each have an
/// entry pending in memory.
fn log() -> (HookedStorage, Wal) {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = Options::new().journal(false).open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap();
    for name in ["a", "b"] {
        let stream = wal.stream(name).unwrap();
        stream.append(b"first").unwrap();
        stream.with_durability(Durability::Buffered).append(b"second").unwrap();
    }
    (storage, wal)
}

/// Deletes "b" at the next operation of this kind on a segment, which is one of "a".
fn delete_b_at(storage: &HookedStorage, wal: &Wal, at: Operation) {
    let wal = wal.clone();
    let done = AtomicBool::new(false);
    storage.set(move |operation, path| {
        // The storage knows a segment that this process created by its temporary name.
        if operation == at && path.extension().is_some_and(|end| end == "seg") && !done.swap(true, Ordering::SeqCst) {
            wal.delete_stream("b").unwrap();
        }
        Ok(())
    });
}

#[test]
fn sync_skips_a_stream_deleted_meanwhile() {
    let (storage, wal) = log();
    let b = wal.stream("b").unwrap();
    delete_b_at(&storage, &wal, Operation::Sync);
    wal.sync().unwrap();
    assert_eq!(b.sync().unwrap_err().kind(), ErrorKind::Missing, "its own handle reports it");
    assert_eq!(wal.stream("a").unwrap().stable_seq(), 2);
    storage.clear();
}

#[test]
fn disk_usage_skips_a_stream_deleted_meanwhile() {
    let (storage, wal) = log();
    delete_b_at(&storage, &wal, Operation::Open);
    assert_eq!(wal.disk_usage().unwrap().segments, 1);
    storage.clear();
}

#[test]
fn deletion_names_the_files_that_stay() {
    let (storage, wal) = log();
    storage.set(|operation, path| match operation {
        Operation::Remove if path.extension().is_some_and(|end| end == "seg") => Err(io::Error::from_raw_os_error(13)),
        _ => Ok(()),
    });
    let error = wal.delete_stream("b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let text = error.to_string();
    assert!(text.contains("the stream is deleted") && text.contains(".del-") && text.contains(".seg"), "{text}");
    assert_eq!(wal.streams().unwrap(), ["a"]);
    assert_eq!(wal.delete_stream("b").unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(wal.stream("b").unwrap().append(b"new").unwrap(), 0);
    storage.clear();
}
