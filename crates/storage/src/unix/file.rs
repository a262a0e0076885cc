//! Open files.

use std::fs;
use std::io::{self, IoSlice, Seek, SeekFrom};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::file::StoreMap;
use crate::file::{ChangeStamp, File};
use crate::map::Map;

#[derive(Debug)]
pub(super) struct UnixFile(fs::File);

pub(super) fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a plain file")
}

/// Converts an error of opening a path that is perhaps not a plain file.
pub(super) fn not_a_file_or(error: Errno) -> io::Error {
    match error {
        // A link; a directory opened for writing; a socket, or a FIFO without a reader.
        Errno::LOOP | Errno::ISDIR | Errno::NXIO => not_a_file(),
        error => error.into(),
    }
}

impl UnixFile {
    pub(super) const fn new(file: fs::File) -> Self {
        Self(file)
    }
}

/// Ignores the error of a sync of a file or a directory if the medium cannot change: squashfs and
/// erofs cannot sync at all. A file system that became read-only because of an error can sync, so
/// its error counts.
pub(super) fn unless_unchangeable(synced: &fs::File, error: io::Error) -> io::Result<()> {
    let has_no_sync = error.raw_os_error() == Some(Errno::INVAL.raw_os_error());
    if has_no_sync && rustix::fs::fstatvfs(synced)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    Err(error)
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
        // The smallest IOV_MAX of any POSIX system in practice.
        const SLICES_MAX: usize = 1024;
        // The first call nearly always writes all bytes. Only if it does not is the list copied.
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
        let mut rest = &mut owned[..];
        let mut at = offset + written as u64;
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

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn write_durable_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        // One call that writes back these bytes alone. A sync of the whole file would also write
        // whatever else is dirty in it.
        let written = rustix::io::pwritev2(&self.0, &[IoSlice::new(buf)], offset, rustix::io::ReadWriteFlags::DSYNC);
        match written {
            Ok(len) if len == buf.len() => return Ok(()),
            // A short write, or a kernel or file system without such writes.
            Ok(_) | Err(Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            // Any other error may be of the write-back. It is reported, because a second try would
            // succeed whatever became of the first.
            Err(e) => return Err(e.into()),
        }
        self.write_all_at(buf, offset)?;
        self.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn start_write_back(&self) -> io::Result<()> {
        let file = self.0.as_raw_fd();
        // SAFETY: the call uses no memory of this process, and the file is open during the call. A
        // length of 0 means all bytes to the end of the file.
        let done = unsafe { libc::sync_file_range(file, 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data().or_else(|e| unless_unchangeable(&self.0, e))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all().or_else(|e| unless_unchangeable(&self.0, e))
    }

    fn len(&self) -> io::Result<u64> {
        // Seeking takes 160 ns, reading all of the metadata 350 ns, and opening a stream of many
        // segments does this for each of them. No read or write uses the position that this moves.
        (&self.0).seek(SeekFrom::End(0))
    }

    fn allocated(&self) -> io::Result<u64> {
        // The unit is 512 bytes, whatever the block size of the file system is.
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

    fn identity(&self) -> io::Result<Option<u64>> {
        Ok(if has_stable_inodes(&self.0)? { Some(self.0.metadata()?.ino()) } else { None })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let before = self.len()?;
        if before >= len {
            return Ok(());
        }
        // First allocate space past the end, then extend the file in one step. A file system that
        // does both in one call works extent by extent (ext4), and a crash would leave a length
        // between the old and the new one.
        let preallocated = match allocate(&self.0, before, len - before) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.0.set_len(len),
            Err(e) => Err(e.into()),
        };
        if preallocated.is_err() {
            // Frees the allocated space. If this fails, the file keeps the space, but its length
            // has not changed.
            let _ = self.0.set_len(before);
        }
        preallocated
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn next_data(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(at.max(offset)),
            // Only a hole follows up to the end, or `offset` is past the end.
            Err(Errno::NXIO) => Ok(self.len()?.max(offset)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
            Err(e) => Err(e.into()),
        }
    }

    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    fn wait_while(&self, offset: u64, expected: u32, timeout: std::time::Duration) -> io::Result<()> {
        // Elsewhere the processes that change the file may be on another machine.
        if !overwrites_in_place(&self.0)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        crate::map::stores::wait_while(&self.0, offset, expected, timeout)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn map_for_stores(&self, len: u64) -> io::Result<Box<dyn StoreMap>> {
        if !overwrites_in_place(&self.0)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if self.len()? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Box::new(crate::map::stores::Stores::new(&self.0, len)?))
    }

    unsafe fn map(&self, len: u64) -> io::Result<Map> {
        if self.len()? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the caller makes the same promise about this file.
        unsafe { Map::new(&self.0, len) }
    }
}

/// Whether a store into existing bytes never needs new space. True on ext4 and tmpfs. On xfs, btrfs
/// and others, a store needs space if the blocks are shared with a copy, and a full disk then
/// raises a signal.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn overwrites_in_place(file: &fs::File) -> io::Result<bool> {
    const EXT4: u64 = 0xEF53;
    const TMPFS: u64 = 0x0102_1994;
    // Its type differs between platforms.
    let magic = rustix::fs::fstatfs(file)?.f_type;
    Ok([EXT4, TMPFS].contains(&(magic as u64)))
}

/// Whether a file keeps its inode number when it is opened again, also after its file system was
/// mounted again. False where the system makes the numbers up (FAT, SMB), and where they depend on
/// a program or another machine (FUSE, 9P, directories shared with a virtual machine).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_stable_inodes(file: &fs::File) -> io::Result<bool> {
    const FAT: u64 = 0x4D44;
    const EXFAT: u64 = 0x2011_BAB0;
    const SMB: u64 = 0x517B;
    const CIFS: u64 = 0xFF53_4D42;
    const SMB2: u64 = 0xFE53_4D42;
    const FUSE: u64 = 0x6573_5546;
    const NINE_P: u64 = 0x0102_1997;
    const VBOX: u64 = 0x786F_4256;
    // Its type differs between platforms. The upper half is sign extension, or zero.
    let magic = rustix::fs::fstatfs(file)?.f_type as u64 & 0xFFFF_FFFF;
    Ok(![FAT, EXFAT, SMB, CIFS, SMB2, FUSE, NINE_P, VBOX].contains(&magic))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn has_stable_inodes(_file: &fs::File) -> io::Result<bool> {
    Ok(true)
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
