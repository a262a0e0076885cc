//! The bytes of format 1. Each file under `golden/` must always be read and written in the same
//! way.
//!
//! With `STRATAWAL_BLESS=1` missing files are created. Existing files are never overwritten: if a
//! test here fails, the code has changed the format.

mod samples;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use samples::{Body, SALT, Sample, TIME};
use stratawal_frame::{
    ByteOffset, Control, Decoded, Features, Footer, FooterKind, FormatFile, FramePosition, Generation, Limits,
    SEGMENT_HEADER_LEN, Salt, SegmentHeader, SeqNo, StreamId, TRAILER_LEN, Trailer, WalId, decode,
};

const FRAME_OFFSET: u64 = 3240;
const FRAME_POSITION: FramePosition = FramePosition { salt: SALT, offset: ByteOffset(FRAME_OFFSET) };

fn golden_dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1"))
}

/// Returns the golden bytes of `name`. If the file is missing and blessing is on, creates it from
/// `encoded`.
fn golden(name: &str, encoded: &[u8]) -> Bytes {
    let path = golden_dir().join(name);
    if !path.exists() && std::env::var_os("STRATAWAL_BLESS").is_some_and(|v| v == "1") {
        fs::write(&path, encoded).unwrap();
    }
    let kept = fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    assert!(kept == encoded, "{name}: the encoded bytes differ from the golden file");
    Bytes::from(kept)
}

#[test]
fn frames_of_format_1_are_unchanged() {
    for sample in samples::all(FRAME_OFFSET) {
        let kept = golden(&format!("{}.frame", sample.name), &sample.encode(&FRAME_POSITION));
        sample.assert_is(&decode(&kept, &FRAME_POSITION, &Limits::NONE));
        assert_eq!(kept.len() % 8, 0, "{}: a frame is aligned", sample.name);
        if sample.name == "control-seal-padded" {
            let end = FRAME_OFFSET + (kept.len() + TRAILER_LEN) as u64;
            assert_eq!(end % 4096, 16, "the pad moves the trailer's end away from the length of an active file");
        }
    }
}

#[test]
fn the_format_file_of_format_1_is_unchanged() {
    let expected = FormatFile {
        wal_id: WalId(0x0F0E_0D0C_0B0A_0908_0706_0504_0302_0100),
        features: Features { compatible: 0x8000_0001, read_only_compatible: 2, incompatible: 0 },
    };
    let kept = golden("FORMAT", &expected.encode());
    assert_eq!(FormatFile::decode(&kept), Ok(expected));
}

#[test]
fn the_segment_header_of_format_1_is_unchanged() {
    let expected = header();
    let kept = golden("segment.header", &expected.encode());
    assert_eq!(SegmentHeader::decode(&kept), Ok(expected));
}

#[test]
fn a_closed_segment_of_format_1_is_unchanged() {
    let frames = closed_chain();
    let kept = golden("closed.seg", &segment(&frames));
    assert_segment(&kept, &frames);
}

#[test]
fn a_sealed_segment_of_format_1_is_unchanged() {
    let mut frames = closed_chain();
    frames.push(one("entry behind a close", 7, Some(7), Body::Batches(vec![vec![b"again".to_vec()]])));
    let end = Footer {
        kind: FooterKind::Seal { successor: Generation(10), salt: Salt(0x99AA_BBCC_DDEE_FF00) },
        start: SeqNo(6),
        entries: 5,
        times: (TIME, TIME),
        index: Bytes::from_static(b"opaque"),
    };
    frames.push(one("seal", 8, Some(7), Body::Control(Control::Footer(end))));
    let kept = golden("sealed.seg", &segment(&frames));
    assert_segment(&kept, &frames);
}

#[test]
fn no_golden_file_goes_unread() {
    let mut known: BTreeSet<String> =
        samples::all(FRAME_OFFSET).iter().map(|sample| format!("{}.frame", sample.name)).collect();
    known.extend(["FORMAT", "segment.header", "closed.seg", "sealed.seg"].map(str::to_owned));
    for entry in fs::read_dir(golden_dir()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "{name} is read by no test");
    }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        wal_id: WalId(0x0F0E_0D0C_0B0A_0908_0706_0504_0302_0100),
        stream_id: StreamId(0x1716_1514_1312_1110),
        generation: Generation(9),
        predecessor: Generation(7),
        base: SeqNo(3),
        salt: SALT,
        durable: SeqNo(2),
        start: SeqNo(1),
        last_timestamp: TIME - 1,
        created: TIME,
        name_crc: SegmentHeader::name_checksum("%55ser%2f1"),
        predecessor_salt: Salt(0x1122_3344_5566_7788),
        predecessor_frame_crc: 0x0102_0304,
        features: Features { compatible: 4, read_only_compatible: 8, incompatible: 0 },
    }
}

fn one(name: &'static str, first_seq: u64, attests: Option<u64>, body: Body) -> Sample {
    Sample { name, first_seq, attests, body }
}

fn closed_chain() -> Vec<Sample> {
    let end = Footer {
        kind: FooterKind::Close { previous: None },
        start: SeqNo(6),
        entries: 4,
        times: (TIME, TIME),
        index: Bytes::from_static(b"points"),
    };
    let batches = vec![vec![b"b".to_vec(), Vec::new()], vec![b"ccc".to_vec()]];
    vec![
        one("one entry", 3, Some(2), Body::Batches(vec![vec![b"a".to_vec()]])),
        one("two batches", 4, None, Body::Batches(batches)),
        one("start", 7, Some(4), Body::Control(Control::Start { start: SeqNo(6) })),
        one("close", 7, Some(7), Body::Control(Control::Footer(end))),
    ]
}

/// Header, frames, trailer.
fn segment(frames: &[Sample]) -> Vec<u8> {
    let mut file = header().encode().to_vec();
    let mut last = ByteOffset(0);
    for frame in frames {
        last = ByteOffset(file.len() as u64);
        file.extend(frame.encode(&FramePosition { salt: SALT, offset: last }));
    }
    file.extend(Trailer { footer_offset: last }.encode(SALT));
    file
}

fn assert_segment(file: &Bytes, frames: &[Sample]) {
    assert_eq!(SegmentHeader::decode(file), Ok(header()));
    let trailer_at = file.len() - TRAILER_LEN;
    let trailer = Trailer::decode(&file[trailer_at..], SALT).expect("the file ends in a trailer");
    let limits = Limits { base: header().base, end: ByteOffset(trailer_at as u64) };
    let found = samples::frames_of(&file.slice(..trailer_at), SALT, SEGMENT_HEADER_LEN as u64, &limits);
    assert_eq!(found.len(), frames.len());
    for ((_, found), frame) in found.iter().zip(frames) {
        frame.assert_is(found);
    }
    assert_eq!(trailer.footer_offset.0, found.last().unwrap().0);
    let Decoded::Frame(last) = &found.last().unwrap().1 else { panic!("the last is a frame") };
    assert!(matches!(last.control(), Some(Control::Footer(_))));
}
