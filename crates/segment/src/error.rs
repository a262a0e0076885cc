//! The errors of operations on a segment file.

use std::io;

use stratawal_frame::{ByteOffset, HeaderError, Invalid, Newer, SeqNo};
use thiserror::Error;

use crate::SegmentId;

/// An error of an operation on a segment file.
#[derive(Debug, Error)]
#[error("segment {segment}: {kind}")]
pub struct Error {
    segment: SegmentId,
    offset: Option<ByteOffset>,
    #[source]
    kind: ErrorKind,
}

/// The kind of an [`Error`](struct@Error).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system reported an error.
    #[error("cannot {operation}: {source}")]
    Io {
        /// The operation, as a verb: "write", "sync".
        operation: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The operating system refused to extend the file, because the disk or the quota is full or
    /// the file would be too long. Nothing was written, and the file is unchanged.
    #[error("cannot reserve space: {0}")]
    Preallocate(io::Error),
    /// The file is not a plain file. It may be a link or a directory.
    #[error("not a plain file: {0}")]
    NotAFile(io::Error),
    /// The header is not valid. In a file with the name of a segment this is damage, never a torn
    /// creation.
    #[error("{0}")]
    Header(HeaderError),
    /// The header is valid but is that of another segment.
    #[error("the header is that of segment {0}")]
    NameMismatch(SegmentId),
    /// There must be a valid frame here, but the frame is not valid.
    #[error("{0}")]
    Invalid(Invalid),
    /// There must be a frame here, but there are only zeros.
    #[error("the frame that begins with seq {expected} is missing")]
    Missing {
        /// The first seq of the missing frame.
        expected: SeqNo,
    },
    /// A valid frame does not begin with the expected seq.
    #[error("gap: expected seq {expected}, found {found}")]
    Gap {
        /// The seq of the entry that comes next.
        expected: SeqNo,
        /// The first seq of the frame.
        found: SeqNo,
    },
    /// The file was written by a newer version, or with a codec that is not built in.
    #[error("written by a newer version: {0}")]
    Newer(Newer),
    /// A frame exceeds the bound for reading.
    #[error("a frame of {len} bytes is over the bound for reading, {max} bytes")]
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The bound in bytes.
        max: u64,
    },
}

impl Error {
    pub(crate) fn new(segment: SegmentId, offset: Option<ByteOffset>, kind: ErrorKind) -> Self {
        Self { segment, offset, kind }
    }

    pub(crate) fn io(segment: SegmentId, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(segment, None, ErrorKind::Io { operation, source })
    }

    /// The segment.
    #[must_use]
    pub const fn segment(&self) -> SegmentId {
        self.segment
    }

    /// The offset in the file, if known.
    #[must_use]
    pub const fn offset(&self) -> Option<ByteOffset> {
        self.offset
    }

    /// The kind of the error.
    #[must_use]
    pub const fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Whether the disk (or the quota) is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.source_io().is_some_and(stratawal_storage::is_full)
    }

    /// Whether this process or the system has reached its limit of open files.
    #[must_use]
    pub fn is_out_of_files(&self) -> bool {
        self.source_io().is_some_and(stratawal_storage::is_out_of_files)
    }

    /// Whether the file does not exist. A truncation in another process may have removed it.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::NotFound)
    }

    /// Whether the file could not be extended and nothing was written, so that it is unchanged.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(&self.kind, ErrorKind::Preallocate(_))
    }

    /// The kind of the operating system's error, if that is the cause.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.source_io().map(io::Error::kind)
    }

    const fn source_io(&self) -> Option<&io::Error> {
        match &self.kind {
            ErrorKind::Io { source, .. } | ErrorKind::Preallocate(source) => Some(source),
            _ => None,
        }
    }

    /// Whether the bytes of the file are damaged. Operating-system errors and files of a newer
    /// version are not damage.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match &self.kind {
            ErrorKind::Io { source, .. } => source.kind() == io::ErrorKind::UnexpectedEof,
            ErrorKind::Header(why) => !matches!(why, HeaderError::Newer(_)),
            ErrorKind::Preallocate(_) | ErrorKind::Newer(_) | ErrorKind::TooLarge { .. } => false,
            ErrorKind::NotAFile(_)
            | ErrorKind::NameMismatch(_)
            | ErrorKind::Invalid(_)
            | ErrorKind::Missing { .. }
            | ErrorKind::Gap { .. } => true,
        }
    }

    /// Whether a newer version wrote the file.
    #[must_use]
    pub const fn is_newer(&self) -> bool {
        matches!(&self.kind, ErrorKind::Newer(_) | ErrorKind::Header(HeaderError::Newer(_)))
    }
}
