//! The kinds of errors, and the kinds of damage.

use std::fmt;

/// The kinds of [`Error`](super::Error).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Another process, or another handle in this one, has the log open for writing.
    Locked,
    /// The log or the stream does not exist, or the stream was deleted.
    Missing,
    /// The directory is inside another log, and no log was created there. Give a directory outside
    /// of that log.
    Nested,
    /// Acknowledged entries are damaged or missing. Nothing was changed or deleted. See
    /// [`Error::damage`](super::Error::damage) and [`Error::lost`](super::Error::lost), and
    /// [`Error::advice`](super::Error::advice) for what still works.
    Damaged,
    /// The log is a copy that was made while it was open, or before it was closed, so its files may
    /// be of different times. Nothing was changed. Close the original and copy it again. If no
    /// process had the log open while it was copied, the copy is complete: adopt it.
    Copied,
    /// A newer version wrote this. Use that version. If no newer version ever wrote this log, the
    /// version number of a segment file is damaged, which looks the same. The other entries of the
    /// stream can then be read with `inspect::salvage`.
    NewerFormat,
    /// The operating system reported an error.
    Io,
    /// The disk or the quota is full. The call, which the message names, changed nothing, and can
    /// be repeated once space is free. Closing the log is the exception: the stream is closed, and
    /// is recovered when it is next opened.
    Full,
    /// A write or sync has failed, in this call or an earlier one. The entries it was for may or
    /// may not be in the stream, and nothing can be appended until the stream is recovered.
    /// Reopening recovers it. If the cause was a full disk, which the message then names, the next
    /// append, flush or sync also recovers it once space is free.
    Poisoned,
    /// There is no room for another ticket: too many are in flight, or their entries have too many
    /// bytes. Nothing was appended. Try again once some of them are complete.
    Busy,
    /// The log or the stream was closed. A stream can be looked up again.
    Closed,
    /// The log was opened for reading only.
    ReadOnly,
    /// No stream can have this name, because it is empty or is too long when escaped.
    InvalidName,
    /// An option is out of range, or contradicts the options that the stream is already open with.
    InvalidOption,
    /// A batch exceeds the limit for appending, or a frame exceeds the limit for reading.
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The seq is outside the range that the call accepts.
    OutOfRange {
        /// The first live seq.
        first_seq: u64,
        /// One past the last entry.
        next_seq: u64,
    },
    /// A conditional append expected another next seq. Nothing was appended.
    Conflict {
        /// The next seq that the call expected.
        expected_next_seq: u64,
        /// The seq that the next append gets: one past the last accepted entry, which may not be
        /// durable yet.
        next_seq: u64,
    },
    /// The seq is below the first entry: it was dropped from the beginning of the stream.
    Truncated {
        /// The first live seq.
        first_seq: u64,
    },
    /// This process was forked from the one that opened the log. Handles work only in the process
    /// that opened them; dropping a handle in a forked process only releases memory. Open the log
    /// again in this process, either read-only or, once the other process has closed it, for
    /// writing.
    Forked,
    /// Entries at or below a reader's position were dropped from the end of the stream.
    Cut {
        /// One past the last remaining entry.
        next_seq: u64,
    },
}

impl ErrorKind {
    /// A short name in lower case, for programs. It stays the same in later versions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Missing => "missing",
            Self::Nested => "nested",
            Self::Damaged => "damaged",
            Self::Copied => "copied",
            Self::NewerFormat => "newer_format",
            Self::Io => "io",
            Self::Full => "full",
            Self::Poisoned => "poisoned",
            Self::Busy => "busy",
            Self::Closed => "closed",
            Self::ReadOnly => "read_only",
            Self::InvalidName => "invalid_name",
            Self::InvalidOption => "invalid_option",
            Self::TooLarge { .. } => "too_large",
            Self::OutOfRange { .. } => "out_of_range",
            Self::Conflict { .. } => "conflict",
            Self::Truncated { .. } => "truncated",
            Self::Forked => "forked",
            Self::Cut { .. } => "cut",
        }
    }
}

/// Writes the short name, [`ErrorKind::as_str`].
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds of damage to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// The header of a segment is not valid.
    Header,
    /// A segment's header is valid but belongs to another file or stream: the file was moved here
    /// or renamed.
    Misplaced,
    /// The directory of the stream has no segment.
    NoSegment,
    /// The first segment is missing.
    FirstMissing,
    /// A segment between two others is missing.
    PredecessorMissing,
    /// The newest segment is missing, although the segment before it names it.
    SuccessorMissing,
    /// The chain of frames breaks before the acknowledged end.
    Lost,
    /// A file has a length that no writer leaves: it was shortened or lengthened, or its end is
    /// damaged.
    Length,
    /// A frame is not valid.
    Frame,
    /// A frame is valid, but a different frame belongs in its place.
    Gap,
    /// A segment's name belongs to something other than a file: a link or a directory.
    File,
    /// The stream's name belongs to something other than a directory: a link or a file.
    Directory,
    /// The end of a sealed segment is damaged, but its entries are not.
    Seal,
    /// Two segments do not belong to one history: files of two copies of the log are mixed, or an
    /// old file was put back.
    History,
    /// The commit journal of the log is damaged, and may have held entries of the stream.
    Journal,
}

impl DamageKind {
    /// A short name in lower case, for programs. It stays the same in later versions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Misplaced => "misplaced",
            Self::NoSegment => "no_segment",
            Self::FirstMissing => "first_missing",
            Self::PredecessorMissing => "predecessor_missing",
            Self::SuccessorMissing => "successor_missing",
            Self::Lost => "lost",
            Self::Length => "length",
            Self::Frame => "frame",
            Self::Gap => "gap",
            Self::File => "file",
            Self::Directory => "directory",
            Self::Seal => "seal",
            Self::History => "history",
            Self::Journal => "journal",
        }
    }
}

/// Writes the short name, [`DamageKind::as_str`].
impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
