//! The seeds of the fuzz target `frame_decode`: the properties of decoding hold for each.
//!
//! With `STRATAWAL_BLESS=1` missing seeds are created. The published package has no seeds; in it
//! these tests do nothing.

mod samples;

use std::fs;
use std::path::Path;

use samples::TIME;
use stratawal_frame::{
    ByteOffset, Features, FormatFile, FramePosition, Generation, Salt, SegmentHeader, SeqNo, StreamId, Trailer, WalId,
    properties,
};

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz");

fn position(selector: u8) -> FramePosition {
    let selector = u64::from(selector);
    FramePosition { salt: Salt(selector), offset: ByteOffset(128 + 8 * selector) }
}

/// The name and the bytes of a seed: a selector of the position, then the bytes at that position.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut seed = |name: &str, selector: u8, bytes: &[u8]| {
        seeds.push((name.to_owned(), [&[selector], bytes].concat()));
    };
    for (i, sample) in (0_u8..).zip(samples::all(position(255).offset.0)) {
        // The pad depends on the position, and the samples were made for the last position.
        let selector = if sample.name == "control-seal-padded" { 255 } else { 11 * i };
        seed(sample.name, selector, &sample.encode(&position(selector)));
    }
    let row = row();
    seed("row-of-frames", 0, &row);
    for (name, damage) in
        [("row-without-first-header", 0..40), ("row-with-zeros", 48..96), ("row-torn", 200..row.len())]
    {
        let mut bytes = row.clone();
        bytes[damage].fill(0);
        seed(name, 0, &bytes);
    }
    seed("row-cut-in-header", 0, &row[..60]);
    seed("row-cut-in-payload", 0, &row[..row.len() - 20]);
    seed("row-elsewhere", 1, &row);
    seed("nothing", 0, &[]);
    seed("zeros", 0, &[0; 100]);
    seed("ones", 0, &[0xFF; 100]);
    seed("segment-header", 0, &segment_header());
    seed("format-file", 0, &FormatFile { wal_id: WalId(1), features: Features::default() }.encode());
    seed("trailer", 3, &Trailer { footer_offset: ByteOffset(128) }.encode(Salt(3)));
    seeds
}

/// All small samples, one after the other.
fn row() -> Vec<u8> {
    let mut bytes = Vec::new();
    for sample in samples::all(0).iter().filter(|sample| sample.name != "control-seal-padded") {
        let position = FramePosition { salt: Salt(0), offset: position(0).offset + bytes.len() as u64 };
        bytes.extend(sample.encode(&position));
    }
    bytes
}

fn segment_header() -> [u8; 128] {
    SegmentHeader {
        wal_id: WalId(1),
        stream_id: StreamId(2),
        generation: Generation(3),
        predecessor: Generation(2),
        base: SeqNo(10),
        salt: Salt(0),
        durable: SeqNo(9),
        start: SeqNo(4),
        last_timestamp: TIME,
        created: TIME,
        name_crc: SegmentHeader::name_checksum("orders"),
        predecessor_salt: Salt(1),
        predecessor_frame_crc: 9,
        features: Features::default(),
    }
    .encode()
}

#[test]
fn the_properties_hold_for_every_kept_seed() {
    let fuzz = Path::new(FUZZ);
    if !fuzz.is_dir() {
        return;
    }
    let dir = fuzz.join("seeds/frame_decode");
    if std::env::var_os("STRATAWAL_BLESS").is_some_and(|v| v == "1") {
        fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in seeds() {
            let path = dir.join(name);
            if !path.exists() {
                fs::write(path, bytes).unwrap();
            }
        }
    }
    let mut kept = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        properties::decode_any(&fs::read(entry.unwrap().path()).unwrap());
        kept += 1;
    }
    assert!(kept >= seeds().len(), "seeds are missing from {}", dir.display());
}

#[test]
fn the_properties_hold_for_seeds_of_any_length() {
    for (_, bytes) in seeds() {
        for len in 0..bytes.len().min(300) {
            properties::decode_any(&bytes[..len]);
        }
        properties::decode_any(&bytes);
    }
}
