//! An open log: looking up, deleting, syncing and closing its streams.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_storage::{Lock, Storage};
use stratawal_stream::{
    CacheStats, DeleteError, DiskUsage, FollowGroup, JournalReport, JournalStats, Location, LogContext, LogJournal,
    LogTickets, NotifyReader, StreamLog, StreamOptions, SyncTimes, delete,
};
use stratawal_sync::Mutex;
use stratawal_sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result, io_error, log_error, stream_error};
use crate::follow_prefix::FollowPrefix;
use crate::for_each::for_each_stream;
use crate::journal::{self, CarriedSettler};
use crate::maintenance::Maintenance;
use crate::name;
use crate::options::Options;
use crate::root::{NOTIFY, RESERVE, Root};
use crate::slots::{Change, SlotUser, Slots};
use crate::stream::Stream;
use crate::ticket_threads::TicketThreads;

/// An open log. Clones are handles on the same log.
///
/// A log that is open for writing holds a lock: no other process, and no second [`open`] in this
/// one, can open it for writing. Every handle keeps the lock, whether it is a clone of the `Wal`, a
/// [`Stream`] or a [`Follow`](crate::Follow); iterators do not. [`close`](Self::close) releases the
/// lock, and so does dropping the last handle.
///
/// Dropping the last handle closes the log on a best-effort basis and reports no errors;
/// [`close`](Self::close) reports them.
///
/// [`open`]: Self::open
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    // Declared, and so dropped, before the root: streams are closed while the lock is held.
    streams: Arc<Slots>,
    root: Mutex<Root>,
    context: Arc<LogContext>,
    /// `None` if the log has no such thread, and once the log is closed.
    maintenance: Mutex<Option<Maintenance>>,
    tickets: Tickets,
    stream_defaults: StreamOptions,
    closed: AtomicBool,
    closing: Mutex<()>,
    /// Held by the one call that may start threads.
    helpers: Mutex<()>,
}

/// The tickets of a log, and the threads that complete them.
struct Tickets {
    tickets: Arc<LogTickets>,
    /// Whether the log may start threads.
    allowed: bool,
    /// Whether `threads` is set.
    started: AtomicBool,
    /// `None` before the first submit, and once the log is closed.
    threads: Mutex<Option<TicketThreads>>,
}

/// What becomes of the entries in the journal when a log is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The streams' files get them.
    Settled,
    /// They stay there for the next opening.
    Fast,
}

/// The state of a log, and what it has done since it was opened.
///
/// Each number was exact at some moment during the call; not all of them were at the same one. The
/// numbers of streams are of those that are open in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of streams that are open in this process.
    pub streams: u64,
    /// The live entries of those streams, accepted ones included.
    pub entries: u64,
    /// The number of their segment files with live entries, plus the active one of each.
    pub segments: u64,
    /// The sum of [`StreamStats::tail_bytes`](crate::StreamStats::tail_bytes).
    pub tail_bytes: u64,
    /// The sum of [`StreamStats::writes`](crate::StreamStats::writes).
    pub writes: u64,
    /// The sum of [`StreamStats::written_entries`](crate::StreamStats::written_entries).
    pub written_entries: u64,
    /// The sum of [`StreamStats::clock_jumps`](crate::StreamStats::clock_jumps).
    pub clock_jumps: u64,
    /// How long the syncs of segment files took, those of closed streams included.
    pub sync_times: SyncTimes,
    /// How the cache of sealed segments is used.
    pub cache: CacheStats,
    /// The bytes of the files of the commit journal, which are preallocated; 0 without a journal,
    /// and in a log opened for reading.
    pub journal_bytes: u64,
    /// The commit journal. `None` without one, and in a log opened for reading.
    pub journal: Option<JournalStats>,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log in the directory `path` with the default [`Options`]. Creates it if it does
    /// not exist.
    ///
    /// By default, a log has a [commit journal](Options::journal), and a log without one gets one.
    ///
    /// # Errors
    /// Same as [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    pub(crate) fn open_on(storage: Arc<dyn Storage>, path: &Path, options: &Options, read_only: bool) -> Result<Self> {
        options.validate()?;
        let root = if read_only { Root::open_read_only(&*storage, path)? } else { Root::open(&*storage, path)? };
        Self::of_root(root, path, options, read_only)
    }

    /// Opens a log for writing whose lock this process has already.
    pub(crate) fn open_locked(
        storage: Arc<dyn Storage>,
        path: &Path,
        options: &Options,
        lock: Box<dyn Lock>,
    ) -> Result<Self> {
        Self::of_root(Root::open_locked(&*storage, path, lock)?, path, options, false)
    }

    fn of_root(mut root: Root, path: &Path, options: &Options, read_only: bool) -> Result<Self> {
        let without_journal = |root: &Root| context(root, options, read_only);
        let (context, journal) = if read_only {
            (without_journal(&root), None)
        } else {
            journal::open(&mut root, options, without_journal)?
        };
        // Readers that find no counter look at the files each time.
        let notifier = Some(context.storage()).filter(|_| options.notify && !read_only);
        let notifier = notifier.and_then(|storage| options.notifier(storage, Path::new(NOTIFY)).ok());
        let context = match notifier {
            Some(notifier) => context.notifier(Arc::new(notifier)),
            None => context,
        };
        let context = Arc::new(context);
        let streams = Arc::new(Slots::default());
        if let Some(journal) = &journal {
            let slots = Arc::downgrade(&streams);
            let options = options.stream_defaults.clone();
            let settler = CarriedSettler { slots, context: Arc::downgrade(&context), streams: root.streams(), options };
            journal.settle_carried_by(Some(Box::new(settler)));
        }
        let maintenance = match journal.filter(|_| options.maintenance_thread) {
            Some(journal) => Some(Maintenance::start(&journal, context.storage(), options.sync_interval)?),
            None => None,
        };
        // This storage closes files of the cache if the process runs out of descriptors.
        root.storage = Arc::clone(context.storage());
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                streams,
                root: Mutex::new(root),
                context,
                maintenance: Mutex::new(maintenance),
                tickets: Tickets::new(options.maintenance_thread),
                stream_defaults: options.stream_defaults.clone(),
                closed: AtomicBool::new(false),
                closing: Mutex::new(()),
                helpers: Mutex::new(()),
            }),
        })
    }

    /// Returns a handle on the stream `name`. The first look-up of a name reads the stream, and
    /// recovers it if it was not closed cleanly; later look-ups are cheap. Nothing is created
    /// before the first append.
    ///
    /// Opening a stream reads the headers of its files and its end, not all entries. Damage to
    /// other entries is found when they are read, or by
    /// [`inspect::verify`](crate::inspect::verify).
    ///
    /// The stream has the options of [`Options::stream_defaults`], unless it is open with others
    /// ([`stream_with`](Self::stream_with)). When its last handle is dropped, a stream without
    /// entries is forgotten, along with its options.
    ///
    /// Any UTF-8 string is a name, and different names are different streams. In a log opened for
    /// reading, each look-up sees the stream as it is at that time.
    ///
    /// # Files and memory
    ///
    /// A new stream has no directory and no file until the [journal](Options::journal) needs the
    /// room, or until the stream has 64 KiB. From then on the segment that is being written is open
    /// while it is in use; [`Options::active_files`] bounds these files. In a log without a
    /// journal, a stream holds this file open from its first append, or from its first look-up if
    /// it has entries, until the stream is [closed](Stream::close), or the log is closed and the
    /// last handle on the stream is dropped.
    ///
    /// An idle stream takes about 3 KB of memory, or 1.5 KB while it has no directory. A stream
    /// in use also holds the index of that segment (24 bytes for each 4 KiB) and the entries
    /// waiting to be written. Sealed segments are opened when they are read, within
    /// [`Options::cache_bytes`] and [`Options::cache_files`].
    ///
    /// A log of many streams without a journal needs a limit of open files (`ulimit -n`) above the
    /// number of its streams plus the files of the cache. If the limit is reached, the cache closes
    /// its files, and an append that begins a segment syncs and closes the finished segments of its
    /// own stream. A call that still cannot open a file fails with [`Io`](ErrorKind::Io); nothing
    /// is lost, and open streams continue in the files they have.
    ///
    /// # Errors
    /// - [`InvalidName`](ErrorKind::InvalidName): `name` is empty, or longer than 240 bytes when
    ///   escaped. An ASCII lower-case letter, a digit, `-`, `_`, and `.` within the name take 1
    ///   byte; any other byte takes 3.
    /// - [`Damaged`](ErrorKind::Damaged): this stream cannot be used, but the others can, unless
    ///   the journal of a log that was opened for reading is damaged.
    /// - [`Closed`](ErrorKind::Closed); any operating-system error.
    pub fn stream(&self, name: &str) -> Result<Stream> {
        self.look_up(name, None)
    }

    /// Returns a handle on the stream `name`, and gives the stream its own options. Otherwise like
    /// [`stream`](Self::stream).
    ///
    /// # Errors
    /// Same as [`stream`](Self::stream). Also [`InvalidOption`](ErrorKind::InvalidOption) if an
    /// option is out of its range, or if the stream is already open; an open stream keeps the
    /// options it was opened with.
    pub fn stream_with(&self, name: &str, options: StreamOptions) -> Result<Stream> {
        self.look_up(name, Some(options))
    }

    fn look_up(&self, name: &str, options: Option<StreamOptions>) -> Result<Stream> {
        let dir = stream_dir(name)?;
        let inner = &self.inner;
        inner.check_process()?;
        inner.check_open(name)?;
        let open = |options: Option<StreamOptions>| {
            let options = options.unwrap_or_else(|| inner.stream_defaults.clone());
            StreamLog::open(Arc::clone(&inner.context), inner.location(&dir, name), options)
        };
        if inner.context.is_read_only() {
            return Ok(Stream::new(open(options)?, SlotUser::of_reader(self)));
        }
        // Only the slot of this stream is locked while it is recovered, so that look-ups of other
        // streams do not wait.
        let user = SlotUser::of_slot(self, &inner.streams, name);
        let mut slot = user.lock();
        inner.check_open(name)?;
        let mut watches = Vec::new();
        let log = match (&*slot, options) {
            (Some(_), Some(_)) => {
                let text = format!("the stream {name:?} is already open; its options are those of its first look-up");
                return Err(stream_error(ErrorKind::InvalidOption, name, text));
            }
            (Some(log), None) => log.clone(),
            (None, options) => {
                let log = slot.insert(open(options)?).clone();
                watches = inner.streams.note(name, Change::Opened(&log));
                log
            }
        };
        drop(slot);
        watches.iter().for_each(|watch| watch.wake());
        Ok(Stream::new(log, user))
    }

    /// A handle on the stream `name` if it is open, also once the log is closed.
    pub(crate) fn stream_if_open(&self, name: &str) -> Option<Stream> {
        let user = SlotUser::of_slot(self, &self.inner.streams, name);
        let log = user.lock().clone();
        log.map(|log| Stream::new(log, user))
    }

    /// Opens the part of the stream before its first damage, in a log opened for reading. Used by
    /// [`inspect::readable`](crate::inspect::readable).
    pub(crate) fn readable(&self, name: &str) -> Result<(Stream, Option<Error>)> {
        let location = self.inner.location(&stream_dir(name)?, name);
        let options = self.inner.stream_defaults.clone();
        let (log, damage) = StreamLog::open_before_damage(Arc::clone(&self.inner.context), location, options)?;
        Ok((Stream::new(log, SlotUser::of_reader(self)), damage))
    }

    /// Durably drops the entries of the stream `name` below `first`, like
    /// [`Stream::truncate_before`](crate::Stream::truncate_before). It works even if
    /// [`stream`](Self::stream) refuses the stream because of damage below `first`. Afterwards the
    /// stream can be looked up and appended to.
    ///
    /// This drops the damage and every entry before it, including the intact ones. Read those first
    /// with [`inspect::salvage`](crate::inspect::salvage). A `first` above the end drops every
    /// entry.
    ///
    /// Everything at or above `first` must be intact. Below it, any damage is allowed: a missing
    /// segment file, a damaged header, damaged frames.
    /// [`inspect::salvage`](crate::inspect::salvage) reports which entries are lost, and so the
    /// lowest `first` that works. If the newest segment file is missing, was shortened or
    /// lengthened, or has a damaged header or end, no `first` works, because the entries at the end
    /// are then unknown.
    ///
    /// This call fails if the stream's directory contains a valid segment file of another stream or
    /// log, or one that was renamed. It does not remove such a file; move the file away first.
    ///
    /// If the process dies during this call, the entries may or may not be dropped. If the stream
    /// is still refused after that, call this again.
    ///
    /// # Errors
    /// [`Damaged`](ErrorKind::Damaged) if entries at or above `first` are, or may be, damaged or
    /// missing; nothing is changed then. Otherwise the same errors as [`stream`](Self::stream) and
    /// `Stream::truncate_before`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let wal = stratawal::Wal::open(dir.path())?;
    /// # let stream = wal.stream("orders")?;
    /// # for seq in 0..20 { stream.append([seq])?; }
    /// wal.truncate_before("orders", 10)?;
    /// assert_eq!(wal.stream("orders")?.first_seq(), 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn truncate_before(&self, name: &str, first: u64) -> Result<()> {
        match self.look_up(name, None) {
            Ok(stream) => stream.truncate_before(first),
            Err(error) if error.kind() == ErrorKind::Damaged => self.truncate_damaged(name, first),
            Err(error) => Err(error),
        }
    }

    /// Drops the entries below `first` of a stream that is not open, and recovers the others. They
    /// get a new generation, so that the damage is not in the way of a later recovery.
    pub(crate) fn truncate_damaged(&self, name: &str, first: u64) -> Result<()> {
        let inner = &self.inner;
        let dir = stream_dir(name)?;
        let user = SlotUser::of_slot(self, &inner.streams, name);
        let mut slot = user.lock();
        inner.check_open(name)?;
        // Another thread may have opened the stream.
        let mut watches = Vec::new();
        let log = match &*slot {
            Some(log) => log,
            None => {
                let options = inner.stream_defaults.clone();
                let context = Arc::clone(&inner.context);
                let log = slot.insert(StreamLog::open_above(context, inner.location(&dir, name), options, first)?);
                watches = inner.streams.note(name, Change::Opened(log));
                log
            }
        };
        let truncated = log.truncate_before(first);
        drop(slot);
        watches.iter().for_each(|watch| watch.wake());
        truncated
    }

    /// Returns the names of all streams, sorted by their escaped forms
    /// ([`inspect::escape_name`](crate::inspect::escape_name)). Streams that were never appended to
    /// are not included. One whose first append failed may be included; it is empty. Streams that
    /// only the [journal](Options::journal) has are included, also in a log opened for reading,
    /// unless the journal is damaged.
    ///
    /// # Errors
    /// Any operating-system error.
    pub fn streams(&self) -> Result<Vec<String>> {
        self.inner.check_process()?;
        if let Some(journal) = self.inner.context.reader_of_journal() {
            return self.inner.root.lock().stream_names_with(journal);
        }
        let Some(journal) = self.inner.context.log_journal() else { return self.inner.root.lock().stream_names() };
        let deleted = journal.unfinished_deletions();
        // A stream passes from the first of these lists to the later ones, so none is missed.
        let mut names = journal.carried_with_entries();
        let open = self.inner.streams.open();
        names.extend(open.iter().filter(|stream| stream.exists()).map(|stream| stream.name().to_owned()));
        drop(open);
        let in_directories = self.inner.root.lock().stream_names()?;
        names.extend(in_directories.into_iter().filter(|name| !deleted.contains(name)));
        names.sort_by_cached_key(|name| name::escape(name));
        names.dedup();
        Ok(names)
    }

    /// Follows all streams whose names begin with `prefix`, also those that are created later. The
    /// empty prefix follows all streams of the log. See [`FollowPrefix`].
    ///
    /// Each stream is followed from its position in `positions`, or from 0: the positions of an
    /// earlier [`FollowPrefix::positions`], or none. Those of other names are ignored. If a stream
    /// of `positions` no longer exists, its first event is
    /// [`Deleted`](crate::FollowEvent::Deleted).
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use stratawal::{FollowEvent, Wal};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let wal = Wal::open(dir.path())?;
    /// wal.stream("order-1")?.append("one apple")?;
    /// let mut follow = wal.follow_prefix("order-", BTreeMap::new())?;
    /// wal.stream("order-2")?.append("two pears")?;
    /// for _ in 0..2 {
    ///     let next = follow.next().expect("the log is open")?;
    ///     if let FollowEvent::Entry(entry) = next.event {
    ///         println!("{} {}: {:?}", next.stream, entry.seq(), entry.data());
    ///     }
    /// }
    /// // Stored with the results, and given to `follow_prefix` after a restart.
    /// assert_eq!(follow.positions().len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed); any operating-system error.
    pub fn follow_prefix(&self, prefix: &str, positions: BTreeMap<String, u64>) -> Result<FollowPrefix> {
        self.inner.check_process()?;
        if self.is_closed() {
            return Err(log_error(ErrorKind::Closed, format!("the log {} was closed", self.inner.path.display())));
        }
        FollowPrefix::new(self, prefix, positions)
    }

    /// Durably deletes the stream `name` with all its entries: no crash brings it back, even one
    /// that interrupts the removal of its files. A damaged or poisoned stream can also be deleted.
    /// A stream of the same name that is created later has nothing in common with it, and begins at
    /// 0.
    ///
    /// The stream's directory is renamed and then removed. With a
    /// [journal](crate::Options::journal), this also works where a directory cannot be renamed: in
    /// the lower layer of an overlay, or if it is a mount point. Then its files are removed where
    /// they are, and the name is refused until the directory is gone; each look-up of the name
    /// tries again.
    ///
    /// A position that a program kept in the deleted stream would then mean an entry of the new
    /// one. To prevent this, let the new stream begin where the old one ended:
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = stratawal::Wal::open(dir.path())?;
    /// # wal.stream("orders")?.append("one apple")?;
    /// let end = wal.stream("orders")?.next_seq();
    /// wal.delete_stream("orders")?;
    /// wal.truncate_before("orders", end)?;
    /// assert_eq!(wal.stream("orders")?.append("two pears")?, end);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Later appends on its handles fail with [`Missing`](ErrorKind::Missing), and so do appends
    /// that are waiting. Its iterators end with [`Cut`](ErrorKind::Cut).
    ///
    /// # Errors
    /// - [`Missing`](ErrorKind::Missing): there is no such stream, and no crash brings one back.
    /// - [`Io`](ErrorKind::Io): the text states which of two things happened: nothing was deleted,
    ///   or the stream is deleted but a file in its directory could not be removed. It names that
    ///   file, which may be one that the log did not create. If it states neither, the stream may
    ///   or may not exist after a crash: delete it again.
    /// - [`ReadOnly`](ErrorKind::ReadOnly); [`Closed`](ErrorKind::Closed);
    ///   [`InvalidName`](ErrorKind::InvalidName).
    pub fn delete_stream(&self, name: &str) -> Result<()> {
        let inner = &self.inner;
        let dir = stream_dir(name)?;
        inner.check_process()?;
        if inner.context.is_read_only() {
            return Err(stream_error(ErrorKind::ReadOnly, name, "the log was opened for reading only"));
        }
        let user = SlotUser::of_slot(self, &inner.streams, name);
        let mut slot = user.lock();
        inner.check_open(name)?;
        let existed = match &*slot {
            Some(log) => log.delete(),
            None => delete(&inner.context, &inner.location(&dir, name)),
        };
        if let Err(DeleteError::Undone(error)) = existed {
            return Err(error);
        }
        *slot = None;
        let is_gone = !matches!(existed, Ok(false));
        let watches = if is_gone { inner.streams.note(name, Change::Deleted) } else { Vec::new() };
        drop(slot);
        watches.iter().for_each(|watch| watch.wake());
        match existed {
            Ok(true) => Ok(()),
            Ok(false) => Err(unknown_stream(&inner.path, name)),
            Err(DeleteError::Undone(error) | DeleteError::Indeterminate(error) | DeleteError::Left(error)) => {
                Err(error)
            }
        }
    }

    /// Makes everything accepted so far durable, in every stream.
    ///
    /// # Errors
    /// The error of the first stream that fails; the others are still synced. A stream that is
    /// deleted at the same time is left out. [`Io`](ErrorKind::Io) if the directory of the log was
    /// removed; its entries are then lost.
    pub fn sync(&self) -> Result<()> {
        self.inner.check_process()?;
        if self.inner.context.is_read_only() {
            return Err(log_error(ErrorKind::ReadOnly, "the log was opened for reading only"));
        }
        let streams = self.inner.streams.open();
        if let Some(journal) = self.inner.context.log_journal() {
            // One sync for all streams. The call on each stream meets any error of this again, and
            // recovers a stream that a full disk has stopped.
            let _ = journal.sync_streams();
        }
        let waits = |stream: &StreamLog| stream.durable_seq() < stream.next_seq();
        let sync = |stream: &StreamLog| match stream.sync() {
            // Closing it has made it durable.
            Err(_) if stream.is_closed_for_good() => Ok(()),
            synced => unless_deleted(synced),
        };
        for_each_stream(&streams, self.inner.helpers.try_lock(), waits, sync)?;
        self.inner.root.lock().check_exists()
    }

    /// Makes everything accepted durable, closes every stream cleanly so that the next open scans
    /// no stream, and releases the lock. Later appends fail with [`Closed`](ErrorKind::Closed).
    /// Handles and iterators can still read, and hold files and memory until the last of them is
    /// dropped. Closing again does nothing.
    ///
    /// Every [`Ticket`](crate::Ticket) is complete and every callback has returned when this
    /// returns, unless it is called in a callback or a waker of a ticket. There it does not wait
    /// for callbacks, nor for another thread that is closing the log.
    ///
    /// Use this before the log is copied, moved or backed up: no entry is in the
    /// [journal](crate::Options::journal) alone afterwards, and any copy of the directory is as
    /// good as the original. It takes one or two syncs for each stream that was written.
    /// [`close_fast`](Self::close_fast) takes one for all.
    ///
    /// # Errors
    /// The error of the first stream that fails; the others, and the log, are still closed. A
    /// stream that is deleted at the same time is left out.
    pub fn close(&self) -> Result<()> {
        self.inner.close(How::Settled)
    }

    /// Makes everything accepted durable by one sync of the [journal](crate::Options::journal), and
    /// releases the lock. The streams are not settled: entries stay in the journal, and the next
    /// open reads it, as after a crash. Otherwise like [`close`](Self::close). In a log without a
    /// journal, both do the same.
    ///
    /// Afterwards [`sync`](Self::sync), [`Stream::sync`] and [`Stream::flush`] fail with
    /// [`Closed`](ErrorKind::Closed) in a log with a journal, even if every entry is durable. After
    /// [`close`](Self::close) all three succeed.
    ///
    /// Use this to end a process in a hurry, or one that is about to be started again. Do not copy
    /// the log in this state: a copy is refused with [`Copied`](ErrorKind::Copied) until it is
    /// [adopted](crate::Options::adopt_copy), and without the directory of the journal it lacks
    /// entries. Opening it with [`journal(false)`](crate::Options::journal) settles every stream.
    ///
    /// It also syncs the files of streams whose entries have reached their files but not the disk;
    /// there are none after a [`sync`](Self::sync).
    ///
    /// # Errors
    /// The error of the first stream that fails; the others, and the log, are still closed.
    pub fn close_fast(&self) -> Result<()> {
        self.inner.close(How::Fast)
    }

    /// The tickets of the log. Starts the threads that complete them.
    pub(crate) fn tickets(&self, stream: &str) -> Result<&Arc<LogTickets>> {
        let inner = &self.inner;
        inner.check_process()?;
        let tickets = &inner.tickets;
        // Acquire; pairs with the Release in `start`.
        if !tickets.started.load(Ordering::Acquire) {
            inner.start_ticket_threads(stream)?;
        }
        Ok(&tickets.tickets)
    }

    /// Runs a round of tickets in this thread. From then on a submit needs no threads. For
    /// simulations. Not part of the stable API.
    #[cfg(feature = "unstable-storage")]
    #[doc(hidden)]
    pub fn drive_tickets(&self) -> bool {
        self.inner.tickets.started.store(true, Ordering::Release);
        let tickets = &self.inner.tickets.tickets;
        let driven = tickets.drive();
        tickets.run_callbacks(false) || driven
    }

    /// The context of the log, and the place of a stream in it.
    pub(crate) fn context_and_location(&self, name: &str) -> Result<(Arc<LogContext>, Location)> {
        let location = self.inner.location(&stream_dir(name)?, name);
        Ok((Arc::clone(&self.inner.context), location))
    }

    pub(crate) fn log_journal(&self) -> Option<&Arc<LogJournal>> {
        self.inner.context.log_journal()
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.inner.streams
    }

    pub(crate) fn check_process(&self) -> Result<()> {
        self.inner.check_process()
    }

    /// Whether the log is closed, or is being closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire)
    }

    /// Returns once the log is closed. A close of it has begun. The threads of the tickets do not
    /// wait, because the close waits for them.
    pub(crate) fn wait_for_close(&self) {
        if !self.inner.tickets.tickets.is_own_thread() {
            drop(self.inner.closing.lock());
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.inner.context.is_read_only()
    }

    /// Has `group` woken with `key` when the writer has changed something, in a log opened for
    /// reading.
    pub(crate) fn have_reader_woken(&self, group: &FollowGroup, key: u64) -> Result<()> {
        let started = group.wake_with_reader(&self.inner.context, key);
        started.map_err(|e| io_error("cannot start the thread that wakes followers", e))
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.inner.context.storage().is_forked()
    }

    /// The result of opening the commit journal, or `None` if the log has none or was opened for
    /// reading. What a crash left in it is counted here; each stream takes its entries when it is
    /// first looked up.
    #[must_use]
    pub fn journal_report(&self) -> Option<JournalReport> {
        self.inner.context.log_journal().map(|journal| journal.report().clone())
    }

    /// Returns the state of the log, and what it has done since it was opened. Opens no file. Takes
    /// some microseconds, and a fraction of one for each open stream. A stream that is being opened
    /// or closed is left out.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let wal = stratawal::Wal::open(dir.path())?;
    /// wal.stream("orders")?.append("an entry")?;
    /// let stats = wal.stats()?;
    /// assert_eq!((stats.streams, stats.entries), (1, 1));
    /// let times = stats.journal.map_or(stats.sync_times, |journal| journal.sync_times);
    /// println!("{} syncs, 99 % of them within {:?}", times.count(), times.percentile(99.0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Only [`Forked`](ErrorKind::Forked): a forked child does not wait for a lock.
    pub fn stats(&self) -> Result<Stats> {
        self.inner.check_process()?;
        let context = &self.inner.context;
        let journal = context.log_journal();
        let mut stats = Stats {
            cache: context.cache_stats(),
            sync_times: context.sync_times(),
            journal_bytes: journal.map_or(0, |journal| journal.bytes()),
            journal: journal.map(|journal| journal.stats()),
            ..Stats::default()
        };
        for log in self.inner.streams.at_rest().iter() {
            let of_stream = log.stats()?;
            stats.streams += 1;
            stats.entries += of_stream.next_seq.saturating_sub(of_stream.first_seq);
            stats.segments += of_stream.segments;
            stats.tail_bytes += of_stream.tail_bytes;
            stats.writes += of_stream.writes;
            stats.written_entries += of_stream.written_entries;
            stats.clock_jumps += of_stream.clock_jumps;
        }
        Ok(stats)
    }

    /// Measures the disk space of the log: of the streams that are open in this process, of the
    /// commit journal, and of the reserve. Briefly opens each file; a file that is removed at the
    /// same time is not counted.
    ///
    /// # Errors
    /// Any operating-system error.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        self.inner.check_process()?;
        let context = &self.inner.context;
        let mut usage = DiskUsage::default();
        usage.reserve_bytes = context.reserve_bytes();
        usage.journal_bytes = context.log_journal().map_or(0, |journal| journal.bytes());
        for log in self.inner.streams.open().iter() {
            let of_stream = log.disk_usage()?;
            usage.segments += of_stream.segments;
            usage.segment_bytes += of_stream.segment_bytes;
        }
        Ok(usage)
    }
}

/// The context of a log without a commit journal.
fn context(root: &Root, options: &Options, read_only: bool) -> LogContext {
    let context = LogContext::new(Arc::clone(&root.storage))
        .wal_id(root.format.wal_id)
        .read_only(read_only)
        .cache(options.cache_bytes, options.cache_files_max())
        .unsynced_files(Options::unsynced_files_max())
        .tails(options.tail_bytes)
        .emergency_reserve_at(RESERVE);
    let context = if read_only {
        context
            .journal_reader(root.journal_reader())
            .notify_reader(NotifyReader::new(NOTIFY))
            .poll_interval(options.poll_interval)
    } else {
        context
    };
    match options.map {
        Some(promise) => context.map_reads(promise),
        None => context,
    }
}

impl Inner {
    /// Refuses to work in any process other than the one that opened the log. In a forked child the
    /// log's mutexes may stay locked forever, so this check comes before any of them is taken.
    fn check_process(&self) -> Result<()> {
        if !self.context.storage().is_forked() {
            return Ok(());
        }
        let text = format!(
            "the log {} was opened by another process, which this one was forked from; open it anew here, once the other \
             process has closed it, or read-only",
            self.path.display()
        );
        Err(log_error(ErrorKind::Forked, text))
    }

    fn check_open(&self, stream: &str) -> Result<()> {
        if !self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(stream_error(ErrorKind::Closed, stream, format!("the log {} was closed", self.path.display())))
    }

    fn location(&self, dir: &str, name: &str) -> Location {
        Location::new(self.root.lock().streams(), dir).named(name)
    }

    fn close(&self, how: How) -> Result<()> {
        self.check_process()?;
        // A second call waits for the first one. That one may wait for the callbacks of tickets, so
        // a call in such a callback does not wait for it.
        let own = self.tickets.tickets.is_own_thread();
        let closing = if own { self.closing.try_lock() } else { Some(self.closing.lock()) };
        let Some(_closing) = closing else { return Ok(()) };
        // Set before the slots are listed, so a concurrent look-up either sees it or has its stream
        // listed.
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.context.end_followers();
        for name in self.streams.unread() {
            self.streams.open_for_followers(&name, || {
                let location = self.location(&stream_dir(&name)?, &name);
                StreamLog::open(Arc::clone(&self.context), location, self.stream_defaults.clone())
            });
        }
        self.streams.set_final();
        // After this, no look-up opens a stream.
        let streams = self.streams.open();
        // The thread must not use any file once the lock is released.
        drop(self.maintenance.lock().take());
        if let Some(journal) = self.context.log_journal() {
            // From here on no release opens a stream.
            journal.settle_carried_by(None);
        }
        let closed = match self.context.log_journal() {
            // A journal that has failed makes nothing durable, and the files can.
            Some(journal) if how == How::Fast && journal.failure().is_none() => {
                self.close_streams_fast(journal, &streams)
            }
            _ => self.close_streams(&streams),
        };
        // No stream accepts a ticket any more. The threads must not use any file once the lock is
        // released.
        let threads = self.tickets.threads.lock().take();
        drop(threads);
        let mut root = self.root.lock();
        let journal_closed = match how {
            How::Fast => journal::close_fast(&self.context, &root),
            How::Settled => {
                let settled = journal::settle_carried(&self.context, root.streams(), &self.stream_defaults);
                let closed = journal::close(&self.context, &root);
                // A journal that is still needed loses nothing: the next opening finds its records.
                settled.and(closed.map(drop))
            }
        };
        let exists = root.check_exists();
        root.unlock();
        closed?;
        journal_closed?;
        // A log opened for reading has nothing to lose.
        if self.context.is_read_only() { Ok(()) } else { exists }
    }
}

impl Tickets {
    fn new(allowed: bool) -> Self {
        Self {
            tickets: Arc::new(LogTickets::new()),
            allowed,
            started: AtomicBool::new(false),
            threads: Mutex::new(None),
        }
    }
}

impl Inner {
    #[cold]
    fn start_ticket_threads(&self, stream: &str) -> Result<()> {
        if self.context.is_read_only() {
            return Err(stream_error(ErrorKind::ReadOnly, stream, "the log was opened for reading only"));
        }
        let mut threads = self.tickets.threads.lock();
        // Under the lock: a close that has begun takes no threads before this returns, or this
        // finds the log closed.
        self.check_open(stream)?;
        if !self.tickets.allowed {
            let text = "a submit needs a thread of the log, and the log was opened with maintenance_thread(false)";
            return Err(stream_error(ErrorKind::InvalidOption, stream, text));
        }
        if threads.is_none() {
            *threads = Some(TicketThreads::start(&self.tickets.tickets, self.context.storage())?);
            self.tickets.started.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn close_streams(&self, streams: &[StreamLog]) -> Result<()> {
        for_each_stream(streams, Some(self.helpers.lock()), StreamLog::exists, |stream| unless_deleted(stream.close()))
    }

    fn close_streams_fast(&self, journal: &LogJournal, streams: &[StreamLog]) -> Result<()> {
        streams.iter().try_for_each(StreamLog::stop_appends)?;
        // One sync for all streams. The close of each stream meets any error of this again.
        let _ = journal.sync_streams_in_journal();
        let waits = |stream: &StreamLog| stream.durable_seq() < stream.next_seq();
        for_each_stream(streams, Some(self.helpers.lock()), waits, |stream| unless_deleted(stream.close_fast()))
    }
}

impl Drop for Inner {
    /// Closes the log on a best-effort basis; see [`Wal`].
    fn drop(&mut self) {
        let _ = self.close(How::Settled);
    }
}

/// Turns the error for a deleted stream into success, for calls on all streams: a stream that is
/// deleted at the same time has nothing to sync or close.
fn unless_deleted(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::Missing => Ok(()),
        result => result,
    }
}

pub(crate) fn unknown_stream(log: &Path, name: &str) -> Error {
    let text = format!("there is no stream {name:?} in {}; list them with `streams`", log.display());
    stream_error(ErrorKind::Missing, name, text)
}

/// The name of the directory of the stream `name`.
pub(crate) fn stream_dir(name: &str) -> Result<String> {
    // The length is checked first, because escaping takes up to three times the memory of the name.
    let escaped = name::escaped_len(name);
    let text = if name.is_empty() {
        "a stream name has at least one character".to_owned()
    } else if escaped > name::ESCAPED_LEN_MAX {
        let len = name.len();
        let max = name::ESCAPED_LEN_MAX;
        format!("the stream name is too long: {len} bytes, {escaped} when escaped, at most {max}")
    } else {
        return Ok(name::escape(name));
    };
    Err(stream_error(ErrorKind::InvalidName, name, text))
}
