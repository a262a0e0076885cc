//! The reports of opening and of verifying a stream.

use std::time::Duration;

use crate::error::Error;

/// The report of an opening of a stream: its state, and the work that was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// Whether the stream existed.
    pub existed: bool,
    /// Whether it was closed cleanly, so that nothing had to be scanned.
    pub clean: bool,
    /// The first live seq.
    pub first_seq: u64,
    /// One past the last entry.
    pub next_seq: u64,
    /// The number of segments: those with live entries, and the active one.
    pub segments: u64,
    /// The bytes of an interrupted write after the last whole frame, which were cut off. Also
    /// `None` if a reader that looked at the stream again did not read that far.
    pub torn: Option<TornTail>,
    /// The number of bytes that were read to find the end.
    pub scanned_bytes: u64,
    /// The number of bytes that were written again, because they may not have been durable.
    pub rewritten_bytes: u64,
    /// The file names of segments that had no live entry and were removed. A reader leaves them out
    /// and removes nothing. A file that could not be removed is not listed; the next opening tries
    /// again.
    pub removed_segments: Vec<String>,
    /// How long the opening took.
    pub elapsed: Duration,
}

impl OpenReport {
    /// The report of a look that found nothing new, and read at most a header.
    pub(crate) fn of_nothing_new(&self) -> Self {
        Self { scanned_bytes: 0, elapsed: Duration::ZERO, ..self.clone() }
    }
}

/// The bytes after the last whole frame of a stream that was not closed cleanly: a write was
/// interrupted there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The file name of the segment.
    pub segment: String,
    /// Where the last whole frame ends, in bytes.
    pub offset: u64,
    /// The number of bytes from there to the last one that is not zero.
    pub bytes: u64,
}

/// The report of a verification of a stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamCheck {
    /// The name of the stream.
    pub stream: String,
    /// The state of the stream as a whole.
    pub state: CheckState,
    /// The first live seq, if the stream can be read at all.
    pub first_seq: Option<u64>,
    /// One past the last entry, if the stream can be read at all.
    pub next_seq: Option<u64>,
    /// The number of segment files in its directory.
    pub segments: u64,
    /// The bytes after the last whole frame, if there are any.
    pub torn: Option<TornTail>,
    /// All damage that was found: the kind of each, where it is, and which entries it takes.
    pub damage: Vec<Error>,
}

/// The state of a stream that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// Every entry is present and valid, and nothing follows the last one.
    Sound,
    /// Every entry is present and valid, and bytes follow the last whole frame: a crash left them
    /// and the next open cuts them off, or a writer is about to write there.
    Torn,
    /// Something is damaged.
    Damaged,
}
