//! The header of a journal file: a block of 4 KiB, of which only the first 128 bytes carry meaning.
//!
//! It is written and synced before the file gets its name, and does not change while the file has
//! the name. So an invalid header of a named file is damage.

use stratawal_frame::{Features, FormatId, Salt, WalId};
use thiserror::Error;

use crate::lsn::{Lsn, u32_at, u64_at, u128_at};

/// The version of the journal's format that this crate writes.
pub const JOURNAL_VERSION: u32 = 1;

/// The length of the header block in bytes, and so the offset of a file's first record.
pub const HEADER_BLOCK_LEN: u64 = 4096;

// at   bytes
//   0    8   magic "STRATAWJ"
//   8    4   version
//  12   12   features: compatible, read-only compatible, incompatible
//  24   16   wal id
//  40    8   number of the file
//  48    8   salt
//  56    8   LSN of the first record
//  64    8   number of the oldest file that is needed
//  72    8   attested: everything below this LSN is durable
//  80    8   inode number of the file; 0: not stated
//  88    8   created, microseconds since 1970
//  96    8   length of the file
// 104   20   zero
// 124    4   checksum: CRC-32 over bytes 0..124
const AT_VERSION: usize = 8;
const AT_FEATURES: usize = AT_VERSION + 4;
const AT_WAL_ID: usize = AT_FEATURES + 12;
const AT_NUMBER: usize = AT_WAL_ID + 16;
const AT_SALT: usize = AT_NUMBER + 8;
const AT_FIRST: usize = AT_SALT + 8;
const AT_OLDEST: usize = AT_FIRST + 8;
const AT_ATTESTED: usize = AT_OLDEST + 8;
const AT_INODE: usize = AT_ATTESTED + 8;
const AT_CREATED: usize = AT_INODE + 8;
const AT_FILE_LEN: usize = AT_CREATED + 8;
const AT_ZERO: usize = AT_FILE_LEN + 8;
const AT_CHECKSUM: usize = AT_ZERO + 20;

/// The length in bytes of the part of the block that carries meaning.
pub(crate) const HEADER_LEN: usize = AT_CHECKSUM + 4;
const _: () = assert!(HEADER_LEN == 128);

const MAGIC: &[u8; 8] = b"STRATAWJ";

/// The header of a journal file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The log that it belongs to.
    pub wal_id: WalId,
    /// The number in its name, from 1.
    pub number: u64,
    /// Enters the checksums of the file's records, so that a record left from an earlier use of the
    /// file is not valid.
    pub salt: Salt,
    /// The LSN of the first record.
    pub first: Lsn,
    /// The number of the oldest file that was needed when this one got its name.
    pub oldest: u64,
    /// The durable LSN when the header was written.
    pub attested: Lsn,
    /// The [identity](stratawal_storage::File::identity) of the file, by which a copy is noticed: its
    /// inode number. 0 if not recorded.
    pub inode: u64,
    /// When the header was written, in microseconds since 1970.
    pub created: u64,
    /// The length of the file in bytes. It never changes, so a shorter file has lost bytes.
    pub file_len: u64,
    /// The feature masks. This version writes zeros.
    pub features: Features,
}

/// The reason why bytes are not a header that this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FileHeaderError {
    /// Fewer than 128 bytes.
    #[error("the header ends after {len} of 128 bytes")]
    TooShort {
        /// The bytes that exist.
        len: usize,
    },
    /// Not a journal file.
    #[error("the file does not begin with the magic of a journal file")]
    Magic,
    /// Written by a newer version.
    #[error("the journal is of {0}, newer than this program")]
    Newer(FormatId),
    /// The checksum does not hold.
    #[error("header checksum mismatch: expected {expected:#010x}, found {found:#010x}")]
    Checksum {
        /// As computed from the bytes.
        expected: u32,
        /// As stored.
        found: u32,
    },
    /// The checksum holds, but the numbers contradict each other.
    #[error("the header contradicts itself")]
    Inconsistent,
}

impl FileHeader {
    /// Returns the header's 128 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let Features { compatible, read_only_compatible, incompatible } = self.features;
        out[..AT_VERSION].copy_from_slice(MAGIC);
        out[AT_VERSION..AT_FEATURES].copy_from_slice(&JOURNAL_VERSION.to_le_bytes());
        for (i, mask) in [compatible, read_only_compatible, incompatible].into_iter().enumerate() {
            let at = AT_FEATURES + 4 * i;
            out[at..at + 4].copy_from_slice(&mask.to_le_bytes());
        }
        out[AT_WAL_ID..AT_NUMBER].copy_from_slice(&self.wal_id.0.to_le_bytes());
        let numbers = [
            (AT_NUMBER, self.number),
            (AT_SALT, self.salt.0),
            (AT_FIRST, self.first.0),
            (AT_OLDEST, self.oldest),
            (AT_ATTESTED, self.attested.0),
            (AT_INODE, self.inode),
            (AT_CREATED, self.created),
            (AT_FILE_LEN, self.file_len),
        ];
        for (at, number) in numbers {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&out[..AT_CHECKSUM]);
        out[AT_CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a header from the beginning of `bytes`.
    ///
    /// # Errors
    /// A [`FileHeaderError`]. The checks run in the order magic, version, checksum, masks,
    /// consistency. If the checksum holds with the number of this version in place of a greater
    /// one, the version is damaged, and the error is that of the checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, FileHeaderError> {
        let Some(bytes) = bytes.get(..HEADER_LEN) else {
            return Err(FileHeaderError::TooShort { len: bytes.len() });
        };
        if &bytes[..AT_VERSION] != MAGIC {
            return Err(FileHeaderError::Magic);
        }
        let features = Features {
            compatible: u32_at(bytes, AT_FEATURES),
            read_only_compatible: u32_at(bytes, AT_FEATURES + 4),
            incompatible: u32_at(bytes, AT_FEATURES + 8),
        };
        let id = FormatId { version: u32_at(bytes, AT_VERSION), features };
        if id.version > JOURNAL_VERSION && !has_checksum(&of_this_version(bytes)) {
            return Err(FileHeaderError::Newer(id));
        }
        let expected = crc32fast::hash(&bytes[..AT_CHECKSUM]);
        let found = u32_at(bytes, AT_CHECKSUM);
        if expected != found {
            return Err(FileHeaderError::Checksum { expected, found });
        }
        if !features.readable() {
            return Err(FileHeaderError::Newer(id));
        }
        let header = Self {
            wal_id: WalId(u128_at(bytes, AT_WAL_ID)),
            number: u64_at(bytes, AT_NUMBER),
            salt: Salt(u64_at(bytes, AT_SALT)),
            first: Lsn(u64_at(bytes, AT_FIRST)),
            oldest: u64_at(bytes, AT_OLDEST),
            attested: Lsn(u64_at(bytes, AT_ATTESTED)),
            inode: u64_at(bytes, AT_INODE),
            created: u64_at(bytes, AT_CREATED),
            file_len: u64_at(bytes, AT_FILE_LEN),
            features,
        };
        if id.version == 0 || !header.is_consistent() { Err(FileHeaderError::Inconsistent) } else { Ok(header) }
    }

    /// Like [`decode`](Self::decode), but also reads a header of this version of which the version
    /// alone is damaged.
    ///
    /// # Errors
    /// Same as for [`decode`](Self::decode).
    pub fn decode_despite_version(bytes: &[u8]) -> Result<Self, FileHeaderError> {
        let mended = bytes.get(..HEADER_LEN).map(of_this_version).filter(has_checksum);
        Self::decode(mended.as_ref().map_or(bytes, |mended| mended))
    }

    fn is_consistent(&self) -> bool {
        let aligned =
            self.first.0.is_multiple_of(crate::record::ALIGN) && self.attested.0.is_multiple_of(crate::record::ALIGN);
        aligned && self.oldest != 0 && self.oldest <= self.number && self.number < u64::MAX
    }

    /// The LSN of the record at `offset` of the file.
    pub(crate) fn lsn_at(&self, offset: u64) -> Lsn {
        self.first + (offset - HEADER_BLOCK_LEN)
    }

    /// The offset in the file of the record at `lsn`.
    pub(crate) fn offset_of(&self, lsn: Lsn) -> u64 {
        HEADER_BLOCK_LEN + (lsn - self.first)
    }
}

/// A header with the number of this version in place of its own.
fn of_this_version(bytes: &[u8]) -> [u8; HEADER_LEN] {
    let mut mended = [0; HEADER_LEN];
    mended.copy_from_slice(bytes);
    mended[AT_VERSION..AT_FEATURES].copy_from_slice(&JOURNAL_VERSION.to_le_bytes());
    mended
}

fn has_checksum(header: &[u8; HEADER_LEN]) -> bool {
    crc32fast::hash(&header[..AT_CHECKSUM]) == u32_at(header, AT_CHECKSUM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FileHeader {
        FileHeader {
            wal_id: WalId(1),
            number: 7,
            salt: Salt(2),
            first: Lsn(16),
            oldest: 7,
            attested: Lsn(16),
            inode: 3,
            created: 4,
            file_len: 8192,
            features: Features::default(),
        }
    }

    #[test]
    fn damaged_version_is_not_a_newer_one() {
        let sound = header().encode();
        for bit in 0..32 {
            let mut damaged = sound;
            damaged[AT_VERSION + bit / 8] ^= 1 << (bit % 8);
            let found = FileHeader::decode(&damaged);
            assert!(matches!(found, Err(FileHeaderError::Checksum { .. })), "bit {bit}: {found:?}");
            assert_eq!(FileHeader::decode_despite_version(&damaged), Ok(header()), "bit {bit}");
            damaged[AT_WAL_ID] ^= 1;
            FileHeader::decode_despite_version(&damaged).unwrap_err();
        }
    }

    /// The checksum of a newer format is not known. This one has the same.
    #[test]
    fn newer_version_is_reported_as_newer() {
        let mut newer = header().encode();
        newer[AT_VERSION] = 2;
        let checksum = crc32fast::hash(&newer[..AT_CHECKSUM]);
        newer[AT_CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        for decode in [FileHeader::decode, FileHeader::decode_despite_version] {
            assert!(matches!(decode(&newer), Err(FileHeaderError::Newer(_))));
            newer[AT_CHECKSUM] ^= 1;
        }
    }
}
