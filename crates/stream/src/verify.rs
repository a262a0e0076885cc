//! Reading everything, to see whether it is sound. Changes nothing.

use stratawal_frame::SeqNo;
use stratawal_segment::{Access, SegmentFile};

use crate::env::{Env, Location};
use crate::error::{Damage, Error, Result};
use crate::options::{StreamOptions, Visibility};
use crate::report::TornTail;
use crate::stream::StreamLog;
use crate::sync::Arc;

/// What [`verify`] says of a stream as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// Every entry is there and valid, and nothing is behind the last.
    Sound,
    /// The same, but for what a crash left behind the last whole frame; the next open cuts it.
    Torn,
    /// Something is damaged.
    Damaged,
}

/// What [`verify`] found in a stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamCheck {
    /// As a whole.
    pub state: CheckState,
    /// The first live seq, where the stream can be read at all.
    pub first: Option<u64>,
    /// One past the last entry, where the stream can be read at all.
    pub next: Option<u64>,
    /// Segment files in the folder.
    pub segments: u64,
    /// What a crash left.
    pub torn: Option<TornTail>,
    /// What is damaged.
    pub findings: Vec<Finding>,
}

/// One damage.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// What it is, where it is, what it takes.
    pub error: Error,
}

/// Reads every entry of the stream and every SEAL, beside a writer or not. With a read-only [`Env`].
///
/// # Errors
/// What is not damage: I/O, a newer format.
pub fn verify(env: &Arc<Env>, place: &Location, options: &StreamOptions) -> Result<StreamCheck> {
    let mut check = StreamCheck {
        state: CheckState::Sound,
        first: None,
        next: None,
        segments: 0,
        torn: None,
        findings: Vec::new(),
    };
    check.segments = count_segments(env, place)?;
    let log = match StreamLog::open(Arc::clone(env), place.clone(), options.clone()) {
        Ok(log) => log,
        Err(error) if error.is_damage() => {
            check.state = CheckState::Damaged;
            check.findings.push(Finding { error });
            return Ok(check);
        }
        Err(error) => return Err(error),
    };
    let report = log.report();
    (check.first, check.next) = (Some(report.first_seq), Some(report.next_seq));
    check.torn.clone_from(&report.torn);
    let view = log.inner.shared.view.load();
    for (i, segment) in view.segments.iter().enumerate() {
        let (first, limit) = (segment.header.base.0.max(report.first_seq), view.limit(i).min(report.next_seq));
        if let Err(error) = read_all(&log, first, limit) {
            check.findings.push(damage_or(error)?);
        }
        if i + 1 < view.segments.len()
            && let Some(error) = check_seal(env, place, segment.id(), SeqNo(view.limit(i)))?
        {
            check.findings.push(Finding { error });
        }
    }
    check.state = match (&check.findings[..], &check.torn) {
        ([], None) => CheckState::Sound,
        ([], Some(_)) => CheckState::Torn,
        _ => CheckState::Damaged,
    };
    Ok(check)
}

fn damage_or(error: Error) -> Result<Finding> {
    if error.is_damage() { Ok(Finding { error }) } else { Err(error) }
}

fn count_segments(env: &Env, place: &Location) -> Result<u64> {
    match env.storage().list(&place.dir()) {
        Ok(entries) => {
            Ok(entries.iter().filter(|e| stratawal_segment::SegmentId::parse(&e.name).is_some()).count() as u64)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(Error::io(place, e)),
    }
}

fn read_all(log: &StreamLog, first: u64, limit: u64) -> Result<()> {
    log.iter(first..limit.max(first), Visibility::Settled).try_for_each(|entry| entry.map(drop))
}

/// Whether a segment that another follows ends in a valid SEAL that says so. Of one that was not settled before a
/// crash it need not; recovery writes it. So only a finished file is held to it.
fn check_seal(env: &Env, place: &Location, id: stratawal_segment::SegmentId, limit: SeqNo) -> Result<Option<Error>> {
    let failed = |e| Error::segment_error(place, e);
    let file = SegmentFile::open(env.storage(), &place.dir(), id, Access::Read).map_err(failed)?;
    if file.has_written_len() {
        return Ok(None);
    }
    let sound = file.finished().map_err(failed)?.is_some_and(|finished| finished.frame.first_seq >= limit);
    Ok((!sound).then(|| Error::damage(place, Damage::Seal, Some(id), None, None)))
}
