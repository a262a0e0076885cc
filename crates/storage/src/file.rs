//! The contract of an open file.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use crate::map::Map;

/// Identifies the state of a file by its metadata.
///
/// Two equal stamps mean that the file did not change between them, if at least
/// [`settles_micros`](Self::settles_micros) microseconds had passed since its last change when the
/// first was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeStamp {
    /// The file system, and the file's number in it.
    pub file: (u64, u64),
    /// The length in bytes.
    pub len: u64,
    /// When the file's bytes last changed, in nanoseconds by the file system's clock.
    pub modified_nanos: i128,
    /// When the file or its metadata last changed, by the same clock.
    pub changed_nanos: i128,
}

impl ChangeStamp {
    /// The longest time, in microseconds, between two changes that can leave the same stamp.
    ///
    /// Most file systems take the time from a clock that ticks every 1 to 10 ms; the result is then
    /// 50 ms. Some record only whole seconds, or only even ones; the result is then 3 s. The
    /// recorded time shows which kind of file system holds the file.
    #[must_use]
    pub const fn settles_micros(&self) -> u64 {
        if self.modified_nanos % 1_000_000_000 == 0 { 3_000_000 } else { 50_000 }
    }
}

/// An open file. Closed when dropped.
///
/// Reads and writes take an offset, and may run in many threads at the same time. A read that
/// overlaps a write sees any mixture of old and new bytes.
#[allow(clippy::len_without_is_empty)]
pub trait File: Send + Sync + fmt::Debug {
    /// Reads bytes at `offset`. Reads fewer bytes than fit into `buf` only at the end of the file,
    /// and returns their number.
    ///
    /// # Errors
    /// Any operating-system error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads bytes at `offset` until `buf` is full.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends first; otherwise, any operating-system error.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Writes all of `buf` at `offset`. The file grows as needed. Not atomic: after a crash or an
    /// error, any sectors of this write may have been written, and the rest not.
    ///
    /// # Errors
    /// Any operating-system error.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Writes several buffers one after the other, starting at `offset`. Otherwise like
    /// [`write_all_at`](Self::write_all_at).
    ///
    /// # Errors
    /// Any operating-system error.
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.write_all_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    /// Writes `buf` at `offset` and makes these bytes durable. Bytes that were written earlier need
    /// not become durable by this.
    ///
    /// # Errors
    /// Any operating-system error. Then it is not known which part of the bytes is in the file, or
    /// durable.
    fn write_durable_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(buf, offset)?;
        self.sync_data()
    }

    /// Has the system begin to write the bytes that are not durable to the disk, and does not wait
    /// for that. Makes nothing durable: call [`sync_data`](Self::sync_data) afterwards, through the
    /// same file. A caller that has many files to sync calls this for each of them first, so that
    /// the disk works on all of them at the same time. Does nothing on a system that has no such
    /// call.
    ///
    /// # Errors
    /// Any operating-system error. The next sync then fails too, or writes the bytes itself.
    fn start_write_back(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes the bytes and the length durable. Does nothing on a read-only medium.
    ///
    /// # Errors
    /// Any operating-system error. Which bytes are durable is then unknown, and remains so even if
    /// a later call succeeds: the system may have marked the pages that it failed to write as
    /// clean.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the bytes, the length and all other metadata durable.
    ///
    /// # Errors
    /// Any operating-system error, with the same meaning as for [`sync_data`](Self::sync_data).
    fn sync_all(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Any operating-system error.
    fn len(&self) -> io::Result<u64>;

    /// The disk space that the file takes, in bytes, as the file system reports it. It is less than
    /// the length if the file has holes. A storage that cannot know it returns the length.
    ///
    /// # Errors
    /// Any operating-system error.
    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    /// Returns a stamp of the file's current state, or `None` if the storage has no stamps, which
    /// is the default. A later read sees this state or a newer one. A change through a mapping may
    /// leave the stamp unchanged.
    ///
    /// # Errors
    /// Any operating-system error.
    fn change_stamp(&self) -> io::Result<Option<ChangeStamp>> {
        Ok(None)
    }

    /// A number that identifies the file in its file system for as long as the file exists, also
    /// after a restart of the machine. A copy of the file has another one. Returns `None` if the
    /// file system may give the file another number later, or if the storage has no such numbers,
    /// which is the default.
    ///
    /// # Errors
    /// Any operating-system error.
    fn identity(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Shortens the file, or extends it with zeros without allocating space.
    ///
    /// # Errors
    /// Any operating-system error.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Extends the file with zeros to `len` bytes, and allocates space for them. If the file system
    /// cannot allocate space in advance, only the length changes.
    ///
    /// Never shortens the file, unless another thread or process changes the length at the same
    /// time. The length changes in one step: neither a crash nor a reader shows a length between
    /// the old and the new one.
    ///
    /// # Errors
    /// If the disk or the quota is full ([`is_full`](crate::is_full)), the length has not changed.
    /// Otherwise, any operating-system error.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// Returns the first offset, at or after `offset`, at which the bytes may differ from zero: the
    /// file system knows the holes of a file. Returns the length if only holes follow, and `offset`
    /// itself if the storage does not know.
    ///
    /// # Errors
    /// Any operating-system error.
    fn next_data(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }

    /// Maps the first `len` bytes of a file opened for writing, so that bytes can be stored into it
    /// without a system call. Like a write, a store survives the death of the process, and other
    /// descriptors see it at once. The map shares no memory with the caller.
    ///
    /// These bytes must have been written, not only preallocated. If another process shortens the
    /// file, or the disk fails while a page is read, the next store kills this process with a
    /// signal. A forked child does not inherit the map: a store there kills the child.
    ///
    /// # Errors
    /// `Unsupported` if a store into existing bytes may need new space on this file system, or if
    /// the storage has no such maps; `UnexpectedEof` if the file is shorter; otherwise, any
    /// operating-system error.
    fn map_for_stores(&self, len: u64) -> io::Result<Box<dyn StoreMap>> {
        let _ = len;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Waits as long as the 4 aligned bytes at `offset`, read in the order of the processor, are
    /// `expected`, at most for `timeout`. Also returns after a [`StoreMap::wake`] in this or
    /// another process, and for no reason. A store alone wakes no thread.
    ///
    /// # Errors
    /// `Unsupported` if the system or the storage has no such waits, or if the file system has no
    /// [maps for stores](Self::map_for_stores), as those of a network; otherwise, any
    /// operating-system error.
    fn wait_while(&self, offset: u64, expected: u32, timeout: Duration) -> io::Result<()> {
        let _ = (offset, expected, timeout);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Maps the first `len` bytes for reading, or copies them if the storage cannot map files.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter; otherwise, any operating-system error.
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

/// A file mapped for stores by [`File::map_for_stores`].
pub trait StoreMap: Send + Sync + fmt::Debug {
    /// Stores `bytes` at `offset`. Not atomic: after a crash any part of the store may exist.
    ///
    /// # Errors
    /// `InvalidInput` if the bytes do not lie within the map; nothing has changed in that case.
    fn store(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns a handle that syncs ranges of this map. Range syncs may run at the same time as
    /// stores.
    fn range_sync(&self) -> Arc<dyn RangeSync>;

    /// Wakes all threads, in any process, that wait for the 4 bytes at `offset`; see
    /// [`File::wait_while`]. Everything stored before this is visible to them.
    ///
    /// # Errors
    /// `Unsupported` if the system has no such waits; otherwise, any operating-system error.
    fn wake(&self, offset: u64) -> io::Result<()> {
        let _ = offset;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Makes ranges of a mapped file durable.
pub trait RangeSync: Send + Sync + fmt::Debug {
    /// Makes the bytes from `from` to `to` durable, extended to whole pages. Stores that run at the
    /// same time may or may not become durable.
    ///
    /// # Errors
    /// Any operating-system error. Which of the bytes are durable is then unknown, and another call
    /// would not report the failure. `InvalidInput` if the range does not lie within the map.
    fn sync(&self, from: u64, to: u64) -> io::Result<()>;

    /// Prepares the pages from `from` to `to`, so that the next stores into them take no page
    /// fault. Changes no byte, but makes the pages dirty: the next sync that covers a page writes
    /// it.
    ///
    /// # Errors
    /// Any operating-system error, including `Unsupported`.
    fn prefault(&self, from: u64, to: u64) -> io::Result<()>;
}
