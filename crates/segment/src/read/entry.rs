//! Reads one entry from a span, the part of a file between two points of its index.

use std::ops::Range;

use bytes::Bytes;
use stratawal_frame::{ByteOffset, SeqNo, UnverifiedHeader, ends_batch, entry_range};

use super::cursor::{CursorStep, FrameCursor, FrameRef, index_in};
use super::data::{SegmentData, Source};
use crate::{Error, ErrorKind, Result};

/// The longest span that [`SegmentData::entry`] reads. It reads spans onto the stack.
const SPAN_LEN_MAX: usize = 8 << 10;

/// An entry that [`SegmentData::entry`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEntry {
    /// The timestamp of its frame, in microseconds since 1970.
    pub timestamp: u64,
    /// Its bytes.
    pub data: Bytes,
    /// Whether it is the last entry of its batch.
    pub ends_batch: bool,
    /// The layout of the span, if this call or an earlier one checked all its headers. The next
    /// call may pass it as [`SpanState::Verified`].
    pub layout: Option<FrameLayout>,
}

/// How the frames of a span are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameLayout {
    /// All frames have the same length and entry count as the first, so that the position of each
    /// can be computed.
    Uniform,
    /// The frames differ, or there are control frames among them.
    Varied,
}

/// The caller's knowledge of a span from earlier calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanState {
    /// The caller knows nothing, and the span may still grow. The headers after the frame of the
    /// entry are not checked.
    Growing,
    /// The caller knows nothing, and the span is complete. All its headers are checked, so that the
    /// caller can remember the layout.
    Unread,
    /// An earlier call checked all headers of the span in this file or mapping, and returned this
    /// layout. The headers before the frame of the entry are not checked again. In a mapping, the
    /// payload of a frame that is the only one in its span is also not checked again. Everything
    /// else is checked each time.
    Verified(FrameLayout),
}

/// The position of an entry in the block of a span.
struct InSpan {
    timestamp: u64,
    range: Range<usize>,
    ends_batch: bool,
    layout: Option<FrameLayout>,
}

impl SegmentData {
    /// Reads entry `seq` from the frames in `span`, which begins with the frame whose first seq is
    /// `first_seq`. An entry of a file that is read gets its own memory; an entry of a mapping is
    /// not copied. Returns `None` if this function does not read enough, because the span is longer
    /// than 8 KiB or ends before the entry does.
    ///
    /// # Errors
    /// Damage, frames of a newer version, I/O.
    pub fn entry(
        &self,
        span: Range<u64>,
        first_seq: SeqNo,
        seq: SeqNo,
        len_max: u64,
        state: SpanState,
    ) -> Result<Option<FoundEntry>> {
        let offset = ByteOffset(span.start);
        let Ok(len) = usize::try_from(span.end.saturating_sub(span.start)) else { return Ok(None) };
        match &self.source {
            Source::Read(file) => {
                let mut buf = [0; SPAN_LEN_MAX];
                let Some(block) = buf.get_mut(..len) else { return Ok(None) };
                let failed = |source| Error::new(self.id, Some(offset), ErrorKind::Io { operation: "read", source });
                file.read_exact_at(block, span.start).map_err(failed)?;
                let found = FrameCursor::new(self, &*block, offset, first_seq, len_max).find(seq, state, false)?;
                Ok(found.map(|InSpan { timestamp, range, ends_batch, layout }| FoundEntry {
                    timestamp,
                    data: Bytes::copy_from_slice(&block[range]),
                    ends_batch,
                    layout,
                }))
            }
            Source::Mapped(bytes) => {
                let Ok(from) = usize::try_from(span.start) else { return Ok(None) };
                let Some(block) = bytes.get(from..).and_then(|rest| rest.get(..len)) else { return Ok(None) };
                let found = FrameCursor::new(self, block, offset, first_seq, len_max).find(seq, state, true)?;
                Ok(found.map(|InSpan { timestamp, range, ends_batch, layout }| FoundEntry {
                    timestamp,
                    data: bytes.slice(from + range.start..from + range.end),
                    ends_batch,
                    layout,
                }))
            }
        }
    }
}

impl FrameCursor<&[u8]> {
    /// Finds entry `seq` in the block, which is a span. Returns `None` if the block ends before the
    /// entry does.
    fn find(&mut self, seq: SeqNo, state: SpanState, mapped: bool) -> Result<Option<InSpan>> {
        let layout = match state {
            SpanState::Growing => return self.find_here(seq, false),
            SpanState::Unread => return self.find_in_unread(seq),
            SpanState::Verified(layout) => layout,
        };
        let begin = self.position();
        self.skip_verified(seq, layout);
        let has_skipped = self.position() != begin;
        match self.find_here(seq, mapped) {
            Ok(Some(found)) => Ok(Some(InSpan { layout: Some(layout), ..found })),
            // A header that was valid is no longer valid. Stepping from the beginning reports which
            // one.
            _ if has_skipped => {
                self.set_position(begin);
                self.find_here(seq, false)
            }
            other => other,
        }
    }

    /// Finds entry `seq`, starting at the cursor. If `is_verified` is set, the payload of a frame
    /// that is the whole block is not checked.
    fn find_here(&mut self, seq: SeqNo, is_verified: bool) -> Result<Option<InSpan>> {
        match self.seek_unverified(seq)? {
            CursorStep::Frame(frame) => self.in_frame(seq, &frame, self.offset_of(&frame), is_verified),
            CursorStep::Incomplete { .. } | CursorStep::BlockEnd => Ok(None),
        }
    }

    /// Finds entry `seq`, and the layout of all frames of the block, including those after the
    /// entry.
    fn find_in_unread(&mut self, seq: SeqNo) -> Result<Option<InSpan>> {
        let begin = self.offset();
        let mut found: Option<FrameRef> = None;
        let mut first = None;
        let mut frames_len = 0;
        let mut is_uniform = true;
        let is_complete = loop {
            match self.seek_unverified(SeqNo(0)) {
                Ok(CursorStep::Frame(frame)) => {
                    let header = frame.header();
                    let len = header.frame_len();
                    let shape = (header.count, len);
                    is_uniform &= frame.start() as u64 == frames_len && *first.get_or_insert(shape) == shape;
                    frames_len = frame.start() as u64 + len;
                    if found.is_none() && header.end_seq() > seq {
                        found = Some(frame);
                    }
                }
                Ok(CursorStep::BlockEnd) => break true,
                Ok(CursorStep::Incomplete { .. }) => break false,
                Err(error) if found.is_none() => return Err(error),
                Err(_) => break false,
            }
        };
        let Some(frame) = found else { return Ok(None) };
        let found = self.in_frame(seq, &frame, begin + frame.start() as u64, false)?;
        let is_uniform = is_uniform && begin + frames_len == self.offset();
        let layout = if is_uniform { FrameLayout::Uniform } else { FrameLayout::Varied };
        Ok(found.map(|found| InSpan { layout: is_complete.then_some(layout), ..found }))
    }

    /// Skips frames that end at or below `seq` and whose headers were found valid earlier. The
    /// frame after them is checked like any other, including its position and first seq.
    fn skip_verified(&mut self, seq: SeqNo, layout: FrameLayout) {
        match layout {
            FrameLayout::Uniform => {
                if let Some((len, next_seq)) = self.uniform_skip(seq) {
                    self.skip(len, next_seq);
                }
            }
            FrameLayout::Varied => {
                while let Some(header) = UnverifiedHeader::at(self.rest())
                    && header.first_seq == self.next_seq()
                    && let Some(end_seq) = header.end_seq().filter(|&end| end <= seq)
                    && let Ok(len) = usize::try_from(header.frame_len())
                    && len <= self.rest().len()
                {
                    self.skip(len, end_seq);
                }
            }
        }
    }

    /// If all frames are like the next one: returns how many bytes of frames come before entry
    /// `seq`, and the first seq after them, or `None` if that passes the end of the block.
    fn uniform_skip(&self, seq: SeqNo) -> Option<(usize, SeqNo)> {
        let first = UnverifiedHeader::at(self.rest())?;
        let count = u64::from(first.count);
        let frames = seq.0.checked_sub(self.next_seq().0)?.checked_div(count)?;
        let len = usize::try_from(frames.checked_mul(first.frame_len())?).ok()?;
        let next_seq = self.next_seq().checked_add(frames.checked_mul(count)?)?;
        (len < self.rest().len()).then_some((len, next_seq))
    }

    /// Returns entry `seq` of `frame`, which begins at `offset`. Checks the payload, unless
    /// `is_verified` is set and the frame is the whole block.
    fn in_frame(
        &mut self,
        seq: SeqNo,
        frame: &FrameRef,
        offset: ByteOffset,
        is_verified: bool,
    ) -> Result<Option<InSpan>> {
        let header = frame.header();
        if !is_verified || header.frame_len() != self.block().len() as u64 {
            self.verify(frame, offset)?;
        }
        let payload = frame.payload();
        let bytes = &self.block()[payload.clone()];
        let Some(i) = index_in(header, seq) else { return Ok(None) };
        Ok(entry_range(header.count, bytes, i).map(|range| InSpan {
            timestamp: header.timestamp,
            range: payload.start + range.start..payload.start + range.end,
            ends_batch: ends_batch(header.count, bytes, i),
            layout: None,
        }))
    }
}
