//! Reads the bytes of a segment frame by frame, and finds the next frame after bytes that are not a
//! frame.

use bytes::Bytes;

use crate::control::MARK_FRAME_LEN;
use crate::frame::{Frame, decode};
use crate::header::{
    Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, Invalid, Limits, decode_header, frame_len_at,
};
use crate::types::{ByteOffset, FramePosition, Salt};

/// Finds the first valid header in `bytes`, which begin at `position.offset`. A header of a newer
/// format counts as valid. Only multiples of [`FRAME_ALIGN`] are tried.
///
/// Returns the distance of the header from the beginning of `bytes`, and the header. Only whole
/// headers are found. After `None`, the caller has to search the last 39 bytes again together with
/// the bytes that follow them.
#[must_use]
pub fn find_header(bytes: &[u8], position: &FramePosition, limits: &Limits) -> Option<(usize, Decoded<FrameHeader>)> {
    let step = FRAME_ALIGN as usize;
    let mut at = 0;
    while at + FRAME_HEADER_LEN <= bytes.len() {
        let rest = &bytes[at..];
        // Most bytes that are searched are zeros. They are skipped a cache line at a time. A header
        // may begin with some zeros, so the search continues less than a header before their end.
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
    /// The offset of the finding in the file.
    pub offset: ByteOffset,
    /// The result of decoding there.
    pub found: Decoded<Frame>,
}

/// Iterates over bytes in memory, frame by frame.
///
/// After invalid bytes it continues at the next valid header. It ends after a
/// [`Blank`](Decoded::Blank) or [`Incomplete`](Decoded::Incomplete) that no valid header follows.
///
/// It skips a whole frame if its header is valid, even if its payload is not, because an entry may
/// look like a frame. Therefore each byte is read a bounded number of times. Searching such a
/// payload from every header in it would take time quadratic in the length of hostile bytes. There
/// is one exception. The header of a MARK may survive a crash although a later frame overwrote the
/// MARK, and that frame may begin within its 48 bytes. So an invalid frame that is not longer than
/// a MARK is searched.
///
/// The scan returns its findings in order, and does not decide which of these frames count. The
/// [`Trailer`](crate::Trailer) of a finished file is not a frame: pass the bytes before it, or skip
/// the `Incomplete` that it is returned as.
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

    /// Whether the valid header at the current offset may be that of a MARK that was overwritten.
    fn may_be_overwritten(&self) -> bool {
        frame_len_at(&self.bytes[self.at..]) <= MARK_FRAME_LEN
    }

    /// Moves past the frame whose valid header is at the current offset.
    fn step_over(&mut self) {
        let len = usize::try_from(frame_len_at(&self.bytes[self.at..])).unwrap_or(usize::MAX);
        self.at = self.at.saturating_add(len).min(self.bytes.len());
    }

    /// Moves to the next valid header after the current offset, or to the end of the bytes.
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
            Decoded::Invalid(Invalid::PayloadChecksum) if self.may_be_overwritten() => self.resynchronise(),
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
