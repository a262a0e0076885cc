//! Mapped memory: mapped files (no other module of the workspace maps any), and a page that a fork
//! wipes.

use std::fmt;
use std::fs;
use std::io;

use bytes::Bytes;
use memmap2::MmapOptions;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::sync::{AtomicU64, OnceLock};

/// The first bytes of a file in memory: mapped, or a copy.
pub struct Map(Source);

enum Source {
    Mapped(memmap2::Mmap),
    Copied(Bytes),
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.0, Source::Mapped(_)) { "mapped" } else { "copied" };
        f.debug_struct("Map").field("kind", &kind).field("len", &self.as_ref().len()).finish()
    }
}

impl Map {
    /// Maps the first `len` bytes of `file`, which is at least that long.
    ///
    /// # Safety
    /// While the map exists, no thread of this or another process shortens the file below `len` or
    /// changes its first `len` bytes.
    pub(crate) unsafe fn new(file: &fs::File, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self::copied(Bytes::new()));
        }
        // SAFETY: the caller promises that the file is not shortened and these bytes do not change
        // while the map exists. Therefore a shared slice of them is sound.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(Self(Source::Mapped(map)))
    }

    pub(crate) const fn copied(bytes: Bytes) -> Self {
        Self(Source::Copied(bytes))
    }

    /// Converts the map to `Bytes` without a copy. The mapping lives as long as any slice of the
    /// `Bytes`.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Source::Mapped(map) => Bytes::from_owner(map),
            Source::Copied(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Source::Mapped(map) => map,
            Source::Copied(bytes) => bytes,
        }
    }
}

/// A file mapped for stores.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod stores {
    use std::ffi::c_void;
    use std::fs;
    use std::io;
    use std::ptr::NonNull;
    use std::sync::Arc;

    use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags, madvise, mmap, msync, munmap};

    use crate::file::{RangeSync, StoreMap};
    use crate::unix::ProcessMark;

    /// A shared mapping of the first bytes of a file. No reference into it ever exists: other
    /// processes may change the bytes at any time.
    #[derive(Debug)]
    struct Mapping {
        start: NonNull<u8>,
        len: usize,
        process: ProcessMark,
    }

    // SAFETY: the mapping belongs to no thread, and the methods that use the pointer are safe to
    // call from any thread.
    unsafe impl Send for Mapping {}
    // SAFETY: through a shared reference the memory is only synced and prefaulted, by the kernel.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        fn new(file: &fs::File, len: usize) -> io::Result<Self> {
            Self::with(file, len, ProtFlags::READ | ProtFlags::WRITE)
        }

        fn with(file: &fs::File, len: usize, access: ProtFlags) -> io::Result<Self> {
            // SAFETY: a new mapping at an address that the system chooses overlaps no memory in
            // use.
            let start = unsafe { mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, file, 0)? };
            let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            let mapping = Self { start, len, process: ProcessMark::now() };
            // Random: read-ahead would load the file in large units, and each small store would
            // make a whole unit dirty. Both pieces of advice come before the first access.
            for advice in [Advice::Random, Advice::LinuxDontFork] {
                // SAFETY: the range is the whole mapping, and no reference into it exists.
                unsafe { madvise(mapping.address(0), len, advice)? };
            }
            Ok(mapping)
        }

        /// Fails in a forked child, which does not have the mapping.
        fn check_process(&self) -> io::Result<()> {
            if self.process.is_another() {
                Err(io::Error::other("the file is mapped in the parent process"))
            } else {
                Ok(())
            }
        }

        fn address(&self, offset: usize) -> *mut c_void {
            self.start.as_ptr().wrapping_add(offset).cast()
        }

        /// Returns the pages that hold the bytes from `from` to `to`, as a start and a length.
        fn pages(&self, from: u64, to: u64) -> io::Result<(usize, usize)> {
            self.check_process()?;
            let page_len = rustix::param::page_size();
            let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            let (from, to) =
                range.filter(|&(from, to)| from <= to && to <= self.len).ok_or(io::ErrorKind::InvalidInput)?;
            let start = from / page_len * page_len;
            Ok((start, to - start))
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // A forked child does not have the mapping. Its address range may be in use there for
            // something else.
            if self.process.is_another() {
                return;
            }
            // SAFETY: the range is the whole mapping, which exists in this process, and nothing
            // uses it after this.
            let _ = unsafe { munmap(self.address(0), self.len) };
        }
    }

    impl RangeSync for Mapping {
        fn sync(&self, from: u64, to: u64) -> io::Result<()> {
            let (start, len) = self.pages(from, to)?;
            // SAFETY: `pages` has checked that the range lies within the mapping.
            unsafe { msync(self.address(start), len, MsyncFlags::SYNC)? };
            Ok(())
        }

        fn prefault(&self, from: u64, to: u64) -> io::Result<()> {
            let (start, len) = self.pages(from, to)?;
            // SAFETY: `pages` has checked that the range lies within the mapping. This advice
            // changes no byte, and returns an error rather than raising a signal.
            unsafe { madvise(self.address(start), len, Advice::LinuxPopulateWrite)? };
            Ok(())
        }
    }

    /// The handle for stores. A store needs exclusive access to it, so no two stores race.
    #[derive(Debug)]
    pub(crate) struct Stores(Arc<Mapping>);

    impl Stores {
        /// Maps the first `len` bytes of `file`, which is at least that long.
        pub(crate) fn new(file: &fs::File, len: usize) -> io::Result<Self> {
            Mapping::new(file, len).map(|mapping| Self(Arc::new(mapping)))
        }
    }

    impl StoreMap for Stores {
        fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.0.check_process()?;
            let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let is_within = offset.checked_add(bytes.len()).is_some_and(|end| end <= self.0.len);
            if !is_within {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            // SAFETY: the target was checked to lie within the mapping. `&mut self` excludes other
            // stores by this process, and no reference into the mapping exists. The source is the
            // caller's memory, which the mapping does not overlap.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.start.as_ptr().add(offset), bytes.len()) };
            Ok(())
        }

        fn range_sync(&self) -> Arc<dyn RangeSync> {
            Arc::clone(&self.0) as Arc<dyn RangeSync>
        }

        #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
        fn wake(&self, offset: u64) -> io::Result<()> {
            self.0.check_process()?;
            let word = self.0.word(offset)?;
            // SAFETY: the call reads and writes no memory of this process. The kernel uses the
            // address, which lies within the mapping, as a name.
            let woken = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX) };
            if woken < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
    }

    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    impl Mapping {
        /// The address of the 4 aligned bytes at `offset`.
        fn word(&self, offset: u64) -> io::Result<*mut u32> {
            let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let is_within = offset.checked_add(4).is_some_and(|end| end <= self.len);
            if is_within && offset.is_multiple_of(4) {
                Ok(self.address(offset).cast())
            } else {
                Err(io::ErrorKind::InvalidInput.into())
            }
        }
    }

    /// Waits until the 4 bytes at `offset` of `file`, in the order of the processor, are not
    /// `expected`, or a [`wake`](StoreMap::wake), at most for `timeout`.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(crate) fn wait_while(
        file: &fs::File,
        offset: u64,
        expected: u32,
        timeout: std::time::Duration,
    ) -> io::Result<()> {
        let end = offset.checked_add(4).and_then(|end| usize::try_from(end).ok()).ok_or(io::ErrorKind::InvalidInput)?;
        let mapping = Mapping::with(file, end, ProtFlags::READ)?;
        let word = mapping.word(offset)?;
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: only the kernel reads the word, and it returns an error if the file has become
        // shorter. `timeout` lives until the call returns.
        let waited = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, expected, &raw const timeout) };
        if waited == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ETIMEDOUT | libc::EINTR)) => Ok(()),
            e => Err(e),
        }
    }
}

/// Returns a page of memory that reads as 0 in a forked child, whatever the parent stored in it;
/// always the same page. Returns `None` if the system has no such pages.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
pub(crate) fn page_wiped_on_fork() -> Option<&'static AtomicU64> {
    static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
    *PAGE.get_or_init(map_wiped_on_fork)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn map_wiped_on_fork() -> Option<&'static AtomicU64> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    let len = rustix::param::page_size();
    // SAFETY: a new mapping at an address that the system chooses overlaps no memory in use.
    let page = unsafe {
        mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE).ok()?
    };
    // SAFETY: the advice concerns only this mapping, and no reference into it exists yet. It takes
    // effect only in children.
    unsafe { madvise(page, len, Advice::LinuxWipeOnFork).ok()? };
    // SAFETY: the page is aligned, at least as long as a u64, readable, writable, zero, and never
    // unmapped. It is used only through this atomic. A child has its own page at this address,
    // which is zero again.
    Some(unsafe { AtomicU64::from_ptr(page.cast()) })
}
