//! A full disk: appends are refused whole, nothing is lost, and work goes on once there is room.

use std::path::Path;
use std::sync::Arc;

use stratawal_storage::{MemoryStorage, Storage};
use stratawal_stream::{Durability, Env, ErrorKind, Location, StreamLog, StreamOptions, Visibility};

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
    assert!(full.open(Path::new("/RESERVE"), stratawal_storage::Access::Read).is_err(), "it was given up");
}
