//! A follower beside a writer that rotates, releases, restarts and reopens the journal: it finds
//! what reading the whole journal finds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Follower, Image, Journal, JournalOptions, Lsn, Part, PartPosition, Record};
use stratawal_storage::{Storage, UnixStorage};
use stratawal_testkit::{Fault, Faults, HookedStorage, Operation, Rng, SimStorage, Verdict};

const WAL: WalId = WalId(3);
const DIR: &str = "/journal";
const STREAMS: usize = 3;

fn options(mapped: bool) -> JournalOptions {
    JournalOptions::default().bytes(64 << 10).first_file_bytes(16 << 10).mapped(mapped)
}

fn record(rng: &mut Rng, seqs: &mut [u64; STREAMS]) -> Record {
    let stream = rng.index(STREAMS);
    let id = StreamId(stream as u64 + 1);
    let seq = SeqNo(seqs[stream]);
    match rng.below(12) {
        0 => return Record::Settled { stream: id, seq },
        1 => return Record::Firm { stream: id, seq },
        2 => return Record::Start { stream: id, seq, name: None },
        _ => {}
    }
    seqs[stream] += 1;
    let len_max = if rng.chance(16) { 8000 } else { 300 };
    let len = usize::try_from(rng.below(len_max)).expect("small");
    let name = rng.chance(128).then(|| format!("stream {stream}").into());
    let firm = rng.chance(128);
    let body = vec![seq.0 as u8; len].into();
    Record::Data(vec![Part { stream: id, name, first: seq, count: 1, timestamp: seq.0, firm, body }])
}

/// The parts of a stream, in seq order, that reading the whole journal finds.
fn parts_in(image: &Image, id: StreamId) -> Vec<(Lsn, Part)> {
    let needed = image.needed().streams.remove(&id).unwrap_or_default();
    needed.parts.into_iter().map(|located| (located.lsn, located.part)).collect()
}

/// Looks, and compares what the follower knows with the journal as a whole.
fn compare(follower: &mut Follower, storage: &Arc<dyn Storage>, journal: &Journal) {
    follower.look().expect("the journal is sound");
    assert!(follower.is_unchanged() || follower.is_torn());
    let image = Image::read(&**storage, Path::new(DIR), WAL).expect("the journal is sound");
    assert_eq!(follower.end(), image.end());
    assert!(follower.shown_to() >= journal.durable(), "everything that was synced is attested");
    assert!(follower.shown_to() <= image.end());
    for id in (1..=STREAMS as u64).map(StreamId) {
        let mut known: Vec<PartPosition> =
            follower.index().stream(id).map_or_else(Vec::new, |stream| stream.parts.clone());
        known.sort_by_key(|part| part.first);
        let expected = parts_in(&image, id);
        assert_eq!(
            known.iter().map(|at| at.lsn).collect::<Vec<_>>(),
            expected.iter().map(|part| part.0).collect::<Vec<_>>()
        );
        for (at, (_, part)) in known.iter().zip(expected) {
            let read = follower.read_part(at).expect("no fault").expect("the record is in the journal");
            assert_eq!((&read.body, read.first), (&part.body, part.first));
        }
        let needed = image.needed().streams.remove(&id).unwrap_or_default();
        let stream = follower.index().stream(id).cloned().unwrap_or_default();
        assert_eq!((stream.firm, stream.start), (needed.firm, needed.start));
    }
}

fn reopen(storage: &Arc<dyn Storage>, options: JournalOptions) -> Journal {
    let image = Image::read(&**storage, Path::new(DIR), WAL).expect("the journal is sound");
    Journal::open(storage, Path::new(DIR), WAL, options, image, |_| true).expect("no fault").0
}

#[test]
fn follower_finds_what_reading_everything_finds() {
    for seed in 0..20 {
        let options = options(seed % 2 == 0);
        let sim = SimStorage::new(seed);
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let mut journal = Journal::create(&storage, Path::new(DIR), WAL, options).expect("it is new");
        let mut rng = Rng::new(seed);
        let mut seqs = [0; STREAMS];
        let follower = || Follower::new(Arc::clone(&storage), Path::new(DIR), WAL);
        let mut close = follower();
        let mut far = follower();
        for _ in 0..400 {
            match rng.below(40) {
                0 => journal = reopen(&storage, options),
                1 => {
                    journal.close().expect("no fault");
                    journal = reopen(&storage, options);
                }
                2 => {
                    sim.set_faults(Some(Faults { after: 0, fault: Fault::Io, forever: false }));
                    let failed = journal.append(&record(&mut rng, &mut seqs)).and_then(|at| journal.sync_to(at));
                    sim.set_faults(None);
                    if failed.is_err() && journal.failure().is_some() {
                        let kept = record(&mut rng, &mut seqs);
                        journal.restart(journal.epoch(), &[kept]).expect("no fault");
                    }
                }
                3..6 => journal.sync().expect("no fault"),
                6 => journal.prepare().expect("no fault"),
                _ => {
                    let record = record(&mut rng, &mut seqs);
                    while journal.append(&record).is_err_and(|full| full.is_full()) {
                        let end = journal.end();
                        journal.release(Lsn(end.0 - rng.below(20 << 10).min(end.0))).expect("no fault");
                    }
                }
            }
            if rng.chance(100) {
                compare(&mut close, &storage, &journal);
            }
            if rng.chance(6) {
                compare(&mut far, &storage, &journal);
            }
        }
        assert!(close.readings() < 100, "seed {seed}: {} whole readings", close.readings());
    }
}

/// A file that is used again holds other records at the same place.
#[test]
fn recycled_file_yields_no_part() {
    let storage: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options(true)).expect("it is new");
    let mut follower = Follower::new(Arc::clone(&storage), Path::new(DIR), WAL);
    let mut rng = Rng::new(1);
    let mut seqs = [0; STREAMS];
    for _ in 0..20 {
        journal.append(&record(&mut rng, &mut seqs)).expect("there is room");
    }
    follower.look().expect("the journal is sound");
    let early: Vec<PartPosition> = follower.index().streams().flat_map(|(_, stream)| stream.parts.clone()).collect();
    for _ in 0..600 {
        journal.append(&record(&mut rng, &mut seqs)).expect("there is room");
        journal.release(journal.end()).expect("no fault");
    }
    assert!(!early.is_empty());
    for at in early {
        assert_eq!(follower.read_part(&at).expect("no fault"), None);
    }
}

fn of_zeros(seq: u64, len: usize) -> Record {
    let body = vec![0; len].into();
    let (stream, first) = (StreamId(1), SeqNo(seq));
    Record::Data(vec![Part { stream, name: None, first, count: 1, timestamp: 0, firm: false, body }])
}

/// In a file that is used again, the place where a follower stopped may hold the same bytes as
/// before.
#[test]
fn journal_that_grew_is_never_unchanged() {
    for mapped in [true, false] {
        let storage: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
        let journal = Journal::create(&storage, Path::new(DIR), WAL, options(mapped)).expect("it is new");
        let mut seqs = 0..;
        let mut append = || {
            let seq = seqs.next().expect("endless");
            let len = 1000 + 272 * (seq as usize % 11);
            journal.append(&of_zeros(seq, len)).expect("there is room");
            journal.release_unsynced(journal.end()).expect("no fault");
        };
        for _ in 0..30 {
            append();
            let mut follower = Follower::new(Arc::clone(&storage), Path::new(DIR), WAL);
            follower.look().expect("the journal is sound");
            assert!(follower.is_unchanged());
            for _ in 0..300 {
                append();
                assert!(!follower.is_unchanged());
            }
        }
    }
}

/// The bytes that follow the records in a file that is used again are those of an earlier use. They
/// look like a record that is being written.
#[test]
fn rest_of_a_recycled_file_is_no_record() {
    let storage: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options(true)).expect("it is new");
    let mut follower = Follower::new(Arc::clone(&storage), Path::new(DIR), WAL);
    let mut torn = 0;
    for seq in 0..2000 {
        journal.append(&of_zeros(seq, 300)).expect("there is room");
        journal.release_unsynced(journal.end()).expect("no fault");
        assert!(!follower.is_unchanged());
        follower.look().expect("the journal is sound");
        assert!(follower.is_unchanged(), "record {seq}");
        torn += usize::from(follower.is_torn());
    }
    assert!(torn > 100, "{torn} looks met such bytes");
}

/// A restart continues in a new file, and writes nothing at the end of the old one.
#[test]
fn restarted_journal_is_not_unchanged() {
    let sim = SimStorage::new(1);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options(true)).expect("it is new");
    let mut follower = Follower::new(Arc::clone(&storage), Path::new(DIR), WAL);
    let position = journal.append(&of_zeros(0, 300)).expect("there is room");
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Io, forever: false }));
    journal.sync_to(position).expect_err("the disk fails");
    sim.set_faults(None);
    follower.look().expect("the journal is sound");
    assert!(follower.is_unchanged());
    journal.restart(journal.epoch(), &[of_zeros(0, 300)]).expect("no fault");
    assert!(!follower.is_unchanged());
}

/// The old files keep their names for a moment, or until the next opening if they cannot be
/// removed.
#[test]
fn restarted_journal_is_found_beside_its_old_files() {
    let sim = SimStorage::new(1);
    let hooked = HookedStorage::new(sim.clone());
    let storage: Arc<dyn Storage> = Arc::new(hooked.clone());
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options(true)).expect("it is new");
    let mut follower = Follower::new(Arc::clone(&storage), Path::new(DIR), WAL);
    let position = journal.append(&of_zeros(0, 300)).expect("there is room");
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Io, forever: false }));
    journal.sync_to(position).expect_err("the disk fails");
    sim.set_faults(None);
    follower.look().expect("the journal is sound");
    hooked.set(|operation, _| match operation {
        Operation::Remove => Err(std::io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    });
    journal.restart(journal.epoch(), &[of_zeros(0, 300)]).expect("no fault");
    let settled = Record::Settled { stream: StreamId(1), seq: SeqNo(1) };
    journal.append(&settled).expect("there is room");
    for _ in 0..20 {
        follower.look().expect("the journal is sound");
        assert_eq!(follower.end(), journal.end());
        let stream = follower.index().stream(StreamId(1)).expect("it has records");
        assert!(stream.settled.is_some() && stream.start.is_none());
        // The journal grows, and leaves the file of the restart.
        for _ in 0..20 {
            journal.append(&settled).expect("there is room");
        }
        journal.release(journal.end()).expect("no fault");
        journal.append(&settled).expect("there is room");
    }
}

/// What a follower has synced does not count for other records at the same LSNs: those of a journal
/// that was removed and created anew, and those after a restart.
#[test]
fn synced_lsns_do_not_count_in_another_file() {
    let hooked = HookedStorage::new(SimStorage::new(1));
    let storage: Arc<dyn Storage> = Arc::new(hooked.clone());
    let create = || Journal::create(&storage, Path::new(DIR), WAL, options(false)).expect("it is new");
    let journal = create();
    let mut follower = Follower::new(Arc::clone(&storage), Path::new(DIR), WAL);
    let mut look = |journal: &Journal, syncs: bool| {
        follower.look().expect("the journal is sound");
        assert!(syncs || follower.shown_to() <= journal.durable(), "{} is not durable", follower.shown_to());
        if syncs {
            follower.sync().expect("no fault");
        }
        assert!(!syncs || follower.shown_to() == follower.end());
    };
    journal.append(&of_zeros(0, 3000)).expect("there is room");
    look(&journal, true);
    drop(journal);
    Journal::remove(&*storage, Path::new(DIR)).expect("no fault");
    let journal = create();
    journal.append(&of_zeros(0, 300)).expect("there is room");
    look(&journal, false);
    look(&journal, true);
    hooked.intercept(|call| match call.operation {
        Operation::Write => Verdict::FailAfterEffect(std::io::ErrorKind::Other.into()),
        _ => Verdict::Proceed,
    });
    journal.append(&of_zeros(1, 3000)).expect_err("the write fails, and takes effect");
    hooked.clear();
    look(&journal, true);
    journal.restart(journal.epoch(), &[]).expect("no fault");
    journal.append(&of_zeros(1, 300)).expect("there is room");
    look(&journal, false);
    look(&journal, true);
}

/// Nothing is shown before it is attested or synced, and a sync makes everything that was found
/// durable.
#[test]
fn unsynced_records_are_shown_after_a_sync() {
    let storage: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options(false)).expect("it is new");
    let mut follower = Follower::new(Arc::clone(&storage), Path::new(DIR), WAL);
    let mut rng = Rng::new(1);
    let mut seqs = [0; STREAMS];
    let position = journal.append(&record(&mut rng, &mut seqs)).expect("there is room");
    follower.look().expect("the journal is sound");
    assert!(follower.shown_to() < position.end && follower.end() == position.end);
    assert!(follower.sync_wait().is_zero());
    follower.sync().expect("no fault");
    assert_eq!(follower.shown_to(), position.end);
    assert!(!follower.sync_wait().is_zero(), "the next sync has to wait");
    journal.append(&record(&mut rng, &mut seqs)).expect("there is room");
    assert!(!follower.is_unchanged());
    journal.sync().expect("no fault");
    follower.look().expect("the journal is sound");
    assert_eq!(follower.shown_to(), journal.end(), "the MARK attests the rest");
}

/// A writer in another thread never looks damaged, and the chain only grows.
#[test]
fn follower_beside_a_busy_writer_finds_no_damage() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("journal");
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    for mapped in [true, false] {
        let journal = match Image::read(&*storage, &dir, WAL) {
            Ok(image) => Journal::open(&storage, &dir, WAL, options(mapped), image, |_| true).expect("no fault").0,
            Err(_) => Journal::create(&storage, &dir, WAL, options(mapped)).expect("it is new"),
        };
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng::new(7);
                let mut seqs = [0; STREAMS];
                for i in 0..20_000 {
                    let record = record(&mut rng, &mut seqs);
                    while journal.append(&record).is_err_and(|full| full.is_full()) {
                        journal.release_unsynced(journal.end()).expect("no fault");
                    }
                    if i % 500 == 0 {
                        journal.sync().expect("no fault");
                    }
                }
                done.store(true, Ordering::Release);
            });
            let mut follower = Follower::new(Arc::clone(&storage), &dir, WAL);
            let mut end = Lsn(0);
            let mut looks = 0;
            while !done.load(Ordering::Acquire) {
                follower.look().expect("the journal is sound");
                assert!(follower.end() >= end);
                end = follower.end();
                looks += 1;
            }
            follower.look().expect("the journal is sound");
            assert_eq!(follower.end(), journal.end());
            println!("volume: {looks} looks, {} whole readings", follower.readings());
        });
    }
}
