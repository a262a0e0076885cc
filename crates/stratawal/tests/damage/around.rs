//! Reads around damaged frames: every intact entry can be read, even between two index points, and
//! the damage is reported with the entries that it takes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use stratawal::{Error, Options, Stream, StreamOptions, Wal};
use stratawal_storage::MemoryStorage;

use crate::check::OWN;
use crate::frames;
use crate::layout::{DIR, change, entry, new, read, segments_of};

fn open(storage: &MemoryStorage, index_every: u64) -> Wal {
    let defaults = StreamOptions::new().frame_bytes(200).segment_bytes(64 << 10).index_interval_bytes(index_every);
    Options::new()
        .journal(false)
        .stream_defaults(defaults)
        .open_on(Arc::new(storage.clone()), Path::new("/log"), false)
        .unwrap()
}

/// A closed stream with more than one segment.
fn closed(index_every: u64) -> MemoryStorage {
    let storage = new();
    let wal = open(&storage, index_every);
    let stream = wal.stream("s").unwrap();
    for batch in 0..400 {
        stream.append_batch(&(batch * 3..batch * 3 + 3).map(entry).collect()).unwrap();
    }
    wal.close().unwrap();
    storage
}

/// Damages a frame in one way.
type Harm = fn(&MemoryStorage, &Path, Range<u64>);

const HARMS: [(&str, Harm); 3] = [
    ("a header", |storage, path, at| change(storage, path, at.start + 9, |bytes| bytes[0] ^= 1, 1)),
    ("a payload", |storage, path, at| change(storage, path, at.end - 3, |bytes| bytes[0] ^= 1, 1)),
    ("all of it", |storage, path, at| {
        change(storage, path, at.start, |bytes| bytes.fill(0), usize::try_from(at.end - at.start).unwrap());
    }),
];

/// Checks the entries that `error` reports: `seq` is one of them, and all of them are lost.
fn check_lost(what: &str, error: &Error, seq: u64, lost: &BTreeSet<u64>) {
    let mut seqs = error.lost().unwrap_or_else(|| panic!("{what}: {seq}: {error}"));
    assert!(seqs.contains(&seq), "{what}: {seq}: {error}");
    assert!(seqs.all(|seq| lost.contains(&seq)), "{what}: {seq}: {error}");
}

/// Checks that an iteration in the order `seqs` returns the entries up to the first lost one, and
/// ends there.
fn check_iteration(
    what: &str,
    entries: impl Iterator<Item = stratawal::Result<stratawal::Entry>>,
    mut seqs: impl Iterator<Item = u64>,
    lost: &BTreeSet<u64>,
) {
    let mut failed = false;
    for found in entries {
        assert!(!failed, "{what}: an entry after the error");
        let seq = seqs.next().unwrap();
        match found {
            Ok(found) => {
                assert_eq!(found.seq(), seq, "{what}");
                assert!(!lost.contains(&seq) && found.data()[..] == entry(seq), "{what}: entry {seq} is another");
            }
            Err(error) => {
                check_lost(what, &error, seq, lost);
                failed = true;
            }
        }
    }
    assert!(failed || seqs.next().is_none(), "{what}: it ends too early");
}

fn check(what: &str, stream: &Stream, lost: &BTreeSet<u64>, near: Range<u64>) {
    let first = stream.first_seq();
    let next = stream.next_seq();
    for seq in near.start.max(first)..near.end.min(next) {
        match stream.get(seq) {
            Ok(found) => assert!(!lost.contains(&seq) && found.unwrap().data()[..] == entry(seq), "{what}: {seq}"),
            Err(error) => check_lost(what, &error, seq, lost),
        }
        check_iteration(&format!("{what}: from {seq}"), stream.iter(seq..), seq..next, lost);
        check_iteration(&format!("{what}: back from {seq}"), stream.iter(..=seq).rev(), (first..=seq).rev(), lost);
    }
}

#[test]
fn intact_entries_around_damaged_frames_are_read() {
    for index_every in [500, 16 << 10] {
        let storage = closed(index_every);
        let paths = segments_of(&storage, DIR);
        assert!(paths.len() > 1);
        for path in [&paths[0], paths.last().unwrap()] {
            let mut frames = frames::frames(&read(&storage, path));
            frames.retain(|frame| frame.kind.is_none());
            for (harm, act) in HARMS {
                for damaged in [&[0][..], &[3], &[3, 5], &[3, 4], &[6, 8, 11]] {
                    let what = format!("{OWN}{harm} of frames {damaged:?} of {}, {index_every}", path.display());
                    let storage = storage.snapshot();
                    let mut lost = BTreeSet::new();
                    for frame in damaged.iter().map(|&i: &usize| &frames[i]) {
                        act(&storage, path, frame.at.clone());
                        lost.extend(frame.first_seq..frame.first_seq + u64::from(frame.count));
                    }
                    let first = *lost.first().unwrap();
                    let last = *lost.last().unwrap();
                    let near = first.saturating_sub(5)..last + 15;
                    let wal = open(&storage, index_every);
                    check(&what, &wal.stream("s").unwrap(), &lost, near.clone());
                    wal.truncate_before("s", last + 1).unwrap();
                    let stream = wal.stream("s").unwrap();
                    check(&format!("{what}, truncated"), &stream, &BTreeSet::new(), near);
                    assert!(stream.iter(..).all(|found| found.is_ok()), "{what}, truncated");
                }
            }
        }
    }
}
