//! Options for opening a log.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stratawal_journal::JournalOptions;
use stratawal_storage::Storage;
use stratawal_stream::{MapPromise, Notifier, POLL_INTERVAL, StreamOptions};

use crate::error::{ErrorKind, Result, log_error};
use crate::wal::Wal;

/// Options for opening a log.
///
/// ```
/// use stratawal::{Durability, Options, StreamOptions};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let streams = StreamOptions::new().durability(Durability::Flushed).segment_bytes(16 << 20);
/// let wal = Options::new().stream_defaults(streams).cache_bytes(16 << 20).open(path)?;
/// # wal.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Limits
///
/// | of | option | default | beyond it |
/// |---|---|---|---|
/// | a batch, and so an entry | [`StreamOptions::batch_bytes_max`] | 1 GiB | [`TooLarge`](crate::ErrorKind::TooLarge), with the length and the limit; nothing is appended |
/// | a frame that is read | [`StreamOptions::read_bytes_max`] | 2 GiB - 1 | [`TooLarge`](crate::ErrorKind::TooLarge) |
/// | entries of a stream that wait to be written | [`StreamOptions::buffer_bytes`] | 256 KiB | the append writes them |
/// | entries of all streams that wait | [`tail_bytes`](Self::tail_bytes) | 256 MiB | the append writes those of its stream |
/// | tickets in flight | none | 131,072, with 64 MiB | `submit` waits, `try_submit` is refused with [`Busy`](crate::ErrorKind::Busy) |
/// | the journal | [`journal_bytes`](Self::journal_bytes) | 64 MiB | the append waits until space is free, or goes to the files |
/// | open files of active segments, with a journal | [`active_files`](Self::active_files) | 512 | another one is closed |
/// | open files for reading | [`cache_files`](Self::cache_files) | 1,024 | another one is closed |
/// | indexes of sealed segments | [`cache_bytes`](Self::cache_bytes) | 64 MiB | another one is dropped |
/// | an iterator | none | two blocks of 256 KiB, or of one frame | |
///
/// A log with *n* streams then takes at most about this much. Idle streams take 3 KB each, or 1.5
/// KB while they have no directory; [`Stream::close`](crate::Stream::close) frees that.
///
/// | | 10 streams | 1,000 | 100,000 |
/// |---|---|---|---|
/// | memory of idle streams | 30 KB | 3 MB | 300 MB |
/// | entries that wait (four buffers each, all together `tail_bytes`) | 10 MiB | 256 MiB | 256 MiB |
/// | entries that the journal is needed for (`journal_bytes`) | 64 MiB | 64 MiB | 64 MiB |
/// | indexes of sealed segments (`cache_bytes`) | 64 MiB | 64 MiB | 64 MiB |
/// | open files with a journal | 1,050 | 1,560 | 1,560 |
/// | open files without a journal, which needs a higher `ulimit -n` | 1,050 | 2,050 | 101,050 |
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) stream_defaults: StreamOptions,
    /// Applies to all streams, also to those with their own options.
    pub(crate) map: Option<MapPromise>,
    pub(crate) cache_bytes: usize,
    pub(crate) tail_bytes: usize,
    /// `None`: derived from the limit of open files.
    cache_files: Option<usize>,
    /// `None`: derived from the limit of open files.
    active_files: Option<usize>,
    pub(crate) journal: bool,
    journal_bytes: u64,
    journal_mapped: bool,
    adopt_copy: bool,
    pub(crate) maintenance_thread: bool,
    pub(crate) sync_interval: Option<Duration>,
    pub(crate) poll_interval: Duration,
    /// Whether readers in other processes are notified of changes.
    pub(crate) notify: bool,
}

/// Upper bound on the default of [`Options::cache_files`].
const CACHE_FILES_MAX: usize = 1024;

/// Upper bound on the default of [`Options::active_files`].
const ACTIVE_FILES_MAX: usize = 512;

/// The least [`Options::tail_bytes`].
const TAIL_BYTES_MIN: usize = 1 << 20;

/// The least [`Options::sync_interval`].
const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// The range of [`Options::poll_interval`].
const POLL_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Creates options with the default values.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stream_defaults: StreamOptions::new(),
            map: None,
            cache_bytes: 64 << 20,
            tail_bytes: 256 << 20,
            cache_files: None,
            active_files: None,
            journal: true,
            journal_bytes: 64 << 20,
            journal_mapped: true,
            adopt_copy: false,
            maintenance_thread: true,
            sync_interval: Some(Duration::from_secs(1)),
            poll_interval: POLL_INTERVAL,
            notify: false,
        }
    }

    /// The options of streams that are looked up without their own. Default:
    /// [`StreamOptions::new`].
    #[must_use]
    pub fn stream_defaults(mut self, options: StreamOptions) -> Self {
        self.stream_defaults = options;
        self
    }

    /// The bytes of memory for the indexes of sealed segments, across all streams. Default: 64 MiB.
    ///
    /// A segment of 64 MiB with frames of 6 KiB has about 100 KiB of index, so the default of 64
    /// MiB is enough for about 40 GiB of log. A read of a segment that is not in the cache opens
    /// its file and reads its index, which takes 0.1 ms or more instead of microseconds.
    #[must_use]
    pub const fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// The bytes of memory for entries that wait to be written to the segment files, across all
    /// streams. Default: 256 MiB; at least 1 MiB.
    ///
    /// No append is refused because of it: one that finds more first writes the waiting entries of
    /// its own stream to the file, and so takes the time of a write. If idle streams hold most of
    /// it, each append is written; [`Wal::sync`](crate::Wal::sync) without a journal, or
    /// [`Stream::close`](crate::Stream::close), frees their part. Each stream has a bound of its own as well:
    /// [`StreamOptions::buffer_bytes`]. [`Stats::tail_bytes`](crate::Stats::tail_bytes) is the
    /// memory that is taken now.
    ///
    /// Entries count with their length and 4 bytes, rounded up to 512 bytes for each stream. The
    /// buffers that hold them may be longer: 100 streams with a bound of 1 MiB took 3.8 MiB.
    /// Entries that are being written do not count, and those that were written and that the
    /// [journal](Self::journal) is still needed for do not either; the journal bounds them.
    #[must_use]
    pub const fn tail_bytes(mut self, bytes: usize) -> Self {
        self.tail_bytes = bytes;
        self
    }

    /// The number of sealed segments held open for reading, across all streams. Default: a quarter
    /// of the files that the process may open (`ulimit -n`), but at most 1,024.
    ///
    /// Mapped segments ([`map_reads`](Self::map_reads)) also count, although they hold no file
    /// open. If the process cannot open another file, the log closes the files in the cache, and
    /// then fills the cache again.
    #[must_use]
    pub const fn cache_files(mut self, files: usize) -> Self {
        self.cache_files = Some(files);
        self
    }

    /// In a log with a [`journal`](Self::journal), the number of streams whose newest segment is
    /// held open, for writing and for reading. Default: a quarter of the files that the process may
    /// open (`ulimit -n`), but at most 512.
    ///
    /// A log may have any number of streams. If another stream needs its file, the file that was
    /// not used for the longest time is closed. It is opened again when its stream is next written
    /// to or read, which takes some microseconds. A file with unsynced entries is synced before it
    /// is closed. So if a program writes to more streams than this, even its flushed appends may
    /// wait for the disk. Finished segments with unsynced entries count too.
    ///
    /// Without a journal, this has no effect: every stream holds its newest segment open.
    #[must_use]
    pub const fn active_files(mut self, files: usize) -> Self {
        self.active_files = Some(files);
        self
    }

    /// Reads the sealed segments of all streams through memory mappings instead of positioned
    /// reads. Scans then take about two thirds of the time, and single reads about half. Default:
    /// positioned reads.
    ///
    /// A segment is sealed once it has a successor, and is mapped once it is also durable.
    /// Positioned reads remain in use for three kinds of segments: the one that is being written;
    /// one that the system refuses to map, because address space or mappings run out or its file
    /// system does not support them; and, in a log opened for reading, any that had to be scanned
    /// when the stream was looked up.
    ///
    /// # Safety
    /// While any mapping lives, only this library may shorten or change the segment files: no other
    /// code of this process, and no other process. Mappings live until the log and everything read
    /// from it are dropped: every iterator, [`Entry`](crate::Entry) and [`Run`](crate::Run), and
    /// the [`Bytes`](crate::Bytes) of any of these. If a mapped file is shortened, reading it kills
    /// the process with a signal. If it is changed, the behaviour is undefined.
    #[allow(unsafe_code)]
    #[must_use]
    pub unsafe fn map_reads(mut self) -> Self {
        // SAFETY: the caller promises the same.
        self.map = Some(unsafe { MapPromise::new() });
        self
    }

    /// Whether the log has a commit journal: one log for all streams, into which appends go first.
    /// Default: true.
    ///
    /// An entry is acknowledged once it is in the journal, and reaches the segment files of its
    /// stream later, in large frames. So all threads and all streams share a sync, a flushed append
    /// is a copy into mapped memory, and small entries take less space in the segments. A new
    /// stream gets its directory when its first entries are moved there. Every promise of
    /// [`Durability`](crate::Durability) holds as it does without a journal.
    ///
    /// # Cost
    /// - Disk: a new log has a journal of 256 KiB, and its maintenance thread prepares another file
    ///   of 512 KiB. As entries wait in it, the journal grows up to
    ///   [`journal_bytes`](Self::journal_bytes), 64 MiB by default. After a crash it has one more
    ///   file of up to 1.4 times that, unless the disk is full. Each entry is written twice, except
    ///   in large batches.
    /// - Memory: the entries that are in the journal and not yet durable in the segment files, up
    ///   to about `journal_bytes`. Every opening for writing, also after a clean close, reads the
    ///   journal's files into memory, checks them, and begins a new file. After a crash, or after
    ///   [`Wal::close_fast`](crate::Wal::close_fast), entries stay in memory until their streams
    ///   are looked up, or settled to make room.
    /// - One thread: see [`maintenance_thread`](Self::maintenance_thread).
    ///
    /// # When to switch it off
    /// A log of one stream gains little from a shared sync. With `false`, batches are written once
    /// instead of twice, and a log takes no disk and no thread beyond its segment files. Each
    /// stream in use then holds a file open, and syncs it: see [`Wal::stream`](crate::Wal::stream).
    ///
    /// # Other processes
    /// A log that is opened for reading, and the command line, show the entries of the journal
    /// together with those of the segment files, with any value of this option. For a damaged
    /// journal, see [`open_read_only`](Self::open_read_only).
    ///
    /// If another process shortens a journal file that is mapped, a signal kills this process;
    /// nothing acknowledged is lost. [`journal_mapped`](Self::journal_mapped) avoids this.
    ///
    /// # Changing it
    /// Each opening for writing may change this; an opening for reading never does. A log without a
    /// journal gets one. If the disk is too full for it, the log stays without one until it is
    /// opened again: [`Wal::journal_report`](crate::Wal::journal_report) is then `None`. In a log
    /// that has one and is opened with `false`, every stream takes its entries from the journal
    /// before [`open`](Self::open) returns, and the journal is removed. If a stream cannot take
    /// them, `open` fails, and the journal keeps them.
    ///
    /// FORMAT states whether a log has a journal, and a program built before there was one refuses
    /// a log that has. To go back to such a program, open the log once with `journal(false)`, and
    /// close it. To keep a log as it is, pass
    /// [`inspect::has_journal`](crate::inspect::has_journal), as the command line does with logs
    /// that exist.
    #[must_use]
    pub const fn journal(mut self, journal: bool) -> Self {
        self.journal = journal;
        self
    }

    /// The maximum number of bytes of the journal's files. Default: 64 MiB; 64 KiB to 512 MiB. The
    /// file that opening writes after a crash does not count. If a log is opened on a full disk, it
    /// keeps its earlier files until it is opened again; together they may be longer than this. A
    /// closed log also keeps its files, so a copy of it has up to this many bytes more.
    ///
    /// The larger the journal, the more appends are merged into a frame of a segment, and the
    /// longer opening takes after a crash.
    ///
    /// Choose it by the number of streams that are written at the same time. When the journal frees
    /// space, a stream that has little in it is not settled: its records are copied forward, about
    /// 300 bytes for a stream with a small entry. The default is for some thousand streams; more
    /// need a larger journal. If the streams in use fill the journal, each append waits until
    /// streams are settled: their files are written and synced.
    #[must_use]
    pub const fn journal_bytes(mut self, bytes: u64) -> Self {
        self.journal_bytes = bytes;
        self
    }

    /// Whether the journal is written through a memory mapping, on file systems that allow it. With
    /// `false`, and on other file systems, each record is written with one system call, which takes
    /// about five times as long. Default: true.
    ///
    /// If another process shortens a mapped file of the journal, or the file `NOTIFY`, which is
    /// mapped under the same conditions, a signal kills this process. With `false` this cannot
    /// happen.
    #[must_use]
    pub const fn journal_mapped(mut self, mapped: bool) -> Self {
        self.journal_mapped = mapped;
        self
    }

    /// Whether to open a copy of a log with a journal that was made before the log was closed.
    /// Otherwise [`open`](Self::open) refuses such a copy with
    /// [`Copied`](crate::ErrorKind::Copied). Default: false.
    ///
    /// Adopt a copy only if no process had the log open for writing while it was copied, for
    /// example because the process or the machine had died before. Otherwise the files of the copy
    /// are of different times: acknowledged entries may be missing or mixed with others, and not
    /// all of this is noticed. Once the copy was opened with this option, later openings need it no
    /// longer.
    ///
    /// # How a copy is noticed
    /// Each file of the journal names its own inode number, and a copy of the file has another
    /// number. This makes no difference for a log that was closed by
    /// [`Wal::close`](crate::Wal::close): its copies open without this option, wherever they are.
    /// Copying by `cp`, `tar` or `rsync`, moving to another file system and restoring a backup all
    /// make copies; renaming, and snapshots of a whole file system or volume, do not.
    ///
    /// A copy is not noticed where files have no lasting inode numbers (FAT, exFAT, FUSE, SMB, 9P),
    /// nor if it happens to get the number of the original, which is possible on another file
    /// system. It is not noticed either if it was written back into the existing files of the
    /// original (`cp` over them, `rsync --inplace`), or if it consists of hard links to them,
    /// because the files then keep their numbers. If another kind of file system changes the
    /// numbers when it is mounted again, a log that was not closed is taken for a copy: use this
    /// option there.
    #[must_use]
    pub const fn adopt_copy(mut self, adopt: bool) -> Self {
        self.adopt_copy = adopt;
        self
    }

    /// Whether a log that is opened for writing may have threads of its own. Default: true. A log
    /// with a journal has one, named `stratawal-maintenance`. The first
    /// [`submit`](crate::Stream::submit) starts two more, `stratawal-tickets` and
    /// `stratawal-callbacks`, with a journal or without. With `false`, a submit fails with
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption).
    ///
    /// The first thread prepares files, frees space in the journal before appends need it, and
    /// syncs every [`sync_interval`](Self::sync_interval). It wakes once a second even if nothing
    /// is appended. It ends when the log is closed, or its last handle is dropped. Without it,
    /// `sync_interval` has no effect, and an append that finds no room in the journal frees some
    /// itself, which may take as long as writing and syncing several streams.
    #[must_use]
    pub const fn maintenance_thread(mut self, thread: bool) -> Self {
        self.maintenance_thread = thread;
        self
    }

    /// How long an accepted entry remains in memory, or flushed and not durable, before the
    /// [`maintenance_thread`](Self::maintenance_thread) makes it durable. The sync itself takes
    /// more time. Bounds the entries that a power loss can take from streams that are not
    /// [`Synced`](crate::Durability::Synced), while the disk works. `None`: the thread makes
    /// nothing durable. Default: 1 s; at least 1 ms. Has no effect in a log without a journal, and
    /// without the thread.
    #[must_use]
    pub const fn sync_interval(mut self, interval: Option<Duration>) -> Self {
        self.sync_interval = interval;
        self
    }

    /// In a log opened for reading, the longest time between two looks of a follower where the
    /// writer cannot wake it. Default: 10 ms; 1 ms to 60 s.
    ///
    /// The writer wakes followers in other processes on Linux with 64 bits, on ext4 and tmpfs, if
    /// it opens the log with [`journal_mapped`](Self::journal_mapped). Elsewhere, so on other file
    /// systems, on those of a network, and in a virtual machine or a container that sees the files
    /// through another file system, a follower looks at its stream every `poll_interval`, and sees
    /// an entry up to this much later. A thread that has just received an entry looks every 2 ms
    /// for a moment. A look that finds nothing takes about 20 microseconds, and one in 50 ms takes
    /// more, because it reads the files. So an idle follower takes up to 1 % of a core with the
    /// default, and 2 % with 2 ms.
    ///
    /// A call that ends with its own timeout looks once more. A
    /// [`stop`](crate::FollowStopper::stop) or a [close](crate::Wal::close) ends a follower within
    /// 50 ms, also while it waits for longer. Where the writer wakes followers, and in a log opened
    /// for writing, this has no effect.
    #[must_use]
    pub const fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// Opens the log in the directory `path` for reading and writing. Creates it, and the
    /// directories above it, if they do not exist. No stream is read until it is looked up. After a
    /// crash the entries of a [journal](Self::journal) wait in memory for that. When the journal
    /// needs room, streams that hold much of it and were not looked up take their entries.
    ///
    /// The log is the directory that `path` leads to at this moment; later changes of the working
    /// directory or of the path do not matter. If several processes create a log at once, one opens
    /// it and the others get [`Locked`](crate::ErrorKind::Locked). Files are created with mode 0666
    /// and directories with 0777, less the umask of the process.
    ///
    /// # Errors
    /// - [`Locked`](crate::ErrorKind::Locked): the message gives the id of the process that holds
    ///   the lock and the name of its program, if they can be found.
    /// - [`Nested`](crate::ErrorKind::Nested): there is no log at `path`, and the directory is
    ///   inside another log. Nothing is created.
    /// - [`NewerFormat`](crate::ErrorKind::NewerFormat).
    /// - [`Damaged`](crate::ErrorKind::Damaged): both copies in the FORMAT file are damaged, or
    ///   they are valid but differ; or this file, or the directory of the streams, is missing, or
    ///   is something else, such as a link; or the [journal](Self::journal) is damaged or missing.
    ///   If only the journal is, reading still works.
    /// - [`Copied`](crate::ErrorKind::Copied): the log has a journal, and is a copy that was made
    ///   before the log was closed; see [`adopt_copy`](Self::adopt_copy). Reading still works.
    /// - [`InvalidOption`](crate::ErrorKind::InvalidOption): an option, or a default of the
    ///   streams, is out of its range.
    /// - Any operating-system error.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Wal> {
        let options = Self { notify: true, ..self.clone() };
        Wal::open_on(Arc::new(stratawal_storage::UnixStorage::new()), path.as_ref(), &options, false)
    }

    /// Opens the log in the directory `path` for reading. Another process may write to it at the
    /// same time. Creates and changes nothing, and takes no lock.
    ///
    /// A stream is seen as it was when it was looked up; [`Stream::reopen`](crate::Stream::reopen)
    /// looks again. A look sees every entry that was acknowledged as flushed or synced before it
    /// began, whether the entry is in a segment file or in the [journal](Self::journal) alone.
    /// Every entry that is shown is durable: those that may not be durable are synced first.
    ///
    /// A look at a stream of a log in which nothing has changed costs about a microsecond, or a few
    /// with a journal: the writer counts its changes of the files in the file `NOTIFY` of the log,
    /// and adds all others to the end of the journal. At least every 50 ms a look reads the files
    /// themselves. If the file was deleted or cannot be read, every look does, and nothing is lost.
    /// The next opening for writing creates it.
    ///
    /// # Beside a writer with a journal
    /// Entries of the journal that the writer has not synced are synced by the reader, for each
    /// opened log at most once in 10 ms. So a look at a stream with flushed entries may wait for up
    /// to 10 ms and a sync. The positions of the journal's records are kept in memory, about 48
    /// bytes for each, and the first look reads the whole journal. The entries themselves are read
    /// when they are asked for.
    ///
    /// This returns a [`Wal`] rather than a type without the methods that write. So code that only
    /// reads can use one type of stream, however its log was opened. Calls that write fail with
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly) and change nothing.
    ///
    /// # A damaged journal
    /// A log can be opened for reading even if its [journal](Self::journal) is damaged, or was
    /// copied before the log was closed. If it is damaged, it may have held entries of any stream.
    /// So each look-up of a stream fails with [`Damaged`](crate::ErrorKind::Damaged), and so does
    /// [`Stream::reopen`](crate::Stream::reopen). [`Wal::streams`] works, but does not list a stream
    /// without segment files. [`inspect::readable`](crate::inspect::readable) reads the entries in
    /// the segment files, and [`inspect::salvage`](crate::inspect::salvage) also those that the
    /// journal still has. [`inspect::verify_journal`](crate::inspect::verify_journal) and
    /// `stratawal verify` report the damage.
    ///
    /// # Errors
    /// - [`Missing`](crate::ErrorKind::Missing): the log does not exist.
    /// - [`Damaged`](crate::ErrorKind::Damaged): the FORMAT file or the directory of the streams is
    ///   damaged or missing, as for [`open`](Self::open). Damage of the journal is not an error
    ///   here.
    /// - [`NewerFormat`](crate::ErrorKind::NewerFormat),
    ///   [`InvalidOption`](crate::ErrorKind::InvalidOption), and any operating-system error.
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<Wal> {
        Wal::open_on(Arc::new(stratawal_storage::UnixStorage::new()), path.as_ref(), self, true)
    }

    /// Opens the log on the given storage. Not part of the stable API.
    ///
    /// # Errors
    /// Same as [`open`](Self::open) and [`open_read_only`](Self::open_read_only).
    #[cfg(feature = "unstable-storage")]
    #[doc(hidden)]
    pub fn open_on(&self, storage: Arc<dyn stratawal_storage::Storage>, path: &Path, read_only: bool) -> Result<Wal> {
        Wal::open_on(storage, path, self, read_only)
    }

    /// Checks that each option is in its range.
    pub(crate) fn validate(&self) -> Result<()> {
        self.stream_defaults.validate()?;
        // The journal clamps its limit.
        let why = if self.of_journal().limit() != self.journal_bytes {
            "journal_bytes must be 64 KiB to 512 MiB"
        } else if self.sync_interval.is_some_and(|interval| interval < SYNC_INTERVAL_MIN) {
            "sync_interval must be at least 1 ms"
        } else if !POLL_INTERVALS.contains(&self.poll_interval) {
            "poll_interval must be 1 ms to 60 s"
        } else if self.tail_bytes < TAIL_BYTES_MIN {
            let tail_bytes = self.tail_bytes;
            let text = format!("tail_bytes is {tail_bytes}, and must be at least 1,048,576 (1 MiB)");
            return Err(log_error(ErrorKind::InvalidOption, format!("invalid option for a log: {text}")));
        } else {
            return Ok(());
        };
        Err(log_error(ErrorKind::InvalidOption, format!("invalid option for a log: {why}")))
    }

    /// The counter for readers in other processes.
    pub(crate) fn notifier(&self, storage: &Arc<dyn Storage>, path: &Path) -> io::Result<Notifier> {
        Notifier::open(storage, path, self.journal_mapped)
    }

    pub(crate) fn of_journal(&self) -> JournalOptions {
        JournalOptions::default().bytes(self.journal_bytes).mapped(self.journal_mapped).adopt_copy(self.adopt_copy)
    }

    /// The maximum number of finished segments, across all streams, that may hold a file open
    /// because they are not synced: a quarter of the files that the process may open.
    pub(crate) fn unsynced_files_max() -> usize {
        quarter_of_open_files().unwrap_or(usize::MAX)
    }

    pub(crate) fn active_files_max(&self) -> usize {
        self.active_files
            .unwrap_or_else(|| quarter_of_open_files().map_or(ACTIVE_FILES_MAX, |files| files.min(ACTIVE_FILES_MAX)))
    }

    pub(crate) fn cache_files_max(&self) -> usize {
        self.cache_files
            .unwrap_or_else(|| quarter_of_open_files().map_or(CACHE_FILES_MAX, |files| files.min(CACHE_FILES_MAX)))
    }
}

/// A quarter of the process's limit of open files, or `None` if the system sets no limit.
fn quarter_of_open_files() -> Option<usize> {
    stratawal_storage::open_files_limit().map(|limit| usize::try_from(limit / 4).unwrap_or(usize::MAX))
}
