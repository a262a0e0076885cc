//! A file system in memory, for tests and for logs that need not outlive the process.
//!
//! It does not simulate crashes: what is written is there, and syncing does nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::storage::{Access, DirEntry, EntryKind, File, Lock, LockError, Storage};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Weak};
use crate::unix::UnixStorage;

/// A file system in memory. Clones share it. It begins with the folder `/`.
#[derive(Clone, Debug)]
pub struct MemoryStorage(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    nodes: BTreeMap<PathBuf, Node>,
    locked: Vec<PathBuf>,
    /// Bytes of all files, and how many there may be.
    used: u64,
    capacity: u64,
    /// The time, and by how much each look at it moves it; `None` for the real clock.
    clock: Option<(u64, u64)>,
    /// The state of the random numbers; `None` for the operating system's.
    seed: Option<u64>,
}

#[derive(Clone, Debug)]
enum Node {
    Dir,
    File(Arc<Data>),
}

#[derive(Debug)]
struct Data {
    bytes: Mutex<Vec<u8>>,
    /// Whether it has a name; without one it takes no room. Behind the lock of the file system.
    named: AtomicBool,
    /// Not its owner: the file system holds its files.
    state: Weak<Mutex<State>>,
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
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let nodes = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        let state = State { nodes, locked: Vec::new(), used: 0, capacity: u64::MAX, clock: None, seed: None };
        Self(Arc::new(Mutex::new(state)))
    }

    /// With a clock that begins at `start` and moves by `step` microseconds with each look at it.
    #[must_use]
    pub fn with_clock(self, start: u64, step: u64) -> Self {
        self.0.lock().clock = Some((start, step));
        self
    }

    /// With random numbers that follow from `seed`.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.0.lock().seed = Some(seed);
        self
    }

    /// With room for `bytes` bytes of files. May be called again, to make room or to take it.
    #[must_use]
    pub fn with_capacity(self, bytes: u64) -> Self {
        self.0.lock().capacity = bytes;
        self
    }

    /// A copy of everything, that shares nothing with this one.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let copy = Self::new();
        let state = self.0.lock();
        let mut into = copy.0.lock();
        (into.used, into.capacity, into.clock, into.seed) = (state.used, state.capacity, state.clock, state.seed);
        for (path, node) in &state.nodes {
            let node = match node {
                Node::Dir => Node::Dir,
                Node::File(data) => {
                    let bytes = Mutex::new(data.bytes.lock().clone());
                    Node::File(Arc::new(Data { bytes, named: AtomicBool::new(true), state: Arc::downgrade(&copy.0) }))
                }
            };
            into.nodes.insert(path.clone(), node);
        }
        drop((state, into));
        copy
    }
}

impl State {
    fn parent_is_dir(&self, path: &Path) -> io::Result<()> {
        match path.parent().and_then(|parent| self.nodes.get(parent)) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn children<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Node)> {
        self.nodes.iter().filter(move |(path, _)| path.parent() == Some(dir))
    }

    fn vacant(&self, path: &Path) -> io::Result<()> {
        if self.nodes.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.parent_is_dir(path)
    }

    fn lose_name(&mut self, data: &Data) {
        if data.named.swap(false, Ordering::Relaxed) {
            self.used -= data.bytes.lock().len() as u64;
        }
    }

    /// Books growth from `old` to `new` bytes.
    fn resize(&mut self, old: u64, new: u64) -> io::Result<()> {
        let used = self.used - old + new;
        if new > old && used > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.used = used;
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        state.vacant(path)?;
        let data = Arc::new(Data {
            bytes: Mutex::new(Vec::new()),
            named: AtomicBool::new(true),
            state: Arc::downgrade(&self.0),
        });
        state.nodes.insert(path.to_owned(), Node::File(Arc::clone(&data)));
        Ok(Arc::new(MemoryFile { data, writable: true }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        match self.0.lock().nodes.get(path) {
            Some(Node::File(data)) => {
                Ok(Arc::new(MemoryFile { data: Arc::clone(data), writable: access == Access::ReadWrite }))
            }
            Some(Node::Dir) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file")),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.0.lock();
        match state.nodes.get(dir) {
            Some(Node::Dir) => {}
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        let entry = |(path, node): (&PathBuf, &Node)| DirEntry {
            name: path.file_name().map_or_else(OsString::new, ToOwned::to_owned),
            kind: if matches!(node, Node::Dir) { EntryKind::Dir } else { EntryKind::File },
        };
        let mut entries: Vec<_> = state.children(dir).map(entry).collect();
        entries.sort_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.vacant(dir)?;
        state.nodes.insert(dir.to_owned(), Node::Dir);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.parent_is_dir(to)?;
        let source = state.nodes.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        if from == to {
            return Ok(());
        }
        match (&source, state.nodes.get(to)) {
            (_, None) | (Node::File(_), Some(Node::File(_))) => {}
            (Node::Dir, Some(Node::Dir)) if state.children(to).next().is_none() => {}
            (Node::Dir, Some(Node::Dir)) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            (Node::File(_), Some(Node::Dir)) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir, Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
        }
        if to.starts_with(from) && to != from {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(Node::File(data)) = state.nodes.get(to).cloned()
            && from != to
        {
            state.lose_name(&data);
        }
        let moved: Vec<PathBuf> = state.nodes.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let node = state.nodes.remove(&path).expect("invariant: it was listed under the same lock");
            let below = path.strip_prefix(from).expect("invariant: it begins with `from`");
            let path = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            state.nodes.insert(path, node);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        match state.nodes.get(path).cloned() {
            Some(Node::File(data)) => {
                state.nodes.remove(path);
                state.lose_name(&data);
                Ok(())
            }
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        match state.nodes.get(dir) {
            Some(Node::Dir) if state.children(dir).next().is_some() => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            Some(Node::Dir) => {
                state.nodes.remove(dir);
                Ok(())
            }
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.list(dir).map(drop)
    }

    fn lock(&self, _root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut state = self.0.lock();
        if state.locked.iter().any(|locked| locked == path) {
            return Err(LockError::Held { owner: Some(std::process::id()) });
        }
        if !state.nodes.contains_key(path) {
            state.parent_is_dir(path).map_err(LockError::Io)?;
            let data = Arc::new(Data {
                bytes: Mutex::new(Vec::new()),
                named: AtomicBool::new(true),
                state: Arc::downgrade(&self.0),
            });
            state.nodes.insert(path.to_owned(), Node::File(data));
        }
        state.locked.push(path.to_owned());
        Ok(Box::new(MemoryLock { state: Arc::clone(&self.0), path: path.to_owned() }))
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.capacity.saturating_sub(state.used))
    }

    fn now_micros(&self) -> u64 {
        match &mut self.0.lock().clock {
            Some((now, step)) => {
                *now += *step;
                *now
            }
            None => UnixStorage::new().now_micros(),
        }
    }

    fn coarse_now_micros(&self) -> u64 {
        self.now_micros()
    }

    fn random_u64(&self) -> u64 {
        match &mut self.0.lock().seed {
            // SplitMix64.
            Some(seed) => {
                *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = *seed;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                z ^ (z >> 31)
            }
            None => UnixStorage::new().random_u64(),
        }
    }
}

#[derive(Debug)]
struct MemoryLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.state.lock().locked.retain(|locked| *locked != self.path);
    }
}

impl MemoryFile {
    fn resize(&self, change: impl FnOnce(u64) -> u64) -> io::Result<()> {
        self.change(change, |_| ())
    }

    /// Changes the length, and then the bytes, under one lock.
    fn change(&self, len: impl FnOnce(u64) -> u64, write: impl FnOnce(&mut [u8])) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // In the order of the other paths: the file system, then the file.
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

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.resize(|old| old.max(len))
    }

    fn start_writeback(&self, _offset: u64, _len: u64) {}
}
