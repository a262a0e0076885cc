//! The watermarks that the valid frames of a segment attest, whether or not they are in its chain.

use stratawal_frame::{ByteOffset, SeqNo};

use super::search::FrameSearch;
use crate::Result;
use crate::file::SegmentFile;

/// The result of [`SegmentFile::attestations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestations {
    /// The highest watermark attested.
    pub attested: SeqNo,
    /// The first seq of the first valid frame of entries.
    pub first_seq: Option<SeqNo>,
}

impl SegmentFile {
    /// Searches for valid frames from `from` to the end of the file, whether or not in the chain,
    /// and returns the highest watermark that any of them attests. Like
    /// [`FrameSearch`](crate::FrameSearch), it searches the whole allocated length, since a lost
    /// page reads as zeros.
    ///
    /// # Errors
    /// I/O; [`ErrorKind::Newer`](crate::ErrorKind::Newer) if a valid frame of a newer version is
    /// found.
    pub fn attestations(&self, from: ByteOffset) -> Result<Attestations> {
        self.attestations_within(from, self.len())
    }

    /// Like [`attestations`](Self::attestations), but searches only for frames that begin in the
    /// first `len` bytes from `from`.
    ///
    /// # Errors
    /// Returns the same errors as `attestations`.
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
