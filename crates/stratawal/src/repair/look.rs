//! Finds the damage, and the entries that can be kept. Changes nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use stratawal_frame::{Features, FormatFile, SegmentHeader, SeqNo, StreamId, WalId};
use stratawal_journal::{Error as JournalError, FileHeader, Image, Needed, NeededStream};
use stratawal_storage::{Access, Storage};
use stratawal_stream::{Found, Location, LogContext, StreamLog, StreamOptions, drop_replaced, stream_id, verify};

use super::contents::{Contents, context_of_files};
use super::{Finding, Part, Remedy};
use crate::error::{DamageKind, Error, ErrorKind, Result, io_error, log_error};
use crate::inspect::reader_context;
use crate::journal::{self, journal_error};
use crate::root::{JOURNAL, Root, journal_files};
use crate::wal::{stream_dir, unknown_stream};

pub(super) fn plan_on(storage: &dyn Storage, path: &Path, stream: Option<&str>) -> Result<Vec<Finding>> {
    let root = match Root::open_read_only(storage, path) {
        Ok(root) => root,
        Err(damage) if damage.kind() == ErrorKind::Damaged => return Ok(vec![format_finding(storage, path, damage)?]),
        Err(error) => return Err(error),
    };
    plan_of(&root, path, stream)
}

/// The findings in a log whose FORMAT is valid.
pub(super) fn plan_of(root: &Root, path: &Path, stream: Option<&str>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let format = root.damage_of_format()?.filter(|_| stream.is_none());
    findings.extend(format.map(|damage| Finding {
        part: Part::Format,
        damage: vec![damage],
        remedy: Remedy::WriteFormat,
    }));
    let (needed, journal) = look_at_journal(root)?;
    if let Some(copied) = journal.as_ref().and_then(Finding::copied).filter(|_| stream.is_some()) {
        // A copy is adopted as a whole.
        return Err(copied.clone());
    }
    findings.extend(journal.filter(|_| stream.is_none()));
    let context = Arc::new(reader_context(root));
    let mut names = match context.reader_of_journal() {
        Some(journal) => root.stream_names_with(journal)?,
        None => root.stream_names()?,
    };
    if let Some(wanted) = stream {
        stream_dir(wanted)?;
        names.retain(|name| name == wanted);
        if names.is_empty() {
            return Err(unknown_stream(path, wanted));
        }
    }
    for name in names {
        let location = Location::new(root.streams(), stream_dir(&name)?).named(&name);
        findings.extend(look_at_stream(root, &context, &location, needed.as_ref())?);
    }
    Ok(findings)
}

fn format_finding(storage: &dyn Storage, path: &Path, damage: Error) -> Result<Finding> {
    let root = storage.at(path).map_err(|e| io_error("cannot open the log", e))?;
    let is_file =
        root.open(Path::new("FORMAT"), Access::Read).map_or_else(|e| e.kind() == io::ErrorKind::NotFound, |_| true);
    let remedy = match rebuilt_format(&root) {
        Some(_) if is_file => Remedy::WriteFormat,
        _ => Remedy::ByHand,
    };
    let mut damage = vec![damage];
    if remedy == Remedy::WriteFormat && journal_files(&*root).is_ok_and(|files| files.is_empty()) {
        let text = format!(
            "{}: no file of a commit journal is here, and only FORMAT stated whether the log has one; if it has, the entries \
             that only the journal held are lost; the new FORMAT states that it has one, so that the next repair shows it",
            path.join(JOURNAL).display()
        );
        damage.push(log_error(ErrorKind::Damaged, text));
    }
    Ok(Finding { part: Part::Format, damage, remedy })
}

/// The FORMAT that the other files of the log show, if all of them agree on the log's id. It always
/// states that the log has a journal. If none exists, it may be lost, and a FORMAT without it would
/// hide that.
pub(super) fn rebuilt_format(root: &Arc<dyn Storage>) -> Option<FormatFile> {
    let streams = Path::new("streams");
    let mut ids: Vec<WalId> = Vec::new();
    for stream in root.list(streams).ok()? {
        let dir = streams.join(&stream.name);
        for entry in root.list(&dir).unwrap_or_default() {
            let bytes = first_bytes(root, &dir.join(&entry.name)).unwrap_or_default();
            ids.extend(SegmentHeader::decode(&bytes).ok().map(|header| header.wal_id));
        }
    }
    for path in journal_files(&**root).ok()? {
        let bytes = first_bytes(root, &path).unwrap_or_default();
        ids.extend(FileHeader::decode_despite_version(&bytes).ok().map(|header| header.wal_id));
    }
    let wal_id = *ids.first()?;
    let is_one = ids.iter().all(|id| *id == wal_id);
    is_one.then(|| FormatFile { wal_id, features: Features::default().with_journal(true) })
}

/// The beginning of a file, in which a header is.
fn first_bytes(root: &Arc<dyn Storage>, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let len = root.open(path, Access::Read)?.read_at(&mut bytes, 0)?;
    bytes.truncate(len);
    Ok(bytes)
}

impl Finding {
    /// The error of a copy that is not adopted, if the journal is one and is damaged as well.
    pub(super) fn copied(&self) -> Option<&Error> {
        self.damage.iter().find(|damage| damage.kind() == ErrorKind::Copied)
    }
}

/// The records that a repaired journal has, if the journal is damaged, and the finding. A copy that
/// is damaged has the error of a copy first.
fn look_at_journal(root: &Root) -> Result<(Option<Needed>, Option<Finding>)> {
    if !root.format.has_journal() {
        return Ok((None, None));
    }
    let dir = Path::new(JOURNAL);
    let wal_id = root.format.wal_id;
    let image = match Image::read(&*root.storage, dir, wal_id) {
        Ok(image) => image,
        Err(error) if error.is_damage() => {
            let copied = Image::copied_and_damaged(&*root.storage, dir, wal_id);
            let remaining = Image::remaining_in_files(&*root.storage, dir, wal_id);
            let remaining = remaining.map_err(|error| journal_error(root, &error))?;
            let is_unreadable = remaining.is_none();
            let (needed, kept, dropped) = continuing(root, remaining.unwrap_or_default())?;
            let remedy = Remedy::ReplaceJournal { kept, dropped, is_unreadable };
            let finding = Finding { part: Part::Journal, damage: damage_of(root, copied.as_ref(), &error), remedy };
            return Ok((Some(needed), Some(finding)));
        }
        Err(error) => return Err(journal_error(root, &error)),
    };
    let copied = image.copied();
    let Some(damage) = image.damage() else {
        return copied.map_or(Ok((None, None)), |copied| Err(journal::copied(root, &copied, false)));
    };
    let (needed, kept, dropped) = continuing(root, image.remaining())?;
    let remedy = Remedy::ReplaceJournal { kept, dropped, is_unreadable: false };
    let finding = Finding { part: Part::Journal, damage: damage_of(root, copied.as_ref(), &damage), remedy };
    Ok((Some(needed), Some(finding)))
}

fn damage_of(root: &Root, copied: Option<&JournalError>, damage: &JournalError) -> Vec<Error> {
    let copied = copied.map(|copied| journal::copied(root, copied, true));
    copied.into_iter().chain([journal_error(root, damage)]).collect()
}

/// Keeps the records that continue the files of their streams without a gap. If it is not known
/// where the files of a stream end, keeps all of its records: any of them may follow entries that
/// only a lost file had. Also returns how many entries are kept and dropped.
fn continuing(root: &Root, mut needed: Needed) -> Result<(Needed, u64, u64)> {
    let mut kept = 0;
    let mut dropped = 0;
    let names = names_by_id(root, &needed)?;
    for (&id, stream) in &mut needed.streams {
        drop_replaced(stream);
        let name = stream.name.as_deref().and_then(|name| std::str::from_utf8(name).ok());
        let name = name.or_else(|| names.get(&id).map(String::as_str));
        let start = stream.start.map_or(0, |start| start.0);
        let Some(files) = end_of_files(root, id, name, stream)? else {
            dropped += stream.parts.iter().map(|located| u64::from(located.part.count)).sum::<u64>();
            *stream = NeededStream::default();
            continue;
        };
        let mut end = files.seq.max(start);
        let mut parts = Vec::new();
        for located in std::mem::take(&mut stream.parts) {
            let seqs = located.part.first.0..located.part.end().0;
            if files.is_known && seqs.start > end {
                dropped += seqs.end - seqs.start;
                continue;
            }
            kept += seqs.end.saturating_sub(end.max(seqs.start));
            end = end.max(seqs.end);
            parts.push(located);
        }
        stream.parts = parts;
        stream.firm = stream.firm.min(SeqNo(end));
    }
    needed.streams.retain(|_, stream| *stream != NeededStream::default());
    Ok((needed, kept, dropped))
}

/// The names of the streams with a directory, by their ids, if the journal has lost a name.
fn names_by_id(root: &Root, needed: &Needed) -> Result<BTreeMap<StreamId, String>> {
    let mut names = BTreeMap::new();
    if needed.streams.values().all(|stream| stream.name.is_some()) {
        return Ok(names);
    }
    for name in root.stream_names()? {
        let location = Location::new(root.streams(), stream_dir(&name)?).named(&name);
        if let Found::Stream(id) = stream_id(&root.storage, root.format.wal_id, &location) {
            names.insert(id, name);
        }
    }
    Ok(names)
}

/// Where the files of a stream end.
struct FilesEnd {
    /// One past the last entry that is known.
    seq: u64,
    /// Whether there was no later entry.
    is_known: bool,
}

/// Where the files of a stream end: at 0 if it never had any. Entries that are lost in the files
/// count as if they were there, because what follows them can be kept. `None` if the stream was
/// deleted: a later one has the directory of its name.
fn end_of_files(root: &Root, id: StreamId, name: Option<&str>, needed: &NeededStream) -> Result<Option<FilesEnd>> {
    const UNKNOWN: FilesEnd = FilesEnd { seq: 0, is_known: false };
    let Some(name) = name else { return Ok(Some(UNKNOWN)) };
    let location = Location::new(root.streams(), stream_dir(name)?).named(name);
    match stream_id(&root.storage, root.format.wal_id, &location) {
        Found::Stream(found) if found == id => {}
        Found::Stream(_) => return Ok(None),
        Found::Missing if !may_have_directory(needed) => return Ok(Some(FilesEnd { seq: 0, is_known: true })),
        Found::Missing | Found::Unreadable => return Ok(Some(UNKNOWN)),
    }
    let context = Arc::new(context_of_files(root));
    match StreamLog::open_before_damage(context, location.clone(), StreamOptions::new()) {
        Ok((files, None)) => return Ok(Some(FilesEnd { seq: files.report().next_seq, is_known: true })),
        Err(error) if error.kind() != ErrorKind::NewerFormat => return Err(error),
        _ => {}
    }
    let contents = Contents::of_files(root, &location, 0)?;
    let end = |contents: Contents| FilesEnd { seq: contents.next, is_known: contents.is_end_known() };
    Ok(Some(contents.map_or(UNKNOWN, end)))
}

/// Whether the records do not rule out that the stream had a directory. Without one, each part has
/// its name.
fn may_have_directory(needed: &NeededStream) -> bool {
    needed.has_directory || needed.parts.iter().any(|located| located.part.name.is_none())
}

/// The finding in a stream, if it is damaged. `repaired` has the records of a damaged journal once
/// it is repaired.
fn look_at_stream(
    root: &Root,
    context: &Arc<LogContext>,
    location: &Location,
    repaired: Option<&Needed>,
) -> Result<Option<Finding>> {
    let is_of_stream = |damage: &Error| repaired.is_none() || damage.damage() != Some(DamageKind::Journal);
    let damage: Vec<Error> = match verify(context, location, &StreamOptions::new()) {
        Ok(None) => return Ok(None),
        Ok(Some(check)) => check.damage.into_iter().filter(is_of_stream).collect(),
        // A version number may be damaged. It is not known what else the file would state.
        Err(newer) if newer.kind() == ErrorKind::NewerFormat => vec![newer],
        Err(error) => return Err(error),
    };
    if damage.is_empty() {
        return Ok(None);
    }
    let by_hand = [DamageKind::Misplaced, DamageKind::Directory, DamageKind::History];
    let is_by_hand = |damage: &Error| damage.damage().is_none_or(|kind| by_hand.contains(&kind));
    let contents = match damage.iter().any(is_by_hand) {
        true => None,
        false => {
            let needed =
                repaired.map_or_else(|| sound_journal(root).map(Cow::Owned), |needed| Ok(Cow::Borrowed(needed)))?;
            Contents::read(root, location, &needed, repaired.is_some())?
        }
    };
    let remedy = contents.map_or(Remedy::ByHand, |contents| remedy_of(context, location, &damage, &contents));
    Ok(Some(Finding { part: Part::Stream(location.name().to_owned()), damage, remedy }))
}

/// The remedy for damage to a stream with these contents.
fn remedy_of(context: &LogContext, location: &Location, damage: &[Error], contents: &Contents) -> Remedy {
    let has_kind = |kinds: &[DamageKind], damage: &Error| damage.damage().is_some_and(|kind| kinds.contains(&kind));
    let is_usable =
        damage.iter().all(|damage| has_kind(&[DamageKind::Frame, DamageKind::Gap, DamageKind::Seal], damage));
    let is_gone = damage.iter().any(|damage| has_kind(&[DamageKind::NoSegment], damage));
    let (before, after) = (contents.before(), contents.after());
    if is_gone && contents.has_files {
        // The files are of another stream than the records.
        return Remedy::ByHand;
    }
    if !contents.has_holes() {
        // Recovery seals only the file before the newest one. The stream can be used.
        if is_usable && !is_before_newest(context, location, damage) {
            return Remedy::ByHand;
        }
        return Remedy::Recover { seqs: contents.first.unwrap_or(contents.next)..contents.next };
    }
    if before.is_none() && after.is_none() {
        return Remedy::ByHand;
    }
    Remedy::Truncate { before, after, intact: contents.intact, uncertain: contents.uncertain.clone(), is_usable }
}

/// Whether the only damage is in the live file before the newest one.
fn is_before_newest(context: &LogContext, location: &Location, damage: &[Error]) -> bool {
    let dir = stream_dir(location.name()).map(|dir| Path::new("streams").join(dir)).unwrap_or_default();
    let entries = context.storage().list(&dir).unwrap_or_default();
    let names = || {
        entries
            .iter()
            .filter_map(|entry| entry.name.to_str())
            .filter(|name| name.ends_with(".seg") && !name.starts_with('.'))
    };
    // A name is the base, a dash, and the generation, each with leading zeros. That of a file that
    // is being created begins with a dot.
    let base = |name: &str| name.split('-').next().map(str::to_owned);
    let Some(newest) = names().max_by_key(|name| name.split('-').next_back().map(str::to_owned)) else { return false };
    let before = names().filter(|name| base(name) < base(newest)).max();
    damage.len() == 1 && before.is_some() && damage[0].segment() == before
}

/// The records of a journal that is sound. There are none if the log has no journal.
fn sound_journal(root: &Root) -> Result<Needed> {
    if !root.format.has_journal() {
        return Ok(Needed::default());
    }
    let image = Image::read(&*root.storage, Path::new(JOURNAL), root.format.wal_id);
    Ok(image.map_err(|error| journal_error(root, &error))?.needed())
}

/// The records that a journal has once it is repaired.
pub(super) struct JournalAfter {
    pub(super) needed: Needed,
    /// The damage that is repaired.
    pub(super) damage: Option<Error>,
}

impl JournalAfter {
    pub(super) fn of(root: &Root) -> Result<Self> {
        let (repaired, finding) = look_at_journal(root)?;
        let damage = finding.and_then(|finding| finding.damage.into_iter().next());
        let needed = repaired.map_or_else(|| sound_journal(root), Ok)?;
        Ok(Self { needed, damage })
    }

    /// Drops the entries of a stream at or above `end`. Below `end`, the files of the stream have
    /// the entries of a record that goes beyond it. Returns whether anything has changed.
    pub(super) fn cut(&mut self, id: StreamId, end: u64) -> bool {
        let Some(stream) = self.needed.streams.get_mut(&id) else { return false };
        let before = stream.parts.len();
        stream.parts.retain(|located| located.part.end().0 <= end);
        let is_changed = stream.parts.len() < before || stream.firm.0 > end;
        stream.firm = stream.firm.min(SeqNo(end));
        is_changed
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use stratawal_journal::{LocatedPart, Lsn, Part as JournalPart};

    use super::*;

    #[test]
    fn record_that_goes_beyond_the_cut_is_dropped() {
        let stream = StreamId(7);
        let located = |first| {
            let first = SeqNo(first);
            let part =
                JournalPart { stream, name: None, first, count: 5, timestamp: 0, firm: true, body: Vec::new().into() };
            LocatedPart { part, lsn: Lsn(0), end: Lsn(1) }
        };
        let mut needed = Needed::default();
        let parts = vec![located(0), located(5), located(10)];
        needed.streams.insert(stream, NeededStream { parts, firm: SeqNo(15), ..NeededStream::default() });
        let mut journal = JournalAfter { needed, damage: None };
        assert!(journal.cut(stream, 7) && !journal.cut(stream, 7));
        let left = &journal.needed.streams[&stream];
        let firsts: Vec<SeqNo> = left.parts.iter().map(|located| located.part.first).collect();
        assert_eq!((firsts, left.firm), (vec![SeqNo(0)], SeqNo(7)));
    }
}
