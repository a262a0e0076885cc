//! The entries that a reader in another process shows from the commit journal.
//!
//! A look remembers where they are. They are read when they are needed, a record at a time. By then
//! the writer may have moved them to the stream's files, and reused that part of the journal. Then
//! a second look, which this handle does not show, finds where they are now. They are the same
//! entries if they have the same seqs, times and bytes. Otherwise the writer has dropped them.

use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::BATCH_END;
use stratawal_journal::{Part, PartPosition};
use stratawal_sync::{Mutex, fail_point};

use crate::batch::Entry;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::options::Visibility;
use crate::read::iter::Iter;
use crate::recovery::{StreamFiles, entries_of};

/// The number of looks after which a stream changes too fast to be read.
const LOOKS_MAX: usize = 50;

/// What a reader remembers of the entries in the journal.
#[derive(Debug, Default)]
pub(crate) struct JournalEntries {
    /// The part that was read last.
    recent: Mutex<Option<Box<KnownPart>>>,
    /// A later look at the stream, in which entries are found that the journal no longer has.
    substitute: Mutex<Option<Arc<Inner>>>,
}

/// A part, and its entries.
type KnownPart = (PartPosition, Arc<Entries>);

/// The entries of one part.
#[derive(Debug)]
pub(crate) struct Entries {
    first: u64,
    timestamp: u64,
    /// Their end offsets, with the marks of batch ends.
    ends: Vec<u32>,
    data: Bytes,
}

impl Entries {
    /// The entries of `part`, or `None` if its body is not valid.
    pub(crate) fn of(part: &Part) -> Option<Self> {
        let (ends, data) = entries_of(part)?;
        let data = part.body.slice_ref(data);
        Some(Self { first: part.first.0, timestamp: part.timestamp, ends, data })
    }

    /// Entry `seq`, if the part holds it.
    pub(crate) fn get(&self, seq: u64) -> Option<Entry> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        let marked_end = *self.ends.get(at)?;
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before] & !BATCH_END) as usize;
        let data = self.data.slice(begin..(marked_end & !BATCH_END) as usize);
        Some(Entry { seq, timestamp: self.timestamp, data, ends_batch: marked_end & BATCH_END != 0 })
    }
}

impl Inner {
    /// Reads entry `seq`, which only the journal had when the stream was looked at. Returns `None`
    /// if the journal did not have it either.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] or [`ErrorKind::Cut`] if the writer has dropped the entry since.
    pub(super) fn journal_entry(&self, seq: u64) -> Result<Option<Entry>> {
        let snapshot = self.shared.snapshot.load();
        let Some(at) = snapshot.journal_part(seq) else { return Ok(None) };
        let known = self
            .journal_entries
            .recent
            .lock()
            .as_ref()
            .filter(|recent| recent.0 == *at)
            .map(|known| Arc::clone(&known.1));
        let entries = match known {
            Some(entries) => entries,
            None => {
                let entries = Arc::new(self.read_part(at)?);
                *self.journal_entries.recent.lock() = Some(Box::new((*at, Arc::clone(&entries))));
                entries
            }
        };
        Ok(entries.get(seq))
    }

    fn read_part(&self, at: &PartPosition) -> Result<Entries> {
        match self.read_from_journal(at)? {
            Some(entries) => Ok(entries),
            None => self.read_elsewhere(at),
        }
    }

    fn read_from_journal(&self, at: &PartPosition) -> Result<Option<Entries>> {
        let Self { shared, .. } = self;
        let Some(journal) = shared.context.reader_of_journal() else { return Ok(None) };
        let Some(part) = journal.read_part(&shared.location, at)? else { return Ok(None) };
        let invalid = || {
            let lost = at.first.0..at.end_seq().0;
            Error::damage_at(&shared.location, DamageKind::Lost, None, None).with_lost(lost)
        };
        Entries::of(&part).map(Some).ok_or_else(invalid)
    }

    /// Reads a part that the journal no longer has at `at`.
    fn read_elsewhere(&self, at: &PartPosition) -> Result<Entries> {
        for _ in 0..LOOKS_MAX {
            let earlier = self.journal_entries.substitute.lock().take();
            let is_fresh = earlier.is_none();
            let inner = match earlier {
                Some(inner) => inner,
                None => self.look_beside()?,
            };
            match inner.entries_at(at) {
                Ok(entries) => {
                    *self.journal_entries.substitute.lock() = Some(inner);
                    return Ok(entries);
                }
                // The writer has moved the entries once more, or the look is too old.
                Err(error) if error.is_not_found() || !is_fresh => {}
                Err(error) => return Err(error),
            }
        }
        let files = StreamFiles::new(&self.shared.context, &self.shared.location, &self.shared.options);
        Err(files.change_too_fast())
    }

    /// Looks at the stream again, without showing what the look finds.
    fn look_beside(&self) -> Result<Arc<Self>> {
        let shared = &self.shared;
        Self::open(Arc::clone(&shared.context), shared.location.clone(), (*shared.options).clone())
    }

    /// Reads the entries of `at` as this look shows them.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] or [`ErrorKind::Cut`] if they are not the same. An error for which
    /// `is_not_found` is true if they were moved since this look.
    fn entries_at(self: &Arc<Self>, at: &PartPosition) -> Result<Entries> {
        let shared = &self.shared;
        let (first, end) = (at.first.0, at.end_seq().0);
        let cut = |next_seq| Error::new(ErrorKind::Cut { next_seq }, &shared.location);
        let mut part = BodyBuilder::default();
        let mut next = first;
        while next < end {
            if next < shared.watermarks.start() {
                return Err(Error::new(
                    ErrorKind::Truncated { first_seq: shared.watermarks.start() },
                    &shared.location,
                ));
            }
            let entry = self.entry_now(next)?;
            let Some(entry) = entry else { return Err(cut(next)) };
            if entry.timestamp != at.timestamp && !fail_point!(SubstituteNotCompared) {
                return Err(cut(first));
            }
            part.push(&entry);
            next += 1;
        }
        let (ends, data, body) = part.finish();
        if !at.has_body(at.count, &body) && !fail_point!(SubstituteNotCompared) {
            return Err(cut(first));
        }
        Ok(Entries { first, timestamp: at.timestamp, ends, data })
    }

    /// Reads entry `seq`, or fails with an error for which `is_not_found` is true if it was moved
    /// since this look.
    fn entry_now(self: &Arc<Self>, seq: u64) -> Result<Option<Entry>> {
        if seq < self.shared.watermarks.drained() {
            Iter::new(self, &(seq..seq + 1), Visibility::Stable).next().transpose()
        } else {
            self.entry_in_journal_now(seq)
        }
    }

    /// Reads entry `seq` from the journal, or fails with an error for which `is_not_found` is true.
    fn entry_in_journal_now(&self, seq: u64) -> Result<Option<Entry>> {
        let snapshot = self.shared.snapshot.load();
        let Some(at) = snapshot.journal_part(seq) else { return Ok(None) };
        let moved = || Error::io(&self.shared.location, std::io::ErrorKind::NotFound.into());
        self.read_from_journal(at)?.ok_or_else(moved).map(|entries| entries.get(seq))
    }

    /// The first entry of `shown` that the stream no longer has.
    pub(crate) fn first_changed(&self, shown: &[PartPosition]) -> Result<Option<(u64, Arc<Self>)>> {
        if shown.is_empty() {
            return Ok(None);
        }
        let mut now = self.look_beside()?;
        for at in shown {
            let mut found = now.entries_at(at);
            for _ in 0..LOOKS_MAX {
                // The writer has moved them since `now` looked.
                if !found.as_ref().is_err_and(Error::is_not_found) {
                    break;
                }
                now = self.look_beside()?;
                found = now.entries_at(at);
            }
            match found {
                Ok(_) => {}
                Err(error) if error.is_damage() => return Err(error),
                // The writer may have dropped them.
                Err(_) => {
                    if let Some(seq) = self.first_changed_of(at, &now)? {
                        return Ok(Some((seq, now)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The first entry of `at` that `now` does not show. If the journal no longer holds the entries
    /// as they were, they cannot be compared one by one, and each of them may have changed.
    fn first_changed_of(&self, at: &PartPosition, now: &Arc<Self>) -> Result<Option<u64>> {
        // Entries that were dropped from the beginning are not a cut.
        let mut rest = at.first.0.max(now.shared.watermarks.start())..at.end_seq().0;
        let Some(entries) = self.read_from_journal(at)? else { return Ok(rest.next()) };
        Ok(rest.find(|&seq| {
            // An entry that cannot be read now counts as changed. So does one that ends a batch
            // only now: it may be the last one before a cut, or another entry.
            let found = now.entry_now(seq).ok().flatten();
            let key = |entry: Entry| (entry.timestamp, entry.data, entry.ends_batch);
            found.map(key) != entries.get(seq).map(key)
        }))
    }
}

/// Puts entries together to the body of a part.
#[derive(Debug, Default)]
struct BodyBuilder {
    ends: Vec<u32>,
    data: Vec<u8>,
}

impl BodyBuilder {
    fn push(&mut self, entry: &Entry) {
        self.data.extend_from_slice(&entry.data);
        // A part is shorter than a file of the journal, and so than 2 GiB. A longer one is not the
        // part that was shown.
        let end = u32::try_from(self.data.len()).unwrap_or(u32::MAX) & !BATCH_END;
        self.ends.push(if entry.ends_batch { end | BATCH_END } else { end });
    }

    /// The end offsets, the bytes of the entries, and the body.
    fn finish(self) -> (Vec<u32>, Bytes, Vec<u8>) {
        let Self { ends, data } = self;
        let mut body = Vec::new();
        if ends.len() > 1 {
            ends.iter().for_each(|end| body.extend_from_slice(&end.to_le_bytes()));
        }
        body.extend_from_slice(&data);
        (ends, data.into(), body)
    }
}
