//! The rules that the points of an index follow.

use crate::error::{PointsError, PointsErrorKind};
use crate::point::IndexPoint;

/// The maximum number of points in an index. The encoded form counts them in 32 bits.
pub(crate) const POINTS_MAX: u64 = u32::MAX as u64;

/// Checks that `points` follow the rules of [`IndexPoint`] and number at most `points_max`.
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

/// Checks that `found` may follow `before`.
pub(crate) fn check_rise(before: IndexPoint, found: IndexPoint) -> Result<(), PointsError> {
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

    #[test]
    fn one_point_too_many_is_refused() {
        let point = |seq| IndexPoint { seq, offset: seq, timestamp: 0 };
        let points = [point(1), point(2), point(3)];
        assert_eq!(check_points(&points, 3), Ok(()));
        let error = check_points(&points, 2).unwrap_err();
        assert_eq!((error.kind(), error.before(), error.found()), (PointsErrorKind::TooMany, point(2), point(3)));
    }
}
