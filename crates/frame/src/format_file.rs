//! The FORMAT file of a log: two copies of its identity, a page apart, replaced only by a rename.

use thiserror::Error;

use crate::checksum;
use crate::types::{FORMAT_VERSION, Features, FormatId, WalId, u32_at, u128_at};

// Each copy:
// at   bytes
//   0    8   magic "STRATAWF"
//   8    4   version
//  12   12   features: compatible, read-only compatible, incompatible
//  24   16   wal id
//  40   20   zero
//  60    4   checksum: CRC-32 over bytes 0..60
const AT_VERSION: usize = 8;
const AT_FEATURES: usize = AT_VERSION + 4;
const AT_WAL_ID: usize = AT_FEATURES + 12;
const AT_ZERO: usize = AT_WAL_ID + 16;
const AT_CHECKSUM: usize = AT_ZERO + 20;
const COPY_LEN: usize = AT_CHECKSUM + 4;
const _: () = assert!(COPY_LEN == 64);

const MAGIC: &[u8; 8] = b"STRATAWF";
const AT_SECOND: usize = 4096;

/// The length of the file in bytes. The copies are at 0 and 4096, so that the other copy survives
/// the loss of one page.
pub const FORMAT_FILE_LEN: usize = AT_SECOND + COPY_LEN;

/// The identity of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatFile {
    /// A random number chosen when the log is created.
    pub wal_id: WalId,
    /// The feature masks. Of their bits, this version writes only [`Features::JOURNAL`].
    pub features: Features,
}

/// Why the FORMAT file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatFileError {
    /// The file was written by a newer version.
    #[error("the log is of {0}, newer than this program")]
    Newer(FormatId),
    /// Neither copy is valid.
    #[error("neither copy in the FORMAT file is valid")]
    Damaged,
    /// Both copies are valid, but they differ.
    #[error("the two copies in the FORMAT file contradict each other")]
    Contradiction,
}

impl FormatFile {
    /// Returns whether the log has a commit journal.
    #[must_use]
    pub const fn has_journal(&self) -> bool {
        self.features.incompatible & Features::JOURNAL != 0
    }

    /// Returns whether this version may write to the log.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.features.with_journal(false).writable()
    }

    /// Returns the bytes of the whole file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY_LEN);
        copy.extend_from_slice(MAGIC);
        copy.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy.extend_from_slice(&self.features.compatible.to_le_bytes());
        copy.extend_from_slice(&self.features.read_only_compatible.to_le_bytes());
        copy.extend_from_slice(&self.features.incompatible.to_le_bytes());
        copy.extend_from_slice(&self.wal_id.0.to_le_bytes());
        copy.resize(AT_CHECKSUM, 0);
        copy.extend_from_slice(&checksum::payload(&copy).to_le_bytes());
        let mut file = copy.clone();
        file.resize(AT_SECOND, 0);
        file.extend_from_slice(&copy);
        file
    }

    /// Reads the identity from the bytes of the file, which may be cut short.
    ///
    /// # Errors
    /// Fails if no copy is valid or the copies differ. A newer format in either copy is reported
    /// before anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatFileError> {
        let first = decode_copy(bytes.get(..COPY_LEN));
        let second = decode_copy(bytes.get(AT_SECOND..FORMAT_FILE_LEN));
        match (first, second) {
            (Err(newer @ FormatFileError::Newer(_)), _) | (_, Err(newer @ FormatFileError::Newer(_))) => Err(newer),
            (Ok(a), Ok(b)) if a != b => Err(FormatFileError::Contradiction),
            (Ok(copy), _) | (_, Ok(copy)) => Ok(copy),
            (Err(why), Err(_)) => Err(why),
        }
    }

    /// Returns whether both copies in the bytes of the file are valid. If one is not,
    /// [`decode`](Self::decode) uses the other.
    #[must_use]
    pub fn is_whole(bytes: &[u8]) -> bool {
        [0, AT_SECOND].iter().all(|&at| decode_copy(bytes.get(at..at + COPY_LEN)).is_ok())
    }
}

/// Unlike in a segment header, the checksum is verified before the version: if the version field of
/// one copy is damaged, the other copy is used.
fn decode_copy(bytes: Option<&[u8]>) -> Result<FormatFile, FormatFileError> {
    let bytes = bytes.ok_or(FormatFileError::Damaged)?;
    if &bytes[..AT_VERSION] != MAGIC || checksum::payload(&bytes[..AT_CHECKSUM]) != u32_at(bytes, AT_CHECKSUM) {
        return Err(FormatFileError::Damaged);
    }
    let features = Features {
        compatible: u32_at(bytes, AT_FEATURES),
        read_only_compatible: u32_at(bytes, AT_FEATURES + 4),
        incompatible: u32_at(bytes, AT_FEATURES + 8),
    };
    let id = FormatId { version: u32_at(bytes, AT_VERSION), features };
    if id.version == 0 {
        return Err(FormatFileError::Damaged);
    }
    if id.version > FORMAT_VERSION || !features.with_journal(false).readable() {
        return Err(FormatFileError::Newer(id));
    }
    Ok(FormatFile { wal_id: WalId(u128_at(bytes, AT_WAL_ID)), features })
}
