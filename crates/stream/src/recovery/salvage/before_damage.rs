//! Reads the entries before the first damage to a stream, for inspection by people. Changes nothing
//! and decides nothing.

use std::sync::Arc;

use stratawal_frame::{SegmentHeader, SeqNo};
use stratawal_segment::SegmentId;

use crate::error::Result;
use crate::history::contradicts_header;
use crate::read::snapshot::{PublishedSegment, SegmentState, Snapshot};
use crate::recovery::files::StreamFiles;
use crate::recovery::found::{FoundSegment, SegmentHandle, stated_first_seq};
use crate::recovery::links::{footer_contradicts, scan_contradicts};
use crate::recovery::list::list;
use crate::recovery::recovered::Recovered;
use crate::recovery::scan::ReadOrder;
use crate::recovery::void::drop_void;
use crate::report::OpenReport;

/// Reads a damaged stream up to the damage. The entries are in the page cache and may not be
/// durable.
pub(crate) fn read_before_damage(files: &StreamFiles<'_>) -> Result<Recovered> {
    let (valid, broken) = match list(files) {
        Ok(listing) => read_valid(files, &listing.segments),
        Err(e) if e.is_damage() => (Vec::new(), Vec::new()),
        // Only the journal knows the stream, or its directory was removed.
        Err(_) if !files.exist()? => (Vec::new(), Vec::new()),
        Err(e) => return Err(e),
    };
    let mut live = drop_void(valid);
    let first_seq = stated_first_seq(files, &mut live)?;
    live.retain(|found| found.limit > first_seq);
    let mut next_seq = first_seq;
    let mut segments: Vec<Arc<PublishedSegment>> = Vec::new();
    let headers: Vec<_> = live.iter().map(|found| *found.header()).collect();
    for (i, mut found) in live.into_iter().enumerate() {
        let header = *found.header();
        let follows = match segments.last() {
            Some(last) => follows(&last.header, &header, next_seq),
            None => header.base <= first_seq,
        };
        if !follows {
            break;
        }
        // A segment whose header cannot be read may have voided entries at or above its base.
        let void = broken.iter().filter(|id| id.generation > header.generation).map(|id| id.base).min();
        let limit = found.limit.min(void.unwrap_or(SeqNo(u64::MAX)));
        let scan = match found.scan_file(files, ReadOrder::ChainFirst) {
            Ok(scan) => scan,
            Err(e) if e.is_damage() => break,
            Err(e) => return Err(e),
        };
        next_seq = scan.chain.end_seq.min(limit).max(first_seq);
        let is_contradicted = headers.get(i + 1).is_some_and(|next| {
            scan_contradicts(&scan, next) || footer_contradicts(files, &mut found, next).unwrap_or(false)
        });
        let is_whole = next_seq == found.limit;
        // A complete segment is opened only when it is read, because a stream may have more
        // segments than a process may have open files.
        let state = match is_whole {
            true => SegmentState::Sealed,
            false => SegmentState::Live(Arc::new(scan.live(found.keep_open(files)?))),
        };
        segments.push(Arc::new(PublishedSegment { header, state }));
        if next_seq < found.limit || is_contradicted {
            break;
        }
    }
    Ok(recovered(segments, first_seq, next_seq))
}

fn recovered(segments: Vec<Arc<PublishedSegment>>, first_seq: SeqNo, next_seq: SeqNo) -> Recovered {
    let report = OpenReport {
        existed: true,
        first_seq: first_seq.0,
        next_seq: next_seq.0,
        segments: segments.len() as u64,
        ..OpenReport::default()
    };
    Recovered {
        snapshot: Snapshot::new(segments),
        first_seq: first_seq.0,
        next_seq: next_seq.0,
        timestamp: 0,
        writable: None,
        report,
        dead: Vec::new(),
        reader_state: None,
        is_refresh: false,
        cut: None,
    }
}

/// Whether a segment with the header `header` continues the one with the header `last`, whose
/// entries end before `next_seq`.
fn follows(last: &SegmentHeader, header: &SegmentHeader, next_seq: SeqNo) -> bool {
    header.predecessor == last.generation && !contradicts_header(last, header) && header.base == next_seq
}

/// Returns the segments with valid headers in order of generation, and the names of the others.
fn read_valid(files: &StreamFiles<'_>, all: &[SegmentId]) -> (Vec<FoundSegment>, Vec<SegmentId>) {
    let mut valid = Vec::new();
    let mut broken = Vec::new();
    for &id in all {
        match files.open(id) {
            Ok(file) => {
                let footer = file.peek_footer().ok().flatten();
                valid.push(FoundSegment::new(SegmentHandle::Closed(*file.header()), footer));
            }
            Err(_) => broken.push(id),
        }
    }
    (valid, broken)
}
