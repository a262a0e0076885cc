//! The numbers of the format. Each has its own type, so that no two can be mixed up.
//!
//! The types do not restrict their values: each value of the underlying integer is representable.

use std::fmt;
use std::ops::{Add, Sub};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl $name {
            /// Returns the plain number.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// The number of an entry in its stream, from 0, without gaps.
    SeqNo(u64)
}
number! {
    /// A position in a segment file, in bytes from its beginning.
    ByteOffset(u64)
}
number! {
    /// The generation of a segment: it increases with every segment of a stream and is never
    /// reused. 0 means "none".
    Generation(u32)
}
number! {
    /// A random number in each segment's header that all the segment's checksums cover. So a frame
    /// of another file, or from earlier use of the same disk blocks, is not valid.
    Salt(u64)
}
number! {
    /// The random identity of a stream; a recreated stream has a new one.
    StreamId(u64)
}
number! {
    /// The random identity of a log.
    WalId(u128)
}

impl SeqNo {
    /// Returns `self + n`, or `None` if that exceeds `u64`.
    #[must_use]
    pub const fn checked_add(self, n: u64) -> Option<Self> {
        match self.0.checked_add(n) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }
}

/// Saturates. Positions are checked when they are read, so valid data never reaches the end of
/// `u64`.
impl Add<u64> for SeqNo {
    type Output = Self;
    #[inline]
    fn add(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

/// The distance, or 0 if `other` is larger.
impl Sub for SeqNo {
    type Output = u64;
    #[inline]
    fn sub(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

/// Saturates, like that of [`SeqNo`].
impl Add<u64> for ByteOffset {
    type Output = Self;
    #[inline]
    fn add(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

/// The distance, or 0 if `other` is larger.
impl Sub for ByteOffset {
    type Output = u64;
    #[inline]
    fn sub(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

/// The position of a frame: the segment and the offset. The header checksum covers both, so a frame
/// that was written at another position is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePosition {
    /// The salt of the segment.
    pub salt: Salt,
    /// The frame's own offset in the file, a multiple of 8.
    pub offset: ByteOffset,
}

/// The three feature masks. In the FORMAT file, this version knows the bit
/// [`JOURNAL`](Self::JOURNAL). It knows no other bit, in any file.
///
/// If a bit is unknown, a program opens the data anyway (`compatible`), opens it read-only
/// (`read_only_compatible`) or refuses it (`incompatible`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Bits that an older program may ignore.
    pub compatible: u32,
    /// Bits with which an older program may read but must not write.
    pub read_only_compatible: u32,
    /// Bits with which an older program must not touch the data.
    pub incompatible: u32,
}

impl Features {
    /// The bit of the *incompatible* mask in the FORMAT file of a log that has a commit journal. A
    /// program that does not know the bit would not find the entries that only the journal holds.
    pub const JOURNAL: u32 = 1;

    /// Returns the masks with the bit [`JOURNAL`](Self::JOURNAL), or without it.
    #[must_use]
    pub const fn with_journal(self, has_journal: bool) -> Self {
        let others = self.incompatible & !Self::JOURNAL;
        let incompatible = if has_journal { others | Self::JOURNAL } else { others };
        Self { incompatible, ..self }
    }

    /// Returns whether this version may write to data with these masks. In a FORMAT file, the bit
    /// [`JOURNAL`](Self::JOURNAL) is known: see [`FormatFile::is_writable`](crate::FormatFile::is_writable).
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.read_only_compatible == 0 && self.incompatible == 0
    }

    /// Returns whether this version may read data with these masks, like
    /// [`writable`](Self::writable).
    #[must_use]
    pub const fn readable(&self) -> bool {
        self.incompatible == 0
    }
}

/// The version of the format that this crate writes, which is also the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The format of bytes that another version of this program may have written: the version and the
/// feature masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatId {
    /// The format version.
    pub version: u32,
    /// The feature masks.
    pub features: Features,
}

impl fmt::Display for FormatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "format {}", self.version)?;
        if self.features != Features::default() {
            let Features { compatible, read_only_compatible, incompatible } = self.features;
            write!(f, " (features {compatible:#x}/{read_only_compatible:#x}/{incompatible:#x})")?;
        }
        Ok(())
    }
}

// Little-endian reads at fixed offsets. Callers pass slices whose length they have checked.

#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
#[inline]
pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array_at(bytes, at))
}
#[inline]
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("invariant: a slice of N bytes is an array of N bytes")
}
