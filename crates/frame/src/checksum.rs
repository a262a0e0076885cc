//! The checksums: CRC-32 (the polynomial of IEEE 802.3, as in zlib), including the salt if the
//! position matters.

use crate::types::{FramePosition, Salt};

/// The CRC-32 of a payload that is not in memory as a whole, computed piece by piece.
///
/// ```
/// let mut sum = stratawal_frame::PayloadChecksum::new();
/// sum.update(b"12345");
/// sum.update(b"6789");
/// assert_eq!(sum.finish(), 0xCBF4_3926); // the check value of CRC-32
/// ```
#[derive(Clone, Debug, Default)]
pub struct PayloadChecksum(crc32fast::Hasher);

impl PayloadChecksum {
    /// Creates the checksum of no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Returns the checksum of all the pieces.
    #[must_use]
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

#[inline]
pub(crate) fn payload(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The checksum over the salt, the offset, and `bytes`.
#[inline]
pub(crate) fn positioned(position: &FramePosition, bytes: &[u8]) -> u32 {
    // Short bytes, such as a frame header, are joined on the stack: one call costs half of two.
    let mut joined = [0; 16 + 48];
    joined[..8].copy_from_slice(&position.salt.0.to_le_bytes());
    joined[8..16].copy_from_slice(&position.offset.0.to_le_bytes());
    let end = 16 + bytes.len();
    if let Some(rest) = joined.get_mut(16..end) {
        rest.copy_from_slice(bytes);
        return crc32fast::hash(&joined[..end]);
    }
    let mut sum = crc32fast::Hasher::new();
    sum.update(&joined[..16]);
    sum.update(bytes);
    sum.finalize()
}

/// The checksum over the salt and `bytes`.
pub(crate) fn salted(salt: Salt, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&salt.0.to_le_bytes());
    sum.update(bytes);
    sum.finalize()
}
