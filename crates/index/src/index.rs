//! The points of one sealed segment: sorted and immutable.
//!
//! The index knows neither its segment nor the source of its bytes.

use std::fmt;

use crate::codec::{self, Bounds};
use crate::error::{DecodeError, PointsError};
use crate::order::{POINTS_MAX, check_points};
use crate::point::{IndexPoint, Span};
use crate::search::Points;

/// The points of one segment, sorted.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Index {
    points: Box<[IndexPoint]>,
}

impl Index {
    /// An index of `points`, which may be empty.
    ///
    /// # Errors
    /// [`PointsError`] if a point breaks the rules of [`IndexPoint`].
    pub fn from_points(points: Vec<IndexPoint>) -> Result<Self, PointsError> {
        check_points(&points, POINTS_MAX)?;
        Ok(Self::from_checked(points))
    }

    pub(crate) fn from_checked(points: Vec<IndexPoint>) -> Self {
        debug_assert!(check_points(&points, POINTS_MAX).is_ok());
        Self { points: points.into_boxed_slice() }
    }

    /// Decodes an index block, whose layout is in `FORMAT.md`. An index has exactly one valid
    /// block, the one that [`encode`](Self::encode) returns.
    ///
    /// Whatever `block` holds, this takes time and memory in proportion to its length: at most 8
    /// bytes of memory for each byte.
    ///
    /// # Errors
    /// [`DecodeError`] unless this is the block of an index whose points are all within `bounds`.
    pub fn decode(block: &[u8], bounds: &Bounds) -> Result<Self, DecodeError> {
        codec::decode(block, bounds).map(Self::from_checked)
    }

    /// Encodes the index as a block, whose layout is in `FORMAT.md`. Equal indexes have equal
    /// blocks.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_checked(&self.points)
    }

    /// All points, sorted.
    #[must_use]
    pub fn points(&self) -> &[IndexPoint] {
        &self.points
    }

    /// The number of points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether the index is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Returns the span of the last point at or below `seq`, or `None` if all points are above
    /// `seq`. If the segment holds `seq`, this span does.
    #[must_use]
    pub fn floor(&self, seq: u64) -> Option<Span> {
        self.position_of(seq).and_then(|position| self.span_at(position))
    }

    /// Returns the span in which a search for the first frame at or after `timestamp` begins: the
    /// span of the last point before that time, or else the first span. The frame may also be the
    /// first of the next span. Returns `None` only if the index has no points.
    #[must_use]
    pub fn floor_time(&self, timestamp: u64) -> Option<Span> {
        self.span_at(self.points.position_of_time(timestamp))
    }

    /// The position of the last point at or below `seq`, for [`span_at`](Self::span_at).
    #[must_use]
    pub fn position_of(&self, seq: u64) -> Option<usize> {
        self.points.position_of(seq)
    }

    /// The span that begins with the point at `position`.
    #[must_use]
    pub fn span_at(&self, position: usize) -> Option<Span> {
        self.points.span_at(position)
    }

    /// The memory that the index takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.points)
    }
}

// A segment has thousands of points, so this prints only the first and the last.
impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("len", &self.len())
            .field("first", &self.points.first())
            .field("last", &self.points.last())
            .finish()
    }
}
