//! The contract between the log and whatever keeps its files.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use crate::map::Map;
use crate::sync::Arc;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading, and syncing.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// What a folder entry is. A symbolic link is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A plain file.
    File,
    /// A folder.
    Dir,
    /// Anything else.
    Other,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// The type of the file.
    pub file_type: FileType,
}

/// Which state a file is in, as far as its metadata shows: equal stamps of one file mean that it
/// was not changed between them, if [`settles_micros`](Self::settles_micros) had passed since the
/// change before the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeStamp {
    /// The file system, and the number of the file in it.
    pub file: (u64, u64),
    /// The length in bytes.
    pub len: u64,
    /// When bytes of the file were last changed, in nanoseconds by the clock of the file system.
    pub modified_nanos: i128,
    /// When the file or its metadata was last changed, by the same clock.
    pub changed_nanos: i128,
}

impl ChangeStamp {
    /// How many microseconds may pass between two changes that leave the same stamp, at most.
    ///
    /// A file system takes the time from a clock that ticks every 1 to 10 ms: then this is 50 ms.
    /// Some record whole seconds, or every second one: then it is 3 s. Which of them a file has is
    /// seen from its time.
    #[must_use]
    pub const fn settles_micros(&self) -> u64 {
        if self.modified_nanos % 1_000_000_000 == 0 { 3_000_000 } else { 50_000 }
    }
}

/// Why a log could not be locked.
#[derive(Debug)]
pub enum LockError {
    /// It is locked already.
    Held {
        /// The process that the lock file names, where there is such a process now. It opened the
        /// log once, and need not be the one that holds the lock: children inherit it, and another
        /// program can take it.
        owner: Option<u32>,
    },
    /// The operating system refused.
    Io(io::Error),
}

/// A lock that is held until this is dropped, or the process dies.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A folder that will be synced: what that needs of the system is there already.
#[derive(Debug)]
pub struct DirToSync {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    open: Option<Arc<dyn File>>,
}

impl DirToSync {
    /// Opens `dir`, before anything is done to its entries that cannot be undone.
    ///
    /// # Errors
    /// The operating system's; no more descriptors among them.
    pub fn new(storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<Self> {
        let open = match storage.open_dir(dir) {
            Ok(open) => Some(open),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => None,
            Err(e) => return Err(e),
        };
        Ok(Self { storage: Arc::clone(storage), dir: dir.to_owned(), open })
    }

    /// Makes the entries of the folder durable, as [`Storage::sync_dir`].
    ///
    /// # Errors
    /// The operating system's; then it is not known which entries are durable.
    pub fn sync(&self) -> io::Result<()> {
        self.open.as_ref().map_or_else(|| self.storage.sync_dir(&self.dir), |open| open.sync_all())
    }
}

/// Files, folders, locks, the clock, and random numbers: everything that the log asks of the world.
///
/// All methods may be called from many threads at once. Durability is only ever what the sync
/// methods say: after any other method, a power loss may show the state before or after it, in any
/// combination with others.
///
/// Paths are the process's own, unless the storage was made by [`at`](Self::at): then they are
/// relative to its directory.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The same storage as seen from the directory that `dir` leads to now. Its paths are relative
    /// to that directory (the empty path is the directory itself) and go on meaning it, whatever
    /// becomes of the path `dir`: the process may change its working directory, the directory may
    /// be renamed, another may take its name.
    ///
    /// Once the directory is removed, each call that creates, lists, renames, removes or syncs a
    /// name fails with `StaleNetworkFileHandle`.
    ///
    /// # Errors
    /// `NotFound`; `NotADirectory`; otherwise the operating system's.
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>>;

    /// Whether this process is another than the one that made this storage: a child that was forked
    /// from it. Costs no system call. What the parent's storage has open is then also the parent's,
    /// so nothing may be written, shortened or unlocked through it.
    fn is_forked(&self) -> bool {
        false
    }

    /// Creates an empty file, for reading and writing. Its name is durable after
    /// [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken, by whatever; otherwise the operating system's.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a plain file. Never follows a link at the end of `path`, never blocks.
    ///
    /// # Errors
    /// `InvalidInput` where it is not a plain file; otherwise the operating system's.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>>;

    /// The entries of a folder, sorted by the bytes of their names. Not a snapshot: what is created
    /// or removed meanwhile may be there or not.
    ///
    /// # Errors
    /// `NotFound`; `NotADirectory` where it is a link or a file; otherwise the operating system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Creates a folder, whose parent is there. Durable after [`sync_dir`](Self::sync_dir) of the
    /// parent.
    ///
    /// # Errors
    /// `AlreadyExists`; otherwise the operating system's.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Renames a file (replacing one that has the name) or a folder, atomically: at any time, and
    /// after a crash, there is the old state or the new one. Durable after
    /// [`sync_dir`](Self::sync_dir) of both parents.
    ///
    /// # Errors
    /// The operating system's; `CrossesDevices` among them. Then nothing has changed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Its bytes stay for those who have it open.
    ///
    /// # Errors
    /// The operating system's.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// The operating system's.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes the entries of a folder durable: what was created, renamed and removed in it before
    /// the call.
    ///
    /// # Errors
    /// The operating system's; then it is not known which entries are durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes durable all that was done to the file system that holds `dir`: names in directories
    /// that this process may not open among it. Costs as much as the whole file system has
    /// unwritten.
    ///
    /// # Errors
    /// `Unsupported` where the storage has no such call; otherwise the operating system's.
    fn sync_file_system(&self, dir: &Path) -> io::Result<()> {
        let _ = dir;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The folder itself, open, so that it can be synced when there may be no descriptor left to
    /// open it: by
    /// [`sync_all`](File::sync_all), which then does what [`sync_dir`](Self::sync_dir) does. Nothing else is done with it.
    ///
    /// # Errors
    /// `Unsupported` where a folder needs no opening to be synced (then there is `sync_dir`, and it
    /// is what a storage has that does not say otherwise); otherwise the operating system's.
    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        let _ = dir;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Locks the log in the folder `root` by its file `path`, which is created if it is missing,
    /// against every other process and every other call in this one. The id of this process is left
    /// in the file, for people to read.
    ///
    /// # Errors
    /// [`LockError`].
    fn lock(&self, root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError>;

    /// Bytes that this user may still write in the file system of `dir`.
    ///
    /// # Errors
    /// The operating system's.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;

    /// Microseconds since 1970.
    fn now_micros(&self) -> u64;

    /// Microseconds since 1970 as of the last tick of a clock that costs next to nothing to read (1
    /// to 10 ms coarse, on Linux).
    fn coarse_now_micros(&self) -> u64;

    /// Microseconds that have passed since some point in the past, time in which the machine slept
    /// included. Setting the clock does not change it. It means nothing in another process, or
    /// after a restart of the machine.
    fn elapsed_micros(&self) -> u64;

    /// A random number that is good for identities: no two of them collide in practice. Not for
    /// secrets.
    fn random_u64(&self) -> u64;
}

/// An open file. Closed when dropped.
///
/// Reads and writes are positioned, and may run at the same time from many threads; where a read
/// and a write overlap the read sees any mixture of bytes before and after.
#[allow(clippy::len_without_is_empty)]
pub trait File: Send + Sync + fmt::Debug {
    /// Reads what there is at `offset`, short only at the end of the file.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads exactly `buf`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; otherwise as [`read_at`](Self::read_at).
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Writes all of `buf`; the file grows as needed. Not atomic: after a crash, or an error, any
    /// part of it may be there, in any order of sectors.
    ///
    /// # Errors
    /// The operating system's.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// The same with several buffers, side by side.
    ///
    /// # Errors
    /// As [`write_all_at`](Self::write_all_at).
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.write_all_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    /// Makes the bytes and the length durable. On a read-only medium there is nothing to do.
    ///
    /// # Errors
    /// The operating system's. Then it is not known what is durable, and another call would not
    /// tell: the system may have marked what it failed to write as clean.
    fn sync_data(&self) -> io::Result<()>;

    /// The same with the rest of the metadata.
    ///
    /// # Errors
    /// As [`sync_data`](Self::sync_data).
    fn sync_all(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn len(&self) -> io::Result<u64>;

    /// How many bytes of the disk the file takes, as far as the file system says: less than its
    /// length where it has holes. The length where the storage does not know.
    ///
    /// # Errors
    /// The operating system's.
    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    /// The state of the file now: who reads the file afterwards sees no earlier state. A change
    /// through a mapping may not show. `None` where the storage does not know, as of a storage that
    /// does not implement this.
    ///
    /// # Errors
    /// The operating system's.
    fn change_stamp(&self) -> io::Result<Option<ChangeStamp>> {
        Ok(None)
    }

    /// Cuts the file, or makes it longer by zeros without booking space.
    ///
    /// # Errors
    /// The operating system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the file `len` bytes long with space booked for what it grows by, zeros where nothing
    /// was written. Where the file system cannot book space it only sets the length. Never
    /// shortens, if nobody else changes the length meanwhile. The length changes in one step: no
    /// crash and no reader sees one between the old and the new.
    ///
    /// # Errors
    /// A full disk or quota ([`is_full`](crate::is_full)): then the length is as it was. Otherwise
    /// the operating system's.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// Where at or behind `offset` the next bytes stand that may be other than zeros: the file
    /// system knows of holes. The length where there are none; `offset` itself where it cannot
    /// tell.
    ///
    /// # Errors
    /// The operating system's.
    fn next_data(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }

    /// Maps the first `len` bytes for reading, or copies them where the storage cannot map. What
    /// the map shows of bytes that are written after this call is not specified.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file is shorter; otherwise the operating system's.
    ///
    /// # Safety
    /// While the map lives, nobody, in this process or another, may shorten the file below `len` or
    /// change its first `len` bytes.
    unsafe fn map(&self, len: u64) -> io::Result<Map> {
        // The length first: nothing is allocated that is not there.
        if self.len()? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(Map::copied(bytes.into()))
    }
}
