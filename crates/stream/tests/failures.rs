//! A failing storage: errors have the right kinds, no thread waits forever, and recovery can be
//! repeated.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use common::{open_with, simulated};
use stratawal_storage::Storage;
use stratawal_stream::{Durability, ErrorKind, StreamLog, StreamOptions, Visibility};
use stratawal_testkit::{Fault, Faults, SimStorage};

fn open(sim: &SimStorage) -> StreamLog {
    open_with(sim.clone(), StreamOptions::new()).expect("the stream opens")
}

fn fail(sim: &SimStorage, after: u64, forever: bool) {
    sim.set_faults(Some(Faults { after, fault: Fault::Io, forever }));
}

#[test]
fn failed_write_or_sync_poisons_the_stream() {
    for after in 0..3 {
        let sim = simulated(1);
        let log = open(&sim);
        log.append(b"first", Durability::Synced).unwrap();
        fail(&sim, after, false);
        let error = log.append(b"second", Durability::Synced).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{after}: {error}");
        assert!(error.to_string().contains("Input/output error"), "the cause is kept: {error}");
        sim.set_faults(None);
        for refused in [log.append(b"third", Durability::Buffered).map(drop), log.flush(), log.sync()] {
            let refused = refused.expect_err("until it is recovered");
            assert_eq!(refused.kind(), ErrorKind::Poisoned, "{after}");
            assert!(refused.to_string().contains("Input/output error"), "{refused}");
        }
        let read = log.get(0, Visibility::Stable).unwrap().expect("a stable entry is read");
        assert_eq!(&read.data()[..], b"first");
        log.reopen().unwrap();
        let next = log.next_seq();
        assert!((1..=2).contains(&next), "{after}: {next}");
        assert_eq!(log.append(b"fourth", Durability::Synced).unwrap(), next);
        log.close().unwrap();
    }
}

#[test]
fn failed_segment_creation_does_not_poison() {
    let sim = simulated(1);
    let log = open(&sim);
    fail(&sim, 0, false);
    let error = log.append(b"first", Durability::Synced).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert_eq!(
        log.append(b"first", Durability::Synced).unwrap(),
        0,
        "the creation was undone and the stream continues"
    );
}

#[test]
fn failed_recovery_can_be_tried_again() {
    let sim = simulated(1);
    let log = open(&sim);
    log.append(b"first", Durability::Synced).unwrap();
    fail(&sim, 0, true);
    log.append(b"second", Durability::Synced).unwrap_err();
    for _ in 0..3 {
        assert_eq!(log.reopen().unwrap_err().kind(), ErrorKind::Io);
        log.append(b"third", Durability::Synced).unwrap_err();
    }
    sim.set_faults(None);
    log.reopen().unwrap();
    let next = log.next_seq();
    assert_eq!(log.append(b"third", Durability::Synced).unwrap(), next);
}

#[test]
fn panicking_storage_blocks_no_thread() {
    let sim = simulated(1);
    let log = open(&sim);
    log.append(b"first", Durability::Synced).unwrap();
    // The leader unwinds out of its write.
    sim.watch(|_| panic!("the storage panics"));
    assert!(catch_unwind(AssertUnwindSafe(|| log.append(b"second", Durability::Synced))).is_err());
    assert_eq!(log.append(b"third", Durability::Synced).unwrap_err().kind(), ErrorKind::Poisoned);
    // Recovery also unwinds, and the stream stays poisoned.
    assert!(catch_unwind(AssertUnwindSafe(|| log.reopen())).is_err());
    assert_eq!(log.append(b"third", Durability::Synced).unwrap_err().kind(), ErrorKind::Poisoned);
    sim.unwatch();
    log.reopen().unwrap();
    let next = log.next_seq();
    assert_eq!(log.append(b"third", Durability::Synced).unwrap(), next);
    // A rotation unwinds while it holds the lock.
    let big = vec![7; 65 << 20];
    log.append(&big, Durability::Buffered).unwrap();
    sim.watch(|_| panic!("the storage panics"));
    assert!(catch_unwind(AssertUnwindSafe(|| log.append(&big, Durability::Synced))).is_err());
    sim.unwatch();
    assert_eq!(log.append(b"fourth", Durability::Synced).unwrap_err().kind(), ErrorKind::Poisoned);
    log.reopen().unwrap();
}

#[test]
fn failed_stream_stays_closed_after_a_close() {
    let sim = simulated(1);
    let log = open(&sim);
    log.append(b"first", Durability::Synced).unwrap();
    fail(&sim, 0, false);
    log.append(b"second", Durability::Synced).unwrap_err();
    assert_eq!(log.close().unwrap_err().kind(), ErrorKind::Poisoned);
    // Another process may own the stream by now.
    let owner = open(&sim);
    let seq = owner.append(b"the owner's", Durability::Synced).unwrap();
    assert_eq!(log.reopen().unwrap_err().kind(), ErrorKind::Closed);
    assert!(log.append(b"third", Durability::Synced).is_err());
    assert_eq!(&open(&sim).get(seq, Visibility::Stable).unwrap().unwrap().data()[..], b"the owner's");
}

#[test]
fn recovery_without_the_directory_is_damage() {
    let sim = simulated(1);
    let log = open(&sim);
    log.append(b"first", Durability::Synced).unwrap();
    fail(&sim, 0, false);
    log.append(b"second", Durability::Synced).unwrap_err();
    sim.set_faults(None);
    sim.rename(Path::new("/streams/s"), Path::new("/streams/aside")).unwrap();
    assert!(log.reopen().unwrap_err().is_damage(), "the stream existed, with an entry");
    sim.rename(Path::new("/streams/aside"), Path::new("/streams/s")).unwrap();
    log.reopen().unwrap();
    assert_eq!(&log.get(0, Visibility::Stable).unwrap().unwrap().data()[..], b"first");
}
