//! Logs with a commit journal that are opened on a full disk, after their process was killed.

use std::path::Path;
use std::sync::Arc;

use stratawal::{Batch, Durability, ErrorKind, Options, Result, Stream, StreamOptions, Wal};
use stratawal_testkit::{Crash, Fault, Faults, Rng, SimStorage};

const LOG: &str = "/log";

/// The entries of the stream `big` in its files, and their length.
const BIG_COUNT: u64 = 16;
const BIG_LEN: usize = 100_000;

fn options(mapped: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(256 << 10);
    Options::new().stream_defaults(streams).journal(true).journal_mapped(mapped).maintenance_thread(false)
}

fn open(sim: &SimStorage, options: &Options) -> Result<Wal> {
    options.open_on(Arc::new(sim.clone()), Path::new(LOG), false)
}

fn after(sim: &SimStorage, crash: Crash) -> SimStorage {
    SimStorage::on(sim.disk().crash(crash, &mut Rng::new(1)), 2)
}

fn entry(seq: u64, len: usize) -> Vec<u8> {
    let mut bytes = seq.to_le_bytes().to_vec();
    bytes.resize(len, 7);
    bytes
}

fn append(stream: &Stream, count: u64, len: usize) {
    for _ in 0..count {
        stream.append(entry(stream.next_seq(), len)).unwrap();
    }
}

/// Checks that the stream holds the entries from `first` to `end`, and no others.
fn assert_entries(stream: &Stream, first: u64, end: u64) {
    let seqs = stream.iter(..).map(|found| {
        let found = found.unwrap();
        assert_eq!(found.data()[..8], found.seq().to_le_bytes());
        found.seq()
    });
    assert_eq!(seqs.collect::<Vec<_>>(), (first..end).collect::<Vec<_>>());
}

/// The files of the journal that have a number, and the bytes of the others.
fn journal_files(sim: &SimStorage) -> (Vec<String>, u64) {
    let files = sim.disk().files().into_iter().filter(|(path, _)| path.starts_with("/log/journal/"));
    let (numbered, spares): (Vec<_>, Vec<_>) = files.partition(|(path, _)| path.ends_with(".jnl"));
    (numbered.into_iter().map(|(path, _)| path).collect(), spares.iter().map(|(_, len)| len).sum())
}

/// From now on the disk is full, also without the spares of the journal.
fn fill(sim: &SimStorage) {
    let after = sim.disk().used() - journal_files(sim).1;
    sim.set_faults(Some(Faults { after, fault: Fault::Capacity, forever: true }));
}

/// A log that was killed. The stream `big` has settled entries in several segments, and `s` has ten
/// in the journal.
fn killed(mapped: bool) -> SimStorage {
    let sim = SimStorage::new(1);
    let wal = open(&sim, &options(mapped)).unwrap();
    append(&wal.stream("big").unwrap(), BIG_COUNT, BIG_LEN);
    append(&wal.stream("s").unwrap(), 10, 500);
    after(&sim, Crash::Kill)
}

/// The log after an opening on a full disk, which continues in its journal files.
fn opened_full(mapped: bool) -> (SimStorage, Wal) {
    let sim = killed(mapped);
    let files = journal_files(&sim).0;
    fill(&sim);
    let wal = open(&sim, &options(mapped)).unwrap();
    assert_eq!(journal_files(&sim).0, files, "no file is new");
    (sim, wal)
}

/// Appends short entries until the disk and the journal are full.
fn append_until_full(stream: &Stream) {
    loop {
        let end = stream.next_seq();
        if let Err(error) = stream.append(entry(end, 400)) {
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
            assert_eq!(stream.next_seq(), end, "a refused append gives no seq");
            return;
        }
    }
}

/// Appends to a stream without files until the disk and the journal are full. Returns whether there
/// was room for an entry.
fn fills_journal(stream: &Stream) -> bool {
    append_until_full(stream);
    stream.next_seq() > 0
}

#[test]
fn dropped_entries_give_space_back() {
    for mapped in [true, false] {
        let (sim, wal) = opened_full(mapped);
        let s = wal.stream("s").unwrap();
        assert_entries(&s, 0, 10);
        s.truncate_before(4).unwrap();
        assert_entries(&s, 4, 10);
        let big = wal.stream("big").unwrap();
        assert_entries(&big, 0, BIG_COUNT);
        append_until_full(&big);
        let end = big.next_seq();
        let batch: Batch = (end..end + 3).map(|seq| entry(seq, BIG_LEN)).collect();
        assert_eq!(big.append_batch(&batch).unwrap_err().kind(), ErrorKind::Full);
        assert_entries(&big, 0, end);
        big.truncate_before(BIG_COUNT - 2).unwrap();
        append(&big, 10, 1000);
        big.append_batch(&(end + 10..end + 13).map(|seq| entry(seq, BIG_LEN)).collect()).unwrap();
        assert_entries(&big, BIG_COUNT - 2, end + 13);
        append(&s, 10, 500);
        for crash in [Crash::Kill, Crash::Lost] {
            let wal = open(&after(&sim, crash), &options(mapped)).unwrap();
            assert_entries(&wal.stream("big").unwrap(), BIG_COUNT - 2, end + 13);
            assert_entries(&wal.stream("s").unwrap(), 4, 20);
        }
    }
}

#[test]
fn deleted_stream_gives_space_back() {
    for mapped in [true, false] {
        let (sim, wal) = opened_full(mapped);
        append_until_full(&wal.stream("big").unwrap());
        wal.delete_stream("big").unwrap();
        let s = wal.stream("s").unwrap();
        assert_entries(&s, 0, 10);
        append(&s, 300, 1000);
        for crash in [Crash::Kill, Crash::Lost] {
            let wal = open(&after(&sim, crash), &options(mapped)).unwrap();
            assert_entries(&wal.stream("s").unwrap(), 0, 310);
            assert!(!wal.stream("big").unwrap().exists());
        }
    }
}

/// The streams have no files, so their deletion frees nothing, and each puts a record.
#[test]
fn many_deletions_on_a_full_disk_use_the_reserve() {
    const STREAMS: u64 = 200;
    let sim = SimStorage::new(1);
    let wal = open(&sim, &options(false)).unwrap();
    append(&wal.stream("big").unwrap(), BIG_COUNT, BIG_LEN);
    for i in 0..STREAMS {
        append(&wal.stream(&format!("small {i}")).unwrap(), 1, 8);
    }
    let sim = after(&sim, Crash::Kill);
    fill(&sim);
    let wal = open(&sim, &options(false)).unwrap();
    // A stream without files has a limited share of the journal.
    let mut fresh = (0..).map(|i| wal.stream(&format!("new {i}")).unwrap());
    while fresh.next().is_some_and(|stream| fills_journal(&stream)) {}
    for i in 0..STREAMS {
        if let Err(error) = wal.delete_stream(&format!("small {i}")) {
            panic!("deletion {i}: {error}");
        }
    }
    let wal = open(&after(&sim, Crash::Lost), &options(false)).unwrap();
    let left = wal.streams().unwrap();
    assert!(left.iter().all(|name| !name.starts_with("small")), "{left:?}");
}

/// The streams must take their entries from the journal, and have no room.
#[test]
fn journal_is_not_given_up_on_a_full_disk() {
    let sim = killed(false);
    fill(&sim);
    let without = options(false).journal(false);
    assert_eq!(open(&sim, &without).map(drop).unwrap_err().kind(), ErrorKind::Full);
    let wal = open(&sim, &options(false)).unwrap();
    wal.stream("big").unwrap().truncate_before(BIG_COUNT - 2).unwrap();
    drop(wal);
    let wal = open(&sim, &without).unwrap();
    assert_entries(&wal.stream("big").unwrap(), BIG_COUNT - 2, BIG_COUNT);
    assert_entries(&wal.stream("s").unwrap(), 0, 10);
    assert!(journal_files(&sim).0.is_empty());
}

/// A log that was closed needs no record.
#[test]
fn closed_log_opens_on_a_full_disk() {
    for mapped in [true, false] {
        let sim = SimStorage::new(1);
        let wal = open(&sim, &options(mapped)).unwrap();
        append(&wal.stream("s").unwrap(), 10, 500);
        wal.close().unwrap();
        fill(&sim);
        let wal = open(&sim, &options(mapped)).unwrap();
        let s = wal.stream("s").unwrap();
        assert_entries(&s, 0, 10);
        append_until_full(&s);
        let end = s.next_seq();
        sim.set_faults(None);
        append(&s, 10, 500);
        let wal = open(&after(&sim, Crash::Lost), &options(mapped)).unwrap();
        assert_entries(&wal.stream("s").unwrap(), 0, end + 10);
    }
}

/// The records of an earlier process are longer than those that the journal takes now.
#[test]
fn smaller_journal_keeps_longer_records() {
    for is_full in [true, false] {
        for is_looked_up in [true, false] {
            keep_longer_records(is_full, is_looked_up);
        }
    }
}

/// Opens with a lower limit, on a full disk or not, and looks the stream up or not.
fn keep_longer_records(is_full: bool, is_looked_up: bool) {
    let sim = SimStorage::new(1);
    let wal = open(&sim, &options(false).journal_bytes(1 << 20)).unwrap();
    append(&wal.stream("idle").unwrap(), 1, 60_000);
    append(&wal.stream("gone").unwrap(), 1, 500);
    let sim = after(&sim, Crash::Kill);
    if is_full {
        fill(&sim);
    }
    let small = options(false).journal_bytes(64 << 10);
    let wal = open(&sim, &small).unwrap();
    sim.set_faults(None);
    let idle = is_looked_up.then(|| wal.stream("idle").unwrap());
    let other = wal.stream("other").unwrap().with_durability(Durability::Flushed);
    append(&other, 300, 1000);
    wal.delete_stream("gone").unwrap();
    for _ in 0..500 {
        other.truncate_from(200).unwrap();
        append(&other, 1, 1000);
    }
    other.sync().unwrap();
    drop(idle);
    for crash in [Crash::Kill, Crash::Lost] {
        let wal = open(&after(&sim, crash), &small).unwrap();
        assert_entries(&wal.stream("idle").unwrap(), 0, 1);
        assert_entries(&wal.stream("other").unwrap(), 0, 201);
        assert!(!wal.stream("gone").unwrap().exists());
    }
}

/// The log has no journal, and the disk no room for one. FORMAT is the last file of a new journal
/// that needs room, so the creation also fails there.
#[test]
fn log_without_a_journal_opens_on_a_full_disk() {
    for mapped in [true, false] {
        let sim = SimStorage::new(1);
        let without = options(mapped).journal(false);
        let wal = open(&sim, &without).unwrap();
        append(&wal.stream("big").unwrap(), BIG_COUNT, BIG_LEN);
        wal.close().unwrap();
        drop(wal);
        let mut kept_without = 0;
        for room in (0..600 << 10).step_by(4 << 10) {
            let sim = SimStorage::on(sim.disk(), 2);
            let after = sim.disk().used() + room;
            sim.set_faults(Some(Faults { after, fault: Fault::Capacity, forever: true }));
            let wal = open(&sim, &options(mapped)).unwrap_or_else(|error| panic!("{room}: {error}"));
            kept_without += u64::from(wal.journal_report().is_none());
            wal.stream("big").unwrap().truncate_before(BIG_COUNT - 2).unwrap();
            drop(wal);
            let wal = open(&SimStorage::on(sim.disk(), 3), &options(mapped)).unwrap();
            assert!(wal.journal_report().is_some(), "{room}: now there is room");
            assert_entries(&wal.stream("big").unwrap(), BIG_COUNT - 2, BIG_COUNT);
        }
        assert!((50..100).contains(&kept_without), "{kept_without} of 150 openings found no room");
    }
}

/// Neither the disk nor the journal has room for an entry of a new stream.
#[test]
fn new_stream_on_a_full_disk_is_refused_and_not_poisoned() {
    for mapped in [true, false] {
        let (sim, wal) = opened_full(mapped);
        append_until_full(&wal.stream("big").unwrap());
        let new = wal.stream("new").unwrap();
        append_until_full(&new);
        let end = new.next_seq();
        assert_entries(&new, 0, end);
        sim.set_faults(None);
        append(&new, 10, 400);
        for crash in [Crash::Kill, Crash::Lost] {
            let wal = open(&after(&sim, crash), &options(mapped)).unwrap();
            assert_entries(&wal.stream("new").unwrap(), 0, end + 10);
        }
    }
}

/// Streams that were not looked up fill the journal, and a full disk kept them from taking their
/// records.
#[test]
fn truncations_continue_once_carried_streams_have_room() {
    let options = options(false).journal_bytes(64 << 10);
    let sim = SimStorage::new(1);
    let wal = open(&sim, &options).unwrap();
    append(&wal.stream("s").unwrap(), 10, 10_000);
    wal.close().unwrap();
    let wal = open(&sim, &options).unwrap();
    for i in 0..6 {
        append(&wal.stream(&format!("carried {i}")).unwrap(), 1, 4000);
    }
    let sim = after(&sim, Crash::Kill);
    fill(&sim);
    let wal = open(&sim, &options).unwrap();
    let s = wal.stream("s").unwrap();
    let shorten = || s.truncate_from(s.next_seq() - 1);
    for len in [3000, 300, 8] {
        while s.append(entry(s.next_seq(), len)).is_ok() {}
    }
    // Each puts a record.
    let refused = (0..10_000).find_map(|_| {
        // There is room for an entry only at times.
        let _ = s.append(entry(s.next_seq(), 8));
        shorten().err()
    });
    assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::Full));
    assert!(s.next_seq() > 0, "entries are left");
    sim.set_faults(None);
    for _ in 0..10 {
        append(&s, 1, 8);
        shorten().unwrap();
    }
    let wal = open(&after(&sim, Crash::Lost), &options).unwrap();
    assert_eq!(wal.stream("s").unwrap().next_seq(), s.next_seq());
    for i in 0..6 {
        assert_entries(&wal.stream(&format!("carried {i}")).unwrap(), 0, 1);
    }
}
