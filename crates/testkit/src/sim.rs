//! A storage that can lose the same bytes as a power loss, and fails on demand.
//!
//! The fault model, fault by fault:
//!
//! - **Page cache.** Writes go to a cache that all reads see. The death of the process does not
//!   change the cache.
//! - **Unsynced write.** Until the file is synced, each of its 512-byte sectors is on the disk in
//!   any of the versions it had since the last sync, or not at all, independently of other sectors
//!   and files. A sector is never torn.
//! - **Unsynced length.** Lengths are journaled: after a power loss a file has one of the lengths
//!   it had since its last sync, and a later length reaches the disk only after the earlier ones.
//!   Bytes that were cut off never return; bytes below the length that were never written are
//!   zeros.
//! - **Unsynced name.** Until its directory is synced, each creation, removal and rename in it
//!   survives or not, independently of the others. A rename is atomic. Syncing a file does not make
//!   its name durable, and syncing a directory does not make the contents of its files durable.
//! - **Failed sync.** Some of the dirty sectors reach the disk. The others are marked clean anyway:
//!   the next sync succeeds without writing them, while reads still return bytes that the disk does
//!   not hold.
//! - **Store into a map.** Like a write, it is in the cache at once, and the process may die within
//!   it. A sync of a range makes only the pages of that range durable.
//! - **Failed write-back.** The system writes back the dirty sectors of all files of its own
//!   accord, and fails as a sync does. The next sync of each descriptor open at that time returns
//!   the error, once. A descriptor opened later reports nothing.
//! - **Failed write.** A part of the bytes, of any length, reaches the cache.
//! - **Full disk.** Creating, growing, preallocating, writing and syncing may return this error.
//!   Growing past the capacity always returns it.
//! - **An error after the effect.** A rename, a removal, or a sync of a directory may return an
//!   error although it took effect.
//! - **Another directory at the same path.** A storage created by [`Storage::at`] keeps its
//!   directory, which can be renamed, replaced or removed through another storage.
//! - **A fork.** [`SimStorage::set_forked`] makes this process the forked child.
//! - **A clock that is set.** [`SimStorage::set_clock_by`].
//! - **A coarse clock for files.** A changed file gets its time from a clock that ticks every 10
//!   ms, so that two changes may leave the same time.
//! - **Too many open files.** Creating, opening and listing may return this error.
//! - **A disk that lies** reports success for syncs, of files or of directories, and does nothing
//!   ([`Lie`]). Tests use it to show that they would notice.
//! - **Bit rot** is created on demand, with [`Disk::flip`].
//!
//! Not modelled: a write that alters neighbouring bytes, permissions, links, several machines.

mod content;
mod disk;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stratawal_storage::{Access, ChangeStamp, DirEntry, File, Lock, LockError, RangeSync, Storage, StoreMap};

use crate::rng::Rng;
use content::Content;
use disk::{Dir, Ino, Node, ROOT};

pub use disk::{Crash, Disk};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An input/output error from any operation that can return one.
    Io,
    /// The disk is full.
    Full,
    /// The process has too many files open.
    TooManyFiles,
    /// Write-back fails just before the operation. The operation itself succeeds.
    WriteBack,
    /// Growing the files past `after` bytes in total fails, as with a quota.
    Capacity,
    /// An input/output error from a rename, a removal, or the creation or sync of a directory. The
    /// operation takes effect anyway.
    IoAfterEffect,
}

/// The syncs that a disk reports as successful without doing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Syncs of files.
    Files,
    /// Syncs of directories.
    Dirs,
}

/// Which operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How many operations that can fail in this way succeed before the first failure. For
    /// `Capacity`, how many bytes of files fit on the disk.
    pub after: u64,
    /// How the operations fail.
    pub fault: Fault,
    /// Whether all operations from the first failure on fail, or only the first.
    pub forever: bool,
}

/// The kinds of operations that faults distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Create,
    CreateDir,
    Open,
    List,
    /// Rename, remove.
    Name,
    Read,
    /// Writing, growing, reserving.
    Write,
    Shorten,
    Sync,
    SyncDir,
}

impl Operation {
    const fn can_fail(self, fault: Fault) -> bool {
        match fault {
            Fault::Io | Fault::WriteBack => true,
            Fault::Full => {
                matches!(self, Self::Create | Self::CreateDir | Self::Name | Self::Write | Self::Sync | Self::SyncDir)
            }
            Fault::TooManyFiles => matches!(self, Self::Create | Self::Open | Self::List),
            Fault::IoAfterEffect => matches!(self, Self::Name | Self::SyncDir | Self::CreateDir),
            Fault::Capacity => false,
        }
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Io | Self::WriteBack | Self::IoAfterEffect => io::Error::from_raw_os_error(5),
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Capacity => io::ErrorKind::QuotaExceeded.into(),
            Self::TooManyFiles => io::Error::from_raw_os_error(24),
        }
    }
}

/// A function called with the disk after each change.
type Watch = Box<dyn FnMut(&Disk) + Send>;

struct State {
    disk: Disk,
    rng: Rng,
    clock: u64,
    /// By how much the clock was adjusted, in microseconds.
    clock_set: i64,
    capacity: u64,
    /// The directory and the name of each locked file.
    locked: Vec<(Ino, OsString)>,
    faults: Option<Faults>,
    failed: u64,
    /// Whether the current operation returns an error although it takes effect.
    fails_after: bool,
    lie: Option<Lie>,
    watch: Option<Watch>,
}

/// A simulated storage, shared by its clones. It starts with the directory `/`, a clock that
/// advances each time it is read, and random numbers determined by its seed.
#[derive(Clone)]
pub struct SimStorage {
    state: Arc<Mutex<State>>,
    /// The directory that paths are relative to.
    root: Ino,
    forked: Arc<AtomicBool>,
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStorage").field("files", &self.state().disk.files()).finish_non_exhaustive()
    }
}

impl SimStorage {
    /// Creates an empty storage.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::on(Disk::new(), seed)
    }

    /// Creates a machine that starts with this disk.
    #[must_use]
    pub fn on(disk: Disk, seed: u64) -> Self {
        let state = Arc::new(Mutex::new(State {
            disk,
            rng: Rng::new(seed),
            clock: 1_700_000_000_000_000,
            clock_set: 0,
            capacity: u64::MAX,
            locked: Vec::new(),
            faults: None,
            failed: 0,
            fails_after: false,
            lie: None,
            watch: None,
        }));
        Self { state, root: ROOT, forked: Arc::default() }
    }

    /// Makes this storage, and every storage created from it by [`Storage::at`], behave as in a
    /// forked child, or with `false` again as in the process that opened it.
    pub fn set_forked(&self, forked: bool) {
        self.forked.store(forked, Ordering::SeqCst);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as it is now.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.state().disk.clone()
    }

    /// Calls `watch` after each change of the disk, and in the middle of each write. It must not
    /// use this storage.
    pub fn watch(&self, watch: impl FnMut(&Disk) + Send + 'static) {
        self.state().watch = Some(Box::new(watch));
    }

    /// Stops calling the function of [`watch`](Self::watch).
    pub fn unwatch(&self) {
        self.state().watch = None;
    }

    /// Makes operations fail from now on, or with `None` no operation.
    pub fn set_faults(&self, faults: Option<Faults>) {
        let mut state = self.state();
        state.faults = faults;
        state.failed = 0;
        state.capacity = match faults {
            Some(Faults { after, fault: Fault::Capacity, .. }) => after,
            _ => u64::MAX,
        };
    }

    /// Adjusts the clock by `micros` microseconds, forwards or back. Time passes as before.
    pub fn set_clock_by(&self, micros: i64) {
        self.state().clock_set += micros;
    }

    /// Lets `micros` microseconds pass.
    pub fn let_pass(&self, micros: u64) {
        self.state().clock += micros;
    }

    /// How many operations have failed since faults were last set.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.state().failed
    }

    /// Makes the disk lie from now on, or with `None` stop lying.
    pub fn set_lie(&self, lie: Option<Lie>) {
        self.state().lie = lie;
    }
}

impl State {
    fn begin(&mut self, operation: Operation) -> io::Result<()> {
        self.disk.set_clock(self.clock.saturating_add_signed(self.clock_set));
        let Some(faults) = &mut self.faults else { return Ok(()) };
        if !operation.can_fail(faults.fault) {
            return Ok(());
        }
        if faults.after > 0 {
            faults.after -= 1;
            return Ok(());
        }
        if self.failed > 0 && !faults.forever {
            return Ok(());
        }
        let fault = faults.fault;
        if fault == Fault::WriteBack {
            let State { disk, rng, failed, .. } = self;
            // If no sector is dirty, nothing fails.
            *failed += u64::from(disk.fail_write_back(rng));
            self.changed();
            return Ok(());
        }
        self.failed += 1;
        if fault == Fault::IoAfterEffect {
            self.fails_after = true;
            return Ok(());
        }
        Err(fault.error())
    }

    /// Ends an operation on names after it has taken effect.
    fn end(&mut self) -> io::Result<()> {
        self.changed();
        if std::mem::take(&mut self.fails_after) { Err(Fault::IoAfterEffect.error()) } else { Ok(()) }
    }

    fn changed(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch(&self.disk);
        }
    }

    fn room(&mut self, more: u64) -> io::Result<()> {
        if more > 0 && self.capacity < u64::MAX && self.disk.used() + more > self.capacity {
            self.failed += 1;
            return Err(Fault::Capacity.error());
        }
        Ok(())
    }
}

impl Storage for SimStorage {
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>> {
        let mut state = self.state();
        state.begin(Operation::Open)?;
        let root = state.disk.find_from(self.root, dir)?;
        state.disk.list(root, Path::new(""))?;
        drop(state);
        Ok(Arc::new(Self { root, ..self.clone() }))
    }

    fn is_forked(&self) -> bool {
        self.forked.load(Ordering::SeqCst)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.begin(Operation::Create)?;
        let ino = state.disk.create(self.root, path, Node::File(content::Content::default()))?;
        state.changed();
        Ok(Arc::new(SimFile { sim: self.clone(), ino, writable: true, reported: Mutex::new(0) }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.begin(Operation::Open)?;
        let ino = state.disk.find_from(self.root, path)?;
        let reported = Mutex::new(state.disk.file(ino)?.write_back_errors());
        Ok(Arc::new(SimFile { sim: self.clone(), ino, writable: access == Access::ReadWrite, reported }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.state();
        state.begin(Operation::List)?;
        state.disk.list(self.root, dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Operation::CreateDir)?;
        state.disk.create(self.root, dir, Node::Dir(Dir::default()))?;
        state.end()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Operation::Name)?;
        state.disk.rename(self.root, from, to)?;
        state.end()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Operation::Name)?;
        state.disk.remove(self.root, path, false)?;
        state.end()
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Operation::Name)?;
        state.disk.remove(self.root, dir, true)?;
        state.end()
    }

    fn sync_file_system(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Operation::SyncDir)?;
        state.disk.sync_names();
        state.end()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Operation::SyncDir)?;
        if state.lie != Some(Lie::Dirs) {
            state.disk.sync_dir(self.root, dir)?;
        }
        state.end()
    }

    fn lock(&self, _root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut state = self.state();
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = state.disk.find_from(self.root, parent).map_err(LockError::Io)?;
        let locked = (dir, path.file_name().unwrap_or_default().to_owned());
        if state.locked.contains(&locked) {
            return Err(LockError::Held { owner: None });
        }
        state.begin(Operation::Open).map_err(LockError::Io)?;
        match state.disk.create(self.root, path, Node::File(content::Content::default())) {
            Ok(_) => state.changed(),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(LockError::Io(e)),
        }
        state.locked.push(locked.clone());
        Ok(Box::new(SimLock { sim: self.clone(), locked }))
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.disk.used()))
    }

    fn now_micros(&self) -> u64 {
        let mut state = self.state();
        state.clock += 7;
        state.clock.saturating_add_signed(state.clock_set)
    }

    fn coarse_now_micros(&self) -> u64 {
        // A tick lasts for several reads of the clock, so that entries pending at the same time can
        // share a frame.
        self.now_micros() / 64 * 64
    }

    fn elapsed_micros(&self) -> u64 {
        self.state().clock
    }

    fn random_u64(&self) -> u64 {
        self.state().rng.next_u64()
    }
}

#[derive(Debug)]
struct SimLock {
    sim: SimStorage,
    locked: (Ino, OsString),
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        // The parent of a fork keeps the lock.
        if !self.sim.is_forked() {
            self.sim.state().locked.retain(|locked| *locked != self.locked);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    sim: SimStorage,
    ino: Ino,
    writable: bool,
    /// The number of failed write-backs that this descriptor has reported, or that happened before
    /// it was opened.
    reported: Mutex<u64>,
}

/// A map of the first `len` bytes of a file.
#[derive(Debug)]
struct SimMap {
    file: Arc<SimFile>,
    len: u64,
}

impl SimFile {
    fn to_write(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.writable { Ok(self.sim.state()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    /// Returns the error of a write-back that failed since this descriptor was opened. Reports it
    /// once.
    fn report_write_back(&self, state: &State) -> io::Result<()> {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let errors = state.disk.file(self.ino)?.write_back_errors();
        if std::mem::replace(&mut *reported, errors) < errors { Err(Fault::WriteBack.error()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_by(Content::sync)
    }

    fn sync_by(&self, sync: impl FnOnce(&mut Content)) -> io::Result<()> {
        let mut state = self.sim.state();
        let begun = state.begin(Operation::Sync).and_then(|()| self.report_write_back(&state));
        let State { disk, rng, lie, .. } = &mut *state;
        match begun {
            Ok(()) if *lie == Some(Lie::Files) => {}
            Ok(()) => disk.change_file(self.ino, |content, _| sync(content))?,
            Err(e) => {
                disk.change_file(self.ino, |content, _| content.fail_sync(rng))?;
                state.changed();
                return Err(e);
            }
        }
        state.changed();
        Ok(())
    }
}

/// A file mapped for stores. A process may die within a store, and a sync of a range makes only the
/// pages of that range durable.
impl StoreMap for SimMap {
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset + bytes.len() as u64 > self.len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut state = self.file.sim.state();
        let State { disk, rng, .. } = &mut *state;
        let half = rng.index(bytes.len() + 1);
        disk.write_file(self.file.ino, |content, time| content.write(&bytes[..half], offset, time))?;
        state.changed();
        let rest = offset + half as u64;
        state.disk.write_file(self.file.ino, |content, time| content.write(&bytes[half..], rest, time))?;
        state.changed();
        Ok(())
    }

    fn range_sync(&self) -> Arc<dyn RangeSync> {
        Arc::clone(&self.file) as Arc<dyn RangeSync>
    }
}

impl RangeSync for SimFile {
    fn sync(&self, from: u64, to: u64) -> io::Result<()> {
        self.sync_by(|content| content.sync_range(from, to))
    }

    fn prefault(&self, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.sim.state();
        state.begin(Operation::Read)?;
        Ok(state.disk.file(self.ino)?.read(buf, offset))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.to_write()?;
        let len = state.disk.file(self.ino)?.len();
        state.room((offset + buf.len() as u64).saturating_sub(len))?;
        let begun = state.begin(Operation::Write);
        if begun.is_ok() && state.watch.is_none() {
            return state.disk.write_file(self.ino, |content, time| content.write(buf, offset, time));
        }
        // After any part of the bytes, the process may die or the write may fail.
        let State { disk, rng, .. } = &mut *state;
        let half = rng.index(buf.len() + 1);
        disk.write_file(self.ino, |content, time| content.write(&buf[..half], offset, time))?;
        state.changed();
        begun?;
        let rest = offset + half as u64;
        state.disk.write_file(self.ino, |content, time| content.write(&buf[half..], rest, time))?;
        state.changed();
        Ok(())
    }

    fn map_for_stores(&self, len: u64) -> io::Result<Box<dyn StoreMap>> {
        let state = self.to_write()?;
        let file = state.disk.file(self.ino)?;
        if file.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A map reports failed write-backs as if it had its own descriptor.
        let reported = Mutex::new(file.write_back_errors());
        drop(state);
        let file = Arc::new(Self { sim: self.sim.clone(), ino: self.ino, writable: true, reported });
        Ok(Box::new(SimMap { file, len }))
    }

    fn write_durable_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(buf, offset)?;
        let end = offset + buf.len() as u64;
        self.sync_by(|content| content.sync_range(offset, end))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.sim.state().disk.file(self.ino)?.len())
    }

    fn change_stamp(&self) -> io::Result<Option<ChangeStamp>> {
        let state = self.sim.state();
        let file = state.disk.file(self.ino)?;
        let nanos = i128::from(file.changed_micros()) * 1_000;
        Ok(Some(ChangeStamp { file: (0, self.ino), len: file.len(), modified_nanos: nanos, changed_nanos: nanos }))
    }

    fn identity(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.ino))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.to_write()?;
        let old = state.disk.file(self.ino)?.len();
        state.begin(if len < old { Operation::Shorten } else { Operation::Write })?;
        state.room(len.saturating_sub(old))?;
        state.disk.write_file(self.ino, |content, time| content.set_len(len, time))?;
        state.changed();
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.to_write()?;
        let old = state.disk.file(self.ino)?.len();
        state.begin(Operation::Write)?;
        if len <= old {
            return Ok(());
        }
        state.room(len - old)?;
        state.disk.write_file(self.ino, |content, time| content.set_len(len, time))?;
        state.changed();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
