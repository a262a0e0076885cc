//! The errors of a log as a whole. Their type is that of the errors of its streams.

use std::io;

pub use stratawal_stream::{DamageKind, Error, ErrorKind, Result};

/// An error of the log.
pub(crate) fn log_error(kind: ErrorKind, text: impl Into<String>) -> Error {
    Error::of_log(kind, None, text.into(), None)
}

/// An error of a stream that is not open.
pub(crate) fn stream_error(kind: ErrorKind, stream: &str, text: impl Into<String>) -> Error {
    Error::of_log(kind, Some(stream), text.into(), None)
}

/// An error of the system in `what`, an operation on the files of the log.
pub(crate) fn io_error(what: impl Into<String>, source: io::Error) -> Error {
    let kind = if stratawal_storage::is_full(&source) { ErrorKind::Full } else { ErrorKind::Io };
    Error::of_log(kind, None, what.into(), Some(source))
}
