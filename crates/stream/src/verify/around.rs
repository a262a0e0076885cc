//! Verifies a stream that does not open, because of damage or because a newer version wrote a part
//! of it: reads every file around that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use stratawal_segment::{Access, SegmentId};

use super::VerifyWork;
use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::location::Location;
use crate::options::StreamOptions;
use crate::recovery::{Salvaged, StreamFiles, salvage, segment_ids};

/// The result of reading around damage.
#[derive(Debug)]
pub(super) struct Around {
    /// In the order of the files. At least one.
    pub(super) damage: Vec<Error>,
    /// The number of intact entries.
    pub(super) entries: u64,
}

/// Reads the stream at `location`, which does not open because of `refused`. Reports one finding
/// for each file, and one for each gap where files are missing.
///
/// # Errors
/// [`ErrorKind::Missing`] if the stream was deleted at the same time. `refused` itself if nothing is
/// damaged. If the files cannot be read to their end for another reason, that is a finding.
pub(super) fn read_around(
    context: &Arc<LogContext>,
    location: &Location,
    options: &StreamOptions,
    refused: &Error,
    work: &dyn VerifyWork,
) -> Result<Around> {
    let files = StreamFiles::new(context, location, options);
    let mut findings = Findings::default();
    findings.add(refused.clone());
    let mut read = Ok((0, 0));
    work.within(options.frame_len_max(), &mut || read = read_entries(context, location, options, &mut findings, work));
    let (first, entries) = read?;
    check_ends(&files, location, first, &mut findings);
    let damage: Vec<Error> = findings.0.into_values().collect();
    if damage.iter().any(Error::is_damage) { Ok(Around { damage, entries }) } else { Err(refused.clone()) }
}

/// Reads every entry that can be read. Returns the first seq of the stream, and the number of these
/// entries.
fn read_entries(
    context: &Arc<LogContext>,
    location: &Location,
    options: &StreamOptions,
    findings: &mut Findings,
    work: &dyn VerifyWork,
) -> Result<(u64, u64)> {
    let mut first = None;
    let mut entries = 0;
    let mut progress = Progress::new(context, &StreamFiles::new(context, location, options), location, work);
    let items = match salvage(context, location, options) {
        Ok(Some(items)) => items,
        Ok(None) => return Err(Error::new(ErrorKind::Missing, location)),
        Err(error) => {
            findings.add(error);
            return Ok((0, 0));
        }
    };
    for item in items {
        match item {
            Ok(Salvaged::Entry(entry) | Salvaged::Uncertain(entry)) => {
                first.get_or_insert(entry.seq);
                entries += 1;
                progress.reach(entry.seq);
            }
            Ok(Salvaged::Lost(lost)) => {
                first.get_or_insert(lost.first_seq);
                findings.add(lost.error);
            }
            Err(error) if error.kind() == ErrorKind::Missing => return Err(error),
            Err(error) => findings.add(error),
        }
    }
    progress.reach(u64::MAX);
    Ok((first.unwrap_or_default(), entries))
}

/// Checks the end of each file that is not the newest one and has entries from `first` on. No entry
/// is lost with an end, so reading the entries does not show damage to it.
fn check_ends(files: &StreamFiles<'_>, location: &Location, first: u64, findings: &mut Findings) {
    // An error was met before, when the files were read.
    let ids = segment_ids(files).unwrap_or_default();
    for (i, &id) in ids.iter().enumerate() {
        let limit = ids[i + 1..].iter().map(|newer| newer.base).min();
        if limit.is_none_or(|limit| limit <= id.base || limit.0 <= first) {
            continue;
        }
        let Ok(file) = files.open(id) else { continue };
        // A file that was not settled before a crash may lack its end.
        if file.has_active_len() {
            continue;
        }
        match file.finished() {
            Ok(Some(_)) => {}
            Ok(None) => findings.add(Error::damage_at(location, DamageKind::Seal, Some(id), None)),
            Err(error) => findings.add(files.failed(error)),
        }
    }
}

/// One finding for each place.
#[derive(Debug, Default)]
struct Findings(BTreeMap<Place, Error>);

impl Findings {
    /// Adds the finding, unless there is one for its place.
    fn add(&mut self, error: Error) {
        self.0.entry(Place::of(&error)).or_insert(error);
    }
}

/// The place that a finding is about. Places are in the order of the files, and the journal is
/// after them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    is_journal: bool,
    /// The name of the file, which begins with its base.
    segment: Option<String>,
    part: Part,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The files that must precede this one.
    Before,
    /// The file itself.
    File,
    /// The files that must follow this one.
    After,
}

impl Place {
    fn of(error: &Error) -> Self {
        let part = match error.damage() {
            Some(DamageKind::FirstMissing | DamageKind::PredecessorMissing | DamageKind::History) => Part::Before,
            Some(DamageKind::SuccessorMissing) => Part::After,
            _ => Part::File,
        };
        let is_journal = error.damage() == Some(DamageKind::Journal);
        Self { is_journal, segment: error.segment().map(ToOwned::to_owned), part }
    }
}

/// Reports the files as read, one after the other.
struct Progress<'a> {
    work: &'a dyn VerifyWork,
    /// The files that were not reported yet, each with its base and its length in bytes.
    rest: VecDeque<(u64, u64)>,
}

impl<'a> Progress<'a> {
    fn new(context: &LogContext, files: &StreamFiles<'_>, location: &Location, work: &'a dyn VerifyWork) -> Self {
        // An error is met again when the files are read.
        let mut ids = segment_ids(files).unwrap_or_default();
        ids.sort_by_key(|id| id.base);
        let with_len = |id: SegmentId| {
            let path = location.dir().join(id.to_string());
            let len = context.storage().open(&path, Access::Read).and_then(|file| file.len());
            (id.base.0, len.unwrap_or(0))
        };
        Self { work, rest: ids.into_iter().map(with_len).collect() }
    }

    /// All entries below `seq` were read.
    fn reach(&mut self, seq: u64) {
        while let Some((_, len)) = self.rest.front() {
            let end = self.rest.get(1).map_or(u64::MAX, |next| next.0);
            if end > seq {
                break;
            }
            self.work.read(*len);
            self.rest.pop_front();
        }
    }
}
