//! How much memory calls allocate: appends and scans allocate none, and a point read only its
//! entry.

use std::sync::Arc;

use allocation_counter::measure;
use stratawal::{Batch, Durability, Options, Stream, StreamOptions, Visibility, Wal};
use stratawal_storage::UnixStorage;
use stratawal_testkit::{Gate, HookedStorage, Operation};

const ENTRY: [u8; 128] = [7; 128];

/// Allows an occasional chunk of the index and a growing list, but no allocation for each append.
const FEW: u64 = 12;

fn stream(wal: &Wal, durability: Durability) -> Stream {
    let stream = wal.stream_with("s", StreamOptions::new().durability(durability)).unwrap();
    // After these appends the buffers have reached their final size.
    for _ in 0..2 {
        for _ in 0..5_000 {
            stream.append(ENTRY).unwrap();
        }
        stream.flush().unwrap();
    }
    stream
}

#[test]
fn append_allocates_nothing() {
    let durabilities = [Durability::Buffered, Durability::Flushed, Durability::Synced];
    let cases = durabilities.into_iter().flat_map(|durability| [(durability, false), (durability, true)]);
    for (durability, journal) in cases {
        let dir = tempfile::tempdir().unwrap();
        let wal = Options::new().journal(journal).open(dir.path()).unwrap();
        let stream = stream(&wal, if durability == Durability::Synced { Durability::Flushed } else { durability });
        let stream = stream.with_durability(durability);
        let appends = if durability == Durability::Synced { 200 } else { 5_000 };
        stream.append(ENTRY).unwrap();
        let counted = measure(|| {
            for _ in 0..appends {
                stream.append(ENTRY).unwrap();
            }
        });
        let few = match durability {
            // What is drained stays in memory until its records are released, so each drain of
            // 256 KiB takes buffers.
            Durability::Flushed if journal => 4 * FEW,
            // A sync of the journal lists the files that it has to sync.
            Durability::Synced if journal => appends + FEW,
            _ => FEW,
        };
        assert!(counted.count_total <= few, "{durability:?}, journal {journal}: {counted:?}");
    }
}

#[test]
fn entries_outside_the_journal_leave_memory() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Options::new().maintenance_thread(false).open(dir.path()).unwrap();
    let stream = wal.stream_with("s", StreamOptions::new().durability(Durability::Buffered)).unwrap();
    let counted = measure(|| {
        stream.append(ENTRY).unwrap();
        // This entry is in the journal. The others are drained without it.
        stream.flush().unwrap();
        (0..80_000).for_each(|_| assert!(stream.append(ENTRY).is_ok()));
    });
    assert!(counted.bytes_current < 1 << 20, "{counted:?}");
    wal.close().unwrap();
}

#[test]
fn large_entry_is_appended_without_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let entry = vec![7; 64 << 20];
    for durability in [Durability::Buffered, Durability::Synced] {
        let stream = wal.stream("s").unwrap().with_durability(durability);
        let counted = measure(|| {
            stream.append(&entry).unwrap();
        });
        assert!(counted.bytes_max < 1 << 20, "{durability:?}: {counted:?}");
    }
    wal.close().unwrap();
}

#[test]
fn large_batch_allocates_only_its_tables() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream_with("s", StreamOptions::new().durability(Durability::Flushed)).unwrap();
    let mut batch = stratawal::Batch::new();
    (0..100_000).for_each(|_| batch.push(ENTRY));
    let counted = measure(|| {
        stream.append_batch(&batch).unwrap();
    });
    // The end offsets are in memory twice: as numbers and encoded.
    assert!(counted.bytes_max < 2 * 4 * 100_000 + (64 << 10), "{counted:?}");
    wal.close().unwrap();
}

#[test]
fn scan_allocates_nothing_and_get_one_entry() {
    // Entries that were drained from a journal share frames. A scan takes one allocation for each
    // frame with several entries, and some gets need a longer buffer for such a frame.
    for (journal, scans_max, few, bytes) in [(false, 40, FEW, 160), (true, 10_000 / 4, 10 * FEW, 800)] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().journal(journal);
        {
            let wal = options.open(dir.path()).unwrap();
            drop(stream(&wal, Durability::Flushed));
            wal.close().unwrap();
        }
        let wal = options.open(dir.path()).unwrap();
        let stream = wal.stream_with("s", StreamOptions::new().durability(Durability::Flushed)).unwrap();
        let mut read = 0;
        let scan = measure(|| read = stream.iter(..).map(|entry| entry.unwrap().data().len()).sum());
        assert_eq!(read, 10_000 * ENTRY.len());
        assert!(scan.count_total <= scans_max, "journal {journal}: {scan:?}");
        stream.get(5).unwrap();
        let gets = measure(|| {
            for seq in 0..1_000 {
                assert_eq!(stream.get(seq * 7).unwrap().unwrap().data().len(), ENTRY.len());
            }
        });
        let is_few = gets.count_total <= 1_000 + few && gets.bytes_total <= 1_000 * bytes;
        assert!(is_few, "journal {journal}: {gets:?}");
        wal.close().unwrap();
    }
}

#[test]
fn scan_of_the_tail_allocates_for_runs_of_entries() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let options = StreamOptions::new().durability(Durability::Buffered).buffer_bytes(1 << 20);
    let stream = wal.stream_with("s", options).unwrap().with_visibility(Visibility::Accepted);
    // They share a timestamp as far as the clock allows, and so a frame of some 46 entries.
    for _ in 0..2_000 {
        stream.append(ENTRY).unwrap();
    }
    for reversed in [false, true] {
        let mut read = 0;
        let scan = measure(|| {
            let entries = stream.iter(..).map(|entry| entry.unwrap().data().len());
            read = if reversed { entries.rev().count() } else { entries.count() };
        });
        assert_eq!(read, 2_000);
        assert!(scan.count_total <= 2_000 / 4, "{scan:?}");
    }
    wal.close().unwrap();
}

#[test]
fn kept_short_entry_holds_only_its_own_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = stream(&wal, Durability::Flushed);
    let seqs: Vec<u64> = (0..100).map(|i| i * 97).collect();
    let mut kept = Vec::new();
    let counted = measure(|| kept = stream.get_many(&seqs).unwrap());
    assert!(kept.iter().all(|entry| entry.as_ref().is_some_and(|entry| entry.data()[..] == ENTRY)));
    assert!(counted.bytes_current <= 100 * 300, "{counted:?}");
}

#[test]
fn names_without_entries_keep_no_memory() {
    const NAMES: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let look_up = |i: usize| assert_eq!(wal.stream(&format!("looked up {i}")).unwrap().next_seq(), 0);
    let create_and_delete = |i: usize| {
        let name = format!("deleted {i}");
        wal.stream_with(&name, StreamOptions::new().durability(Durability::Buffered)).unwrap().append(ENTRY).unwrap();
        wal.delete_stream(&name).unwrap();
    };
    // By now the memory that all streams share has reached its size.
    (0..10).for_each(|i| (look_up(i), create_and_delete(i)).0);
    let looked_up = measure(|| (0..NAMES).for_each(look_up));
    let deleted = measure(|| (0..NAMES / 10).for_each(create_and_delete));
    assert!(looked_up.bytes_current <= 10 << 10, "{looked_up:?}");
    assert!(deleted.bytes_current <= 10 << 10, "{deleted:?}");
}

#[test]
fn too_long_name_is_refused_before_escaping() {
    let name = "/".repeat(1 << 20);
    let counted = measure(|| {
        assert!(stratawal::inspect::escape_name(&name).is_err());
    });
    // The error keeps the name.
    assert!(counted.bytes_max < 3 << 19, "{counted:?}");
}

#[test]
fn tickets_in_flight_take_bounded_memory() {
    const TICKETS: usize = 100_000;
    for journal in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let storage = HookedStorage::new(UnixStorage::new());
        let wal = Options::new().journal(journal).sync_interval(None);
        let wal = wal.open_on(Arc::new(storage.clone()), &dir.path().join("log"), false).unwrap();
        let stream = wal.stream("s").unwrap();
        // So long that the stream has a directory.
        stream.append(vec![7; 100 << 10]).unwrap();
        let gate = Gate::new();
        let passed = gate.clone();
        storage.set(move |operation, _| {
            if operation == Operation::Sync {
                passed.pass();
            }
            Ok(())
        });
        let batch: Batch = [""].into_iter().collect();
        let mut tickets = Vec::with_capacity(TICKETS);
        tickets.push(stream.submit(&batch).unwrap());
        gate.await_one();
        let in_flight = measure(|| (1..TICKETS).for_each(|_| tickets.push(stream.submit(&batch).unwrap())));
        // The tail has 4 bytes for each entry, in buffers that grow by doubling.
        assert!(in_flight.bytes_max < 150 * TICKETS as u64, "journal {journal}: {in_flight:?}");
        assert!(in_flight.count_total < TICKETS as u64 / 10, "no allocation for each ticket: {in_flight:?}");
        gate.open();
        assert_eq!(tickets.pop().unwrap().wait().unwrap(), TICKETS as u64..TICKETS as u64 + 1);
        drop(tickets);
        wal.close().unwrap();
    }
}
