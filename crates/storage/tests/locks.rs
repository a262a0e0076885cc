//! Tests the contract of `Storage::lock`: within this process on both storages, and against another
//! process on Unix.

#[macro_use]
mod common;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use common::put;
use stratawal_storage::{Access, LockError, Storage, UnixStorage};

on_both_storages! {
    a_lock_excludes_others_until_it_is_dropped,
    the_lock_file_is_created_or_reused,
    locks_of_different_dirs_are_independent,
    one_thread_at_a_time_has_the_lock,
    a_lock_in_a_missing_dir_is_an_error,
}

/// Between its fork and its exec, a child holds every lock of this process, through its copies of
/// the descriptors. So tests that start processes, and tests that drop a lock and take it again,
/// run one at a time.
static TURNS: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Returns the process named in the refusal as the holder of the lock, or `None` if the lock was
/// free.
fn holder(storage: &dyn Storage, root: &Path) -> Option<Option<u32>> {
    match storage.lock(root, &root.join("LOCK")) {
        Ok(_) => None,
        Err(LockError::Held { owner }) => Some(owner.map(|owner| owner.id)),
        Err(LockError::Io(e)) => panic!("{e}"),
    }
}

/// Returns this process, which holds the lock, where the system lists the holders of locks; and the
/// process that the lock file names elsewhere.
fn listed_or(named: Option<u32>) -> Option<u32> {
    if cfg!(target_os = "linux") { Some(std::process::id()) } else { named }
}

fn a_lock_excludes_others_until_it_is_dropped(storage: &dyn Storage, root: &Path) {
    let _turn = turn();
    for _ in 0..3 {
        let lock = storage.lock(root, &root.join("LOCK")).unwrap();
        for _ in 0..3 {
            assert_eq!(holder(storage, root), Some(Some(std::process::id())), "a refusal does not release the lock");
        }
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| holder(storage, root)).join().unwrap());
        assert_eq!(elsewhere, Some(Some(std::process::id())));
        drop(lock);
        assert_eq!(holder(storage, root), None);
    }
}

fn the_lock_file_is_created_or_reused(storage: &dyn Storage, root: &Path) {
    let _turn = turn();
    drop(storage.lock(root, &root.join("LOCK")).unwrap());
    storage.open(&root.join("LOCK"), Access::Read).unwrap();
    storage.remove_file(&root.join("LOCK")).unwrap();
    put(storage, &root.join("LOCK"), b"what an older program left, longer than a number");
    drop(storage.lock(root, &root.join("LOCK")).unwrap());
}

fn locks_of_different_dirs_are_independent(storage: &dyn Storage, root: &Path) {
    let _turn = turn();
    let dirs = ["a", "b"].map(|name| root.join(name));
    let lock = |dir: &PathBuf| storage.lock(dir, &dir.join("LOCK")).unwrap();
    dirs.iter().for_each(|dir| storage.create_dir(dir).unwrap());
    let [a, _b] = [lock(&dirs[0]), lock(&dirs[1])];
    drop(a);
    assert_eq!(holder(storage, &dirs[0]), None);
    assert!(holder(storage, &dirs[1]).is_some());
}

fn one_thread_at_a_time_has_the_lock(storage: &dyn Storage, root: &Path) {
    let _turn = turn();
    let holders = AtomicU32::new(0);
    let taken = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    if let Ok(lock) = storage.lock(root, &root.join("LOCK")) {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                }
            });
        }
    });
    assert!(taken.load(Ordering::SeqCst) > 0);
}

fn a_lock_in_a_missing_dir_is_an_error(storage: &dyn Storage, root: &Path) {
    let missing = root.join("missing");
    match storage.lock(&missing, &missing.join("LOCK")) {
        Err(LockError::Io(e)) => assert_eq!(e.kind(), ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_lock_file_names_the_process_of_the_holder() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("LOCK");
    fs::write(&path, "a longer text of another program").unwrap();
    let _lock = UnixStorage::new().lock(dir.path(), &path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    let other = std::os::unix::process::parent_id();
    // The greatest process id on Linux is 4,194,304.
    for (text, owner) in [("", None), (&*other.to_string(), Some(other)), ("4194305", None), ("-1", None)] {
        fs::write(&path, text).unwrap();
        assert_eq!(holder(&UnixStorage::new(), dir.path()), Some(listed_or(owner)), "{text:?}");
    }
}

#[test]
fn only_a_plain_lock_file_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("LOCK");
    fs::write(dir.path().join("victim"), "kept").unwrap();
    std::os::unix::fs::symlink("victim", &path).unwrap();
    assert!(matches!(UnixStorage::new().lock(dir.path(), &path), Err(LockError::Io(_))));
    assert_eq!(fs::read_to_string(dir.path().join("victim")).unwrap(), "kept");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let locked = UnixStorage::new().lock(dir.path(), &path);
    assert!(matches!(locked, Err(LockError::Io(e)) if e.kind() == ErrorKind::InvalidInput));
}

#[test]
fn removing_the_lock_file_does_not_release_the_lock() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let storage = UnixStorage::new();
    let path = dir.path().join("LOCK");
    let lock = storage.lock(dir.path(), &path).unwrap();
    fs::remove_file(&path).unwrap();
    // The directory is also locked, and the new file names no process.
    assert_eq!(holder(&storage, dir.path()), Some(listed_or(None)));
    let other = std::os::unix::process::parent_id();
    fs::write(dir.path().join("new"), format!("{other}\n")).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(holder(&storage, dir.path()), Some(listed_or(Some(other))), "the file names the other process now");
    drop(lock);
    assert_eq!(holder(&storage, dir.path()), None);
}

/// A thread replaces the lock file again and again, so that it can change between any two steps of
/// locking.
#[test]
fn replacing_the_lock_file_does_not_double_the_lock() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let storage = UnixStorage::new();
    let path = dir.path().join("LOCK");
    let new = dir.path().join("new");
    let holders = AtomicU32::new(0);
    let taken = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::write(&new, "").unwrap();
                fs::rename(&new, &path).unwrap();
            }
        });
        let lockers = [(); 3].map(|()| {
            scope.spawn(|| {
                for _ in 0..500 {
                    match storage.lock(dir.path(), &path) {
                        Ok(lock) => {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            taken.fetch_add(1, Ordering::SeqCst);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            drop(lock);
                        }
                        Err(LockError::Held { .. }) => {}
                        Err(LockError::Io(e)) => panic!("{e}"),
                    }
                }
            })
        });
        let finished = lockers.map(std::thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        assert!(finished.iter().all(Result::is_ok));
    });
    assert!(taken.load(Ordering::SeqCst) > 0);
}

const DIR: &str = "STRATAWAL_TEST_LOCK_DIR";

/// The body of the other process, not a test. It locks the directory named in the environment,
/// prints the result, and holds the lock until its input ends.
#[test]
fn other_process() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    match UnixStorage::new().lock(&dir, &dir.join("LOCK")) {
        Ok(_lock) => {
            println!("\nlocked");
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        Err(LockError::Held { owner }) => println!("\nheld by {}", owner.map_or(0, |owner| owner.id)),
        Err(LockError::Io(e)) => println!("\nfailed: {e}"),
    }
}

/// The other process and the result that it printed.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    result: String,
}

fn start_other(dir: &Path) -> Other {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["other_process", "--exact", "--nocapture"]).env(DIR, dir);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let result = lines.by_ref().map(Result::unwrap).find(|line| {
        // All other lines come from the test runner.
        ["locked", "held by", "failed: "].iter().any(|begin| line.starts_with(begin))
    });
    Other { child, lines, result: result.expect("it prints a result") }
}

impl Other {
    fn release(mut self) {
        drop(self.child.stdin.take());
        self.lines.for_each(drop);
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn a_lock_excludes_another_process() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let lock = UnixStorage::new().lock(dir.path(), &dir.path().join("LOCK")).unwrap();
    let other = start_other(dir.path());
    assert_eq!(other.result, format!("held by {}", std::process::id()));
    other.release();
    drop(lock);
    let other = start_other(dir.path());
    assert_eq!(other.result, "locked");
    other.release();
}

#[test]
fn another_process_excludes_this_one_until_it_dies() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let mut other = start_other(dir.path());
    assert_eq!(other.result, "locked");
    assert_eq!(holder(&UnixStorage::new(), dir.path()), Some(Some(other.child.id())));
    fs::remove_file(dir.path().join("LOCK")).unwrap();
    assert!(holder(&UnixStorage::new(), dir.path()).is_some(), "the directory is also locked");
    other.child.kill().unwrap();
    other.child.wait().unwrap();
    assert_eq!(holder(&UnixStorage::new(), dir.path()), None);
}

#[test]
fn the_owner_of_a_lock_is_found_without_a_lock() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let storage = UnixStorage::new();
    let path = dir.path().join("LOCK");
    let owner = || storage.lock_owner(dir.path(), &path).unwrap().map(|owner| owner.id);
    assert_eq!(owner(), None);
    assert!(!path.exists(), "nothing is created");
    let other = start_other(dir.path());
    assert_eq!(owner(), Some(other.child.id()));
    other.release();
    assert_eq!(owner(), None, "the lock file still names it");
    let lock = storage.lock(dir.path(), &path).unwrap();
    assert_eq!(owner(), Some(std::process::id()));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(owner(), Some(std::process::id()), "the directory is still locked");
    drop(lock);
    assert_eq!(owner(), None);
}

/// Runs `body` while another thread starts one process after another.
fn while_processes_start(body: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(Command::new("true").status());
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn a_dropped_lock_is_free_while_other_threads_start_processes() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let storage = UnixStorage::new();
    let file = dir.path().join("LOCK");
    while_processes_start(|| {
        let refused = (0..500).filter(|_| storage.lock(dir.path(), &file).is_err()).count();
        assert_eq!(refused, 0, "of 500, without another holder");
    });
}

/// A refusal locks the new lock file before it finds the directory locked. The children of another
/// thread must not keep that lock.
#[test]
fn a_refusal_leaves_no_lock_while_other_threads_start_processes() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let storage = UnixStorage::new();
    let path = dir.path().join("LOCK");
    while_processes_start(|| {
        for i in 0..500 {
            let lock = storage.lock(dir.path(), &path).unwrap();
            fs::remove_file(&path).unwrap();
            assert_eq!(holder(&storage, dir.path()), Some(listed_or(None)));
            drop(lock);
            assert_eq!(holder(&storage, dir.path()), None, "round {i}");
        }
    });
}
