//! Tests reading published frames from blocks that are read or mapped.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{HEADER_LEN, Raw, Rng, Segment, data_frame, header, raw, walked};
use stratawal_frame::{ByteOffset, FrameHeader, FramePosition, SeqNo};
use stratawal_segment::{
    Access, CursorStep, ErrorKind, FrameCursor, FrameLayout, MapPromise, SegmentData, SegmentFile, SpanState, create,
};
use stratawal_storage::{Storage, UnixStorage};

/// Maps the first `len` bytes.
fn map(file: &SegmentFile, len: u64) -> stratawal_segment::Result<SegmentData> {
    // SAFETY: only these tests know their files, and they do not shorten or change them below `len`
    // while a mapping exists.
    SegmentData::map(file, len, unsafe { MapPromise::new() })
}

/// A segment with batches of one to three entries of many lengths, and control frames between them.
fn filled() -> Segment {
    let mut segment = Segment::with(&header(), 60_000);
    let mut rng = Rng(5);
    for n in 0..60_u8 {
        let entries: Vec<Vec<u8>> = (0..=rng.below(3)).map(|_| vec![n; rng.below(400) as usize]).collect();
        segment.append(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>());
        if n % 20 == 7 {
            segment.start(20);
        }
        if n == 30 {
            segment.close();
            segment.resume_after_close();
        }
    }
    segment.sync();
    segment
}

/// All entries of one block, each with its seq.
fn entries_of(mut cursor: FrameCursor, from: u64) -> Vec<(u64, Bytes)> {
    let mut found = Vec::new();
    while let CursorStep::Frame(frame) = cursor.seek(SeqNo(from)).unwrap() {
        let seqs = frame.header().first_seq.0..frame.header().end_seq().0;
        found.extend(seqs.map(|seq| (seq, cursor.entry(&frame, SeqNo(seq)).unwrap().data)));
    }
    found
}

fn cursor(data: &SegmentData, end: u64) -> FrameCursor {
    FrameCursor::new(data, data.block(HEADER_LEN..end).unwrap(), ByteOffset(HEADER_LEN), SeqNo(40), 1 << 20)
}

#[test]
fn the_header_checksum_is_of_the_frame_of_the_seq() {
    let segment = filled();
    let file = segment.file();
    let mut frames = Vec::new();
    file.scan_chain(&mut |offset, frame| frames.push((offset, *frame))).unwrap();
    let end = frames.last().unwrap().1.end_seq();
    let on_disk = tempfile::tempdir().unwrap();
    std::fs::write(on_disk.path().join(segment.id().to_string()), segment.storage.bytes()).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let mapped = SegmentFile::open(&storage, on_disk.path(), segment.id(), Access::Read).unwrap();
    for data in [SegmentData::read(&file), map(&mapped, file.len()).unwrap()] {
        for seq in 40..end.0 {
            let holds = |frame: &FrameHeader| frame.first_seq.0 <= seq && seq < frame.end_seq().0;
            let at = frames.iter().find(|(_, frame)| holds(frame)).unwrap().0;
            let found = data.header_crc_of(ByteOffset(HEADER_LEN), SeqNo(40), SeqNo(seq)).unwrap();
            assert_eq!(found, Some(file.header_crc_at(at).unwrap()), "entry {seq}");
        }
        assert_eq!(data.header_crc_of(ByteOffset(HEADER_LEN), SeqNo(40), end).unwrap(), None);
        assert_eq!(data.header_crc_of(ByteOffset(HEADER_LEN), SeqNo(41), SeqNo(41)).unwrap(), None);
        assert_eq!(data.header_crc_of(ByteOffset(file.len()), SeqNo(40), SeqNo(40)).unwrap(), None);
    }
}

#[test]
fn reading_and_mapping_return_the_same_bytes() {
    let segment = filled();
    let on_disk = tempfile::tempdir().unwrap();
    let name = segment.id().to_string();
    std::fs::write(on_disk.path().join(&name), segment.storage.bytes()).unwrap();
    let unix: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let disk = SegmentFile::open(&unix, on_disk.path(), segment.id(), Access::Read).unwrap();
    let bytes = segment.storage.bytes();
    let len = segment.file().len();
    for file in [&segment.file(), &disk] {
        let shared = SegmentData::read_shared(*file.header(), Arc::clone(file.shared_file()));
        let all = [SegmentData::read(file), shared, map(file, len).unwrap()];
        for data in &all {
            assert_eq!((data.id(), *data.header()), (segment.id(), header()));
            for range in [0..len, 0..0, len..len, 128..129, 4095..4097, len - 1..len, 1..len - 1] {
                let at = |n| usize::try_from(n).unwrap();
                let block = data.block(range.clone()).unwrap();
                assert!(block == bytes[at(range.start)..at(range.end)], "{range:?}");
            }
        }
        assert_eq!(all.map(|data| data.is_mapped()), [false, false, true]);
    }
}

#[test]
fn blocks_of_a_mapping_are_slices_that_outlive_the_file() {
    let segment = filled();
    let on_disk = tempfile::tempdir().unwrap();
    let path = on_disk.path().join(segment.id().to_string());
    std::fs::write(&path, segment.storage.bytes()).unwrap();
    let unix: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let file = SegmentFile::open(&unix, on_disk.path(), segment.id(), Access::Read).unwrap();
    let data = map(&file, file.len()).unwrap();
    let whole = data.block(0..file.len()).unwrap();
    let part = data.block(1000..3000).unwrap();
    assert_eq!(part.as_ptr(), whole[1000..].as_ptr());
    drop((data, whole, file));
    std::fs::remove_file(path).unwrap();
    assert!(part == segment.storage.bytes()[1000..3000]);
}

#[test]
fn a_mapping_has_the_length_that_was_asked_for() {
    let segment = filled();
    let file = segment.file();
    let data = map(&file, 1000).unwrap();
    data.block(0..1000).unwrap();
    for range in [0..1001, 1000..1001, 999..1001, 2000..2001, u64::MAX - 1..u64::MAX, 0..u64::MAX] {
        assert!(data.block(range.clone()).unwrap_err().is_damage(), "{range:?}");
    }
    for len in [file.len() + 1, 1 << 40, u64::MAX] {
        let error = map(&file, len).expect_err("it is longer than the file");
        assert!(error.is_damage(), "{len}: {error}");
    }
}

/// A payload that was valid before is not checked again in a mapping, whose bytes do not change.
#[test]
fn an_entry_is_found_in_every_state_of_its_span() {
    let segment = filled();
    let end = segment.writer.next_position().offset.0;
    let mut all = cursor(&SegmentData::read(&segment.file()), end);
    let mut next = SeqNo(0);
    let (offset, frame) = loop {
        let CursorStep::Frame(at) = all.seek(next).unwrap() else { panic!("the frame exists") };
        let header = at.header();
        if header.count == 1 && header.payload_len > 0 {
            break (all.offset().0 - header.frame_len(), all.detach(&at));
        }
        next = header.end_seq();
    };
    let span = offset..offset + frame.header().frame_len();
    let first = frame.header().first_seq;
    let max = 1 << 20;
    let on_disk = tempfile::tempdir().unwrap();
    let unix: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    for broken in [false, true] {
        let mut bytes = segment.storage.bytes();
        if broken {
            bytes[usize::try_from(span.start).unwrap() + 40] ^= 1;
        }
        let path = on_disk.path().join(segment.id().to_string());
        std::fs::write(&path, bytes).unwrap();
        let file = SegmentFile::open(&unix, on_disk.path(), segment.id(), Access::Read).unwrap();
        for data in [SegmentData::read(&file), map(&file, file.len()).unwrap()] {
            let before = SpanState::Verified(FrameLayout::Uniform);
            for seen in [SpanState::Growing, SpanState::Unread, before, SpanState::Verified(FrameLayout::Varied)] {
                let found = data.entry(span.clone(), first, first, max, seen);
                if broken && !(matches!(seen, SpanState::Verified(_)) && data.is_mapped()) {
                    assert!(found.unwrap_err().is_damage());
                    continue;
                }
                let found = found.unwrap().unwrap();
                let shape = if let SpanState::Verified(shape) = seen { shape } else { FrameLayout::Uniform };
                assert_eq!(found.layout, (seen != SpanState::Growing).then_some(shape));
                assert_eq!(found.timestamp, frame.header().timestamp);
                assert!(broken || found.data == frame.entry(first).unwrap().data);
            }
            if !broken {
                // A span that ends within the frame, and one that ends within the next.
                assert_eq!(data.entry(span.start..span.end - 8, first, first, max, SpanState::Unread).unwrap(), None);
                let longer = data.entry(span.start..span.end + 8, first, first, max, SpanState::Unread).unwrap();
                assert_eq!(longer.unwrap().layout, None, "the next frame is not whole");
            }
        }
        std::fs::remove_file(path).unwrap();
    }
}

/// On the way to a frame in a verified span, no checksum is computed. In a uniform span, not even
/// the headers are read.
#[test]
fn damage_in_a_verified_span_is_never_a_wrong_entry() {
    for alike in [true, false] {
        let mut segment = Segment::new();
        let entry = |n: usize| vec![b'0' + n as u8; if alike { 8 } else { 8 * (1 + n % 3) }];
        let offsets: Vec<u64> = (0..20).map(|n| segment.append(&[&entry(n)]).0).collect();
        let base = header().base.0;
        let end = segment.offset().0;
        let pristine = segment.storage.bytes();
        let on_disk = tempfile::tempdir().unwrap();
        let path = on_disk.path().join(segment.id().to_string());
        let unix: Arc<dyn Storage> = Arc::new(UnixStorage::new());
        // Fields of the header of frame 5: checksum, timestamp, attestation; seq, count, length.
        for (byte, leads_on) in [(0, true), (16, true), (32, true), (8, alike), (24, alike), (28, alike), (29, alike)] {
            let mut bytes = pristine.clone();
            bytes[usize::try_from(offsets[5]).unwrap() + byte] ^= 8;
            std::fs::write(&path, bytes).unwrap();
            let file = SegmentFile::open(&unix, on_disk.path(), segment.id(), Access::Read).unwrap();
            for data in [SegmentData::read(&file), map(&file, end).unwrap()] {
                let before = SpanState::Verified(if alike { FrameLayout::Uniform } else { FrameLayout::Varied });
                for (n, seen) in
                    (0..20).flat_map(|n| [SpanState::Growing, SpanState::Unread, before].map(|seen| (n, seen)))
                {
                    let found = data.entry(HEADER_LEN..end, SeqNo(base), SeqNo(base + n as u64), 1 << 20, seen);
                    if n == 5 || (n > 5 && !(seen == before && leads_on)) {
                        let error = found.unwrap_err();
                        let at = Some(ByteOffset(offsets[5]));
                        assert!(error.is_damage() && error.offset() == at, "{byte} {n} {seen:?}: {error}");
                    } else {
                        assert_eq!(found.unwrap().unwrap().data[..], entry(n), "{byte} {n} {seen:?}");
                    }
                }
            }
        }
        std::fs::write(&path, pristine).unwrap();
        let file = SegmentFile::open(&unix, on_disk.path(), segment.id(), Access::Read).unwrap();
        let data = SegmentData::read(&file);
        let shape = |n, seen| {
            let found = data.entry(HEADER_LEN..end, SeqNo(base), SeqNo(base + n), 1 << 20, seen).unwrap().unwrap();
            found.layout
        };
        let expected = Some(if alike { FrameLayout::Uniform } else { FrameLayout::Varied });
        assert!((0..20).all(|n| shape(n, SpanState::Unread) == expected && shape(n, SpanState::Growing).is_none()));
    }
}

/// The frame inside the entry is at the offset where the sixth frame would be if all frames were as
/// long as the first.
#[test]
fn a_frame_inside_an_entry_is_never_read_as_one() {
    let mut segment = Segment::new();
    let base = header().base.0;
    segment.append(&[b"eight by"]);
    // The second frame: 40 bytes of header, a table of 11 ends, zeros, and then the bytes that look
    // like the sixth frame.
    let sixth = ByteOffset(HEADER_LEN + 5 * 48);
    let begins = HEADER_LEN + 48 + 40 + 44;
    let position = FramePosition { salt: segment.writer.next_position().salt, offset: sixth };
    let mut entry = vec![0; usize::try_from(sixth.0 - begins).unwrap()];
    entry.extend(data_frame(&position, base + 5, None, &[b"FORGED!!"]));
    let mut entries: Vec<Vec<u8>> = (1..=11).map(|n| vec![n; 8]).collect();
    entries[0] = entry;
    segment.append(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let end = segment.offset().0;
    for data in [SegmentData::read(&segment.file()), map(&segment.file(), end).unwrap()] {
        let get = |seen| data.entry(HEADER_LEN..end, SeqNo(base), SeqNo(base + 5), 1 << 20, seen).unwrap().unwrap();
        let first = get(SpanState::Unread);
        assert_eq!((&first.data[..], first.layout), (&[5; 8][..], Some(FrameLayout::Varied)));
        assert_eq!(get(SpanState::Verified(FrameLayout::Varied)).data, first.data);
    }
}

#[test]
fn a_span_may_end_within_a_control_frame() {
    let mut segment = Segment::new();
    let base = header().base.0;
    segment.append(&[b"one"]);
    let before = segment.offset().0;
    segment.start(base);
    segment.append(&[b"two"]);
    for end in before + 1..segment.offset().0 {
        let data = SegmentData::read(&segment.file());
        let shape = SpanState::Verified(FrameLayout::Varied);
        for seen in [SpanState::Growing, SpanState::Unread, shape] {
            let found = data.entry(HEADER_LEN..end, SeqNo(base), SeqNo(base + 1), 1 << 20, seen);
            assert_eq!(found.unwrap(), None, "{end} {seen:?}");
        }
    }
}

#[test]
fn a_block_past_the_end_of_the_file_is_damage() {
    let segment = filled();
    let data = SegmentData::read(&segment.file());
    let len = segment.file().len();
    for range in [0..len + 1, len..len + 1, len - 1..len + 1, len + 500..len + 501, (1 << 40)..(1 << 40) + 8] {
        let error = data.block(range.clone()).unwrap_err();
        assert!(error.is_damage() && !error.is_newer(), "{range:?}: {error}");
        assert!(matches!(error.kind(), ErrorKind::Io { operation: "read", .. }), "{error}");
        assert_eq!(error.offset(), Some(ByteOffset(range.start)));
    }
}

#[test]
fn a_block_much_longer_than_the_file_is_damage() {
    let segment = filled();
    let data = SegmentData::read(&segment.file());
    // The longest range, so that a large allocation would panic rather than abort.
    assert!(data.block(0..u64::MAX).unwrap_err().is_damage());
}

#[test]
fn an_active_segment_is_read_through_the_same_file() {
    let mut segment = Segment::new();
    let data = SegmentData::read_shared(*segment.writer.header(), Arc::clone(segment.writer.file()));
    for n in 0..5 {
        segment.append(&[b"entry"]);
        let end = segment.offset().0;
        assert_eq!(entries_of(cursor(&data, end), 0).len(), n + 1);
    }
}

#[test]
fn a_cursor_finds_the_frames_of_the_chain() {
    let segment = filled();
    let file = segment.file();
    let (chain, walked) = walked(&file);
    for data in [SegmentData::read(&file), map(&file, file.len()).unwrap()] {
        let mut cursor = cursor(&data, chain.end.0);
        for (at, header) in walked.iter().filter(|(_, header)| !header.is_control()) {
            let CursorStep::Frame(found) = cursor.seek(SeqNo(0)).unwrap() else { panic!("a frame at {at}") };
            assert_eq!(found.header(), header);
            assert_eq!((cursor.offset().0, cursor.next_seq()), (at + header.frame_len(), header.end_seq()));
        }
        assert!(matches!(cursor.seek(SeqNo(0)).unwrap(), CursorStep::BlockEnd));
        assert!(matches!(cursor.seek(SeqNo(0)).unwrap(), CursorStep::BlockEnd), "and the cursor stays there");
        assert_eq!((cursor.offset(), cursor.next_seq()), (chain.end, chain.end_seq));
    }
}

#[test]
fn entries_are_slices_of_the_block() {
    let segment = filled();
    let data = SegmentData::read(&segment.file());
    let block = data.block(HEADER_LEN..segment.offset().0).unwrap();
    let within = block.as_ptr() as usize..=block.as_ptr() as usize + block.len();
    let cursor = FrameCursor::new(&data, block.clone(), ByteOffset(HEADER_LEN), SeqNo(40), 1 << 20);
    let entries = entries_of(cursor, 0);
    assert_eq!(entries.len() as u64, segment.next - 40);
    for (seq, entry) in entries {
        assert!(entry.is_empty() || within.contains(&(entry.as_ptr() as usize)), "{seq}");
    }
}

#[test]
fn seek_finds_the_first_frame_that_reaches_the_seq() {
    let segment = filled();
    let (_, walked) = walked(&segment.file());
    let data = SegmentData::read(&segment.file());
    for seq in 0..segment.next + 2 {
        let mut cursor = cursor(&data, segment.offset().0);
        let found = cursor.seek(SeqNo(seq)).unwrap();
        let expected = walked.iter().find(|(_, header)| !header.is_control() && header.end_seq().0 > seq);
        match (found, expected) {
            (CursorStep::Frame(found), Some((at, header))) => {
                assert_eq!((found.header(), cursor.offset().0), (header, at + header.frame_len()), "seq {seq}");
            }
            (CursorStep::BlockEnd, None) => assert!(seq >= segment.next),
            (found, expected) => panic!("seq {seq}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn only_the_frame_that_is_found_is_verified() {
    let mut segment = Segment::new();
    let at = [b"one", b"two", b"six"].map(|entry| segment.append(&[entry]).0);
    let data = SegmentData::read(&segment.file());
    let end = segment.offset().0;
    segment.poke(b"x", at[0] + 40);
    segment.poke(b"x", at[2] + 40);
    let mut second = cursor(&data, end);
    let CursorStep::Frame(found) = second.seek(SeqNo(41)).unwrap() else { panic!("a frame") };
    assert_eq!(second.entry(&found, SeqNo(41)).unwrap().data[..], b"two"[..]);
    let error = second.seek(SeqNo(41)).unwrap_err();
    assert!(error.is_damage() && error.offset() == Some(ByteOffset(at[2])), "{error}");
    let error = cursor(&data, end).seek(SeqNo(40)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)) && error.offset() == Some(ByteOffset(at[0])), "{error}");
}

/// A block may end anywhere. A block of the length that the cursor asks for holds the next frame.
#[test]
fn an_incomplete_frame_states_the_bytes_it_needs() {
    let segment = filled();
    let data = SegmentData::read(&segment.file());
    let end = segment.offset().0;
    let all = entries_of(cursor(&data, end), 0);
    for len in (1..end - HEADER_LEN).step_by(23) {
        let mut from = HEADER_LEN;
        let mut seq = SeqNo(40);
        let mut found = Vec::new();
        let mut len = len;
        while from < end {
            let block = data.block(from..(from + len).min(end)).unwrap();
            let mut cursor = FrameCursor::new(&data, block, ByteOffset(from), seq, 1 << 20);
            let needed = loop {
                match cursor.seek(SeqNo(0)).unwrap() {
                    CursorStep::Frame(frame) => {
                        let seqs = frame.header().first_seq.0..frame.header().end_seq().0;
                        found.extend(seqs.map(|seq| cursor.entry(&frame, SeqNo(seq)).unwrap().data));
                    }
                    CursorStep::Incomplete { at, len: needed } => {
                        assert_eq!(at, cursor.offset());
                        assert!(needed > 0 && at.0 + needed <= end, "{needed} bytes at {at}");
                        assert!(at.0 > from || needed > len, "it asks for more than it has");
                        break needed;
                    }
                    CursorStep::BlockEnd => break 1,
                }
            };
            from = cursor.offset().0;
            seq = cursor.next_seq();
            len = len.max(needed);
        }
        assert!(found.iter().eq(all.iter().map(|(_, entry)| entry)), "blocks of {len}");
    }
}

#[test]
fn damage_is_reported_with_its_kind_and_offset() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    let at = segment.offset().0;
    let data = SegmentData::read(&segment.file());
    let second = |segment: &Segment, bytes: &[u8]| {
        segment.poke(&[0; 200], at);
        segment.poke(bytes, at);
        let error = cursor(&data, at + 200).seek(SeqNo(41)).expect_err("it is damaged");
        assert_eq!((error.segment(), error.offset()), (segment.id(), Some(ByteOffset(at))), "{error}");
        error
    };
    let frame = |seq| data_frame(&segment.position(at), seq, None, &[b"two"]);
    let gap = second(&segment, &frame(50));
    assert!(matches!(gap.kind(), ErrorKind::Gap { expected: SeqNo(41), found: SeqNo(50) }), "{gap}");
    let back = second(&segment, &frame(40));
    assert!(matches!(back.kind(), ErrorKind::Gap { expected: SeqNo(41), found: SeqNo(40) }), "{back}");
    let zeros = second(&segment, &[]);
    assert!(matches!(zeros.kind(), ErrorKind::Missing { expected: SeqNo(41) }), "{zeros}");
    let mut flipped = frame(41);
    flipped[17] ^= 1;
    let header = second(&segment, &flipped);
    assert!(matches!(header.kind(), ErrorKind::Invalid(_)), "{header}");
    let elsewhere = second(&segment, &data_frame(&segment.position(at + 8), 41, None, &[b"two"]));
    assert!(matches!(elsewhere.kind(), ErrorKind::Invalid(_)), "{elsewhere}");
    let table = second(&segment, &Raw { count: 2, payload: vec![9; 16], ..raw(41) }.encode(&segment.position(at)));
    assert!(matches!(table.kind(), ErrorKind::Invalid(_)), "{table}");
    assert!([gap, back, zeros, header, elsewhere, table].iter().all(|error| error.is_damage() && !error.is_newer()));
}

#[test]
fn a_newer_frame_is_not_damage() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    let at = segment.offset().0;
    let data = SegmentData::read(&segment.file());
    // A known codec that is not built in is treated as newer.
    for frame in [Raw { flags: 1, ..raw(41) }, Raw { codec: 77, ..raw(41) }, Raw { codec: 2, ..raw(41) }] {
        segment.poke(&frame.encode(&segment.position(at)), at);
        let error = cursor(&data, at + 48).seek(SeqNo(41)).unwrap_err();
        assert!(error.is_newer() && !error.is_damage() && error.offset() == Some(ByteOffset(at)), "{error}");
    }
}

#[test]
fn a_frame_over_the_bound_for_reading_is_refused() {
    let mut segment = Segment::new();
    let at = segment.append(&[&[7; 1000]]);
    let data = SegmentData::read(&segment.file());
    let block = data.block(HEADER_LEN..segment.offset().0).unwrap();
    let read = |max| FrameCursor::new(&data, block.clone(), ByteOffset(HEADER_LEN), SeqNo(40), max).seek(SeqNo(40));
    assert!(matches!(read(1040).unwrap(), CursorStep::Frame(_)));
    let error = read(1039).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLarge { len: 1040, max: 1039 }), "{error}");
    assert!(!error.is_damage() && !error.is_newer() && error.offset() == Some(at), "{error}");
}

/// The bound for frames of entries does not apply to the index block of a CLOSE.
#[test]
fn a_control_frame_of_any_length_is_skipped() {
    static INDEX: [u8; 3000] = [7; 3000];
    let mut segment = Segment::with(&header(), 20_000);
    segment.append(&[b"one"]);
    let close = segment.offset().0;
    segment.finish(stratawal_frame::FooterKind::Close { previous: None }, &INDEX);
    segment.resume_after_close();
    let after = segment.append(&[b"two"]).0;
    let data = SegmentData::read(&segment.file());
    let end = segment.offset().0;
    // All frames in one block, or in two blocks, with the first ending within the CLOSE.
    for split in [end, close + 40, close + 48, close + 1000, after - 1, after] {
        let block = data.block(HEADER_LEN..split).unwrap();
        let mut cursor = FrameCursor::new(&data, block, ByteOffset(HEADER_LEN), SeqNo(40), 200);
        assert!(matches!(cursor.seek(SeqNo(40)).unwrap(), CursorStep::Frame(_)));
        let mut next = cursor.seek(SeqNo(40)).unwrap();
        if split < end {
            assert!(matches!(next, CursorStep::BlockEnd), "split at {split}: {next:?}");
            assert_eq!((cursor.offset().0, cursor.next_seq()), (after, SeqNo(41)), "split at {split}");
            let block = data.block(cursor.offset().0..end).unwrap();
            cursor = FrameCursor::new(&data, block, cursor.offset(), cursor.next_seq(), 200);
            next = cursor.seek(SeqNo(40)).unwrap();
        }
        let CursorStep::Frame(found) = next else { panic!("split at {split}: {next:?}") };
        assert_eq!(cursor.entry(&found, SeqNo(41)).unwrap().data[..], b"two"[..]);
        assert!(matches!(cursor.seek(SeqNo(40)).unwrap(), CursorStep::BlockEnd));
    }
}

#[test]
fn an_empty_block_has_no_frames() {
    let segment = filled();
    let data = SegmentData::read(&segment.file());
    let mut cursor = FrameCursor::new(&data, Bytes::new(), ByteOffset(HEADER_LEN), SeqNo(40), 1 << 20);
    assert!(matches!(cursor.seek(SeqNo(0)).unwrap(), CursorStep::BlockEnd));
    assert_eq!((cursor.offset().0, cursor.next_seq()), (HEADER_LEN, SeqNo(40)));
}

/// A segment on a real file system is created, written, marked, sealed, mapped and read.
#[test]
fn a_segment_on_disk_is_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let (mut writer, mut preallocation) = create(&storage, dir.path(), &header(), 9000).unwrap();
    let mut expected = Vec::new();
    for n in 0..100_u8 {
        let entry = vec![n; usize::from(n) * 11];
        let frame = data_frame(&writer.next_position(), 40 + u64::from(n), Some(40), &[&entry]);
        preallocation.ensure(&writer.next_position().offset, frame.len() as u64).unwrap();
        writer.append(&frame).unwrap();
        expected.push((40 + u64::from(n), Bytes::from(entry)));
    }
    writer.sync().unwrap();
    let context = stratawal_segment::ControlContext { next_seq: SeqNo(140), timestamp: 9000, durable: SeqNo(140) };
    writer.write_mark(&context, preallocation.preallocated()).unwrap();
    let id = writer.id();
    let open = || SegmentFile::open(&storage, dir.path(), id, Access::Read).unwrap();
    assert!(open().has_active_len());
    assert_eq!(open().attestations(ByteOffset(HEADER_LEN)).unwrap().attested, SeqNo(140));
    let published = writer.next_position().offset.0;
    let before = map(&open(), published).unwrap();
    let end = stratawal_frame::Footer {
        kind: stratawal_frame::FooterKind::Seal {
            successor: stratawal_frame::Generation(4),
            salt: stratawal_frame::Salt(40),
        },
        start: SeqNo(12),
        entries: 100,
        times: (1040, 1139),
        index: Bytes::from_static(b"index"),
    };
    writer.finish(&mut preallocation, &context, end.clone()).unwrap();
    writer.sync().unwrap();
    writer.trim_to_trailer().unwrap();
    let file = open();
    assert_eq!(file.finished().unwrap().expect("it is sealed").footer, end);
    for data in [before, SegmentData::read(&file), map(&file, file.len()).unwrap()] {
        assert_eq!(
            entries_of(cursor(&data, published), 0),
            expected,
            "mapped before the trim, read, and mapped after it"
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
