//! The errors of an index.

use crate::point::IndexPoint;

/// Points that break the rules of an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {found:?} after {before:?}")]
pub struct PointsError {
    kind: PointsErrorKind,
    before: IndexPoint,
    found: IndexPoint,
}

/// The rule that a point breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PointsErrorKind {
    /// The seq of the point is not above that of the previous point or frame.
    #[error("seq does not rise")]
    SeqNotRising,
    /// The offset of the point is not above that of the previous point or frame.
    #[error("offset does not rise")]
    OffsetNotRising,
    /// The timestamp of the point is below that of the previous point or frame.
    #[error("timestamp falls")]
    TimestampFalling,
    /// The index has 2^32 - 1 points, the most that the encoded form can count.
    #[error("too many points")]
    TooMany,
}

impl PointsError {
    pub(crate) fn new(kind: PointsErrorKind, before: IndexPoint, found: IndexPoint) -> Self {
        Self { kind, before, found }
    }

    /// The broken rule.
    #[must_use]
    pub fn kind(&self) -> PointsErrorKind {
        self.kind
    }

    /// The last point or frame that follows the rules.
    #[must_use]
    pub fn before(&self) -> IndexPoint {
        self.before
    }

    /// The point or frame that breaks the rule.
    #[must_use]
    pub fn found(&self) -> IndexPoint {
        self.found
    }
}

/// Bytes that are not an index block of their segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("index block, byte {offset}: {kind}")]
pub struct DecodeError {
    kind: DecodeErrorKind,
    offset: u64,
}

/// Why some bytes are not an index block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The block ends within its header, a number or its checksum.
    #[error("too short")]
    TooShort,
    /// The block does not begin with the magic, or its version is 0.
    #[error("not an index block")]
    NotAnIndex,
    /// The block was written by a newer version of the format.
    #[error("newer version {found}")]
    NewerVersion {
        /// The version in the block.
        found: u8,
    },
    /// The checksum is wrong.
    #[error("checksum {computed:#010x} expected, {stored:#010x} found")]
    Checksum {
        /// The checksum of the bytes read.
        computed: u32,
        /// The checksum stored in the block.
        stored: u32,
    },
    /// The header counts more points than the bytes of the block can hold.
    #[error("{count} points counted, room for {count_max}")]
    Count {
        /// The number in the header.
        count: u32,
        /// The maximum number of points that would fit.
        count_max: u64,
    },
    /// A number is not in its shortest form, or exceeds 64 bits.
    #[error("malformed number")]
    Number,
    /// A seq or an offset does not rise above that of the previous point.
    #[error("points do not rise")]
    NotRising,
    /// A sum of differences exceeds 64 bits.
    #[error("value exceeds 64 bits")]
    Overflow,
    /// A point's seq or offset is outside the segment.
    #[error("point outside its segment: {found} is not in {start}..{end}")]
    OutOfBounds {
        /// The seq or offset found.
        found: u64,
        /// The lowest value allowed.
        start: u64,
        /// One past the highest value allowed.
        end: u64,
    },
    /// There are bytes between the last point and the checksum.
    #[error("{extra} bytes after the last point")]
    TrailingBytes {
        /// The number of these bytes.
        extra: u64,
    },
}

impl DecodeError {
    pub(crate) fn new(kind: DecodeErrorKind, offset: usize) -> Self {
        Self { kind, offset: offset as u64 }
    }

    /// The reason.
    #[must_use]
    pub fn kind(&self) -> DecodeErrorKind {
        self.kind
    }

    /// The offset in the block of the invalid field, or of the block's end if the block is too
    /// short.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }
}
