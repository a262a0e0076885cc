//! Tests the contract of `Storage`, sentence by sentence, on both storages: names, directories,
//! clocks, random numbers.
//!
//! The contract of `File` is tested in `files.rs`, and that of locks in `locks.rs`. Properties of
//! only one storage (links, FIFOs, a capacity) are tested in `unix.rs` and `memory.rs`.

#[macro_use]
mod common;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{all, get, kind, names, put, tree};
use stratawal_storage::{Access, DirEntry, FileType, Storage};

on_both_storages! {
    a_new_file_is_empty_readable_and_writable,
    an_existing_name_is_not_created_again,
    a_file_is_not_created_in_a_missing_dir,
    a_file_opened_for_reading_refuses_writes,
    a_file_opened_for_writing_is_the_same_file,
    only_a_plain_file_is_opened,
    a_listing_is_sorted_by_bytes_and_has_types,
    only_a_dir_is_listed,
    a_dir_is_created_once_and_in_a_dir,
    a_rename_moves_a_file_and_its_handles,
    a_rename_replaces_a_file_but_not_its_handles,
    a_rename_is_never_seen_half_done,
    a_rename_moves_a_dir_with_its_entries,
    a_refused_rename_changes_nothing,
    a_removed_file_stays_usable_while_open,
    only_a_file_is_removed_as_a_file,
    only_an_empty_dir_is_removed_as_a_dir,
    a_dir_is_synced_and_a_missing_one_is_not,
    free_space_is_reported,
    the_clocks_agree_and_do_not_run_backwards,
    random_numbers_do_not_collide,
    an_opened_root_keeps_its_paths,
    a_removed_root_has_an_error_of_its_own,
    a_dir_removed_while_listed_is_not_found,
    paths_of_an_opened_root_stay_below_it,
    elapsed_time_never_falls,
    allocated_bytes_cover_the_written_ones,
}

fn an_opened_root_keeps_its_paths(storage: &dyn Storage, root: &Path) {
    storage.create_dir(&root.join("a")).unwrap();
    storage.create_dir(&root.join("b")).unwrap();
    put(storage, &root.join("b/in-b"), b"b");
    let opened = storage.at(&root.join("a")).unwrap();
    put(&*opened, Path::new("first"), b"1");
    storage.rename(&root.join("a"), &root.join("c")).unwrap();
    storage.rename(&root.join("b"), &root.join("a")).unwrap();
    put(&*opened, Path::new("second"), b"2");
    opened.create_dir(Path::new("inner")).unwrap();
    put(&*opened, Path::new("inner/third"), b"3");
    opened.rename(Path::new("first"), Path::new("inner/first")).unwrap();
    opened.remove_file(Path::new("second")).unwrap();
    opened.sync_dir(Path::new("")).unwrap();
    opened.sync_dir(Path::new("inner")).unwrap();
    assert_eq!(names(&*opened, Path::new("")), ["inner"]);
    assert_eq!(names(&*opened, Path::new("inner")), ["first", "third"]);
    assert_eq!(names(storage, &root.join("c")), ["inner"]);
    assert_eq!(names(storage, &root.join("a")), ["in-b"], "another directory has the path now");
    let lock = opened.lock(Path::new(""), Path::new("LOCK")).unwrap();
    assert_eq!(names(storage, &root.join("c")), ["LOCK", "inner"]);
    opened.lock(Path::new(""), Path::new("LOCK")).unwrap_err();
    drop(lock);
}

fn a_removed_root_has_an_error_of_its_own(storage: &dyn Storage, root: &Path) {
    let dir = root.join("a");
    let none = Path::new("");
    storage.create_dir(&dir).unwrap();
    let opened = storage.at(&dir).unwrap();
    let opened_dir = opened.open_dir(none).ok();
    storage.remove_dir(&dir).unwrap();
    storage.create_dir(&dir).unwrap();
    let removed = ErrorKind::StaleNetworkFileHandle;
    assert_eq!(kind(opened.create_new(Path::new("x"))), removed);
    assert_eq!(kind(opened.create_dir(Path::new("x"))), removed);
    assert_eq!(kind(opened.open(Path::new("x"), Access::Read)), removed);
    assert_eq!(kind(opened.list(none)), removed);
    assert_eq!(kind(opened.list(Path::new("x"))), removed);
    assert_eq!(kind(opened.rename(Path::new("x"), Path::new("y"))), removed);
    assert_eq!(kind(opened.remove_file(Path::new("x"))), removed);
    assert_eq!(kind(opened.remove_dir(Path::new("x"))), removed);
    assert_eq!(kind(opened.sync_dir(none)), removed);
    if let Some(opened_dir) = opened_dir {
        assert_eq!(kind(opened_dir.sync_all()), removed);
    }
    assert_eq!(names(storage, &dir), [""; 0], "another directory has the name now");
}

fn a_dir_removed_while_listed_is_not_found(storage: &dyn Storage, root: &Path) {
    let opened = storage.at(root).unwrap();
    let dir = Path::new("inner");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match opened.list(dir) {
                    Ok(entries) => assert_eq!(entries, []),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
                }
            }
        });
        for _ in 0..5000 {
            opened.create_dir(dir).unwrap();
            opened.remove_dir(dir).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        lister.join().unwrap();
    });
}

fn paths_of_an_opened_root_stay_below_it(storage: &dyn Storage, root: &Path) {
    storage.create_dir(&root.join("a")).unwrap();
    put(storage, &root.join("outside"), b"");
    let opened = storage.at(&root.join("a")).unwrap();
    assert_eq!(kind(opened.open(&root.join("outside"), Access::Read)), ErrorKind::InvalidInput);
    assert_eq!(kind(opened.remove_file(&root.join("outside"))), ErrorKind::InvalidInput);
    assert_eq!(kind(storage.at(&root.join("missing"))), ErrorKind::NotFound);
    assert_eq!(kind(storage.at(&root.join("outside"))), ErrorKind::NotADirectory);
}

fn elapsed_time_never_falls(storage: &dyn Storage, _root: &Path) {
    let first = storage.elapsed_micros();
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert!(storage.elapsed_micros() >= first + 1000);
}

fn allocated_bytes_cover_the_written_ones(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("a"), &[7; 10_000]);
    file.sync_all().unwrap();
    assert!(file.allocated().unwrap() >= 10_000);
}

fn a_new_file_is_empty_readable_and_writable(storage: &dyn Storage, root: &Path) {
    let file = storage.create_new(&root.join("a")).unwrap();
    assert_eq!(file.len().unwrap(), 0);
    file.write_all_at(b"hello", 0).unwrap();
    assert_eq!(all(&*file), b"hello");
    assert_eq!(get(storage, &root.join("a")), b"hello");
}

fn an_existing_name_is_not_created_again(storage: &dyn Storage, root: &Path) {
    put(storage, &root.join("file"), b"kept");
    storage.create_dir(&root.join("folder")).unwrap();
    let before = tree(storage, root);
    for name in ["file", "folder"] {
        assert_eq!(kind(storage.create_new(&root.join(name))), ErrorKind::AlreadyExists, "{name}");
        assert_eq!(kind(storage.create_dir(&root.join(name))), ErrorKind::AlreadyExists, "{name}");
    }
    assert_eq!(tree(storage, root), before);
}

fn a_file_is_not_created_in_a_missing_dir(storage: &dyn Storage, root: &Path) {
    put(storage, &root.join("file"), b"");
    assert_eq!(kind(storage.create_new(&root.join("missing/a"))), ErrorKind::NotFound);
    assert_eq!(kind(storage.create_new(&root.join("file/a"))), ErrorKind::NotADirectory);
    assert_eq!(names(storage, root), ["file"]);
}

fn a_file_opened_for_reading_refuses_writes(storage: &dyn Storage, root: &Path) {
    put(storage, &root.join("a"), b"hello");
    let file = storage.open(&root.join("a"), Access::Read).unwrap();
    // Unix reports a bad descriptor (EBADF, EINVAL); the in-memory storage reports a missing
    // permission.
    file.write_all_at(b"x", 0).unwrap_err();
    file.write_all_vectored_at(&[std::io::IoSlice::new(b"x")], 9).unwrap_err();
    file.set_len(0).unwrap_err();
    file.set_len(9).unwrap_err();
    file.preallocate(9).unwrap_err();
    assert_eq!(all(&*file), b"hello");
    // A reader in another process syncs the entries before it shows them.
    file.sync_data().unwrap();
    file.sync_all().unwrap();
}

fn a_file_opened_for_writing_is_the_same_file(storage: &dyn Storage, root: &Path) {
    let first = put(storage, &root.join("a"), b"hello");
    let second = storage.open(&root.join("a"), Access::ReadWrite).unwrap();
    second.write_all_at(b"J", 0).unwrap();
    assert_eq!(all(&*first), b"Jello");
    first.set_len(1).unwrap();
    assert_eq!(second.len().unwrap(), 1);
}

fn only_a_plain_file_is_opened(storage: &dyn Storage, root: &Path) {
    storage.create_dir(&root.join("folder")).unwrap();
    for access in [Access::Read, Access::ReadWrite] {
        assert_eq!(kind(storage.open(&root.join("folder"), access)), ErrorKind::InvalidInput, "{access:?}");
        assert_eq!(kind(storage.open(&root.join("missing"), access)), ErrorKind::NotFound, "{access:?}");
    }
    assert_eq!(names(storage, root), ["folder"], "opening creates nothing");
}

fn a_listing_is_sorted_by_bytes_and_has_types(storage: &dyn Storage, root: &Path) {
    assert_eq!(storage.list(root).unwrap(), []);
    // '-' sorts before '.', which sorts before '/'. Sorted as paths, "a" and its entries would come
    // before "a-b" and "a.b". Names are bytes, so the order follows neither letters nor UTF-16.
    let sorted: [&[u8]; 8] =
        [b"B", b"a", b"a-b", b"a.b", b"ab", "\u{e9}".as_bytes(), "\u{fb01}".as_bytes(), "\u{10000}".as_bytes()];
    for (i, name) in sorted.iter().enumerate().rev() {
        let path = root.join(OsStr::from_bytes(name));
        if i % 2 == 0 {
            put(storage, &path, b"");
        } else {
            storage.create_dir(&path).unwrap();
            put(storage, &path.join("inner"), b"");
        }
    }
    let expected = sorted.iter().enumerate().map(|(i, name)| DirEntry {
        name: OsStr::from_bytes(name).to_owned(),
        file_type: if i % 2 == 0 { FileType::File } else { FileType::Dir },
    });
    assert_eq!(storage.list(root).unwrap(), expected.collect::<Vec<_>>());
    assert_eq!(names(storage, &root.join("a")), ["inner"]);
}

fn only_a_dir_is_listed(storage: &dyn Storage, root: &Path) {
    put(storage, &root.join("file"), b"");
    assert_eq!(kind(storage.list(&root.join("file"))), ErrorKind::NotADirectory);
    assert_eq!(kind(storage.list(&root.join("missing"))), ErrorKind::NotFound);
}

fn a_dir_is_created_once_and_in_a_dir(storage: &dyn Storage, root: &Path) {
    storage.create_dir(&root.join("a")).unwrap();
    assert_eq!(kind(storage.create_dir(&root.join("a"))), ErrorKind::AlreadyExists);
    assert_eq!(kind(storage.create_dir(&root.join("b/c"))), ErrorKind::NotFound, "the parents are not created");
    put(storage, &root.join("file"), b"");
    assert_eq!(kind(storage.create_dir(&root.join("file/d"))), ErrorKind::NotADirectory);
    storage.create_dir(&root.join("a/b")).unwrap();
    assert_eq!(names(storage, root), ["a", "file"]);
    assert_eq!(names(storage, &root.join("a")), ["b"]);
}

fn a_rename_moves_a_file_and_its_handles(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("from"), b"one");
    storage.create_dir(&root.join("folder")).unwrap();
    storage.rename(&root.join("from"), &root.join("folder/to")).unwrap();
    assert_eq!(names(storage, root), ["folder"]);
    file.write_all_at(b"two", 0).unwrap();
    assert_eq!(get(storage, &root.join("folder/to")), b"two");
    storage.rename(&root.join("folder/to"), &root.join("folder/to")).unwrap();
    assert_eq!(get(storage, &root.join("folder/to")), b"two", "a rename to its own name changes nothing");
}

fn a_rename_replaces_a_file_but_not_its_handles(storage: &dyn Storage, root: &Path) {
    let old = put(storage, &root.join("to"), b"old bytes");
    put(storage, &root.join("from"), b"new");
    storage.rename(&root.join("from"), &root.join("to")).unwrap();
    assert_eq!(names(storage, root), ["to"]);
    assert_eq!(get(storage, &root.join("to")), b"new");
    old.write_all_at(b"OLD", 0).unwrap();
    assert_eq!(all(&*old), b"OLD bytes");
    assert_eq!(get(storage, &root.join("to")), b"new");
}

fn a_rename_is_never_seen_half_done(storage: &dyn Storage, root: &Path) {
    let from = root.join("from");
    let to = root.join("to");
    put(storage, &to, &[0; 64]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let bytes = get(storage, &to);
                assert!(bytes.len() == 64 && bytes.iter().all(|&b| b == bytes[0]), "{bytes:?}");
                assert!(bytes[0] >= seen, "the old state came back: {} after {seen}", bytes[0]);
                seen = bytes[0];
            }
        });
        for i in 1..=200 {
            put(storage, &from, &[i; 64]);
            storage.rename(&from, &to).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(get(storage, &to), [200; 64]);
}

fn a_rename_moves_a_dir_with_its_entries(storage: &dyn Storage, root: &Path) {
    storage.create_dir(&root.join("from")).unwrap();
    storage.create_dir(&root.join("from/inner")).unwrap();
    put(storage, &root.join("from/inner/a"), b"one");
    put(storage, &root.join("from/b"), b"two");
    // The file's name begins with the directory's name, but the file is not in the directory.
    put(storage, &root.join("from-not"), b"three");
    storage.rename(&root.join("from"), &root.join("to")).unwrap();
    assert_eq!(names(storage, root), ["from-not", "to"]);
    assert_eq!(get(storage, &root.join("to/inner/a")), b"one");
    assert_eq!(get(storage, &root.join("to/b")), b"two");
    assert_eq!(kind(storage.list(&root.join("from"))), ErrorKind::NotFound);
    storage.create_dir(&root.join("empty")).unwrap();
    storage.rename(&root.join("to"), &root.join("empty")).unwrap();
    assert_eq!(names(storage, root), ["empty", "from-not"], "an empty directory is replaced");
    assert_eq!(get(storage, &root.join("empty/b")), b"two");
    storage.rename(&root.join("empty"), &root.join("empty")).unwrap();
    assert_eq!(names(storage, &root.join("empty")), ["b", "inner"], "a rename to its own name changes nothing");
}

fn a_refused_rename_changes_nothing(storage: &dyn Storage, root: &Path) {
    put(storage, &root.join("file"), b"file");
    for dir in ["folder", "full", "full/inner"] {
        storage.create_dir(&root.join(dir)).unwrap();
    }
    put(storage, &root.join("full/inner/a"), b"a");
    let before = tree(storage, root);
    for (from, to, expected) in [
        ("missing", "new", ErrorKind::NotFound),
        ("missing", "file", ErrorKind::NotFound),
        ("missing", "missing", ErrorKind::NotFound),
        ("file", "missing/new", ErrorKind::NotFound),
        ("file", "file/new", ErrorKind::NotADirectory),
        ("file", "folder", ErrorKind::IsADirectory),
        ("folder", "file", ErrorKind::NotADirectory),
        ("folder", "full", ErrorKind::DirectoryNotEmpty),
        ("full", "full/inner/new", ErrorKind::InvalidInput),
    ] {
        assert_eq!(kind(storage.rename(&root.join(from), &root.join(to))), expected, "{from} to {to}");
        assert_eq!(tree(storage, root), before, "{from} to {to}");
    }
}

fn a_removed_file_stays_usable_while_open(storage: &dyn Storage, root: &Path) {
    let writer = put(storage, &root.join("a"), b"hello");
    let reader = storage.open(&root.join("a"), Access::Read).unwrap();
    storage.remove_file(&root.join("a")).unwrap();
    assert_eq!(kind(storage.open(&root.join("a"), Access::Read)), ErrorKind::NotFound);
    assert_eq!(all(&*reader), b"hello");
    writer.write_all_at(b"J", 0).unwrap();
    assert_eq!(all(&*reader), b"Jello");
    put(storage, &root.join("a"), b"another");
    assert_eq!(all(&*reader), b"Jello", "the name belongs to another file now");
}

fn only_a_file_is_removed_as_a_file(storage: &dyn Storage, root: &Path) {
    storage.create_dir(&root.join("folder")).unwrap();
    // IsADirectory on Linux and in memory, PermissionDenied on other systems.
    storage.remove_file(&root.join("folder")).unwrap_err();
    assert_eq!(kind(storage.remove_file(&root.join("missing"))), ErrorKind::NotFound);
    assert_eq!(names(storage, root), ["folder"]);
}

fn only_an_empty_dir_is_removed_as_a_dir(storage: &dyn Storage, root: &Path) {
    storage.create_dir(&root.join("folder")).unwrap();
    put(storage, &root.join("folder/a"), b"");
    put(storage, &root.join("file"), b"");
    assert_eq!(kind(storage.remove_dir(&root.join("folder"))), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(storage.remove_dir(&root.join("file"))), ErrorKind::NotADirectory);
    assert_eq!(kind(storage.remove_dir(&root.join("missing"))), ErrorKind::NotFound);
    assert_eq!(names(storage, &root.join("folder")), ["a"]);
    storage.remove_file(&root.join("folder/a")).unwrap();
    storage.remove_dir(&root.join("folder")).unwrap();
    assert_eq!(names(storage, root), ["file"]);
}

fn a_dir_is_synced_and_a_missing_one_is_not(storage: &dyn Storage, root: &Path) {
    storage.sync_dir(root).unwrap();
    put(storage, &root.join("a"), b"");
    storage.sync_dir(root).unwrap();
    assert_eq!(kind(storage.sync_dir(&root.join("missing"))), ErrorKind::NotFound);
}

fn free_space_is_reported(storage: &dyn Storage, root: &Path) {
    // `memory.rs` tests how the free space shrinks, because no other process writes there.
    assert!(storage.free_space(root).unwrap() > 0);
}

fn the_clocks_agree_and_do_not_run_backwards(storage: &dyn Storage, _root: &Path) {
    const YEAR_MICROS: u64 = 365 * 24 * 3600 * 1_000_000;
    const TICKS_MICROS: u64 = 10_000_000;
    let coarse = storage.coarse_now_micros();
    let now = storage.now_micros();
    assert!(
        (50 * YEAR_MICROS..500 * YEAR_MICROS).contains(&now),
        "{now} microseconds since 1970 is not a date of today"
    );
    assert!(coarse <= now && now - coarse < TICKS_MICROS, "coarse {coarse}, then {now}");
    assert!(storage.coarse_now_micros() >= coarse);
    assert!(storage.now_micros() >= now);
}

fn random_numbers_do_not_collide(storage: &dyn Storage, _root: &Path) {
    // Of 100,000 numbers of 64 bits, two collide once in four billion runs.
    let seen: HashSet<u64> = (0..100_000).map(|_| storage.random_u64()).collect();
    assert_eq!(seen.len(), 100_000);
    // Each bit is random: 50,000 ones are expected, and 49,000 is six standard deviations away.
    for bit in 0..64 {
        let ones = seen.iter().filter(|n| *n >> bit & 1 == 1).count();
        assert!((49_000..=51_000).contains(&ones), "bit {bit} is set in {ones} of 100,000");
    }
}
