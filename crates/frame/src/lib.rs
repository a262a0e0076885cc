//! The byte format of stratawal: encodes batches as bytes and decodes them, with no I/O.
//!
//! Use this crate to read or write single frames, segment headers and trailers, for example in a
//! repair tool or another implementation. Do not use it to keep a log: it never opens a file, and
//! it does not distinguish a torn tail from damage, which is the task of recovery in
//! `stratawal-stream`. Most programs need the facade crate `stratawal`.
//!
//! ```
//! use bytes::Bytes;
//! use stratawal_frame::{ByteOffset, DataFrame, Decoded, FramePosition, Limits, Salt, SeqNo, decode, encode_data};
//!
//! // One frame with the batches [alpha, beta] and [gamma].
//! let position = FramePosition { salt: Salt(7), offset: ByteOffset(128) };
//! let mut bytes = Vec::new();
//! encode_data(&mut bytes, &position, &DataFrame {
//!     first_seq: SeqNo(40),
//!     timestamp: 1_700_000_000_000_000,
//!     durable: Some(SeqNo(40)),
//!     ends: &[5, 9 | stratawal_frame::BATCH_END, 14 | stratawal_frame::BATCH_END],
//!     data: b"alphabetagamma",
//! });
//!
//! let Decoded::Frame(frame) = decode(&Bytes::from(bytes), &position, &Limits::NONE) else { panic!() };
//! assert_eq!(frame.entry(1).as_deref(), Some(&b"beta"[..]));
//! assert_eq!(frame.end_seq(), SeqNo(43));
//! ```
//!
//! This reads the entries of a segment file, up to the first bytes that are not a frame:
//!
//! ```
//! use bytes::Bytes;
//! use stratawal_frame::{ByteOffset, Decoded, FramePosition, HeaderError, Limits, SEGMENT_HEADER_LEN, SegmentHeader, decode};
//!
//! fn entries(file: &Bytes) -> Result<Vec<Bytes>, HeaderError> {
//!     let header = SegmentHeader::decode(file)?;
//!     let limits = Limits { base: header.base, end: ByteOffset(file.len() as u64) };
//!     let mut entries = Vec::new();
//!     let mut at = SEGMENT_HEADER_LEN;
//!     let position = |at| FramePosition { salt: header.salt, offset: ByteOffset(at as u64) };
//!     // Recovery decides whether the bytes after the last frame are a torn tail or damage.
//!     while let Decoded::Frame(frame) = decode(&file.slice(at..), &position(at), &limits) {
//!         entries.extend(frame.entries());
//!         at += frame.header().frame_len() as usize;
//!     }
//!     Ok(entries)
//! }
//! # assert!(entries(&Bytes::new()).is_err());
//! ```
//!
//! The normative description is `FORMAT.md` next to this crate's manifest. All decoders follow
//! three rules: no input makes them panic, no unchecked number determines the size of an
//! allocation, and they report a finding ([`Decoded`]) without judging it. The layers above
//! interpret it.
//!
//! Deliberately absent: files, clocks, compression libraries, and any interpretation of a failed
//! decode.
#![forbid(unsafe_code)]

mod checksum;
mod control;
mod find_header;
mod footer;
mod format_file;
mod frame;
mod header;
#[doc(hidden)]
pub mod properties;
mod segment_header;
mod trailer;
mod types;

pub use checksum::PayloadChecksum;
pub use control::{Control, encode_control};
pub use find_header::find_header;
pub use footer::{FOOTER_HEAD_LEN, Footer, FooterKind, INDEX_BLOCK_LEN_MAX, PAD_LEN};
pub use format_file::{FORMAT_FILE_LEN, FormatFile, FormatFileError};
pub use frame::{
    BATCH_END, DataFrame, Entries, EntrySlice, EntrySlices, Frame, check_payload, data_frame_len_max, decode,
    decode_payload, encode_data, encode_data_head, ends_batch, entry_range,
};
pub use header::{
    CONTROL_PAYLOAD_LEN_MAX, Codec, Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, Invalid, Limits, Newer,
    PAYLOAD_LEN_MAX, UnverifiedHeader, decode_header,
};
pub use segment_header::{HeaderError, SEGMENT_HEADER_LEN, SegmentHeader};
pub use trailer::{TRAILER_LEN, Trailer};
pub use types::{
    ByteOffset, FORMAT_VERSION, Features, FormatId, FramePosition, Generation, Salt, SeqNo, StreamId, WalId,
};
