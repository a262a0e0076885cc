//! The file `NOTIFY`: a counter by which readers in other processes see that nothing has changed.
//!
//! The file has one page. Its first 4 bytes are a counter, little-endian. The writer of the log
//! increases it after each change of the files that readers see, and before the change is
//! acknowledged: entries in the segments, a new start or end of a stream, a deletion, a journal
//! that was opened or restarted. Records of the journal do not change it: a reader sees them at the
//! journal's end.
//!
//! The next 4 bytes are a number on which followers in other processes wait, as on a futex. The
//! writer changes it, and wakes them, after each change except a write that was only flushed, and
//! once for each sync of the journal. The next byte is 1 if the writer does so. Otherwise followers
//! look again and again.
//!
//! The file is not part of the data. It is never synced, deleting it loses nothing, and a copy of a
//! log may have it or not. A reader never creates it. It trusts the counter only for
//! [`TRUSTED_FOR`] after it has looked at the files, because the file may have been replaced, or be
//! left from another version of the program.
//!
//! The writer stores the counter into a mapping where it may map the journal, and writes it
//! otherwise. If another process shortens the mapped file, the next store kills the writer with a
//! signal. Readers do not access a mapping of it: they read the bytes with one call, and only the
//! system reads the number on which they wait.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stratawal_storage::{Access, File, Storage, StoreMap};
use stratawal_sync::Mutex;
use stratawal_sync::atomic::{AtomicU64, Ordering};

use crate::journal_reader::Sighting;

const FILE_LEN: usize = 4096;

/// The offset of the number on which followers wait.
const WAIT_AT: u64 = 4;

/// The offset of the byte that is 1 if the writer wakes those that wait.
const WAKES_AT: usize = 8;

/// How long a reader trusts the counter after it has looked at the files.
const TRUSTED_FOR: Duration = Duration::from_millis(50);

/// The counter of a log that is open for writing.
#[derive(Debug)]
pub struct Notifier {
    state: Mutex<State>,
    /// The durable end of the journal of which followers were last woken.
    woken_at: AtomicU64,
}

#[derive(Debug)]
struct State {
    counter: u32,
    /// The number on which followers wait.
    wait: u32,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Mapped(Box<dyn StoreMap>),
    Written(Arc<dyn File>),
}

impl Notifier {
    /// Opens the file `path`, or creates it, and increases the counter. With `mapped`, the file is
    /// mapped if the file system allows it.
    ///
    /// # Errors
    /// I/O. Then readers notice changes later.
    pub fn open(storage: &Arc<dyn Storage>, path: &Path, mapped: bool) -> io::Result<Self> {
        let file = match storage.open(path, Access::ReadWrite) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => storage.create_new(path)?,
            other => other?,
        };
        let counter = read_counter(&*file)?.unwrap_or(0).wrapping_add(1);
        // The whole page is written, because a mapping needs written bytes.
        let mut page = [0; FILE_LEN];
        page[..4].copy_from_slice(&counter.to_le_bytes());
        file.write_all_at(&page, 0)?;
        let mut map = if mapped { file.map_for_stores(FILE_LEN as u64).ok() } else { None };
        if let Some(map) = map.as_mut().filter(|map| map.wake(WAIT_AT).is_ok()) {
            map.store(&[1], WAKES_AT as u64)?;
        }
        let target = map.map_or(Target::Written(file), Target::Mapped);
        Ok(Self { state: Mutex::new(State { counter, wait: counter, target }), woken_at: AtomicU64::new(0) })
    }

    /// Increases the counter.
    pub(crate) fn notify(&self) {
        self.state.lock().count();
    }

    /// Increases the counter, and wakes the followers in other processes.
    pub(crate) fn notify_and_wake(&self) {
        let mut state = self.state.lock();
        state.count();
        state.wake();
    }

    /// Wakes the followers in other processes after a sync of the journal up to `durable`, unless
    /// another thread has done so after the same sync.
    pub(crate) fn wake_after_sync(&self, durable: u64) {
        // Relaxed: the lock orders the store that followers see.
        if self.woken_at.fetch_max(durable, Ordering::Relaxed) < durable {
            self.state.lock().wake();
        }
    }
}

impl State {
    fn count(&mut self) {
        self.counter = self.counter.wrapping_add(1);
        let bytes = self.counter.to_le_bytes();
        // If this fails, readers notice the change later.
        let _ = match &mut self.target {
            Target::Mapped(map) => map.store(&bytes, 0),
            Target::Written(file) => file.write_all_at(&bytes, 0),
        };
    }

    fn wake(&mut self) {
        let Target::Mapped(map) = &mut self.target else { return };
        self.wait = self.wait.wrapping_add(1);
        // If this fails, followers look again after a short time.
        let _ = map.store(&self.wait.to_ne_bytes(), WAIT_AT).and_then(|()| map.wake(WAIT_AT));
    }
}

/// Reads the counter, or returns `None` if the file is too short.
fn read_counter(file: &dyn File) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    Ok((file.read_at(&mut bytes, 0)? == bytes.len()).then(|| u32::from_le_bytes(bytes)))
}

/// The counter of a log that is opened for reading. All streams of the log share one open file.
#[derive(Debug)]
pub struct NotifyReader {
    path: PathBuf,
    /// The file, and when it was opened. It is opened again after [`TRUSTED_FOR`], because it may
    /// have been replaced.
    file: Mutex<Option<(Arc<dyn File>, Instant)>>,
}

/// What a reader remembers of its last look at a stream.
#[derive(Debug)]
pub(crate) struct LastLook {
    /// The counter before the look.
    counter: u32,
    began: Instant,
    /// The journal, as the look saw it.
    pub(crate) sighting: Sighting,
}

impl NotifyReader {
    /// Reads the file `path`, whenever it exists.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: Mutex::new(None) }
    }

    /// Returns the file as it was opened last, or opens it again if that is long ago.
    fn fresh_file(&self, storage: &dyn Storage) -> Option<Arc<dyn File>> {
        let mut shared = self.file.lock();
        if let Some((file, opened)) = &*shared
            && opened.elapsed() < TRUSTED_FOR
        {
            return Some(Arc::clone(file));
        }
        // Closed first, so that a process without free descriptors can open it again.
        *shared = None;
        let opened = Instant::now();
        let file = storage.open(&self.path, Access::Read).ok()?;
        Some(Arc::clone(&shared.insert((file, opened)).0))
    }

    fn open_file(&self) -> Option<Arc<dyn File>> {
        self.file.lock().as_ref().map(|(file, _)| Arc::clone(file))
    }

    /// Begins a look. Returns `None` if there is no counter.
    pub(crate) fn begin_look(&self, storage: &dyn Storage) -> Option<LastLook> {
        let began = Instant::now();
        let file = self.fresh_file(storage)?;
        let counter = read_counter(&*file).ok().flatten()?;
        Some(LastLook { counter, began, sighting: Sighting::default() })
    }

    /// Whether the files have not changed since `look`, as far as the counter shows. It makes one
    /// short read.
    pub(crate) fn is_current(&self, look: &LastLook) -> bool {
        let is_same = |file: Arc<dyn File>| read_counter(&*file).is_ok_and(|now| now == Some(look.counter));
        look.began.elapsed() < TRUSTED_FOR && self.open_file().is_some_and(is_same)
    }
}

/// The number on which a follower waits, as it was before a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitPoint {
    wait: u32,
}

impl NotifyReader {
    /// Reads the number on which followers wait. Returns `None` if the writer wakes none.
    pub(crate) fn wait_point(&self, storage: &dyn Storage) -> Option<WaitPoint> {
        let file = self.fresh_file(storage)?;
        let mut bytes = [0; WAKES_AT + 1];
        let is_whole = file.read_at(&mut bytes, 0).ok()? == bytes.len();
        let [.., a, b, c, d, wakes] = bytes;
        (is_whole && wakes == 1).then(|| WaitPoint { wait: u32::from_ne_bytes([a, b, c, d]) })
    }

    /// Waits until the number is no longer as at `point`, at most for `timeout`. Returns false if
    /// that is not possible.
    pub(crate) fn wait(&self, point: WaitPoint, timeout: Duration) -> bool {
        self.open_file().is_some_and(|file| file.wait_while(WAIT_AT, point.wait, timeout).is_ok())
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use stratawal_storage::MemoryStorage;

    use super::*;

    #[test]
    fn counter_continues_after_a_restart() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let path = Path::new("/NOTIFY");
        let reader = NotifyReader::new(path);
        assert!(reader.begin_look(&*storage).is_none(), "a reader creates nothing");
        let first = Notifier::open(&storage, path, true).unwrap();
        first.notify();
        let look = reader.begin_look(&*storage).unwrap();
        assert!(reader.is_current(&look));
        first.notify();
        assert!(!reader.is_current(&look));
        let look = reader.begin_look(&*storage).unwrap();
        drop(first);
        let again = Notifier::open(&storage, path, false).unwrap();
        assert!(!reader.is_current(&look), "the opening increases the counter");
        let look = reader.begin_look(&*storage).unwrap();
        again.notify();
        assert!(!reader.is_current(&look));
    }

    #[test]
    fn counter_is_trusted_for_a_short_time() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let path = Path::new("/NOTIFY");
        let _notifier = Notifier::open(&storage, path, true).unwrap();
        let reader = NotifyReader::new(path);
        let look = reader.begin_look(&*storage).unwrap();
        storage.remove_file(path).unwrap();
        std::thread::sleep(TRUSTED_FOR);
        assert!(!reader.is_current(&look), "the file may have been replaced");
    }
}
