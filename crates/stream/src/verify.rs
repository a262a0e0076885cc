//! Reading everything, to see whether it is sound. Changes nothing.

use std::sync::Arc;

use stratawal_frame::{SegmentHeader, SeqNo};
use stratawal_segment::{Access, SegmentFile, SegmentId};

use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::location::Location;
use crate::log::StreamLog;
use crate::options::{StreamOptions, Visibility};
use crate::read::snapshot::Snapshot;
use crate::report::{CheckState, StreamCheck};

/// Reads every entry of the stream and every SEAL, beside a writer or not; `None` where the stream
/// is not there. With a read-only [`LogContext`].
///
/// What a writer drops from the beginning meanwhile need not be read. Where it takes away anything
/// else, what is there now is looked at, from the start again.
///
/// # Errors
/// What is not damage: I/O, a newer format; a writer that takes away faster than this reads.
pub fn verify(context: &Arc<LogContext>, location: &Location, options: &StreamOptions) -> Result<Option<StreamCheck>> {
    const LOOKS_MAX: usize = 50;
    for _ in 0..LOOKS_MAX {
        match look(context, location, options) {
            Err(error) if is_taken_away(&error) => {}
            answer => return answer,
        }
    }
    Err(Error::text(ErrorKind::Io, location, "the stream changes faster than it can be verified; try again"))
}

fn is_taken_away(error: &Error) -> bool {
    error.is_not_found() || matches!(error.kind(), ErrorKind::Truncated { .. } | ErrorKind::Cut { .. })
}

fn look(context: &Arc<LogContext>, location: &Location, options: &StreamOptions) -> Result<Option<StreamCheck>> {
    let mut check = StreamCheck {
        stream: location.name().to_owned(),
        state: CheckState::Sound,
        first_seq: None,
        next_seq: None,
        segments: count_segments(context, location)?,
        torn: None,
        damage: Vec::new(),
    };
    let log = match StreamLog::open(Arc::clone(context), location.clone(), options.clone()) {
        Ok(log) => log,
        Err(error) if error.is_damage() => {
            check.state = CheckState::Damaged;
            check.damage.push(error);
            return Ok(Some(check));
        }
        Err(error) => return Err(error),
    };
    if !log.exists() {
        return Ok(None);
    }
    let report = log.report();
    let (mut first, next) = (report.first_seq, report.next_seq);
    check.torn.clone_from(&report.torn);
    let snapshot = log.inner.shared.snapshot.load();
    for (i, segment) in snapshot.segments.iter().enumerate() {
        let (base, limit) = (segment.header.base.0, snapshot.limit(i));
        check.damage.extend(read_all(&log, &mut first, base, limit.min(next))?);
        if i + 1 < snapshot.segments.len() && first < limit {
            let sealed = check_seal(context, location, &segment.header, SeqNo(limit));
            check.damage.extend(unless_dropped(&log, &snapshot, sealed, &mut first, limit)?);
        }
    }
    if first > next {
        // All that was seen is gone.
        return Err(Error::new(ErrorKind::Truncated { first_seq: first }, location));
    }
    check.first_seq = Some(first);
    check.next_seq = Some(next);
    check.state = match (&check.damage[..], &check.torn) {
        ([], None) => CheckState::Sound,
        ([], Some(_)) => CheckState::Torn,
        _ => CheckState::Damaged,
    };
    Ok(Some(check))
}

/// Reads the entries of one segment; answers damage. Raises `first` where a writer drops entries
/// meanwhile.
fn read_all(log: &StreamLog, first: &mut u64, base: u64, limit: u64) -> Result<Option<Error>> {
    loop {
        let from = base.max(*first);
        let mut entries = log.iter(from..limit.max(from), Visibility::Stable);
        let Err(error) = entries.try_for_each(|entry| entry.map(drop)) else { return Ok(None) };
        match error.kind() {
            _ if error.is_damage() => return Ok(Some(error)),
            ErrorKind::Truncated { first_seq: start } if start > from => *first = start,
            _ => return Err(error),
        }
    }
}

/// What was found of the end of the segment that ends at `limit`; nothing, and `first` raised,
/// where a writer has dropped the segment.
fn unless_dropped(
    log: &StreamLog,
    snapshot: &Arc<Snapshot>,
    sealed: Result<Option<Error>>,
    first: &mut u64,
    limit: u64,
) -> Result<Option<Error>> {
    let error = match sealed {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let last = limit.saturating_sub(1);
    match log.inner.segment_removed(&error, &(last..=last), snapshot) {
        Ok(_) => Err(error),
        Err(gone) => match gone.kind() {
            ErrorKind::Truncated { first_seq: start } if start > *first => {
                *first = start;
                Ok(None)
            }
            _ => Err(gone),
        },
    }
}

fn count_segments(context: &LogContext, location: &Location) -> Result<u64> {
    match context.storage().list(&location.dir()) {
        Ok(entries) => Ok(entries.iter().filter(|e| SegmentId::parse(&e.name).is_some()).count() as u64),
        // No stream, or something else that has its name: opening reports that.
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(0),
        Err(e) => Err(Error::io(location, e)),
    }
}

/// Whether a segment that another follows ends in a valid SEAL that says so. Of one that was not
/// settled before a crash it need not; recovery writes it. So only a finished file is held to it.
fn check_seal(
    context: &LogContext,
    location: &Location,
    header: &SegmentHeader,
    limit: SeqNo,
) -> Result<Option<Error>> {
    let failed = |e| Error::segment_error(location, e);
    let id = SegmentId::of(header);
    let file = SegmentFile::open(context.storage(), &location.dir(), id, Access::Read).map_err(failed)?;
    if file.header() != header {
        // Another stream has the name by now, and with it the names of its files.
        return Err(Error::io(location, std::io::ErrorKind::NotFound.into()));
    }
    if file.has_active_len() {
        return Ok(None);
    }
    let sound = file.finished().map_err(failed)?.is_some_and(|finished| finished.frame.first_seq >= limit);
    Ok((!sound).then(|| Error::damage_at(location, DamageKind::Seal, Some(id), None)))
}
