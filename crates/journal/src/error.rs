//! The errors of a journal.

use std::io;

use stratawal_frame::{FormatId, StreamId};
use thiserror::Error;

use crate::header::FileHeaderError;
use crate::lsn::Lsn;
use std::sync::Arc;

/// The result of a call on a journal.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error, with the file and the offset at which it occurred.
#[derive(Clone, Debug, Error)]
#[error("journal{}: {kind}", place(*file, *offset))]
pub struct Error {
    #[source]
    kind: ErrorKind,
    file: Option<u64>,
    offset: Option<u64>,
}

fn place(file: Option<u64>, offset: Option<u64>) -> String {
    match (file, offset) {
        (Some(file), Some(offset)) => format!(" file {file} at offset {offset}"),
        (Some(file), None) => format!(" file {file}"),
        _ => String::new(),
    }
}

fn shown(identity: Option<u64>) -> String {
    identity.map_or_else(|| "no lasting inode number".to_owned(), |inode| format!("the inode {inode}"))
}

/// The kinds of [`Error`](struct@Error).
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused.
    #[error("cannot {operation}: {source}")]
    Io {
        /// The operation, as a verb: "write", "sync".
        operation: &'static str,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The journal has reached its limit, and all of its bytes are needed. Release some.
    #[error("the journal is full: all bytes up to its limit of {bytes} are needed")]
    Full {
        /// The limit in bytes.
        bytes: u64,
    },
    /// The current file has no room for a record of `len` bytes: call [`reserve`], then try again.
    ///
    /// [`reserve`]: crate::Journal::reserve
    #[error("the current file has no room for a record of {len} bytes")]
    NoRoom {
        /// The length of the record in bytes.
        len: u64,
    },
    /// A record is longer than a file can hold.
    #[error("a record of {len} bytes is over the limit of {max} bytes")]
    TooLarge {
        /// The length of the record in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The record contradicts the format: a part without entries, an empty name, a seq past the
    /// end.
    #[error("the record is not valid")]
    InvalidRecord,
    /// An LSN is beyond the end of the log, so it belongs to no record.
    #[error("LSN {lsn} is beyond the end of the log, {end}")]
    BeyondEnd {
        /// The LSN.
        lsn: Lsn,
        /// The end of the log.
        end: Lsn,
    },
    /// A restart was asked for, and the journal has not failed.
    #[error("the journal has not failed")]
    NotFailed,
    /// This process is a forked child of the one that opened the journal.
    #[error("the journal belongs to the parent process")]
    Forked,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// An earlier write or sync failed. Nothing is written until
    /// [`restart`](crate::Journal::restart).
    #[error("an earlier call failed: {0}")]
    Failed(Box<Error>),
    /// The journal was restarted after the record was put. The record exists only if it is among
    /// those that the restart wrote.
    #[error("the journal was restarted; whether it still holds the record is unknown")]
    Restarted,
    /// The directory holds no journal file.
    #[error("damaged: the directory holds no journal file")]
    Missing,
    /// The file is needed, and does not exist.
    #[error("damaged: the file is missing")]
    FileMissing,
    /// The header of the file is not valid.
    #[error("damaged: {0}")]
    Header(FileHeaderError),
    /// The header belongs to another file, or to a file of another log.
    #[error("damaged: the header belongs to another file")]
    Misplaced,
    /// The file is longer than a journal file can be.
    #[error("damaged: the file has {len} bytes, more than a journal file can have")]
    TooLong {
        /// The length in bytes.
        len: u64,
    },
    /// Records that were once durable are missing or not valid.
    #[error("damaged: the records end at {end}, and everything below {attested} was durable")]
    RecordsLost {
        /// The LSN at which the valid records end.
        end: Lsn,
        /// Everything below this LSN was durable.
        attested: Lsn,
    },
    /// The file is shorter than its header records.
    #[error("damaged: the file has {len} of {expected} bytes")]
    Shortened {
        /// The length in bytes.
        len: u64,
        /// The length that the header records.
        expected: u64,
    },
    /// Valid records give one stream two names.
    #[error("damaged: the records give the stream {stream} two names")]
    TwoNames {
        /// The stream.
        stream: StreamId,
    },
    /// The file is a copy of a file of a journal that was not closed: it has another identity than
    /// the one for which its header was written.
    #[error("a copy of a journal that was not closed: the file has {}, and its header names the inode {named}", shown(*found))]
    Copied {
        /// The identity that the header names.
        named: u64,
        /// The identity of the file, if its file system has one.
        found: Option<u64>,
    },
    /// A newer version wrote the file.
    #[error("written by a newer version: {0}")]
    Newer(FormatId),
    /// A newer version wrote a record of this kind.
    #[error("written by a newer version: a record of kind {0}")]
    NewerRecord(u8),
}

impl Error {
    pub(crate) const fn new(kind: ErrorKind) -> Self {
        Self { kind, file: None, offset: None }
    }

    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(ErrorKind::Io { operation, source: Arc::new(source) })
    }

    pub(crate) fn header(error: FileHeaderError) -> Self {
        Self::new(match error {
            FileHeaderError::Newer(id) => ErrorKind::Newer(id),
            other => ErrorKind::Header(other),
        })
    }

    pub(crate) const fn in_file(mut self, number: u64) -> Self {
        self.file = Some(number);
        self
    }

    pub(crate) const fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// The kind of error.
    #[must_use]
    pub const fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The number of the file at fault, if there is one.
    #[must_use]
    pub const fn file(&self) -> Option<u64> {
        self.file
    }

    /// The offset in the file in bytes, if known.
    #[must_use]
    pub const fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// Whether the journal is a copy that was made before the journal was closed.
    #[must_use]
    pub const fn is_copied(&self) -> bool {
        matches!(self.kind, ErrorKind::Copied { .. })
    }

    /// Whether the bytes on the disk are at fault, rather than the machine or the version.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Missing
                | ErrorKind::FileMissing
                | ErrorKind::Header(_)
                | ErrorKind::Misplaced
                | ErrorKind::TooLong { .. }
                | ErrorKind::Shortened { .. }
                | ErrorKind::RecordsLost { .. }
                | ErrorKind::TwoNames { .. }
        )
    }

    /// The kind of the operating-system error, if there is one.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &self.kind {
            ErrorKind::Io { source, .. } => Some(source.kind()),
            ErrorKind::Failed(earlier) => earlier.io_kind(),
            _ => None,
        }
    }

    /// Whether a file was not found, because it was renamed or removed.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(&self.kind, ErrorKind::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether space ran out: in the journal, on the disk, or in the quota.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match &self.kind {
            ErrorKind::Full { .. } => true,
            ErrorKind::Io { source, .. } => stratawal_storage::is_full(source),
            ErrorKind::Failed(earlier) => earlier.is_full(),
            _ => false,
        }
    }
}
