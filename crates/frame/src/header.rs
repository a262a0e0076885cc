//! The 40-byte frame header.
//!
//! A header is valid if and only if (1) its reserved bytes are zero, (2) its lengths fit, (3)
//! *undurable* is at most the first seq or attests nothing, (4) first seq + count does not pass the
//! end of `u64`, and (5) its checksum over (salt, offset, bytes 4..40) holds. A valid header with a
//! flag, codec or control kind that is not known is *newer format*, which is neither damage nor a
//! torn tail. So no rule here looks into a payload that a flag or a codec gives another form.

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

/// Every frame begins at a multiple of this many bytes; the gap behind a payload is zeros.
pub const FRAME_ALIGN: u64 = 8;

/// The largest stored payload in bytes: under 2 GiB, so that an entry's end fits beside the batch
/// bit.
pub const PAYLOAD_LEN_MAX: u32 = 0x7FFF_FFFF;

/// The largest payload of a control frame in bytes, so that reading one takes bounded memory.
pub const CONTROL_PAYLOAD_LEN_MAX: u32 = 64 << 20;

const ATTESTS_NOTHING: u32 = 0xFFFF_FFFF;

/// How a payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// As it is.
    Raw,
    /// An LZ4 block behind its raw length (`u32`).
    Lz4,
    /// A zstd frame behind its raw length (`u32`).
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

/// What one look at bytes found. Never more than that: whether *invalid* is a torn tail or damage,
/// and whether *end* is the end of the log, is for recovery to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<T> {
    /// It is there and valid.
    Frame(T),
    /// The bytes end before it does; it takes `needed` bytes from its beginning, as far as that is
    /// known.
    Incomplete {
        /// Bytes needed, counted from the frame's beginning.
        needed: u64,
    },
    /// A header of zeros: nothing was written here.
    Blank,
    /// Something else than a valid frame.
    Invalid(Invalid),
    /// Valid, and written by a newer version or with a codec that this build does not have.
    Newer(Newer),
}

/// Why bytes are not a valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalid {
    /// The header's fields contradict each other or the limits.
    Implausible,
    /// The header checksum does not hold.
    HeaderChecksum,
    /// The header is valid, the payload checksum does not hold.
    PayloadChecksum,
    /// Both checksums hold, the table of entry ends is not one.
    EntryTable,
    /// Both checksums hold, the control payload is not one of its kind.
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

/// What a valid frame holds that this build does not understand.
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

/// What the reader knows beforehand. Everything outside makes a header implausible before its
/// checksum is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The base seq of the segment: no frame begins below it.
    pub base: SeqNo,
    /// The end of the file: no frame reaches beyond it.
    pub end: ByteOffset,
}

impl Limits {
    /// No limits but those of the format.
    pub const NONE: Self = Self { base: SeqNo(0), end: ByteOffset(u64::MAX) };
}

/// A valid frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// CRC-32 of the stored payload.
    pub payload_crc: u32,
    /// The seq of the first entry; in a control frame, of the entry that comes next.
    pub first_seq: SeqNo,
    /// Of the first append in the frame, in microseconds since 1970; never falls within a stream.
    pub timestamp: u64,
    /// Entries in the frame; 0 in a control frame.
    pub count: u32,
    /// Bytes of the payload as stored.
    pub payload_len: u32,
    /// The durable watermark when the frame was written: every entry below it was durable. `None`
    /// attests nothing.
    pub attests: Option<SeqNo>,
    /// How the payload is stored.
    pub codec: Codec,
}

impl FrameHeader {
    /// Whether the frame carries no entries but tells of the stream.
    #[inline]
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.count == 0
    }

    /// One past the last entry.
    #[inline]
    #[must_use]
    pub fn end_seq(&self) -> SeqNo {
        self.first_seq + u64::from(self.count)
    }

    /// The length of the whole frame in the file: header, payload, zeros.
    #[inline]
    #[must_use]
    pub const fn frame_len(&self) -> u64 {
        frame_len(self.payload_len)
    }

    /// The 40 bytes of this header for `position`.
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

/// The length of the whole frame whose header, known to be valid, stands at the beginning of
/// `bytes`: also of one that is of a newer format.
pub(crate) fn frame_len_at(bytes: &[u8]) -> u64 {
    frame_len(u32_at(bytes, AT_PAYLOAD_LEN))
}

/// What stands in a header that is not checked: enough to pass over its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnverifiedHeader {
    /// As [`FrameHeader::first_seq`].
    pub first_seq: SeqNo,
    /// As [`FrameHeader::count`].
    pub count: u32,
    /// As [`FrameHeader::payload_len`].
    pub payload_len: u32,
}

impl UnverifiedHeader {
    /// What stands at the beginning of `bytes`; `None` where they are shorter than a header.
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

    /// As [`FrameHeader::end_seq`]; `None` where there is no such seq.
    #[inline]
    #[must_use]
    pub fn end_seq(&self) -> Option<SeqNo> {
        self.first_seq.checked_add(u64::from(self.count))
    }

    /// As [`FrameHeader::frame_len`].
    #[inline]
    #[must_use]
    pub const fn frame_len(&self) -> u64 {
        frame_len(self.payload_len)
    }
}

/// Looks for a frame header at the beginning of `bytes`, which stand at `position`.
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
    // Zeros are no frame: count and length are never both 0, since a control frame has at least its
    // kind.
    if u64_at(bytes, 0) == 0 && bytes.iter().all(|&b| b == 0) {
        return Decoded::Blank;
    }
    if !plausible(bytes, position, limits) {
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

/// Rules (1) to (4), which cost less than the checksum and turn away nearly everything that is not
/// a header.
#[inline]
fn plausible(bytes: &[u8; FRAME_HEADER_LEN], position: &FramePosition, limits: &Limits) -> bool {
    let first_seq = u64_at(bytes, AT_FIRST_SEQ);
    let count = u32_at(bytes, AT_COUNT);
    let payload_len = u32_at(bytes, AT_PAYLOAD_LEN);
    let undurable = u32_at(bytes, AT_UNDURABLE);
    let fits = |len: u64| position.offset.0.checked_add(len).is_some_and(|end| end <= limits.end.0);
    // The table of a frame of several entries takes 4 bytes each. A compressed frame has its table
    // inside, and a flag may give the payload a form that is not known here: that has to reach
    // "newer format".
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
