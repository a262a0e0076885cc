//! A storage that evicts the cache of sealed segments if the process has run out of descriptors:
//! the cache closes its files, and so do active segments whose files are synced, and the operation
//! is tried once more. A rotation that still finds no
//! descriptor settles its stream's finished segments, which closes them.
//!
//! Order of locks: a thread may hold any lock of a stream, of a directory or of the emergency
//! reserve when it takes the lock here, and that of an active file. Under it the cache's own lock
//! is taken, and then that of the list of active files, which only tries the locks of files. The
//! cache calls neither a loader nor a destructor under its lock, so the order has no cycle.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use stratawal_index::Cache;
use stratawal_storage::{Access, DirEntry, File, Lock, LockError, Storage, is_out_of_files};
use stratawal_sync::Mutex;

use crate::active_files::ActiveFiles;

/// Wraps a storage. If an operation finds no descriptor, the cache gives up its own.
#[derive(Debug)]
pub(crate) struct EvictingStorage<V> {
    inner: Arc<dyn Storage>,
    cache: Arc<Cache<V>>,
    active: Option<Arc<ActiveFiles>>,
    /// Held until the cache has closed its files, so that other threads wait for the descriptors. A
    /// file that a reader is using is closed when the reader is done with it.
    evicting: Mutex<()>,
}

impl<V> EvictingStorage<V> {
    pub(crate) fn new(inner: Arc<dyn Storage>, cache: Arc<Cache<V>>, active: Option<Arc<ActiveFiles>>) -> Self {
        Self { inner, cache, active, evicting: Mutex::new(()) }
    }

    /// Runs `act`. If it fails because no descriptor is left, it has changed nothing, and is run
    /// once more after the cache is emptied.
    fn with_eviction<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match act() {
            // In a forked child the locks may stay held forever.
            Err(error) if is_out_of_files(&error) && !self.inner.is_forked() => {
                let evicting = self.evicting.lock();
                self.cache.clear();
                if let Some(active) = &self.active {
                    active.close_all_synced();
                }
                drop(evicting);
                // Retries even if the cache was empty, because another thread may have just emptied
                // it.
                act()
            }
            done => done,
        }
    }
}

impl<V: fmt::Debug + Send + Sync + 'static> Storage for EvictingStorage<V> {
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>> {
        let inner = self.with_eviction(|| self.inner.at(dir))?;
        Ok(Arc::new(Self::new(inner, Arc::clone(&self.cache), self.active.clone())))
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

    /// Evicts if the directory cannot be opened. The sync itself is never repeated.
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

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use stratawal_index::{CacheKey, CacheLimits};
    use stratawal_storage::MemoryStorage;
    use stratawal_testkit::{HookedStorage, Operation};

    use super::*;

    /// The operating system's error number for a process that has no descriptor left.
    const EMFILE: i32 = 24;

    /// Returns a storage whose first `failures` opens find no descriptor, its cache with one value,
    /// and a counter of opens.
    fn storage(failures: usize) -> (EvictingStorage<u8>, Arc<Cache<u8>>, Arc<AtomicUsize>) {
        let inner = HookedStorage::new(MemoryStorage::new());
        inner.create_new(Path::new("/file")).unwrap();
        let opens = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&opens);
        inner.set(move |operation, _| {
            let is_open = operation == Operation::Open;
            match is_open && counted.fetch_add(1, Ordering::Relaxed) < failures {
                true => Err(io::Error::from_raw_os_error(EMFILE)),
                false => Ok(()),
            }
        });
        let cache = Arc::new(Cache::new(CacheLimits { bytes_max: 1 << 10, entries_max: 8 }));
        let key = CacheKey { stream_id: 1, generation: 1 };
        cache.get_or_load(key, || Ok::<_, io::Error>((7, 1))).unwrap();
        (EvictingStorage::new(Arc::new(inner), Arc::clone(&cache), None), cache, opens)
    }

    #[test]
    fn an_open_without_a_descriptor_empties_the_cache() {
        let (storage, cache, opens) = storage(1);
        storage.open(Path::new("/file"), Access::Read).unwrap();
        assert_eq!(cache.stats().entries, 0);
        assert_eq!(opens.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn an_open_is_tried_only_once_more() {
        let (storage, _, opens) = storage(2);
        let error = storage.open(Path::new("/file"), Access::Read).unwrap_err();
        assert!(is_out_of_files(&error), "{error}");
        assert_eq!(opens.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn other_errors_leave_the_cache_alone() {
        let (storage, cache, _) = storage(0);
        let error = storage.open(Path::new("/missing"), Access::Read).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(cache.stats().entries, 1);
    }
}
