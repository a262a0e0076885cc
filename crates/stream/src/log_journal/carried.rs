//! The streams that have records in the journal and were not looked up since it was opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{SeqNo, StreamId};
use stratawal_journal::{Lsn, NeededStream, Record, Result};
use stratawal_sync::atomic::Ordering;
use stratawal_sync::fail_point;

use super::LogJournal;
use crate::batches::{BATCH_LEN_MAX, in_batches};
use crate::journal_user::Claim;

/// At most this many streams that were not looked up are settled before a release.
const SETTLED_AT_ONCE_MAX: usize = 64;

impl LogJournal {
    /// The names of the streams that have records and were not opened yet.
    #[must_use]
    pub fn carried_streams(&self) -> Vec<String> {
        self.carried.lock().values().filter_map(Carried::name).collect()
    }

    /// The names of the streams that have entries in the journal and were not opened yet. Such a
    /// stream exists even if it has no directory.
    #[must_use]
    pub fn carried_with_entries(&self) -> Vec<String> {
        let carried = self.carried.lock();
        carried.values().filter(|carried| carried.oldest().is_some()).filter_map(Carried::name).collect()
    }

    /// Has streams that were not looked up settled by `settler` when the journal needs room, or by
    /// nothing. When this returns, an earlier settler is not in use any more.
    pub fn settle_carried_by(&self, settler: Option<Box<dyn SettleCarried>>) {
        self.settling.lock().by = settler;
    }

    /// Has streams that were not looked up, and could not be settled, tried once more when room is
    /// made: the disk may have space by now. Does nothing if another thread is settling some.
    pub(super) fn settle_carried_again(&self) {
        if let Some(mut settling) = self.settling.try_lock() {
            settling.tried.clear();
        }
    }

    /// Settles the streams that have the most bytes among those that were not looked up, if all of
    /// them together have so many that copying them forward would take most of the journal. Does
    /// nothing if another thread is doing this. The caller holds no lock of this crate.
    pub(super) fn settle_largest_carried(&self) {
        let Some(mut settling) = self.settling.try_lock() else { return };
        let Settling { by: Some(settler), tried } = &mut *settling else { return };
        let largest = self.largest_carried(tried);
        let settle = |batch: &[(StreamId, String)]| {
            batch.iter().for_each(|(_, name)| settler.settle(name));
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(()) = in_batches(&largest, BATCH_LEN_MAX, settle);
        // One that could not be settled keeps its records, which are copied forward from now on.
        tried.extend(largest.into_iter().map(|(stream, _)| stream));
    }

    /// The streams with the most bytes among those that were not looked up, largest first, until
    /// the others have few enough to be copied forward. Those in `tried` are left out.
    fn largest_carried(&self, tried: &BTreeSet<StreamId>) -> Vec<(StreamId, String)> {
        let carried = self.carried.lock();
        let mut total: u64 = carried.values().map(Carried::len).sum();
        let max = self.kept_len() / 2;
        if total <= max {
            return Vec::new();
        }
        let is_candidate = |(id, carried): &(StreamId, &Carried)| !tried.contains(id) && carried.len() > 0;
        let mut candidates: Vec<_> = carried.iter().filter(is_candidate).collect();
        candidates.sort_by_key(|(_, carried)| std::cmp::Reverse(carried.len()));
        let mut largest = Vec::new();
        for (id, carried) in candidates {
            if total <= max || largest.len() == SETTLED_AT_ONCE_MAX {
                break;
            }
            if let Some(name) = carried.name() {
                total -= carried.len();
                largest.push((id, name));
            }
        }
        largest
    }

    /// The records of a stream that was not opened yet.
    pub(crate) fn carried(&self, stream: StreamId) -> Option<NeededStream> {
        self.carried.lock().get(stream).map(|carried| carried.needed.clone())
    }

    /// The ids of the streams named `name` that have records and were not opened yet.
    pub(crate) fn carried_named(&self, name: &str) -> Vec<StreamId> {
        self.carried.lock().named(name)
    }

    /// The ids of the streams named `name` that the next opening may find in the journal. Reads the
    /// whole journal.
    ///
    /// # Errors
    /// I/O, or damage of the journal.
    pub(crate) fn remaining_named(&self, name: &str) -> Result<Vec<StreamId>> {
        let streams = self.journal.remaining()?.streams;
        let is_named = |needed: &NeededStream| needed.name.as_deref() == Some(name.as_bytes());
        Ok(streams.into_iter().filter(|(_, needed)| is_named(needed)).map(|(id, _)| id).collect())
    }

    /// The stream's files durably hold all live entries. If `is_settled`, a record that makes the
    /// carried ones void is about to be put; if not, it was refused.
    pub(crate) fn carried_is_settled(&self, stream: StreamId, is_settled: bool) {
        if let Some(carried) = self.carried.lock().streams.get_mut(&stream) {
            carried.is_settled = is_settled;
        }
    }

    /// Calls `take` with the carried records of a stream that is open now and registered, and
    /// forgets them. `take` claims those that are needed. Does nothing and returns false while the
    /// journal is being restarted: the restart may have asked the stream for its records already.
    pub(crate) fn hand_over(&self, stream: StreamId, take: impl FnOnce(&NeededStream)) -> bool {
        let mut carried = self.carried.lock();
        // Relaxed: set under the same lock.
        if self.is_restarting.load(Ordering::Relaxed) && !fail_point!(HandedOverInRestart) {
            return false;
        }
        if let Some(records) = carried.get(stream) {
            take(&records.needed);
        }
        // Only now, so that a release finds them here or claimed.
        carried.remove(stream);
        true
    }

    /// Takes back the records of a stream that was closed and could not be settled, and whose last
    /// handle is dropped, so that the next look-up finds them. `claim` is the claim of the stream.
    pub(crate) fn carry_again(&self, stream: StreamId, needed: NeededStream, claim: Arc<Claim>) {
        // A closed journal has them for the next opening.
        if !self.closed.load(Ordering::Relaxed) {
            self.carried.lock().insert(stream, Carried { needed, is_settled: false, claim: Some(claim) });
        }
    }

    /// Puts the records of streams that were not opened again at the end of the journal, as they
    /// are.
    pub(super) fn copy_carried_below(&self, target: Lsn) -> Result<()> {
        if self.has_more_to_settle() {
            // They stay where they are until the largest are settled. Copies of so many would leave
            // no room for others.
            return Ok(());
        }
        let mut carried = self.carried.lock();
        let is_due = |carried: &Carried| !carried.is_settled && carried.oldest().is_some_and(|lsn| lsn < target);
        for (id, carried) in carried.iter_mut().filter(|(_, carried)| is_due(carried)) {
            let mut positions = Vec::new();
            self.has_copies.store(true, Ordering::Relaxed);
            for record in carried.needed.records(id) {
                match self.journal.append(&record) {
                    // The records stay where they are.
                    Err(error) if error.is_full() => return Ok(()),
                    other => positions.push(other?),
                }
            }
            let Some(first) = positions.first() else { continue };
            carried.move_to(first.lsn);
        }
        Ok(())
    }

    /// Whether a later release settles more streams that were not looked up.
    pub(super) fn has_more_to_settle(&self) -> bool {
        // Another thread may be settling some now.
        let Some(settling) = self.settling.try_lock() else { return true };
        settling.by.is_some() && !self.largest_carried(&settling.tried).is_empty()
    }
}

/// Settles streams that were not looked up.
pub trait SettleCarried: fmt::Debug + Send + Sync {
    /// Has the stream `name` take its records from the journal into its own files, unless it is
    /// open or is being looked up. Its records stay if this fails. Called by several threads at
    /// once.
    fn settle(&self, name: &str);
}

/// The state of settling streams that were not looked up.
#[derive(Debug, Default)]
pub(super) struct Settling {
    pub(super) by: Option<Box<dyn SettleCarried>>,
    /// The streams that were settled, or that could not be.
    pub(super) tried: BTreeSet<StreamId>,
}

/// The records of all streams that are not open. There may be very many.
#[derive(Debug, Default)]
pub(super) struct AllCarried {
    streams: BTreeMap<StreamId, Carried>,
    /// The streams by name, if the journal gives it. A look-up searches here.
    names: BTreeSet<(Bytes, StreamId)>,
}

impl AllCarried {
    pub(super) fn insert(&mut self, id: StreamId, carried: Carried) {
        if let Some(name) = &carried.needed.name {
            self.names.insert((name.clone(), id));
        }
        self.streams.insert(id, carried);
    }

    pub(super) fn remove(&mut self, id: StreamId) {
        if let Some(mut carried) = self.streams.remove(&id)
            && let Some(name) = carried.needed.name.take()
        {
            self.names.remove(&(name, id));
        }
    }

    fn get(&self, id: StreamId) -> Option<&Carried> {
        self.streams.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamId, &Carried)> {
        self.streams.iter().map(|(&id, carried)| (id, carried))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Carried> {
        self.streams.values()
    }

    /// All streams, to change anything except their names.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut Carried)> {
        self.streams.iter_mut().map(|(&id, carried)| (id, carried))
    }

    /// Forgets the records that a restart of the journal leaves out.
    pub(super) fn forget_settled(&mut self) {
        let Self { streams, names } = self;
        streams.values_mut().for_each(Carried::forget_settled);
        streams.retain(|_, carried| !carried.is_settled || carried.needed.start.is_some());
        names.retain(|(_, id)| streams.contains_key(id));
    }

    /// The streams that have this name, and records.
    fn named(&self, name: &str) -> Vec<StreamId> {
        let name = Bytes::copy_from_slice(name.as_bytes());
        let named = self.names.range((name.clone(), StreamId(0))..=(name, StreamId(u64::MAX)));
        let ids = named.map(|&(_, id)| id);
        ids.filter(|&id| self.get(id).is_some_and(|carried| carried.oldest().is_some())).collect()
    }
}

/// The records of a stream that is not open.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) needed: NeededStream,
    /// The stream's files durably hold all live entries, and the records may be void.
    pub(super) is_settled: bool,
    /// The claim of the stream, if it was open before. It is given up with the records.
    pub(super) claim: Option<Arc<Claim>>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(claim) = &self.claim {
            claim.set(None);
        }
    }
}

impl Carried {
    /// No record of the stream is before `lsn`.
    pub(super) fn move_to(&mut self, lsn: Lsn) {
        self.needed.parts.iter_mut().for_each(|part| part.lsn = lsn);
        self.needed.start_lsn = lsn;
        if let Some(claim) = &self.claim {
            claim.set(Some(lsn));
        }
    }

    /// The records that a restart of the journal writes. The files of a settled stream hold its
    /// entries, and without the other records none is void. They may not hold its START.
    pub(super) fn records_for_restart(&self, id: StreamId) -> Vec<Record> {
        if !self.is_settled {
            return self.needed.records(id);
        }
        if self.needed.start.is_none() {
            return Vec::new();
        }
        NeededStream { parts: Vec::new(), firm: SeqNo(0), ..self.needed.clone() }.records(id)
    }

    /// Forgets the records that [`records_for_restart`](Self::records_for_restart) leaves out.
    fn forget_settled(&mut self) {
        if self.is_settled {
            self.needed.parts.clear();
            self.needed.firm = SeqNo(0);
        }
    }

    /// The stream's name, if the journal gives it.
    pub(super) fn name(&self) -> Option<String> {
        self.needed.name.as_deref().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// The bytes of the entries, about.
    pub(super) fn len(&self) -> u64 {
        self.needed.parts.iter().map(|part| part.part.body.len() as u64).sum()
    }

    /// The LSN from which on the stream needs the journal. A stream of which only a promise is
    /// recorded needs nothing: its entries are durable in its files.
    pub(super) fn oldest(&self) -> Option<Lsn> {
        let parts = self.needed.parts.iter().map(|part| part.lsn);
        parts.chain(self.needed.start.map(|_| self.needed.start_lsn)).min()
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use std::path::Path;

    use stratawal_frame::WalId;
    use stratawal_journal::{JournalOptions, Part};
    use stratawal_storage::{MemoryStorage, Storage};

    use super::*;
    use crate::write::buffer_pool::BufferPool;
    use crate::write::journaled::Journaled;

    const CARRIED: StreamId = StreamId(1);

    /// A log with a record of a stream that was not looked up.
    fn with_a_carried_record() -> Arc<LogJournal> {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let options = JournalOptions::default().bytes(64 << 10);
        let dir = Path::new("/journal");
        let before = LogJournal::create(&storage, dir, WalId(0), options).expect("memory");
        before.journal.append(&data(CARRIED)).expect("there is room");
        drop(before);
        Arc::new(LogJournal::open(&storage, dir, WalId(0), options, |_| true).expect("memory"))
    }

    fn data(stream: StreamId) -> Record {
        let name = Some("s".into());
        let body = vec![7; 100].into();
        Record::Data(vec![Part { stream, name, first: SeqNo(0), count: 1, timestamp: 0, firm: true, body }])
    }

    #[test]
    fn records_are_carried_on_if_a_settled_is_refused() {
        let log = with_a_carried_record();
        let is_settled = |log: &LogJournal| log.carried.lock().streams[&CARRIED].is_settled;
        let pool = Arc::new(BufferPool::new());
        let mut journaled = Journaled::new(Arc::clone(&log), "s".into(), 1, pool);
        journaled.set_stream(CARRIED);
        // Entries and control records take all the room.
        while log.journal.append(&data(StreamId(2))).is_ok() {}
        while log.journal.append(&Record::Settled { stream: StreamId(2), seq: SeqNo(1) }).is_ok() {}
        assert!(journaled.make_void(1).expect_err("there is no room").is_full());
        assert!(!is_settled(&log), "a release leaves the records where they are");
        log.journal.release(log.journal.end()).expect("memory");
        journaled.make_void(1).expect("there is room");
        assert!(is_settled(&log));
    }
}
