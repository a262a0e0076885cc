//! Control frames (MARK, START, SEAL and CLOSE) describe the stream and hold no entries.
//!
//! The first 4 bytes of the payload are the kind. The first seq of a control frame is the seq of
//! the next entry, so the entries of a segment end at the first seq of its SEAL or CLOSE.

use bytes::Bytes;

use crate::checksum;
use crate::footer::{CLOSE, Footer, SEAL};
use crate::header::{Codec, Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, Invalid, Newer};
use crate::types::{FramePosition, SeqNo, u32_at, u64_at};

const MARK: u32 = 1;
const START: u32 = 2;

// MARK:         at  bytes            START:        at  bytes
//                0    4   kind                      0    4   kind
//                                                   4    4   zero
//                                                   8    8   start
// SEAL and CLOSE: see `footer`.
const MARK_LEN: usize = 4;
const AT_START: usize = 8;
const START_LEN: usize = AT_START + 8;

/// The content of a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// MARK: only attests the watermark in its header. The next frame overwrites it.
    Mark,
    /// START: the first live seq of the stream from here on. The last START of the chain counts.
    Start {
        /// Entries below this seq are dropped.
        start: SeqNo,
    },
    /// SEAL or CLOSE: the segment ends here.
    Footer(Footer),
}

impl Control {
    /// The length in bytes of the frame of a MARK.
    pub const MARK_FRAME_LEN: u64 = (FRAME_HEADER_LEN + MARK_LEN).next_multiple_of(FRAME_ALIGN as usize) as u64;

    /// The length in bytes of the frame of a START.
    pub const START_FRAME_LEN: u64 = (FRAME_HEADER_LEN + START_LEN).next_multiple_of(FRAME_ALIGN as usize) as u64;

    /// Decodes the payload, with a verified checksum, of a control frame whose first seq is `next`.
    /// A writer drops only entries that exist, so the first live seq in a START or CLOSE is at most
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
                Some(footer) if kind == SEAL || footer.start <= next => Decoded::Frame(Self::Footer(footer)),
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
            Self::Footer(footer) => footer.encode(out, position),
        }
    }
}

/// Appends a whole control frame to `out`, including the zeros that align the next frame.
///
/// # Panics
/// Panics if no reader could read the frame: a SEAL whose successor is 0, an index block that does
/// not fit into a payload, or an offset that is not a multiple of [`FRAME_ALIGN`].
pub fn encode_control(
    out: &mut Vec<u8>,
    position: &FramePosition,
    next_seq: SeqNo,
    timestamp: u64,
    durable: Option<SeqNo>,
    control: &Control,
) {
    assert!(position.offset.0.is_multiple_of(FRAME_ALIGN), "a frame begins at a multiple of 8");
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
    out[at..at + FRAME_HEADER_LEN].copy_from_slice(&header.encode(position));
    let len = usize::try_from(header.frame_len()).expect("invariant: a payload is under 2 GiB");
    out.resize(at + len, 0);
}
