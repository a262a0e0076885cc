//! The [`Snapshot`] that readers work on: the list of a stream's segments. It is published as a
//! whole and never changes.
//!
//! A reader loads the watermark first and the snapshot after it. A writer does the opposite: it
//! publishes the snapshot with a new segment before it raises the watermark into that segment, and
//! it stores the new end of the active segment before it raises the watermark. So any snapshot
//! loaded after a watermark holds every entry below that watermark.
//!
//! This file does not open segments; see [`segment_reader`](super::segment_reader).

use std::sync::Arc;

use stratawal_frame::{SEGMENT_HEADER_LEN, SegmentHeader};
use stratawal_index::{ActiveIndex, IndexPoint};
use stratawal_journal::PartPosition;
use stratawal_segment::{SegmentData, SegmentId};
use stratawal_sync::AtomicSeq;

use crate::journal_reader::JournalTail;

/// The segments of a stream, in order.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) segments: Vec<Arc<PublishedSegment>>,
    /// The base of each segment. The bases are contiguous in memory, so that a search through a
    /// long stream touches no headers.
    bases: Box<[u64]>,
    /// For each segment, the smallest time at which it or a later segment begins. These values rise
    /// even if the stream's times went backwards.
    times: Box<[u64]>,
    /// The entries that only the commit journal has. `None` unless the stream is only read.
    journal: Option<Box<JournalTail>>,
}

impl Snapshot {
    pub(crate) fn new(segments: Vec<Arc<PublishedSegment>>) -> Self {
        let bases = segments.iter().map(|segment| segment.header.base.0).collect();
        let mut times: Box<[u64]> = segments.iter().map(|segment| segment.header.last_timestamp).collect();
        for i in (1..times.len()).rev() {
            times[i - 1] = times[i - 1].min(times[i]);
        }
        Self { segments, bases, times, journal: None }
    }

    /// Adds the entries that only the journal has.
    pub(crate) fn with_journal(mut self, journal: JournalTail) -> Self {
        self.journal = Some(Box::new(journal));
        self
    }

    /// The entries that only the commit journal has. Empty unless the stream is only read.
    pub(crate) fn journal(&self) -> &JournalTail {
        static NONE: JournalTail = JournalTail::NONE;
        self.journal.as_deref().unwrap_or(&NONE)
    }

    /// Whether the stream exists.
    pub(crate) fn exists(&self) -> bool {
        !self.segments.is_empty() || self.journal().is_alone
    }

    /// Returns the part of the journal that holds `seq`, which is not in the files.
    pub(crate) fn journal_part(&self, seq: u64) -> Option<&PartPosition> {
        let parts = &self.journal().parts;
        parts.get(parts.partition_point(|part| part.end_seq().0 <= seq)).filter(|part| part.first.0 <= seq)
    }

    /// Returns the position of the segment that holds `seq`, or `None` if `seq` is below the first
    /// segment.
    pub(crate) fn find(&self, seq: u64) -> Option<usize> {
        self.bases.partition_point(|&base| base <= seq).checked_sub(1)
    }

    /// Returns the position of the newest segment that begins before `timestamp`, if any does.
    pub(crate) fn find_time(&self, timestamp: u64) -> Option<usize> {
        self.times.partition_point(|&time| time < timestamp).checked_sub(1)
    }

    /// The seq at which the entries of segment `i` end: the base of the next segment.
    pub(crate) fn limit(&self, i: usize) -> u64 {
        self.bases.get(i + 1).copied().unwrap_or(u64::MAX)
    }

    /// Whether both have the same segments.
    pub(crate) fn has_same_segments(&self, other: &Self) -> bool {
        let headers = |snapshot: &Self| snapshot.segments.iter().map(|segment| segment.header).collect::<Vec<_>>();
        headers(self) == headers(other)
    }

    /// Returns the lowest seq at which the entries of this snapshot may differ from those of
    /// `newer`, a later snapshot of the same stream, or `None` if all entries are the same.
    ///
    /// `end` is where the entries of this snapshot ended. A result at or above `end` concerns none
    /// of these entries: it is where a successor of the newest segment begins. `newer` begins at
    /// `start`. Entries below `start` were dropped and count as the same, because nothing is known
    /// about them.
    pub(crate) fn diverges_at(&self, end: u64, newer: &Self, start: u64) -> Option<u64> {
        let divergence_of = |(i, segment): (usize, &Arc<PublishedSegment>)| {
            let same = newer.find(segment.header.base.0).filter(|&at| newer.segments[at].header == segment.header);
            match same.map(|at| newer.limit(at)) {
                Some(limit) => (limit < self.limit(i)).then_some(limit),
                // The segment was dropped from the beginning, or it is void. If both are true, its
                // entries below `start` count as dropped.
                None => (self.limit(i).min(end) > start).then_some(segment.header.base.0.max(start)),
            }
        };
        self.segments.iter().enumerate().filter_map(divergence_of).min()
    }
}

/// One segment, as readers see it.
#[derive(Debug)]
pub(crate) struct PublishedSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) state: SegmentState,
}

impl PublishedSegment {
    pub(crate) fn id(&self) -> SegmentId {
        SegmentId::of(&self.header)
    }

    /// Returns this segment as readers see it once it is sealed and durable.
    pub(crate) fn sealed(self: &Arc<Self>) -> Arc<Self> {
        match self.state {
            SegmentState::Sealed => Arc::clone(self),
            SegmentState::Live(_) => Arc::new(Self { header: self.header, state: SegmentState::Sealed }),
        }
    }
}

#[derive(Debug)]
pub(crate) enum SegmentState {
    /// The index of the segment is in memory. The segment is being written or is not yet settled,
    /// or a reader in a process other than the writer's has scanned it.
    Live(Arc<LiveSegment>),
    /// The segment is complete and durable. It is opened when it is read, through the cache.
    Sealed,
}

/// A segment whose index is in memory.
#[derive(Debug)]
pub(crate) struct LiveSegment {
    pub(crate) data: SegmentData,
    /// May have points after [`end`](Self::end), because a refreshed reader adds points to the
    /// index of its last look.
    pub(crate) index: Arc<ActiveIndex>,
    end: AtomicSeq,
}

impl LiveSegment {
    pub(crate) fn new(data: SegmentData, index: Arc<ActiveIndex>, end: u64) -> Self {
        Self { data, index, end: AtomicSeq::new(end) }
    }

    /// Sets the offset at which the entries end in the file. Call this once the bytes before it are
    /// written and have their index points.
    pub(crate) fn set_end(&self, end: u64) {
        self.end.store(end);
    }

    /// The offset at which the entries currently end in the file.
    pub(crate) fn end(&self) -> u64 {
        self.end.load()
    }
}

/// Where reading a segment begins if its index has no earlier point.
pub(crate) const fn first_point(header: &SegmentHeader) -> IndexPoint {
    IndexPoint { seq: header.base.0, offset: SEGMENT_HEADER_LEN as u64, timestamp: header.last_timestamp }
}

#[cfg(test)]
mod tests {
    use stratawal_frame::{Generation, SeqNo};

    use super::*;

    /// A snapshot of sealed segments, each given by generation, base and first time.
    fn snapshot(segments: &[(u32, u64, u64)]) -> Snapshot {
        let segment = |&(generation, base, time): &(u32, u64, u64)| {
            let generation = Generation(generation);
            let header = SegmentHeader { generation, base: SeqNo(base), last_timestamp: time, ..SegmentHeader::EMPTY };
            Arc::new(PublishedSegment { header, state: SegmentState::Sealed })
        };
        Snapshot::new(segments.iter().map(segment).collect())
    }

    #[test]
    fn a_seq_is_in_the_last_segment_at_or_below_it() {
        let snapshot = snapshot(&[(1, 10, 0), (2, 20, 0), (3, 35, 0)]);
        let found: Vec<_> = [9, 10, 19, 20, 34, 35, u64::MAX].map(|seq| snapshot.find(seq)).into();
        assert_eq!(found, [None, Some(0), Some(0), Some(1), Some(1), Some(2), Some(2)]);
        assert_eq!([0, 1, 2].map(|i| snapshot.limit(i)), [20, 35, u64::MAX]);
    }

    #[test]
    fn a_time_is_searched_in_the_newest_segment_before_it() {
        let rising = snapshot(&[(1, 0, 10), (2, 5, 20), (3, 9, 30)]);
        assert_eq!([10, 11, 20, 21, 31].map(|time| rising.find_time(time)), [None, Some(0), Some(0), Some(1), Some(2)]);
        // The times went back from 50 to 30, so entries of the second segment may be before 40.
        let fallen = snapshot(&[(1, 0, 10), (2, 5, 50), (3, 9, 30)]);
        assert_eq!([30, 31, 40, 60].map(|time| fallen.find_time(time)), [Some(0), Some(2), Some(2), Some(2)]);
    }

    #[test]
    fn a_stream_that_grows_diverges_only_after_its_end() {
        let before = snapshot(&[(1, 0, 0), (2, 10, 0)]);
        assert_eq!(before.diverges_at(15, &snapshot(&[(1, 0, 0), (2, 10, 0)]), 0), None);
        assert_eq!(before.diverges_at(15, &snapshot(&[(1, 0, 0), (2, 10, 0), (3, 20, 0)]), 0), Some(20));
        // The first segment was dropped in between.
        assert_eq!(before.diverges_at(15, &snapshot(&[(2, 10, 0)]), 10), None);
    }

    #[test]
    fn a_truncated_stream_diverges_where_it_was_cut() {
        let before = snapshot(&[(1, 0, 0), (2, 10, 0)]);
        // Within the first segment, within the second, and in a stream whose beginning was dropped.
        assert_eq!(before.diverges_at(15, &snapshot(&[(1, 0, 0), (3, 4, 0)]), 0), Some(4));
        assert_eq!(before.diverges_at(15, &snapshot(&[(1, 0, 0), (2, 10, 0), (3, 12, 0)]), 0), Some(12));
        assert_eq!(before.diverges_at(15, &snapshot(&[(3, 12, 0)]), 12), Some(12));
        // All entries were dropped, and the stream begins again after them.
        assert_eq!(before.diverges_at(15, &snapshot(&[(3, 15, 0)]), 15), None);
    }
}
