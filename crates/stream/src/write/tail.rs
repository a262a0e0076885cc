//! The tail buffer: entries that were accepted and are not yet in the file.
//!
//! Appends copy their bytes in under the stream's lock. What comes together, within one tick of the
//! coarse clock and up to about `frame_len` bytes, is one *draft*, and later one frame; a batch
//! lies in one draft. Under the lock an append books the upper bound of what it can take in the
//! file, so the segment and the seqs are fixed when it is accepted; the leader fixes offsets, sizes
//! and checksums later, never above the booking.
//!
//! A batch over [`COPIED_LEN_MAX`] is not copied: its append takes the lead and writes it from the
//! caller's memory.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{BATCH_END, ByteOffset};
use stratawal_segment::{Preallocation, SegmentWriter};

use crate::batch::{Batch, Entry};
use crate::write::buffer_pool::{BufferPool, OWN_BUFFER_LEN_MAX, push_exact};
use crate::write::clock::Clock;

/// A batch that takes more bytes in the tail is written from the caller's memory: a copy of a batch
/// that is most of the process's memory would double it.
pub(crate) const COPIED_LEN_MAX: usize = 1 << 20;

/// One frame to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft {
    pub(crate) first_seq: u64,
    pub(crate) timestamp: u64,
    /// Where its entries' bytes begin among those of all drafts.
    pub(crate) data_start: usize,
    ends_start: usize,
}

/// Accepted entries in order, as drafts.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    data: Vec<u8>,
    ends: Vec<u32>,
    drafts: Vec<Draft>,
    /// The upper bound of what they take in the file.
    pub(crate) reserved: u64,
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.data.len() + 4 * self.ends.len()
    }

    /// The bytes it can hold, for those it has memory for.
    fn capacity(&self) -> usize {
        self.data.capacity() + 4 * self.ends.capacity()
    }

    /// Whether a stream keeps it for itself.
    fn is_short(&self) -> bool {
        self.data.capacity() <= OWN_BUFFER_LEN_MAX && self.ends.capacity() <= OWN_BUFFER_LEN_MAX / 4
    }

    /// Whether it would have to grow for `entries`, to more than half of what a stream keeps.
    fn outgrown_by(&self, entries: &Entries<'_>) -> bool {
        let (data, ends) = (self.data.len() + entries.data().len(), self.ends.len() + entries.len());
        (data > self.data.capacity() && data > OWN_BUFFER_LEN_MAX / 2)
            || (ends > self.ends.capacity() && ends > OWN_BUFFER_LEN_MAX / 8)
    }

    fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
        self.drafts.clear();
        self.reserved = 0;
    }

    /// Moves what is here to `larger`, which is empty, and that here.
    fn move_to(&mut self, mut larger: Self) -> Self {
        larger.data.extend_from_slice(&self.data);
        larger.ends.extend_from_slice(&self.ends);
        larger.drafts.extend_from_slice(&self.drafts);
        larger.reserved = self.reserved;
        std::mem::swap(self, &mut larger);
        larger.clear();
        larger
    }

    /// The bytes of all entries.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// The drafts in order, each with its entries' ends and bytes.
    pub(crate) fn drafts(&self) -> impl Iterator<Item = (&Draft, &[u32], &[u8])> {
        (0..self.drafts.len()).map(|i| {
            let draft = &self.drafts[i];
            let next = self.drafts.get(i + 1);
            let ends = &self.ends[draft.ends_start..next.map_or(self.ends.len(), |n| n.ends_start)];
            let data = &self.data[draft.data_start..next.map_or(self.data.len(), |n| n.data_start)];
            (draft, ends, data)
        })
    }

    /// One past the last entry.
    pub(crate) fn end_seq(&self) -> Option<u64> {
        self.drafts.last().map(|draft| draft.first_seq + (self.ends.len() - draft.ends_start) as u64)
    }

    fn push(&mut self, first_seq: u64, timestamp: u64, entries: &Entries<'_>, frame_len: usize) {
        let joins = self.drafts.last().is_some_and(|last| {
            let len = self.data.len() - last.data_start + 4 * (self.ends.len() - last.ends_start);
            last.timestamp == timestamp && len + entries.data().len() + 4 * entries.len() <= frame_len
        });
        if !joins {
            let (data_start, ends_start) = (self.data.len(), self.ends.len());
            push_exact(&mut self.drafts, Draft { first_seq, timestamp, data_start, ends_start });
        }
        let data_start = self.drafts.last().map_or(0, |draft| draft.data_start);
        let before = self.data.len() - data_start;
        self.data.extend_from_slice(entries.data());
        entries.push_ends(&mut self.ends, before);
    }

    /// Takes over the entries of another's draft from `end` on.
    fn keep(&mut self, draft: &Draft, ends: &[u32], data: &[u8], end: u64) {
        let from = usize::try_from(end.saturating_sub(draft.first_seq)).unwrap_or(usize::MAX);
        let Some(kept) = ends.get(from..).filter(|kept| !kept.is_empty()) else { return };
        let before = from.checked_sub(1).map_or(0, |i| ends[i] & !BATCH_END);
        let (data_start, ends_start) = (self.data.len(), self.ends.len());
        self.drafts.push(Draft { first_seq: draft.first_seq + from as u64, data_start, ends_start, ..*draft });
        self.data.extend_from_slice(&data[before as usize..]);
        self.ends.extend(kept.iter().map(|&e| ((e & !BATCH_END) - before) | (e & BATCH_END)));
        let len = (data.len() - before as usize) as u64;
        self.reserved += stratawal_frame::data_frame_len_max(kept.len() as u64 + 1, len);
    }

    fn read(&self, seq: u64) -> Option<Entry> {
        let i = self.drafts.partition_point(|draft| draft.first_seq <= seq).checked_sub(1)?;
        let (draft, ends, data) = self.drafts().nth(i)?;
        let at = usize::try_from(seq - draft.first_seq).ok()?;
        let end = (*ends.get(at)? & !BATCH_END) as usize;
        let start = at.checked_sub(1).map_or(0, |i| (ends[i] & !BATCH_END) as usize);
        let data = Bytes::copy_from_slice(&data[start..end]);
        Some(Entry { seq, timestamp: draft.timestamp, data })
    }
}

/// What one append brings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entries<'a> {
    One(&'a [u8]),
    Batch(&'a Batch),
}

impl Entries<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Batch(batch) => batch.len(),
        }
    }

    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Self::One(entry) => entry,
            Self::Batch(batch) => batch.data(),
        }
    }

    /// The bytes that they would take in the tail.
    pub(crate) fn tail_len(&self) -> usize {
        self.data().len() + 4 * self.len()
    }

    /// Adds the end of each entry, where `before` bytes of the same frame precede them, with the
    /// mark of the batch's end on the last one.
    fn push_ends(&self, ends: &mut Vec<u32>, before: usize) {
        let end =
            |end: usize| u32::try_from(before + end).expect("invariant: a batch is under 2 GiB, a joined frame small");
        match self {
            Self::One(entry) => ends.push(end(entry.len()) | BATCH_END),
            Self::Batch(batch) => {
                ends.extend(batch.ends().iter().map(|&e| end(e)));
                *ends.last_mut().expect("invariant: callers turn empty batches away") |= BATCH_END;
            }
        }
    }
}

/// A batch that is written from the caller's memory. The tail never holds its bytes.
#[derive(Debug)]
pub(crate) struct Large<'a> {
    draft: Draft,
    /// The upper bound of the bytes that it takes in the file.
    pub(crate) reserved: u64,
    ends: Vec<u32>,
    data: &'a [u8],
}

impl<'a> Large<'a> {
    pub(crate) fn new(entries: &'a Entries<'_>, reserved: u64) -> Self {
        let mut ends = Vec::with_capacity(entries.len());
        entries.push_ends(&mut ends, 0);
        let draft = Draft { first_seq: 0, timestamp: 0, data_start: 0, ends_start: 0 };
        Self { draft, reserved, ends, data: entries.data() }
    }

    /// Gives it the place after what `tail` has accepted, and the time of an append at `now`.
    pub(crate) fn place_after(&mut self, tail: &Tail, now: u64) {
        (self.draft.first_seq, self.draft.timestamp) = (tail.next_seq, tail.last_timestamp.max(now));
    }

    pub(crate) fn seqs(&self) -> Range<u64> {
        self.draft.first_seq..self.draft.first_seq + self.ends.len() as u64
    }

    /// The bytes of all entries.
    pub(crate) fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes of the table of ends.
    pub(crate) fn table_len(&self) -> usize {
        4 * self.ends.len()
    }

    /// The one draft that it is, in the form of [`Pending::drafts`].
    pub(crate) fn drafts(&self) -> impl Iterator<Item = (&Draft, &[u32], &[u8])> {
        std::iter::once((&self.draft, &self.ends[..], self.data))
    }
}

/// What appends have reserved in the active segment.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) preallocation: Preallocation,
    pub(crate) base: u64,
    /// Where everything that was reserved ends at most.
    pub(crate) end: u64,
    /// Where the times of the stream were far ahead of the clock when it was opened: the present
    /// time, with which the next segment begins. The next append needs that segment.
    pub(crate) restart: Option<u64>,
}

impl Reservation {
    /// Nothing is reserved yet after the last frame that `writer` has in its file.
    pub(crate) fn new(writer: &SegmentWriter, preallocation: Preallocation) -> Self {
        let end = writer.next_position().offset.0;
        Self { preallocation, base: writer.header().base.0, end, restart: None }
    }

    /// Reserves `len` bytes more.
    pub(crate) fn reserve(&mut self, len: u64) -> stratawal_segment::Result<()> {
        self.preallocation.ensure(&ByteOffset(self.end), len)?;
        self.end += len;
        Ok(())
    }
}

/// What the stream's lock protects.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) next_seq: u64,
    pub(crate) last_timestamp: u64,
    pub(crate) clock: Clock,
    /// `None` before the stream's first append, and after its close.
    pub(crate) reservation: Option<Reservation>,
    pub(crate) closed: bool,
    pending: Pending,
    inflight: Option<Arc<Pending>>,
    /// Buffers to be filled, which nobody else holds, and which are short.
    spare: Vec<Arc<Pending>>,
    /// Where longer ones are, between their uses.
    pool: Arc<BufferPool<Pending>>,
    /// How long what was last drained was: a stream of short ones does not hold what another
    /// needed.
    recent_len: usize,
}

impl Tail {
    pub(crate) fn new(
        next_seq: u64,
        last_timestamp: u64,
        reservation: Option<Reservation>,
        pool: Arc<BufferPool<Pending>>,
    ) -> Self {
        Self {
            next_seq,
            last_timestamp,
            clock: Clock::default(),
            reservation,
            closed: false,
            pending: Pending::default(),
            inflight: None,
            spare: Vec::new(),
            pool,
            recent_len: 0,
        }
    }

    /// Accepts entries whose space is booked.
    pub(crate) fn push(&mut self, entries: &Entries<'_>, now: u64, reserved: u64, frame_len: usize) -> u64 {
        let first = self.next_seq;
        if self.pending.is_short() && self.pending.outgrown_by(entries) {
            self.lengthen(self.pending.len() + entries.data().len() + 4 * entries.len());
        }
        self.last_timestamp = self.last_timestamp.max(now);
        self.pending.push(first, self.last_timestamp, entries, frame_len);
        self.pending.reserved += reserved;
        self.next_seq += entries.len() as u64;
        first
    }

    /// Accepts a large batch, which the file has already: the file now ends at `drained_to`, and
    /// nothing waits.
    pub(crate) fn accept_written(&mut self, large: &Large<'_>, drained_to: u64) {
        debug_assert!(self.pending.drafts.is_empty(), "what waits is written before a large batch");
        self.next_seq = large.seqs().end;
        self.last_timestamp = large.draft.timestamp;
        if let Some(reservation) = &mut self.reservation {
            reservation.end = drained_to;
        }
    }

    /// The next entries go into a new segment.
    pub(crate) fn continue_in(&mut self, reservation: Reservation) {
        let before = self.reservation.replace(reservation);
        if let Some(restart) = before.and_then(|before| before.restart) {
            self.last_timestamp = restart;
        }
    }

    /// Goes on in a longer buffer, if there is one: growing by doubling copies twice.
    fn lengthen(&mut self, needed: usize) {
        let Some(larger) = self.pool.take(needed.max(self.recent_len)) else { return };
        let short = self.pending.move_to(larger);
        // Kept for what comes behind this.
        if let Some(spare) = self.spare.last_mut().and_then(Arc::get_mut)
            && spare.capacity() == 0
        {
            *spare = short;
        }
    }

    /// Bytes that wait, those being written not among them.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Takes what waits; it stays readable until [`put_back`](Self::put_back).
    pub(crate) fn take(&mut self) -> Arc<Pending> {
        let mut work = self.spare.pop().unwrap_or_default();
        std::mem::swap(Arc::get_mut(&mut work).expect("invariant: a spare has one owner"), &mut self.pending);
        self.inflight = Some(Arc::clone(&work));
        work
    }

    /// What was taken has been drained: the file now ends at `drained_to`.
    pub(crate) fn put_back(&mut self, mut work: Arc<Pending>, drained_to: u64) {
        self.inflight = None;
        if let Some(reservation) = &mut self.reservation {
            reservation.end = drained_to + self.pending.reserved;
        }
        self.recent_len = work.len().max(self.recent_len / 2);
        if let Some(pending) = Arc::get_mut(&mut work) {
            pending.clear();
            if !pending.is_short() {
                let len = pending.capacity();
                self.pool.put(std::mem::take(pending), len);
            }
            push_exact(&mut self.spare, work);
        }
    }

    /// What was accepted from `end` on, where recovery found that the files end; `None` where what
    /// was drained behind it is lost, so that nothing fits there.
    pub(crate) fn waiting_from(&self, end: u64) -> Option<Pending> {
        let mut kept = Pending::default();
        for part in self.inflight.as_deref().into_iter().chain([&self.pending]) {
            part.drafts().for_each(|(draft, ends, data)| kept.keep(draft, ends, data, end));
        }
        // A large batch whose write failed may be whole in the file. It was not accepted, and
        // nothing accepted is lost.
        let begins = kept.drafts.first().map_or(self.next_seq.max(end), |draft| draft.first_seq);
        (begins == end).then_some(kept)
    }

    /// Takes over entries that were accepted before; whether they are booked is the caller's to see
    /// to.
    pub(crate) fn adopt_pending(&mut self, waiting: Pending) {
        self.next_seq = waiting.end_seq().unwrap_or(self.next_seq);
        if let Some(reservation) = &mut self.reservation
            && !waiting.drafts.is_empty()
        {
            // They have their times, which go into the segment that is there.
            reservation.restart = None;
        }
        self.last_timestamp = waiting.drafts.last().map_or(0, |draft| draft.timestamp).max(self.last_timestamp);
        self.pending = waiting;
    }

    /// The entry, if it is here.
    pub(crate) fn read(&self, seq: u64) -> Option<Entry> {
        let inflight = self.inflight.as_ref().and_then(|pending| pending.read(seq));
        inflight.or_else(|| self.pending.read(seq))
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_ends_later_than_what_was_accepted_loses_nothing() {
        let mut tail = Tail::new(3, 0, None, Arc::new(BufferPool::new()));
        // A large batch whose failed write left it whole in the file.
        assert_eq!(tail.waiting_from(5).map(|waiting| waiting.end_seq()), Some(None));
        assert_eq!(tail.waiting_from(3).map(|waiting| waiting.end_seq()), Some(None));
        assert!(tail.waiting_from(2).is_none(), "an entry that was accepted is nowhere");
        tail.push(&Entries::One(b"waits"), 1, 32, 100);
        assert_eq!(tail.waiting_from(3).map(|waiting| waiting.end_seq()), Some(Some(4)));
        assert!(tail.waiting_from(2).is_none());
    }
}
