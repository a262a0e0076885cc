//! Copies entries out of the tail for iterators, several at a time.

use std::ops::Range;

use bytes::Bytes;
use stratawal_frame::BATCH_END;

use crate::batch::Entry;
use crate::inner::Inner;
use crate::write::pending::FrameSlice;

/// A run has at most this many entries. It bounds how long a copy holds the stream's lock.
const LEN_MAX: u64 = 64;

/// Consecutive entries of one frame that is not in the file yet. They share their memory.
#[derive(Debug)]
pub(crate) struct TailRun {
    first_seq: u64,
    timestamp: u64,
    /// The end offset of each entry in its frame, with the marks of batch ends.
    ends: Box<[u32]>,
    /// The offset of the first entry in its frame.
    before: u32,
    data: Bytes,
}

impl TailRun {
    pub(crate) fn copy_of(slice: &FrameSlice<'_>) -> Self {
        let FrameSlice { first_seq, timestamp, ends, before, data } = *slice;
        Self { first_seq, timestamp, ends: ends.into(), before, data: Bytes::copy_from_slice(data) }
    }

    /// Returns entry `seq` if it is in this run.
    #[inline]
    pub(super) fn entry(&self, seq: u64) -> Option<Entry> {
        let at = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        let marked_end = *self.ends.get(at)?;
        let end = (marked_end & !BATCH_END) - self.before;
        let start = at.checked_sub(1).map_or(0, |i| (self.ends[i] & !BATCH_END) - self.before);
        let data = self.data.slice(start as usize..end as usize);
        Some(Entry { seq, timestamp: self.timestamp, data, ends_batch: marked_end & BATCH_END != 0 })
    }
}

impl Inner {
    /// Copies entry `seq` and entries that follow it, all below `back`, from the tail. Returns
    /// `None` if the entry is in the file by now, or was never accepted. Takes the stream's lock.
    pub(super) fn tail_run_from(&self, seq: u64, back: u64) -> Option<TailRun> {
        self.tail_run(seq, seq..back.min(seq.saturating_add(LEN_MAX)))
    }

    /// Copies entry `seq` and entries before it, all at or above `front`, in the same way.
    pub(super) fn tail_run_to(&self, seq: u64, front: u64) -> Option<TailRun> {
        self.tail_run(seq, front.max(seq.saturating_sub(LEN_MAX - 1))..seq.saturating_add(1))
    }

    fn tail_run(&self, seq: u64, seqs: Range<u64>) -> Option<TailRun> {
        self.group.lock().tail.read_run(seq, seqs)
    }
}
