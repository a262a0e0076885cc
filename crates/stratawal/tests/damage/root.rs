//! The root of a log: a creation interrupted by a crash can continue, and a missing streams
//! directory is damage.

use std::path::Path;
use std::sync::{Arc, Mutex};

use stratawal::{ErrorKind, Options, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Disk, Rng, SimStorage};

use crate::layout::{files, layouts};

/// Opens the log. Its journal is small, so that a crash is simulated quickly.
fn open(storage: SimStorage, journal: bool) -> stratawal::Result<Wal> {
    let options = Options::new().journal(journal).journal_bytes(64 << 10).maintenance_thread(false);
    options.open_on(Arc::new(storage), Path::new("/above/log"), false)
}

/// Returns the disk after each change that creating a log makes.
fn creation(disk: Disk, journal: bool) -> Vec<Disk> {
    let storage = SimStorage::on(disk.clone(), 1);
    let seen = Arc::new(Mutex::new(vec![disk]));
    let seen_by_watch = Arc::clone(&seen);
    storage.watch(move |disk| seen_by_watch.lock().unwrap().push(disk.clone()));
    open(storage.clone(), journal).unwrap().close().unwrap();
    storage.unwatch();
    std::mem::take(&mut seen.lock().unwrap())
}

/// Crashes in any way after one change of the disk in `first`, then again while the creation
/// continues, after one in `second`.
fn interrupt_creation(journal: bool, first: usize, second: usize) {
    const CRASHES: [Crash; 6] =
        [Crash::Kill, Crash::Lost, Crash::Kept, Crash::Prefix, Crash::Mixed(128), Crash::Mixed(232)];
    let mut rng = Rng::new(7);
    let whole = creation(SimStorage::new(1).disk(), journal);
    let mut cases = 0;
    for (i, disk) in whole.iter().enumerate().step_by(first) {
        for crash in CRASHES {
            let disk = disk.crash(crash, &mut rng);
            for (j, disk) in creation(disk, journal).iter().enumerate().skip(i % second).step_by(second) {
                for again in CRASHES {
                    let storage = SimStorage::on(disk.crash(again, &mut rng), 3);
                    let wal = open(storage, journal)
                        .unwrap_or_else(|e| panic!("{crash:?} after {i}, {again:?} after {j}: {e}"));
                    assert_eq!(wal.stream("s").unwrap().append("first").unwrap(), 0);
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 1000, "only {cases} cases");
}

#[test]
fn interrupted_creation_continues() {
    let (first, second) = if crate::all() { (1, 1) } else { (3, 5) };
    for journal in [false, true] {
        interrupt_creation(journal, first, second);
    }
}

#[test]
fn missing_streams_directory_is_damage() {
    for layout in layouts() {
        let storage = layout.storage.snapshot();
        storage.rename(Path::new("/log/streams"), Path::new("/streams of before")).unwrap();
        let before = files(&storage);
        for read_only in [true, false] {
            let error = crate::layout::open(&storage, read_only).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.to_string().contains("/log/streams is missing"), "{error}");
        }
        assert!(files(&storage) == before);
    }
}
