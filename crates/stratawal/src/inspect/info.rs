//! Facts about a log as a whole.

use std::path::Path;

use stratawal_frame::FORMAT_VERSION;
use stratawal_storage::{Access, Storage, UnixStorage};

use crate::error::{Result, io_error};
use crate::inspect::reserve_bytes_of;
use crate::root::{JOURNAL, LOCK, Root};

/// Facts about a log as a whole, returned by [`log_info`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogInfo {
    /// The version of the format of the log.
    pub format_version: u32,
    /// The id of the log, a random number chosen when it was created. Copies have the same one.
    pub id: u128,
    /// Whether this version can open the log for writing. If not, a newer version wrote it.
    pub is_writable: bool,
    /// Whether the log has a [commit journal](crate::Options::journal).
    pub has_journal: bool,
    /// The bytes of the files of the journal, which are preallocated. 0 without a journal.
    pub journal_bytes: u64,
    /// The disk space that the log holds for truncating, deleting and closing on a full disk:
    /// 65,536 if the reserve is complete.
    pub reserve_bytes: u64,
    /// The bytes that this user may still write to the file system of the log.
    pub free_bytes: u64,
    /// The process that has the log open for writing, if it is known. `None` does not prove that
    /// there is no such process: it may be in another container or on another machine.
    pub writer: Option<Writer>,
}

/// The process that has a log open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Writer {
    /// Its process id.
    pub process_id: u32,
    /// The name of its program, without characters that cannot be printed, if it is known.
    pub command: Option<String>,
    /// Whether the system lists this process as the holder of the lock, as Linux does. If not, the
    /// lock file names it: it opened the log at some time, and may have closed it.
    pub is_certain: bool,
}

/// Returns facts about the log at `path`. Takes no lock, and creates and changes nothing. Another
/// process may write to the log at the same time; a file that it removes is not counted.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let wal = stratawal::Wal::open(path)?;
/// let info = stratawal::inspect::log_info(path)?;
/// assert!(info.has_journal && info.journal_bytes > 0);
/// assert_eq!(info.writer.map(|writer| writer.process_id), Some(std::process::id()));
/// wal.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Same as [`Options::open_read_only`](crate::Options::open_read_only).
pub fn log_info(path: impl AsRef<Path>) -> Result<LogInfo> {
    let root = Root::open_read_only(&UnixStorage::new(), path.as_ref())?;
    let storage = &*root.storage;
    let this = Path::new("");
    let failed = |what: &str| {
        let text = format!("{what} of the log {}", path.as_ref().display());
        move |e| io_error(text, e)
    };
    let writer = storage.lock_owner(this, Path::new(LOCK)).map_err(failed("cannot read the lock file"))?;
    Ok(LogInfo {
        format_version: FORMAT_VERSION,
        id: root.format.wal_id.0,
        is_writable: root.format.is_writable(),
        has_journal: root.format.has_journal(),
        journal_bytes: journal_bytes(storage).map_err(failed("cannot list the journal"))?,
        reserve_bytes: reserve_bytes_of(&root),
        free_bytes: storage.free_space(this).map_err(failed("cannot read the free space"))?,
        writer: writer.map(|owner| Writer {
            process_id: owner.id,
            command: owner.command,
            is_certain: owner.is_certain,
        }),
    })
}

fn journal_bytes(storage: &dyn Storage) -> std::io::Result<u64> {
    let dir = Path::new(JOURNAL);
    let entries = match storage.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut bytes = 0;
    for entry in entries {
        match storage.open(&dir.join(&entry.name), Access::Read).and_then(|file| file.len()) {
            Ok(len) => bytes += len,
            // It was removed after it was listed, or is not a plain file.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidInput) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}
