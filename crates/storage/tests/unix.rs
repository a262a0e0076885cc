//! Properties that only a real file system has: links, FIFOs, sockets, names that are not text,
//! blocks.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{all, kind, names, put};
use stratawal_storage::{Access, DirEntry, FileType, Storage, UnixStorage, is_full};

static STORAGE: std::sync::LazyLock<UnixStorage> = std::sync::LazyLock::new(UnixStorage::new);

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_link_is_never_opened_created_or_listed_through() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    put(&*STORAGE, &at("file"), b"kept");
    fs::create_dir(at("folder")).unwrap();
    for (link, target) in [("to-file", "file"), ("to-folder", "folder"), ("to-nothing", "nothing")] {
        symlink(target, at(link)).unwrap();
        for access in [Access::Read, Access::ReadWrite] {
            assert_eq!(kind(STORAGE.open(&at(link), access)), ErrorKind::InvalidInput, "{link} {access:?}");
        }
        assert_eq!(kind(STORAGE.create_new(&at(link))), ErrorKind::AlreadyExists, "{link}");
        assert_eq!(kind(STORAGE.create_dir(&at(link))), ErrorKind::AlreadyExists, "{link}");
        assert_eq!(kind(STORAGE.list(&at(link))), ErrorKind::NotADirectory, "{link}");
    }
    assert_eq!(names(&*STORAGE, dir.path()), ["file", "folder", "to-file", "to-folder", "to-nothing"]);
    // Only the last component of a path must not be a link. The path of a log may contain links
    // before it.
    put(&*STORAGE, &at("to-folder/a"), b"");
    STORAGE.open(&at("to-folder/a"), Access::Read).unwrap();
    STORAGE.remove_file(&at("to-file")).unwrap();
    assert_eq!(common::get(&*STORAGE, &at("file")), b"kept", "the link is removed, not its target");
}

#[test]
fn only_a_plain_file_is_opened_and_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    make_fifo(&at("fifo"));
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for path in [at("fifo"), at("socket"), Path::new("/dev/null").to_owned(), dir.path().to_owned()] {
        for access in [Access::Read, Access::ReadWrite] {
            assert_eq!(kind(STORAGE.open(&path, access)), ErrorKind::InvalidInput, "{path:?} {access:?}");
        }
    }
    // A FIFO with a reader could be opened without blocking, but is also refused.
    let reader = std::thread::spawn({
        let path = at("fifo");
        move || fs::File::open(path).unwrap()
    });
    assert_eq!(kind(STORAGE.open(&at("fifo"), Access::ReadWrite)), ErrorKind::InvalidInput);
    // Unblocks the reader, if the call above has not.
    drop(fs::OpenOptions::new().read(true).write(true).open(at("fifo")).unwrap());
    drop(fs::OpenOptions::new().write(true).open(at("fifo")));
    reader.join().unwrap();
}

#[test]
fn links_fifos_and_sockets_are_listed_as_others() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    put(&*STORAGE, &at("a"), b"");
    make_fifo(&at("b"));
    fs::create_dir(at("c")).unwrap();
    symlink("a", at("d")).unwrap();
    symlink("c", at("e")).unwrap();
    symlink("nothing", at("f")).unwrap();
    let _socket = UnixListener::bind(at("g")).unwrap();
    let kinds: Vec<FileType> = STORAGE.list(dir.path()).unwrap().into_iter().map(|entry| entry.file_type).collect();
    let other = FileType::Other;
    assert_eq!(kinds, [FileType::File, other, FileType::Dir, other, other, other, other]);
}

/// Linux accepts all bytes except '/' and 0. Other systems may refuse some.
#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_text_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let sorted: [&[u8]; 4] = [b"a", "\u{10000}".as_bytes(), b"\xFE", b"\xFF\n"];
    for name in sorted.iter().rev() {
        put(&*STORAGE, &dir.path().join(OsStr::from_bytes(name)), b"");
    }
    let entry = |name: &&[u8]| DirEntry { name: OsStr::from_bytes(name).to_owned(), file_type: FileType::File };
    assert_eq!(STORAGE.list(dir.path()).unwrap(), sorted.iter().map(entry).collect::<Vec<_>>());
}

#[test]
fn a_dir_is_listed_while_its_files_change() {
    let dir = tempfile::tempdir().unwrap();
    put(&*STORAGE, &dir.path().join("stays"), b"");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                put(&*STORAGE, &dir.path().join("goes"), b"");
                STORAGE.remove_file(&dir.path().join("goes")).unwrap();
            }
        });
        for _ in 0..1000 {
            assert!(names(&*STORAGE, dir.path()).contains(&"stays".to_owned()));
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn free_space_of_a_missing_dir_is_an_error() {
    // The in-memory storage has one capacity, and ignores the directory.
    assert_eq!(kind(STORAGE.free_space(Path::new("missing/folder"))), ErrorKind::NotFound);
}

/// The number of bytes that the file system has allocated to a file.
fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Whether the file system of `dir` can allocate space in advance, tested without the storage. If
/// not, `preallocate` only sets the length.
fn allocates_in_advance(dir: &Path) -> bool {
    let path = dir.join("probe");
    let probe = fs::File::create(&path).unwrap();
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fallocate(&probe, rustix::fs::FallocateFlags::empty(), 0, 1 << 20);
    drop(probe);
    let allocates = allocated(&path) >= 1 << 20;
    if !allocates {
        println!("skipped: the file system of {} does not book space", dir.display());
    }
    allocates
}

#[test]
fn preallocated_space_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    if !allocates_in_advance(dir.path()) {
        return;
    }
    let path = dir.path().join("a");
    let file = STORAGE.create_new(&path).unwrap();
    for len in [1, 4104, 1 << 20, (5 << 20) + 8] {
        file.preallocate(len).unwrap();
        assert!(allocated(&path) >= len, "{} of {len}", allocated(&path));
    }
    file.set_len(100).unwrap();
    assert!(allocated(&path) < 1 << 20, "space that is cut off is freed");
    file.set_len(9 << 20).unwrap();
    assert!(allocated(&path) < 1 << 20, "setting a length allocates nothing");
}

#[test]
fn holes_are_reported_if_the_file_system_knows_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(&*STORAGE, &dir.path().join("a"), b"hello");
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"far away", (1 << 39) + 5).unwrap();
    file.sync_all().unwrap();
    let next = file.next_data(1 << 20).unwrap();
    if next == 1 << 20 {
        println!("skipped: the file system does not report holes");
        return;
    }
    // Holes are known in blocks, not in bytes.
    assert!(next <= (1 << 39) + 5 && next > (1 << 39) - (1 << 20), "{next}");
    assert_eq!(file.next_data(1 << 39 | 1 << 30).unwrap(), 1 << 40, "the length, if only a hole follows");
    let mut back = [0; 8];
    file.read_exact_at(&mut back, (1 << 39) + 5).unwrap();
    assert_eq!(&back, b"far away", "reads are not moved by the search");
}

/// A tmpfs immediately refuses a length that it could never hold, so the test need not fill a disk.
#[test]
fn a_full_disk_leaves_the_length_of_a_file() {
    const DIR: &str = "/dev/shm";
    let Ok(dir) = tempfile::tempdir_in(DIR) else {
        println!("skipped: no {DIR}");
        return;
    };
    let kind = Command::new("stat").args(["-f", "-c", "%T", DIR]).output();
    if !kind.is_ok_and(|kind| kind.stdout == b"tmpfs\n") {
        println!("skipped: {DIR} is not known to be a tmpfs");
        return;
    }
    let file = put(&*STORAGE, &dir.path().join("a"), b"hello");
    let error = file.preallocate(1 << 60).unwrap_err();
    assert!(is_full(&error), "{error}");
    assert_eq!(all(&*file), b"hello");
    assert!(allocated(&dir.path().join("a")) <= 4096);
    file.preallocate(4104).unwrap();
    assert_eq!(file.len().unwrap(), 4104, "a length that fits is still possible");
}

#[test]
fn a_stamp_changes_with_each_change_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let file = put(&*STORAGE, &path, &[1; 5000]);
    let other = STORAGE.open(&path, Access::Read).unwrap();
    let stamp = || other.change_stamp().unwrap().expect("a file system knows");
    let mut last = stamp();
    let mut differs = |changed: bool| {
        let now = stamp();
        assert_eq!(now != last, changed, "{last:?} {now:?}");
        last = now;
        // The next change comes after the file system's clock has ticked.
        std::thread::sleep(std::time::Duration::from_micros(now.settles_micros()));
    };
    differs(false);
    file.write_all_at(b"the same length", 100).unwrap();
    differs(true);
    file.preallocate(9000).unwrap();
    differs(true);
    file.set_len(8000).unwrap();
    differs(true);
    file.sync_all().unwrap();
    file.read_exact_at(&mut [0; 10], 0).unwrap();
    differs(false);
    let moved = dir.path().join("moved");
    STORAGE.rename(&path, &moved).unwrap();
    put(&*STORAGE, &path, &[1; 8000]);
    let replaced = STORAGE.open(&path, Access::Read).unwrap().change_stamp().unwrap().unwrap();
    assert_ne!(replaced.file, stamp().file);
}
