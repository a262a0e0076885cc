//! `Storage::move_file`: within a device and to another one, with a failure at each of its
//! operations.

#[macro_use]
mod common;

use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{get, kind, names, put};
use stratawal_storage::{Access, DirEntry, File, Lock, LockError, MemoryStorage, Storage, UnixStorage};

on_both_storages! {
    a_file_moves_within_its_folder_and_to_another,
    a_move_replaces_a_file,
    a_move_of_nothing_changes_nothing,
    a_file_moves_to_another_device,
    a_move_to_another_device_that_fails_leaves_the_file_in_one_place_at_least,
}

/// A storage on which each folder is a device of its own, which logs what changes something or
/// makes it durable, and can fail one of these operations.
#[derive(Clone, Debug)]
struct Devices<'a> {
    inner: &'a dyn Storage,
    log: Arc<Mutex<Vec<String>>>,
    /// The operation that fails, counted from 0.
    fails: Option<usize>,
}

#[derive(Debug)]
struct Logged {
    inner: Arc<dyn File>,
    name: String,
    log: Arc<Mutex<Vec<String>>>,
    fails: Option<usize>,
}

fn take_note(log: &Mutex<Vec<String>>, fails: Option<usize>, what: String) -> io::Result<()> {
    let mut log = log.lock().unwrap();
    log.push(what);
    if Some(log.len() - 1) == fails { Err(io::Error::other("this operation fails")) } else { Ok(()) }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl<'a> Devices<'a> {
    fn new(inner: &'a dyn Storage, fails: Option<usize>) -> Self {
        Self { inner, log: Arc::default(), fails }
    }

    fn note(&self, operation: &str, path: &Path) -> io::Result<()> {
        take_note(&self.log, self.fails, format!("{operation} {}", name_of(path)))
    }

    fn wrap(&self, inner: Arc<dyn File>, path: &Path) -> Arc<dyn File> {
        Arc::new(Logged { inner, name: name_of(path), log: Arc::clone(&self.log), fails: self.fails })
    }
}

impl Storage for Devices<'_> {
    fn at(&self, _dir: &Path) -> io::Result<Arc<dyn Storage>> {
        Err(ErrorKind::Unsupported.into())
    }
    fn elapsed_micros(&self) -> u64 {
        self.inner.elapsed_micros()
    }
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.note("create", path)?;
        Ok(self.wrap(self.inner.create_new(path)?, path))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.inner.open(path, access)?, path))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if from.parent() != to.parent() {
            return Err(ErrorKind::CrossesDevices.into());
        }
        self.note("rename", to)?;
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.note("remove", path)?;
        self.inner.remove_file(path)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.note("sync folder", dir)?;
        self.inner.sync_dir(dir)
    }
    fn lock(&self, root: &Path, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.inner.lock(root, path)
    }
    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_space(dir)
    }
    fn now_micros(&self) -> u64 {
        self.inner.now_micros()
    }
    fn coarse_now_micros(&self) -> u64 {
        self.inner.coarse_now_micros()
    }
    fn random_u64(&self) -> u64 {
        self.inner.random_u64()
    }
}

impl File for Logged {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        take_note(&self.log, self.fails, format!("write {}", self.name))?;
        self.inner.write_all_at(buf, offset)
    }
    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        take_note(&self.log, self.fails, format!("write {}", self.name))?;
        self.inner.write_all_vectored_at(bufs, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        take_note(&self.log, self.fails, format!("sync {}", self.name))?;
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        take_note(&self.log, self.fails, format!("sync {}", self.name))?;
        self.inner.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.inner.reserve(len)
    }
    fn start_writeback(&self, offset: u64, len: u64) {
        self.inner.start_writeback(offset, len);
    }
}

fn folders(storage: &dyn Storage, root: &Path) {
    storage.create_dir(&root.join("here")).unwrap();
    storage.create_dir(&root.join("there")).unwrap();
}

/// More than one piece of the copy, and no two of its pieces the same.
fn bytes() -> Vec<u8> {
    (0..=250).collect::<Vec<u8>>().repeat(10_000)
}

fn a_file_moves_within_its_folder_and_to_another(storage: &dyn Storage, root: &Path) {
    folders(storage, root);
    put(storage, &root.join("here/a"), b"hello");
    storage.move_file(&root.join("here/a"), &root.join("here/b")).unwrap();
    storage.move_file(&root.join("here/b"), &root.join("there/c")).unwrap();
    assert_eq!(get(storage, &root.join("there/c")), b"hello");
    assert_eq!((names(storage, &root.join("here")).len(), names(storage, &root.join("there")).len()), (0, 1));
}

fn a_move_replaces_a_file(storage: &dyn Storage, root: &Path) {
    folders(storage, root);
    for devices in [storage, &Devices::new(storage, None)] {
        put(storage, &root.join("here/a"), b"new");
        let old = storage.open(&root.join("there/a"), Access::Read);
        let old = old.unwrap_or_else(|_| put(storage, &root.join("there/a"), b"old bytes"));
        devices.move_file(&root.join("here/a"), &root.join("there/a")).unwrap();
        assert_eq!(get(storage, &root.join("there/a")), b"new");
        assert!(common::all(&*old).len() >= 3, "whoever had it open reads on");
        assert_eq!(names(storage, &root.join("there")), ["a"]);
    }
}

fn a_move_of_nothing_changes_nothing(storage: &dyn Storage, root: &Path) {
    folders(storage, root);
    for devices in [storage, &Devices::new(storage, None)] {
        let moved = devices.move_file(&root.join("here/a"), &root.join("there/a"));
        assert_eq!(kind(moved), ErrorKind::NotFound);
        assert_eq!(names(storage, &root.join("there")).len(), 0, "no part of a file either");
    }
}

fn a_file_moves_to_another_device(storage: &dyn Storage, root: &Path) {
    folders(storage, root);
    put(storage, &root.join("here/a"), &bytes());
    let devices = Devices::new(storage, None);
    devices.move_file(&root.join("here/a"), &root.join("there/b")).unwrap();
    assert!(get(storage, &root.join("there/b")) == bytes());
    assert_eq!((names(storage, &root.join("here")).len(), names(storage, &root.join("there")).len()), (0, 1));
    // Each step stands on the one before: bytes, the name, and only then the source goes.
    let mut log = devices.log.lock().unwrap().clone();
    log.dedup();
    let expected = ["create b.part", "write b.part", "sync b.part", "rename b", "sync folder there", "remove a"];
    assert_eq!(log[..6], expected);
    assert_eq!(log[6..], ["sync folder here"]);
}

/// Also what a crash leaves: until the operation that fails everything is done, and nothing behind
/// it.
fn a_move_to_another_device_that_fails_leaves_the_file_in_one_place_at_least(storage: &dyn Storage, root: &Path) {
    let operations = 9;
    for fails in 0..operations {
        let root = root.join(fails.to_string());
        storage.create_dir(&root).unwrap();
        folders(storage, &root);
        put(storage, &root.join("here/a"), &bytes());
        let devices = Devices::new(storage, Some(fails));
        devices.move_file(&root.join("here/a"), &root.join("there/b")).unwrap_err();
        let log = devices.log.lock().unwrap().clone();
        assert_eq!(log.len(), fails + 1, "it stops there: {log:?}");
        let source = storage.open(&root.join("here/a"), Access::Read).is_ok();
        let target = storage.open(&root.join("there/b"), Access::Read).is_ok();
        // The target's name is durable once its folder is synced, which is the seventh operation.
        assert!(source || fails == operations - 1, "the source is gone after {log:?}");
        for path in [(source, "here/a"), (target, "there/b")].iter().filter(|(there, _)| *there) {
            assert!(get(storage, &root.join(path.1)) == bytes(), "{} is not whole after {log:?}", path.1);
        }
    }
    let devices = Devices::new(storage, Some(operations));
    put(storage, &root.join("0/here/b"), &bytes());
    devices.move_file(&root.join("0/here/b"), &root.join("0/there/c")).unwrap();
    assert_eq!(devices.log.lock().unwrap().len(), operations, "the loop above is all of them");
}

#[test]
fn an_interrupted_move_to_another_device_can_be_done_again() {
    let storage = MemoryStorage::new();
    let root = Path::new("/");
    folders(&storage, root);
    put(&storage, &root.join("here/a"), &bytes());
    let (from, to) = (root.join("here/a"), root.join("there/b"));
    Devices::new(&storage, Some(2)).move_file(&from, &to).unwrap_err();
    Devices::new(&storage, None).move_file(&from, &to).unwrap();
    assert_eq!(names(&storage, &root.join("there")), ["b"]);
}

#[test]
fn a_file_moves_between_bare_names() {
    const DIR: &str = "STRATAWAL_TEST_MOVE_IN";
    // The current folder belongs to the whole process, so this needs one of its own.
    if std::env::var_os(DIR).is_some() {
        put(&UnixStorage::new(), Path::new("a"), b"hello");
        UnixStorage::new().move_file(Path::new("a"), Path::new("b")).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["a_file_moves_between_bare_names", "--exact", "--include-ignored", "--nocapture"]);
    let status = child.current_dir(&dir).env(DIR, "1").status().unwrap();
    assert_eq!(names(&UnixStorage::new(), dir.path()), ["b"]);
    assert!(status.success());
}

/// The real thing, where the machine has two file systems that a test may write to.
#[test]
fn a_file_moves_between_two_file_systems() {
    let storage = UnixStorage::new();
    let here = tempfile::tempdir().unwrap();
    let Ok(there) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no /dev/shm to move to");
        return;
    };
    put(&storage, &here.path().join("a"), &bytes());
    let (from, to) = (here.path().join("a"), there.path().join("b"));
    if storage.rename(&from, &there.path().join("probe")).is_ok() {
        println!("skipped: the folder for temporary files and /dev/shm are one file system");
        return;
    }
    assert_eq!(kind(storage.rename(&from, &to)), ErrorKind::CrossesDevices);
    storage.move_file(&from, &to).unwrap();
    assert!(get(&storage, &to) == bytes());
    assert_eq!((names(&storage, here.path()).len(), names(&storage, there.path()).len()), (0, 1));
}
