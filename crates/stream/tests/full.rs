//! A full disk: appends are refused whole, nothing is lost, and work goes on once there is room.

use std::path::Path;
use std::sync::Arc;

use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_stream::{BALLAST_LEN, Durability, Env, ErrorKind, Location, StreamLog, StreamOptions, Visibility};
use stratawal_testkit::{Fault, Faults, SimStorage};

fn open(storage: &MemoryStorage) -> StreamLog {
    let env = Env::new(Arc::new(storage.clone())).ballast_at("/RESERVE");
    let options = StreamOptions { segment_len: 64 << 10, ..StreamOptions::default() };
    StreamLog::open(Arc::new(env), Location::new("/streams", "s"), options).expect("opens")
}

#[test]
fn a_full_disk_refuses_appends_whole_and_ends_by_itself() {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/streams")).unwrap();
    let log = open(&storage);
    let entry = vec![7; 3000];
    let mut appended = 0_u64;
    for capacity in [300 << 10, 700 << 10, 1 << 20] {
        let storage = storage.clone().with_capacity(capacity);
        let error = loop {
            match log.append(&entry, Durability::Synced) {
                Ok(seq) => {
                    assert_eq!(seq, appended);
                    appended += 1;
                }
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        // Refused again, without a seq being given; reads go on.
        assert_eq!(log.append(&entry, Durability::Flushed).unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(log.next_seq(), appended);
        assert_eq!(log.iter(.., Visibility::Settled).filter(Result::is_ok).count() as u64, appended);
        // What a process that dies now would find.
        let found = open(&storage.snapshot().with_capacity(u64::MAX));
        assert_eq!(found.next_seq(), appended);
        assert!(storage.free_space(Path::new("/")).unwrap() < 64 << 10);
    }
    let _ = storage.clone().with_capacity(u64::MAX);
    assert_eq!(log.append(&entry, Durability::Synced).unwrap(), appended, "there is room again, without a restart");
    log.close().unwrap();
    assert_eq!(open(&storage).next_seq(), appended + 1);
}

#[test]
fn a_rotation_on_a_full_disk_lives_on_the_ballast() {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/streams")).unwrap();
    let log = open(&storage);
    let entry = vec![7; 1000];
    while log.stats().unwrap().disk_bytes < 60 << 10 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
    let full = storage.clone().with_capacity(used);
    let before = log.next_seq();
    while log.stats().unwrap().segments == 1 {
        if let Err(error) = log.append(&entry, Durability::Synced) {
            panic!("{error}, {} segments", log.stats().unwrap().segments);
        }
    }
    assert!(log.next_seq() > before);
    let ballast = full.open(Path::new("/RESERVE"), stratawal_storage::Access::Read).and_then(|file| file.len());
    assert!(ballast.unwrap_or(0) < stratawal_stream::BALLAST_LEN, "it was given up");
}

#[test]
fn a_rotation_behind_a_close_is_refused_as_full_and_goes_on_with_room() {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/streams")).unwrap();
    let log = open(&storage);
    for _ in 0..60 {
        log.append(&[7; 1000], Durability::Synced).unwrap();
    }
    log.close().unwrap();
    let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
    for room in (0..=24).map(|n| n << 10) {
        let full = storage.snapshot().with_capacity(used + room);
        let log = open(&full);
        let refused = (0..100).find_map(|_| log.append(&[7; 3000], Durability::Synced).err());
        assert_eq!(refused.map(|e| e.kind()), Some(ErrorKind::Full), "room for {room} bytes");
        let _ = full.clone().with_capacity(u64::MAX);
        let seq = log.append(b"x", Durability::Synced).unwrap_or_else(|e| panic!("{room}: {e}"));
        assert_eq!(seq + 1, open(&full.snapshot()).next_seq());
    }
}

#[test]
fn what_a_crash_left_on_a_full_disk_is_read_and_gone_on_with_once_there_is_room() {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/streams")).unwrap();
    let log = open(&storage);
    for _ in 0..5 {
        log.append(&[1; 100], Durability::Synced).unwrap();
    }
    let dead = storage.snapshot();
    dead.remove_file(Path::new("/RESERVE")).unwrap();
    let used = u64::MAX - dead.free_space(Path::new("/")).unwrap();
    let dead = dead.with_capacity(used + 100);
    let log = open(&dead);
    assert_eq!(log.iter(.., Visibility::Settled).filter(Result::is_ok).count(), 5);
    assert_eq!(log.append(b"x", Durability::Synced).unwrap_err().kind(), ErrorKind::Full);
    let _ = dead.clone().with_capacity(u64::MAX);
    assert_eq!(log.append(b"x", Durability::Synced).unwrap(), 5);
}

#[test]
fn a_disk_that_is_full_at_the_write_or_the_sync_heals_by_itself_and_loses_nothing_that_waits() {
    // As a file system does that copies on write: the space that was booked is not to be had.
    for after in 0..4 {
        let sim = SimStorage::new(1);
        sim.create_dir(Path::new("/streams")).unwrap();
        let env = Arc::new(Env::new(Arc::new(sim.clone())));
        let log = StreamLog::open(env, Location::new("/streams", "s"), StreamOptions::default()).unwrap();
        log.append(b"first", Durability::Synced).unwrap();
        for i in 0..3_u8 {
            assert_eq!(log.append(&[i; 10], Durability::Buffered).unwrap(), 1 + u64::from(i));
        }
        sim.set_faults(Some(Faults { after, fault: Fault::Full, forever: false }));
        let refused = log.append(b"refused", Durability::Synced);
        sim.set_faults(None);
        assert_eq!(log.append(b"next", Durability::Buffered).unwrap(), 5, "{after}: {refused:?}");
        log.sync().unwrap();
        for i in 0..3_u8 {
            let found = log.get(1 + u64::from(i), Visibility::Settled).unwrap().unwrap();
            assert_eq!(found.data()[..], [i; 10], "{after}");
        }
        assert_eq!(&log.get(4, Visibility::Settled).unwrap().unwrap().data()[..], b"refused");
    }
}

#[test]
fn a_ballast_that_was_not_finished_is_made_whole() {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/streams")).unwrap();
    storage.create_new(Path::new("/RESERVE")).unwrap();
    open(&storage).append(b"x", Durability::Synced).unwrap();
    let file = storage.open(Path::new("/RESERVE"), stratawal_storage::Access::Read).unwrap();
    assert_eq!(file.len().unwrap(), stratawal_stream::BALLAST_LEN);
}

#[test]
fn the_ballast_is_made_again_by_the_next_segment() {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/streams")).unwrap();
    let log = open(&storage);
    let ballast = || storage.open(Path::new("/RESERVE"), Access::Read).and_then(|file| file.len()).unwrap_or(0);
    let entry = vec![7; 1000];
    while log.stats().unwrap().disk_bytes < 60 << 10 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    assert_eq!(ballast(), BALLAST_LEN);
    let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
    let _full = storage.clone().with_capacity(used);
    while log.stats().unwrap().segments == 1 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    assert!(ballast() < BALLAST_LEN, "it was given up");
    let _roomy = storage.clone().with_capacity(u64::MAX);
    while log.stats().unwrap().segments == 2 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    assert_eq!(ballast(), BALLAST_LEN);
    // Also where somebody removed it.
    storage.remove_file(Path::new("/RESERVE")).unwrap();
    while log.stats().unwrap().segments == 3 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    assert_eq!(ballast(), BALLAST_LEN);
}
