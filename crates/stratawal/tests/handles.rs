//! Handles that are opened and dropped during calls that concern all streams.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use stratawal::Options;
use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_testkit::{Gate, HookedStorage, Operation};

const LOG: &str = "/log";

/// Each stream gets its file with its first entry.
fn without_journal() -> Options {
    Options::new().journal(false)
}

/// A stream that a full disk stopped has no entries, so it is forgotten with its last handle. While
/// `Wal::sync` recovers the stream, it must not be opened a second time: the recovery would void
/// the entries of the second instance.
#[test]
fn sync_does_not_open_a_recovered_stream_twice() {
    let memory = MemoryStorage::new();
    let storage = HookedStorage::new(memory.clone());
    let wal = without_journal().open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap();
    let first = wal.stream("s").unwrap();
    let done = AtomicBool::new(false);
    storage.set(move |operation, path| {
        let of_streams = matches!(operation, Operation::SyncDir | Operation::Sync) && path == Path::new("/log/streams");
        if of_streams && !done.swap(true, Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    first.append(b"x").unwrap_err();
    let gate = Gate::new();
    let once = AtomicBool::new(false);
    let at = gate.clone();
    storage.set(move |operation, path| {
        // This runs in the middle of the recovery.
        if operation == Operation::SyncDir && path == Path::new("/log/streams/s") && !once.swap(true, Ordering::SeqCst)
        {
            at.pass();
        }
        Ok(())
    });
    let other = wal.clone();
    let syncing = thread::spawn(move || other.sync());
    gate.await_one();
    drop(first);
    let opener = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        gate.open();
    });
    let second = wal.stream("s").unwrap();
    for i in 0..5_u8 {
        second.append([i]).unwrap();
    }
    opener.join().unwrap();
    syncing.join().unwrap().unwrap();
    second.append(b"y").unwrap();
    let after_a_kill = memory.snapshot();
    let wal = without_journal().open_on(Arc::new(after_a_kill), Path::new(LOG), false).unwrap();
    assert!(wal.stream("s").unwrap().next_seq() >= 6, "acknowledged entries are lost");
}

/// A handle dropped after the log was closed does not write to the log, because another process may
/// have opened it.
#[test]
fn handle_dropped_after_a_close_keeps_the_reserve() {
    let memory = MemoryStorage::new();
    let open = || without_journal().open_on(Arc::new(memory.clone()), Path::new(LOG), false).unwrap();
    let reserve = Path::new("/log/RESERVE");
    let wal = open();
    let stream = wal.stream("s").unwrap();
    stream.append([7; 300]).unwrap();
    memory.remove_file(reserve).unwrap();
    let used = u64::MAX - memory.free_space(Path::new("/")).unwrap();
    let full = memory.clone().with_capacity(used);
    stream.append(b"y").unwrap();
    wal.truncate_before("s", 1).unwrap();
    wal.close().unwrap();
    let _owner = open();
    let _roomy = full.with_capacity(u64::MAX);
    let len = || memory.open(reserve, Access::Read).and_then(|file| file.len()).ok();
    let before = len();
    drop((stream, wal));
    assert_eq!(len(), before);
}
