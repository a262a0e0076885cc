//! The reports of opening and verifying a stream.

use std::time::Duration;

use crate::error::Error;

/// The result of opening a stream: the stream's state, and the work that opening it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// Whether the stream existed.
    pub existed: bool,
    /// Whether the stream was closed cleanly, so that nothing had to be scanned. `false` if the
    /// stream did not exist.
    pub clean: bool,
    /// The first live seq.
    pub first_seq: u64,
    /// One past the last entry.
    pub next_seq: u64,
    /// The number of segments: those with live entries, and the active one.
    pub segments: u64,
    /// The number of entries at the end that only the commit journal had.
    pub journal_entries: u64,
    /// The bytes of an interrupted write after the last whole frame; they were cut off. Also `None`
    /// if a reader refreshed its view of the stream and did not read that far.
    pub torn: Option<TornTail>,
    /// The number of bytes that were read to find the end.
    pub scanned_bytes: u64,
    /// The number of bytes that were rewritten because they might not have been durable.
    pub rewritten_bytes: u64,
    /// The file names of the segments that were removed because they had no live entries. A reader
    /// removes nothing; it lists the segments that it ignores. A file that could not be removed is
    /// not listed; the next opening tries again.
    pub removed_segments: Vec<String>,
    /// How long the opening took.
    pub elapsed: Duration,
}

impl OpenReport {
    /// The report of a refresh that found nothing new and read at most a header.
    pub(crate) fn of_nothing_new(&self) -> Self {
        Self { scanned_bytes: 0, elapsed: Duration::ZERO, ..self.clone() }
    }
}

/// The result of opening the commit journal of a log for writing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalReport {
    /// Whether the log had a journal.
    pub existed: bool,
    /// Whether the journal was closed cleanly, so that the files of the streams have every entry.
    /// `false` if it did not exist.
    pub clean: bool,
    /// The number of files that were read.
    pub files: usize,
    /// The number of records with entries that may not be in the files of their streams. Each
    /// stream takes its own when it is first looked up.
    pub records: usize,
    /// The bytes of these records' entries.
    pub bytes: u64,
    /// The number of streams that the journal holds something for.
    pub streams: usize,
    /// The number of deletions that were interrupted.
    pub deletions: usize,
    /// The number of whole records after the end, which were cut off: a power loss took records
    /// before them, and nothing in them was acknowledged as durable. The bytes of a record that was
    /// written only in part are cut off too, but not counted: the file may have been used before,
    /// and they cannot be distinguished from what it held then.
    pub cut_records: usize,
    /// How long the opening took.
    pub elapsed: Duration,
}

/// The bytes that an interrupted write left after the last whole frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The file name of the segment.
    pub segment: String,
    /// Where the last whole frame ends, in bytes.
    pub offset: u64,
    /// The number of bytes from `offset` up to and including the last nonzero byte.
    pub bytes: u64,
}

/// The result of verifying a stream.
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
    /// The number of segment files in the stream's directory.
    pub segments: u64,
    /// The number of entries that were read and are intact.
    pub entries: u64,
    /// The bytes after the last whole frame, if there are any.
    pub torn: Option<TornTail>,
    /// The damage found: the first one in each file, and each gap where files are missing, in the
    /// order of the files. Each error gives the kind of damage, its position, and the entries that
    /// are lost. If the stream cannot be opened, files that cannot be read for another reason are
    /// here, too, for example those of a newer version.
    pub damage: Vec<Error>,
}

/// The overall state of a verified stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// Every entry is present and valid, and nothing follows the last one.
    Sound,
    /// Every entry is present and valid, but bytes follow the last whole frame. Either a crash left
    /// them, and the next open cuts them off, or a writer is currently writing there.
    Torn,
    /// Something is damaged.
    Damaged,
}
