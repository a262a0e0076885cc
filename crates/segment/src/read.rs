//! Reading frames whose place is known, from blocks that were read or from a mapping.
//!
//! Everything below a published end is there and valid, so here anything else is damage.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{
    ByteOffset, Decoded, FRAME_HEADER_LEN, Frame, FrameHeader, FramePosition, Invalid, Limits, SeqNo, UnverifiedHeader,
    check_payload, decode_header, decode_payload, entry_range,
};
use stratawal_storage::File;

use crate::{Error, ErrorKind, Result, SegmentFile, SegmentId};

/// The longest block that a reader should ask for, in bytes, except for a frame that is longer.
pub const BLOCK_LEN_MAX: u64 = 256 << 10;

/// The promise that makes mapping segment files sound; it cannot be proved here, only made by the
/// program's author.
#[derive(Clone, Copy, Debug)]
pub struct MapPromise(());

impl MapPromise {
    /// Makes the promise.
    ///
    /// # Safety
    /// While any mapping made under it lives, bytes handed out of it included, nobody but this
    /// crate may shorten a segment file or change its bytes: not this process, and no other.
    #[allow(unsafe_code)]
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

/// The bytes of a segment, by positioned reads or through a mapping.
#[derive(Clone, Debug)]
pub struct SegmentData {
    id: SegmentId,
    header: stratawal_frame::SegmentHeader,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Read(Arc<dyn File>),
    Mapped(Bytes),
}

impl SegmentData {
    /// By positioned reads: each block is copied from the page cache once.
    #[must_use]
    pub fn read(file: &SegmentFile) -> Self {
        Self { id: file.id(), header: *file.header(), source: Source::Read(Arc::clone(file.shared_file())) }
    }

    /// By positioned reads of a file that is also being written.
    #[must_use]
    pub fn read_shared(header: stratawal_frame::SegmentHeader, file: Arc<dyn File>) -> Self {
        Self { id: SegmentId::of(&header), header, source: Source::Read(file) }
    }

    /// Through a mapping of the first `len` bytes: no copy.
    ///
    /// # Errors
    /// I/O, and a file shorter than `len`.
    #[allow(unsafe_code)]
    pub fn map(file: &SegmentFile, len: u64, _: MapPromise) -> Result<Self> {
        // SAFETY: whoever made the `MapPromise` promised what `File::map` asks for, for every
        // segment file.
        let map = unsafe { file.file().map(len) }.map_err(Error::io(file.id(), "map"))?;
        Ok(Self { id: file.id(), header: *file.header(), source: Source::Mapped(map.into_bytes()) })
    }

    /// The name of the segment.
    #[must_use]
    pub const fn id(&self) -> SegmentId {
        self.id
    }

    /// The header of the segment.
    #[must_use]
    pub const fn header(&self) -> &stratawal_frame::SegmentHeader {
        &self.header
    }

    /// Whether blocks are slices of a mapping, so that a large one costs no more than a small one.
    #[must_use]
    pub const fn is_mapped(&self) -> bool {
        matches!(self.source, Source::Mapped(_))
    }

    /// The bytes in `range`.
    ///
    /// # Errors
    /// I/O. A range beyond the end of the file is [`ErrorKind::Io`] with `UnexpectedEof`, which is
    /// damage.
    pub fn block(&self, range: Range<u64>) -> Result<Bytes> {
        self.block_over(range, Bytes::new())
    }

    /// The same, in the memory of `used` where nobody else holds any of it.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn block_over(&self, range: Range<u64>, used: Bytes) -> Result<Bytes> {
        let at = ByteOffset(range.start);
        let failed = |source| Error::new(self.id, Some(at), ErrorKind::Io { operation: "read", source });
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        match &self.source {
            Source::Read(file) => {
                // Asked first only where it would cost something to find out: what is asked for may
                // come from a file.
                const LEN_MAX: usize = 1 << 20;
                if len > LEN_MAX && file.len().map_err(failed)? < range.end {
                    return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
                }
                let mut bytes = used.try_into_mut().unwrap_or_default();
                bytes.resize(len, 0);
                file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
                Ok(bytes.freeze())
            }
            Source::Mapped(bytes) => {
                let from = usize::try_from(range.start)
                    .ok()
                    .filter(|&from| from.checked_add(len).is_some_and(|end| end <= bytes.len()));
                let from = from.ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))?;
                Ok(bytes.slice(from..from + len))
            }
        }
    }
}

/// How much [`SegmentData::header_crc_of`] reads at a time.
const HEADERS_LEN: usize = 4 << 10;

impl SegmentData {
    /// The header checksum, as stored, of the frame of entries that holds `seq`. The search begins
    /// with the frame at `from`, whose first seq is `expected`, and steps from header to header: no
    /// payload is checked, and a long one is not read. `None` where a header on the way is not
    /// valid, or not the one expected.
    ///
    /// # Errors
    /// I/O; an end of the file on the way is not an error but `None`.
    pub fn header_crc_of(&self, from: ByteOffset, expected: SeqNo, seq: SeqNo) -> Result<Option<u32>> {
        let limits = Limits { base: self.header.base, end: ByteOffset(u64::MAX) };
        let (mut window, mut begin, mut len) = ([0; HEADERS_LEN], from.0, 0);
        let (mut at, mut expected) = (from, expected);
        loop {
            let within =
                |at: u64| usize::try_from(at.wrapping_sub(begin)).ok().filter(|&i| i + FRAME_HEADER_LEN <= len);
            let i = match within(at.0) {
                Some(i) => i,
                None => {
                    (begin, len) = (at.0, self.read_some(&mut window, at)?);
                    if len < FRAME_HEADER_LEN {
                        return Ok(None);
                    }
                    0
                }
            };
            let bytes = &window[i..i + FRAME_HEADER_LEN];
            let place = FramePosition { salt: self.header.salt, offset: at };
            let header = match decode_header(bytes, &place, &limits) {
                Decoded::Frame(header) if header.first_seq == expected && expected <= seq => header,
                _ => return Ok(None),
            };
            if header.end_seq() > seq {
                return Ok(Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
            }
            (at, expected) = (at + header.frame_len(), header.end_seq());
        }
    }

    /// What there is at `at`, up to the end of the file or of the mapping.
    fn read_some(&self, buf: &mut [u8], at: ByteOffset) -> Result<usize> {
        match &self.source {
            Source::Read(file) => {
                let failed = |source| Error::new(self.id, Some(at), ErrorKind::Io { operation: "read", source });
                file.read_at(buf, at.0).map_err(failed)
            }
            Source::Mapped(bytes) => {
                let rest = usize::try_from(at.0).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
        }
    }
}

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
    place: FramePosition,
    limits: Limits,
    frame_len_max: u64,
    expected: SeqNo,
    block: B,
    at: usize,
    failed: Option<FrameHeader>,
}

/// Where a step has come to.
enum Step {
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

    fn not_valid<T>(&mut self, offset: ByteOffset, header: FrameHeader, decoded: &Decoded<T>) -> Error {
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
    fn step(&mut self, seq: SeqNo) -> Result<Step> {
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
