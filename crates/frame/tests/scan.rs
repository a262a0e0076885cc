//! Scans of a segment's bytes: every frame is found, whatever bytes are between, and nothing else.

mod samples;

use bytes::Bytes;
use proptest::prelude::*;
use samples::{Body, SALT, Sample, TIME};
use stratawal_frame::{
    ByteOffset, DataFrame, Decoded, FRAME_HEADER_LEN, FramePosition, Invalid, Limits, Newer, Scan, SeqNo, encode_data,
    find_header,
};

const FIRST: u64 = 128;

/// A frame, or other bytes that a file may hold between frames.
#[derive(Clone, Debug)]
enum Piece {
    /// A valid frame with this entry.
    Frame(Vec<u8>),
    /// A valid header whose payload is not.
    BadPayload(Vec<u8>),
    Zeros(usize),
    Garbage(Vec<u8>),
}

fn any_piece() -> impl Strategy<Value = Piece> {
    let entry = || prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        4 => entry().prop_map(Piece::Frame),
        1 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Piece::BadPayload),
        1 => (1..40_usize).prop_map(|eighths| Piece::Zeros(eighths * 8)),
        1 => (1..40_usize).prop_flat_map(|n| prop::collection::vec(any::<u8>(), n * 8)).prop_map(Piece::Garbage),
    ]
}

/// The position of the next frame in `file`.
fn position(file: &[u8]) -> FramePosition {
    FramePosition { salt: SALT, offset: ByteOffset(FIRST + file.len() as u64) }
}

fn push_frame(file: &mut Vec<u8>, entry: &[u8]) {
    let position = position(file);
    let ends = [u32::try_from(entry.len()).unwrap() | stratawal_frame::BATCH_END];
    let frame = DataFrame { first_seq: SeqNo(9), timestamp: TIME, durable: None, ends: &ends, data: entry };
    encode_data(file, &position, &frame);
}

fn scan(file: &[u8]) -> Vec<(usize, Decoded<stratawal_frame::Frame>)> {
    let limits = Limits { base: SeqNo(0), end: ByteOffset(FIRST + file.len() as u64) };
    Scan::new(Bytes::copy_from_slice(file), SALT, ByteOffset(FIRST), limits)
        .map(|scanned| (usize::try_from(scanned.offset.0 - FIRST).unwrap(), scanned.found))
        .collect()
}

proptest! {
    #[test]
    fn a_scan_finds_every_frame_between_other_bytes(pieces in prop::collection::vec(any_piece(), 0..12)) {
        let mut file = Vec::new();
        let mut frames = Vec::new();
        let mut bad = Vec::new();
        for piece in &pieces {
            let at = file.len();
            match piece {
                Piece::Frame(entry) => {
                    push_frame(&mut file, entry);
                    frames.push((at, entry.clone()));
                }
                Piece::BadPayload(entry) => {
                    push_frame(&mut file, entry);
                    file[at + FRAME_HEADER_LEN] ^= 0x10;
                    bad.push(at);
                }
                Piece::Zeros(len) => file.resize(at + len, 0),
                Piece::Garbage(bytes) => file.extend_from_slice(bytes),
            }
        }
        let mut found_frames = Vec::new();
        let mut found_bad = Vec::new();
        for (at, found) in scan(&file) {
            match found {
                Decoded::Frame(frame) => found_frames.push((at, frame.entry(0).unwrap().to_vec())),
                Decoded::Invalid(Invalid::PayloadChecksum) => found_bad.push(at),
                Decoded::Newer(newer) => panic!("{newer} at {at}"),
                Decoded::Invalid(_) | Decoded::Incomplete { .. } | Decoded::Blank => {}
            }
        }
        prop_assert_eq!(found_frames, frames);
        prop_assert_eq!(found_bad, bad);
    }

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
        // The header is found once it is whole.
        prop_assert!(find_header(&file[..at + FRAME_HEADER_LEN - 1], &begin, &Limits::NONE).is_none());
        prop_assert!(find_header(&file[..at + FRAME_HEADER_LEN], &begin, &Limits::NONE).is_some());
    }
}

#[test]
fn a_scan_of_zeros_ends() {
    assert_eq!(scan(&[]), []);
    for len in 1..300 {
        assert_eq!(scan(&vec![0; len]), [(0, Decoded::Blank)], "{len}");
    }
}

#[test]
fn a_scan_reports_a_frame_that_is_cut() {
    let mut file = Vec::new();
    push_frame(&mut file, b"first");
    let at = file.len();
    push_frame(&mut file, &[1; 100]);
    let limits = Limits { base: SeqNo(0), end: ByteOffset(FIRST + file.len() as u64) };
    for len in at + 1..at + 140 {
        let bytes = Bytes::copy_from_slice(&file[..len]);
        let found: Vec<_> = Scan::new(bytes, SALT, ByteOffset(FIRST), limits).map(|s| s.found).collect();
        let needed = if len < at + FRAME_HEADER_LEN { 40 } else { 144 };
        assert_eq!(found[1..], [Decoded::Incomplete { needed }], "cut at {len}");
    }
}

#[test]
fn a_scan_skips_frames_of_a_newer_format() {
    let mut file = Vec::new();
    let mut expected = Vec::new();
    for sample in samples::all(FIRST) {
        let Body::Newer { reason, .. } = &sample.body else { continue };
        let at = file.len();
        let position = position(&file);
        file.extend(sample.encode(&position));
        expected.push((at, Decoded::Newer(*reason)));
    }
    assert_eq!(scan(&file), expected);
}

/// A frame inside an entry, valid at the offset that it has there.
fn planted(newer: bool) -> (Vec<u8>, usize) {
    let inner = FRAME_HEADER_LEN;
    let body = if newer {
        let payload = b"x".to_vec();
        let reason = Newer::Flags(1);
        Body::Newer { count: 1, codec: 0, flags: 1, payload, reason }
    } else {
        Body::Batches(vec![vec![b"planted".to_vec()]])
    };
    let sample = Sample { name: "planted", first_seq: 1_000_000, attests: Some(1_000_000), body };
    let entry = sample.encode(&FramePosition { salt: SALT, offset: ByteOffset(FIRST + inner as u64) });
    let mut file = Vec::new();
    push_frame(&mut file, &[&entry[..], b"and more"].concat());
    (file, inner)
}

#[test]
fn a_frame_inside_an_entry_is_not_found() {
    for newer in [false, true] {
        let (mut file, inner) = planted(newer);
        let end = file.len();
        push_frame(&mut file, b"behind");
        assert!(
            find_header(&file[inner..], &position(&file[..inner]), &Limits::NONE).is_some(),
            "the bytes are a valid header"
        );
        assert_eq!(scan(&file).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, end]);
        file[end - 1] ^= 1;
        let found = scan(&file);
        assert_eq!(found[0], (0, Decoded::Invalid(Invalid::PayloadChecksum)));
        assert_eq!(found[1].0, end);
        assert_eq!(found.len(), 2);
    }
}

#[test]
fn a_frame_inside_a_cut_entry_is_not_found() {
    let (file, inner) = planted(false);
    let cut = Bytes::copy_from_slice(&file[..file.len() - 8]);
    assert!(
        find_header(&cut[inner..], &position(&cut[..inner]), &Limits::NONE).is_some(),
        "the bytes are a valid header"
    );
    let found: Vec<_> = Scan::new(cut, SALT, ByteOffset(FIRST), Limits::NONE).map(|s| s.found).collect();
    assert_eq!(found, [Decoded::Incomplete { needed: file.len() as u64 }]);
}

#[test]
fn a_frame_inside_a_newer_frame_is_not_found() {
    let inner = FramePosition { salt: SALT, offset: ByteOffset(FIRST + FRAME_HEADER_LEN as u64) };
    for sample in samples::all(FIRST) {
        let Body::Newer { count, codec, flags, reason, .. } = sample.body else { continue };
        let body = Body::Batches(vec![vec![b"planted".to_vec()]]);
        let payload = Sample { name: "planted", first_seq: 9, attests: None, body }.encode(&inner);
        // A control frame's payload begins with its kind, so it cannot begin with a frame.
        if count == 0 {
            continue;
        }
        let body = Body::Newer { count: 1, codec, flags, payload, reason };
        let outer = Sample { body, ..sample }.encode(&position(&[]));
        assert_eq!(scan(&outer), [(0, Decoded::Newer(reason))]);
    }
}

/// A crash may keep the old sector with the MARK's header, and the new sector with the bytes that
/// overwrote its payload.
#[test]
fn a_frame_inside_an_overwritten_mark_is_found() {
    let mark = samples::all(FIRST).into_iter().find(|sample| sample.name == "control-mark").expect("there is one");
    let mut file = mark.encode(&position(&[]))[..FRAME_HEADER_LEN].to_vec();
    push_frame(&mut file, b"behind an empty entry");
    let found = scan(&file);
    assert_eq!(found[0], (0, Decoded::Invalid(Invalid::PayloadChecksum)));
    assert!(matches!(&found[1..], [(FRAME_HEADER_LEN, Decoded::Frame(_))]), "{found:?}");
}

#[test]
fn the_payload_of_a_damaged_header_is_searched() {
    let (mut file, inner) = planted(false);
    file[9] ^= 1;
    let found = scan(&file);
    assert_eq!(found[0], (0, Decoded::Invalid(Invalid::HeaderChecksum)));
    assert!(matches!(&found[1], (at, Decoded::Frame(_)) if *at == inner));
}

/// Each header claims all bytes after it. A search that started again at each header would read
/// half of the file 26,000 times.
#[test]
fn hostile_headers_do_not_make_a_scan_quadratic() {
    const LEN: usize = 1 << 20;
    let mut file = Vec::with_capacity(LEN);
    while file.len() + FRAME_HEADER_LEN <= LEN {
        let position = position(&file);
        let rest = LEN - file.len() - FRAME_HEADER_LEN;
        let mut header = vec![0; FRAME_HEADER_LEN];
        header[4..8].fill(0xEE);
        header[24] = 1;
        header[28..32].copy_from_slice(&u32::try_from(rest).unwrap().to_le_bytes());
        let positioned = [&position.salt.0.to_le_bytes()[..], &position.offset.0.to_le_bytes(), &header[4..]].concat();
        header[..4].copy_from_slice(&samples::crc32(&positioned).to_le_bytes());
        file.extend(header);
    }
    file.resize(LEN, 0);
    assert_eq!(scan(&file), [(0, Decoded::Invalid(Invalid::PayloadChecksum))]);
}
