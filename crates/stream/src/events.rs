//! The only module of this crate that uses `tracing`. Each opening of a stream, and of the commit
//! journal, is one event with the fields of its report. Without the feature nothing is recorded.

use crate::error::Result;
use crate::location::Location;
use crate::log_journal::LogJournal;
use crate::recovery::Recovered;

/// Records that a stream was opened or could not be opened. Records nothing for a stream that does
/// not exist yet.
#[cfg(feature = "tracing")]
pub(crate) fn opened(location: &Location, outcome: &Result<Option<Recovered>>) {
    let stream = location.name();
    match outcome {
        Ok(None) => {}
        Ok(Some(recovered)) => {
            let report = &recovered.report;
            let torn = report.torn.as_ref();
            tracing::info!(
                target: "stratawal",
                stream,
                clean = report.clean,
                first_seq = report.first_seq,
                next_seq = report.next_seq,
                segments = report.segments,
                torn_segment = torn.map(|torn| torn.segment.as_str()),
                torn_offset = torn.map(|torn| torn.offset),
                torn_bytes = torn.map(|torn| torn.bytes),
                scanned_bytes = report.scanned_bytes,
                rewritten_bytes = report.rewritten_bytes,
                removed_segments = report.removed_segments.len(),
                elapsed_micros = u64::try_from(report.elapsed.as_micros()).unwrap_or(u64::MAX),
                "opened"
            );
        }
        Err(error) if error.is_damage() => tracing::error!(
            target: "stratawal",
            stream,
            segment = error.segment(),
            offset = error.offset(),
            first_lost_seq = error.lost().map(|lost| lost.start),
            last_lost_seq = error.lost().map(|lost| lost.end - 1),
            "{error}"
        ),
        Err(error) => tracing::warn!(target: "stratawal", stream, "cannot be opened: {error}"),
    }
}

/// Records that a stream that was opened has entries that only the journal had.
#[cfg(feature = "tracing")]
pub(crate) fn joined(location: &Location, report: &crate::report::OpenReport) {
    if report.journal_entries > 0 {
        tracing::info!(
            target: "stratawal",
            stream = location.name(),
            journal_entries = report.journal_entries,
            first_seq = report.first_seq,
            next_seq = report.next_seq,
            "entries were taken from the journal"
        );
    }
}

/// Records that the journal of a log was opened or created, or could not be.
#[cfg(feature = "tracing")]
pub(crate) fn journal_opened(outcome: &stratawal_journal::Result<LogJournal>) {
    match outcome {
        Ok(log) => {
            let report = log.report();
            tracing::info!(
                target: "stratawal",
                existed = report.existed,
                clean = report.clean,
                files = report.files,
                records = report.records,
                bytes = report.bytes,
                streams = report.streams,
                deletions = report.deletions,
                cut_records = report.cut_records,
                elapsed_micros = u64::try_from(report.elapsed.as_micros()).unwrap_or(u64::MAX),
                "the journal was opened"
            );
        }
        Err(error) if error.is_damage() => {
            tracing::error!(target: "stratawal", file = error.file(), offset = error.offset(), "{error}");
        }
        Err(error) => tracing::warn!(target: "stratawal", "the journal cannot be opened: {error}"),
    }
}

/// Records that a callback or a waker of a ticket panicked. The panic harms nothing else.
#[cfg(feature = "tracing")]
pub(crate) fn callback_panicked(stream: &str) {
    tracing::error!(target: "stratawal", stream, "the callback of a ticket panicked");
}

#[cfg(not(feature = "tracing"))]
pub(crate) const fn callback_panicked(_: &str) {}

#[cfg(not(feature = "tracing"))]
pub(crate) const fn opened(_: &Location, _: &Result<Option<Recovered>>) {}

#[cfg(not(feature = "tracing"))]
pub(crate) const fn journal_opened(_: &stratawal_journal::Result<LogJournal>) {}

#[cfg(not(feature = "tracing"))]
pub(crate) const fn joined(_: &Location, _: &crate::report::OpenReport) {}
