//! The frame that ends a segment: SEAL or CLOSE.
//!
//! Both have the same layout. A SEAL names the segment that follows; a CLOSE names the previous
//! CLOSE in the same segment.

use bytes::Bytes;

use crate::header::{CONTROL_PAYLOAD_LEN_MAX, FRAME_ALIGN, FRAME_HEADER_LEN, frame_len};
use crate::trailer::TRAILER_LEN;
use crate::types::{ByteOffset, FramePosition, Generation, Salt, SeqNo, u32_at, u64_at};

pub(crate) const SEAL: u32 = 3;
pub(crate) const CLOSE: u32 = 4;

// at  bytes
//  0    4   kind
//  4    4   successor's generation; 0 in a CLOSE
//  8    8   start: the first live seq of the stream
// 16    8   entries in the segment
// 24    8   timestamp of the first frame; 0 without entries
// 32    8   timestamp of the last frame; 0 without entries
// 40    8   SEAL: successor's salt
//           CLOSE: offset of the CLOSE before; 0 for none
// 48    4   length of the index block
// 52    4   length of the pad: 0 or 8
// 56    …   index block, then the pad, zeros
const AT_SUCCESSOR: usize = 4;
const AT_START: usize = AT_SUCCESSOR + 4;
const AT_ENTRIES: usize = AT_START + 8;
const AT_FIRST_TIME: usize = AT_ENTRIES + 8;
const AT_LAST_TIME: usize = AT_FIRST_TIME + 8;
const AT_LINK: usize = AT_LAST_TIME + 8;
const AT_INDEX_LEN: usize = AT_LINK + 8;
const AT_PAD_LEN: usize = AT_INDEX_LEN + 4;

/// The length in bytes of a footer's payload before its index block.
pub const FOOTER_HEAD_LEN: usize = AT_PAD_LEN + 4;
const _: () = assert!(FOOTER_HEAD_LEN == 56);

/// The longest index block that a SEAL or CLOSE can hold, in bytes.
pub const INDEX_BLOCK_LEN_MAX: usize = CONTROL_PAYLOAD_LEN_MAX as usize - FOOTER_HEAD_LEN - PAD_LEN;

/// The length in bytes of the pad. A SEAL or CLOSE has a pad if its trailer would otherwise end 8
/// bytes past a multiple of 4 KiB. Such a length marks a file that is being written, so a finished
/// file must not have it.
pub const PAD_LEN: usize = 8;

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FooterKind {
    /// SEAL: the stream continues in another segment.
    Seal {
        /// The generation of that segment.
        successor: Generation,
        /// The salt of that segment.
        salt: Salt,
    },
    /// CLOSE: the stream was closed. If a frame follows, it begins where this one ends.
    Close {
        /// The previous CLOSE in the segment, whose index points are not repeated here. Decoding
        /// does not check this offset. Follow it only to smaller offsets, because hostile bytes
        /// could form a cycle.
        previous: Option<ByteOffset>,
    },
}

/// The content of a SEAL or a CLOSE. The segment's last seq is the frame's own first seq minus one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// SEAL or CLOSE.
    pub kind: FooterKind,
    /// The first live seq of the stream.
    pub start: SeqNo,
    /// Entries in the segment. A SEAL counts only those below the base of the next segment, so that
    /// this segment's base plus this count is the next segment's base.
    pub entries: u64,
    /// Timestamps of the first and the last frame, in microseconds since 1970; zeros if the segment
    /// has no entries.
    pub times: (u64, u64),
    /// The encoded index points, which this crate does not interpret. May be empty. A CLOSE has
    /// only the points since the previous CLOSE.
    pub index: Bytes,
}

impl FooterKind {
    /// Reads the first [`FOOTER_HEAD_LEN`] bytes of a payload whose checksum has not been verified.
    /// Returns `None` if they are not the head of a SEAL or CLOSE.
    #[must_use]
    pub fn peek(head: &[u8]) -> Option<Self> {
        (head.len() >= FOOTER_HEAD_LEN).then(|| Self::decode(u32_at(head, 0), head)).flatten()
    }

    fn decode(kind: u32, head: &[u8]) -> Option<Self> {
        let successor = Generation(u32_at(head, AT_SUCCESSOR));
        let link = u64_at(head, AT_LINK);
        match kind {
            SEAL if successor.0 != 0 => Some(Self::Seal { successor, salt: Salt(link) }),
            CLOSE if successor.0 == 0 => Some(Self::Close { previous: (link != 0).then_some(ByteOffset(link)) }),
            _ => None,
        }
    }
}

impl Footer {
    /// Returns the maximum number of bytes that a footer with an index block of `index_len` bytes
    /// takes in the file, without its trailer.
    #[must_use]
    pub fn frame_len_max(index_len: usize) -> u64 {
        (FRAME_HEADER_LEN + FOOTER_HEAD_LEN + index_len + PAD_LEN).next_multiple_of(FRAME_ALIGN as usize) as u64
    }

    /// Reads the payload of a control frame of this kind. Returns `None` if it is malformed.
    pub(crate) fn decode(kind: u32, payload: &Bytes) -> Option<Self> {
        if payload.len() < FOOTER_HEAD_LEN {
            return None;
        }
        let index_len = u32_at(payload, AT_INDEX_LEN) as usize;
        let pad_len = u32_at(payload, AT_PAD_LEN) as usize;
        let index_end = FOOTER_HEAD_LEN.checked_add(index_len)?;
        if !matches!(pad_len, 0 | PAD_LEN) || index_end.checked_add(pad_len)? != payload.len() {
            return None;
        }
        if payload[index_end..].iter().any(|&b| b != 0) {
            return None;
        }
        let kind = FooterKind::decode(kind, payload)?;
        Some(Self {
            kind,
            start: SeqNo(u64_at(payload, AT_START)),
            entries: u64_at(payload, AT_ENTRIES),
            times: (u64_at(payload, AT_FIRST_TIME), u64_at(payload, AT_LAST_TIME)),
            index: payload.slice(FOOTER_HEAD_LEN..index_end),
        })
    }

    /// Appends the payload of a frame at `position` to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, position: &FramePosition) {
        let (kind, successor, link) = match self.kind {
            FooterKind::Seal { successor, salt } => (SEAL, successor.0, salt.0),
            FooterKind::Close { previous } => (CLOSE, 0, previous.map_or(0, |at| at.0)),
        };
        assert!(kind != SEAL || successor != 0, "a SEAL names its successor");
        let index_len = u32::try_from(self.index.len())
            .ok()
            .filter(|&n| n as usize <= INDEX_BLOCK_LEN_MAX)
            .expect("invariant: callers bound an index block by INDEX_BLOCK_LEN_MAX");
        let unpadded = frame_len(FOOTER_HEAD_LEN as u32 + index_len);
        let pad_len = if trailer_ends_like_an_active_file(position.offset.0 + unpadded) { PAD_LEN } else { 0 };
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&successor.to_le_bytes());
        out.extend_from_slice(&self.start.0.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.times.0.to_le_bytes());
        out.extend_from_slice(&self.times.1.to_le_bytes());
        out.extend_from_slice(&link.to_le_bytes());
        out.extend_from_slice(&index_len.to_le_bytes());
        out.extend_from_slice(&(pad_len as u32).to_le_bytes());
        out.extend_from_slice(&self.index);
        out.resize(out.len() + pad_len, 0);
    }
}

/// Returns whether the trailer after a frame ending at `frame_end` would end where a file that is
/// being written may end.
const fn trailer_ends_like_an_active_file(frame_end: u64) -> bool {
    (frame_end + TRAILER_LEN as u64) % 4096 == 8
}
