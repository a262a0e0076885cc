//! The tail: the entries that are accepted but not yet in the file, and the rest of the state under
//! a stream's lock.
//!
//! An append copies its bytes into the tail under the lock. It reserves the maximum space that it
//! can take in the file, so its segment and its seqs are fixed when it is accepted. The leader
//! later writes it within that reservation.
//!
//! A batch over [`COPIED_LEN_MAX`](crate::write::pending::COPIED_LEN_MAX) is not copied. Its append
//! takes the lead and writes it from the caller's memory.

use std::ops::Range;
use std::sync::Arc;

use stratawal_frame::{ByteOffset, StreamId};
use stratawal_segment::{CONTROL_RESERVE, Preallocation, SegmentWriter};

use crate::batch::Entry;
use crate::options::{Durability, StreamOptions};
use crate::read::tail_run::TailRun;
use crate::watermarks::Watermarks;
use crate::write::buffer_pool::{BufferPool, Held, push_exact};
use crate::write::clock::Clock;
use crate::write::journaled::{JOURNALED_LEN_MAX, Journaled, Put};
use crate::write::pending::{Entries, LargeBatch, PendingFrames};
use crate::write::reserve::RESERVE_LEN;

/// At most this many bytes of entries wait without space in a file that was closed.
const UNRESERVED_LEN_MAX: u64 = RESERVE_LEN / 2;

/// The space that appends have reserved in the active segment.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) preallocation: Preallocation,
    /// The first seq of the segment.
    pub(crate) base: u64,
    /// An upper bound on the end of everything reserved.
    pub(crate) end: u64,
    /// The present time, if the stream's times were far ahead of the clock when it was opened. The
    /// next append needs a new segment, which begins at this time.
    pub(crate) restart: Option<u64>,
}

impl Reservation {
    /// A reservation of nothing yet, after the last frame in the file of `writer`.
    pub(crate) fn new(writer: &SegmentWriter, preallocation: Preallocation) -> Self {
        let end = writer.next_position().offset.0;
        let preallocation = preallocation.with_file(Arc::clone(writer.file()));
        Self { preallocation, base: writer.header().base.0, end, restart: None }
    }

    /// Reserves `len` more bytes.
    pub(crate) fn reserve(&mut self, len: u64) -> stratawal_segment::Result<()> {
        self.preallocation.ensure(&ByteOffset(self.end), len)?;
        self.end += len;
        Ok(())
    }

    /// Reserves `len` more bytes, and extends the file no further than that takes: what is left of
    /// the emergency reserve is for a new segment.
    pub(crate) fn reserve_exactly(&mut self, len: u64) -> stratawal_segment::Result<()> {
        self.preallocation.ensure_control(&ByteOffset(self.end), len.saturating_add(CONTROL_RESERVE))?;
        self.end += len;
        Ok(())
    }
}

/// The state under the lock of a stream.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) next_seq: u64,
    pub(crate) last_timestamp: u64,
    pub(crate) clock: Clock,
    /// `None` before the stream has a segment, and after its close.
    pub(crate) reservation: Option<Box<Reservation>>,
    pub(crate) closed: bool,
    pending: PendingFrames,
    /// The entries that a leader is writing.
    in_flight: Option<Arc<PendingFrames>>,
    /// Short buffers for later entries. They have no other owner.
    spare: Vec<Arc<PendingFrames>>,
    /// Long buffers, which the streams of a log share, and the memory that this one takes.
    held: Held<PendingFrames>,
    /// The bytes of pending entries for which the active segment has no space yet. The commit
    /// journal has them.
    unreserved: u64,
    /// The length of the tail when it was last drained, or half of the previous value, whichever is
    /// more. A longer buffer is requested with this length.
    recent_len: usize,
    /// The stream's records in the commit journal, if the log has one.
    pub(crate) journaled: Option<Box<Journaled>>,
}

impl Tail {
    pub(crate) fn new(
        next_seq: u64,
        last_timestamp: u64,
        reservation: Option<Reservation>,
        buffer_pool: Arc<BufferPool<PendingFrames>>,
    ) -> Self {
        Self {
            next_seq,
            last_timestamp,
            clock: Clock::default(),
            reservation: reservation.map(Box::new),
            closed: false,
            pending: PendingFrames::default(),
            in_flight: None,
            spare: Vec::new(),
            held: Held::new(buffer_pool),
            unreserved: 0,
            recent_len: 0,
            journaled: None,
        }
    }

    pub(crate) const fn buffer_pool(&self) -> &Arc<BufferPool<PendingFrames>> {
        self.held.pool()
    }

    /// Accepts entries whose space is reserved. Returns the first seq.
    pub(crate) fn push(&mut self, entries: &Entries<'_>, now: u64, reserved: u64, frame_len: usize) -> u64 {
        let first_seq = self.next_seq;
        if self.pending.is_short() && self.pending.outgrown_by(entries) {
            self.lengthen(self.pending.len() + entries.tail_len());
        }
        self.last_timestamp = self.last_timestamp.max(now);
        self.pending.push(first_seq, self.last_timestamp, entries, frame_len);
        self.pending.reserved += reserved;
        self.held.raise(self.pending.len());
        self.next_seq += entries.len() as u64;
        first_seq
    }

    /// Accepts a large batch that is already in the file. The file now ends at `file_end`, and
    /// nothing is pending.
    pub(crate) fn accept_written(&mut self, large: &LargeBatch<'_>, file_end: u64) {
        debug_assert!(self.pending.is_empty(), "what waits is written before a large batch");
        self.next_seq = large.seqs().end;
        self.last_timestamp = large.timestamp();
        if let Some(reservation) = &mut self.reservation {
            reservation.end = file_end;
        }
        if let Some(journaled) = &mut self.journaled {
            // The settled watermark is not needed here: the next drain forgets the settled records.
            journaled.drained_to(Some(self.next_seq), 0);
        }
    }

    /// Continues in a new segment with this reservation.
    pub(crate) fn continue_in(&mut self, reservation: Reservation) {
        let before = self.reservation.replace(Box::new(reservation));
        if let Some(restart) = before.and_then(|before| before.restart) {
            self.last_timestamp = restart;
        }
    }

    /// Continues in a new segment, at `next_seq`. Everything before was settled, or dropped.
    pub(crate) fn continue_at(&mut self, next_seq: u64, reservation: Reservation) {
        self.next_seq = next_seq;
        self.continue_in(reservation);
        if let Some(journaled) = &mut self.journaled {
            journaled.restart_at(next_seq);
        }
    }

    /// Continues in a longer buffer, from the pool if it has one. A buffer that grows by doubling
    /// would copy its bytes twice.
    fn lengthen(&mut self, needed: usize) {
        let larger = match self.held.pool().take(needed.max(self.recent_len)) {
            Some(larger) => larger,
            None if self.recent_len > needed => PendingFrames::with_capacity(self.recent_len),
            None => return,
        };
        let short = self.pending.move_to(larger);
        // The short buffer is kept for later entries.
        if let Some(spare) = self.spare.last_mut().and_then(Arc::get_mut)
            && spare.capacity() == 0
        {
            *spare = short;
        }
    }

    /// The bytes of memory that the entries here take, with those that a leader is writing and
    /// those that the commit journal may still be needed for.
    pub(crate) fn memory(&self) -> usize {
        let in_flight = self.in_flight.as_ref().map_or(0, |work| work.memory());
        let retained = self.journaled.iter().flat_map(|journaled| journaled.retained());
        let retained: usize = retained.map(PendingFrames::memory).sum();
        self.pending.memory() + in_flight + retained
    }

    /// The number of pending bytes, without those that a leader is writing.
    pub(crate) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// The number of pending bytes that are not in the commit journal, or 0 without one.
    pub(crate) fn unjournaled_len(&self) -> usize {
        self.journaled.as_ref().map_or(0, |journaled| self.pending.len_from(journaled.end()))
    }

    /// The bytes that the pending entries take in the file at most.
    pub(crate) const fn pending_reserved(&self) -> u64 {
        self.pending.reserved
    }

    /// Whether entries that take at most `len` bytes in the file may be accepted although the
    /// stream has no directory: the commit journal acknowledges them, and the directory is created
    /// when they are drained. An entry that is too long for that needs the directory first, so
    /// that nothing is accepted if it cannot be created.
    pub(crate) fn may_wait_without_directory(&self, len: u64, options: &StreamOptions) -> bool {
        let max = (JOURNALED_LEN_MAX as u64).min(options.segment_bytes).min(options.buffer_bytes as u64);
        let is_new = self.journaled.as_ref().is_some_and(|journaled| !journaled.is_in_directory());
        is_new && self.pending.reserved.saturating_add(len) <= max
    }

    /// Whether `len` bytes of entries may wait in the tail although the file is still as its close
    /// left it, if the commit journal has room for them. They are so few that on a full disk the
    /// emergency reserve has space for them and for a new segment, so that they can be truncated.
    #[inline]
    pub(crate) fn may_wait_after_close(&self, len: u64, options: &StreamOptions) -> bool {
        let is_after_close = || self.reservation.as_ref().is_some_and(|r| r.preallocation.is_after_close());
        let max = UNRESERVED_LEN_MAX.min(options.buffer_bytes as u64);
        self.journaled.is_some() && is_after_close() && self.unreserved.saturating_add(len) <= max
    }

    /// Accepts `len` bytes of entries without space for them. They get it before they are drained.
    pub(crate) fn leave_unreserved(&mut self, len: u64) {
        self.unreserved += len;
    }

    /// Whether the stream has no directory yet, because the log has a commit journal.
    #[inline]
    pub(crate) fn lacks_directory(&self) -> bool {
        self.reservation.is_none() && self.journaled.as_ref().is_some_and(|journaled| !journaled.is_in_directory())
    }

    /// The bytes of the pending entries that are not in the commit journal.
    pub(crate) fn unput_len(&self) -> usize {
        self.journaled.as_ref().map_or(0, |journaled| self.pending.len_from(journaled.end()))
    }

    /// Whether the stream has entries for the commit journal, and no id yet.
    pub(crate) fn lacks_id(&self) -> bool {
        self.pending_len() > 0 && self.journaled.as_ref().is_some_and(|journaled| journaled.known_stream().is_none())
    }

    pub(crate) fn set_id(&mut self, stream: StreamId) {
        if let Some(journaled) = &mut self.journaled {
            journaled.set_stream(stream);
        }
    }

    /// Takes everything that is pending. It can be read here until [`put_back`](Self::put_back).
    pub(crate) fn take(&mut self) -> Arc<PendingFrames> {
        let mut work = self.spare.pop().unwrap_or_default();
        std::mem::swap(Arc::get_mut(&mut work).expect("invariant: a spare has one owner"), &mut self.pending);
        self.held.clear();
        self.in_flight = Some(Arc::clone(&work));
        if let Some(journaled) = &mut self.journaled {
            journaled.drain_begins(work.end_seq());
        }
        work
    }

    /// Takes back the work of `take`, which is now in the file. The file ends at `file_end`, and
    /// entries below `settled` are durable in the stream's files.
    pub(crate) fn put_back(&mut self, mut work: Arc<PendingFrames>, file_end: u64, settled: u64) {
        self.in_flight = None;
        if let Some(reservation) = &mut self.reservation {
            reservation.end = file_end + self.pending.reserved;
        }
        self.recent_len = work.len().max(self.recent_len / 2);
        if let Some(journaled) = &mut self.journaled {
            journaled.drained_to(work.end_seq(), settled);
            if work.seqs().is_some_and(|seqs| journaled.needs(&seqs)) {
                return journaled.retain(work);
            }
        }
        if let Some(buffer) = Arc::get_mut(&mut work) {
            buffer.clear();
            if !buffer.is_short() {
                let len = buffer.capacity();
                self.held.pool().put(std::mem::take(buffer), len);
            }
            push_exact(&mut self.spare, work);
        }
    }

    /// Returns the accepted entries at or above `end`, where recovery found that the files end, as
    /// far as they continue the files, and whether any accepted entries are lost.
    pub(crate) fn pending_from(&self, end: u64) -> (PendingFrames, bool) {
        let mut kept = PendingFrames::default();
        let mut kept_end = end;
        // A recovery that failed may have left the same entries in two of these.
        for frames in self.in_memory() {
            for slice in frames.slices_from(kept_end) {
                if slice.first_seq == kept_end {
                    kept.push_slice(&slice);
                    kept_end = slice.end_seq();
                }
            }
        }
        // A large batch whose write failed may be complete in the file. It was not accepted, so
        // nothing accepted is lost.
        let is_lost = kept_end < self.next_seq;
        (kept, is_lost)
    }

    /// The accepted entries that are in memory, oldest first.
    fn in_memory(&self) -> impl Iterator<Item = &PendingFrames> {
        let retained = self.journaled.iter().flat_map(|journaled| journaled.retained());
        retained.chain(self.in_flight.as_deref()).chain([&self.pending])
    }

    /// Has everything accepted acknowledged at `durability` by the commit journal, if that is
    /// possible.
    pub(crate) fn put_in_journal(
        &mut self,
        durability: Durability,
        watermarks: &Watermarks,
    ) -> stratawal_journal::Result<Put> {
        let Self { journaled, pending, next_seq, .. } = self;
        let Some(journaled) = journaled else { return Ok(Put::ThroughFiles) };
        journaled.put(pending, *next_seq, durability, watermarks)
    }

    /// The stream's records in the commit journal, and its entries that are not drained.
    pub(crate) fn journaled_and_rest(&mut self) -> Option<(&mut Journaled, Vec<&PendingFrames>)> {
        let Self { journaled, in_flight, pending, .. } = self;
        let rest = in_flight.as_deref().into_iter().chain([&*pending]).collect();
        journaled.as_deref_mut().map(|journaled| (journaled, rest))
    }

    /// Takes over entries that were accepted earlier. The caller reserves their space.
    pub(crate) fn adopt_pending(&mut self, pending: PendingFrames) {
        self.next_seq = pending.end_seq().unwrap_or(self.next_seq);
        if let Some(reservation) = &mut self.reservation
            && !pending.is_empty()
        {
            // These entries already have their times, which fit into the existing segment.
            reservation.restart = None;
        }
        self.last_timestamp = pending.last_timestamp().unwrap_or(0).max(self.last_timestamp);
        self.pending = pending;
        self.held.raise(self.pending.len());
    }

    /// Appends entries that only the commit journal has. Their space is reserved before they are
    /// drained.
    pub(crate) fn append_recovered(&mut self, entries: PendingFrames) {
        if entries.is_empty() {
            return;
        }
        if self.reservation.is_some() {
            self.unreserved += entries.reserved;
        }
        self.adopt_pending(entries);
    }

    /// The bytes of pending entries for which the active segment has no space yet.
    pub(crate) const fn unreserved(&self) -> u64 {
        self.unreserved
    }

    /// Reserves the space of all pending entries. Extends the file beyond that if `ahead` is set.
    pub(crate) fn reserve_pending(&mut self, ahead: bool) -> stratawal_segment::Result<()> {
        let Some(reservation) = self.reservation.as_mut().filter(|_| self.unreserved > 0) else { return Ok(()) };
        if ahead { reservation.reserve(self.unreserved) } else { reservation.reserve_exactly(self.unreserved) }?;
        self.unreserved = 0;
        Ok(())
    }

    /// Reserves the space of all pending entries, and `len` bytes after them. Does nothing if the
    /// stream has no segment.
    #[inline]
    pub(crate) fn reserve(&mut self, len: u64) -> stratawal_segment::Result<()> {
        if let Some(reservation) = &mut self.reservation {
            reservation.reserve(self.unreserved + len)?;
            self.unreserved = 0;
        }
        Ok(())
    }

    /// Returns a copy of entry `seq` if it is in the tail.
    pub(crate) fn read(&self, seq: u64) -> Option<Entry> {
        let in_flight = self.in_flight.as_ref().and_then(|pending| pending.read(seq));
        in_flight.or_else(|| self.pending.read(seq))
    }

    /// Returns a copy of those of the entries `seqs` that are in one frame with entry `seq`, if
    /// that is in the tail.
    pub(crate) fn read_run(&self, seq: u64, seqs: Range<u64>) -> Option<TailRun> {
        let in_flight = self.in_flight.as_ref().and_then(|pending| pending.slice_around(seq, seqs.clone()));
        in_flight.or_else(|| self.pending.slice_around(seq, seqs)).map(|slice| TailRun::copy_of(&slice))
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_ends_after_the_tail_loses_nothing() {
        let mut tail = Tail::new(3, 0, None, Arc::new(BufferPool::new()));
        // A large batch that is complete in the file although its write failed.
        let from = |tail: &Tail, end| {
            let (pending, is_lost) = tail.pending_from(end);
            (pending.end_seq(), is_lost)
        };
        assert_eq!(from(&tail, 5), (None, false));
        assert_eq!(from(&tail, 3), (None, false));
        assert_eq!(from(&tail, 2), (None, true), "an accepted entry is in neither");
        tail.push(&Entries::One(b"waits"), 1, 32, 100);
        assert_eq!(from(&tail, 3), (Some(4), false));
        assert_eq!(from(&tail, 2), (None, true));
    }
}
