//! Verifying the streams of a log in several threads.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use stratawal_storage::{Storage, UnixStorage};
use stratawal_stream::{Location, LogContext, StreamCheck, StreamOptions, VerifyWork};
use stratawal_sync::Mutex;
use stratawal_sync::atomic::{AtomicUsize, Ordering};

use super::reader_context;
use crate::error::Result;
use crate::root::Root;
use crate::wal::{stream_dir, unknown_stream};

/// The bytes of frames that all threads together hold, apart from one longer frame.
const FRAMES_LEN_MAX: u64 = 64 << 20;

/// A log, and the streams of it that are verified.
pub(super) struct LogToVerify {
    pub(super) path: PathBuf,
    /// The directory of the streams, relative to the log.
    streams: &'static Path,
    context: Arc<LogContext>,
    pub(super) names: Vec<String>,
    is_of_one: bool,
}

impl LogToVerify {
    pub(super) fn open(storage: &dyn Storage, path: &Path, stream: Option<&str>) -> Result<Self> {
        // Each thread reads one segment at a time, and a bound on the open files and their indexes
        // is a bound on the memory.
        const CACHE_BYTES: usize = 16 << 20;
        const CACHE_FILES: usize = 64;
        let root = Root::open_read_only(storage, path)?;
        let context = reader_context(&root).cache(CACHE_BYTES, CACHE_FILES);
        let mut names = match context.reader_of_journal() {
            Some(journal) => root.stream_names_with(journal)?,
            None => root.stream_names()?,
        };
        if let Some(wanted) = stream {
            stream_dir(wanted)?;
            names.retain(|name| name == wanted);
            if names.is_empty() {
                return Err(unknown_stream(path, wanted));
            }
        }
        let context = Arc::new(context);
        Ok(Self { path: path.to_owned(), streams: root.streams(), context, names, is_of_one: stream.is_some() })
    }

    /// Verifies the stream with this index. Returns `None` if it was deleted after the streams were
    /// listed, unless it is the only one.
    pub(super) fn check(&self, i: usize, work: Option<&dyn VerifyWork>) -> Result<Option<StreamCheck>> {
        let name = &self.names[i];
        let location = Location::new(self.streams, stream_dir(name)?).named(name);
        let options = StreamOptions::new();
        let check = match work {
            Some(work) => stratawal_stream::verify_shared(&self.context, &location, &options, work),
            None => stratawal_stream::verify(&self.context, &location, &options),
        };
        match check? {
            None if self.is_of_one => Err(unknown_stream(&self.path, name)),
            check => Ok(check),
        }
    }
}

/// How [`verify_with`] works.
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    threads: usize,
    progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl fmt::Debug for VerifyOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyOptions").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Default for VerifyOptions<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> VerifyOptions<'a> {
    /// As many threads as the processor has cores for this process, and no progress.
    #[must_use]
    pub fn new() -> Self {
        Self { threads: thread::available_parallelism().map_or(1, usize::from), progress: None }
    }

    /// Sets how many threads read at the same time, the caller's included. 0 is the same as 1. If
    /// the system grants fewer, verification takes longer.
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Has `read` called after each segment file, with its length in bytes, by the thread that read
    /// it. If a writer changes a stream, its files may be read, and reported, more than once.
    #[must_use]
    pub const fn progress(mut self, read: &'a (dyn Fn(u64) + Sync)) -> Self {
        self.progress = Some(read);
        self
    }
}

/// Like [`verify`](super::verify), but in several threads: they share the streams, and the segments
/// of a stream. Calls `found` for each stream, in the order of their escaped names, by one thread
/// at a time. Returns once every stream is verified and the threads have ended.
///
/// # Memory
///
/// Takes up to 512 KiB for each thread, more where a frame is longer than 256 KiB, and up to 16 MiB
/// for the indexes of the segments. A segment with frames that are longer than 64 MiB divided by
/// the number of threads is read while no other such segment is, so that all threads together take
/// at most 64 MiB, or one of those frames in addition. A result is kept until those before it are
/// complete.
///
/// # Errors
/// Same as [`verify`](super::verify).
///
/// ```
/// use stratawal::inspect::{self, VerifyOptions};
///
/// # let dir = tempfile::tempdir()?;
/// # let wal = stratawal::Wal::open(dir.path())?;
/// # wal.stream("orders")?.append("one apple")?;
/// # let path = dir.path();
/// let mut streams = 0;
/// inspect::verify_with(path, None, &VerifyOptions::new().threads(4), |check| {
///     streams += 1;
///     match check {
///         Ok(check) => check.damage.iter().for_each(|damage| eprintln!("{damage}")),
///         Err(error) => eprintln!("{error}"),
///     }
/// })?;
/// assert_eq!(streams, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify_with(
    path: impl AsRef<Path>,
    stream: Option<&str>,
    options: &VerifyOptions<'_>,
    found: impl FnMut(Result<StreamCheck>) + Send,
) -> Result<()> {
    let log = LogToVerify::open(&UnixStorage::new(), path.as_ref(), stream)?;
    verify_in_threads(&log, options, found);
    Ok(())
}

fn verify_in_threads(log: &LogToVerify, options: &VerifyOptions<'_>, found: impl FnMut(Result<StreamCheck>) + Send) {
    let workers = Workers {
        spare: AtomicUsize::new(0),
        progress: options.progress,
        frame_len_max: FRAMES_LEN_MAX / options.threads.max(1) as u64,
        with_long_frames: Mutex::new(()),
    };
    let results = Mutex::new(Results { next: 0, waiting: BTreeMap::new(), found });
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            // Relaxed: each index is taken once, and the names do not change.
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= log.names.len() {
                break;
            }
            let check = log.check(i, Some(&workers));
            results.lock().add(i, check);
        }
        // Its place may be taken by a thread that helps with the segments of a stream.
        workers.spare.fetch_add(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for _ in 1..options.threads {
            if thread::Builder::new().name("stratawal-verify".to_owned()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}

/// The results, which are passed on in the order of the streams.
struct Results<F> {
    next: usize,
    waiting: BTreeMap<usize, Result<Option<StreamCheck>>>,
    found: F,
}

impl<F: FnMut(Result<StreamCheck>)> Results<F> {
    fn add(&mut self, i: usize, check: Result<Option<StreamCheck>>) {
        self.waiting.insert(i, check);
        while let Some(check) = self.waiting.remove(&self.next) {
            self.next += 1;
            if let Some(check) = check.transpose() {
                (self.found)(check);
            }
        }
    }
}

/// The threads that verify.
struct Workers<'a> {
    /// How many more threads may work.
    spare: AtomicUsize,
    progress: Option<&'a (dyn Fn(u64) + Sync)>,
    /// The length in bytes of frames that each thread may hold at any time.
    frame_len_max: u64,
    /// Locked by the thread that reads a segment with longer frames.
    with_long_frames: Mutex<()>,
}

impl Workers<'_> {
    fn take_spare(&self) -> bool {
        self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spare| spare.checked_sub(1)).is_ok()
    }

    fn give_back(&self) {
        self.spare.fetch_add(1, Ordering::Relaxed);
    }
}

impl VerifyWork for Workers<'_> {
    fn each(&self, parts: usize, check: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < parts);
        thread::scope(|scope| {
            let help = || {
                while let Some(i) = take() {
                    check(i);
                }
                self.give_back();
            };
            while let Some(i) = take() {
                // Threads that have ended with the other streams help with this one.
                while i + 1 < parts && self.take_spare() {
                    if thread::Builder::new().name("stratawal-verify".to_owned()).spawn_scoped(scope, help).is_err() {
                        self.give_back();
                        break;
                    }
                }
                check(i);
            }
        });
    }

    fn within(&self, frame_len_max: u64, read: &mut dyn FnMut()) {
        let _alone = (frame_len_max > self.frame_len_max).then(|| self.with_long_frames.lock());
        read();
    }

    fn read(&self, bytes: u64) {
        if let Some(progress) = self.progress {
            progress(bytes);
        }
    }
}
