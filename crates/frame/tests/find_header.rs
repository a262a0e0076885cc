//! The search for the next valid header after other bytes.

mod samples;

use proptest::prelude::*;
use samples::{Body, SALT, TIME};
use stratawal_frame::{
    ByteOffset, DataFrame, Decoded, FRAME_HEADER_LEN, FramePosition, Limits, Newer, SeqNo, encode_data, find_header,
};

const FIRST: u64 = 128;

/// Returns the position of the next frame in `file`.
fn position(file: &[u8]) -> FramePosition {
    FramePosition { salt: SALT, offset: ByteOffset(FIRST + file.len() as u64) }
}

fn push_frame(file: &mut Vec<u8>, entry: &[u8]) {
    let position = position(file);
    let ends = [u32::try_from(entry.len()).unwrap() | stratawal_frame::BATCH_END];
    let frame = DataFrame { first_seq: SeqNo(9), timestamp: TIME, durable: None, ends: &ends, data: entry };
    encode_data(file, &position, &frame);
}

proptest! {
    #[test]
    fn find_header_finds_the_first_one(
        zeros in 0..300_usize, garbage in prop::collection::vec(any::<u8>(), 0..80), entry: Vec<u8>,
    ) {
        let mut file = garbage;
        file.resize((file.len() + zeros).next_multiple_of(8), 0);
        let at = file.len();
        push_frame(&mut file, &entry);
        let begin = FramePosition { salt: SALT, offset: ByteOffset(FIRST) };
        let (distance, found) = find_header(&file, &begin, &Limits::NONE).expect("there is one");
        prop_assert_eq!(distance, at);
        prop_assert!(matches!(found, Decoded::Frame(header) if header.payload_len as usize == entry.len()));
        // The header is found once it is complete.
        prop_assert!(find_header(&file[..at + FRAME_HEADER_LEN - 1], &begin, &Limits::NONE).is_none());
        prop_assert!(find_header(&file[..at + FRAME_HEADER_LEN], &begin, &Limits::NONE).is_some());
    }
}

#[test]
fn zeros_hold_no_header() {
    for len in 0..300 {
        assert_eq!(find_header(&vec![0; len], &position(&[]), &Limits::NONE), None, "{len}");
    }
}

#[test]
fn a_header_of_a_newer_format_is_found() {
    for sample in samples::all(FIRST + 64) {
        let Body::Newer { reason, .. } = &sample.body else { continue };
        let mut file = vec![0; 64];
        file.extend(sample.encode(&position(&file)));
        let found = find_header(&file, &position(&[]), &Limits::NONE);
        match reason {
            Newer::Flags(_) | Newer::Codec(3..) => assert_eq!(found, Some((64, Decoded::Newer(*reason)))),
            // The header is valid, and only reading the payload fails.
            _ => assert!(matches!(found, Some((64, Decoded::Frame(_)))), "{}", sample.name),
        }
    }
}

#[test]
fn a_header_is_found_only_at_its_own_offset() {
    let mut file = Vec::new();
    push_frame(&mut file, b"entry");
    assert!(find_header(&file, &position(&[]), &Limits::NONE).is_some());
    let moved = [&[0; 8][..], &file].concat();
    assert_eq!(find_header(&moved, &position(&[]), &Limits::NONE), None);
}
