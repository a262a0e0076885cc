//! The commit journal of a log that is opened for reading.
//!
//! A reader looks at the journal, then at the stream's files, then at the journal again. The first
//! look comes before the files, so that the files have every entry that the journal no longer needs
//! by then. The second look shows whether the entries of the first one are still those of the
//! stream: a truncation of the end and a deletion are in the journal before they are in the files.
//! If they are not, or if the second look could not continue the first one, the reader begins
//! again.
//!
//! Records that are not attested may be in the page cache alone. They are shown only once this
//! process has synced the journal, or the writer has attested them. It syncs at most once in 10 ms.
//! A look that needs a sooner sync waits, and looks again for the writer's MARK meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Error as JournalError, Follower, IndexedStream, Lsn, NeededStream, Part, PartPosition};
use stratawal_storage::Storage;
use stratawal_sync::{Mutex, fail_point};

use crate::error::{DamageKind, Error, Result};
use crate::location::Location;
use crate::recovery::drop_replaced;

/// Returns whether the log has a journal now, or `None` if that cannot be read.
type HasJournal = dyn Fn() -> Option<bool> + Send + Sync;

/// The commit journal of a log that is opened for reading. All streams of the log share it.
pub struct JournalReader {
    state: Mutex<State>,
    has_journal: Box<HasJournal>,
}

struct State {
    follower: Follower,
    /// Whether the last look found a journal.
    has_journal: bool,
    /// Whether the log was last stated to have one.
    is_stated: bool,
    /// The damage that the last look found.
    damage: Option<JournalError>,
}

impl fmt::Debug for JournalReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalReader").finish_non_exhaustive()
    }
}

/// The state of the journal as a look saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sighting {
    has_journal: bool,
    readings: u64,
    trim: Lsn,
    end: Lsn,
}

/// The look at one stream, which takes several tries if a writer changes the stream at the same
/// time.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// A try that finds everything below this LSN durable need not wait for another sync. Records
    /// of this stream end there.
    goal: Option<(StreamId, Lsn)>,
    /// The gap that the last try found: where it begins, and the end of the promise.
    gap: Option<(u64, u64)>,
}

/// The entries that the journal adds to the files of a stream.
#[derive(Clone, Debug)]
pub(crate) struct JournalTail {
    /// The parts that follow the files, by seq. The next part begins at or before the end of the
    /// one before it.
    pub(crate) parts: Vec<PartPosition>,
    /// The first live seq, if the journal has it.
    pub(crate) start: Option<u64>,
    /// Whether the journal alone knows the stream.
    pub(crate) is_alone: bool,
    /// The files that the parts follow.
    pub(crate) files: Option<InFiles>,
    pub(crate) sighting: Sighting,
    /// The sighting, if all records of the stream that it found are shown. As long as the journal
    /// is the same, another look would show the same.
    pub(crate) complete: Sighting,
    /// Whether the stream's entries may have changed since the look that was to be continued.
    pub(crate) may_be_cut: bool,
}

impl JournalTail {
    /// No entries.
    pub(crate) const NONE: Self = Self {
        parts: Vec::new(),
        start: None,
        is_alone: false,
        files: None,
        sighting: Sighting::NONE,
        complete: Sighting::NONE,
        may_be_cut: false,
    };

    /// Whether both hold the same entries, after the same files.
    pub(crate) fn shows_the_same(&self, other: &Self) -> bool {
        let key = |tail: &Self| (tail.start, tail.is_alone, tail.files);
        key(self) == key(other) && self.parts == other.parts
    }

    /// One past the last entry, if there are any.
    pub(crate) fn end(&self) -> Option<u64> {
        self.parts.last().map(|part| part.end_seq().0)
    }
}

/// The parts that the journal has of a stream, whether or not they follow the files.
#[derive(Debug)]
pub(crate) struct JournalParts {
    /// The first live seq, if the journal has it.
    pub(crate) start: Option<SeqNo>,
    /// The parts by seq. Parts may overlap, and there may be holes between them.
    pub(crate) parts: VecDeque<PartSource>,
    /// Whether the entries are those of the stream. Not if the record of a truncation may be lost.
    pub(crate) is_certain: bool,
}

impl JournalParts {
    pub(crate) const NONE: Self = Self { start: None, parts: VecDeque::new(), is_certain: true };
}

/// A part of a stream.
#[derive(Debug)]
pub(crate) enum PartSource {
    /// A part that is read when its turn comes.
    At(PartPosition),
    /// A part that a damaged journal still has.
    Read(Part),
}

impl PartSource {
    pub(crate) fn first(&self) -> SeqNo {
        match self {
            Self::At(at) => at.first,
            Self::Read(part) => part.first,
        }
    }

    pub(crate) fn end(&self) -> SeqNo {
        match self {
            Self::At(at) => at.end_seq(),
            Self::Read(part) => part.end(),
        }
    }
}

/// The result of joining the journal to the files.
#[derive(Debug)]
pub(crate) enum Joined {
    /// The stream has changed since the look began; look again.
    Again,
    /// The stream does not exist.
    Gone,
    Tail(JournalTail),
}

/// The files of a stream, as a look found them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFiles {
    pub(crate) stream: StreamId,
    pub(crate) first_seq: u64,
    pub(crate) next_seq: u64,
}

/// A look at one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLook<'a> {
    pub(crate) location: &'a Location,
    /// The journal as seen before the files were read.
    pub(crate) before: Sighting,
    /// The journal as seen by the look that this one continues, if any.
    pub(crate) since: Option<Sighting>,
    /// `None` if the stream has no directory.
    pub(crate) files: Option<InFiles>,
}

/// How long a reader waits before it looks again for a MARK of records that nothing attests yet.
const ATTESTED_SOON: Duration = Duration::from_micros(500);

impl JournalReader {
    /// Reads the journal in the directory `dir` of the log `wal_id`, as long as the log has one:
    /// `has_journal` returns whether it has now, or `None` if that cannot be read, and is called
    /// before the first look and again if a look finds no journal. Reads nothing yet.
    #[must_use]
    pub fn new(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        wal_id: WalId,
        has_journal: impl Fn() -> Option<bool> + Send + Sync + 'static,
    ) -> Self {
        let follower = Follower::new(Arc::clone(storage), dir, wal_id);
        let is_stated = has_journal().unwrap_or(false);
        let state = Mutex::new(State { follower, has_journal: false, is_stated, damage: None });
        Self { state, has_journal: Box::new(has_journal) }
    }

    /// Looks at the journal. Damage is an error of [`join`](Self::join).
    pub(crate) fn look(&self, location: &Location) -> Result<Sighting> {
        self.look_locked(&mut self.state.lock()).map_err(|error| Error::journal(location, error))
    }

    fn look_locked(&self, state: &mut State) -> stratawal_journal::Result<Sighting> {
        let before = state.damage.take();
        if state.has_journal || self.is_stated(state) {
            match state.follower.look() {
                Ok(()) => state.has_journal = true,
                Err(error) if error.is_damage() => self.look_after(error, before.as_ref(), state)?,
                Err(error) => return Err(error),
            }
        }
        Ok(state.sighting())
    }

    /// Whether the log has a journal, as far as that can be read.
    fn is_stated(&self, state: &mut State) -> bool {
        state.is_stated = (self.has_journal)().unwrap_or(state.is_stated);
        state.is_stated
    }

    /// Decides after `damage` what the look finds. Unless the look before found the same damage,
    /// looks once more: a writer may have removed the journal, and created another.
    fn look_after(
        &self,
        damage: JournalError,
        before: Option<&JournalError>,
        state: &mut State,
    ) -> stratawal_journal::Result<()> {
        state.has_journal = false;
        state.follower.forget();
        if !self.is_stated(state) {
            return Ok(());
        }
        if before.is_some_and(|before| before.to_string() == damage.to_string()) {
            state.damage = Some(damage);
            return Ok(());
        }
        match state.follower.look() {
            Ok(()) => state.has_journal = true,
            Err(error) if error.is_damage() => {
                state.follower.forget();
                state.damage = Some(error).filter(|_| self.is_stated(state));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The names of the streams that the journal knows, each with its id, or with `None` if the
    /// stream was deleted.
    ///
    /// # Errors
    /// I/O.
    pub fn streams(&self) -> stratawal_journal::Result<BTreeMap<String, Option<StreamId>>> {
        let mut state = self.state.lock();
        let mut names: BTreeMap<String, Option<StreamId>> = BTreeMap::new();
        if !self.look_locked(&mut state)?.has_journal {
            return Ok(names);
        }
        for (id, stream) in state.follower.index().streams() {
            let Some(name) = stream.name.as_ref().and_then(|name| std::str::from_utf8(name).ok()) else { continue };
            let is_live = stream.has_records();
            if is_live || stream.dropped.is_some() {
                let known = names.entry(name.to_owned()).or_default();
                *known = known.or(is_live.then_some(id));
            }
        }
        Ok(names)
    }

    /// The records that a damaged journal still has of the stream at `location`, whose files have
    /// this id. The records that are lost may have made some of them void.
    pub(crate) fn remains(&self, location: &Location, id: Option<StreamId>) -> Result<Option<NeededStream>> {
        let remains = match self.state.lock().follower.remains() {
            Err(error) if error.is_damage() => return Ok(None),
            remains => remains.map_err(|error| Error::journal(location, error))?,
        };
        let is_of = |of: StreamId, stream: &NeededStream| match id {
            Some(id) => id == of,
            None => stream.name.as_deref() == Some(location.name().as_bytes()),
        };
        let found = remains.streams.into_iter().find(|(of, stream)| is_of(*of, stream));
        Ok(found.map(|(_, mut stream)| {
            drop_replaced(&mut stream);
            stream
        }))
    }

    /// Everything that the journal has of the stream at `location`, as the last look found it, also
    /// if the files or the journal are damaged. `id` is the id of the stream, if its files show it.
    pub(crate) fn parts_of(&self, location: &Location, id: Option<StreamId>) -> Result<JournalParts> {
        let state = self.state.lock();
        if state.damage.is_some() {
            drop(state);
            let remains = self.remains(location, id)?.unwrap_or_default();
            let parts = remains.parts.into_iter().map(|located| PartSource::Read(located.part)).collect();
            return Ok(JournalParts { start: remains.start, parts, is_certain: false });
        }
        let shown = state.follower.shown_to();
        let Some((_, stream)) = state.find(location, id) else { return Ok(JournalParts::NONE) };
        let mut parts: Vec<PartPosition> = stream.parts.iter().filter(|part| part.end() <= shown).copied().collect();
        parts.sort_by_key(|part| part.first);
        let parts = parts.into_iter().map(PartSource::At).collect();
        Ok(JournalParts { start: stream.start_at(shown), parts, is_certain: true })
    }

    /// The first live seq that the journal has for the stream at `location`, whose files have this
    /// id, as of the last look. It is durable. A damaged journal may still have it.
    pub(crate) fn start_of(&self, location: &Location, id: StreamId) -> Result<Option<SeqNo>> {
        let mut state = self.state.lock();
        if state.damage.is_some() {
            drop(state);
            return Ok(self.remains(location, Some(id))?.and_then(|stream| stream.start));
        }
        if !state.has_journal {
            return Ok(None);
        }
        let is_started_at = |state: &State| state.follower.index().stream(id).map_or(Lsn(0), |stream| stream.start_end);
        if is_started_at(&state) > state.follower.shown_to() {
            std::thread::sleep(state.follower.sync_wait());
            match state.follower.sync() {
                // The writer has removed the journal since, and the files have the START.
                Err(error) if error.is_not_found() => return Ok(None),
                synced => synced.map_err(|error| Error::journal(location, error))?,
            }
        }
        let stream = state.follower.index().stream(id);
        Ok(stream.and_then(|stream| stream.start_at(state.follower.shown_to())))
    }

    /// Whether the journal states that the stream with this id was deleted, as of the last look.
    #[must_use]
    pub fn is_dropped(&self, id: StreamId) -> bool {
        self.state.lock().follower.index().stream(id).is_some_and(|stream| stream.dropped.is_some())
    }

    /// Joins the journal to the files of a stream.
    pub(crate) fn join(&self, look: &StreamLook<'_>, attempt: &mut Attempt) -> Result<Joined> {
        let failed = |error| Error::journal(look.location, error);
        let mut state = self.state.lock();
        let again = !fail_point!(NotLookedAgain);
        let now = if again { self.look_locked(&mut state).map_err(failed)? } else { state.sighting() };
        // Records that were released between the looks were moved to the files, perhaps after those
        // were read.
        if !now.continues(look.before) || now.trim != look.before.trim {
            return Ok(Joined::Again);
        }
        let mut tail = JournalTail {
            is_alone: look.files.is_none(),
            files: look.files,
            sighting: now,
            may_be_cut: look.since.is_some_and(|since| !now.continues(since)),
            ..JournalTail::NONE
        };
        let Some((id, stream)) = state.find(look.location, look.files.map(|files| files.stream)) else {
            tail.complete = now;
            return state.join_nothing(look, tail).map_err(failed);
        };
        // A SETTLED is known by its beginning, a DROP and a START by their ends.
        let is_changed_after = |end: Lsn| {
            stream.settled.is_some_and(|at| at >= end) || stream.dropped.is_some_and(|dropped| dropped > end)
        };
        // The directory was created after this look found none.
        let is_created = tail.is_alone && stream.directory_end.is_some_and(|end| end > look.before.end);
        let is_truncated = stream.start.is_some() && stream.start_end > look.before.end;
        // After SETTLED a new generation may replace the files, before the next entry is put. So
        // the files may be older than entries that the first look did not see.
        let is_new = stream.parts.first().is_some_and(|part| part.lsn >= look.before.end);
        if again && (is_created || is_truncated || is_new || is_changed_after(look.before.end)) {
            return Ok(Joined::Again);
        }
        if stream.forgotten.0 > look.files.map_or(0, |files| files.next_seq) {
            // Another look at the stream has seen later files since these were read.
            state.follower.forget();
            return Ok(Joined::Again);
        }
        tail.may_be_cut |= look.since.is_some_and(|since| is_changed_after(since.end));
        let shown = match state.shown_to(id, look.files, attempt) {
            // The writer has removed the journal since.
            Err(error) if error.is_not_found() => return Ok(Joined::Again),
            shown => shown.map_err(failed)?,
        };
        let Some(shown) = shown else {
            let wait = state.follower.sync_wait();
            drop(state);
            // The writer may attest the records sooner.
            std::thread::sleep(wait.min(ATTESTED_SOON));
            return Ok(Joined::Again);
        };
        state.join(id, look, shown, tail, attempt)
    }

    /// Whether no record was added to the journal since the look that saw `sighting`. The counter
    /// of the log shows whether a writer has opened the journal since, or removed it.
    pub(crate) fn is_unchanged_since(&self, sighting: Sighting) -> bool {
        let state = self.state.lock();
        // A journal that is damaged or could not be read is looked at each time.
        let is_known = if state.has_journal { state.follower.is_unchanged() } else { !state.is_stated };
        is_known && state.sighting() == sighting
    }

    /// Reads a part, unless it was read. Returns `None` if the journal holds other records there by
    /// now.
    pub(crate) fn read_source(&self, location: &Location, source: PartSource) -> Result<Option<Part>> {
        match source {
            PartSource::At(at) => self.read_part(location, &at),
            PartSource::Read(part) => Ok(Some(part)),
        }
    }

    /// Reads a part again. Returns `None` if the journal holds other records there by now.
    pub(crate) fn read_part(&self, location: &Location, at: &PartPosition) -> Result<Option<Part>> {
        self.state.lock().follower.read_part(at).map_err(|error| Error::journal(location, error))
    }
}

impl Sighting {
    /// No journal.
    const NONE: Self = Self { has_journal: false, readings: 0, trim: Lsn(0), end: Lsn(0) };

    /// Whether every record that followed `earlier` was read.
    fn continues(self, earlier: Self) -> bool {
        (self.has_journal, self.readings) == (earlier.has_journal, earlier.readings) && self.trim <= earlier.end
    }
}

impl State {
    fn sighting(&self) -> Sighting {
        if !self.has_journal {
            return Sighting::default();
        }
        let Self { follower, .. } = self;
        Sighting {
            has_journal: true,
            readings: follower.readings(),
            trim: follower.index().trim(),
            end: follower.end(),
        }
    }

    /// The records of the stream. The id in its files decides, or else its name.
    fn find(&self, location: &Location, id: Option<StreamId>) -> Option<(StreamId, &IndexedStream)> {
        let index = Some(self.follower.index()).filter(|_| self.has_journal)?;
        match id {
            Some(id) => index.stream(id).map(|stream| (id, stream)),
            None => index.named(location.name().as_bytes()),
        }
    }

    /// The LSN up to which records of this stream are shown, or `None` if the caller has to wait
    /// for a sync.
    ///
    /// Without that wait, records after those that an earlier try found may be hidden. Then the
    /// files must not show that such a record is durable: a START that they hold too.
    fn shown_to(
        &mut self,
        id: StreamId,
        files: Option<InFiles>,
        attempt: &mut Attempt,
    ) -> stratawal_journal::Result<Option<Lsn>> {
        let shown = self.follower.shown_to();
        let Some(stream) = self.follower.index().stream(id) else { return Ok(Some(shown)) };
        let end = stream.end();
        if fail_point!(UnsyncedRecordsShown) {
            return Ok(Some(shown.max(end)));
        }
        let goal = attempt.goal.filter(|goal| goal.0 == id).map_or(end, |goal| goal.1);
        attempt.goal = Some((id, goal));
        let is_dropped = stream.dropped.is_some_and(|dropped| dropped > shown);
        let start = stream.start_at(shown).map_or(0, |start| start.0);
        let is_started = stream.start_end > shown && files.is_some_and(|files| files.first_seq > start);
        if end <= shown || goal <= shown && !is_dropped && !is_started {
            return Ok(Some(shown));
        }
        if self.follower.sync_wait().is_zero() {
            self.follower.sync()?;
            return Ok(Some(self.follower.shown_to()));
        }
        Ok(None)
    }

    /// The result for a stream of which the journal has no records.
    fn join_nothing(&self, look: &StreamLook<'_>, tail: JournalTail) -> stratawal_journal::Result<Joined> {
        // The damaged journal may have held entries of the stream.
        if let Some(damage) = self.damage.clone().filter(|_| !fail_point!(JournalDamageIgnored)) {
            return Err(damage);
        }
        if !tail.is_alone {
            return Ok(Joined::Tail(tail));
        }
        // The stream was settled, and so got its directory, perhaps after this look found none.
        let name = look.location.name().as_bytes();
        let is_settled = self.follower.index().is_voided_since(name, look.before.end) && !fail_point!(NotLookedAgain);
        Ok(if is_settled { Joined::Again } else { Joined::Gone })
    }

    /// Joins the records of the stream that end at or below `shown` to its files.
    fn join(
        &mut self,
        id: StreamId,
        look: &StreamLook<'_>,
        shown: Lsn,
        mut tail: JournalTail,
        attempt: &mut Attempt,
    ) -> Result<Joined> {
        let Some(stream) = self.follower.index().stream(id) else { return Ok(Joined::Gone) };
        if stream.dropped.is_some_and(|dropped| dropped <= shown) {
            return Ok(Joined::Gone);
        }
        let start = stream.start_at(shown).map(|start| start.0);
        let in_files = look.files.map_or(0, |files| files.next_seq);
        let from = start.unwrap_or(0).max(in_files);
        let seen = || stream.parts.iter().filter(|part| part.end() <= shown);
        let firm = Some(stream.firm).filter(|_| stream.firm_end <= shown).unwrap_or(SeqNo(0));
        let promised = seen().filter(|part| part.firm).map(PartPosition::end_seq).fold(firm, SeqNo::max).0;
        let mut parts: Vec<PartPosition> = seen().filter(|part| part.end_seq().0 > from).copied().collect();
        parts.sort_by_key(|part| part.first);
        let last = parts.iter().map(|part| part.end_seq().0).max().unwrap_or(0);
        let mut end = from;
        let mut gap_end = None;
        for part in parts {
            if part.first.0 > end {
                gap_end = Some(part.first.0);
                break;
            }
            if part.end_seq().0 > end {
                end = part.end_seq().0;
                tail.parts.push(part);
            }
        }
        // A directory that existed is missing, and entries may be missing with it.
        let is_lost = look.files.is_none() && stream.directory_end.is_some() && last > 0;
        let is_whole = promised.max(last) <= end && !is_lost;
        if !is_whole && attempt.gap != Some((end, promised)) {
            // A writer may have moved the missing entries. Everything is read again.
            attempt.gap = Some((end, promised));
            self.follower.forget();
            return Ok(Joined::Again);
        }
        if promised > end || is_lost {
            let kind = if look.files.is_none() { DamageKind::NoSegment } else { DamageKind::Lost };
            // The entries after the gap are not lost.
            let lost = end..gap_end.unwrap_or(promised).min(promised).max(end);
            return Err(Error::damage_at(look.location, kind, None, None).with_lost(lost));
        }
        if stream.end() <= shown {
            tail.complete = tail.sighting;
        }
        tail.start = start.filter(|&start| look.files.is_none_or(|files| start > files.first_seq));
        if tail.is_alone && tail.parts.is_empty() && tail.start.is_none() {
            return Ok(Joined::Gone);
        }
        self.follower.forget_below(id, SeqNo(in_files), shown);
        Ok(Joined::Tail(tail))
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use stratawal_journal::{Journal, JournalOptions, Record};
    use stratawal_storage::MemoryStorage;

    use super::*;

    const STREAM: StreamId = StreamId(7);

    fn part(first: u64) -> Record {
        let body = vec![1; 20].into();
        let (name, first) = (Some("s".into()), SeqNo(first));
        Record::Data(vec![Part { stream: STREAM, name, first, count: 1, timestamp: 0, firm: true, body }])
    }

    /// A new journal, and a reader of it.
    fn journal_and_reader() -> (Journal, JournalReader) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let dir = Path::new("/journal");
        let wal_id = WalId(3);
        let journal = Journal::create(&storage, dir, wal_id, JournalOptions::default()).unwrap();
        let reader = JournalReader::new(&storage, dir, wal_id, || Some(true));
        (journal, reader)
    }

    /// Two handles look at a stream whose entries are moved to its files at that time. The one that
    /// read the files earlier joins them to the journal later.
    #[test]
    fn earlier_files_are_read_again_after_later_ones() {
        let (journal, reader) = journal_and_reader();
        for seq in 0..4 {
            journal.append(&part(seq)).unwrap();
        }
        journal.sync().unwrap();
        let location = Location::new(Path::new("/streams"), "s");
        let join = |before: Sighting, next_seq: u64| {
            let files = Some(InFiles { stream: STREAM, first_seq: 0, next_seq });
            let look = StreamLook { location: &location, before, since: None, files };
            reader.join(&look, &mut Attempt::default()).unwrap()
        };
        let before = reader.look(&location).unwrap();
        let Joined::Tail(later) = join(before, 4) else { panic!("nothing has changed") };
        assert_eq!(later.end(), None, "the files have all entries");
        assert!(matches!(join(before, 2), Joined::Again), "entries 2 and 3 would be missing");
        let before = reader.look(&location).unwrap();
        let Joined::Tail(again) = join(before, 2) else { panic!("nothing has changed") };
        assert_eq!(again.end(), Some(4));
    }

    /// The writer settles a stream, and so gives it a directory, after the look found none.
    #[test]
    fn stream_that_gets_its_directory_is_looked_at_again() {
        let (journal, reader) = journal_and_reader();
        journal.append(&part(0)).unwrap();
        journal.sync().unwrap();
        let location = Location::new(Path::new("/streams"), "s");
        let before = reader.look(&location).unwrap();
        journal.append(&Record::Settled { stream: STREAM, seq: SeqNo(1) }).unwrap();
        let join = |before: Sighting| {
            let look = StreamLook { location: &location, before, since: None, files: None };
            reader.join(&look, &mut Attempt::default()).unwrap()
        };
        assert!(matches!(join(before), Joined::Again), "entry 0 would be missing");
        let before = reader.look(&location).unwrap();
        assert!(matches!(join(before), Joined::Gone), "the directory is missing since");
    }

    /// The files hold a START that the journal is not known to have durably, and the entries before
    /// it are hidden.
    #[test]
    fn start_in_the_files_is_not_shown_before_earlier_entries() {
        let (journal, reader) = journal_and_reader();
        for seq in 0..4 {
            journal.append(&part(seq)).unwrap();
        }
        let location = Location::new(Path::new("/streams"), "s");
        let mut attempt = Attempt::default();
        let mut join = |first_seq: u64| {
            let before = reader.look(&location).unwrap();
            let files = Some(InFiles { stream: STREAM, first_seq, next_seq: 4 });
            let look = StreamLook { location: &location, before, since: None, files };
            reader.join(&look, &mut attempt).unwrap()
        };
        // It syncs, so that the next sync has to wait, and remembers that this is its goal.
        assert!(matches!(join(0), Joined::Tail(_)));
        journal.append(&part(4)).unwrap();
        journal.append(&Record::Start { stream: STREAM, seq: SeqNo(3), name: None }).unwrap();
        let Joined::Tail(earlier) = join(0) else { panic!("what the goal asks for is durable") };
        assert_eq!((earlier.start, earlier.end()), (None, None));
        assert!(matches!(join(3), Joined::Again), "entry 4 would be missing before the START");
    }
}
