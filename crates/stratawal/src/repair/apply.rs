//! Applies a repair. Each step is durable before the next.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use stratawal_frame::StreamId;
use stratawal_journal::{Journal, JournalOptions, Needed};
use stratawal_storage::{Lock, Storage};
use stratawal_stream::{Location, StreamOptions, cut_damaged};

use super::contents::Contents;
use super::look::{JournalAfter, plan_of, rebuilt_format};
use super::{Done, Finding, Keep, Part, Remedy, RepairOptions, Repaired, look, quarantine};
use crate::error::{ErrorKind, Result, io_error, log_error};
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
    let found = plan_to_apply(&root, path, options)?;
    if !found.iter().any(|finding| options.does(finding)) {
        return Ok(Repaired { findings: not_done(found, options), has_quarantine: false });
    }
    let lock = lock(&*root.storage, path)?;
    // The process that held the lock before may have changed the log.
    let findings = plan_to_apply(&root, path, options)?;
    let chosen: Vec<&Finding> = findings.iter().filter(|finding| options.does(finding)).collect();
    if chosen.is_empty() {
        return Ok(Repaired { findings: not_done(findings, options), has_quarantine: false });
    }
    let Prepared { journal, streams } = prepare(&root, &chosen, options)?;
    let dirs = dirs_of(&root, streams.keys())?;
    quarantine::copy(storage, &root.storage, path, quarantine, &[PathBuf::from("FORMAT")], &dirs)?;
    let is_format_alone = journal.is_none() && streams.is_empty();
    let is_format_damaged = chosen.iter().any(|finding| finding.part == Part::Format);
    let format = if is_format_damaged { root.write_format(root.format).map(drop) } else { Ok(()) };
    let replaced = journal.map_or(Ok(()), |needed| {
        let dir = Path::new(JOURNAL);
        Journal::replace(&root.storage, dir, root.format.wal_id, JournalOptions::default(), &needed)
    });
    if let Err(error) = format.and(replaced.map_err(|error| journal_error(&root, &error))) {
        let failed = |finding| (finding, Done::Failed(error.clone()));
        return Ok(Repaired { findings: findings.into_iter().map(failed).collect(), has_quarantine: true });
    }
    let open = || open(storage, path, root.format.has_journal(), lock);
    let findings = match (!is_format_alone).then(open) {
        Some(Err(error)) if !streams.is_empty() => {
            let failed = |finding| (finding, Done::Failed(error.clone()));
            findings.into_iter().map(failed).collect()
        }
        opened => repair_streams(opened.and_then(Result::ok), findings, &streams, options),
    };
    Ok(Repaired { findings, has_quarantine: true })
}

/// The changes that a repair makes, decided before the first of them.
struct Prepared {
    /// The records of a new journal; `None` if the journal is not replaced.
    journal: Option<Needed>,
    /// The streams that are repaired.
    streams: BTreeMap<String, StreamRepair>,
}

/// The repair of a stream.
struct StreamRepair {
    /// The entries that are kept.
    kept: Range<u64>,
    /// The new generation that the stream gets before it is opened, if it does.
    cut: Option<Cut>,
}

/// A new generation of a stream, which may not open without it.
struct Cut {
    /// The id of the stream, if it is known.
    id: Option<StreamId>,
    /// The entries of the files that are kept.
    in_files: Range<u64>,
}

fn prepare(root: &Root, chosen: &[&Finding], options: &RepairOptions) -> Result<Prepared> {
    let mut journal = JournalAfter::of(root)?;
    let is_repaired = journal.damage.is_some();
    let mut is_changed = is_repaired;
    if let Some(damage) = journal.damage.take().filter(|_| options.stream.is_some()) {
        return Err(damage);
    }
    let mut streams = BTreeMap::new();
    for finding in chosen {
        let Part::Stream(name) = &finding.part else { continue };
        let location = Location::new(root.streams(), stream_dir(name)?).named(name);
        let Some(contents) = Contents::read(root, &location, &journal.needed, is_repaired)? else { continue };
        let cut = |in_files| Cut { id: contents.id, in_files };
        let repair = match (&finding.remedy, options.keep) {
            (Remedy::Recover { seqs }, _) => StreamRepair { kept: seqs.clone(), cut: None },
            (Remedy::Truncate { after: Some(after), .. }, Some(Keep::After)) => {
                let begin = contents.begin_after_files();
                StreamRepair { kept: after.clone(), cut: begin.map(|begin| cut(begin..begin)) }
            }
            (Remedy::Truncate { before: Some(before), .. }, Some(Keep::Before)) => {
                is_changed |= contents.id.is_some_and(|id| journal.cut(id, before.end));
                StreamRepair { kept: before.clone(), cut: contents.files_before().map(cut) }
            }
            _ => continue,
        };
        streams.insert(name.clone(), repair);
    }
    Ok(Prepared { journal: Some(journal.needed).filter(|_| is_changed), streams })
}

/// The plan, unless the log is a copy that is not to be adopted.
fn plan_to_apply(root: &Root, path: &Path, options: &RepairOptions) -> Result<Vec<Finding>> {
    let findings = plan_of(root, path, options.stream.as_deref())?;
    match findings.iter().find_map(Finding::copied) {
        Some(copied) if !options.adopt_copy => Err(copied.clone()),
        _ => Ok(findings),
    }
}

/// The directories that a repair of these streams may change.
fn dirs_of<'a>(root: &Root, streams: impl Iterator<Item = &'a String>) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    if root.format.has_journal() {
        dirs.push(PathBuf::from(JOURNAL));
    }
    for name in streams {
        let dir = root.streams().join(stream_dir(name)?);
        // A directory that is missing is created.
        if root.storage.list(&dir).is_ok() {
            dirs.push(dir);
        }
    }
    Ok(dirs)
}

/// Repairs the streams, if any, in the log that is open for them, and closes the log.
fn repair_streams(
    wal: Option<Wal>,
    findings: Vec<Finding>,
    streams: &BTreeMap<String, StreamRepair>,
    options: &RepairOptions,
) -> Vec<(Finding, Done)> {
    let repair = |finding: Finding| {
        let done = match (finding.part.stream(), &wal) {
            _ if !options.does(&finding) => return not_done(vec![finding], options).remove(0),
            (Some(name), Some(wal)) => match streams.get(name).map(|repair| wal.repair_stream(name, repair)) {
                Some(repaired) => repaired.map_or_else(Done::Failed, |()| Done::Repaired),
                None => Done::Nothing,
            },
            _ => Done::Repaired,
        };
        (finding, done)
    };
    let mut findings: Vec<(Finding, Done)> = findings.into_iter().map(repair).collect();
    if let Err(error) = wal.map_or(Ok(()), |wal| wal.close_after_repair())
        && !streams.is_empty()
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

/// Opens the log for writing. The lock stays held, so that no other process can append what the
/// repair would drop. The files of streams that are not opened do not change.
fn open(storage: &dyn Storage, path: &Path, has_journal: bool, lock: Box<dyn Lock>) -> Result<Wal> {
    let options = Options::new().journal(has_journal).maintenance_thread(false);
    // It is the same storage, with paths that are relative to the directory above the log.
    let above = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map_or(path, Path::new);
    let system = storage.at(above).map_err(|e| io_error("cannot open the directory above the log", e))?;
    let wal = Wal::open_locked(system, name, &options, lock)?;
    if let Some(journal) = wal.log_journal() {
        journal.settle_carried_by(None);
    }
    Ok(wal)
}

impl Wal {
    /// Repairs a stream that is not open, and checks that exactly the entries to be kept are.
    fn repair_stream(&self, name: &str, repair: &StreamRepair) -> Result<()> {
        if let Some(Cut { id, in_files }) = &repair.cut {
            let (context, location) = self.context_and_location(name)?;
            cut_damaged(&context, &location, &StreamOptions::new(), *id, in_files)?;
        }
        self.truncate_damaged(name, repair.kept.start)?;
        let stream = self.stream(name)?;
        let found = stream.first_seq()..stream.next_seq();
        // Only recovery knows where a stream without entries begins.
        if found == repair.kept || found.is_empty() && repair.kept.is_empty() {
            return Ok(());
        }
        let text = format!(
            "the stream {name:?} has entries from {} up to, but not including, {} after the repair, and should have them from \
             {} up to {}; the quarantine has its files as they were",
            found.start, found.end, repair.kept.start, repair.kept.end
        );
        Err(log_error(ErrorKind::Io, text))
    }

    /// Closes the log. Streams that the repair does not concern may have entries in the journal.
    /// They stay there, because the files of these streams are not in the quarantine.
    fn close_after_repair(&self) -> Result<()> {
        let has_others = self.log_journal().is_some_and(|journal| !journal.carried_streams().is_empty());
        if has_others { self.close_fast() } else { self.close() }
    }
}
