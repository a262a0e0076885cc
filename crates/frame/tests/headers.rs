//! Segment header, FORMAT file and trailer: each kind of mistake has its own error.

mod samples;

use proptest::prelude::*;
use samples::crc32;
use stratawal_frame::{
    ByteOffset, FORMAT_FILE_LEN, Features, FormatFile, FormatFileError, FormatId, Generation, HeaderError,
    SEGMENT_HEADER_LEN, Salt, SegmentHeader, SeqNo, StreamId, TRAILER_LEN, Trailer, WalId,
};

prop_compose! {
    fn any_features()(compatible: u32, read_only_compatible: u32) -> Features {
        Features { compatible, read_only_compatible, incompatible: 0 }
    }
}

prop_compose! {
    fn any_header()(
        wal_id: u128, stream_id: u64, generation in 1..=u32::MAX, predecessor: u32, base: u64, salt: u64,
        durable: u64, start: u64, last_timestamp: u64, created: u64, name_crc: u32,
        predecessor_salt: u64, predecessor_frame_crc: u32, features in any_features(),
    ) -> SegmentHeader {
        let up_to_base = |n: u64| SeqNo(if base == u64::MAX { n } else { n % (base + 1) });
        SegmentHeader {
            wal_id: WalId(wal_id),
            stream_id: StreamId(stream_id),
            generation: Generation(generation),
            predecessor: Generation(predecessor % generation),
            base: SeqNo(base),
            salt: Salt(salt),
            durable: up_to_base(durable),
            start: up_to_base(start),
            last_timestamp,
            created,
            name_crc,
            predecessor_salt: Salt(predecessor_salt),
            predecessor_frame_crc,
            features,
        }
    }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        wal_id: WalId(1),
        stream_id: StreamId(2),
        generation: Generation(9),
        predecessor: Generation(7),
        base: SeqNo(30),
        salt: Salt(4),
        durable: SeqNo(30),
        start: SeqNo(20),
        last_timestamp: 5,
        created: 6,
        name_crc: 8,
        predecessor_salt: Salt(3),
        predecessor_frame_crc: 9,
        features: Features::default(),
    }
}

/// Returns the header with bytes changed at `at` and a valid checksum.
fn resealed(at: usize, value: &[u8]) -> [u8; SEGMENT_HEADER_LEN] {
    let mut bytes = header().encode();
    bytes[at..at + value.len()].copy_from_slice(value);
    let crc = crc32(&bytes[..124]);
    bytes[124..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn newer(version: u32, incompatible: u32) -> FormatId {
    FormatId { version, features: Features { incompatible, ..Features::default() } }
}

proptest! {
    #[test]
    fn a_segment_header_is_read_as_it_was_written(header in any_header(), behind: Vec<u8>) {
        let bytes = [&header.encode()[..], &behind].concat();
        prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn a_format_file_is_read_as_it_was_written(wal_id: u128, features in any_features()) {
        let file = FormatFile { wal_id: WalId(wal_id), features };
        let bytes = file.encode();
        prop_assert_eq!(bytes.len(), FORMAT_FILE_LEN);
        prop_assert_eq!(FormatFile::decode(&bytes), Ok(file));
    }

    #[test]
    fn a_trailer_is_read_with_its_salt_alone(position: u64, salt: u64, other: u64) {
        let trailer = Trailer { footer_offset: ByteOffset(position) };
        let bytes = trailer.encode(Salt(salt));
        prop_assert_eq!(Trailer::decode(&bytes, Salt(salt)), Some(trailer));
        prop_assume!(salt != other);
        prop_assert_eq!(Trailer::decode(&bytes, Salt(other)), None);
    }

    #[test]
    fn random_bytes_are_not_decoded(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        prop_assert_eq!(FormatFile::decode(&bytes), Err(FormatFileError::Damaged));
        prop_assert_eq!(Trailer::decode(&bytes[..bytes.len().min(TRAILER_LEN)], Salt(0)), None);
    }
}

#[test]
fn the_first_wrong_field_of_a_header_is_reported() {
    // All fields are wrong at first, and are corrected one by one.
    let mut bytes = resealed(20, &[1]);
    bytes[0] = b'X';
    bytes[8] = 2;
    bytes[48..52].fill(0);
    assert_eq!(SegmentHeader::decode(&bytes[..127]), Err(HeaderError::TooShort { len: 127 }));
    assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Magic));
    bytes[0] = b'S';
    assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Newer(newer(2, 1))));
    bytes[8] = 1;
    let expected = crc32(&bytes[..124]);
    let found = u32::from_le_bytes(bytes[124..].try_into().unwrap());
    assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Checksum { expected, found }));
    bytes[124..].copy_from_slice(&expected.to_le_bytes());
    assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Newer(newer(1, 1))));
    bytes[20] = 0;
    let crc = crc32(&bytes[..124]);
    bytes[124..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Inconsistent));
    assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
}

#[test]
fn a_segment_header_that_contradicts_itself_is_refused() {
    for (why, at, value) in [
        ("version 0", 8, 0_u64.to_le_bytes().get(..4).unwrap().to_vec()),
        ("generation 0", 48, vec![0; 4]),
        ("a predecessor that is no older", 52, vec![9, 0, 0, 0]),
        ("a watermark above the base", 72, 31_u64.to_le_bytes().to_vec()),
        ("a start above the base", 80, 31_u64.to_le_bytes().to_vec()),
    ] {
        assert_eq!(SegmentHeader::decode(&resealed(at, &value)), Err(HeaderError::Inconsistent), "{why}");
    }
}

#[test]
fn readable_feature_masks_are_returned() {
    let read_only = SegmentHeader::decode(&resealed(16, &[1])).unwrap();
    assert!(read_only.features.readable() && !read_only.features.writable());
    let ignored = SegmentHeader::decode(&resealed(12, &[1])).unwrap();
    assert!(ignored.features.readable() && ignored.features.writable());
}

#[test]
fn no_flipped_bit_leaves_a_segment_header_valid() {
    let bytes = header().encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn no_flipped_bit_leaves_a_trailer_valid() {
    let bytes = Trailer { footer_offset: ByteOffset(4096) }.encode(Salt(7));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Trailer::decode(&flipped, Salt(7)), None, "bit {bit}");
    }
}

#[test]
fn a_trailer_is_exactly_16_bytes() {
    let bytes = [Trailer { footer_offset: ByteOffset(4096) }.encode(Salt(7)), [0; 16]].concat();
    for len in (0..=32).filter(|&len| len != TRAILER_LEN) {
        assert_eq!(Trailer::decode(&bytes[..len], Salt(7)), None, "{len}");
    }
}

fn file() -> FormatFile {
    FormatFile { wal_id: WalId(77), features: Features::default() }
}

/// Returns one copy, changed at `at`, with a valid checksum.
fn resealed_copy(at: usize, value: &[u8]) -> Vec<u8> {
    let mut copy = file().encode()[..64].to_vec();
    copy[at..at + value.len()].copy_from_slice(value);
    let crc = crc32(&copy[..60]);
    copy[60..].copy_from_slice(&crc.to_le_bytes());
    copy
}

fn with_copies(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut bytes = first.to_vec();
    bytes.resize(4096, 0);
    bytes.extend_from_slice(second);
    bytes
}

#[test]
fn a_format_file_survives_the_loss_of_either_page() {
    let whole = file().encode();
    for lost in [0..4096, 4096..FORMAT_FILE_LEN] {
        let mut bytes = whole.clone();
        bytes[lost].fill(0);
        assert_eq!(FormatFile::decode(&bytes), Ok(file()));
    }
    assert_eq!(FormatFile::decode(&whole[..64]), Ok(file()), "cut after the first copy");
    assert_eq!(FormatFile::decode(&whole[..63]), Err(FormatFileError::Damaged));
    assert_eq!(FormatFile::decode(&[]), Err(FormatFileError::Damaged));
    assert_eq!(FormatFile::decode(&vec![0; FORMAT_FILE_LEN]), Err(FormatFileError::Damaged));
}

#[test]
fn a_flipped_bit_in_a_format_file_changes_nothing() {
    let whole = file().encode();
    for bit in (0..64 * 8).chain(4096 * 8..FORMAT_FILE_LEN * 8) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(FormatFile::decode(&bytes), Ok(file()), "bit {bit}");
        // The other copy is also lost.
        let other = if bit / 8 < 4096 { 4096..FORMAT_FILE_LEN } else { 0..64 };
        bytes[other].fill(0xFF);
        assert_eq!(FormatFile::decode(&bytes), Err(FormatFileError::Damaged), "bit {bit}");
    }
}

#[test]
fn copies_that_differ_contradict_each_other() {
    let ours = resealed_copy(0, b"S");
    let other = resealed_copy(24, &[1]);
    assert_eq!(FormatFile::decode(&with_copies(&ours, &other)), Err(FormatFileError::Contradiction));
    assert_eq!(FormatFile::decode(&with_copies(&other, &ours)), Err(FormatFileError::Contradiction));
}

#[test]
fn one_copy_of_a_newer_format_is_refused() {
    let ours = resealed_copy(0, b"S");
    for (copy, id) in [(resealed_copy(8, &[2]), newer(2, 0)), (resealed_copy(20, &[5]), newer(1, 5))] {
        let refused = Err(FormatFileError::Newer(id));
        assert_eq!(FormatFile::decode(&with_copies(&ours, &copy)), refused);
        assert_eq!(FormatFile::decode(&with_copies(&copy, &ours)), refused);
        assert_eq!(FormatFile::decode(&with_copies(&copy, &[0; 64])), refused);
    }
}

#[test]
fn a_copy_of_version_0_is_damaged() {
    let zero = resealed_copy(8, &[0]);
    assert_eq!(FormatFile::decode(&with_copies(&zero, &zero)), Err(FormatFileError::Damaged));
    assert_eq!(FormatFile::decode(&with_copies(&zero, &resealed_copy(0, b"S"))), Ok(file()));
}

#[test]
fn the_bit_of_the_journal_is_known_in_format_alone() {
    let with = FormatFile { features: Features::default().with_journal(true), ..file() };
    assert_eq!(FormatFile::decode(&with.encode()), Ok(with));
    assert!(with.has_journal() && with.is_writable());
    assert!(!file().has_journal() && file().is_writable());
    assert_eq!(with.features.with_journal(false), file().features);
    assert_eq!(SegmentHeader::decode(&resealed(20, &[1])), Err(HeaderError::Newer(newer(1, 1))));
    let other = FormatFile { features: Features { read_only_compatible: 1, ..with.features }, ..with };
    assert!(!other.is_writable());
}

#[test]
fn a_damaged_version_is_not_a_newer_one() {
    let sound = header().encode();
    for bit in 0..32 {
        let mut damaged = sound;
        damaged[8 + bit / 8] ^= 1 << (bit % 8);
        let found = SegmentHeader::decode(&damaged);
        assert!(matches!(found, Err(HeaderError::Checksum { .. })), "bit {bit}: {found:?}");
    }
    // The checksum of a newer format is not known: it may be the same, or another one.
    let mut newer_header = resealed(8, &[2]);
    assert_eq!(SegmentHeader::decode(&newer_header), Err(HeaderError::Newer(newer(2, 0))));
    newer_header[124] ^= 1;
    assert_eq!(SegmentHeader::decode(&newer_header), Err(HeaderError::Newer(newer(2, 0))));
}
