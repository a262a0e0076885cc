//! A log: its streams, and its end.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_storage::Storage;
use stratawal_stream::{self as inner, DeleteError, Location, LogContext, StreamLog, delete};
use stratawal_sync::Mutex;
use stratawal_sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::name;
use crate::options::{Options, StreamOptions};
use crate::root::{RESERVE, Root};
use crate::slots::{SlotUser, Slots};
use crate::stream::Stream;
use crate::together::together;

/// An open log. Clones are handles on the same one.
///
/// Dropping the last handle (of the log or of a stream; iterators do not count) closes it on best
/// effort, without showing errors:
/// [`close`](Self::close) shows them.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    // Before the root: streams are closed while the lock is held.
    streams: Slots,
    root: Mutex<Root>,
    env: Arc<LogContext>,
    defaults: StreamOptions,
    map: Option<inner::MapPromise>,
    closed: AtomicBool,
    closing: Mutex<()>,
    /// Held by the call that has threads of its own.
    helpers: Mutex<()>,
}

/// How much a log, or a stream, holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Streams that are open in this process; 1 for a stream's own numbers.
    pub streams: u64,
    /// Segment files of those.
    pub segments: u64,
    /// Bytes of those files, space reserved ahead included.
    pub disk_bytes: u64,
    /// Appends since those streams were opened that got another time than the clock's. The clock
    /// was more than an hour ahead of the last time plus the time that has passed since. After a
    /// right correction of that size (a machine without a battery clock, a virtual machine that was
    /// paused) times lag until the stream is opened again.
    pub clock_jumps: u64,
    /// Reads of sealed segments that found them open, over all streams.
    pub cache_hits: u64,
    /// Reads that had to open one.
    pub cache_misses: u64,
    /// Sealed segments that are open for reading, over all streams.
    pub cache_files: u64,
    /// Bytes of their indexes.
    pub cache_bytes: u64,
    /// Bytes that the log's reserve holds on the disk now, for truncating, deleting and closing on
    /// a full disk; 65,536 when it is whole. It is made again when there is room. The log and each
    /// of its streams give this one number.
    pub reserve_bytes: u64,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log in the folder `path` with the default [`Options`], and creates it if it is not
    /// there.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Options to open a log with.
    #[must_use]
    pub fn options() -> Options {
        Options::new()
    }

    pub(crate) fn open_on(storage: Arc<dyn Storage>, path: &Path, options: &Options, read_only: bool) -> Result<Self> {
        if let Some(fault) = options.stream.0.fault() {
            return Err(Error::new(
                ErrorKind::InvalidOption,
                format!("invalid option for the streams of a log: {fault}"),
            ));
        }
        let mut root = if read_only { Root::open_read_only(&*storage, path)? } else { Root::open(&*storage, path)? };
        let env = LogContext::new(Arc::clone(&root.storage))
            .wal_id(root.wal_id)
            .read_only(read_only)
            .cache(options.cache_bytes, options.cache_files())
            .unsynced_files(Options::unsynced_files())
            .emergency_reserve_at(RESERVE);
        // It makes room for files.
        root.storage = Arc::clone(env.storage());
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                streams: Slots::default(),
                root: Mutex::new(root),
                env: Arc::new(env),
                defaults: options.stream.clone(),
                map: options.map,
                closed: AtomicBool::new(false),
                closing: Mutex::new(()),
                helpers: Mutex::new(()),
            }),
        })
    }

    /// A handle on the stream `name`, kept by the log's defaults. Looking a name up for the first
    /// time reads the stream, and recovers it if it was not closed cleanly; later look-ups are
    /// cheap. Nothing is created before the first append. A stream without entries is forgotten
    /// with its last handle, and the options that it was looked up with are, too.
    ///
    /// From its first append, or the first look-up of one that is there, a stream holds one file
    /// open, the segment being written, until the log is closed and its last handle is dropped. An
    /// idle one takes some 3 KB of memory; one that is used, also the index of that segment (24
    /// bytes for each 4 KiB) and what waits to be written. Sealed segments are opened when they are
    /// read, within the bounds of [`Options::cache`]. A log of many streams needs a limit of open
    /// files (`ulimit -n`) above their number and those of the cache (a quarter of the limit by
    /// default). Where it is reached, the cache of this log closes its files, and an append that
    /// begins a segment syncs and closes the finished ones of its own stream. A call that still
    /// lacks a file fails with [`Io`](ErrorKind::Io), the streams that are open continue in the
    /// files they have, and nothing is lost.
    ///
    /// Any UTF-8 is a name; names that differ are different streams. In a log opened for reading,
    /// each look-up sees the stream as it is then.
    ///
    /// # Errors
    /// [`InvalidName`](ErrorKind::InvalidName) where it is empty, or longer than 240 bytes when escaped (an ASCII
    /// lower-case letter, digit, `-`, `_` takes 1, and so does `.` within it; any other byte 3);
    /// [`Damaged`](ErrorKind::Damaged): this stream refuses, others go on;
    /// [`Closed`](ErrorKind::Closed); I/O.
    pub fn stream(&self, name: &str) -> Result<Stream> {
        self.lookup(name, None)
    }

    /// The same with options of its own.
    ///
    /// # Errors
    /// As [`stream`](Self::stream); and [`InvalidOption`](ErrorKind::InvalidOption) where an option
    /// is out of its range, or the stream is open already (its options are those it was opened
    /// with).
    pub fn stream_with(&self, name: &str, options: StreamOptions) -> Result<Stream> {
        self.lookup(name, Some(options))
    }

    fn lookup(&self, name: &str, options: Option<StreamOptions>) -> Result<Stream> {
        let folder = folder_of(name)?;
        let inner = &self.inner;
        inner.check_process()?;
        if inner.closed.load(Ordering::Acquire) {
            return Err(inner.is_closed(name));
        }
        let open = |options: Option<StreamOptions>| {
            let options = inner.options(options);
            let place = Location::new(inner.root.lock().streams(), &*folder).named(name);
            StreamLog::open(Arc::clone(&inner.env), place, options)
        };
        if inner.env.is_read_only() {
            return Ok(Stream::new(open(options)?, SlotUser::of_reader(self)));
        }
        // A stream's own slot is held while it is recovered, so that others are not held up.
        let user = SlotUser::of_slot(self, &inner.streams, name);
        let mut slot = user.lock();
        if inner.closed.load(Ordering::Acquire) {
            return Err(inner.is_closed(name));
        }
        let log = match (&*slot, options) {
            (Some(_), Some(_)) => {
                let text = format!("the stream {name:?} is open already; give its options where it is first looked up");
                return Err(Error::of_stream(ErrorKind::InvalidOption, name, text));
            }
            (Some(log), None) => log.clone(),
            (None, options) => slot.insert(open(options)?).clone(),
        };
        drop(slot);
        Ok(Stream::new(log, user))
    }

    /// For [`inspect::readable`](crate::inspect::readable); the log is open for reading.
    pub(crate) fn readable(&self, name: &str) -> Result<(Stream, Option<Error>)> {
        let folder = folder_of(name)?;
        let place = Location::new(self.inner.root.lock().streams(), folder).named(name);
        let options = self.inner.options(None);
        let (log, damage) = StreamLog::open_before_damage(Arc::clone(&self.inner.env), place, options)?;
        Ok((Stream::new(log, SlotUser::of_reader(self)), damage.map(Error::from)))
    }

    /// Drops the entries of the stream `name` below `first`, durably, as
    /// [`Stream::truncate_before`](crate::Stream::truncate_before) does; also where the stream is
    /// damaged below `first`, so that [`stream`](Self::stream) refuses it. Afterwards the stream
    /// can be looked up, and appended to.
    ///
    /// Everything at or above `first` has to be intact. Below it any damage may be: a segment file
    /// that is missing, one whose header is damaged, frames that are damaged.
    /// [`inspect::entries`](crate::inspect::entries) shows which entries are lost, and so the
    /// lowest `first` that works. Where the newest segment file is missing, shortened or
    /// lengthened, or has a damaged header or end, no `first` works: then it is not known which
    /// entries there were at the end.
    ///
    /// While the stream's directory has a valid segment file of another stream or log, or one that
    /// was renamed, this fails. It does not remove such a file: move the file away first.
    ///
    /// If the process dies within this call, the entries are dropped or not. If the stream is still
    /// refused then, call this again.
    ///
    /// # Errors
    /// [`Damaged`](ErrorKind::Damaged) where entries at or above `first` are damaged or missing, or may be; nothing is changed
    /// then. Otherwise as [`stream`](Self::stream), and as `Stream::truncate_before`.
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
        match self.lookup(name, None) {
            Ok(stream) => stream.truncate_before(first),
            Err(error) if error.kind() == ErrorKind::Damaged => self.truncate_damaged(name, first),
            Err(error) => Err(error),
        }
    }

    fn truncate_damaged(&self, name: &str, first: u64) -> Result<()> {
        let (folder, inner) = (folder_of(name)?, &self.inner);
        let user = SlotUser::of_slot(self, &inner.streams, name);
        let mut slot = user.lock();
        if inner.closed.load(Ordering::Acquire) {
            return Err(inner.is_closed(name));
        }
        // Another thread may have opened it.
        let log = match &*slot {
            Some(log) => log,
            None => {
                let place = Location::new(inner.root.lock().streams(), folder).named(name);
                slot.insert(StreamLog::open_above(Arc::clone(&inner.env), place, inner.options(None), first)?)
            }
        };
        Ok(log.truncate_before(first)?)
    }

    /// The names of all streams, sorted by their escaped forms (see
    /// [`inspect::escape_name`](crate::inspect)). Streams that were never appended to are not among
    /// them; one whose very first append failed may be there, and is empty.
    ///
    /// # Errors
    /// I/O.
    pub fn streams(&self) -> Result<Vec<String>> {
        self.inner.check_process()?;
        self.inner.root.lock().stream_names()
    }

    /// Deletes the stream `name` with all its entries, durably: it does not come back after any
    /// crash, also if this is interrupted. A damaged or poisoned stream can be deleted, too. A
    /// stream of that name that is created later shares nothing with it, and begins at 0.
    ///
    /// Appends on handles of it, those that wait among them, fail with
    /// [`Missing`](ErrorKind::Missing) from then on; its iterators end with
    /// [`Cut`](ErrorKind::Cut).
    ///
    /// # Errors
    /// [`Missing`](ErrorKind::Missing) where there is no such stream, durably; [`ReadOnly`](ErrorKind::ReadOnly);
    /// [`Closed`](ErrorKind::Closed); [`InvalidName`](ErrorKind::InvalidName). [`Io`](ErrorKind::Io): the text states
    /// that the stream is deleted, and which of its files could not be removed, as one that the log
    /// has not put there; or that nothing was deleted; otherwise the stream may be there or not
    /// after a crash, so delete it again.
    pub fn delete_stream(&self, name: &str) -> Result<()> {
        let inner = &self.inner;
        let folder = folder_of(name)?;
        inner.check_process()?;
        if inner.env.is_read_only() {
            return Err(Error::of_stream(ErrorKind::ReadOnly, name, "the log was opened for reading only"));
        }
        let user = SlotUser::of_slot(self, &inner.streams, name);
        let mut slot = user.lock();
        if inner.closed.load(Ordering::Acquire) {
            return Err(inner.is_closed(name));
        }
        let place = Location::new(inner.root.lock().streams(), folder).named(name);
        let existed = match &*slot {
            Some(log) => log.delete(),
            None => delete(&inner.env, &place),
        };
        let existed = match existed {
            Err(DeleteError::Undone(error)) => return Err(error.into()),
            Err(DeleteError::Indeterminate(error) | DeleteError::Left(error)) => {
                *slot = None;
                return Err(error.into());
            }
            Ok(existed) => existed,
        };
        *slot = None;
        if existed {
            return Ok(());
        }
        let text = format!("there is no stream {name:?} in {}", inner.path.display());
        Err(Error::of_stream(ErrorKind::Missing, name, text))
    }

    /// Makes everything accepted so far durable, in every stream.
    ///
    /// # Errors
    /// The first stream's that fails; the others are synced all the same. A stream that is deleted
    /// at the same time is left out. [`Io`](ErrorKind::Io) where the directory of the log was
    /// removed: then its entries are lost.
    pub fn sync(&self) -> Result<()> {
        self.inner.check_process()?;
        if self.inner.env.is_read_only() {
            return Err(Error::new(ErrorKind::ReadOnly, "the log was opened for reading only"));
        }
        let waits = |stream: &StreamLog| stream.durable_seq() < stream.next_seq();
        together(&self.inner.streams.open(), self.inner.helpers.try_lock(), waits, |stream| {
            unless_deleted(stream.sync())
        })?;
        self.inner.root.lock().check_is_there()
    }

    /// Makes everything accepted durable, ends every stream cleanly, so that the next open scans
    /// nothing, and gives the lock back. Later appends fail with [`Closed`](ErrorKind::Closed);
    /// handles and iterators that are there may still read, and hold files and memory until the
    /// last is dropped. Closing twice is no error.
    ///
    /// # Errors
    /// The first stream's that fails; the others are closed all the same, and so is the log. A
    /// stream that is deleted at the same time is left out.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.inner.streams
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.inner.env.storage().is_forked()
    }

    pub(crate) fn cache_stats(&self) -> Stats {
        let cache = self.inner.env.cache_stats();
        Stats {
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_files: cache.entries as u64,
            cache_bytes: cache.bytes as u64,
            reserve_bytes: self.inner.env.reserve_bytes(),
            ..Stats::default()
        }
    }

    /// How much the streams that are open in this process hold. Opens each segment's file for a
    /// moment; a file that is removed at the same time is not counted.
    ///
    /// # Errors
    /// I/O.
    pub fn stats(&self) -> Result<Stats> {
        self.inner.check_process()?;
        let streams = self.inner.streams.open();
        let mut stats = self.cache_stats();
        for log in streams.iter() {
            let of_stream = log.stats()?;
            stats.streams += 1;
            stats.segments += of_stream.segments;
            stats.disk_bytes += of_stream.disk_bytes;
            stats.clock_jumps += of_stream.clock_jumps;
        }
        Ok(stats)
    }
}

impl Inner {
    /// Those of a stream that is looked up with `own`.
    fn options(&self, own: Option<StreamOptions>) -> inner::StreamOptions {
        let options = own.unwrap_or_else(|| self.defaults.clone());
        inner::StreamOptions { map: self.map, ..options.0 }
    }

    /// That this process has the log open itself. In a forked child the locks of this log's mutexes
    /// may be held for ever, so this comes before any of them.
    fn check_process(&self) -> Result<()> {
        if !self.env.storage().is_forked() {
            return Ok(());
        }
        let text = format!(
            "the log {} was opened by another process, which this one was forked from; open it anew here, once the other \
             process has closed it, or read-only",
            self.path.display()
        );
        Err(Error::new(ErrorKind::Forked, text))
    }

    fn is_closed(&self, name: &str) -> Error {
        Error::of_stream(ErrorKind::Closed, name, format!("the log {} was closed", self.path.display()))
    }

    fn close(&self) -> Result<()> {
        self.check_process()?;
        // A second one waits for the first.
        let _closing = self.closing.lock();
        // Set before the slots are looked at: a look-up sees it, or its stream is seen here.
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let result = together(&self.streams.open(), Some(self.helpers.lock()), StreamLog::exists, |stream| {
            unless_deleted(stream.close())
        });
        let mut root = self.root.lock();
        let is_there = root.check_is_there();
        root.unlock();
        result?;
        // In a log that is only read there was nothing to keep.
        if self.env.is_read_only() { Ok(()) } else { is_there }
    }
}

impl Drop for Inner {
    /// On best effort; see [`Wal`].
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// The result of a call for all streams: one that is deleted at the same time has nothing to sync
/// or to close.
fn unless_deleted(result: inner::Result<()>) -> inner::Result<()> {
    match result {
        Err(error) if error.kind() == inner::ErrorKind::Deleted => Ok(()),
        result => result,
    }
}

/// The folder of the stream `name`.
pub(crate) fn folder_of(name: &str) -> Result<String> {
    // Not escaped before that is known: it takes up to three times the memory of the name.
    let escaped = name::escaped_len(name);
    let text = if name.is_empty() {
        "a stream name is at least one character".to_owned()
    } else if escaped > name::ESCAPED_LEN_MAX {
        let (len, max) = (name.len(), name::ESCAPED_LEN_MAX);
        format!("the stream name is too long: {len} bytes, {escaped} when escaped, at most {max}")
    } else {
        return Ok(name::escape(name));
    };
    Err(Error::of_stream(ErrorKind::InvalidName, name, text))
}
