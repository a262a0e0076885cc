//! Options for opening a log.

use std::path::Path;
use std::sync::Arc;

use stratawal_stream::{MapPromise, StreamOptions};

use crate::error::Result;
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
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) stream_defaults: StreamOptions,
    /// Applies to all streams, whatever options they have.
    pub(crate) map: Option<MapPromise>,
    pub(crate) cache_bytes: usize,
    /// `None`: derived from the limit of open files.
    cache_files: Option<usize>,
}

/// Upper bound on the default of [`Options::cache_files`].
const CACHE_FILES_MAX: usize = 1024;

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Creates options with the default values.
    #[must_use]
    pub const fn new() -> Self {
        Self { stream_defaults: StreamOptions::new(), map: None, cache_bytes: 64 << 20, cache_files: None }
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

    /// Opens the log in the directory `path` for reading and writing. Creates it, and the
    /// directories above it, if they do not exist. No stream is read until it is looked up.
    ///
    /// The log is the directory that `path` leads to at this moment; later changes of the working
    /// directory or of the path do not matter. If several processes create a log at once, one opens
    /// it and the others get [`Locked`](crate::ErrorKind::Locked). Files are created with mode 0666
    /// and directories with 0777, less the umask of the process.
    ///
    /// # Errors
    /// - [`Locked`](crate::ErrorKind::Locked): the message gives the process named in the lock
    ///   file, if that process exists.
    /// - [`NewerFormat`](crate::ErrorKind::NewerFormat).
    /// - [`Damaged`](crate::ErrorKind::Damaged): both copies in the FORMAT file are damaged, or
    ///   they are valid but differ; or this file, or the directory of the streams, is missing, or
    ///   is something else, such as a link.
    /// - [`InvalidOption`](crate::ErrorKind::InvalidOption): a default of the streams is out of its
    ///   range.
    /// - Any operating-system error.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Wal> {
        Wal::open_on(Arc::new(stratawal_storage::UnixStorage::new()), path.as_ref(), self, false)
    }

    /// Opens the log in the directory `path` for reading. Another process may write to it at the
    /// same time. Creates and changes nothing, and takes no lock.
    ///
    /// A stream is seen as it was when it was looked up; [`Stream::reopen`](crate::Stream::reopen)
    /// looks again. Every entry that is shown is durable: those that may not be durable are synced
    /// first.
    ///
    /// This returns a [`Wal`] rather than a type without the methods that write. So code that only
    /// reads can use one type of stream, however its log was opened. Calls that write fail with
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly) and change nothing.
    ///
    /// # Errors
    /// [`Missing`](crate::ErrorKind::Missing) if the log does not exist. Otherwise the same errors
    /// as [`open`](Self::open), except `Locked`.
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

    /// The maximum number of finished segments, across all streams, that may hold a file open
    /// because they are not synced: a quarter of the files that the process may open.
    pub(crate) fn unsynced_files_max() -> usize {
        quarter_of_open_files().unwrap_or(usize::MAX)
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
