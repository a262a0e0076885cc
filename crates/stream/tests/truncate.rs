//! Truncation of both ends, as the writer and its readers see it, including on a full disk.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{location, memory, seqs};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_stream::{
    Batch, Durability, Entry, ErrorKind, LogContext, Salvaged, StreamLog, StreamOptions, Visibility, salvage,
};

fn open(storage: &MemoryStorage) -> StreamLog {
    let context = LogContext::new(Arc::new(storage.clone())).emergency_reserve_at("/RESERVE");
    let options = StreamOptions::new().segment_bytes(64 << 10);
    StreamLog::open(Arc::new(context), location(), options).expect("opens")
}

fn fill(log: &StreamLog, entries: u64) {
    for seq in log.next_seq()..entries {
        log.append(&[u8::try_from(seq % 251).unwrap(); 1000], Durability::Flushed).unwrap();
    }
    log.sync().unwrap();
}

/// The timestamp of the entry `seq`, in microseconds.
fn time(log: &StreamLog, seq: u64) -> u64 {
    let time = log.get(seq, Visibility::Stable).unwrap().unwrap().timestamp();
    u64::try_from(time.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

fn assert_entries(log: &StreamLog, first: u64, next: u64) {
    assert_eq!((log.first_seq(), log.next_seq()), (first, next));
    assert_eq!(seqs(log.iter(.., Visibility::Stable)), ((first..next).collect(), None));
    if first > 0 {
        let below = log.get(first - 1, Visibility::Stable).unwrap_err().kind();
        assert_eq!(below, ErrorKind::Truncated { first_seq: first });
    }
    assert_eq!(log.get(next, Visibility::Stable).unwrap(), None);
}

#[test]
fn both_ends_are_exact_to_the_entry_and_stay_so() {
    let storage = memory();
    let log = open(&storage);
    fill(&log, 300);
    let mut ends = (0, 300);
    // Truncations within a segment, at its borders, across several segments, of nothing, up to the
    // end, and of an empty stream.
    for (before, from) in [(1, 299), (1, 299), (63, 230), (64, 200), (65, 199), (150, 150), (150, 150)] {
        log.truncate_before(before).unwrap();
        log.truncate_from(from).unwrap();
        ends = (before, from);
        assert_entries(&log, before, from);
        assert_entries(&open(&storage.snapshot()), before, from);
    }
    let _ = log.append(b"next", Durability::Synced).map(|seq| assert_eq!(seq, ends.1));
    log.close().unwrap();
    assert_entries(&open(&storage), 150, 151);
}

#[test]
fn cut_may_split_a_frame_and_a_batch() {
    let storage = memory();
    let log = open(&storage);
    let batch: Batch = (0..50).map(|i: u32| i.to_le_bytes()).collect();
    log.append_batch(&batch, Durability::Synced).unwrap();
    log.truncate_from(20).unwrap();
    log.truncate_before(10).unwrap();
    assert_entries(&log, 10, 20);
    assert_eq!(log.append(b"other", Durability::Synced).unwrap(), 20);
    let again = open(&storage.snapshot());
    assert_entries(&again, 10, 21);
    assert_eq!(&again.get(19, Visibility::Stable).unwrap().unwrap().data()[..], 19_u32.to_le_bytes());
    assert_eq!(&again.get(20, Visibility::Stable).unwrap().unwrap().data()[..], b"other");
    // The frame of entry 19 also holds the old entry 20, from before the cut, and entries that were
    // dropped from the beginning.
    for seqs in [&[10, 9][..], &[9, 10]] {
        let refused = again.get_many(seqs, Visibility::Stable).unwrap_err().kind();
        assert_eq!(refused, ErrorKind::Truncated { first_seq: 10 });
    }
    for log in [&log, &again] {
        let many = log.get_many(&[19, 20, 19, 20], Visibility::Stable).unwrap();
        let bytes: Vec<_> = many.into_iter().map(|entry| entry.unwrap().data().to_vec()).collect();
        assert_eq!(bytes, [&19_u32.to_le_bytes()[..], b"other", &19_u32.to_le_bytes(), b"other"]);
        let backwards: Vec<_> = log.iter(18.., Visibility::Stable).rev().map(|e| e.unwrap().data().to_vec()).collect();
        assert_eq!(backwards, [&b"other"[..], &19_u32.to_le_bytes(), &18_u32.to_le_bytes()]);
    }
}

#[test]
fn truncation_beyond_the_end_begins_there() {
    let storage = memory();
    let log = open(&storage);
    // A stream that does not exist yet can also be truncated.
    log.truncate_before(7).unwrap();
    assert_entries(&log, 7, 7);
    assert_entries(&open(&storage.snapshot()), 7, 7);
    fill(&log, 100);
    log.truncate_before(1000).unwrap();
    assert_entries(&log, 1000, 1000);
    assert_eq!(log.append(b"x", Durability::Synced).unwrap(), 1000);
    assert_entries(&open(&storage.snapshot()), 1000, 1001);
    assert_eq!(log.stats().unwrap().segments, 1, "the old ones are gone");
}

#[test]
fn truncate_from_outside_the_stream_is_refused() {
    let log = open(&memory());
    fill(&log, 10);
    log.truncate_before(5).unwrap();
    for wrong in [4, 11, u64::MAX] {
        let error = log.truncate_from(wrong).unwrap_err().kind();
        assert_eq!(error, ErrorKind::OutOfRange { first_seq: 5, next_seq: 10 });
    }
    log.truncate_before(3).unwrap();
    assert_entries(&log, 5, 10);
}

#[test]
fn iterators_end_at_a_cut() {
    let storage = memory();
    let log = open(&storage);
    fill(&log, 200);
    let make = || log.iter(.., Visibility::Stable);
    let mut within = make();
    let mut past_the_cut = make();
    let untouched = log.iter(..100, Visibility::Stable);
    assert_eq!(within.next().unwrap().unwrap().seq(), 0);
    assert_eq!(past_the_cut.nth(150).unwrap().unwrap().seq(), 150);
    let backwards = make().rev();
    log.truncate_from(120).unwrap();
    for _ in 0..100 {
        log.append(b"after", Durability::Synced).unwrap();
    }
    assert_eq!(seqs(within), ((1..120).collect(), Some(ErrorKind::Cut { next_seq: 120 })));
    assert_eq!(seqs(past_the_cut), (vec![], Some(ErrorKind::Cut { next_seq: 120 })));
    assert_eq!(seqs(untouched), ((0..100).collect(), None));
    let mut backwards = backwards;
    assert_eq!(backwards.next().unwrap().unwrap_err().kind(), ErrorKind::Cut { next_seq: 120 });
    assert!(backwards.next().is_none(), "it ends after an error");
    let mut dropped = make();
    assert!(dropped.next().is_some());
    log.truncate_before(190).unwrap();
    let (read, end) = seqs(dropped);
    assert!(end == Some(ErrorKind::Truncated { first_seq: 190 }) && read.len() < 190, "{} {end:?}", read.len());
}

#[test]
fn reader_sees_a_truncation_beyond_the_end() {
    let storage = memory();
    let log = open(&storage);
    fill(&log, 20);
    let context = Arc::new(LogContext::new(Arc::new(storage.clone())).read_only(true));
    let reader = StreamLog::open(context, location(), log.options().clone()).unwrap();
    let iter = reader.iter(.., Visibility::Stable);
    log.truncate_before(500).unwrap();
    reader.reopen().unwrap();
    assert_eq!(seqs(iter), (vec![], Some(ErrorKind::Truncated { first_seq: 500 })));
    assert_entries(&reader, 500, 500);
}

#[test]
fn reader_sees_a_cut_and_a_dropped_rest() {
    let storage = memory();
    let log = open(&storage);
    fill(&log, 20);
    let context = Arc::new(LogContext::new(Arc::new(storage.clone())).read_only(true));
    let reader = StreamLog::open(context, location(), log.options().clone()).unwrap();
    let all = reader.iter(.., Visibility::Stable);
    let past_the_cut = reader.iter(8.., Visibility::Stable);
    log.truncate_from(8).unwrap();
    log.truncate_before(8).unwrap();
    reader.reopen().unwrap();
    assert_eq!(seqs(all), (vec![], Some(ErrorKind::Truncated { first_seq: 8 })));
    assert_eq!(seqs(past_the_cut), (vec![], Some(ErrorKind::Cut { next_seq: 8 })));
    assert_entries(&reader, 8, 8);
}

#[test]
fn time_of_a_cut_entry_leads_to_its_successor() {
    let storage = memory().with_clock(1_000_000, 1_000);
    let log = open(&storage);
    fill(&log, 100);
    let kept = time(&log, 40);
    let cut = time(&log, 80);
    log.truncate_from(50).unwrap();
    fill(&log, 100);
    assert_eq!(log.seq_at(kept, Visibility::Stable).unwrap(), 40);
    assert_eq!(log.seq_at(cut, Visibility::Stable).unwrap(), 50, "all entries after the cut are later");
}

#[test]
fn time_of_a_cut_frame_leads_to_its_successor() {
    let storage = memory().with_clock(1_000_000, 1_000);
    let log = open(&storage);
    fill(&log, 15);
    let batch: Batch = (15..25).map(|_| [1; 10]).collect();
    log.append_batch(&batch, Durability::Synced).unwrap();
    // This entry follows the same index point, so the search passes the batch.
    log.append(b"later", Durability::Synced).unwrap();
    let cut = time(&log, 25);
    log.truncate_from(20).unwrap();
    fill(&log, 50);
    assert_eq!(log.seq_at(cut, Visibility::Stable).unwrap(), 20, "all entries after the cut are later");
}

#[test]
fn full_disk_allows_truncation_and_close() {
    for restart in [false, true] {
        let storage = memory();
        let mut log = open(&storage);
        fill(&log, 250);
        if restart {
            log.close().unwrap();
        }
        let used = u64::MAX - storage.free_space(Path::new("/")).unwrap();
        let full = storage.clone().with_capacity(used);
        if restart {
            log = open(&full);
        }
        while log.append(&[1; 10], Durability::Synced).is_ok() {}
        let end = log.next_seq();
        // These truncations need more control frames than fit in the space kept for them, and most
        // of them free no space.
        for first in 1..=end {
            log.truncate_before(first).unwrap_or_else(|e| panic!("restart {restart}, before {first} of {end}: {e}"));
        }
        assert_entries(&log, end, end);
        log.close().unwrap();
        assert_entries(&open(&storage.snapshot().with_capacity(u64::MAX)), end, end);
    }
}

#[test]
fn deleted_stream_is_gone_for_all_handles() {
    let storage = memory();
    let log = open(&storage);
    fill(&log, 10);
    let mut iter = log.iter(.., Visibility::Stable);
    assert!(iter.next().is_some());
    assert!(log.delete().unwrap());
    assert_eq!(iter.next().unwrap().unwrap_err().kind(), ErrorKind::Cut { next_seq: 0 });
    for error in [log.append(b"x", Durability::Buffered).map(drop), log.sync(), log.reopen(), log.truncate_before(3)] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Missing);
    }
    assert_eq!((log.first_seq(), log.next_seq(), log.exists()), (0, 0, false));
    assert_eq!(storage.list(Path::new("/streams")).unwrap(), []);
    let new = open(&storage);
    assert_eq!(new.append(b"new", Durability::Synced).unwrap(), 0);
    assert!(log.reopen().is_err(), "it is not revived in the directory of the new stream");
    assert_eq!(log.append(b"old", Durability::Synced).unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(new.next_seq(), 1);
}

/// The seqs of the entries that end a batch, for every way of reading all entries.
fn batch_ends(log: &StreamLog, visibility: Visibility) -> Vec<Vec<u64>> {
    let all: Vec<u64> = (log.first_seq()..log.next_seq()).collect();
    let ends = |entries: Vec<Entry>| entries.iter().filter(|entry| entry.ends_batch()).map(Entry::seq).collect();
    let mut backward: Vec<Entry> = log.iter(.., visibility).rev().map(Result::unwrap).collect();
    backward.reverse();
    let mut iter = log.iter(.., visibility);
    let mut in_runs = Vec::new();
    while let Some(run) = iter.next_run() {
        in_runs.extend(run.unwrap().entries().filter(|entry| entry.ends_batch).map(|entry| entry.seq));
    }
    vec![
        ends(log.iter(.., visibility).map(Result::unwrap).collect()),
        ends(backward),
        ends(all.iter().map(|&seq| log.get(seq, visibility).unwrap().unwrap()).collect()),
        ends(log.get_many(&all, visibility).unwrap().into_iter().map(Option::unwrap).collect()),
        in_runs,
    ]
}

#[test]
fn batch_cut_in_two_ends_with_the_last_entry_left() {
    let storage = memory();
    let log = open(&storage);
    let batch: Batch = (0..10_u8).map(|i| [i; 5]).collect();
    log.append_batch(&batch, Durability::Buffered).unwrap();
    log.append_batch(&["a", "b"].into_iter().collect(), Durability::Buffered).unwrap();
    for ends in batch_ends(&log, Visibility::Accepted) {
        assert_eq!(ends, [9, 11], "in the tail buffer");
    }
    log.truncate_from(7).unwrap();
    for ends in batch_ends(&log, Visibility::Stable) {
        assert_eq!(ends, [6], "after the truncation");
    }
    log.append(b"alone", Durability::Synced).unwrap();
    log.append_batch(&batch, Durability::Synced).unwrap();
    let last = log.last(Visibility::Stable).unwrap().unwrap();
    assert!(last.seq() == 17 && last.ends_batch());
    log.close().unwrap();
    let log = open(&storage);
    for ends in batch_ends(&log, Visibility::Stable) {
        assert_eq!(ends, [6, 7, 17], "after a restart");
    }
    let reader = Arc::new(LogContext::new(Arc::new(storage)).read_only(true));
    let items = salvage(&reader, &location(), &StreamOptions::new()).unwrap().unwrap();
    let salvaged = items.map(|item| match item.unwrap() {
        Salvaged::Entry(entry) => entry,
        other => panic!("{other:?}"),
    });
    assert!(salvaged.eq(log.iter(.., Visibility::Stable).map(Result::unwrap)));
}
