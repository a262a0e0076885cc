//! The bytes of a segment, by positioned reads or through a mapping.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::ByteOffset;
use stratawal_storage::File;

use crate::{Error, ErrorKind, Result, SegmentFile, SegmentId};

/// The most bytes that a reader should read at once, unless a single frame is longer.
pub const BLOCK_LEN_MAX: u64 = 256 << 10;

/// The promise that makes mapping segment files sound. This crate cannot prove it; only the author
/// of the program can give it.
#[derive(Clone, Copy, Debug)]
pub struct MapPromise(());

impl MapPromise {
    /// Gives the promise.
    ///
    /// # Safety
    /// As long as a mapping created under this promise exists, or any bytes taken from it, only
    /// this crate may shorten a segment file or change its bytes. Other code in this process and
    /// other processes must not.
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
    /// Reads `file` by positioned reads. Each block is copied once, from the page cache.
    #[must_use]
    pub fn read(file: &SegmentFile) -> Self {
        Self { id: file.id(), header: *file.header(), source: Source::Read(Arc::clone(file.shared_file())) }
    }

    /// Reads a file by positioned reads while a writer appends to it.
    #[must_use]
    pub fn read_shared(header: stratawal_frame::SegmentHeader, file: Arc<dyn File>) -> Self {
        Self { id: SegmentId::of(&header), header, source: Source::Read(file) }
    }

    /// Maps the first `len` bytes of `file`. Blocks are not copied.
    ///
    /// # Errors
    /// I/O, or a file shorter than `len`.
    #[allow(unsafe_code)]
    pub fn map(file: &SegmentFile, len: u64, _: MapPromise) -> Result<Self> {
        // SAFETY: a `MapPromise` exists, so the author of the program has promised the condition of
        // `File::map` for every segment file.
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

    /// Whether blocks are slices of a mapping, so that a long block costs no more than a short one.
    #[must_use]
    pub const fn is_mapped(&self) -> bool {
        matches!(self.source, Source::Mapped(_))
    }

    /// Reads the bytes in `range`.
    ///
    /// # Errors
    /// I/O. If the file ends before the range does, the error is [`ErrorKind::Io`] with
    /// `UnexpectedEof`, which is damage.
    pub fn block(&self, range: Range<u64>) -> Result<Bytes> {
        self.block_over(range, Bytes::new())
    }

    /// Like [`block`](Self::block), but reuses the memory of `used` if no part of it is in use
    /// elsewhere.
    ///
    /// # Errors
    /// Returns the same errors as [`block`](Self::block).
    pub fn block_over(&self, range: Range<u64>, used: Bytes) -> Result<Bytes> {
        let at = ByteOffset(range.start);
        let failed = |source| Error::new(self.id, Some(at), ErrorKind::Io { operation: "read", source });
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        match &self.source {
            Source::Read(file) => {
                // The range may come from a hostile file, so the length of the file is checked
                // before much memory is allocated.
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

    /// Reads bytes at `at` into `buf`, up to the end of the file or mapping. Returns the number of
    /// bytes read.
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
