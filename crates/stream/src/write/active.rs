//! The segment that a stream writes to.

use std::sync::Arc;

use stratawal_frame::ByteOffset;
use stratawal_segment::SegmentWriter;

use crate::read::snapshot::LiveSegment;

/// The segment that a stream writes to.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) writer: SegmentWriter,
    pub(crate) live: Arc<LiveSegment>,
    /// One past the last entry in the file.
    pub(crate) end_seq: u64,
    /// Timestamps of the first and last frame of entries.
    pub(crate) times: Option<(u64, u64)>,
    pub(crate) closes: Closes,
}

impl Active {
    /// The offset in the file where its frames end.
    pub(super) fn end_offset(&self) -> u64 {
        self.writer.next_position().offset.0
    }
}

/// The CLOSE frames in the active segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Closes {
    /// The last one.
    pub(crate) last: Option<ByteOffset>,
    /// How many of them name one another, the last one included.
    pub(crate) depth: u32,
    /// The index points that they hold together.
    pub(crate) points: usize,
}
