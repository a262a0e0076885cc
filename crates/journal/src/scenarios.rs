//! Scenarios of several concurrent threads, and the promises that must hold. The model checker runs
//! each scenario in every interleaving of its threads; without it, real threads run the scenario
//! many times.
//!
//! `cargo xtask loom` runs the models. With `stratawal_faults` the scenarios must find the fail
//! points listed at the end.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_sync::atomic::{AtomicU64, Ordering};
use stratawal_sync::model::{explore, explore_bounded};
use stratawal_sync::thread::spawn;
use stratawal_testkit::{HookedStorage, Operation};

use crate::{Error, ErrorKind, Image, Journal, JournalOptions, Lsn, Part, Position, Record};

const DIR: &str = "/journal";
const WAL: WalId = WalId(1);

/// A journal, and the end of the log when its last sync began.
struct Watched {
    journal: Arc<Journal>,
    storage: HookedStorage,
    synced: Arc<AtomicU64>,
}

impl Watched {
    fn new() -> Self {
        let storage = HookedStorage::new(MemoryStorage::new());
        let limits = JournalOptions::default().bytes(64 << 10).first_file_bytes(16 << 10);
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        let journal = Arc::new(Journal::create(&shared, Path::new(DIR), WAL, limits).expect("memory"));
        Self { journal, storage, synced: Arc::new(AtomicU64::new(0)) }
    }

    /// Records the end of the log whenever a sync begins. The sync fails if `fails`.
    fn watch(&self, fails: bool) {
        let journal = OnceLock::from(Arc::downgrade(&self.journal));
        let synced = Arc::clone(&self.synced);
        self.storage.set(move |operation, _| {
            if operation != Operation::Sync {
                return Ok(());
            }
            let journal = journal.get().and_then(Weak::upgrade).expect("the scenario holds it");
            synced.fetch_max(journal.end().0, Ordering::SeqCst);
            if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
    }

    /// Puts a record and waits until it is durable. It must have been written before a sync began.
    fn put_and_sync(&self, stream: u64) {
        let position = self.journal.put(&data(stream, 0, 8)).expect("there is room");
        self.journal.sync_to(position).expect("no fault");
        let synced = Lsn(self.synced.load(Ordering::SeqCst));
        assert!(synced >= position.end, "acknowledged at {}, synced to {synced}", position.end);
    }
}

fn data(stream: u64, seq: u64, len: usize) -> Record {
    Record::Data(vec![Part {
        stream: StreamId(stream),
        name: Some("s".into()),
        first: SeqNo(seq),
        count: 1,
        timestamp: 0,
        firm: true,
        body: vec![7; len].into(),
    }])
}

/// If a record is reported as durable, a sync began after it was written, whichever thread led.
#[test]
fn a_record_is_acknowledged_by_a_sync_that_began_after_it() {
    explore_bounded(2, || {
        let watched = Arc::new(Watched::new());
        watched.watch(false);
        let other = Arc::clone(&watched);
        let thread = spawn(move || other.put_and_sync(1));
        watched.put_and_sync(2);
        thread.join().unwrap();
    });
}

/// Once a sync has failed, no record is reported as durable.
#[test]
fn a_failed_sync_is_reported_to_every_thread_that_waits() {
    explore_bounded(2, || {
        let watched = Arc::new(Watched::new());
        watched.watch(true);
        let try_one = |watched: &Watched, stream| {
            let put: Result<Position, _> = watched.journal.put(&data(stream, 0, 8));
            let synced = put.and_then(|position| watched.journal.sync_to(position));
            synced.expect_err("every sync fails");
        };
        let other = Arc::clone(&watched);
        let thread = spawn(move || try_one(&other, 1));
        try_one(&watched, 2);
        thread.join().unwrap();
        assert!(watched.journal.failure().is_some());
    });
}

/// One thread creates the next file and recycles old ones while another puts records. All of those
/// records are in the journal afterwards.
#[test]
fn records_beside_a_rotation_are_all_in_the_journal() {
    explore(|| {
        let watched = Arc::new(Watched::new());
        let other = Arc::clone(&watched);
        // Two such records do not fit into one file.
        let thread = spawn(move || other.journal.append(&data(1, 0, 5_000)).expect("there is room"));
        watched.journal.append(&data(2, 0, 5_000)).expect("there is room");
        watched.journal.sync().expect("memory");
        thread.join().unwrap();
        let image = Image::read(&watched.storage, Path::new(DIR), WAL).expect("it is sound");
        assert_eq!(image.needed().streams.len(), 2);
        assert_eq!(image.end(), watched.journal.end());
    });
}

/// A restart does not acknowledge a record that was put before the restart.
#[test]
fn a_restart_acknowledges_no_record_of_before() {
    explore(|| {
        let watched = Arc::new(Watched::new());
        let position = watched.journal.put(&data(1, 0, 8)).expect("there is room");
        let epoch = watched.journal.epoch();
        watched.journal.log.lock().fail(&Error::new(ErrorKind::InvalidRecord));
        let other = Arc::clone(&watched);
        let thread = spawn(move || other.journal.restart(epoch, &[]).expect("memory"));
        watched.journal.sync_to(position).expect_err("it has failed, or was restarted");
        thread.join().unwrap();
        let error = watched.journal.sync_to(position).expect_err("the record is gone");
        assert!(matches!(error.kind(), ErrorKind::Restarted), "{error}");
    });
}

#[cfg(all(stratawal_loom, stratawal_faults))]
mod fail_points_are_found {
    stratawal_sync::found_by_scenarios! {
        an_end_that_is_read_after_the_sync_is_found: EndReadAfterSync
            by a_record_is_acknowledged_by_a_sync_that_began_after_it;
        a_restart_in_the_same_epoch_is_found: EpochKept by a_restart_acknowledges_no_record_of_before;
    }
}
