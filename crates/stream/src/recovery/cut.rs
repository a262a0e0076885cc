//! Ends a damaged stream before its damage, for a repair.
//!
//! The stream gets a new generation whose base is the new end. Its file is the only one that is
//! created, and its name is the commit point. By the ordinary rules it voids every entry at or
//! above its base in older files, also in those that cannot be read. A truncation below damage then
//! removes these files; see [`floor`](super::floor).

use std::io;
use std::ops::Range;
use std::sync::Arc;

use stratawal_frame::{Generation, SegmentHeader, SeqNo, StreamId};
use stratawal_segment::CreateError;

use super::files::StreamFiles;
use super::floor::read_names;
use super::found::FoundSegment;
use super::generation::{preallocate_seal, predecessor};
use super::list::list_segments;
use super::scan::FIRST_FRAME;
use super::void::drop_void;
use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::history::Predecessor;
use crate::location::Location;
use crate::options::StreamOptions;
use crate::write::clock::is_far_ahead;
use crate::write::create::{FIRST_LEN, create_segment, identity};
use crate::write::reserve::ReserveUse;

/// Durably ends the files of a damaged stream at `seqs.end`. Its first live seq is `seqs.start`.
/// Every entry in between must be readable in them, as [`salvage`](super::salvage) finds out.
/// Entries in the commit journal at or above the end follow the files from then on. Removes no
/// file: files that cannot be read may still prevent the stream from opening, until
/// [`open_above`](crate::StreamLog::open_above) at `seqs.start` has removed them. No other handle
/// on the stream may exist. May be repeated.
///
/// `known` is the id of the stream if the journal gives it. It is used if no file gives the id. The
/// directory is created if it is missing.
///
/// # Errors
/// - [`ErrorKind::Damaged`] if the file before the end cannot be read, or nothing gives the id.
///   Nothing has changed.
/// - [`ErrorKind::Full`]: nothing has changed. [`ErrorKind::Io`]: the stream may or may not end
///   there.
pub fn cut_damaged(
    context: &Arc<LogContext>,
    location: &Location,
    options: &StreamOptions,
    known: Option<StreamId>,
    seqs: &Range<u64>,
) -> Result<()> {
    let files = &StreamFiles::new(context, location, options);
    let end = SeqNo(seqs.end);
    let storage = files.storage();
    if known.is_some() {
        create_dir(files)?;
    }
    let all = list_segments(files)?;
    let mut candidates = read_names(files, &all)?;
    let readable = candidates.iter().rev().find_map(|candidate| candidate.found.as_ref().ok());
    let missing = || Error::damage_at(location, DamageKind::NoSegment, None, None);
    let stream_id = readable.map(|found| found.header().stream_id).or(known).ok_or_else(missing)?;
    let mut newest = all.iter().map(|id| id.generation.0).max().unwrap_or(0).max(named_after(files, readable)?);
    candidates = drop_void(candidates);
    let holder = candidates.into_iter().rev().find(|candidate| candidate.id.base < end && seqs.start < seqs.end);
    let holder = holder.map(|holder| holder.found).transpose()?;

    // Names left by a killed process may not be durable.
    storage.sync_dir(&files.dir()).map_err(|e| Error::io(location, e))?;
    context.sync_parent(location).map_err(|e| Error::io(location, e))?;
    let mut before = Predecessor::NONE;
    let mut durable = end;
    let mut last_timestamp = 0;
    if let Some(holder) = &holder {
        newest = newest.max(named_after(files, Some(holder))?);
        durable = durable_in(files, holder, end)?;
        last_timestamp = timestamp_in(files, holder)?;
        before = predecessor(files, holder, end);
        preallocate_seal(files, holder)?;
    }
    let exhausted = || Error::text(ErrorKind::Io, location, "the stream has used up its 2^32 generations");
    let now = storage.now_micros();
    let header = SegmentHeader {
        generation: newest.checked_add(1).map(Generation).ok_or_else(exhausted)?,
        stream_id,
        base: end,
        durable,
        start: SeqNo(seqs.start),
        last_timestamp: if is_far_ahead(last_timestamp, now) { now } else { last_timestamp },
        created: now,
        ..identity(context, location, before)
    };
    let created = create_segment(context, &files.dir(), &header, FIRST_LEN, ReserveUse::Allowed);
    created.map(drop).map_err(|error| match error {
        CreateError::Undone(error) | CreateError::Indeterminate(error) => files.failed(error),
    })
}

fn create_dir(files: &StreamFiles<'_>) -> Result<()> {
    match files.storage().create_dir(&files.dir()) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io(files.location, e)),
        _ => Ok(()),
    }
}

/// How far the last file that is kept attests that entries below `end` were durable. Later ones may
/// be in the page cache alone: the next recovery writes them again.
fn durable_in(files: &StreamFiles<'_>, found: &FoundSegment, end: SeqNo) -> Result<SeqNo> {
    let file = found.file(files)?;
    if file.finished().map_err(|e| files.failed(e))?.is_some() {
        return Ok(end);
    }
    Ok(file.attestations(FIRST_FRAME).map_err(|e| files.failed(e))?.attested.min(end))
}

/// The generation that the SEAL of a segment names, or 0. A missing file may have had it, and the
/// SEAL would contradict another file of that generation.
fn named_after(files: &StreamFiles<'_>, found: Option<&FoundSegment>) -> Result<u32> {
    let Some(found) = found else { return Ok(0) };
    let seal = found.file(files)?.find_seal().map_err(|e| files.failed(e))?;
    Ok(seal.map_or(0, |seal| seal.successor.0))
}

/// The greatest timestamp of the segment, as far as its chain is valid.
fn timestamp_in(files: &StreamFiles<'_>, found: &FoundSegment) -> Result<u64> {
    let chain = found.file(files)?.scan_chain(&mut |_, _| {}).map_err(|e| files.failed(e))?;
    Ok(chain.times.map_or(0, |times| times.1).max(found.header().last_timestamp))
}
