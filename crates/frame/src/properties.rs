//! Properties that hold for any bytes, used by fuzzing and tests. Each function panics if its
//! property does not hold. Not part of the API.

use bytes::Bytes;

use crate::checksum;
use crate::header::{AT_HEADER_CRC, AT_PAYLOAD_CRC, FRAME_ALIGN, FRAME_HEADER_LEN};
use crate::types::u32_at;
use crate::{
    ByteOffset, Control, DataFrame, Decoded, EntrySlices, FormatFile, Frame, FramePosition, Limits, Salt,
    SegmentHeader, Trailer, decode, decode_header, encode_control, encode_data, find_header,
};

/// Runs every decoder on the bytes, and again after correcting their checksums, so that the checks
/// after the checksums are reached. Checks that a decoded frame encodes to the bytes that it was
/// read from.
pub fn decode_any(data: &[u8]) {
    let (selector, data) = data.split_first().map_or((0, data), |(&first, rest)| (first, rest));
    let position = FramePosition { salt: Salt(u64::from(selector)), offset: ByteOffset(128 + 8 * u64::from(selector)) };
    let _ = SegmentHeader::decode(data);
    let _ = FormatFile::decode(data);
    let _ = Trailer::decode(data, position.salt);
    decode_one(data, &position);
    decode_one(&with_right_checksums(data, &position), &position);
    find(data, &position);
    find(&with_right_checksums(data, &position), &position);
    // Each entry is part of the bytes, and the iterator ends.
    assert!(EntrySlices::frames(data, u32::from(selector)).map(|entry| entry.bytes.len()).sum::<usize>() <= data.len());
}

/// Checks that a search finds a valid header, and that no position before it has one.
fn find(data: &[u8], position: &FramePosition) {
    let found = find_header(data, position, &Limits::NONE);
    let searched = found.as_ref().map_or(data.len(), |(distance, _)| *distance);
    for at in (0..searched).step_by(FRAME_ALIGN as usize) {
        let Some(header) = data.get(at..at + FRAME_HEADER_LEN) else { break };
        let here = FramePosition { offset: position.offset + at as u64, ..*position };
        let decoded = decode_header(header, &here, &Limits::NONE);
        assert!(!matches!(decoded, Decoded::Frame(_) | Decoded::Newer(_)), "the search does not skip a header");
    }
    if let Some((at, header)) = found {
        let here = FramePosition { offset: position.offset + at as u64, ..*position };
        assert_eq!(decode_header(&data[at..], &here, &Limits::NONE), header, "the header is at the distance");
    }
}

fn decode_one(data: &[u8], position: &FramePosition) {
    match decode(&Bytes::copy_from_slice(data), position, &Limits::NONE) {
        Decoded::Frame(frame) => {
            let count = frame.header().count;
            let slices: Vec<_> = EntrySlices::frames(data, 0).take(count as usize).collect();
            let is_same = frame.entries().eq(slices.iter().map(|entry| entry.bytes));
            assert!(is_same, "a frame has the same entries, however they are looked for");
            let ends = slices.iter().map(|entry| entry.ends_batch);
            assert!(ends.eq((0..count).map(|i| frame.ends_batch(i))), "and the same ends of batches");
            encodes_to_itself(&frame, data, position);
        }
        Decoded::Incomplete { needed } => assert!(needed > data.len() as u64, "an incomplete frame needs more"),
        Decoded::Blank | Decoded::Invalid(_) | Decoded::Newer(_) => {}
    }
}

fn encodes_to_itself(frame: &Frame, data: &[u8], position: &FramePosition) {
    let header = frame.header();
    let mut again = Vec::new();
    if let Some(control) = frame.control() {
        encode_control(&mut again, position, header.first_seq, header.timestamp, header.attests, control);
        // A writer pads a SEAL or CLOSE if its position requires it. A reader does not check this,
        // so a valid frame may have an unnecessary pad or lack a required one. Nothing else may
        // differ.
        if matches!(control, Control::Footer(_)) && again.len() as u64 != header.frame_len() {
            let difference = (again.len() as u64).abs_diff(header.frame_len());
            assert_eq!(difference, crate::PAD_LEN as u64, "a frame has one length, except for its pad");
            return;
        }
    } else {
        let mut ends = Vec::new();
        let mut bytes = Vec::new();
        for (i, entry) in (0..).zip(frame.entries()) {
            bytes.extend_from_slice(&entry);
            let end = u32::try_from(bytes.len()).expect("invariant: a payload is under 2 GiB");
            ends.push(if frame.ends_batch(i) { end | crate::BATCH_END } else { end });
        }
        assert_eq!(ends.len(), header.count as usize, "every entry is present");
        assert!(frame.ends_batch(header.count - 1), "the last entry of a frame ends its batch");
        let frame = DataFrame {
            first_seq: header.first_seq,
            timestamp: header.timestamp,
            durable: header.attests,
            ends: &ends,
            data: &bytes,
        };
        encode_data(&mut again, position, &frame);
    }
    let end = FRAME_HEADER_LEN + header.payload_len as usize;
    assert_eq!(again.len() as u64, header.frame_len(), "a frame has one length");
    assert_eq!(&again[..end], &data[..end], "a frame has one encoding");
}

/// Turns any bytes into a frame with valid checksums and a payload that fits into the bytes.
fn with_right_checksums(data: &[u8], position: &FramePosition) -> Vec<u8> {
    const AT_PAYLOAD_LEN: usize = 28;
    const AT_FLAGS_AND_ZERO: usize = 37;
    let mut bytes = data.to_vec();
    let Some(room) = data.len().checked_sub(FRAME_HEADER_LEN) else { return bytes };
    let len = u32_at(&bytes, AT_PAYLOAD_LEN) as usize % (room + 1);
    bytes[AT_PAYLOAD_LEN..AT_PAYLOAD_LEN + 4]
        .copy_from_slice(&u32::try_from(len).expect("invariant: it was taken from a u32").to_le_bytes());
    bytes[AT_FLAGS_AND_ZERO..FRAME_HEADER_LEN].fill(0);
    let crc = checksum::payload(&bytes[FRAME_HEADER_LEN..FRAME_HEADER_LEN + len]);
    bytes[AT_PAYLOAD_CRC..AT_PAYLOAD_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    let crc = checksum::positioned(position, &bytes[AT_PAYLOAD_CRC..FRAME_HEADER_LEN]);
    bytes[AT_HEADER_CRC..AT_HEADER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}
