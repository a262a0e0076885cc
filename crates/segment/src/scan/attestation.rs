//! The watermarks that the valid frames of a segment attest, in its chain or not.

use stratawal_frame::{ByteOffset, SeqNo};

use super::search::FrameSearch;
use crate::Result;
use crate::file::SegmentFile;

/// What [`SegmentFile::attestations`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestations {
    /// The highest watermark attested.
    pub attested: SeqNo,
    /// The first seq of the first valid frame of entries.
    pub first_seq: Option<SeqNo>,
}

impl SegmentFile {
    /// Searches for the valid frames from `from` to the end of the file, in the chain or not, and
    /// returns the highest watermark that one of them attests. It searches as
    /// [`FrameSearch`](crate::FrameSearch) does: the whole allocated length, since a lost page
    /// reads as zeros.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`](crate::ErrorKind::Newer) where a valid frame of a newer version is
    /// found.
    pub fn attestations(&self, from: ByteOffset) -> Result<Attestations> {
        self.attestations_within(from, self.len())
    }

    /// Searches only for the valid frames that begin in the first `len` bytes from `from`.
    /// Otherwise like [`attestations`](Self::attestations).
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
