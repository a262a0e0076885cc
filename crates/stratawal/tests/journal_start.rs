//! Dropping the oldest entries of a stream in a log with a commit journal.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stratawal::inspect::{self, Salvaged};
use stratawal::{Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_testkit::{Crash, Gate, HookedStorage, Operation, Rng, SimStorage};

const SEGMENT_LEN: u64 = 64 << 10;

fn options(mapped: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(SEGMENT_LEN).durability(Durability::Synced);
    Options::new()
        .stream_defaults(streams)
        .journal(true)
        .journal_mapped(mapped)
        .journal_bytes(256 << 10)
        .maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, options: &Options) -> Wal {
    options.open_on(Arc::new(storage), Path::new("/log"), false).unwrap()
}

fn open_crashed(sim: &SimStorage, crash: Crash, options: &Options) -> Wal {
    open(SimStorage::on(sim.disk().crash(crash, &mut Rng::new(1)), 9), options)
}

/// Appends entries until the stream has `count`.
fn append_until(stream: &Stream, count: u64) {
    while stream.next_seq() < count {
        stream.append(vec![u8::try_from(stream.next_seq() % 251).unwrap(); 1000]).unwrap();
    }
}

/// Checks that the stream has exactly the entries of `seqs`.
fn check(stream: &Stream, seqs: std::ops::Range<u64>) {
    assert_eq!((stream.first_seq(), stream.next_seq()), (seqs.start, seqs.end));
    let found: Vec<_> = stream.iter(..).map(|entry| entry.unwrap().seq()).collect();
    assert!(found.into_iter().eq(seqs.clone()), "{seqs:?}");
    if let Some(before) = seqs.start.checked_sub(1) {
        let error = stream.get(before).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated { first_seq: seqs.start });
    }
}

fn segments(storage: &dyn Storage) -> usize {
    let names = storage.list(Path::new("/log/streams/s")).unwrap();
    names.iter().filter(|entry| Path::new(&entry.name).extension().is_some_and(|extension| extension == "seg")).count()
}

/// Every reading of the log, in this process and in later ones, begins at the START.
#[test]
fn dropped_entries_do_not_reappear() {
    for mapped in [true, false] {
        let options = options(mapped);
        let sim = SimStorage::new(1);
        let wal = open(sim.clone(), &options);
        let stream = wal.stream("s").unwrap();
        append_until(&stream, 10);
        for first in [3, 1, 3, 5] {
            stream.truncate_before(first).unwrap();
        }
        check(&stream, 5..10);
        append_until(&stream, 12);
        // A reader in another process, which reads the journal as well.
        let reader = options.open_on(Arc::new(sim.clone()), Path::new("/log"), true).unwrap();
        check(&reader.stream("s").unwrap(), 5..12);
        stream.truncate_before(6).unwrap();
        let read = reader.stream("s").unwrap();
        read.reopen().unwrap();
        check(&read, 6..12);
        for crash in [Crash::Kill, Crash::Lost, Crash::Kept] {
            let again = open_crashed(&sim, crash, &options);
            check(&again.stream("s").unwrap(), 6..12);
            append_until(&again.stream("s").unwrap(), 14);
            again.stream("s").unwrap().reopen().unwrap();
            check(&again.stream("s").unwrap(), 6..14);
        }
        // The third process finds what the second one, which never used the stream, has left.
        let second = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(1)), 4);
        drop(open(second.clone(), &options));
        check(&open_crashed(&second, Crash::Lost, &options).stream("s").unwrap(), 6..12);
        // A closed log needs no journal for it.
        wal.close().unwrap();
        let without = options.clone().journal(false);
        check(&open_crashed(&sim, Crash::Lost, &without).stream("s").unwrap(), 6..12);
        let reader = options.open_on(Arc::new(sim.clone()), Path::new("/log"), true).unwrap();
        check(&reader.stream("s").unwrap(), 6..12);
    }
}

#[test]
fn truncation_that_frees_nothing_syncs_the_journal_only() {
    let sim = SimStorage::new(1);
    let hooked = HookedStorage::new(sim.clone());
    let wal = open(hooked.clone(), &options(false));
    let stream = wal.stream("s").unwrap();
    append_until(&stream, 10);
    stream.sync().unwrap();
    let changes = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let seen = Arc::clone(&changes);
    hooked.set(move |operation, path| {
        if matches!(operation, Operation::Write | Operation::Sync | Operation::Remove | Operation::Rename) {
            seen[usize::from(path.starts_with("/log/journal"))].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    for first in 1..10 {
        stream.truncate_before(first).unwrap();
    }
    hooked.clear();
    assert_eq!(changes[0].load(Ordering::Relaxed), 0, "no other file is used");
    assert!(changes[1].load(Ordering::Relaxed) >= 9, "each is durable");
}

#[test]
fn whole_segments_are_removed() {
    for (mapped, with_thread) in [(true, false), (false, false), (true, true)] {
        let sim = SimStorage::new(1);
        let wal = open(sim.clone(), &options(mapped).maintenance_thread(with_thread));
        let stream = wal.stream("s").unwrap();
        append_until(&stream, 200);
        let before = segments(&sim);
        assert!(before > 3, "{before} segments");
        stream.truncate_before(190).unwrap();
        check(&stream, 190..200);
        let began = Instant::now();
        while segments(&sim) > 1 {
            assert!(with_thread && began.elapsed() < Duration::from_secs(30), "{} segments", segments(&sim));
            thread::sleep(Duration::from_millis(1));
        }
        append_until(&stream, 205);
        check(&open_crashed(&sim, Crash::Lost, &options(mapped)).stream("s").unwrap(), 190..205);
    }
}

#[test]
fn look_up_and_recovery_remove_whole_segments() {
    let sim = SimStorage::new(1);
    let hooked = HookedStorage::new(sim.clone());
    let wal = open(hooked.clone(), &options(true));
    let stream = wal.stream("s").unwrap();
    append_until(&stream, 200);
    // The sync of the START frame fails, so no file is removed.
    hooked.set(|operation, path| {
        let fails = operation == Operation::Sync && path.starts_with("/log/streams/s");
        if fails { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
    });
    assert_eq!(stream.truncate_before(190).unwrap_err().kind(), ErrorKind::Poisoned);
    hooked.clear();
    assert!(segments(&sim) > 3);
    check(&stream, 190..200);
    let crashed = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(1)), 9);
    let again = open(crashed.clone(), &options(true));
    check(&again.stream("s").unwrap(), 190..200);
    assert_eq!(segments(&crashed), 1, "removed by the look-up");
    stream.reopen().unwrap();
    check(&stream, 190..200);
    assert!(segments(&sim) <= 2, "removed by the recovery, which begins a new segment");
}

/// A consumer drops each entry once it has read it. Neither the disk nor the journal has room.
#[test]
fn full_disk_takes_any_number_of_truncations() {
    const COUNT: u64 = 100_000;
    for with_thread in [false, true] {
        let storage = MemoryStorage::new();
        storage.create_dir(Path::new("/log")).unwrap();
        let options = options(false).journal_bytes(64 << 10).maintenance_thread(with_thread);
        let wal = open(storage.clone(), &options);
        let stream = wal.stream_with("s", StreamOptions::new().segment_bytes(64 << 20)).unwrap();
        let buffered = stream.with_durability(Durability::Buffered);
        for _ in 0..COUNT + 10 {
            buffered.append("x").unwrap();
        }
        stream.sync().unwrap();
        let other = wal.stream("other").unwrap();
        // So long that the stream gets a directory.
        other.append([7; 70_000]).unwrap();
        other.append("second").unwrap();
        other.truncate_before(1).unwrap();
        let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
        let full = storage.clone().with_capacity(used);
        let refused = (0..10_000).find_map(|_| other.append([7; 3000]).err()).expect("the disk is full");
        assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
        for first in 1..=COUNT {
            stream.truncate_before(first).unwrap_or_else(|error| panic!("{first}: {error}"));
        }
        assert_eq!(stream.first_seq(), COUNT);
        let found = open(storage.snapshot().with_capacity(u64::MAX), &options);
        let found = (found.stream("s").unwrap().first_seq(), found.stream("other").unwrap().first_seq());
        assert_eq!(found, (COUNT, 1));
        let _ = full.with_capacity(u64::MAX);
        stream.append("y").unwrap();
        wal.close().unwrap();
    }
}

/// A truncation waits for the sync of the journal without the stream's lock.
#[test]
fn appends_continue_while_a_truncation_is_synced() {
    let hooked = HookedStorage::new(SimStorage::new(1));
    let wal = open(hooked.clone(), &options(false));
    let stream = wal.stream("s").unwrap();
    append_until(&stream, 10);
    let gate = Gate::new();
    let passed = gate.clone();
    hooked.set(move |operation, path| {
        if operation == Operation::Sync && path.starts_with("/log/journal") {
            passed.pass();
        }
        Ok(())
    });
    thread::scope(|scope| {
        let truncation = scope.spawn(|| stream.truncate_before(4));
        gate.await_one();
        assert_eq!(stream.first_seq(), 4, "it takes effect at once");
        assert_eq!(stream.get(3).unwrap_err().kind(), ErrorKind::Truncated { first_seq: 4 });
        assert_eq!(stream.with_durability(Durability::Flushed).append("more").unwrap(), 10);
        assert!(!truncation.is_finished());
        gate.open();
        truncation.join().unwrap().unwrap();
    });
}

/// Until the journal is restarted it is open whether a crash keeps the entries, but no reader of
/// this process sees them again.
#[test]
fn failed_sync_of_a_truncation_can_be_repeated() {
    for mapped in [true, false] {
        let sim = SimStorage::new(1);
        let hooked = HookedStorage::new(sim.clone());
        let wal = open(hooked.clone(), &options(mapped));
        let stream = wal.stream("s").unwrap();
        append_until(&stream, 10);
        hooked.set(|operation, path| {
            let fails = operation == Operation::Sync && path.starts_with("/log/journal");
            if fails { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        assert_eq!(stream.truncate_before(4).unwrap_err().kind(), ErrorKind::Poisoned);
        hooked.clear();
        check(&stream, 4..10);
        assert_eq!(stream.truncate_before(4).unwrap_err().kind(), ErrorKind::Poisoned, "not restarted");
        stream.reopen().unwrap();
        check(&stream, 4..10);
        stream.truncate_before(4).unwrap();
        for crash in [Crash::Kill, Crash::Lost] {
            check(&open_crashed(&sim, crash, &options(mapped)).stream("s").unwrap(), 4..10);
        }
        append_until(&stream, 12);
        check(&open_crashed(&sim, Crash::Lost, &options(mapped)).stream("s").unwrap(), 4..12);
    }
}

/// A truncation is one record. It does not flush the entries that it drops.
#[test]
fn stable_end_is_never_below_the_start() {
    for durability in [Durability::Flushed, Durability::Synced] {
        let disk = SimStorage::new(1);
        let stream = || {
            let wal = open(disk.clone(), &options(true));
            wal.stream_with("s", StreamOptions::new().durability(durability)).unwrap()
        };
        // A stream without a directory has all its entries in the journal.
        stream().append("stable").unwrap();
        let stream = stream();
        let buffered = stream.with_durability(Durability::Buffered);
        for _ in 0..3 {
            buffered.append("in memory").unwrap();
        }
        stream.truncate_before(3).unwrap();
        assert_eq!((stream.first_seq(), stream.stable_seq(), stream.next_seq()), (3, 3, 4));
        assert!(stream.iter(..).next().is_none() && stream.last().unwrap().is_none());
        stream.sync().unwrap();
        assert_eq!((stream.stable_seq(), stream.iter(..).count()), (4, 1));
    }
}

/// The START is in the journal alone, and the files still have the entries before it.
#[test]
fn salvage_begins_at_a_start_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().maintenance_thread(false);
    let wal = options.open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    for entry in ["one", "two", "three", "four"] {
        stream.append(entry).unwrap();
    }
    wal.close().unwrap();
    drop((stream, wal));
    let salvaged = || -> Vec<u64> {
        let seq = |item| match item {
            Salvaged::Entry(entry) | Salvaged::Uncertain(entry) => Some(entry.seq()),
            _ => None,
        };
        inspect::salvage(dir.path(), "s").unwrap().filter_map(|item| seq(item.unwrap())).collect()
    };
    assert_eq!(salvaged(), [0, 1, 2, 3]);
    let wal = options.open(dir.path()).unwrap();
    wal.truncate_before("s", 2).unwrap();
    assert_eq!(salvaged(), [2, 3], "beside the writer");
    std::mem::forget(wal);
    assert_eq!(salvaged(), [2, 3], "after it was killed");
    // A file that was cut short still has the record.
    let files = std::fs::read_dir(dir.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect();
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        std::fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
    }
    assert_eq!(salvaged(), [2, 3], "the journal is cut short");
    for file in &files {
        std::fs::write(file, []).unwrap();
    }
    assert_eq!(salvaged(), [0, 1, 2, 3], "the journal cannot be read");
}
