//! What opening a stream found and did, and what verifying one found.

use std::time::Duration;

use crate::error::Error;

/// What opening a stream found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// Whether the stream was there at all.
    pub existed: bool,
    /// Whether it was closed cleanly, so that nothing had to be scanned.
    pub clean: bool,
    /// The first live seq.
    pub first_seq: u64,
    /// One past the last entry.
    pub next_seq: u64,
    /// Segments that hold live entries, or the one to be written.
    pub segments: u64,
    /// What a crash had left behind the last whole frame, and was cut. Also `None` where a reader
    /// that looked again did not read so far.
    pub torn: Option<TornTail>,
    /// Bytes that were read to find the end.
    pub scanned_bytes: u64,
    /// Bytes that were written again, since they may not have been durable.
    pub rewritten_bytes: u64,
    /// File names of segments that were void, or wholly before the first live entry, and were
    /// removed (by a reader: left out). A file that cannot be removed is not among them; the next
    /// opening tries again.
    pub removed_segments: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

impl OpenReport {
    /// The report of a look that has found nothing new, and has read no more than a header.
    pub(crate) fn of_nothing_new(&self) -> Self {
        Self { scanned_bytes: 0, elapsed: Duration::ZERO, ..self.clone() }
    }
}

/// What is behind the last whole frame of a stream that was not closed cleanly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The file name of the segment.
    pub segment: String,
    /// Where the last whole frame ends, in bytes.
    pub offset: u64,
    /// Bytes from there to the last one that is not zero.
    pub bytes: u64,
}

/// What verifying a stream found.
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
