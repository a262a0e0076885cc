//! What the valid frames of a segment attest, in its chain or not.

use stratawal_frame::{ByteOffset, SeqNo};

use super::search::FrameSearch;
use crate::Result;
use crate::file::SegmentFile;

/// What [`SegmentFile::attestations`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestations {
    /// The highest watermark attested.
    pub attested: SeqNo,
    /// The first seq of the first valid frame of entries that was met.
    pub first_seq: Option<SeqNo>,
}

impl SegmentFile {
    /// What every valid frame from `from` to the end of the file attests, in the chain or not.
    ///
    /// The whole allocated length is looked at, not only up to the first zeros: a lost page reads
    /// as zeros. Payloads are passed over where their header is valid, since a stored entry may
    /// look like a frame; so each byte is looked at a bounded number of times, whatever the file
    /// holds.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`] where a valid frame of a newer version is met.
    pub fn attestations(&self, from: ByteOffset) -> Result<Attestations> {
        self.attestations_within(from, self.len())
    }

    /// As [`attestations`](Self::attestations), of the frames that begin in the first `len` bytes
    /// from `from`.
    ///
    /// # Errors
    /// As `attestations`.
    pub fn attestations_within(&self, from: ByteOffset, len: u64) -> Result<Attestations> {
        let mut found = Attestations { attested: self.header().durable, first_seq: None };
        let mut search = FrameSearch::within(self, from, len);
        while let Some(frame) = search.next_frame()? {
            if frame.is_whole {
                found.attested = found.attested.max(frame.header.attests.unwrap_or_default());
                if !frame.header.is_control() {
                    found.first_seq.get_or_insert(frame.header.first_seq);
                }
            }
        }
        Ok(found)
    }
}
