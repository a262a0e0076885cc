//! The watermark that a segment's undamaged bytes attest. This code follows
//! `crates/frame/FORMAT.md` and shares nothing with the log, so that a bug in the log's search for
//! frames cannot be repeated here.

use std::ops::Range;
use std::path::PathBuf;

pub(crate) const HEADER_LEN: usize = 128;
const FRAME_HEADER_LEN: usize = 40;
/// The length of a MARK, the shortest frame that is overwritten.
const MARK_LEN: usize = 48;
const ATTESTS_NOTHING: u32 = 0xFFFF_FFFF;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// CRC-32 as in zlib, bit by bit.
fn crc(parts: &[&[u8]]) -> u32 {
    let mut sum = u32::MAX;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

/// A valid frame.
pub(crate) struct Frame {
    /// The bytes of the frame that a checksum covers.
    pub(crate) at: Range<u64>,
    pub(crate) first_seq: u64,
    pub(crate) count: u32,
    /// 1 is MARK, 2 START, 3 SEAL, 4 CLOSE. `None` means entries.
    pub(crate) kind: Option<u32>,
    pub(crate) attests: Option<u64>,
}

/// Returns every valid frame in the bytes of a segment, whether in its chain or not.
pub(crate) fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    let mut at = HEADER_LEN;
    while at + FRAME_HEADER_LEN <= bytes.len() {
        let Some(len) = header_at(bytes, at) else {
            at += 8;
            continue;
        };
        let payload = &bytes[at + FRAME_HEADER_LEN..at + FRAME_HEADER_LEN + len];
        if crc(&[payload]) == u32_at(bytes, at + 4) {
            let first_seq = u64_at(bytes, at + 8);
            let count = u32_at(bytes, at + 24);
            let undurable = u32_at(bytes, at + 32);
            found.push(Frame {
                at: at as u64..(at + FRAME_HEADER_LEN + len) as u64,
                first_seq,
                count,
                kind: (count == 0).then(|| u32_at(payload, 0)),
                attests: (undurable != ATTESTS_NOTHING).then(|| first_seq - u64::from(undurable)),
            });
        }
        let frame_len = (FRAME_HEADER_LEN + len).next_multiple_of(8);
        at += if frame_len <= MARK_LEN { 8 } else { frame_len };
    }
    found
}

/// Returns the payload length if there is a valid header at `at`.
fn header_at(bytes: &[u8], at: usize) -> Option<usize> {
    let header = &bytes[at..at + FRAME_HEADER_LEN];
    let salt = &bytes[64..72];
    let base = u64_at(bytes, 56);
    let first_seq = u64_at(header, 8);
    let count = u32_at(header, 24);
    let undurable = u32_at(header, 32);
    let len = u32_at(header, 28) as usize;
    let valid = header[38..40] == [0, 0]
        && len <= 0x7FFF_FFFF
        && at + (FRAME_HEADER_LEN + len).next_multiple_of(8) <= bytes.len()
        && !(header[36..38] == [0, 0] && count > 1 && 4 * u64::from(count) > len as u64)
        && first_seq >= base
        && (undurable == ATTESTS_NOTHING || u64::from(undurable) <= first_seq)
        && crc(&[salt, &(at as u64).to_le_bytes(), &header[4..]]) == u32_at(header, 0);
    valid.then_some(len)
}

/// Returns the seq below which a stream's segments attest that entries were durable, ignoring the
/// `bytes` of the file `damaged`. `segments` are whole files.
pub(crate) fn attested(segments: &[(PathBuf, Vec<u8>)], damaged: &PathBuf, bytes: &Range<u64>) -> u64 {
    let mut attested = 0;
    for (path, file) in segments {
        let hit = |at: &Range<u64>| path == damaged && at.start < bytes.end && bytes.start < at.end;
        let generation = u32_at(file, 48);
        // Entries that a newer generation voided do not count.
        let newer = segments.iter().filter(|(_, other)| u32_at(other, 48) > generation);
        let limit = newer.map(|(_, other)| u64_at(other, 56)).min().unwrap_or(u64::MAX);
        let mut attest = |seq: u64| attested = attested.max(seq.min(limit));
        if !hit(&(0..HEADER_LEN as u64)) {
            attest(u64_at(file, 72));
        }
        frames(file).iter().filter(|frame| !hit(&frame.at)).filter_map(|frame| frame.attests).for_each(&mut attest);
    }
    attested
}

#[test]
fn golden_file_reads_as_it_was_written() {
    let mut segment = include_bytes!("../../../frame/tests/golden/v1/closed.seg").to_vec();
    let found: Vec<_> =
        frames(&segment).iter().map(|f| (f.at.start, f.first_seq, f.count, f.kind, f.attests)).collect();
    let expected = [
        (128, 3, 1, None, Some(2)),
        (176, 4, 3, None, None),
        (232, 7, 0, Some(2), Some(4)),
        (288, 7, 0, Some(4), Some(7)),
    ];
    assert_eq!(found, expected);
    segment[180] ^= 1;
    assert_eq!(frames(&segment).len(), 3);
}
