//! A storage that evicts the cache of sealed segments where the process has no descriptor left: the
//! cache closes its files, and the operation is tried once more. A rotation that still finds no
//! descriptor settles its stream's finished segments, which closes them.
//!
//! Order of locks: a thread may hold any lock of a stream, of a directory or of the emergency
//! reserve when it takes the lock here. Under it only the cache's own lock is taken. The cache
//! calls neither a loader nor a destructor under that lock, so the order has no cycle.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use stratawal_index::Cache;
use stratawal_storage::{Access, DirEntry, File, Lock, LockError, Storage, is_out_of_files};
use stratawal_sync::Mutex;

/// A storage whose operations take descriptors from the cache where none is left. Everything else
/// is done by the storage in it.
#[derive(Debug)]
pub(crate) struct EvictingStorage<V> {
    inner: Arc<dyn Storage>,
    cache: Arc<Cache<V>>,
    /// Held until the cache has closed its files, so that other threads wait for the descriptors. A
    /// file that a reader uses at this moment is closed after that.
    evicting: Mutex<()>,
}

impl<V> EvictingStorage<V> {
    pub(crate) fn new(inner: Arc<dyn Storage>, cache: Arc<Cache<V>>) -> Self {
        Self { inner, cache, evicting: Mutex::new(()) }
    }

    /// Does `act`. If it finds no descriptor, it has changed nothing, and is done once more with an
    /// empty cache.
    fn with_eviction<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match act() {
            // In a forked child the locks may be held for ever.
            Err(error) if is_out_of_files(&error) && !self.inner.is_forked() => {
                let evicting = self.evicting.lock();
                self.cache.clear();
                drop(evicting);
                // Also where the cache was empty: another thread may have emptied it just before.
                act()
            }
            done => done,
        }
    }
}

impl<V: fmt::Debug + Send + Sync + 'static> Storage for EvictingStorage<V> {
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>> {
        let inner = self.with_eviction(|| self.inner.at(dir))?;
        Ok(Arc::new(Self::new(inner, Arc::clone(&self.cache))))
    }

    fn is_forked(&self) -> bool {
        self.inner.is_forked()
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.with_eviction(|| self.inner.create_new(path))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        self.with_eviction(|| self.inner.open(path, access))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.with_eviction(|| self.inner.list(dir))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir(dir)
    }

    /// Evicts for opening the directory. The sync itself is never repeated.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self.open_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.inner.sync_dir(dir),
            opened => opened?.sync_all(),
        }
    }

    /// Never repeats a sync.
    fn sync_file_system(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_file_system(dir)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        self.with_eviction(|| self.inner.open_dir(dir))
    }

    fn lock(&self, root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.inner.lock(root, path)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.with_eviction(|| self.inner.free_space(dir))
    }

    fn now_micros(&self) -> u64 {
        self.inner.now_micros()
    }

    fn coarse_now_micros(&self) -> u64 {
        self.inner.coarse_now_micros()
    }

    fn elapsed_micros(&self) -> u64 {
        self.inner.elapsed_micros()
    }

    fn random_u64(&self) -> u64 {
        self.inner.random_u64()
    }
}
