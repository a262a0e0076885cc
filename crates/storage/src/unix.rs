//! The real thing, on Unix.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType as RawFileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::time::ClockId;

use crate::error::at_path;
use crate::map::Map;
use crate::process::ProcessMark;
use crate::storage::{Access, ChangeStamp, DirEntry, File, FileType, Lock, LockError, Storage};
use crate::sync::Arc;

/// The file system of this machine: with the process's own paths, or as seen from one directory
/// ([`Storage::at`]).
#[derive(Clone, Debug, Default)]
pub struct UnixStorage {
    /// `None`: paths are the process's own.
    root: Option<Arc<Root>>,
    process: ProcessMark,
}

/// A directory that was opened, and the path that it had then, for messages.
#[derive(Debug)]
struct Root {
    dir: fs::File,
    path: PathBuf,
}

impl UnixStorage {
    /// With the process's own paths.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_ref().map_or(rustix::fs::CWD, |root| root.dir.as_fd())
    }

    /// `path` as the system takes it beside [`root`](Self::root). An absolute one would leave the
    /// directory.
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
        // The mode is what the umask leaves of it, as of any file that a program creates.
        let mode = Mode::from_raw_mode(0o666);
        loop {
            match rustix::fs::openat(self.root(), path, flags | OFlags::CLOEXEC, mode) {
                Err(Errno::INTR) => {}
                other => return other.map(fs::File::from),
            }
        }
    }

    /// `path` as a person reads it.
    fn shown(&self, path: &Path) -> PathBuf {
        match &self.root {
            Some(root) if path.as_os_str().is_empty() => root.path.clone(),
            Some(root) => root.path.join(path),
            None => path.to_owned(),
        }
    }

    fn open_folder(&self, path: &Path) -> io::Result<fs::File> {
        Ok(self.open_fd(self.path(path)?, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?)
    }

    /// The result of an operation on the name `path`, with the whole path in its error. Where it
    /// found nothing, and the directory of this storage is removed, that is the error.
    fn named<T, E: Into<io::Error>>(&self, path: &Path, result: Result<T, E>) -> io::Result<T> {
        result.map_err(|e| {
            let error = e.into();
            let root = self.root.as_ref().filter(|_| error.kind() == io::ErrorKind::NotFound);
            let removed = root.and_then(|root| still_named(&root.dir).err());
            at_path(&self.shown(path), removed.unwrap_or(error))
        })
    }
}

/// What a clock shows, in microseconds.
#[inline]
fn micros_of(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    seconds * 1_000_000 + nanos / 1_000
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a plain file")
}

fn not_a_file_or(error: Errno) -> io::Error {
    match error {
        // A link; a folder opened for writing; a socket, or a FIFO without a reader.
        Errno::LOOP | Errno::ISDIR | Errno::NXIO => not_a_file(),
        error => error.into(),
    }
}

/// That a directory was not removed since it was opened. One that was shows no names, takes none,
/// and syncs without error.
fn still_named(dir: &fs::File) -> io::Result<()> {
    if rustix::fs::fstat(dir)?.st_nlink > 0 {
        return Ok(());
    }
    let text = "the directory was removed since it was opened";
    Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, text))
}

/// How many files this process may have open at the same time: the soft limit of `RLIMIT_NOFILE`.
/// `None` where there is none.
#[must_use]
pub fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[derive(Debug)]
struct UnixFile(fs::File);

/// A directory that is open to be synced.
#[derive(Debug)]
struct UnixFolder {
    dir: fs::File,
    /// For messages.
    path: PathBuf,
}

impl Storage for UnixStorage {
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>> {
        // The path of a log may be a link to a directory.
        let opened = self.named(dir, self.open_fd(self.path(dir)?, OFlags::RDONLY | OFlags::DIRECTORY))?;
        let root = Some(Arc::new(Root { dir: opened, path: self.shown(dir) }));
        Ok(Arc::new(Self { root, process: ProcessMark::now() }))
    }

    fn is_forked(&self) -> bool {
        self.process.is_another()
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.named(path, self.open_fd(self.path(path)?, flags))?;
        Ok(Arc::new(UnixFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let access = if access == Access::ReadWrite { OFlags::RDWR } else { OFlags::RDONLY };
        // Without NONBLOCK, opening a FIFO would wait for its other end.
        let file = self.open_fd(self.path(path)?, access | OFlags::NOFOLLOW | OFlags::NONBLOCK);
        let file = self.named(path, file.map_err(not_a_file_or))?;
        if !file.metadata()?.is_file() {
            return self.named(path, Err(not_a_file()));
        }
        Ok(Arc::new(UnixFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let folder = self.named(dir, self.open_folder(dir))?;
        let mut entries = Vec::new();
        for entry in self.named(dir, rustix::fs::Dir::read_from(&folder))? {
            let entry = self.named(dir, entry)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let raw = match entry.file_type() {
                // Not every file system says what an entry is.
                RawFileType::Unknown => match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => RawFileType::from_raw_mode(stat.st_mode),
                    // Removed since it was listed.
                    Err(Errno::NOENT) => continue,
                    Err(e) => return self.named(dir, Err(e)),
                },
                known => known,
            };
            let file_type = match raw {
                RawFileType::RegularFile => FileType::File,
                RawFileType::Directory => FileType::Dir,
                _ => FileType::Other,
            };
            entries.push(DirEntry { name: OsStr::from_bytes(name.to_bytes()).to_owned(), file_type });
        }
        if entries.is_empty() && still_named(&folder).is_err() {
            // Removed while it was listed. If that is the directory of this storage, the error
            // states it.
            return self.named(dir, Err(io::Error::from(io::ErrorKind::NotFound)));
        }
        entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mode = Mode::from_raw_mode(0o777);
        self.named(dir, rustix::fs::mkdirat(self.root(), self.path(dir)?, mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (old, new) = (self.path(from)?, self.path(to)?);
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
        let folder = self.named(dir, self.open_fd(self.path(dir)?, OFlags::RDONLY | OFlags::DIRECTORY))?;
        self.named(dir, rustix::fs::syncfs(folder))
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        // Folders above a log may be links.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let folder = self.named(dir, self.open_fd(self.path(dir)?, flags))?;
        Ok(Arc::new(UnixFolder { dir: folder, path: self.shown(dir) }))
    }

    fn lock(&self, root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.lock_folder(root, path).map(|lock| -> Box<dyn Lock> { Box::new(lock) })
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let folder = self.named(dir, self.open_fd(self.path(dir)?, OFlags::RDONLY | OFlags::DIRECTORY))?;
        let stat = rustix::fs::fstatvfs(folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn now_micros(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn coarse_now_micros(&self) -> u64 {
        micros_of(ClockId::RealtimeCoarse)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn coarse_now_micros(&self) -> u64 {
        self.now_micros()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn elapsed_micros(&self) -> u64 {
        micros_of(ClockId::Boottime)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn elapsed_micros(&self) -> u64 {
        micros_of(ClockId::Monotonic)
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
        match read {
            Ok(()) => u64::from_le_bytes(bytes),
            // Out of descriptors, or no /dev: std's hash keys are seeded by the operating system,
            // too.
            Err(_) => {
                use std::hash::{BuildHasher, Hasher};
                let mut hasher = std::hash::RandomState::new().build_hasher();
                hasher.write_u64(self.now_micros());
                hasher.write_u32(std::process::id());
                hasher.finish()
            }
        }
    }
}

impl UnixFile {
    /// The error of a sync, unless the medium cannot change: squashfs and erofs have no sync at
    /// all. A file system that was made read-only because of an error has one, and its error
    /// counts.
    fn needs_no_sync(&self, error: io::Error) -> io::Result<()> {
        let has_no_sync = error.raw_os_error() == Some(Errno::INVAL.raw_os_error());
        if has_no_sync && rustix::fs::fstatvfs(&self.0)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Ok(());
        }
        Err(error)
    }
}

impl File for UnixFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        // The smallest IOV_MAX that POSIX systems have in practice.
        const SLICES_MAX: usize = 1024;
        // Nearly always the first call writes all; the list is copied only where it does not.
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let written = match rustix::io::pwritev(&self.0, &bufs[..bufs.len().min(SLICES_MAX)], offset) {
            Ok(written) => written,
            Err(Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        if written == len {
            return Ok(());
        }
        let mut owned: Vec<IoSlice<'_>> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        let (mut rest, mut at) = (&mut owned[..], offset + written as u64);
        IoSlice::advance_slices(&mut rest, written);
        while !rest.is_empty() {
            match rustix::io::pwritev(&self.0, &rest[..rest.len().min(SLICES_MAX)], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data().or_else(|e| self.needs_no_sync(e))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all().or_else(|e| self.needs_no_sync(e))
    }

    fn len(&self) -> io::Result<u64> {
        // 160 ns, where all of its metadata takes 350: a stream of many segments opens each. Nobody
        // reads or writes where this moves.
        (&self.0).seek(SeekFrom::End(0))
    }

    fn allocated(&self) -> io::Result<u64> {
        // In blocks of 512 bytes, whatever those of the file system are.
        Ok(self.0.metadata()?.blocks().saturating_mul(512))
    }

    fn change_stamp(&self) -> io::Result<Option<ChangeStamp>> {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let metadata = self.0.metadata()?;
        Ok(Some(ChangeStamp {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            modified_nanos: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed_nanos: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let before = self.len()?;
        if before >= len {
            return Ok(());
        }
        // Booked behind the end first, and only then made longer, in one step: a file system that
        // books and lengthens in one call does it extent by extent (ext4), and a crash would leave
        // a length between.
        let reserved = match allocate(&self.0, before, len - before) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.0.set_len(len),
            Err(e) => Err(e.into()),
        };
        if reserved.is_err() {
            // Gives back the space that was booked. Should that fail, the file keeps the space; its
            // length has not changed.
            let _ = self.0.set_len(before);
        }
        reserved
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn next_data(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(at.max(offset)),
            // Nothing but a hole up to the end, or no end behind `offset`.
            Err(Errno::NXIO) => Ok(self.len()?.max(offset)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
            Err(e) => Err(e.into()),
        }
    }

    unsafe fn map(&self, len: u64) -> io::Result<Map> {
        if self.len()? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the caller promises the same of this file.
        unsafe { Map::new(&self.0, len) }
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn allocate(file: &fs::File, offset: u64, len: u64) -> rustix::io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, offset, len) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn allocate(_file: &fs::File, _offset: u64, _len: u64) -> rustix::io::Result<()> {
    Err(Errno::OPNOTSUPP)
}

impl File for UnixFolder {
    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn write_all_at(&self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.dir.sync_all().and_then(|()| still_named(&self.dir)).map_err(|e| at_path(&self.path, e))
    }

    fn len(&self) -> io::Result<u64> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn preallocate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }
}

/// The locked file, and the locked root folder.
#[derive(Debug)]
struct UnixLock {
    file: fs::File,
    root: Option<fs::File>,
    process: ProcessMark,
}

impl Lock for UnixLock {}

impl Drop for UnixLock {
    /// Closing the files would do, but for a process that another thread starts just now: until it
    /// executes its program, it holds copies of the descriptors, and with them the locks. In a
    /// child that was forked the locks are the parent's, and closing its copies leaves them alone.
    fn drop(&mut self) {
        if self.process.is_another() {
            return;
        }
        for file in [Some(&self.file), self.root.as_ref()].into_iter().flatten() {
            // Where that fails, closing them is what is left.
            let _ = file.unlock();
        }
    }
}

impl UnixStorage {
    fn lock_folder(&self, root: &Path, path: &Path) -> Result<UnixLock, LockError> {
        let io = |e: Errno| LockError::Io(e.into());
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
            Err(fs::TryLockError::WouldBlock) => return Err(LockError::Held { owner: owner(&mut file) }),
            Err(fs::TryLockError::Error(e)) => return Err(LockError::Io(e)),
        }
        // A lock on a file that has lost its name keeps nobody away.
        let named = rustix::fs::statat(self.root(), path, AtFlags::SYMLINK_NOFOLLOW).map_err(io)?;
        let locked = rustix::fs::fstat(&file).map_err(io)?;
        if (named.st_ino, named.st_dev) != (locked.st_ino, locked.st_dev) {
            return Err(LockError::Held { owner: None });
        }
        // The root folder too, so that a removed and recreated lock file lets nobody in.
        let root = self.path(root).map_err(LockError::Io)?;
        let root = self.open_fd(root, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io)?;
        let root = match root.try_lock() {
            Ok(()) => Some(root),
            Err(fs::TryLockError::WouldBlock) => return Err(LockError::Held { owner: owner(&mut file) }),
            // Not every file system locks folders.
            Err(fs::TryLockError::Error(_)) => None,
        };
        let pid = format!("{}\n", std::process::id());
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
        // The number is for people; a full disk must not keep them from opening the log.
        drop(written);
        Ok(UnixLock { file, root, process: self.process })
    }
}

/// The process that a lock file names, if there is one of that id.
fn owner(file: &mut fs::File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.take(32).read_to_string(&mut text)).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    // One that this user may not signal is there, too.
    let is_there = matches!(rustix::process::test_kill_process(process), Ok(()) | Err(Errno::PERM));
    is_there.then_some(pid)
}
