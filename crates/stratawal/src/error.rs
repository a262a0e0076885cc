//! The one error of the crate.

use std::fmt;
use std::io;
use std::sync::Arc;

use stratawal_stream as inner;

/// The result of an operation on a log.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong: kind, stream, segment, offset, entries lost, cause. Cloning is cheap.
#[derive(Clone)]
pub struct Error(Repr);

#[derive(Clone)]
enum Repr {
    Stream(inner::Error),
    Log(Arc<LogError>),
}

struct LogError {
    kind: ErrorKind,
    message: String,
    stream: Option<String>,
    source: Option<io::Error>,
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Another process, or another handle in this one, has the log open for writing.
    Locked,
    /// There is no log, or no such stream.
    Missing,
    /// Acknowledged entries are damaged or missing. Nothing was changed or deleted. See
    /// [`Error::lost`], and [`Error::advice`] for what still works.
    Damaged,
    /// A newer version wrote this. Use that version.
    NewerFormat,
    /// The operating system refused.
    Io,
    /// The disk or the quota is full. The call changed nothing (the message names the call); it
    /// works again once there is room. A close is a close all the same: the stream is recovered
    /// when it is opened next.
    Full,
    /// A write or sync has failed, of this call or an earlier one: the entries that it was for may
    /// be there or not, and nothing is appended since.
    /// [`Stream::reopen`](crate::Stream::reopen) recovers the stream; where a full disk was the cause (the message says
    /// so), the next append, flush or sync does by itself, once there is room.
    Poisoned,
    /// The log was closed.
    Closed,
    /// The log was opened for reading only.
    ReadOnly,
    /// A name that no stream can have: empty, or too long when escaped.
    InvalidName,
    /// An option is out of its range, or contradicts those that a stream is open with.
    InvalidOption,
    /// A batch over the bound for appending, or a frame over the bound for reading.
    TooLarge,
    /// A position that is not in the stream, whose entries are `first` up to, and not with, `next`.
    OutOfRange {
        /// The first live seq.
        first: u64,
        /// One past the last entry.
        next: u64,
    },
    /// The position is below the first entry.
    Truncated {
        /// The first live seq.
        start: u64,
    },
    /// This process was forked from the one that opened the log. A handle refuses all work in
    /// another process than its own; dropping it there only releases memory. Open the log anew in
    /// this process, once the other one has closed it, or read-only.
    Forked,
    /// Entries were removed from the end under a reader that stood behind them.
    Cut {
        /// One past the last entry that is left.
        at: u64,
    },
}

impl ErrorKind {
    /// A word for it, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::NewerFormat => "newer_format",
            Self::Io => "io",
            Self::Full => "full",
            Self::Poisoned => "poisoned",
            Self::Closed => "closed",
            Self::ReadOnly => "read_only",
            Self::InvalidName => "invalid_name",
            Self::InvalidOption => "invalid_option",
            Self::TooLarge => "too_large",
            Self::OutOfRange { .. } => "out_of_range",
            Self::Truncated { .. } => "truncated",
            Self::Forked => "forked",
            Self::Cut { .. } => "cut",
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Repr::Log(Arc::new(LogError { kind, message: message.into(), stream: None, source: None })))
    }

    pub(crate) fn of_stream(kind: ErrorKind, stream: &str, message: impl Into<String>) -> Self {
        let (message, stream) = (message.into(), Some(stream.to_owned()));
        Self(Repr::Log(Arc::new(LogError { kind, message, stream, source: None })))
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let kind = if stratawal_storage::is_full(&source) { ErrorKind::Full } else { ErrorKind::Io };
        let (message, source) = (what.into(), Some(source));
        Self(Repr::Log(Arc::new(LogError { kind, message, stream: None, source })))
    }

    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.0 {
            Repr::Log(error) => error.kind,
            Repr::Stream(error) => match error.kind() {
                inner::ErrorKind::Damaged(_) => ErrorKind::Damaged,
                inner::ErrorKind::NewerFormat => ErrorKind::NewerFormat,
                inner::ErrorKind::Full => ErrorKind::Full,
                inner::ErrorKind::Poisoned => ErrorKind::Poisoned,
                inner::ErrorKind::Closed => ErrorKind::Closed,
                inner::ErrorKind::ReadOnly => ErrorKind::ReadOnly,
                inner::ErrorKind::TooLarge { .. } => ErrorKind::TooLarge,
                inner::ErrorKind::Truncated { start } => ErrorKind::Truncated { start },
                inner::ErrorKind::InvalidOption => ErrorKind::InvalidOption,
                inner::ErrorKind::Cut { at } => ErrorKind::Cut { at },
                inner::ErrorKind::OutOfRange { first, next } => ErrorKind::OutOfRange { first, next },
                inner::ErrorKind::Deleted => ErrorKind::Missing,
                inner::ErrorKind::Forked => ErrorKind::Forked,
                _ => ErrorKind::Io,
            },
        }
    }

    /// The name of the stream, where one is concerned.
    #[must_use]
    pub fn stream(&self) -> Option<&str> {
        match &self.0 {
            Repr::Stream(error) => Some(error.stream()),
            Repr::Log(error) => error.stream.as_deref(),
        }
    }

    /// The file name of the segment, where one is concerned.
    #[must_use]
    pub fn segment(&self) -> Option<&str> {
        match &self.0 {
            Repr::Stream(error) => error.segment(),
            Repr::Log(_) => None,
        }
    }

    /// The offset in that file in bytes, where it is known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match &self.0 {
            Repr::Stream(error) => error.offset(),
            Repr::Log(_) => None,
        }
    }

    /// The first and the last seq that damage takes, where they are known.
    #[must_use]
    pub fn lost(&self) -> Option<(u64, u64)> {
        match &self.0 {
            Repr::Stream(error) => error.lost(),
            Repr::Log(_) => None,
        }
    }

    /// A sentence on what a program can still do where a stream is damaged; `None` where this is
    /// not damage to a stream, or the message already gives it.
    /// [`inspect::entries`](crate::inspect::entries) reads the intact entries, and
    /// [`Wal::truncate_before`](crate::Wal::truncate_before) truncates a stream that is refused.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match &self.0 {
            Repr::Stream(error) => error.advice(),
            Repr::Log(_) => None,
        }
    }

    /// A word for the kind of damage, one of those of
    /// [`Damage::kind`](crate::inspect::Damage::kind), where this is damage to a stream.
    #[must_use]
    pub fn damage(&self) -> Option<&'static str> {
        match &self.0 {
            Repr::Stream(error) => match error.kind() {
                inner::ErrorKind::Damaged(damage) => Some(damage.as_str()),
                _ => None,
            },
            Repr::Log(_) => None,
        }
    }
}

/// What `unwrap` prints: the kind, and the message as a person reads it.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.kind()).field("message", &format_args!("{self}")).finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Stream(error) => error.fmt(f),
            Repr::Log(error) => {
                f.write_str(&error.message)?;
                error.source.as_ref().map_or(Ok(()), |source| write!(f, ": {source}"))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Repr::Stream(error) => std::error::Error::source(error),
            Repr::Log(error) => error.source.as_ref().map(|source| source as _),
        }
    }
}

impl From<inner::Error> for Error {
    fn from(error: inner::Error) -> Self {
        Self(Repr::Stream(error))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match (error.kind(), &error.0) {
            (_, Repr::Stream(inner)) => return io::Error::new(io::Error::from(inner.clone()).kind(), error),
            (ErrorKind::Locked, _) => io::ErrorKind::WouldBlock,
            (ErrorKind::Missing, _) => io::ErrorKind::NotFound,
            (ErrorKind::Damaged, _) => io::ErrorKind::InvalidData,
            (ErrorKind::Full, _) => io::ErrorKind::StorageFull,
            (ErrorKind::InvalidName | ErrorKind::InvalidOption, _) => io::ErrorKind::InvalidInput,
            (_, Repr::Log(log)) => log.source.as_ref().map_or(io::ErrorKind::Other, io::Error::kind),
        };
        io::Error::new(kind, error)
    }
}
