//! The contract of `Storage::lock`: within this process on both storages, against another one on
//! Unix.

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
    a_lock_keeps_others_of_this_process_out_until_it_is_dropped,
    the_lock_file_is_created_and_may_be_there,
    locks_of_different_folders_have_nothing_to_do_with_each_other,
    one_at_a_time_of_many_threads_has_the_lock,
    a_lock_without_its_folder_is_an_error_of_the_system,
}

/// Between the fork and the exec of a child its copies of all descriptors hold every lock of this
/// process. So tests that start processes, and tests that count on a dropped lock, take turns.
static TURNS: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Who holds the lock; `None` where it was free.
fn holder(storage: &dyn Storage, root: &Path) -> Option<Option<u32>> {
    match storage.lock(root, &root.join("LOCK")) {
        Ok(_) => None,
        Err(LockError::Held { owner }) => Some(owner),
        Err(LockError::Io(e)) => panic!("{e}"),
    }
}

fn a_lock_keeps_others_of_this_process_out_until_it_is_dropped(storage: &dyn Storage, root: &Path) {
    let _turn = turn();
    for _ in 0..3 {
        let lock = storage.lock(root, &root.join("LOCK")).unwrap();
        for _ in 0..3 {
            assert_eq!(holder(storage, root), Some(Some(std::process::id())), "a refusal does not free it");
        }
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| holder(storage, root)).join().unwrap());
        assert_eq!(elsewhere, Some(Some(std::process::id())));
        drop(lock);
        assert_eq!(holder(storage, root), None);
    }
}

fn the_lock_file_is_created_and_may_be_there(storage: &dyn Storage, root: &Path) {
    let _turn = turn();
    drop(storage.lock(root, &root.join("LOCK")).unwrap());
    storage.open(&root.join("LOCK"), Access::Read).unwrap();
    storage.remove_file(&root.join("LOCK")).unwrap();
    put(storage, &root.join("LOCK"), b"what an older program left, longer than a number");
    drop(storage.lock(root, &root.join("LOCK")).unwrap());
}

fn locks_of_different_folders_have_nothing_to_do_with_each_other(storage: &dyn Storage, root: &Path) {
    let _turn = turn();
    let folders = ["a", "b"].map(|name| root.join(name));
    let lock = |dir: &PathBuf| storage.lock(dir, &dir.join("LOCK")).unwrap();
    folders.iter().for_each(|dir| storage.create_dir(dir).unwrap());
    let [a, _b] = [lock(&folders[0]), lock(&folders[1])];
    drop(a);
    assert_eq!(holder(storage, &folders[0]), None);
    assert!(holder(storage, &folders[1]).is_some());
}

fn one_at_a_time_of_many_threads_has_the_lock(storage: &dyn Storage, root: &Path) {
    let _turn = turn();
    let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
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

fn a_lock_without_its_folder_is_an_error_of_the_system(storage: &dyn Storage, root: &Path) {
    let missing = root.join("missing");
    match storage.lock(&missing, &missing.join("LOCK")) {
        Err(LockError::Io(e)) => assert_eq!(e.kind(), ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_process_id_of_the_holder_is_left_in_the_file() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("LOCK");
    fs::write(&path, "a longer text of somebody else").unwrap();
    let _lock = UnixStorage::new().lock(dir.path(), &path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    let other = std::os::unix::process::parent_id();
    // The greatest process id of Linux is 4,194,304.
    let (named, gone) = (format!("{other}\n"), "4194305\n".to_owned());
    for (text, owner) in [
        ("", None),
        ("no number", None),
        (&*named, Some(other)),
        (&*gone, None),
        ("99999999999", None),
        ("0", None),
        ("-1", None),
    ] {
        fs::write(&path, text).unwrap();
        assert_eq!(holder(&UnixStorage::new(), dir.path()), Some(owner), "{text:?}");
    }
    // A file of no end, and of no text: a few bytes are read of it.
    fs::write(&path, vec![0xFF; 1 << 20]).unwrap();
    assert_eq!(holder(&UnixStorage::new(), dir.path()), Some(None));
}

#[test]
fn a_lock_file_that_is_no_plain_file_is_not_locked() {
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
fn a_lock_file_that_is_removed_or_replaced_lets_nobody_in() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let (storage, path) = (UnixStorage::new(), dir.path().join("LOCK"));
    let lock = storage.lock(dir.path(), &path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(holder(&storage, dir.path()), Some(None), "the folder is locked too; the new file names nobody");
    let other = std::os::unix::process::parent_id();
    fs::write(dir.path().join("new"), format!("{other}\n")).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(holder(&storage, dir.path()), Some(Some(other)), "the file names it now");
    drop(lock);
    assert_eq!(holder(&storage, dir.path()), None);
}

/// Somebody replaces the file all the time, between any two steps of whoever locks.
#[test]
fn one_at_a_time_has_the_lock_while_its_file_is_replaced() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let (storage, path, new) = (UnixStorage::new(), dir.path().join("LOCK"), dir.path().join("new"));
    let (holders, taken, done) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
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

/// Not a test but the other process: locks the folder that the environment names, says so, and
/// holds it until its input ends.
#[test]
fn other_process() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    match UnixStorage::new().lock(&dir, &dir.join("LOCK")) {
        Ok(_lock) => {
            println!("\nlocked");
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        Err(LockError::Held { owner }) => println!("\nheld by {}", owner.unwrap_or_default()),
        Err(LockError::Io(e)) => println!("\nfailed: {e}"),
    }
}

/// The other process, and what it said of the lock.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: String,
}

fn start_other(dir: &Path) -> Other {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["other_process", "--exact", "--nocapture"]).env(DIR, dir);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.by_ref().map(Result::unwrap).find(|line| {
        // All else is what the test runner says.
        ["locked", "held by", "failed: "].iter().any(|begin| line.starts_with(begin))
    });
    Other { child, lines, said: said.expect("it says something") }
}

impl Other {
    fn let_go(mut self) {
        drop(self.child.stdin.take());
        self.lines.for_each(drop);
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn another_process_is_kept_out() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let lock = UnixStorage::new().lock(dir.path(), &dir.path().join("LOCK")).unwrap();
    let other = start_other(dir.path());
    assert_eq!(other.said, format!("held by {}", std::process::id()));
    other.let_go();
    drop(lock);
    let other = start_other(dir.path());
    assert_eq!(other.said, "locked");
    other.let_go();
}

#[test]
fn another_process_keeps_this_one_out_until_it_dies() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let mut other = start_other(dir.path());
    assert_eq!(other.said, "locked");
    assert_eq!(holder(&UnixStorage::new(), dir.path()), Some(Some(other.child.id())));
    fs::remove_file(dir.path().join("LOCK")).unwrap();
    assert!(holder(&UnixStorage::new(), dir.path()).is_some(), "the folder is locked too");
    other.child.kill().unwrap();
    other.child.wait().unwrap();
    assert_eq!(holder(&UnixStorage::new(), dir.path()), None);
}

#[test]
fn a_dropped_lock_is_free_while_other_threads_start_processes() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, file) = (UnixStorage::new(), dir.path().join("LOCK"));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                drop(std::process::Command::new("true").status());
            }
        });
        let refused = (0..500).filter(|_| storage.lock(dir.path(), &file).is_err()).count();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(refused, 0, "of 500, with nobody else");
    });
}
