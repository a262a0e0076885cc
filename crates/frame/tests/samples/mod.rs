//! A frame of each kind, described and encoded. The tests of golden files, seeds and properties
//! begin with these samples.
#![allow(dead_code, reason = "each test takes what it needs")]

use bytes::Bytes;
use stratawal_frame::{
    BATCH_END, ByteOffset, Codec, Control, DataFrame, Decoded, Footer, FooterKind, Frame, FramePosition, Generation,
    Limits, Newer, Salt, SeqNo, decode, encode_control, encode_data,
};

/// Some time in 2023, in microseconds since 1970.
pub(crate) const TIME: u64 = 1_700_000_000_000_000;

pub(crate) const SALT: Salt = Salt(0x0123_4567_89AB_CDEF);

/// The description of a frame.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) first_seq: u64,
    pub(crate) attests: Option<u64>,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    /// Batches of entries.
    Batches(Vec<Vec<Vec<u8>>>),
    Control(Control),
    /// A valid frame of a newer format, made by hand because the encoder does not write it.
    Newer {
        count: u32,
        codec: u8,
        flags: u8,
        payload: Vec<u8>,
        reason: Newer,
    },
}

impl Sample {
    pub(crate) fn encode(&self, position: &FramePosition) -> Vec<u8> {
        let mut out = Vec::new();
        let first_seq = SeqNo(self.first_seq);
        let durable = self.attests.map(SeqNo);
        match &self.body {
            Body::Batches(batches) => {
                let (ends, data) = flatten(batches);
                let frame = DataFrame { first_seq, timestamp: TIME, durable, ends: &ends, data: &data };
                encode_data(&mut out, position, &frame);
            }
            Body::Control(control) => encode_control(&mut out, position, first_seq, TIME, durable, control),
            Body::Newer { count, codec, flags, payload, .. } => {
                out = self.by_hand(position, *count, *codec, *flags, payload);
            }
        }
        out
    }

    /// Encodes the frame from the field table, without the encoder.
    fn by_hand(&self, position: &FramePosition, count: u32, codec: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let undurable = self.attests.map_or(u32::MAX, |durable| u32::try_from(self.first_seq - durable).unwrap());
        let mut header = crc32(payload).to_le_bytes().to_vec();
        header.extend_from_slice(&self.first_seq.to_le_bytes());
        header.extend_from_slice(&TIME.to_le_bytes());
        for n in [count, u32::try_from(payload.len()).unwrap(), undurable] {
            header.extend_from_slice(&n.to_le_bytes());
        }
        header.extend_from_slice(&[codec, flags, 0, 0]);
        let positioned = [&position.salt.0.to_le_bytes()[..], &position.offset.0.to_le_bytes(), &header].concat();
        let mut out = [&crc32(&positioned).to_le_bytes()[..], &header, payload].concat();
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    /// Asserts that `found` is the described frame.
    pub(crate) fn assert_is(&self, found: &Decoded<Frame>) {
        let name = self.name;
        if let Body::Newer { reason, .. } = &self.body {
            assert_eq!(found, &Decoded::Newer(*reason), "{name}");
            return;
        }
        let Decoded::Frame(frame) = found else { panic!("{name}: {found:?}") };
        let header = frame.header();
        assert_eq!(header.first_seq, SeqNo(self.first_seq), "{name}");
        assert_eq!(header.timestamp, TIME, "{name}");
        assert_eq!(header.attests, self.attests.map(SeqNo), "{name}");
        assert_eq!(header.codec, Codec::Raw, "{name}");
        let (batches, control) = match &self.body {
            Body::Batches(batches) => (batches.clone(), None),
            Body::Control(control) => (Vec::new(), Some(control)),
            Body::Newer { .. } => unreachable!("returned above"),
        };
        assert_eq!(frame.control(), control, "{name}");
        assert_eq!(batches_of(frame), batches, "{name}");
        assert_eq!(frame.end_seq(), SeqNo(self.first_seq + batches.iter().map(Vec::len).sum::<usize>() as u64));
    }
}

/// Returns the entries of a frame, batch by batch.
pub(crate) fn batches_of(frame: &Frame) -> Vec<Vec<Vec<u8>>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    for i in 0..frame.header().count {
        batch.push(frame.entry(i).unwrap().to_vec());
        if frame.ends_batch(i) {
            batches.push(std::mem::take(&mut batch));
        }
    }
    assert!(batch.is_empty(), "the last entry of a frame ends its batch");
    batches
}

/// Returns the consecutive frames of `file` from `offset` on, each with its offset. They must end
/// where the file does.
pub(crate) fn frames_of(file: &Bytes, salt: Salt, offset: u64, limits: &Limits) -> Vec<(u64, Decoded<Frame>)> {
    let mut frames = Vec::new();
    let mut at = usize::try_from(offset).unwrap();
    while at < file.len() {
        let position = FramePosition { salt, offset: ByteOffset(at as u64) };
        let found = decode(&file.slice(at..), &position, limits);
        let Decoded::Frame(frame) = &found else { panic!("{found:?} at {at}") };
        let next = at + usize::try_from(frame.header().frame_len()).unwrap();
        frames.push((at as u64, found));
        at = next;
    }
    assert_eq!(at, file.len(), "the last frame ends with the file");
    frames
}

/// Returns batches in the form of [`DataFrame`]: ends with their batch bits, and the bytes.
pub(crate) fn flatten(batches: &[Vec<Vec<u8>>]) -> (Vec<u32>, Vec<u8>) {
    let mut ends = Vec::new();
    let mut data = Vec::new();
    for batch in batches {
        for entry in batch {
            data.extend_from_slice(entry);
            ends.push(u32::try_from(data.len()).unwrap());
        }
        *ends.last_mut().unwrap() |= BATCH_END;
    }
    (ends, data)
}

/// Computes CRC-32 from its definition, so that the samples do not depend on the library under
/// test.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}

/// Returns the length of an index block with which a SEAL or CLOSE at `offset` needs its pad.
pub(crate) fn index_len_that_pads(offset: u64) -> usize {
    let unpadded = offset + 40 + 56 + 16;
    usize::try_from((8 + 4096 - unpadded % 4096) % 4096).unwrap()
}

/// Returns the samples, for a frame at `offset`.
pub(crate) fn all(offset: u64) -> Vec<Sample> {
    let mut samples = data();
    samples.extend(control(offset));
    samples.extend(newer());
    samples
}

fn data() -> Vec<Sample> {
    let entries = |name, first_seq, attests, batches: &[&[&[u8]]]| Sample {
        name,
        first_seq,
        attests,
        body: Body::Batches(batches.iter().map(|batch| batch.iter().map(|entry| entry.to_vec()).collect()).collect()),
    };
    let first = 1 << 40;
    vec![
        entries("data-one-entry", 7, Some(7), &[&[b"hello"]]),
        entries("data-empty-entry", 8, Some(5), &[&[b""]]),
        entries("data-batches", 9, Some(7), &[&[b"alpha", b"beta"], &[b"gamma"], &[b"", b"\0\xff", b""], &[b"z"]]),
        entries("data-empty-entries", 16, Some(16), &[&[b"", b""], &[b""]]),
        entries("data-undurable-max", first, Some(first - 0xFFFF_FFFE), &[&[b"far behind"]]),
        entries("data-attests-nothing", first, None, &[&[b"no watermark"]]),
        entries("data-last-seq", u64::MAX - 1, Some(u64::MAX - 1), &[&[b"the last"]]),
    ]
}

fn control(offset: u64) -> Vec<Sample> {
    let control = |name, control| Sample { name, first_seq: 120, attests: Some(117), body: Body::Control(control) };
    let end = |kind, index: Vec<u8>| {
        Control::Footer(Footer {
            kind,
            start: SeqNo(20),
            entries: 100,
            times: (TIME - 1_000_000, TIME),
            index: Bytes::from(index),
        })
    };
    let seal = FooterKind::Seal { successor: Generation(0x0A0B_0C0D), salt: Salt(0x99AA_BBCC_DDEE_FF00) };
    let again = FooterKind::Close { previous: Some(ByteOffset(128)) };
    let pads = vec![b'i'; index_len_that_pads(offset)];
    vec![
        control("control-mark", Control::Mark),
        control("control-start", Control::Start { start: SeqNo(20) }),
        control("control-seal", end(seal, b"opaque index block".to_vec())),
        control("control-seal-without-index", end(seal, Vec::new())),
        control("control-seal-padded", end(seal, pads)),
        control("control-close", end(FooterKind::Close { previous: None }, b"points".to_vec())),
        control("control-close-again", end(again, b"more points".to_vec())),
    ]
}

fn newer() -> Vec<Sample> {
    let newer = |name, count, codec, flags, payload: &[u8], reason| Sample {
        name,
        first_seq: 300,
        attests: Some(299),
        body: Body::Newer { count, codec, flags, payload: payload.to_vec(), reason },
    };
    // The entry "hello" three times: as an LZ4 block of literals, as a zstd frame with a raw block,
    // and uncompressed.
    vec![
        newer("newer-codec-lz4", 1, 1, 0, b"\x05\0\0\0\x50hello", Newer::Codec(1)),
        newer("newer-codec-zstd", 1, 2, 0, b"\x05\0\0\0\x28\xb5\x2f\xfd\x20\x05\x29\0\0hello", Newer::Codec(2)),
        newer("newer-codec-unknown", 1, 3, 0, b"?", Newer::Codec(3)),
        newer("newer-flag", 1, 0, 0x80, b"hello", Newer::Flags(0x80)),
        // The payload is too short for a table, but a reader that does not know a flag cannot judge
        // it.
        newer("newer-flag-without-table", 9, 0, 0x01, b"?", Newer::Flags(0x01)),
        newer("newer-control-kind", 0, 0, 0, b"\x05\0\0\0what it may say", Newer::ControlKind(5)),
    ]
}
