//! Which entries survive which kind of crash, and how threads share the sync that makes their
//! entries durable.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{memory, open, read, simulated};
use stratawal_stream::{Durability, Result, StreamLog, Visibility};
use stratawal_testkit::{Crash, Gate, HookedStorage, Operation, Rng, SimStorage};

use Durability::{Buffered, Flushed, Synced};

type Call = fn(&StreamLog) -> Result<()>;

const NOTHING: Call = |_| Ok(());

/// The appends, a call after them, and how many entries survive a process death and a power loss.
const SURVIVAL: [(&[Durability], Call, [usize; 2]); 12] = [
    (&[Buffered], NOTHING, [0, 0]),
    (&[Flushed], NOTHING, [1, 0]),
    (&[Synced], NOTHING, [1, 1]),
    (&[Buffered, Buffered], |log| log.flush(), [2, 0]),
    (&[Buffered, Buffered], |log| log.sync(), [2, 2]),
    (&[Buffered, Buffered], |log| log.close(), [2, 2]),
    (&[Buffered, Flushed], NOTHING, [2, 0]),
    (&[Buffered, Synced], NOTHING, [2, 2]),
    (&[Flushed, Synced], NOTHING, [2, 2]),
    (&[Synced, Flushed, Buffered], NOTHING, [2, 1]),
    (&[Synced, Buffered, Flushed], NOTHING, [3, 1]),
    (&[Synced, Synced, Buffered, Flushed, Buffered], |log| log.reopen(), [4, 2]),
];

#[test]
fn entries_survive_crashes_of_their_durability() {
    for (appends, call, survive) in SURVIVAL {
        let sim = simulated(1);
        let log = open(sim.clone());
        let entries: Vec<Vec<u8>> = (0..appends.len()).map(|i| vec![i as u8; 10 + i]).collect();
        for (entry, &durability) in entries.iter().zip(appends) {
            log.append(entry, durability).unwrap();
        }
        call(&log).unwrap();
        for (crash, survivors) in [Crash::Kill, Crash::Lost].into_iter().zip(survive) {
            let left = SimStorage::on(sim.disk().crash(crash, &mut Rng::new(1)), 2);
            let found = read(&open(left), Visibility::Stable).unwrap();
            assert_eq!(found.entries, entries[..survivors], "{appends:?}: {crash:?}");
        }
    }
}

/// A stream on a storage that holds the first thread that syncs a file, and counts the syncs of
/// files.
fn held_at_sync() -> (StreamLog, Gate, Arc<AtomicUsize>) {
    let storage = HookedStorage::new(memory());
    let log = open(storage.clone());
    log.append(b"first", Synced).unwrap();
    let gate = Gate::new();
    let syncs = Arc::new(AtomicUsize::new(0));
    let at_sync = gate.clone();
    let counted = Arc::clone(&syncs);
    storage.set(move |operation, _| {
        if operation == Operation::Sync {
            counted.fetch_add(1, Ordering::SeqCst);
            at_sync.pass();
        }
        Ok(())
    });
    (log, gate, syncs)
}

fn wait_for(what: &str, is_reached: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_reached() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn appends_that_wait_together_share_one_sync() {
    const THREADS: u64 = 8;
    let (log, gate, syncs) = held_at_sync();
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| log.append(b"leader", Synced).unwrap());
        gate.await_one();
        let waiting: Vec<_> = (0..THREADS)
            .map(|i| {
                scope.spawn({
                    let log = &log;
                    move || log.append(&[i as u8; 3], Synced).unwrap()
                })
            })
            .collect();
        wait_for("all appends are accepted while the leader syncs", || log.next_seq() == 2 + THREADS);
        assert_eq!(log.durable_seq(), 1, "no append is acknowledged before its sync");
        gate.open();
        assert_eq!(leader.join().unwrap(), 1);
        let mut seqs: Vec<u64> = Vec::new();
        for (i, thread) in (0..).zip(waiting) {
            let seq = thread.join().unwrap();
            assert_eq!(log.get(seq, Visibility::Stable).unwrap().unwrap().data()[..], [i; 3]);
            seqs.push(seq);
        }
        seqs.sort_unstable();
        assert_eq!(seqs, (2..2 + THREADS).collect::<Vec<_>>());
    });
    assert_eq!(syncs.load(Ordering::SeqCst), 2, "one of the leader, one for all others");
}

#[test]
fn buffered_append_does_not_wait_for_a_sync() {
    let (log, gate, syncs) = held_at_sync();
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| log.append(b"leader", Synced).unwrap());
        gate.await_one();
        assert_eq!(log.append(b"buffered", Buffered).unwrap(), 2);
        assert_eq!(log.end_seq(Visibility::Accepted), 3);
        assert_eq!(log.get(2, Visibility::Stable).unwrap(), None);
        assert_eq!(log.get(2, Visibility::Accepted).unwrap().unwrap().data()[..], b"buffered"[..]);
        gate.open();
        leader.join().unwrap();
    });
    assert_eq!((log.durable_seq(), syncs.load(Ordering::SeqCst)), (2, 1));
}
