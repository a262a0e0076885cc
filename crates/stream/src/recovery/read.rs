//! Reads a stream, whether or not a writer is active: runs steps 1 to 5, and shows the chain that
//! they found, followed by what only the commit journal has.

use std::sync::Arc;
use std::time::Instant;

use stratawal_segment::{SegmentData, SegmentId};

use super::analyse::analyse;
use super::analysis::Analysis;
use super::closed_index::closed_index;
use super::files::{LOOKS_MAX, StreamFiles};
use super::found::{FoundSegment, SegmentHandle};
use super::reader_state::ReaderState;
use super::recovered::Recovered;
use super::scan::ReadOrder;
use crate::error::{Error, Result};
use crate::journal_reader::{Attempt, Joined, StreamLook};
use crate::read::snapshot::{LiveSegment, PublishedSegment, SegmentState, Snapshot};

/// Reads the stream while another process may write to it: its files, and what only the journal
/// has. Returns `None` if the stream does not exist. Changes nothing.
pub(crate) fn read(files: &StreamFiles<'_>) -> Result<Option<Recovered>> {
    let Some(journal) = files.context.reader_of_journal() else { return read_files(files) };
    let mut attempt = Attempt::default();
    for _ in 0..LOOKS_MAX {
        let before = journal.look(files.location)?;
        let recovered = read_files(files)?;
        let in_files = recovered.as_ref().and_then(Recovered::in_files);
        let look = StreamLook { location: files.location, before, since: None, files: in_files };
        match journal.join(&look, &mut attempt)? {
            Joined::Again => {}
            Joined::Gone => return Ok(None),
            Joined::Tail(tail) => {
                return Ok(Some(recovered.unwrap_or_else(Recovered::without_files).with_journal(tail)));
            }
        }
    }
    Err(files.change_too_fast())
}

/// Reads the files of the stream while another process may write to them. Returns `None` if the
/// stream has no directory. Changes nothing.
///
/// An active writer can briefly look like damage of any kind: a segment is gone, a length is wrong,
/// entries are missing. So damage is reported only if a second look at the files finds the same
/// damage, at the same place and with the same numbers.
pub(super) fn read_files(files: &StreamFiles<'_>) -> Result<Option<Recovered>> {
    let began = Instant::now();
    let mut seen: Option<Error> = None;
    for _ in 0..LOOKS_MAX {
        if !files.exist()? {
            return Ok(None);
        }
        let analysis = analyse(files, ReadOrder::AttestationsFirst);
        match analysis.and_then(|analysis| show(files, analysis, false)) {
            Ok(mut recovered) => {
                recovered.report.elapsed = began.elapsed();
                return Ok(Some(recovered));
            }
            // The writer has removed a file since it was listed. This may happen in each of two
            // looks.
            Err(e) if e.is_not_found() => seen = None,
            Err(e) if !e.is_damage() => return Err(e),
            Err(e) if seen.as_ref().is_some_and(|seen| seen.same_finding(&e)) => return Err(e),
            Err(e) => seen = Some(e),
        }
    }
    // No two looks found the same damage, so a writer must be changing the files.
    Err(files.change_too_fast())
}

/// Ensures that the whole chain is on the disk, and shows it.
pub(super) fn show(files: &StreamFiles<'_>, mut analysis: Analysis, is_refresh: bool) -> Result<Recovered> {
    // Bytes above the attested watermark may be only in the page cache. If a reader showed them and
    // a power loss dropped them, it would have shown entries that never existed.
    if analysis.chain_end_seq > analysis.durable {
        // Files that are no longer open were synced before they were closed.
        analysis.live.iter_mut().try_for_each(|found| found.sync_unattested(files, analysis.durable))?;
    }
    let report = analysis.report(files)?;
    let timestamp = analysis.timestamp();
    let first_seq = analysis.first_seq.0;
    let next_seq = analysis.next_seq().0;
    let newest = analysis.newest();
    let mut segments = Vec::with_capacity(analysis.chain_end + 1);
    for found in analysis.chain() {
        let state = state_of(files, &analysis, found, newest)?;
        segments.push(Arc::new(PublishedSegment { header: *found.header(), state }));
    }
    Ok(Recovered {
        snapshot: Snapshot::new(segments),
        first_seq,
        next_seq,
        timestamp,
        writable: None,
        report,
        dead: Vec::new(),
        reader_state: Some(Box::new(ReaderState::of(analysis))),
        is_refresh,
        cut: None,
    })
}

/// Determines how a segment of the chain is read.
fn state_of(
    files: &StreamFiles<'_>,
    analysis: &Analysis,
    found: &FoundSegment,
    newest: SegmentId,
) -> Result<SegmentState> {
    Ok(match (&found.scan, &found.handle, &analysis.closed) {
        (Some(scan), SegmentHandle::Open(file), _) => SegmentState::Live(Arc::new(scan.live(file))),
        // A complete segment is opened when it is read. Its index is rebuilt then if it has none.
        (Some(scan), SegmentHandle::Closed(_), _) if scan.chain.end_seq >= found.limit => SegmentState::Sealed,
        (Some(scan), SegmentHandle::Closed(_), _) => SegmentState::Live(Arc::new(scan.live(&found.file(files)?))),
        // A writer may continue in the newest segment, so it is read only up to the CLOSE that was
        // found.
        (None, SegmentHandle::Open(file), Some(close)) if found.id() == newest => {
            let closed = closed_index(file, close, files.options.index_interval_bytes);
            let (index, _) = closed.map_err(|e| files.failed(e))?;
            SegmentState::Live(Arc::new(LiveSegment::new(SegmentData::read(file), Arc::new(index), close.offset.0)))
        }
        (None, _, _) => SegmentState::Sealed,
    })
}
