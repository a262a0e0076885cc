//! The removal of files: which calls wait for it, and how a file that cannot be removed is
//! reported. Also operations on names that take effect but return an error.

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::{DIR, hooked, location, open_with, small_segments};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_stream::{DeleteError, Durability, Error, ErrorKind, LogContext, StreamLog, StreamOptions, Visibility};
use stratawal_testkit::{Crash, Gate, HookedStorage, Operation, Rng, SimStorage, Verdict};

const ENTRY_LEN: usize = 40 << 10;

fn try_open(storage: &(impl Storage + Clone + 'static)) -> stratawal_stream::Result<StreamLog> {
    open_with(storage.clone(), small_segments())
}

fn open(storage: &(impl Storage + Clone + 'static)) -> StreamLog {
    try_open(storage).unwrap()
}

/// A stream of four entries, each in its own segment.
fn stream(storage: &HookedStorage) -> StreamLog {
    let log = open(storage);
    for i in 0..4 {
        log.append(&[i; ENTRY_LEN], Durability::Synced).unwrap();
    }
    log
}

fn names(storage: &dyn Storage, dir: &str) -> Vec<String> {
    let entries = storage.list(Path::new(dir)).unwrap();
    entries.into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// Makes each removal of a segment wait at the gate.
fn hold_removals(storage: &HookedStorage, gate: &Gate) {
    let gate = gate.clone();
    storage.set(move |operation, path| {
        if operation == Operation::Remove && path.extension().is_some_and(|end| end == "seg") {
            gate.pass();
        }
        Ok(())
    });
}

type Act = fn(&StreamLog);

const TRUNCATIONS: [(&str, Act); 3] = [
    ("truncate_before", |log| log.truncate_before(2).unwrap()),
    ("truncate_from", |log| log.truncate_from(1).unwrap()),
    ("truncate_before beyond the end", |log| log.truncate_before(100).unwrap()),
];

#[test]
fn appends_do_not_wait_for_the_removal_of_files() {
    for (name, truncate) in TRUNCATIONS {
        let storage = hooked(MemoryStorage::new());
        let gate = Gate::new();
        let log = stream(&storage);
        hold_removals(&storage, &gate);
        thread::scope(|scope| {
            scope.spawn(|| truncate(&log));
            gate.await_one();
            let (report, done) = mpsc::channel();
            scope.spawn(|| {
                let appended = log.append(b"x", Durability::Synced);
                let _ = report.send(appended.and_then(|seq| log.get(seq, Visibility::Stable)));
                drop(report);
            });
            let appended = done.recv_timeout(Duration::from_secs(10));
            gate.open();
            let entry = appended.unwrap_or_else(|_| panic!("{name}: an append waits")).unwrap();
            assert_eq!(&entry.expect("it was appended").data()[..], b"x", "{name}");
        });
    }
}

#[test]
fn appends_do_not_wait_for_a_recoverys_removals() {
    let storage = hooked(MemoryStorage::new());
    let gate = Gate::new();
    let log = stream(&storage);
    // A truncation could not remove some files, and a stream has failed.
    storage.set(|operation, path| match operation {
        Operation::Remove if path.extension().is_some_and(|end| end == "seg") => Err(eio()),
        _ => Ok(()),
    });
    log.truncate_before(3).unwrap_err();
    storage.set(|operation, _| if operation == Operation::Sync { Err(eio()) } else { Ok(()) });
    log.append(b"lost", Durability::Synced).unwrap_err();
    hold_removals(&storage, &gate);
    thread::scope(|scope| {
        scope.spawn(|| log.reopen().unwrap());
        gate.await_one();
        let (report, done) = mpsc::channel();
        scope.spawn(|| {
            let _ = report.send(log.append(b"x", Durability::Synced));
            drop(report);
        });
        let appended = done.recv_timeout(Duration::from_secs(10));
        gate.open();
        appended.expect("the append does not wait").unwrap();
    });
    assert_eq!(log.first_seq(), 3);
}

/// Another process may own the files once one of these calls has returned.
#[test]
fn close_delete_and_reopen_wait_for_removals() {
    let afterwards: [(&str, Act); 3] = [
        ("close", |log| log.close().unwrap()),
        ("delete", |log| assert!(log.delete().unwrap())),
        ("reopen", |log| log.reopen().unwrap()),
    ];
    for (name, act) in afterwards {
        let storage = hooked(MemoryStorage::new());
        let gate = Gate::new();
        let log = stream(&storage);
        hold_removals(&storage, &gate);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| log.truncate_before(2).unwrap());
            gate.await_one();
            scope.spawn(|| {
                act(&log);
                done.store(true, Ordering::SeqCst);
            });
            thread::sleep(Duration::from_millis(100));
            let early = done.load(Ordering::SeqCst);
            gate.open();
            assert!(!early, "{name} has returned while files are removed");
        });
        assert!(done.load(Ordering::SeqCst));
    }
}

#[test]
fn file_that_stays_does_not_poison() {
    for (name, truncate) in [
        ("before", (|log| log.truncate_before(2)) as fn(&StreamLog) -> stratawal_stream::Result<()>),
        ("from", |log| log.truncate_from(1)),
        ("beyond", |log| log.truncate_before(100)),
    ] {
        let storage = hooked(MemoryStorage::new());
        let log = stream(&storage);
        let before = names(&storage, DIR);
        let stays = before[if name == "from" { 1 } else { 0 }].clone();
        let path = PathBuf::from(DIR).join(&stays);
        let kept = path.clone();
        storage.set(move |operation, path| match operation {
            // A full disk is reported in the same way, because the truncation took effect.
            Operation::Remove if path == kept => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        });
        let error: Error = truncate(&log).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains("the entries are dropped") && text.contains(&*path.to_string_lossy()), "{name}: {text}");
        // The entries are dropped, the other files are removed, and the stream continues.
        let (expected, still_there_len) = match name {
            "before" => ((2, 4), 3),
            "from" => ((0, 1), 2),
            _ => ((100, 100), 1),
        };
        assert_eq!((log.first_seq(), log.next_seq()), expected, "{name}");
        log.append(b"x", Durability::Synced).unwrap();
        let left = names(&storage, DIR);
        let still_there: Vec<_> = before.iter().filter(|name| left.contains(name)).collect();
        assert!(still_there.contains(&&stays) && still_there.len() == still_there_len, "{name}: {left:?}");
        // The next opening also cannot remove the file, and does not report it as removed.
        let again = open(&storage);
        assert_eq!((again.first_seq(), again.next_seq()), (expected.0, expected.1 + 1), "{name}");
        assert!(!again.report().removed_segments.contains(&stays), "{name}");
        // The next truncation removes the file.
        storage.clear();
        again.truncate_before(again.next_seq()).unwrap();
        assert!(!names(&storage, DIR).contains(&stays), "{name}");
    }
}

#[test]
fn leftover_file_does_not_block_opening() {
    let storage = hooked(MemoryStorage::new());
    let log = stream(&storage);
    log.append(b"x", Durability::Buffered).unwrap();
    log.flush().unwrap();
    for name in [".tmp-a-directory", "a-directory", "lost+found"] {
        storage.create_dir(&Path::new(DIR).join(name)).unwrap();
    }
    for name in [".tmp-00000000000000000000-00000009.seg", "a-file", ".DS_Store"] {
        storage.create_new(&Path::new(DIR).join(name)).unwrap();
    }
    storage.set(|operation, path| match operation {
        Operation::Remove if path.to_string_lossy().contains("00000009") => Err(eio()),
        _ => Ok(()),
    });
    let again = open(&storage);
    assert_eq!(again.next_seq(), 5);
    again.append(b"y", Durability::Synced).unwrap();
    again.close().unwrap();
    let left = names(&storage, DIR);
    for name in [".tmp-a-directory", "a-directory", "lost+found", "a-file", ".DS_Store"] {
        assert!(left.iter().any(|left| left == name), "{name} is not the log's to remove");
    }
}

#[test]
fn deletion_keeps_and_names_foreign_files() {
    for at_once in [false, true] {
        let storage = hooked(MemoryStorage::new());
        let log = stream(&storage);
        storage.create_dir(&Path::new(DIR).join("aside")).unwrap();
        storage.create_new(&Path::new(DIR).join("aside/file")).unwrap();
        storage.create_new(&Path::new(DIR).join(".tmp-x")).unwrap();
        let deleted = if at_once {
            stratawal_stream::delete(&LogContext::new(Arc::new(storage.clone())), &location())
        } else {
            log.delete()
        };
        let Err(DeleteError::Left(error)) = deleted else { panic!("{deleted:?}") };
        assert_eq!(error.kind(), ErrorKind::Io);
        let streams = names(&storage, "/streams");
        assert!(streams.len() == 1 && streams[0].starts_with(".del-"), "{streams:?}");
        let left = format!("/streams/{}", streams[0]);
        assert_eq!(names(&storage, &left), ["aside"]);
        let text = error.to_string();
        assert!(text.contains("the stream is deleted") && text.contains(&format!("{left}/aside")), "{text}");
        assert!(!open(&storage).exists());
        // Once the foreign files are gone, the next try removes the rest.
        storage.remove_file(&Path::new(&left).join("aside/file")).unwrap();
        storage.remove_dir(&Path::new(&left).join("aside")).unwrap();
        stratawal_stream::remove_leftover_dir(&storage, Path::new(&left)).unwrap();
        assert!(names(&storage, "/streams").is_empty());
    }
}

/// Makes each operation of these kinds take effect but report an input/output error.
fn fail_after_effect(storage: &HookedStorage, which: &'static [Operation]) {
    storage.intercept(move |call| match which.contains(&call.operation) {
        true => Verdict::FailAfterEffect(eio()),
        false => Verdict::Proceed,
    });
}

fn after_power_loss(sim: &SimStorage) -> StreamLog {
    open(&SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(1)), 2))
}

#[test]
fn removal_that_took_effect_is_not_an_error() {
    let sim = SimStorage::new(1);
    let storage = hooked(sim.clone());
    let log = stream(&storage);
    fail_after_effect(&storage, &[Operation::Remove, Operation::RemoveDir]);
    log.truncate_before(2).unwrap();
    log.truncate_from(3).unwrap();
    assert_eq!(open(&storage).first_seq(), 2);
    assert!(log.delete().unwrap());
    assert!(names(&storage, "/streams").is_empty());
}

#[test]
fn deletion_whose_rename_took_effect_is_done() {
    let sim = SimStorage::new(1);
    let storage = hooked(sim.clone());
    let log = stream(&storage);
    fail_after_effect(&storage, &[Operation::Rename]);
    assert!(log.delete().unwrap());
    // Entries acknowledged from now on would be in a removed directory.
    assert_eq!(log.append(b"x", Durability::Synced).unwrap_err().kind(), ErrorKind::Missing);
    assert!(!after_power_loss(&sim).exists());
}

#[test]
fn refused_rename_leaves_the_stream() {
    for (kind, text) in [
        (io::ErrorKind::CrossesDevices, "overlay"),
        (io::ErrorKind::ResourceBusy, "mount point"),
        (io::ErrorKind::Other, "I/O"),
    ] {
        let sim = SimStorage::new(1);
        let storage = hooked(sim.clone());
        let log = stream(&storage);
        storage.set(move |operation, _| if operation == Operation::Rename { Err(kind.into()) } else { Ok(()) });
        let Err(DeleteError::Undone(error)) = log.delete() else { panic!("{kind}") };
        let shown = error.to_string();
        assert!(error.kind() == ErrorKind::Io && shown.contains(text), "{shown}");
        assert!(kind == io::ErrorKind::Other || shown.contains(DIR), "{shown}");
        storage.clear();
        let seq = log.append(b"x", Durability::Synced).unwrap();
        assert_eq!(after_power_loss(&sim).next_seq(), seq + 1);
    }
}

#[test]
fn creation_whose_rename_took_effect_recovers() {
    let sim = SimStorage::new(1);
    let storage = hooked(sim.clone());
    let log = open(&storage);
    // The first rename is the segment's, within the directory that does not have its name yet.
    let renames = AtomicBool::new(false);
    storage.intercept(move |call| match call.operation {
        Operation::Rename if renames.swap(true, Ordering::SeqCst) => Verdict::FailAfterEffect(eio()),
        _ => Verdict::Proceed,
    });
    assert_eq!(log.append(b"lost", Durability::Synced).unwrap_err().kind(), ErrorKind::Poisoned);
    storage.clear();
    log.reopen().unwrap();
    assert_eq!(log.append(b"x", Durability::Synced).unwrap(), 0);
    let again = after_power_loss(&sim);
    assert_eq!(&again.get(0, Visibility::Stable).unwrap().unwrap().data()[..], b"x");
}

/// Calls `act` once, at the next opening of a segment file.
fn at_next_open(storage: &HookedStorage, act: impl Fn() + Send + Sync + 'static) {
    let done = AtomicBool::new(false);
    storage.set(move |operation, path| {
        let segment = path.extension().is_some_and(|end| end == "seg");
        if operation == Operation::Open && segment && !done.swap(true, Ordering::SeqCst) {
            act();
        }
        Ok(())
    });
}

#[test]
fn stats_do_not_fail_beside_removals() {
    let removals: [(Act, u64); 4] = [
        (|log| log.truncate_before(2).unwrap(), 2),
        (|log| log.truncate_from(1).unwrap(), 2),
        (|log| log.truncate_before(100).unwrap(), 1),
        (|log| assert!(log.delete().unwrap()), 0),
    ];
    for (remove, segments) in removals {
        let storage = hooked(MemoryStorage::new());
        let log = stream(&storage);
        let remover = log.clone();
        at_next_open(&storage, move || remove(&remover));
        assert_eq!(log.disk_usage().unwrap().segments, segments);
    }
}

/// Once a stream is closed, another process may own its files.
#[test]
fn reads_after_a_close_see_the_next_owners_changes() {
    let owners: [(Act, ErrorKind); 4] = [
        (|owner| owner.truncate_before(2).unwrap(), ErrorKind::Truncated { first_seq: 2 }),
        (|owner| owner.truncate_before(100).unwrap(), ErrorKind::Truncated { first_seq: 100 }),
        (|owner| owner.truncate_from(1).unwrap(), ErrorKind::Cut { next_seq: 1 }),
        (|owner| assert!(owner.delete().unwrap()), ErrorKind::Cut { next_seq: 0 }),
    ];
    for (act, expected) in owners {
        let storage = hooked(MemoryStorage::new());
        let log = stream(&storage);
        let seq = if matches!(expected, ErrorKind::Truncated { .. }) { 0 } else { 1 };
        let mut forward = log.iter(seq.., Visibility::Stable);
        let mut backward = log.iter(seq..=seq, Visibility::Stable);
        log.close().unwrap();
        act(&open(&storage));
        assert_eq!(log.get(seq, Visibility::Stable).unwrap_err().kind(), expected);
        assert_eq!(forward.next().unwrap().unwrap_err().kind(), expected);
        assert_eq!(backward.next_back().unwrap().unwrap_err().kind(), expected);
        assert!(forward.next().is_none() && backward.next().is_none());
        assert!(log.disk_usage().unwrap().segments <= 2, "files that are gone are not counted");
    }
}

#[test]
fn file_lost_after_a_close_is_damage() {
    let storage = hooked(MemoryStorage::new());
    let log = stream(&storage);
    log.close().unwrap();
    let first = names(&storage, DIR)[1].clone();
    storage.remove_file(&Path::new(DIR).join(first)).unwrap();
    assert!(log.get(1, Visibility::Stable).unwrap_err().is_damage());
}

#[test]
fn empty_batch_reports_a_failed_stream() {
    let batch = stratawal_stream::Batch::new();
    let append = |log: &StreamLog| log.append_batch(&batch, Durability::Synced);
    let storage = hooked(MemoryStorage::new());
    let log = open(&storage);
    assert_eq!(append(&log).unwrap(), 0..0);
    assert!(!log.exists(), "it creates nothing");
    let log = stream(&storage);
    assert_eq!(append(&log).unwrap(), 4..4);
    let reader = {
        let context = Arc::new(LogContext::new(Arc::new(storage.clone())).read_only(true));
        StreamLog::open(context, location(), StreamOptions::new()).unwrap()
    };
    assert_eq!(append(&reader).unwrap_err().kind(), ErrorKind::ReadOnly);
    storage.set(|operation, _| if operation == Operation::Sync { Err(eio()) } else { Ok(()) });
    log.append(b"x", Durability::Synced).unwrap_err();
    assert_eq!(append(&log).unwrap_err().kind(), ErrorKind::Poisoned);
    storage.clear();
    log.reopen().unwrap();
    let next = log.next_seq();
    assert_eq!(append(&log).unwrap(), next..next);
    log.close().unwrap();
    assert_eq!(append(&log).unwrap_err().kind(), ErrorKind::Closed);
    let log = open(&storage);
    log.delete().unwrap();
    assert_eq!(append(&log).unwrap_err().kind(), ErrorKind::Missing);
}
