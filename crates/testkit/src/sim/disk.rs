//! The files and directories of a simulated storage, as a cheaply copied image.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use stratawal_storage::{DirEntry, FileType};

use super::content::Content;
use crate::rng::Rng;

pub(crate) type Ino = u64;

/// The directory `/`.
pub(crate) const ROOT: Ino = 0;

/// The kinds of crashes, by the changes that survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies and the machine keeps running: everything handed to the operating system
    /// survives.
    Kill,
    /// A power loss. Only synced changes survive.
    Lost,
    /// A power loss just after all changes were written back.
    Kept,
    /// A power loss. Each unsynced change of a sector, a length or a name survives with this many
    /// chances in 256, independently of the others.
    Mixed(u8),
    /// A power loss. The changes before some moment survive.
    Prefix,
}

impl Crash {
    /// Returns a random kind of power loss.
    #[must_use]
    pub fn any(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 => Self::Lost,
            1 => Self::Kept,
            2 => Self::Prefix,
            3 => Self::Mixed(24),
            4 => Self::Mixed(232),
            _ => Self::Mixed(128),
        }
    }

    /// Whether unsynced changes may be lost.
    #[must_use]
    pub const fn is_power_loss(self) -> bool {
        !matches!(self, Self::Kill)
    }
}

/// Files and directories, and their durable state. Copies share everything that neither copy has
/// changed.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: BTreeMap<Ino, Arc<Node>>,
    next: Ino,
    /// How many changes were made.
    time: u64,
    /// The clock from which files get their times, in microseconds.
    clock: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    File(Content),
    Dir(Dir),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Dir {
    cached: BTreeMap<OsString, Ino>,
    durable: BTreeMap<OsString, Ino>,
    pending: Vec<(u64, Change)>,
    /// Whether the directory was removed. A storage that still has it open finds nothing in it and
    /// can create nothing in it.
    removed: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Link(OsString, Ino),
    Unlink(OsString, Ino),
    Rename(OsString, OsString, Ino),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<OsString, Ino>) {
        match self {
            Self::Link(name, ino) => {
                names.insert(name.clone(), *ino);
            }
            Self::Unlink(name, ino) => {
                if names.get(name) == Some(ino) {
                    names.remove(name);
                }
            }
            Self::Rename(from, to, ino) => {
                if names.get(from) == Some(ino) {
                    names.remove(from);
                }
                names.insert(to.clone(), *ino);
            }
        }
    }
}

impl Dir {
    fn change(&mut self, time: u64, change: Change) {
        change.apply(&mut self.cached);
        self.pending.push((time, change));
    }

    fn crash(&self, survives: &mut dyn FnMut(u64) -> bool) -> Self {
        let mut names = self.durable.clone();
        for (time, change) in &self.pending {
            if survives(*time) {
                change.apply(&mut names);
            }
        }
        Self { cached: names.clone(), durable: names, pending: Vec::new(), removed: false }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Arc::new(Node::Dir(Dir::default())))]), next: ROOT + 1, time: 0, clock: 0 }
    }

    /// Returns the disk after a crash.
    #[must_use]
    pub fn crash(&self, crash: Crash, rng: &mut Rng) -> Self {
        if crash == Crash::Kill {
            return self.clone();
        }
        let reached = if crash == Crash::Prefix { rng.below(self.time + 1) } else { 0 };
        let mut survives = |time: u64| match crash {
            Crash::Lost => false,
            Crash::Kill | Crash::Kept => true,
            Crash::Mixed(chances) => rng.chance(u64::from(chances)),
            Crash::Prefix => time <= reached,
        };
        let mut after = Self { nodes: BTreeMap::new(), next: self.next, time: self.time, clock: self.clock };
        let mut reachable = vec![ROOT];
        while let Some(ino) = reachable.pop() {
            let Some(node) = self.nodes.get(&ino) else { continue };
            let node = match &**node {
                Node::File(content) => Node::File(content.crash(&mut survives)),
                Node::Dir(dir) => {
                    let dir = dir.crash(&mut survives);
                    reachable.extend(dir.cached.values());
                    Node::Dir(dir)
                }
            };
            after.nodes.insert(ino, Arc::new(node));
        }
        after
    }

    /// The path and the length of every file, as reads see them.
    #[must_use]
    pub fn files(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut dirs = vec![(String::new(), ROOT)];
        while let Some((path, ino)) = dirs.pop() {
            let Ok(dir) = self.dir_of(ino) else { continue };
            for (name, &ino) in &dir.cached {
                let path = format!("{path}/{}", name.to_string_lossy());
                match self.nodes.get(&ino).map(|node| &**node) {
                    Some(Node::File(content)) => found.push((path, content.len())),
                    Some(Node::Dir(_)) => dirs.push((path, ino)),
                    None => {}
                }
            }
        }
        found.sort();
        found
    }

    /// The bytes of a file, as reads see them.
    ///
    /// # Errors
    /// If the file does not exist.
    pub fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let content = self.file(self.find(path)?)?;
        let mut bytes = vec![0; usize::try_from(content.len()).expect("simulated files are small")];
        content.read(&mut bytes, 0);
        Ok(bytes)
    }

    /// Permanently flips a bit of a file.
    ///
    /// # Errors
    /// If the file does not exist.
    pub fn flip(&mut self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let ino = self.find(path)?;
        self.change_file(ino, |content, _| content.flip(offset, bit))
    }

    /// The file or directory at `path`, from `/`.
    fn find(&self, path: &Path) -> io::Result<Ino> {
        self.find_from(ROOT, path)
    }

    /// The file or directory at `path`, from the directory `root`.
    pub(crate) fn find_from(&self, root: Ino, path: &Path) -> io::Result<Ino> {
        let mut ino = root;
        self.dir_of(root)?;
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::RootDir if root == ROOT => {}
                Component::Normal(name) => {
                    ino = *self.dir_of(ino)?.cached.get(name).ok_or_else(not_found)?;
                }
                Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
        }
        Ok(ino)
    }

    /// The directory that holds `path`, and the name there.
    fn place<'p>(&self, root: Ino, path: &'p Path) -> io::Result<(Ino, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.find_from(root, path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        self.dir_of(dir)?;
        Ok((dir, name))
    }

    fn dir_of(&self, ino: Ino) -> io::Result<&Dir> {
        match self.nodes.get(&ino).map(|node| &**node) {
            Some(Node::Dir(dir)) if dir.removed => {
                let text = "the directory was removed since it was opened";
                Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, text))
            }
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn set_removed(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino)
            && let Node::Dir(dir) = Arc::make_mut(node)
        {
            dir.removed = true;
        }
    }

    fn change_dir(&mut self, ino: Ino, change: Change) {
        self.time += 1;
        let time = self.time;
        if let Some(node) = self.nodes.get_mut(&ino)
            && let Node::Dir(dir) = Arc::make_mut(node)
        {
            dir.change(time, change);
        }
    }

    pub(crate) fn file(&self, ino: Ino) -> io::Result<&Content> {
        match self.nodes.get(&ino).map(|node| &**node) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Dir(_)) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file")),
            None => Err(not_found()),
        }
    }

    pub(crate) fn change_file(&mut self, ino: Ino, change: impl FnOnce(&mut Content, u64)) -> io::Result<()> {
        self.time += 1;
        let time = self.time;
        match self.nodes.get_mut(&ino).map(Arc::make_mut) {
            Some(Node::File(content)) => {
                change(content, time);
                Ok(())
            }
            _ => Err(not_found()),
        }
    }

    /// Sets the time that later changes to files get.
    pub(crate) const fn set_clock(&mut self, micros: u64) {
        self.clock = micros;
    }

    /// Changes the bytes or the length of a file, and the time of its last change.
    pub(crate) fn write_file(&mut self, ino: Ino, change: impl FnOnce(&mut Content, u64)) -> io::Result<()> {
        let micros = self.clock;
        self.change_file(ino, |content, time| {
            change(content, time);
            content.touch(micros);
        })
    }

    /// Fails the write-back of all files. Returns whether any had dirty sectors.
    pub(crate) fn fail_write_back(&mut self, rng: &mut Rng) -> bool {
        let mut any = false;
        for node in self.nodes.values_mut() {
            if let Node::File(content) = Arc::make_mut(node) {
                any |= content.fail_write_back(rng);
            }
        }
        any
    }

    pub(crate) fn create(&mut self, root: Ino, path: &Path, node: Node) -> io::Result<Ino> {
        let (dir, name) = self.place(root, path)?;
        if self.dir_of(dir)?.cached.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, Arc::new(node));
        self.change_dir(dir, Change::Link(name.to_owned(), ino));
        Ok(ino)
    }

    pub(crate) fn list(&self, root: Ino, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.dir_of(self.find_from(root, path)?)?;
        let file_type = |ino| match self.nodes.get(ino).map(|node| &**node) {
            Some(Node::Dir(_)) => FileType::Dir,
            _ => FileType::File,
        };
        Ok(dir.cached.iter().map(|(name, ino)| DirEntry { name: name.clone(), file_type: file_type(ino) }).collect())
    }

    pub(crate) fn rename(&mut self, root: Ino, from: &Path, to: &Path) -> io::Result<()> {
        let ((dir, old), (into, new)) = (self.place(root, from)?, self.place(root, to)?);
        let ino = *self.dir_of(dir)?.cached.get(old).ok_or_else(not_found)?;
        if let Some(replaced) = self.dir_of(into)?.cached.get(new).copied().filter(|&replaced| replaced != ino) {
            match (&*self.nodes[&ino], &*self.nodes[&replaced]) {
                (Node::File(_), Node::File(_)) => {}
                (Node::Dir(_), Node::Dir(dir)) if dir.cached.is_empty() => {}
                (Node::Dir(_), Node::Dir(_)) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
                (Node::File(_), Node::Dir(_)) => return Err(io::ErrorKind::IsADirectory.into()),
                (Node::Dir(_), Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            }
            self.set_removed(replaced);
        }
        if dir == into {
            self.change_dir(dir, Change::Rename(old.to_owned(), new.to_owned(), ino));
            return Ok(());
        }
        // After a crash the entry may be in both directories or in neither. No log should rely on
        // anything more.
        self.change_dir(into, Change::Link(new.to_owned(), ino));
        self.change_dir(dir, Change::Unlink(old.to_owned(), ino));
        Ok(())
    }

    pub(crate) fn remove(&mut self, root: Ino, path: &Path, of_dir: bool) -> io::Result<()> {
        let (dir, name) = self.place(root, path)?;
        let ino = *self.dir_of(dir)?.cached.get(name).ok_or_else(not_found)?;
        match (&*self.nodes[&ino], of_dir) {
            (Node::File(_), false) => {}
            (Node::Dir(dir), true) if dir.cached.is_empty() => {}
            (Node::Dir(_), true) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            (Node::File(_), true) => return Err(io::ErrorKind::NotADirectory.into()),
            (Node::Dir(_), false) => return Err(io::ErrorKind::IsADirectory.into()),
        }
        self.change_dir(dir, Change::Unlink(name.to_owned(), ino));
        self.set_removed(ino);
        Ok(())
    }

    pub(crate) fn sync_dir(&mut self, root: Ino, path: &Path) -> io::Result<()> {
        let ino = self.find_from(root, path)?;
        self.dir_of(ino)?;
        if let Some(node) = self.nodes.get_mut(&ino)
            && let Node::Dir(dir) = Arc::make_mut(node)
        {
            dir.durable = dir.cached.clone();
            dir.pending.clear();
        }
        Ok(())
    }

    /// Makes all names of every directory durable.
    pub(crate) fn sync_names(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::Dir(dir) = Arc::make_mut(node) {
                dir.durable = dir.cached.clone();
                dir.pending.clear();
            }
        }
    }

    /// The total length in bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        let mut named = BTreeSet::new();
        for node in self.nodes.values() {
            if let Node::Dir(dir) = &**node {
                named.extend(dir.cached.values().copied());
            }
        }
        named.iter().filter_map(|ino| self.file(*ino).ok()).map(Content::len).sum()
    }
}
