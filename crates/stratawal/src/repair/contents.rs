//! The entries of a damaged stream, as a repair finds them: those that its files have, and those
//! that the commit journal adds.
//!
//! The files are read alone, and the records that the journal has once it is repaired are joined to
//! them, as an opening of the stream joins them. So the choices are those that the repair has.

use std::ops::Range;
use std::sync::Arc;

use stratawal_frame::StreamId;
use stratawal_journal::{Needed, NeededStream};
use stratawal_stream::{Found, Location, LogContext, Salvaged, StreamOptions, salvage, stream_id};

use crate::error::Result;
use crate::root::Root;

/// The entries of a damaged stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// The id of the stream, if a file or the journal gives it.
    pub(super) id: Option<StreamId>,
    /// Whether a file gives the id.
    pub(super) has_files: bool,
    /// The first live seq, as far as it is known.
    pub(super) first: Option<u64>,
    /// One past the entries that the files have before their first damage. A repair that keeps
    /// these entries ends the files here.
    cut: u64,
    /// One past those entries, and past those that the journal adds to them.
    cut_with_journal: u64,
    /// The first entry that cannot be read.
    hole: Option<u64>,
    /// One past the last entry that cannot be read; `None` if it is not known.
    after: Option<u64>,
    /// Whether the journal alone has the entries from `after` on.
    is_after_files: bool,
    /// One past the last entry that is known.
    pub(super) next: u64,
    /// The number of entries that can be read in the files or in the journal.
    pub(super) intact: u64,
    /// The entries that the files have lost, as far as it is known how many.
    lost: Vec<Range<u64>>,
    /// From the first to the last entry that a truncation may have dropped.
    pub(super) uncertain: Option<Range<u64>>,
}

impl Contents {
    /// Reads the stream. `needed` has the records of the journal: those that it has once it is
    /// repaired, if `is_repaired` is set. Returns `None` if neither the files nor the journal have
    /// anything of the stream.
    pub(super) fn read(root: &Root, location: &Location, needed: &Needed, is_repaired: bool) -> Result<Option<Self>> {
        let found = stream_id(&root.storage, root.format.wal_id, location);
        let records = records_of(needed, found, location.name());
        let start = records.and_then(|(_, stream)| stream.start).map_or(0, |start| start.0);
        let mut contents = match Self::of_files(root, location, start)? {
            Some(contents) => contents,
            None if records.is_some() => Self::without_files(start),
            None => return Ok(None),
        };
        contents.has_files = matches!(found, Found::Stream(_));
        contents.id = match found {
            Found::Stream(id) => Some(id),
            _ => records.map(|(id, _)| id),
        };
        contents.divide_at_uncertain();
        contents.cut = contents.hole.unwrap_or(contents.next);
        contents.cut_with_journal = contents.cut;
        if let Some((_, records)) = records {
            contents.join(records, is_repaired);
        }
        Ok(Some(contents))
    }

    /// Reads the files alone. `start` is the first live seq that the journal has. Returns `None` if
    /// the stream has no directory.
    pub(super) fn of_files(root: &Root, location: &Location, start: u64) -> Result<Option<Self>> {
        let context = Arc::new(context_of_files(root));
        let Some(items) = salvage(&context, location, &StreamOptions::new())? else { return Ok(None) };
        let mut contents = Self { next: start, ..Self::default() };
        for item in items {
            match item? {
                Salvaged::Entry(entry) => contents.add(entry.seq()..entry.seq() + 1),
                Salvaged::Uncertain(entry) => {
                    contents.add(entry.seq()..entry.seq() + 1);
                    if entry.seq() >= start {
                        contents.uncertain.get_or_insert(entry.seq()..entry.seq()).end = entry.seq() + 1;
                    }
                }
                Salvaged::Lost(lost) => contents.lose(lost.first_seq, lost.next_seq),
                _ => {}
            }
        }
        Ok(Some(contents))
    }

    /// A stream whose directory is missing.
    fn without_files(start: u64) -> Self {
        Self { first: Some(start), hole: Some(start), next: start, ..Self::default() }
    }

    /// Whether `next` is where the files end, as far as they are read.
    pub(super) const fn is_end_known(&self) -> bool {
        self.hole.is_none() || self.after.is_some()
    }

    /// Adds the entries of `seqs` that were not added yet.
    fn add(&mut self, seqs: Range<u64>) {
        let begin = seqs.start.max(self.next);
        if begin < seqs.end {
            self.first.get_or_insert(begin);
            self.intact += seqs.end - begin;
            self.next = seqs.end;
        }
    }

    /// Adds entries that cannot be read. `next` is `None` if it is not known how many.
    fn lose(&mut self, first: u64, next: Option<u64>) {
        let first = first.max(self.next);
        if next.is_some_and(|next| next <= first) {
            return;
        }
        self.first.get_or_insert(first);
        self.hole.get_or_insert(first);
        self.after = next;
        self.next = next.unwrap_or(first);
        self.lost.push(first..self.next);
    }

    /// A file is missing after entries that a truncation may have dropped. The entries on its two
    /// sides do not belong together, even if none is missing by their seqs.
    fn divide_at_uncertain(&mut self) {
        if let Some(uncertain) = self.uncertain.as_ref().filter(|_| self.hole.is_none()) {
            self.hole = Some(uncertain.end);
            self.after = Some(uncertain.end);
        }
    }

    /// Adds the entries that the journal has beyond the files, or beyond their first damage. A
    /// damaged journal may have lost the record of a truncation, so its entries do not follow those
    /// that are before newer ones.
    fn join(&mut self, records: &NeededStream, is_repaired: bool) {
        let is_end_known = self.is_end_known();
        let firm = records.parts.iter().filter(|located| located.part.firm).map(|located| located.part.end());
        let promised = firm.fold(records.firm, Ord::max).0;
        let mut counted = 0;
        for located in &records.parts {
            let seqs = located.part.first.0..located.part.end().0;
            let overlap =
                |lost: &Range<u64>| lost.end.min(seqs.end).saturating_sub(lost.start.max(seqs.start).max(counted));
            self.intact += self.lost.iter().map(overlap).sum::<u64>();
            counted = counted.max(seqs.end);
            if seqs.start <= self.cut_with_journal && !is_repaired {
                self.cut_with_journal = self.cut_with_journal.max(seqs.end);
            }
            if seqs.end <= self.next {
                continue;
            }
            if seqs.start > self.next && is_end_known && promised <= self.next {
                // An opening drops what no promise rests on.
                break;
            }
            if seqs.start > self.next || !self.is_end_known() {
                self.lose_up_to(seqs.start.max(self.next));
            }
            self.add(seqs);
        }
        if promised > self.next {
            self.lose_up_to(promised);
        }
    }

    /// Adds entries between the files and the journal, or in the journal, that cannot be read.
    fn lose_up_to(&mut self, next: u64) {
        self.first.get_or_insert(self.next);
        self.hole.get_or_insert(self.next);
        self.after = Some(next);
        self.next = next;
        self.is_after_files = true;
    }

    /// Whether an entry cannot be read, or may not exist.
    pub(super) const fn has_holes(&self) -> bool {
        self.hole.is_some()
    }

    /// The entries before the first damage. What the journal has of the damaged entries follows
    /// them.
    pub(super) fn before(&self) -> Option<Range<u64>> {
        Some(self.first?..self.cut_with_journal).filter(|range| self.has_holes() && !range.is_empty())
    }

    /// The entries after the last damage.
    pub(super) fn after(&self) -> Option<Range<u64>> {
        let range = self.after?..self.next;
        Some(range).filter(|range| !range.is_empty())
    }

    /// The entries that the files keep if the stream ends before its damage.
    pub(super) fn files_before(&self) -> Option<Range<u64>> {
        Some(self.first?..self.cut)
    }

    /// The seq at which the files begin anew if the journal alone has the entries after the damage.
    pub(super) fn begin_after_files(&self) -> Option<u64> {
        self.after.filter(|_| self.is_after_files)
    }
}

/// The records of the stream, and its id. The id in the files decides, or else the name.
fn records_of<'a>(needed: &'a Needed, found: Found, name: &str) -> Option<(StreamId, &'a NeededStream)> {
    if let Found::Stream(id) = found {
        return needed.streams.get(&id).map(|stream| (id, stream));
    }
    let is_named = |stream: &NeededStream| stream.name.as_deref() == Some(name.as_bytes());
    let mut named = needed.streams.iter().filter(|(_, stream)| is_named(stream));
    let only = named.next().map(|(&id, stream)| (id, stream));
    only.filter(|_| named.next().is_none())
}

/// A context that reads the files of streams without the journal.
pub(super) fn context_of_files(root: &Root) -> LogContext {
    LogContext::new(Arc::clone(&root.storage)).wal_id(root.format.wal_id).read_only(true)
}
