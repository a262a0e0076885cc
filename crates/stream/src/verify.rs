//! Verifies a stream: reads every entry and checks every SEAL. Changes nothing.

mod around;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use stratawal_frame::SegmentHeader;
use stratawal_segment::{Access, SegmentFile, SegmentId};
use stratawal_sync::Mutex;
use stratawal_sync::atomic::{AtomicU64, Ordering};

use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::layout::is_segment;
use crate::location::Location;
use crate::log::StreamLog;
use crate::options::{StreamOptions, Visibility};
use crate::read::snapshot::Snapshot;
use crate::report::{CheckState, StreamCheck};
use around::read_around;

/// Shares the work of [`verify_shared`] among threads.
pub trait VerifyWork: Sync {
    /// Calls `check` once with each number below `parts`, in any order and in any threads, and
    /// returns once all calls have returned.
    fn each(&self, parts: usize, check: &(dyn Fn(usize) + Sync));

    /// Calls `read` once. It reads a segment, and holds up to `frame_len_max` bytes in memory. An
    /// implementation may let other threads finish first, to bound the memory of all.
    fn within(&self, frame_len_max: u64, read: &mut dyn FnMut());

    /// A segment file of this length in bytes was read. If verification starts over, it is read
    /// again.
    fn read(&self, bytes: u64);
}

/// Checks one segment after the other, in the caller's thread.
#[derive(Debug)]
struct Alone;

impl VerifyWork for Alone {
    fn each(&self, parts: usize, check: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(check);
    }

    fn within(&self, _: u64, read: &mut dyn FnMut()) {
        read();
    }

    fn read(&self, _: u64) {}
}

/// Reads every entry of the stream, checks every SEAL, and reports the damage: the first one in
/// each file, and each gap where files are missing. Also reads every file of a stream that damage
/// keeps from opening. Returns `None` if the stream does not exist. Needs a read-only
/// [`LogContext`]. Another process may write to the stream at the same time.
///
/// Entries that a writer drops from the beginning during the call may be skipped. If the writer
/// removes anything else, verification starts over.
///
/// # Errors
/// [`ErrorKind::Io`]; [`ErrorKind::NewerFormat`]; an error if a writer removes entries faster than
/// this reads them. Damage does not make the call fail: it is part of the result. If a damaged
/// stream does not open, every error that its files have is a finding, too.
pub fn verify(context: &Arc<LogContext>, location: &Location, options: &StreamOptions) -> Result<Option<StreamCheck>> {
    verify_shared(context, location, options, &Alone)
}

/// Like [`verify`], but `work` may check several segments at the same time.
///
/// # Errors
/// Returns the same errors as [`verify`].
pub fn verify_shared(
    context: &Arc<LogContext>,
    location: &Location,
    options: &StreamOptions,
    work: &dyn VerifyWork,
) -> Result<Option<StreamCheck>> {
    const TRIES_MAX: usize = 50;
    for _ in 0..TRIES_MAX {
        match try_verify(context, location, options, work) {
            Err(error) if was_removed(&error) => {}
            result => return result,
        }
    }
    Err(Error::text(ErrorKind::Io, location, "the stream changes faster than it can be verified; try again"))
}

/// Whether an entry, a file or the stream could not be read because a writer has removed it.
fn was_removed(error: &Error) -> bool {
    use ErrorKind::{Cut, Missing, Truncated};
    error.is_not_found() || matches!(error.kind(), Truncated { .. } | Cut { .. } | Missing)
}

fn try_verify(
    context: &Arc<LogContext>,
    location: &Location,
    options: &StreamOptions,
    work: &dyn VerifyWork,
) -> Result<Option<StreamCheck>> {
    let mut check = StreamCheck {
        stream: location.name().to_owned(),
        state: CheckState::Sound,
        first_seq: None,
        next_seq: None,
        segments: count_segments(context, location)?,
        entries: 0,
        torn: None,
        damage: Vec::new(),
    };
    let (log, of_journal) = match open(context, location, options) {
        Ok(opened) => opened,
        Err(refused) if refused.is_damage() || refused.kind() == ErrorKind::NewerFormat => {
            let around = read_around(context, location, options, &refused, work)?;
            check.state = CheckState::Damaged;
            check.damage = around.damage;
            check.entries = around.entries;
            return Ok(Some(check));
        }
        Err(error) => return Err(error),
    };
    if !log.exists() && of_journal.is_none() {
        return Ok(None);
    }
    let report = log.report();
    let verifier = Verifier::new(log, report.first_seq);
    check.damage = verifier.damage(report.next_seq, work)?;
    let first_seq = verifier.first_seq();
    if first_seq > report.next_seq {
        // A writer has dropped all entries that this verification was to read.
        return Err(Error::new(ErrorKind::Truncated { first_seq }, location));
    }
    check.damage.extend(of_journal);
    check.entries = verifier.entries();
    check.first_seq = Some(first_seq);
    check.next_seq = Some(report.next_seq);
    check.torn.clone_from(&report.torn);
    check.state = match (&check.damage[..], &check.torn) {
        ([], None) => CheckState::Sound,
        ([], Some(_)) => CheckState::Torn,
        _ => CheckState::Damaged,
    };
    Ok(Some(check))
}

/// Opens the stream. If the commit journal is damaged, opens the files alone, and also returns that
/// damage.
fn open(context: &Arc<LogContext>, location: &Location, options: &StreamOptions) -> Result<(StreamLog, Option<Error>)> {
    match Inner::open(Arc::clone(context), location.clone(), options.clone()) {
        Ok(inner) => Ok((StreamLog { inner }, None)),
        Err(damage) if damage.damage() == Some(DamageKind::Journal) => {
            let inner = Inner::open_files(Arc::clone(context), location.clone(), options.clone())?;
            Ok((StreamLog { inner }, Some(damage)))
        }
        Err(error) => Err(error),
    }
}

/// The number of segment files in the stream's directory.
fn count_segments(context: &LogContext, location: &Location) -> Result<u64> {
    match context.storage().list(&location.dir()) {
        Ok(entries) => Ok(entries.iter().filter(|e| is_segment(&e.name)).count() as u64),
        // Either the stream does not exist, or a file has taken its name; opening the stream
        // reports that.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(0),
        Err(e) => Err(Error::io(location, e)),
    }
}

/// Reads an opened stream. Several threads share it.
struct Verifier {
    log: StreamLog,
    snapshot: Arc<Snapshot>,
    /// The first live seq. It rises if a writer drops entries during verification.
    first_seq: AtomicU64,
    /// The number of intact entries.
    entries: AtomicU64,
}

impl Verifier {
    fn new(log: StreamLog, first_seq: u64) -> Self {
        let snapshot = log.inner.shared.snapshot.load();
        Self { log, snapshot, first_seq: AtomicU64::new(first_seq), entries: AtomicU64::new(0) }
    }

    fn entries(&self) -> u64 {
        // Relaxed: the threads that count have ended.
        self.entries.load(Ordering::Relaxed)
    }

    fn first_seq(&self) -> u64 {
        // Relaxed: only this number is shared.
        self.first_seq.load(Ordering::Relaxed)
    }

    fn raise_first_seq(&self, seq: u64) {
        self.first_seq.fetch_max(seq, Ordering::Relaxed);
    }

    /// Reads the stream up to `next_seq` and returns the damage: for each segment, the first
    /// damaged entry, or else the SEAL if it is damaged.
    fn damage(&self, next_seq: u64, work: &dyn VerifyWork) -> Result<Vec<Error>> {
        let segments = self.snapshot.segments.len();
        if segments == 0 {
            return Ok(self.read_entries(0, next_seq)?.into_iter().collect());
        }
        let found = Mutex::new(BTreeMap::new());
        work.each(segments, &|i| {
            let damage = self.damage_in(i, next_seq, work);
            // Most segments are sound.
            if !matches!(&damage, Ok(damage) if damage.is_empty()) {
                found.lock().insert(i, damage);
            }
        });
        let found = std::mem::take(&mut *found.lock());
        let found: Vec<Vec<Error>> = found.into_values().collect::<Result<_>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Reads the segment with this index, and returns the damage in it.
    fn damage_in(&self, i: usize, next_seq: u64, work: &dyn VerifyWork) -> Result<Vec<Error>> {
        let segment = &self.snapshot.segments[i];
        let limit = self.snapshot.limit(i);
        let mut found = Ok(None);
        work.within(self.frame_len_max(i), &mut || {
            found = self.read_entries(segment.header.base.0, limit.min(next_seq));
        });
        let mut damage: Vec<Error> = found?.into_iter().collect();
        let has_successor = i + 1 < self.snapshot.segments.len();
        // The finding about the end states that the entries are valid.
        if damage.is_empty() && has_successor && self.first_seq() < limit {
            damage.extend(self.check_end(&segment.header, limit)?);
        }
        let shared = &self.log.inner.shared;
        let path = shared.location.dir().join(SegmentId::of(&segment.header).to_string());
        // The file may have been removed since it was read.
        let len = shared.context.storage().open(&path, Access::Read).and_then(|file| file.len());
        work.read(len.unwrap_or(0));
        Ok(damage)
    }

    /// A length in bytes that no frame of the segment with this index exceeds, or 0 if it cannot be
    /// read.
    fn frame_len_max(&self, i: usize) -> u64 {
        let shared = &self.log.inner.shared;
        let next = self.snapshot.segments.get(i + 1).map(|next| &next.header);
        let segment = &self.snapshot.segments[i];
        // Reading its entries reports an error.
        segment.open(&shared.context, &shared.location, &shared.options, next).map_or(0, |open| open.span_len_max())
    }

    /// Reads and counts the entries of the segment with this base and limit, also those after
    /// damage. Returns the first damage.
    fn read_entries(&self, base: u64, limit: u64) -> Result<Option<Error>> {
        let mut first_damage = None;
        let mut count = 0;
        let mut from = base;
        loop {
            from = from.max(self.first_seq());
            let mut entries = self.log.iter(from..limit.max(from), Visibility::Stable);
            let read = std::iter::from_fn(|| entries.next_run()).try_for_each(|run| {
                let seqs = run?.seqs();
                count += seqs.end - seqs.start;
                from = seqs.end;
                Ok(())
            });
            let Err(error): Result<()> = read else { break };
            match error.kind() {
                _ if error.is_damage() => {
                    let after = error.lost().map(|lost| lost.end).filter(|&after| after > from && after < limit);
                    first_damage.get_or_insert(error);
                    match after {
                        Some(after) => from = after,
                        None => break,
                    }
                }
                ErrorKind::Truncated { first_seq } if first_seq > from => self.raise_first_seq(first_seq),
                _ => return Err(error),
            }
        }
        self.entries.fetch_add(count, Ordering::Relaxed);
        Ok(first_damage)
    }

    /// Checks the end of a segment that is not the newest, and returns the damage. If a writer has
    /// dropped the segment, raises `first_seq` instead.
    fn check_end(&self, header: &SegmentHeader, limit: u64) -> Result<Option<Error>> {
        let error = match self.check_seal(header, limit) {
            Ok(damage) => return Ok(damage),
            Err(error) => error,
        };
        let last = limit.saturating_sub(1);
        match self.log.inner.segment_removed(&error, &(last..=last), &self.snapshot) {
            Ok(_) => Err(error),
            Err(removed) => match removed.kind() {
                ErrorKind::Truncated { first_seq } if first_seq > self.first_seq() => {
                    self.raise_first_seq(first_seq);
                    Ok(None)
                }
                _ => Err(removed),
            },
        }
    }

    /// Checks that the segment ends in a valid SEAL that counts the entries up to `limit`.
    ///
    /// A segment that was not settled before a crash may lack its SEAL, which recovery writes. Such
    /// a file still has the length of an active segment, and is not checked.
    fn check_seal(&self, header: &SegmentHeader, limit: u64) -> Result<Option<Error>> {
        let shared = &self.log.inner.shared;
        let failed = |e| Error::segment_error(&shared.location, e);
        let id = SegmentId::of(header);
        let file = SegmentFile::open(shared.context.storage(), &shared.location.dir(), id, Access::Read);
        let file = file.map_err(failed)?;
        if file.header() != header {
            // The name now belongs to a segment of another stream.
            return Err(Error::io(&shared.location, io::ErrorKind::NotFound.into()));
        }
        if file.has_active_len() {
            return Ok(None);
        }
        let seal = file.finished().map_err(failed)?;
        let is_sound = seal.is_some_and(|seal| seal.frame.first_seq.0 >= limit);
        Ok((!is_sound).then(|| Error::damage_at(&shared.location, DamageKind::Seal, Some(id), None)))
    }
}
