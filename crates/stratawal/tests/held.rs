//! A reader that is held while a writer in another process removes the files, or the journal, that
//! the reader has seen.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use stratawal::{Batch, Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{HookedStorage, Operation, SimStorage};

const LOG: &str = "/log";

fn options(journal: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10);
    Options::new().stream_defaults(streams).journal(journal).journal_mapped(false).maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, journal: bool) -> Wal {
    options(journal).open_on(Arc::new(storage), Path::new(LOG), false).unwrap()
}

fn beside(storage: impl Storage + 'static) -> Wal {
    Options::new().open_on(Arc::new(storage), Path::new(LOG), true).unwrap()
}

/// Appends an entry that is too long for the journal.
fn append_large(stream: &Stream) {
    stream.append(vec![b'x'; 100_000]).unwrap();
}

/// A log whose stream "s" has this many entries, each in a segment of its own.
fn with_segments(sim: &SimStorage, journal: bool, count: usize) -> Wal {
    let wal = open(sim.clone(), journal);
    let stream = wal.stream("s").unwrap();
    for _ in 0..count {
        // Takes most of a segment.
        stream.append(vec![b'x'; 50_000]).unwrap();
        sim.let_pass(1000);
    }
    drop(stream);
    // A reader opens the files of sealed segments when it reads them.
    wal.close().unwrap();
    open(sim.clone(), journal)
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

/// The time of a dropped entry leads to a file that the writer removes.
#[test]
fn seq_of_a_time_needs_no_file_of_dropped_entries() {
    let sim = SimStorage::new(1);
    with_segments(&sim, true, 3).close().unwrap();
    let hooked = HookedStorage::new(sim.clone());
    let wal = open(hooked.clone(), true);
    let stream = wal.stream("s").unwrap();
    let time = stream.get(1).unwrap().unwrap().timestamp();
    // The reader looks when the journal has the START, and the files are still there.
    let held = Arc::new(std::sync::Mutex::new(None));
    let (look, reader) = (Arc::clone(&held), sim.clone());
    hooked.set(move |operation, path| {
        if operation == Operation::Write && is_segment(path) {
            look.lock().unwrap().get_or_insert_with(|| beside(reader.clone()).stream("s").unwrap());
        }
        Ok(())
    });
    stream.truncate_before(2).unwrap();
    hooked.clear();
    let held = held.lock().unwrap().take().expect("the START frees a file");
    assert_eq!((held.first_seq(), held.next_seq()), (2, 3));
    assert_eq!(held.seq_at(time).unwrap(), 2);
    assert_eq!(held.seq_at(SystemTime::UNIX_EPOCH).unwrap(), 2);
    assert_eq!(held.get(1).unwrap_err().kind(), ErrorKind::Truncated { first_seq: 2 });
}

/// Files that are gone when the reader opens them, in two looks after each other.
#[test]
fn files_that_two_looks_miss_are_no_error() {
    for journal in [false, true] {
        let sim = SimStorage::new(1);
        let wal = with_segments(&sim, journal, 3);
        let hooked = HookedStorage::new(sim);
        let held = beside(hooked.clone()).stream("s").unwrap();
        wal.delete_stream("s").unwrap();
        append_large(&wal.stream("s").unwrap());
        let missed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&missed);
        hooked.set(move |operation, path| {
            let is_missed =
                operation == Operation::Open && is_segment(path) && count.fetch_add(1, Ordering::SeqCst) < 3;
            if is_missed { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
        });
        let error = held.get(1).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Cut { next_seq: 0 | 1 }), "journal {journal}: {error:?}");
        assert!(missed.load(Ordering::SeqCst) > 3);
        missed.store(0, Ordering::SeqCst);
        held.reopen().unwrap();
        assert_eq!(held.next_seq(), 1);
    }
}

/// A second thread refreshes the handle while the first finds out why a file is gone.
#[test]
fn refresh_during_a_read_hides_no_cut() {
    let sim = SimStorage::new(1);
    let wal = with_segments(&sim, true, 4);
    let hooked = HookedStorage::new(sim);
    let held = beside(hooked.clone()).stream("s").unwrap();
    // The files end below the entry that is read, and the journal has more.
    let stream = wal.stream("s").unwrap();
    stream.truncate_from(1).unwrap();
    for _ in 0..5 {
        stream.with_durability(Durability::Synced).append("short").unwrap();
    }
    let opened = AtomicUsize::new(0);
    let handle = held.clone();
    hooked.set(move |operation, path| {
        // The first opening is that of the reading thread.
        if operation == Operation::Open && is_segment(path) && opened.fetch_add(1, Ordering::SeqCst) == 1 {
            handle.reopen().unwrap();
        }
        Ok(())
    });
    match held.get(2) {
        Ok(Some(entry)) => assert_eq!(&entry.data()[..], b"short"),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::Cut { .. }), "{error:?}"),
        Ok(None) => panic!("the stream has more entries"),
    }
}

/// The log gives its journal up, so a stream without files does not exist.
#[test]
fn journal_that_was_given_up_is_not_damaged() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), true);
    wal.stream("s").unwrap().append("first").unwrap();
    let reader = beside(sim.clone());
    let held = reader.stream("s").unwrap();
    wal.close().unwrap();
    let wal = open(sim.clone(), false);
    wal.stream("s").unwrap().append("second").unwrap();
    assert!(!reader.stream("none").unwrap().exists());
    held.reopen().unwrap();
    assert_eq!(held.next_seq(), 2);
    wal.close().unwrap();
    let wal = open(sim, true);
    wal.stream("s").unwrap().append("third").unwrap();
    held.reopen().unwrap();
    assert_eq!(held.next_seq(), 3);
}

/// The directory of the journal is gone when the reader syncs it.
#[test]
fn journal_that_is_removed_during_a_look_is_no_error() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), true);
    let stream = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    stream.append("first").unwrap();
    let hooked = HookedStorage::new(sim);
    let count = AtomicUsize::new(0);
    hooked.set(move |operation, path| {
        let is_missed = operation == Operation::SyncDir && path.ends_with("journal");
        let is_missed = is_missed && count.fetch_add(1, Ordering::SeqCst) == 0;
        if is_missed { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    });
    assert_eq!(beside(hooked).stream("s").unwrap().next_seq(), 1);
}

/// The entries of one record of the journal, some of which are dropped.
#[test]
fn cut_within_a_batch_keeps_the_entries_before_it() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), true);
    let stream = wal.stream("s").unwrap();
    let batch: Batch = (0..10).map(|i: u8| [i; 20]).collect();
    stream.append_batch(&batch).unwrap();
    let held = beside(sim).stream("s").unwrap();
    let mut entries = held.iter(..);
    assert_eq!(entries.next().unwrap().unwrap().seq(), 0);
    stream.truncate_from(7).unwrap();
    held.reopen().unwrap();
    assert_eq!(held.next_seq(), 7);
    for seq in 1..6 {
        assert_eq!(entries.next().unwrap().unwrap().seq(), seq);
    }
    // Entry 6 ends the batch now, so it is not the same as before.
    let error = entries.next().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Cut { next_seq: 6 }), "{error:?}");
}

/// Both streams of this name are in the journal alone.
#[test]
fn stream_created_anew_is_not_read_through_old_iterators() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), true);
    wal.stream("s").unwrap().append("before").unwrap();
    let held = beside(sim).stream("s").unwrap();
    let mut entries = held.iter(..);
    wal.delete_stream("s").unwrap();
    wal.stream("s").unwrap().append("after").unwrap();
    held.reopen().unwrap();
    let error = entries.next().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Cut { next_seq: 0 }), "{error:?}");
    assert_eq!(&held.get(0).unwrap().unwrap().data()[..], b"after");
}

/// The files have the first entry, and the journal the second one.
#[test]
fn stream_cut_to_nothing_is_not_read_through_old_iterators() {
    let sim = SimStorage::new(1);
    let streams = StreamOptions::new().buffer_bytes(1);
    let wal = options(true).stream_defaults(streams).open_on(Arc::new(sim.clone()), Path::new(LOG), false).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.with_durability(Durability::Buffered).append("").unwrap();
    stream.with_durability(Durability::Flushed).append("").unwrap();
    let held = beside(sim).stream("s").unwrap();
    let mut entries = held.iter(..);
    stream.truncate_from(0).unwrap();
    held.reopen().unwrap();
    stream.append("x").unwrap();
    held.reopen().unwrap();
    let error = entries.next().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Cut { next_seq: 0 }), "{error:?}");
}

/// At the same time, with the same bytes, and with other ends of batches.
#[test]
fn batch_that_is_cut_and_appended_again_is_another() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), true);
    let stream = wal.stream("s").unwrap();
    stream.append_batch(&["", "", "", ""].into_iter().collect()).unwrap();
    let held = beside(sim).stream("s").unwrap();
    let mut entries = held.iter(..);
    stream.truncate_from(0).unwrap();
    stream.append_batch(&["", "", ""].into_iter().collect()).unwrap();
    held.reopen().unwrap();
    for seq in 0..2 {
        assert!(!entries.next().unwrap().unwrap().ends_batch(), "entry {seq} ends no batch in either");
    }
    let error = entries.next().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Cut { next_seq: 2 }), "{error:?}");
}

/// The first of the entries were dropped too, so the others cannot be compared as a whole.
#[test]
fn cut_after_a_truncation_of_the_same_batch_is_noticed() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), true);
    let stream = wal.stream("s").unwrap();
    stream.append_batch(&["a", "b", "c", "d"].into_iter().collect()).unwrap();
    let held = beside(sim).stream("s").unwrap();
    let mut entries = held.iter(1..);
    stream.truncate_before(1).unwrap();
    stream.truncate_from(1).unwrap();
    stream.append_batch(&["x", "y", "z"].into_iter().collect()).unwrap();
    held.reopen().unwrap();
    let error = entries.next_back().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Cut { next_seq: 1 }), "{error:?}");
}
