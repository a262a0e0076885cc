//! The state that the writer of a stream shares with its readers.

use std::sync::Arc;

use stratawal_frame::StreamId;
use stratawal_sync::Published;

use crate::context::LogContext;
use crate::error::Error;
use crate::location::Location;
use crate::options::StreamOptions;
use crate::read::snapshot::Snapshot;
use crate::stats::Meters;
use crate::truncation_log::TruncationLog;
use crate::watermarks::Watermarks;

/// The state that the writer of a stream shares with its readers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) context: Arc<LogContext>,
    pub(crate) location: Location,
    pub(crate) options: Arc<StreamOptions>,
    pub(crate) watermarks: Arc<Watermarks>,
    /// The segments that readers see.
    pub(crate) snapshot: Published<Snapshot>,
    pub(crate) truncations: TruncationLog,
    pub(crate) meters: Meters,
}

impl Shared {
    /// The id of the stream, if it exists.
    pub(crate) fn stream_id(&self) -> Option<StreamId> {
        self.snapshot.load().segments.first().map(|segment| segment.header.stream_id)
    }

    /// The id of the stream, if its files give it, or the entries that a reader sees in the
    /// journal.
    pub(crate) fn known_id(&self) -> Option<StreamId> {
        let snapshot = self.snapshot.load();
        let in_files = snapshot.segments.first().map(|segment| segment.header.stream_id);
        in_files.or_else(|| snapshot.journal().parts.first().map(|part| part.stream))
    }

    /// An error of one of the stream's segments.
    pub(crate) fn segment_error(&self, error: stratawal_segment::Error) -> Error {
        Error::segment_error(&self.location, error)
    }
}
