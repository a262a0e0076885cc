//! Step 7: begins a new generation where the chain ends. Its header is the commit point.

use std::sync::Arc;

use stratawal_frame::{Footer, FooterKind, Generation, SegmentHeader, SeqNo, StreamId, TRAILER_LEN};
use stratawal_segment::{CreateError, Preallocation, SegmentData, SegmentId, SegmentWriter};
use stratawal_sync::fail_point;

use super::analysis::Analysis;
use super::files::StreamFiles;
use super::found::FoundSegment;
use super::scan::FIRST_FRAME;
use super::seal::seal_kept;
use crate::error::{Error, ErrorKind, Result};
use crate::history::Predecessor;
use crate::read::snapshot::{PublishedSegment, first_point};
use crate::write::active::ActiveSegment;
use crate::write::clock::is_far_ahead;
use crate::write::create::{FIRST_LEN, create_segment, identity};
use crate::write::reserve::ReserveUse;

/// The segments of a recovered stream.
pub(super) struct RecoveredSegments {
    /// The sealed segments, in order.
    pub(super) kept: Vec<Arc<PublishedSegment>>,
    /// The segment in which the writer continues.
    pub(super) active: ActiveSegment,
    pub(super) preallocation: Preallocation,
}

/// Steps 7 and 8: makes the directories durable, begins a new generation, and writes the missing
/// SEALs before it. `timestamp` is that of the last entry.
pub(super) fn begin_generation(
    files: &StreamFiles<'_>,
    analysis: Analysis,
    all: &[SegmentId],
    timestamp: u64,
) -> Result<RecoveredSegments> {
    let storage = files.storage();
    // Names left by a killed process may not be durable.
    storage.sync_dir(&files.dir()).map_err(|e| Error::io(files.location, e))?;
    files.context.sync_parent(files.location).map_err(|e| Error::io(files.location, e))?;

    let now = storage.now_micros();
    let first_seq = analysis.first_seq;
    let base = analysis.next_seq();
    let is_reused = is_newest_reusable(files, &analysis, now)?;
    let mut kept = analysis.live;
    kept.truncate(analysis.chain_end + 1);
    let (writer, preallocation) = if is_reused {
        let newest = kept.pop().expect("invariant: the newest is in the chain");
        let file = files.open_to_write(newest.id())?;
        SegmentWriter::resume(&file, FIRST_FRAME)
    } else {
        kept.retain(|found| found.header().base < base && found.limit > first_seq);
        if let Some(last) = kept.last() {
            preallocate_seal(files, last)?;
        }
        let last_timestamp = if is_far_ahead(timestamp, now) { now } else { timestamp };
        let generation = next_generation(files, all)?;
        let stream_id = stream_id(files, all)?;
        let predecessor = kept.last().map_or(Predecessor::NONE, |found| predecessor(files, found, base));
        let header = SegmentHeader {
            generation,
            stream_id,
            base,
            durable: base,
            start: first_seq,
            last_timestamp,
            created: now,
            ..identity(files.context, files.location, predecessor)
        };
        let created = create_segment(files.context, &files.dir(), &header, FIRST_LEN, ReserveUse::Never);
        created.map_err(|e| match e {
            CreateError::Undone(e) | CreateError::Indeterminate(e) => files.failed(e),
        })?
    };
    seal_kept(files, &kept, writer.header(), first_seq, timestamp)?;
    let active = ActiveSegment::new(writer, files.context, files.location, files.options);
    Ok(RecoveredSegments { kept: kept.iter().map(FoundSegment::sealed).collect(), active, preallocation })
}

/// Whether the newest segment can serve as the new generation. It can if it is the last live one,
/// has only zeros after its header, and has the header that a new generation would get. So a
/// process that repeatedly opens the stream and dies creates no files.
fn is_newest_reusable(files: &StreamFiles<'_>, analysis: &Analysis, now: u64) -> Result<bool> {
    let last = &analysis.live[analysis.chain_end];
    let header = last.header();
    let is_exact = header.durable == header.base
        && header.base == analysis.chain_end_seq
        && header.start == analysis.first_seq
        && !is_far_ahead(header.last_timestamp, now);
    match &last.scan {
        Some(_) if last.id() == analysis.newest() && is_exact => {
            last.file(files)?.holds_only_zeros().map_err(|e| files.failed(e))
        }
        _ => Ok(false),
    }
}

/// Durably extends a file that ends in a CLOSE before anything names a segment after it. Only a
/// truncation below damage, or a cut before it, finds such a file here: an ordinary recovery
/// continues in it.
pub(super) fn preallocate_seal(files: &StreamFiles<'_>, last: &FoundSegment) -> Result<()> {
    let file = files.open_to_write(last.id())?;
    let finished = file.finished().map_err(|e| files.failed(e))?;
    let Some(close) = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. })) else {
        return Ok(());
    };
    let len = Footer::frame_len_max(0) + TRAILER_LEN as u64;
    SegmentWriter::resume_after_close(&file, close.offset)
        .and_then(|(writer, mut preallocation)| preallocation.ensure_control(&writer.next_position().offset, len))
        .map_err(|e| files.failed(e))
}

/// One more than the generation of the newest segment.
fn next_generation(files: &StreamFiles<'_>, all: &[SegmentId]) -> Result<Generation> {
    let newest = all.iter().map(|id| id.generation.0).max().unwrap_or(0);
    let step = if fail_point!(GenerationKept) { 0 } else { 1 };
    newest
        .checked_add(step)
        .map(Generation)
        .ok_or_else(|| Error::text(ErrorKind::Io, files.location, "the stream has used up its 2^32 generations"))
}

fn stream_id(files: &StreamFiles<'_>, all: &[SegmentId]) -> Result<StreamId> {
    let newest = all.iter().max_by_key(|id| id.generation).expect("invariant: there is a segment");
    let file = files.open(*newest).map_err(|e| files.failed(e))?;
    Ok(file.header().stream_id)
}

/// The predecessor to record in the header of a new generation with this base.
pub(super) fn predecessor(files: &StreamFiles<'_>, found: &FoundSegment, base: SeqNo) -> Predecessor {
    if let Some(scan) = &found.scan {
        let span = scan.index.floor(base.0.saturating_sub(1));
        let point = span.map_or_else(|| first_point(found.header()), |span| span.point);
        return found.file(files).map_or_else(
            |_| Predecessor::unread(found.header()),
            |file| Predecessor::from_point(&SegmentData::read(&file), point, base.0),
        );
    }
    let reader = found.sealed().open_alone(files.context, files.location, files.options);
    reader.map_or_else(|_| Predecessor::unread(found.header()), |reader| reader.predecessor_of(base.0))
}
