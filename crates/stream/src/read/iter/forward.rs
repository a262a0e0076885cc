//! The front of an iterator. It reads a segment block by block, and a block frame by frame.

use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{ByteOffset, SeqNo};
use stratawal_segment::{BLOCK_LEN_MAX, CursorStep, FrameCursor, FrameEntry, FrameRef};

use super::Iter;
use crate::batch::{Entry, Run};
use crate::error::{Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::read::damage::FrameStart;
use crate::read::locate::OpenSegment;

/// The length in bytes of the first block that an iterator reads. Each further block is twice as
/// long.
pub(super) const BLOCK_LEN_MIN: u64 = 16 << 10;

/// A run ends with the first frame that makes it at least this long, in bytes. Its frames are read
/// twice, and at this length the second read hits the processor's nearest cache.
const RUN_LEN: usize = 16 << 10;

/// The position of the front: in a segment, in a block of it, in a frame of the block.
pub(super) struct Forward {
    pub(super) segment: OpenSegment,
    pub(super) cursor: FrameCursor,
    pub(super) frame: Option<FrameRef>,
    /// How many bytes the next block has, unless the segment ends earlier.
    pub(super) block_len: u64,
}

impl Iter {
    /// Reads the entry at the front.
    pub(super) fn read_front(&mut self) -> Result<Entry> {
        let seq = self.front;
        let back = self.back;
        loop {
            if let Some(entry) = self.forward.as_ref().and_then(|forward| forward.entry(seq)) {
                return Ok(entry);
            }
            if let Some(entry) = self.read_tail(seq, |inner| inner.tail_run_from(seq, back))? {
                self.forward = None;
                return Ok(entry);
            }
            let Some(forward) = self.forward.as_mut().filter(|forward| seq < forward.segment.limit) else {
                self.forward = Some(self.enter(seq)?);
                continue;
            };
            match forward.advance(&self.inner, seq) {
                Ok(()) => {}
                // The damage is between the last frame of entries and the next one, whose position
                // the index knows. No entry is lost.
                Err(error) if error.is_damage() && forward.loses_no_entry(seq) => {
                    self.forward = Some(self.enter(seq)?);
                }
                // The damage is before the frame of this entry: in a control frame, or in entries
                // below the range of the iterator.
                Err(error) if error.is_damage() => {
                    let last = self.inner.last_after_damage(&forward.segment, &forward.cursor, seq);
                    forward.resume_at(&self.inner, last.ok_or(error)?);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens the segment that holds `seq`.
    pub(super) fn enter(&mut self, seq: u64) -> Result<Forward> {
        let shared = &self.inner.shared;
        let start = shared.watermarks.start();
        let snapshot = shared.snapshot.load();
        self.last_snapshot = Some(Arc::clone(&snapshot));
        let i = snapshot.find(seq).filter(|_| seq >= start);
        let i = i.ok_or_else(|| Error::new(ErrorKind::Truncated { first_seq: start }, &shared.location))?;
        let segment = self.inner.open_segment(&snapshot, i)?;
        let (point, _) = segment.reader.span(seq);
        let start = FrameStart { offset: ByteOffset(point.offset), first_seq: SeqNo(point.seq) };
        let cursor = cursor_at(&self.inner, &segment, start, Bytes::new());
        Ok(Forward { segment, cursor, frame: None, block_len: BLOCK_LEN_MIN })
    }
}

impl Forward {
    /// Returns entry `seq` if the current frame holds it.
    #[inline]
    pub(super) fn entry(&self, seq: u64) -> Option<Entry> {
        let frame = self.frame.as_ref().filter(|_| seq < self.segment.limit)?;
        let FrameEntry { data, ends_batch } = self.cursor.entry(frame, SeqNo(seq))?;
        let ends_batch = self.segment.ends_batch(seq, ends_batch);
        Some(Entry { seq, timestamp: frame.header().timestamp, data, ends_batch })
    }

    /// Returns those entries from `seq` to `back` that are in the current frame, or in the frames
    /// of the same timestamp that follow it in the block.
    #[inline]
    pub(super) fn run(&mut self, seq: u64, back: u64) -> Option<Run> {
        let first = self.frame.take()?;
        let timestamp = first.header().timestamp;
        let back = back.min(self.segment.limit);
        let mut last = first.clone();
        // Afterwards the current frame is the last of the run, or the one after it.
        self.frame = loop {
            let end = last.header().end_seq();
            if end.0 >= back || last.len_from(&first) >= RUN_LEN {
                break Some(last.clone());
            }
            match self.cursor.try_next(end) {
                Some(next) if next.header().timestamp == timestamp => last = next,
                Some(next) => break Some(next),
                None => break Some(last.clone()),
            }
        };
        let end = last.header().end_seq().0.min(back);
        Run::of_frames(first.header(), self.cursor.bytes_of(&first, &last), seq..end, end == self.segment.limit)
    }

    /// Steps to the next frame that reaches `seq`; at the end of the block, reads the next block
    /// instead. If it fails at a damaged payload, the next call steps to the frame after the
    /// damaged one.
    pub(super) fn advance(&mut self, inner: &Inner, seq: u64) -> Result<()> {
        let failed = |e, lost| Error::segment_error(&inner.shared.location, e).with_lost(lost);
        let (at, needed) = match self.cursor.seek(SeqNo(seq)) {
            Ok(CursorStep::Frame(frame)) => {
                self.frame = Some(frame);
                return Ok(());
            }
            Ok(CursorStep::Incomplete { at, len }) => (at, len),
            Ok(CursorStep::BlockEnd) => (self.cursor.offset(), 0),
            Err(e) => return Err(failed(e, inner.lost_at(&self.segment, &self.cursor))),
        };
        let expected = self.cursor.next_seq();
        // The end is reloaded, because the active segment may have grown, and every entry below a
        // watermark is before its end.
        let end = self.segment.reader.end();
        if at.0 + needed.max(1) > end {
            return Err(inner.ends_early(&self.segment, at.0, expected.0));
        }
        let len = self.block_len.max(needed).min(end - at.0);
        let data = self.segment.reader.data();
        self.frame = None;
        // The memory of the last block is reused, unless the caller keeps an entry of it.
        let used = self.cursor.take_block();
        let block = data.block_over(at.0..at.0 + len, used);
        let block = block.map_err(|e| failed(e, inner.lost_from(&self.segment, expected.0)))?;
        // Slicing a mapping costs the same at any length.
        self.block_len = if data.is_mapped() { u64::MAX } else { (self.block_len * 2).min(BLOCK_LEN_MAX) };
        self.cursor = cursor_at(inner, &self.segment, FrameStart { offset: at, first_seq: expected }, block);
        Ok(())
    }

    /// Continues at a frame after damage.
    pub(super) fn resume_at(&mut self, inner: &Inner, frame: FrameStart) {
        self.frame = None;
        self.cursor = cursor_at(inner, &self.segment, frame, Bytes::new());
    }

    /// Whether the failed frame held no entry: its header is damaged, and the index has a point for
    /// `seq`, the next entry, after it.
    fn loses_no_entry(&self, seq: u64) -> bool {
        let (point, _) = self.segment.reader.span(seq);
        self.cursor.failed_frame().is_none() && point.seq == seq && point.offset > self.cursor.offset().0
    }
}

/// A cursor over `block`, which begins with the frame `start`.
fn cursor_at(inner: &Inner, segment: &OpenSegment, start: FrameStart, block: Bytes) -> FrameCursor {
    let len_max = inner.shared.options.frame_len_max();
    FrameCursor::new(segment.reader.data(), block, start.offset, start.first_seq, len_max)
}
