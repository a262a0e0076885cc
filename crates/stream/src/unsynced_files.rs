//! Counts the files of finished segments that stay open because they have unsynced bytes.

use std::sync::Arc;

use stratawal_storage::Storage;
use stratawal_sync::Mutex;

/// How many such files all streams of a log hold open, and the limit.
#[derive(Debug)]
pub(crate) struct UnsyncedFiles {
    storage: Arc<dyn Storage>,
    max: usize,
    open: Mutex<usize>,
}

/// One such file. It is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct UnsyncedFile(Arc<UnsyncedFiles>);

impl UnsyncedFiles {
    pub(crate) fn new(storage: Arc<dyn Storage>, max: usize) -> Self {
        Self { storage, max, open: Mutex::new(0) }
    }

    /// Whether more files are open than the limit allows.
    pub(crate) fn are_too_many(&self) -> bool {
        *self.open.lock() > self.max
    }
}

impl UnsyncedFile {
    pub(crate) fn new(files: &Arc<UnsyncedFiles>) -> Self {
        *files.open.lock() += 1;
        Self(Arc::clone(files))
    }
}

impl Drop for UnsyncedFile {
    fn drop(&mut self) {
        // In a forked child the lock may stay held forever.
        if self.0.storage.is_forked() {
            return;
        }
        *self.0.open.lock() -= 1;
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use stratawal_storage::MemoryStorage;

    use super::*;

    #[test]
    fn a_file_counts_until_it_is_dropped() {
        let files = Arc::new(UnsyncedFiles::new(Arc::new(MemoryStorage::new()), 1));
        let first = UnsyncedFile::new(&files);
        assert!(!files.are_too_many());
        let second = UnsyncedFile::new(&files);
        assert!(files.are_too_many());
        drop(first);
        assert!(!files.are_too_many());
        drop(second);
    }
}
