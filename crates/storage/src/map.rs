//! Mapped files: the one module of the workspace that creates memory out of a file.

use std::fmt;
use std::fs;
use std::io;

use bytes::Bytes;
use memmap2::MmapOptions;

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
    /// As [`File::map`](crate::File::map).
    pub(crate) unsafe fn new(file: &fs::File, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self::copied(Bytes::new()));
        }
        // SAFETY: the caller promises that nobody shortens the file or changes these bytes while the map lives, which
        // is what makes a shared slice of them sound.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(Self(Source::Mapped(map)))
    }

    pub(crate) const fn copied(bytes: Bytes) -> Self {
        Self(Source::Copied(bytes))
    }

    /// The same as `Bytes`, without a copy; the mapping lives as long as any slice of them.
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
