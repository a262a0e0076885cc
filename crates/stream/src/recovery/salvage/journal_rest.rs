//! The entries that the commit journal has: those that the files lack although they should have
//! them, and at the end of a salvage those that only the journal has.

use std::sync::Arc;

use stratawal_frame::{SeqNo, StreamId};

use super::plan::{Plan, make_plan};
use super::{Salvage, Salvaged, Step};
use crate::error::{DamageKind, Error, Result};
use crate::journal_reader::{Attempt, InFiles, Joined, JournalParts, JournalReader, PartSource, Sighting, StreamLook};
use crate::read::journal_entries::Entries;
use crate::recovery::files::StreamFiles;

/// The state of a salvage with regard to the journal.
#[derive(Debug, Default)]
pub(super) struct JournalRest {
    /// The journal as seen before the files were listed.
    before: Sighting,
    attempt: Attempt,
    /// The hole in the files that is being filled: where it ends, and the damage.
    pub(super) hole: Option<(SeqNo, Error)>,
    /// The parts that may fill it, once a hole was found.
    filling: Option<JournalParts>,
    /// The parts that follow the files, once the files are read.
    parts: Option<JournalParts>,
    /// The entries of the part that is being read.
    entries: Option<Entries>,
    /// The damage at the end of the files, before the first hole.
    of_files: Option<Error>,
    /// Why entries may be missing between the parts.
    damage: Option<Error>,
    /// Whether entries may be missing after the last part.
    is_open_ended: bool,
}

/// Plans how to read the files of a stream, after a look at the journal. A stream without files has
/// an empty plan if the journal knows it. Returns `None` if the stream does not exist. `known` is
/// the id of the stream if it was read before.
pub(super) fn plan(files: &StreamFiles<'_>, rest: &mut JournalRest, known: Option<StreamId>) -> Result<Option<Plan>> {
    let journal = files.context.reader_of_journal();
    let before = journal.map_or(Ok(Sighting::default()), |journal| journal.look(files.location))?;
    *rest = JournalRest { before, attempt: std::mem::take(&mut rest.attempt), ..JournalRest::default() };
    if let Some(mut plan) = make_plan(files, known)? {
        if let (Some(journal), Some(id)) = (journal, plan.stream_id) {
            plan.begin_at(journal.start_of(files.location, id)?.unwrap_or_default());
        }
        return Ok(Some(plan));
    }
    let Some(journal) = journal else { return Ok(None) };
    let look = StreamLook { location: files.location, before: rest.before, since: None, files: None };
    Ok(match journal.join(&look, &mut rest.attempt) {
        Ok(Joined::Gone) => None,
        // The end of the salvage reports the damage.
        Ok(Joined::Again | Joined::Tail(_)) => Some(Plan::without_files()),
        Err(error) if error.is_damage() => Some(Plan::without_files()),
        Err(error) => return Err(error),
    })
}

impl Salvage {
    /// Takes the next entry of the hole that the journal has, or the next range that it has not.
    pub(super) fn fill(&mut self) -> Result<Step> {
        let Some((end, error)) = self.rest.hole.take() else { return Ok(Step::Continue) };
        let journal = self.context.reader_of_journal().map(Arc::clone);
        let mut parts = match (self.rest.filling.take(), &journal) {
            (Some(parts), _) => parts,
            (None, Some(journal)) => journal.parts_of(&self.location, self.stream_id)?,
            (None, None) => JournalParts::NONE,
        };
        let step = loop {
            if self.next >= end {
                self.rest.entries = None;
                self.rest.filling = Some(parts);
                return Ok(Step::Continue);
            }
            if let Some(entry) = self.next_of_part(parts.is_certain) {
                break entry;
            }
            match parts.parts.front().map(PartSource::first) {
                Some(first) if first <= self.next => match self.read_first(journal.as_deref(), &mut parts)? {
                    true => {}
                    false => return Ok(Step::FilesChanged),
                },
                Some(first) if first < end => break self.lost(Some(first), error.clone()),
                _ => {
                    self.rest.filling = Some(parts);
                    return Ok(self.lost(Some(end), error));
                }
            }
        };
        self.rest.hole = Some((end, error));
        self.rest.filling = Some(parts);
        Ok(step)
    }

    /// Takes the next entry that only the journal has, or the next hole before or after it.
    pub(super) fn read_journal(&mut self) -> Result<Step> {
        let journal = self.context.reader_of_journal().map(Arc::clone);
        let mut parts = match self.rest.parts.take() {
            Some(parts) => parts,
            None => match self.begin(journal.as_deref())? {
                Some(parts) => parts,
                None => return Ok(Step::FilesChanged),
            },
        };
        let step = loop {
            if let Some(entry) = self.next_of_part(parts.is_certain) {
                break entry;
            }
            let Some(first) = parts.parts.front().map(PartSource::first) else { break self.end() };
            if first > self.next
                && let Some(error) = self.rest.of_files.take().or_else(|| self.rest.damage.clone())
            {
                break self.lost(Some(first), error);
            }
            if !self.read_first(journal.as_deref(), &mut parts)? {
                return Ok(Step::FilesChanged);
            }
        };
        self.rest.parts = Some(parts);
        Ok(step)
    }

    /// Takes the next entry if the part that is being read has it.
    fn next_of_part(&mut self, is_certain: bool) -> Option<Step> {
        let entry = self.rest.entries.as_ref().and_then(|entries| entries.get(self.next.0))?;
        self.next = self.next + 1;
        Some(Step::Yield(if is_certain { Salvaged::Entry(entry) } else { Salvaged::Uncertain(entry) }))
    }

    /// Removes the first part, and reads it if it has a later entry than those that were taken.
    /// Returns false if the files have it by now.
    fn read_first(&mut self, journal: Option<&JournalReader>, parts: &mut JournalParts) -> Result<bool> {
        self.rest.entries = None;
        let source = parts.parts.pop_front().filter(|source| source.end() > self.next);
        let (Some(journal), Some(source)) = (journal, source) else { return Ok(true) };
        let Some(part) = journal.read_source(&self.location, source)? else { return Ok(false) };
        self.rest.entries = Entries::of(&part);
        Ok(true)
    }

    /// Finds the parts that follow the files. Returns `None` if the files have changed.
    fn begin(&mut self, journal: Option<&JournalReader>) -> Result<Option<JournalParts>> {
        let joined = journal.map_or(Ok(Joined::Gone), |journal| self.join(journal));
        if matches!(joined, Ok(Joined::Again)) || self.plan.end_damage.is_some() && !self.is_as_listed()? {
            return Ok(None);
        }
        let rest = &mut self.rest;
        rest.entries = None;
        rest.filling = None;
        rest.of_files = self.plan.end_damage.take();
        rest.is_open_ended = rest.of_files.is_some();
        let parts = match (joined, journal) {
            (Err(error), _) if !error.is_damage() => return Err(error),
            (_, None) => JournalParts::NONE,
            (Ok(Joined::Gone), _) if !rest.is_open_ended => JournalParts::NONE,
            (Ok(Joined::Tail(tail)), _) if !rest.is_open_ended => {
                let parts = tail.parts.into_iter().map(PartSource::At).collect();
                JournalParts { start: tail.start.map(SeqNo), parts, is_certain: true }
            }
            // Entries before some of the parts may be missing.
            (joined, Some(journal)) => {
                let error = joined.err();
                let kind = error.as_ref().and_then(Error::damage).unwrap_or(DamageKind::Lost);
                let of_journal = error.filter(|_| kind == DamageKind::Journal);
                rest.is_open_ended |= matches!(kind, DamageKind::Journal | DamageKind::NoSegment);
                // The error of a sound journal names the entries that are lost before the first
                // part.
                let unknown = || Error::damage_at(&self.location, kind, None, None);
                rest.damage = of_journal.or_else(|| rest.of_files.clone()).or_else(|| Some(unknown()));
                journal.parts_of(&self.location, self.stream_id)?
            }
        };
        self.next = self.next.max(parts.start.unwrap_or_default());
        Ok(Some(parts))
    }

    /// After the last part: reports that more entries may be missing, if that is so.
    fn end(&mut self) -> Step {
        let damage = self.rest.damage.take();
        match self.rest.of_files.take().or(damage).filter(|_| self.rest.is_open_ended) {
            Some(error) => self.lost(None, error),
            None => Step::End,
        }
    }

    fn join(&mut self, journal: &JournalReader) -> Result<Joined> {
        // If no header can be read, the name shows which stream this is.
        let in_files = |stream| InFiles { stream, first_seq: self.plan.first_seq.0, next_seq: self.next.0 };
        let files = self.stream_id.map(in_files);
        let look = StreamLook { location: &self.location, before: self.rest.before, since: None, files };
        journal.join(&look, &mut self.rest.attempt)
    }
}
