//! The 16-byte trailer after a SEAL or a CLOSE: the offset of that frame.
//!
//! A trailer is valid if and only if its magic is right and its checksum over (salt, magic, offset)
//! holds. The code that reads the frame at that offset checks that it is a SEAL or CLOSE that ends
//! at the trailer.

use crate::checksum;
use crate::types::{ByteOffset, Salt, u32_at, u64_at};

// at  bytes
//  0    4   checksum: CRC-32 over the salt and bytes 4..16
//  4    4   magic "SEND"
//  8    8   offset of the SEAL or CLOSE
const AT_MAGIC: usize = 4;
const AT_FOOTER_OFFSET: usize = AT_MAGIC + 4;
const MAGIC: &[u8; 4] = b"SEND";

/// The length of a trailer in bytes.
pub const TRAILER_LEN: usize = AT_FOOTER_OFFSET + 8;
const _: () = assert!(TRAILER_LEN == 16);

/// A trailer, which gives the offset of the last frame of a finished segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The offset of the SEAL or CLOSE.
    pub footer_offset: ByteOffset,
}

impl Trailer {
    /// Returns the bytes of the trailer in a segment with this salt.
    #[must_use]
    pub fn encode(&self, salt: Salt) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[AT_MAGIC..AT_FOOTER_OFFSET].copy_from_slice(MAGIC);
        bytes[AT_FOOTER_OFFSET..].copy_from_slice(&self.footer_offset.0.to_le_bytes());
        let crc = checksum::salted(salt, &bytes[AT_MAGIC..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes the last [`TRAILER_LEN`] bytes of a file. Returns `None` if they are not a trailer
    /// of this segment.
    #[must_use]
    pub fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        if bytes.len() != TRAILER_LEN || &bytes[AT_MAGIC..AT_FOOTER_OFFSET] != MAGIC {
            return None;
        }
        (u32_at(bytes, 0) == checksum::salted(salt, &bytes[AT_MAGIC..]))
            .then(|| Self { footer_offset: ByteOffset(u64_at(bytes, AT_FOOTER_OFFSET)) })
    }
}
