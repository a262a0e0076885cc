//! The commit journal of a log, and what all of its streams need of it.
//!
//! Locks, in the order in which they are taken: *settling*, *releasing*, a stream's lead, a
//! stream's lock, *carried* and *streams*, the locks of the journal. Only a stream's lock is held
//! while its records are put.

mod carried;
mod registry;
#[cfg(test)]
mod scenarios;

use std::path::Path;
use std::sync::Arc;
use std::thread::Thread;
use std::time::Instant;

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Dropped, Error, Image, Journal, JournalOptions, Lsn, Position, Record, Result};
use stratawal_storage::Storage;
use stratawal_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use stratawal_sync::{Counter, Mutex, OnceLock, Weak, fail_point, model};

pub use self::carried::SettleCarried;
use self::carried::{AllCarried, Carried, Settling};
use self::registry::Registry;
use crate::active_files::ActiveFiles;
use crate::batches::{BATCH_LEN_MAX, THREADS_MAX, in_batches};
use crate::events;
use crate::journal_user::{BegunSync, Claim, JournalUser};
use crate::watermarks::Watermarks;

use crate::report::JournalReport;
use crate::stats::{JournalStats, SyncTimes};

/// The journal is maintained each time it has grown by this many bytes, or by an eighth of its
/// capacity if that is less.
const WAKE_LEN_MAX: u64 = 256 << 10;

/// The records of a stream are copied rather than settled if they have at most this many bytes.
const COPIED_LEN_MAX: usize = 16 << 10;

/// The default bound of open files of active segments.
const ACTIVE_FILES_MAX: usize = 512;

/// The most bytes by which [`LogJournal::step`] frees space.
const STEP_MAX: u64 = 16 << 20;

/// The commit journal of a log.
#[derive(Debug)]
pub struct LogJournal {
    pub(crate) journal: Journal,
    options: JournalOptions,
    report: JournalReport,
    streams: Registry,
    files: Arc<ActiveFiles>,
    /// Held by the thread that settles streams because too many files have unsynced writes.
    relieving: Mutex<()>,
    /// The records of streams that are not open.
    carried: Mutex<AllCarried>,
    /// The deletions that are not finished.
    drops: Mutex<Vec<Dropped>>,
    /// The streams whose files are to record a START, because that frees some of them.
    starts: Mutex<Vec<Weak<dyn JournalUser>>>,
    /// Held while streams that were not looked up are settled.
    settling: Mutex<Settling>,
    /// The end of the journal when it was opened. The file with the records before it does not
    /// count towards the limit.
    opened_at: Lsn,
    /// Held by the thread that frees space, or restarts the journal. The end of the journal when
    /// space was last freed.
    releasing: Mutex<Lsn>,
    /// How often space was freed.
    releases: AtomicU64,
    /// How often an append found no room.
    waits_for_room: Counter,
    /// Records were copied forward that may not be durable. Used under *releasing*.
    has_copies: AtomicBool,
    /// Set under *releasing*. From then on the journal is not restarted.
    closed: AtomicBool,
    /// Set under the lock of the carried records.
    is_restarting: AtomicBool,
    wake_len: u64,
    worker: OnceLock<Thread>,
    /// There is work, and no thread that does it.
    is_due: AtomicBool,
}

impl LogJournal {
    /// Creates the journal of the log `wal_id` in the directory `dir`. It is durable when this
    /// returns.
    ///
    /// # Errors
    /// I/O.
    pub fn create(storage: &Arc<dyn Storage>, dir: &Path, wal_id: WalId, options: JournalOptions) -> Result<Self> {
        let began = Instant::now();
        let created = Journal::create(storage, dir, wal_id, options).map(|journal| {
            let report = JournalReport { elapsed: began.elapsed(), ..JournalReport::default() };
            Self::new(journal, options, report)
        });
        events::journal_opened(&created);
        created
    }

    /// Opens the journal in the directory `dir`. Reads no stream, except that `is_unfinished` finds
    /// out whether a deleted stream still has its directory. Each stream gets its records when it
    /// is opened.
    ///
    /// # Errors
    /// Damage of the journal, or a copy that was made before the journal was closed; nothing has
    /// changed. I/O.
    pub fn open(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        wal_id: WalId,
        options: JournalOptions,
        is_unfinished: impl FnMut(&Dropped) -> bool,
    ) -> Result<Self> {
        let opened = Self::open_unreported(storage, dir, wal_id, options, is_unfinished);
        events::journal_opened(&opened);
        opened
    }

    fn open_unreported(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        wal_id: WalId,
        options: JournalOptions,
        is_unfinished: impl FnMut(&Dropped) -> bool,
    ) -> Result<Self> {
        let began = Instant::now();
        let image = Image::read(&**storage, dir, wal_id).map_err(|error| {
            let copied = || Image::copied_and_damaged(&**storage, dir, wal_id).filter(|_| !options.adopts_copies());
            if error.is_damage() { copied().unwrap_or(error) } else { error }
        })?;
        let found = JournalReport {
            existed: true,
            clean: image.is_closed(),
            files: image.files(),
            cut_records: image.records_after_damage().len(),
            ..JournalReport::default()
        };
        let (journal, needed) = Journal::open(storage, dir, wal_id, options, image, is_unfinished)?;
        let parts = || needed.streams.values().flat_map(|stream| &stream.parts);
        let report = JournalReport {
            records: parts().count(),
            bytes: parts().map(|located| located.part.body.len() as u64).sum(),
            streams: needed.streams.len(),
            deletions: needed.drops.len(),
            elapsed: began.elapsed(),
            ..found
        };
        let options = journal.options();
        let log = Self::new(journal, options, report);
        let mut carried = log.carried.lock();
        for (id, needed) in needed.streams {
            carried.insert(id, Carried { needed, is_settled: false, claim: None });
        }
        drop(carried);
        *log.drops.lock() = if fail_point!(DropsForgotten) { Vec::new() } else { needed.drops };
        Ok(log)
    }

    fn new(journal: Journal, options: JournalOptions, report: JournalReport) -> Self {
        let end = journal.end();
        Self {
            journal,
            options,
            report,
            streams: Registry::default(),
            files: Arc::new(ActiveFiles::new(ACTIVE_FILES_MAX)),
            relieving: Mutex::new(()),
            carried: Mutex::default(),
            drops: Mutex::new(Vec::new()),
            starts: Mutex::new(Vec::new()),
            settling: Mutex::new(Settling::default()),
            opened_at: end,
            releasing: Mutex::new(end),
            releases: AtomicU64::new(0),
            waits_for_room: Counter::default(),
            has_copies: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            is_restarting: AtomicBool::new(false),
            wake_len: WAKE_LEN_MAX.min(options.capacity() / 8).max(1),
            worker: OnceLock::new(),
            is_due: AtomicBool::new(false),
        }
    }

    /// The result of opening the journal.
    #[must_use]
    pub const fn report(&self) -> &JournalReport {
        &self.report
    }

    /// The state of the journal, and what it has done since it was opened. Opens no file.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        // In this order, so that no end is shown beyond a later one.
        let durable_lsn = self.journal.durable().0;
        let needed_bytes = self.journal.needed_len();
        JournalStats {
            durable_lsn,
            end_lsn: self.journal.end().0,
            needed_bytes,
            capacity_bytes: self.capacity(),
            sync_times: SyncTimes::of(self.journal.sync_times()),
            releases: self.releases.load(Ordering::Relaxed),
            waits_for_room: self.waits_for_room.get(),
        }
    }

    /// The bytes of the journal's files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// Sets how many files of active segments, of all streams, are open for writing. The others are
    /// opened when they are needed. Default: 512.
    #[must_use]
    pub fn active_files(self, max: usize) -> Self {
        self.files.set_max(max);
        self
    }

    pub(crate) const fn files(&self) -> &Arc<ActiveFiles> {
        &self.files
    }

    /// Has streams settled if too many of their files have unsynced writes, so that the files can
    /// be closed. The caller holds no lock.
    #[inline]
    pub(crate) fn bound_files(&self) {
        if self.files.is_crowded() {
            self.relieve_files();
        }
    }

    #[cold]
    fn relieve_files(&self) {
        // The thread of the log does it, unless it cannot keep up.
        if let Some(worker) = self.worker.get().filter(|_| self.files.len() < 2 * self.files.max()) {
            worker.unpark();
        } else {
            self.settle_unused();
        }
    }

    /// Settles the streams whose files have unsynced writes and were not used for the longest time,
    /// if there are too many of them, and closes those files.
    fn settle_unused(&self) {
        let _alone = self.relieving.lock();
        let ids = self.files.unsynced();
        if ids.is_empty() {
            return;
        }
        let places: Vec<usize> = self.streams.with_ids(&ids).flatten().map(|(place, _)| place).collect();
        let settled: std::result::Result<(), ()> = self.in_batches(&places, |streams| {
            if streams.len() > 1 {
                streams.iter().for_each(|stream| stream.begin_settle());
            }
            // A stream that fails reports it to its next call, and its file stays open.
            streams.iter().for_each(|stream| drop(stream.settle()));
            Ok(())
        });
        debug_assert!(settled.is_ok(), "no batch fails");
        drop(self.files.unsynced());
    }

    /// Calls `run` for the streams at `places`, in batches that up to four threads share. All of
    /// them together keep within the bound of open files.
    fn in_batches<E: Send>(
        &self,
        places: &[usize],
        run: impl Fn(&[Arc<dyn JournalUser>]) -> std::result::Result<(), E> + Sync,
    ) -> std::result::Result<(), E> {
        let len = BATCH_LEN_MAX.min(self.files.max() / THREADS_MAX);
        in_batches(places, len, |batch| run(&self.streams.at(batch.iter().copied())))
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

    /// Has the journal maintained if the record at `position` makes that due. Takes no lock.
    #[inline]
    pub(crate) fn wake_if_due(&self, position: Position) {
        if position.lsn.0 / self.wake_len != position.end.0 / self.wake_len {
            match self.worker.get() {
                Some(worker) => worker.unpark(),
                // Relaxed: the thread that put the record looks at this itself.
                None => self.is_due.store(true, Ordering::Relaxed),
            }
        }
    }

    /// Maintains the journal in this thread if no other does and it is due. The caller holds no
    /// lock.
    #[inline]
    pub(crate) fn maintain_if_due(&self) {
        if self.is_due.load(Ordering::Relaxed) && self.is_due.swap(false, Ordering::Relaxed) {
            // An append that needs the room or the file tries this itself and reports the error.
            let _ = self.maintain();
        }
    }

    /// Has the thread that maintains the journal write the START of `stream` to its files. Returns
    /// false if there is no such thread.
    pub(crate) fn write_start_later(&self, stream: Weak<dyn JournalUser>) -> bool {
        if self.worker.get().is_none() {
            return false;
        }
        self.starts.lock().push(stream);
        self.wake_worker();
        true
    }

    /// Has the streams whose START is due write it to their files, which removes some of those.
    /// Returns whether there were any. The caller holds no lock.
    pub(crate) fn write_due_starts(&self) -> bool {
        let due = std::mem::take(&mut *self.starts.lock());
        due.iter().filter_map(Weak::upgrade).for_each(|stream| stream.write_due_start());
        !due.is_empty()
    }

    /// The names of the streams whose deletion is not finished.
    #[must_use]
    pub fn unfinished_deletions(&self) -> Vec<String> {
        self.drops.lock().iter().map(|dropped| String::from_utf8_lossy(&dropped.name).into_owned()).collect()
    }

    /// Returns once no restart of the journal is under way. The caller holds no lock.
    pub(crate) fn wait_for_restart(&self) {
        drop(self.releasing.lock());
    }

    /// Adds a stream that is open. `claim` states its need of the journal.
    pub(crate) fn register(&self, stream: &Arc<dyn JournalUser>, claim: Arc<Claim>, watermarks: Arc<Watermarks>) {
        self.streams.add(stream, claim, watermarks);
    }

    /// Puts the record that the stream is deleted. From here on the stream must not be used: the
    /// next opening may find the record, also if this fails with a failure of the journal. The
    /// deletion is committed once [`sync_to`](Journal::sync_to) has returned for the record.
    pub(crate) fn put_drop(&self, stream: StreamId, name: &str) -> Result<Position> {
        let name = bytes::Bytes::copy_from_slice(name.as_bytes());
        // Listed before the record exists, as a stream's claim is, so that no release misses it.
        self.drops.lock().push(Dropped { stream, name: name.clone(), lsn: self.journal.end() });
        // The lock keeps a release from copying a carried record to a place after the DROP. The
        // copy would count once the DROP is released.
        let mut carried = self.carried.lock();
        let put = self.journal.append(&Record::Drop { stream, name });
        if put.is_ok() || self.journal.is_failed() {
            carried.remove(stream);
        }
        drop(carried);
        if put.is_err() && !self.journal.is_failed() {
            self.drops.lock().retain(|dropped| dropped.stream != stream);
        }
        put
    }

    /// Makes room for the record of a truncation or a deletion of the stream `name`, so that it
    /// needs no room while the caller holds locks.
    ///
    /// # Errors
    /// `Full`, or I/O of the journal.
    pub(crate) fn make_control_room(&self, name: &str) -> Result<()> {
        let record = longest_control_record(name);
        match self.journal.reserve(&record) {
            Err(full) if full.is_full() && !self.journal.is_failed() => {
                self.settle_carried_again();
                self.make_room()?;
                self.journal.reserve(&record)
            }
            other => other,
        }
    }

    /// The ids of the deleted streams named `name` that may still have their directory.
    pub(crate) fn dropped(&self, name: &str) -> Vec<StreamId> {
        let drops = self.drops.lock();
        drops.iter().filter(|dropped| dropped.name == name.as_bytes()).map(|dropped| dropped.stream).collect()
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
        self.journal.prefault(self.wake_len + (64 << 10))
    }

    /// Releases space before appends need it, and prepares the next file.
    ///
    /// # Errors
    /// I/O.
    pub fn maintain(&self) -> Result<()> {
        if self.journal.failure().is_some() {
            return Ok(());
        }
        self.write_due_starts();
        if self.files.is_crowded() {
            self.settle_unused();
        }
        let kept = self.kept_len();
        if self.counted_len() > kept + self.step() {
            self.settle_largest_carried();
            self.release_alone(kept, &mut self.releasing.lock())?;
        }
        self.prepare()
    }

    /// The bytes of needed records that count towards the limit of the journal.
    fn counted_len(&self) -> u64 {
        self.journal.needed_len().min(self.journal.end() - self.opened_at)
    }

    /// Makes room until records of at most `keep` bytes are needed: settles streams, or copies
    /// their records forward. Call this without holding any lock.
    ///
    /// # Errors
    /// I/O of the journal. A stream that cannot be settled is not an error: its records are copied.
    #[cfg(test)]
    pub(crate) fn release(&self, keep: u64) -> Result<()> {
        self.release_alone(keep, &mut self.releasing.lock())
    }

    /// The most bytes of records that the journal can hold.
    pub(crate) fn capacity(&self) -> u64 {
        self.options.capacity()
    }

    /// Makes room for an append that found none, unless another thread did while this one waited.
    /// The caller holds no lock.
    pub(crate) fn make_room(&self) -> Result<()> {
        self.waits_for_room.add(1);
        // Acquire; pairs with the Release in `release`.
        let before = self.releases.load(Ordering::Acquire);
        self.settle_largest_carried();
        let mut released = self.releasing.lock();
        if self.releases.load(Ordering::Acquire) != before {
            return Ok(());
        }
        self.release_alone(self.kept_len(), &mut released)
    }

    /// Makes room until records of at most `keep` bytes are needed. The caller holds *releasing*,
    /// and no other lock.
    ///
    /// # Errors
    /// I/O of the journal. A stream that cannot be settled is not an error: its records are copied.
    fn release_alone(&self, keep: u64, released: &mut Lsn) -> Result<()> {
        let end = self.journal.end();
        self.free_below(Lsn(end.0.saturating_sub(keep)), end, end - *released)?;
        *released = end;
        // Release; pairs with the Acquire in `make_room`.
        self.releases.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Space is freed in steps of this many bytes: the journal reuses whole files.
    fn step(&self) -> u64 {
        (self.capacity() / 4).min(STEP_MAX)
    }

    /// The bytes of records that may stay needed after a release. The more it is, the more entries
    /// of a stream are settled at once. The rest is for appends while space is freed.
    fn kept_len(&self) -> u64 {
        self.capacity().saturating_sub(3 * self.step())
    }

    /// Frees the journal below `target`, as far as that is possible. `end` is its end. `written`
    /// bytes were put since space was last freed.
    fn free_below(&self, target: Lsn, end: Lsn, written: u64) -> Result<()> {
        self.free_streams_below(target, written / 4)?;
        if !fail_point!(CarriedReleased) {
            self.copy_carried_below(target)?;
        }
        self.copy_drops_below(target)?;
        let claimed_too_early = fail_point!(ClaimsReadEarly).then(|| self.streams.claimed_from());
        // Before the claims: a look-up claims the records that it takes from here.
        let of_carried = self.carried.lock().values().filter_map(Carried::oldest).min();
        let of_carried = of_carried.filter(|_| !fail_point!(CarriedReleased));
        let of_streams = claimed_too_early.unwrap_or_else(|| self.streams.claimed_from());
        let of_drops = self.drops.lock().iter().map(|dropped| dropped.lsn).min();
        let needed = [of_streams, of_carried, of_drops].into_iter().flatten().min();
        let end = if fail_point!(EndReadLate) { self.journal.end() } else { end };
        let needed = needed.map_or(end, |lsn| lsn.min(end));
        let needed = if fail_point!(NeededIgnored) { end } else { needed };
        if !self.has_copies.load(Ordering::Relaxed) {
            // The released records are not needed: the files hold their entries.
            return self.journal.release_unsynced(needed);
        }
        self.journal.release(needed)?;
        self.has_copies.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the records of open streams before `target` needless. Copies the shortest tails, which
    /// together have at most `copies_max` bytes, and settles the others, the longest first.
    ///
    /// A settle frees the more the longer its tail is, and a copy costs the less the shorter the
    /// tail is. The bound on copies keeps the journal from copying the same records again and
    /// again.
    fn free_streams_below(&self, target: Lsn, copies_max: u64) -> Result<()> {
        let mut tails: Vec<(usize, usize)> = Vec::new();
        for (place, stream) in self.streams.claimed_below(target).flatten() {
            if let Some(len) = stream.needed_below(target) {
                tails.push((len, place));
            }
        }
        tails.sort_unstable();
        let mut left = usize::try_from(copies_max).unwrap_or(usize::MAX);
        let mut places = Vec::new();
        for (len, place) in tails {
            let max = left.min(COPIED_LEN_MAX);
            let mut is_copied = false;
            if len <= max {
                for stream in self.streams.at([place].into_iter()) {
                    let copied = stream.copy_forward(max, &self.has_copies)?;
                    left -= copied.unwrap_or(0);
                    is_copied = copied.is_some();
                }
            }
            if !is_copied {
                places.push(place);
            }
        }
        places.reverse();
        self.in_batches(&places, |streams| {
            if streams.len() > 1 {
                streams.iter().for_each(|stream| stream.begin_to_free());
            }
            streams.iter().try_for_each(|stream| stream.free_journal_below(target, &self.has_copies))
        })
    }

    /// Puts the records of unfinished deletions again at the end of the journal.
    fn copy_drops_below(&self, target: Lsn) -> Result<()> {
        for dropped in self.drops.lock().iter_mut().filter(|dropped| dropped.lsn < target) {
            self.has_copies.store(true, Ordering::Relaxed);
            let record = Record::Drop { stream: dropped.stream, name: dropped.name.clone() };
            match self.journal.append(&record) {
                // The record stays where it is.
                Err(error) if error.is_full() => return Ok(()),
                other => dropped.lsn = other?.lsn,
            }
        }
        Ok(())
    }

    /// Makes every accepted entry of every open stream durable: puts missing records into the
    /// journal, syncs it once, and settles the streams for which the journal is not enough. A
    /// stream that is deleted at the same time is left out.
    ///
    /// # Errors
    /// The error of the first stream that fails; the others are still synced.
    pub fn sync_streams(&self) -> crate::error::Result<()> {
        self.sync_streams_if(|_| true)
    }

    /// Like [`sync_streams`](Self::sync_streams), but leaves out the streams whose own files have
    /// to be synced.
    ///
    /// # Errors
    /// Same as for [`sync_streams`](Self::sync_streams).
    pub fn sync_streams_in_journal(&self) -> crate::error::Result<()> {
        self.sync_streams_if(|begun| begun.position.is_some())
    }

    fn sync_streams_if(&self, is_included: impl Fn(&BegunSync) -> bool) -> crate::error::Result<()> {
        let mut first = Ok(());
        for streams in self.streams.unsynced() {
            let mut waiting = Vec::new();
            let mut through_files = Vec::new();
            for (_, stream) in streams {
                match stream.begin_sync() {
                    Ok(Some(begun)) if !is_included(&begun) => {}
                    Ok(Some(begun)) if begun.position.is_none() => through_files.push((stream, begun)),
                    Ok(Some(begun)) => waiting.push((stream, begun)),
                    Ok(None) => {}
                    Err(error) => first = first.and(unless_deleted(error)),
                }
            }
            for (stream, begun) in waiting {
                first = first.and(stream.finish_sync(begun).or_else(unless_deleted));
            }
            first = first.and(sync_through_files(&through_files));
        }
        first
    }

    /// Restarts the journal if it has failed: settles every stream, and writes the records of those
    /// that cannot be settled into a new file. Does nothing if the journal has not failed,
    /// or was closed.
    ///
    /// # Errors
    /// I/O; the journal stays failed, and the call may be repeated.
    pub(crate) fn restart(&self) -> Result<()> {
        let _alone = self.releasing.lock();
        let epoch = self.journal.epoch();
        // The files of a closed log may belong to another process.
        if self.journal.failure().is_none() || self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _restarting = Restarting::begin(self);
        let mut records: Vec<Record> = Vec::new();
        let mut unsettled = Vec::new();
        for (_, stream) in self.streams.all().flatten() {
            // A stream that cannot be settled keeps its entries in memory.
            let _ = stream.settle();
            let of_stream = stream.journal_records();
            if !of_stream.is_empty() {
                records.extend(of_stream);
                unsettled.push(stream);
            }
        }
        let first = self.restart_with(epoch, records)?;
        unsettled.iter().for_each(|stream| stream.journal_moved_to(first));
        Ok(())
    }

    /// Restarts the failed journal with the records of the streams that are open and could not be
    /// settled, and those of all others. Returns the LSN of the first record. Takes no stream's
    /// lock, because a stream that is being deleted waits for the locks taken here.
    fn restart_with(&self, epoch: u64, mut records: Vec<Record>) -> Result<Lsn> {
        let mut carried = self.carried.lock();
        let mut drops = self.drops.lock();
        if !fail_point!(CarriedNotRestarted) {
            records.extend(carried.iter().flat_map(|(id, carried)| carried.records_for_restart(id)));
        }
        let dropped = |dropped: &Dropped| Record::Drop { stream: dropped.stream, name: dropped.name.clone() };
        records.extend(drops.iter().map(dropped));
        let located = self.journal.restart(epoch, &records)?;
        // Only now: if the restart fails, the next opening finds the records that are left out
        // here.
        carried.forget_settled();
        let first = located.first().map_or(self.journal.end(), |located| located.lsn);
        carried.iter_mut().for_each(|(_, carried)| carried.move_to(first));
        drops.iter_mut().for_each(|dropped| dropped.lsn = first);
        Ok(first)
    }

    /// Ends the journal cleanly. Every stream must be closed. Returns whether the journal is
    /// closed: it is not if a stream could not be settled, a deletion is not finished, or a stream
    /// that has records was never opened. Then the next opening finds them. Whatever this returns,
    /// the journal's files are not used afterwards.
    ///
    /// # Errors
    /// I/O.
    pub fn close(&self) -> Result<bool> {
        let _alone = self.releasing.lock();
        self.closed.store(true, Ordering::Relaxed);
        let has_carried = self.carried.lock().values().any(|carried| carried.oldest().is_some());
        let is_needed = has_carried || self.streams.claimed_from().is_some() || !self.drops.lock().is_empty();
        let closed = if is_needed && !fail_point!(ClosedUnsettled) {
            // The records stay for the next opening.
            self.journal.close_needed().map(|()| false)
        } else {
            self.journal.close().map(|()| true)
        };
        self.journal.await_files();
        closed
    }

    /// Ends the journal with all of its records, which the next opening finds. Every stream must be
    /// closed. Even after an error, the journal's files are not used afterwards, except for a file
    /// of which a thread is making a spare, and which the next opening removes.
    ///
    /// # Errors
    /// I/O.
    pub fn close_fast(&self) -> Result<()> {
        let _alone = self.releasing.lock();
        self.closed.store(true, Ordering::Relaxed);
        self.journal.close_needed()
    }

    /// The error that failed the journal, if any.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.journal.failure()
    }
}

/// Makes streams durable for which the journal is not enough.
fn sync_through_files(streams: &[(Arc<dyn JournalUser>, BegunSync)]) -> crate::error::Result<()> {
    in_batches(streams, BATCH_LEN_MAX, |batch| {
        if batch.len() > 1 {
            batch.iter().for_each(|(stream, _)| stream.begin_settle());
        }
        let finish = |(stream, begun): &(Arc<dyn JournalUser>, BegunSync)| stream.finish_sync(*begun);
        batch.iter().map(|begun| finish(begun).or_else(unless_deleted)).fold(Ok(()), Result::and)
    })
}

/// The longest record, except those of entries, that the stream `name` has in the journal.
pub(crate) fn longest_control_record(name: &str) -> Record {
    let name = Some(bytes::Bytes::copy_from_slice(name.as_bytes()));
    Record::Start { stream: StreamId(0), seq: SeqNo(0), name }
}

/// A deleted stream has nothing to sync.
fn unless_deleted(error: crate::error::Error) -> crate::error::Result<()> {
    if error.kind() == crate::error::ErrorKind::Missing { Ok(()) } else { Err(error) }
}

/// A restart of the journal that is under way.
struct Restarting<'a>(&'a LogJournal);

impl<'a> Restarting<'a> {
    fn begin(log: &'a LogJournal) -> Self {
        let carried = log.carried.lock();
        log.is_restarting.store(true, Ordering::Relaxed);
        drop(carried);
        Self(log)
    }
}

impl Drop for Restarting<'_> {
    fn drop(&mut self) {
        if !model::is_over() {
            let carried = self.0.carried.lock();
            self.0.is_restarting.store(false, Ordering::Relaxed);
            drop(carried);
        }
    }
}
