//! Damaged and hostile files cause no panic and no allocation of an unchecked length, and a chain
//! has only frames before the damage.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{HEADER_LEN, Raw, Rng, Segment, file_of, header, raw, walked};
use stratawal_frame::{ByteOffset, FrameHeader, SeqNo, Trailer};
use stratawal_segment::{Chain, CursorStep, ErrorKind, FrameCursor, SegmentData, SegmentFile, SegmentId};

/// The system's allocator, which also records the largest size requested by each thread.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    LARGEST.with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is forwarded unchanged to the system's allocator, and recording a size does
// not allocate.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller has given the same promises that `System` requires.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The size of the largest allocation that `f` requests.
fn largest(f: impl FnOnce()) -> usize {
    LARGEST.with(|largest| largest.set(0));
    f();
    LARGEST.with(Cell::get)
}

/// Longer than a scan's window.
const WINDOW: usize = (256 << 10) + 4096;

/// Calls every function that recovery calls for a file.
fn look_at_everything(file: &SegmentFile) {
    let end = file.scan_chain(&mut |_, _| ()).map_or(ByteOffset(HEADER_LEN), |chain| chain.end);
    let _ = file.attestations(end);
    let _ = file.torn_len(end).unwrap();
    let _ = file.close_at(end);
    let _ = file.holds_only_zeros().unwrap();
    if let Ok(Some(finished)) = file.finished() {
        assert!(finished.offset.0 < file.len());
    }
}

#[test]
fn the_allocator_records_the_largest_request() {
    assert!(largest(|| drop(vec![0_u8; 5_000_000])) >= 5_000_000);
    assert!(largest(|| ()) < 1000);
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let huge = [0x7FFF_FFFF, 0x7FFF_FF00, 64 << 20, (64 << 20) + 1, u32::MAX, 1 << 20, 200_000];
    for (payload_len, count) in huge.into_iter().flat_map(|len| [0, 1, 2, u32::MAX].map(|count| (len, count))) {
        let segment = Segment::with(&header(), 500_000);
        let frame = Raw { payload_len: Some(payload_len), count, undurable: 0, ..raw(40) };
        segment.poke(&frame.encode(&segment.position(HEADER_LEN)), HEADER_LEN);
        let file = segment.file();
        let asked = largest(|| {
            assert_eq!(walked(&file).0.end.0, HEADER_LEN);
            assert_eq!(file.attestations(ByteOffset(HEADER_LEN)).unwrap().attested, SeqNo(40));
            file.torn_len(ByteOffset(HEADER_LEN)).unwrap();
        });
        assert!(asked < WINDOW, "{asked} bytes for a claim of {payload_len}, count {count}");
    }
}

#[test]
fn a_control_frame_is_read_only_if_its_checksum_is_right() {
    let segment = Segment::with(&header(), 20 << 20);
    let frame = Raw { payload_len: Some(19 << 20), count: 0, payload: Vec::new(), ..raw(40) };
    segment.poke(&frame.encode(&segment.position(HEADER_LEN)), HEADER_LEN);
    let file = segment.file();
    let asked = largest(|| assert_eq!(walked(&file).0.end.0, HEADER_LEN));
    assert!(asked < WINDOW, "{asked}");
}

#[test]
fn a_trailer_that_names_any_offset_allocates_little() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.seal();
    let mut bytes = segment.storage.bytes();
    let id = segment.id();
    let at = bytes.len() - 16;
    for position in (0..400).chain((0..64).map(|bit| 1 << bit)).chain((0..64).map(|bit| u64::MAX >> bit)) {
        bytes[at..].copy_from_slice(&Trailer { footer_offset: ByteOffset(position) }.encode(header().salt));
        let file = file_of(&bytes, id).unwrap();
        let asked = largest(|| assert_eq!(file.finished().unwrap().is_some(), position == 176, "{position}"));
        assert!(asked < 4096, "{asked} bytes for position {position}");
    }
}

#[test]
fn a_frame_over_the_bound_for_reading_allocates_nothing() {
    let segment = Segment::new();
    let frame = Raw { payload_len: Some(0x7FFF_FFFF), ..raw(40) };
    segment.poke(&frame.encode(&segment.position(HEADER_LEN)), HEADER_LEN);
    let data = SegmentData::read(&segment.file());
    let block = data.block(HEADER_LEN..8200).unwrap();
    let asked = largest(|| {
        let mut cursor = FrameCursor::new(&data, block.clone(), ByteOffset(HEADER_LEN), SeqNo(40), 1 << 20);
        let error = cursor.seek(SeqNo(40)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TooLarge { max: 0x10_0000, .. }), "{error}");
        let mut cursor = FrameCursor::new(&data, block.clone(), ByteOffset(HEADER_LEN), SeqNo(40), u64::MAX);
        let found = cursor.seek(SeqNo(40)).unwrap();
        assert!(
            matches!(found, CursorStep::Incomplete { at: ByteOffset(128), len } if len == 0x8000_0000 + 40),
            "{found:?}"
        );
    });
    assert!(asked < 4096, "{asked}");
}

/// Four states of a segment with the same entries.
fn lives() -> [(&'static str, Segment); 4] {
    let written = || {
        let mut segment = Segment::new();
        segment.append(&[b"one"]);
        segment.sync();
        segment.append(&[b"two", b"", b"four"]);
        segment.start(13);
        segment.append(&[b"five"]);
        segment.sync();
        segment
    };
    let [mut active, mut sealed, mut closed, mut resumed] = [(); 4].map(|()| written());
    active.mark();
    sealed.seal();
    closed.close();
    resumed.close();
    resumed.resume_after_close();
    resumed.append(&[b"six"]);
    resumed.sync();
    resumed.mark();
    // Fewer preallocated zeros.
    for segment in [&active, &resumed] {
        segment.set_len(4104);
    }
    [("active", active), ("sealed", sealed), ("closed", closed), ("resumed", resumed)]
}

/// A file before any damage.
struct SpanState {
    chain: Chain,
    frames: Vec<(u64, FrameHeader)>,
    attested: SeqNo,
}

fn see(bytes: &[u8], id: SegmentId) -> SpanState {
    let file = file_of(bytes, id).unwrap();
    let (chain, frames) = walked(&file);
    SpanState { chain, frames, attested: file.attestations(ByteOffset(HEADER_LEN)).unwrap().attested }
}

/// The end of the bytes of frame `i`, without the zeros of its alignment.
fn payload_end(seen: &SpanState, i: usize) -> u64 {
    seen.frames[i].0 + 40 + u64::from(seen.frames[i].1.payload_len)
}

/// Checks `bytes`, which are damaged in `from..to`: the frames before the damage are found, and
/// every frame found was in the original file.
fn check_rotten(what: &str, bytes: &[u8], id: SegmentId, right: &SpanState, from: u64, to: u64) {
    let file = file_of(bytes, id).unwrap();
    let (chain, frames) = walked(&file);
    let hit = (0..right.frames.len()).find(|&i| from < payload_end(right, i) && to > right.frames[i].0);
    let expected = hit.unwrap_or(right.frames.len());
    assert_eq!(frames, right.frames[..expected], "{what}");
    if hit.is_none() {
        assert_eq!((chain.end, chain.end_seq), (right.chain.end, right.chain.end_seq), "{what}");
    }
    // Either the right SEAL is found or none.
    assert!(chain.seal.is_none() || chain.seal == right.chain.seal, "{what}");
    assert!(file.attestations(ByteOffset(HEADER_LEN)).unwrap().attested <= right.attested, "{what}");
    look_at_everything(&file);
}

#[test]
fn a_flipped_bit_ends_the_chain_or_changes_nothing() {
    for (life, segment) in lives() {
        let mut bytes = segment.storage.bytes();
        let id = segment.id();
        let right = see(&bytes, id);
        let used = usize::try_from(right.chain.end.0).unwrap() + 200;
        for at in 128..bytes.len() {
            // Tries only some of the zeros after the last frame.
            if at > used && at % 61 != 0 {
                continue;
            }
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let what = format!("{life}: bit {bit} of byte {at}");
                check_rotten(&what, &bytes, id, &right, at as u64, at as u64 + 1);
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn a_run_of_zeros_ends_the_chain_or_changes_nothing() {
    for (life, segment) in lives() {
        let bytes = segment.storage.bytes();
        let id = segment.id();
        let right = see(&bytes, id);
        let used = (usize::try_from(right.chain.end.0).unwrap() + 200).min(bytes.len());
        for (from, len) in (128..used).flat_map(|from| [8, 40, 64, 512].map(|len| (from, len))) {
            let mut rotten = bytes.clone();
            let to = (from + len).min(bytes.len());
            rotten[from..to].fill(0);
            // Zeros written over zeros are not damage.
            let Some(first) = (from..to).find(|&i| bytes[i] != 0) else { continue };
            let last = (from..to).rfind(|&i| bytes[i] != 0).unwrap_or(first);
            let what = format!("{life}: {len} bytes at {from}");
            check_rotten(&what, &rotten, id, &right, first as u64, last as u64 + 1);
        }
    }
}

#[test]
fn a_truncated_file_keeps_its_whole_frames() {
    for (life, segment) in lives() {
        let bytes = segment.storage.bytes();
        let id = segment.id();
        let right = see(&bytes, id);
        let used = (usize::try_from(right.chain.end.0).unwrap() + 200).min(bytes.len());
        for len in 128..used {
            let file = file_of(&bytes[..len], id).unwrap();
            let (_, frames) = walked(&file);
            let whole = right.frames.iter().take_while(|(at, frame)| at + frame.frame_len() <= len as u64).count();
            assert_eq!(frames, right.frames[..whole], "{life}: {len} bytes");
            assert!(file.attestations(ByteOffset(HEADER_LEN)).unwrap().attested <= right.attested);
            assert!(file.finished().unwrap().is_none() || len == bytes.len(), "{life}: {len} bytes");
            look_at_everything(&file);
        }
    }
}

#[test]
fn garbage_is_read_without_a_panic() {
    let lives = lives().map(|(life, segment)| {
        let bytes = segment.storage.bytes();
        let right = see(&bytes, segment.id());
        (life, bytes, segment.id(), right)
    });
    for seed in 0..2000 {
        let mut rng = Rng(seed);
        let (life, bytes, id, right) = &lives[usize::try_from(rng.below(4)).unwrap()];
        let mut bytes = bytes.clone();
        let mut from = bytes.len();
        let mut to = 0;
        for _ in 0..=rng.below(5) {
            let at = usize::try_from(128 + rng.below(bytes.len().min(900) as u64 - 128)).unwrap();
            let end = (at + usize::try_from(rng.below(60)).unwrap()).min(bytes.len());
            bytes[at..end].fill_with(|| rng.next() as u8);
            from = from.min(at);
            to = to.max(end);
        }
        let file = file_of(&bytes, *id).unwrap();
        let (_, frames) = walked(&file);
        let before = right.frames.iter().take_while(|(at, frame)| at + frame.frame_len() <= from as u64).count();
        assert!(frames.len() >= before && right.frames.starts_with(&frames), "seed {seed}, {life}: {from}..{to}");
        look_at_everything(&file);
    }
}

/// An attacker who knows the salt can write frames with correct checksums and any fields.
#[test]
fn frames_of_any_fields_are_read_without_a_panic() {
    for seed in 0..2000 {
        let mut rng = Rng(seed);
        let segment = Segment::with(&header(), 9);
        let mut at = HEADER_LEN;
        let mut bytes = segment.storage.bytes();
        bytes.resize(2000, 0);
        while at < 1800 {
            let pick = |rng: &mut Rng, values: &[u64]| values[usize::try_from(rng.below(values.len() as u64)).unwrap()];
            let len = pick(&mut rng, &[0, 1, 4, 5, 8, 16, 17, 56, 60, 120]);
            let mut payload: Vec<u8> = (0..len).map(|_| pick(&mut rng, &[0, 0, 0, 1, 2, 8, 128, 255]) as u8).collect();
            if let Some(kind) = payload.first_chunk_mut() {
                *kind = (pick(&mut rng, &[1, 2, 3, 4, 4, 5]) as u32).to_le_bytes();
            }
            let frame = Raw {
                first_seq: pick(&mut rng, &[40, 41, 42, 40, 40, u64::MAX - 1, u64::MAX]),
                count: pick(&mut rng, &[0, 0, 1, 2, 3, 30, u64::from(u32::MAX)]) as u32,
                undurable: pick(&mut rng, &[0, 1, 40, u64::from(u32::MAX) - 1, u64::from(u32::MAX)]) as u32,
                codec: pick(&mut rng, &[0, 0, 0, 0, 1, 2, 3]) as u8,
                flags: pick(&mut rng, &[0, 0, 0, 0, 0, 0, 0, 1]) as u8,
                payload,
                payload_len: None,
                payload_crc: None,
            };
            let frame = frame.encode(&segment.position(at));
            bytes[usize::try_from(at).unwrap()..][..frame.len()].copy_from_slice(&frame);
            at += frame.len() as u64;
        }
        let position = ByteOffset(128 + rng.below(200) * 8);
        bytes.truncate(usize::try_from(at).unwrap());
        bytes.extend(Trailer { footer_offset: position }.encode(header().salt));
        let file = file_of(&bytes, segment.id()).unwrap();
        let asked = largest(|| look_at_everything(&file));
        assert!(asked < WINDOW, "seed {seed}: {asked} bytes");
        let data = SegmentData::read(&file);
        let block = data.block(HEADER_LEN..bytes.len() as u64).unwrap();
        let mut cursor = FrameCursor::new(&data, block, ByteOffset(HEADER_LEN), SeqNo(40), 1 << 20);
        while let Ok(CursorStep::Frame(found)) = cursor.seek(SeqNo(0)) {
            let header = found.header();
            let mut seqs = header.first_seq.0..header.end_seq().0;
            assert!(seqs.all(|seq| cursor.entry(&found, SeqNo(seq)).is_some()), "seed {seed}");
            assert!(cursor.entry(&found, header.end_seq()).is_none(), "seed {seed}");
        }
    }
}
