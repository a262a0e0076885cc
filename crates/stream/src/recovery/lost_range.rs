//! Which entries a refusal says are lost. Asked once damage was found; decides nothing, changes
//! nothing.
//!
//! A refusal claims no entry that may be there. Where only the first that is missing is known, it
//! says that.
//!
//! | damage | what is known |
//! |---|---|
//! | history | nothing: which of the two segments is the wrong one is not known |
//! | header, file | by the names: from the segment's base to the smallest base among newer ones; of the newest the base alone. Nothing where the header is valid and another file's: then the name may be wrong, and not the bytes |
//! | no segment | nothing |
//! | first missing | from *start* to the first base there is |
//! | predecessor missing | from where the segment before the gap ends to the base behind it |
//! | successor missing | what the SEAL says comes next, and not how far it went |
//! | lost | from where the chain ends to the next valid frame, the limit, or what is attested, whichever is first |
//! | length | the same where more is attested than the chain has; else up to the limit. Of a newest segment without either, that it may be whatever came behind the chain; nothing where that ends in a CLOSE |

use stratawal_frame::SeqNo;
use stratawal_segment::{ErrorKind, SegmentId};

use super::files::StreamFiles;
use super::found::{FoundSegment, SegmentHandle, stated_first_seq};
use crate::error::Error;

/// The error of segment `id`, one of `all` in order of generation, that could not be opened.
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

/// Adds to `error` the entries that are lost with segment `id`, as its name shows them.
pub(super) fn by_name(files: &StreamFiles<'_>, all: &[SegmentId], id: SegmentId, error: Error) -> Error {
    let newest = all.last().filter(|&&newest| newest != id);
    let first_seq = newest.and_then(|&newest| first_seq_in(files, newest));
    let first = id.base.max(first_seq.unwrap_or_default());
    match all.iter().filter(|other| other.generation > id.generation).map(|other| other.base).min() {
        Some(limit) => error.with_lost(first.0..limit.0),
        None => error.with_lost_from(first.0),
    }
}

/// The first live seq, as the newest segment states it.
fn first_seq_in(files: &StreamFiles<'_>, newest: SegmentId) -> Option<SeqNo> {
    let file = files.open(newest).ok()?;
    let mut found = [FoundSegment::new(SegmentHandle::Open(file), None)];
    stated_first_seq(files, &mut found).ok()
}

/// One past the last entry of a segment, as far as it can be read.
pub(super) fn end_of(files: &StreamFiles<'_>, found: &mut FoundSegment) -> Option<SeqNo> {
    let limit = found.limit;
    let file = found.keep_open(files).ok()?;
    let end_seq = match file.finished().ok()? {
        Some(finished) => finished.frame.first_seq,
        None => file.scan_chain(&mut |_, _| {}).ok()?.end_seq,
    };
    Some(end_seq.min(limit))
}

/// Adds to `error` the entries that are lost where the chain of `found`, which was scanned, ends at
/// `end_seq`, although more is attested.
pub(super) fn after_chain(
    files: &StreamFiles<'_>,
    found: &FoundSegment,
    end_seq: SeqNo,
    first_seq: SeqNo,
    durable: SeqNo,
    error: Error,
) -> Error {
    // The entries up to the next valid frame are certainly lost. What follows that frame is for
    // salvage to find out.
    let next_frame =
        found.scan.as_ref().and_then(|scan| found.file(files).ok()?.attestations(scan.chain.end).ok()?.first_seq);
    let next = next_frame.filter(|&next| next >= end_seq).unwrap_or(found.limit).min(durable);
    let first = end_seq.max(first_seq);
    // Where no entry lies between, only what joins the frames is damaged.
    if next <= first { error.with_lost_from(first.0) } else { error.with_lost(first.0..next.0) }
}
