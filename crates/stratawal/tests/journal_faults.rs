//! Logs with a commit journal under faults and crashes in unusual orders.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stratawal::{Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::{Access, Storage};
use stratawal_testkit::{Crash, Fault, Faults, HookedStorage, Operation, Rng, SimStorage};

const LOG: &str = "/log";

fn journaled() -> Options {
    let streams = StreamOptions::new().segment_bytes(1 << 20);
    Options::new().stream_defaults(streams).journal(true).journal_mapped(false).maintenance_thread(false)
}

fn open(storage: &HookedStorage, options: &Options) -> Wal {
    options.open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap()
}

fn crashed(storage: &SimStorage, crash: Crash) -> SimStorage {
    SimStorage::on(storage.disk().crash(crash, &mut Rng::new(1)), 2)
}

fn entries(stream: &Stream) -> Vec<String> {
    stream.iter(..).map(|entry| String::from_utf8_lossy(&entry.unwrap().data()[..]).chars().take(8).collect()).collect()
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// Each sync of a file of the stream s fails, and the bytes that were not synced are gone.
fn fail_syncs_of_s(sim: &SimStorage, storage: &HookedStorage) {
    let sim = sim.clone();
    storage.set(move |operation, path| {
        if operation != Operation::Sync || !path.starts_with("/log/streams/s") {
            return Ok(());
        }
        let disk = sim.disk();
        let len = disk.bytes(path)?.len();
        let mut durable = disk.crash(Crash::Lost, &mut Rng::new(1)).bytes(path)?;
        durable.resize(len, 0);
        sim.open(path, Access::ReadWrite)?.write_all_at(&durable, 0)?;
        Err(eio())
    });
}

/// A log that has the streams s and t. Their files were opened by their names.
fn open_with_streams(storage: &HookedStorage, options: &Options) -> Wal {
    let wal = open(storage, options);
    for name in ["s", "t"] {
        let stream = wal.stream(name).unwrap();
        stream.append("first").unwrap();
    }
    wal.close().unwrap();
    open(storage, options)
}

/// A stream with an entry that is in its file alone and not synced, and with two loose entries
/// in the journal, which is synced.
fn file_only_then_loose(wal: &Wal) -> Stream {
    let flushed = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    flushed.append(vec![b'f'; 70 << 10]).unwrap();
    flushed.append("old1").unwrap();
    flushed.append("old2").unwrap();
    wal.stream("t").unwrap().append("synced").unwrap();
    flushed
}

/// Appends an entry and drops it again, so that the stream ends at `next_seq`, `rounds` times.
fn append_and_truncate(stream: &Stream, next_seq: u64, rounds: usize) {
    for round in 0..rounds {
        stream.append(vec![b'x'; 100]).unwrap();
        if let Err(error) = stream.truncate_from(next_seq) {
            panic!("round {round}: {error:?}");
        }
    }
}

/// Entries were lost, and the first attempt to recover fails at its `k`th sync.
#[test]
fn second_recovery_voids_the_lost_records_too() {
    for k in 0..12 {
        let sim = SimStorage::new(1);
        let storage = HookedStorage::new(sim.clone());
        let wal = open_with_streams(&storage, &journaled());
        let stream = file_only_then_loose(&wal);
        fail_syncs_of_s(&sim, &storage);
        stream.sync().unwrap_err();
        storage.clear();
        let syncs = AtomicU64::new(0);
        storage.set(move |operation, path| {
            let is_sync = operation == Operation::Sync && path.starts_with("/log/streams/s");
            if is_sync && syncs.fetch_add(1, Ordering::SeqCst) == k { Err(eio()) } else { Ok(()) }
        });
        let first = stream.reopen();
        storage.clear();
        if first.is_err() {
            stream.reopen().unwrap();
        }
        let synced = stream.with_durability(Durability::Synced);
        for entry in ["new0", "new1", "new2"] {
            synced.append(entry).unwrap();
        }
        let expected = entries(&stream);
        for crash in [Crash::Kill, Crash::Lost] {
            let wal = open(&HookedStorage::new(crashed(&sim, crash)), &journaled());
            assert_eq!(entries(&wal.stream("s").unwrap()), expected, "{crash:?}, sync {k}, first {first:?}");
        }
    }
}

/// The record of the deletion cannot be written.
#[test]
fn stream_with_an_undecided_deletion_is_whole_or_gone() {
    let sim = SimStorage::new(1);
    let storage = HookedStorage::new(sim.clone());
    let wal = open(&storage, &journaled());
    let stream = wal.stream("s").unwrap();
    for entry in ["a", "b", "c"] {
        stream.append(entry).unwrap();
    }
    storage.set(
        |operation, path| {
            if operation == Operation::Write && path.starts_with("/log/journal") { Err(eio()) } else { Ok(()) }
        },
    );
    let deleted = wal.delete_stream("s");
    storage.clear();
    drop(stream);
    if let Ok(stream) = wal.stream("s") {
        let found = entries(&stream);
        assert!(!stream.exists() || found == ["a", "b", "c"], "{found:?} after {deleted:?}");
    }
}

fn copy(storage: &dyn Storage, from: &Path, to: &Path) {
    let file = storage.open(from, Access::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    let len = file.read_at(&mut bytes, 0).unwrap();
    let new = storage.create_new(to).unwrap();
    new.write_all_at(&bytes[..len], 0).unwrap();
    new.sync_all().unwrap();
    storage.sync_dir(to.parent().unwrap()).unwrap();
}

/// A file of the stream b lies in the directory of the stream a, which is deleted.
#[test]
fn deleting_a_stream_leaves_the_records_of_another() {
    let sim = SimStorage::new(1);
    let storage = HookedStorage::new(sim.clone());
    let wal = open(&storage, &journaled());
    for name in ["a", "b"] {
        wal.stream(name).unwrap().append("first").unwrap();
    }
    // The second generation of b is newer than the file of a.
    wal.stream("b").unwrap().truncate_from(0).unwrap();
    wal.close().unwrap();
    let names = sim.list(Path::new("/log/streams/b")).unwrap();
    let name = &names[0].name;
    copy(&sim, &Path::new("/log/streams/b").join(name), &Path::new("/log/streams/a").join(name));
    let wal = open(&storage, &journaled());
    let b = wal.stream("b").unwrap();
    wal.delete_stream("a").unwrap();
    b.append("acknowledged").unwrap();
    let wal = open(&HookedStorage::new(crashed(&sim, Crash::Kill)), &journaled());
    assert_eq!(entries(&wal.stream("b").unwrap()), ["acknowle"]);
}

/// The process has no descriptors while the stream is deleted, and dies.
#[test]
fn failed_deletion_by_name_leaves_the_stream_whole() {
    let sim = SimStorage::new(1);
    let wal = open(&HookedStorage::new(sim.clone()), &journaled());
    let stream = wal.stream("s").unwrap();
    for entry in ["a", "b", "c"] {
        stream.append(entry).unwrap();
    }
    let sim = crashed(&sim, Crash::Kill);
    let storage = HookedStorage::new(sim.clone());
    let wal = open(&storage, &journaled());
    storage.set(|operation, path| match operation {
        Operation::Open | Operation::Rename if path.starts_with("/log/streams") => {
            Err(io::Error::from_raw_os_error(24))
        }
        _ => Ok(()),
    });
    let deleted = wal.delete_stream("s");
    assert!(deleted.is_err());
    let wal = open(&HookedStorage::new(crashed(&sim, Crash::Kill)), &journaled());
    let stream = wal.stream("s").unwrap();
    let found = entries(&stream);
    assert!(!stream.exists() || found == ["a", "b", "c"], "{found:?} after {deleted:?}");
}

/// A damaged stream was deleted, and another created with its name. The next opening cannot read
/// its file, for a moment.
#[test]
fn stream_created_after_a_deletion_by_name_is_kept() {
    let sim = SimStorage::new(1);
    let wal = open(&HookedStorage::new(sim.clone()), &journaled());
    wal.stream("s").unwrap().append("old").unwrap();
    wal.close().unwrap();
    let mut disk = sim.disk();
    let (file, _) = disk.files().into_iter().find(|(path, _)| path.starts_with("/log/streams/s/")).unwrap();
    disk.flip(Path::new(&file), 100, 1).unwrap();
    let sim = SimStorage::on(disk, 3);
    let wal = open(&HookedStorage::new(sim.clone()), &journaled());
    assert_eq!(wal.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
    wal.delete_stream("s").unwrap();
    wal.stream("s").unwrap().append("new").unwrap();
    let sim = crashed(&sim, Crash::Kill);
    let storage = HookedStorage::new(sim.clone());
    storage.set(
        |operation, path| {
            if operation == Operation::Open && path.starts_with("/log/streams") { Err(eio()) } else { Ok(()) }
        },
    );
    let opened = journaled().open_on(Arc::new(storage.clone()), Path::new(LOG), false).map(drop);
    storage.clear();
    let wal = open(&HookedStorage::new(crashed(&sim, Crash::Kill)), &journaled());
    assert_eq!(entries(&wal.stream("s").unwrap()), ["new"], "after {opened:?}");
}

/// A power loss brings back the directory of a deleted stream. The next opening cannot read it, for
/// a moment.
#[test]
fn deleted_stream_stays_deleted_if_it_is_unreadable() {
    let sim = SimStorage::new(1);
    let storage = HookedStorage::new(sim.clone());
    let wal = open(&storage, &journaled());
    let stream = wal.stream("s").unwrap();
    stream.append("a").unwrap();
    stream.with_durability(Durability::Flushed).append(vec![b'f'; 70 << 10]).unwrap();
    stream.sync().unwrap();
    storage.set(
        |operation, path| {
            if operation == Operation::SyncDir && path.ends_with("streams") { Err(eio()) } else { Ok(()) }
        },
    );
    let deleted = wal.delete_stream("s");
    println!("{deleted:?}");
    let sim = crashed(&sim, Crash::Lost);
    let storage = HookedStorage::new(sim.clone());
    storage.set(
        |operation, path| {
            if operation == Operation::Open && path.starts_with("/log/streams") { Err(eio()) } else { Ok(()) }
        },
    );
    let opened = journaled().open_on(Arc::new(storage.clone()), Path::new(LOG), false).map(drop);
    storage.clear();
    let wal = open(&HookedStorage::new(crashed(&sim, Crash::Kill)), &journaled());
    let stream = wal.stream("s").unwrap();
    assert!(!stream.exists(), "{:?} after {opened:?}", entries(&stream));
}

#[test]
fn failed_journal_accepts_no_entries() {
    let sim = SimStorage::new(1);
    let storage = HookedStorage::new(sim.clone());
    let wal = open(&storage, &journaled());
    let stream = wal.stream("s").unwrap();
    stream.append("a").unwrap();
    storage.set(|operation, path| {
        let fails = matches!(operation, Operation::Sync | Operation::Write) && path.starts_with("/log/journal");
        if fails { Err(eio()) } else { Ok(()) }
    });
    stream.append("b").unwrap_err();
    storage.clear();
    for _ in 0..50 {
        stream.append("again").unwrap_err();
    }
    stream.reopen().unwrap();
    let found = entries(&stream);
    assert!(found.len() <= 2, "{} entries", found.len());
}

/// The stream's own file fails after its entries were drained. Then another stream needs room.
#[test]
fn flushed_entries_of_a_failed_stream_keep_their_records() {
    let sim = SimStorage::new(1);
    let storage = HookedStorage::new(sim.clone());
    let streams = StreamOptions::new().durability(Durability::Flushed);
    let options = journaled().stream_defaults(streams).journal_bytes(256 << 10);
    let wal = open_with_streams(&storage, &options);
    let stream = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    for _ in 0..20 {
        stream.append(vec![b'e'; 1000]).unwrap();
    }
    wal.stream("t").unwrap().with_durability(Durability::Synced).append("synced").unwrap();
    fail_syncs_of_s(&sim, &storage);
    stream.truncate_from(20).unwrap_err();
    storage.clear();
    let before = crashed(&sim, Crash::Kill);
    let other = wal.stream("u").unwrap().with_durability(Durability::Flushed);
    for _ in 0..1000 {
        other.append(vec![b'u'; 1000]).unwrap();
    }
    let wal = open(&HookedStorage::new(before), &options);
    assert_eq!(wal.stream("s").unwrap().next_seq(), 21, "before the release");
    let wal = open(&HookedStorage::new(crashed(&sim, Crash::Kill)), &options);
    assert_eq!(wal.stream("s").unwrap().next_seq(), 21, "after the release");
}

/// A stream with many records is not looked up.
#[test]
fn truncations_work_while_a_stream_holds_the_journal() {
    let sim = SimStorage::new(1);
    let options = journaled().journal_bytes(64 << 10);
    let wal = open(&HookedStorage::new(sim.clone()), &options);
    let stream = wal.stream("idle").unwrap().with_durability(Durability::Flushed);
    for _ in 0..36 {
        stream.append(vec![b'e'; 1000]).unwrap();
    }
    let sim = crashed(&sim, Crash::Kill);
    let wal = open(&HookedStorage::new(sim), &options);
    let stream = wal.stream("busy").unwrap();
    append_and_truncate(&stream, 0, 500);
}

/// The directory of a deleted stream cannot be removed.
#[test]
fn unfinished_deletion_does_not_fill_the_journal() {
    let sim = SimStorage::new(1);
    let storage = HookedStorage::new(sim.clone());
    let options = journaled().journal_bytes(64 << 10);
    let wal = open(&storage, &options);
    wal.stream("s").unwrap().append("x").unwrap();
    storage.set(|operation, path| {
        let fails = matches!(operation, Operation::Rename | Operation::Remove) && path.starts_with("/log/streams");
        if fails { Err(eio()) } else { Ok(()) }
    });
    wal.delete_stream("s").unwrap_err();
    let stream = wal.stream("t");
    storage.clear();
    drop(stream);
    let stream = wal.stream("t").unwrap();
    append_and_truncate(&stream, 0, 1000);
}

/// From now on no file can grow.
fn fill_disk(sim: &SimStorage) {
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Capacity, forever: true }));
}

/// The disk has no room for a new journal file.
#[test]
fn opening_on_a_full_disk_loses_nothing() {
    for mapped in [true, false] {
        let options = journaled().journal_mapped(mapped);
        let sim = SimStorage::new(1);
        let wal = open(&HookedStorage::new(sim.clone()), &options);
        for _ in 0..100 {
            wal.stream("s").unwrap().append(vec![b'x'; 1000]).unwrap();
        }
        let sim = crashed(&sim, Crash::Kill);
        fill_disk(&sim);
        let wal = options.open_on(Arc::new(sim.clone()), Path::new(LOG), false).unwrap();
        let again = crashed(&sim, Crash::Lost);
        sim.set_faults(None);
        assert_eq!(wal.stream("s").unwrap().next_seq(), 100);
        let wal = options.open_on(Arc::new(again), Path::new(LOG), false).unwrap();
        assert_eq!(wal.stream("s").unwrap().next_seq(), 100, "mapped {mapped}");
    }
}

/// No append needs room, so only the truncations themselves can make some.
#[test]
fn truncations_make_their_own_room() {
    let sim = SimStorage::new(1);
    let wal = open(&HookedStorage::new(sim), &journaled().journal_bytes(64 << 10));
    let stream = wal.stream("s").unwrap();
    append_and_truncate(&stream, 0, 2000);
}

#[test]
fn deletions_make_their_own_room() {
    let sim = SimStorage::new(1);
    let wal = open(&HookedStorage::new(sim), &journaled().journal_bytes(64 << 10));
    for round in 0..2000 {
        wal.stream("s").unwrap().append("x").unwrap();
        if let Err(error) = wal.delete_stream("s") {
            panic!("round {round}: {error:?}");
        }
    }
}

/// While the look-up of a stream makes its lost records void, another thread frees space in the
/// journal, and copies them.
#[test]
fn records_made_void_by_a_look_up_are_not_copied() {
    let sim = SimStorage::new(1);
    let options = journaled().journal_bytes(64 << 10);
    let wal = open(&HookedStorage::new(sim.clone()), &options);
    file_only_then_loose(&wal);
    let sim = crashed(&sim, Crash::Lost);
    let storage = HookedStorage::new(sim.clone());
    let wal = open(&storage, &options);
    let other = wal.stream("u").unwrap().with_durability(Durability::Flushed);
    for _ in 0..20 {
        other.append(vec![b'u'; 1000]).unwrap();
    }
    let settled = Arc::new(AtomicU64::new(0));
    storage.set(move |operation, path| {
        let is_sync = operation == Operation::Sync && path.starts_with("/log/journal");
        if is_sync && settled.fetch_add(1, Ordering::SeqCst) == 0 {
            let other = other.clone();
            std::thread::spawn(move || {
                for _ in 0..60 {
                    other.append(vec![b'u'; 1000]).unwrap();
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        Ok(())
    });
    let stream = wal.stream("s").unwrap();
    storage.clear();
    assert_eq!(stream.next_seq(), 0, "the first entry was not durable");
    for entry in ["new0", "new1", "new2"] {
        stream.append(entry).unwrap();
    }
    let wal = open(&HookedStorage::new(crashed(&sim, Crash::Kill)), &options);
    assert_eq!(entries(&wal.stream("s").unwrap()), ["new0", "new1", "new2"]);
}

/// A failed stream has more records than one file of the journal holds.
#[test]
fn failed_stream_does_not_stop_the_others() {
    let sim = SimStorage::new(1);
    let storage = HookedStorage::new(sim.clone());
    let options = journaled().journal_bytes(64 << 10);
    let wal = open_with_streams(&storage, &options);
    let stream = wal.stream("s").unwrap();
    for _ in 0..16 {
        stream.append(vec![b'e'; 1000]).unwrap();
    }
    fail_syncs_of_s(&sim, &storage);
    stream.truncate_from(16).unwrap_err();
    storage.clear();
    let other = wal.stream("t").unwrap();
    append_and_truncate(&other, 1, 1000);
}

#[test]
fn missing_directory_of_a_stream_with_records_is_damage() {
    let sim = SimStorage::new(1);
    let wal = open_with_streams(&HookedStorage::new(sim.clone()), &journaled());
    wal.stream("s").unwrap().append("acknowledged").unwrap();
    let sim = crashed(&sim, Crash::Lost);
    let dir = Path::new("/log/streams/s");
    for entry in sim.list(dir).unwrap() {
        sim.remove_file(&dir.join(entry.name)).unwrap();
    }
    sim.remove_dir(dir).unwrap();
    let wal = open(&HookedStorage::new(sim.clone()), &journaled());
    let kind = wal.stream("s").map(|stream| stream.next_seq()).map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::Damaged));
}

/// The journal has entries of a stream, and the files have no room for them.
#[test]
fn look_up_on_a_full_disk_loses_nothing() {
    let sim = SimStorage::new(1);
    let wal = open(&HookedStorage::new(sim.clone()), &journaled());
    for _ in 0..100 {
        wal.stream("s").unwrap().append(vec![b'x'; 1000]).unwrap();
    }
    let sim = crashed(&sim, Crash::Lost);
    let wal = open(&HookedStorage::new(sim.clone()), &journaled());
    let used = sim.disk().used();
    sim.set_faults(Some(Faults { after: used, fault: Fault::Capacity, forever: true }));
    let stream = wal.stream("s").unwrap();
    assert_eq!((stream.next_seq(), entries(&stream).len()), (100, 100));
    assert_eq!(stream.append(vec![b'x'; 100 << 10]).unwrap_err().kind(), ErrorKind::Full);
    sim.set_faults(None);
    wal.truncate_before("s", 99).unwrap();
    assert_eq!(wal.stream("s").unwrap().append("more").unwrap(), 100);
}

/// The stream s has one entry in an older copy of its file, which was put in place, and one in the
/// journal. The entry between them is lost.
fn with_an_older_file() -> SimStorage {
    let sim = SimStorage::new(1);
    let storage = HookedStorage::new(sim.clone());
    let wal = open_with_streams(&storage, &journaled());
    let file = |sim: &SimStorage| {
        let (path, _) = sim.disk().files().into_iter().find(|(path, _)| path.starts_with("/log/streams/s/")).unwrap();
        let bytes = sim.disk().bytes(Path::new(&path)).unwrap();
        (path, bytes)
    };
    let (path, old) = file(&sim);
    wal.stream("s").unwrap().append("second").unwrap();
    wal.close().unwrap();
    let wal = open(&storage, &journaled());
    wal.stream("s").unwrap().append("third").unwrap();
    let sim = crashed(&sim, Crash::Lost);
    let open_file = sim.open(Path::new(&path), Access::ReadWrite).unwrap();
    open_file.set_len(old.len() as u64).unwrap();
    open_file.write_all_at(&old, 0).unwrap();
    open_file.sync_all().unwrap();
    sim
}

/// The program gives up the lost entry.
#[test]
fn gap_before_the_records_can_be_dropped() {
    let sim = with_an_older_file();
    let wal = open(&HookedStorage::new(sim), &journaled());
    assert_eq!(wal.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
    wal.truncate_before("s", 2).unwrap();
    assert_eq!(entries(&wal.stream("s").unwrap()), ["third"]);
}

/// The lost entry is not among those that the program gives up.
#[test]
fn refused_truncation_of_a_damaged_stream_drops_nothing() {
    let sim = with_an_older_file();
    let files = |sim: &SimStorage| {
        let of_s = |(path, _): &(String, u64)| path.starts_with("/log/streams/s/");
        let bytes = |(path, _): (String, u64)| sim.disk().bytes(Path::new(&path)).unwrap();
        sim.disk().files().into_iter().filter(of_s).map(bytes).collect::<Vec<_>>()
    };
    let before = files(&sim);
    let wal = open(&HookedStorage::new(sim.clone()), &journaled());
    let refused = wal.truncate_before("s", 1).unwrap_err();
    assert_eq!((refused.kind(), refused.lost()), (ErrorKind::Damaged, Some(1..2)), "{refused}");
    drop(wal);
    assert_eq!(files(&sim), before);
    let beside = journaled().open_on(Arc::new(sim), Path::new(LOG), true).unwrap();
    assert_eq!(beside.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
}
