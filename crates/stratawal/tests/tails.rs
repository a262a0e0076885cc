//! `Options::tail_bytes`: the memory of entries that wait to be written is bounded over all
//! streams, and no append fails because of it.

use std::path::Path;
use std::sync::Arc;

use stratawal::{Durability, ErrorKind, Options, StreamOptions, Wal};
use stratawal_storage::MemoryStorage;

const STREAMS: u64 = 100;
const LIMIT: u64 = 1 << 20;
/// Each stream gets fewer bytes than its own buffer holds.
const BYTES: u64 = 100 << 10;

fn open(journal: bool, tail_bytes: usize) -> Wal {
    let streams = StreamOptions::new().segment_bytes(1 << 20);
    let options = Options::new().stream_defaults(streams).journal(journal).maintenance_thread(false);
    let options = options.tail_bytes(tail_bytes);
    options.open_on(Arc::new(MemoryStorage::new()), Path::new("/log"), false).unwrap()
}

/// Appends to all streams in turn. Returns the greatest memory of their tails.
fn fill(wal: &Wal, durability: Durability) -> u64 {
    let streams: Vec<_> =
        (0..STREAMS).map(|i| wal.stream(&i.to_string()).unwrap().with_durability(durability)).collect();
    let mut greatest = 0;
    for _ in 0..BYTES / 1000 {
        for stream in &streams {
            stream.append(vec![7; 996]).unwrap();
        }
        greatest = greatest.max(wal.stats().unwrap().tail_bytes);
    }
    let entries = wal.stats().unwrap().entries;
    assert_eq!(entries, STREAMS * (BYTES / 1000));
    greatest
}

#[test]
fn buffered_entries_of_all_streams_keep_to_the_bound() {
    for journal in [false, true] {
        let bounded = fill(&open(journal, 1 << 20), Durability::Buffered);
        let unbounded = fill(&open(journal, 256 << 20), Durability::Buffered);
        println!("journal: {journal}: at most {bounded} bytes of memory, {unbounded} without the bound");
        // A buffer may be several times as long as the entries in it.
        assert!(bounded < 5 * LIMIT, "{bounded}");
        assert!(unbounded >= STREAMS * BYTES * 9 / 10, "{unbounded}");
    }
}

/// What the journal has and the files have not also waits in memory.
#[test]
fn entries_in_the_journal_are_drained_at_the_bound() {
    let drained = |tail_bytes| {
        let wal = open(true, tail_bytes);
        fill(&wal, Durability::Flushed);
        wal.stats().unwrap().written_entries
    };
    let (bounded, unbounded) = (drained(1 << 20), drained(256 << 20));
    println!("{bounded} entries were drained, and {unbounded} without the bound");
    assert!(bounded > unbounded + STREAMS * 50, "{bounded}");
}

#[test]
fn memory_of_closed_and_deleted_streams_is_given_back() {
    let wal = open(false, 1 << 20);
    for i in 0..50 {
        let stream = wal.stream("s").unwrap().with_durability(Durability::Buffered);
        for _ in 0..100 {
            stream.append(vec![7; 1000]).unwrap();
        }
        // Nothing was written yet: 100 KB are within both bounds.
        assert_eq!(stream.stats().unwrap().written_entries, 0, "round {i}");
        if i % 2 == 0 {
            stream.close().unwrap();
        }
        drop(stream);
        wal.delete_stream("s").unwrap();
    }
}

#[test]
fn too_small_a_bound_is_refused_with_its_value() {
    let error = Options::new().tail_bytes(1000).open("/nowhere").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("tail_bytes is 1000, and must be at least"), "{error}");
}
