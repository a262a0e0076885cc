//! An in-memory file system, for tests and for logs that need not outlive the process.
//!
//! It does not simulate crashes: each write takes effect at once, and syncing does nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use crate::file::File;
use crate::storage::{Access, DirEntry, FileType, Lock, LockError, LockOwner, Storage};
use crate::sync::{AtomicBool, Mutex, Ordering, Weak};
use crate::unix;

/// An in-memory file system, shared by its clones. A new one has only the directory `/`.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
    /// The directory that paths are relative to.
    root: DirId,
}

/// Identifies a directory, independent of its path.
type DirId = u64;

/// The directory `/`, which always exists.
const ROOT: DirId = 0;

#[derive(Debug)]
struct State {
    dirs: BTreeMap<DirId, BTreeMap<OsString, Node>>,
    next_dir: DirId,
    /// The locked files, by directory and name.
    locked: Vec<(DirId, OsString)>,
    /// The total size of all files, in bytes, and its limit.
    used: u64,
    capacity: u64,
    /// The time, and by how much each reading advances it. `None` means the real clock.
    clock: Option<(u64, u64)>,
    /// The state of the random number generator. `None` means the operating system's random
    /// numbers.
    seed: Option<u64>,
}

#[derive(Clone, Debug)]
enum Node {
    Dir(DirId),
    File(Arc<Data>),
}

#[derive(Debug)]
struct Data {
    bytes: Mutex<Vec<u8>>,
    /// Whether the file has a name. Without one it counts as no space. Changes only under the file
    /// system's lock.
    named: AtomicBool,
    /// Weak, because the file system owns its files.
    state: Weak<Mutex<State>>,
}

impl Data {
    fn new(bytes: Vec<u8>, state: &Arc<Mutex<State>>) -> Arc<Self> {
        let bytes = Mutex::new(bytes);
        Arc::new(Self { bytes, named: AtomicBool::new(true), state: Arc::downgrade(state) })
    }
}

#[derive(Debug)]
struct MemoryFile {
    data: Arc<Data>,
    writable: bool,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    /// Creates an empty file system.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            dirs: BTreeMap::from([(ROOT, BTreeMap::new())]),
            next_dir: ROOT + 1,
            locked: Vec::new(),
            used: 0,
            capacity: u64::MAX,
            clock: None,
            seed: None,
        };
        Self { state: Arc::new(Mutex::new(state)), root: ROOT }
    }

    /// Uses a clock that starts at `start` and advances by `step` microseconds with each reading.
    #[must_use]
    pub fn with_clock(self, start: u64, step: u64) -> Self {
        self.state.lock().clock = Some((start, step));
        self
    }

    /// Uses random numbers determined by `seed`.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.state.lock().seed = Some(seed);
        self
    }

    /// Limits the total size of all files to `bytes`. May be called again with another limit.
    #[must_use]
    pub fn with_capacity(self, bytes: u64) -> Self {
        self.state.lock().capacity = bytes;
        self
    }

    /// Returns a copy of the whole file system, which shares nothing with this one.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let copy = Self { root: self.root, ..Self::new() };
        let state = self.state.lock();
        let mut into = copy.state.lock();
        into.used = state.used;
        into.capacity = state.capacity;
        into.clock = state.clock;
        into.seed = state.seed;
        into.next_dir = state.next_dir;
        let copy_of = |node: &Node| match node {
            Node::Dir(dir) => Node::Dir(*dir),
            Node::File(data) => Node::File(Data::new(data.bytes.lock().clone(), &copy.state)),
        };
        for (dir, names) in &state.dirs {
            let names = names.iter().map(|(name, node)| (name.clone(), copy_of(node)));
            into.dirs.insert(*dir, names.collect());
        }
        drop((state, into));
        copy
    }

    /// The directory that `path` leads to.
    fn dir(&self, state: &State, path: &Path) -> io::Result<DirId> {
        match state.walk(self.root, path)? {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The directory that holds `path`, and the name there.
    fn parent<'p>(&self, state: &State, path: &'p Path) -> io::Result<(DirId, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.dir(state, path.parent().ok_or(io::ErrorKind::InvalidInput)?)?, name))
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    fn walk(&self, root: DirId, path: &Path) -> io::Result<Node> {
        let mut at = Node::Dir(root);
        self.names(root)?;
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::RootDir if root == ROOT => {}
                Component::Normal(name) => {
                    let Node::Dir(dir) = at else { return Err(io::ErrorKind::NotADirectory.into()) };
                    at = self.names(dir)?.get(name).cloned().ok_or_else(not_found)?;
                }
                Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
        }
        Ok(at)
    }

    /// Returns the entries of a directory that was found or opened earlier.
    fn names(&self, dir: DirId) -> io::Result<&BTreeMap<OsString, Node>> {
        self.dirs.get(&dir).ok_or_else(removed)
    }

    fn names_mut(&mut self, dir: DirId) -> io::Result<&mut BTreeMap<OsString, Node>> {
        self.dirs.get_mut(&dir).ok_or_else(removed)
    }

    /// Whether `dir` is `above` or lies below it.
    fn is_within(&self, dir: DirId, above: DirId) -> bool {
        let inner = |dir: DirId| self.dirs.get(&dir).into_iter().flat_map(BTreeMap::values);
        dir == above || inner(above).any(|node| matches!(node, Node::Dir(child) if self.is_within(dir, *child)))
    }

    fn lose_name(&mut self, data: &Data) {
        if data.named.swap(false, Ordering::Relaxed) {
            self.used -= data.bytes.lock().len() as u64;
        }
    }

    /// Accounts for a change of a file's length from `old` to `new` bytes.
    fn resize(&mut self, old: u64, new: u64) -> io::Result<()> {
        let used = self.used - old + new;
        if new > old && used > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.used = used;
        Ok(())
    }
}

/// The error for a directory that was removed since it was opened.
fn removed() -> io::Error {
    io::Error::new(io::ErrorKind::StaleNetworkFileHandle, "the directory was removed since it was opened")
}

impl Storage for MemoryStorage {
    fn at(&self, dir: &Path) -> io::Result<Arc<dyn Storage>> {
        let root = self.dir(&self.state.lock(), dir)?;
        Ok(Arc::new(Self { state: Arc::clone(&self.state), root }))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let (dir, name) = self.parent(&state, path)?;
        let names = state.names_mut(dir)?;
        if names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let data = Data::new(Vec::new(), &self.state);
        names.insert(name.to_owned(), Node::File(Arc::clone(&data)));
        Ok(Arc::new(MemoryFile { data, writable: true }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        match self.state.lock().walk(self.root, path)? {
            Node::File(data) => Ok(Arc::new(MemoryFile { data, writable: access == Access::ReadWrite })),
            Node::Dir(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file")),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        let entry = |(name, node): (&OsString, &Node)| DirEntry {
            name: name.clone(),
            file_type: if matches!(node, Node::Dir(_)) { FileType::Dir } else { FileType::File },
        };
        let mut entries: Vec<_> = state.names(self.dir(&state, dir)?)?.iter().map(entry).collect();
        entries.sort_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (parent, name) = self.parent(&state, dir)?;
        let new = state.next_dir;
        let names = state.names_mut(parent)?;
        if names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.insert(name.to_owned(), Node::Dir(new));
        state.dirs.insert(new, BTreeMap::new());
        state.next_dir += 1;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (old_dir, old_name) = self.parent(&state, from)?;
        let (new_dir, new_name) = self.parent(&state, to)?;
        let source = state.names(old_dir)?.get(old_name).cloned().ok_or_else(not_found)?;
        if (old_dir, old_name) == (new_dir, new_name) {
            return Ok(());
        }
        if let Node::Dir(moved) = source
            && state.is_within(new_dir, moved)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let replaced = state.names(new_dir)?.get(new_name).cloned();
        match (&source, &replaced) {
            (_, None) => {}
            (Node::File(_), Some(Node::File(data))) => state.lose_name(data),
            (Node::Dir(_), Some(Node::Dir(dir))) if state.names(*dir)?.is_empty() => {
                state.dirs.remove(dir);
            }
            (Node::Dir(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir(_), Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
        }
        state.names_mut(old_dir)?.remove(old_name);
        state.names_mut(new_dir)?.insert(new_name.to_owned(), source);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (dir, name) = self.parent(&state, path)?;
        match state.names(dir)?.get(name).cloned() {
            Some(Node::File(data)) => {
                state.names_mut(dir)?.remove(name);
                state.lose_name(&data);
                Ok(())
            }
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (parent, name) = self.parent(&state, dir)?;
        match state.names(parent)?.get(name).cloned() {
            Some(Node::Dir(removed)) if state.names(removed)?.is_empty() => {
                state.names_mut(parent)?.remove(name);
                state.dirs.remove(&removed);
                Ok(())
            }
            Some(Node::Dir(_)) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.list(dir).map(drop)
    }

    fn lock(&self, _root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut state = self.state.lock();
        let (dir, name) = self.parent(&state, path).map_err(LockError::Io)?;
        if state.locked.iter().any(|locked| locked.0 == dir && locked.1 == name) {
            let owner = LockOwner { id: std::process::id(), command: None, is_certain: true };
            return Err(LockError::Held { owner: Some(owner) });
        }
        let names = state.names_mut(dir).map_err(LockError::Io)?;
        names.entry(name.to_owned()).or_insert_with(|| Node::File(Data::new(Vec::new(), &self.state)));
        let locked = (dir, name.to_owned());
        state.locked.push(locked.clone());
        Ok(Box::new(MemoryLock { state: Arc::clone(&self.state), locked }))
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.capacity.saturating_sub(state.used))
    }

    fn now_micros(&self) -> u64 {
        match &mut self.state.lock().clock {
            Some((now, step)) => {
                *now += *step;
                *now
            }
            None => unix::now_micros(),
        }
    }

    fn coarse_now_micros(&self) -> u64 {
        self.now_micros()
    }

    fn elapsed_micros(&self) -> u64 {
        match self.state.lock().clock {
            // This clock is never set.
            Some((now, _)) => now,
            None => unix::elapsed_micros(),
        }
    }

    fn random_u64(&self) -> u64 {
        match &mut self.state.lock().seed {
            // SplitMix64.
            Some(seed) => {
                *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = *seed;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                z ^ (z >> 31)
            }
            None => unix::random_u64(),
        }
    }
}

#[derive(Debug)]
struct MemoryLock {
    state: Arc<Mutex<State>>,
    locked: (DirId, OsString),
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.state.lock().locked.retain(|locked| *locked != self.locked);
    }
}

impl MemoryFile {
    fn resize(&self, change: impl FnOnce(u64) -> u64) -> io::Result<()> {
        self.change(change, |_| ())
    }

    /// Changes the length and then the bytes, under one lock.
    fn change(&self, len: impl FnOnce(u64) -> u64, write: impl FnOnce(&mut [u8])) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // The file system is locked before the file, as everywhere in this file.
        let storage = self.data.state.upgrade();
        let mut state = storage.as_ref().map(|storage| storage.lock());
        let mut bytes = self.data.bytes.lock();
        let old = bytes.len() as u64;
        let new = len(old);
        let new_len = usize::try_from(new).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if let Some(state) = state.as_mut().filter(|_| self.data.named.load(Ordering::Relaxed)) {
            state.resize(old, new)?;
        }
        bytes.resize(new_len, 0);
        write(&mut bytes);
        Ok(())
    }
}

impl File for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.data.bytes.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(buf.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.change(|len| len.max(end), |bytes| bytes[from..from + buf.len()].copy_from_slice(buf))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.data.bytes.lock().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.resize(|_| len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.resize(|old| old.max(len))
    }
}
