//! The contract between a log and its storage.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file::File;

/// How an open file may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading, and syncing.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// The type of a directory entry. A symbolic link is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A plain file.
    File,
    /// A directory.
    Dir,
    /// Anything else.
    Other,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name within the directory.
    pub name: OsString,
    /// The type of the file.
    pub file_type: FileType,
}

/// Why a log could not be locked.
#[derive(Debug)]
pub enum LockError {
    /// The log is locked already.
    Held {
        /// The process that took the lock, if it is known and exists now. `None` if it has ended,
        /// for example because its child inherited the lock, and if it is in another container or
        /// on another machine.
        owner: Option<LockOwner>,
    },
    /// The operating system refused.
    Io(io::Error),
}

/// The process that took a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOwner {
    /// Its process id.
    pub id: u32,
    /// The name of its program, without characters that cannot be printed. `None` if the platform
    /// does not show it.
    pub command: Option<String>,
    /// Whether the system lists this process as the holder. If not, the lock file names it: it
    /// opened the log at some time, but another process may hold the lock now.
    pub is_certain: bool,
}

/// A lock, held until this is dropped or the process dies.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A directory opened in advance, so that a later sync of it needs no new descriptor.
#[derive(Debug)]
pub struct DirToSync {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    open: Option<Arc<dyn File>>,
}

impl DirToSync {
    /// Opens `dir`. Call this before a change to its entries that cannot be undone.
    ///
    /// # Errors
    /// Any operating-system error, for example if no descriptor is left.
    pub fn new(storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<Self> {
        let open = match storage.open_dir(dir) {
            Ok(open) => Some(open),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => None,
            Err(e) => return Err(e),
        };
        Ok(Self { storage: Arc::clone(storage), dir: dir.to_owned(), open })
    }

    /// Makes the entries of the directory durable, like [`Storage::sync_dir`].
    ///
    /// # Errors
    /// Any operating-system error. Which entries are durable is then unknown.
    pub fn sync(&self) -> io::Result<()> {
        self.open.as_ref().map_or_else(|| self.storage.sync_dir(&self.dir), |open| open.sync_all())
    }
}

/// The services that a log uses: files, directories, locks, the clock and random numbers.
///
/// All methods may be called from many threads at the same time. Only the sync methods promise
/// durability. After a power loss, the effect of any other method may be present or missing, in any
/// combination.
///
/// Paths are the process's, unless [`at`](Self::at) created the storage: then they are relative to
/// its directory.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Returns this storage with paths relative to the directory that `dir` leads to now. The empty
    /// path is the directory itself.
    ///
    /// The paths keep their meaning if the process changes its working directory, if the directory
    /// is renamed, or if another directory takes its name. Once the directory is removed, each call
    /// that creates, lists, renames, removes or syncs a name fails with `StaleNetworkFileHandle`.
    ///
    /// # Errors
    /// `NotFound`; `NotADirectory`; otherwise, any operating-system error.
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>>;

    /// Returns `path` from the root of the file system, without links and `..` in the part that
    /// exists.
    ///
    /// # Errors
    /// `Unsupported` if the storage has no directories outside of a log, which is the default;
    /// otherwise, any operating-system error.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether this process was forked from the one that created this storage. Makes no system
    /// call. A forked process shares the open files with its parent, so it must not write, shorten
    /// or unlock them.
    fn is_forked(&self) -> bool {
        false
    }

    /// Creates an empty file, for reading and writing. Its name is durable after
    /// [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// `AlreadyExists` if the name exists, even as a directory or a link; otherwise, any
    /// operating-system error.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a plain file. Never follows a symbolic link at the end of `path`, and never blocks.
    ///
    /// # Errors
    /// `InvalidInput` if `path` is not a plain file; otherwise, any operating-system error.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>>;

    /// Returns the entries of a directory, sorted by the bytes of their names. Not a snapshot: an
    /// entry created or removed at the same time may or may not be listed.
    ///
    /// # Errors
    /// `NotFound`; `NotADirectory` if `dir` is a link or a file; otherwise, any operating-system
    /// error.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Creates a directory, whose parent must exist. Durable after [`sync_dir`](Self::sync_dir) of
    /// the parent.
    ///
    /// # Errors
    /// `AlreadyExists`; otherwise, any operating-system error.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Renames a file or a directory atomically: at any time, even after a crash, either the old
    /// state or the new one exists. A file replaces any file at `to`. Durable after
    /// [`sync_dir`](Self::sync_dir) of both parents.
    ///
    /// # Errors
    /// Any operating-system error, for example `CrossesDevices`; nothing has changed in that case.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes the name of a file. Threads that have the file open can still use it.
    ///
    /// # Errors
    /// Any operating-system error.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Any operating-system error.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes the entries of a directory durable: all names created, renamed or removed in it before
    /// the call.
    ///
    /// # Errors
    /// Any operating-system error. Which entries are durable is then unknown.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes all changes to the file system that holds `dir` durable, including names in
    /// directories that this process may not open. The cost depends on the unwritten data of the
    /// whole file system.
    ///
    /// # Errors
    /// `Unsupported` if the storage has no such call; otherwise, any operating-system error.
    fn sync_file_system(&self, dir: &Path) -> io::Result<()> {
        let _ = dir;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Opens a directory, so that it can be synced later even if no descriptor is left. The file
    /// has one use: its [`sync_all`](File::sync_all) does the same as [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// `Unsupported` if the storage syncs directories without opening them, which is the default
    /// (use `sync_dir` instead). Otherwise, any operating-system error.
    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        let _ = dir;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Locks the log in the directory `root` through its lock file `path`, which is created if
    /// missing. The lock excludes all other processes and other calls in this process. This
    /// process's id is written into the file, for people to read.
    ///
    /// # Errors
    /// [`LockError::Held`] if the log is locked; otherwise, any operating-system error.
    fn lock(&self, root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError>;

    /// The process that has locked the log in the directory `root` through its lock file `path`, if
    /// it is known and exists now. Takes no lock and changes nothing. `None` does not prove that
    /// the log is free: the process may be in another container or on another machine.
    ///
    /// The default knows of no process.
    ///
    /// # Errors
    /// Any operating-system error, except that a missing lock file is locked by no process.
    fn lock_owner(&self, root: &Path, path: &Path) -> io::Result<Option<LockOwner>> {
        let _ = (root, path);
        Ok(None)
    }

    /// The number of bytes that this user may still write to the file system of `dir`.
    ///
    /// # Errors
    /// Any operating-system error.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;

    /// The time, in microseconds since 1970.
    fn now_micros(&self) -> u64;

    /// The time as of the last tick of a cheaply read clock, in microseconds since 1970. On Linux a
    /// tick takes 1 to 10 ms.
    fn coarse_now_micros(&self) -> u64;

    /// Microseconds since some point in the past, including time that the machine slept. Setting
    /// the clock does not change it. Values from another process, or from before a restart of the
    /// machine, cannot be compared.
    fn elapsed_micros(&self) -> u64;

    /// Returns a random number for identities: in practice, no two collide. Not for secrets.
    fn random_u64(&self) -> u64;
}
