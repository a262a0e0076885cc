//! The point of an index and the span between two of them.

/// The position of one frame of a segment.
///
/// Within one segment `seq` and `offset` strictly rise from point to point, and `timestamp` never
/// falls. Points are ordered by `seq` first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexPoint {
    /// The number of the frame's first entry.
    pub seq: u64,
    /// Where the frame begins in its file, in bytes.
    pub offset: u64,
    /// The frame's timestamp, in microseconds since 1970.
    pub timestamp: u64,
}

/// The part of a segment between a point and the next one.
///
/// One positioned read fetches it: the bytes from `point.offset` up to `next.offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Where the span begins.
    pub point: IndexPoint,
    /// Where the next span begins. `None` for the last span, which ends with the frames of the
    /// segment.
    pub next: Option<IndexPoint>,
}
