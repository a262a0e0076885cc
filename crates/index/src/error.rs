//! What is refused, and where.

use crate::point::IndexPoint;

/// Points that break the rules of an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {found:?} after {before:?}")]
pub struct PointsError {
    kind: PointsErrorKind,
    before: IndexPoint,
    found: IndexPoint,
}

/// What is wrong with a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PointsErrorKind {
    /// Its seq is not above that of the point or frame before it.
    #[error("seq does not rise")]
    SeqNotRising,
    /// Its offset is not above that of the point or frame before it.
    #[error("offset does not rise")]
    OffsetNotRising,
    /// Its timestamp is below that of the point or frame before it.
    #[error("timestamp falls")]
    TimestampFalling,
    /// It is one more than the 2^32 - 1 points that the encoded form can count.
    #[error("too many points")]
    TooMany,
}

impl PointsError {
    pub(crate) fn new(kind: PointsErrorKind, before: IndexPoint, found: IndexPoint) -> Self {
        Self { kind, before, found }
    }

    /// What is wrong.
    pub fn kind(&self) -> PointsErrorKind {
        self.kind
    }

    /// The last point or frame that was right.
    pub fn before(&self) -> IndexPoint {
        self.before
    }

    /// The point or frame that was refused.
    pub fn found(&self) -> IndexPoint {
        self.found
    }
}

/// Bytes that are no index block of their segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("index block, byte {offset}: {kind}")]
pub struct DecodeError {
    kind: DecodeErrorKind,
    offset: u64,
}

/// What is wrong with an index block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The block ends before what it must hold.
    #[error("too short")]
    TooShort,
    /// The block does not begin with the magic, or its version is 0.
    #[error("not an index block")]
    NotAnIndex,
    /// The block was written by a newer version of the format.
    #[error("newer version {found}")]
    NewerVersion {
        /// The version that the block names.
        found: u8,
    },
    /// The checksum does not hold.
    #[error("checksum {computed:#010x} expected, {stored:#010x} found")]
    Checksum {
        /// The checksum of the bytes that were read.
        computed: u32,
        /// The checksum that the block holds.
        stored: u32,
    },
    /// More points are announced than the block's bytes can hold.
    #[error("{count} points announced, room for {count_max}")]
    Count {
        /// The number announced.
        count: u32,
        /// The most that would fit.
        count_max: u64,
    },
    /// A number is not in its shortest form, or passes 64 bits.
    #[error("malformed number")]
    Number,
    /// A seq or an offset does not rise above that of the point before.
    #[error("points do not rise")]
    NotRising,
    /// A sum of differences passes 64 bits.
    #[error("value passes 64 bits")]
    Overflow,
    /// A point's seq or offset lies outside the segment.
    #[error("point outside its segment: {found} is not in {start}..{end}")]
    OutOfBounds {
        /// The seq or offset found.
        found: u64,
        /// The first that would be allowed.
        start: u64,
        /// The first above those allowed.
        end: u64,
    },
    /// Bytes stand between the last point and the checksum.
    #[error("{extra} bytes behind the last point")]
    TrailingBytes {
        /// How many.
        extra: u64,
    },
}

impl DecodeError {
    pub(crate) fn new(kind: DecodeErrorKind, offset: usize) -> Self {
        Self { kind, offset: offset as u64 }
    }

    /// What is wrong.
    pub fn kind(&self) -> DecodeErrorKind {
        self.kind
    }

    /// The byte of the block at which the offending field begins; for a block that is too short,
    /// where it ends.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}
