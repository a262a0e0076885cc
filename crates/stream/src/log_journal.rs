//! The commit journal of a log, and what all of its streams need of it.
//!
//! Locks, in the order in which they are taken: *releasing*, a stream's lead, a stream's lock,
//! *carried* and *streams*, the locks of the journal. Only a stream's lock is held while its records
//! are put.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;

use stratawal_frame::{StreamId, WalId};
use stratawal_journal::{Dropped, Error, Image, Journal, JournalOptions, Lsn, NeededStream, Position, Record, Result};
use stratawal_storage::Storage;
use stratawal_sync::atomic::{AtomicBool, Ordering};
use stratawal_sync::{Mutex, fail_point};

use crate::error::ErrorKind;
use crate::inner::Inner;
use crate::write::journaled::Claim;

/// The maintenance thread is woken each time the journal has grown by this many bytes.
const WAKE_LEN: u64 = 256 << 10;

/// The commit journal of a log.
#[derive(Debug)]
pub struct LogJournal {
    pub(crate) journal: Journal,
    options: JournalOptions,
    /// The streams that are open, and those that were dropped although they need the journal.
    streams: Mutex<Vec<Registered>>,
    /// The records of streams that were not looked up since the journal was opened.
    carried: Mutex<BTreeMap<StreamId, NeededStream>>,
    /// The deletions that are not finished.
    drops: Mutex<Vec<Dropped>>,
    /// Held by the thread that frees space, or restarts the journal. True if records were copied
    /// forward that may not be durable.
    releasing: Mutex<bool>,
    /// Set under *releasing*. From then on the journal is not restarted.
    closed: AtomicBool,
    worker: OnceLock<Thread>,
}

impl LogJournal {
    /// Creates the journal of the log `wal_id` in the directory `dir`. It is durable when this
    /// returns.
    ///
    /// # Errors
    /// I/O.
    pub fn create(storage: &Arc<dyn Storage>, dir: &Path, wal_id: WalId, options: JournalOptions) -> Result<Self> {
        Journal::create(storage, dir, wal_id, options).map(|journal| Self::new(journal, options))
    }

    /// Opens the journal in the directory `dir`. Reads no stream, except that `is_unfinished` finds
    /// out whether a deleted stream still has its directory. Each stream gets its records when it is
    /// opened.
    ///
    /// # Errors
    /// Damage of the journal; nothing has changed. I/O.
    pub fn open(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        wal_id: WalId,
        options: JournalOptions,
        is_unfinished: impl FnMut(&Dropped) -> bool,
    ) -> Result<Self> {
        let image = Image::read(&**storage, dir, wal_id)?;
        let (journal, needed) = Journal::open(storage, dir, wal_id, options, image, is_unfinished)?;
        let log = Self::new(journal, options);
        *log.carried.lock() = needed.streams;
        *log.drops.lock() = needed.drops;
        Ok(log)
    }

    fn new(journal: Journal, options: JournalOptions) -> Self {
        Self {
            journal,
            options,
            streams: Mutex::new(Vec::new()),
            carried: Mutex::new(BTreeMap::new()),
            drops: Mutex::new(Vec::new()),
            releasing: Mutex::new(false),
            closed: AtomicBool::new(false),
            worker: OnceLock::new(),
        }
    }

    /// The bytes of the journal's files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// Has the current thread woken whenever [`maintain`](Self::maintain) has work. It should park
    /// between two calls.
    pub fn wake_this_thread(&self) {
        let _ = self.worker.set(std::thread::current());
    }

    /// Wakes the thread that maintains the journal.
    pub fn wake_worker(&self) {
        if let Some(worker) = self.worker.get() {
            worker.unpark();
        }
    }

    #[inline]
    pub(crate) fn wake_if_due(&self, position: Position) {
        if position.lsn.0 / WAKE_LEN != position.end.0 / WAKE_LEN {
            self.wake_worker();
        }
    }

    /// The names of the streams that have records and were not opened yet.
    #[must_use]
    pub fn carried_streams(&self) -> Vec<String> {
        let carried = self.carried.lock();
        let names = carried.values().filter_map(|stream| stream.name.as_deref());
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// The names of the streams whose deletion is not finished.
    #[must_use]
    pub fn unfinished_deletions(&self) -> Vec<String> {
        self.drops.lock().iter().map(|dropped| String::from_utf8_lossy(&dropped.name).into_owned()).collect()
    }

    /// The records of a stream that was not opened yet.
    pub(crate) fn carried(&self, stream: StreamId) -> Option<NeededStream> {
        self.carried.lock().get(&stream).cloned()
    }

    /// Whether a stream of this name, which was not opened yet, needs records.
    pub(crate) fn has_carried(&self, name: &str) -> bool {
        let carried = self.carried.lock();
        carried.values().any(|needed| oldest(needed).is_some() && needed.name.as_deref() == Some(name.as_bytes()))
    }

    /// The stream's files have everything that its carried records hold.
    pub(crate) fn forget_carried(&self, stream: StreamId) {
        self.carried.lock().remove(&stream);
    }

    /// Adds a stream that is open. `claim` is what it needs of the journal.
    pub(crate) fn register(&self, stream: &Arc<Inner>, claim: Arc<Claim>) {
        let mut streams = self.streams.lock();
        if streams.len() == streams.capacity() {
            streams.retain(|stream| !stream.is_gone() || stream.claim.lsn().is_some());
        }
        streams.push(Registered { stream: Arc::downgrade(stream), claim });
    }

    pub(crate) fn open_streams(&self) -> Vec<Arc<Inner>> {
        self.streams.lock().iter().filter_map(|registered| registered.stream.upgrade()).collect()
    }

    /// Whether a stream that needs the journal was dropped: it could not be settled.
    fn is_pinned(&self) -> bool {
        self.streams.lock().iter().any(|registered| registered.is_gone() && registered.claim.lsn().is_some())
    }

    /// The LSN from which on some registered stream needs the journal.
    fn claimed_from(&self) -> Option<Lsn> {
        self.streams.lock().iter().filter_map(|registered| registered.claim.lsn()).min()
    }

    /// Puts the record that the stream is deleted. From here on the stream must not be used: the
    /// next opening may find the record. It is durable, and the deletion committed, once
    /// [`sync_to`](Journal::sync_to) has returned for it.
    pub(crate) fn put_drop(&self, stream: StreamId, name: &str) -> Result<Position> {
        let name = bytes::Bytes::copy_from_slice(name.as_bytes());
        let position = self.journal.append(&Record::Drop { stream, name: name.clone() })?;
        self.drops.lock().push(Dropped { stream, name: name.clone(), lsn: position.lsn });
        let mut carried = self.carried.lock();
        carried.retain(|id, needed| *id != stream && (stream != StreamId(0) || needed.name.as_ref() != Some(&name)));
        Ok(position)
    }

    /// Whether the stream `name` is deleted but may still have its directory.
    pub(crate) fn is_dropped(&self, name: &str) -> bool {
        self.drops.lock().iter().any(|dropped| dropped.name == name.as_bytes())
    }

    /// The directories of all deleted streams with this name are durably gone.
    pub(crate) fn finish_drops(&self, name: &str) {
        self.drops.lock().retain(|dropped| dropped.name != name.as_bytes());
    }

    /// Makes the journal's files ready for the next records: prepares a file, and reserves memory.
    ///
    /// # Errors
    /// I/O. Nothing has changed.
    pub fn prepare(&self) -> Result<()> {
        self.journal.prepare()?;
        self.journal.prefault(WAKE_LEN + (64 << 10))
    }

    /// Releases space if more than half of the journal's bytes may be needed, and prepares the next
    /// file.
    ///
    /// # Errors
    /// I/O.
    pub fn maintain(&self) -> Result<()> {
        if self.journal.failure().is_some() {
            return Ok(());
        }
        let limit = self.options.limit();
        if self.journal.needed_len() > limit / 2 {
            self.release(limit / 4)?;
        }
        self.prepare()
    }

    /// Makes room until records of at most `keep` bytes are needed: settles streams, or copies
    /// their records forward. Call this without holding any lock.
    ///
    /// # Errors
    /// I/O of the journal. A stream that cannot be settled is not an error: its records are copied.
    pub(crate) fn release(&self, keep: u64) -> Result<()> {
        let mut has_copies = self.releasing.lock();
        self.release_alone(keep, &mut has_copies)
    }

    /// The most bytes of the journal.
    pub(crate) const fn limit(&self) -> u64 {
        self.options.limit()
    }

    /// Makes room for an append that found none. The caller holds no lock.
    pub(crate) fn release_half(&self) -> Result<()> {
        self.release(self.options.limit() / 4)
    }

    fn release_alone(&self, keep: u64, has_copies: &mut bool) -> Result<()> {
        let end = self.journal.end();
        let target = Lsn(end.0.saturating_sub(keep));
        let mut copies_left = usize::try_from(keep / 2).unwrap_or(usize::MAX);
        for stream in self.open_streams() {
            stream.free_journal_below(target, &mut copies_left, has_copies)?;
        }
        self.copy_carried_below(target, has_copies)?;
        self.open_streams().iter().for_each(|stream| stream.forget_needless());
        let of_streams = self.claimed_from();
        let of_carried = self.carried.lock().values().filter_map(oldest).min();
        let of_drops = self.drops.lock().iter().map(|dropped| dropped.lsn).min();
        let needed = [of_streams, of_carried, of_drops].into_iter().flatten().min();
        let needed = needed.map_or(end, |lsn| lsn.min(end));
        let needed = if fail_point!(NeededIgnored) { end } else { needed };
        if !*has_copies {
            // What is released is in the files.
            return self.journal.release_unsynced(needed);
        }
        self.journal.release(needed)?;
        *has_copies = false;
        Ok(())
    }

    /// Puts the records of streams that were not opened again at the end of the journal, as they
    /// are.
    fn copy_carried_below(&self, target: Lsn, has_copies: &mut bool) -> Result<()> {
        let mut carried = self.carried.lock();
        for (&id, needed) in carried.iter_mut().filter(|(_, needed)| oldest(needed).is_some_and(|lsn| lsn < target)) {
            let mut positions = Vec::new();
            *has_copies = true;
            for record in needed.records(id) {
                match self.journal.append(&record) {
                    // The records stay where they are.
                    Err(error) if error.is_full() => return Ok(()),
                    other => positions.push(other?),
                }
            }
            let Some(first) = positions.first() else { continue };
            // No record of the stream is before the first copy.
            for part in &mut needed.parts {
                part.lsn = first.lsn;
            }
            needed.start_lsn = first.lsn;
        }
        Ok(())
    }

    /// Makes every accepted entry of every open stream durable: puts what is missing into the
    /// journal, syncs it once, and settles the streams for which the journal is not enough. A
    /// stream that is deleted at the same time is left out.
    ///
    /// # Errors
    /// The error of the first stream that fails; the others are still synced.
    pub fn sync_streams(&self) -> crate::error::Result<()> {
        let mut first = Ok(());
        let mut waiting = Vec::new();
        for stream in self.open_streams() {
            match stream.begin_sync() {
                Ok(Some(begun)) => waiting.push((stream, begun)),
                Ok(None) => {}
                Err(error) => first = first.and(unless_deleted(error)),
            }
        }
        for (stream, begun) in waiting {
            first = first.and(stream.finish_sync(begun).or_else(unless_deleted));
        }
        first
    }

    /// Restarts the journal if it has failed: settles every stream, and writes the records of those
    /// that cannot be settled into a new file. Does nothing if the journal has not failed,
    /// or was closed.
    ///
    /// # Errors
    /// I/O; the journal stays failed, and the call may be repeated.
    pub(crate) fn restart(&self) -> std::result::Result<(), RestartError> {
        let _alone = self.releasing.lock();
        let epoch = self.journal.epoch();
        // The files of a closed log may belong to another process.
        if self.journal.failure().is_none() || self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.is_pinned() {
            return Err(RestartError::Pinned);
        }
        let mut records: Vec<Record> = Vec::new();
        for dropped in self.drops.lock().iter() {
            records.push(Record::Drop { stream: dropped.stream, name: dropped.name.clone() });
        }
        let mut carried = self.carried.lock();
        records.extend(carried.iter().flat_map(|(&id, needed)| needed.records(id)));
        let mut unsettled = Vec::new();
        for stream in self.open_streams() {
            // A stream that cannot be settled keeps its entries in memory.
            let _ = stream.settle_files();
            let of_stream = stream.journal_records();
            if !of_stream.is_empty() {
                records.extend(of_stream);
                unsettled.push(stream);
            }
        }
        let located = self.journal.restart(epoch, &records).map_err(RestartError::Journal)?;
        let Some(first) = located.first().map(|located| located.lsn) else { return Ok(()) };
        for needed in carried.values_mut() {
            needed.parts.iter_mut().for_each(|part| part.lsn = first);
            needed.start_lsn = first;
        }
        self.drops.lock().iter_mut().for_each(|dropped| dropped.lsn = first);
        unsettled.iter().for_each(|stream| stream.journal_moved_to(first));
        Ok(())
    }

    /// Ends the journal cleanly. Every stream must be closed. Returns whether the journal is
    /// closed: it is not if a stream could not be settled, a deletion is not finished, or a stream
    /// that has records was never opened. Then the next opening finds them. Whatever this returns,
    /// the journal's files are not used afterwards, unless a record is put.
    ///
    /// # Errors
    /// I/O.
    pub fn close(&self) -> Result<bool> {
        let _alone = self.releasing.lock();
        self.closed.store(true, Ordering::Relaxed);
        let has_carried = self.carried.lock().values().any(|needed| oldest(needed).is_some());
        if has_carried || self.claimed_from().is_some() || !self.drops.lock().is_empty() {
            // What was put stays, and is made as durable as it can be.
            self.journal.sync()?;
            return Ok(false);
        }
        self.journal.close().map(|()| true)
    }

    /// The error that failed the journal, if any.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.journal.failure()
    }
}

/// A deleted stream has nothing to sync.
fn unless_deleted(error: crate::error::Error) -> crate::error::Result<()> {
    if error.kind() == ErrorKind::Missing { Ok(()) } else { Err(error) }
}

/// A stream that was opened.
#[derive(Debug)]
struct Registered {
    stream: Weak<Inner>,
    claim: Arc<Claim>,
}

impl Registered {
    fn is_gone(&self) -> bool {
        self.stream.strong_count() == 0
    }
}

/// Why the journal was not restarted.
#[derive(Debug)]
pub(crate) enum RestartError {
    /// A stream was closed that could not be settled, so its entries are only in the failed files.
    Pinned,
    Journal(Error),
}

/// The LSN from which on the journal is needed for a stream that was not opened. A stream of which
/// only a promise is recorded needs nothing: its entries are durable in its files.
fn oldest(needed: &NeededStream) -> Option<Lsn> {
    let parts = needed.parts.iter().map(|part| part.lsn);
    parts.chain(needed.start.map(|_| needed.start_lsn)).min()
}
