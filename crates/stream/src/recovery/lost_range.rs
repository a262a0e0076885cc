//! Computes the entries that an error reports as lost after damage was found. Decides nothing and
//! changes nothing.
//!
//! An error never reports an entry as lost if it may still exist. If only the first lost entry is
//! known, only that one is reported.
//!
//! By kind of damage, an error reports:
//!
//! - *history*: nothing, because it is not known which of the two segments is the wrong one.
//! - *header*, *file*: from the base in the segment's name to the smallest base in the names of
//!   newer segments; for the newest segment, only the base. Nothing if the header is valid but
//!   belongs to another file: then the name may be wrong rather than the bytes.
//! - *no segment*: nothing.
//! - *first missing*: from the first live seq to the smallest base that exists.
//! - *predecessor missing*: from the end of the segment before the gap to the base of the segment
//!   after it.
//! - *successor missing*: the seq that the SEAL gives as the next one. How many entries followed is
//!   not known.
//! - *lost*: from the end of the chain to the next valid frame, but not above the limit or the
//!   attested watermark.
//! - *length*: if more is attested than the chain has, the same as for *lost*. Otherwise up to the
//!   limit. In a newest segment with neither, everything after the chain may be lost, but nothing
//!   is lost if the chain ends in a CLOSE.

use stratawal_frame::SeqNo;
use stratawal_segment::{ErrorKind, SegmentId};

use super::files::StreamFiles;
use super::found::{FoundSegment, SegmentHandle, stated_first_seq};
use crate::error::Error;

/// The error for segment `id`, which could not be opened. `all` has all segments in order of
/// generation.
pub(super) fn unreadable(
    files: &StreamFiles<'_>,
    all: &[SegmentId],
    id: SegmentId,
    error: stratawal_segment::Error,
) -> Error {
    let is_misnamed = matches!(error.kind(), ErrorKind::NameMismatch(_));
    let error = files.failed(error);
    if is_misnamed || !error.is_damage() { error } else { by_name(files, all, id, error) }
}

/// Adds to `error` the entries that are lost with segment `id`, derived from its name.
pub(super) fn by_name(files: &StreamFiles<'_>, all: &[SegmentId], id: SegmentId, error: Error) -> Error {
    let newest = all.last().filter(|&&newest| newest != id);
    let first_seq = newest.and_then(|&newest| first_seq_in(files, newest));
    let first = id.base.max(first_seq.unwrap_or_default());
    match all.iter().filter(|other| other.generation > id.generation).map(|other| other.base).min() {
        Some(limit) => error.with_lost(first.0..limit.0),
        None => error.with_lost_from(first.0),
    }
}

/// The first live seq as recorded by the newest segment, if it can be read.
fn first_seq_in(files: &StreamFiles<'_>, newest: SegmentId) -> Option<SeqNo> {
    let file = files.open(newest).ok()?;
    let mut found = [FoundSegment::new(SegmentHandle::Open(file), None)];
    stated_first_seq(files, &mut found).ok()
}

/// One past the last entry of a segment, if the segment can be read.
pub(super) fn end_of(files: &StreamFiles<'_>, found: &mut FoundSegment) -> Option<SeqNo> {
    let limit = found.limit;
    let file = found.keep_open(files).ok()?;
    let end_seq = match file.finished().ok()? {
        Some(finished) => finished.frame.first_seq,
        None => file.scan_chain(&mut |_, _| {}).ok()?.end_seq,
    };
    Some(end_seq.min(limit))
}

/// Adds to `error` the entries that are lost if the chain of `found`, which was scanned, ends at
/// `end_seq` although more is attested.
pub(super) fn after_chain(
    files: &StreamFiles<'_>,
    found: &FoundSegment,
    end_seq: SeqNo,
    first_seq: SeqNo,
    durable: SeqNo,
    error: Error,
) -> Error {
    // The entries up to the next valid frame are certainly lost. Only a salvage finds out which
    // entries after that frame are lost.
    let next_frame =
        found.scan.as_ref().and_then(|scan| found.file(files).ok()?.attestations(scan.chain.end).ok()?.first_seq);
    let next = next_frame.filter(|&next| next >= end_seq).unwrap_or(found.limit).min(durable);
    let first = end_seq.max(first_seq);
    // If no entry lies between the two frames, only the link between them is damaged.
    if next <= first { error.with_lost_from(first.0) } else { error.with_lost(first.0..next.0) }
}
