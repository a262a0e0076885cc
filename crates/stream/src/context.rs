//! The storage, caches and buffers that all streams of a log share.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stratawal_frame::WalId;
use stratawal_index::{Cache, CacheLimits};
use stratawal_segment::{MapPromise, SegmentWriter};
use stratawal_storage::Storage;
use stratawal_sync::atomic::{AtomicBool, Ordering};
use stratawal_sync::{Durations, Mutex};

use crate::active_files::ActiveFile;
use crate::evicting_storage::EvictingStorage;
use crate::follow::ReaderTasks;
use crate::journal_reader::JournalReader;
use crate::location::Location;
use crate::log_journal::LogJournal;
use crate::notify::{Notifier, NotifyReader};
use crate::options::StreamOptions;
use crate::read::sealed::SealedSegment;
use crate::read::snapshot::Snapshot;
use crate::report::OpenReport;
use crate::stats::SyncTimes;
use crate::truncation_log::Truncation;
use crate::unsynced_files::UnsyncedFiles;
use crate::write::buffer_pool::BufferPool;
use crate::write::dir_sync::DirSyncs;
use crate::write::encode::FrameEncoder;
use crate::write::pending::PendingFrames;
use crate::write::reserve::{EmergencyReserve, ReserveUse};

/// The state that all streams of a log share: the storage, the log's id, and the cache of sealed
/// segments.
#[derive(Debug)]
pub struct LogContext {
    /// The storage as the caller gave it.
    plain: Arc<dyn Storage>,
    /// `plain`, wrapped so that the cache is evicted if the process has no file descriptor left.
    storage: Arc<dyn Storage>,
    wal_id: WalId,
    read_only: bool,
    reserve: Option<EmergencyReserve>,
    /// The promise that allows mappings, if it was made.
    map: Option<MapPromise>,
    /// `None` if the log has no commit journal.
    journal: Option<Arc<LogJournal>>,
    /// `None` if streams are not only read, or their entries are only in their files.
    journal_reader: Option<Arc<JournalReader>>,
    /// `None` if readers in other processes are not notified.
    notifier: Option<Arc<Notifier>>,
    /// `None` unless streams are only read.
    notify_reader: Option<NotifyReader>,
    /// The longest time between two looks of a follower that the writer does not wake.
    pub(crate) poll_interval: Duration,
    /// The log is closed for the followers of a log that is opened for reading.
    followers_end: AtomicBool,
    /// The tasks that follow streams which are only read.
    pub(crate) reader_tasks: ReaderTasks,
    /// Keyed by the directory that holds the streams. There are few such directories.
    dir_syncs: Mutex<Vec<(PathBuf, Arc<DirSyncs>)>>,
    /// Counts the finished segments, of all streams, that are open because they have unsynced
    /// bytes.
    pub(crate) unsynced_files: Arc<UnsyncedFiles>,
    pub(crate) cache: Arc<Cache<SealedSegment>>,
    /// The snapshot and the report of every stream that has no directory. There may be very many.
    pub(crate) no_segments: Arc<Snapshot>,
    pub(crate) no_report: Arc<OpenReport>,
    /// The truncations of every stream whose end was not truncated.
    pub(crate) no_truncations: Arc<Vec<Truncation>>,
    /// The options of the stream that was opened last. Most streams of a log have the same.
    recent_options: Mutex<Arc<StreamOptions>>,
    /// Buffers for appending and for writing, shared by all streams.
    pub(crate) pending: Arc<BufferPool<PendingFrames>>,
    pub(crate) encoders: BufferPool<FrameEncoder>,
    /// How long syncs of segment files took.
    pub(crate) sync_times: Durations,
}

/// Use of the cache of sealed segments by all streams of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Reads that found their segment open.
    pub hits: u64,
    /// Reads that had to open their segment and read its index.
    pub misses: u64,
    /// Sealed segments that are open now. A mapped segment holds no file open.
    pub segments: usize,
    /// Bytes of memory that their indexes take.
    pub bytes: usize,
}

/// The default of [`LogContext::poll_interval`].
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl LogContext {
    /// Creates the context of a log with the id 0. Its cache holds at most 8 MiB of indexes and 128
    /// open files.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        let cache = Arc::new(Cache::new(CacheLimits { bytes_max: 8 << 20, entries_max: 128 }));
        Self {
            storage: Arc::new(EvictingStorage::new(Arc::clone(&storage), Arc::clone(&cache), None)),
            unsynced_files: Arc::new(UnsyncedFiles::new(Arc::clone(&storage), usize::MAX)),
            plain: storage,
            wal_id: WalId(0),
            read_only: false,
            reserve: None,
            map: None,
            journal: None,
            journal_reader: None,
            notifier: None,
            notify_reader: None,
            poll_interval: POLL_INTERVAL,
            followers_end: AtomicBool::new(false),
            reader_tasks: ReaderTasks::default(),
            dir_syncs: Mutex::new(Vec::new()),
            cache,
            no_segments: Arc::default(),
            no_report: Arc::default(),
            no_truncations: Arc::default(),
            recent_options: Mutex::default(),
            pending: Arc::new(BufferPool::new()),
            encoders: BufferPool::new(),
            sync_times: Durations::default(),
        }
    }

    /// Sets the id of the log, which every segment records.
    #[must_use]
    pub fn wal_id(mut self, wal_id: WalId) -> Self {
        self.wal_id = wal_id;
        self
    }

    /// Sets whether streams are only read. Another process may write to them at the same time.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets the file that keeps [`RESERVE_LEN`](crate::RESERVE_LEN) bytes for a full disk, and
    /// creates it if there is space. If streams are only read, the file is never created. Set the
    /// log's id and `read_only` first.
    #[must_use]
    pub fn emergency_reserve_at(mut self, path: impl Into<PathBuf>) -> Self {
        // Each log of a machine fills its reserve with different bytes. Otherwise a deduplicating
        // file system would keep one copy for all logs.
        let seed = (self.wal_id.0 ^ (self.wal_id.0 >> 64)) as u64;
        self.reserve = Some(EmergencyReserve::new(path.into(), seed));
        if !self.read_only {
            self.make_reserve();
        }
        self
    }

    /// Sets the bounds of the cache of sealed segments: bytes of indexes, and open files.
    #[must_use]
    pub fn cache(mut self, bytes_max: usize, entries_max: usize) -> Self {
        self.cache = Arc::new(Cache::new(CacheLimits { bytes_max, entries_max }));
        self.wrap_storage();
        self
    }

    /// Sets how many files all streams together may hold open for finished segments with unsynced
    /// bytes. An append that begins a segment above that bound syncs the finished segments of its
    /// own stream. By default only each stream's own bound applies.
    #[must_use]
    pub fn unsynced_files(mut self, max: usize) -> Self {
        self.unsynced_files = Arc::new(UnsyncedFiles::new(Arc::clone(&self.plain), max));
        self
    }

    /// Sets how many bytes of memory the entries of all streams take that wait to be written to
    /// files. An append that finds more writes those of its stream. By default only each stream's
    /// own bound applies.
    #[must_use]
    pub fn tails(mut self, bytes_max: usize) -> Self {
        self.pending = Arc::new(BufferPool::new().holding(bytes_max));
        self
    }

    /// Reads sealed segments through memory mappings, on the caller's promise. Default: positioned
    /// reads.
    #[must_use]
    pub fn map_reads(mut self, promise: MapPromise) -> Self {
        self.map = Some(promise);
        self
    }

    /// Sets the commit journal, through which appends are acknowledged. Ignored if streams are only
    /// read.
    #[must_use]
    pub fn journal(mut self, journal: Arc<LogJournal>) -> Self {
        self.journal = Some(journal).filter(|_| !self.read_only);
        self.wrap_storage();
        self
    }

    /// Sets the reader of the commit journal, whose entries are read together with those of the
    /// files. Ignored unless streams are only read.
    #[must_use]
    pub fn journal_reader(mut self, reader: Arc<JournalReader>) -> Self {
        self.journal_reader = Some(reader).filter(|_| self.read_only);
        self
    }

    /// Sets the counter that readers in other processes look at. Ignored if streams are only read.
    #[must_use]
    pub fn notifier(mut self, notifier: Arc<Notifier>) -> Self {
        self.notifier = Some(notifier).filter(|_| !self.read_only);
        self
    }

    /// Sets the counter by which a reader sees that nothing has changed. Ignored unless streams are
    /// only read.
    #[must_use]
    pub fn notify_reader(mut self, reader: NotifyReader) -> Self {
        self.notify_reader = Some(reader).filter(|_| self.read_only);
        self
    }

    /// Sets how often a follower of a stream that is only read looks at it where the writer cannot
    /// wake it. Default: [`POLL_INTERVAL`].
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    pub(crate) const fn notified_by(&self) -> Option<&NotifyReader> {
        self.notify_reader.as_ref()
    }

    /// Has the followers of streams that are only read end.
    pub fn end_followers(&self) {
        // Release; pairs with the Acquire in `have_followers_ended`.
        self.followers_end.store(true, Ordering::Release);
    }

    pub(crate) fn have_followers_ended(&self) -> bool {
        // Acquire; pairs with the Release in `end_followers`.
        self.followers_end.load(Ordering::Acquire)
    }

    pub(crate) fn own_notifier(&self) -> Option<Arc<Notifier>> {
        self.notifier.clone()
    }

    /// Has readers in other processes look again.
    pub fn notify(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.notify_and_wake();
        }
    }

    /// Wakes followers in other processes after a sync of the commit journal.
    pub(crate) fn wake_after_sync(&self) {
        if let (Some(notifier), Some(journal)) = (&self.notifier, &self.journal) {
            notifier.wake_after_sync(journal.journal.durable().0);
        }
    }

    /// The reader of the commit journal, if it was set.
    #[must_use]
    pub const fn reader_of_journal(&self) -> Option<&Arc<JournalReader>> {
        self.journal_reader.as_ref()
    }

    /// The options of a stream, in memory that it shares with the streams that have the same.
    pub(crate) fn share_options(&self, options: StreamOptions) -> Arc<StreamOptions> {
        let mut recent = self.recent_options.lock();
        if !recent.is_same(&options) {
            *recent = Arc::new(options);
        }
        Arc::clone(&recent)
    }

    fn wrap_storage(&mut self) {
        let files = self.journal.as_ref().map(|journal| Arc::clone(journal.files()));
        self.storage = Arc::new(EvictingStorage::new(Arc::clone(&self.plain), Arc::clone(&self.cache), files));
    }

    /// Bounds the open files of active segments, if the log has a commit journal. `writer` is that
    /// of such a segment, of the stream at `location`.
    pub(crate) fn take_over(
        &self,
        location: &Location,
        writer: SegmentWriter,
    ) -> (SegmentWriter, Option<Arc<ActiveFile>>) {
        let Some(journal) = &self.journal else { return (writer, None) };
        let (writer, file) = ActiveFile::take_over(journal.files(), &self.storage, location, writer);
        (writer, Some(file))
    }

    /// The commit journal, if the log has one.
    #[must_use]
    pub const fn log_journal(&self) -> Option<&Arc<LogJournal>> {
        self.journal.as_ref()
    }

    /// The promise that allows mappings, if it was made.
    pub(crate) const fn map_promise(&self) -> Option<MapPromise> {
        self.map
    }

    /// The storage. If an operation that opens a file finds no descriptor, the cache closes its
    /// files, and the operation is tried once more.
    #[must_use]
    pub const fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The storage as given by the caller, without eviction. For operations that open no file and
    /// are needed by every append: the clocks, and the check for a forked process.
    pub(crate) fn system(&self) -> &dyn Storage {
        &*self.plain
    }

    /// The storage that [`system`](Self::system) returns, shared.
    pub(crate) const fn plain(&self) -> &Arc<dyn Storage> {
        &self.plain
    }

    /// Whether streams are only read.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The use of the cache of sealed segments.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        let stats = self.cache.stats();
        CacheStats { hits: stats.hits, misses: stats.misses, segments: stats.entries, bytes: stats.bytes }
    }

    /// How long the syncs of segment files took, of all streams.
    #[must_use]
    pub fn sync_times(&self) -> SyncTimes {
        SyncTimes::of(&self.sync_times)
    }

    /// How many bytes the emergency reserve holds now, at most [`RESERVE_LEN`](crate::RESERVE_LEN).
    /// Returns 0 if the reserve is missing or its file cannot be opened. Counts disk blocks if the
    /// file system reports them.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve.as_ref().map_or(0, |reserve| reserve.held(&*self.storage))
    }

    /// Runs `act`. If the disk is full and `reserve` allows it, gives up the emergency reserve and
    /// runs `act` once more. `act` must change nothing if the disk is full.
    pub(crate) fn with_reserve<T, E>(
        &self,
        reserve: ReserveUse,
        is_full: impl FnOnce(&E) -> bool,
        mut act: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let done = act();
        match (&done, &self.reserve) {
            (Err(error), Some(kept)) if reserve == ReserveUse::Allowed && is_full(error) => {
                if !kept.give_up(&**self.storage()) {
                    return done;
                }
            }
            _ => return done,
        }
        let done = act();
        if done.is_err() {
            // The reserve did not help here, and other calls may need it. After a success the
            // following steps use the rest of it, and the call restores it at its end.
            self.make_reserve();
        }
        done
    }

    /// Restores the emergency reserve to its full length if there is space.
    pub(crate) fn make_reserve(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.make(&**self.storage());
        }
    }

    /// Restores the emergency reserve if there is space and the last check found it incomplete.
    pub(crate) fn make_reserve_again(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.make_again(&**self.storage());
        }
    }

    /// Syncs the parent of the directory of the stream at `location`. Streams that request this at
    /// the same time share a sync.
    pub(crate) fn sync_parent(&self, location: &Location) -> io::Result<()> {
        self.dir_syncs_of(location).sync(&self.storage, location.parent())
    }

    /// Ensures that [`sync_parent`](Self::sync_parent) will not run out of descriptors.
    pub(crate) fn prepare_parent_sync(&self, location: &Location) -> io::Result<()> {
        self.dir_syncs_of(location).ready(&self.storage, location.parent()).map(drop)
    }

    fn dir_syncs_of(&self, location: &Location) -> Arc<DirSyncs> {
        let dir = location.parent();
        let mut all = self.dir_syncs.lock();
        if let Some((_, syncs)) = all.iter().find(|syncs| syncs.0 == dir) {
            return Arc::clone(syncs);
        }
        let syncs = Arc::new(DirSyncs::new());
        all.push((dir.to_owned(), Arc::clone(&syncs)));
        syncs
    }

    pub(crate) const fn id(&self) -> WalId {
        self.wal_id
    }
}
