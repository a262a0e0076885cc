//! Joins the entries that a stream has in the commit journal to those in its files.

use std::sync::Arc;

use stratawal_frame::{BATCH_END, SeqNo, StreamId};
use stratawal_journal::{NeededStream, Part, Tail as JournalTail};
use stratawal_sync::fail_point;

use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::location::Location;
use crate::log_journal::LogJournal;
use crate::removal::Dead;
use crate::shared::Shared;
use crate::write::journaled::Journaled;
use crate::write::pending::{FrameSlice, PendingFrames};
use crate::write::tail::Tail;
use crate::write::writer::Writer;

/// The work that is left once the stream is known to the journal.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// The stream, if the journal carries its records.
    pub(super) carried: Option<StreamId>,
    /// Segments that are no longer part of the stream.
    pub(super) dead: Dead,
}

/// Gives a stream that was just recovered its state in the journal, and appends the entries that
/// only the journal has. They stay there, and nothing is written, unless some of the records do not
/// continue the stream: then it is settled, and the records are made void. If `may_write` is false,
/// that is left to the next recovery.
///
/// # Errors
/// Damage. [`ErrorKind::Full`] if `may_write` is false and the stream has to restart at its first
/// live seq.
pub(super) fn join(shared: &Arc<Shared>, tail: &mut Tail, writer: &mut Writer, may_write: bool) -> Result<Joined> {
    let Some(log) = shared.context.log_journal() else { return Ok(Joined::default()) };
    let pool = Arc::clone(tail.buffer_pool());
    let name = shared.location.shared_name();
    tail.journaled = Some(Box::new(Journaled::new(Arc::clone(log), name, tail.next_seq, pool)));
    let in_directory = shared.stream_id();
    let Some(stream) = stream_of(&shared.location, log, in_directory)? else { return Ok(Joined::default()) };
    if let Some(journaled) = &mut tail.journaled {
        match in_directory {
            Some(_) => journaled.has_directory(stream),
            None => journaled.set_stream(stream),
        }
    }
    let Some(needed) = log.carried(stream) else { return Ok(Joined::default()) };
    let (joined, restart) = joined_to(&shared.location, &needed, SeqNo(tail.next_seq))?;
    let start = needed.start.filter(|_| !fail_point!(StartNotJoined)).map_or(0, |start| start.0);
    shared.watermarks.raise_start(start);
    let dead = match restart {
        Some(_) if !may_write => return Err(Error::new(ErrorKind::Full, &shared.location)),
        Some(start) => writer.begin_at(tail, start.0)?,
        None => Dead::default(),
    };
    if let Some(journaled) = tail.journaled.as_mut().filter(|_| joined.dropped) {
        journaled.must_be_void();
    }
    tail.append_recovered(frames_of(&shared.location, joined)?);
    let has_void = tail.journaled.as_ref().is_some_and(|journaled| journaled.has_void_records());
    if has_void && may_write {
        writer.settle_recovered(tail)?;
    } else {
        leave_in_journal(shared, tail);
    }
    if let Some(journaled) = &mut tail.journaled {
        // Until the journal hands them over, the records are also carried, and their places may
        // change. But from here on the entries stay in memory when they are drained.
        journaled.adopt(&needed, shared.watermarks.settled(), shared.watermarks.start_in_files());
    }
    Ok(Joined { carried: Some(stream), dead })
}

/// The entries in the tail stay in the journal, where they are durable.
fn leave_in_journal(shared: &Shared, tail: &mut Tail) {
    let end = tail.next_seq;
    if let Some(journaled) = &mut tail.journaled {
        journaled.join(end);
    }
    shared.watermarks.set_accepted(end);
    shared.watermarks.raise_flushed(end);
    shared.watermarks.raise_durable(end);
}

/// Checks that the entries that the journal has of the stream `id` can be joined to files that end
/// at `next_seq`. Changes nothing.
///
/// # Errors
/// The damage that [`join`] would report.
pub(super) fn check_join(context: &LogContext, location: &Location, id: StreamId, next_seq: SeqNo) -> Result<()> {
    let Some(log) = context.log_journal() else { return Ok(()) };
    let Some(stream) = stream_of(location, log, Some(id))? else { return Ok(()) };
    let Some(needed) = log.carried(stream) else { return Ok(()) };
    let (joined, _) = joined_to(location, &needed, next_seq)?;
    frames_of(location, joined).map(drop)
}

/// The entries of the journal after files that end at `end`, and the seq at which the stream
/// restarts, if it does.
fn joined_to(location: &Location, needed: &NeededStream, end: SeqNo) -> Result<(JournalTail, Option<SeqNo>)> {
    needed.tail_of_files(end).map_err(|gap| {
        // The entries after the gap are not lost.
        let after = needed.parts.iter().map(|located| located.part.first).find(|first| *first > gap.from);
        let lost = gap.from.0..after.unwrap_or(gap.promised).min(gap.promised).0;
        Error::damage_at(location, DamageKind::Lost, None, None).with_lost(lost)
    })
}

/// The id of the stream at `location`: that of its directory, or that of its records in the journal
/// if it has no directory. `None` if it has neither.
///
/// # Errors
/// Damage. The directory was removed, or belongs to another stream, and the journal has records of
/// this one.
fn stream_of(location: &Location, log: &LogJournal, in_directory: Option<StreamId>) -> Result<Option<StreamId>> {
    let named = if fail_point!(NameNotFound) { Vec::new() } else { log.carried_named(location.name()) };
    let is_lost = match (in_directory, &named[..]) {
        (Some(id), named) => named.iter().any(|other| *other != id),
        (None, []) => false,
        (None, [id]) => log.carried(*id).is_none_or(|needed| had_directory(&needed)),
        (None, _) => true,
    };
    if is_lost {
        return Err(Error::damage_at(location, DamageKind::NoSegment, None, None));
    }
    Ok(in_directory.or(named.first().copied()))
}

/// Whether the records show that the stream had a directory. A record states it, unless the journal
/// had no room for it. Without a directory every part has the stream's name, and no record is
/// released, so the first part begins at 0.
fn had_directory(needed: &NeededStream) -> bool {
    let has_beginning = needed.parts.first().is_some_and(|located| located.part.first == SeqNo(0));
    let is_named = needed.parts.iter().all(|located| located.part.name.is_some());
    needed.has_directory || !has_beginning || !is_named
}

/// The entries of the parts, without those that the files or an earlier part have.
fn frames_of(location: &Location, joined: JournalTail) -> Result<PendingFrames> {
    let mut frames = PendingFrames::default();
    for (skipped, located) in joined.parts {
        let part = located.part;
        let damaged = || {
            let lost = part.first.0..part.end().0;
            Error::damage_at(location, DamageKind::Lost, None, None).with_lost(lost)
        };
        let (ends, data) = entries_of(&part).ok_or_else(damaged)?;
        let skipped = usize::try_from(skipped).map_err(|_| damaged())?;
        let before = skipped.checked_sub(1).map_or(0, |i| ends[i] & !BATCH_END);
        frames.push_slice(&FrameSlice {
            first_seq: part.first.0 + skipped as u64,
            timestamp: part.timestamp,
            ends: &ends[skipped..],
            before,
            data: &data[before as usize..],
        });
    }
    Ok(frames)
}

/// The end offsets and the bytes of the entries in a part's body, or `None` if the body is not
/// valid. The body is encoded like the payload of a frame: the bytes of a single entry, or the end
/// offset of each entry, 4 bytes, and then the bytes of all entries.
pub(crate) fn entries_of(part: &Part) -> Option<(Vec<u32>, &[u8])> {
    if part.count == 1 {
        let len = u32::try_from(part.body.len()).ok().filter(|len| len & BATCH_END == 0)?;
        return Some((vec![len | BATCH_END], &part.body));
    }
    let count = usize::try_from(part.count).ok()?;
    let (table, data) = part.body.split_at_checked(count.checked_mul(4)?)?;
    let (words, _) = table.as_chunks::<4>();
    let ends: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let rises = ends.iter().map(|end| end & !BATCH_END).is_sorted();
    let last = *ends.last()?;
    let is_whole = last & BATCH_END != 0 && (last & !BATCH_END) as usize == data.len();
    (rises && is_whole).then_some((ends, data))
}
