//! The contract of an open file.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::map::Map;

/// Identifies the state of a file by its metadata.
///
/// Equal stamps mean that the file was not changed between them, if
/// [`settles_micros`](Self::settles_micros) had passed between the last change and the first stamp.
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
    /// The longest time, in microseconds, between two changes that can leave the same stamp.
    ///
    /// Most file systems take the time from a clock that ticks every 1 to 10 ms: then the result is
    /// 50 ms. Some record only whole seconds, or even seconds: then it is 3 s. The recorded time
    /// shows which of them a file has.
    #[must_use]
    pub const fn settles_micros(&self) -> u64 {
        if self.modified_nanos % 1_000_000_000 == 0 { 3_000_000 } else { 50_000 }
    }
}

/// An open file. Closed when dropped.
///
/// Reads and writes are positioned, and may run in many threads at the same time. A read that
/// overlaps a write sees any mixture of old and new bytes.
#[allow(clippy::len_without_is_empty)]
pub trait File: Send + Sync + fmt::Debug {
    /// Reads bytes at `offset`. Returns fewer bytes than `buf` holds only at the end of the file.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads bytes at `offset` until `buf` is full.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; otherwise the operating system's.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Writes all of `buf` at `offset`. The file grows as needed. Not atomic: after a crash or an
    /// error, any sectors of it may be written, and others not.
    ///
    /// # Errors
    /// The operating system's.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Writes several buffers one after the other, beginning at `offset`, like
    /// [`write_all_at`](Self::write_all_at).
    ///
    /// # Errors
    /// The operating system's.
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.write_all_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    /// Makes the bytes and the length durable. Does nothing on a read-only medium.
    ///
    /// # Errors
    /// The operating system's. Then it is not known which bytes are durable, and the success of a
    /// later call does not change that: the system may have marked the pages that it failed to
    /// write as clean.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the bytes, the length and all other metadata durable.
    ///
    /// # Errors
    /// The operating system's, with the same meaning as for [`sync_data`](Self::sync_data).
    fn sync_all(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn len(&self) -> io::Result<u64>;

    /// The space in bytes that the file takes on the disk, as the file system reports it. It is
    /// less than the length if the file has holes. A storage that cannot know returns the length.
    ///
    /// # Errors
    /// The operating system's.
    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    /// A stamp of the current state of the file. A later read sees this state or a newer one. A
    /// change through a mapping may leave the stamp as it is. `None` if the storage has no stamps,
    /// which is the default.
    ///
    /// # Errors
    /// The operating system's.
    fn change_stamp(&self) -> io::Result<Option<ChangeStamp>> {
        Ok(None)
    }

    /// Shortens the file, or extends it with zeros without allocating space.
    ///
    /// # Errors
    /// The operating system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Extends the file to `len` bytes of zeros, and allocates space for them. If the file system
    /// cannot allocate space in advance, only the length changes.
    ///
    /// It never shortens the file, unless another thread or process changes the length at the same
    /// time. The length changes in one step: neither a crash nor a reader shows a length between
    /// the old and the new one.
    ///
    /// # Errors
    /// A full disk or quota ([`is_full`](crate::is_full)): then the length has not changed.
    /// Otherwise the operating system's.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// The offset, at or after `offset`, of the next bytes that may differ from zero. The file
    /// system knows the holes of a file. Returns the length if only holes follow, and `offset`
    /// itself if the storage does not know.
    ///
    /// # Errors
    /// The operating system's.
    fn next_data(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }

    /// Maps the first `len` bytes of a file that is opened for writing, so that bytes can be stored
    /// into the file without a system call. A store survives the death of the process as a write
    /// does, and other descriptors see it at once. The map shares no memory with the caller.
    ///
    /// The file must have its bytes on the disk: written, and not only preallocated. If another
    /// process shortens it, or the disk fails while a page is read, the next store ends this
    /// process by a signal. The map is not passed to a forked child: a store there ends the child.
    ///
    /// # Errors
    /// `Unsupported` on a file system where a store into bytes that exist may need new space, and
    /// on storages without maps; `UnexpectedEof` if the file is shorter; otherwise the operating
    /// system's.
    fn map_for_stores(&self, len: u64) -> io::Result<Box<dyn StoreMap>> {
        let _ = len;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Maps the first `len` bytes for reading, or copies them if the storage cannot map files.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter; otherwise the operating system's.
    ///
    /// # Safety
    /// While the map exists, no thread of this or another process shortens the file below `len` or
    /// changes its first `len` bytes.
    unsafe fn map(&self, len: u64) -> io::Result<Map> {
        // The length is checked first, so that a wrong `len` allocates no memory.
        if self.len()? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(Map::copied(bytes.into()))
    }
}

/// A file that is mapped for stores, by [`File::map_for_stores`].
pub trait StoreMap: Send + Sync + fmt::Debug {
    /// Stores `bytes` at `offset`. Not atomic: after a crash any part of the store may exist.
    ///
    /// # Errors
    /// `InvalidInput` if the bytes do not lie within the map; nothing has changed then.
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// The range syncs of this map. They may run at the same time as stores.
    fn range_sync(&self) -> Arc<dyn RangeSync>;
}

/// Makes ranges of a mapped file durable.
pub trait RangeSync: Send + Sync + fmt::Debug {
    /// Makes the bytes from `from` to `to` durable, and whole pages around them. Stores that run at
    /// the same time may be durable or not.
    ///
    /// # Errors
    /// The operating system's. Then it is not known which of the bytes are durable, and another
    /// call would not report it. `InvalidInput` if the range does not lie within the map.
    fn sync(&self, from: u64, to: u64) -> io::Result<()>;

    /// Makes the pages from `from` to `to` ready, so that the next stores into them take no page
    /// fault. Changes no byte. It also makes the pages dirty, so each of them is written by the
    /// next sync that covers it.
    ///
    /// # Errors
    /// The operating system's, `Unsupported` among them.
    fn prefault(&self, from: u64, to: u64) -> io::Result<()>;
}
