//! Tests scanning a segment: its chain, and the attestations of frames anywhere in it.

mod common;

use std::sync::Arc;

use common::{HEADER_LEN, Raw, Rng, Segment, data_frame, header, raw, walked};
use stratawal_frame::{ByteOffset, Control, FooterKind, FramePosition, Salt, SegmentHeader, SeqNo, encode_control};
use stratawal_segment::{Access, ErrorKind, FrameSearch, SegmentFile, create};
use stratawal_storage::{Storage, UnixStorage};

fn attested(file: &SegmentFile, from: u64) -> u64 {
    file.attestations(ByteOffset(from)).unwrap().attested.0
}

fn mark(position: &FramePosition, next: u64, durable: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_control(&mut bytes, position, SeqNo(next), 1, Some(SeqNo(durable)), &Control::Mark);
    bytes
}

#[test]
fn a_segment_without_frames_has_an_empty_chain() {
    let (chain, frames) = walked(&Segment::new().file());
    assert_eq!((chain.end_seq, chain.end, chain.attested), (SeqNo(40), ByteOffset(HEADER_LEN), SeqNo(40)));
    assert_eq!((chain.start, chain.times, chain.close, frames.len()), (None, None, None, 0));
    assert!(chain.seal.is_none());
}

#[test]
fn a_chain_holds_frames_of_all_kinds_up_to_its_seal() {
    let mut segment = Segment::new();
    let mut expected = vec![(segment.append(&[b"one"]).0, 40, 1)];
    segment.sync();
    segment.mark();
    expected.push((segment.append(&[b"two", b"", b"four"]).0, 41, 3));
    expected.push((segment.offset().0, 44, 0));
    segment.start(13);
    segment.close();
    let close = segment.closed_at.unwrap();
    expected.push((close.0, 44, 0));
    segment.resume_after_close();
    expected.push((segment.append(&[&[7; 5000]]).0, 44, 1));
    expected.push((segment.offset().0, 45, 0));
    segment.start(42);
    let seal = segment.offset();
    segment.seal();
    let (chain, frames) = walked(&segment.file());
    assert_eq!(frames.iter().map(|(at, f)| (*at, f.first_seq.0, f.count)).collect::<Vec<_>>(), expected);
    assert_eq!((chain.end_seq, chain.end, chain.start), (SeqNo(45), seal, Some(SeqNo(42))));
    assert_eq!((chain.close, chain.times), (Some(close), Some((1040, 1044))));
    assert_eq!(chain.attested, SeqNo(44), "what its last START knew");
    let (end, len) = chain.seal.expect("it is sealed");
    assert!(matches!(end.kind, FooterKind::Seal { successor, .. } if successor.0 == 4));
    assert_eq!(seal.0 + len + 16, segment.file().len());
}

#[test]
fn frames_after_a_seal_are_not_in_the_chain() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.seal();
    let end = segment.file().len() - 16;
    segment.poke(&data_frame(&segment.position(end), 41, Some(41), &[b"second"]), end);
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.end_seq, frames.len(), chain.seal.is_some()), (SeqNo(41), 1, true));
}

#[test]
fn the_chain_ends_before_a_mark() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    let at = segment.offset().0;
    segment.poke(&mark(&segment.position(at), 41, 41), at);
    segment.poke(&data_frame(&segment.position(at + 48), 41, Some(41), &[b"second"]), at + 48);
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.end.0, chain.end_seq, frames.len(), chain.attested), (at, SeqNo(41), 1, SeqNo(40)));
    assert_eq!(attested(&segment.file(), at), 41, "but what it attests counts");
}

#[test]
fn a_frame_is_next_only_with_the_expected_seq() {
    for (seq, next) in [(39, false), (40, false), (41, false), (42, true), (43, false), (u64::MAX - 1, false)] {
        let mut segment = Segment::new();
        segment.append(&[b"one", b"two"]);
        let at = segment.offset().0;
        segment.poke(&data_frame(&segment.position(at), seq, None, &[b"next"]), at);
        let (chain, frames) = walked(&segment.file());
        assert_eq!((frames.len(), chain.end.0 > at), if next { (2, true) } else { (1, false) }, "seq {seq}");
    }
}

#[test]
fn a_frame_is_next_only_where_the_last_one_ended() {
    for gap in [8, 16, 48, 4096] {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        let at = segment.offset().0 + gap;
        segment.poke(&data_frame(&segment.position(at), 41, Some(41), &[b"next"]), at);
        let file = segment.file();
        assert_eq!(walked(&file).0.end_seq, SeqNo(41), "a gap of {gap}");
        let found = file.attestations(segment.offset()).unwrap();
        assert_eq!((found.attested, found.first_seq), (SeqNo(41), Some(SeqNo(41))), "but it is found");
    }
}

#[test]
fn a_frame_of_another_segment_or_offset_is_not_valid() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    let at = segment.offset().0;
    let right = segment.position(at);
    let elsewhere = [
        FramePosition { salt: Salt(right.salt.0 ^ 1), ..right },
        FramePosition { salt: Salt(0), ..right },
        FramePosition { offset: ByteOffset(at - 8), ..right },
        FramePosition { offset: ByteOffset(at + 8), ..right },
        FramePosition { offset: ByteOffset(at + 4096), ..right },
        FramePosition { offset: ByteOffset(at + (1 << 32)), ..right },
    ];
    for position in elsewhere {
        segment.poke(&data_frame(&position, 41, Some(41), &[b"next"]), at);
        let file = segment.file();
        assert_eq!(walked(&file).0.end_seq, SeqNo(41), "{position:?}");
        assert_eq!(attested(&file, HEADER_LEN), 40, "{position:?}: nor does it attest");
    }
    segment.poke(&data_frame(&right, 41, Some(41), &[b"next"]), at);
    assert_eq!((walked(&segment.file()).0.end_seq, attested(&segment.file(), HEADER_LEN)), (SeqNo(42), 41));
}

#[test]
fn swapped_frames_of_one_length_are_not_valid() {
    let mut segment = Segment::new();
    // They have the same seq, so that they differ only in their offsets.
    let a = 128;
    let b = 176;
    let frame = |segment: &Segment, at| data_frame(&segment.position(at), 40, Some(40), &[b"entry"]);
    segment.poke(&frame(&segment, b), a);
    segment.poke(&frame(&segment, a), b);
    assert_eq!(walked(&segment.file()).0.end_seq, SeqNo(40));
    assert_eq!(segment.file().attestations(ByteOffset(HEADER_LEN)).unwrap().first_seq, None);
    segment.append(&[b"entry"]);
    assert_eq!(walked(&segment.file()).0.end_seq, SeqNo(41));
}

/// Twenty frames of 520 bytes, each written after the one before was synced.
fn twenty() -> (Segment, Vec<u64>) {
    let mut segment = Segment::with(&header(), 20_000);
    let at = (0..20).map(|_| {
        let at = segment.append(&[&[7; 480]]).0;
        segment.sync();
        at
    });
    let at = at.collect();
    segment.mark();
    (segment, at)
}

#[test]
fn attestations_are_found_after_a_hole_of_zeros() {
    let (segment, frames) = twenty();
    let tail = segment.offset().0;
    assert_eq!(attested(&segment.file(), tail), 60, "the MARK");
    for page in [512, 4096] {
        for hole in (512..tail).step_by(512) {
            let bytes = segment.storage.bytes();
            segment.poke(&vec![0; usize::try_from(page).unwrap()], hole);
            let file = segment.file();
            let chain = walked(&file).0;
            let lost = frames.iter().take_while(|&&at| at + 520 <= hole).count() as u64;
            assert_eq!(chain.end_seq.0, 40 + lost, "{page} bytes at {hole}");
            assert!(chain.end.0 <= hole && chain.attested <= chain.end_seq);
            // The MARK may also be lost. Then the last remaining frame attests the entries before
            // it.
            let left = frames.iter().rposition(|&at| at >= hole + page || at + 520 <= hole);
            let mark = !(hole..hole + page).contains(&tail);
            let expected = if mark { 60 } else { 40 + left.map_or(0, |i| i as u64) };
            assert_eq!(attested(&file, HEADER_LEN), expected, "{page} bytes at {hole}");
            let beyond = frames.iter().position(|&at| at >= hole + page).map(|i| SeqNo(40 + i as u64));
            assert_eq!(file.attestations(chain.end).unwrap().first_seq, beyond, "{page} bytes at {hole}");
            segment.poke(&bytes, 0);
        }
    }
}

#[test]
fn attestations_are_found_after_garbage() {
    let (segment, frames) = twenty();
    let mut rng = common::Rng(1);
    let garbage: Vec<u8> = (0..3000).map(|_| rng.next() as u8 | 1).collect();
    for at in [frames[0], frames[3] + 40, frames[7] + 8] {
        let bytes = segment.storage.bytes();
        segment.poke(&garbage, at);
        assert_eq!(attested(&segment.file(), HEADER_LEN), 60, "{at}");
        assert!(walked(&segment.file()).0.end.0 <= at);
        segment.poke(&bytes, 0);
    }
}

/// The entry holds a frame whose checksums are right for the offset that it will have in the file.
#[test]
fn an_entry_that_looks_like_a_frame_attests_nothing() {
    for broken in [false, true] {
        let mut segment = Segment::new();
        let at = segment.offset().0;
        let mut entry = vec![0; 24];
        let inner = segment.position(at + 40 + 24);
        entry.extend(mark(&inner, 9000, 9000));
        entry.extend(data_frame(&segment.position(inner.offset.0 + 48), 9000, Some(9000), &[b"never written"]));
        segment.append(&[&entry]);
        segment.poke(&mark(&segment.position(segment.offset().0), 41, 41), segment.offset().0);
        if broken {
            // The header is valid, so its payload is not searched, whether or not the payload is
            // valid.
            segment.poke(b"x", at + 40);
        }
        let file = segment.file();
        assert_eq!(walked(&file).0.end_seq.0, if broken { 40 } else { 41 });
        let found = file.attestations(ByteOffset(HEADER_LEN)).unwrap();
        assert_eq!((found.attested, found.first_seq), (SeqNo(41), (!broken).then_some(SeqNo(40))), "{broken}");
    }
}

#[test]
fn only_valid_attestations_raise_the_watermark() {
    let mut segment = Segment::new();
    let at = segment.append(&[b"one"]).0 + 48;
    let high = Raw { undurable: 0, ..raw(900) };
    assert_eq!((high.encode(&segment.position(at)).len(), attested(&segment.file(), 0)), (48, 40));
    for (frame, expected) in [
        (high.clone(), 900),
        (Raw { undurable: 100, ..raw(900) }, 800),
        (Raw { undurable: u32::MAX, ..raw(900) }, 40),
        (Raw { undurable: 901, ..high.clone() }, 40),
        (Raw { undurable: 0, ..raw(39) }, 40),
        (Raw { payload_crc: Some(1), ..high.clone() }, 40),
        (Raw { payload_len: Some(1 << 20), ..high.clone() }, 40),
        (Raw { count: 2, ..high.clone() }, 40),
        (Raw { count: u32::MAX, undurable: 0, ..raw(u64::MAX - 7) }, 40),
    ] {
        segment.poke(&frame.encode(&segment.position(at)), at);
        assert_eq!(attested(&segment.file(), HEADER_LEN), expected, "{frame:?}");
    }
}

/// The offsets of the frames that a search finds, each with whether the whole frame is valid.
fn searched(file: &SegmentFile) -> Vec<(u64, bool)> {
    let mut search = FrameSearch::new(file, ByteOffset(HEADER_LEN));
    std::iter::from_fn(|| search.next_frame().unwrap()).map(|found| (found.offset.0, found.is_whole)).collect()
}

#[test]
fn a_search_finds_every_frame_between_other_bytes() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let segment = Segment::with(&header(), 60_000);
        let mut at = HEADER_LEN;
        let mut expected = Vec::new();
        for _ in 0..rng.below(12) {
            let len = usize::try_from(8 * (1 + rng.below(40))).unwrap();
            let other: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
            let mut frame = data_frame(&segment.position(at), 40, None, &[&other[..len - 3]]);
            let piece = match rng.below(7) {
                0 => vec![0; len],
                1 => other,
                kind => {
                    let is_whole = kind > 2;
                    frame[40] ^= u8::from(!is_whole);
                    expected.push((at, is_whole));
                    frame
                }
            };
            segment.poke(&piece, at);
            at += piece.len() as u64;
        }
        assert_eq!(searched(&segment.file()), expected, "seed {seed}");
    }
}

#[test]
fn the_payload_of_a_damaged_header_is_searched() {
    let mut segment = Segment::new();
    let inner = data_frame(&segment.position(HEADER_LEN + 40), 42, None, &[b"inner"]);
    let outer = segment.append(&[&inner]);
    assert_eq!(searched(&segment.file()), [(outer.0, true)]);
    segment.poke(&[0xFF], outer.0 + 17);
    assert_eq!(searched(&segment.file()), [(outer.0 + 40, true)]);
}

/// The next frame overwrites a MARK. A crash may keep the MARK's header and bytes that were written
/// later.
#[test]
fn a_frame_within_an_overwritten_mark_is_found() {
    let mut segment = Segment::new();
    let at = segment.append(&[b"one"]).0 + 48;
    // A MARK at `at`, then a frame of 40 bytes at the same offset, which is lost, followed by a
    // frame that is not lost.
    let written_over = mark(&segment.position(at), 41, 41);
    let after = data_frame(&segment.position(at + 40), 42, Some(42), &[b"three"]);
    segment.poke(&written_over, at);
    segment.poke(&after, at + 40);
    assert_eq!(attested(&segment.file(), HEADER_LEN), 42);
}

#[test]
fn the_torn_tail_is_the_bytes_after_the_chain() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    let from = segment.offset();
    let torn_len = |segment: &Segment| segment.file().torn_len(from).unwrap();
    assert_eq!(torn_len(&segment), 0);
    segment.mark();
    assert_eq!(torn_len(&segment), 0, "a MARK does not count");
    for at in [from.0 + 48, from.0 + 49, 5000, 8199] {
        segment.poke(b"x", at);
        assert_eq!(torn_len(&segment), at + 1 - from.0);
    }
    segment.poke(&[0; 48], from.0);
    assert_eq!(torn_len(&segment), 8200 - from.0, "zeros first");
    for beyond in [8192, 8199, 8200, 8300] {
        assert_eq!(
            segment.file().torn_len(ByteOffset(beyond)).unwrap(),
            8200_u64.saturating_sub(beyond),
            "from {beyond}"
        );
    }
    // Only the first bytes of the frame survive.
    let mut torn = Segment::new();
    torn.append(&[b"one"]);
    torn.poke(&data_frame(&torn.position(from.0), 41, None, &[b"two"])[..18], from.0);
    assert_eq!((walked(&torn.file()).0.end, torn_len(&torn)), (from, 18));
}

#[test]
fn a_single_byte_is_not_only_zeros() {
    let mut segment = Segment::with(&header(), 600_000);
    assert!(segment.file().holds_only_zeros().unwrap());
    for at in [128, 129, 4095, 4096, 262_143, 262_144, 262_271, 262_272, 400_001, segment.file().len() - 1] {
        segment.poke(&[1], at);
        assert!(!segment.file().holds_only_zeros().unwrap(), "{at}");
        segment.poke(&[0], at);
    }
    assert!(segment.file().holds_only_zeros().unwrap());
    segment.append(&[b""]);
    assert!(!segment.file().holds_only_zeros().unwrap());
}

#[test]
fn a_frame_of_a_newer_version_is_not_an_end() {
    let kind = 99_u32.to_le_bytes().to_vec();
    let frames = [
        Raw { flags: 1, ..raw(41) },
        Raw { flags: 0x80, count: 0, ..raw(41) },
        Raw { codec: 3, ..raw(41) },
        Raw { codec: 255, count: 7, ..raw(41) },
        Raw { count: 0, payload: kind, ..raw(41) },
    ];
    for (i, frame) in frames.iter().enumerate() {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        let at = segment.offset();
        segment.poke(&frame.encode(&segment.position(at.0)), at.0);
        let file = segment.file();
        let mut seen = 0;
        let error = file.scan_chain(&mut |_, _| seen += 1).unwrap_err();
        assert!(error.is_newer() && !error.is_damage() && matches!(error.kind(), ErrorKind::Newer(_)), "{error}");
        assert_eq!((error.offset(), seen), (Some(at), 1), "{frame:?}");
        // Only the chain reports an unknown kind of control frame. For attestations the kind does
        // not matter.
        if i < 4 {
            let error = file.attestations(ByteOffset(HEADER_LEN)).unwrap_err();
            assert!(error.is_newer() && error.offset() == Some(at), "{frame:?}: {error}");
        }
        // A frame with a wrong checksum does not count as newer.
        let mut bytes = frame.encode(&segment.position(at.0));
        bytes[0] ^= 1;
        segment.poke(&bytes, at.0);
        assert_eq!(walked(&segment.file()).0.end, at);
    }
}

#[test]
fn a_malformed_control_frame_is_not_in_the_chain() {
    let payload = |bytes: &[u8]| Raw { count: 0, payload: bytes.to_vec(), ..raw(41) };
    let start_above_next = [&2_u64.to_le_bytes()[..], &42_u64.to_le_bytes()].concat();
    let start = [&2_u64.to_le_bytes()[..], &41_u64.to_le_bytes()].concat();
    for (frame, in_chain) in [
        (payload(&start), true),
        (payload(&start_above_next), false),
        (payload(&start[..15]), false),
        (payload(&[&start[..], &[0]].concat()), false),
        (payload(&[1, 0, 0]), false),
        (payload(&[1, 0, 0, 0, 0]), false),
        (payload(&[3; 56]), false),
    ] {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        let at = segment.offset();
        segment.poke(&frame.encode(&segment.position(at.0)), at.0);
        let seen = segment.file().scan_chain(&mut |_, _| ()).map(|chain| chain.end > at);
        match seen {
            Ok(longer) => assert_eq!(longer, in_chain, "{frame:?}"),
            // 0x03030303 may be a kind in a newer version.
            Err(e) => assert!(e.is_newer() && frame.payload == [3; 56], "{frame:?}: {e}"),
        }
    }
}

#[test]
fn frames_may_cross_the_ends_of_a_window() {
    // A window has up to 256 KiB. With these lengths, headers and payloads cross its end in many
    // ways, and one frame is longer than a window.
    let mut segment = Segment::with(&header(), 4 << 20);
    let mut expected = Vec::new();
    for n in 0..400_usize {
        let entry = vec![n as u8; if n == 200 { 1 << 20 } else { n * 37 % 5000 }];
        expected.push(segment.append(&[&entry]).0);
        segment.sync();
    }
    segment.mark();
    let file = segment.file();
    let (chain, frames) = walked(&file);
    assert_eq!((chain.end, chain.end_seq), (segment.offset(), SeqNo(440)));
    assert!(frames.iter().map(|(at, _)| *at).eq(expected));
    assert_eq!(attested(&file, HEADER_LEN), 440);
    segment.poke(&[0; 40], HEADER_LEN);
    assert_eq!(attested(&segment.file(), HEADER_LEN), 440);
}

/// Offsets near the ends of the windows in which a file is read: 4 KiB, 8 KiB, and so on up to 256
/// KiB. Each window begins less than a header's length before the end of the previous one.
fn borders() -> impl Iterator<Item = u64> {
    let ends = (1..=7).map(|n| (n, HEADER_LEN + (4096 << n) - 4096));
    ends.flat_map(|(n, end)| (end - 40 * n - 96..end + 16).step_by(8))
}

#[test]
fn a_frame_is_found_at_the_end_of_a_window() {
    for garbage in [0, 0xEE] {
        let segment = Segment::with(&header(), 600_000);
        let rotten = vec![garbage; 300_000];
        for at in borders() {
            segment.poke(&rotten, HEADER_LEN);
            segment.poke(&data_frame(&segment.position(at), 77, Some(70), &[b"found"]), at);
            let found = segment.file().attestations(ByteOffset(HEADER_LEN)).unwrap();
            assert_eq!((found.attested, found.first_seq), (SeqNo(70), Some(SeqNo(77))), "{garbage:#x} up to {at}");
        }
    }
}

/// A header that begins with as many zeros as possible: both checksums are 0, and so is the seq.
fn header_after_zeros(position: &FramePosition) -> Vec<u8> {
    let frame = |timestamp: u64| {
        let mut bytes = Raw { payload: Vec::new(), ..raw(0) }.encode(position);
        bytes[16..24].copy_from_slice(&timestamp.to_le_bytes());
        let sum = common::crc(&[&position.salt.0.to_le_bytes(), &position.offset.0.to_le_bytes(), &bytes[4..]]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        (sum, bytes)
    };
    // A CRC is an affine function of the timestamp, so the bits are eliminated one at a time.
    let without = frame(0).0;
    let mut rows: Vec<(u32, u64)> = (0..64).map(|bit| (frame(1 << bit).0 ^ without, 1 << bit)).collect();
    let mut sum = without;
    let mut timestamp = 0;
    for bit in 0..32 {
        let i = rows.iter().position(|row| row.0 >> bit & 1 == 1).expect("64 bits of a timestamp reach every checksum");
        let pivot = rows.swap_remove(i);
        rows.iter_mut().filter(|row| row.0 >> bit & 1 == 1).for_each(|row| *row = (row.0 ^ pivot.0, row.1 ^ pivot.1));
        if sum >> bit & 1 == 1 {
            sum ^= pivot.0;
            timestamp ^= pivot.1;
        }
    }
    let (sum, bytes) = frame(timestamp);
    assert_eq!((sum, &bytes[..16]), (0, &[0; 16][..]));
    bytes
}

#[test]
fn a_header_that_begins_with_zeros_is_found() {
    let first = SegmentHeader { base: SeqNo(0), durable: SeqNo(0), start: SeqNo(0), ..header() };
    for at in borders() {
        let segment = Segment::with(&first, 600_000);
        segment.poke(&header_after_zeros(&segment.position(at)), at);
        let found = segment.file().attestations(ByteOffset(HEADER_LEN)).unwrap();
        assert_eq!(found.first_seq, Some(SeqNo(0)), "at {at}");
    }
    let segment = Segment::with(&first, 9);
    segment.poke(&header_after_zeros(&segment.position(HEADER_LEN)), HEADER_LEN);
    assert_eq!(walked(&segment.file()).0.end_seq, SeqNo(1));
}

#[test]
fn each_byte_is_read_a_bounded_number_of_times() {
    let segment = Segment::with(&header(), 2 << 20);
    let len = segment.file().len();
    // Valid headers at every offset where a header fits. Each claims a frame that extends to the
    // end of the file, is no longer than a MARK, or is a few windows long.
    for claim in [None, Some(8), Some(1 << 19)] {
        for at in (HEADER_LEN..len - 48).step_by(40) {
            let rest = u32::try_from(len - at - 40).unwrap();
            let frame = Raw { payload: Vec::new(), payload_len: Some(claim.unwrap_or(rest).min(rest)), ..raw(40) };
            segment.poke(&frame.encode(&segment.position(at)), at);
        }
        segment.storage.take_bytes_read();
        let file = segment.file();
        walked(&file);
        file.attestations(ByteOffset(HEADER_LEN)).unwrap();
        file.torn_len(ByteOffset(HEADER_LEN)).unwrap();
        file.holds_only_zeros().unwrap();
        let read = segment.storage.take_bytes_read();
        assert!(read < 16 * len, "{read} bytes read of {len}, {claim:?}");
    }
}

/// Frames after a hole of many gigabytes are found in bounded time.
#[test]
fn a_sparse_file_is_searched_to_its_end() {
    const FAR: u64 = (9 << 30) + 128;
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let (writer, _) = create(&storage, dir.path(), &header(), 4096).unwrap();
    if writer.file().set_len(FAR + 4096).is_err() {
        println!("skipped: the file system has no files of {FAR} bytes");
        return;
    }
    if writer.file().next_data(1 << 20).unwrap() == 1 << 20 {
        println!("skipped: the file system does not tell of holes");
        return;
    }
    let open = || SegmentFile::open(&storage, dir.path(), writer.id(), Access::Read).unwrap();
    let position = FramePosition { offset: ByteOffset(FAR), ..writer.next_position() };
    let frame = data_frame(&position, 77, Some(70), &[b"far away"]);
    writer.file().write_all_at(&frame, FAR).unwrap();
    let file = open();
    assert!(!file.holds_only_zeros().unwrap());
    assert_eq!(file.torn_len(ByteOffset(128)).unwrap(), FAR + 48 - 128);
    let found = file.attestations(ByteOffset(128)).unwrap();
    assert_eq!((found.attested, found.first_seq), (SeqNo(70), Some(SeqNo(77))));
    assert_eq!(walked(&file).0.end_seq, SeqNo(40));
}

/// A reader in another process may have read the length before the writer trimmed the file.
#[test]
fn a_file_that_was_trimmed_while_open_is_read() {
    let mut segment = Segment::with(&header(), 600_000);
    segment.append(&[b"one"]);
    let file = segment.file();
    segment.seal();
    assert!(segment.file().len() < file.len());
    let (chain, frames) = walked(&file);
    assert_eq!((chain.end_seq, frames.len(), chain.seal.is_some()), (SeqNo(41), 1, true));
    assert_eq!(attested(&file, HEADER_LEN), 40);
    assert!(!file.holds_only_zeros().unwrap());
    file.torn_len(chain.end).unwrap();
    assert!(file.finished().unwrap().is_none(), "the length was that of an active segment");
}

#[test]
fn a_payload_past_the_end_of_the_file_is_not_valid() {
    let segment = Segment::new();
    let frame = Raw { payload_len: Some(100), undurable: 0, ..raw(40) };
    segment.poke(&frame.encode(&segment.position(HEADER_LEN)), HEADER_LEN);
    let file = segment.file();
    segment.set_len(HEADER_LEN + 40 + 5);
    assert_eq!(walked(&file).0.end_seq, SeqNo(40), "the checksum is that of the 5 bytes that are left of 100");
    assert_eq!(file.attestations(ByteOffset(HEADER_LEN)).unwrap().first_seq, None);
}

#[test]
fn a_chain_may_end_at_the_largest_seq() {
    let base = u64::MAX - 3;
    let extreme = SegmentHeader { base: SeqNo(base), durable: SeqNo(base), ..header() };
    let mut segment = Segment::with(&extreme, 9000);
    for _ in 0..3 {
        let frame = data_frame(&segment.writer.next_position(), segment.next, Some(segment.next), &[b"one"]);
        segment.writer.append(&frame).unwrap();
        segment.next += 1;
    }
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.end_seq.0, frames.len(), chain.attested.0), (u64::MAX, 3, u64::MAX - 1));
    let at = segment.offset().0;
    segment.poke(&raw(u64::MAX).encode(&segment.position(at)), at);
    assert_eq!(walked(&segment.file()).0.end.0, at, "no entry follows the largest seq");
}

#[test]
fn an_extended_chain_equals_that_of_one_scan() {
    let mut segment = Segment::with(&header(), 600_000);
    let mut frames = Vec::new();
    let mut chain = segment.file().scan_chain(&mut |_, _| {}).unwrap();
    let mut check = |segment: &Segment| {
        segment.file().extend_chain(&mut chain, &mut |at, frame| frames.push((at.0, *frame))).unwrap();
        let (whole, all) = walked(&segment.file());
        assert_eq!(format!("{chain:?}"), format!("{whole:?}"));
        assert_eq!(frames, all);
    };
    for n in 0..40_usize {
        for i in 0..n % 4 {
            segment.append(&[&vec![7; n * 200 + i]]);
        }
        match n % 5 {
            0 => segment.start(12 + n as u64),
            1 => segment.sync(),
            2 => segment.mark(),
            3 => segment.poke(&[0xEE; 30], segment.offset().0 + 50),
            _ => {}
        }
        check(&segment);
    }
    segment.close();
    check(&segment);
    segment.resume_after_close();
    segment.append(&[b"more"]);
    check(&segment);
    segment.seal();
    check(&segment);
    // A chain that ends in a SEAL is complete, so nothing is read.
    let end = segment.file().len() - 16;
    segment.poke(&data_frame(&segment.position(end), segment.next, None, &[b"more"]), end);
    check(&segment);
}

#[test]
fn a_scan_can_begin_within_the_chain() {
    let mut segment = Segment::with(&header(), 2 << 20);
    for _ in 0..200 {
        segment.append(&[&[7; 5000]]);
    }
    let (mut chain, frames) = walked(&segment.file());
    let [.., before, last] = &frames[..] else { panic!("there are 200") };
    segment.append(&[&[8; 100]]);
    let file = segment.file();
    segment.storage.take_bytes_read();
    file.extend_chain(&mut chain, &mut |_, _| {}).unwrap();
    assert_eq!((chain.end, chain.end_seq.0), (segment.offset(), segment.next));
    assert!(file.has_header(ByteOffset(last.0), &last.1).unwrap());
    assert!(!file.has_header(ByteOffset(before.0), &last.1).unwrap());
    let found = file.attestations_within(chain.end, 4000).unwrap();
    assert_eq!((found.attested, found.first_seq), (SeqNo(40), None));
    assert!(segment.storage.take_bytes_read() < 9 << 10);
}

#[test]
fn attestations_are_searched_within_the_given_length() {
    let mut segment = Segment::with(&header(), 0x4000);
    segment.append(&[&[7; 1000]]);
    segment.sync();
    let second = segment.append(&[b"attests"]);
    let within = |len| segment.file().attestations_within(ByteOffset(HEADER_LEN), len).unwrap();
    let first = second.0 - HEADER_LEN;
    assert_eq!((within(1).attested, within(1).first_seq), (SeqNo(40), Some(SeqNo(40))));
    assert_eq!(within(first).attested, SeqNo(40));
    assert_eq!(within(first + 1).attested, SeqNo(41));
    assert_eq!(within(u64::MAX), segment.file().attestations(ByteOffset(HEADER_LEN)).unwrap());
}
