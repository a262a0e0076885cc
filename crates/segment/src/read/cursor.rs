//! Steps from frame to frame through a block of a segment.
//!
//! Every reader of published frames steps through [`FrameCursor::header`]: iterators and point
//! reads with whole frames, the look-up of a checksum with headers only. The scans of a file that
//! may end anywhere (`scan/`) follow a different rule, by which an invalid frame is an end rather
//! than damage, and do not use the cursor.

use std::ops::Range;

use bytes::Bytes;
use stratawal_frame::{
    ByteOffset, Decoded, FRAME_HEADER_LEN, FrameHeader, FramePosition, Invalid, Limits, SeqNo, check_payload,
    decode_header, ends_batch, entry_range,
};

use super::data::SegmentData;
use crate::{Error, ErrorKind, Result, SegmentId};

/// A verified frame of entries in the block of a [`FrameCursor`]. The cursor returns its bytes.
#[derive(Clone, Debug)]
pub struct FrameRef {
    header: FrameHeader,
    payload: Range<usize>,
}

impl FrameRef {
    /// The header of the frame.
    #[must_use]
    pub const fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The number of bytes from the beginning of `first` to the end of this frame's payload.
    #[must_use]
    pub const fn len_from(&self, first: &Self) -> usize {
        self.payload.end.saturating_sub(first.start())
    }

    pub(super) const fn payload(&self) -> &Range<usize> {
        &self.payload
    }

    pub(super) const fn start(&self) -> usize {
        self.payload.start - FRAME_HEADER_LEN
    }
}

/// A verified frame of entries that no longer needs its cursor. It keeps the memory of the block
/// alive.
#[derive(Clone, Debug)]
pub struct OwnedFrame {
    header: FrameHeader,
    payload: Bytes,
}

impl OwnedFrame {
    /// The header of the frame.
    #[must_use]
    pub const fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// Returns entry `seq`, or `None` if the frame does not hold it.
    #[must_use]
    pub fn entry(&self, seq: SeqNo) -> Option<FrameEntry> {
        let i = index_in(&self.header, seq)?;
        let data = self.payload.slice(entry_range(self.header.count, &self.payload, i)?);
        Some(FrameEntry { data, ends_batch: ends_batch(self.header.count, &self.payload, i) })
    }
}

/// An entry of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// The bytes of the entry.
    pub data: Bytes,
    /// Whether the entry is the last of its batch.
    pub ends_batch: bool,
}

/// The result of [`FrameCursor::seek`].
#[derive(Clone, Debug)]
pub enum CursorStep {
    /// A frame of entries that reaches the seq.
    Frame(FrameRef),
    /// The block ends within the frame at `at`. The caller continues with a block that begins
    /// there.
    Incomplete {
        /// Where the frame begins.
        at: ByteOffset,
        /// The number of bytes from `at` that the next step needs: the length of the frame, or only
        /// of its header if the block does not have the whole header.
        len: u64,
    },
    /// The block ends at the end of a frame, or within a control frame.
    BlockEnd,
}

/// A cursor in a block of a segment. It steps from frame to frame and checks that each follows the
/// one before.
///
/// A block is part of the published file, so anything other than the expected frame is damage.
#[derive(Clone, Debug)]
pub struct FrameCursor<B = Bytes> {
    id: SegmentId,
    /// The position at which the block begins. If a control frame extends past the block, this
    /// position is shifted by the missing bytes, so that `offset` is right.
    block_position: FramePosition,
    limits: Limits,
    frame_len_max: u64,
    next_seq: SeqNo,
    block: B,
    /// Where the next frame begins in the block.
    at: usize,
    failed: Option<FrameHeader>,
}

/// A saved position of a cursor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    block_offset: ByteOffset,
    at: usize,
    next_seq: SeqNo,
}

impl<B> FrameCursor<B> {
    /// A cursor over `block`, which begins at `offset` in the segment, with the frame whose first
    /// seq is `next_seq`. Refuses frames of entries longer than `frame_len_max` bytes.
    #[must_use]
    pub fn new(data: &SegmentData, block: B, offset: ByteOffset, next_seq: SeqNo, frame_len_max: u64) -> Self {
        Self {
            id: data.id(),
            block_position: FramePosition { salt: data.header().salt, offset },
            limits: Limits { base: data.header().base, end: ByteOffset(u64::MAX) },
            frame_len_max,
            next_seq,
            block,
            at: 0,
            failed: None,
        }
    }

    /// The file offset at which the next step begins.
    #[must_use]
    pub fn offset(&self) -> ByteOffset {
        self.block_position.offset + self.at as u64
    }

    /// The first seq that the next frame must have.
    #[must_use]
    pub const fn next_seq(&self) -> SeqNo {
        self.next_seq
    }

    /// The frame at whose payload the last [`seek`](Self::seek) failed. Its header is valid, so its
    /// entries are known, and the next step begins after it. `None` if nothing failed, or if the
    /// header is damaged; in that case the cursor cannot step over the damage.
    #[must_use]
    pub const fn failed_frame(&self) -> Option<&FrameHeader> {
        self.failed.as_ref()
    }

    pub(super) const fn position(&self) -> Position {
        Position { block_offset: self.block_position.offset, at: self.at, next_seq: self.next_seq }
    }

    pub(super) fn set_position(&mut self, position: Position) {
        self.block_position.offset = position.block_offset;
        self.at = position.at;
        self.next_seq = position.next_seq;
    }
}

impl<B: AsRef<[u8]>> FrameCursor<B> {
    /// Steps to the next frame of entries that holds `seq` or a later entry, and verifies it.
    /// Earlier frames and control frames are skipped by their headers; their payloads are not
    /// checked.
    ///
    /// # Errors
    /// Damage, and frames of a newer version.
    #[inline]
    pub fn seek(&mut self, seq: SeqNo) -> Result<CursorStep> {
        let step = self.seek_unverified(seq)?;
        if let CursorStep::Frame(frame) = &step {
            self.verify(frame, self.offset_of(frame))?;
        }
        Ok(step)
    }

    /// Returns the next frame if it is complete in the block, is a valid frame of entries, and
    /// reaches `seq`. Otherwise returns `None` and does not move; [`seek`](Self::seek) then reports
    /// the reason.
    // Iterators call this for every frame, so it does not call `header`, which returns errors. With
    // that call, a scan of single entries took 730 instructions an entry; without it, 635.
    #[inline]
    #[must_use]
    pub fn try_next(&mut self, seq: SeqNo) -> Option<FrameRef> {
        let Decoded::Frame(header) = self.decode_next() else { return None };
        let len = header.frame_len();
        let end_seq = header.end_seq();
        if header.is_control() || header.first_seq != self.next_seq || end_seq <= seq || len > self.frame_len_max {
            return None;
        }
        let rest = self.rest();
        let len = usize::try_from(len).ok().filter(|&len| len <= rest.len())?;
        let payload = FRAME_HEADER_LEN..FRAME_HEADER_LEN + header.payload_len as usize;
        let Decoded::Frame(()) = check_payload(&header, rest.get(payload.clone())?) else { return None };
        let payload = self.at + payload.start..self.at + payload.end;
        self.at += len;
        self.next_seq = end_seq;
        self.failed = None;
        Some(FrameRef { header, payload })
    }

    /// Like [`seek`](Self::seek), but does not check the payload of the frame found.
    pub(super) fn seek_unverified(&mut self, seq: SeqNo) -> Result<CursorStep> {
        self.failed = None;
        let block_len = self.block.as_ref().len();
        while self.at < block_len {
            let Some(header) = self.header()? else {
                return Ok(CursorStep::Incomplete { at: self.offset(), len: FRAME_HEADER_LEN as u64 });
            };
            let is_whole = header.frame_len() <= (block_len - self.at) as u64;
            if !is_whole && !header.is_control() {
                return Ok(CursorStep::Incomplete { at: self.offset(), len: header.frame_len() });
            }
            let from = self.at + FRAME_HEADER_LEN;
            // A control frame is skipped completely, even if the block ends within it.
            self.pass(&header);
            if !header.is_control() && header.end_seq() > seq {
                let payload = from..from + header.payload_len as usize;
                return Ok(CursorStep::Frame(FrameRef { header, payload }));
            }
        }
        Ok(CursorStep::BlockEnd)
    }

    /// Returns the header of the next frame, or `None` if the block ends before the header does.
    #[inline]
    pub(super) fn header(&self) -> Result<Option<FrameHeader>> {
        let expected = self.next_seq;
        let header = match self.decode_next() {
            Decoded::Frame(header) => header,
            Decoded::Incomplete { .. } => return Ok(None),
            Decoded::Blank if self.rest().len() < FRAME_HEADER_LEN => return Ok(None),
            Decoded::Blank => return Err(self.error(self.offset(), ErrorKind::Missing { expected })),
            Decoded::Invalid(why) => return Err(self.error(self.offset(), ErrorKind::Invalid(why))),
            Decoded::Newer(what) => return Err(self.error(self.offset(), ErrorKind::Newer(what))),
        };
        if header.first_seq != expected {
            return Err(self.error(self.offset(), ErrorKind::Gap { expected, found: header.first_seq }));
        }
        let len = header.frame_len();
        let max = self.frame_len_max;
        if len > max && !header.is_control() {
            return Err(self.error(self.offset(), ErrorKind::TooLarge { len, max }));
        }
        Ok(Some(header))
    }

    #[inline]
    fn decode_next(&self) -> Decoded<FrameHeader> {
        let position = FramePosition { offset: self.offset(), ..self.block_position };
        decode_header(self.rest(), &position, &self.limits)
    }

    /// Moves to the end of the next frame, which has this header. That end may be past the block.
    #[inline]
    pub(super) fn pass(&mut self, header: &FrameHeader) {
        let rest_len = self.rest().len();
        match usize::try_from(header.frame_len()) {
            Ok(len) if len <= rest_len => self.at += len,
            _ => {
                self.block_position.offset = self.block_position.offset + (header.frame_len() - rest_len as u64);
                self.at += rest_len;
            }
        }
        self.next_seq = header.end_seq();
    }

    /// Checks the payload of `frame`, which begins at `offset` of the file.
    #[inline]
    pub(super) fn verify(&mut self, frame: &FrameRef, offset: ByteOffset) -> Result<()> {
        let kind = match check_payload(&frame.header, &self.block.as_ref()[frame.payload.clone()]) {
            Decoded::Frame(()) => return Ok(()),
            Decoded::Newer(what) => ErrorKind::Newer(what),
            Decoded::Invalid(why) => ErrorKind::Invalid(why),
            Decoded::Incomplete { .. } | Decoded::Blank => ErrorKind::Invalid(Invalid::Implausible),
        };
        self.failed = Some(frame.header);
        Err(self.error(offset, kind))
    }

    /// The file offset of `frame`, which must be the last frame found.
    #[inline]
    pub(super) fn offset_of(&self, frame: &FrameRef) -> ByteOffset {
        self.block_position.offset + frame.start() as u64
    }

    /// The bytes of the block.
    pub(super) fn block(&self) -> &[u8] {
        self.block.as_ref()
    }

    /// The rest of the block, beginning with the next frame.
    #[inline]
    pub(super) fn rest(&self) -> &[u8] {
        &self.block.as_ref()[self.at..]
    }

    /// Skips `len` bytes and the entries below `next_seq`. The bytes must be in the block.
    pub(super) fn skip(&mut self, len: usize, next_seq: SeqNo) {
        debug_assert!(len <= self.rest().len(), "the bytes are in the block");
        self.at += len;
        self.next_seq = next_seq;
    }

    #[cold]
    fn error(&self, offset: ByteOffset, kind: ErrorKind) -> Error {
        Error::new(self.id, Some(offset), kind)
    }
}

impl FrameCursor {
    /// Returns entry `seq` of a frame of this block, or `None` if the frame does not hold the entry
    /// or is from another block.
    #[inline]
    #[must_use]
    pub fn entry(&self, frame: &FrameRef, seq: SeqNo) -> Option<FrameEntry> {
        let i = index_in(&frame.header, seq)?;
        let payload = self.block.get(frame.payload.clone())?;
        let range = entry_range(frame.header.count, payload, i)?;
        let ends_batch = ends_batch(frame.header.count, payload, i);
        let data = self.block.slice(frame.payload.start + range.start..frame.payload.start + range.end);
        Some(FrameEntry { data, ends_batch })
    }

    /// Returns a frame of this block in a form that needs no cursor. It has no entries if `frame`
    /// is from another block.
    #[inline]
    #[must_use]
    pub fn detach(&self, frame: &FrameRef) -> OwnedFrame {
        let is_here = frame.payload.end <= self.block.len();
        let payload = if is_here { self.block.slice(frame.payload.clone()) } else { Bytes::new() };
        OwnedFrame { header: frame.header, payload }
    }

    /// The bytes of this block from the beginning of frame `first` to the end of the payload of
    /// frame `last`, including headers. Empty if the frames are from another block.
    #[inline]
    #[must_use]
    pub fn bytes_of(&self, first: &FrameRef, last: &FrameRef) -> Bytes {
        let range = first.start()..last.payload.end;
        if range.start > range.end || range.end > self.block.len() { Bytes::new() } else { self.block.slice(range) }
    }

    /// Takes the block, so that its memory can be reused. The cursor keeps its position but has an
    /// empty block.
    pub fn take_block(&mut self) -> Bytes {
        self.block_position.offset = self.offset();
        self.at = 0;
        std::mem::take(&mut self.block)
    }
}

/// The index of entry `seq` in its frame, or `None` if `seq` is below the frame's first seq.
#[inline]
pub(super) fn index_in(header: &FrameHeader, seq: SeqNo) -> Option<u32> {
    u32::try_from(seq.0.checked_sub(header.first_seq.0)?).ok()
}
