//! What of a damaged stream precedes the first damage, for people who look at it. Changes nothing,
//! decides nothing.

use std::sync::Arc;

use stratawal_frame::{FooterKind, SeqNo};
use stratawal_segment::{Access, SegmentFile, SegmentId};

use super::Recovered;
use super::analyse::{Found, Opened, Order, drop_void, end_contradicts, list, scan, scan_contradicts};
use crate::context::LogContext;
use crate::error::{Error, Result};
use crate::history::contradicts_header;
use crate::location::Location;
use crate::options::StreamOptions;
use crate::read::snapshot::{PublishedSegment, SegmentState, Snapshot};
use crate::report::OpenReport;

/// Reads a stream that was found damaged, up to the damage. What is shown is in the page cache; it
/// may not be durable.
pub(crate) fn partial(context: &LogContext, location: &Location, options: &StreamOptions) -> Result<Recovered> {
    let (valid, broken) = match list(context, location) {
        Ok((all, _)) => read_valid(context, location, &all),
        Err(e) if e.is_damage() => (Vec::new(), Vec::new()),
        Err(e) => return Err(e),
    };
    let mut live = drop_void(valid);
    let start = first_live(context, location, options, &mut live)?;
    live.retain(|found| found.limit > start);
    let mut end = start;
    let mut segments: Vec<Arc<PublishedSegment>> = Vec::new();
    let headers: Vec<_> = live.iter().map(|found| *found.header()).collect();
    for (i, mut found) in live.into_iter().enumerate() {
        let header = *found.header();
        let follows = segments.last().map_or(header.base <= start, |last: &Arc<PublishedSegment>| {
            let named = header.predecessor == last.header.generation && !contradicts_header(&last.header, &header);
            named && header.base == end
        });
        if !follows {
            break;
        }
        // A segment whose header cannot be read may have voided what stands at or above its base.
        let void = broken.iter().filter(|id| id.generation > header.generation).map(|id| id.base).min();
        let limit = found.limit.min(void.unwrap_or(SeqNo(u64::MAX)));
        let scan = match scan(context, location, options, &mut found, Order::ChainFirst) {
            Ok(scan) => scan,
            Err(e) if e.is_damage() => break,
            Err(e) => return Err(e),
        };
        end = scan.chain.end_seq.min(limit).max(start);
        let next = headers.get(i + 1);
        let contradicted = next.is_some_and(|next| {
            scan_contradicts(&scan, next) || end_contradicts(context, location, &mut found, next).unwrap_or(false)
        });
        // What is whole is opened when it is read: a stream may have more segments than a process
        // may have files.
        let state = if end == found.limit {
            SegmentState::Sealed
        } else {
            SegmentState::Live(Arc::new(scan.live(found.open(context, location)?)))
        };
        segments.push(Arc::new(PublishedSegment { header, state }));
        if end < found.limit || contradicted {
            break;
        }
    }
    let report = OpenReport {
        existed: true,
        first_seq: start.0,
        next_seq: end.0,
        segments: segments.len() as u64,
        ..OpenReport::default()
    };
    Ok(Recovered {
        snapshot: Snapshot::new(segments),
        start: start.0,
        end: end.0,
        timestamp: 0,
        writable: None,
        report,
        dead: Vec::new(),
        known: None,
        is_continued: false,
    })
}

/// Segments with valid headers in order of generation, and the names of the others.
fn read_valid(context: &LogContext, location: &Location, all: &[SegmentId]) -> (Vec<Found>, Vec<SegmentId>) {
    let (mut valid, mut broken) = (Vec::new(), Vec::new());
    for &id in all {
        match SegmentFile::open(context.storage(), &location.dir(), id, Access::Read) {
            Ok(file) => {
                let end = file.peek_footer().ok().flatten();
                let file = Opened::Header(*file.header());
                valid.push(Found::new(file, end));
            }
            Err(_) => broken.push(id),
        }
    }
    (valid, broken)
}

/// The first live seq, as far as the newest valid segment says it.
pub(super) fn first_live(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    live: &mut [Found],
) -> Result<SeqNo> {
    let Some(newest) = live.last_mut() else { return Ok(SeqNo(0)) };
    let from_header = newest.header().start;
    let file = newest.open(context, location)?;
    let finished = file.finished().map_err(|e| Error::segment_error(location, e))?;
    if let Some(close) = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. })) {
        return Ok(close.footer.start);
    }
    match scan(context, location, options, newest, Order::ChainFirst) {
        Ok(scan) => Ok(scan.chain.start.unwrap_or(from_header)),
        Err(e) if e.is_damage() => Ok(from_header),
        Err(e) => Err(e),
    }
}
