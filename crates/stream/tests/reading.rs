//! Every way of reading returns the same entries, whatever the layout of the stream's files.

mod common;

use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::Range;
use std::time::UNIX_EPOCH;

use common::{memory, open_read_only, open_with, seqs, small_segments};
use stratawal_stream::{Batch, Durability, Entry, ErrorKind, StreamLog, Visibility};
use stratawal_testkit::{Rng, entry};

type Bounds = (Bound<u64>, Bound<u64>);

/// The entries of a stream. Those below its first seq were dropped.
struct Contents {
    first_seq: u64,
    entries: Vec<Vec<u8>>,
}

impl Contents {
    fn check(&self, entry: &Entry, seq: u64) {
        assert_eq!(entry.seq(), seq);
        assert!(entry.data()[..] == self.entries[usize::try_from(seq).unwrap()], "entry {seq} has other bytes");
    }

    /// Checks all ways of reading a stream that shows the entries below `end`.
    fn check_reads(&self, what: &str, log: &StreamLog, visibility: Visibility, end: u64) {
        assert_eq!((log.first_seq(), log.end_seq(visibility)), (self.first_seq, end), "{what}");
        for seq in self.first_seq..end {
            self.check(&log.get(seq, visibility).unwrap().unwrap(), seq);
        }
        for seq in [end, end + 1, u64::MAX] {
            assert_eq!(log.get(seq, visibility).unwrap(), None, "{what}: {seq}");
        }
        let last = log.last(visibility).unwrap().unwrap();
        self.check(&last, end - 1);
        self.check_many(log, visibility, end);
        self.check_ranges(what, log, visibility, end);
        check_times(log, visibility, self.first_seq..end);
        if let Some(below) = self.first_seq.checked_sub(1) {
            let truncated = ErrorKind::Truncated { first_seq: self.first_seq };
            assert_eq!(log.get(below, visibility).unwrap_err().kind(), truncated, "{what}");
            assert_eq!(log.get_many(&[end - 1, below], visibility).unwrap_err().kind(), truncated, "{what}");
            assert_eq!(seqs(log.iter(below.., visibility)), (vec![], Some(truncated)), "{what}");
        }
    }

    fn check_many(&self, log: &StreamLog, visibility: Visibility, end: u64) {
        let mut rng = Rng::new(end);
        for count in [0, 1, 2, 50] {
            let mut seqs: Vec<u64> = (0..count).map(|_| self.first_seq + rng.below(end - self.first_seq)).collect();
            seqs.push(end);
            let found = log.get_many(&seqs, visibility).unwrap();
            assert_eq!(found.len(), seqs.len());
            assert!(found.last().unwrap().is_none(), "an entry beyond the end");
            for (found, &seq) in found.iter().zip(&seqs).take(seqs.len() - 1) {
                self.check(found.as_ref().unwrap(), seq);
            }
        }
    }

    fn check_ranges(&self, what: &str, log: &StreamLog, visibility: Visibility, end: u64) {
        let first = self.first_seq;
        let middle = first + (end - first) / 2;
        let ranges: [(Bounds, Range<u64>); 8] = [
            ((Unbounded, Unbounded), first..end),
            ((Included(first), Excluded(end)), first..end),
            ((Included(middle), Unbounded), middle..end),
            ((Excluded(middle), Included(end + 10)), middle + 1..end),
            ((Unbounded, Included(middle)), first..middle + 1),
            ((Included(middle), Excluded(middle)), middle..middle),
            ((Included(end), Unbounded), end..end),
            ((Included(middle - 3), Included(middle + 3)), middle - 3..middle + 4),
        ];
        for (bounds, expected) in ranges {
            let what = format!("{what}: {bounds:?}");
            let forwards: Vec<Entry> = log.iter(bounds, visibility).map(Result::unwrap).collect();
            let mut backwards: Vec<Entry> = log.iter(bounds, visibility).rev().map(Result::unwrap).collect();
            backwards.reverse();
            for found in [forwards, backwards] {
                assert!(found.iter().map(Entry::seq).eq(expected.clone()), "{what}");
                found.iter().zip(expected.clone()).for_each(|(entry, seq)| self.check(entry, seq));
            }
        }
        // The two ends of one iterator meet.
        let mut iter = log.iter(.., visibility);
        let mut left = first..end;
        while !left.is_empty() {
            let front = left.next().unwrap();
            self.check(&iter.next().unwrap().unwrap(), front);
            if let Some(back) = left.next_back() {
                self.check(&iter.next_back().unwrap().unwrap(), back);
            }
        }
        assert!(iter.next().is_none() && iter.next_back().is_none(), "{what}");
    }
}

fn micros(entry: &Entry) -> u64 {
    u64::try_from(entry.timestamp().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

fn check_times(log: &StreamLog, visibility: Visibility, seqs: Range<u64>) {
    let times: Vec<u64> = log.iter(.., visibility).map(|entry| micros(&entry.unwrap())).collect();
    assert!(times.is_sorted());
    for &time in &times {
        for time in [time - 1, time, time + 1] {
            let before = times.partition_point(|&other| other < time) as u64;
            assert_eq!(log.seq_at(time, visibility).unwrap(), seqs.start + before, "at {time}");
        }
    }
    assert_eq!(log.seq_at(0, visibility).unwrap(), seqs.start);
    assert_eq!(log.seq_at(u64::MAX, visibility).unwrap(), seqs.end);
}

/// Appends `count` entries in small batches. Several buffered batches may share a frame.
fn fill(log: &StreamLog, contents: &mut Contents, count: usize, durability: Durability, rng: &mut Rng) {
    let end = contents.entries.len() + count;
    while contents.entries.len() < end {
        let mut batch = Batch::new();
        let first = contents.entries.len();
        for _ in 0..(1 + rng.index(7)).min(end - first) {
            let len = [0, 10, 300, 2000][rng.index(4)];
            contents.entries.push(entry(rng.next_u64(), len));
            batch.push(contents.entries.last().unwrap());
        }
        let seqs = log.append_batch(&batch, durability).unwrap();
        assert_eq!(seqs, first as u64..contents.entries.len() as u64);
    }
}

#[test]
fn every_way_to_read_returns_the_same_entries() {
    let frames = [1, 600, 6 << 10, 1 << 20];
    let points = [1, 500, 4 << 10, 1 << 20];
    for (frame_len, index_every) in frames.into_iter().flat_map(|frame| points.map(|points| (frame, points))) {
        let what = format!("frames of {frame_len}, points every {index_every}");
        let storage = memory().with_clock(1_000_000, 50);
        let options = small_segments().frame_bytes(frame_len).index_interval_bytes(index_every);
        let log = open_with(storage.clone(), options.clone()).unwrap();
        let mut contents = Contents { first_seq: 0, entries: Vec::new() };
        let mut rng = Rng::new(frame_len as u64 ^ index_every);
        fill(&log, &mut contents, 150, Durability::Buffered, &mut rng);
        fill(&log, &mut contents, 100, Durability::Synced, &mut rng);
        let stable = log.durable_seq();
        fill(&log, &mut contents, 20, Durability::Buffered, &mut rng);
        assert_eq!(stable, 250);
        assert!(log.stats().unwrap().segments > 1, "{what}");
        contents.check_reads(&format!("{what}, stable"), &log, Visibility::Stable, stable);
        contents.check_reads(&format!("{what}, accepted"), &log, Visibility::Accepted, 270);
        let reader = open_read_only(storage.clone()).unwrap();
        // The reader syncs the entries that the writer has written, and shows all of them.
        let shown = reader.next_seq();
        assert!((stable..=270).contains(&shown), "{what}: {shown}");
        contents.check_reads(&format!("{what}, another process"), &reader, Visibility::Stable, shown);
        // The first entry is in the middle of a segment, a frame and a batch.
        log.truncate_before(101).unwrap();
        contents.first_seq = 101;
        contents.check_reads(&format!("{what}, truncated"), &log, Visibility::Accepted, 270);
        log.close().unwrap();
        contents.check_reads(&format!("{what}, closed"), &log, Visibility::Stable, 270);
        let log = open_with(storage, options).unwrap();
        contents.check_reads(&format!("{what}, opened again"), &log, Visibility::Stable, 270);
    }
}

#[test]
fn stream_that_does_not_exist_reads_as_empty() {
    let storage = memory();
    for log in [open_with(storage.clone(), small_segments()).unwrap(), open_read_only(storage.clone()).unwrap()] {
        assert!(!log.exists());
        assert_eq!((log.first_seq(), log.next_seq()), (0, 0));
        assert_eq!(log.get(0, Visibility::Stable).unwrap(), None);
        assert_eq!(log.last(Visibility::Accepted).unwrap(), None);
        assert_eq!(seqs(log.iter(.., Visibility::Accepted)), (vec![], None));
        assert_eq!(log.seq_at(5, Visibility::Stable).unwrap(), 0);
    }
    assert!(
        stratawal_storage::Storage::list(&storage, "/streams".as_ref()).unwrap().is_empty(),
        "a read created files"
    );
}
