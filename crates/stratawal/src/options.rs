//! How a log is opened, and its streams kept.

use std::path::Path;
use std::sync::Arc;

use stratawal_stream as inner;

use crate::error::Result;
use crate::wal::Wal;

/// What an acknowledgement of an append means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// It is in this process; it survives nothing.
    Buffered,
    /// It was handed to the operating system: it survives the death of the process (`kill -9`), not
    /// power loss.
    Flushed,
    /// It is on stable storage: it survives power loss.
    #[default]
    Synced,
}

/// Which entries a reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Those that are settled: durable ones on a stream whose own durability is `Synced`, flushed
    /// ones otherwise.
    #[default]
    Stable,
    /// Also those that this process has accepted: it reads its own writes before they are durable.
    Accepted,
}

impl From<Durability> for inner::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Buffered => Self::Buffered,
            Durability::Flushed => Self::Flushed,
            Durability::Synced => Self::Synced,
        }
    }
}

impl From<Visibility> for inner::Visibility {
    fn from(visibility: Visibility) -> Self {
        match visibility {
            Visibility::Stable => Self::Stable,
            Visibility::Accepted => Self::Accepted,
        }
    }
}

/// How a stream is kept. They are chosen when it is first looked up in a [`Wal`], and are not
/// stored: a later process may choose others.
///
/// ```
/// use stratawal::{Durability, StreamOptions};
///
/// let options = StreamOptions::new().durability(Durability::Flushed).segment_bytes(16 << 20);
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct StreamOptions(pub(crate) inner::StreamOptions);

impl StreamOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What an append is acknowledged for, unless its handle says otherwise; and what *settled*
    /// means. Default:
    /// [`Durability::Synced`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.0.durability = durability.into();
        self
    }

    /// A segment file is followed by another when it would grow past this many bytes; a larger
    /// batch gets a file of its own. Default: 64 MiB; at least 64 KiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.0.segment_len = bytes;
        self
    }

    /// Appends that wait together become one frame of up to about this many bytes: larger ones take
    /// less disk; a single read reads a whole one, and, where they are smaller, from one point of
    /// the index ([`index_every`](Self::index_every)) to the next; past 8 KiB in a slower way, into
    /// memory that is allocated. Default: 6 KiB; 1 byte to 1 MiB.
    #[must_use]
    pub fn frame_bytes(mut self, bytes: usize) -> Self {
        self.0.frame_len = bytes;
        self
    }

    /// The largest batch: its bytes and 4 for each entry. Default: 1 GiB; at most 2 GiB - 1.
    #[must_use]
    pub fn batch_bytes_max(mut self, bytes: u64) -> Self {
        self.0.batch_len_max = bytes;
        self
    }

    /// The largest frame that is read into memory. Default: 2 GiB - 1, so that whatever was
    /// appended can be read; lower it for logs that somebody else wrote.
    #[must_use]
    pub fn read_bytes_max(mut self, bytes: u64) -> Self {
        self.0.read_len_max = bytes;
        self
    }

    /// `Buffered` appends are handed to the operating system when this many bytes wait; at four
    /// times as many, appends wait for that. Default: 256 KiB; at least 1.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.0.buffer_len = bytes;
        self
    }

    /// How much of finished segments may not be synced yet, in bytes and in files; the append that
    /// crosses either syncs the oldest. Default: 1 GiB, 16 files.
    #[must_use]
    pub fn unsettled_max(mut self, bytes: u64, files: usize) -> Self {
        (self.0.unsettled_len_max, self.0.unsettled_segments_max) = (bytes, files);
        self
    }

    /// Points of the sparse index lie at least this many bytes apart: fewer take less memory, and
    /// less of the file that they are written to; more make single reads cheaper where frames are
    /// smaller than this, as those of small entries are that were flushed or synced one by one.
    /// Default: 4 KiB; at least 1.
    #[must_use]
    pub fn index_every(mut self, bytes: u64) -> Self {
        self.0.index_every = bytes;
        self
    }
}

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) stream: StreamOptions,
    /// Of all streams, whatever options they have.
    pub(crate) map: Option<inner::MapPromise>,
    pub(crate) cache_bytes: usize,
    /// `None`: by the limit of open files.
    pub(crate) cache_files: Option<usize>,
}

/// The sealed segments that are held open where the program does not say how many.
const FILES_MAX: u64 = 1024;

impl Options {
    /// A quarter of the files that the process may have open.
    pub(crate) fn unsynced_files() -> usize {
        stratawal_storage::open_files_limit()
            .map_or(usize::MAX, |limit| usize::try_from(limit / 4).unwrap_or(usize::MAX))
    }

    pub(crate) fn cache_files(&self) -> usize {
        let quarter = || stratawal_storage::open_files_limit().map_or(FILES_MAX, |limit| (limit / 4).min(FILES_MAX));
        self.cache_files.unwrap_or_else(|| usize::try_from(quarter()).unwrap_or(usize::MAX))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { stream: StreamOptions::default(), map: None, cache_bytes: 64 << 20, cache_files: None }
    }
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How streams are kept that are looked up without options of their own. Default:
    /// [`StreamOptions::new`].
    #[must_use]
    pub fn stream_defaults(mut self, options: StreamOptions) -> Self {
        self.stream = options;
        self
    }

    /// The bounds of what all streams together keep of sealed segments: bytes of index, and files
    /// held open for reading. Default: 64 MiB, and a quarter of the files that the process may have
    /// open (`ulimit -n`), 1,024 at most.
    ///
    /// A segment of 64 MiB with frames of 6 KiB has some 100 KiB of index: 64 MiB are enough for
    /// about 40 GiB of log. A read of a segment that is not kept opens its file and reads its
    /// index, which takes 0.1 ms and more in place of microseconds. Mapped segments
    /// ([`map_reads`](Self::map_reads)) count as files, and hold none open. Where the process may
    /// not open another file, the log closes those that it keeps, and keeps others from then on.
    #[must_use]
    pub fn cache(mut self, bytes: usize, files: usize) -> Self {
        (self.cache_bytes, self.cache_files) = (bytes, Some(files));
        self
    }

    /// Reads sealed segments of all streams through memory mappings instead of positioned reads:
    /// scans take some two thirds of the time, and single reads about half. A segment is sealed
    /// once another follows it, and mapped once it is durable, too; the one that is written is read
    /// by positioned reads all the same, and so is, in a log opened for reading, what had to be
    /// scanned when the stream was looked up. A segment that the system refuses to map, for lack of
    /// address space or of mappings, or because its file system has none, is read by positioned
    /// reads, too. Default: positioned reads.
    ///
    /// # Safety
    /// While any mapping lives, nobody may shorten or change the segment files but this library:
    /// not this process, and no other. Mappings live as long as the log, and as anything that was
    /// read from it: an iterator, an
    /// [`Entry`](crate::Entry), a [`Run`](crate::Run), [`Bytes`](crate::Bytes) of one of them. One of a file that somebody
    /// shortens ends the process by a signal; one of a file that somebody changes is undefined
    /// behaviour.
    #[allow(unsafe_code)]
    #[must_use]
    pub unsafe fn map_reads(mut self) -> Self {
        // SAFETY: the caller promises the same.
        self.map = Some(unsafe { inner::MapPromise::new() });
        self
    }

    /// Opens the log in the folder `path` for reading and writing, and creates it, and the folders
    /// above, if they are not there. No stream is read before it is asked for.
    ///
    /// The log is the directory that `path` leads to now; later changes of the working directory,
    /// or of the path, do not matter. Of several processes that create a log at once, one opens it
    /// and the others get `Locked`. Files are created with the mode 0666 and directories with 0777,
    /// less the process's umask.
    ///
    /// # Errors
    /// [`Locked`](crate::ErrorKind::Locked), with the process that the lock file names, if it exists;
    /// [`NewerFormat`](crate::ErrorKind::NewerFormat); [`Damaged`](crate::ErrorKind::Damaged) where the log's own
    /// FORMAT file is; [`InvalidOption`](crate::ErrorKind::InvalidOption) where one of the streams'
    /// defaults is out of its range; I/O.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Wal> {
        Wal::open_on(Arc::new(stratawal_storage::UnixStorage::new()), path.as_ref(), self, false)
    }

    /// Opens the log in the folder `path` for reading, beside a process that may be writing.
    /// Creates and changes nothing, and takes no lock.
    ///
    /// A stream is seen as it was when it was looked up; [`Stream::reopen`](crate::Stream::reopen)
    /// looks again. All of it that is shown is durable: what is not known to be is synced first.
    ///
    /// # Errors
    /// [`Missing`](crate::ErrorKind::Missing) where there is no log; otherwise as [`open`](Self::open), without
    /// `Locked`.
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<Wal> {
        Wal::open_on(Arc::new(stratawal_storage::UnixStorage::new()), path.as_ref(), self, true)
    }

    /// Opens the log on another storage. Not part of the stable API.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`open_read_only`](Self::open_read_only).
    #[cfg(feature = "unstable-storage")]
    #[doc(hidden)]
    pub fn open_on(&self, storage: Arc<dyn stratawal_storage::Storage>, path: &Path, read_only: bool) -> Result<Wal> {
        Wal::open_on(storage, path, self, read_only)
    }
}
