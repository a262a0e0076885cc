//! The end of a file without a valid footer and trailer, or with a damaged chain.

use stratawal_frame::{
    ByteOffset, Control, Decoded, FRAME_HEADER_LEN, Footer, FooterKind, Generation, SEGMENT_HEADER_LEN, Salt, SeqNo,
    TRAILER_LEN, Trailer, decode_header,
};

use super::search::FrameSearch;
use crate::file::SegmentFile;
use crate::{Error, Result};

/// A SEAL found anywhere in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundSeal {
    /// The generation of the successor.
    pub successor: Generation,
    /// The salt of the successor.
    pub salt: Salt,
    /// The base of the successor: one past the last entry that the SEAL counts.
    pub end_seq: SeqNo,
}

impl SegmentFile {
    /// Whether the chain ends in a CLOSE that has its trailer, whatever bytes follow. If so, no
    /// frame was written after the CLOSE.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`](crate::ErrorKind::Newer).
    pub fn ends_in_close(&self) -> Result<bool> {
        let chain = self.scan_chain(&mut |_, _| {})?;
        let Some(close) = chain.close else { return Ok(false) };
        let has_room = self.len().checked_sub(TRAILER_LEN as u64).is_some_and(|last| chain.end.0 <= last);
        if !has_room {
            return Ok(false);
        }
        let mut trailer = [0; TRAILER_LEN];
        self.read_exact(&mut trailer, chain.end.0)?;
        // The end of the chain has a trailer that names the CLOSE, so the CLOSE is the last frame.
        Ok(Trailer::decode(&trailer, self.header().salt).is_some_and(|trailer| trailer.footer_offset == close))
    }

    /// Returns the SEAL at the end of the file, or else the last complete SEAL in it. For a file
    /// whose end or chain is damaged.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`](crate::ErrorKind::Newer).
    pub fn find_seal(&self) -> Result<Option<FoundSeal>> {
        if let Some(finished) = self.finished()? {
            return Ok(self.found_seal(&finished.footer));
        }
        let mut last = None;
        let mut search = FrameSearch::new(self, ByteOffset(SEGMENT_HEADER_LEN as u64));
        while let Some(found) = search.next_frame()? {
            // A MARK is too short to be a SEAL.
            if !found.header.is_control() || found.header.frame_len() <= Control::MARK_FRAME_LEN {
                continue;
            }
            if let Some(frame) = search.read(&found)?
                && let Some(Control::Footer(footer)) = frame.control()
            {
                last = self.found_seal(footer).or(last);
            }
        }
        Ok(last)
    }

    fn found_seal(&self, footer: &Footer) -> Option<FoundSeal> {
        match footer.kind {
            FooterKind::Seal { successor, salt } => {
                Some(FoundSeal { successor, salt, end_seq: self.header().base + footer.entries })
            }
            FooterKind::Close { .. } => None,
        }
    }

    /// Returns the length of the torn tail that begins at `from`, where the chain ends: the number
    /// of bytes from there to the last nonzero byte. A MARK at `from` is not a torn tail, so if
    /// only zeros follow it the length is 0.
    ///
    /// # Errors
    /// I/O.
    pub fn torn_len(&self, from: ByteOffset) -> Result<u64> {
        let io = || Error::io(self.id(), "read");
        let mut window = self.window();
        let bytes = window.at(from.0, FRAME_HEADER_LEN).map_err(io())?;
        let header = &bytes[..bytes.len().min(FRAME_HEADER_LEN)];
        let mark_len = match decode_header(header, &self.position(from), &self.limits()) {
            Decoded::Frame(frame) if frame.is_control() && frame.frame_len() == Control::MARK_FRAME_LEN => {
                Control::MARK_FRAME_LEN
            }
            _ => 0,
        };
        let mut at = from.0 + mark_len;
        let mut last = None;
        while at < self.len() {
            let bytes = window.at(at, 1).map_err(io())?;
            if bytes.is_empty() {
                break;
            }
            let end = at + bytes.len() as u64;
            let found = bytes.iter().rposition(|&b| b != 0);
            last = found.map(|i| at + i as u64 + 1).or(last);
            at = if found.is_some() { end } else { window.skip_zeros(at, 1).map_err(io())? };
        }
        Ok(last.map_or(0, |end| end - from.0))
    }

    /// Whether the file has only zeros after the segment's header.
    ///
    /// # Errors
    /// I/O.
    pub fn holds_only_zeros(&self) -> Result<bool> {
        let io = || Error::io(self.id(), "read");
        let mut window = self.window();
        let mut at = SEGMENT_HEADER_LEN as u64;
        while at < self.len() {
            let bytes = window.at(at, 1).map_err(io())?;
            if bytes.iter().any(|&b| b != 0) {
                return Ok(false);
            }
            at = window.skip_zeros(at, 1).map_err(io())?;
        }
        Ok(true)
    }
}
