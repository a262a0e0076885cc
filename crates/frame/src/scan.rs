//! Going through the bytes of a segment frame by frame, and finding the next frame behind bytes
//! that are none.

use bytes::Bytes;

use crate::control::MARK_FRAME_LEN;
use crate::frame::{Frame, decode};
use crate::header::{
    Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, Invalid, Limits, decode_header, frame_len_at,
};
use crate::types::{ByteOffset, FramePosition, Salt};

/// Finds the first offset at or behind `position.offset` at which `bytes` hold a valid header (or one
/// of a newer format), in steps of [`FRAME_ALIGN`]. `bytes` begin at `position.offset`.
///
/// Answers the distance from the beginning of `bytes`, and the header. Only whole headers are
/// looked at: where the answer is `None`, the last 39 bytes at most are still to be seen with what
/// follows them.
#[must_use]
pub fn find_header(bytes: &[u8], position: &FramePosition, limits: &Limits) -> Option<(usize, Decoded<FrameHeader>)> {
    let step = FRAME_ALIGN as usize;
    let mut at = 0;
    while at + FRAME_HEADER_LEN <= bytes.len() {
        let rest = &bytes[at..];
        // Most bytes that are searched are zeros; they are passed a cache line at a time. A header
        // may begin with some of them, so the search continues less than a header before their end.
        let zeros = rest.chunks_exact(64).take_while(|line| **line == [0; 64]).count() * 64;
        if zeros > 0 {
            at += zeros - (FRAME_HEADER_LEN - step);
            continue;
        }
        let here = FramePosition { salt: position.salt, offset: position.offset + at as u64 };
        match decode_header(&rest[..FRAME_HEADER_LEN], &here, limits) {
            found @ (Decoded::Frame(_) | Decoded::Newer(_)) => return Some((at, found)),
            Decoded::Incomplete { .. } | Decoded::Blank | Decoded::Invalid(_) => at += step,
        }
    }
    None
}

/// One finding of a [`Scan`].
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Where it stands in the file.
    pub offset: ByteOffset,
    /// What it is.
    pub found: Decoded<Frame>,
}

/// Goes through bytes that are in memory, frame by frame; behind something invalid it goes on at
/// the next valid header. It ends behind an [`Blank`](Decoded::Blank) or
/// [`Incomplete`](Decoded::Incomplete) that no valid header follows.
///
/// It steps over a frame whose header is valid as a whole, whatever its payload: an entry may look
/// like a frame. So it looks at each byte a bounded number of times, where searching such a payload
/// again from every header inside it would take time quadratic in the length of hostile bytes. What
/// is no longer than a MARK is searched: of a MARK that was written over, the header may have
/// outlived a crash, and a later frame begin within its 48 bytes.
///
/// What it answers is what is there, in order: policy (which of these frames count) is not its
/// business. Nor is the
/// [`Trailer`](crate::Trailer) of a finished file, which is no frame: give it the bytes before that, or pass over the
/// `Incomplete` that it is answered as.
#[derive(Clone, Debug)]
pub struct Scan {
    bytes: Bytes,
    salt: Salt,
    base: ByteOffset,
    limits: Limits,
    at: usize,
}

impl Scan {
    /// Scans `bytes`, which begin at `offset` (a multiple of 8) of a segment with this salt.
    #[must_use]
    pub const fn new(bytes: Bytes, salt: Salt, offset: ByteOffset, limits: Limits) -> Self {
        Self { bytes, salt, base: offset, limits, at: 0 }
    }

    fn frame_position(&self) -> FramePosition {
        FramePosition { salt: self.salt, offset: self.base + self.at as u64 }
    }

    /// Whether the valid header at the current place may be that of a MARK which was written over.
    fn may_be_written_over(&self) -> bool {
        frame_len_at(&self.bytes[self.at..]) <= MARK_FRAME_LEN
    }

    /// Moves behind the frame whose valid header stands at the current place.
    fn step_over(&mut self) {
        let len = usize::try_from(frame_len_at(&self.bytes[self.at..])).unwrap_or(usize::MAX);
        self.at = self.at.saturating_add(len).min(self.bytes.len());
    }

    /// Moves to the next valid header behind the current place; to the end where there is none.
    fn resynchronise(&mut self) {
        self.at = (self.at + FRAME_ALIGN as usize).min(self.bytes.len());
        self.at = match find_header(&self.bytes[self.at..], &self.frame_position(), &self.limits) {
            Some((distance, _)) => self.at + distance,
            None => self.bytes.len(),
        };
    }
}

impl Iterator for Scan {
    type Item = Scanned;

    fn next(&mut self) -> Option<Scanned> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let position = self.frame_position();
        let found = decode(&self.bytes.slice(self.at..), &position, &self.limits);
        let whole_header = self.bytes.len() - self.at >= FRAME_HEADER_LEN;
        match &found {
            Decoded::Frame(_) | Decoded::Newer(_) => self.step_over(),
            Decoded::Invalid(Invalid::PayloadChecksum) if self.may_be_written_over() => self.resynchronise(),
            Decoded::Invalid(Invalid::PayloadChecksum | Invalid::EntryTable | Invalid::ControlPayload) => {
                self.step_over();
            }
            Decoded::Incomplete { .. } if whole_header => self.step_over(),
            Decoded::Invalid(Invalid::Implausible | Invalid::HeaderChecksum)
            | Decoded::Incomplete { .. }
            | Decoded::Blank => self.resynchronise(),
        }
        Some(Scanned { offset: position.offset, found })
    }
}
