//! The real thing, on Unix.

use std::fs;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::map::Map;
use crate::storage::{Access, DirEntry, EntryKind, File, Lock, LockError, Storage};
use crate::sync::Arc;

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnixStorage(());

impl UnixStorage {
    /// There is one.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

/// How many files this process may have open at the same time: the soft limit of `RLIMIT_NOFILE`. `None` where there is
/// none.
#[must_use]
pub fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[derive(Debug)]
struct UnixFile(fs::File);

/// `OFlags` as std takes them; every flag used here fits.
#[allow(clippy::cast_possible_wrap)]
const fn flags(flags: OFlags) -> i32 {
    flags.bits() as i32
}

impl Storage for UnixStorage {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(UnixFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite);
        // Without NONBLOCK, opening a FIFO would wait for its other end.
        let not_a_file = || io::Error::new(io::ErrorKind::InvalidInput, "not a plain file");
        let file = options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path);
        let file = file.map_err(|e| match e.raw_os_error().map(Errno::from_raw_os_error) {
            // A link; a folder opened for writing; a socket, or a FIFO that nobody reads.
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => not_a_file(),
            _ => e,
        })?;
        if !file.metadata()?.is_file() {
            return Err(not_a_file());
        }
        Ok(Arc::new(UnixFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        if !fs::symlink_metadata(dir)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_file() => EntryKind::File,
                Ok(kind) if kind.is_dir() => EntryKind::Dir,
                Ok(_) => EntryKind::Other,
                // Removed since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            entries.push(DirEntry { name: entry.file_name(), kind });
        }
        entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UnixFile(fs::File::open(dir)?)))
    }

    fn lock(&self, root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        lock(root, path).map(|lock| -> Box<dyn Lock> { Box::new(lock) })
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn now_micros(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn coarse_now_micros(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
        seconds * 1_000_000 + nanos / 1_000
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn coarse_now_micros(&self) -> u64 {
        self.now_micros()
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
        match read {
            Ok(()) => u64::from_le_bytes(bytes),
            // Out of descriptors, or no /dev: std's hash keys are seeded by the operating system, too.
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
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        // 160 ns, where all of its metadata takes 350: a stream of many segments opens each. Nobody reads or writes where
        // this moves.
        (&self.0).seek(SeekFrom::End(0))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let before = self.len()?;
        if before >= len {
            return Ok(());
        }
        // Booked behind the end first, and only then made longer, in one step: a file system that books and lengthens in
        // one call does it extent by extent (ext4), and a crash would leave a length between.
        match allocate(&self.0, before, len - before) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.0.set_len(len),
            Err(e) => {
                // Gives back what was booked.
                self.0.set_len(before)?;
                Err(e.into())
            }
        }
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

    fn start_writeback(&self, _offset: u64, _len: u64) {}

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

/// The locked file, and the locked root folder.
#[derive(Debug)]
struct UnixLock {
    file: fs::File,
    root: Option<fs::File>,
}

impl Lock for UnixLock {}

impl Drop for UnixLock {
    /// Closing the files would do, but for a process that another thread starts just now: until it executes its program,
    /// it holds copies of the descriptors, and with them the locks.
    fn drop(&mut self) {
        for file in [Some(&self.file), self.root.as_ref()].into_iter().flatten() {
            // Where that fails, closing them is what is left.
            let _ = file.unlock();
        }
    }
}

fn lock(root: &Path, path: &Path) -> Result<UnixLock, LockError> {
    let no_follow = flags(OFlags::NOFOLLOW | OFlags::NONBLOCK);
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(no_follow);
    let mut file = options.open(path).map_err(LockError::Io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(LockError::Held { owner: owner(&mut file) }),
        Err(fs::TryLockError::Error(e)) => return Err(LockError::Io(e)),
    }
    // A lock on a file that has lost its name keeps nobody away.
    let same = |a: &fs::Metadata, b: &fs::Metadata| a.ino() == b.ino() && a.dev() == b.dev();
    let named = fs::symlink_metadata(path).map_err(LockError::Io)?;
    if !same(&named, &file.metadata().map_err(LockError::Io)?) {
        return Err(LockError::Held { owner: None });
    }
    // The root folder too, so that a removed and recreated lock file lets nobody in.
    let root = fs::File::open(root).map_err(LockError::Io)?;
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
    Ok(UnixLock { file, root })
}

fn owner(file: &mut fs::File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.take(32).read_to_string(&mut text)).ok()?;
    text.trim().parse().ok()
}
