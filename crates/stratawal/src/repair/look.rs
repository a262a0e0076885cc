//! Finds the damage, and the entries that can be kept. Changes nothing.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use stratawal_frame::{Features, FormatFile, SegmentHeader, SeqNo, StreamId, WalId};
use stratawal_journal::{FileHeader, Image, Needed, NeededStream};
use stratawal_storage::{Access, Storage};
use stratawal_stream::{
    Found, Location, LogContext, Salvaged, StreamLog, StreamOptions, drop_replaced, salvage, stream_id, verify,
};

use super::{Finding, Part, Remedy};
use crate::error::{DamageKind, Error, ErrorKind, Result, io_error};
use crate::inspect::reader_context;
use crate::journal::{self, journal_error};
use crate::root::{JOURNAL, Root};
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
    let (needed, journal) = look_at_journal(root)?;
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
        findings.extend(look_at_stream(&context, &location, needed.as_ref())?);
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
    Ok(Finding { part: Part::Format, damage: vec![damage], remedy })
}

/// The FORMAT that the other files of the log show, if all of them agree on the log's id. `None` if
/// it is not known whether the log has a journal: a FORMAT without it would hide its entries.
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
    let in_journal = match root.list(Path::new(JOURNAL)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.ok()?,
    };
    let mut has_journal = false;
    for entry in in_journal {
        let is_file = Path::new(&entry.name).extension().is_some_and(|extension| extension == "jnl");
        has_journal |= is_file;
        let bytes = first_bytes(root, &Path::new(JOURNAL).join(&entry.name)).unwrap_or_default();
        ids.extend(FileHeader::decode(&bytes).ok().filter(|_| is_file).map(|header| header.wal_id));
    }
    let wal_id = *ids.first()?;
    let is_one = ids.iter().all(|id| *id == wal_id);
    is_one.then(|| FormatFile { wal_id, features: Features::default().with_journal(has_journal) })
}

/// The beginning of a file, in which a header is.
fn first_bytes(root: &Arc<dyn Storage>, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let len = root.open(path, Access::Read)?.read_at(&mut bytes, 0)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// The records that a repaired journal has, if the journal is damaged, and the finding.
fn look_at_journal(root: &Root) -> Result<(Option<Needed>, Option<Finding>)> {
    if !root.format.has_journal() {
        return Ok((None, None));
    }
    let dir = Path::new(JOURNAL);
    let wal_id = root.format.wal_id;
    let image = match Image::read(&*root.storage, dir, wal_id) {
        Ok(image) => image,
        Err(error) if error.is_damage() => {
            if let Some(copied) = Image::copied_and_damaged(&*root.storage, dir, wal_id) {
                return Err(journal::copied(root, &copied));
            }
            let remaining = Image::remaining_in_files(&*root.storage, dir, wal_id);
            let remaining = remaining.map_err(|error| journal_error(root, &error))?;
            let is_unreadable = remaining.is_none();
            let (needed, kept, dropped) = continuing(root, remaining.unwrap_or_default())?;
            let remedy = Remedy::ReplaceJournal { kept, dropped, is_unreadable };
            let finding = Finding { part: Part::Journal, damage: vec![journal_error(root, &error)], remedy };
            return Ok((Some(needed), Some(finding)));
        }
        Err(error) => return Err(journal_error(root, &error)),
    };
    if let Some(copied) = image.copied() {
        return Err(journal::copied(root, &copied));
    }
    let Some(damage) = image.damage() else { return Ok((None, None)) };
    let (needed, kept, dropped) = continuing(root, image.remaining())?;
    let remedy = Remedy::ReplaceJournal { kept, dropped, is_unreadable: false };
    let finding = Finding { part: Part::Journal, damage: vec![journal_error(root, &damage)], remedy };
    Ok((Some(needed), Some(finding)))
}

/// Keeps the records that continue the files of their streams without a gap. Of a stream whose
/// files are damaged, keeps all that follow one another. Also returns how many entries are kept and
/// dropped.
fn continuing(root: &Root, mut needed: Needed) -> Result<(Needed, u64, u64)> {
    let context = LogContext::new(Arc::clone(&root.storage)).wal_id(root.format.wal_id).read_only(true);
    let context = Arc::new(context);
    let mut kept = 0;
    let mut dropped = 0;
    for (&id, stream) in &mut needed.streams {
        drop_replaced(stream);
        let files_end = end_of_files(root, &context, id, stream)?;
        let begin = files_end.or_else(|| stream.parts.first().map(|located| located.part.first.0));
        let mut end = begin.unwrap_or_default().max(stream.start.map_or(0, |start| start.0));
        let mut parts = Vec::new();
        for located in std::mem::take(&mut stream.parts) {
            if located.part.first.0 <= end {
                let next = located.part.end().0.max(end);
                kept += next - end;
                end = next;
                parts.push(located);
            } else {
                dropped += located.part.end().0 - located.part.first.0;
            }
        }
        stream.parts = parts;
        stream.firm = stream.firm.min(SeqNo(end));
    }
    Ok((needed, kept, dropped))
}

/// Where the sound files of a stream end: at 0 if it never had any. `None` if the files are
/// damaged, missing, or not found because the journal has lost the stream's name.
fn end_of_files(root: &Root, context: &Arc<LogContext>, id: StreamId, needed: &NeededStream) -> Result<Option<u64>> {
    let Some(name) = needed.name.as_deref().and_then(|name| std::str::from_utf8(name).ok()) else { return Ok(None) };
    let location = Location::new(root.streams(), stream_dir(name)?).named(name);
    match stream_id(&root.storage, root.format.wal_id, &location) {
        Found::Stream(found) if found == id => {}
        Found::Missing if !needed.has_directory => return Ok(Some(0)),
        _ => return Ok(None),
    }
    let (files, damage) = StreamLog::open_before_damage(Arc::clone(context), location, StreamOptions::new())?;
    Ok(damage.is_none().then(|| files.report().next_seq))
}

/// The entries of a damaged stream.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) first: Option<u64>,
    /// The first damaged entry.
    pub(super) hole: Option<u64>,
    /// One past the last damaged entry; `None` if it is not known.
    pub(super) after: Option<u64>,
    next: u64,
    intact: u64,
    has_holes: bool,
}

impl Contents {
    pub(super) fn read(context: &Arc<LogContext>, location: &Location) -> Result<Option<Self>> {
        let Some(items) = salvage(context, location, &StreamOptions::new())? else { return Ok(None) };
        let mut contents = Self::default();
        for item in items {
            match item? {
                Salvaged::Entry(entry) | Salvaged::Uncertain(entry) => {
                    contents.first.get_or_insert(entry.seq());
                    contents.next = entry.seq() + 1;
                    contents.intact += 1;
                }
                Salvaged::Lost(lost) => {
                    // Damage to the journal is repaired first.
                    if lost.error.damage() == Some(DamageKind::Journal) {
                        continue;
                    }
                    contents.first.get_or_insert(lost.first_seq);
                    contents.hole.get_or_insert(lost.first_seq);
                    contents.after = lost.next_seq;
                    contents.next = contents.next.max(lost.next_seq.unwrap_or(lost.first_seq));
                    contents.has_holes = true;
                }
                _ => {}
            }
        }
        Ok(Some(contents))
    }

    pub(super) fn before(&self) -> Option<Range<u64>> {
        let range = self.first?..self.hole?;
        Some(range).filter(|range| !range.is_empty())
    }

    pub(super) fn after(&self) -> Option<Range<u64>> {
        let range = self.after?..self.next;
        Some(range).filter(|range| !range.is_empty())
    }
}

/// The finding in a stream, if it is damaged.
fn look_at_stream(context: &Arc<LogContext>, location: &Location, journal: Option<&Needed>) -> Result<Option<Finding>> {
    let options = StreamOptions::new();
    let Some(check) = verify(context, location, &options)? else { return Ok(None) };
    let is_of_stream = |damage: &Error| journal.is_none() || damage.damage() != Some(DamageKind::Journal);
    let damage: Vec<Error> = check.damage.into_iter().filter(is_of_stream).collect();
    if damage.is_empty() {
        return Ok(None);
    }
    let by_hand = [DamageKind::Misplaced, DamageKind::Directory, DamageKind::History, DamageKind::NoSegment];
    let is_by_hand = |damage: &Error| damage.damage().is_none_or(|kind| by_hand.contains(&kind));
    let contents = match damage.iter().any(is_by_hand) {
        true => None,
        false => Contents::read(context, location)?,
    };
    let remedy = contents.map_or(Remedy::ByHand, |contents| {
        let usable = [DamageKind::Frame, DamageKind::Gap, DamageKind::Seal];
        let is_usable = damage.iter().all(|damage| damage.damage().is_some_and(|kind| usable.contains(&kind)));
        let (before, after) = (contents.before(), contents.after());
        match contents.first {
            // Recovery seals only the file before the newest one. The stream can be used.
            _ if !contents.has_holes && is_usable && !is_before_newest(context, location, &damage) => Remedy::ByHand,
            Some(first) if !contents.has_holes => Remedy::Recover { seqs: first..contents.next },
            _ if before.is_none() && after.is_none() => Remedy::ByHand,
            _ => Remedy::Truncate { before, after, intact: contents.intact, is_usable },
        }
    });
    Ok(Some(Finding { part: Part::Stream(location.name().to_owned()), damage, remedy }))
}

/// Whether the only damage is in the live file before the newest one.
fn is_before_newest(context: &LogContext, location: &Location, damage: &[Error]) -> bool {
    let dir = stream_dir(location.name()).map(|dir| Path::new("streams").join(dir)).unwrap_or_default();
    let entries = context.storage().list(&dir).unwrap_or_default();
    let names = || entries.iter().filter_map(|entry| entry.name.to_str()).filter(|name| name.ends_with(".seg"));
    // A name is the base, a dash, and the generation, each with leading zeros.
    let base = |name: &str| name.split('-').next().map(str::to_owned);
    let Some(newest) = names().max_by_key(|name| name.split('-').next_back().map(str::to_owned)) else { return false };
    let before = names().filter(|name| base(name) < base(newest)).max();
    damage.len() == 1 && before.is_some() && damage[0].segment() == before
}

/// The records that a journal has once it is repaired, and once the entries at or above the ends in
/// `cut` are dropped. `None` if the journal needs no change. A damaged one is an error unless
/// `may_repair` is set.
pub(super) fn journal_after(root: &Root, cut: &[(StreamId, u64)], may_repair: bool) -> Result<Option<Needed>> {
    if !root.format.has_journal() {
        return Ok(None);
    }
    let (repaired, finding) = look_at_journal(root)?;
    if let Some(damage) = finding.and_then(|finding| finding.damage.into_iter().next()).filter(|_| !may_repair) {
        return Err(damage);
    }
    let is_damaged = repaired.is_some();
    let mut needed = match repaired {
        Some(needed) => needed,
        None => {
            let image = Image::read(&*root.storage, Path::new(JOURNAL), root.format.wal_id);
            image.map_err(|error| journal_error(root, &error))?.needed()
        }
    };
    let mut is_changed = is_damaged;
    for (id, end) in cut {
        let Some(stream) = needed.streams.get_mut(id) else { continue };
        let before = stream.parts.len();
        stream.parts.retain(|located| located.part.first.0 < *end);
        is_changed |= stream.parts.len() < before || stream.firm.0 > *end;
        stream.firm = stream.firm.min(SeqNo(*end));
    }
    Ok(Some(needed).filter(|_| is_changed))
}
