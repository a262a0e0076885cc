//! Encodes points to bytes, and decodes them.
//!
//! Decoding never panics, and allocates at most eight times the length of its input. After a
//! failure the caller decides whether to rebuild the index from the frames or to give up.

use std::ops::Range;

use crate::error::{DecodeError, DecodeErrorKind, PointsError};
use crate::order::{POINTS_MAX, check_points};
use crate::point::IndexPoint;

/// The bounds within which all points of a decoded block must be: the live range of its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// The seqs of the segment.
    pub seq: Range<u64>,
    /// The offsets at which frames of the segment may begin, in bytes.
    pub offset: Range<u64>,
}

// The normative text is FORMAT.md.
//
//   0        4    5        9                                        len-4      len
//   +--------+----+--------+------------------------------ - - -----+----------+
//   | "SWIX" | 1  | count  | count times: number, number, number    | checksum |
//   | magic  |ver.| u32    |              seq,    offset, timestamp | CRC-32   |
//   +--------+----+--------+------------------------------ - - -----+----------+
//
// A number is an unsigned LEB128 in its shortest form. The numbers of the first point are its
// values; those of every other point are the differences from the previous point. A fixed width of
// 24 bytes a point, which would allow random access, was rejected: with this encoding a point takes
// 5 to 7 bytes, and a block is always written and read as a whole. The 16,384 points of a 64 MiB
// segment take 80 KiB instead of 384, and 0.17 ms to decode, once per load.
const MAGIC: [u8; 4] = *b"SWIX";
const VERSION: u8 = 1;

const VERSION_AT: usize = MAGIC.len();
const COUNT_AT: usize = VERSION_AT + 1;
const HEADER_LEN: usize = COUNT_AT + 4;
const CHECKSUM_LEN: usize = 4;
const BLOCK_LEN_MIN: usize = HEADER_LEN + CHECKSUM_LEN;
const POINT_LEN_MIN: usize = 3;
const _: () = assert!(HEADER_LEN == 9 && BLOCK_LEN_MIN == 13);

/// The bytes before the count.
pub(crate) const VERSIONED_MAGIC: [u8; COUNT_AT] = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION];

/// Returns the index block of `points`, which may be empty. [`Index::encode`](crate::Index::encode)
/// returns the same block for an index with these points.
///
/// # Errors
/// [`PointsError`] if a point breaks the rules of [`IndexPoint`].
pub fn encode_points(points: &[IndexPoint]) -> Result<Vec<u8>, PointsError> {
    check_points(points, POINTS_MAX)?;
    Ok(encode_checked(points))
}

/// Returns an index block of `points` in at most `len_max` bytes. If the block of all points would
/// be longer, it holds every second point, or every fourth, and so on. It always holds the first
/// point.
///
/// # Errors
/// [`PointsError`] if a point breaks the rules of [`IndexPoint`].
pub fn encode_points_within(points: &[IndexPoint], len_max: usize) -> Result<Vec<u8>, PointsError> {
    check_points(points, POINTS_MAX)?;
    let mut block = encode_checked(points);
    let mut step = 1;
    while block.len() > len_max && step < points.len() {
        step *= 2;
        let some: Vec<IndexPoint> = points.iter().copied().step_by(step).collect();
        block = encode_checked(&some);
    }
    Ok(block)
}

/// Encodes points known to follow the rules.
pub(crate) fn encode_checked(points: &[IndexPoint]) -> Vec<u8> {
    let count = u32::try_from(points.len()).expect("invariant: the points were counted when they were checked");
    let mut block = Vec::with_capacity(BLOCK_LEN_MIN + 8 * points.len());
    block.extend_from_slice(&VERSIONED_MAGIC);
    block.extend_from_slice(&count.to_le_bytes());
    let mut last = IndexPoint { seq: 0, offset: 0, timestamp: 0 };
    for point in points {
        put_number(&mut block, point.seq - last.seq);
        put_number(&mut block, point.offset - last.offset);
        put_number(&mut block, point.timestamp - last.timestamp);
        last = *point;
    }
    let checksum = crc32fast::hash(&block);
    block.extend_from_slice(&checksum.to_le_bytes());
    block
}

/// Decodes a block. It is valid if and only if (1) it begins with the magic and the version, (2)
/// its last four bytes are the CRC-32 of all bytes before them, (3) there are exactly as many
/// points between header and checksum as the header counts, with each number in its shortest form,
/// (4) seq and offset rise from point to point, and no value exceeds 64 bits, (5) every point is
/// within `bounds`.
pub(crate) fn decode(block: &[u8], bounds: &Bounds) -> Result<Vec<IndexPoint>, DecodeError> {
    let body = check_frame(block)?;
    let count = read_count(body)?;
    let mut numbers = Numbers { bytes: body, at: HEADER_LEN };
    // `read_count` has bounded the count by the length of the block.
    let mut points = Vec::with_capacity(count);
    let mut last = None;
    for _ in 0..count {
        let point = read_point(&mut numbers, last, bounds)?;
        points.push(point);
        last = Some(point);
    }
    match body.len() - numbers.at {
        0 => Ok(points),
        extra => Err(DecodeError::new(DecodeErrorKind::TrailingBytes { extra: extra as u64 }, numbers.at)),
    }
}

/// Checks magic, version and checksum, in that order. Returns the bytes that the checksum covers.
fn check_frame(block: &[u8]) -> Result<&[u8], DecodeError> {
    let too_short = DecodeError::new(DecodeErrorKind::TooShort, block.len());
    let Some(&version) = block.get(VERSION_AT) else {
        return Err(too_short);
    };
    if block[..VERSION_AT] != MAGIC {
        return Err(DecodeError::new(DecodeErrorKind::NotAnIndex, 0));
    }
    match version {
        VERSION => {}
        0 => return Err(DecodeError::new(DecodeErrorKind::NotAnIndex, VERSION_AT)),
        found => {
            return Err(DecodeError::new(DecodeErrorKind::NewerVersion { found }, VERSION_AT));
        }
    }
    if block.len() < BLOCK_LEN_MIN {
        return Err(too_short);
    }
    let Some((body, &checksum)) = block.split_last_chunk::<CHECKSUM_LEN>() else {
        return Err(too_short);
    };
    let computed = crc32fast::hash(body);
    let stored = u32::from_le_bytes(checksum);
    if computed != stored {
        return Err(DecodeError::new(DecodeErrorKind::Checksum { computed, stored }, body.len()));
    }
    Ok(body)
}

/// Reads the number of points, and checks that the bytes can hold that many.
fn read_count(body: &[u8]) -> Result<usize, DecodeError> {
    let (header, points) = body.split_at(HEADER_LEN);
    let count = u32::from_le_bytes([header[5], header[6], header[7], header[8]]);
    let count_max = points.len() / POINT_LEN_MIN;
    usize::try_from(count)
        .ok()
        .filter(|&count| count <= count_max)
        .ok_or_else(|| DecodeError::new(DecodeErrorKind::Count { count, count_max: count_max as u64 }, COUNT_AT))
}

fn read_point(numbers: &mut Numbers<'_>, last: Option<IndexPoint>, bounds: &Bounds) -> Result<IndexPoint, DecodeError> {
    let seq = numbers.rising(last.map(|last| last.seq), &bounds.seq)?;
    let offset = numbers.rising(last.map(|last| last.offset), &bounds.offset)?;
    let timestamp = numbers.added(last.map_or(0, |last| last.timestamp))?;
    Ok(IndexPoint { seq, offset, timestamp })
}

fn put_number(block: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        block.push(value as u8 | 0x80);
        value >>= 7;
    }
    block.push(value as u8);
}

/// A cursor over the numbers of a block.
struct Numbers<'a> {
    /// Everything up to the checksum.
    bytes: &'a [u8],
    at: usize,
}

impl Numbers<'_> {
    /// Reads the next value, which must be above the previous one and within `bounds`.
    fn rising(&mut self, last: Option<u64>, bounds: &Range<u64>) -> Result<u64, DecodeError> {
        let at = self.at;
        let found = self.added(last.unwrap_or(0))?;
        if last == Some(found) {
            return Err(DecodeError::new(DecodeErrorKind::NotRising, at));
        }
        if !bounds.contains(&found) {
            let Range { start, end } = *bounds;
            return Err(DecodeError::new(DecodeErrorKind::OutOfBounds { found, start, end }, at));
        }
        Ok(found)
    }

    /// Reads the next number and adds it to `last`.
    fn added(&mut self, last: u64) -> Result<u64, DecodeError> {
        let at = self.at;
        let rise = self.number()?;
        last.checked_add(rise).ok_or_else(|| DecodeError::new(DecodeErrorKind::Overflow, at))
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let start = self.at;
        let malformed = || DecodeError::new(DecodeErrorKind::Number, start);
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(DecodeError::new(DecodeErrorKind::TooShort, self.at));
            };
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            // Ten bytes carry 70 bits, so only the lowest bit of the tenth byte fits.
            if bits << shift >> shift != bits {
                return Err(malformed());
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let is_shortest = byte != 0 || shift == 0;
                return if is_shortest { Ok(value) } else { Err(malformed()) };
            }
        }
        Err(malformed())
    }
}
