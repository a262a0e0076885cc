//! The points of one sealed segment in a third of the memory, for a cache of many segments.
//!
//! The points of an [`Index`] are packed in groups of 64. A group stores its first point, and for
//! each point the differences from the first. All differences of a group have the width of the
//! largest one, so the position of a point determines the offset of its bytes.

use std::fmt;

use crate::index::Index;
use crate::point::{IndexPoint, Span};
use crate::search::Points;

/// The points of one segment, sorted and packed. A point takes 7 to 11 bytes, against 24 in an
/// [`Index`].
#[derive(Clone, PartialEq, Eq)]
pub struct PackedIndex {
    count: usize,
    groups: Box<[Group]>,
    /// The differences of all groups, followed by eight zeros, because every number is read as
    /// eight bytes.
    bytes: Box<[u8]>,
}

/// Sixty-four points, or fewer in the last group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    first: IndexPoint,
    /// Where the differences of the group begin in `bytes`.
    at: usize,
    /// The number of bytes of each difference, for the seqs, the offsets and the timestamps.
    widths: [u8; 3],
}

const GROUP_LEN: usize = 64;
const NUMBER_LEN_MAX: usize = 8;

impl PackedIndex {
    /// Packs the points of `index`.
    #[must_use]
    pub fn new(index: &Index) -> Self {
        let points = index.points();
        let mut groups = Vec::with_capacity(points.len().div_ceil(GROUP_LEN));
        let mut bytes = Vec::new();
        for group in points.chunks(GROUP_LEN) {
            let first = group[0];
            let last = group[group.len() - 1];
            // The values never fall, so the differences of the last point are the largest.
            let widths = differences(first, last).map(width);
            groups.push(Group { first, at: bytes.len(), widths });
            for &point in group {
                for (difference, width) in differences(first, point).into_iter().zip(widths) {
                    bytes.extend_from_slice(&difference.to_le_bytes()[..usize::from(width)]);
                }
            }
        }
        bytes.extend_from_slice(&[0; NUMBER_LEN_MAX]);
        Self { count: points.len(), groups: groups.into_boxed_slice(), bytes: bytes.into_boxed_slice() }
    }

    /// The number of points.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether the index is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the span of the last point at or below `seq`; see [`Index::floor`].
    #[must_use]
    pub fn floor(&self, seq: u64) -> Option<Span> {
        self.position_of(seq).and_then(|position| self.span_at(position))
    }

    /// Returns the span in which a search for a time begins; see [`Index::floor_time`].
    #[must_use]
    pub fn floor_time(&self, timestamp: u64) -> Option<Span> {
        self.span_at(self.position_of_time(timestamp))
    }

    /// The position of the last point at or below `seq`.
    #[must_use]
    pub fn position_of(&self, seq: u64) -> Option<usize> {
        Points::position_of(self, seq)
    }

    /// The span that begins with the point at `position`.
    #[must_use]
    pub fn span_at(&self, position: usize) -> Option<Span> {
        Points::span_at(self, position)
    }

    /// The memory that the index takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.groups) + self.bytes.len()
    }

    fn position_of_time(&self, timestamp: u64) -> usize {
        Points::position_of_time(self, timestamp)
    }

    /// Reads the number of `width` bytes at `at`.
    #[inline]
    fn number(&self, at: usize, width: u8) -> u64 {
        let bytes = self.bytes.get(at..at + NUMBER_LEN_MAX).and_then(|bytes| bytes.first_chunk());
        let number = u64::from_le_bytes(*bytes.expect("invariant: eight zeros follow the last number"));
        // If the width is 0, the shift is by all 64 bits, so `checked_shr` returns `None`, and the
        // number is 0.
        number & u64::MAX.checked_shr(64 - 8 * u32::from(width)).unwrap_or(0)
    }
}

impl Points for PackedIndex {
    fn count(&self) -> usize {
        self.count
    }

    #[inline]
    fn at(&self, position: usize) -> IndexPoint {
        let Group { first, at, widths } = self.groups[position / GROUP_LEN];
        let [seq, offset, timestamp] = widths;
        let at = at + position % GROUP_LEN * usize::from(seq + offset + timestamp);
        let offset_at = at + usize::from(seq);
        let timestamp_at = at + usize::from(seq + offset);
        IndexPoint {
            seq: first.seq + self.number(at, seq),
            offset: first.offset + self.number(offset_at, offset),
            timestamp: first.timestamp + self.number(timestamp_at, timestamp),
        }
    }
}

fn differences(first: IndexPoint, point: IndexPoint) -> [u64; 3] {
    [point.seq - first.seq, point.offset - first.offset, point.timestamp - first.timestamp]
}

/// The number of bytes that a number needs. The number 0 needs none.
const fn width(number: u64) -> u8 {
    (64 - number.leading_zeros()).div_ceil(8) as u8
}

impl fmt::Debug for PackedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedIndex")
            .field("len", &self.count)
            .field("first", &self.span_at(0).map(|span| span.point))
            .field("last", &self.count.checked_sub(1).map(|last| self.at(last)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows with lengths around the boundaries of groups, and with steps of every width up to the
    /// largest numbers.
    fn rows() -> impl Strategy<Value = Vec<IndexPoint>> {
        let step = || prop_oneof![4 => 1u64..300, 2 => 1u64..100_000, 1 => (0u32..57).prop_map(|bits| 1 << bits)];
        let rise = prop_oneof![2 => Just(0), 5 => step()];
        let first = (0u64..1 << 60, 0u64..1 << 60, 0u64..1 << 60);
        (first, prop::collection::vec((step(), step(), rise), 0..200)).prop_map(|((seq, offset, timestamp), steps)| {
            let mut last = IndexPoint { seq, offset, timestamp };
            let mut points = vec![last];
            for (seq, offset, timestamp) in steps {
                last.seq = last.seq.saturating_add(seq);
                last.offset = last.offset.saturating_add(offset);
                last.timestamp = last.timestamp.saturating_add(timestamp);
                points.push(last);
            }
            // A sum that has reached the maximum of u64 no longer rises.
            points.dedup_by(|b, a| b.seq == a.seq || b.offset == a.offset);
            points
        })
    }

    proptest! {
        #[test]
        fn a_packed_index_equals_its_index(points in rows(), seqs in prop::collection::vec(any::<u64>(), 8)) {
            let index = Index::from_points(points.clone()).unwrap();
            let packed = PackedIndex::new(&index);
            prop_assert_eq!(packed.len(), points.len());
            for position in 0..points.len() + 2 {
                prop_assert_eq!(packed.span_at(position), index.span_at(position));
            }
            let near = points.iter().flat_map(|p| [p.seq - 1.min(p.seq), p.seq, p.seq.saturating_add(1)]);
            for seq in near.chain(seqs) {
                prop_assert_eq!(packed.position_of(seq), index.position_of(seq));
                prop_assert_eq!(packed.floor(seq), index.floor(seq));
            }
            for time in points.iter().flat_map(|p| [p.timestamp, p.timestamp.saturating_add(1)]) {
                prop_assert_eq!(packed.floor_time(time), index.floor_time(time));
            }
        }
    }

    #[test]
    fn an_index_without_points_can_be_packed() {
        let packed = PackedIndex::new(&Index::default());
        assert!(packed.is_empty() && packed.floor(5).is_none() && packed.floor_time(5).is_none());
    }

    #[test]
    fn a_packed_index_takes_a_third_of_the_memory() {
        // The points of a 64 MiB segment with 6 KiB frames, written at 100 MB/s.
        let point =
            |i: u64| IndexPoint { seq: (1 << 40) + i * 46, offset: 128 + i * 6_160, timestamp: (1 << 50) + i * 61 };
        let index = Index::from_points((0..10_900).map(point).collect()).unwrap();
        let packed = PackedIndex::new(&index);
        assert!(packed.weight() * 3 <= index.weight(), "{} of {} bytes", packed.weight(), index.weight());
    }
}
