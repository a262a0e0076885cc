//! Errors that concern the log as a whole. They have the same type as errors of its streams.

use std::io;

pub use stratawal_stream::{DamageKind, Error, ErrorKind, Result};

/// An error that concerns the log as a whole.
pub(crate) fn log_error(kind: ErrorKind, text: impl Into<String>) -> Error {
    Error::of_log(kind, None, text.into(), None)
}

/// An error that concerns a stream that is not open.
pub(crate) fn stream_error(kind: ErrorKind, stream: &str, text: impl Into<String>) -> Error {
    Error::of_log(kind, Some(stream), text.into(), None)
}

/// An operating-system error from `what`, an operation on the files of the log.
pub(crate) fn io_error(what: impl Into<String>, source: io::Error) -> Error {
    let kind = if stratawal_storage::is_full(&source) { ErrorKind::Full } else { ErrorKind::Io };
    Error::of_log(kind, None, what.into(), Some(source))
}
