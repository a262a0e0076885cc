//! The only module of this crate that uses `tracing`. Without the feature nothing is recorded.
//!
//! No lock of the journal is held while an event is recorded. The caller may hold its own, so a
//! subscriber must not append to the log that it observes.

use crate::error::Error;
use crate::lsn::Lsn;

/// Records that the journal has failed: it accepts no records until it is restarted.
#[cfg(feature = "tracing")]
pub(crate) fn failed(error: &Error) {
    tracing::error!(target: "stratawal", file = error.file(), "the journal has failed: {error}");
}

/// Records that the failed journal was restarted, with these records in a new file.
#[cfg(feature = "tracing")]
pub(crate) fn restarted(records: usize, bytes: u64) {
    tracing::info!(target: "stratawal", records, bytes, "the journal was restarted");
}

/// Records that the records below `needed_from` are no longer needed.
#[cfg(feature = "tracing")]
pub(crate) fn released(before: Lsn, needed_from: Lsn, end: Lsn) {
    tracing::debug!(
        target: "stratawal",
        bytes = needed_from - before,
        needed_bytes = end - needed_from,
        lsn = needed_from.0,
        "the journal was released"
    );
}

#[cfg(not(feature = "tracing"))]
pub(crate) const fn failed(_: &Error) {}

#[cfg(not(feature = "tracing"))]
pub(crate) const fn restarted(_: usize, _: u64) {}

#[cfg(not(feature = "tracing"))]
pub(crate) const fn released(_: Lsn, _: Lsn, _: Lsn) {}
