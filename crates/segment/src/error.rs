//! What goes wrong with one segment file.

use std::io;

use stratawal_frame::{ByteOffset, HeaderError, Invalid, Newer, SeqNo};
use thiserror::Error;

use crate::SegmentId;

/// What went wrong, and with which file.
#[derive(Debug, Error)]
#[error("segment {segment}: {kind}")]
pub struct Error {
    segment: SegmentId,
    offset: Option<ByteOffset>,
    #[source]
    kind: ErrorKind,
}

/// The kinds of [`Error`](struct@Error).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused.
    #[error("cannot {operation}: {source}")]
    Io {
        /// The operation, as a verb: "write", "sync".
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The operating system refused space for bytes, before any of them was written: the disk or
    /// the quota is full, or the file may not be so long. The file is as it was.
    #[error("cannot reserve space: {0}")]
    Preallocate(io::Error),
    /// The file is a link, a folder, or something else that is not a plain file.
    #[error("not a plain file: {0}")]
    NotAFile(io::Error),
    /// The header is not valid; for a file that has its name this is damage, never a torn creation.
    #[error("{0}")]
    Header(HeaderError),
    /// The header is valid and belongs to another file.
    #[error("the header is that of segment {0}")]
    NameMismatch(SegmentId),
    /// A frame is not valid where one must be.
    #[error("{0}")]
    Invalid(Invalid),
    /// There are zeros, or the file ends, where a frame must be.
    #[error("the frame that begins with seq {expected} is missing")]
    Missing {
        /// The first seq of the frame that must be there.
        expected: SeqNo,
    },
    /// A valid frame begins with another seq than the one that comes next.
    #[error("gap: expected seq {expected}, found {found}")]
    Gap {
        /// The seq that comes next.
        expected: SeqNo,
        /// The first seq of the frame that is there.
        found: SeqNo,
    },
    /// Written by a newer version, or with a codec that is not built in.
    #[error("written by a newer version: {0}")]
    Newer(Newer),
    /// A frame is larger than the bound for reading.
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

    /// Where in the file, if it is known.
    #[must_use]
    pub const fn offset(&self) -> Option<ByteOffset> {
        self.offset
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The same, taken apart: the segment, the offset, the kind.
    #[must_use]
    pub fn into_parts(self) -> (SegmentId, Option<ByteOffset>, ErrorKind) {
        (self.segment, self.offset, self.kind)
    }

    /// Whether the disk (or the quota) is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.source_io().is_some_and(stratawal_storage::is_full)
    }

    /// Whether this process, or the system, has as many files open as it may.
    #[must_use]
    pub fn is_out_of_files(&self) -> bool {
        self.source_io().is_some_and(stratawal_storage::is_out_of_files)
    }

    /// Whether the file is gone, which for a reader in another process may be a truncation.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::NotFound)
    }

    /// Whether space was refused before anything was written, so that the file is as it was.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(&self.kind, ErrorKind::Preallocate(_))
    }

    /// The kind of the operating system's error, where there is one.
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

    /// Whether the bytes are at fault, and not the machine or the version.
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

    /// Whether a newer version wrote it.
    #[must_use]
    pub const fn is_newer(&self) -> bool {
        matches!(&self.kind, ErrorKind::Newer(_) | ErrorKind::Header(HeaderError::Newer(_)))
    }
}
