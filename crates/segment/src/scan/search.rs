//! Searches a segment for frames, whether or not they are in its chain.
//!
//! A frame counts as found if its header is valid at its offset under the segment's salt. Accidents
//! do not produce such a header: the checksum covers the salt and the offset, so a copy of a frame
//! elsewhere is not valid.

use stratawal_frame::{
    ByteOffset, Control, Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, Frame, FrameHeader, decode_payload, find_header,
};

use super::window::Window;
use crate::file::SegmentFile;
use crate::{Error, ErrorKind, Result, SegmentData};

/// A frame that [`FrameSearch`] found. Its header is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundFrame {
    /// Where it begins in the file.
    pub offset: ByteOffset,
    /// Its header.
    pub header: FrameHeader,
    /// Whether the checksum of its payload is also right.
    pub is_whole: bool,
}

/// Finds the frames of a segment in the order of their offsets, even after bytes that are not a
/// frame. It reads a bounded part of the file at a time, and examines each byte a bounded number of
/// times, whatever the file holds.
///
/// It searches the whole length of the file rather than stopping at the first zeros, because a lost
/// page reads as zeros. After a valid header, the payload is skipped, because a stored entry may
/// look like a frame.
pub struct FrameSearch {
    file: SegmentFile,
    window: Window,
    at: ByteOffset,
    /// Frames at or above this offset are not searched for.
    to: u64,
}

impl std::fmt::Debug for FrameSearch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameSearch").field("file", &self.file).field("at", &self.at).finish_non_exhaustive()
    }
}

impl FrameSearch {
    /// Searches `file` from `from`, a multiple of 8, to the end that the file had when it was
    /// opened.
    #[must_use]
    pub fn new(file: &SegmentFile, from: ByteOffset) -> Self {
        Self::within(file, from, file.len())
    }

    /// Searches for the frames that begin in the first `len` bytes from `from`, a multiple of 8.
    #[must_use]
    pub fn within(file: &SegmentFile, from: ByteOffset, len: u64) -> Self {
        Self { file: file.clone(), window: file.window(), at: from, to: from.0.saturating_add(len) }
    }

    /// The file being searched.
    #[must_use]
    pub const fn file(&self) -> &SegmentFile {
        &self.file
    }

    /// Returns the next frame, or `None` at the end of the file.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`] if a valid header of a newer version is found.
    pub fn next_frame(&mut self) -> Result<Option<FoundFrame>> {
        let id = self.file.id();
        let io = || Error::io(id, "read");
        while self.at.0 < self.to && self.at.0 + FRAME_HEADER_LEN as u64 <= self.file.len() {
            let at = self.at;
            let bytes = self.window.at(at.0, FRAME_HEADER_LEN).map_err(io())?;
            if bytes.len() < FRAME_HEADER_LEN {
                break;
            }
            let searched = (bytes.len() - FRAME_HEADER_LEN) as u64 / FRAME_ALIGN * FRAME_ALIGN + FRAME_ALIGN;
            let Some((distance, header)) = find_header(bytes, &self.file.position(at), &self.file.limits()) else {
                // A header may begin with zeros but is never all zeros.
                let next = self.window.skip_zeros(at.0, FRAME_ALIGN).map_err(io())?;
                self.at = ByteOffset((at.0 + searched).max(next.saturating_sub(FRAME_HEADER_LEN as u64)));
                continue;
            };
            let offset = at + distance as u64;
            self.at = offset;
            if offset.0 >= self.to {
                break;
            }
            let header = match header {
                Decoded::Frame(header) => header,
                Decoded::Newer(what) => return Err(Error::new(id, Some(offset), ErrorKind::Newer(what))),
                Decoded::Incomplete { .. } | Decoded::Blank | Decoded::Invalid(_) => {
                    unreachable!("invariant: find_header returns only these two")
                }
            };
            let payload_len = u64::from(header.payload_len);
            let sum = self.window.checksum(offset.0 + FRAME_HEADER_LEN as u64, payload_len).map_err(io())?;
            // Only this frame was ever written to its bytes, so it is skipped even if its payload
            // is not valid. A MARK is the exception: the next frame overwrites it and may begin
            // within it.
            self.at =
                offset + if header.frame_len() <= Control::MARK_FRAME_LEN { FRAME_ALIGN } else { header.frame_len() };
            return Ok(Some(FoundFrame { offset, header, is_whole: sum == Some(header.payload_crc) }));
        }
        self.at = ByteOffset(self.file.len());
        Ok(None)
    }

    /// Reads a frame that was found. Returns `None` if the whole frame is not valid. This allocates
    /// as much memory as the frame takes in the file, so check `header.frame_len()` first.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`].
    pub fn read(&self, found: &FoundFrame) -> Result<Option<Frame>> {
        if !found.is_whole {
            return Ok(None);
        }
        let from = found.offset.0 + FRAME_HEADER_LEN as u64;
        let payload = match SegmentData::read(&self.file).block(from..from + u64::from(found.header.payload_len)) {
            Ok(payload) => payload,
            // Another process has shortened the file since the checksum was computed.
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        };
        match decode_payload(found.header, payload) {
            Decoded::Frame(frame) => Ok(Some(frame)),
            Decoded::Newer(what) => Err(Error::new(self.file.id(), Some(found.offset), ErrorKind::Newer(what))),
            Decoded::Incomplete { .. } | Decoded::Blank | Decoded::Invalid(_) => Ok(None),
        }
    }
}
