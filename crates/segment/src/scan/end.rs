//! How a file ends that need not be whole.

use stratawal_frame::{ByteOffset, Control, Decoded, FRAME_HEADER_LEN, SeqNo, TRAILER_LEN, Trailer, decode_header};

use super::search::{FrameSearch, MARK_LEN};
use crate::file::SegmentFile;
use crate::{Error, Result};

/// The SEAL of a segment, wherever it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundSeal {
    /// The generation of the segment that follows.
    pub successor: stratawal_frame::Generation,
    /// The salt of that segment.
    pub salt: stratawal_frame::Salt,
    /// The base of that segment: one past the last entry that the SEAL counts.
    pub end_seq: SeqNo,
}

impl SegmentFile {
    /// Whether the chain ends in a CLOSE that has its trailer, whatever follows in the file: then
    /// no frame was written after it.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`].
    pub fn ends_in_close(&self) -> Result<bool> {
        let chain = self.scan_chain(&mut |_, _| {})?;
        let Some(close) = chain.close else { return Ok(false) };
        let mut trailer = [0; TRAILER_LEN];
        let ends = self.len().checked_sub(TRAILER_LEN as u64).is_some_and(|last| chain.end.0 <= last);
        if !ends {
            return Ok(false);
        }
        self.read_exact(&mut trailer, chain.end.0)?;
        // The trailer names the CLOSE, so the CLOSE is the last frame of the chain.
        Ok(Trailer::decode(&trailer, self.header().salt).is_some_and(|trailer| trailer.footer_offset == close))
    }

    /// The SEAL at the end of the file, or the last whole one in it: for a file whose end or chain
    /// is damaged.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`].
    pub fn find_seal(&self) -> Result<Option<FoundSeal>> {
        let base = self.header().base;
        let seal = |end: &stratawal_frame::Footer| match end.kind {
            stratawal_frame::FooterKind::Seal { successor, salt } => {
                Some(FoundSeal { successor, salt, end_seq: base + end.entries })
            }
            stratawal_frame::FooterKind::Close { .. } => None,
        };
        if let Some(finished) = self.finished()? {
            return Ok(seal(&finished.footer));
        }
        let (mut last, mut search) =
            (None, FrameSearch::new(self, ByteOffset(stratawal_frame::SEGMENT_HEADER_LEN as u64)));
        while let Some(found) = search.next_frame()? {
            // MARKs and entries are not read.
            if !found.header.is_control() || found.header.frame_len() <= MARK_LEN {
                continue;
            }
            if let Some(frame) = search.read(&found)?
                && let Some(Control::Footer(end)) = frame.control()
            {
                last = seal(end).or(last);
            }
        }
        Ok(last)
    }

    /// How many bytes from `from`, where the chain ends, to the last byte that is not zero; a MARK
    /// at `from` does not count. This is what a torn tail leaves.
    ///
    /// # Errors
    /// I/O.
    pub fn torn_len(&self, from: ByteOffset) -> Result<u64> {
        let io = || Error::io(self.id(), "read");
        let mut window = self.window();
        let bytes = window.at(from.0, FRAME_HEADER_LEN).map_err(io())?;
        let header = &bytes[..bytes.len().min(FRAME_HEADER_LEN)];
        let mark = match decode_header(header, &self.place(from), &self.limits()) {
            Decoded::Frame(frame) if frame.is_control() && frame.frame_len() == MARK_LEN => MARK_LEN,
            _ => 0,
        };
        let (mut at, mut last) = (from.0 + mark, None);
        while at < self.len() {
            let bytes = window.at(at, 1).map_err(io())?;
            if bytes.is_empty() {
                break;
            }
            let (end, found) = (at + bytes.len() as u64, bytes.iter().rposition(|&b| b != 0));
            last = found.map(|i| at + i as u64 + 1).or(last);
            at = if found.is_some() { end } else { window.skip_zeros(at, 1).map_err(io())? };
        }
        Ok(last.map_or(0, |end| end - from.0))
    }
}
