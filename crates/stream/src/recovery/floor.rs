//! Steps 1 to 5 if only the entries at or above a *floor* have to be sound.
//!
//! Segments entirely below the floor are garbage, whether or not they can be read. All others have
//! to be sound by the ordinary rules, with one exception: the segment that holds the floor may be
//! damaged below it. If its chain breaks below the floor, the chain resumes at the frame that holds
//! the floor. The new generation records the floor as the first live seq. The segment before it
//! gets a SEAL whose index begins at that frame, so that later opens do not scan that segment.
//!
//! A valid segment of another stream or log, or with a different name, is an error wherever it is.
//! Dropping it would remove a file that may be the only copy of entries that belong elsewhere.

use std::sync::Arc;

use stratawal_frame::{ByteOffset, FooterKind, FrameHeader, SeqNo};
use stratawal_index::ActiveIndex;
use stratawal_segment::{Finished, FrameSearch, SegmentFile, SegmentId};

use super::analysis::Analysis;
use super::chain_end::{find_chain_end, scan_back};
use super::files::StreamFiles;
use super::found::{FoundSegment, SegmentHandle};
use super::links::{check_all_unsealed, check_links, drop_garbage};
use super::list::{Listing, list, misplaced};
use super::lost_range;
use super::scan::{ReadOrder, SegmentScan, add_point};
use super::stamp::ObservedStamp;
use super::void::{SeqBounds, drop_void};
use crate::error::{DamageKind, Error, ErrorKind, Result};

/// A segment in the directory, whose header may be unreadable.
pub(super) struct Candidate {
    pub(super) id: SegmentId,
    /// Entries at or above this are void.
    limit: SeqNo,
    pub(super) found: Result<FoundSegment>,
}

/// The findings in the newest segment.
struct NewestState {
    /// The CLOSE that it ends with.
    close: Option<Finished>,
    first_seq: SeqNo,
    stamp: ObservedStamp,
}

/// Steps 1 to 5 for the entries at or above `floor`. If the first live seq is higher, it is the
/// floor. The returned analysis has the floor as its first live seq. Changes nothing.
pub(super) fn analyse_above(files: &StreamFiles<'_>, floor: SeqNo) -> Result<Analysis> {
    let listing = list(files)?;
    let all = &listing.segments;
    let mut candidates = drop_void(read_candidates(files, all)?);
    let newest = candidates.pop().expect("invariant: at least the newest segment voids nothing of itself");
    let mut newest = newest.found.map_err(|error| lost_range::by_name(files, all, newest.id, error))?;
    let stated = scan_newest(files, &mut newest)?;
    let mut first_seq = floor.max(stated.first_seq);

    let mut live = live_above(files, all, candidates, newest, first_seq)?;
    let attested = check_live(files, &mut live, first_seq)?;
    let durable = stated.close.map_or(attested, |close| close.frame.first_seq);
    let has_floor = enter_chain(files, &mut live[0], first_seq, durable)?;
    check_end(files, &live[live.len() - 1], first_seq)?;

    let Listing { segments: all, temporaries } = listing;
    let is_empty = !has_floor && live.len() == 1 && durable <= first_seq;
    let analysis = |live, chain_end, first_seq, chain_end_seq, durable| Analysis {
        all,
        headers: Vec::new(),
        stamp: stated.stamp,
        temporaries,
        live,
        chain_end,
        closed: None,
        first_seq,
        chain_end_seq,
        durable,
    };
    if is_empty && live[0].scan.as_ref().is_some_and(|scan| scan.has_active_len) {
        // Nothing at or above the floor was acknowledged. The stream restarts there.
        live[0].limit = first_seq;
        return Ok(analysis(live, 0, first_seq, first_seq, first_seq));
    }
    if live.len() == 1 {
        let in_chain = live[0].scan.as_ref().and_then(|scan| scan.chain.start);
        first_seq = first_seq.max(in_chain.unwrap_or_default());
    }
    let (chain_end, chain_end_seq) = find_chain_end(files, &live, first_seq, durable)?;
    Ok(analysis(live, chain_end, first_seq, chain_end_seq, durable))
}

/// Scans the newest segment.
fn scan_newest(files: &StreamFiles<'_>, newest: &mut FoundSegment) -> Result<NewestState> {
    let file = newest.keep_open(files)?;
    let finished = file.finished().map_err(|e| files.failed(e))?;
    let close = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. }));
    let mut scan = newest.scan_file(files, ReadOrder::ChainFirst)?;
    // A file that ends in a CLOSE with its trailer has the right length.
    scan.has_active_len |= close.is_some();
    let stamp = scan.resume.stamp;
    let in_chain = scan.chain.start.unwrap_or(newest.header().start);
    let first_seq = close.as_ref().map_or(in_chain, |close| close.footer.start);
    newest.scan = Some(scan);
    Ok(NewestState { close, first_seq, stamp })
}

/// Steps 2 and 3: the segments that hold entries at or above `first_seq`. All of them must be
/// readable.
fn live_above(
    files: &StreamFiles<'_>,
    all: &[SegmentId],
    candidates: Vec<Candidate>,
    newest: FoundSegment,
    first_seq: SeqNo,
) -> Result<Vec<FoundSegment>> {
    let mut live = Vec::new();
    for Candidate { id, limit, found } in candidates {
        if limit > first_seq {
            let found = found.map_err(|error| lost_range::by_name(files, all, id, error))?;
            live.push(FoundSegment { limit, ..found });
        }
    }
    live.push(newest);
    drop_garbage(files, live, first_seq)
}

/// Scans back from the newest segment, and checks that each live segment continues the one before
/// it. Returns how far the stream is attested.
fn check_live(files: &StreamFiles<'_>, live: &mut [FoundSegment], first_seq: SeqNo) -> Result<SeqNo> {
    let attested = scan_back(files, live, ReadOrder::ChainFirst)?;
    if live.len() > 1 {
        scan_unsealed(files, &mut live[0])?;
    }
    check_links(files, live)?;
    // The next open does the same check with the new first live seq.
    check_all_unsealed(files, live, first_seq, ReadOrder::ChainFirst)?;
    Ok(attested)
}

/// If the chain of the segment that holds the floor breaks below the floor, resumes the chain at
/// the floor. Returns false if the chain breaks and no frame holds the floor.
fn enter_chain(files: &StreamFiles<'_>, holder: &mut FoundSegment, first_seq: SeqNo, durable: SeqNo) -> Result<bool> {
    let end_seq = holder.scan.as_ref().map(|scan| scan.chain.end_seq);
    let breaks = end_seq.is_some_and(|end| end < first_seq.min(holder.limit) || end == first_seq && end < durable);
    Ok(!breaks || enter_at(files, holder, first_seq)?)
}

/// A SEAL in the newest segment names a segment that must exist.
fn check_end(files: &StreamFiles<'_>, newest: &FoundSegment, first_seq: SeqNo) -> Result<()> {
    let Some(seal) = newest.file(files)?.find_seal().map_err(|e| files.failed(e))? else { return Ok(()) };
    let error = Error::damage_at(files.location, DamageKind::SuccessorMissing, Some(newest.id()), None);
    Err(error.with_lost_from(first_seq.max(seal.end_seq).0))
}

/// Reads the headers of all segments. Fails if a segment may hold entries of another stream or log.
fn read_candidates(files: &StreamFiles<'_>, all: &[SegmentId]) -> Result<Vec<Candidate>> {
    let mut candidates = read_names(files, all)?;
    match take_foreign(&mut candidates) {
        None => Ok(candidates),
        // The name of a renamed file does not show which entries are missing.
        Some((_, error)) if error.named_segment().is_some() => Err(error),
        Some((id, error)) => Err(lost_range::by_name(files, all, id, error)),
    }
}

/// Reads the headers of the segments that can be read.
pub(super) fn read_names(files: &StreamFiles<'_>, all: &[SegmentId]) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::with_capacity(all.len());
    // The newest segment is read first: it determines which stream this is.
    let mut stream_id = None;
    for (i, &id) in all.iter().enumerate().rev() {
        let found = match files.open(id) {
            Ok(file) => {
                let header = *file.header();
                let is_newest = i + 1 == all.len();
                let footer = if is_newest { None } else { file.peek_footer().map_err(|e| files.failed(e))? };
                let handle = if is_newest { SegmentHandle::Open(file) } else { SegmentHandle::Closed(header) };
                let found = FoundSegment::new(handle, footer);
                misplaced(files, &header, &mut stream_id, all.get(i + 1)).map_or(Ok(found), Err)
            }
            Err(error) if error.is_damage() || error.is_newer() => Err(files.failed(error)),
            Err(error) => return Err(files.failed(error)),
        };
        candidates.push(Candidate { id, limit: SeqNo(u64::MAX), found });
    }
    candidates.reverse();
    Ok(candidates)
}

/// Takes the newest segment that may hold entries of another stream or log, with its error. Such a
/// segment is in the wrong place, or has a newer format, so that its stream cannot be read.
fn take_foreign(candidates: &mut Vec<Candidate>) -> Option<(SegmentId, Error)> {
    let is_foreign =
        |error: &Error| error.damage() == Some(DamageKind::Misplaced) || error.kind() == ErrorKind::NewerFormat;
    let i = candidates.iter().rposition(|candidate| candidate.found.as_ref().is_err_and(is_foreign))?;
    let Candidate { id, found, .. } = candidates.swap_remove(i);
    found.err().map(|error| (id, error))
}

impl SeqBounds for Candidate {
    fn base(&self) -> SeqNo {
        self.id.base
    }

    fn set_limit(&mut self, limit: SeqNo) {
        self.limit = limit;
    }
}

/// Scans the segment that holds the floor, if it has no valid end and was not scanned: its chain
/// may break below the floor.
fn scan_unsealed(files: &StreamFiles<'_>, holder: &mut FoundSegment) -> Result<()> {
    if holder.scan.is_none() && holder.footer.is_none() {
        holder.scan = Some(holder.scan_file(files, ReadOrder::ChainFirst)?);
        let limit = holder.limit;
        holder.close(files, limit, ReadOrder::ChainFirst)?;
    }
    Ok(())
}

/// Resumes the chain of `found` at the frame that holds `seq`, after the point where the chain
/// breaks. Returns false if no such frame exists.
fn enter_at(files: &StreamFiles<'_>, found: &mut FoundSegment, seq: SeqNo) -> Result<bool> {
    let file = found.file(files)?;
    let limit = found.limit;
    let scan = found.scan.as_mut().expect("invariant: only the chain of a segment that was scanned is known to break");
    let Some((offset, first_seq)) = frame_with(&file, scan, seq).map_err(|e| files.failed(e))? else {
        return Ok(false);
    };
    let index = ActiveIndex::new(files.options.index_interval_bytes);
    let mut visit = |offset: ByteOffset, frame: &FrameHeader| {
        if frame.first_seq < limit {
            add_point(&index, offset, frame);
        }
    };
    scan.chain = file.scan_chain_from(offset, first_seq, &mut visit).map_err(|e| files.failed(e))?;
    scan.entry = (offset, first_seq);
    scan.index = Arc::new(index);
    Ok(true)
}

/// The offset and first seq of the whole frame after the end of the chain that holds `seq`.
fn frame_with(
    file: &SegmentFile,
    scan: &SegmentScan,
    seq: SeqNo,
) -> stratawal_segment::Result<Option<(ByteOffset, SeqNo)>> {
    let mut search = FrameSearch::new(file, scan.chain.end);
    while let Some(found) = search.next_frame()? {
        let holds = found.header.first_seq <= seq && seq < found.header.end_seq();
        if holds && found.is_whole {
            return Ok(Some((found.offset, found.header.first_seq)));
        }
    }
    Ok(None)
}
