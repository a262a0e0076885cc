//! Step 3: which segments are live, and whether each continues the one before it.

use stratawal_frame::{SegmentHeader, SeqNo};
use stratawal_segment::{FooterSummary, SegmentId};

use super::files::StreamFiles;
use super::found::FoundSegment;
use super::lost_range;
use super::scan::{ReadOrder, SegmentScan};
use crate::error::{DamageKind, Error, Result};
use crate::history::{contradicts_footer, contradicts_frame, contradicts_header};

/// Drops the garbage: segments whose limit is at or below the first live seq. None of the others
/// may be missing.
pub(super) fn drop_garbage(
    files: &StreamFiles<'_>,
    segments: Vec<FoundSegment>,
    first_seq: SeqNo,
) -> Result<Vec<FoundSegment>> {
    let mut live = segments;
    let newest = live.len() - 1;
    let oldest = live.iter().position(|found| found.limit > first_seq).unwrap_or(newest);
    live.drain(..oldest);
    let oldest = &live[0];
    if oldest.header().base > first_seq {
        let error = Error::damage_at(files.location, DamageKind::FirstMissing, Some(oldest.id()), None);
        return Err(error.with_lost(first_seq.0..oldest.header().base.0));
    }
    let gap = live.windows(2).position(|pair| pair[1].header().predecessor != pair[0].header().generation);
    if let Some(i) = gap {
        let id = live[i + 1].id();
        let base = live[i + 1].header().base;
        let lost = lost_range::end_of(files, &mut live[i]).map(|end| end.max(first_seq).0..base.0);
        let error = Error::damage_at(files.location, DamageKind::PredecessorMissing, Some(id), None);
        return Err(error.with_lost(lost.unwrap_or_default()));
    }
    match live.windows(2).find(|pair| contradicts_header(pair[0].header(), pair[1].header())) {
        Some(pair) => Err(Error::history(files.location, pair[0].id(), pair[1].id())),
        None => Ok(live),
    }
}

/// Checks that each live segment continues the one before it. For a segment that is not scanned,
/// the last frame is compared when the segment is read, so that opening stays cheap.
pub(super) fn check_history(
    files: &StreamFiles<'_>,
    live: &mut [FoundSegment],
    first_seq: SeqNo,
    order: ReadOrder,
) -> Result<()> {
    check_links(files, live)?;
    check_all_unsealed(files, live, first_seq, order)
}

/// Checks, by the ends of files and the scans, that each live segment can follow the one before it.
pub(super) fn check_links(files: &StreamFiles<'_>, live: &mut [FoundSegment]) -> Result<()> {
    for i in 1..live.len() {
        let next = *live[i].header();
        let found = &mut live[i - 1];
        let is_contradicted = found.scan.as_ref().is_some_and(|scan| scan_contradicts(scan, &next));
        if is_contradicted || footer_contradicts(files, found, &next)? {
            return Err(Error::history(files.location, found.id(), SegmentId::of(&next)));
        }
    }
    Ok(())
}

/// Checks each segment that has no valid end and was not scanned; see [`check_unsealed`].
pub(super) fn check_all_unsealed(
    files: &StreamFiles<'_>,
    live: &mut [FoundSegment],
    first_seq: SeqNo,
    order: ReadOrder,
) -> Result<()> {
    for i in 1..live.len() {
        let next = *live[i].header();
        let found = &mut live[i - 1];
        if found.scan.is_none() && found.footer.is_none() {
            check_unsealed(files, found, &next, first_seq, order)?;
        }
    }
    Ok(())
}

/// Checks a segment whose SEAL is missing or damaged. A segment is sealed and then settled before
/// the next one is settled, so all entries before `next` must be in it.
fn check_unsealed(
    files: &StreamFiles<'_>,
    found: &mut FoundSegment,
    next: &SegmentHeader,
    first_seq: SeqNo,
    order: ReadOrder,
) -> Result<()> {
    let limit = found.limit;
    let scan = found.scan_file(files, order)?;
    // No entry is shown from this scan, so no sync is needed.
    found.close(files, limit, order)?;
    if scan_contradicts(&scan, next) {
        return Err(Error::history(files.location, found.id(), SegmentId::of(next)));
    }
    let end_seq = scan.chain.end_seq.min(limit);
    if end_seq == limit {
        // For the next look.
        found.earlier_scan = Some(scan);
        return Ok(());
    }
    let at = Some(scan.chain.end.0);
    found.scan = Some(scan);
    let error = Error::damage_at(files.location, DamageKind::Lost, Some(found.id()), at);
    Err(lost_range::after_chain(files, found, end_seq, first_seq, limit, error))
}

/// Whether the SEAL or CLOSE at the end of a file rules out that `next` follows. A damaged frame
/// rules out nothing.
pub(super) fn footer_contradicts(
    files: &StreamFiles<'_>,
    found: &mut FoundSegment,
    next: &SegmentHeader,
) -> Result<bool> {
    if !found.footer.is_some_and(|footer| contradicts_footer(&footer, next)) {
        return Ok(false);
    }
    let finished = found.file(files)?.finished().map_err(|e| files.failed(e))?;
    found.footer = finished.map(|finished| finished.summary());
    Ok(found.footer.is_some_and(|footer| contradicts_footer(&footer, next)))
}

/// Whether the chain of a scanned segment rules out that `next` follows.
pub(super) fn scan_contradicts(scan: &SegmentScan, next: &SegmentHeader) -> bool {
    let sealed =
        scan.chain.seal.as_ref().map(|(seal, _)| FooterSummary { end_seq: scan.chain.end_seq, kind: seal.kind });
    sealed.is_some_and(|seal| contradicts_footer(&seal, next))
        || scan.last_crc.is_some_and(|crc| contradicts_frame(crc, next))
}
