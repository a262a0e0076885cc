//! The lock of a log against other processes.

use std::fs;
use std::io::{self, Seek, Write};
use std::path::Path;

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::UnixStorage;
use super::file::{not_a_file, not_a_file_or};
use super::owner::owner;
use super::process::ProcessMark;
use crate::storage::{Lock, LockError, LockOwner};

/// The locked file, and the locked directory of the log. While a directory is being locked, the
/// file alone is locked.
#[derive(Debug)]
pub(super) struct UnixLock {
    file: fs::File,
    root: Option<fs::File>,
    process: ProcessMark,
}

impl Lock for UnixLock {}

impl Drop for UnixLock {
    /// Unlocks explicitly. Closing the files would do the same, except while another thread starts
    /// a process: until that process executes its program, it holds copies of the descriptors and
    /// thus the locks. In a forked child the locks belong to the parent, and closing the copies
    /// does not release them.
    fn drop(&mut self) {
        if self.process.is_another() {
            return;
        }
        for file in [Some(&self.file), self.root.as_ref()].into_iter().flatten() {
            // If this fails, closing the files is the only other way to unlock.
            let _ = file.unlock();
        }
    }
}

impl UnixStorage {
    /// Returns the process that has locked the log in `root` through its lock file `path`.
    pub(super) fn lock_owner_of(&self, root: &Path, path: &Path) -> io::Result<Option<LockOwner>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = match self.open_fd(self.path(path)?, flags) {
            Ok(file) => file,
            // A log that was never opened for writing, such as a copy of one.
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return self.named(path, Err(not_a_file_or(error))),
        };
        let metadata = file.metadata()?;
        if let Some(owner) = owner(&metadata, &mut file) {
            return Ok(Some(owner));
        }
        // If the lock file was removed and created again, the directory is still locked. Its lock
        // is one of the system's list, or none.
        let root = self.open_fd(self.path(root)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let metadata = root.metadata()?;
        Ok(owner(&metadata, &mut file).filter(|owner| owner.is_certain))
    }

    pub(super) fn lock_dir(&self, root: &Path, path: &Path) -> Result<UnixLock, LockError> {
        let failed = |e: Errno| LockError::Io(e.into());
        let name = path;
        let path = self.path(path).map_err(LockError::Io)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = self.open_fd(path, flags).map_err(not_a_file_or);
        let mut file = self.named(name, file).map_err(LockError::Io)?;
        if !file.metadata().map_err(LockError::Io)?.is_file() {
            return Err(LockError::Io(not_a_file()));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(held(file.metadata(), &mut file)),
            Err(fs::TryLockError::Error(e)) => return Err(LockError::Io(e)),
        }
        // From here on each way out unlocks the file, also a refusal.
        let mut lock = UnixLock { file, root: None, process: self.process };
        // A lock on a file that no longer has its name excludes no other process.
        let named = rustix::fs::statat(self.root(), path, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let locked = rustix::fs::fstat(&lock.file).map_err(failed)?;
        if (named.st_ino, named.st_dev) != (locked.st_ino, locked.st_dev) {
            return Err(LockError::Held { owner: None });
        }
        // The directory is also locked, so that another process cannot get in by removing and
        // recreating the lock file.
        let root = self.path(root).map_err(LockError::Io)?;
        let root = self.open_fd(root, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        match root.try_lock() {
            Ok(()) => lock.root = Some(root),
            Err(fs::TryLockError::WouldBlock) => return Err(held(root.metadata(), &mut lock.file)),
            // Some file systems cannot lock directories.
            Err(fs::TryLockError::Error(_)) => {}
        }
        write_owner(&mut lock.file);
        Ok(lock)
    }
}

/// The refusal of a log because `locked`, its lock file or its directory, is locked.
fn held(locked: io::Result<fs::Metadata>, lock_file: &mut fs::File) -> LockError {
    LockError::Held { owner: locked.ok().and_then(|locked| owner(&locked, lock_file)) }
}

/// Writes this process's id into the lock file, for people to read. Ignores errors: a full disk
/// must not prevent the opening of a log.
fn write_owner(file: &mut fs::File) {
    let pid = format!("{}\n", std::process::id());
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
    drop(written);
}
