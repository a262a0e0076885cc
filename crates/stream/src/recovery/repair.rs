//! Steps 4 and 6 to 9: repairs the files so that the writer can continue.

use std::collections::BTreeSet;
use std::sync::Arc;

use stratawal_segment::{SegmentData, SegmentId, SegmentWriter};

use super::analysis::Analysis;
use super::closed_index::closed_index;
use super::files::StreamFiles;
use super::found::FoundSegment;
use super::generation::{RecoveredSegments, begin_generation};
use super::recovered::Recovered;
use super::rewrite::rewrite;
use crate::error::Result;
use crate::fs::remove_file;
use crate::read::snapshot::{LiveSegment, PublishedSegment, SegmentState, Snapshot};
use crate::write::active::ActiveSegment;

/// Repairs the files. Returns `None` if they have changed since they were analysed; the caller then
/// analyses them again.
pub(super) fn repair(files: &StreamFiles<'_>, mut analysis: Analysis) -> Result<Option<Recovered>> {
    let mut report = analysis.report(files)?;
    let all = std::mem::take(&mut analysis.all);
    for name in &analysis.temporaries {
        // A temporary file that cannot be removed is harmless: it is never read and does not block
        // the name of a segment. The next recovery tries again.
        let _ = remove_file(&**files.storage(), &files.dir().join(name));
    }
    let first_seq = analysis.first_seq.0;
    let next_seq = analysis.next_seq().0;
    let timestamp = analysis.timestamp();
    let was_closed = analysis.closed.is_some();
    let RecoveredSegments { kept, active, preallocation } = if was_closed {
        resume_closed(files, analysis)?
    } else {
        let Some(rewritten) = rewrite(files, &analysis)? else { return Ok(None) };
        report.rewritten_bytes = rewritten;
        begin_generation(files, analysis, &all, timestamp)?
    };
    let dead = dead(&all, &kept, &active);
    let last_point = active.live.index.points_from(0).last().map_or(0, |point| point.timestamp);
    // If times were far ahead of the clock, they restart in a new generation.
    let timestamp = if was_closed { timestamp } else { active.writer.header().last_timestamp };
    let timestamp = timestamp.max(last_point);
    let mut segments = kept;
    let live = Arc::clone(&active.live);
    segments.push(Arc::new(PublishedSegment { header: *active.writer.header(), state: SegmentState::Live(live) }));
    report.segments = segments.len() as u64;
    Ok(Some(Recovered {
        snapshot: Snapshot::new(segments),
        first_seq,
        next_seq,
        timestamp,
        writable: Some((active, preallocation)),
        report,
        dead,
        reader_state: None,
        is_refresh: false,
        cut: None,
    }))
}

/// Step 4: the newest segment ends in a valid CLOSE. Writes nothing. The writer continues after the
/// CLOSE when it has something to write.
fn resume_closed(files: &StreamFiles<'_>, analysis: Analysis) -> Result<RecoveredSegments> {
    let close = analysis.closed.expect("invariant: the caller checked for a CLOSE");
    let mut kept = analysis.live;
    let newest = kept.pop().expect("invariant: there is a newest segment");
    let file = files.open_to_write(newest.id())?;
    let (index, closes) =
        closed_index(&file, &close, files.options.index_interval_bytes).map_err(|e| files.failed(e))?;
    let (writer, preallocation) =
        SegmentWriter::resume_after_close(&file, close.offset).map_err(|e| files.failed(e))?;
    let (writer, cached) = files.context.take_over(files.location, writer);
    let data = SegmentData::read_shared(*writer.header(), Arc::clone(writer.file()));
    let active = ActiveSegment {
        live: Arc::new(LiveSegment::new(data, Arc::new(index), close.offset.0)),
        writer,
        file: cached,
        end_seq: close.frame.first_seq.0,
        times: (close.footer.entries > 0).then_some(close.footer.times),
        closes,
    };
    Ok(RecoveredSegments { kept: kept.iter().map(FoundSegment::sealed).collect(), active, preallocation })
}

/// The segments that step 9 removes: those not kept, which are void or garbage.
fn dead(all: &[SegmentId], kept: &[Arc<PublishedSegment>], active: &ActiveSegment) -> Vec<SegmentId> {
    let kept: BTreeSet<SegmentId> = kept.iter().map(|kept| kept.id()).chain([active.writer.id()]).collect();
    all.iter().filter(|id| !kept.contains(id)).copied().collect()
}
