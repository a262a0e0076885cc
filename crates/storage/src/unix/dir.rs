//! Listing and syncing directories.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType as RawFileType, OFlags};
use rustix::io::Errno;

use super::UnixStorage;
use super::file::unless_unchangeable;
use crate::error::at_path;
use crate::file::File;
use crate::storage::{DirEntry, FileType};

impl UnixStorage {
    /// Returns the sorted entries of a directory. Refuses a symbolic link.
    pub(super) fn list_dir(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = self.named(dir, self.open_fd(self.path(dir)?, flags))?;
        let mut entries = Vec::new();
        for entry in self.named(dir, rustix::fs::Dir::read_from(&opened))? {
            let entry = self.named(dir, entry)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if let Some(file_type) = self.named(dir, file_type_of(&opened, name, entry.file_type()))? {
                entries.push(DirEntry { name: OsStr::from_bytes(name.to_bytes()).to_owned(), file_type });
            }
        }
        if entries.is_empty() && still_named(&opened).is_err() {
            // The directory was removed while it was listed. If it is this storage's own directory,
            // `named` turns this into the error that reports the removal.
            return self.named(dir, Err(io::Error::from(io::ErrorKind::NotFound)));
        }
        entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(entries)
    }
}

/// Returns the type of an entry, or `None` if the entry was removed after it was listed. Some file
/// systems list entries without types; for those, this makes another system call.
fn file_type_of(dir: &fs::File, name: &CStr, listed: RawFileType) -> rustix::io::Result<Option<FileType>> {
    let raw = match listed {
        RawFileType::Unknown => match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => RawFileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e),
        },
        known => known,
    };
    Ok(Some(match raw {
        RawFileType::RegularFile => FileType::File,
        RawFileType::Directory => FileType::Dir,
        _ => FileType::Other,
    }))
}

/// Returns an error if a directory was removed since it was opened. Such a directory lists no
/// names, accepts none, and syncs without an error.
pub(super) fn still_named(dir: &fs::File) -> io::Result<()> {
    if rustix::fs::fstat(dir)?.st_nlink > 0 {
        return Ok(());
    }
    let text = "the directory was removed since it was opened";
    Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, text))
}

/// A directory opened to be synced.
#[derive(Debug)]
pub(super) struct UnixDir {
    dir: fs::File,
    /// For messages.
    path: PathBuf,
}

impl UnixDir {
    pub(super) fn new(dir: fs::File, path: PathBuf) -> Self {
        Self { dir, path }
    }
}

impl File for UnixDir {
    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn write_all_at(&self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        let synced = self.dir.sync_all().or_else(|e| unless_unchangeable(&self.dir, e));
        synced.and_then(|()| still_named(&self.dir)).map_err(|e| at_path(&self.path, e))
    }

    fn len(&self) -> io::Result<u64> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn preallocate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }
}
