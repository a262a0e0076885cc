//! The root folder of a log: its lock, its FORMAT file, its folder of streams.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_frame::{FORMAT_FILE_LEN, FormatFile, FormatFileError, WalId};
use stratawal_storage::{Access, DirEntry, FileType, Lock, LockError, Storage};
use stratawal_stream::{is_leftover_dir, remove_leftover_dir};

use crate::error::{Error, ErrorKind, Result, io_error, log_error};
use crate::name;

/// The folder of the streams, within the root.
const STREAMS: &str = "streams";

/// The file that holds space for a full disk.
pub(crate) const RESERVE: &str = "RESERVE";

/// The file that says what the log is.
const FORMAT: &str = "FORMAT";

/// A FORMAT file that is being written has a name that begins so, and 16 hexadecimal digits.
const TEMPORARY_FORMAT: &str = ".tmp-FORMAT-";

/// An open root. Everything below it is reached through the directory that was opened, whatever
/// becomes of its path.
#[derive(Debug)]
pub(crate) struct Root {
    /// Relative to the root.
    pub(crate) storage: Arc<dyn Storage>,
    /// Where the root was when it was opened: for messages.
    path: PathBuf,
    pub(crate) wal_id: WalId,
    /// Held by the one writer.
    lock: Option<Box<dyn Lock>>,
}

impl Root {
    /// Opens or creates it for writing.
    ///
    /// Creating goes in this order, each step durable before the next: the root and what is above
    /// it, the folder of streams, FORMAT. A crash leaves a beginning of that row, so that a FORMAT
    /// without a folder of streams is no creation that was interrupted: somebody removed the
    /// folder, and the streams in it. A crash before FORMAT has its name leaves at most an empty
    /// folder of streams, from which creating goes on.
    pub(crate) fn open(system: &dyn Storage, path: &Path) -> Result<Self> {
        // The system would take it for the working directory.
        if path.as_os_str().is_empty() {
            return Err(log_error(ErrorKind::Missing, "the path of the log is empty; give the directory of one"));
        }
        create_root(system, path)?;
        let storage = open_root(system, path)?;
        let lock = lock(&*storage, path)?;
        let mut root = Self { storage, path: path.to_owned(), wal_id: WalId(0), lock: Some(lock) };
        let format = match root.read_format()? {
            Some(format) if !format.features.writable() => {
                let text = format!(
                    "the log {} was written by a newer version and can only be read by this one; use open_read_only, or that version",
                    path.display()
                );
                return Err(log_error(ErrorKind::NewerFormat, text));
            }
            Some(format) => {
                root.remove_temporaries()?;
                root.list_streams()?;
                format
            }
            None => {
                root.remove_temporaries()?;
                root.sync_above(system)?;
                root.create_streams()?;
                root.create_format()?
            }
        };
        root.wal_id = format.wal_id;
        // Names that a killed process left, FORMAT among them, may be in the page cache alone.
        let synced = root.storage.sync_dir(Path::new(""));
        synced.map_err(|e| io_error("cannot sync the directory of the log", e))?;
        root.remove_unfinished()?;
        Ok(root)
    }

    /// Opens it for reading.
    pub(crate) fn open_read_only(system: &dyn Storage, path: &Path) -> Result<Self> {
        let missing = || {
            let text =
                format!("there is no log at {}; give the folder of one, or create it by appending", path.display());
            log_error(ErrorKind::Missing, text)
        };
        let storage = match system.at(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
            _ => open_root(system, path)?,
        };
        let mut root = Self { storage, path: path.to_owned(), wal_id: WalId(0), lock: None };
        root.wal_id = root.read_format()?.ok_or_else(missing)?.wal_id;
        // A writer that creates the log has made it before FORMAT.
        root.list_streams()?;
        Ok(root)
    }

    /// The folder of the streams, relative to the root.
    pub(crate) fn streams(&self) -> &'static Path {
        Path::new(STREAMS)
    }

    /// The names of the streams, sorted by their escaped forms.
    pub(crate) fn stream_names(&self) -> Result<Vec<String>> {
        let entries = self.list_streams()?;
        Ok(entries.iter().filter_map(stream_name).collect())
    }

    /// Gives the lock back.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }

    /// That the directory of the log was not removed since it was opened.
    pub(crate) fn check_exists(&self) -> Result<()> {
        match self.storage.open(Path::new(FORMAT), Access::Read) {
            Err(e) if e.kind() == io::ErrorKind::StaleNetworkFileHandle => Err(io_error("the log is lost", e)),
            _ => Ok(()),
        }
    }

    fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Makes the names of the root and of the folders above it durable. Before FORMAT is there: a
    /// process that was killed between creating one of them and syncing it leaves names that look
    /// like any others. Once FORMAT is there, so are they.
    fn sync_above(&self, system: &dyn Storage) -> Result<()> {
        let (mut dir, mut hidden) = (&*self.path, false);
        while let Some(parent) = dir.parent() {
            dir = parent;
            match system.sync_dir(named(parent)) {
                // This user may not list it; something may have been created in it all the same.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => hidden = true,
                // Nothing was created in it: its file system has nothing to sync.
                Err(e) if has_no_sync(&e) => {}
                other => other.map_err(|e| io_error("cannot sync a directory above the log", e))?,
            }
        }
        if !hidden {
            return Ok(());
        }
        match self.storage.sync_file_system(Path::new("")) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other.map_err(|e| io_error("cannot sync the file system of the log", e)),
        }
    }

    /// Creates the folder of the streams durably, if it is not there.
    fn create_streams(&self) -> Result<()> {
        let streams = self.streams();
        let sync = || self.storage.sync_dir(Path::new(""));
        match self.storage.create_dir(streams) {
            Ok(()) => sync().map_err(|e| io_error("cannot sync the directory of the log", e)),
            // It must be a folder, and no link to one. A process that was killed may have left its
            // name in the page cache.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let synced = self.storage.list(streams).and_then(|_| sync());
                synced.map_err(|e| io_error("cannot use this as the directory of the streams", e))
            }
            Err(e) => Err(io_error("cannot create the directory of the streams", e)),
        }
    }

    /// What is in the folder of streams of a log that has its FORMAT file.
    fn list_streams(&self) -> Result<Vec<DirEntry>> {
        let shown = || self.shown(STREAMS);
        self.storage.list(self.streams()).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                let text = format!(
                    "{} is missing, and with it every stream there was; restore it from a copy of this log",
                    shown()
                );
                log_error(ErrorKind::Damaged, text)
            }
            io::ErrorKind::NotADirectory => {
                let text = format!(
                    "{} is a link or a file; it must be the folder itself, since the log syncs and lists that",
                    shown()
                );
                log_error(ErrorKind::Damaged, text)
            }
            _ => io_error("cannot list the streams", e),
        })
    }

    /// The FORMAT file, if it is there.
    fn read_format(&self) -> Result<Option<FormatFile>> {
        let (file, shown) = (Path::new(FORMAT), || self.shown(FORMAT));
        let failed = |e| io_error(format!("cannot read {}", shown()), e);
        let is_absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let mut opened = self.storage.open(file, Access::Read);
        if opened.as_ref().is_err_and(is_absent) {
            if !self.has_streams()? {
                return Ok(None);
            }
            // It is there before any stream is. So where another process has just created the log,
            // it is there now.
            opened = self.storage.open(file, Access::Read);
        }
        let open = match opened {
            Ok(open) => open,
            Err(e) if is_absent(&e) => {
                let text = format!("{} is missing, and there are streams; restore it from a copy of this log", shown());
                return Err(log_error(ErrorKind::Damaged, text));
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                let text =
                    format!("{} is not a plain file; put the file itself there, from a copy of this log", shown());
                return Err(log_error(ErrorKind::Damaged, text));
            }
            Err(e) => return Err(io_error("cannot read the FORMAT of the log", e)),
        };
        let mut bytes = vec![0; FORMAT_FILE_LEN];
        let read = open.read_at(&mut bytes, 0).map_err(failed)?;
        FormatFile::decode(&bytes[..read]).map(Some).map_err(|error| {
            let kind = match error {
                FormatFileError::Newer(_) => ErrorKind::NewerFormat,
                _ => ErrorKind::Damaged,
            };
            log_error(kind, format!("{}: {error}; restore it from a copy of this log", shown()))
        })
    }

    /// Whether there are streams. Without a FORMAT file, that is a log that has lost it; otherwise
    /// one that is not there yet.
    fn has_streams(&self) -> Result<bool> {
        match self.storage.list(self.streams()) {
            Ok(entries) => Ok(entries.iter().any(|entry| stream_name(entry).is_some())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(io_error("cannot list the streams", e)),
        }
    }

    /// Writes the FORMAT file of a new log, durably: under a temporary name, synced, renamed, its
    /// folder synced.
    fn create_format(&self) -> Result<FormatFile> {
        let storage = &*self.storage;
        let format = FormatFile { wal_id: new_wal_id(storage), features: stratawal_frame::Features::default() };
        // A name of its own: a leftover, or a directory that has the name, is not in the way.
        let temporary = PathBuf::from(format!("{TEMPORARY_FORMAT}{:016x}", storage.random_u64()));
        let (temporary, file) = (&*temporary, Path::new(FORMAT));
        let write = || {
            let open = storage.create_new(temporary)?;
            open.write_all_at(&format.encode(), 0)?;
            open.sync_all()?;
            storage.rename(temporary, file)?;
            storage.sync_dir(Path::new(""))
        };
        write().map_err(|e| io_error(format!("cannot write {}", self.shown(FORMAT)), e))?;
        Ok(format)
    }

    /// Removes files of the root that were being written when a process died.
    fn remove_temporaries(&self) -> Result<()> {
        let in_root = self.storage.list(Path::new(""));
        for entry in in_root.map_err(|e| io_error("cannot list the directory of the log", e))? {
            if entry.file_type == FileType::File && is_temporary_format(&entry) {
                // One that stays is not read, and the next open tries again.
                let _ = self.storage.remove_file(Path::new(&entry.name));
            }
        }
        Ok(())
    }

    /// Removes streams whose creation a crash interrupted (no entry was ever acknowledged in them),
    /// and the rest of those that were deleted.
    fn remove_unfinished(&self) -> Result<()> {
        for entry in self.list_streams()? {
            if entry.file_type == FileType::Dir && is_leftover_dir(&entry.name) {
                let dir = self.streams().join(&entry.name);
                // A deletion that was interrupted has to be durable before anybody sees the stream
                // gone.
                self.storage
                    .sync_dir(self.streams())
                    .map_err(|e| io_error("cannot sync the directory of the streams", e))?;
                // What cannot be removed (somebody put a folder there, or holds a file) is no
                // reason to keep the log shut; the next open tries again.
                let _ = remove_leftover_dir(&*self.storage, &dir);
            }
        }
        Ok(())
    }
}

fn open_root(system: &dyn Storage, path: &Path) -> Result<Arc<dyn Storage>> {
    system.at(path).map_err(|e| no_folder(path, &e).unwrap_or_else(|| io_error("cannot open the log", e)))
}

/// Creates the root durably, and the directories that are missing above it. It may be a link to a
/// folder; nothing below it may. Of several processes that create it at the same time, each finds
/// it there.
fn create_root(storage: &dyn Storage, root: &Path) -> Result<()> {
    let failed = |e| io_error("cannot create the directory of the log", e);
    match create_one(storage, root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && root.parent().is_some() => {
            create_root(storage, parent_of(root))?;
            create_one(storage, root).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Whether a sync of a directory failed because its file system has none.
fn has_no_sync(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | ReadOnlyFilesystem | Unsupported)
}

/// Creates a directory, if it is not there, and makes its name durable.
fn create_one(storage: &dyn Storage, dir: &Path) -> io::Result<()> {
    match storage.create_dir(dir) {
        // Its name may not be durable yet; that is seen to before FORMAT is there.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    match storage.sync_dir(parent_of(dir)) {
        // One in which this user may create names, and not list them, cannot be opened.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => storage.sync_file_system(dir),
        synced => synced,
    }
}

/// The folder that a relative path begins in has an empty name.
fn named(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

fn parent_of(dir: &Path) -> &Path {
    dir.parent().map_or(Path::new("."), named)
}

fn lock(storage: &dyn Storage, path: &Path) -> Result<Box<dyn Lock>> {
    let file = path.join("LOCK");
    storage.lock(Path::new(""), Path::new("LOCK")).map_err(|error| match error {
        LockError::Held { owner } => {
            let (log, file) = (path.display(), file.display());
            let text = match owner {
                Some(pid) if pid == std::process::id() => format!(
                    "the log {log} is locked, and its lock file {file} names this process ({pid}); use the handle that it \
                     has, close it there, or open the log read-only"
                ),
                Some(pid) => format!(
                    "the log {log} is locked, and its lock file {file} names process {pid}; close the log there or in its \
                     children, or open it read-only"
                ),
                None => format!(
                    "the log {log} is locked by a process that its lock file {file} does not name, such as a child of one \
                     that has ended; find what has that file open and close the log there, or open it read-only"
                ),
            };
            log_error(ErrorKind::Locked, text)
        }
        LockError::Io(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let text = format!("{} is not a plain file; remove it, and the log makes a new one", file.display());
            log_error(ErrorKind::Io, text)
        }
        LockError::Io(e) => io_error(format!("cannot lock the log {}", path.display()), e),
    })
}

/// What to say where the path of the log is that of a file.
fn no_folder(path: &Path, error: &io::Error) -> Option<Error> {
    let text = || format!("{} is a file; a log is a folder, give that or a new name", path.display());
    (error.kind() == io::ErrorKind::NotADirectory).then(|| log_error(ErrorKind::Missing, text()))
}

/// The stream that an entry of the folder of streams is. Its name decides: a link or a file under a
/// stream's name is one, too, damaged. Any other name is foreign, or one of those that are removed
/// at open.
fn stream_name(entry: &DirEntry) -> Option<String> {
    name::unescape(entry.name.to_str()?)
}

/// Whether this is a FORMAT file that was being written when its process died. Any other name here
/// is foreign: the directory may be one that was never a log.
fn is_temporary_format(entry: &DirEntry) -> bool {
    let digits = entry.name.to_str().and_then(|name| name.strip_prefix(TEMPORARY_FORMAT));
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn new_wal_id(storage: &dyn Storage) -> WalId {
    WalId(u128::from(storage.random_u64()) << 64 | u128::from(storage.random_u64()))
}
