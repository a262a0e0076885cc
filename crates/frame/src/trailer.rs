//! The 16-byte trailer behind a SEAL or a CLOSE: where that frame begins.
//!
//! A trailer is valid if and only if its magic is right and its checksum over (salt, magic,
//! position) holds. Whether the frame it names is a SEAL or CLOSE that ends at the trailer is
//! checked by whoever reads the frame.

use crate::checksum;
use crate::types::{ByteOffset, Salt, u32_at, u64_at};

// at  bytes
//  0    4   checksum: CRC-32 over the salt and bytes 4..16
//  4    4   magic "SEND"
//  8    8   position of the SEAL or CLOSE
const AT_MAGIC: usize = 4;
const AT_POSITION: usize = AT_MAGIC + 4;
const MAGIC: &[u8; 4] = b"SEND";

/// The length of a trailer in bytes.
pub const TRAILER_LEN: usize = AT_POSITION + 8;
const _: () = assert!(TRAILER_LEN == 16);

/// Where the last frame of a finished segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The offset of the SEAL or CLOSE.
    pub footer_offset: ByteOffset,
}

impl Trailer {
    /// Its bytes in a segment with this salt.
    #[must_use]
    pub fn encode(&self, salt: Salt) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[AT_MAGIC..AT_POSITION].copy_from_slice(MAGIC);
        bytes[AT_POSITION..].copy_from_slice(&self.footer_offset.0.to_le_bytes());
        let crc = checksum::salted(salt, &bytes[AT_MAGIC..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads it from the last [`TRAILER_LEN`] bytes of a file; `None` where they are not a trailer
    /// of this segment.
    #[must_use]
    pub fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        if bytes.len() != TRAILER_LEN || &bytes[AT_MAGIC..AT_POSITION] != MAGIC {
            return None;
        }
        (u32_at(bytes, 0) == checksum::salted(salt, &bytes[AT_MAGIC..]))
            .then(|| Self { footer_offset: ByteOffset(u64_at(bytes, AT_POSITION)) })
    }
}
