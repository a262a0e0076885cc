//! Properties that only the in-memory storage has: a settable capacity, a repeatable clock and
//! random numbers, and snapshots.

mod common;

use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;
use std::sync::Arc;

use common::{all, get, kind, names, put, tree};
use stratawal_storage::{Access, File, MemoryStorage, Storage, is_full};

const ROOT: &str = "/";

fn path(name: &str) -> std::path::PathBuf {
    Path::new(ROOT).join(name)
}

fn free(storage: &MemoryStorage) -> u64 {
    storage.free_space(Path::new(ROOT)).unwrap()
}

#[test]
fn a_new_storage_has_an_empty_root() {
    let storage = MemoryStorage::new();
    assert_eq!(storage.list(Path::new(ROOT)).unwrap(), []);
    storage.sync_dir(Path::new(ROOT)).unwrap();
    assert_eq!(free(&storage), u64::MAX, "unlimited");
}

#[test]
fn free_space_is_the_capacity_minus_the_files() {
    let storage = MemoryStorage::new().with_capacity(1000);
    assert_eq!(free(&storage), 1000);
    let a = put(&storage, &path("a"), &[1; 100]);
    assert_eq!(free(&storage), 900);
    a.write_all_at(&[2; 100], 0).unwrap();
    assert_eq!(free(&storage), 900, "overwriting takes no space");
    a.write_all_at(&[2; 1], 299).unwrap();
    assert_eq!(free(&storage), 700, "zeros also take space");
    a.preallocate(500).unwrap();
    assert_eq!(free(&storage), 500);
    a.set_len(200).unwrap();
    assert_eq!(free(&storage), 800);
    storage.create_dir(&path("folder")).unwrap();
    storage.rename(&path("a"), &path("folder/b")).unwrap();
    assert_eq!(free(&storage), 800, "a rename does not copy");
    put(&storage, &path("c"), &[3; 50]);
    storage.rename(&path("c"), &path("folder/b")).unwrap();
    assert_eq!(free(&storage), 950, "a replaced file takes no space");
    storage.remove_file(&path("folder/b")).unwrap();
    assert_eq!(free(&storage), 1000);
}

#[test]
fn growth_past_the_capacity_changes_nothing() {
    let storage = MemoryStorage::new().with_capacity(1000);
    let file = put(&storage, &path("a"), &[1; 900]);
    let before = tree(&storage, Path::new(ROOT));
    let growths: [(&str, &dyn Fn() -> io::Result<()>); 6] = [
        ("write past the end", &|| file.write_all_at(&[2; 101], 900)),
        ("write over the end", &|| file.write_all_at(&[2; 200], 801)),
        ("write far past the end", &|| file.write_all_at(&[2], 1000)),
        ("vectored write", &|| file.write_all_vectored_at(&[IoSlice::new(&[2; 101])], 900)),
        ("preallocate", &|| file.preallocate(1001)),
        ("set the length", &|| file.set_len(1001)),
    ];
    for (what, grow) in growths {
        let error = grow().expect_err(what);
        assert!(is_full(&error), "{what}: {error}");
        assert_eq!(tree(&storage, Path::new(ROOT)), before, "{what}");
        assert_eq!((free(&storage), file.len().unwrap()), (100, 900), "{what}");
    }
    file.preallocate(1000).unwrap();
    assert_eq!(free(&storage), 0, "the last byte is used");
    file.write_all_at(&[3; 1000], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(all(&*file), [3; 1000], "preallocated space can be written");
}

#[test]
fn the_capacity_can_be_raised_and_lowered() {
    let storage = MemoryStorage::new().with_capacity(10);
    let file = put(&storage, &path("a"), &[1; 10]);
    assert!(is_full(&file.preallocate(11).unwrap_err()));
    let _ = storage.clone().with_capacity(20);
    file.preallocate(11).unwrap();
    let _ = storage.clone().with_capacity(5);
    assert_eq!(free(&storage), 0, "more than the capacity is in use");
    file.write_all_at(&[2; 11], 0).unwrap();
    assert!(is_full(&file.preallocate(12).unwrap_err()));
    file.set_len(3).unwrap();
    assert_eq!(free(&storage), 2);
    file.preallocate(5).unwrap();
}

#[test]
fn a_file_without_a_name_takes_no_space() {
    let storage = MemoryStorage::new().with_capacity(1000);
    for lose in [(|storage| storage.remove_file(&path("a"))) as fn(&MemoryStorage) -> io::Result<()>, |storage| {
        storage.rename(&path("b"), &path("a"))
    }] {
        let file = put(&storage, &path("a"), &[1; 600]);
        put(&storage, &path("b"), b"");
        lose(&storage).unwrap();
        assert_eq!(free(&storage), 1000);
        file.set_len(5000).unwrap();
        file.set_len(1).unwrap();
        drop(file);
        assert_eq!(free(&storage), 1000, "growing, shrinking and closing it do not count");
        for name in names(&storage, Path::new(ROOT)) {
            storage.remove_file(&path(&name)).unwrap();
        }
    }
}

#[test]
fn only_a_full_disk_or_quota_is_full() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
        assert!(is_full(&kind.into()), "{kind}");
    }
    for kind in [ErrorKind::Other, ErrorKind::WriteZero, ErrorKind::OutOfMemory, ErrorKind::FileTooLarge] {
        assert!(!is_full(&kind.into()), "{kind}");
    }
    // EIO is 5 and ENOSPC is 28 on all systems.
    assert!(is_full(&io::Error::from_raw_os_error(28)));
    assert!(!is_full(&io::Error::from_raw_os_error(5)));
}

#[test]
fn clones_share_everything_and_a_snapshot_nothing() {
    let storage = MemoryStorage::new().with_capacity(1000);
    let clone = storage.clone();
    storage.create_dir(&path("folder")).unwrap();
    let file = put(&clone, &path("folder/a"), b"hello");
    let copy = storage.snapshot();
    assert_eq!(tree(&copy, Path::new(ROOT)), tree(&storage, Path::new(ROOT)));
    assert_eq!(free(&copy), 995);
    file.write_all_at(b"J", 0).unwrap();
    storage.remove_dir(&path("folder")).unwrap_err();
    storage.remove_file(&path("folder/a")).unwrap();
    assert_eq!(kind(clone.open(&path("folder/a"), Access::Read)), ErrorKind::NotFound);
    assert_eq!(get(&copy, &path("folder/a")), b"hello");
    copy.open(&path("folder/a"), Access::ReadWrite).unwrap().set_len(1).unwrap();
    assert_eq!(all(&*file), b"Jello");
    assert_eq!((free(&copy), free(&storage)), (999, 1000));
    drop(storage.lock(Path::new(ROOT), &path("LOCK")).unwrap());
    assert_eq!(names(&copy, Path::new(ROOT)), ["folder"]);
}

#[test]
fn a_snapshot_does_not_have_the_locks() {
    let storage = MemoryStorage::new();
    let _lock = storage.lock(Path::new(ROOT), &path("LOCK")).unwrap();
    let copy = storage.snapshot();
    let _of_the_copy = copy.lock(Path::new(ROOT), &path("LOCK")).unwrap();
    storage.lock(Path::new(ROOT), &path("LOCK")).unwrap_err();
}

#[test]
fn a_given_clock_advances_with_each_reading() {
    let storage = MemoryStorage::new().with_clock(1000, 10);
    let times = [storage.now_micros(), storage.coarse_now_micros(), storage.clone().now_micros()];
    assert_eq!(times, [1010, 1020, 1030]);
    let copy = storage.snapshot();
    assert_eq!((copy.now_micros(), storage.now_micros()), (1040, 1040));
}

#[test]
fn equal_seeds_give_equal_random_numbers() {
    let numbers = |seed| {
        let storage = MemoryStorage::new().with_seed(seed);
        (0..100).map(|_| storage.random_u64()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(7), numbers(7));
    assert_ne!(numbers(7), numbers(8));
    let storage = MemoryStorage::new().with_seed(7);
    let all: std::collections::HashSet<u64> = (0..100_000).map(|_| storage.random_u64()).collect();
    assert_eq!(all.len(), 100_000);
}

#[test]
fn an_empty_write_does_not_change_the_length() {
    let storage = MemoryStorage::new();
    let file = put(&storage, &path("a"), b"hello");
    file.write_all_at(b"", 100).unwrap();
    assert_eq!(file.len().unwrap(), 5);
}

#[test]
fn a_dir_renamed_to_its_own_name_stays() {
    let storage = MemoryStorage::new();
    storage.create_dir(&path("folder")).unwrap();
    put(&storage, &path("folder/a"), b"");
    storage.rename(&path("folder"), &path("folder")).unwrap();
    assert_eq!(names(&storage, &path("folder")), ["a"]);
}

#[test]
fn a_write_and_a_cut_at_the_same_time_do_not_panic() {
    let storage = MemoryStorage::new();
    let file = put(&storage, &path("a"), b"");
    let other: Arc<dyn File> = storage.open(&path("a"), Access::ReadWrite).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..50_000).for_each(|_| other.set_len(0).unwrap()));
        (0..50_000).for_each(|_| file.write_all_at(&[1; 64], 0).unwrap());
    });
}
