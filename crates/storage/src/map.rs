//! Mapped memory: the only module of the workspace that maps files, and the page that a fork wipes.

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
        // SAFETY: the caller promises that no one shortens the file or changes these bytes while
        // the map exists. Therefore a shared slice of them is sound.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(Self(Source::Mapped(map)))
    }

    pub(crate) const fn copied(bytes: Bytes) -> Self {
        Self(Source::Copied(bytes))
    }

    /// Converts the map to `Bytes` without a copy. The mapping exists as long as any slice of them.
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

/// A file that is mapped for stores.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod stores {
    use std::ffi::c_void;
    use std::fs;
    use std::io;
    use std::ptr::NonNull;
    use std::sync::Arc;

    use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags, madvise, mmap, msync, munmap};

    use crate::file::{RangeSync, StoreMap};

    /// A shared mapping of the first bytes of a file. No reference into it ever exists: other
    /// processes may change the bytes at any time.
    #[derive(Debug)]
    struct Mapping {
        start: NonNull<u8>,
        len: usize,
    }

    // SAFETY: the mapping belongs to no thread, and the methods that use the pointer are safe to
    // call from any of them.
    unsafe impl Send for Mapping {}
    // SAFETY: through a shared reference the memory is only synced and prefaulted, by the kernel.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        fn new(file: &fs::File, len: usize) -> io::Result<Self> {
            // SAFETY: a new mapping at an address that the system chooses overlaps no memory in
            // use.
            let start = unsafe {
                mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)?
            };
            let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            let mapping = Self { start, len };
            // Random: read-ahead would bring the file into memory in large units, of which each
            // small store makes a whole one dirty. Both before the first touch.
            for advice in [Advice::Random, Advice::LinuxDontFork] {
                // SAFETY: the range is the whole mapping, to which no reference exists.
                unsafe { madvise(mapping.address(0), len, advice)? };
            }
            Ok(mapping)
        }

        fn address(&self, offset: usize) -> *mut c_void {
            self.start.as_ptr().wrapping_add(offset).cast()
        }

        /// The pages that hold the bytes from `from` to `to`, as a start and a length.
        fn pages(&self, from: u64, to: u64) -> io::Result<(usize, usize)> {
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
            // SAFETY: the range is the whole mapping, and nothing uses it after this. In a forked
            // child it does not exist, and unmapping a free range does nothing.
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
            // changes no byte, and reports an error in place of a signal.
            unsafe { madvise(self.address(start), len, Advice::LinuxPopulateWrite)? };
            Ok(())
        }
    }

    /// The one that may store: stores need exclusive access, so that no two of them race.
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
            let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let is_within = offset.checked_add(bytes.len()).is_some_and(|end| end <= self.0.len);
            if !is_within {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            // SAFETY: the target lies within the mapping, as was checked. `&mut self` keeps other
            // stores of this process away, and no reference into the mapping exists. The source is
            // memory of the caller, which the mapping does not overlap.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.start.as_ptr().add(offset), bytes.len()) };
            Ok(())
        }

        fn range_sync(&self) -> Arc<dyn RangeSync> {
            Arc::clone(&self.0) as Arc<dyn RangeSync>
        }
    }
}

/// A page of memory that reads as 0 in a forked child, whatever the parent stored in it. Always the
/// same page. `None` if the system has no such pages.
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
    // SAFETY: the advice concerns only this mapping, to which no reference exists yet. It takes
    // effect only in children.
    unsafe { madvise(page, len, Advice::LinuxWipeOnFork).ok()? };
    // SAFETY: the page is aligned, at least as long as a u64, readable, writable, zero, and never
    // unmapped. It is used only through this atomic. A child has a page of its own at the address,
    // which is zero again.
    Some(unsafe { AtomicU64::from_ptr(page.cast()) })
}
