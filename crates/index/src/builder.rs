//! From the frames of a segment to its points.

use crate::error::{PointsError, PointsErrorKind};
use crate::index::Index;
use crate::point::IndexPoint;

/// The default distance between two points, in bytes: one page, which is the least a read from a
/// device costs anyway.
///
/// At this distance the points of a 64 MiB segment take about 100 KiB encoded and 384 KiB in
/// memory.
pub const EVERY_BYTES_DEFAULT: u64 = 4096;

/// The most points an index has: what the encoded form can count.
pub(crate) const POINTS_MAX: u64 = u32::MAX as u64;

/// Makes an [`Index`] from the frames of one segment, pushed in order: while it is written, or from
/// a scan.
///
/// The first frame becomes a point, and then the first frame that begins at least `every_bytes`
/// behind the last point.
#[derive(Debug, Clone)]
pub struct IndexBuilder {
    spacing: Spacing,
    points: Vec<IndexPoint>,
}

impl IndexBuilder {
    /// A builder without points. With `every_bytes` 0 every frame becomes a point.
    pub fn new(every_bytes: u64) -> Self {
        Self { spacing: Spacing::new(every_bytes), points: Vec::new() }
    }

    /// Takes the next frame, and says whether it became a point: its first seq, its offset in
    /// bytes, its timestamp in microseconds since 1970. A frame without entries (a control frame)
    /// is not pushed.
    ///
    /// # Errors
    /// [`PointsError`] for a frame that does not come behind the one before it. The builder is as before the call.
    pub fn push(&mut self, first_seq: u64, offset: u64, timestamp: u64) -> Result<bool, PointsError> {
        let frame = IndexPoint { seq: first_seq, offset, timestamp };
        let is_point = self.spacing.admit(frame)?;
        if is_point {
            self.points.push(frame);
        }
        Ok(is_point)
    }

    /// The points made so far.
    pub fn points(&self) -> &[IndexPoint] {
        &self.points
    }

    /// The index of the frames pushed.
    pub fn finish(self) -> Index {
        Index::from_checked(self.points)
    }
}

impl Default for IndexBuilder {
    fn default() -> Self {
        Self::new(EVERY_BYTES_DEFAULT)
    }
}

/// Decides which frames become points, and that they come in order.
#[derive(Debug, Clone)]
pub(crate) struct Spacing {
    every_bytes: u64,
    last: Option<IndexPoint>,
    next_offset: u64,
    point_count: u64,
}

impl Spacing {
    pub(crate) fn new(every_bytes: u64) -> Self {
        Self { every_bytes, last: None, next_offset: 0, point_count: 0 }
    }

    /// Goes on behind `points`, which are sorted. The next frame becomes a point wherever it lies:
    /// what stands between it and the last of them was written in another life, and should it be
    /// damaged, the frame is found all the same.
    pub(crate) fn behind(every_bytes: u64, points: &[IndexPoint]) -> Self {
        Self { every_bytes, last: points.last().copied(), next_offset: 0, point_count: points.len() as u64 }
    }

    /// Whether `frame`, which must come behind the last one, becomes a point.
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
            self.next_offset = frame.offset.saturating_add(self.every_bytes);
            self.point_count += 1;
        }
        Ok(is_point)
    }
}

/// Checks the rules of [`IndexPoint`] over a whole row.
pub(crate) fn check_points(points: &[IndexPoint], points_max: u64) -> Result<(), PointsError> {
    for (at, pair) in points.windows(2).enumerate() {
        let &[before, found] = pair else { continue };
        check_rise(before, found)?;
        if at as u64 + 2 > points_max {
            return Err(PointsError::new(PointsErrorKind::TooMany, before, found));
        }
    }
    Ok(())
}

fn check_rise(before: IndexPoint, found: IndexPoint) -> Result<(), PointsError> {
    let kind = if found.seq <= before.seq {
        PointsErrorKind::SeqNotRising
    } else if found.offset <= before.offset {
        PointsErrorKind::OffsetNotRising
    } else if found.timestamp < before.timestamp {
        PointsErrorKind::TimestampFalling
    } else {
        return Ok(());
    };
    Err(PointsError::new(kind, before, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(every_bytes: u64, frames: &[u64]) -> Vec<u64> {
        let mut builder = IndexBuilder::new(every_bytes);
        for (seq, &offset) in frames.iter().enumerate() {
            builder.push(seq as u64, offset, 0).unwrap();
        }
        builder.finish().points().iter().map(|point| point.offset).collect()
    }

    #[test]
    fn a_point_is_the_first_frame_at_least_the_distance_behind_the_last_point() {
        assert_eq!(offsets(100, &[8, 50, 107, 108, 200, 208, 500, 599, 600]), [8, 108, 208, 500, 600]);
    }

    #[test]
    fn with_distance_zero_every_frame_is_a_point() {
        assert_eq!(offsets(0, &[8, 16, 24]), [8, 16, 24]);
    }

    #[test]
    fn a_distance_past_the_end_of_numbers_makes_one_point() {
        assert_eq!(offsets(u64::MAX, &[8, 16, u64::MAX - 1]), [8]);
    }

    #[test]
    fn a_frame_out_of_order_is_refused_and_changes_nothing() {
        let mut builder = IndexBuilder::new(100);
        builder.push(5, 128, 70).unwrap();
        builder.push(9, 136, 80).unwrap();
        // The last frame made no point, and still the next must come behind it.
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
    fn more_points_than_can_be_counted_are_refused() {
        let point = |seq| IndexPoint { seq, offset: seq, timestamp: 0 };
        let points = [point(1), point(2), point(3)];
        assert_eq!(check_points(&points, 3), Ok(()));
        let error = check_points(&points, 2).unwrap_err();
        assert_eq!((error.kind(), error.before(), error.found()), (PointsErrorKind::TooMany, point(2), point(3)));

        let mut spacing = Spacing::behind(0, &points);
        spacing.point_count = POINTS_MAX;
        assert_eq!(spacing.admit(point(4)).unwrap_err().kind(), PointsErrorKind::TooMany);
    }
}
