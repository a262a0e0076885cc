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
use stratawal_segment::{Access, ErrorKind, SegmentFile, SegmentId};

use super::Scan;
use super::analyse::{Found, Opened};
use super::partial::first_live;
use crate::context::LogContext;
use crate::error::Error;
use crate::location::Location;
use crate::options::StreamOptions;

/// The error of segment `id`, one of `all` in order of generation, that could not be opened.
pub(super) fn unreadable(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    all: &[SegmentId],
    id: SegmentId,
    error: stratawal_segment::Error,
) -> Error {
    let named_wrong = matches!(error.kind(), ErrorKind::NameMismatch(_));
    let error = Error::segment_error(location, error);
    if named_wrong || !error.is_damage() { error } else { of_name(context, location, options, all, id, error) }
}

/// `error` with what the name of segment `id` says is lost with it.
pub(super) fn of_name(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    all: &[SegmentId],
    id: SegmentId,
    error: Error,
) -> Error {
    let start =
        all.last().filter(|&&newest| newest != id).and_then(|&newest| start(context, location, options, newest));
    let first = id.base.max(start.unwrap_or_default());
    match all.iter().filter(|other| other.generation > id.generation).map(|other| other.base).min() {
        Some(limit) => error.with_lost(first.0..limit.0),
        None => error.with_lost_from(first.0),
    }
}

/// The first live seq, as the newest segment says it.
fn start(context: &LogContext, location: &Location, options: &StreamOptions, newest: SegmentId) -> Option<SeqNo> {
    let file = SegmentFile::open(context.storage(), &location.dir(), newest, Access::Read).ok()?;
    let mut found = [Found::new(Opened::Open(file), None)];
    first_live(context, location, options, &mut found).ok()
}

/// One past the last entry of a segment, as far as it can be read.
pub(super) fn end_of(context: &LogContext, location: &Location, found: &mut Found) -> Option<SeqNo> {
    let limit = found.limit;
    let file = found.open(context, location).ok()?;
    let end = match file.finished().ok()? {
        Some(finished) => finished.frame.first_seq,
        None => file.scan_chain(&mut |_, _| {}).ok()?.end_seq,
    };
    Some(end.min(limit))
}

/// Adds to `error` the entries that are lost where the chain of `found`, which was scanned, ends at
/// `end`, although more is attested.
pub(super) fn behind_chain(
    context: &LogContext,
    location: &Location,
    found: &Found,
    end: SeqNo,
    start: SeqNo,
    durable: SeqNo,
    error: Error,
) -> Error {
    // What is lost for certain ends where the next valid frame begins; what is behind that is for
    // salvage.
    let next_frame = |scan: &Scan| found.opened(context, location).ok()?.attestations(scan.chain.end).ok()?.first_seq;
    let behind = found.scan.as_ref().and_then(next_frame);
    let next = behind.filter(|&next| next >= end).unwrap_or(found.limit).min(durable);
    let first = end.max(start);
    // Nothing lies between: only what joins them is damaged.
    if next <= first { error.with_lost_from(first.0) } else { error.with_lost(first.0..next.0) }
}
