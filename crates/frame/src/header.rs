//! The 40-byte frame header.
//!
//! A header is valid if and only if (1) its reserved bytes are zero, (2) its lengths fit, (3)
//! *undurable* is at most the first seq or attests nothing, (4) first seq + count does not exceed
//! the range of `u64`, and (5) its checksum over (salt, offset, bytes 4..40) holds. A valid header
//! with an unknown flag, codec or control kind is *newer format*, which is neither damage nor a
//! torn tail. Therefore no rule here depends on the form of the payload, which an unknown flag or
//! codec may change.

use std::fmt;

use crate::checksum;
use crate::types::{ByteOffset, FramePosition, SeqNo, u16_at, u32_at, u64_at};

// at  bytes
//  0    4   header checksum: CRC-32 over salt, the frame's own offset, bytes 4..40
//  4    4   payload checksum: CRC-32 over the stored payload
//  8    8   first seq
// 16    8   timestamp of the first append, microseconds since 1970
// 24    4   entry count; 0 in a control frame
// 28    4   payload length as stored
// 32    4   undurable: first seq minus the durable watermark; 0xFFFFFFFF attests nothing
// 36    1   codec
// 37    1   flags, must-understand
// 38    2   zero
pub(crate) const AT_HEADER_CRC: usize = 0;
pub(crate) const AT_PAYLOAD_CRC: usize = AT_HEADER_CRC + 4;
const AT_FIRST_SEQ: usize = AT_PAYLOAD_CRC + 4;
const AT_TIMESTAMP: usize = AT_FIRST_SEQ + 8;
const AT_COUNT: usize = AT_TIMESTAMP + 8;
const AT_PAYLOAD_LEN: usize = AT_COUNT + 4;
const AT_UNDURABLE: usize = AT_PAYLOAD_LEN + 4;
const AT_CODEC: usize = AT_UNDURABLE + 4;
const AT_FLAGS: usize = AT_CODEC + 1;
const AT_ZERO: usize = AT_FLAGS + 1;

/// The length of a frame header in bytes.
pub const FRAME_HEADER_LEN: usize = AT_ZERO + 2;
const _: () = assert!(FRAME_HEADER_LEN == 40);

/// Every frame begins at a multiple of this many bytes. Zeros fill the gap after a payload.
pub const FRAME_ALIGN: u64 = 8;

/// The largest stored payload in bytes: under 2 GiB, so that an entry's end offset leaves one bit
/// for [`BATCH_END`](crate::BATCH_END).
pub const PAYLOAD_LEN_MAX: u32 = 0x7FFF_FFFF;

/// The largest payload of a control frame in bytes, so that reading one takes bounded memory.
pub const CONTROL_PAYLOAD_LEN_MAX: u32 = 64 << 20;

const ATTESTS_NOTHING: u32 = 0xFFFF_FFFF;

/// How a payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// Not compressed.
    Raw,
    /// The raw length (`u32`), then an LZ4 block.
    Lz4,
    /// The raw length (`u32`), then a zstd frame.
    Zstd,
}

impl Codec {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }
}

/// The result of decoding bytes. It does not judge them: recovery decides whether *invalid* means a
/// torn tail or damage, and whether *blank* is the end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<T> {
    /// A valid frame.
    Frame(T),
    /// The bytes end before the frame does.
    Incomplete {
        /// The length of the frame in bytes, or as much of it as is known.
        needed: u64,
    },
    /// A header of zeros: no frame was written here.
    Blank,
    /// Bytes that are not a valid frame.
    Invalid(Invalid),
    /// A valid frame of a newer version, or with a codec that this build does not have.
    Newer(Newer),
}

/// Why some bytes are not a valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalid {
    /// The header's fields contradict each other or the limits.
    Implausible,
    /// The header checksum does not hold.
    HeaderChecksum,
    /// The header is valid, but the payload checksum does not hold.
    PayloadChecksum,
    /// Both checksums hold, but the table of entry ends is malformed.
    EntryTable,
    /// Both checksums hold, but the payload of the control frame is malformed.
    ControlPayload,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Implausible => "implausible frame header",
            Self::HeaderChecksum => "frame header checksum mismatch",
            Self::PayloadChecksum => "payload checksum mismatch",
            Self::EntryTable => "malformed entry table",
            Self::ControlPayload => "malformed control frame",
        })
    }
}

/// The part of a valid frame that this build does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Newer {
    /// Unknown flag bits.
    Flags(u8),
    /// An unknown codec, or one that is not built in.
    Codec(u8),
    /// An unknown kind of control frame.
    ControlKind(u32),
}

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(flags) => write!(f, "unknown frame flags {flags:#04x}"),
            Self::Codec(codec) => write!(f, "codec {codec}, which this build does not have"),
            Self::ControlKind(kind) => write!(f, "unknown control frame kind {kind}"),
        }
    }
}

/// Bounds that the reader knows before it decodes. A header that exceeds them is implausible, and
/// its checksum is not computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The base seq of the segment: no frame begins below it.
    pub base: SeqNo,
    /// The end of the file: no frame extends past it.
    pub end: ByteOffset,
}

impl Limits {
    /// No limits except those of the format.
    pub const NONE: Self = Self { base: SeqNo(0), end: ByteOffset(u64::MAX) };
}

/// A valid frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// CRC-32 of the stored payload.
    pub payload_crc: u32,
    /// The seq of the first entry; in a control frame, of the next entry.
    pub first_seq: SeqNo,
    /// The time of the first append in the frame, in microseconds since 1970. It never decreases
    /// within a segment.
    pub timestamp: u64,
    /// Entries in the frame; 0 in a control frame.
    pub count: u32,
    /// Bytes of the payload as stored.
    pub payload_len: u32,
    /// The durable watermark when the frame was written: all entries below it were durable. `None`
    /// attests nothing.
    pub attests: Option<SeqNo>,
    /// How the payload is stored.
    pub codec: Codec,
}

impl FrameHeader {
    /// Returns whether this is a control frame, which describes the stream and has no entries.
    #[inline]
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.count == 0
    }

    /// Returns one past the seq of the last entry.
    #[inline]
    #[must_use]
    pub fn end_seq(&self) -> SeqNo {
        self.first_seq + u64::from(self.count)
    }

    /// Returns the length in bytes of the whole frame in the file: header, payload, zeros.
    #[inline]
    #[must_use]
    pub const fn frame_len(&self) -> u64 {
        frame_len(self.payload_len)
    }

    /// Returns the 40 bytes of this header at `position`.
    pub(crate) fn encode(&self, position: &FramePosition) -> [u8; FRAME_HEADER_LEN] {
        let undurable = self
            .attests
            .map_or(ATTESTS_NOTHING, |durable| u32::try_from(self.first_seq - durable).unwrap_or(ATTESTS_NOTHING));
        let mut out = [0; FRAME_HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(AT_PAYLOAD_CRC, &self.payload_crc.to_le_bytes());
        put(AT_FIRST_SEQ, &self.first_seq.0.to_le_bytes());
        put(AT_TIMESTAMP, &self.timestamp.to_le_bytes());
        put(AT_COUNT, &self.count.to_le_bytes());
        put(AT_PAYLOAD_LEN, &self.payload_len.to_le_bytes());
        put(AT_UNDURABLE, &undurable.to_le_bytes());
        put(AT_CODEC, &[self.codec.to_byte()]);
        let crc = checksum::positioned(position, &out[AT_PAYLOAD_CRC..]);
        out[AT_HEADER_CRC..AT_PAYLOAD_CRC].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

#[inline]
pub(crate) const fn frame_len(payload_len: u32) -> u64 {
    (FRAME_HEADER_LEN as u64 + payload_len as u64).next_multiple_of(FRAME_ALIGN)
}

/// The fields of a header whose checksum has not been verified: enough to skip its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnverifiedHeader {
    /// The seq of the first entry; in a control frame, of the next entry.
    pub first_seq: SeqNo,
    /// Entries in the frame; 0 in a control frame.
    pub count: u32,
    /// Bytes of the payload as stored.
    pub payload_len: u32,
}

impl UnverifiedHeader {
    /// Reads the header at the beginning of `bytes`. Returns `None` if they are shorter than a
    /// header.
    #[inline]
    #[must_use]
    pub fn at(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<FRAME_HEADER_LEN>()?;
        Some(Self {
            first_seq: SeqNo(u64_at(header, AT_FIRST_SEQ)),
            count: u32_at(header, AT_COUNT),
            payload_len: u32_at(header, AT_PAYLOAD_LEN),
        })
    }

    /// Returns one past the seq of the last entry, or `None` if that exceeds `u64`.
    #[inline]
    #[must_use]
    pub fn end_seq(&self) -> Option<SeqNo> {
        self.first_seq.checked_add(u64::from(self.count))
    }

    /// Returns the length in bytes of the whole frame in the file: header, payload, zeros.
    #[inline]
    #[must_use]
    pub const fn frame_len(&self) -> u64 {
        frame_len(self.payload_len)
    }
}

/// Decodes the frame header at the beginning of `bytes`, which are at `position` in the file.
#[inline]
#[must_use]
pub fn decode_header(bytes: &[u8], position: &FramePosition, limits: &Limits) -> Decoded<FrameHeader> {
    let Some(bytes) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
        return if bytes.iter().all(|&b| b == 0) {
            Decoded::Blank
        } else {
            Decoded::Incomplete { needed: FRAME_HEADER_LEN as u64 }
        };
    };
    // Zeros are not a frame: count and length are never both 0, because the payload of a control
    // frame contains at least its kind.
    if u64_at(bytes, 0) == 0 && bytes.iter().all(|&b| b == 0) {
        return Decoded::Blank;
    }
    if !is_plausible(bytes, position, limits) {
        return Decoded::Invalid(Invalid::Implausible);
    }
    if u32_at(bytes, AT_HEADER_CRC) != checksum::positioned(position, &bytes[AT_PAYLOAD_CRC..]) {
        return Decoded::Invalid(Invalid::HeaderChecksum);
    }
    if bytes[AT_FLAGS] != 0 {
        return Decoded::Newer(Newer::Flags(bytes[AT_FLAGS]));
    }
    let codec = match bytes[AT_CODEC] {
        0 => Codec::Raw,
        1 => Codec::Lz4,
        2 => Codec::Zstd,
        other => return Decoded::Newer(Newer::Codec(other)),
    };
    let first_seq = SeqNo(u64_at(bytes, AT_FIRST_SEQ));
    let undurable = u32_at(bytes, AT_UNDURABLE);
    Decoded::Frame(FrameHeader {
        payload_crc: u32_at(bytes, AT_PAYLOAD_CRC),
        first_seq,
        timestamp: u64_at(bytes, AT_TIMESTAMP),
        count: u32_at(bytes, AT_COUNT),
        payload_len: u32_at(bytes, AT_PAYLOAD_LEN),
        attests: (undurable != ATTESTS_NOTHING).then(|| SeqNo(first_seq.0 - u64::from(undurable))),
        codec,
    })
}

/// Checks rules (1) to (4), which cost less than the checksum and reject nearly all bytes that are
/// not a header.
#[inline]
fn is_plausible(bytes: &[u8; FRAME_HEADER_LEN], position: &FramePosition, limits: &Limits) -> bool {
    let first_seq = u64_at(bytes, AT_FIRST_SEQ);
    let count = u32_at(bytes, AT_COUNT);
    let payload_len = u32_at(bytes, AT_PAYLOAD_LEN);
    let undurable = u32_at(bytes, AT_UNDURABLE);
    let fits = |len: u64| position.offset.0.checked_add(len).is_some_and(|end| end <= limits.end.0);
    // The table of a frame of several entries takes 4 bytes for each. In a compressed frame the
    // table is also compressed, and a flag may give the payload an unknown form. Such a frame must
    // be reported as newer format rather than implausible.
    let has_table = count > 1 && bytes[AT_CODEC] == 0 && bytes[AT_FLAGS] == 0;
    let table_fits = !has_table || u64::from(count) * 4 <= u64::from(payload_len);
    u16_at(bytes, AT_ZERO) == 0
        && payload_len <= if count == 0 { CONTROL_PAYLOAD_LEN_MAX } else { PAYLOAD_LEN_MAX }
        && fits(frame_len(payload_len))
        && table_fits
        && first_seq >= limits.base.0
        && first_seq.checked_add(u64::from(count)).is_some()
        && (undurable == ATTESTS_NOTHING || u64::from(undurable) <= first_seq)
}
