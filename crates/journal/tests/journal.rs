//! A journal in one process: many threads, a full journal, records over the limits, closing, and
//! restarting after a failure.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{ErrorKind, FileHeader, Image, Journal, JournalOptions, Lsn, Part, Position, Record};
use stratawal_storage::{Access, MemoryStorage, Storage, UnixStorage};
use stratawal_testkit::{Fault, Faults, Gate, HookedStorage, Operation, SimStorage};

const WAL: WalId = WalId(3);
const DIR: &str = "/journal";

fn part(stream: u64, seq: u64, len: usize) -> Part {
    Part {
        stream: StreamId(stream),
        name: Some(format!("stream {stream}").into()),
        first: SeqNo(seq),
        count: 1,
        timestamp: 0,
        firm: true,
        body: vec![7; len].into(),
    }
}

fn data(stream: u64, seq: u64, len: usize) -> Record {
    Record::Data(vec![part(stream, seq, len)])
}

fn small() -> JournalOptions {
    JournalOptions::default().bytes(64 << 10).first_file_bytes(16 << 10)
}

fn create(storage: &Arc<dyn Storage>) -> Journal {
    Journal::create(storage, Path::new(DIR), WAL, small()).expect("it is new")
}

fn read(storage: &dyn Storage) -> Result<Image, stratawal_journal::Error> {
    Image::read(storage, Path::new(DIR), WAL)
}

#[test]
fn threads_share_syncs_and_lose_nothing() {
    const THREADS: u64 = 8;
    const ENTRIES: u64 = 200;
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("journal");
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let journal = Journal::create(&storage, &dir, WAL, JournalOptions::default()).expect("it is new");
    thread::scope(|scope| {
        for stream in 1..=THREADS {
            let journal = &journal;
            scope.spawn(move || {
                for seq in 0..ENTRIES {
                    let position = journal.append(&data(stream, seq, 20)).expect("there is room");
                    journal.sync_to(position).expect("no fault");
                    assert!(journal.durable() >= position.end);
                }
            });
        }
    });
    drop(journal);
    let image = Image::read(&*storage, &dir, WAL).expect("it is sound");
    let needed = image.needed();
    assert_eq!(needed.streams.len() as u64, THREADS);
    for stream in needed.streams.values() {
        assert_eq!(stream.tail_after(SeqNo(0)).expect("no gap").end, SeqNo(ENTRIES));
    }
}

#[test]
fn older_file_that_was_put_back_is_not_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("journal");
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let put = |journal: Journal, seq| {
        let position = journal.append(&data(1, seq, 20)).expect("there is room");
        journal.sync_to(position).expect("no fault");
    };
    let open = || {
        let image = Image::read(&*storage, &dir, WAL).expect("it is sound");
        Journal::open(&storage, &dir, WAL, small(), image, |_| true).expect("it is sound")
    };
    put(Journal::create(&storage, &dir, WAL, small()).expect("it is new"), 0);
    let first = dir.join("00000000000000000001.jnl");
    let saved = dir.with_file_name("saved");
    std::fs::copy(&first, &saved).expect("a copy");
    put(open().0, 1);
    assert!(!first.exists());
    let bytes = std::fs::read(&saved).expect("a copy");
    std::fs::rename(&saved, &first).expect("it is put back");
    for _ in 0..2 {
        let (_, needed) = open();
        assert_eq!(needed.streams[&StreamId(1)].parts.len(), 2);
        assert!(std::fs::read(&first).expect("it was put back") == bytes);
    }
    // A copy of the whole journal has no other files.
    let copy = dir.with_file_name("copy");
    std::fs::create_dir(&copy).expect("a directory");
    for entry in std::fs::read_dir(&dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, copy.join(path.file_name().expect("a name"))).expect("a copy");
    }
    let image = Image::read(&*storage, &copy, WAL).expect("it is sound");
    Journal::open(&storage, &copy, WAL, small().adopt_copy(true), image, |_| true).expect("it is adopted");
    assert_eq!(std::fs::read_dir(&copy).expect("a directory").count(), 1);
}

#[test]
fn full_journal_refuses_entries_and_accepts_what_frees() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = create(&storage);
    let mut seq = 0;
    let full = loop {
        match journal.append(&data(1, seq, 500)) {
            Ok(_) => seq += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full.kind(), ErrorKind::Full { bytes: 65_536 }), "{full}");
    assert!(full.is_full() && journal.bytes() <= 64 << 10 && seq > 30, "{seq} in {}", journal.bytes());
    journal.append(&Record::Settled { stream: StreamId(1), seq: SeqNo(seq) }).expect("it frees");
    journal.release(journal.end()).expect("it frees");
    for seq in seq..10 * seq {
        journal.append(&data(1, seq, 500)).expect("there is room again");
        journal.release(journal.end()).expect("it frees");
    }
    assert!(journal.bytes() <= 64 << 10, "{}", journal.bytes());
}

/// The journal of a killed process, of which recovery wrote everything into one long file.
fn reopened_with(entries: u64) -> Journal {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = create(&storage);
    for seq in 0..entries {
        journal.append(&data(1, seq, 500)).expect("there is room");
    }
    drop(journal);
    let image = read(&*storage).expect("it is sound");
    Journal::open(&storage, Path::new(DIR), WAL, small(), image, |_| true).expect("it opens").0
}

#[test]
fn long_file_of_recovery_leaves_room_for_copies() {
    let journal = reopened_with(35);
    assert!(journal.bytes() > 24 << 10, "{} bytes are not a long file", journal.bytes());
    let before = journal.end();
    let full = (35..).map(|seq| journal.append(&data(1, seq, 500))).find_map(Result::err).expect("it has a limit");
    assert!(full.is_full(), "{full}");
    // Two files; the spare is kept for what frees.
    assert!(journal.end() - before > 2 * 7_000, "{} bytes", journal.end() - before);
}

#[test]
fn long_file_of_recovery_is_not_kept_as_a_spare() {
    let journal = reopened_with(35);
    for round in 0..4 {
        journal.release(journal.end()).expect("it frees");
        let begin = journal.end();
        let full = (35..).map(|seq| journal.append(&data(1, seq, 500))).find_map(Result::err).expect("it has a limit");
        assert!(full.is_full() && journal.end() - begin > 14_000, "round {round}: {} bytes", journal.end() - begin);
    }
    assert!(journal.bytes() <= 64 << 10, "{}", journal.bytes());
}

#[test]
fn record_over_a_limit_changes_nothing() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = create(&storage);
    let too_large = journal.append(&data(1, 0, 20_000)).expect_err("it is longer than a file");
    assert!(matches!(too_large.kind(), ErrorKind::TooLarge { len: 20_064, max: 8192 }), "{too_large}");
    for invalid in [
        Record::Data(Vec::new()),
        Record::Data(vec![Part { count: 0, ..part(1, 0, 1) }]),
        Record::Data(vec![part(1, u64::MAX, 1)]),
        Record::Drop { stream: StreamId(1), name: "".into() },
        Record::Trim { lsn: Lsn(0) },
        Record::Mark,
        Record::Close,
        Record::Next,
        Record::Pad { zeros: 0 },
        Record::Data(vec![part(1, 0, 1), Part { firm: false, ..part(2, 0, 1) }]),
    ] {
        let error = journal.append(&invalid).expect_err("it contradicts the format");
        assert!(matches!(error.kind(), ErrorKind::InvalidRecord), "{invalid:?}: {error}");
    }
    assert_eq!(journal.end(), Lsn(0));
}

#[test]
fn closed_journal_needs_nothing_and_accepts_nothing() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = create(&storage);
    journal.append(&data(1, 0, 20)).expect("there is room");
    journal.close().expect("no fault");
    let refused = journal.append(&data(1, 1, 20)).expect_err("it is closed");
    assert!(matches!(refused.kind(), ErrorKind::Closed));
    let end = journal.end();
    drop(journal);
    let image = read(&*storage).expect("it is sound");
    assert!(image.is_closed());
    let (journal, needed) = Journal::open(&storage, Path::new(DIR), WAL, small(), image, |_| true).expect("opens");
    assert!(needed.is_empty());
    assert_eq!(journal.end(), end, "LSNs never fall");
}

#[test]
fn restart_after_a_failed_sync_keeps_what_it_is_given() {
    let sim = SimStorage::new(3);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let journal = create(&storage);
    let position = journal.append(&data(1, 0, 20)).expect("there is room");
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Io, forever: false }));
    journal.sync_to(position).expect_err("the sync fails");
    sim.set_faults(None);
    let refused = [journal.sync_to(position).map(|()| position), journal.append(&data(1, 1, 20))];
    for error in refused.map(|result| result.expect_err("it has failed")) {
        assert!(matches!(error.kind(), ErrorKind::Failed(_)), "{error}");
    }
    let located = journal.restart(journal.epoch(), &[data(1, 0, 20)]).expect("the disk works again");
    assert!(journal.durable() >= located[0].end());
    // A restart does not acknowledge a record that was put before the restart.
    let error = journal.sync_to(position).expect_err("its epoch is over");
    assert!(matches!(error.kind(), ErrorKind::Restarted), "{error}");
    let position = journal.append(&data(1, 1, 20)).expect("it accepts records again");
    journal.sync_to(position).expect("the disk works");
    drop(journal);
    let needed = read(&*storage).expect("it is sound").needed();
    assert_eq!(needed.streams[&StreamId(1)].tail_after(SeqNo(0)).expect("no gap").end, SeqNo(2));
}

#[test]
fn missing_file_and_foreign_file_are_reported() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = create(&storage);
    for seq in 0..30 {
        journal.append(&data(1, seq, 500)).expect("there is room");
    }
    drop(journal);
    let foreign = Image::read(&*storage, Path::new(DIR), WalId(4)).expect_err("it is of another log");
    assert!(matches!(foreign.kind(), ErrorKind::Misplaced), "{foreign}");
    storage.remove_file(Path::new("/journal/00000000000000000001.jnl")).expect("it exists");
    let missing = read(&*storage).expect_err("it is damaged");
    assert!(matches!(missing.kind(), ErrorKind::FileMissing) && missing.file() == Some(1), "{missing}");
    assert!(missing.is_damage());
}

#[test]
fn missing_newest_file_is_reported() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = create(&storage);
    for seq in 0..30 {
        journal.append(&data(1, seq, 500)).expect("there is room");
    }
    drop(journal);
    storage.remove_file(Path::new("/journal/00000000000000000002.jnl")).expect("it exists");
    let missing = read(&*storage).expect_err("it is damaged");
    assert!(matches!(missing.kind(), ErrorKind::FileMissing) && missing.file() == Some(2), "{missing}");
}

#[test]
fn shortened_file_is_reported() {
    for len in [4096, 5776, 8192, 16_383] {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        create(&storage).append(&data(1, 0, 20)).expect("there is room");
        let file = storage.open(Path::new("/journal/00000000000000000001.jnl"), Access::ReadWrite).expect("it exists");
        file.set_len(len).expect("memory");
        let error = read(&*storage).expect_err("it is damaged");
        assert!(matches!(error.kind(), ErrorKind::Shortened { expected: 16_384, .. }), "{len}: {error}");
    }
}

#[test]
fn lsn_beyond_the_end_is_refused() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = create(&storage);
    let position = journal.append(&data(1, 0, 20)).expect("there is room");
    let beyond = position.end + 16;
    for error in [
        journal.release(beyond).expect_err("it is beyond the end"),
        journal.sync_to(Position { end: beyond, ..position }).expect_err("it is beyond the end"),
    ] {
        assert!(matches!(error.kind(), ErrorKind::BeyondEnd { .. }), "{error}");
    }
    let other = Position { epoch: position.epoch + 1, ..position };
    let error = journal.sync_to(other).expect_err("it is of another journal");
    assert!(matches!(error.kind(), ErrorKind::Restarted), "{error}");
}

#[test]
fn restart_needs_a_failure_of_its_epoch() {
    let sim = SimStorage::new(4);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let journal = create(&storage);
    let epoch = journal.epoch();
    let sound = journal.restart(epoch, &[]).expect_err("it has not failed");
    assert!(matches!(sound.kind(), ErrorKind::NotFailed), "{sound}");
    for _ in 0..2 {
        journal.append(&data(1, 0, 20)).expect("there is room");
        sim.set_faults(Some(Faults { after: 0, fault: Fault::Io, forever: false }));
        journal.sync().expect_err("the sync fails");
        sim.set_faults(None);
        journal.restart(journal.epoch(), &[]).expect("it has failed");
    }
    let late = journal.restart(epoch, &[]).expect_err("another thread has restarted it");
    assert!(matches!(late.kind(), ErrorKind::Restarted), "{late}");
    let invalid = journal.restart(journal.epoch(), &[Record::Mark]).expect_err("it is not a record of the caller");
    assert!(matches!(invalid.kind(), ErrorKind::InvalidRecord), "{invalid}");
}

#[test]
fn deletion_by_name_finds_a_stream_named_before_the_trim() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = create(&storage);
    journal.append(&data(1, 0, 20)).expect("there is room");
    let unnamed = Record::Data(vec![Part { name: None, ..part(1, 1, 20) }]);
    let position = journal.append(&unnamed).expect("there is room");
    journal.release(position.lsn).expect("memory");
    let drop_by_name = Record::Drop { stream: StreamId(0), name: "stream 1".into() };
    let position = journal.append(&drop_by_name).expect("there is room");
    journal.sync_to(position).expect("memory");
    drop(journal);
    let needed = read(&*storage).expect("it is sound").needed();
    assert!(needed.streams.is_empty(), "{needed:?}");
    assert_eq!(needed.drops.len(), 1);
}

#[test]
fn recovery_names_a_stream_once() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let options = JournalOptions::default();
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options).expect("it is new");
    let name = "n".repeat(60_000);
    journal.append(&Record::Data(vec![Part { name: Some(name.into()), ..part(1, 0, 1) }])).expect("there is room");
    for seq in 1..2_000 {
        journal.append(&Record::Data(vec![Part { name: None, ..part(1, seq, 1) }])).expect("there is room");
    }
    let end = journal.end();
    drop(journal);
    let image = read(&*storage).expect("it is sound");
    let (journal, needed) = Journal::open(&storage, Path::new(DIR), WAL, options, image, |_| true).expect("opens");
    assert!(journal.end() - end < end.0 + 1024, "{} bytes became {}", end, journal.end() - end);
    assert_eq!(needed.streams[&StreamId(1)].tail_after(SeqNo(0)).expect("no gap").end, SeqNo(2_000));
}

#[test]
fn forked_child_leaves_the_journal_to_its_parent() {
    let sim = SimStorage::new(4);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let journal = create(&storage);
    let position = journal.append(&data(1, 0, 20)).expect("there is room");
    sim.set_forked(true);
    let refused = [
        journal.append(&data(1, 1, 20)).map(drop),
        journal.sync_to(position),
        journal.sync(),
        journal.release(position.lsn),
        journal.reserve(&data(1, 1, 20)),
        journal.prepare(),
        journal.restart(journal.epoch(), &[]).map(drop),
        journal.close(),
    ];
    for error in refused.map(|result| result.expect_err("it is the parent's")) {
        assert!(matches!(error.kind(), ErrorKind::Forked), "{error}");
    }
    sim.set_forked(false);
    journal.sync_to(position).expect("the parent continues");
}

#[test]
fn leader_publishes_no_more_than_was_put() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let journal = Journal::create(&storage, Path::new(DIR), WAL, JournalOptions::default()).expect("it is new");
    let puts = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for seq in 0..2_000 {
                journal.append(&data(1, seq, 10)).expect("there is room");
                puts.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while puts.load(Ordering::Relaxed) < 2_000 {
                let end = journal.end();
                journal.sync().expect("no fault");
                let durable = journal.durable();
                assert!(durable >= end && durable <= journal.end());
            }
        });
    });
}

#[test]
fn prefaulting_changes_no_record() {
    for is_mapped in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("journal");
        let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
        let journal = Journal::create(&storage, &dir, WAL, small().mapped(is_mapped)).expect("it is new");
        for seq in 0..40 {
            journal.append(&data(1, seq, 100)).expect("there is room");
            journal.prefault(64 << 10).expect("it changes nothing");
        }
        journal.sync().expect("the disk works");
        drop(journal);
        let image = Image::read(&*storage, &dir, WAL).expect("it is sound");
        let tail = image.needed().streams[&StreamId(1)].tail_after(SeqNo(0)).expect("no gap");
        assert_eq!(tail.end, SeqNo(40));
    }
}

/// A file that is new, one that was prepared, and one that is used again.
#[test]
fn every_file_names_its_own_inode() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("journal");
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let journal = Journal::create(&storage, &dir, WAL, small()).expect("it is new");
    let mut inodes = Vec::new();
    for seq in 0..300 {
        journal.append(&data(1, seq, 500)).expect("there is room");
        journal.release(journal.end()).expect("it frees");
        if seq % 3 == 0 {
            journal.prepare().expect("there is room");
        }
        for entry in std::fs::read_dir(&dir).expect("it exists").map(|entry| entry.expect("it is readable")) {
            if entry.path().extension().is_some_and(|extension| extension == "jnl") {
                let bytes = std::fs::read(entry.path()).expect("a file");
                let header = FileHeader::decode(&bytes).expect("it is sound");
                assert_eq!(header.inode, entry.metadata().expect("a file").ino(), "{entry:?}");
                inodes.push((header.number, header.inode));
            }
        }
    }
    inodes.dedup();
    let files = inodes.len();
    inodes.sort_by_key(|&(_, inode)| inode);
    inodes.dedup_by_key(|&mut (_, inode)| inode);
    assert!(files > 10 && inodes.len() < files, "{files} files with {} inodes", inodes.len());
}

/// Recovery writes long journals in pieces, and records may be longer than a piece.
#[test]
fn opening_keeps_long_records_and_many_short_ones() {
    for lens in
        [vec![700_000], vec![100; 5000], vec![300_000, 10, 262_000, 5000, 1, 900_000], vec![262_144 - 4096 - 80; 3]]
    {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let options = JournalOptions::default();
        let journal = Journal::create(&storage, Path::new(DIR), WAL, options).expect("it is new");
        for (seq, &len) in lens.iter().enumerate() {
            let body: Vec<u8> = (0..len).map(|i| (i * 31 + seq) as u8).collect();
            let part = Part { body: body.into(), ..part(1, seq as u64, 0) };
            journal.append(&Record::Data(vec![part])).expect("there is room");
        }
        drop(journal);
        let before = read(&*storage).expect("it is sound");
        let parts = |needed: &stratawal_journal::Needed| -> Vec<Part> {
            needed.streams[&StreamId(1)].parts.iter().map(|located| located.part.clone()).collect()
        };
        let expected = parts(&before.needed());
        assert_eq!(expected.len(), lens.len());
        let (journal, needed) = Journal::open(&storage, Path::new(DIR), WAL, options, before, |_| true).expect("opens");
        assert!(parts(&needed) == expected);
        let end = journal.end();
        let position = journal.append(&data(2, 0, 20)).expect("there is room");
        drop(journal);
        let after = read(&*storage).expect("it is sound");
        assert!(after.damage().is_none() && after.attested() >= end);
        assert!(parts(&after.needed()) == expected, "in the file as in memory");
        assert_eq!(after.needed().streams[&StreamId(1)].parts, needed.streams[&StreamId(1)].parts);
        assert_eq!(after.needed().streams[&StreamId(2)].parts[0].lsn, position.lsn);
    }
}

/// A thread is preparing a file when another closes the journal.
#[test]
fn await_files_waits_for_a_file_being_prepared() {
    let hooked = HookedStorage::new(MemoryStorage::new());
    let storage: Arc<dyn Storage> = Arc::new(hooked.clone());
    let journal = create(&storage);
    let gate = Gate::new();
    let passes = gate.clone();
    hooked.set(move |operation, _| {
        if operation == Operation::Create {
            passes.pass();
        }
        Ok(())
    });
    let is_closed = AtomicBool::new(false);
    thread::scope(|scope| {
        let preparing = scope.spawn(|| journal.prepare());
        gate.await_one();
        let closing = scope.spawn(|| {
            journal.close().expect("no fault");
            journal.await_files();
            is_closed.store(true, Ordering::SeqCst);
        });
        thread::sleep(Duration::from_millis(50));
        let was_closed = is_closed.load(Ordering::SeqCst);
        gate.open();
        closing.join().expect("it closes");
        assert!(!was_closed, "a file was being prepared");
        preparing.join().expect("it ends").expect("a file is ready");
    });
    hooked.set(|operation, path| panic!("{operation:?} of {} after the close", path.display()));
    assert!(matches!(journal.prepare().expect_err("it is closed").kind(), ErrorKind::Closed));
    assert!(matches!(journal.append(&data(1, 0, 20)).expect_err("it is closed").kind(), ErrorKind::Closed));
}
