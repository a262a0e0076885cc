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
