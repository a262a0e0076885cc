//! The search for the next frame after bytes that are not a frame.

use crate::header::{Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, Limits, decode_header};
use crate::types::FramePosition;

/// Finds the first valid header in `bytes`, which begin at `position.offset`. A header of a newer
/// format counts as valid. Only multiples of [`FRAME_ALIGN`] are tried.
///
/// Returns the distance of the header from the beginning of `bytes`, and the header. Only complete
/// headers are found. After `None`, the caller has to search the last 39 bytes again, together with
/// the bytes that follow them.
#[must_use]
pub fn find_header(bytes: &[u8], position: &FramePosition, limits: &Limits) -> Option<(usize, Decoded<FrameHeader>)> {
    let step = FRAME_ALIGN as usize;
    let mut at = 0;
    while at + FRAME_HEADER_LEN <= bytes.len() {
        let rest = &bytes[at..];
        // Most bytes that are searched are zeros, which are skipped a cache line at a time. A
        // header may itself begin with zeros, so the search resumes shortly before the end of the
        // zeros, by less than the length of a header.
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
