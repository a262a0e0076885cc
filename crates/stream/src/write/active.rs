//! The segment that a stream writes to.

use std::sync::Arc;

use stratawal_frame::{ByteOffset, SEGMENT_HEADER_LEN};
use stratawal_index::ActiveIndex;
use stratawal_segment::{SegmentData, SegmentWriter};

use crate::active_files::ActiveFile;
use crate::context::LogContext;
use crate::location::Location;
use crate::options::StreamOptions;
use crate::read::snapshot::LiveSegment;

/// The segment that a stream writes to.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) writer: SegmentWriter,
    /// The file of `writer` and `live`, in a log with a commit journal.
    pub(crate) file: Option<Arc<ActiveFile>>,
    pub(crate) live: Arc<LiveSegment>,
    /// One past the last entry in the file.
    pub(crate) end_seq: u64,
    /// Timestamps of the first and last frame of entries.
    pub(crate) times: Option<(u64, u64)>,
    pub(crate) closes: CloseFrames,
}

impl ActiveSegment {
    /// The active segment of `writer`, whose file has no frames yet.
    pub(crate) fn new(
        writer: SegmentWriter,
        context: &LogContext,
        location: &Location,
        options: &StreamOptions,
    ) -> Self {
        let (writer, file) = context.take_over(location, writer);
        let data = SegmentData::read_shared(*writer.header(), Arc::clone(writer.file()));
        let index = Arc::new(ActiveIndex::new(options.index_interval_bytes));
        let live = Arc::new(LiveSegment::new(data, index, SEGMENT_HEADER_LEN as u64));
        let end_seq = writer.header().base.0;
        Self { writer, file, live, end_seq, times: None, closes: CloseFrames::default() }
    }

    /// The offset at which the frames end in the file.
    pub(super) fn end_offset(&self) -> u64 {
        self.writer.next_position().offset.0
    }
}

/// The CLOSE frames in the active segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CloseFrames {
    /// The offset of the last CLOSE.
    pub(crate) last: Option<ByteOffset>,
    /// How many CLOSE frames name one another in a row, including the last.
    pub(crate) depth: u32,
    /// The total number of index points that these frames hold.
    pub(crate) points: usize,
}
