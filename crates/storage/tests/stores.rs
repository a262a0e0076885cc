//! Files mapped for stores: other descriptors see each store at once, stores outside the map fail,
//! and dropping the map loses nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use stratawal_storage::{Access, File, MemoryStorage, Storage, StoreMap, UnixStorage};

const LEN: usize = 16 << 10;

fn new_file(path: &Path) -> Arc<dyn File> {
    let file = UnixStorage::new().create_new(path).expect("it is new");
    file.write_all_at(&[0; LEN], 0).expect("there is room");
    file.sync_all().expect("the disk works");
    file
}

/// Returns the map. On a file system without such maps, prints a line and returns `None`.
fn map(file: &dyn File) -> Option<Box<dyn StoreMap>> {
    match file.map_for_stores(LEN as u64) {
        Ok(map) => Some(map),
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            println!("skipped: the temporary directory is on a file system without maps for stores");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn other_descriptors_see_a_store_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    let file = new_file(&path);
    let Some(mut map) = map(&*file) else { return };
    map.store(b"stored", 4090).expect("it is within the map");
    let other = UnixStorage::new().open(&path, Access::Read).expect("it exists");
    let mut found = [0; 8];
    other.read_exact_at(&mut found, 4089).expect("the file is long enough");
    assert_eq!(&found, b"\0stored\0");
    // A write reaches the same bytes as a store.
    file.write_all_at(b"W", 4090).expect("the disk works");
    map.store(b"T", 4091).expect("it is within the map");
    drop(map);
    other.read_exact_at(&mut found, 4089).expect("the file is long enough");
    assert_eq!(&found, b"\0WTored\0");
    assert_eq!(other.len().expect("it exists"), LEN as u64);
}

#[test]
fn stores_and_syncs_outside_of_the_map_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = new_file(&dir.path().join("file"));
    let Some(mut map) = map(&*file) else { return };
    let len = LEN as u64;
    for (bytes, offset) in [(&b"x"[..], len), (b"xy", len - 1), (b"x", u64::MAX), (b"", len + 1)] {
        let error = map.store(bytes, offset).expect_err("it is outside");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    map.store(b"", len).expect("nothing is stored");
    let sync = map.range_sync();
    for (from, to) in [(0, len + 1), (5, 4), (u64::MAX, u64::MAX)] {
        assert_eq!(sync.sync(from, to).expect_err("it is outside").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(sync.prefault(from, to).expect_err("it is outside").kind(), io::ErrorKind::InvalidInput);
    }
    sync.sync(0, len).expect("the disk works");
    sync.sync(4097, 4097).expect("an empty range needs no sync");
}

#[test]
fn only_whole_files_opened_for_writing_are_mapped() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    let file = new_file(&path);
    if map(&*file).is_none() {
        return;
    }
    let too_long = file.map_for_stores(LEN as u64 + 1).expect_err("the file is shorter");
    assert_eq!(too_long.kind(), io::ErrorKind::UnexpectedEof);
    let read_only = UnixStorage::new().open(&path, Access::Read).expect("it exists");
    assert_eq!(read_only.map_for_stores(16).expect_err("it is read-only").kind(), io::ErrorKind::PermissionDenied);
    let memory = MemoryStorage::new().create_new(Path::new("/file")).expect("it is new");
    assert_eq!(memory.map_for_stores(0).expect_err("memory has no maps").kind(), io::ErrorKind::Unsupported);
}

#[test]
fn prefaulting_beside_stores_changes_no_byte() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = new_file(&dir.path().join("file"));
    let Some(mut map) = map(&*file) else { return };
    let sync = map.range_sync();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200 {
                // An old kernel does not have this advice.
                let _ = sync.prefault(0, LEN as u64);
                if round % 10 == 0 {
                    sync.sync(0, LEN as u64).expect("the disk works");
                }
            }
        });
        for at in 0..LEN {
            map.store(&[at as u8], at as u64).expect("it is within the map");
        }
    });
    drop(map);
    let mut found = vec![0; LEN];
    file.read_exact_at(&mut found, 0).expect("the file is long enough");
    assert!((0..LEN).all(|at| found[at] == at as u8));
}

#[test]
fn durable_write_is_seen_like_any_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = new_file(&dir.path().join("file"));
    file.write_durable_at(b"durable", 4090).expect("the disk works");
    let mut found = [0; 9];
    file.read_exact_at(&mut found, 4089).expect("the file is long enough");
    assert_eq!(&found, b"\0durable\0");
    assert_eq!(file.len().expect("it exists"), LEN as u64);
    let read_only = UnixStorage::new().open(&dir.path().join("file"), Access::Read).expect("it exists");
    read_only.write_durable_at(b"x", 0).expect_err("it is read-only");
}

/// On other file systems the process that wakes may be on another machine.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn waits_work_where_maps_for_stores_do() {
    let kinds = [std::env::temp_dir(), "/dev/shm".into(), "/proc/version".into(), "/sys/kernel/uevent_seqnum".into()];
    let mut refused = 0;
    for path in kinds {
        let dir = path.is_dir().then(|| tempfile::tempdir_in(&path).unwrap());
        let file = match &dir {
            Some(dir) => new_file(&dir.path().join("f")),
            None => match UnixStorage::new().open(&path, Access::Read) {
                Ok(file) => file,
                Err(_) => continue,
            },
        };
        let waited = file.wait_while(0, 0, Duration::from_millis(1));
        if dir.is_some() && map(&*file).is_some() {
            waited.unwrap();
        } else {
            assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::Unsupported, "{}", path.display());
            refused += 1;
        }
    }
    assert!(refused > 0, "the files of the system are on other file systems");
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn wait_ends_with_a_wake_a_change_or_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let storage = UnixStorage::new();
    let path = dir.path().join("f");
    let file = new_file(&path);
    let Some(mut map) = map(&*file) else { return };
    let reader = storage.open(&path, Access::Read).unwrap();
    let long = Duration::from_secs(60);
    let began = Instant::now();
    // Another value, and a limit.
    reader.wait_while(4, 7, long).unwrap();
    reader.wait_while(4, 0, Duration::from_millis(20)).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(20));
    let waiting = thread::spawn(move || {
        // A wait may end for no reason.
        while reader.wait_while(4, 0, long).is_ok() && {
            let mut word = [0; 4];
            reader.read_exact_at(&mut word, 4).unwrap();
            word == [0; 4]
        } {}
    });
    thread::sleep(Duration::from_millis(50));
    map.store(&1_u32.to_ne_bytes(), 4).unwrap();
    map.wake(4).unwrap();
    waiting.join().unwrap();
    assert!(began.elapsed() < long);
    assert_eq!(map.wake(LEN as u64 - 2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let short = storage.create_new(&dir.path().join("short")).unwrap();
    assert!(short.wait_while(4, 0, long).is_err(), "the file has no such bytes");
}
