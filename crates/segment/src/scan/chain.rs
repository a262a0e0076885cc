//! The chain of a segment: the run of valid frames that starts after its header.
//!
//! A frame is next in the chain if and only if (1) it is valid, (2) its first seq is the expected
//! one, and (3) it begins where the previous frame ended. The chain ends before a MARK, and at a
//! SEAL.
//!
//! A frame may be as long as the file, so payloads are not held in memory. For this reason the scan
//! reads the file in pieces, rather than stepping through blocks with a
//! [`FrameCursor`](crate::FrameCursor).

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
    /// One past the last entry.
    pub end_seq: SeqNo,
    /// The offset at which the chain ends: that of the SEAL, or of the frame that would be next.
    pub end: ByteOffset,
    /// The highest watermark that the segment's header and the frames of the chain attest.
    pub attested: SeqNo,
    /// The first live seq that the last START or CLOSE in the chain records.
    pub start: Option<SeqNo>,
    /// The timestamps of the first and the last frame of entries.
    pub times: Option<(u64, u64)>,
    /// The SEAL at `end`, and the length of its frame.
    pub seal: Option<(Footer, u64)>,
    /// The offset of the last CLOSE in the chain.
    pub close: Option<ByteOffset>,
}

impl SegmentFile {
    /// Scans the chain from the beginning and passes each frame in it, except the SEAL, to `visit`.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`] if a valid frame of a newer version is next in the chain.
    pub fn scan_chain(&self, visit: &mut dyn FnMut(ByteOffset, &FrameHeader)) -> Result<Chain> {
        self.scan_chain_from(ByteOffset(SEGMENT_HEADER_LEN as u64), self.header().base, visit)
    }

    /// Scans the part of the chain that begins with the frame at `from`, whose first seq is
    /// `first`. Bytes before `from` are not read.
    ///
    /// # Errors
    /// Returns the same errors as [`scan_chain`](Self::scan_chain).
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

    /// Adds the frames written since then to `chain`, which an earlier scan of this segment
    /// returned. Bytes before its end are not read. A chain that ends in a SEAL is complete.
    ///
    /// # Errors
    /// Returns the same errors as [`scan_chain`](Self::scan_chain). After an error, the chain has
    /// the frames visited so far.
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
                Some(Control::Footer(seal)) if matches!(seal.kind, FooterKind::Seal { .. }) => {
                    chain.seal = Some((seal, frame.frame_len()));
                    break;
                }
                Some(Control::Footer(close)) => {
                    chain.start = Some(close.start);
                    chain.close = Some(chain.end);
                }
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

    /// Whether the file has the valid header `frame` at `at`.
    ///
    /// # Errors
    /// I/O.
    pub fn has_header(&self, at: ByteOffset, frame: &FrameHeader) -> Result<bool> {
        let mut bytes = [0; FRAME_HEADER_LEN];
        let read = self.file().read_at(&mut bytes, at.0).map_err(Error::io(self.id(), "read"))?;
        Ok(decode_header(&bytes[..read], &self.position(at), &self.limits()) == Decoded::Frame(*frame))
    }

    /// Returns the frame at `at` if it is next in the chain. The payload of a control frame is
    /// decoded; that of any other frame is only checked.
    fn next_in_chain(
        &self,
        window: &mut Window,
        at: ByteOffset,
        expected: SeqNo,
    ) -> Result<Option<(FrameHeader, Option<Control>)>> {
        let io = || Error::io(self.id(), "read");
        let bytes = window.at(at.0, FRAME_HEADER_LEN).map_err(io())?;
        let frame = match decode_header(&bytes[..bytes.len().min(FRAME_HEADER_LEN)], &self.position(at), &self.limits())
        {
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
        // The checksum is right, so a frame of this length was written. A control payload is at
        // most 64 MiB.
        let mut payload = vec![0; frame.payload_len as usize];
        self.file().read_exact_at(&mut payload, payload_at).map_err(io())?;
        match decode_payload(frame, Bytes::from(payload)) {
            Decoded::Frame(whole) => Ok(Some((frame, whole.control().cloned()))),
            Decoded::Newer(what) => Err(Error::new(self.id(), Some(at), ErrorKind::Newer(what))),
            Decoded::Incomplete { .. } | Decoded::Blank | Decoded::Invalid(_) => Ok(None),
        }
    }
}
