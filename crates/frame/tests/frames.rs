//! A single frame decodes to the one that was encoded, and other bytes are not decoded.

mod samples;

use bytes::Bytes;
use proptest::prelude::*;
use samples::{Body, SALT, TIME};
use stratawal_frame::{
    BATCH_END, ByteOffset, Codec, Control, DataFrame, Decoded, EntrySlices, FRAME_HEADER_LEN, Footer, FooterKind,
    FrameHeader, FramePosition, Generation, Invalid, Limits, Newer, PAD_LEN, PayloadChecksum, Salt, SeqNo, TRAILER_LEN,
    check_payload, data_frame_len_max, decode, decode_header, decode_payload, encode_control, encode_data,
    encode_data_head, entry_range, properties,
};

const POSITION: FramePosition = FramePosition { salt: SALT, offset: ByteOffset(128) };

type Batches = Vec<Vec<Vec<u8>>>;

fn any_batches() -> impl Strategy<Value = Batches> {
    let entry = prop::collection::vec(any::<u8>(), 0..40);
    prop::collection::vec(prop::collection::vec(entry, 1..5), 1..5)
}

fn any_position() -> impl Strategy<Value = FramePosition> {
    (any::<u64>(), 16..1_u64 << 50)
        .prop_map(|(salt, eighths)| FramePosition { salt: Salt(salt), offset: ByteOffset(eighths * 8) })
}

fn any_control() -> impl Strategy<Value = Control> {
    let end = (any::<u32>(), any::<u64>(), any::<[u64; 4]>(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(
        |(successor, previous, [start, entries, first, last], index)| {
            let kind = match Generation(successor) {
                successor if previous % 2 == 0 && successor.0 != 0 => {
                    FooterKind::Seal { successor, salt: Salt(previous) }
                }
                _ => FooterKind::Close { previous: (previous > 128).then_some(ByteOffset(previous)) },
            };
            Control::Footer(Footer { kind, start: SeqNo(start), entries, times: (first, last), index: index.into() })
        },
    );
    prop_oneof![Just(Control::Mark), any::<u64>().prop_map(|start| Control::Start { start: SeqNo(start) }), end]
}

fn encode(position: &FramePosition, first_seq: u64, durable: Option<u64>, batches: &Batches) -> Vec<u8> {
    let (ends, data) = samples::flatten(batches);
    let frame = DataFrame {
        first_seq: SeqNo(first_seq),
        timestamp: TIME,
        durable: durable.map(SeqNo),
        ends: &ends,
        data: &data,
    };
    let mut out = Vec::new();
    encode_data(&mut out, position, &frame);
    out
}

fn decode_at(bytes: &[u8], position: &FramePosition) -> Decoded<stratawal_frame::Frame> {
    decode(&Bytes::copy_from_slice(bytes), position, &Limits::NONE)
}

/// Returns the length of header and payload, without the zeros after them.
fn covered_len(frame: &[u8]) -> usize {
    FRAME_HEADER_LEN + u32::from_le_bytes(frame[28..32].try_into().unwrap()) as usize
}

/// Corrects the checksums of a frame whose other bytes were changed.
fn reseal(frame: &mut [u8], position: &FramePosition) {
    let payload_crc = samples::crc32(&frame[FRAME_HEADER_LEN..covered_len(frame)]);
    frame[4..8].copy_from_slice(&payload_crc.to_le_bytes());
    let positioned =
        [&position.salt.0.to_le_bytes()[..], &position.offset.0.to_le_bytes(), &frame[4..FRAME_HEADER_LEN]].concat();
    frame[..4].copy_from_slice(&samples::crc32(&positioned).to_le_bytes());
}

/// An entry that is read without its frame has the same bytes. Both ways reject a payload with a
/// flipped bit.
#[test]
fn an_entry_is_read_without_its_frame() {
    for batches in [vec![vec![b"alone".to_vec()]], vec![vec![Vec::new(), b"a".to_vec()], vec![b"bcd".to_vec()]]] {
        let bytes = encode(&POSITION, 7, Some(7), &batches);
        let Decoded::Frame(frame) = decode_at(&bytes, &POSITION) else { panic!("a frame") };
        let mut payload = bytes[FRAME_HEADER_LEN..covered_len(&bytes)].to_vec();
        let header = frame.header();
        assert_eq!(check_payload(header, &payload), Decoded::Frame(()));
        for i in 0..=header.count {
            let range = entry_range(header.count, &payload, i);
            assert_eq!(range.clone().map(|range| &payload[range]), frame.entry(i).as_deref(), "{i}");
            assert_eq!(range.is_some(), i < header.count);
        }
        assert_eq!(check_payload(header, &payload[1..]), Decoded::Incomplete { needed: header.frame_len() });
        payload[0] ^= 1;
        assert_eq!(check_payload(header, &payload), Decoded::Invalid(Invalid::PayloadChecksum));
    }
}

proptest! {
    #[test]
    fn adjacent_frames_have_the_entries_of_each(
        frames in prop::collection::vec(prop_oneof![any_batches().prop_map(Ok), any_control().prop_map(Err)], 1..6),
        first in 0..30_usize,
    ) {
        let mut bytes = Vec::new();
        let mut entries = Vec::new();
        let mut firsts = None;
        for frame in &frames {
            let position = FramePosition { offset: ByteOffset(128 + bytes.len() as u64), ..POSITION };
            match frame {
                Ok(batches) => bytes.extend(encode(&position, 0, None, batches)),
                Err(control) => encode_control(&mut bytes, &position, SeqNo(0), TIME, None, control),
            }
            for batch in frame.iter().flatten() {
                let last = batch.len() - 1;
                entries.extend(batch.iter().enumerate().map(|(i, entry)| (entry.clone(), i == last)));
            }
            firsts.get_or_insert(entries.len());
        }
        let slices = |first| EntrySlices::frames(&bytes, first).map(|entry| (entry.bytes.to_vec(), entry.ends_batch));
        prop_assert!(slices(0).eq(entries.iter().cloned()));
        // The skipped entries are in the first frame.
        let first = first % firsts.unwrap_or(0).max(1);
        prop_assert!(slices(u32::try_from(first).unwrap()).eq(entries[first..].iter().cloned()));
        prop_assert!(EntrySlices::one(&bytes).map(|entry| entry.bytes).eq([&bytes[..]]));
    }

    #[test]
    fn batches_are_read_as_they_were_written(
        batches in any_batches(),
        position in any_position(),
        first_seq in any::<u32>(),
        behind in prop::option::of(any::<u32>()),
        before in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let durable = behind.map(|behind| u64::from(first_seq.saturating_sub(behind)));
        let (ends, data) = samples::flatten(&batches);
        let mut out = before.clone();
        let frame = DataFrame {
            first_seq: SeqNo(u64::from(first_seq)),
            timestamp: TIME,
            durable: durable.map(SeqNo),
            ends: &ends,
            data: &data,
        };
        encode_data(&mut out, &position, &frame);
        prop_assert_eq!(&out[..before.len()], &before[..], "the buffer keeps its bytes");
        let bytes = Bytes::from(out.split_off(before.len()));
        prop_assert!(bytes.len() as u64 <= data_frame_len_max(ends.len() as u64, data.len() as u64));

        let mut in_parts = Vec::new();
        let zeros = encode_data_head(&mut in_parts, &position, &frame);
        in_parts.extend_from_slice(&data);
        in_parts.resize(in_parts.len() + zeros, 0);
        prop_assert_eq!(&in_parts, &bytes, "head, data and zeros are the frame");

        let Decoded::Frame(found) = decode(&bytes, &position, &Limits::NONE) else { panic!("it is a frame") };
        prop_assert_eq!(samples::batches_of(&found), batches);
        prop_assert_eq!(found.header().attests, durable.map(SeqNo));
        prop_assert_eq!(found.header().frame_len(), bytes.len() as u64);
        prop_assert_eq!(found.first_seq().get(), u64::from(first_seq));
        prop_assert_eq!(found.end_seq().get(), u64::from(first_seq) + ends.len() as u64);
        prop_assert_eq!(found.entries().count(), ends.len());
        prop_assert_eq!(found.entry(u32::try_from(ends.len()).unwrap()), None);
        prop_assert!(bytes.slice(covered_len(&bytes)..).iter().all(|&b| b == 0));
    }

    #[test]
    fn control_frames_are_read_as_they_were_written(control in any_control(), position in any_position(), seq: u64) {
        let mut out = Vec::new();
        let seq = match &control {
            Control::Start { start } | Control::Footer(Footer { start, .. }) => seq.max(start.0),
            _ => seq,
        };
        encode_control(&mut out, &position, SeqNo(seq), TIME, None, &control);
        let Decoded::Frame(found) = decode_at(&out, &position) else { panic!("it is a frame") };
        prop_assert_eq!(found.control(), Some(&control));
        prop_assert_eq!((found.first_seq(), found.end_seq()), (SeqNo(seq), SeqNo(seq)));
        prop_assert_eq!(found.entries().count(), 0);
    }

    #[test]
    fn a_frame_at_another_position_is_not_valid(
        batches in any_batches(), position in any_position(), other in any_position(),
    ) {
        let bytes = encode(&position, 7, Some(7), &batches);
        let moved = FramePosition { offset: other.offset, ..position };
        let salted = FramePosition { salt: other.salt, ..position };
        for elsewhere in [moved, salted, other].into_iter().filter(|elsewhere| *elsewhere != position) {
            prop_assert_eq!(decode_at(&bytes, &elsewhere), Decoded::Invalid(Invalid::HeaderChecksum));
        }
    }

    #[test]
    fn a_burst_of_up_to_32_bits_is_found(
        batches in any_batches(), position in any_position(), at: prop::sample::Index, burst in 1..=u32::MAX,
    ) {
        let mut bytes = encode(&position, 7, Some(7), &batches);
        // The burst is within the header or within the payload, so that one checksum covers all of
        // it.
        let covered = covered_len(&bytes);
        let (from, to) = if at.index(covered) < 40 { (4, 40) } else { (40, covered) };
        let at = from + at.index(to - from);
        for (byte, flip) in bytes[at..to].iter_mut().zip(burst.to_le_bytes()) {
            *byte ^= flip;
        }
        prop_assume!(burst.to_le_bytes()[..(to - at).min(4)] != [0; 4][..(to - at).min(4)]);
        prop_assert!(matches!(decode_at(&bytes, &position), Decoded::Invalid(_)));
    }

    #[test]
    fn random_bytes_are_never_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..200), position in any_position()) {
        let found = decode_at(&bytes, &position);
        prop_assert!(!matches!(found, Decoded::Frame(_) | Decoded::Newer(_)), "{:?}", found);
    }

    #[test]
    fn properties_hold_of_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        properties::decode_any(&bytes);
    }

    #[test]
    fn the_properties_hold_for_mutated_frames(
        selector: u8,
        sample: prop::sample::Index,
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut: prop::sample::Index,
    ) {
        let offset = 128 + 8 * u64::from(selector);
        let position = FramePosition { salt: Salt(u64::from(selector)), offset: ByteOffset(offset) };
        let samples = samples::all(offset);
        let mut bytes = vec![selector];
        bytes.extend(samples[sample.index(samples.len())].encode(&position));
        for (at, value) in mutations {
            // Most changes are in the header and at the beginning of the payload, where the
            // structure is.
            let at = 1 + at.index((bytes.len() - 1).min(110));
            bytes[at] = value;
        }
        properties::decode_any(&bytes);
        bytes.truncate(1 + cut.index(bytes.len()));
        properties::decode_any(&bytes);
    }

    #[test]
    fn a_checksum_in_pieces_is_that_of_the_whole(pieces: Vec<Vec<u8>>) {
        let mut sum = PayloadChecksum::new();
        pieces.iter().for_each(|piece| sum.update(piece));
        prop_assert_eq!(sum.finish(), samples::crc32(&pieces.concat()));
    }
}

#[test]
fn every_flipped_bit_of_header_and_payload_is_found() {
    for sample in samples::all(POSITION.offset.0) {
        let bytes = sample.encode(&POSITION);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = decode_at(&flipped, &POSITION);
            if bit / 8 >= covered_len(&bytes) {
                sample.assert_is(&found);
            } else if bit / 8 < FRAME_HEADER_LEN {
                assert!(matches!(found, Decoded::Invalid(_)), "{}: bit {bit}: {found:?}", sample.name);
            } else if !header_alone_is_newer(&sample.body) {
                assert_eq!(found, Decoded::Invalid(Invalid::PayloadChecksum), "{}: bit {bit}", sample.name);
            }
        }
    }
}

/// Returns whether a reader stops at the header because it does not know the form of the payload.
fn header_alone_is_newer(body: &Body) -> bool {
    matches!(body, Body::Newer { reason: Newer::Flags(_) | Newer::Codec(3..), .. })
}

#[test]
fn a_frame_cut_anywhere_is_incomplete_or_blank() {
    for sample in samples::all(POSITION.offset.0) {
        let bytes = sample.encode(&POSITION);
        for len in 0..covered_len(&bytes) {
            match decode_at(&bytes[..len], &POSITION) {
                Decoded::Blank => assert!(bytes[..len].iter().all(|&b| b == 0), "{}: {len}", sample.name),
                Decoded::Incomplete { needed } if len < FRAME_HEADER_LEN => assert_eq!(needed, 40, "{}", sample.name),
                Decoded::Incomplete { needed } => assert_eq!(needed, bytes.len() as u64, "{}", sample.name),
                Decoded::Newer(_) if header_alone_is_newer(&sample.body) => assert!(len >= FRAME_HEADER_LEN),
                found => panic!("{} cut at {len}: {found:?}", sample.name),
            }
        }
        sample.assert_is(&decode_at(&bytes[..covered_len(&bytes)], &POSITION));
    }
}

#[test]
fn zeros_of_any_length_are_blank() {
    for len in 0..100 {
        assert_eq!(decode_at(&vec![0; len], &POSITION), Decoded::Blank, "{len}");
    }
}

#[test]
fn a_frame_outside_the_limits_is_implausible() {
    let bytes = Bytes::from(encode(&POSITION, 7, Some(7), &vec![vec![b"hello".to_vec()]]));
    let end = POSITION.offset + bytes.len() as u64;
    let at = |base, end| decode(&bytes, &POSITION, &Limits { base: SeqNo(base), end });
    assert!(matches!(at(7, end), Decoded::Frame(_)));
    assert_eq!(at(8, end), Decoded::Invalid(Invalid::Implausible));
    assert_eq!(at(7, ByteOffset(end.0 - 1)), Decoded::Invalid(Invalid::Implausible), "its zeros are part of it");
    let far = FramePosition { salt: SALT, offset: ByteOffset(u64::MAX - 7) };
    assert_eq!(decode(&bytes, &far, &Limits::NONE), Decoded::Invalid(Invalid::Implausible));
}

#[test]
fn a_header_that_contradicts_itself_is_implausible() {
    let batches = vec![vec![b"a".to_vec(), b"bc".to_vec()]];
    let whole = encode(&POSITION, 7, Some(7), &batches);
    let with = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        reseal(&mut bytes, &POSITION);
        decode_header(&bytes, &POSITION, &Limits::NONE)
    };
    let implausible = Decoded::Invalid(Invalid::Implausible);
    assert!(matches!(with(0, &[]), Decoded::Frame(_)));
    assert_eq!(with(38, &[1]), implausible, "reserved");
    assert_eq!(with(39, &[1]), implausible, "reserved");
    assert_eq!(with(24, &3_u32.to_le_bytes()), implausible, "11 bytes hold no table of 3 entries");
    assert_eq!(with(8, &(u64::MAX - 1).to_le_bytes()), implausible, "seqs past the end of u64");
    assert_eq!(with(32, &8_u32.to_le_bytes()), implausible, "a watermark below 0");
    assert!(matches!(with(32, &7_u32.to_le_bytes()), Decoded::Frame(h) if h.attests == Some(SeqNo(0))));
}

#[test]
fn a_payload_of_2_gib_is_implausible() {
    let mut bytes = encode(&POSITION, 7, Some(7), &vec![vec![b"hello".to_vec()]]);
    let with_len = |bytes: &mut [u8], len: u32| {
        bytes[28..32].copy_from_slice(&len.to_le_bytes());
        let positioned = [&SALT.0.to_le_bytes()[..], &POSITION.offset.0.to_le_bytes(), &bytes[4..40]].concat();
        bytes[..4].copy_from_slice(&samples::crc32(&positioned).to_le_bytes());
        decode_at(bytes, &POSITION)
    };
    assert_eq!(with_len(&mut bytes, 0x8000_0000), Decoded::Invalid(Invalid::Implausible));
    assert_eq!(with_len(&mut bytes, 0x7FFF_FFFF), Decoded::Incomplete { needed: 0x8000_0028 });
}

#[test]
fn a_malformed_table_is_invalid() {
    let whole = encode(&POSITION, 7, Some(7), &vec![vec![b"a".to_vec(), b"bc".to_vec()], vec![b"d".to_vec()]]);
    let with = |i: usize, end: u32| {
        let mut bytes = whole.clone();
        bytes[40 + 4 * i..44 + 4 * i].copy_from_slice(&end.to_le_bytes());
        reseal(&mut bytes, &POSITION);
        decode_at(&bytes, &POSITION)
    };
    let invalid = Decoded::Invalid(Invalid::EntryTable);
    assert!(matches!(with(0, 1), Decoded::Frame(_)));
    assert!(matches!(with(0, 3), Decoded::Frame(_)), "an empty entry");
    assert_eq!(with(0, 4), invalid, "ends fall");
    assert_eq!(with(1, 5 | BATCH_END), invalid, "an end after the payload");
    assert_eq!(with(2, 4), invalid, "the last entry does not end its batch");
    assert_eq!(with(2, 3 | BATCH_END), invalid, "bytes of no entry");
    assert_eq!(with(2, 5 | BATCH_END), invalid, "an end after the payload");
    assert_eq!(with(2, u32::MAX), invalid);
}

#[test]
fn a_malformed_control_payload_is_invalid() {
    let position = FramePosition { salt: SALT, offset: ByteOffset(4096) };
    for sample in samples::all(position.offset.0) {
        let Body::Control(_) = sample.body else { continue };
        let whole = sample.encode(&position);
        let len = covered_len(&whole) - FRAME_HEADER_LEN;
        for wrong in (0..len).chain([len + 1, len + 8]) {
            let mut bytes = whole.clone();
            bytes.resize(whole.len() + 8, 0);
            bytes[28..32].copy_from_slice(&u32::try_from(wrong).unwrap().to_le_bytes());
            reseal(&mut bytes, &position);
            let found = decode_at(&bytes, &position);
            assert_eq!(found, Decoded::Invalid(Invalid::ControlPayload), "{}, {wrong} of {len}", sample.name);
        }
    }
}

#[test]
fn a_seal_or_close_with_a_wrong_field_is_invalid() {
    let end =
        |kind| Footer { kind, start: SeqNo(0), entries: 0, times: (0, 0), index: Bytes::from_static(b"abcdefgh") };
    let with = |kind, at: usize, value: &[u8]| {
        let mut bytes = Vec::new();
        encode_control(&mut bytes, &POSITION, SeqNo(9), TIME, None, &Control::Footer(end(kind)));
        bytes[40 + at..40 + at + value.len()].copy_from_slice(value);
        reseal(&mut bytes, &POSITION);
        decode_at(&bytes, &POSITION)
    };
    let seal = FooterKind::Seal { successor: Generation(3), salt: Salt(5) };
    let close = FooterKind::Close { previous: None };
    let invalid = Decoded::Invalid(Invalid::ControlPayload);
    assert_eq!(with(seal, 4, &[0]), invalid, "a SEAL without successor");
    assert_eq!(with(close, 8, &[10]), invalid, "a CLOSE that drops entries that do not exist yet");
    assert!(matches!(with(close, 8, &[9]), Decoded::Frame(_)));
    let mut start = Vec::new();
    encode_control(&mut start, &POSITION, SeqNo(9), TIME, None, &Control::Start { start: SeqNo(10) });
    assert_eq!(decode_at(&start, &POSITION), invalid, "a START that drops entries that do not exist yet");
    assert!(matches!(with(seal, 40, &[0; 8]), Decoded::Frame(_)), "any salt is valid");
    assert_eq!(with(close, 4, &[1]), invalid, "a CLOSE with a successor");
    assert!(matches!(with(close, 40, &[128]), Decoded::Frame(_)), "a CLOSE with a CLOSE before it");
    for (index, pad) in [(4_u32, 4_u32), (7, 1), (9, 0), (0, 0), (u32::MAX, 9), (0, u32::MAX), (u32::MAX, u32::MAX)] {
        let lengths = [index.to_le_bytes(), pad.to_le_bytes()].concat();
        assert_eq!(with(close, 48, &lengths), invalid, "index {index}, pad {pad}");
    }
    assert_eq!(with(close, 48, &[0, 0, 0, 0, 8]), invalid, "a pad that is not zeros");
    assert!(matches!(with(close, 48, &[0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Decoded::Frame(_)));
    assert_eq!(with(seal, 0, &[5]), Decoded::Newer(Newer::ControlKind(5)));
}

#[test]
fn a_start_with_nonzero_padding_is_invalid() {
    let mut bytes = Vec::new();
    encode_control(&mut bytes, &POSITION, SeqNo(9), TIME, None, &Control::Start { start: SeqNo(3) });
    bytes[40 + 7] = 1;
    reseal(&mut bytes, &POSITION);
    assert_eq!(decode_at(&bytes, &POSITION), Decoded::Invalid(Invalid::ControlPayload));
}

#[test]
fn a_finished_length_is_never_an_active_length() {
    let mut padded = 0;
    for offset in (4096..3 * 4096).step_by(8) {
        for index_len in [0, 1, 7, 8, 9, 100] {
            let position = FramePosition { salt: SALT, offset: ByteOffset(offset) };
            let end = Footer {
                kind: FooterKind::Close { previous: None },
                start: SeqNo(0),
                entries: 0,
                times: (0, 0),
                index: vec![1; index_len].into(),
            };
            let mut bytes = Vec::new();
            encode_control(&mut bytes, &position, SeqNo(0), TIME, None, &Control::Footer(end.clone()));
            assert_ne!((offset + (bytes.len() + TRAILER_LEN) as u64) % 4096, 8, "at {offset}");
            assert!(bytes.len() as u64 <= Footer::frame_len_max(index_len));
            assert_eq!(bytes.len() % 8, 0);
            padded += usize::from(bytes[92..96] == (PAD_LEN as u32).to_le_bytes());
            let Decoded::Frame(found) = decode_at(&bytes, &position) else { panic!("at {offset}") };
            assert_eq!(found.control(), Some(&Control::Footer(end)));
        }
    }
    assert_eq!(padded, 12, "only these positions need a pad");
}

#[test]
fn a_watermark_too_far_back_attests_nothing() {
    let attests = |behind: u64| {
        let seq = 1 << 40;
        let bytes = encode(&POSITION, seq, Some(seq - behind), &vec![vec![Vec::new()]]);
        let Decoded::Frame(frame) = decode_at(&bytes, &POSITION) else { panic!("it is a frame") };
        frame.header().attests.map(|at| seq - at.0)
    };
    assert_eq!(attests(0), Some(0));
    assert_eq!(attests(0xFFFF_FFFE), Some(0xFFFF_FFFE));
    assert_eq!(attests(0xFFFF_FFFF), None);
    assert_eq!(attests(0x1_0000_0000), None);
}

#[test]
fn a_count_too_large_for_the_payload_is_an_invalid_table() {
    for count in [2, 3, u32::MAX] {
        let payload = Bytes::from_static(b"\0\0\0\0");
        let header = FrameHeader {
            payload_crc: samples::crc32(&payload),
            first_seq: SeqNo(0),
            timestamp: TIME,
            count,
            payload_len: 4,
            attests: None,
            codec: Codec::Raw,
        };
        assert_eq!(decode_payload(header, payload), Decoded::Invalid(Invalid::EntryTable), "{count}");
    }
}

#[test]
#[should_panic(expected = "ends never fall")]
fn ends_that_fall_are_not_written() {
    let ends = &[3, 2, 4 | BATCH_END];
    let data = b"abcd";
    let frame = DataFrame { first_seq: SeqNo(0), timestamp: TIME, durable: None, ends, data };
    encode_data(&mut Vec::new(), &POSITION, &frame);
}

#[test]
#[should_panic(expected = "ends with the data and with its batch")]
fn an_open_batch_is_not_written() {
    let frame = DataFrame { first_seq: SeqNo(0), timestamp: TIME, durable: None, ends: &[4], data: b"abcd" };
    encode_data(&mut Vec::new(), &POSITION, &frame);
}

#[test]
#[should_panic(expected = "a frame begins at a multiple of 8")]
fn a_frame_is_not_written_at_an_unaligned_offset() {
    encode(&FramePosition { salt: SALT, offset: ByteOffset(129) }, 0, None, &vec![vec![Vec::new()]]);
}

#[test]
#[should_panic(expected = "a seq fits a u64")]
fn a_seq_past_the_end_is_not_written() {
    encode(&POSITION, u64::MAX, None, &vec![vec![Vec::new()]]);
}

#[test]
#[should_panic(expected = "a SEAL names its successor")]
fn a_seal_without_successor_is_not_written() {
    let kind = FooterKind::Seal { successor: Generation(0), salt: Salt(5) };
    let end = Footer { kind, start: SeqNo(0), entries: 0, times: (0, 0), index: Bytes::new() };
    encode_control(&mut Vec::new(), &POSITION, SeqNo(0), TIME, None, &Control::Footer(end));
}
