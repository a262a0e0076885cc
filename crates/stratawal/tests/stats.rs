//! The counts of `Stream::stats`, `Wal::stats` and `disk_usage`. The first two open no file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stratawal::{Batch, Durability, Options, StreamOptions, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{HookedStorage, SimStorage, Verdict};

fn options(journal: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10);
    let options = Options::new().stream_defaults(streams).journal(journal).journal_bytes(64 << 10);
    options.maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, options: &Options) -> Wal {
    options.open_on(Arc::new(storage), Path::new("/log"), false).unwrap()
}

#[test]
fn stats_use_no_file() {
    for journal in [false, true] {
        let storage = HookedStorage::new(SimStorage::new(1));
        let wal = open(storage.clone(), &options(journal));
        let stream = wal.stream("s").unwrap();
        for _ in 0..40 {
            stream.append(vec![7; 5000]).unwrap();
        }
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        storage.intercept(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Verdict::Proceed
        });
        let stats = stream.stats().unwrap();
        let all = wal.stats().unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 0, "journal: {journal}");
        assert_eq!((all.streams, all.entries, all.segments), (1, 40, stats.segments));
        let usage = wal.disk_usage().unwrap();
        assert!(calls.load(Ordering::Relaxed) >= stats.segments);
        assert_eq!(usage.segments, stats.segments);
        assert_eq!(usage.segment_bytes, stream.disk_usage().unwrap().segment_bytes);
        assert_eq!((usage.reserve_bytes, usage.journal_bytes), (64 << 10, all.journal_bytes));
    }
}

#[test]
fn ends_and_groups_are_those_of_the_appends() {
    let wal = open(SimStorage::new(1), &options(false));
    let stream = wal.stream("s").unwrap();
    (0..3).for_each(|_| _ = stream.append("synced").unwrap());
    let batch: Batch = ["a", "b", "c"].into_iter().collect();
    stream.append_batch(&batch).unwrap();
    stream.with_durability(Durability::Flushed).append("flushed").unwrap();
    stream.with_durability(Durability::Buffered).append("buffered").unwrap();
    stream.truncate_before(1).unwrap();
    let buffered = stream.with_durability(Durability::Buffered);
    buffered.with_durability(Durability::Flushed).append("flushed").unwrap();
    buffered.append(vec![7; 1000]).unwrap();
    let stats = stream.stats().unwrap();
    assert_eq!((stats.first_seq, stats.next_seq), (1, 10));
    assert_eq!((stats.flushed_seq, stats.durable_seq, stats.settled_seq), (9, 8, 8));
    // Three appends, the batch, the flushed one, the buffered one before the truncation, and the
    // last flushed one.
    assert_eq!((stats.writes, stats.written_entries), (7, 9));
    assert!(stats.tail_bytes >= 1000 && stats.reserved_bytes > 0 && stats.active_bytes > 0, "{stats:?}");
    assert_eq!((stats.segments, stats.pinned_journal_bytes), (1, 0));
    let all = wal.stats().unwrap();
    assert_eq!(all.sync_times.count(), stats.syncs);
    assert!(stats.syncs >= 5 && all.sync_times.max() <= all.sync_times.sum(), "{all:?}");
    assert_eq!((all.entries, all.writes, all.tail_bytes, all.journal), (9, 7, stats.tail_bytes, None));
    buffered.close().unwrap();
    let closed = stream.stats().unwrap();
    assert_eq!((closed.next_seq, closed.segments, closed.tail_bytes, closed.reserved_bytes), (10, 0, 0, 0));
    assert_eq!(wal.stats().unwrap().streams, 0);
}

#[test]
fn journal_counts_its_syncs_its_releases_and_waits() {
    let wal = open(SimStorage::new(1), &options(true));
    let stream = wal.stream("s").unwrap();
    let before = wal.stats().unwrap().journal.unwrap();
    assert_eq!((before.releases, before.waits_for_room, stream.stats().unwrap().pinned_journal_bytes), (0, 0, 0));
    (0..5).for_each(|_| _ = stream.append("an entry").unwrap());
    let stats = stream.stats().unwrap();
    let journal = wal.stats().unwrap().journal.unwrap();
    assert_eq!((stats.durable_seq, stats.settled_seq, stats.writes, stats.syncs), (5, 0, 0, 0));
    assert_eq!(journal.sync_times.count() - before.sync_times.count(), 5);
    assert_eq!(journal.durable_lsn, journal.end_lsn);
    assert!(journal.end_lsn > before.end_lsn);
    assert_eq!(stats.pinned_journal_bytes, journal.end_lsn - before.end_lsn, "{journal:?}");
    assert!(stats.pinned_journal_bytes <= journal.needed_bytes && journal.needed_bytes <= journal.capacity_bytes);
    stream.close().unwrap();
    assert_eq!(wal.stream("s").unwrap().stats().unwrap().pinned_journal_bytes, 0);
    let filler = wal.stream("filler").unwrap();
    (0..60).for_each(|_| _ = filler.append(vec![7; 3000]).unwrap());
    let journal = wal.stats().unwrap().journal.unwrap();
    assert!(journal.releases > 0 && journal.sync_times.percentile(50.0) <= journal.sync_times.max(), "{journal:?}");
    let filled = filler.stats().unwrap();
    assert!(filled.writes > 0 && filled.written_entries <= 60, "{filled:?}");
}

#[test]
fn append_without_room_is_counted_as_a_wait() {
    let wal = open(SimStorage::new(1), &options(true));
    let streams: Vec<_> = (0..40).map(|i| wal.stream(&i.to_string()).unwrap()).collect();
    for round in 0..200 {
        streams[round % 40].append(vec![7; 3000]).unwrap();
    }
    let journal = wal.stats().unwrap().journal.unwrap();
    assert!(journal.waits_for_room > 0, "{journal:?}");
}

/// The figure in the documentation of `Wal::stats`.
#[test]
fn stats_of_many_streams_take_little_time() {
    const STREAMS: u32 = 1000;
    for journal in [false, true] {
        let wal = open(SimStorage::new(1), &options(journal).journal_bytes(8 << 20));
        let streams: Vec<_> = (0..STREAMS).map(|i| wal.stream(&i.to_string()).unwrap()).collect();
        for stream in &streams {
            stream.with_durability(Durability::Buffered).append("an entry").unwrap();
        }
        let began = Instant::now();
        let stats = wal.stats().unwrap();
        let elapsed = began.elapsed();
        println!(
            "journal: {journal}: {:?} for each of {STREAMS} streams, {} bytes",
            elapsed / STREAMS,
            stats.tail_bytes
        );
        assert_eq!((stats.streams, stats.entries), (u64::from(STREAMS), u64::from(STREAMS)));
        assert!(elapsed < Duration::from_millis(100), "{elapsed:?}");
    }
}
