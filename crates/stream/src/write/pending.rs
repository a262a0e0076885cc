//! The entries pending in the tail, grouped into future frames.
//!
//! Appends that arrive within one tick of the coarse clock share one frame, up to about `frame_len`
//! bytes. A batch is always within one frame. Offsets, sizes and checksums are fixed later, by the
//! leader that writes the frames.

use std::ops::Range;

use bytes::Bytes;
use stratawal_frame::BATCH_END;

use crate::batch::{Batch, Entry};
use crate::write::buffer_pool::{BufferPool, OWN_BUFFER_LEN_MAX, push_exact};

/// A batch that would take more bytes than this in the tail is written from the caller's memory. If
/// a process mostly holds one batch, a copy could double its memory.
pub(crate) const COPIED_LEN_MAX: usize = 1 << 20;

/// The entries of one append.
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

    /// The bytes that these entries would take in the tail: their own, and an end offset for each.
    pub(crate) fn tail_len(&self) -> usize {
        self.data().len() + 4 * self.len()
    }

    /// Adds the end offset of each entry in its frame, in which `before` bytes precede the entries.
    /// The last offset carries the mark of the batch's end.
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

/// A frame that is not written yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingFrame {
    pub(crate) first_seq: u64,
    pub(crate) timestamp: u64,
    /// The offset of its entries' bytes among the bytes of all frames.
    pub(crate) data_start: usize,
    ends_start: usize,
}

/// Consecutive entries of one pending frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameSlice<'a> {
    pub(crate) first_seq: u64,
    pub(crate) timestamp: u64,
    /// The end offsets of the entries in the frame, with the marks of batch ends.
    pub(crate) ends: &'a [u32],
    /// The offset of the first of these entries in the frame.
    pub(crate) before: u32,
    pub(crate) data: &'a [u8],
}

impl<'a> FrameSlice<'a> {
    /// The entries of a frame at or above `seq`, if it has any.
    fn from(frame: &PendingFrame, ends: &'a [u32], data: &'a [u8], seq: u64) -> Option<Self> {
        let skipped = usize::try_from(seq.saturating_sub(frame.first_seq)).unwrap_or(usize::MAX);
        let kept = ends.get(skipped..).filter(|kept| !kept.is_empty())?;
        let before = skipped.checked_sub(1).map_or(0, |i| ends[i] & !BATCH_END);
        let first_seq = frame.first_seq + skipped as u64;
        Some(Self { first_seq, timestamp: frame.timestamp, ends: kept, before, data: &data[before as usize..] })
    }

    /// One past the last seq.
    pub(crate) const fn end_seq(&self) -> u64 {
        self.first_seq + self.ends.len() as u64
    }

    /// The entries below `end`, if there are any.
    pub(crate) fn below(&self, end: u64) -> Option<Self> {
        let count = usize::try_from(end.saturating_sub(self.first_seq)).unwrap_or(usize::MAX).min(self.ends.len());
        let last = count.checked_sub(1)?;
        let len = ((self.ends[last] & !BATCH_END) - self.before) as usize;
        Some(Self { ends: &self.ends[..count], data: &self.data[..len], ..*self })
    }
}

/// Accepted entries in order, in frames.
#[derive(Debug, Default)]
pub(crate) struct PendingFrames {
    data: Vec<u8>,
    ends: Vec<u32>,
    frames: Vec<PendingFrame>,
    /// An upper bound on the bytes that the entries take in the file.
    pub(crate) reserved: u64,
}

impl PendingFrames {
    /// A buffer for entries of `len` bytes, of about 60 bytes each.
    pub(super) fn with_capacity(len: usize) -> Self {
        let ends = Vec::with_capacity(len / 64);
        Self { data: Vec::with_capacity(len), ends, ..Self::default() }
    }

    /// The number of bytes of the entries and their end offsets.
    pub(crate) fn len(&self) -> usize {
        self.data.len() + 4 * self.ends.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The number of bytes that fit into the allocated memory, counted like [`len`](Self::len).
    pub(super) fn capacity(&self) -> usize {
        self.data.capacity() + 4 * self.ends.capacity()
    }

    /// The bytes of allocated memory.
    pub(crate) fn memory(&self) -> usize {
        self.capacity() + self.frames.capacity() * size_of::<PendingFrame>()
    }

    /// Whether a stream keeps this buffer for itself.
    pub(super) fn is_short(&self) -> bool {
        self.data.capacity() <= OWN_BUFFER_LEN_MAX && self.ends.capacity() <= OWN_BUFFER_LEN_MAX / 4
    }

    /// Whether the buffer would have to grow for `entries`, beyond half of the length that a stream
    /// keeps for itself.
    pub(super) fn outgrown_by(&self, entries: &Entries<'_>) -> bool {
        let data_len = self.data.len() + entries.data().len();
        let ends_len = self.ends.len() + entries.len();
        (data_len > self.data.capacity() && data_len > OWN_BUFFER_LEN_MAX / 2)
            || (ends_len > self.ends.capacity() && ends_len > OWN_BUFFER_LEN_MAX / 8)
    }

    /// Gives a long buffer to `pool`, and frees a short one.
    pub(super) fn recycle(mut self, pool: &BufferPool<Self>) {
        if !self.is_short() {
            self.clear();
            let len = self.capacity();
            pool.put(self, len);
        }
    }

    pub(super) fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
        self.frames.clear();
        self.reserved = 0;
    }

    /// Moves the frames to `larger`, which is empty, and continues in it. Returns the old buffer,
    /// now empty.
    pub(super) fn move_to(&mut self, mut larger: Self) -> Self {
        larger.data.extend_from_slice(&self.data);
        larger.ends.extend_from_slice(&self.ends);
        larger.frames.extend_from_slice(&self.frames);
        larger.reserved = self.reserved;
        std::mem::swap(self, &mut larger);
        larger.clear();
        larger
    }

    /// The bytes of all entries.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// The frames in order, each with the end offsets and the bytes of its entries.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (&PendingFrame, &[u32], &[u8])> {
        (0..self.frames.len()).map(|i| self.frame(i))
    }

    fn frame(&self, i: usize) -> (&PendingFrame, &[u32], &[u8]) {
        let frame = &self.frames[i];
        let next = self.frames.get(i + 1);
        let ends = &self.ends[frame.ends_start..next.map_or(self.ends.len(), |n| n.ends_start)];
        let data = &self.data[frame.data_start..next.map_or(self.data.len(), |n| n.data_start)];
        (frame, ends, data)
    }

    /// The position of the frame that holds `seq`, or the first frame after it.
    fn find(&self, seq: u64) -> usize {
        self.frames.partition_point(|frame| frame.first_seq <= seq).saturating_sub(1)
    }

    /// The entries at or above `seq`, a slice of each frame.
    pub(crate) fn slices_from(&self, seq: u64) -> impl Iterator<Item = FrameSlice<'_>> {
        let slice = move |i: usize| {
            let (frame, ends, data) = self.frame(i);
            FrameSlice::from(frame, ends, data, seq)
        };
        (self.find(seq)..self.frames.len()).filter_map(slice)
    }

    /// The number of bytes of the entries at or above `seq`, with their end offsets.
    pub(crate) fn len_from(&self, seq: u64) -> usize {
        let i = self.find(seq);
        let Some(frame) = self.frames.get(i) else { return 0 };
        let (_, ends, _) = self.frame(i);
        let skipped = usize::try_from(seq.saturating_sub(frame.first_seq)).unwrap_or(usize::MAX).min(ends.len());
        let before = skipped.checked_sub(1).map_or(0, |i| ends[i] & !BATCH_END) as usize;
        self.data.len() - (frame.data_start + before) + 4 * (self.ends.len() - (frame.ends_start + skipped))
    }

    /// The time of the last frame.
    pub(super) fn last_timestamp(&self) -> Option<u64> {
        self.frames.last().map(|frame| frame.timestamp)
    }

    /// One past the last seq, or `None` if nothing is pending.
    pub(crate) fn end_seq(&self) -> Option<u64> {
        self.frames.last().map(|frame| frame.first_seq + (self.ends.len() - frame.ends_start) as u64)
    }

    /// The seqs of the entries, or `None` if nothing is pending.
    pub(super) fn seqs(&self) -> Option<Range<u64>> {
        Some(self.frames.first()?.first_seq..self.end_seq()?)
    }

    /// Adds the entries of one append, to the last frame if time and length allow it.
    pub(super) fn push(&mut self, first_seq: u64, timestamp: u64, entries: &Entries<'_>, frame_len: usize) {
        let joins = self.frames.last().is_some_and(|last| {
            let len = self.data.len() - last.data_start + 4 * (self.ends.len() - last.ends_start);
            last.timestamp == timestamp && len + entries.tail_len() <= frame_len
        });
        if !joins {
            let data_start = self.data.len();
            let ends_start = self.ends.len();
            push_exact(&mut self.frames, PendingFrame { first_seq, timestamp, data_start, ends_start });
        }
        let data_start = self.frames.last().map_or(0, |frame| frame.data_start);
        let before = self.data.len() - data_start;
        self.data.extend_from_slice(entries.data());
        entries.push_ends(&mut self.ends, before);
    }

    /// Adds entries from elsewhere, as a frame of their own.
    pub(crate) fn push_slice(&mut self, slice: &FrameSlice<'_>) {
        let data_start = self.data.len();
        let ends_start = self.ends.len();
        let FrameSlice { first_seq, timestamp, ends, before, data } = *slice;
        self.frames.push(PendingFrame { first_seq, timestamp, data_start, ends_start });
        self.data.extend_from_slice(data);
        self.ends.extend(ends.iter().map(|&e| ((e & !BATCH_END) - before) | (e & BATCH_END)));
        self.reserved += stratawal_frame::data_frame_len_max(ends.len() as u64 + 1, data.len() as u64);
    }

    /// Those of the entries `seqs` that are in one frame with entry `seq`, if that is pending here.
    pub(super) fn slice_around(&self, seq: u64, seqs: Range<u64>) -> Option<FrameSlice<'_>> {
        let i = self.frames.partition_point(|frame| frame.first_seq <= seq).checked_sub(1)?;
        let (frame, ends, data) = self.frame(i);
        let slice = FrameSlice::from(frame, ends, data, seqs.start)?.below(seqs.end)?;
        (slice.first_seq <= seq && seq < slice.end_seq()).then_some(slice)
    }

    /// Returns a copy of entry `seq` if it is pending here.
    pub(super) fn read(&self, seq: u64) -> Option<Entry> {
        let i = self.frames.partition_point(|frame| frame.first_seq <= seq).checked_sub(1)?;
        let (frame, ends, data) = self.frames().nth(i)?;
        let at = usize::try_from(seq - frame.first_seq).ok()?;
        let marked_end = *ends.get(at)?;
        let end = (marked_end & !BATCH_END) as usize;
        let start = at.checked_sub(1).map_or(0, |i| (ends[i] & !BATCH_END) as usize);
        let data = Bytes::copy_from_slice(&data[start..end]);
        let ends_batch = marked_end & BATCH_END != 0;
        Some(Entry { seq, timestamp: frame.timestamp, data, ends_batch })
    }
}

/// A batch that is written from the caller's memory. The tail never holds its bytes.
#[derive(Debug)]
pub(crate) struct LargeBatch<'a> {
    frame: PendingFrame,
    /// An upper bound on the bytes that the batch takes in the file.
    pub(crate) reserved: u64,
    ends: Vec<u32>,
    data: &'a [u8],
}

impl<'a> LargeBatch<'a> {
    pub(crate) fn new(entries: &'a Entries<'_>, reserved: u64) -> Self {
        let mut ends = Vec::with_capacity(entries.len());
        entries.push_ends(&mut ends, 0);
        let frame = PendingFrame { first_seq: 0, timestamp: 0, data_start: 0, ends_start: 0 };
        Self { frame, reserved, ends, data: entries.data() }
    }

    /// Assigns the batch its seqs and its time.
    pub(crate) fn assign(&mut self, first_seq: u64, timestamp: u64) {
        self.frame.first_seq = first_seq;
        self.frame.timestamp = timestamp;
    }

    pub(crate) fn seqs(&self) -> Range<u64> {
        self.frame.first_seq..self.frame.first_seq + self.ends.len() as u64
    }

    pub(super) fn timestamp(&self) -> u64 {
        self.frame.timestamp
    }

    /// The bytes of all entries.
    pub(crate) fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes of the table of end offsets.
    pub(crate) fn table_len(&self) -> usize {
        4 * self.ends.len()
    }

    /// The batch's only frame, in the form of [`PendingFrames::frames`].
    pub(crate) fn frames(&self) -> impl Iterator<Item = (&PendingFrame, &[u32], &[u8])> {
        std::iter::once((&self.frame, &self.ends[..], self.data))
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;

    fn data_of(pending: &PendingFrames, seq: u64) -> Option<Vec<u8>> {
        pending.read(seq).map(|entry| entry.data.to_vec())
    }

    #[test]
    fn appends_share_a_frame_by_time_and_length() {
        let mut pending = PendingFrames::default();
        // An entry takes its bytes, and 4 for its end offset.
        pending.push(0, 7, &Entries::One(b"aa"), 12);
        pending.push(1, 7, &Entries::One(b"bb"), 12);
        pending.push(2, 7, &Entries::One(b"cc"), 12);
        pending.push(3, 8, &Entries::One(b""), 12);
        let frames: Vec<_> = pending.frames().map(|(frame, ends, _)| (frame.first_seq, ends.len())).collect();
        assert_eq!(frames, [(0, 2), (2, 1), (3, 1)], "the second is full, the third has another time");
        assert_eq!(pending.end_seq(), Some(4));
        assert_eq!(data_of(&pending, 1).as_deref(), Some(&b"bb"[..]));
        assert_eq!(data_of(&pending, 3).as_deref(), Some(&b""[..]));
        assert_eq!(data_of(&pending, 4), None);
    }

    #[test]
    fn entries_from_a_seq_on_keep_their_bytes_and_batches() {
        let mut pending = PendingFrames::default();
        let batch: Batch = ["a", "bb", "ccc"].into_iter().collect();
        pending.push(5, 7, &Entries::Batch(&batch), 100);
        pending.push(8, 7, &Entries::One(b"d"), 100);
        let mut kept = PendingFrames::default();
        pending.slices_from(7).for_each(|slice| kept.push_slice(&slice));
        assert_eq!((kept.frames().next().map(|(frame, ..)| frame.first_seq), kept.end_seq()), (Some(7), Some(9)));
        assert_eq!(data_of(&kept, 6), None);
        assert_eq!(data_of(&kept, 7).as_deref(), Some(&b"ccc"[..]));
        assert_eq!(data_of(&kept, 8).as_deref(), Some(&b"d"[..]));
        let ends: Vec<u32> = kept.frames().flat_map(|(_, ends, _)| ends.to_vec()).collect();
        assert_eq!(ends, [3 | BATCH_END, 4 | BATCH_END]);
        assert!(kept.reserved > 0, "their space is to be reserved again");
    }

    #[test]
    fn a_longer_buffer_has_the_same_entries() {
        let mut pending = PendingFrames::default();
        pending.push(0, 7, &Entries::One(b"kept"), 100);
        pending.reserved = 48;
        let short = pending.move_to(PendingFrames::default());
        assert!(short.is_empty() && short.reserved == 0);
        assert_eq!(pending.reserved, 48);
        assert_eq!(data_of(&pending, 0).as_deref(), Some(&b"kept"[..]));
    }
}
