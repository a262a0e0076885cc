//! The 128-byte header of a segment file. It never changes once the file has its name.
//!
//! A header is valid if and only if (1) its magic is right, (2) its version and masks are known,
//! (3) its checksum over bytes 0..124 holds, and (4) its numbers agree: its generation is not 0,
//! its predecessor is older, and *durable* and *start* are not above the base. Each failure has its
//! own error kind, so that a newer file is never reported as a corrupt one.

use thiserror::Error;

use crate::checksum;
use crate::types::{
    FORMAT_VERSION, Features, FormatId, Generation, Salt, SeqNo, StreamId, WalId, u32_at, u64_at, u128_at,
};

// at   bytes
//   0    8   magic "STRATAWL"
//   8    4   version
//  12    4   features: compatible
//  16    4   features: read-only compatible
//  20    4   features: incompatible
//  24   16   wal id
//  40    8   stream id
//  48    4   generation
//  52    4   predecessor: generation of the newest live segment with a smaller base; 0 for none
//  56    8   base seq
//  64    8   salt
//  72    8   durable: the watermark at creation
//  80    8   start: the first live seq at creation
//  88    8   last timestamp of the stream at creation, microseconds since 1970
//  96    8   created, microseconds since 1970
// 104    4   name: CRC-32 of the name of the stream's directory, so that a segment of another stream is noticed
// 108    8   predecessor's salt; 0 without a predecessor
// 116    4   predecessor's last frame: the header checksum of its frame of entries that holds base - 1; 0: not stated
// 120    4   zero
// 124    4   checksum: CRC-32 over bytes 0..124
const AT_VERSION: usize = 8;
const AT_FEATURES: usize = AT_VERSION + 4;
const AT_WAL_ID: usize = AT_FEATURES + 12;
const AT_STREAM_ID: usize = AT_WAL_ID + 16;
const AT_GENERATION: usize = AT_STREAM_ID + 8;
const AT_PREDECESSOR: usize = AT_GENERATION + 4;
const AT_BASE: usize = AT_PREDECESSOR + 4;
const AT_SALT: usize = AT_BASE + 8;
const AT_DURABLE: usize = AT_SALT + 8;
const AT_START: usize = AT_DURABLE + 8;
const AT_LAST_TIMESTAMP: usize = AT_START + 8;
const AT_CREATED: usize = AT_LAST_TIMESTAMP + 8;
const AT_NAME: usize = AT_CREATED + 8;
const AT_PREDECESSOR_SALT: usize = AT_NAME + 4;
const AT_PREDECESSOR_FRAME: usize = AT_PREDECESSOR_SALT + 8;
const AT_ZERO: usize = AT_PREDECESSOR_FRAME + 4;
const AT_CHECKSUM: usize = AT_ZERO + 4;

/// The length of a segment header in bytes, and so the offset of the first frame.
pub const SEGMENT_HEADER_LEN: usize = AT_CHECKSUM + 4;
const _: () = assert!(SEGMENT_HEADER_LEN == 128);

const MAGIC: &[u8; 8] = b"STRATAWL";

/// The identity of a segment and its state at creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log that the segment belongs to.
    pub wal_id: WalId,
    /// The stream that the segment belongs to.
    pub stream_id: StreamId,
    /// The generation of the segment, at least 1.
    pub generation: Generation,
    /// The generation of the newest live segment with a smaller base, or 0.
    pub predecessor: Generation,
    /// The seq of the segment's first entry.
    pub base: SeqNo,
    /// A random number that is part of all the segment's checksums.
    pub salt: Salt,
    /// The durable watermark when the segment was created.
    pub durable: SeqNo,
    /// The first live seq when the segment was created.
    pub start: SeqNo,
    /// The timestamp of the last frame before the segment, in microseconds since 1970; 0 for none.
    pub last_timestamp: u64,
    /// When the segment was created, in microseconds since 1970.
    pub created: u64,
    /// [`name_checksum`](Self::name_checksum) of the name of the stream's directory.
    pub name_crc: u32,
    /// The salt of the predecessor; 0 without one.
    pub predecessor_salt: Salt,
    /// The header checksum, as stored, of the predecessor's frame of entries that holds the entry
    /// before the base. It identifies the content that this segment follows. It is 0 if no such
    /// frame exists or it could not be read.
    pub predecessor_frame_crc: u32,
    /// The feature masks. This version writes zeros.
    pub features: Features,
}

/// Why some bytes are not a segment header that this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file has fewer than 128 bytes.
    #[error("the segment header is cut short at {len} of 128 bytes")]
    TooShort {
        /// The number of bytes.
        len: usize,
    },
    /// This is not a segment file.
    #[error("the file does not begin with the magic of a segment")]
    Magic,
    /// The segment was written by a newer version.
    #[error("the segment is of {0}, newer than this program")]
    Newer(FormatId),
    /// The checksum does not hold.
    #[error("segment header checksum mismatch: expected {expected:#010x}, found {found:#010x}")]
    Checksum {
        /// The checksum computed from the bytes.
        expected: u32,
        /// The stored checksum.
        found: u32,
    },
    /// The checksum holds, but the numbers contradict each other.
    #[error("the segment header contradicts itself")]
    Inconsistent,
}

impl SegmentHeader {
    /// A header of zeros, for `..SegmentHeader::EMPTY`. It is not valid: its generation is 0.
    pub const EMPTY: Self = Self {
        wal_id: WalId(0),
        stream_id: StreamId(0),
        generation: Generation(0),
        predecessor: Generation(0),
        base: SeqNo(0),
        salt: Salt(0),
        durable: SeqNo(0),
        start: SeqNo(0),
        last_timestamp: 0,
        created: 0,
        name_crc: 0,
        predecessor_salt: Salt(0),
        predecessor_frame_crc: 0,
        features: Features { compatible: 0, read_only_compatible: 0, incompatible: 0 },
    };

    /// Returns the value of `name_crc` for a stream in a directory of this name.
    #[must_use]
    pub fn name_checksum(dir_name: &str) -> u32 {
        checksum::payload(dir_name.as_bytes())
    }

    /// Returns the 128 bytes of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.features.compatible.to_le_bytes());
        out.extend_from_slice(&self.features.read_only_compatible.to_le_bytes());
        out.extend_from_slice(&self.features.incompatible.to_le_bytes());
        out.extend_from_slice(&self.wal_id.0.to_le_bytes());
        out.extend_from_slice(&self.stream_id.0.to_le_bytes());
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(&self.predecessor.0.to_le_bytes());
        for n in [self.base.0, self.salt.0, self.durable.0, self.start.0, self.last_timestamp, self.created] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.name_crc.to_le_bytes());
        out.extend_from_slice(&self.predecessor_salt.0.to_le_bytes());
        out.extend_from_slice(&self.predecessor_frame_crc.to_le_bytes());
        out.resize(AT_CHECKSUM, 0);
        out.extend_from_slice(&checksum::payload(&out).to_le_bytes());
        out.try_into().expect("invariant: the fields add up to 128 bytes")
    }

    /// Reads a header from the beginning of `bytes`.
    ///
    /// # Errors
    /// Any [`HeaderError`]. The checks are made in the order magic, version, checksum, masks,
    /// consistency. If the checksum holds with the number of this version in place of a greater
    /// one, the version is damaged, and the error is that of the checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_LEN) else {
            return Err(HeaderError::TooShort { len: bytes.len() });
        };
        if &bytes[..AT_VERSION] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let features = Features {
            compatible: u32_at(bytes, AT_FEATURES),
            read_only_compatible: u32_at(bytes, AT_FEATURES + 4),
            incompatible: u32_at(bytes, AT_FEATURES + 8),
        };
        let id = FormatId { version: u32_at(bytes, AT_VERSION), features };
        if id.version > FORMAT_VERSION && !has_checksum_with_this_version(bytes) {
            return Err(HeaderError::Newer(id));
        }
        let expected = checksum::payload(&bytes[..AT_CHECKSUM]);
        let found = u32_at(bytes, AT_CHECKSUM);
        if expected != found {
            return Err(HeaderError::Checksum { expected, found });
        }
        if !features.readable() {
            return Err(HeaderError::Newer(id));
        }
        let header = Self {
            wal_id: WalId(u128_at(bytes, AT_WAL_ID)),
            stream_id: StreamId(u64_at(bytes, AT_STREAM_ID)),
            generation: Generation(u32_at(bytes, AT_GENERATION)),
            predecessor: Generation(u32_at(bytes, AT_PREDECESSOR)),
            base: SeqNo(u64_at(bytes, AT_BASE)),
            salt: Salt(u64_at(bytes, AT_SALT)),
            durable: SeqNo(u64_at(bytes, AT_DURABLE)),
            start: SeqNo(u64_at(bytes, AT_START)),
            last_timestamp: u64_at(bytes, AT_LAST_TIMESTAMP),
            created: u64_at(bytes, AT_CREATED),
            name_crc: u32_at(bytes, AT_NAME),
            predecessor_salt: Salt(u64_at(bytes, AT_PREDECESSOR_SALT)),
            predecessor_frame_crc: u32_at(bytes, AT_PREDECESSOR_FRAME),
            features,
        };
        let consistent = id.version != 0
            && header.generation.0 != 0
            && header.predecessor < header.generation
            && header.durable <= header.base
            && header.start <= header.base;
        if consistent { Ok(header) } else { Err(HeaderError::Inconsistent) }
    }
}

/// Whether the checksum of a header holds with the number of this version in place of its own. A
/// header of a newer version has such a checksum only by chance, once in 2^32.
fn has_checksum_with_this_version(bytes: &[u8]) -> bool {
    let mut mended = bytes[..AT_CHECKSUM].to_vec();
    mended[AT_VERSION..AT_FEATURES].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    checksum::payload(&mended) == u32_at(bytes, AT_CHECKSUM)
}
