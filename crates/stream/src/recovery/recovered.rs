//! The state that recovery hands to the stream.

use stratawal_segment::{Preallocation, SegmentId};

use super::reader_state::ReaderState;
use crate::read::snapshot::Snapshot;
use crate::report::OpenReport;
use crate::write::active::ActiveSegment;

/// The state of a stream after recovery, or after a reader's look.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) snapshot: Snapshot,
    pub(crate) first_seq: u64,
    pub(crate) next_seq: u64,
    /// The time of the last entry.
    pub(crate) timestamp: u64,
    /// `None` for a reader.
    pub(crate) writable: Option<(ActiveSegment, Preallocation)>,
    pub(crate) report: OpenReport,
    /// Void and garbage segments, whose files are still to be removed.
    pub(crate) dead: Vec<SegmentId>,
    /// The next look of a reader continues from this.
    pub(crate) reader_state: Option<Box<ReaderState>>,
    /// Whether this look continued an earlier one.
    pub(crate) is_refresh: bool,
}

/// The outcome of refreshing a reader.
pub(crate) enum Refreshed {
    /// The stream does not exist.
    Missing,
    /// The stream has not changed. Has a report if anything was read.
    Unchanged { reader_state: Box<ReaderState>, report: Option<OpenReport> },
    /// The stream has changed, or all of it was reread.
    Changed(Box<Recovered>),
}
