//! A storage that asks a hook before each operation and then forwards it to another storage. A test
//! can make one operation fail, or hold it until another thread has reached a certain point.

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use stratawal_storage::{
    Access, ChangeStamp, DirEntry, File, Lock, LockError, LockOwner, RangeSync, Storage, StoreMap,
};

/// The kinds of operations that reach a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A file is created.
    Create,
    /// A directory is created.
    CreateDir,
    /// A file is opened.
    Open,
    /// A file or directory is renamed.
    Rename,
    /// A file is removed.
    Remove,
    /// A directory is removed.
    RemoveDir,
    /// A directory is synced.
    SyncDir,
    /// Bytes are written, or stored into a map of the file.
    Write,
    /// The write-back of a file is started.
    StartWriteBack,
    /// A file is synced, or a range of a map.
    Sync,
    /// The length of a file is set.
    SetLen,
    /// Space is preallocated.
    Preallocate,
}

/// An operation that is about to run, with its arguments.
#[derive(Clone, Debug)]
pub struct Call {
    /// The kind of the operation.
    pub operation: Operation,
    /// The full path of the file or directory. For a rename, the new path.
    pub path: PathBuf,
    /// The old path of a rename.
    pub from: Option<PathBuf>,
    /// The range of bytes written, or synced through a map; for `SetLen` and `Preallocate`, all
    /// bytes up to the new length.
    pub bytes: Range<u64>,
}

/// A hook's decision about an operation.
#[derive(Debug)]
pub enum Verdict {
    /// The operation runs.
    Proceed,
    /// The operation does not run, and returns this error.
    Fail(io::Error),
    /// The operation takes effect, but returns this error.
    FailAfterEffect(io::Error),
    /// The operation runs. Then this function is called, before the operation returns.
    ProceedThen(fn()),
}

type Hook = Arc<dyn Fn(&Call) -> Verdict + Send + Sync>;

/// A storage that asks a hook before each operation. Clones share the storage and the hook.
#[derive(Clone)]
pub struct HookedStorage {
    inner: Arc<dyn Storage>,
    /// The path of the directory, so that hooks get full paths.
    root: PathBuf,
    hook: Arc<Mutex<Option<Hook>>>,
    read_bytes: Arc<AtomicU64>,
}

impl fmt::Debug for HookedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookedStorage").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl HookedStorage {
    /// Creates a storage that forwards to `inner`, with no hook yet.
    #[must_use]
    pub fn new(inner: impl Storage + 'static) -> Self {
        Self { inner: Arc::new(inner), root: PathBuf::new(), hook: Arc::default(), read_bytes: Arc::default() }
    }

    /// How many bytes were read from files through this storage and its clones.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::SeqCst)
    }

    /// Asks `hook` before each operation from now on. If the hook returns an error, the operation
    /// does not run, and returns that error.
    pub fn set(&self, hook: impl Fn(Operation, &Path) -> io::Result<()> + Send + Sync + 'static) {
        self.intercept(move |call| hook(call.operation, &call.path).map_or_else(Verdict::Fail, |()| Verdict::Proceed));
    }

    /// Lets `hook` decide about each operation from now on.
    pub fn intercept(&self, hook: impl Fn(&Call) -> Verdict + Send + Sync + 'static) {
        *lock(&self.hook) = Some(Arc::new(hook));
    }

    /// Removes the hook.
    pub fn clear(&self) {
        *lock(&self.hook) = None;
    }

    fn call<T>(&self, operation: Operation, path: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.call_with(operation, path, |_| (), run)
    }

    fn call_with<T>(
        &self,
        operation: Operation,
        path: &Path,
        arguments: impl FnOnce(&mut Call),
        run: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        // The lock is not held while the hook runs, because the hook may block.
        let Some(hook) = lock(&self.hook).clone() else { return run() };
        let mut call = Call { operation, path: self.root.join(path), from: None, bytes: 0..0 };
        arguments(&mut call);
        match hook(&call) {
            Verdict::Proceed => run(),
            Verdict::Fail(error) => Err(error),
            Verdict::FailAfterEffect(error) => run().and(Err(error)),
            Verdict::ProceedThen(act) => run().inspect(|_| act()),
        }
    }

    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(HookedFile { inner: file, path: path.to_owned(), storage: self.clone() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for HookedStorage {
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>> {
        let inner = self.inner.at(dir)?;
        let root = self.root.join(dir);
        Ok(Arc::new(Self { inner, root, ..self.clone() }))
    }

    fn is_forked(&self) -> bool {
        self.inner.is_forked()
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.call(Operation::Create, path, || Ok(self.file(path, self.inner.create_new(path)?)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        self.call(Operation::Open, path, || Ok(self.file(path, self.inner.open(path, access)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Operation::CreateDir, dir, || self.inner.create_dir(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let old_path = |call: &mut Call| call.from = Some(self.root.join(from));
        self.call_with(Operation::Rename, to, old_path, || self.inner.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(Operation::Remove, path, || self.inner.remove_file(path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Operation::RemoveDir, dir, || self.inner.remove_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Operation::SyncDir, dir, || self.inner.sync_dir(dir))
    }

    fn sync_file_system(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_file_system(dir)
    }

    fn lock(&self, root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.inner.lock(root, path)
    }

    fn lock_owner(&self, root: &Path, path: &Path) -> io::Result<Option<LockOwner>> {
        self.inner.lock_owner(root, path)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_space(dir)
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

#[derive(Clone, Debug)]
struct HookedFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    storage: HookedStorage,
}

impl HookedFile {
    fn call(&self, operation: Operation, bytes: Range<u64>, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.storage.call_with(operation, &self.path, |call| call.bytes = bytes, run)
    }
}

impl File for HookedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buf, offset)?;
        self.storage.read_bytes.fetch_add(read as u64, Ordering::SeqCst);
        Ok(read)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let bytes = offset..offset + buf.len() as u64;
        self.call(Operation::Write, bytes, || self.inner.write_all_at(buf, offset))
    }

    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let bytes = offset..offset + len as u64;
        self.call(Operation::Write, bytes, || self.inner.write_all_vectored_at(bufs, offset))
    }

    fn start_write_back(&self) -> io::Result<()> {
        self.call(Operation::StartWriteBack, 0..0, || self.inner.start_write_back())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(Operation::Sync, 0..0, || self.inner.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.call(Operation::Sync, 0..0, || self.inner.sync_all())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }

    fn change_stamp(&self) -> io::Result<Option<ChangeStamp>> {
        self.inner.change_stamp()
    }

    fn identity(&self) -> io::Result<Option<u64>> {
        self.inner.identity()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(Operation::SetLen, 0..len, || self.inner.set_len(len))
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.call(Operation::Preallocate, 0..len, || self.inner.preallocate(len))
    }

    fn next_data(&self, offset: u64) -> io::Result<u64> {
        self.inner.next_data(offset)
    }

    fn map_for_stores(&self, len: u64) -> io::Result<Box<dyn StoreMap>> {
        let inner = self.inner.map_for_stores(len)?;
        Ok(Box::new(HookedStores { inner, file: self.clone() }))
    }
}

#[derive(Debug)]
struct HookedStores {
    inner: Box<dyn StoreMap>,
    file: HookedFile,
}

impl StoreMap for HookedStores {
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let range = offset..offset + bytes.len() as u64;
        let inner = &mut self.inner;
        self.file.call(Operation::Write, range, || inner.store(bytes, offset))
    }

    fn range_sync(&self) -> Arc<dyn RangeSync> {
        Arc::new(HookedRangeSync { inner: self.inner.range_sync(), file: self.file.clone() })
    }
}

#[derive(Debug)]
struct HookedRangeSync {
    inner: Arc<dyn RangeSync>,
    file: HookedFile,
}

impl RangeSync for HookedRangeSync {
    fn sync(&self, from: u64, to: u64) -> io::Result<()> {
        self.file.call(Operation::Sync, from..to, || self.inner.sync(from, to))
    }

    fn prefault(&self, from: u64, to: u64) -> io::Result<()> {
        self.inner.prefault(from, to)
    }
}

/// A gate at which threads wait until it is opened. All clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<Visitors>, Condvar)>);

#[derive(Debug, Default)]
struct Visitors {
    came: usize,
    open: bool,
}

impl Gate {
    /// Creates a closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until the gate is open.
    pub fn pass(&self) {
        let (visitors, changed) = &*self.0;
        let mut visitors = lock(visitors);
        visitors.came += 1;
        changed.notify_all();
        while !visitors.open {
            visitors = changed.wait(visitors).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until a thread has reached the gate.
    pub fn await_one(&self) {
        let (visitors, changed) = &*self.0;
        let mut visitors = lock(visitors);
        while visitors.came == 0 {
            visitors = changed.wait(visitors).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets all threads pass, now and later.
    pub fn open(&self) {
        let (visitors, changed) = &*self.0;
        lock(visitors).open = true;
        changed.notify_all();
    }
}
