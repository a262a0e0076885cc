//! Steps 1 to 5 for a stream of which only the entries at or above a *floor* have to be sound.
//!
//! Segments that lie wholly below the floor are garbage, whether or not they can be read. All
//! others have to be sound by the ordinary rules, with one exception. A segment that holds the
//! floor may be damaged below it: if its chain breaks below, the chain is entered again at the
//! frame that holds the floor. The new generation has the floor as its start, and the segment
//! before it gets a SEAL whose index begins at that frame, so that later opens do not scan it.
//!
//! A valid segment of another stream or log, or of another name, makes this fail, wherever it is.
//! To drop it would remove a file that may be the only copy of entries that belong elsewhere.

use std::sync::Arc;

use stratawal_frame::{ByteOffset, FooterKind, SeqNo};
use stratawal_index::ActiveIndex;
use stratawal_segment::{Access, FrameSearch, SegmentFile, SegmentId};

use super::analyse::{
    Found, Image, Opened, Order, Voidable, check_all_unsealed, check_links, drop_garbage, drop_void, follow, list,
    misplaced, scan, scan_back,
};
use super::{Scan, lost_range, note};
use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::location::Location;
use crate::options::StreamOptions;

/// A segment, and from where on its entries are void. Its header may be unreadable.
struct Named {
    id: SegmentId,
    limit: SeqNo,
    found: Result<Found>,
}

/// Steps 1 to 5, for the entries at or above `floor` or the first live seq, whichever is higher;
/// the image has that as its start. Changes nothing.
pub(super) fn analyse_above(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    floor: SeqNo,
) -> Result<Image> {
    let (all, temporaries) = list(context, location)?;
    let mut names = read_names(context, location, &all)?;
    let unreadable = |id, error| lost_range::of_name(context, location, options, &all, id, error);
    if let Some((id, error)) = take_foreign(&mut names) {
        // The name of a file that was renamed does not show which entries are missing.
        return Err(if error.named_segment().is_some() { error } else { unreadable(id, error) });
    }
    let mut stack = drop_void(names);
    let newest = stack.pop().expect("invariant: at least the newest segment voids nothing of itself");
    let mut newest = newest.found.map_err(|error| unreadable(newest.id, error))?;

    let file = newest.open(context, location)?;
    let finished = file.finished().map_err(|e| Error::segment_error(location, e))?;
    let closed = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. }));
    let mut scan = scan(context, location, options, &mut newest, Order::ChainFirst)?;
    // A file that ends in a CLOSE with its trailer has the length that it should have.
    scan.has_active_len |= closed.is_some();
    let watch = scan.trace.watch;
    let in_chain = scan.chain.start.unwrap_or(newest.header().start);
    let mut start = floor.max(closed.as_ref().map_or(in_chain, |close| close.footer.start));
    newest.scan = Some(scan);

    let mut live = Vec::new();
    for Named { id, limit, found } in stack {
        if limit > start {
            live.push(Found { limit, ..found.map_err(|error| unreadable(id, error))? });
        }
    }
    live.push(newest);
    let mut live = drop_garbage(context, location, live, start)?;
    let attested = scan_back(context, location, options, &mut live, Order::ChainFirst)?;
    if live.len() > 1 {
        scan_unsealed(context, location, options, &mut live[0])?;
    }
    check_links(context, location, &mut live)?;
    // The next open does the same check, with the new start.
    check_all_unsealed(context, location, options, &mut live, start, Order::ChainFirst)?;
    let durable = closed.as_ref().map_or(attested, |close| close.frame.first_seq);

    let holder = &mut live[0];
    let broken = holder
        .scan
        .as_ref()
        .map(|scan| scan.chain.end_seq)
        .filter(|&end| end < start.min(holder.limit) || end == start && end < durable);
    let entered = broken.is_none() || enter_at(context, location, options, holder, start)?;
    let newest = &live[live.len() - 1];
    if newest.opened(context, location)?.find_seal().map_err(|e| Error::segment_error(location, e))?.is_some() {
        let error = Error::damage(location, DamageKind::SuccessorMissing, Some(newest.id()), None, None);
        return Err(error.with_lost_from(start.max(newest.header().base).0));
    }
    let is_empty = !entered && live.len() == 1 && durable <= start;
    if is_empty && live[0].scan.as_ref().is_some_and(|scan| scan.has_active_len) {
        // Nothing at or above the floor was acknowledged. The stream begins anew there.
        live[0].limit = start;
        let headers = Vec::new();
        return Ok(Image {
            all,
            headers,
            watch,
            temporaries,
            live,
            cut: 0,
            closed: None,
            start,
            end: start,
            durable: start,
        });
    }
    if live.len() == 1 {
        let from_chain = live[0].scan.as_ref().and_then(|scan| scan.chain.start);
        start = start.max(from_chain.unwrap_or_default());
    }
    let (cut, end) = follow(context, location, &live, start, durable)?;
    Ok(Image { all, headers: Vec::new(), watch, temporaries, live, cut, closed: None, start, end, durable })
}

/// Reads the headers, of those that can be read.
fn read_names(context: &LogContext, location: &Location, all: &[SegmentId]) -> Result<Vec<Named>> {
    let (mut names, mut stream_id) = (Vec::with_capacity(all.len()), None);
    for (i, &id) in all.iter().enumerate().rev() {
        let found = match SegmentFile::open(context.storage(), &location.dir(), id, Access::Read) {
            Ok(file) => {
                let header = *file.header();
                let newest = i + 1 == all.len();
                let end =
                    if newest { None } else { file.peek_footer().map_err(|e| Error::segment_error(location, e))? };
                let file = if newest { Opened::Open(file) } else { Opened::Header(header) };
                let found = Found::new(file, end);
                misplaced(context, location, &header, &mut stream_id, all.get(i + 1)).map_or(Ok(found), Err)
            }
            Err(error) if error.is_damage() || error.is_newer() => Err(Error::segment_error(location, error)),
            Err(error) => return Err(Error::segment_error(location, error)),
        };
        names.push(Named { id, limit: SeqNo(u64::MAX), found });
    }
    names.reverse();
    Ok(names)
}

/// The error of the newest segment that may hold entries of another stream or log: one in the wrong
/// place, or one of a newer format, in which that cannot be read.
fn take_foreign(names: &mut Vec<Named>) -> Option<(SegmentId, Error)> {
    let is_foreign =
        |error: &Error| matches!(error.kind(), ErrorKind::Damaged(DamageKind::Misplaced) | ErrorKind::NewerFormat);
    let i = names.iter().rposition(|named| named.found.as_ref().is_err_and(is_foreign))?;
    let Named { id, found, .. } = names.swap_remove(i);
    found.err().map(|error| (id, error))
}

impl Voidable for Named {
    fn base(&self) -> SeqNo {
        self.id.base
    }

    fn set_limit(&mut self, limit: SeqNo) {
        self.limit = limit;
    }
}

/// Scans the segment that holds the floor, if it has no valid end and was not scanned: its chain
/// may break below the floor.
fn scan_unsealed(context: &LogContext, location: &Location, options: &StreamOptions, holder: &mut Found) -> Result<()> {
    if holder.scan.is_none() && holder.end.is_none() {
        holder.scan = Some(scan(context, location, options, holder, Order::ChainFirst)?);
        let limit = holder.limit;
        holder.close(location, limit, Order::ChainFirst)?;
    }
    Ok(())
}

/// Enters the chain of `found` again at the frame that holds `seq`, which is after the place where
/// the chain breaks. False where there is no such frame.
fn enter_at(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    found: &mut Found,
    seq: SeqNo,
) -> Result<bool> {
    let failed = |e| Error::segment_error(location, e);
    let (file, limit) = (found.opened(context, location)?, found.limit);
    let scan = found.scan.as_mut().expect("invariant: only the chain of a segment that was scanned is known to break");
    let Some(from) = frame_with(&file, scan, seq).map_err(failed)? else { return Ok(false) };
    let index = ActiveIndex::new(options.index_every);
    let mut visit = |offset: ByteOffset, frame: &stratawal_frame::FrameHeader| {
        if frame.first_seq < limit {
            note(&index, offset, frame);
        }
    };
    scan.chain = file.scan_chain_from(from.0, from.1, &mut visit).map_err(failed)?;
    (scan.from, scan.index) = (from, Arc::new(index));
    Ok(true)
}

/// Where the whole frame that holds `seq` begins, after the end of the chain, and its first seq.
fn frame_with(file: &SegmentFile, scan: &Scan, seq: SeqNo) -> stratawal_segment::Result<Option<(ByteOffset, SeqNo)>> {
    let mut search = FrameSearch::new(file, scan.chain.end);
    while let Some(found) = search.next_frame()? {
        let holds = found.header.first_seq <= seq && seq < found.header.end_seq();
        if holds && found.is_whole {
            return Ok(Some((found.offset, found.header.first_seq)));
        }
    }
    Ok(None)
}
