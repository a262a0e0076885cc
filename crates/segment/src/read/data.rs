//! The bytes of a segment, read or mapped.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::ByteOffset;
use stratawal_storage::File;

use crate::{Error, ErrorKind, Result, SegmentFile, SegmentId};

/// The longest block that a reader should ask for, in bytes, except for a frame that is longer.
pub const BLOCK_LEN_MAX: u64 = 256 << 10;

/// The promise that makes mapping segment files sound; it cannot be proved here, only made by the
/// program's author.
#[derive(Clone, Copy, Debug)]
pub struct MapPromise(());

impl MapPromise {
    /// Makes the promise.
    ///
    /// # Safety
    /// While any mapping made under it lives, bytes handed out of it included, nobody but this
    /// crate may shorten a segment file or change its bytes: not this process, and no other.
    #[allow(unsafe_code)]
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

/// The bytes of a segment, by positioned reads or through a mapping.
#[derive(Clone, Debug)]
pub struct SegmentData {
    pub(super) id: SegmentId,
    pub(super) header: stratawal_frame::SegmentHeader,
    pub(super) source: Source,
}

#[derive(Clone, Debug)]
pub(super) enum Source {
    Read(Arc<dyn File>),
    Mapped(Bytes),
}

impl SegmentData {
    /// By positioned reads: each block is copied from the page cache once.
    #[must_use]
    pub fn read(file: &SegmentFile) -> Self {
        Self { id: file.id(), header: *file.header(), source: Source::Read(Arc::clone(file.shared_file())) }
    }

    /// By positioned reads of a file that is also being written.
    #[must_use]
    pub fn read_shared(header: stratawal_frame::SegmentHeader, file: Arc<dyn File>) -> Self {
        Self { id: SegmentId::of(&header), header, source: Source::Read(file) }
    }

    /// Through a mapping of the first `len` bytes: no copy.
    ///
    /// # Errors
    /// I/O, and a file shorter than `len`.
    #[allow(unsafe_code)]
    pub fn map(file: &SegmentFile, len: u64, _: MapPromise) -> Result<Self> {
        // SAFETY: whoever made the `MapPromise` promised what `File::map` asks for, for every
        // segment file.
        let map = unsafe { file.file().map(len) }.map_err(Error::io(file.id(), "map"))?;
        Ok(Self { id: file.id(), header: *file.header(), source: Source::Mapped(map.into_bytes()) })
    }

    /// The name of the segment.
    #[must_use]
    pub const fn id(&self) -> SegmentId {
        self.id
    }

    /// The header of the segment.
    #[must_use]
    pub const fn header(&self) -> &stratawal_frame::SegmentHeader {
        &self.header
    }

    /// Whether blocks are slices of a mapping, so that a large one costs no more than a small one.
    #[must_use]
    pub const fn is_mapped(&self) -> bool {
        matches!(self.source, Source::Mapped(_))
    }

    /// The bytes in `range`.
    ///
    /// # Errors
    /// I/O. A range beyond the end of the file is [`ErrorKind::Io`] with `UnexpectedEof`, which is
    /// damage.
    pub fn block(&self, range: Range<u64>) -> Result<Bytes> {
        self.block_over(range, Bytes::new())
    }

    /// The same, in the memory of `used` where nobody else holds any of it.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn block_over(&self, range: Range<u64>, used: Bytes) -> Result<Bytes> {
        let at = ByteOffset(range.start);
        let failed = |source| Error::new(self.id, Some(at), ErrorKind::Io { operation: "read", source });
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        match &self.source {
            Source::Read(file) => {
                // Asked first only where it would cost something to find out: what is asked for may
                // come from a file.
                const LEN_MAX: usize = 1 << 20;
                if len > LEN_MAX && file.len().map_err(failed)? < range.end {
                    return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
                }
                let mut bytes = used.try_into_mut().unwrap_or_default();
                bytes.resize(len, 0);
                file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
                Ok(bytes.freeze())
            }
            Source::Mapped(bytes) => {
                let from = usize::try_from(range.start)
                    .ok()
                    .filter(|&from| from.checked_add(len).is_some_and(|end| end <= bytes.len()));
                let from = from.ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))?;
                Ok(bytes.slice(from..from + len))
            }
        }
    }

    /// What there is at `at`, up to the end of the file or of the mapping.
    pub(super) fn read_some(&self, buf: &mut [u8], at: ByteOffset) -> Result<usize> {
        match &self.source {
            Source::Read(file) => {
                let failed = |source| Error::new(self.id, Some(at), ErrorKind::Io { operation: "read", source });
                file.read_at(buf, at.0).map_err(failed)
            }
            Source::Mapped(bytes) => {
                let rest = usize::try_from(at.0).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
        }
    }
}
