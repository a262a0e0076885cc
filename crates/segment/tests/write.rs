//! Tests writing frames and MARKs, and failures of writes.

mod common;

use std::io::{ErrorKind as IoKind, IoSlice};

use common::{Fault, HEADER_LEN, Segment, data_frame, walked};
use stratawal_frame::{ByteOffset, FooterKind, Generation, Salt, SeqNo};
use stratawal_segment::{Access, ControlContext, ErrorKind, SegmentWriter};

const MARK_LEN: u64 = 48;

fn name(segment: &Segment) -> String {
    format!(".tmp-{}", segment.id())
}

#[test]
fn an_append_is_one_write_after_the_last_frame() {
    let mut segment = Segment::new();
    let first = segment.append(&[b"hello"]);
    let second = segment.append(&[b"a longer entry", b"", b"and a third"]);
    assert_eq!((first.0, second.0, segment.offset().0), (HEADER_LEN, HEADER_LEN + 48, HEADER_LEN + 48 + 80));
    let name = name(&segment);
    assert_eq!(segment.storage.take_log(), [format!("write {name} 128+48"), format!("write {name} 176+80")]);
    assert_eq!(segment.file().len(), 8200, "the length is not the writer's affair");
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.end_seq, chain.end), (SeqNo(44), segment.offset()));
    assert_eq!(frames.iter().map(|(at, frame)| (*at, frame.count)).collect::<Vec<_>>(), [(128, 1), (176, 3)]);
}

#[test]
fn several_frames_are_one_write() {
    let mut segment = Segment::new();
    let mut bytes = data_frame(&segment.position(128), 40, None, &[b"one"]);
    bytes.extend(data_frame(&segment.position(128 + 48), 41, None, &[b"two", b"three"]));
    segment.writer.append(&bytes).unwrap();
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.end_seq, frames.len(), segment.storage.take_log().len()), (SeqNo(43), 2, 1));
}

#[test]
fn pieces_are_written_like_one_buffer() {
    // More pieces than the 1,024 that one system call accepts, some of them empty.
    for pieces in [1, 2, 7, 3000] {
        let entry: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        let (mut whole, mut pieced) =
            (Segment::with(&common::header(), 30_000), Segment::with(&common::header(), 30_000));
        let frame = data_frame(&whole.writer.next_position(), 40, None, &[&entry]);
        whole.writer.append(&frame).unwrap();
        let mut slices: Vec<IoSlice<'_>> = frame.chunks(frame.len().div_ceil(pieces)).map(IoSlice::new).collect();
        slices.insert(slices.len() / 2, IoSlice::new(b""));
        pieced.writer.append_pieces(&slices, frame.len() as u64).unwrap();
        assert!(whole.storage.bytes() == pieced.storage.bytes(), "{pieces} pieces");
        assert_eq!(whole.offset(), pieced.offset());
        pieced.writer.append_pieces(&[], 0).unwrap();
        assert_eq!(whole.offset(), pieced.offset());
    }
}

#[test]
fn a_mark_attests_and_is_not_in_the_chain() {
    let mut segment = Segment::new();
    segment.append(&[b"one", b"two"]);
    let tail = segment.offset();
    assert_eq!(segment.file().attestations(ByteOffset(HEADER_LEN)).unwrap().attested, SeqNo(40));
    segment.sync();
    segment.mark();
    assert_eq!(segment.offset(), tail, "the next frame overwrites it");
    let file = segment.file();
    let (chain, frames) = walked(&file);
    assert_eq!((chain.end, chain.end_seq, frames.len()), (tail, SeqNo(42), 1));
    assert_eq!(chain.attested, SeqNo(40), "what the chain itself attests");
    assert_eq!(file.attestations(ByteOffset(HEADER_LEN)).unwrap().attested, SeqNo(42));
    assert_eq!(file.attestations(tail).unwrap().attested, SeqNo(42));
}

#[test]
fn only_the_next_frame_overwrites_a_mark() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.sync();
    segment.mark();
    let at = usize::try_from(segment.offset().0).unwrap();
    let mark = segment.storage.bytes()[at..at + 48].to_vec();
    assert!(mark[..40].iter().any(|&b| b != 0));
    // Preallocation, a sync, a read and opening for writing keep the MARK.
    segment.preallocation.ensure(&ByteOffset(at as u64), 10_000).unwrap();
    segment.writer.sync().unwrap();
    walked(&segment.file());
    let (writer, _) = SegmentWriter::resume(&segment.open(Access::ReadWrite), segment.offset());
    assert_eq!(writer.next_position(), segment.writer.next_position());
    assert_eq!(segment.storage.bytes()[at..at + 48], mark);
    // Another MARK replaces the first; then a frame at least as long overwrites it completely.
    segment.durable -= 1;
    segment.mark();
    assert_ne!(segment.storage.bytes()[at..at + 48], mark);
    segment.append(&[b"second"]);
    let frame = data_frame(&segment.position(at as u64), 41, Some(40), &[b"second"]);
    assert_eq!(segment.storage.bytes()[at..at + 48], frame);
    assert!(segment.storage.bytes()[at + 48..].iter().all(|&b| b == 0));
    assert_eq!(segment.file().attestations(ByteOffset(128)).unwrap().attested, SeqNo(40), "it went with the mark");
}

/// The frame of an empty entry is 8 bytes shorter than a MARK.
#[test]
fn the_rest_of_an_overwritten_mark_is_not_a_frame() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.sync();
    segment.mark();
    segment.append(&[b""]);
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.end, chain.end_seq, frames.len()), (segment.offset(), SeqNo(42), 2));
    segment.append(&[b"three"]);
    assert_eq!(walked(&segment.file()).0.end_seq, SeqNo(43), "and the next goes over it");
}

#[test]
fn a_mark_never_passes_the_preallocated_end() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.storage.take_log();
    let end = segment.offset().0 + MARK_LEN;
    for reserved in [0, end - 48, end - 1] {
        segment.writer.write_mark(&segment.context(), reserved).unwrap();
    }
    assert_eq!(segment.storage.take_log(), [] as [String; 0]);
    segment.writer.write_mark(&segment.context(), end).unwrap();
    assert_eq!(segment.storage.take_log().len(), 1);
    assert_eq!(segment.file().len(), 8200);
}

#[test]
fn no_mark_is_written_after_a_footer() {
    for kind in [FooterKind::Seal { successor: Generation(4), salt: Salt(40) }, FooterKind::Close { previous: None }] {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        let context = segment.context();
        let end = segment.end(kind, b"");
        segment.writer.finish(&mut segment.preallocation, &context, end).unwrap();
        let bytes = segment.storage.bytes();
        segment.mark();
        assert!(segment.storage.bytes() == bytes, "it would overwrite the footer");
    }
}

#[test]
fn the_last_start_in_the_chain_counts() {
    let mut segment = Segment::new();
    segment.start(13);
    segment.append(&[b"one"]);
    segment.start(40);
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.start, frames.len(), chain.end), (Some(SeqNo(40)), 3, segment.offset()));
    assert_eq!(chain.times, Some((1040, 1040)), "times are those of entries");
}

#[test]
fn a_control_frame_has_the_fields_of_its_context() {
    let mut segment = Segment::new();
    segment.append(&[b"one", b"two", b"three"]);
    let context = ControlContext { next_seq: SeqNo(43), timestamp: 77, durable: SeqNo(41) };
    segment.writer.write_start(&mut segment.preallocation, &context, SeqNo(12)).unwrap();
    let (_, frames) = walked(&segment.file());
    let start = frames[1].1;
    assert!(start.is_control());
    assert_eq!((start.first_seq, start.timestamp, start.attests), (SeqNo(43), 77, Some(SeqNo(41))));
}

/// A call that writes.
type Attempt<'a> = &'a mut dyn FnMut(&mut Segment) -> stratawal_segment::Result<()>;

/// The write is not retried, and nothing is written after it: only recovery may write those bytes.
#[test]
fn a_failed_write_is_reported_and_not_repeated() {
    for done in [false, true] {
        for kind in [IoKind::Other, IoKind::StorageFull] {
            let mut segment = Segment::new();
            segment.append(&[b"one"]);
            let tail = segment.offset();
            let frame = data_frame(&segment.writer.next_position(), 41, None, &[b"two"]);
            let attempts: [Attempt<'_>; 6] = [
                &mut |segment| segment.writer.append(&frame),
                &mut |segment| segment.writer.append_pieces(&[IoSlice::new(&frame)], frame.len() as u64),
                &mut |segment| segment.writer.write_mark(&segment.context(), 8200),
                &mut |segment| {
                    let context = segment.context();
                    segment.writer.write_start(&mut segment.preallocation, &context, SeqNo(12))
                },
                &mut |segment| {
                    let context = segment.context();
                    let end = segment.end(FooterKind::Close { previous: None }, b"");
                    segment.writer.finish(&mut segment.preallocation, &context, end)
                },
                &mut |segment| segment.writer.rewrite(ByteOffset(128), &[1; 8]),
            ];
            for (i, attempt) in attempts.into_iter().enumerate() {
                segment.storage.fail(Fault { nth: 0, kind, done, forever: false });
                let error = attempt(&mut segment).expect_err("the write fails");
                assert!(
                    matches!(error.kind(), ErrorKind::Io { operation: "write", source } if source.kind() == kind),
                    "{i}: {error}"
                );
                assert_eq!(error.is_full(), kind == IoKind::StorageFull);
                assert!(!error.is_damage() && error.segment() == segment.id());
                assert_eq!(segment.storage.take_log().len(), 1, "{i}: one write and no other");
                assert_eq!((segment.offset(), segment.writer.finished_len()), (tail, None), "{i}");
                // A following sync or trim does not write either, and does not shorten the file.
                segment.writer.trim_to_trailer().unwrap();
                assert_eq!(segment.storage.take_log(), [] as [String; 0], "{i}");
            }
        }
    }
}

#[test]
fn a_failed_sync_is_reported_and_not_repeated() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.storage.fail(Fault { nth: 0, kind: IoKind::Other, done: false, forever: false });
    let error = segment.writer.sync().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io { operation: "sync", .. }), "{error}");
    assert_eq!(segment.storage.take_log(), [format!("sync {}", name(&segment))]);
    segment.storage.fail(Fault { nth: 0, kind: IoKind::Other, done: false, forever: false });
    segment.file().sync().unwrap_err();
}

#[test]
fn a_rewrite_does_not_move_the_next_position() {
    let mut segment = Segment::new();
    let at = segment.append(&[b"one"]);
    segment.append(&[b"two"]);
    let bytes = segment.storage.bytes();
    let tail = segment.offset();
    // After a failed sync the disk may hold different bytes.
    segment.poke(&[0xEE; 48], at.0);
    segment.storage.take_log();
    segment.writer.rewrite(at, &bytes[128..176]).unwrap();
    assert!(segment.storage.bytes() == bytes && segment.offset() == tail);
    assert_eq!(segment.storage.take_log(), [format!("write {} 128+48", name(&segment))]);
}

#[test]
fn writing_continues_at_the_end_of_a_chain() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.mark();
    let file = segment.open(Access::ReadWrite);
    let chain = walked(&file).0;
    (segment.writer, segment.preallocation) = SegmentWriter::resume(&file, chain.end);
    assert_eq!((segment.preallocation.preallocated(), segment.preallocation.is_after_close()), (8200, false));
    segment.append(&[b"two"]);
    segment.sync();
    assert_eq!(walked(&segment.file()).0.end_seq, SeqNo(42));
}

#[test]
fn a_file_opened_for_reading_can_be_synced() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    let file = segment.file();
    file.sync().unwrap();
    let bytes = segment.storage.bytes();
    let (mut writer, _) = SegmentWriter::resume(&file, segment.offset());
    writer.append(b"........").unwrap_err();
    assert!(segment.storage.bytes() == bytes);
}
