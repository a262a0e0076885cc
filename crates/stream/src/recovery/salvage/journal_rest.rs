//! The end of a salvage: the entries that only the commit journal has.

use std::collections::VecDeque;
use std::sync::Arc;

use stratawal_frame::{SeqNo, StreamId};
use stratawal_journal::{Part, PartPosition};

use super::plan::{Plan, make_plan};
use super::{Lost, Salvage, Salvaged, Step};
use crate::error::{DamageKind, Error, Result};
use crate::journal_reader::{Attempt, InFiles, Joined, JournalReader, JournalTail, Sighting, StreamLook};
use crate::read::journal_entries::Entries;
use crate::recovery::files::StreamFiles;

/// The rest of a stream, which only the journal has.
#[derive(Debug, Default)]
pub(super) struct JournalRest {
    /// The journal as seen before the files were listed.
    before: Sighting,
    attempt: Attempt,
    /// The parts that follow the files, once the files are read.
    parts: Option<VecDeque<PartPosition>>,
    /// The entries of the part that is being read.
    entries: Option<Entries>,
    /// What a damaged journal still has, and the damage.
    remains: Option<(VecDeque<Part>, Error)>,
}

/// Plans how to read the files of a stream, after a look at the journal. A stream without files has
/// an empty plan if the journal knows it. Returns `None` if the stream does not exist. `known` is
/// the id of the stream if it was read before.
pub(super) fn plan(files: &StreamFiles<'_>, rest: &mut JournalRest, known: Option<StreamId>) -> Result<Option<Plan>> {
    let journal = files.context.reader_of_journal();
    rest.before = journal.map_or(Ok(Sighting::default()), |journal| journal.look(files.location))?;
    rest.parts = None;
    rest.entries = None;
    rest.remains = None;
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
    /// Takes the next entry that only the journal has.
    pub(super) fn read_journal(&mut self) -> Result<Step> {
        let Some(journal) = self.context.reader_of_journal().map(Arc::clone) else { return Ok(Step::End) };
        if let Some((parts, damage)) = self.rest.remains.take() {
            return self.read_remains(parts, damage);
        }
        if self.rest.parts.is_none() {
            match self.join(&journal) {
                Ok(Joined::Again) => return Ok(Step::FilesChanged),
                Ok(Joined::Gone) => return Ok(Step::End),
                Ok(Joined::Tail(tail)) => self.begin(tail),
                Err(damage) if damage.damage() == Some(DamageKind::Journal) => {
                    let remains = journal.remains(&self.location, self.stream_id)?.unwrap_or_default();
                    self.next = self.next.max(remains.start.unwrap_or_default());
                    let parts = remains.parts.into_iter().map(|located| located.part).collect();
                    return self.read_remains(parts, damage);
                }
                Err(error) if error.is_damage() => {
                    self.rest.parts = Some(VecDeque::new());
                    let first_seq = self.next.0;
                    let next_seq = error.lost().map(|lost| lost.end);
                    return Ok(Step::Yield(Salvaged::Lost(Lost { first_seq, next_seq, error })));
                }
                Err(error) => return Err(error),
            }
        }
        loop {
            if let Some(entry) = self.rest.entries.as_ref().and_then(|entries| entries.get(self.next.0)) {
                self.next = self.next + 1;
                return Ok(Step::Yield(Salvaged::Entry(entry)));
            }
            let Some(at) = self.rest.parts.as_mut().and_then(VecDeque::pop_front) else { return Ok(Step::End) };
            if at.end_seq() <= self.next {
                continue;
            }
            // A part that was moved is in the files by now.
            let Some(part) = journal.read_part(&self.location, &at)? else { return Ok(Step::FilesChanged) };
            self.rest.entries = Entries::of(&part);
        }
    }

    /// Takes the next entry of those that a damaged journal still has, or the next hole between
    /// them. A record of a truncation may be lost, so none of them is certain.
    fn read_remains(&mut self, mut parts: VecDeque<Part>, damage: Error) -> Result<Step> {
        let first = self.next;
        loop {
            if let Some(entry) = self.rest.entries.as_ref().and_then(|entries| entries.get(first.0)) {
                self.next = first + 1;
                self.rest.remains = Some((parts, damage));
                return Ok(Step::Yield(Salvaged::Uncertain(entry)));
            }
            self.rest.entries = None;
            let Some(part) = parts.pop_front() else { break };
            if part.end() <= first {
                continue;
            }
            if part.first <= first {
                self.rest.entries = Entries::of(&part);
                continue;
            }
            let end = part.first;
            self.next = end;
            parts.push_front(part);
            let error = damage.clone();
            self.rest.remains = Some((parts, damage));
            return Ok(Step::Yield(Salvaged::Lost(Lost { first_seq: first.0, next_seq: Some(end.0), error })));
        }
        self.rest.parts = Some(VecDeque::new());
        Ok(Step::Yield(Salvaged::Lost(Lost { first_seq: first.0, next_seq: None, error: damage })))
    }

    fn join(&mut self, journal: &JournalReader) -> Result<Joined> {
        let in_files = |stream| InFiles { stream, first_seq: self.plan.first_seq.0, next_seq: self.next.0 };
        let files = self.stream_id.map(in_files);
        if files.is_none() && !self.plan.is_without_files() {
            // No header can be read, so it is not known which stream this is.
            return Ok(Joined::Gone);
        }
        let look = StreamLook { location: &self.location, before: self.rest.before, since: None, files };
        journal.join(&look, &mut self.rest.attempt)
    }

    fn begin(&mut self, tail: JournalTail) {
        self.next = self.next.max(SeqNo(tail.start.unwrap_or(0)));
        self.rest.parts = Some(tail.parts.into());
    }
}
