//! Control frames: what a segment says of its stream.
//!
//! A control frame has no entries; the first 4 bytes of its payload are its kind. Its first seq is
//! that of the entry that comes next, so the end of a segment's entries is the first seq of its
//! SEAL or CLOSE.

use bytes::Bytes;

use crate::checksum;
use crate::frame::finish;
use crate::header::{
    CONTROL_PAYLOAD_LEN_MAX, Codec, Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, Invalid, Newer, frame_len,
};
use crate::trailer::TRAILER_LEN;
use crate::types::{ByteOffset, FramePosition, Generation, Salt, SeqNo, u32_at, u64_at};

const MARK: u32 = 1;
const START: u32 = 2;
const SEAL: u32 = 3;
const CLOSE: u32 = 4;

// START:        at  bytes            SEAL and CLOSE:  at  bytes
//                0    4   kind                         0    4   kind
//                4    4   zero                         4    4   successor's generation; 0 in a CLOSE
//                8    8   start                        8    8   start
//                                                     16    8   entries in the segment
//                                                     24    8   timestamp of the first frame; 0 without entries
// MARK:         at  bytes                             32    8   timestamp of the last frame; 0 without entries
//                0    4   kind                        40    8   SEAL: successor's salt
//                                                               CLOSE: offset of the CLOSE before; 0 for none
//                                                     48    4   length of the index block
//                                                     52    4   length of the pad: 0 or 8
//                                                     56    …   index block, then the pad, zeros
const MARK_LEN: usize = 4;
pub(crate) const MARK_FRAME_LEN: u64 = frame_len(MARK_LEN as u32);
const AT_START: usize = 8;
const START_LEN: usize = AT_START + 8;
const AT_SUCCESSOR: usize = 4;
const AT_ENTRIES: usize = AT_START + 8;
const AT_FIRST_TIME: usize = AT_ENTRIES + 8;
const AT_LAST_TIME: usize = AT_FIRST_TIME + 8;
const AT_LINK: usize = AT_LAST_TIME + 8;
const AT_INDEX_LEN: usize = AT_LINK + 8;
const AT_PAD_LEN: usize = AT_INDEX_LEN + 4;
const FOOTER_LEN: usize = AT_PAD_LEN + 4;
const _: () = assert!(FOOTER_LEN == 56);

/// The longest index block that a SEAL or CLOSE can hold.
pub const INDEX_BLOCK_LEN_MAX: usize = CONTROL_PAYLOAD_LEN_MAX as usize - FOOTER_LEN - PAD_LEN;

/// The bytes that a SEAL or CLOSE is longer by where its trailer would otherwise end 8 bytes behind
/// a multiple of 4 KiB: such a length says "being written", and the end of a finished file must not
/// look like it.
pub const PAD_LEN: usize = 8;

/// What a control frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Attests the watermark in its header, nothing else. The next frame overwrites it.
    Mark,
    /// The first live seq of the stream from here on; the last one in the chain counts.
    Start {
        /// Entries below it are dropped.
        start: SeqNo,
    },
    /// The segment ends here.
    Footer(Footer),
}

/// The bytes of the payload of a SEAL or CLOSE before its index block.
pub const FOOTER_HEAD_LEN: usize = FOOTER_LEN;

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FooterKind {
    /// SEAL: another segment goes on.
    Seal {
        /// The generation of that segment.
        successor: Generation,
        /// The salt of that segment.
        salt: Salt,
    },
    /// CLOSE: the stream was closed. The next frame, if there ever is one, begins behind this one.
    Close {
        /// The CLOSE before this one in the segment, whose index points are not repeated here. As
        /// read it is not checked: follow it only to smaller offsets, or hostile bytes lead in a
        /// circle.
        previous: Option<ByteOffset>,
    },
}

/// The content of a SEAL or a CLOSE. The segment's last seq is the frame's own first seq minus one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Which of the two.
    pub kind: FooterKind,
    /// The first live seq of the stream.
    pub start: SeqNo,
    /// Entries in the segment. Of a SEAL: those below the base of the segment that follows. So base
    /// plus entries is that base.
    pub entries: u64,
    /// Timestamps of the first and the last frame, in microseconds since 1970; zeros without
    /// entries.
    pub times: (u64, u64),
    /// The index points, opaque here; may be empty. Of a CLOSE: those since the CLOSE before.
    pub index: Bytes,
}

impl Control {
    /// The length of the frame of a START in bytes.
    pub const START_FRAME_LEN: u64 = (FRAME_HEADER_LEN + START_LEN).next_multiple_of(FRAME_ALIGN as usize) as u64;

    /// Reads the payload, whose checksum holds, of a control frame before the entry `next`. Nobody
    /// drops entries that are not there yet: the first live seq in a START or CLOSE is at most
    /// `next`.
    pub(crate) fn decode(payload: &Bytes, next: SeqNo) -> Decoded<Self> {
        let malformed = Decoded::Invalid(Invalid::ControlPayload);
        if payload.len() < 4 {
            return malformed;
        }
        match u32_at(payload, 0) {
            MARK if payload.len() == MARK_LEN => Decoded::Frame(Self::Mark),
            START if payload.len() == START_LEN && u32_at(payload, 4) == 0 => match SeqNo(u64_at(payload, AT_START)) {
                start if start <= next => Decoded::Frame(Self::Start { start }),
                _ => malformed,
            },
            kind @ (SEAL | CLOSE) => match Footer::decode(kind, payload) {
                Some(end) if kind == SEAL || end.start <= next => Decoded::Frame(Self::Footer(end)),
                _ => malformed,
            },
            MARK | START => malformed,
            kind => Decoded::Newer(Newer::ControlKind(kind)),
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>, position: &FramePosition) {
        match self {
            Self::Mark => out.extend_from_slice(&MARK.to_le_bytes()),
            Self::Start { start } => {
                out.extend_from_slice(&START.to_le_bytes());
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&start.0.to_le_bytes());
            }
            Self::Footer(end) => end.encode(out, position),
        }
    }
}

impl FooterKind {
    /// Reads the first [`FOOTER_HEAD_LEN`] bytes of a payload whose checksum was not checked; `None`
    /// where they are not those of a SEAL or CLOSE.
    #[must_use]
    pub fn peek(head: &[u8]) -> Option<Self> {
        (head.len() >= FOOTER_HEAD_LEN).then(|| Self::decode(u32_at(head, 0), head)).flatten()
    }

    fn decode(kind: u32, head: &[u8]) -> Option<Self> {
        let (successor, link) = (Generation(u32_at(head, AT_SUCCESSOR)), u64_at(head, AT_LINK));
        match kind {
            SEAL if successor.0 != 0 => Some(Self::Seal { successor, salt: Salt(link) }),
            CLOSE if successor.0 == 0 => Some(Self::Close { previous: (link != 0).then_some(ByteOffset(link)) }),
            _ => None,
        }
    }
}

impl Footer {
    /// The length in the file of a frame with an index block of `index_len` bytes, without its
    /// trailer, at most.
    #[must_use]
    pub fn frame_len_max(index_len: usize) -> u64 {
        (FRAME_HEADER_LEN + FOOTER_LEN + index_len + PAD_LEN).next_multiple_of(FRAME_ALIGN as usize) as u64
    }

    fn decode(kind: u32, payload: &Bytes) -> Option<Self> {
        if payload.len() < FOOTER_LEN {
            return None;
        }
        let (index_len, pad_len) = (u32_at(payload, AT_INDEX_LEN) as usize, u32_at(payload, AT_PAD_LEN) as usize);
        let index_end = FOOTER_LEN.checked_add(index_len)?;
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
            index: payload.slice(FOOTER_LEN..index_end),
        })
    }

    fn encode(&self, out: &mut Vec<u8>, position: &FramePosition) {
        let (kind, successor, link) = match self.kind {
            FooterKind::Seal { successor, salt } => (SEAL, successor.0, salt.0),
            FooterKind::Close { previous } => (CLOSE, 0, previous.map_or(0, |at| at.0)),
        };
        assert!(kind != SEAL || successor != 0, "a SEAL names its successor");
        let index_len = u32::try_from(self.index.len())
            .ok()
            .filter(|&n| n as usize <= INDEX_BLOCK_LEN_MAX)
            .expect("invariant: callers bound an index block by INDEX_BLOCK_LEN_MAX");
        let unpadded = frame_len(FOOTER_LEN as u32 + index_len);
        let pad_len = if ends_like_a_file_being_written(position.offset.0 + unpadded) { PAD_LEN } else { 0 };
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

/// Whether a trailer behind a frame that ends at `frame_end` would end where a file being written
/// may end.
const fn ends_like_a_file_being_written(frame_end: u64) -> bool {
    (frame_end + TRAILER_LEN as u64) % 4096 == 8
}

/// Appends a whole control frame, its zeros included, to `out`.
///
/// # Panics
/// Where nobody could read it: a SEAL whose successor is 0, an index block that does not fit a
/// payload, or an offset that is no multiple of [`FRAME_ALIGN`].
pub fn encode_control(
    out: &mut Vec<u8>,
    position: &FramePosition,
    next_seq: SeqNo,
    timestamp: u64,
    durable: Option<SeqNo>,
    control: &Control,
) {
    let at = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
    control.encode_payload(out, position);
    let payload = &out[at + FRAME_HEADER_LEN..];
    let header = FrameHeader {
        payload_crc: checksum::payload(payload),
        first_seq: next_seq,
        timestamp,
        count: 0,
        payload_len: u32::try_from(payload.len()).expect("invariant: its index block was bounded"),
        attests: durable,
        codec: Codec::Raw,
    };
    finish(out, at, position, &header);
}
