//! The search for points, which all indexes share.
//!
//! It relies only on the order of the points, not on how they are stored.

use std::ops::Range;

use stratawal_sync::fail_point;

use crate::point::{IndexPoint, Span};

/// A sequence of points, sorted by the rules of [`IndexPoint`]. Each point has a position.
pub(crate) trait Points {
    fn count(&self) -> usize;

    /// The point at `position`, which is below [`count`](Self::count).
    fn at(&self, position: usize) -> IndexPoint;

    /// The span that begins with the point at `position`.
    fn span_at(&self, position: usize) -> Option<Span> {
        let point = (position < self.count()).then(|| self.at(position))?;
        let next = (position + 1 < self.count()).then(|| self.at(position + 1));
        Some(Span { point, next })
    }

    /// The position of the last point at or below `seq`.
    fn position_of(&self, seq: u64) -> Option<usize> {
        let near = self.near(seq);
        let is_at_or_below = |point: IndexPoint| point.seq < seq || point.seq == seq && !fail_point!(FloorOffByOne);
        partition_point(self, near, is_at_or_below).checked_sub(1)
    }

    /// Returns a range of positions that contains the end of the points at or below `seq`. The seqs
    /// of points rise about evenly, so the position is estimated from the first and the last point,
    /// and the range is widened until it is right. This loads a few adjacent points; a binary
    /// search over all points would load about log2 of their number, far apart in memory.
    fn near(&self, seq: u64) -> Range<usize> {
        const FEW: usize = 32;
        let count = self.count();
        if count <= FEW {
            return 0..count;
        }
        let first = self.at(0).seq;
        let last = self.at(count - 1).seq;
        if seq >= last {
            return count - 1..count;
        }
        let above = u128::from(seq.saturating_sub(first));
        let whole = u128::from(last - first);
        let guess = usize::try_from(above * (count - 1) as u128 / whole).unwrap_or(0);
        let mut start = guess;
        let mut step = 2;
        while start > 0 && self.at(start - 1).seq > seq {
            start = start.saturating_sub(step);
            step *= 4;
        }
        let mut end = guess;
        let mut step = 2;
        while end < count && self.at(end).seq <= seq {
            end = (end + step).min(count);
            step *= 4;
        }
        start..end
    }

    /// Returns the position of the last point before `timestamp`, or of the first point. A point
    /// *at* the timestamp is too late: earlier frames of the same timestamp may be in the span
    /// before it.
    fn position_of_time(&self, timestamp: u64) -> usize {
        partition_point(self, 0..self.count(), |point| point.timestamp < timestamp).saturating_sub(1)
    }
}

impl Points for [IndexPoint] {
    fn count(&self) -> usize {
        self.len()
    }

    fn at(&self, position: usize) -> IndexPoint {
        self[position]
    }
}

/// Returns the number of points for which `below` is true. These come first, and they end in
/// `within`.
fn partition_point<P: Points + ?Sized>(points: &P, within: Range<usize>, below: impl Fn(IndexPoint) -> bool) -> usize {
    let Range { mut start, mut end } = within;
    while start < end {
        let middle = start + (end - start) / 2;
        if below(points.at(middle)) {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(any(not(stratawal_loom), stratawal_faults))]
    use proptest::test_runner::{TestError, TestRunner};

    /// Sequences of points with small and large gaps between the seqs.
    fn sorted_points() -> impl Strategy<Value = Vec<IndexPoint>> {
        let seqs = prop_oneof![9 => 1u64..4, 1 => 1u64..1_000];
        prop::collection::vec((seqs, 1u64..100, 0u64..3), 0..200).prop_map(|steps| {
            let mut last = IndexPoint { seq: 0, offset: 0, timestamp: 0 };
            let mut step = |(seq, offset, timestamp)| {
                last.seq += seq;
                last.offset += offset;
                last.timestamp += timestamp;
                last
            };
            steps.into_iter().map(&mut step).collect()
        })
    }

    #[cfg(any(not(stratawal_loom), stratawal_faults))]
    fn floor_is_what_a_walk_finds() -> Result<(), TestError<(Vec<IndexPoint>, u64)>> {
        TestRunner::default().run(&(sorted_points(), 0u64..2_000), |(points, seq)| {
            let walked = points.iter().rposition(|point| point.seq <= seq);
            prop_assert_eq!(points.position_of(seq), walked);
            Ok(())
        })
    }

    #[test]
    #[cfg(not(stratawal_loom))]
    fn floor_agrees_with_a_walk() {
        floor_is_what_a_walk_finds().unwrap();
    }

    #[test]
    #[cfg(stratawal_faults)]
    fn a_floor_off_by_one_is_found() {
        assert!(crate::fail_points::FailPoint::FloorOffByOne.is_found_by(|| floor_is_what_a_walk_finds().unwrap()));
    }

    proptest! {
        #[test]
        fn floor_time_agrees_with_a_walk(points in sorted_points(), timestamp in 0u64..400) {
            let walked = points.iter().rposition(|point| point.timestamp < timestamp).unwrap_or(0);
            prop_assert_eq!(points.position_of_time(timestamp), walked);
            // The first frame with that time is not before the point found.
            for point in points.iter().skip(walked + 1) {
                prop_assert!(point.timestamp >= timestamp);
            }
        }
    }

    #[test]
    fn a_span_ends_at_the_next_point_and_the_last_has_no_end() {
        let point = |seq| IndexPoint { seq, offset: seq * 100, timestamp: 5 };
        let points = [point(3), point(7)];
        assert_eq!(points.span_at(0), Some(Span { point: point(3), next: Some(point(7)) }));
        assert_eq!(points.span_at(1), Some(Span { point: point(7), next: None }));
        assert_eq!(points.span_at(2), None);
        assert_eq!(points.span_at(usize::MAX), None);
    }
}
