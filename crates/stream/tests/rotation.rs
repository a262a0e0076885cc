//! Segments: where one ends and the next begins, and how many files a stream has.

mod common;

use std::path::Path;

use common::{DIR, memory, open, open_with, read, small_segments};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_stream::{Batch, Durability, Visibility};

const SEGMENT_LEN: u64 = 64 << 10;

/// The base seqs of the segment files, by their names.
fn bases(storage: &MemoryStorage) -> Vec<u64> {
    let base = |name: std::ffi::OsString| name.to_str().unwrap()[..20].parse().unwrap();
    storage.list(Path::new(DIR)).unwrap().into_iter().map(|entry| base(entry.name)).collect()
}

fn batch(entries: u64, len: usize) -> Batch {
    let mut batch = Batch::new();
    (0..entries).for_each(|i| batch.push(vec![i as u8; len]));
    batch
}

#[test]
fn segments_begin_with_a_batch() {
    for (entries, len) in [(1, 1000), (7, 1000), (100, 10), (3, 20_000), (1, 60_000)] {
        let what = format!("batches of {entries} entries of {len} bytes");
        let storage = memory();
        let log = open(storage.clone());
        for durability in [Durability::Synced, Durability::Flushed, Durability::Buffered].into_iter().cycle().take(40) {
            log.append_batch(&batch(entries, len), durability).unwrap();
        }
        while log.stats().unwrap().segments < 3 {
            log.append_batch(&batch(entries, len), Durability::Flushed).unwrap();
        }
        let end = log.next_seq();
        log.close().unwrap();
        let bases = bases(&storage);
        assert_eq!(bases.len() as u64, log.stats().unwrap().segments, "{what}");
        assert!(bases.iter().all(|base| base % entries == 0), "{what}: a batch crosses a segment: {bases:?}");
        for (path, bytes) in common::files(&storage) {
            // The SEAL may be after the last frame that fits.
            assert!(bytes.len() as u64 <= SEGMENT_LEN + 4096, "{what}: {} of {}", bytes.len(), path.display());
        }
        let found = read(&open(storage), Visibility::Stable).unwrap();
        assert_eq!(found.next_seq(), end, "{what}");
    }
}

#[test]
fn batch_longer_than_a_segment_gets_its_own() {
    let storage = memory();
    let log = open(storage.clone());
    log.append(b"before", Durability::Synced).unwrap();
    assert_eq!(log.append_batch(&batch(3, 70_000), Durability::Synced).unwrap(), 1..4);
    log.append(b"after", Durability::Synced).unwrap();
    log.close().unwrap();
    assert_eq!(bases(&storage), [0, 1, 4]);
    let found = read(&open(storage), Visibility::Stable).unwrap();
    assert_eq!(found.entries.iter().map(Vec::len).collect::<Vec<_>>(), [6, 70_000, 70_000, 70_000, 5]);
}

#[test]
fn unsynced_segments_are_synced_at_their_bound() {
    for (segments_max, bytes_max) in [(2, 1 << 30), (1000, 200 << 10)] {
        let options = small_segments()
            .durability(Durability::Flushed)
            .unsynced_segments_max(segments_max)
            .unsynced_bytes_max(bytes_max);
        let log = open_with(memory(), options).unwrap();
        while log.stats().unwrap().segments < 10 {
            let end = log.append(&[7; 5000], Durability::Flushed).unwrap() + 1;
            let unsynced = (end - log.durable_seq()) * 5000;
            assert!(unsynced <= 4 * SEGMENT_LEN + (64 << 10), "{unsynced} bytes are not synced");
        }
        assert!(log.durable_seq() > 0);
    }
}

#[test]
fn clean_lives_share_a_segment() {
    let storage = memory();
    for life in 0..50 {
        let log = open(storage.clone());
        let report = log.report();
        assert!(life == 0 || report.clean && report.scanned_bytes == 0, "life {life}: {report:?}");
        assert_eq!(log.append(&[life; 100], Durability::Buffered).unwrap(), life.into());
        log.close().unwrap();
    }
    assert_eq!(bases(&storage), [0]);
}
