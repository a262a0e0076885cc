//! The stored checksum of a frame's header, which the header of the next segment states.

use stratawal_frame::{ByteOffset, Decoded, FRAME_HEADER_LEN, FramePosition, Limits, SeqNo, decode_header};

use super::data::SegmentData;
use crate::Result;

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
}
