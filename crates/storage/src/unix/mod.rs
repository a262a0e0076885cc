//! The file system of a Unix machine.
//!
//! Each operation on a name is relative to an open directory, so that a log keeps its directory
//! even if the directory's path changes.

mod clock;
mod dir;
mod file;
mod limits;
mod lock;
mod owner;
mod process;
mod random;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::at_path;
use crate::file::File;
use crate::storage::{Access, DirEntry, Lock, LockError, LockOwner, Storage};
use dir::{UnixDir, still_named};
use file::UnixFile;
pub(crate) use process::ProcessMark;

pub(crate) use clock::{elapsed_micros, now_micros};
pub use limits::open_files_limit;
pub(crate) use random::random_u64;

/// The file system of this machine. Paths are the process's, or relative to one directory
/// ([`Storage::at`]).
#[derive(Clone, Debug, Default)]
pub struct UnixStorage {
    /// `None` means the process's paths.
    root: Option<Arc<Root>>,
    process: ProcessMark,
}

/// An open directory, and the path by which it was opened, for messages.
#[derive(Debug)]
struct Root {
    dir: fs::File,
    path: PathBuf,
}

impl UnixStorage {
    /// Creates a storage that uses the process's paths.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_ref().map_or(rustix::fs::CWD, |root| root.dir.as_fd())
    }

    /// The path to pass to the system together with [`root`](Self::root). Refuses an absolute path,
    /// which would leave the directory.
    fn path<'p>(&self, path: &'p Path) -> io::Result<&'p Path> {
        if path.as_os_str().is_empty() {
            return Ok(Path::new("."));
        }
        if self.root.is_some() && path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path below the directory of this storage"));
        }
        Ok(path)
    }

    fn open_fd(&self, path: &Path, flags: OFlags) -> rustix::io::Result<fs::File> {
        // The umask restricts this mode, as for any program's files.
        let mode = Mode::from_raw_mode(0o666);
        loop {
            match rustix::fs::openat(self.root(), path, flags | OFlags::CLOEXEC, mode) {
                Err(Errno::INTR) => {}
                other => return other.map(fs::File::from),
            }
        }
    }

    /// Opens a directory. Follows a symbolic link at the end of `path`: the directories above a log
    /// may be links.
    fn open_dir_fd(&self, path: &Path) -> io::Result<fs::File> {
        self.named(path, self.open_fd(self.path(path)?, OFlags::RDONLY | OFlags::DIRECTORY))
    }

    /// The full path, for messages.
    fn shown(&self, path: &Path) -> PathBuf {
        match &self.root {
            Some(root) if path.as_os_str().is_empty() => root.path.clone(),
            Some(root) => root.path.join(path),
            None => path.to_owned(),
        }
    }

    /// Adds the full path to the error of an operation on the name `path`. If the name was not
    /// found because the directory of this storage was removed, the error reports the removal.
    fn named<T, E: Into<io::Error>>(&self, path: &Path, result: Result<T, E>) -> io::Result<T> {
        result.map_err(|e| {
            let error = e.into();
            let root = self.root.as_ref().filter(|_| error.kind() == io::ErrorKind::NotFound);
            let removed = root.and_then(|root| still_named(&root.dir).err());
            at_path(&self.shown(path), removed.unwrap_or(error))
        })
    }
}

/// Returns the canonical form of the part of a path that exists, followed by the rest. There `..`
/// takes back the name before it, as it will once that directory exists.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    let existing = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match (existing.canonicalize(), path.parent(), path.file_name()) {
        (Err(e), Some(parent), name) if e.kind() == io::ErrorKind::NotFound => {
            let above = canonical(parent)?;
            Ok(name.map_or_else(|| above.parent().unwrap_or(&above).to_owned(), |name| above.join(name)))
        }
        (canonical, ..) => canonical,
    }
}

impl Storage for UnixStorage {
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>> {
        let root = Some(Arc::new(Root { dir: self.open_dir_fd(dir)?, path: self.shown(dir) }));
        Ok(Arc::new(Self { root, process: ProcessMark::now() }))
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        if self.root.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        canonical(path)
    }

    fn is_forked(&self) -> bool {
        self.process.is_another()
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.named(path, self.open_fd(self.path(path)?, flags))?;
        Ok(Arc::new(UnixFile::new(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let access = if access == Access::ReadWrite { OFlags::RDWR } else { OFlags::RDONLY };
        // Without NONBLOCK, opening a FIFO would block until another process opens its other end.
        let file = self.open_fd(self.path(path)?, access | OFlags::NOFOLLOW | OFlags::NONBLOCK);
        let file = self.named(path, file.map_err(file::not_a_file_or))?;
        if !file.metadata()?.is_file() {
            return self.named(path, Err(file::not_a_file()));
        }
        Ok(Arc::new(UnixFile::new(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.list_dir(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mode = Mode::from_raw_mode(0o777);
        self.named(dir, rustix::fs::mkdirat(self.root(), self.path(dir)?, mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let old = self.path(from)?;
        let new = self.path(to)?;
        self.named(to, rustix::fs::renameat(self.root(), old, self.root(), new))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.named(path, rustix::fs::unlinkat(self.root(), self.path(path)?, AtFlags::empty()))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.named(dir, rustix::fs::unlinkat(self.root(), self.path(dir)?, AtFlags::REMOVEDIR))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.open_dir(dir)?.sync_all()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn sync_file_system(&self, dir: &Path) -> io::Result<()> {
        let opened = self.open_dir_fd(dir)?;
        self.named(dir, rustix::fs::syncfs(opened))
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UnixDir::new(self.open_dir_fd(dir)?, self.shown(dir))))
    }

    fn lock(&self, root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.lock_dir(root, path).map(|lock| -> Box<dyn Lock> { Box::new(lock) })
    }

    fn lock_owner(&self, root: &Path, path: &Path) -> io::Result<Option<LockOwner>> {
        self.lock_owner_of(root, path)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(self.open_dir_fd(dir)?)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn now_micros(&self) -> u64 {
        clock::now_micros()
    }

    fn coarse_now_micros(&self) -> u64 {
        clock::coarse_now_micros()
    }

    fn elapsed_micros(&self) -> u64 {
        clock::elapsed_micros()
    }

    fn random_u64(&self) -> u64 {
        random::random_u64()
    }
}
