//! Refreshes a reader's view of a stream: reads only the entries added since its last look.
//!
//! A refresh takes the same steps as a first look, by the same rules, with three differences:
//!
//! - Headers are remembered. A header never changes once its file has its name, and a generation is
//!   never used twice in a stream. So the remembered headers are valid as long as the segment that
//!   was the newest still exists with the same header, including its random salt. That header is
//!   read in each look. If the segment was removed or belongs to another stream, everything is
//!   reread.
//! - A scan is resumed. The frames up to the end of the chain are valid and never change, so the
//!   scan continues after them if the last of them is still in the file. A watermark once attested
//!   stays attested.
//! - After the chain, only the first few KiB are searched for attestations if new frames or a
//!   higher watermark there explain why the file has changed. The rest of the file is searched if
//!   nothing explains the change, and once when the file has stopped changing. So a preallocated
//!   file is not read to its end for each new entry, but no attestation is missed permanently.
//!
//! If nothing has changed, only one header is read.
//!
//! Guarantees:
//!
//! - Every state shown is accepted by the rules of recovery. So no entry is torn, none is missing
//!   between two others, and none is shown before it is attested or synced. Each round reads the
//!   attested watermark before the chain, so an active writer is not mistaken for damage.
//! - Only full looks report damage. An error of any kind ends the refresh, and everything is
//!   reread, twice if the error is damage.
//! - Attestations that the chain does not reach are damage. They are found at the latest by the
//!   first look that knows that the file has stopped changing: 50 ms after an earlier look saw the
//!   same stamp.
//! - A refresh does not reread frames that an earlier look found valid, so damage to them is found
//!   only when they are read, or by the next open. Bit rot does not change a file's times, so only
//!   reading can find it.
//!
//! The change stamp of a file shows whether the file has changed, see [`stamp`](super::stamp). On a
//! storage without stamps, each look searches the rest of the file.

use std::io;
use std::time::Instant;

use super::analyse::analyse_again;
use super::files::{LOOKS_MAX, StreamFiles};
use super::list::list;
use super::read::{read_files, show};
use super::reader_state::{ReaderState, StreamBounds};
use super::recovered::{Recovered, Refreshed};
use super::stamp::ObservedStamp;
use crate::error::{Error, Result};
use crate::journal_reader::{Attempt, Joined, Sighting, StreamLook};
use crate::read::snapshot::Snapshot;
use crate::report::OpenReport;

/// Refreshes the view of the stream, reading only the changes since the look that returned `state`
/// and showed `shown` and `earlier`. Reads everything if `state` is no longer valid or not given.
pub(crate) fn refresh(
    files: &StreamFiles<'_>,
    mut state: Option<Box<ReaderState>>,
    shown: &Snapshot,
    earlier: &OpenReport,
) -> Result<Refreshed> {
    let Some(journal) = files.context.reader_of_journal() else { return refresh_files(files, state) };
    let mut attempt = Attempt::default();
    // The files, if a try found that they have changed.
    let mut changed: Option<Box<Recovered>> = None;
    for _ in 0..LOOKS_MAX {
        let before = journal.look(files.location)?;
        let report = match refresh_files(files, state.take())? {
            Refreshed::Missing => {
                changed = Some(Box::new(Recovered::without_files()));
                None
            }
            Refreshed::Changed(mut recovered) => {
                state = recovered.reader_state.take();
                changed = Some(recovered);
                None
            }
            Refreshed::Unchanged { reader_state, report, .. } => {
                state = Some(reader_state);
                report
            }
        };
        let in_files = changed.as_ref().map_or(shown.journal().files, |recovered| recovered.in_files());
        let since = Some(shown.journal().sighting);
        let look = StreamLook { location: files.location, before, since, files: in_files };
        let tail = match journal.join(&look, &mut attempt)? {
            Joined::Again => continue,
            Joined::Gone => return Ok(Refreshed::Missing),
            Joined::Tail(tail) => tail,
        };
        let report = report.unwrap_or_else(|| earlier.of_nothing_new());
        if let Some(reader_state) = state.take_if(|_| changed.is_none() && tail.shows_the_same(shown.journal())) {
            let report = OpenReport { first_seq: earlier.first_seq, next_seq: earlier.next_seq, ..report };
            let sighting = tail.complete;
            return Ok(Refreshed::Unchanged { reader_state, report: Some(report), sighting });
        }
        let recovered = changed.map_or_else(|| unchanged_files(shown, report), |changed| *changed);
        let recovered = Recovered { reader_state: state, ..recovered }.with_journal(tail);
        return Ok(Refreshed::Changed(Box::new(recovered)));
    }
    Err(files.change_too_fast())
}

/// The files as an earlier look showed them.
fn unchanged_files(shown: &Snapshot, report: OpenReport) -> Recovered {
    let (first_seq, next_seq) = shown.journal().files.map_or((0, 0), |files| (files.first_seq, files.next_seq));
    let snapshot = Snapshot::new(shown.segments.clone());
    Recovered { snapshot, first_seq, next_seq, report, is_refresh: true, ..Recovered::without_files() }
}

/// Refreshes the view of the files.
fn refresh_files(files: &StreamFiles<'_>, state: Option<Box<ReaderState>>) -> Result<Refreshed> {
    let began = Instant::now();
    if let Some(state) = state
        && let Ok(mut refreshed) = refresh_from(files, *state)
    {
        match &mut refreshed {
            Refreshed::Unchanged { report: Some(report), .. } => report.elapsed = began.elapsed(),
            Refreshed::Changed(recovered) => recovered.report.elapsed = began.elapsed(),
            Refreshed::Unchanged { report: None, .. } | Refreshed::Missing => {}
        }
        return Ok(refreshed);
    }
    // Errors are reported only by a look that does not rely on an earlier one.
    Ok(read_files(files)?.map_or(Refreshed::Missing, |recovered| Refreshed::Changed(Box::new(recovered))))
}

/// Refreshes the view from the findings of the last look. An error means that these findings are no
/// longer valid or that something is damaged; then everything has to be read.
fn refresh_from(files: &StreamFiles<'_>, state: ReaderState) -> Result<Refreshed> {
    let removed = || Error::io(files.location, io::ErrorKind::NotFound.into());
    let open = |id| files.open(id).map_err(|e| files.failed(e));
    let listing = list(files)?;
    let newest = open(*listing.segments.last().ok_or_else(removed)?)?;
    let is_same_stream = if newest.id() == state.newest() {
        state.is_newest(&newest)
    } else {
        listing.segments.contains(&state.newest()) && state.is_newest(&open(state.newest())?)
    };
    if !is_same_stream {
        return Err(removed());
    }
    let has_same_names = listing.segments == state.names;
    if has_same_names && state.is_at_rest() {
        let stamp = ObservedStamp::now(files, &newest, Some(&state.stamp)).map_err(|e| files.failed(e))?;
        if stamp.is_unchanged_since(&state.stamp) {
            let reader_state = Box::new(state);
            return Ok(Refreshed::Unchanged { reader_state, report: None, sighting: Sighting::default() });
        }
    }
    let mut analysis = analyse_again(files, listing, state.segments, &state.stamp, newest)?;
    if has_same_names && StreamBounds::of(&analysis) == state.bounds {
        let report = Some(analysis.report(files)?);
        let reader_state = Box::new(ReaderState::of(analysis));
        return Ok(Refreshed::Unchanged { reader_state, report, sighting: Sighting::default() });
    }
    show(files, analysis, true).map(|recovered| Refreshed::Changed(Box::new(recovered)))
}
