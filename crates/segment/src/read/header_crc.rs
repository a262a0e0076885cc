//! Finds the stored checksum of a frame's header, which the header of the next segment records.

use stratawal_frame::{ByteOffset, SeqNo};

use super::cursor::FrameCursor;
use super::data::SegmentData;
use crate::Result;

/// How many bytes [`SegmentData::header_crc_of`] reads at a time.
const WINDOW_LEN: usize = 4 << 10;

impl SegmentData {
    /// Returns the stored header checksum of the frame of entries that holds `seq`. The search
    /// begins with the frame at `from`, whose first seq is `next_seq`, and steps from header to
    /// header: payloads are not checked, and a long payload is not read. Returns `None` if the file
    /// ends, or if a header on the way is not valid or not the expected one.
    ///
    /// # Errors
    /// I/O.
    pub fn header_crc_of(&self, from: ByteOffset, next_seq: SeqNo, seq: SeqNo) -> Result<Option<u32>> {
        let mut window = [0; WINDOW_LEN];
        let mut from = from;
        let mut next_seq = next_seq;
        loop {
            let len = self.read_some(&mut window, from)?;
            let mut cursor = FrameCursor::new(self, &window[..len], from, next_seq, u64::MAX);
            while let Ok(Some(header)) = cursor.header() {
                if header.first_seq > seq {
                    return Ok(None);
                }
                if header.end_seq() > seq {
                    return Ok(cursor.rest().first_chunk().copied().map(u32::from_le_bytes));
                }
                cursor.pass(&header);
            }
            if cursor.offset() == from || cursor.header().is_err() {
                return Ok(None);
            }
            from = cursor.offset();
            next_seq = cursor.next_seq();
        }
    }
}
