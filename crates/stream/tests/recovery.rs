//! Opening a stream that was not closed. Torn tails are cut off and reported; damage is reported
//! and nothing changes.

mod common;

use common::{files, memory, open, open_read_only, open_with, read, small_segments};
use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_stream::{Durability, ErrorKind, StreamLog, StreamOptions, Visibility};

const HEADER_LEN: usize = 128;

/// Changes one byte of a file.
fn change(storage: &MemoryStorage, path: &std::path::Path, at: usize, byte: u8) {
    storage.open(path, Access::ReadWrite).unwrap().write_all_at(&[byte], at as u64).unwrap();
}

/// A stream whose process died after appending three synced entries and one flushed entry, and the
/// range of the last entry's frame in its file.
fn killed() -> (MemoryStorage, std::path::PathBuf, std::ops::Range<usize>) {
    let storage = memory();
    let log = open(storage.clone());
    for i in 0..3 {
        log.append(&[i; 50], Durability::Synced).unwrap();
    }
    let before = files(&storage).remove(0).1;
    log.append(&[0xEE; 50], Durability::Flushed).unwrap();
    let dead = storage.snapshot();
    let (path, after) = files(&dead).remove(0);
    let start = before.iter().zip(&after).position(|(before, after)| before != after).unwrap();
    // The frame overwrote a MARK. Both begin with a checksum, and the first bytes of these may be
    // equal, so round down to the 8 bytes that frames are aligned to.
    let start = start / 8 * 8;
    let end = after.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    (dead, path, start..end)
}

#[test]
fn torn_tail_is_cut_off_and_reported() {
    let (dead, path, frame) = killed();
    assert_eq!(open(dead.snapshot()).next_seq(), 4, "the whole frame");
    for torn_at in frame.clone() {
        let storage = dead.snapshot();
        (torn_at..frame.end).for_each(|at| change(&storage, &path, at, 0));
        // A checksum may begin with zeros, which do not count as part of a torn tail.
        let is_torn = files(&storage).remove(0).1[frame.clone()].iter().any(|&byte| byte != 0);
        let reader = open_read_only(storage.clone()).unwrap();
        assert_eq!(reader.next_seq(), 3, "torn at {torn_at} of {frame:?}");
        let log = open(storage.clone());
        let report = log.report();
        assert!(report.existed && !report.clean, "{report:?}");
        assert_eq!(report.torn.is_some(), is_torn, "torn at {torn_at}: {report:?}");
        if let Some(torn) = &report.torn {
            assert!(path.ends_with(&torn.segment), "{report:?}");
            assert_eq!(torn.offset, frame.start as u64, "{report:?}");
            assert!((1..=(torn_at - frame.start) as u64).contains(&torn.bytes), "torn at {torn_at}: {report:?}");
        }
        assert_eq!(log.append(b"next", Durability::Synced).unwrap(), 3);
        log.close().unwrap();
        let log = open(storage);
        assert!(log.report().clean && log.report().torn.is_none());
        let entries = read(&log, Visibility::Stable).unwrap().entries;
        assert_eq!(entries, [vec![0; 50], vec![1; 50], vec![2; 50], b"next".to_vec()]);
    }
}

/// Three segments, closed.
fn closed() -> MemoryStorage {
    let storage = memory();
    let log = open(storage.clone());
    for i in 0..60 {
        log.append(&[i; 3000], Durability::Flushed).unwrap();
    }
    assert_eq!(log.stats().unwrap().segments, 3);
    log.close().unwrap();
    storage
}

#[test]
fn damaged_header_changes_nothing() {
    let closed = closed();
    for (path, bytes) in files(&closed) {
        for (at, &byte) in bytes[..HEADER_LEN].iter().enumerate() {
            let storage = closed.snapshot();
            change(&storage, &path, at, byte ^ 1);
            let before = files(&storage);
            for error in [open_read_only(storage.clone()), open_with(storage.clone(), small_segments())] {
                let error = error.map(|log| log.next_seq()).unwrap_err();
                let is_newer = error.kind() == ErrorKind::NewerFormat;
                assert!(error.is_damage() || is_newer, "byte {at}: {error}");
                assert!(path.ends_with(error.segment().unwrap()), "byte {at}: {error}");
            }
            assert!(files(&storage) == before, "byte {at}: files were changed");
        }
    }
}

#[test]
fn missing_segment_changes_nothing() {
    let closed = closed();
    for (path, _) in files(&closed) {
        let storage = closed.snapshot();
        storage.remove_file(&path).unwrap();
        let before = files(&storage);
        for error in [open_read_only(storage.clone()), open_with(storage.clone(), small_segments())] {
            let error = error.map(|log| log.next_seq()).unwrap_err();
            assert!(error.is_damage(), "without {}: {error}", path.display());
        }
        assert!(files(&storage) == before, "without {}: files were changed", path.display());
    }
}

#[test]
fn damaged_frame_loses_only_its_entry() {
    let closed = closed();
    for (path, bytes) in files(&closed) {
        let base: u64 = path.file_name().unwrap().to_str().unwrap()[..20].parse().unwrap();
        let storage = closed.snapshot();
        // In the payload of the first frame.
        change(&storage, &path, HEADER_LEN + 40 + 100, bytes[HEADER_LEN + 40 + 100] ^ 1);
        let log = open(storage);
        for seq in 0..60 {
            match log.get(seq, Visibility::Stable) {
                Ok(entry) => {
                    assert_ne!(seq, base, "a damaged entry was read");
                    assert_eq!(entry.unwrap().data()[..], [seq as u8; 3000]);
                }
                Err(error) => {
                    assert!(error.is_damage(), "{error}");
                    assert_eq!(error.lost(), Some(base..base + 1), "{seq}: {error}");
                }
            }
        }
        assert!(read(&log, Visibility::Stable).unwrap_err().is_damage());
    }
}

#[test]
fn damage_to_attested_entries_is_reported() {
    let storage = memory();
    let log = open(storage.clone());
    for i in 0..20 {
        log.append(&[i; 100], Durability::Synced).unwrap();
    }
    let dead = storage.snapshot();
    let (path, bytes) = files(&dead).remove(0);
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    // The last frames and the MARK after them attest all earlier entries.
    for at in (HEADER_LEN..used - 400).step_by(7) {
        let storage = dead.snapshot();
        change(&storage, &path, at, bytes[at] ^ 0x10);
        let before = files(&storage);
        let opened = open_with(storage.clone(), small_segments()).map(|log| read(&log, Visibility::Stable));
        match opened {
            Err(error) => {
                assert!(error.is_damage(), "byte {at}: {error}");
                assert!(files(&storage) == before, "byte {at}: files were changed");
            }
            Ok(read) => assert_eq!(read.unwrap().next_seq(), 20, "byte {at}: entries are missing without an error"),
        }
    }
}

#[test]
fn closed_handle_reads_and_refuses_changes() {
    let storage = memory();
    let log = open(storage.clone());
    log.append(b"entry", Durability::Buffered).unwrap();
    log.close().unwrap();
    log.close().expect("a second close has nothing to do");
    let changes: [fn(&StreamLog) -> stratawal_stream::Result<()>; 3] = [
        |log| log.append(b"x", Durability::Buffered).map(drop),
        |log| log.truncate_before(1),
        |log| log.truncate_from(0),
    ];
    for change in changes {
        assert_eq!(change(&log).unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(read(&log, Visibility::Stable).unwrap().entries, [b"entry"]);
    let reader = open_read_only(storage).unwrap();
    for change in changes {
        assert_eq!(change(&reader).unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}

#[test]
fn option_out_of_range_creates_nothing() {
    let options = StreamOptions::new;
    let refused = [
        options().segment_bytes((64 << 10) - 1),
        options().batch_bytes_max(0),
        options().batch_bytes_max(2 << 30),
        options().frame_bytes(0),
        options().frame_bytes((1 << 20) + 1),
        options().buffer_bytes(0),
        options().index_interval_bytes(0),
    ];
    for options in refused {
        let storage = memory();
        let error = open_with(storage.clone(), options.clone()).map(|log| log.next_seq()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{options:?}");
        assert!(storage.list("/streams".as_ref()).unwrap().is_empty());
    }
    let accepted = [
        options().segment_bytes(64 << 10),
        options().batch_bytes_max(1),
        options().batch_bytes_max((2 << 30) - 1),
        options().frame_bytes(1),
        options().frame_bytes(1 << 20),
        options().buffer_bytes(1),
        options().index_interval_bytes(1),
    ];
    for options in accepted {
        open_with(memory(), options.clone()).unwrap_or_else(|error| panic!("{options:?}: {error}"));
    }
}

#[test]
fn batch_over_the_bound_appends_nothing() {
    let log = open_with(memory(), StreamOptions::new().batch_bytes_max(100)).unwrap();
    log.append(&[1; 96], Durability::Synced).unwrap();
    assert_eq!(
        log.append(&[1; 97], Durability::Synced).unwrap_err().kind(),
        ErrorKind::TooLarge { len: 101, max: 100 }
    );
    assert_eq!(log.append(b"x", Durability::Synced).unwrap(), 1);
}
