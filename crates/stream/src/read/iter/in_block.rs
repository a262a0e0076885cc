//! The fast path of the front: entries whose block is in memory, in a stream whose epoch has not
//! changed. If the fast path does not apply, it changes nothing and returns `None`; the caller then
//! takes the slow path, which finds out why.

use stratawal_frame::SeqNo;

use super::Iter;
use super::forward::Forward;
use crate::batch::{Entry, Run};

impl Iter {
    /// The next entry from the front.
    #[inline]
    pub(super) fn next_in_block(&mut self) -> Option<Entry> {
        let seq = self.front;
        let entry = if self.forward.is_none() { self.in_tail_run(seq) } else { self.forward_in_block()?.entry(seq) };
        let entry = entry?;
        // The epoch is loaded after the read, as in `read_consistently`.
        if self.inner.shared.watermarks.epoch() != self.epoch {
            return None;
        }
        self.front += 1;
        Some(entry)
    }

    /// Entry `seq`, which is the next from the front, if it was copied out of the tail.
    #[inline]
    fn in_tail_run(&self, seq: u64) -> Option<Entry> {
        let run = self.tail.as_ref().filter(|_| self.truncated_at.is_none() && seq < self.back)?;
        run.entry(seq)
    }

    /// The next run from the front.
    #[inline]
    pub(super) fn run_in_block(&mut self) -> Option<Run> {
        let seq = self.front;
        // Flushed entries stay in the same frames as long as the epoch does not change.
        let back = self.back.min(self.inner.shared.watermarks.drained());
        let run = self.forward_in_block()?.run(seq, back)?;
        if self.inner.shared.watermarks.epoch() != self.epoch {
            // The cursor has moved, but the front has not.
            self.forward = None;
            return None;
        }
        self.front = run.seqs().end;
        Some(run)
    }

    /// Returns the front, positioned in the frame that holds the next entry.
    #[inline]
    fn forward_in_block(&mut self) -> Option<&mut Forward> {
        let seq = self.front;
        let forward = self.forward.as_mut().filter(|_| self.truncated_at.is_none() && seq < self.back)?;
        if seq >= forward.segment.limit {
            return None;
        }
        if forward.frame.as_ref().is_none_or(|frame| frame.header().end_seq().0 <= seq) {
            if seq >= self.inner.shared.watermarks.drained() {
                return None;
            }
            forward.frame = Some(forward.cursor.try_next(SeqNo(seq))?);
        }
        Some(forward)
    }
}
