//! The encoded form: golden bytes, round trips, and refusals.
#![cfg(not(stratawal_loom))]

use proptest::prelude::*;
use stratawal_index::{
    Bounds, DecodeErrorKind, Index, IndexPoint, PointsErrorKind, encode_points, encode_points_within, properties,
};

const ANY: Bounds = Bounds { seq: 0..u64::MAX, offset: 0..u64::MAX };

fn points(values: &[(u64, u64, u64)]) -> Vec<IndexPoint> {
    values.iter().map(|&(seq, offset, timestamp)| IndexPoint { seq, offset, timestamp }).collect()
}

/// The block of `body`, the bytes between version and checksum.
fn block(body: &[u8]) -> Vec<u8> {
    let mut block = b"SWIX\x01".to_vec();
    block.extend_from_slice(body);
    block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
    block
}

fn refusal(block: &[u8], bounds: &Bounds) -> (DecodeErrorKind, u64) {
    let error = Index::decode(block, bounds).expect_err("a block that should be refused");
    (error.kind(), error.offset())
}

/// The hexadecimal bytes of a fenced block of FORMAT.md, without its comments.
fn hex_of_format(name: &str) -> Vec<u8> {
    let text = include_str!("../FORMAT.md");
    let fence = format!("```hex {name}\n");
    let start = text.find(&fence).expect("a fenced block of this name") + fence.len();
    let end = start + text[start..].find("```").unwrap();
    text[start..end]
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[test]
fn the_example_of_the_format_is_encoded_and_decoded() {
    let index = Index::from_points(points(&[
        (1_000, 128, 1_700_000_000_000_000),
        (1_040, 4_264, 1_700_000_000_001_500),
        (1_093, 8_400, 1_700_000_000_001_500),
    ]))
    .unwrap();
    let golden = hex_of_format("three points");
    assert_eq!(index.encode(), golden);
    assert_eq!(Index::decode(&golden, &Bounds { seq: 1_000..1_100, offset: 128..8_401 }).unwrap(), index);
}

#[test]
fn the_empty_example_is_encoded_and_decoded() {
    let golden = hex_of_format("no points");
    assert_eq!(Index::default().encode(), golden);
    assert!(Index::decode(&golden, &Bounds { seq: 0..0, offset: 0..0 }).unwrap().is_empty());
}

#[test]
fn a_block_that_is_too_long_keeps_every_nth_point() {
    let all: Vec<IndexPoint> = (0..100).map(|i| IndexPoint { seq: i, offset: 128 + i * 8, timestamp: i }).collect();
    let whole = encode_points(&all).unwrap();
    assert_eq!(encode_points_within(&all, whole.len()).unwrap(), whole);
    for (len_max, step) in [(whole.len() - 1, 2), (whole.len() / 2, 4), (0, 128)] {
        let block = encode_points_within(&all, len_max).unwrap();
        let some: Vec<IndexPoint> = all.iter().copied().step_by(step).collect();
        assert_eq!(Index::decode(&block, &ANY).unwrap().points(), some, "at most {len_max} bytes");
    }
    assert_eq!(encode_points_within(&[], 0).unwrap(), encode_points(&[]).unwrap());
}

#[test]
fn a_block_truncated_anywhere_is_refused() {
    let whole = encode_points(&points(&[(5, 128, 9), (300, 70_000, 9)])).unwrap();
    for len in 0..whole.len() {
        let error = Index::decode(&whole[..len], &ANY).unwrap_err();
        if len < 13 {
            assert_eq!((error.kind(), error.offset()), (DecodeErrorKind::TooShort, len as u64));
        } else {
            assert!(matches!(error.kind(), DecodeErrorKind::Checksum { .. }), "{error}");
        }
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let whole = encode_points(&points(&[(5, 128, 9), (300, 70_000, 9)])).unwrap();
    for bit in 0..8 * whole.len() {
        let mut block = whole.clone();
        block[bit / 8] ^= 1 << (bit % 8);
        assert!(Index::decode(&block, &ANY).is_err(), "bit {bit}");
    }
}

#[test]
fn foreign_bytes_newer_versions_and_damage_differ() {
    let whole = Index::default().encode();
    let with = |at: usize, byte: u8| {
        let mut block = whole.clone();
        block[at] = byte;
        block
    };
    assert_eq!(refusal(&with(0, b'X'), &ANY), (DecodeErrorKind::NotAnIndex, 0));
    assert_eq!(refusal(&with(4, 0), &ANY), (DecodeErrorKind::NotAnIndex, 4));
    assert_eq!(refusal(&with(4, 2), &ANY), (DecodeErrorKind::NewerVersion { found: 2 }, 4));
    assert!(matches!(refusal(&with(5, 1), &ANY), (DecodeErrorKind::Checksum { .. }, 9)));
    // A block of a newer version may be shorter, but is not reported as truncated.
    assert_eq!(refusal(b"SWIX\x02", &ANY), (DecodeErrorKind::NewerVersion { found: 2 }, 4));
    assert_eq!(refusal(b"SWIX", &ANY), (DecodeErrorKind::TooShort, 4));
}

#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    let mut body = u32::MAX.to_le_bytes().to_vec();
    body.extend_from_slice(&[1, 1, 1, 1, 1, 1]);
    let refused = DecodeErrorKind::Count { count: u32::MAX, count_max: 2 };
    assert_eq!(refusal(&block(&body), &ANY), (refused, 5));
}

#[test]
fn a_block_that_ends_inside_a_point_is_refused() {
    // Two points fit by count, but the first takes more than three bytes.
    let body = [2, 0, 0, 0, 0x81, 0x01, 1, 1, 1, 1];
    assert_eq!(refusal(&block(&body), &ANY), (DecodeErrorKind::TooShort, 15));
}

#[test]
fn bytes_after_the_last_point_are_refused() {
    let body = [1, 0, 0, 0, 1, 2, 3, 4, 5];
    assert_eq!(refusal(&block(&body), &ANY), (DecodeErrorKind::TrailingBytes { extra: 2 }, 12));
}

#[test]
fn malformed_numbers_are_refused() {
    let one_point = |seq: &[u8]| {
        let mut body = vec![1, 0, 0, 0];
        body.extend_from_slice(seq);
        body.extend_from_slice(&[1, 1]);
        block(&body)
    };
    let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let past = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
    let unending = [0xff; 11];
    assert_eq!(refusal(&one_point(&[0x81, 0x00]), &ANY), (DecodeErrorKind::Number, 9));
    assert_eq!(refusal(&one_point(&past), &ANY), (DecodeErrorKind::Number, 9));
    assert_eq!(refusal(&one_point(&unending), &ANY), (DecodeErrorKind::Number, 9));
    // The largest number is well formed but outside all bounds.
    let start = 0;
    let end = u64::MAX;
    assert_eq!(refusal(&one_point(&max), &ANY), (DecodeErrorKind::OutOfBounds { found: u64::MAX, start, end }, 9));
}

#[test]
fn points_that_do_not_rise_are_refused() {
    let two_points = |second: &[u8]| {
        let mut body = vec![2, 0, 0, 0, 5, 5, 5];
        body.extend_from_slice(second);
        block(&body)
    };
    let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(refusal(&two_points(&[0, 1, 1]), &ANY), (DecodeErrorKind::NotRising, 12));
    assert_eq!(refusal(&two_points(&[1, 0, 1]), &ANY), (DecodeErrorKind::NotRising, 13));
    assert_eq!(refusal(&two_points(&[&max[..], &[1, 1]].concat()), &ANY), (DecodeErrorKind::Overflow, 12));
    assert_eq!(refusal(&two_points(&[&[1, 1], &max[..]].concat()), &ANY), (DecodeErrorKind::Overflow, 14));
    assert!(Index::decode(&two_points(&[1, 1, 0]), &ANY).is_ok());
}

#[test]
fn points_outside_their_segment_are_refused() {
    let whole = encode_points(&points(&[(5, 128, 9), (7, 200, 9)])).unwrap();
    let out = |found, start, end| DecodeErrorKind::OutOfBounds { found, start, end };
    assert!(Index::decode(&whole, &Bounds { seq: 5..8, offset: 128..201 }).is_ok());
    assert_eq!(refusal(&whole, &Bounds { seq: 6..8, offset: 128..201 }), (out(5, 6, 8), 9));
    assert_eq!(refusal(&whole, &Bounds { seq: 5..7, offset: 128..201 }), (out(7, 5, 7), 13));
    assert_eq!(refusal(&whole, &Bounds { seq: 5..8, offset: 129..201 }), (out(128, 129, 201), 10));
    assert_eq!(refusal(&whole, &Bounds { seq: 5..8, offset: 128..200 }), (out(200, 128, 200), 14));
}

#[test]
fn points_that_break_the_rules_are_not_encoded() {
    let kind = |values: &[(u64, u64, u64)]| {
        let points = points(values);
        let error = encode_points(&points).unwrap_err();
        assert_eq!((error.before(), error.found()), (points[0], points[1]));
        assert_eq!(Index::from_points(points).unwrap_err(), error);
        error.kind()
    };
    assert_eq!(kind(&[(5, 10, 1), (5, 11, 1)]), PointsErrorKind::SeqNotRising);
    assert_eq!(kind(&[(5, 10, 1), (6, 10, 1)]), PointsErrorKind::OffsetNotRising);
    assert_eq!(kind(&[(5, 10, 1), (6, 11, 0)]), PointsErrorKind::TimestampFalling);
}

fn any_points() -> impl Strategy<Value = Vec<IndexPoint>> {
    // Steps of all sizes, so that numbers of every length occur. Their sums stay below 2^64.
    let step = |bits: u32| (0..bits, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1));
    prop::collection::vec((step(57), step(57), step(57)), 0..100).prop_map(|steps| {
        let mut last = IndexPoint { seq: 0, offset: 0, timestamp: 0 };
        let mut next = |(seq, offset, timestamp)| {
            last.seq += 1 + seq;
            last.offset += 1 + offset;
            last.timestamp += timestamp;
            last
        };
        steps.into_iter().map(&mut next).collect()
    })
}

proptest! {
    #[test]
    fn an_index_round_trips(points in any_points()) {
        let index = Index::from_points(points.clone()).unwrap();
        let block = index.encode();
        prop_assert_eq!(&encode_points(&points).unwrap(), &block);
        prop_assert_eq!(Index::decode(&block, &ANY).unwrap(), index);
    }

    #[test]
    fn decoding_any_bytes_returns(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        properties::decoding_is_total_and_canonical(&bytes);
    }

    #[test]
    fn decoding_a_mutated_block_returns(
        points in any_points(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let whole = encode_points(&points).unwrap();
        // The body without magic, version and checksum, which the property adds.
        let mut body = whole[5..whole.len() - 4].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        properties::decoding_is_total_and_canonical(&body);
    }
}
