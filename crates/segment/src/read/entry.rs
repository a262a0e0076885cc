//! One entry of a span that an index found.

use std::ops::Range;

use bytes::Bytes;
use stratawal_frame::{ByteOffset, Decoded, FrameHeader, SeqNo, UnverifiedHeader, check_payload, entry_range};

use super::cursor::{FrameCursor, Step};
use super::data::{SegmentData, Source};
use crate::{Error, ErrorKind, Result};

/// Spans up to this are read onto the stack by [`SegmentData::entry`].
const SPAN_LEN_MAX: usize = 8 << 10;

/// An entry, as [`SegmentData::entry`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEntry {
    /// The timestamp of its frame, in microseconds since 1970.
    pub timestamp: u64,
    /// Its bytes.
    pub data: Bytes,
    /// What all the frames of the span are like, where all of their headers were checked, now or
    /// before: the next time
    /// [`SpanState::Verified`] may be said of it.
    pub layout: Option<FrameLayout>,
}

/// What the frames of a span are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameLayout {
    /// Each is as long as the first, and has as many entries; so it is known where each stands.
    Uniform,
    /// Not so.
    Varied,
}

/// What the caller knows of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanState {
    /// Nothing, and it will not remember anything: the span may still grow.
    Growing,
    /// Nothing, and it will remember: all headers of the span are checked.
    Unread,
    /// That it was gone through, in this very file or mapping, and what was answered then. Its
    /// headers are not checked again on the way to the frame wanted; nor, in a mapping, is the
    /// payload of a frame that is alone in its span. All else is checked each time.
    Verified(FrameLayout),
}

/// Where an entry stands in its span.
struct InSpan {
    timestamp: u64,
    range: Range<usize>,
    layout: Option<FrameLayout>,
}

impl SegmentData {
    /// Entry `seq` from the frames in `span`, which begins with the frame whose first seq is
    /// `expected`. Of a file that is read, the entry alone is kept, in memory of its own; of a
    /// mapping nothing is copied. `None` where more has to be read than this does: a span of over 8
    /// KiB, or one that ends before the entry does.
    ///
    /// # Errors
    /// Damage, frames of a newer version, I/O.
    pub fn entry(
        &self,
        span: Range<u64>,
        expected: SeqNo,
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
                let found = FrameCursor::new(self, &*block, offset, expected, len_max).entry(seq, state, false)?;
                Ok(found.map(|InSpan { timestamp, range, layout }| FoundEntry {
                    timestamp,
                    data: Bytes::copy_from_slice(&block[range]),
                    layout,
                }))
            }
            Source::Mapped(bytes) => {
                let Ok(from) = usize::try_from(span.start) else { return Ok(None) };
                let Some(block) = bytes.get(from..).and_then(|rest| rest.get(..len)) else { return Ok(None) };
                let found = FrameCursor::new(self, block, offset, expected, len_max).entry(seq, state, true)?;
                Ok(found.map(|InSpan { timestamp, range, layout }| FoundEntry {
                    timestamp,
                    data: bytes.slice(from + range.start..from + range.end),
                    layout,
                }))
            }
        }
    }
}

impl<B: AsRef<[u8]>> FrameCursor<B> {
    /// Entry `seq` of this block, which is a span; `None` where the block ends before it.
    fn entry(&mut self, seq: SeqNo, state: SpanState, mapped: bool) -> Result<Option<InSpan>> {
        match state {
            SpanState::Growing => self.entry_here(seq, false),
            SpanState::Unread => self.entry_of_all(seq),
            SpanState::Verified(layout) => {
                let here = (self.at, self.expected, self.place.offset);
                self.skip_verified(seq, layout);
                let hopped = self.at != here.0;
                match self.entry_here(seq, mapped) {
                    Ok(Some(found)) => Ok(Some(InSpan { layout: Some(layout), ..found })),
                    // What was valid is not now: this says where.
                    _ if hopped => {
                        (self.at, self.expected, self.place.offset) = here;
                        self.entry_here(seq, false)
                    }
                    other => other,
                }
            }
        }
    }

    /// Entry `seq`, and what all frames of the span are like, for the next time, whichever entry
    /// that is for.
    fn entry_of_all(&mut self, seq: SeqNo) -> Result<Option<InSpan>> {
        let (mut found, mut first, mut next, mut uniform) = (None, None, self.offset(), true);
        let ended = loop {
            match self.step(SeqNo(0)) {
                Ok(Step::At(offset, header, payload)) => {
                    let layout = (header.count, header.frame_len());
                    uniform &= offset == next && *first.get_or_insert(layout) == layout;
                    next = offset + header.frame_len();
                    if found.is_none() && header.end_seq() > seq {
                        found = Some((offset, header, payload));
                    }
                }
                Ok(Step::BlockEnd) => break true,
                Ok(Step::Incomplete(..)) => break false,
                Err(error) if found.is_none() => return Err(error),
                Err(_) => break false,
            }
        };
        let Some((offset, header, payload)) = found else { return Ok(None) };
        let found = self.checked(seq, offset, header, payload, false)?;
        let layout = if uniform && next == self.offset() { FrameLayout::Uniform } else { FrameLayout::Varied };
        Ok(found.map(|found| InSpan { layout: ended.then_some(layout), ..found }))
    }

    /// Passes over frames that end at or below `seq`, whose headers were valid before. What the
    /// frame that this leads to says of its place and its seq is checked.
    fn skip_verified(&mut self, seq: SeqNo, layout: FrameLayout) {
        let block = self.block.as_ref();
        if layout == FrameLayout::Uniform {
            let there = || {
                let first = block.get(self.at..).and_then(UnverifiedHeader::at)?;
                let frames = seq.0.checked_sub(self.expected.0)?.checked_div(u64::from(first.count))?;
                let distance = usize::try_from(frames.checked_mul(first.frame_len())?).ok()?;
                let at = self.at.checked_add(distance).filter(|&at| at < block.len())?;
                Some((at, self.expected.checked_add(frames.checked_mul(u64::from(first.count))?)?))
            };
            (self.at, self.expected) = there().unwrap_or((self.at, self.expected));
            return;
        }
        while let Some(header) = block.get(self.at..).and_then(UnverifiedHeader::at)
            && header.first_seq == self.expected
            && let Some(end_seq) = header.end_seq().filter(|&end| end <= seq)
            && let Ok(len) = usize::try_from(header.frame_len())
            && len <= block.len() - self.at
        {
            (self.at, self.expected) = (self.at + len, end_seq);
        }
    }

    /// Entry `seq` from here on. The payload of a frame that is the whole block is not checked if
    /// it is `verified`.
    fn entry_here(&mut self, seq: SeqNo, verified: bool) -> Result<Option<InSpan>> {
        match self.step(seq)? {
            Step::At(offset, header, payload) => self.checked(seq, offset, header, payload, verified),
            Step::Incomplete(..) | Step::BlockEnd => Ok(None),
        }
    }

    /// Entry `seq` of the frame with this header, whose payload is there.
    fn checked(
        &mut self,
        seq: SeqNo,
        offset: ByteOffset,
        header: FrameHeader,
        payload: Range<usize>,
        verified: bool,
    ) -> Result<Option<InSpan>> {
        let bytes = &self.block.as_ref()[payload.clone()];
        if !verified || header.frame_len() != self.block.as_ref().len() as u64 {
            match check_payload(&header, bytes) {
                Decoded::Frame(()) => {}
                other => return Err(self.not_valid(offset, header, &other)),
            }
        }
        let i = seq.0.checked_sub(header.first_seq.0).and_then(|i| u32::try_from(i).ok());
        let range = i.and_then(|i| entry_range(header.count, bytes, i));
        Ok(range.map(|range| InSpan {
            timestamp: header.timestamp,
            range: payload.start + range.start..payload.start + range.end,
            layout: None,
        }))
    }
}
