//! Going through the frames of a segment: its chain, and what the valid frames anywhere in it
//! attest.
//!
//! A frame is next in the chain if and only if (1) it is valid, (2) its first seq is the one
//! expected, and (3) it begins where the last one ended. The chain ends before a MARK, and at a
//! SEAL.

use bytes::Bytes;
use stratawal_frame::{
    ByteOffset, Control, Decoded, FRAME_HEADER_LEN, Footer, FooterKind, FrameHeader, SEGMENT_HEADER_LEN, SeqNo,
    decode_header, decode_payload,
};

use super::window::Window;
use crate::file::SegmentFile;
use crate::{Error, ErrorKind, Result};

/// The chain of a segment.
#[derive(Clone, Debug)]
pub struct Chain {
    /// One past its last entry.
    pub end_seq: SeqNo,
    /// Where it ends in the file: where the next frame would go, or the SEAL.
    pub end: ByteOffset,
    /// The highest watermark that its frames attest, the segment's header included.
    pub attested: SeqNo,
    /// What the last START or CLOSE in it says.
    pub start: Option<SeqNo>,
    /// The timestamps of its first and last frame of entries.
    pub times: Option<(u64, u64)>,
    /// The SEAL it ends with; it stands at `end`, and its frame has this length.
    pub seal: Option<(Footer, u64)>,
    /// The last CLOSE in it, if any: its offset.
    pub close: Option<ByteOffset>,
}

impl SegmentFile {
    /// Walks the chain from the beginning, telling `visit` each frame in it, the SEAL not included.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`] where the chain meets a valid frame of a newer version.
    pub fn scan_chain(&self, visit: &mut dyn FnMut(ByteOffset, &FrameHeader)) -> Result<Chain> {
        self.scan_chain_from(ByteOffset(SEGMENT_HEADER_LEN as u64), self.header().base, visit)
    }

    /// Walks the part of the chain that begins with the frame at `from`, whose first seq is
    /// `first`. The bytes before it are not looked at.
    ///
    /// # Errors
    /// As [`scan_chain`](Self::scan_chain).
    pub fn scan_chain_from(
        &self,
        from: ByteOffset,
        first: SeqNo,
        visit: &mut dyn FnMut(ByteOffset, &FrameHeader),
    ) -> Result<Chain> {
        let mut chain = Chain {
            end_seq: first,
            end: from,
            attested: self.header().durable,
            start: None,
            times: None,
            seal: None,
            close: None,
        };
        self.extend_chain(&mut chain, visit)?;
        Ok(chain)
    }

    /// Continues `chain`, which an earlier walk through this segment has left, with the frames that
    /// have come since. Nothing before its end is read. A chain that ends in a SEAL is complete.
    ///
    /// # Errors
    /// As [`scan_chain`](Self::scan_chain). Then the chain has the frames that were visited before.
    pub fn extend_chain(&self, chain: &mut Chain, visit: &mut dyn FnMut(ByteOffset, &FrameHeader)) -> Result<()> {
        if chain.seal.is_some() {
            return Ok(());
        }
        let mut window = self.window();
        while let Some((frame, control)) = self.next_in_chain(&mut window, chain.end, chain.end_seq)? {
            if matches!(control, Some(Control::Mark)) {
                break;
            }
            chain.attested = chain.attested.max(frame.attests.unwrap_or_default());
            match control {
                Some(Control::Footer(end)) if matches!(end.kind, FooterKind::Seal { .. }) => {
                    chain.seal = Some((end, frame.frame_len()));
                    break;
                }
                Some(Control::Footer(end)) => (chain.start, chain.close) = (Some(end.start), Some(chain.end)),
                Some(Control::Start { start }) => chain.start = Some(start),
                Some(_) => {}
                None => chain.times = Some((chain.times.map_or(frame.timestamp, |t| t.0), frame.timestamp)),
            }
            visit(chain.end, &frame);
            chain.end = chain.end + frame.frame_len();
            chain.end_seq = frame.end_seq();
        }
        Ok(())
    }

    /// Whether the valid header of `frame` is at `at`.
    ///
    /// # Errors
    /// I/O.
    pub fn has_header(&self, at: ByteOffset, frame: &FrameHeader) -> Result<bool> {
        let mut bytes = [0; FRAME_HEADER_LEN];
        let read = self.file().read_at(&mut bytes, at.0).map_err(Error::io(self.id(), "read"))?;
        Ok(decode_header(&bytes[..read], &self.place(at), &self.limits()) == Decoded::Frame(*frame))
    }

    /// The frame at `at`, if it is next in the chain. The payload of a control frame is read, of
    /// others checked.
    fn next_in_chain(
        &self,
        window: &mut Window,
        at: ByteOffset,
        expected: SeqNo,
    ) -> Result<Option<(FrameHeader, Option<Control>)>> {
        let io = || Error::io(self.id(), "read");
        let bytes = window.at(at.0, FRAME_HEADER_LEN).map_err(io())?;
        let frame = match decode_header(&bytes[..bytes.len().min(FRAME_HEADER_LEN)], &self.place(at), &self.limits()) {
            Decoded::Frame(frame) => frame,
            Decoded::Newer(what) => return Err(Error::new(self.id(), Some(at), ErrorKind::Newer(what))),
            Decoded::Incomplete { .. } | Decoded::Blank | Decoded::Invalid(_) => return Ok(None),
        };
        let payload_at = at.0 + FRAME_HEADER_LEN as u64;
        let sum = window.checksum(payload_at, u64::from(frame.payload_len)).map_err(io())?;
        if frame.first_seq != expected || sum != Some(frame.payload_crc) {
            return Ok(None);
        }
        if !frame.is_control() {
            return Ok(Some((frame, None)));
        }
        // The checksum holds, so its length is that of a frame that was written, at most 64 MiB for
        // control frames.
        let mut payload = vec![0; frame.payload_len as usize];
        self.file().read_exact_at(&mut payload, payload_at).map_err(io())?;
        match decode_payload(frame, Bytes::from(payload)) {
            Decoded::Frame(whole) => Ok(Some((frame, whole.control().cloned()))),
            Decoded::Newer(what) => Err(Error::new(self.id(), Some(at), ErrorKind::Newer(what))),
            Decoded::Incomplete { .. } | Decoded::Blank | Decoded::Invalid(_) => Ok(None),
        }
    }
}
