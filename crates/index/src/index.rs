//! The points of one sealed segment: sorted, immutable, cheap to share behind an `Arc`.
//!
//! It does not know which segment, nor where its bytes come from.

use std::fmt;

use crate::builder::{POINTS_MAX, check_points};
use crate::codec::{self, Bounds};
use crate::error::{DecodeError, PointsError};
use crate::point::{IndexPoint, Span};
use crate::search::Points;

/// The points of one segment, sorted.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Index {
    points: Box<[IndexPoint]>,
}

impl Index {
    /// An index of `points`, which may be none.
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

    /// Reads an index block; the layout is in `FORMAT.md`. The same bytes as
    /// [`encode`](Self::encode) made are the only ones that decode to an index.
    ///
    /// Takes time and memory in proportion to `block`, whatever it holds: at most 8 bytes of memory
    /// for each of its own.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but the block of an index whose points all lie inside `bounds`.
    pub fn decode(block: &[u8], bounds: &Bounds) -> Result<Self, DecodeError> {
        codec::decode(block, bounds).map(Self::from_checked)
    }

    /// The index block, by the layout in `FORMAT.md`. Equal indexes give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_checked(&self.points)
    }

    /// All points, sorted.
    pub fn points(&self) -> &[IndexPoint] {
        &self.points
    }

    /// The number of points.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there are no points.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The point at `position`, counted from 0.
    pub fn get(&self, position: usize) -> Option<IndexPoint> {
        self.points.get(position).copied()
    }

    /// The span in which `seq` lies, if it lies in the segment at all: that of the last point at or
    /// below it. `None` if there is no such point.
    pub fn floor(&self, seq: u64) -> Option<Span> {
        self.position_of(seq).and_then(|position| self.span_at(position))
    }

    /// The span in which the search for the first frame with a timestamp of `timestamp` or later
    /// begins: that of the last point before it, or the first. The frame may turn out to be the
    /// first of the span after it. `None` only without points.
    pub fn floor_time(&self, timestamp: u64) -> Option<Span> {
        self.span_at(self.points.position_of_time(timestamp))
    }

    /// The position of the point that begins the span of `seq`, to step on from with
    /// [`span_at`](Self::span_at).
    pub fn position_of(&self, seq: u64) -> Option<usize> {
        self.points.position_of(seq)
    }

    /// The span that begins with the point at `position`.
    pub fn span_at(&self, position: usize) -> Option<Span> {
        self.points.span_at(position)
    }

    /// The memory the index takes, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.points)
    }
}

// A segment has thousands of points: the ends say enough.
impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("len", &self.len())
            .field("first", &self.points.first())
            .field("last", &self.points.last())
            .finish()
    }
}
