//! Tests finishing a segment with SEAL or CLOSE, trailer and trim, and continuing after a CLOSE.

mod common;

use std::io::ErrorKind as IoKind;

use common::{Fault, Segment, data_frame, file_of, header, raw, walked};
use stratawal_frame::{
    ByteOffset, Control, Footer, FooterKind, FramePosition, Generation, Salt, SegmentHeader, SeqNo, Trailer,
    encode_control,
};
use stratawal_segment::{Access, FooterSummary, SegmentWriter};

const SEAL: FooterKind = FooterKind::Seal { successor: Generation(4), salt: Salt(40) };
const CLOSE: FooterKind = FooterKind::Close { previous: None };

fn fault(nth: usize, kind: IoKind) -> Fault {
    Fault { nth, kind, done: false, forever: false }
}

#[test]
fn a_footer_reads_back_as_written() {
    for kind in [SEAL, CLOSE] {
        let mut segment = Segment::new();
        segment.append(&[b"one", b"two"]);
        segment.append(&[b"three"]);
        let at = segment.offset();
        let end = segment.end(kind, b"index");
        segment.finish(kind, b"index");
        let file = segment.file();
        let finished = file.finished().unwrap().expect("it is finished");
        assert_eq!((finished.offset, finished.footer, finished.frame.first_seq), (at, end, SeqNo(43)));
        assert_eq!(segment.writer.finished_len(), Some(file.len()));
        let (chain, frames) = walked(&file);
        assert_eq!((chain.end_seq, chain.times), (SeqNo(43), Some((1040, 1042))));
        if kind == SEAL {
            let (seal, len) = chain.seal.expect("the chain ends in it");
            assert_eq!((chain.end, seal.kind, at.0 + len + 16), (at, kind, file.len()));
            assert_eq!((frames.len(), chain.close), (2, None), "it is no frame of the chain");
        } else {
            assert_eq!((chain.close, chain.start, chain.seal), (Some(at), Some(SeqNo(12)), None));
            assert_eq!((frames.len(), chain.end.0 + 16), (3, file.len()), "the chain cursor over it");
        }
    }
}

#[test]
fn peek_footer_does_not_read_the_payload() {
    for kind in [SEAL, CLOSE] {
        let mut segment = Segment::new();
        segment.append(&[b"one", b"two"]);
        assert_eq!(segment.file().peek_footer().unwrap(), None, "it is being written");
        let at = segment.offset();
        segment.finish(kind, b"index");
        let expected = FooterSummary { end_seq: SeqNo(42), kind };
        assert_eq!(segment.file().peek_footer().unwrap(), Some(expected));
        assert_eq!(segment.file().finished().unwrap().map(|finished| finished.summary()), Some(expected));
        // A byte of the index block, which the payload's checksum covers.
        segment.poke(b"?", at.0 + 40 + 56);
        assert_eq!(segment.file().peek_footer().unwrap(), Some(expected));
        assert!(segment.file().finished().unwrap().is_none());
        // A byte of the frame's header.
        segment.poke(b"?", at.0 + 8);
        assert_eq!(segment.file().peek_footer().unwrap(), None);
    }
}

/// The footer ends at every possible distance from a multiple of 4 KiB.
#[test]
fn a_trimmed_file_never_has_an_active_length() {
    static INDEX: [u8; 5] = [7; 5];
    let mut padded = 0;
    for kind in [SEAL, CLOSE] {
        for (n, index) in (0..512).flat_map(|n| [(n, &INDEX[..0]), (n, &INDEX[..5])]) {
            let mut segment = Segment::new();
            let entry = vec![7; n * 8];
            segment.append(&[&entry]);
            let at = segment.offset();
            assert!(segment.file().has_active_len());
            let unpadded = at.0 + (40 + 56 + index.len() as u64).next_multiple_of(8) + 16;
            let context = segment.context();
            let end = segment.end(kind, index);
            segment.writer.finish(&mut segment.preallocation, &context, end).unwrap();
            assert!(segment.file().has_active_len(), "not cut before it is durable");
            segment.sync();
            segment.writer.trim_to_trailer().unwrap();
            let file = segment.file();
            assert_ne!(file.len() % 4096, 8, "{kind:?}, {n}");
            let pad = if unpadded % 4096 == 8 { 8 } else { 0 };
            padded += pad / 8;
            assert_eq!((file.len(), segment.writer.finished_len()), (unpadded + pad, Some(file.len())));
            let finished = file.finished().unwrap().expect("it is finished");
            assert_eq!((finished.offset, &finished.footer.index[..]), (at, index), "{kind:?}, {n}");
        }
    }
    assert_eq!(padded, 4, "there is one such length for each kind and index");
}

#[test]
fn a_footer_is_one_write_and_comes_before_the_trim() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.storage.take_log();
    segment.writer.trim_to_trailer().unwrap();
    assert_eq!(segment.storage.take_log(), [] as [String; 0]);
    let name = format!(".tmp-{}", segment.id());
    segment.finish(CLOSE, b"");
    let expected = [
        format!("write {name} 176+112"),
        format!("sync {name}"),
        format!("set length {name} 288"),
        format!("sync {name}"),
    ];
    assert_eq!(segment.storage.take_log(), expected);
}

#[test]
fn a_file_truncated_anywhere_is_not_finished() {
    for kind in [SEAL, CLOSE] {
        let mut segment = Segment::with(&header(), 20_000);
        segment.append(&[&[7; 9000]]);
        segment.finish(kind, b"index");
        let bytes = segment.storage.bytes();
        let id = segment.id();
        for len in (128..bytes.len()).rev() {
            // Each length near the end and near block boundaries, and some others.
            if len + 200 < bytes.len() && len % 4096 > 20 && len % 97 != 0 {
                continue;
            }
            let file = file_of(&bytes[..len], id).unwrap();
            assert!(file.finished().unwrap().is_none(), "{len} of {} bytes", bytes.len());
            // An active length is never at a block or page boundary: it is 8 bytes longer.
            assert!(!file.has_active_len() || len % 4096 == 8, "{len}");
        }
        assert!(file_of(&bytes, id).unwrap().finished().unwrap().is_some());
    }
}

#[test]
fn a_flipped_bit_of_a_footer_or_trailer_is_found() {
    for kind in [SEAL, CLOSE] {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        let from = usize::try_from(segment.offset().0).unwrap();
        segment.finish(kind, b"an index block of 27 bytes.");
        let mut bytes = segment.storage.bytes();
        let id = segment.id();
        // A header of 40 bytes, a payload of 56 and 27 bytes, 5 zeros of alignment, which are not
        // checked, and the trailer.
        let payload_end = from + 40 + 56 + 27;
        let trailer = bytes.len() - 16;
        assert_eq!(trailer, payload_end + 5);
        for bit in from * 8..bytes.len() * 8 {
            let in_zeros = (payload_end..trailer).contains(&(bit / 8));
            bytes[bit / 8] ^= 1 << (bit % 8);
            let finished = file_of(&bytes, id).unwrap().finished().unwrap();
            assert_eq!(finished.is_some(), in_zeros, "{kind:?}: bit {} of byte {}", bit % 8, bit / 8 - from);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// A segment file whose last 16 bytes are a valid trailer that names `position`.
fn with_trailer(segment: &Segment, position: u64) -> Vec<u8> {
    let mut bytes = segment.storage.bytes();
    let at = bytes.len() - 16;
    bytes[at..].copy_from_slice(&Trailer { footer_offset: ByteOffset(position) }.encode(header().salt));
    bytes
}

#[test]
fn a_trailer_counts_only_right_after_its_footer() {
    let mut segment = Segment::new();
    let first = segment.append(&[b"one"]).0;
    segment.start(13);
    segment.close();
    segment.resume_after_close();
    segment.append(&[b"two"]);
    let close = segment.closed_at.unwrap().0;
    let seal = segment.offset().0;
    segment.seal();
    let id = segment.id();
    let len = segment.file().len();
    assert!(file_of(&with_trailer(&segment, seal), id).unwrap().finished().unwrap().is_some());
    let elsewhere = [0, 120, 127, 128, first, 176, close, seal - 8, seal + 1, seal + 4, seal + 8, len - 56, len - 48];
    for position in elsewhere.into_iter().chain([len - 16, len - 8, len, len + 8, 1 << 40, u64::MAX - 7, u64::MAX]) {
        let finished = file_of(&with_trailer(&segment, position), id).unwrap().finished().unwrap();
        assert!(finished.is_none(), "position {position} of {len}");
    }
}

#[test]
fn a_footer_of_another_segment_does_not_count() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.seal();
    let mut bytes = segment.storage.bytes();
    let other = SegmentHeader { salt: stratawal_frame::Salt(1), ..header() };
    bytes[..128].copy_from_slice(&other.encode());
    let file = file_of(&bytes, segment.id()).unwrap();
    assert!(file.finished().unwrap().is_none());
    assert_eq!(walked(&file).0.end_seq, SeqNo(40), "nor are its frames");
}

#[test]
fn a_file_too_short_for_a_footer_has_none() {
    let segment = Segment::new();
    let bytes = segment.storage.bytes();
    for len in 128..128 + 40 + 16 + 8 {
        let mut bytes = bytes[..len].to_vec();
        assert!(file_of(&bytes, segment.id()).unwrap().finished().unwrap().is_none(), "{len}");
        if len >= 144 {
            bytes[len - 16..].copy_from_slice(&Trailer { footer_offset: ByteOffset(128) }.encode(header().salt));
            assert!(file_of(&bytes, segment.id()).unwrap().finished().unwrap().is_none(), "{len}");
        }
    }
}

#[test]
fn a_newer_frame_named_by_the_trailer_is_reported() {
    let segment = Segment::new();
    for (flags, codec, kind) in [(1, 0, 3_u32), (0, 9, 3), (0, 0, 99)] {
        let mut bytes = segment.storage.bytes()[..128].to_vec();
        let payload = [&kind.to_le_bytes()[..], &[0; 4]].concat();
        let frame = common::Raw { count: 0, flags, codec, payload, ..raw(40) };
        bytes.extend(frame.encode(&segment.position(128)));
        bytes.extend(Trailer { footer_offset: ByteOffset(128) }.encode(header().salt));
        let file = file_of(&bytes, segment.id()).unwrap();
        let error = file.finished().unwrap_err();
        assert!(error.is_newer() && !error.is_damage(), "{error}");
        assert_eq!(error.offset(), Some(ByteOffset(128)));
        assert!(file.close_at(ByteOffset(128)).unwrap_err().is_newer());
    }
}

#[test]
fn each_close_names_the_close_before_it() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    let mut closes = Vec::new();
    for _ in 0..5 {
        segment.close();
        closes.push(segment.closed_at.unwrap());
        segment.resume_after_close();
        segment.append(&[b"more"]);
    }
    segment.seal();
    let file = segment.file();
    assert_eq!(walked(&file).0.close, closes.last().copied());
    let mut at = closes.last().copied();
    while let Some(offset) = at {
        assert_eq!(closes.pop(), Some(offset));
        let close = file.close_at(offset).unwrap().expect("the CLOSE exists");
        assert_eq!((close.offset, &close.footer.index[..]), (offset, &b"points"[..]));
        at = match close.footer.kind {
            FooterKind::Close { previous } => previous,
            FooterKind::Seal { .. } => panic!("a SEAL is none"),
        };
    }
    assert!(closes.is_empty());
    let others = [0, 8, 127, 128, 136, 177, file.len() - 16, file.len() - 8, file.len(), 1 << 50, u64::MAX - 7];
    let seal = file.finished().unwrap().expect("it is sealed").offset.0;
    for offset in others.into_iter().chain([seal, u64::MAX]) {
        assert!(file.close_at(ByteOffset(offset)).unwrap().is_none(), "{offset}");
    }
}

#[test]
fn resuming_after_a_close_writes_nothing() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.close();
    let bytes = segment.storage.bytes();
    segment.storage.take_log();
    segment.resume_after_close();
    assert!(segment.preallocation.is_after_close());
    assert_eq!(
        (segment.offset().0 + 16, segment.preallocation.preallocated()),
        (bytes.len() as u64, bytes.len() as u64)
    );
    segment.mark();
    assert_eq!(segment.storage.take_log(), [] as [String; 0], "a MARK would overwrite the trailer");
    assert!(segment.storage.bytes() == bytes);
    assert!(segment.file().finished().unwrap().is_some());
}

#[test]
fn the_close_is_synced_again_before_its_trailer_goes() {
    for booking in 0..3 {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        segment.close();
        let close = segment.closed_at.unwrap().0;
        let before = segment.storage.bytes();
        segment.storage.take_log();
        segment.resume_after_close();
        let tail = segment.offset();
        let len = before.len() as u64;
        match booking {
            0 => segment.preallocation.ensure(&tail, 48).unwrap(),
            1 => segment.preallocation.ensure_control(&tail, 0).unwrap(),
            _ => segment.preallocation.ensure_control(&tail, 48).unwrap(),
        }
        let log = segment.storage.take_log();
        let frame_len = tail.0 - close;
        assert_eq!(log.len(), 3, "{log:?}");
        assert!(log[0].starts_with("preallocate "), "{log:?}");
        assert!(log[1].starts_with("write ") && log[1].ends_with(&format!(" {close}+{frame_len}")), "{log:?}");
        assert!(log[2].starts_with("sync "), "{log:?}");
        let after = segment.storage.bytes();
        assert!(after.starts_with(&before) && after[before.len()..].iter().all(|&b| b == 0));
        assert!(after.len() as u64 > len && segment.file().has_active_len());
        assert!(!segment.preallocation.is_after_close());
        segment.preallocation.ensure_control(&tail, 48).unwrap();
        assert_eq!(segment.storage.take_log(), [] as [String; 0], "once is enough");
        // The CLOSE is now an ordinary frame of the chain, and its trailer was overwritten.
        let (chain, frames) = walked(&segment.file());
        assert_eq!((chain.close, chain.end, frames.len()), (Some(ByteOffset(close)), tail, 2));
        assert!(segment.file().finished().unwrap().is_none());
    }
}

#[test]
fn nothing_follows_a_close_that_cannot_be_rewritten() {
    for nth in 0..3 {
        for done in [false, true] {
            let mut segment = Segment::new();
            segment.append(&[b"one"]);
            segment.close();
            segment.resume_after_close();
            let tail = segment.offset();
            segment.storage.fail(Fault { done, ..fault(nth, IoKind::Other) });
            let error = segment.preallocation.ensure(&tail, 48).unwrap_err();
            assert!(!error.is_full() && segment.preallocation.is_after_close(), "operation {nth}: {error}");
            assert_eq!(segment.storage.take_log().len(), nth + 1);
            // Wherever the writer failed, a reader finds the entries and the CLOSE.
            let (chain, _) = walked(&segment.file());
            assert_eq!((chain.end_seq, chain.end), (SeqNo(41), tail), "operation {nth}");
            assert!(segment.file().has_active_len() || segment.file().finished().unwrap().is_some());
        }
    }
}

#[test]
fn a_full_disk_leaves_a_closed_segment_closed() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.close();
    segment.resume_after_close();
    segment.storage.leave_room(100);
    let tree = segment.storage.tree();
    let context = segment.context();
    let position = segment.offset();
    for _ in 0..3 {
        assert!(segment.preallocation.ensure(&position, 48).unwrap_err().is_full());
        assert!(segment.preallocation.ensure_control(&position, 48).unwrap_err().is_full());
        assert!(segment.writer.write_start(&mut segment.preallocation, &context, SeqNo(13)).unwrap_err().is_full());
        let end = segment.end(CLOSE, b"index");
        assert!(segment.writer.finish(&mut segment.preallocation, &context, end).unwrap_err().is_full());
        assert!(segment.storage.tree() == tree && segment.preallocation.is_after_close());
    }
    assert!(segment.file().finished().unwrap().is_some());
    segment.storage.make_room();
    segment.append(&[b"two"]);
    assert_eq!(walked(&segment.file()).0.end_seq, SeqNo(42));
}

/// The disk reports that it is full only during the write or the sync.
#[test]
fn extending_a_closed_file_can_be_tried_again() {
    for nth in 0..3 {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        segment.close();
        segment.resume_after_close();
        let tail = segment.offset();
        segment.storage.fail(fault(nth, IoKind::StorageFull));
        assert!(segment.preallocation.ensure(&tail, 48).unwrap_err().is_full(), "operation {nth}");
        assert!(segment.preallocation.is_after_close(), "operation {nth}");
        segment.storage.take_log();
        segment.append(&[b"two"]);
        // The CLOSE is rewritten and synced before its trailer is overwritten.
        let log = segment.storage.take_log();
        let verbs: Vec<&str> = log.iter().filter_map(|what| what.split(' ').next()).collect();
        assert_eq!(verbs, ["preallocate", "write", "sync", "write"], "operation {nth}");
        assert_eq!(walked(&segment.file()).0.end_seq, SeqNo(42));
    }
}

#[test]
fn control_frames_can_follow_a_close() {
    for kind in [SEAL, FooterKind::Close { previous: Some(ByteOffset(176)) }] {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        segment.close();
        segment.resume_after_close();
        segment.start(41);
        segment.finish(kind, b"");
        let (chain, frames) = walked(&segment.file());
        assert_eq!(frames.len(), if kind == SEAL { 3 } else { 4 });
        assert_eq!(chain.start, Some(SeqNo(if kind == SEAL { 41 } else { 12 })), "the last START or CLOSE counts");
        assert_eq!(segment.file().finished().unwrap().expect("it is finished").footer.kind, kind);
        // Writes a footer right after the CLOSE.
        let mut segment = Segment::new();
        segment.close();
        segment.resume_after_close();
        segment.finish(kind, b"");
        assert_eq!(segment.file().finished().unwrap().expect("it is finished").footer.kind, kind);
    }
}

#[test]
fn a_thousand_runs_share_one_file() {
    let mut segment = Segment::new();
    let mut ends = Vec::new();
    for run in 0..1000_u32 {
        if run % 3 != 0 {
            segment.append(&[&run.to_le_bytes(), b"", &vec![7; run as usize % 50]]);
            segment.sync();
            segment.mark();
        }
        segment.close();
        let file = segment.file();
        let finished = file.finished().unwrap().expect("it is closed");
        assert_eq!(finished.frame.first_seq.0, segment.next, "run {run}");
        assert!(!file.has_active_len(), "run {run}");
        ends.push(file.len());
        segment.resume_after_close();
    }
    assert_eq!(segment.storage.tree().len(), 1);
    assert!(ends.windows(2).all(|pair| pair[0] < pair[1]), "each continues after the one before");
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.end_seq.0, chain.close), (segment.next, segment.closed_at));
    assert_eq!(frames.iter().filter(|(_, frame)| frame.is_control()).count(), 1000);
    assert_eq!(frames.iter().filter(|(_, frame)| !frame.is_control()).count(), 666);
    let entries = 3 * 666;
    assert_eq!(frames.iter().map(|(_, frame)| frame.count).sum::<u32>(), entries);
}

#[test]
fn the_shortest_frame_overwrites_a_trailer() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.close();
    segment.resume_after_close();
    let at = segment.append(&[b""]).0;
    assert_eq!(segment.offset().0, at + 40);
    let (chain, _) = walked(&segment.file());
    assert_eq!((chain.end_seq, segment.file().torn_len(chain.end).unwrap()), (SeqNo(42), 0));
    assert!(segment.file().finished().unwrap().is_none());
}

/// The entry holds the bytes of a valid footer and of its trailer.
#[test]
fn a_footer_inside_an_entry_does_not_end_the_chain() {
    let mut segment = Segment::new();
    let position = FramePosition { offset: ByteOffset(128 + 40), ..segment.writer.next_position() };
    let mut inner = Vec::new();
    let end = Control::Footer(Footer { kind: SEAL, ..segment.end(SEAL, b"") });
    encode_control(&mut inner, &position, SeqNo(41), 1, Some(SeqNo(40)), &end);
    inner.extend(Trailer { footer_offset: position.offset }.encode(position.salt));
    segment.append(&[&inner]);
    segment.append(&[b"second"]);
    let (chain, frames) = walked(&segment.file());
    assert_eq!((chain.end_seq, chain.seal, frames.len()), (SeqNo(42), None, 2));
}

#[test]
fn resuming_reads_the_whole_close_frame() {
    static INDEX: [u8; 100_000] = [7; 100_000];
    let mut segment = Segment::with(&header(), 200_000);
    segment.append(&[b"one"]);
    segment.finish(CLOSE, &INDEX);
    let before = segment.storage.bytes();
    let file = segment.open(Access::ReadWrite);
    let close = file.finished().unwrap().expect("it is closed").offset;
    let (mut writer, mut preallocation) = SegmentWriter::resume_after_close(&file, close).unwrap();
    let frame = data_frame(&writer.next_position(), 41, None, &[b"two"]);
    preallocation.ensure(&writer.next_position().offset, frame.len() as u64).unwrap();
    assert!(segment.storage.bytes().starts_with(&before));
    writer.append(&frame).unwrap();
    let (chain, _) = walked(&segment.file());
    assert_eq!((chain.end_seq, chain.close), (SeqNo(42), Some(close)));
}
