//! Batches over 1 MiB, which are written directly from the caller's memory: their order among other
//! appends, failures, crashes.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{memory, open_with, simulated};
use stratawal_stream::{Batch, Durability, ErrorKind, StreamLog, StreamOptions, Visibility};
use stratawal_testkit::{Crash, Disk, Fault, Faults, Rng, SimStorage};

fn open(sim: &SimStorage) -> StreamLog {
    open_with(sim.clone(), StreamOptions::new()).unwrap()
}

/// The entries of a batch of 1.2 MiB, each with different bytes.
fn large(seed: u8) -> Vec<Vec<u8>> {
    (0..3).map(|i| vec![seed.wrapping_mul(3).wrapping_add(i); 420_000 + usize::from(i)]).collect()
}

fn append(log: &StreamLog, entries: &[Vec<u8>], durability: Durability) -> stratawal_stream::Result<u64> {
    log.append_batch(&entries.iter().collect::<Batch>(), durability).map(|seqs| seqs.start)
}

fn entries(log: &StreamLog) -> Vec<Vec<u8>> {
    let get = |seq| log.get(seq, Visibility::Stable).unwrap().expect("a seq below the end").data().to_vec();
    (log.first_seq()..log.end_seq(Visibility::Stable)).map(get).collect()
}

#[test]
fn large_batch_keeps_its_order_among_appends() {
    const SMALL_APPENDS: u64 = 200;
    const ENTRIES: u64 = 3 * (SMALL_APPENDS + 6 * 3);
    for segment_len in [64 << 10, 64 << 20] {
        let storage = memory();
        let options = StreamOptions::new().segment_bytes(segment_len);
        let log = open_with(storage.clone(), options.clone()).unwrap();
        let appended = Mutex::new(BTreeMap::new());
        let keep = |first: u64, entries: Vec<Vec<u8>>| {
            let mut appended = appended.lock().unwrap();
            for (seq, entry) in (first..).zip(entries) {
                assert!(appended.insert(seq, entry).is_none(), "seq {seq} was given twice");
            }
        };
        thread::scope(|scope| {
            let log = &log;
            let keep = &keep;
            scope.spawn(move || {
                // The loop also ends if an append fails.
                let began = Instant::now();
                while log.next_seq() < ENTRIES && began.elapsed() < Duration::from_secs(60) {
                    let end = log.end_seq(Visibility::Accepted);
                    for seq in end.saturating_sub(2)..end {
                        assert!(log.get(seq, Visibility::Accepted).unwrap().is_some(), "seq {seq} cannot be read");
                    }
                }
            });
            for durability in [Durability::Buffered, Durability::Flushed, Durability::Synced] {
                scope.spawn(move || {
                    for i in 0..SMALL_APPENDS {
                        let entry = format!("{durability:?} {i}").into_bytes();
                        keep(log.append(&entry, durability).unwrap(), vec![entry]);
                    }
                });
                scope.spawn(move || {
                    for seed in 0..6 {
                        let entries = large(seed);
                        keep(append(log, &entries, durability).unwrap(), entries);
                    }
                });
            }
        });
        log.sync().unwrap();
        let appended: Vec<_> = appended.into_inner().unwrap().into_values().collect();
        assert_eq!(appended.len() as u64, ENTRIES);
        assert!(entries(&log) == appended, "as they were acknowledged");
        log.close().unwrap();
        assert!(entries(&open_with(storage, options).unwrap()) == appended, "as they were acknowledged, after a close");
    }
}

#[test]
fn large_batch_is_written_at_every_durability() {
    for durability in [Durability::Buffered, Durability::Flushed, Durability::Synced] {
        let sim = simulated(1);
        let log = open(&sim);
        log.append(b"before", Durability::Buffered).unwrap();
        assert_eq!(append(&log, &large(1), durability).unwrap(), 1);
        assert_eq!(log.durable_seq(), if durability == Durability::Synced { 4 } else { 0 });
        let killed = open(&SimStorage::on(sim.disk().crash(Crash::Kill, &mut Rng::new(1)), 2));
        assert!(entries(&killed) == [vec![b"before".to_vec()], large(1)].concat(), "{durability:?}");
    }
}

#[test]
fn failed_large_batch_is_whole_or_absent() {
    for fault in [Fault::Io, Fault::Full] {
        for after in 0.. {
            let sim = simulated(1);
            let log = open(&sim);
            log.append(b"durable", Durability::Synced).unwrap();
            log.append(b"waits", Durability::Buffered).unwrap();
            sim.set_faults(Some(Faults { after, fault, forever: false }));
            let appended = append(&log, &large(1), Durability::Synced);
            let failed = sim.failed() > 0;
            sim.set_faults(None);
            if !failed {
                assert_eq!(appended.unwrap(), 2);
                assert!(after > 3, "preallocation, the pending entry, the batch and the sync can fail");
                break;
            }
            if let Err(error) = &appended {
                let kinds = [ErrorKind::Poisoned, ErrorKind::Io, ErrorKind::Full];
                assert!(kinds.contains(&error.kind()), "{fault:?} {after}: {error}");
                let refused = log.get(1, Visibility::Accepted).unwrap().map(|entry| entry.data().to_vec());
                assert_eq!(refused.as_deref(), Some(&b"waits"[..]), "{fault:?} {after}");
            }
            // After a refusal no entry of the batch exists, and the stream is healthy.
            if appended.as_ref().is_err_and(|error| error.kind() != ErrorKind::Poisoned) {
                assert_eq!(log.append(b"next", Durability::Synced).unwrap(), 2, "{fault:?} {after}");
                continue;
            }
            log.reopen().unwrap();
            let next = log.append(b"next", Durability::Synced).unwrap();
            let mut expected = vec![b"durable".to_vec(), b"waits".to_vec()];
            if next > 2 {
                expected.extend(large(1));
            } else {
                assert!(appended.is_err(), "{fault:?} {after}: an acknowledged batch is lost");
            }
            expected.push(b"next".to_vec());
            assert!(entries(&log) == expected, "{fault:?} {after}");
            let again = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(after)), 3);
            assert!(entries(&open(&again)) == expected, "{fault:?} {after}: after a crash");
        }
    }
}

#[test]
fn crash_leaves_a_large_batch_whole_or_absent() {
    for segment_len in [64 << 10, 64 << 20] {
        let options = StreamOptions::new().segment_bytes(segment_len);
        let sim = simulated(1);
        let log = open_with(sim.clone(), options.clone()).unwrap();
        log.append(b"first", Durability::Synced).unwrap();
        // Each state of the disk, with the seq below which all entries had been acknowledged as
        // durable by then.
        let durable = Arc::new(AtomicU64::new(1));
        let disks: Arc<Mutex<Vec<(Disk, u64)>>> = Arc::default();
        let seen = Arc::clone(&disks);
        let at_that_time = Arc::clone(&durable);
        sim.watch(move |disk| seen.lock().unwrap().push((disk.clone(), at_that_time.load(Ordering::SeqCst))));
        let batches = [vec![b"small".to_vec()], large(1), vec![b"small too".to_vec()], large(2)];
        let durabilities = [Durability::Buffered, Durability::Flushed, Durability::Buffered, Durability::Synced];
        for (entries, durability) in batches.iter().zip(durabilities) {
            let first = append(&log, entries, durability).unwrap();
            if durability == Durability::Synced {
                durable.store(first + entries.len() as u64, Ordering::SeqCst);
            }
        }
        sim.unwatch();
        // How many entries may exist after a crash: a batch exists as a whole or not at all.
        let ends: Vec<usize> =
            batches.iter().scan(1, |end, batch| Some(std::mem::replace(end, *end + batch.len()))).collect();
        let all = [vec![vec![b"first".to_vec()]], batches.to_vec()].concat().concat();
        let disks = std::mem::take(&mut *disks.lock().unwrap());
        assert!(disks.len() > 20, "each write is seen in its middle and at its end");
        for (i, (disk, durable)) in disks.into_iter().enumerate() {
            let crashes = [Crash::Kill, Crash::Lost, Crash::Mixed(128), Crash::Prefix];
            for crash in crashes {
                let after = SimStorage::on(disk.crash(crash, &mut Rng::new(i as u64)), 9);
                let found = entries(&open_with(after, options.clone()).unwrap());
                let context = format!("{segment_len} {i} {crash:?}: {} entries, {durable} durable", found.len());
                assert!(found.len() as u64 >= durable, "{context}");
                assert!(found.len() == all.len() || ends.contains(&found.len()), "{context}");
                assert!(found[..] == all[..found.len()], "{context}");
            }
        }
    }
}
