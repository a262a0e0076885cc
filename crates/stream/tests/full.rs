//! A full disk: each append is refused as a whole, no entry is lost, and the stream continues once
//! there is room.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{hooked, location, memory, open_with, simulated};
use stratawal_storage::{Access, MemoryStorage, Storage, UnixStorage};
use stratawal_stream::{
    Durability, ErrorKind, Location, LogContext, RESERVE_LEN, StreamLog, StreamOptions, Visibility,
};
use stratawal_testkit::{Fault, Faults, HookedStorage, Operation};

fn open(storage: &MemoryStorage) -> StreamLog {
    let context = LogContext::new(Arc::new(storage.clone())).emergency_reserve_at("/RESERVE");
    let options = StreamOptions::new().segment_bytes(64 << 10);
    StreamLog::open(Arc::new(context), location(), options).expect("opens")
}

#[test]
fn full_disk_refuses_whole_appends_until_room() {
    let storage = memory();
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
        // A second append is also refused, and gets no seq. Reads still work.
        assert_eq!(log.append(&entry, Durability::Flushed).unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(log.next_seq(), appended);
        assert_eq!(log.iter(.., Visibility::Stable).filter(Result::is_ok).count() as u64, appended);
        // The stream as it would be found if this process died now.
        let found = open(&storage.snapshot().with_capacity(u64::MAX));
        assert_eq!(found.next_seq(), appended);
        assert!(storage.free_space(Path::new("/")).unwrap() < 64 << 10);
    }
    let _ = storage.clone().with_capacity(u64::MAX);
    assert_eq!(log.append(&entry, Durability::Synced).unwrap(), appended, "without a restart, once there is room");
    log.close().unwrap();
    assert_eq!(open(&storage).next_seq(), appended + 1);
}

#[test]
fn rotation_after_a_close_needs_room() {
    let storage = memory();
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
fn crashed_stream_is_read_on_a_full_disk() {
    let storage = memory();
    let log = open(&storage);
    for _ in 0..5 {
        log.append(&[1; 100], Durability::Synced).unwrap();
    }
    let dead = storage.snapshot();
    dead.remove_file(Path::new("/RESERVE")).unwrap();
    let used = u64::MAX - dead.free_space(Path::new("/")).unwrap();
    let dead = dead.with_capacity(used + 100);
    let log = open(&dead);
    assert_eq!(log.iter(.., Visibility::Stable).filter(Result::is_ok).count(), 5);
    assert_eq!(log.append(b"x", Durability::Synced).unwrap_err().kind(), ErrorKind::Full);
    let _ = dead.clone().with_capacity(u64::MAX);
    assert_eq!(log.append(b"x", Durability::Synced).unwrap(), 5);
}

#[test]
fn disk_full_at_a_write_or_sync_loses_nothing() {
    // A copy-on-write file system may run full although space was preallocated.
    for after in 0..4 {
        let sim = simulated(1);
        let log = open_with(sim.clone(), StreamOptions::new()).unwrap();
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
            let found = log.get(1 + u64::from(i), Visibility::Stable).unwrap().unwrap();
            assert_eq!(found.data()[..], [i; 10], "{after}");
        }
        assert_eq!(&log.get(4, Visibility::Stable).unwrap().unwrap().data()[..], b"refused");
    }
}

#[test]
fn unfinished_reserve_is_completed() {
    let storage = memory();
    storage.create_new(Path::new("/RESERVE")).unwrap();
    open(&storage).append(b"x", Durability::Synced).unwrap();
    let file = storage.open(Path::new("/RESERVE"), stratawal_storage::Access::Read).unwrap();
    assert_eq!(file.len().unwrap(), stratawal_stream::RESERVE_LEN);
}

#[test]
fn next_segment_recreates_the_reserve() {
    let storage = memory();
    let log = open(&storage);
    let reserve = || storage.open(Path::new("/RESERVE"), Access::Read).and_then(|file| file.len()).unwrap_or(0);
    let entry = vec![7; 1000];
    while log.disk_usage().unwrap().segment_bytes < 60 << 10 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    assert_eq!(reserve(), RESERVE_LEN);
    storage.remove_file(Path::new("/RESERVE")).unwrap();
    let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
    // Room for part of the reserve, and for a segment.
    let _full = storage.clone().with_capacity(used + (40 << 10));
    while log.stats().unwrap().segments == 1 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    assert!((1..RESERVE_LEN).contains(&reserve()), "the reserve takes the remaining room");
    let _roomy = storage.clone().with_capacity(u64::MAX);
    while log.stats().unwrap().segments == 2 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    assert_eq!(reserve(), RESERVE_LEN);
    // The reserve is also recreated after a removal.
    storage.remove_file(Path::new("/RESERVE")).unwrap();
    while log.stats().unwrap().segments == 3 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    assert_eq!(reserve(), RESERVE_LEN);
}

/// How many bytes of the disk the emergency reserve at `/RESERVE` takes.
fn reserve_bytes(storage: &MemoryStorage) -> u64 {
    storage.open(Path::new("/RESERVE"), Access::Read).and_then(|file| file.allocated()).unwrap_or(0)
}

fn bytes_of(storage: &dyn Storage, path: &str) -> Vec<u8> {
    let file = storage.open(Path::new(path), Access::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn appends_on_a_full_disk_keep_the_reserve() {
    let storage = memory();
    let log = open(&storage);
    let entry = vec![7; 1000];
    while log.disk_usage().unwrap().segment_bytes < 60 << 10 {
        log.append(&entry, Durability::Synced).unwrap();
    }
    let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
    let _full = storage.clone().with_capacity(used);
    let refused = (0..100).find_map(|_| log.append(&entry, Durability::Synced).err());
    assert_eq!(refused.map(|e| e.kind()), Some(ErrorKind::Full), "a rotation needs a new file");
    assert_eq!(log.stats().unwrap().segments, 1);
    assert_eq!(reserve_bytes(&storage), RESERVE_LEN);
    // Another stream does not use up the reserve either.
    let context = Arc::new(LogContext::new(Arc::new(storage.clone())).emergency_reserve_at("/RESERVE"));
    let other = StreamLog::open(context, Location::new("/streams", "t"), StreamOptions::new()).unwrap();
    assert_eq!(other.append(&entry, Durability::Synced).unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(reserve_bytes(&storage), RESERVE_LEN);
}

#[test]
fn twenty_crashed_streams_share_a_full_disk() {
    let storage = memory();
    let options = StreamOptions::new().segment_bytes(64 << 10);
    let open = |context: &Arc<LogContext>, name: &str| {
        StreamLog::open(Arc::clone(context), Location::new("/streams", name), options.clone()).unwrap()
    };
    let names: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
    let context = Arc::new(LogContext::new(Arc::new(storage.clone())).emergency_reserve_at("/RESERVE"));
    let logs: Vec<StreamLog> = names.iter().map(|name| open(&context, name)).collect();
    for log in &logs {
        log.append(b"first", Durability::Synced).unwrap();
    }
    for _ in 0..300 {
        logs[0].append(&[7; 1000], Durability::Synced).unwrap();
    }
    // The process dies, and no byte is left on the disk.
    let dead = storage.snapshot();
    let used = u64::MAX - dead.free_space(Path::new("/")).unwrap();
    let dead = dead.with_capacity(used);
    let context = Arc::new(LogContext::new(Arc::new(dead.clone())).emergency_reserve_at("/RESERVE"));
    let logs: Vec<StreamLog> = names.iter().map(|name| open(&context, name)).collect();
    for (i, log) in logs.iter().enumerate() {
        let entries = if i == 0 { 301 } else { 1 };
        assert_eq!(log.iter(.., Visibility::Stable).map(Result::unwrap).count(), entries);
        assert_eq!(log.append(b"x", Durability::Synced).unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(log.sync().unwrap_err().kind(), ErrorKind::Full);
    }
    assert_eq!(context.reserve_bytes(), RESERVE_LEN, "looking up, reading and appending use none of it");
    logs[0].truncate_before(300).unwrap();
    assert_eq!(context.reserve_bytes(), RESERVE_LEN, "it is recreated from the freed space");
    for log in &logs {
        let end = log.next_seq();
        assert_eq!(log.append(b"next", Durability::Synced).unwrap(), end);
        log.close().unwrap();
    }
}

#[test]
fn crashed_stream_is_truncated_on_a_full_disk() {
    let storage = memory();
    let log = open(&storage);
    for _ in 0..10 {
        log.append(&[1; 100], Durability::Synced).unwrap();
    }
    let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
    let dead = || storage.snapshot().with_capacity(used);
    let cut = dead();
    let deleted = dead();
    let closed = dead();
    let log = open(&cut);
    log.truncate_from(5).unwrap();
    assert_eq!((log.next_seq(), log.first_seq()), (5, 0));
    assert!(open(&deleted).delete().unwrap());
    let log = open(&closed);
    assert_eq!(log.append(b"x", Durability::Synced).unwrap_err().kind(), ErrorKind::Full);
    log.close().unwrap();
    let log = open(&closed);
    assert_eq!((log.next_seq(), log.report().scanned_bytes), (10, 0), "it was closed cleanly");
    assert_eq!(reserve_bytes(&closed), RESERVE_LEN, "the space that the close freed completes it");
}

#[test]
fn reserve_bytes_cannot_be_compressed() {
    let storage = MemoryStorage::new();
    let _env = LogContext::new(Arc::new(storage.clone())).emergency_reserve_at("/RESERVE");
    let bytes = bytes_of(&storage, "/RESERVE");
    assert_eq!(bytes.len() as u64, RESERVE_LEN);
    let mut blocks: Vec<&[u8]> = bytes.chunks(8).collect();
    blocks.sort_unstable();
    blocks.dedup();
    assert_eq!(blocks.len(), bytes.len() / 8, "no eight bytes occur twice");
    for value in 0..=255 {
        let count = bytes.iter().filter(|&&byte| byte == value).count();
        assert!((128..512).contains(&count), "{value}: {count} times");
    }
}

#[test]
fn reserve_that_is_a_link_is_left_alone() {
    for is_link in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let reserve = dir.path().join("RESERVE");
        let other = dir.path().join("other");
        std::fs::create_dir(dir.path().join("streams")).unwrap();
        std::fs::write(&other, "mine").unwrap();
        if is_link {
            std::os::unix::fs::symlink(&other, &reserve).unwrap();
        } else {
            std::fs::create_dir(&reserve).unwrap();
        }
        let context = Arc::new(LogContext::new(Arc::new(UnixStorage::new())).emergency_reserve_at(&reserve));
        let location = Location::new(dir.path().join("streams"), "s");
        let log = StreamLog::open(Arc::clone(&context), location, StreamOptions::new()).unwrap();
        for _ in 0..10 {
            log.append(b"x", Durability::Synced).unwrap();
        }
        log.truncate_from(5).unwrap();
        log.close().unwrap();
        assert_eq!(context.reserve_bytes(), 0);
        let kind = std::fs::symlink_metadata(&reserve).unwrap().file_type();
        assert!(if is_link { kind.is_symlink() } else { kind.is_dir() });
        assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    }
}

#[test]
fn reserve_of_holes_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = dir.path().join("RESERVE");
    std::fs::File::create(&reserve).unwrap().set_len(RESERVE_LEN).unwrap();
    let storage = || Arc::new(UnixStorage::new());
    let holes = storage().open(&reserve, Access::Read).unwrap().allocated().unwrap();
    let reader = LogContext::new(storage()).read_only(true).emergency_reserve_at(&reserve);
    if holes >= RESERVE_LEN {
        println!("skipped: this file system makes no holes");
        return;
    }
    assert_eq!(reader.reserve_bytes(), holes, "its length reserves nothing, and a reader creates nothing");
    let context = LogContext::new(storage()).emergency_reserve_at(&reserve);
    assert_eq!((context.reserve_bytes(), reader.reserve_bytes()), (RESERVE_LEN, RESERVE_LEN));
    std::fs::remove_file(&reserve).unwrap();
    assert_eq!(context.reserve_bytes(), 0);
}

#[test]
fn dropping_all_entries_frees_the_active_segment() {
    for room in [0, 3000] {
        let storage = memory();
        let context = Arc::new(LogContext::new(Arc::new(storage.clone())).emergency_reserve_at("/RESERVE"));
        let open = |context| StreamLog::open(context, location(), StreamOptions::new()).unwrap();
        let log = open(Arc::clone(&context));
        let entry = vec![7; 3000];
        for _ in 0..100 {
            log.append(&entry, Durability::Synced).unwrap();
        }
        let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
        let full = storage.clone().with_capacity(used + room);
        while log.append(&entry, Durability::Flushed).is_ok() {}
        let end = log.next_seq();
        assert_eq!(log.stats().unwrap().segments, 1);
        let mut iter = log.iter(.., Visibility::Stable);
        assert_eq!(iter.next().unwrap().unwrap().seq(), 0);
        log.truncate_before(end).unwrap();
        assert!(full.free_space(Path::new("/")).unwrap() > 200 << 10, "the dropped entries take no room");
        assert_eq!((log.first_seq(), log.next_seq()), (end, end));
        assert_eq!((log.durable_seq(), log.end_seq(Visibility::Stable)), (end, end));
        let truncated = ErrorKind::Truncated { first_seq: end };
        assert_eq!(log.get(end - 1, Visibility::Stable).unwrap_err().kind(), truncated);
        // The iterator has the file open. It continues, or reports that the entries were dropped,
        // not cut.
        assert!(iter.filter_map(Result::err).all(|error| error.kind() == truncated));
        // The stream as another process would find it if this one died now.
        let dead = storage.snapshot().with_capacity(u64::MAX);
        let found = open(Arc::new(LogContext::new(Arc::new(dead))));
        assert_eq!((found.first_seq(), found.next_seq()), (end, end));
        for i in 0..50 {
            assert_eq!(log.append(&entry, Durability::Synced).unwrap(), end + i);
        }
        assert_eq!(context.reserve_bytes(), RESERVE_LEN);
    }
}

#[test]
fn dropping_all_entries_works_without_a_reserve() {
    for segments in [1, 2] {
        let storage = memory();
        let context = Arc::new(LogContext::new(Arc::new(storage.clone())));
        let options = StreamOptions::new().segment_bytes(256 << 10);
        let log = StreamLog::open(context, location(), options).unwrap();
        let entry = vec![7; 3000];
        let size = |log: &StreamLog| log.disk_usage().unwrap();
        while size(&log).segments < segments || size(&log).segment_bytes < segments * (200 << 10) {
            log.append(&entry, Durability::Synced).unwrap();
        }
        let full = storage.clone().with_capacity(u64::MAX - storage.free_space(Path::new("/")).unwrap());
        let first = log.first_seq();
        let end = log.next_seq();
        let dropped = log.truncate_before(end);
        if segments == 1 {
            assert_eq!(dropped.unwrap_err().kind(), ErrorKind::Full, "nothing could be freed");
            assert_eq!((log.first_seq(), log.iter(.., Visibility::Stable).count() as u64), (first, end));
        } else {
            dropped.unwrap();
            assert_eq!(size(&log).segments, 1);
            assert!(size(&log).segment_bytes < 64 << 10, "the older segment made room for a new one");
            assert!(full.free_space(Path::new("/")).unwrap() > 400 << 10);
        }
        log.close().unwrap();
    }
}

#[test]
fn dropping_all_entries_wakes_waiting_threads() {
    let storage = memory();
    let log = open(&storage);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..200 {
                    log.append(&[7; 2000], Durability::Synced).unwrap();
                }
            });
        }
        scope.spawn(|| {
            while log.next_seq() < 600 {
                log.truncate_before(log.next_seq()).unwrap();
            }
        });
    });
    assert_eq!((log.next_seq(), log.durable_seq()), (600, 600));
}

#[test]
fn full_disk_error_states_the_effect_of_each_call() {
    let storage = memory();
    let open = |storage: &MemoryStorage| {
        let context = Arc::new(LogContext::new(Arc::new(storage.clone())));
        StreamLog::open(context, location(), StreamOptions::new()).unwrap()
    };
    let log = open(&storage);
    for _ in 0..10 {
        log.append(&[7; 100], Durability::Synced).unwrap();
    }
    let dead = storage.snapshot();
    let used = u64::MAX - dead.free_space(Path::new("/")).unwrap();
    let log = open(&dead.with_capacity(used));
    let calls: [(&dyn Fn() -> stratawal_stream::Result<()>, &str); 7] = [
        (
            &|| log.append(b"x", Durability::Synced).map(drop),
            "cannot append: the disk is full; this append added nothing",
        ),
        (&|| log.flush(), "cannot flush: the disk is full; nothing was flushed"),
        (&|| log.sync(), "cannot sync: the disk is full; nothing was synced"),
        (&|| log.truncate_before(10), "cannot truncate: the disk is full; nothing was dropped"),
        (&|| log.truncate_from(5), "cannot truncate: the disk is full; nothing was dropped"),
        (&|| log.reopen(), "cannot recover the stream: the disk is full; it stays as it was"),
        (&|| log.close(), "cannot close the stream: the disk is full; it was not closed cleanly"),
    ];
    for (call, text) in calls {
        let error = call().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{text}");
        assert!(error.to_string().starts_with(&format!("stream \"s\": {text}")), "{error}");
    }
    assert_eq!((log.first_seq(), log.next_seq()), (0, 10));
    let error = log.append(b"x", Durability::Synced).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::Closed), "{error}");
}

#[test]
fn refused_preallocation_does_not_poison() {
    const TOO_LARGE: i32 = 27;
    let storage = hooked(MemoryStorage::new());
    let options = StreamOptions::new().segment_bytes(256 << 10);
    let open = |storage: HookedStorage| {
        let context = Arc::new(LogContext::new(Arc::new(storage)));
        StreamLog::open(context, location(), options.clone()).unwrap()
    };
    let refuse = |operation, _: &Path| match operation {
        Operation::Preallocate | Operation::SetLen => Err(std::io::Error::from_raw_os_error(TOO_LARGE)),
        _ => Ok(()),
    };
    // In a segment that is growing, in one that was closed, and at a rotation.
    for entries in [10, 10, 100] {
        let log = open(storage.clone());
        for _ in 0..entries {
            log.append(&[7; 3000], Durability::Synced).unwrap();
        }
        log.close().unwrap();
        let log = open(storage.clone());
        storage.set(refuse);
        let end = log.next_seq();
        let error = (0..100).find_map(|_| log.append(&[7; 3000], Durability::Synced).err()).expect("it is refused");
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(error.to_string().contains("cannot append: I/O failed"), "{error}");
        log.sync().unwrap();
        storage.clear();
        assert!(log.next_seq() >= end);
        let end = log.next_seq();
        assert_eq!(log.append(&[7; 3000], Durability::Synced).unwrap(), end, "without a recovery");
        storage.set(refuse);
        log.truncate_before(end / 2).unwrap();
        storage.clear();
        log.append(b"x", Durability::Synced).unwrap();
        log.close().unwrap();
    }
}
