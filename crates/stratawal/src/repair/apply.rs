//! Applies a repair. Each step is durable before the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_journal::{Journal, JournalOptions};
use stratawal_storage::{Lock, Storage};
use stratawal_stream::{Found, Location, StreamOptions, cut_damaged, stream_id};

use super::look::{Contents, journal_after, plan_of, rebuilt_format};
use super::{Done, Finding, Keep, Part, Remedy, RepairOptions, Repaired, look, quarantine};
use crate::error::{ErrorKind, Result, io_error, log_error};
use crate::inspect::reader_context;
use crate::journal::journal_error;
use crate::options::Options;
use crate::root::{JOURNAL, Root, lock};
use crate::wal::{Wal, stream_dir};

pub(super) fn apply_on(
    storage: &dyn Storage,
    path: &Path,
    quarantine: &Path,
    options: &RepairOptions,
) -> Result<Repaired> {
    let opened = match Root::open_read_only(storage, path) {
        Err(damage) if damage.kind() == ErrorKind::Damaged => None,
        opened => Some(opened?),
    };
    let Some(root) = opened else { return apply_to_format(storage, path, quarantine, options) };
    // A lock changes the lock file, and a log that needs no repair is not changed at all.
    let found = plan_of(&root, path, options.stream.as_deref())?;
    if !found.iter().any(|finding| options.does(finding)) {
        return Ok(Repaired { findings: not_done(found, options), has_quarantine: false });
    }
    let lock = lock(&*root.storage, path)?;
    // The process that held the lock before may have changed the log.
    let findings = plan_of(&root, path, options.stream.as_deref())?;
    let chosen: Vec<&Finding> = findings.iter().filter(|finding| options.does(finding)).collect();
    if chosen.is_empty() {
        return Ok(Repaired { findings: not_done(findings, options), has_quarantine: false });
    }
    let streams: Vec<&str> = chosen.iter().filter_map(|finding| finding.part.stream()).collect();
    let cut = streams_to_cut(&root, &chosen, options)?;
    let journal = journal_after(&root, &cut, options.stream.is_none())?;
    let dirs = dirs_of(&root, &streams)?;
    quarantine::copy(storage, &root.storage, path, quarantine, &[PathBuf::from("FORMAT")], &dirs)?;
    let replaced = journal.map_or(Ok(()), |needed| {
        let dir = Path::new(JOURNAL);
        Journal::replace(&root.storage, dir, root.format.wal_id, JournalOptions::default(), &needed)
    });
    if let Err(error) = replaced {
        let error = journal_error(&root, &error);
        let failed = |finding| (finding, Done::Failed(error.clone()));
        return Ok(Repaired { findings: findings.into_iter().map(failed).collect(), has_quarantine: true });
    }
    let has_journal = root.format.has_journal();
    let wal = if streams.is_empty() { None } else { Some(open(storage, path, has_journal, lock)?) };
    let findings = repair_streams(&root, wal, findings, options);
    Ok(Repaired { findings, has_quarantine: true })
}

/// The directories that a repair of these streams may change.
fn dirs_of(root: &Root, streams: &[&str]) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    if root.format.has_journal() {
        dirs.push(PathBuf::from(JOURNAL));
    }
    for name in streams {
        let dir = root.streams().join(stream_dir(name)?);
        // A stream that only the journal has is repaired with the journal.
        if root.storage.list(&dir).is_ok() {
            dirs.push(dir);
        }
    }
    Ok(dirs)
}

/// Repairs the streams, if any, in the log that is open for them, and closes the log.
fn repair_streams(
    root: &Root,
    wal: Option<Wal>,
    findings: Vec<Finding>,
    options: &RepairOptions,
) -> Vec<(Finding, Done)> {
    let repair = |finding: Finding| {
        let done = match (&finding.part, &wal) {
            _ if !options.does(&finding) => return not_done(vec![finding], options).remove(0),
            (Part::Stream(name), Some(wal)) => {
                let repaired = repair_stream(root, wal, name, &finding.remedy, options);
                repaired.map_or_else(Done::Failed, |()| Done::Repaired)
            }
            _ => Done::Repaired,
        };
        (finding, done)
    };
    let mut findings: Vec<(Finding, Done)> = findings.into_iter().map(repair).collect();
    // The journal may have entries of other streams, which stay there.
    if let Some(wal) = &wal
        && let Err(error) = wal.close_fast()
        && let Some((_, done)) = findings.iter_mut().find(|(_, done)| matches!(done, Done::Repaired))
    {
        *done = Done::Failed(error);
    }
    findings
}

impl Part {
    fn stream(&self) -> Option<&str> {
        match self {
            Self::Stream(name) => Some(name),
            _ => None,
        }
    }
}

impl RepairOptions {
    /// Whether the finding is repaired.
    fn does(&self, finding: &Finding) -> bool {
        let is_in = match (&self.stream, &finding.part) {
            (Some(wanted), part) => part.stream() == Some(wanted),
            (None, _) => true,
        };
        is_in
            && match &finding.remedy {
                Remedy::WriteFormat | Remedy::ReplaceJournal { .. } | Remedy::Recover { .. } => true,
                Remedy::Truncate { before, after, .. } => match self.keep {
                    Some(Keep::Before) => before.is_some(),
                    Some(Keep::After) => after.is_some(),
                    None => false,
                },
                Remedy::ByHand => false,
            }
    }
}

fn not_done(findings: Vec<Finding>, options: &RepairOptions) -> Vec<(Finding, Done)> {
    let outcome = |finding: Finding| {
        let is_choice = matches!(finding.remedy, Remedy::Truncate { .. }) && !options.does(&finding);
        (finding, if is_choice { Done::NotChosen } else { Done::Nothing })
    };
    findings.into_iter().map(outcome).collect()
}

fn apply_to_format(storage: &dyn Storage, path: &Path, quarantine: &Path, options: &RepairOptions) -> Result<Repaired> {
    let log = storage.at(path).map_err(|e| io_error("cannot open the log", e))?;
    let _lock = lock(&*log, path)?;
    let findings = look::plan_on(storage, path, options.stream.as_deref())?;
    let format = rebuilt_format(&log);
    let is_needed = findings.iter().any(|finding| finding.remedy == Remedy::WriteFormat);
    let Some(format) = format.filter(|_| is_needed && options.stream.is_none()) else {
        return Ok(Repaired { findings: not_done(findings, options), has_quarantine: false });
    };
    quarantine::copy(storage, &log, path, quarantine, &[PathBuf::from("FORMAT")], &[])?;
    let written = Root::of(log, path).write_format(format);
    let done = written.map_or_else(Done::Failed, |_| Done::Repaired);
    Ok(Repaired {
        findings: findings.into_iter().map(|finding| (finding, done.clone())).collect(),
        has_quarantine: true,
    })
}

/// The streams that are cut without being opened, each with its new end.
fn streams_to_cut(
    root: &Root,
    chosen: &[&Finding],
    options: &RepairOptions,
) -> Result<Vec<(stratawal_frame::StreamId, u64)>> {
    let mut cut = Vec::new();
    for finding in chosen {
        let (Some(name), Remedy::Truncate { before: Some(before), is_usable: false, .. }) =
            (finding.part.stream(), &finding.remedy)
        else {
            continue;
        };
        if options.keep != Some(Keep::Before) {
            continue;
        }
        let location = Location::new(root.streams(), stream_dir(name)?).named(name);
        if let Found::Stream(id) = stream_id(&root.storage, root.format.wal_id, &location) {
            cut.push((id, before.end));
        }
    }
    Ok(cut)
}

/// Opens the log for writing. The lock stays held, so that no other process can append what the
/// repair would drop.
fn open(storage: &dyn Storage, path: &Path, has_journal: bool, lock: Box<dyn Lock>) -> Result<Wal> {
    let options = Options::new().journal(has_journal).maintenance_thread(false);
    // It is the same storage, with paths that are relative to the directory above the log.
    let above = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map_or(path, Path::new);
    let system = storage.at(above).map_err(|e| io_error("cannot open the directory above the log", e))?;
    Wal::open_locked(system, name, &options, lock)
}

fn repair_stream(root: &Root, wal: &Wal, name: &str, remedy: &Remedy, options: &RepairOptions) -> Result<()> {
    let kept = match (remedy, options.keep) {
        (Remedy::Recover { seqs }, _) => return wal.truncate_damaged(name, seqs.start),
        (Remedy::Truncate { after: Some(after), .. }, Some(Keep::After)) => {
            return wal.truncate_damaged(name, after.start);
        }
        (Remedy::Truncate { before: Some(before), .. }, Some(Keep::Before)) => before.clone(),
        _ => return Ok(()),
    };
    match wal.stream(name) {
        Ok(stream) if stream.next_seq() > kept.end => return stream.truncate_from(kept.end),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::Damaged => {}
        Err(error) => return Err(error),
    }
    let location = Location::new(root.streams(), stream_dir(name)?).named(name);
    let context = Arc::new(reader_context(root));
    let found = Contents::read(&context, &location)?.and_then(|contents| contents.before());
    if found.as_ref() != Some(&kept) {
        let text = format!("the stream {name:?} was changed while it was repaired; repair it again");
        return Err(log_error(ErrorKind::Io, text));
    }
    wal.cut_damaged(name, &kept)?;
    wal.truncate_damaged(name, kept.start)
}

impl Wal {
    /// See [`cut_damaged`](stratawal_stream::cut_damaged).
    fn cut_damaged(&self, name: &str, kept: &std::ops::Range<u64>) -> Result<()> {
        let (context, location) = self.context_and_location(name)?;
        cut_damaged(&context, &location, &StreamOptions::new(), kept)
    }
}
