//! Builds the points of an index from the frames of a segment.

use crate::error::{PointsError, PointsErrorKind};
use crate::index::Index;
use crate::order::{POINTS_MAX, check_rise};
use crate::point::IndexPoint;

/// The default distance between two points, in bytes: one page, the smallest unit that a device
/// reads.
///
/// At this distance the points of a 64 MiB segment take about 100 KiB encoded and 384 KiB in
/// memory.
pub const INTERVAL_BYTES_DEFAULT: u64 = 4096;

/// Builds an [`Index`] from the frames of one segment, which are pushed in order.
///
/// The first frame becomes a point, and then each frame that begins at least `interval_bytes` after
/// the last point.
#[derive(Debug, Clone)]
pub struct IndexBuilder {
    spacing: Spacing,
    points: Vec<IndexPoint>,
}

impl IndexBuilder {
    /// A builder without points. If `interval_bytes` is 0, every frame becomes a point.
    #[must_use]
    pub fn new(interval_bytes: u64) -> Self {
        Self { spacing: Spacing::new(interval_bytes), points: Vec::new() }
    }

    /// Adds the next frame of entries: its first seq, its offset in bytes, its timestamp in
    /// microseconds since 1970. Returns whether it became a point. Control frames are not added.
    ///
    /// # Errors
    /// [`PointsError`] for a frame that does not follow the one before. The builder has not changed
    /// in that case.
    pub fn push(&mut self, first_seq: u64, offset: u64, timestamp: u64) -> Result<bool, PointsError> {
        let frame = IndexPoint { seq: first_seq, offset, timestamp };
        let is_point = self.spacing.admit(frame)?;
        if is_point {
            self.points.push(frame);
        }
        Ok(is_point)
    }

    /// The points so far.
    #[must_use]
    pub fn points(&self) -> &[IndexPoint] {
        &self.points
    }

    /// Returns the index of the frames pushed so far.
    #[must_use]
    pub fn finish(self) -> Index {
        Index::from_checked(self.points)
    }
}

/// Decides which frames become points, and checks that they come in order.
#[derive(Debug, Clone)]
pub(crate) struct Spacing {
    interval_bytes: u64,
    last: Option<IndexPoint>,
    next_offset: u64,
    point_count: u64,
}

impl Spacing {
    pub(crate) fn new(interval_bytes: u64) -> Self {
        Self { interval_bytes, last: None, next_offset: 0, point_count: 0 }
    }

    /// Continues after `points`, which are sorted. The next frame becomes a point wherever it is,
    /// so that a reader finds the frame even if older bytes between the last point and that frame
    /// are damaged.
    pub(crate) fn after(interval_bytes: u64, points: &[IndexPoint]) -> Self {
        Self { interval_bytes, last: points.last().copied(), next_offset: 0, point_count: points.len() as u64 }
    }

    /// Whether `frame`, which must follow the last one, becomes a point.
    pub(crate) fn admit(&mut self, frame: IndexPoint) -> Result<bool, PointsError> {
        let is_point = frame.offset >= self.next_offset;
        if let Some(last) = self.last {
            check_rise(last, frame)?;
            if is_point && self.point_count == POINTS_MAX {
                return Err(PointsError::new(PointsErrorKind::TooMany, last, frame));
            }
        }
        self.last = Some(frame);
        if is_point {
            self.next_offset = frame.offset.saturating_add(self.interval_bytes);
            self.point_count += 1;
        }
        Ok(is_point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(interval_bytes: u64, frames: &[u64]) -> Vec<u64> {
        let mut builder = IndexBuilder::new(interval_bytes);
        for (seq, &offset) in frames.iter().enumerate() {
            builder.push(seq as u64, offset, 0).unwrap();
        }
        builder.finish().points().iter().map(|point| point.offset).collect()
    }

    #[test]
    fn a_point_keeps_the_distance_from_the_last_point() {
        assert_eq!(offsets(100, &[8, 50, 107, 108, 200, 208, 500, 599, 600]), [8, 108, 208, 500, 600]);
    }

    #[test]
    fn every_frame_is_a_point_at_distance_zero() {
        assert_eq!(offsets(0, &[8, 16, 24]), [8, 16, 24]);
    }

    #[test]
    fn an_overflowing_distance_makes_one_point() {
        assert_eq!(offsets(u64::MAX, &[8, 16, u64::MAX - 1]), [8]);
    }

    #[test]
    fn a_frame_out_of_order_changes_nothing() {
        let mut builder = IndexBuilder::new(100);
        builder.push(5, 128, 70).unwrap();
        builder.push(9, 136, 80).unwrap();
        // The last frame did not become a point, but the next frame must still follow it.
        let refused = |builder: &mut IndexBuilder, seq, offset, timestamp| {
            builder.push(seq, offset, timestamp).unwrap_err().kind()
        };
        assert_eq!(refused(&mut builder, 9, 300, 80), PointsErrorKind::SeqNotRising);
        assert_eq!(refused(&mut builder, 10, 136, 80), PointsErrorKind::OffsetNotRising);
        assert_eq!(refused(&mut builder, 10, 300, 79), PointsErrorKind::TimestampFalling);
        assert!(builder.push(10, 300, 80).unwrap());
        assert_eq!(builder.points().len(), 2);
    }

    #[test]
    fn a_frame_is_refused_when_all_points_are_used() {
        let point = |seq| IndexPoint { seq, offset: seq, timestamp: 0 };
        let mut spacing = Spacing::after(0, &[point(1), point(2), point(3)]);
        spacing.point_count = POINTS_MAX;
        assert_eq!(spacing.admit(point(4)).unwrap_err().kind(), PointsErrorKind::TooMany);
    }
}
