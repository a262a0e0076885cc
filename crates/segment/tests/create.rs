//! Tests the creation of a segment by rule H: the file is written under a temporary name, synced
//! and renamed, and the directory is synced; then frames are written. A failure before the rename
//! is undone. After a later failure the outcome is not known.

mod common;

use std::io::ErrorKind as IoKind;

use common::{Fault, HEADER_LEN, Scripted, Segment, data_frame, dir, file_of, header, walked};
use stratawal_frame::{Generation, SegmentHeader, SeqNo};
use stratawal_segment::{
    Access, CreateError, ErrorKind, SegmentFile, SegmentId, TEMPORARY_PREFIX, active_len, create, is_temporary,
};
use stratawal_storage::Storage;

const NAME: &str = "00000000000000000040-00000003.seg";
const TEMPORARY: &str = ".tmp-00000000000000000040-00000003.seg";

/// The operations that create a segment file, in order.
const OPERATIONS: [&str; 6] =
    ["create T", "preallocate T 8200", "write T 0+128", "sync T", "rename T N", "sync directory s"];
const RENAME: usize = 4;

fn operations() -> Vec<String> {
    OPERATIONS.map(|what| what.replace('T', TEMPORARY).replace('N', NAME)).to_vec()
}

fn fault(nth: usize, kind: IoKind) -> Fault {
    Fault { nth, kind, done: false, forever: false }
}

#[test]
fn the_name_is_durable_before_any_frame_is_written() {
    let storage = Scripted::new();
    let (mut writer, mut preallocation) = create(&storage.shared(), dir(), &header(), 5000).unwrap();
    assert_eq!(storage.take_log(), operations());
    let frame = data_frame(&writer.next_position(), 40, None, &[b"hello"]);
    preallocation.ensure(&writer.next_position().offset, frame.len() as u64).unwrap();
    writer.append(&frame).unwrap();
    assert_eq!(storage.take_log(), [format!("write {TEMPORARY} 128+48")], "through the handle that it was made with");
    assert_eq!(storage.tree().len(), 1, "and that is the file which has the name");
    assert_eq!(storage.tree()[0].0, NAME);
}

#[test]
fn a_new_segment_is_its_header_and_zeros() {
    let storage = Scripted::new();
    let (writer, preallocation) = create(&storage.shared(), dir(), &header(), 5000).unwrap();
    let bytes = storage.bytes();
    assert_eq!((bytes.len() as u64, preallocation.preallocated()), (8200, 8200));
    assert_eq!(bytes[..128], header().encode());
    assert!(bytes[128..].iter().all(|&b| b == 0));
    assert_eq!((*writer.header(), writer.id().to_string()), (header(), NAME.to_owned()));
    assert_eq!((writer.next_position().offset.0, writer.finished_len()), (HEADER_LEN, None));
    let file = SegmentFile::open(&storage.shared(), dir(), writer.id(), Access::Read).unwrap();
    assert!(file.holds_only_zeros().unwrap() && file.has_active_len() && file.finished().unwrap().is_none());
    let (chain, frames) = walked(&file);
    assert_eq!((chain.end_seq, chain.end.0, chain.attested, frames.len()), (SeqNo(40), HEADER_LEN, SeqNo(40), 0));
}

#[test]
fn a_new_file_has_the_length_of_an_active_segment() {
    for reserve in [9, 128, 4096, 4103, 4104, 4105, 8200, 1_000_000] {
        let segment = Segment::with(&header(), reserve);
        let len = segment.storage.bytes().len() as u64;
        assert_eq!(
            (len, segment.preallocation.preallocated()),
            (active_len(reserve), active_len(reserve)),
            "{reserve}"
        );
        assert!(len >= reserve && len < reserve + 4096 && segment.file().has_active_len(), "{reserve}: {len}");
    }
}

#[test]
fn a_new_file_has_room_for_its_header() {
    for reserve in 0..=8 {
        let segment = Segment::with(&header(), reserve);
        assert!(segment.file().has_active_len(), "{reserve}: {}", segment.file().len());
        assert_eq!(segment.preallocation.preallocated(), segment.file().len(), "{reserve}");
    }
}

#[test]
fn a_failure_before_the_rename_is_undone() {
    for nth in 0..RENAME {
        for (kind, done) in [(IoKind::Other, false), (IoKind::Other, true), (IoKind::StorageFull, false)] {
            let storage = Scripted::new();
            storage.fail(Fault { nth, kind, done, forever: false });
            let error = create(&storage.shared(), dir(), &header(), 5000).unwrap_err();
            let CreateError::Undone(error) = error else { panic!("operation {nth}, done {done}: {error}") };
            assert_eq!(error.segment(), SegmentId::of(&header()));
            assert_eq!(error.is_full(), kind == IoKind::StorageFull, "operation {nth}");
            assert!(matches!(error.kind(), ErrorKind::Io { source, .. } if source.kind() == kind), "{error:?}");
            assert_eq!(storage.tree(), [], "operation {nth}, done {done}");
            let mut expected = operations();
            expected.truncate(nth + 1);
            expected.push(format!("remove {TEMPORARY}"));
            assert_eq!(storage.take_log(), expected);
            // The stream can continue and use the same generation.
            create(&storage.shared(), dir(), &header(), 5000).unwrap();
        }
    }
}

#[test]
fn a_creation_on_a_full_disk_leaves_nothing() {
    for room in [0, 8199] {
        let storage = Scripted::new();
        storage.leave_room(room);
        let error = create(&storage.shared(), dir(), &header(), 5000).unwrap_err();
        assert!(matches!(&error, CreateError::Undone(error) if error.is_full()), "{error}");
        assert_eq!(storage.tree(), []);
        storage.leave_room(8200);
        create(&storage.shared(), dir(), &header(), 5000).unwrap();
    }
}

#[test]
fn a_refused_rename_is_undone_an_uncertain_one_is_not() {
    let refused = Scripted::new();
    refused.fail(fault(RENAME, IoKind::StorageFull));
    let error = create(&refused.shared(), dir(), &header(), 5000).unwrap_err();
    assert!(matches!(&error, CreateError::Undone(error) if error.is_full()), "{error}");
    assert_eq!(refused.tree(), [], "neither name is there, and no source for the rename to come back with");

    let happened = Scripted::new();
    happened.fail(Fault { done: true, ..fault(RENAME, IoKind::Other) });
    let error = create(&happened.shared(), dir(), &header(), 5000).unwrap_err();
    assert!(matches!(error, CreateError::Indeterminate(_)), "{error}");
    assert_eq!(happened.tree()[0].0, NAME);
}

#[test]
fn a_failure_after_the_rename_is_indeterminate() {
    for (nth, done, forever) in
        [(RENAME, false, true), (RENAME, true, true), (5, false, false), (5, true, false), (5, false, true)]
    {
        for kind in [IoKind::Other, IoKind::StorageFull] {
            let storage = Scripted::new();
            storage.fail(Fault { nth, kind, done, forever });
            let error = create(&storage.shared(), dir(), &header(), 5000).unwrap_err();
            assert!(matches!(error, CreateError::Indeterminate(_)), "operation {nth}, done {done}: {error}");
            let left = storage.tree();
            let renamed = nth > RENAME || done;
            assert_eq!(left[0].0, if renamed { NAME } else { TEMPORARY }, "operation {nth}, done {done}");
            // Recovery finds a complete segment or none.
            assert_eq!(left[0].1[..128], header().encode());
        }
    }
}

#[test]
fn a_name_taken_by_a_directory_is_left_to_recovery() {
    let storage = Scripted::new();
    storage.memory.create_dir(&dir().join(NAME)).unwrap();
    let error = create(&storage.shared(), dir(), &header(), 5000).unwrap_err();
    assert!(matches!(error, CreateError::Indeterminate(_)), "{error}");
    storage.memory.list(&dir().join(NAME)).unwrap();
}

#[test]
fn an_existing_segment_is_not_replaced() {
    let storage = Scripted::new();
    create(&storage.shared(), dir(), &header(), 5000).unwrap();
    let before = storage.tree();
    let error = create(&storage.shared(), dir(), &header(), 9000).unwrap_err();
    assert!(matches!(error, CreateError::Indeterminate(_)), "{error}");
    assert_eq!(storage.tree(), before);
}

#[test]
fn the_next_creation_replaces_an_old_temporary_file() {
    for nth in 1..RENAME {
        let storage = Scripted::new();
        storage.fail(Fault { forever: true, ..fault(nth, IoKind::Other) });
        let error = create(&storage.shared(), dir(), &header(), 5000).unwrap_err();
        assert!(matches!(error, CreateError::Undone(_)), "operation {nth}: {error}");
        assert_eq!(storage.tree()[0].0, TEMPORARY);
        assert!(is_temporary(storage.tree()[0].0.as_ref()));
        storage.take_log();
        let (writer, _) = create(&storage.shared(), dir(), &header(), 5000).unwrap();
        let file = SegmentFile::open(&storage.shared(), dir(), writer.id(), Access::Read).unwrap();
        assert!(storage.tree().len() == 1 && file.holds_only_zeros().unwrap());
    }
}

#[test]
fn a_segment_has_no_bytes_of_an_older_attempt() {
    let storage = Scripted::new();
    let left = storage.memory.create_new(&dir().join(TEMPORARY)).unwrap();
    left.write_all_at(&[0xEE; 50_000], 0).unwrap();
    create(&storage.shared(), dir(), &header(), 5000).unwrap();
    let bytes = storage.bytes();
    assert!(bytes.len() == 8200 && !bytes.contains(&0xEE));
}

#[test]
fn a_temporary_name_that_stays_taken_is_avoided() {
    let storage = Scripted::new();
    storage.memory.create_dir(&dir().join(TEMPORARY)).unwrap();
    let (writer, _) = create(&storage.shared(), dir(), &header(), 5000).unwrap();
    SegmentFile::open(&storage.shared(), dir(), writer.id(), Access::Read).unwrap();
    let names: Vec<_> = storage.memory.list(dir()).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [TEMPORARY, NAME]);
}

#[test]
fn a_temporary_name_is_not_a_segment_name() {
    let id = SegmentId::of(&header());
    assert_eq!(format!("{TEMPORARY_PREFIX}{id}"), TEMPORARY);
    assert!(is_temporary(TEMPORARY.as_ref()) && !is_temporary(NAME.as_ref()));
    assert_eq!((SegmentId::parse(TEMPORARY.as_ref()), SegmentId::parse(NAME.as_ref())), (None, Some(id)));
}

#[test]
fn a_missing_segment_is_not_a_damaged_one() {
    let storage = Scripted::new();
    let open = || SegmentFile::open(&storage.shared(), dir(), SegmentId::of(&header()), Access::Read).unwrap_err();
    let missing = open();
    assert!(missing.is_not_found() && !missing.is_damage() && !missing.is_newer(), "{missing}");
    storage.memory.create_dir(&dir().join(NAME)).unwrap();
    let dir = open();
    assert!(matches!(dir.kind(), ErrorKind::NotAFile(_)) && dir.is_damage(), "{dir}");
    assert!(!dir.is_not_found() && dir.to_string().contains(NAME), "{dir}");
}

#[test]
fn a_flipped_header_bit_is_damage() {
    let id = SegmentId::of(&header());
    let mut bytes = vec![0; 4104];
    bytes[..128].copy_from_slice(&header().encode());
    for bit in 0..128 * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = file_of(&bytes, id).expect_err("it does not open");
        assert!(matches!(error.kind(), ErrorKind::Header(_)), "bit {bit}: {error}");
        assert_eq!(error.offset().map(|at| at.0), Some(0), "bit {bit}");
        assert!(error.is_damage() && !error.is_newer(), "bit {bit}: {error}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..128 {
        let error = file_of(&bytes[..len], id).expect_err("it does not open");
        assert!(matches!(error.kind(), ErrorKind::Header(_)) && error.is_damage(), "{len} bytes: {error}");
    }
    file_of(&bytes, id).unwrap();
}

#[test]
fn a_segment_under_the_name_of_another_is_damage() {
    let other = SegmentId { base: SeqNo(41), generation: Generation(3) };
    let error = file_of(&header().encode(), other).expect_err("it does not open");
    assert!(matches!(error.kind(), ErrorKind::NameMismatch(id) if *id == SegmentId::of(&header())), "{error}");
    assert!(error.is_damage() && error.segment() == other);
}

#[test]
fn a_newer_header_is_not_damage() {
    let mut features = header();
    features.features.incompatible = 2;
    let mut version = header().encode();
    version[8] = 2;
    let crc = common::crc(&[&version[..124]]);
    version[124..].copy_from_slice(&crc.to_le_bytes());
    for bytes in [features.encode(), version] {
        let error = file_of(&bytes, SegmentId::of(&header())).expect_err("it does not open");
        assert!(error.is_newer() && !error.is_damage(), "{error}");
    }
    let mut compatible = header();
    compatible.features.compatible = 4;
    compatible.features.read_only_compatible = 8;
    let file = file_of(&compatible.encode(), SegmentId::of(&header())).unwrap();
    assert_eq!(*file.header(), compatible, "a caller sees from the masks that it must not write");
}

#[test]
fn a_segment_keeps_the_header_it_was_created_with() {
    let extreme = SegmentHeader {
        base: SeqNo(u64::MAX),
        durable: SeqNo(u64::MAX),
        start: SeqNo(u64::MAX),
        generation: Generation(u32::MAX),
        predecessor: Generation(u32::MAX - 1),
        ..header()
    };
    for header in [header(), extreme] {
        let segment = Segment::with(&header, 4096);
        assert_eq!(*segment.file().header(), header);
    }
}
