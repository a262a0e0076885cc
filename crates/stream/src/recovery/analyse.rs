//! Runs steps 1 to 5 in order: decides which bytes of the files are valid. Changes nothing.

use std::collections::BTreeMap;

use stratawal_frame::{FooterKind, SeqNo};
use stratawal_segment::{Finished, SegmentFile, SegmentId};

use super::analysis::Analysis;
use super::chain_end::{find_chain_end, scan_back};
use super::files::StreamFiles;
use super::found::{FoundSegment, RememberedSegment};
use super::links::{check_history, drop_garbage};
use super::list::{Listing, list, read_headers};
use super::scan::ReadOrder;
use super::stamp::ObservedStamp;
use super::void::drop_void;
use crate::error::{DamageKind, Error, Result};

/// Runs steps 1 to 5.
pub(super) fn analyse(files: &StreamFiles<'_>, order: ReadOrder) -> Result<Analysis> {
    let listing = list(files)?;
    let found = read_headers(files, &listing.segments, &mut BTreeMap::new(), None)?;
    decide(files, order, listing, found, None)
}

/// Runs steps 1 to 5 for a refreshing reader that has listed the directory. `remembered` and
/// `stamp` are from its last look; `newest` is the newest file now.
pub(super) fn analyse_again(
    files: &StreamFiles<'_>,
    listing: Listing,
    mut remembered: BTreeMap<SegmentId, RememberedSegment>,
    stamp: &ObservedStamp,
    newest: SegmentFile,
) -> Result<Analysis> {
    let found = read_headers(files, &listing.segments, &mut remembered, Some(newest))?;
    decide(files, ReadOrder::AttestationsFirst, listing, found, Some(stamp))
}

/// Runs steps 2 to 5. `before` is the newest file as an earlier look saw it.
fn decide(
    files: &StreamFiles<'_>,
    order: ReadOrder,
    listing: Listing,
    found: Vec<FoundSegment>,
    before: Option<&ObservedStamp>,
) -> Result<Analysis> {
    let headers = found.iter().map(|found| *found.header()).collect();
    let mut segments = drop_void(found);
    let mut newest = segments.pop().expect("invariant: at least the newest segment voids nothing of itself");
    let file = newest.keep_open(files)?;
    let stamp = ObservedStamp::now(files, file, before).map_err(|e| files.failed(e))?;

    // Step 4 comes before step 3, which needs the first live seq that the CLOSE records.
    let finished = file.finished().map_err(|e| files.failed(e))?;
    let closed = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. }));
    let Listing { segments: all, temporaries } = listing;
    if let Some(close) = closed {
        segments.push(newest);
        let live = check_closed(files, segments, &close, order)?;
        return Ok(Analysis {
            all,
            headers,
            stamp,
            temporaries,
            chain_end: live.len() - 1,
            live,
            first_seq: close.footer.start,
            chain_end_seq: close.frame.first_seq,
            durable: close.frame.first_seq,
            closed: Some(close),
        });
    }

    let first_seq = scan_newest(files, &mut newest, order)?;
    let stamp = newest.scan.as_ref().map_or(stamp, |scan| scan.resume.stamp);
    segments.push(newest);
    let mut live = drop_garbage(files, segments, first_seq)?;
    let durable = scan_back(files, &mut live, order)?;
    check_history(files, &mut live, first_seq, order)?;
    let (chain_end, chain_end_seq) = find_chain_end(files, &live, first_seq, durable)?;
    Ok(Analysis { all, headers, stamp, temporaries, live, chain_end, closed: None, first_seq, chain_end_seq, durable })
}

/// Runs steps 3 and 4 for a stream whose newest segment ends in `close`. Returns the live segments.
fn check_closed(
    files: &StreamFiles<'_>,
    segments: Vec<FoundSegment>,
    close: &Finished,
    order: ReadOrder,
) -> Result<Vec<FoundSegment>> {
    let first_seq = close.footer.start;
    let mut live = drop_garbage(files, segments, first_seq)?;
    check_history(files, &mut live, first_seq, order)?;
    Ok(live)
}

/// Scans the newest segment. Returns the first live seq, which the last START or CLOSE in its chain
/// records, or else its header.
fn scan_newest(files: &StreamFiles<'_>, newest: &mut FoundSegment, order: ReadOrder) -> Result<SeqNo> {
    let scan = newest.scan_file(files, order)?;
    // A chain that ends in a SEAL names a successor that must exist, but no segment is newer than
    // this one.
    if let Some((seal, _)) = &scan.chain.seal {
        let at = Some(scan.chain.end.0);
        let error = Error::damage_at(files.location, DamageKind::SuccessorMissing, Some(newest.id()), at);
        // If the stream was truncated, the chain has entries that the SEAL does not count.
        let counted = newest.header().base + seal.entries;
        return Err(error.with_lost_from(counted.min(scan.chain.end_seq).0));
    }
    let first_seq = scan.chain.start.unwrap_or(newest.header().start);
    newest.scan = Some(scan);
    Ok(first_seq)
}
