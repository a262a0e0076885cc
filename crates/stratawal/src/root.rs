//! The root directory of a log: its lock, its FORMAT file, its directory of streams.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_frame::{FORMAT_FILE_LEN, Features, FormatFile, FormatFileError, WalId};
use stratawal_storage::{Access, DirEntry, FileType, Lock, LockError, LockOwner, Storage};
use stratawal_stream::{Found, JournalReader, Location, is_leftover_dir, remove_leftover_dir, stream_id};

use crate::error::{Error, ErrorKind, Result, io_error, log_error};
use crate::journal::journal_error;
use crate::name;

/// The directory of the streams, within the root.
const STREAMS: &str = "streams";

/// The directory of the commit journal.
pub(crate) const JOURNAL: &str = "journal";

/// The file of the emergency reserve.
pub(crate) const RESERVE: &str = "RESERVE";

/// The file of the counter by which readers in other processes see that nothing has changed.
pub(crate) const NOTIFY: &str = "NOTIFY";

/// The file that contains the version of the log and its id.
const FORMAT: &str = "FORMAT";

/// The file that the process that writes to the log has locked.
pub(crate) const LOCK: &str = "LOCK";

/// The name of a FORMAT file that is being written begins like this; 16 hexadecimal digits follow.
const TEMPORARY_FORMAT: &str = ".tmp-FORMAT-";

/// An open root. Everything in it is reached through the directory that was opened, even if the
/// path leads elsewhere later.
#[derive(Debug)]
pub(crate) struct Root {
    /// Its paths are relative to the root.
    pub(crate) storage: Arc<dyn Storage>,
    /// The path of the root when it was opened, for messages.
    path: PathBuf,
    pub(crate) format: FormatFile,
    /// `None` in a log opened for reading, and after [`unlock`](Self::unlock).
    lock: Option<Box<dyn Lock>>,
}

impl Root {
    /// Opens or creates a root for writing.
    ///
    /// Creates, in this order, the directories above the root, the root, the directory of streams,
    /// and FORMAT. Each is durable before the next is created. So a crash before FORMAT leaves at
    /// most an empty directory of streams, and creation continues from it. If FORMAT exists without
    /// a directory of streams, creation was not interrupted: the directory was removed, and its
    /// streams with it.
    ///
    /// Creates nothing inside another log.
    pub(crate) fn open(system: &dyn Storage, path: &Path) -> Result<Self> {
        Self::open_with(system, path, None)
    }

    /// Like [`open`](Self::open), for a process that has the lock of the log already.
    pub(crate) fn open_locked(system: &dyn Storage, path: &Path, lock: Box<dyn Lock>) -> Result<Self> {
        Self::open_with(system, path, Some(lock))
    }

    fn open_with(system: &dyn Storage, path: &Path, held: Option<Box<dyn Lock>>) -> Result<Self> {
        // The operating system would take an empty path for the working directory.
        if path.as_os_str().is_empty() {
            return Err(log_error(ErrorKind::Missing, "the path of the log is empty; give the directory of a log"));
        }
        refuse_inside_log(system, path)?;
        create_root(system, path)?;
        let storage = open_root(system, path)?;
        let lock = held.map_or_else(|| lock(&*storage, path), Ok)?;
        let mut root = Self { lock: Some(lock), ..Self::new(storage, path) };
        root.format = match root.read_format()? {
            Some(format) if !format.is_writable() => {
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
                let format = FormatFile { wal_id: new_wal_id(&*root.storage), features: Features::default() };
                root.write_format(format)?
            }
        };
        // The names that a killed process left, FORMAT included, may not be durable yet.
        let synced = root.storage.sync_dir(Path::new(""));
        synced.map_err(|e| io_error("cannot sync the directory of the log", e))?;
        root.remove_unfinished()?;
        Ok(root)
    }

    /// A root whose FORMAT was not read.
    pub(crate) fn of(storage: Arc<dyn Storage>, path: &Path) -> Self {
        Self::new(storage, path)
    }

    fn new(storage: Arc<dyn Storage>, path: &Path) -> Self {
        let format = FormatFile { wal_id: WalId(0), features: Features::default() };
        Self { storage, path: path.to_owned(), format, lock: None }
    }

    /// Opens a root for reading.
    pub(crate) fn open_read_only(system: &dyn Storage, path: &Path) -> Result<Self> {
        let missing = || {
            let text = format!(
                "there is no log at {}; give the directory of a log, or create one by appending",
                path.display()
            );
            log_error(ErrorKind::Missing, text)
        };
        let storage = match system.at(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
            _ => open_root(system, path)?,
        };
        let mut root = Self::new(storage, path);
        root.format = root.read_format()?.ok_or_else(missing)?;
        // A writer creates `streams` before FORMAT, so `streams` must exist by now.
        root.list_streams()?;
        Ok(root)
    }

    /// A reader of the commit journal, for a log that is opened for reading. Another process may
    /// create or remove the journal at any time.
    pub(crate) fn journal_reader(&self) -> Arc<JournalReader> {
        let root = Self::new(Arc::clone(&self.storage), &self.path);
        let has_journal = move || root.read_format().ok().flatten().map(|format| format.has_journal());
        Arc::new(JournalReader::new(&self.storage, Path::new(JOURNAL), self.format.wal_id, has_journal))
    }

    /// The directory of the streams, relative to the root.
    pub(crate) fn streams(&self) -> &'static Path {
        Path::new(STREAMS)
    }

    /// Returns the names of the streams, sorted by their escaped forms.
    pub(crate) fn stream_names(&self) -> Result<Vec<String>> {
        let entries = self.list_streams()?;
        Ok(entries.iter().filter_map(stream_name).collect())
    }

    /// Returns the names of the streams of a log that is opened for reading, sorted by their
    /// escaped forms: those that have a directory, and those that only the journal knows.
    pub(crate) fn stream_names_with(&self, journal: &JournalReader) -> Result<Vec<String>> {
        let in_journal = journal.streams().map_err(|error| journal_error(self, &error))?;
        let mut names = self.stream_names()?;
        names.retain(|name| !in_journal.get(name).is_some_and(Option::is_none) || !self.is_deleted(name, journal));
        let alone = in_journal.into_iter().filter(|(name, id)| id.is_some() && !names.contains(name));
        let alone: Vec<String> = alone.map(|(name, _)| name).collect();
        names.extend(alone);
        names.sort_by_cached_key(|name| name::escape(name));
        Ok(names)
    }

    /// Whether the stream in the directory of `name` was deleted, and its directory remains.
    fn is_deleted(&self, name: &str, journal: &JournalReader) -> bool {
        let location = Location::new(self.streams(), name::escape(name)).named(name);
        match stream_id(&self.storage, self.format.wal_id, &location) {
            Found::Stream(id) => journal.is_dropped(id),
            Found::Missing => true,
            Found::Unreadable => false,
        }
    }

    /// Releases the lock.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }

    /// Checks that the directory of the log was not removed since it was opened.
    pub(crate) fn check_exists(&self) -> Result<()> {
        match self.storage.open(Path::new(FORMAT), Access::Read) {
            Err(e) if e.kind() == io::ErrorKind::StaleNetworkFileHandle => Err(io_error("the log is lost", e)),
            _ => Ok(()),
        }
    }

    pub(crate) fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Makes the names of the root and of the directories above it durable.
    ///
    /// This is done whenever FORMAT does not exist yet. A process killed between creating a
    /// directory and syncing its name leaves a name that looks like any other but may not be
    /// durable. Once FORMAT exists, all these names are durable.
    fn sync_above(&self, system: &dyn Storage) -> Result<()> {
        let mut dir = &*self.path;
        let mut hidden = false;
        while let Some(parent) = dir.parent() {
            dir = parent;
            match system.sync_dir(named(parent)) {
                // The user may lack permission to list this directory, but may still have created a
                // name in it.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => hidden = true,
                // Such a file system has nothing to sync: no name was created in this directory.
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

    /// Creates the directory of the streams durably, if it does not exist.
    fn create_streams(&self) -> Result<()> {
        let streams = self.streams();
        let sync = || self.storage.sync_dir(Path::new(""));
        match self.storage.create_dir(streams) {
            Ok(()) => sync().map_err(|e| io_error("cannot sync the directory of the log", e)),
            // Listing the directory fails if it is a link. Its name may not be durable, because the
            // process that created it may have been killed before the sync.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let synced = self.storage.list(streams).and_then(|_| sync());
                synced.map_err(|e| io_error("cannot use this as the directory of the streams", e))
            }
            Err(e) => Err(io_error("cannot create the directory of the streams", e)),
        }
    }

    /// Lists the directory of streams of a log that has its FORMAT file.
    fn list_streams(&self) -> Result<Vec<DirEntry>> {
        let shown = || self.shown(STREAMS);
        self.storage.list(self.streams()).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                let text = format!(
                    "{} is missing, and every stream with it; restore the whole log from a copy; or create this directory \
                     again, empty, and `stratawal repair` keeps what the commit journal has",
                    shown()
                );
                log_error(ErrorKind::Damaged, text)
            }
            io::ErrorKind::NotADirectory => {
                let text = format!(
                    "{} is a link or a file; it must be the directory itself, because the log syncs and lists it",
                    shown()
                );
                log_error(ErrorKind::Damaged, text)
            }
            _ => io_error("cannot list the streams", e),
        })
    }

    /// Reads the FORMAT file, or returns `None` if the log does not exist yet.
    pub(crate) fn read_format(&self) -> Result<Option<FormatFile>> {
        let Some(bytes) = self.format_bytes()? else { return Ok(None) };
        FormatFile::decode(&bytes).map(Some).map_err(|error| {
            let kind = match error {
                FormatFileError::Newer(_) => ErrorKind::NewerFormat,
                _ => ErrorKind::Damaged,
            };
            log_error(kind, format!("{}: {error}; restore it from a copy of this log", self.shown(FORMAT)))
        })
    }

    /// The damage, if one of the two copies in the FORMAT file is not valid.
    pub(crate) fn damage_of_format(&self) -> Result<Option<Error>> {
        let is_whole = self.format_bytes()?.is_none_or(|bytes| FormatFile::is_whole(&bytes));
        let text = || format!("{}: one of its two copies is not valid; the other one is used", self.shown(FORMAT));
        Ok((!is_whole).then(|| log_error(ErrorKind::Damaged, text())))
    }

    /// The bytes of the FORMAT file, or `None` if the log does not exist yet.
    fn format_bytes(&self) -> Result<Option<Vec<u8>>> {
        let file = Path::new(FORMAT);
        let shown = || self.shown(FORMAT);
        let failed = |e| io_error(format!("cannot read {}", shown()), e);
        let is_absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let mut opened = self.storage.open(file, Access::Read);
        if opened.as_ref().is_err_and(is_absent) {
            if !self.has_content()? {
                return Ok(None);
            }
            // FORMAT is created before any stream, and before the journal. So if another process
            // has just created the log, FORMAT exists by now.
            opened = self.storage.open(file, Access::Read);
        }
        let open = match opened {
            Ok(open) => open,
            Err(e) if is_absent(&e) => {
                let text = format!(
                    "{} is missing, although there are streams or a journal; restore it from a copy of this log, or have `stratawal repair` write it anew",
                    shown()
                );
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
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Returns whether there are streams, or files of a commit journal, which may hold streams that
    /// have no directory yet. If there are, a log without a FORMAT file has lost it; otherwise the
    /// log does not exist yet.
    fn has_content(&self) -> Result<bool> {
        let has_streams = match self.storage.list(self.streams()) {
            Ok(entries) => entries.iter().any(|entry| stream_name(entry).is_some()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(io_error("cannot list the streams", e)),
        };
        let has_journal = match journal_files(&*self.storage) {
            Ok(files) => !files.is_empty(),
            // A file of another program.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => false,
            Err(e) => return Err(io_error("cannot list the journal", e)),
        };
        Ok(has_streams || has_journal)
    }

    /// Durably records in FORMAT whether the log has a commit journal.
    pub(crate) fn set_journal(&mut self, has_journal: bool) -> Result<()> {
        let features = self.format.features.with_journal(has_journal);
        self.format = self.write_format(FormatFile { features, ..self.format })?;
        Ok(())
    }

    /// Durably creates or replaces the FORMAT file: writes it under a temporary name, syncs it,
    /// renames it, and syncs its directory.
    pub(crate) fn write_format(&self, format: FormatFile) -> Result<FormatFile> {
        let storage = &*self.storage;
        // The name is random, so that no leftover file or directory has the same one.
        let temporary = PathBuf::from(format!("{TEMPORARY_FORMAT}{:016x}", storage.random_u64()));
        let temporary = &*temporary;
        let file = Path::new(FORMAT);
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

    /// Removes FORMAT files that were still being written when a process died.
    fn remove_temporaries(&self) -> Result<()> {
        let in_root = self.storage.list(Path::new(""));
        for entry in in_root.map_err(|e| io_error("cannot list the directory of the log", e))? {
            if entry.file_type == FileType::File && is_temporary_format(&entry) {
                // If this fails, the next open tries again; such a file is never read.
                let _ = self.storage.remove_file(Path::new(&entry.name));
            }
        }
        Ok(())
    }

    /// Removes streams whose creation was interrupted, which have no acknowledged entries, and the
    /// remains of streams whose deletion was interrupted.
    fn remove_unfinished(&self) -> Result<()> {
        for entry in self.list_streams()? {
            if entry.file_type == FileType::Dir && is_leftover_dir(&entry.name) {
                let dir = self.streams().join(&entry.name);
                // An interrupted deletion must become durable before a program sees that the stream
                // is gone.
                self.storage
                    .sync_dir(self.streams())
                    .map_err(|e| io_error("cannot sync the directory of the streams", e))?;
                // The log opens even if this fails, for example because of a foreign directory
                // inside. The next open tries again.
                let _ = remove_leftover_dir(&*self.storage, &dir);
            }
        }
        Ok(())
    }
}

/// The files of the commit journal, relative to the root, without its spares. None if there is no
/// such directory.
pub(crate) fn journal_files(root: &dyn Storage) -> io::Result<Vec<PathBuf>> {
    let dir = Path::new(JOURNAL);
    let entries = match root.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed?,
    };
    let paths = entries.into_iter().map(|entry| dir.join(entry.name));
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect())
}

/// Returns the log that the directory `path` is inside of, if there is no log at `path` itself. The
/// directory need not exist.
pub(crate) fn enclosing_log(system: &dyn Storage, path: &Path) -> Option<PathBuf> {
    // A path that cannot be resolved cannot be opened either, and that error has the remedy.
    let path = system.canonical(path).ok()?;
    let open = |dir: &Path| system.open(&dir.join(FORMAT), Access::Read);
    open(&path).err().filter(|e| e.kind() == io::ErrorKind::NotFound)?;
    let is_log = |dir: &&Path| {
        let mut bytes = vec![0; FORMAT_FILE_LEN];
        let read = open(dir).and_then(|file| file.read_at(&mut bytes, 0)).unwrap_or(0);
        !matches!(FormatFile::decode(&bytes[..read]), Err(FormatFileError::Damaged))
    };
    path.ancestors().skip(1).find(is_log).map(Path::to_owned)
}

/// Refuses to create a log inside another one, where its files would be those of a stream. A log
/// that exists is opened wherever it is.
fn refuse_inside_log(system: &dyn Storage, path: &Path) -> Result<()> {
    let Some(log) = enclosing_log(system, path) else { return Ok(()) };
    let text = format!(
        "{} is inside the log {}, and no log is created there; give a directory outside of it, or that log and the name of a \
         stream",
        path.display(),
        log.display()
    );
    Err(log_error(ErrorKind::Nested, text))
}

fn open_root(system: &dyn Storage, path: &Path) -> Result<Arc<dyn Storage>> {
    system.at(path).map_err(|e| not_a_directory(path, &e).unwrap_or_else(|| io_error("cannot open the log", e)))
}

/// Durably creates the root and any missing directories above it. The root may be a link to a
/// directory; nothing in it may be a link. Several processes may do this at the same time.
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

/// Returns whether a sync of a directory failed because its file system does not support it.
fn has_no_sync(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | ReadOnlyFilesystem | Unsupported)
}

/// Creates a directory if it does not exist, and makes its name durable.
fn create_one(storage: &dyn Storage, dir: &Path) -> io::Result<()> {
    match storage.create_dir(dir) {
        // Its name may not be durable yet; `sync_above` makes it durable before FORMAT exists.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    match storage.sync_dir(parent_of(dir)) {
        // A directory that the user may write to but not list cannot be opened for a sync.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => storage.sync_file_system(dir),
        synced => synced,
    }
}

/// Replaces an empty path, which is the parent of a single relative name, by `.`.
fn named(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

fn parent_of(dir: &Path) -> &Path {
    dir.parent().map_or(Path::new("."), named)
}

pub(crate) fn lock(storage: &dyn Storage, path: &Path) -> Result<Box<dyn Lock>> {
    let file = path.join("LOCK");
    storage.lock(Path::new(""), Path::new(LOCK)).map_err(|error| match error {
        LockError::Held { owner } => {
            let log = path.display();
            let file = file.display();
            let text = match owner {
                Some(owner) if owner.id == std::process::id() => format!(
                    "the log {log} is locked by this process ({}), lock file {file}; use the handle that it has, close it \
                     there, or open the log read-only",
                    owner.id
                ),
                Some(LockOwner { id, command, is_certain }) => {
                    let command = command.unwrap_or_else(|| "program unknown".to_owned());
                    let by = if is_certain { "by" } else { "and its lock file names" };
                    format!(
                        "the log {log} is locked {by} process {id} ({command}), lock file {file}; close the log there or in \
                         its children, or open it read-only"
                    )
                }
                None => format!(
                    "the log {log} is locked by an unknown process, lock file {file}: a child of one that has ended, or one \
                     in another container or on another machine; find what has that file open and close the log there, or \
                     open it read-only"
                ),
            };
            log_error(ErrorKind::Locked, text)
        }
        LockError::Io(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let text = format!("{} is not a plain file; remove it, and the log creates a new one", file.display());
            log_error(ErrorKind::Io, text)
        }
        LockError::Io(e) => io_error(format!("cannot lock the log {}", path.display()), e),
    })
}

/// Returns the error to report if the path of the log leads to a file.
fn not_a_directory(path: &Path, error: &io::Error) -> Option<Error> {
    let text = || format!("{} is a file, but a log is a directory; give the directory, or a new name", path.display());
    (error.kind() == io::ErrorKind::NotADirectory).then(|| log_error(ErrorKind::Missing, text()))
}

/// Returns the name of the stream that an entry of the directory of streams belongs to. Only the
/// name decides: a link or a file with a stream's name is that stream, damaged. Any other name is
/// foreign, or a leftover that the next open removes.
fn stream_name(entry: &DirEntry) -> Option<String> {
    name::unescape(entry.name.to_str()?)
}

/// Returns whether this is a FORMAT file that was being written when its process died. Any other
/// name is foreign, because the directory may never have been a log.
fn is_temporary_format(entry: &DirEntry) -> bool {
    let digits = entry.name.to_str().and_then(|name| name.strip_prefix(TEMPORARY_FORMAT));
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn new_wal_id(storage: &dyn Storage) -> WalId {
    WalId(u128::from(storage.random_u64()) << 64 | u128::from(storage.random_u64()))
}
