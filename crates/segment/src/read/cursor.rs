//! Stepping through the frames of a block.

use std::ops::Range;

use bytes::Bytes;
use stratawal_frame::{
    ByteOffset, Decoded, FRAME_HEADER_LEN, Frame, FrameHeader, FramePosition, Invalid, Limits, SeqNo, check_payload,
    decode_header, decode_payload, entry_range,
};

use super::data::SegmentData;
use crate::{Error, ErrorKind, Result, SegmentId};

/// A frame, and where it stands.
#[derive(Clone, Debug)]
pub struct FrameAt {
    /// Where it begins in the file.
    pub offset: ByteOffset,
    /// The frame, verified.
    pub frame: Frame,
}

/// A frame of entries, verified, that stands in the block at hand.
#[derive(Clone, Debug)]
pub struct FrameRef {
    header: FrameHeader,
    payload: Range<usize>,
}

impl FrameRef {
    /// The header.
    #[must_use]
    pub const fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// How many bytes of the block there are from the beginning of `first` to the end of this.
    #[must_use]
    pub const fn bytes_from(&self, first: &Self) -> usize {
        self.payload.end.saturating_sub(first.start())
    }

    const fn start(&self) -> usize {
        self.payload.start - FRAME_HEADER_LEN
    }
}

/// What [`FrameCursor::seek`] and [`FrameCursor::seek_ref`] found.
#[derive(Clone, Debug)]
pub enum CursorStep<F = FrameAt> {
    /// A frame of entries that reaches the seq asked for.
    Frame(F),
    /// The block ends within the frame at `at`, which takes `len` bytes from there (as far as that
    /// is known).
    Incomplete {
        /// Where the frame begins.
        at: ByteOffset,
        /// Bytes needed from there.
        len: u64,
    },
    /// The block ends where a frame ends.
    BlockEnd,
}

/// Steps through the frames of a block of a segment, each checked to follow the one before.
#[derive(Clone, Debug)]
pub struct FrameCursor<B = Bytes> {
    id: SegmentId,
    pub(super) place: FramePosition,
    limits: Limits,
    frame_len_max: u64,
    pub(super) expected: SeqNo,
    pub(super) block: B,
    pub(super) at: usize,
    failed: Option<FrameHeader>,
}

/// Where a step has come to.
pub(super) enum Step {
    /// At a whole frame of entries that reaches the seq asked for; its payload is not checked yet.
    At(ByteOffset, FrameHeader, Range<usize>),
    Incomplete(ByteOffset, u64),
    BlockEnd,
}

impl<B> FrameCursor<B> {
    /// A cursor over `block`, which begins at `offset` of the segment, with the frame whose first seq
    /// is `expected`. Frames longer than `frame_len_max` bytes are refused.
    #[must_use]
    pub fn new(data: &SegmentData, block: B, offset: ByteOffset, expected: SeqNo, frame_len_max: u64) -> Self {
        Self {
            id: data.id,
            place: FramePosition { salt: data.header.salt, offset },
            limits: Limits { base: data.header.base, end: ByteOffset(u64::MAX) },
            frame_len_max,
            expected,
            block,
            at: 0,
            failed: None,
        }
    }
}

impl FrameCursor {
    /// Takes the block, with which there is nothing left to step through.
    pub fn take_block(&mut self) -> Bytes {
        (self.place.offset, self.at) = (self.offset(), 0);
        std::mem::take(&mut self.block)
    }

    /// The next frame of entries that holds `seq` or entries behind it. Frames before it are passed
    /// over by their headers, without their payloads being checked; control frames too.
    ///
    /// # Errors
    /// Damage of any kind, and frames of a newer version.
    pub fn seek(&mut self, seq: SeqNo) -> Result<CursorStep> {
        match self.step(seq)? {
            Step::At(offset, header, payload) => match decode_payload(header, self.block.slice(payload)) {
                Decoded::Frame(frame) => Ok(CursorStep::Frame(FrameAt { offset, frame })),
                other => Err(self.not_valid(offset, header, &other)),
            },
            Step::Incomplete(at, len) => Ok(CursorStep::Incomplete { at, len }),
            Step::BlockEnd => Ok(CursorStep::BlockEnd),
        }
    }
}

impl FrameCursor {
    /// As [`seek`](Self::seek), but for those who take entries out while the
    /// block is at hand: the frame is no more than its header and its place.
    ///
    /// # Errors
    /// As `seek`.
    #[inline]
    pub fn seek_ref(&mut self, seq: SeqNo) -> Result<CursorStep<FrameRef>> {
        match self.step(seq)? {
            Step::At(offset, header, payload) => match check_payload(&header, &self.block[payload.clone()]) {
                Decoded::Frame(()) => Ok(CursorStep::Frame(FrameRef { header, payload })),
                other => Err(self.not_valid(offset, header, &other)),
            },
            Step::Incomplete(at, len) => Ok(CursorStep::Incomplete { at, len }),
            Step::BlockEnd => Ok(CursorStep::BlockEnd),
        }
    }

    /// The frame of entries that stands here, where it is whole, valid, the one that is expected,
    /// and reaches `seq`. `None` in any other case; then nothing has changed, and
    /// [`seek_ref`](Self::seek_ref) says what there is.
    #[inline]
    pub fn try_next(&mut self, seq: SeqNo) -> Option<FrameRef> {
        let rest = self.block.get(self.at..)?;
        let place = FramePosition { offset: self.offset(), ..self.place };
        let Decoded::Frame(header) = decode_header(rest, &place, &self.limits) else { return None };
        let (len, end_seq) = (header.frame_len(), header.end_seq());
        if header.is_control() || header.first_seq != self.expected || end_seq <= seq || len > self.frame_len_max {
            return None;
        }
        let len = usize::try_from(len).ok().filter(|&len| len <= rest.len())?;
        let payload = FRAME_HEADER_LEN..FRAME_HEADER_LEN + header.payload_len as usize;
        let Decoded::Frame(()) = check_payload(&header, rest.get(payload.clone())?) else { return None };
        let payload = self.at + payload.start..self.at + payload.end;
        (self.at, self.expected, self.failed) = (self.at + len, end_seq, None);
        Some(FrameRef { header, payload })
    }

    /// Entry `seq` of a frame of this block; `None` where it is not in the frame, or the frame is
    /// of another block.
    #[inline]
    #[must_use]
    pub fn entry_in(&self, frame: &FrameRef, seq: SeqNo) -> Option<Bytes> {
        let i = u32::try_from(seq.0.checked_sub(frame.header.first_seq.0)?).ok()?;
        let range = entry_range(frame.header.count, self.block.get(frame.payload.clone())?, i)?;
        Some(self.block.slice(frame.payload.start + range.start..frame.payload.start + range.end))
    }

    /// The payload of a frame of this block; nothing where it is of another.
    #[inline]
    #[must_use]
    pub fn payload_of(&self, frame: &FrameRef) -> Bytes {
        if frame.payload.end > self.block.len() { Bytes::new() } else { self.block.slice(frame.payload.clone()) }
    }

    /// The bytes of this block from frame `first` to frame `last`, headers and all; nothing where
    /// they are of another.
    #[inline]
    #[must_use]
    pub fn frames_of(&self, first: &FrameRef, last: &FrameRef) -> Bytes {
        let range = first.start()..last.payload.end;
        if range.start > range.end || range.end > self.block.len() { Bytes::new() } else { self.block.slice(range) }
    }
}

impl<B: AsRef<[u8]>> FrameCursor<B> {
    /// Where the next step begins.
    #[must_use]
    pub fn offset(&self) -> ByteOffset {
        self.place.offset + self.at as u64
    }

    /// The first seq of the frame that comes next.
    #[must_use]
    pub const fn expected(&self) -> SeqNo {
        self.expected
    }

    /// The frame whose payload the last [`seek`](Self::seek) failed at. Its
    /// header is valid, so that its entries are known, and the next step begins behind it. `None`
    /// where nothing failed, or it was not the payload: then it is not known what stands here, and
    /// there is no stepping over it.
    #[must_use]
    pub const fn failed(&self) -> Option<&FrameHeader> {
        self.failed.as_ref()
    }

    pub(super) fn not_valid<T>(&mut self, offset: ByteOffset, header: FrameHeader, decoded: &Decoded<T>) -> Error {
        self.failed = Some(header);
        self.error(
            offset,
            match decoded {
                Decoded::Newer(what) => ErrorKind::Newer(*what),
                Decoded::Invalid(why) => ErrorKind::Invalid(*why),
                Decoded::Frame(_) | Decoded::Incomplete { .. } | Decoded::Blank => {
                    ErrorKind::Invalid(Invalid::Implausible)
                }
            },
        )
    }

    /// Steps to the next frame of entries that reaches `seq`.
    pub(super) fn step(&mut self, seq: SeqNo) -> Result<Step> {
        self.failed = None;
        let block_len = self.block.as_ref().len();
        loop {
            if self.at == block_len {
                return Ok(Step::BlockEnd);
            }
            let offset = self.offset();
            let header = match self.header(offset)? {
                Ok(header) => header,
                Err(len) => return Ok(Step::Incomplete(offset, len)),
            };
            let len = usize::try_from(header.frame_len()).expect("invariant: a frame is under 2 GiB");
            if block_len - self.at < len {
                if header.is_control() {
                    // Passed over, whatever its length: nobody here reads it.
                    self.place.offset = ByteOffset(offset.0 + len as u64 - block_len as u64);
                    self.at = block_len;
                    return Ok(Step::BlockEnd);
                }
                return Ok(Step::Incomplete(offset, header.frame_len()));
            }
            let payload_at = self.at + FRAME_HEADER_LEN;
            self.at += len;
            self.expected = header.end_seq();
            if header.is_control() || header.end_seq() <= seq {
                continue;
            }
            return Ok(Step::At(offset, header, payload_at..payload_at + header.payload_len as usize));
        }
    }

    /// The header at the current place, or how many bytes are needed for it.
    fn header(&self, offset: ByteOffset) -> Result<std::result::Result<FrameHeader, u64>> {
        let expected = self.expected;
        let place = FramePosition { offset, ..self.place };
        let rest = &self.block.as_ref()[self.at..];
        let header = match decode_header(rest, &place, &self.limits) {
            Decoded::Frame(header) => header,
            Decoded::Blank if rest.len() < FRAME_HEADER_LEN => return Ok(Err(FRAME_HEADER_LEN as u64)),
            Decoded::Incomplete { needed } => return Ok(Err(needed)),
            Decoded::Blank => return Err(self.error(offset, ErrorKind::Missing { expected })),
            Decoded::Invalid(why) => return Err(self.error(offset, ErrorKind::Invalid(why))),
            Decoded::Newer(what) => return Err(self.error(offset, ErrorKind::Newer(what))),
        };
        if header.first_seq != expected {
            return Err(self.error(offset, ErrorKind::Gap { expected, found: header.first_seq }));
        }
        let (len, max) = (header.frame_len(), self.frame_len_max);
        if len > max && !header.is_control() {
            return Err(self.error(offset, ErrorKind::TooLarge { len, max }));
        }
        Ok(Ok(header))
    }

    fn error(&self, offset: ByteOffset, kind: ErrorKind) -> Error {
        Error::new(self.id, Some(offset), kind)
    }
}
