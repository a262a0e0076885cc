//! Journal files. A file is prepared before it is needed, and gets its name when it is.
//!
//! Preparing a file writes zeros, one page at a time, and syncs them once. Larger writes would make
//! the page cache keep the file in larger units, and each small record would make a whole unit
//! dirty. From then on, records overwrite existing bytes, so a sync has no metadata to write.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_frame::{Features, Salt, WalId};
use stratawal_storage::{DirToSync, File, RangeSync, Storage, StoreMap};
use stratawal_sync::fail_point;

use crate::error::{Error, Result};
use crate::header::{FileHeader, HEADER_BLOCK_LEN};
use crate::layout;
use crate::lsn::Lsn;

const PAGE_LEN: usize = 4096;

/// The space in bytes at the end of each file that is kept for records that free space, attest, or
/// end the log.
pub(crate) const CONTROL_RESERVE: u64 = 4096;

/// The minimum length of a file in bytes: the header, the control reserve, and room for records.
pub(crate) const FILE_LEN_MIN: u64 = HEADER_BLOCK_LEN + CONTROL_RESERVE + 8192;

/// A file with its name and its header. Every record that is not durable was written through this
/// descriptor, so the descriptor receives the error of any failed write-back.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: FileHeader,
    pub(crate) len: u64,
    /// Only for a mapped file.
    range_sync: Option<Arc<dyn RangeSync>>,
}

impl LogFile {
    /// A file of an earlier opening, through a new descriptor. Everything in it is durable.
    pub(crate) fn of_open(file: Arc<dyn File>, header: FileHeader) -> Self {
        Self { file, header, len: header.file_len, range_sync: None }
    }

    /// Makes the `len` bytes from `offset` on ready for stores. Does nothing if the file is not
    /// mapped.
    pub(crate) fn prefault(&self, offset: u64, len: u64) -> Result<()> {
        let Some(map) = &self.range_sync else { return Ok(()) };
        let end = offset.saturating_add(len).min(self.len);
        match map.prefault(offset.min(end), end) {
            // An old kernel has no such call, and the stores take page faults.
            Err(e) if e.kind() != io::ErrorKind::Unsupported && e.kind() != io::ErrorKind::InvalidInput => {
                Err(Error::io("prefault")(e).in_file(self.header.number))
            }
            _ => Ok(()),
        }
    }

    /// Makes the bytes from `from` to `to` durable; if the file is not mapped, all of its bytes.
    pub(crate) fn sync(&self, from: u64, to: u64) -> Result<()> {
        let synced = match &self.range_sync {
            Some(map) => map.sync(from, to),
            None => self.file.sync_data(),
        };
        synced.map_err(|e| Error::io("sync")(e).in_file(self.header.number))
    }
}

/// The file that receives records, and its map, if it is mapped.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) file: LogFile,
    stores: Option<Box<dyn StoreMap>>,
}

impl Target {
    /// Maps the file if `mapped` is true. If it cannot be mapped, for whatever reason, records are
    /// written instead.
    pub(crate) fn new(mut file: LogFile, mapped: bool) -> Self {
        let stores = if mapped { file.file.map_for_stores(file.len).ok() } else { None };
        file.range_sync = stores.as_ref().map(|stores| stores.range_sync());
        Self { file, stores }
    }

    /// Writes bytes. Other processes see them at once, and they survive the death of this process.
    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let (written, operation) = match &mut self.stores {
            Some(stores) => (stores.store(bytes, offset), "store"),
            None => (self.file.file.write_all_at(bytes, offset), "write"),
        };
        written.map_err(|e| Error::io(operation)(e).in_file(self.file.header.number).at(offset))
    }
}

/// A file without a number. It holds zeros, or records that are no longer needed.
#[derive(Debug)]
pub(crate) struct Spare {
    path: PathBuf,
    file: Arc<dyn File>,
    pub(crate) len: u64,
}

impl Spare {
    /// Creates a file of `len` zeros, durable except for its name.
    pub(crate) fn create(storage: &dyn Storage, dir: &Path, len: u64) -> Result<Self> {
        let spare = Self::allocate(storage, dir, len)?;
        spare.fill().inspect_err(|_| drop(storage.remove_file(&spare.path)))?;
        Ok(spare)
    }

    /// Creates a file of `len` bytes that are not written yet. Its space is allocated, so that a
    /// full disk is noticed before much is written.
    pub(crate) fn allocate(storage: &dyn Storage, dir: &Path, len: u64) -> Result<Self> {
        let path = dir.join(layout::spare_name(storage.random_u64()));
        let file = storage.create_new(&path).map_err(Error::io("create"))?;
        let spare = Self { path, file, len };
        match spare.file.preallocate(len) {
            Ok(()) => Ok(spare),
            Err(error) => {
                spare.remove(storage);
                Err(Error::io("preallocate")(error))
            }
        }
    }

    fn fill(&self) -> Result<()> {
        write_zeros(&*self.file, 0, self.len).map_err(Error::io("write"))?;
        self.file.sync_all().map_err(Error::io("sync"))
    }

    /// Turns `file` into a spare. Its new name is not durable when this returns.
    pub(crate) fn recycle(storage: &dyn Storage, dir: &Path, file: LogFile) -> io::Result<Self> {
        let path = dir.join(layout::spare_name(storage.random_u64()));
        storage.rename(&dir.join(layout::file_name(file.header.number)), &path)?;
        Ok(Self { path, file: file.file, len: file.len })
    }

    /// Removes the file. If this fails, the next opening of the journal removes it.
    pub(crate) fn remove(self, storage: &dyn Storage) {
        let _ = storage.remove_file(&self.path);
    }

    /// Writes the header and syncs the file. The journal does not know the file's name yet, so if
    /// this fails, nothing has changed.
    pub(crate) fn write_header(&self, header: &FileHeader) -> Result<()> {
        self.file.write_all_at(&header.encode(), 0).map_err(Error::io("write the header"))?;
        let synced = if fail_point!(HeaderNotSynced) { Ok(()) } else { self.file.sync_all() };
        synced.map_err(Error::io("sync the header"))
    }

    /// Writes the header and makes it durable, but no other byte of the file: a spare was synced
    /// when it was created, and records of its earlier life do not matter.
    pub(crate) fn write_header_alone(&self, header: &FileHeader) -> Result<()> {
        let header_bytes = header.encode();
        let written = if fail_point!(HeaderNotSynced) {
            self.file.write_all_at(&header_bytes, 0)
        } else {
            self.file.write_durable_at(&header_bytes, 0)
        };
        written.map_err(|e| Error::io("write the header")(e).in_file(header.number))
    }

    /// Gives the file its name. If this fails, it is unknown whether the file has the name.
    pub(crate) fn rename(self, storage: &dyn Storage, dir: &Path, header: FileHeader) -> Result<LogFile> {
        let path = dir.join(layout::file_name(header.number));
        storage.rename(&self.path, &path).map_err(|e| Error::io("rename")(e).in_file(header.number))?;
        Ok(LogFile { file: self.file, header, len: self.len, range_sync: None })
    }

    /// Returns a header that has a new salt, needs no file older than its own, and attests nothing.
    pub(crate) fn header(&self, storage: &dyn Storage, wal_id: WalId, number: u64, first: Lsn) -> FileHeader {
        FileHeader {
            wal_id,
            number,
            salt: Salt(storage.random_u64()),
            first,
            oldest: number,
            attested: Lsn(0),
            // Without it, a copy of the file is not noticed.
            inode: self.file.identity().ok().flatten().unwrap_or(0),
            created: storage.now_micros(),
            file_len: self.len,
            features: Features::default(),
        }
    }
}

/// Writes an allocated file from its beginning to its end: a block of zeros for the header, the
/// records that recovery needs, and zeros.
///
/// The records are written in large pieces. No record is stored into these later, so the page cache
/// may keep them in large units. The rest is written in pieces of a page.
pub(crate) struct Filler<'a> {
    spare: &'a Spare,
    /// The bytes from the offset `at` on that are not written yet.
    buffer: Vec<u8>,
    at: u64,
}

impl<'a> Filler<'a> {
    const PIECE_LEN: usize = 256 << 10;

    pub(crate) fn new(spare: &'a Spare) -> Self {
        let block = usize::try_from(HEADER_BLOCK_LEN).expect("invariant: a block fits a usize");
        Self { spare, buffer: vec![0; block], at: 0 }
    }

    /// Appends the bytes of a record.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        let mut done = 0;
        for piece in self.buffer.chunks_exact(Self::PIECE_LEN) {
            self.spare.file.write_all_at(piece, self.at).map_err(Error::io("write"))?;
            self.at += piece.len() as u64;
            done += piece.len();
        }
        self.buffer.drain(..done);
        Ok(())
    }

    /// Writes the rest of the file.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.buffer.resize(self.buffer.len().next_multiple_of(PAGE_LEN), 0);
        let file = &*self.spare.file;
        let end = self.at + self.buffer.len() as u64;
        let written = write_pages(file, &self.buffer, self.at).and_then(|()| write_zeros(file, end, self.spare.len));
        written.map_err(Error::io("write"))
    }
}

/// Writes bytes in pieces of a page.
pub(crate) fn write_pages(file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut pieces = bytes.chunks(PAGE_LEN).enumerate();
    pieces.try_for_each(|(i, piece)| file.write_all_at(piece, offset + (i * PAGE_LEN) as u64))
}

/// Writes zeros from the offset `from` to the offset `to`, in pieces of a page.
pub(crate) fn write_zeros(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    const ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];
    for at in (from..to).step_by(PAGE_LEN) {
        let len = usize::try_from(to - at).map_or(PAGE_LEN, |rest| rest.min(PAGE_LEN));
        file.write_all_at(&ZEROS[..len], at)?;
    }
    Ok(())
}

/// Opens the journal's directory for [`sync_names`]. Call this before a name changes, because the
/// process may have no descriptor left afterwards.
pub(crate) fn open_names(storage: &Arc<dyn Storage>, dir: &Path) -> Result<DirToSync> {
    DirToSync::new(storage, dir).map_err(Error::io("open the directory"))
}

/// Makes the names of files durable.
pub(crate) fn sync_names(names: &DirToSync) -> Result<()> {
    let synced = if fail_point!(DirSyncSkipped) { Ok(()) } else { names.sync() };
    synced.map_err(Error::io("sync the directory"))
}
