//! The state that recovery hands to the stream.

use stratawal_frame::StreamId;
use stratawal_segment::{Preallocation, SegmentId};

use super::reader_state::ReaderState;
use crate::journal_reader::{InFiles, JournalTail, Sighting};
use crate::read::snapshot::Snapshot;
use crate::report::OpenReport;
use crate::write::active::ActiveSegment;

/// The state of a stream after recovery, or after a reader's look.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) snapshot: Snapshot,
    pub(crate) first_seq: u64,
    /// One past the last entry of the files.
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
    /// Where entries of the journal that an earlier look showed are no longer those of the stream.
    pub(crate) cut: Option<u64>,
}

impl Recovered {
    /// What the files hold, or `None` if only the journal knows the stream.
    pub(super) fn in_files(&self) -> Option<InFiles> {
        let stream = self.snapshot.segments.first()?.header.stream_id;
        Some(InFiles { stream, first_seq: self.first_seq, next_seq: self.next_seq })
    }

    /// The id of the stream, if its files or the journal give it.
    pub(super) fn stream(&self) -> Option<StreamId> {
        let in_journal = self.snapshot.journal().parts.first().map(|part| part.stream);
        self.in_files().map(|files| files.stream).or(in_journal)
    }

    /// The state of a stream without files.
    pub(super) fn without_files() -> Self {
        Self {
            snapshot: Snapshot::default(),
            first_seq: 0,
            next_seq: 0,
            timestamp: 0,
            writable: None,
            report: OpenReport { existed: true, ..OpenReport::default() },
            dead: Vec::new(),
            reader_state: None,
            is_refresh: false,
            cut: None,
        }
    }

    /// Adds what only the journal has.
    pub(super) fn with_journal(mut self, tail: JournalTail) -> Self {
        if let Some(start) = tail.start {
            self.first_seq = self.first_seq.max(start);
            self.next_seq = self.next_seq.max(start);
        }
        let end = tail.end().unwrap_or(self.next_seq);
        self.report = OpenReport { first_seq: self.first_seq, next_seq: end, ..self.report };
        self.snapshot = self.snapshot.with_journal(tail);
        self
    }

    /// One past the last entry, also of the journal.
    pub(super) fn end(&self) -> u64 {
        self.snapshot.journal().end().unwrap_or(self.next_seq)
    }
}

/// The outcome of refreshing a reader.
pub(crate) enum Refreshed {
    /// The stream does not exist.
    Missing,
    /// The stream has not changed. Has a report if anything was read.
    Unchanged { reader_state: Box<ReaderState>, report: Option<OpenReport>, sighting: Sighting },
    /// The stream has changed, or all of it was reread.
    Changed(Box<Recovered>),
}
