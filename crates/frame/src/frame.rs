//! Data frames, which hold whole batches of entries in one payload.
//!
//! With a single entry, the payload is its bytes. With several, the payload is a table of `u32`
//! ends, counted from the end of the table, followed by the bytes of the entries. So entry *i* is
//! found without reading the entries before it. The top bit of an end marks the last entry of its
//! batch. The last entry of a frame always has this bit, because a frame holds whole batches.
//!
//! ```text
//! count = 1:   | bytes |
//! count = n:   | end 0 | end 1 | … | end n-1 | bytes of 0 | bytes of 1 | … |
//!              |<---------- 4 n ----------->|
//! ```

use std::ops::Range;

use bytes::Bytes;

use crate::checksum::{self, PayloadChecksum};
use crate::control::Control;
use crate::header::{
    Codec, Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, Invalid, Limits, Newer, PAYLOAD_LEN_MAX,
    UnverifiedHeader, decode_header,
};
use crate::types::{FramePosition, SeqNo, u32_at};

/// The bit of an entry's end that marks the last entry of its batch.
pub const BATCH_END: u32 = 1 << 31;

/// The input of [`encode_data`]: entries that are contiguous in `data`.
#[derive(Clone, Copy, Debug)]
pub struct DataFrame<'a> {
    /// The seq of the first entry.
    pub first_seq: SeqNo,
    /// The time of the first append in the frame, in microseconds since 1970.
    pub timestamp: u64,
    /// The durable watermark when the frame is encoded; `None` attests nothing. If the watermark is
    /// above `first_seq`, the frame attests `first_seq`.
    pub durable: Option<SeqNo>,
    /// The end of each entry in `data`, with [`BATCH_END`] set for the last entry of each batch,
    /// and so always for the last entry.
    pub ends: &'a [u32],
    /// The bytes of all entries.
    pub data: &'a [u8],
}

/// Returns the maximum number of bytes that a frame of `entries` entries, with `bytes` bytes in
/// total, takes in the file.
#[must_use]
pub const fn data_frame_len_max(entries: u64, bytes: u64) -> u64 {
    let table = entries.saturating_mul(4);
    (FRAME_HEADER_LEN as u64).saturating_add(table).saturating_add(bytes).saturating_add(7) & !7
}

/// Appends a whole data frame to `out`, including the zeros that align the next frame.
///
/// # Panics
/// Panics if `frame` is malformed: no entries, ends that decrease or do not end with `data`, no
/// [`BATCH_END`] on the last entry, a payload over [`PAYLOAD_LEN_MAX`], a seq past the end of
/// `u64`, or an offset that is not a multiple of [`FRAME_ALIGN`]. These are mistakes of the caller,
/// and do not depend on data that was read. No reader could read such a frame, so its entries would
/// be lost.
pub fn encode_data(out: &mut Vec<u8>, position: &FramePosition, frame: &DataFrame<'_>) {
    let zeros = encode_data_head(out, position, frame);
    out.extend_from_slice(frame.data);
    out.resize(out.len() + zeros, 0);
}

/// Appends the header and the table of a data frame to `out`, for writers that do not copy
/// `frame.data`. Returns the number of zeros to write after the data.
///
/// # Panics
/// Panics on the same mistakes as [`encode_data`].
pub fn encode_data_head(out: &mut Vec<u8>, position: &FramePosition, frame: &DataFrame<'_>) -> usize {
    let DataFrame { ends, data, .. } = *frame;
    let count = u32::try_from(ends.len()).expect("invariant: a frame has fewer than 2^32 entries");
    let table_len = if count > 1 { ends.len() * 4 } else { 0 };
    let payload_len = u32::try_from(table_len + data.len())
        .ok()
        .filter(|&n| n <= PAYLOAD_LEN_MAX)
        .expect("invariant: callers bound a batch below the largest payload");
    assert_eq!(
        ends.last().copied(),
        u32::try_from(data.len()).ok().map(|n| n | BATCH_END),
        "the last entry ends with the data and with its batch"
    );
    assert!(ends.windows(2).all(|w| w[0] & !BATCH_END <= w[1] & !BATCH_END), "ends never fall");
    assert!(frame.first_seq.checked_add(u64::from(count)).is_some(), "a seq fits a u64");
    assert!(position.offset.0.is_multiple_of(FRAME_ALIGN), "a frame begins at a multiple of 8");

    let at = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
    if count > 1 {
        out.extend(ends.iter().flat_map(|end| end.to_le_bytes()));
    }
    let mut payload_crc = PayloadChecksum::new();
    if count > 1 {
        payload_crc.update(&out[at + FRAME_HEADER_LEN..]);
    }
    payload_crc.update(data);
    let header = FrameHeader {
        payload_crc: payload_crc.finish(),
        first_seq: frame.first_seq,
        timestamp: frame.timestamp,
        count,
        payload_len,
        attests: frame.durable,
        codec: Codec::Raw,
    };
    out[at..at + FRAME_HEADER_LEN].copy_from_slice(&header.encode(position));
    let end = FRAME_HEADER_LEN + payload_len as usize;
    end.next_multiple_of(FRAME_ALIGN as usize) - end
}

/// A valid frame. Its entries are slices of the bytes that it was decoded from, so reading them
/// copies and allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    header: FrameHeader,
    payload: Bytes,
    control: Option<Control>,
}

impl Frame {
    /// Returns the header.
    #[must_use]
    pub const fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// Returns the content of a control frame, or `None` for a data frame.
    #[must_use]
    pub const fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }

    /// Returns the seq of the first entry; for a control frame, that of the next entry.
    #[must_use]
    pub const fn first_seq(&self) -> SeqNo {
        self.header.first_seq
    }

    /// Returns one past the seq of the last entry.
    #[must_use]
    pub fn end_seq(&self) -> SeqNo {
        self.header.end_seq()
    }

    /// Returns entry `i` of the frame, counted from 0, or `None` past the last.
    #[inline]
    #[must_use]
    pub fn entry(&self, i: u32) -> Option<Bytes> {
        entry_range(self.header.count, &self.payload, i).map(|range| self.payload.slice(range))
    }

    /// Returns whether entry `i` is the last of its batch.
    #[must_use]
    pub fn ends_batch(&self, i: u32) -> bool {
        i >= self.header.count || ends_batch(self.header.count, &self.payload, i)
    }

    /// Returns the entries in order.
    #[must_use]
    pub const fn entries(&self) -> Entries<'_> {
        Entries { frame: self, next: 0 }
    }
}

#[inline]
fn table_len(count: u32) -> usize {
    if count > 1 { count as usize * 4 } else { 0 }
}

/// Returns the end of entry `i` in bytes, counted from the end of the table.
#[inline]
fn end_of(count: u32, payload: &[u8], i: u32) -> usize {
    if count == 1 { payload.len() } else { (u32_at(payload, i as usize * 4) & !BATCH_END) as usize }
}

/// Returns the range of entry `i` in the payload of a frame of `count` entries, or `None` past the
/// last entry. [`check_payload`] must have accepted the payload.
#[inline]
#[must_use]
pub fn entry_range(count: u32, payload: &[u8], i: u32) -> Option<Range<usize>> {
    (i < count).then(|| {
        let start = if i == 0 { 0 } else { end_of(count, payload, i - 1) };
        table_len(count) + start..table_len(count) + end_of(count, payload, i)
    })
}

/// Iterates over the entries of adjacent frames, as slices.
///
/// Each frame must have been validated ([`decode_header`], [`check_payload`]); it is not checked
/// again. Bytes that are not a frame end the iteration. Control frames are skipped.
// The frame cursor of the segment crate would check each header a second time and look up each
// entry in its frame. A scan of batches takes 107 instructions per entry by runs, which use this
// iterator, and 190 by single entries, which use the cursor.
#[derive(Clone, Debug)]
pub struct EntrySlices<'a> {
    /// The bytes after the current frame.
    rest: &'a [u8],
    payload: &'a [u8],
    count: u32,
    /// The index of the next entry in the frame; `at` is the offset of its bytes in the payload.
    next: u32,
    at: usize,
}

/// An entry that [`EntrySlices`] returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntrySlice<'a> {
    /// The bytes of the entry.
    pub bytes: &'a [u8],
    /// Whether the entry is the last of its batch.
    pub ends_batch: bool,
}

impl<'a> EntrySlices<'a> {
    /// Iterates over the entries of the frames in `bytes`, beginning with entry `first` of the
    /// first frame.
    #[inline]
    #[must_use]
    pub fn frames(bytes: &'a [u8], first: u32) -> Self {
        let mut entries = Self { rest: bytes, payload: &[], count: 0, next: 0, at: 0 };
        if entries.enter().is_some() && first > 0 {
            entries.next = first;
            entries.at =
                entry_range(entries.count, entries.payload, first).map_or(entries.payload.len(), |at| at.start);
        }
        entries
    }

    /// Iterates over a single entry that is given without a frame.
    #[inline]
    #[must_use]
    pub const fn one(entry: &'a [u8]) -> Self {
        Self { rest: &[], payload: entry, count: 1, next: 0, at: 0 }
    }

    /// Moves to the next frame.
    #[inline]
    fn enter(&mut self) -> Option<()> {
        let header = UnverifiedHeader::at(self.rest)?;
        let count = header.count;
        let end = usize::try_from(header.frame_len()).unwrap_or(usize::MAX);
        let payload = self.rest.get(FRAME_HEADER_LEN..)?.get(..header.payload_len as usize)?;
        self.payload = (table_len(count) <= payload.len()).then_some(payload)?;
        // The zeros after the last frame may be missing.
        self.rest = self.rest.get(end..).unwrap_or_default();
        self.count = count;
        self.next = 0;
        self.at = table_len(count);
        Some(())
    }
}

impl<'a> Iterator for EntrySlices<'a> {
    type Item = EntrySlice<'a>;

    #[inline]
    fn next(&mut self) -> Option<EntrySlice<'a>> {
        while self.next >= self.count {
            self.enter()?;
        }
        let end = if self.count == 1 {
            self.payload.len()
        } else {
            table_len(self.count) + end_of(self.count, self.payload, self.next)
        };
        let bytes = self.payload.get(self.at..end)?;
        let entry = EntrySlice { bytes, ends_batch: ends_batch(self.count, self.payload, self.next) };
        self.next += 1;
        self.at = end;
        Some(entry)
    }
}

/// Returns whether entry `i` of a frame of `count` entries is the last of its batch. `i` must be
/// below `count`, and [`check_payload`] must have accepted the payload.
#[inline]
#[must_use]
pub fn ends_batch(count: u32, payload: &[u8], i: u32) -> bool {
    count <= 1 || u32_at(payload, i as usize * 4) & BATCH_END != 0
}

/// Returns whether the table of ends is well-formed.
#[inline]
fn is_table_valid(header: &FrameHeader, payload: &[u8]) -> bool {
    let count = header.count;
    if count == 1 {
        return true;
    }
    // Computed in u64, because a header that did not come from `decode_header` may have a count
    // whose table does not fit into a `usize`.
    if u64::from(count) * 4 > payload.len() as u64 {
        return false;
    }
    let data_len = payload.len() - table_len(count);
    let mut last = 0;
    for i in 0..count {
        let end = end_of(count, payload, i);
        if end < last {
            return false;
        }
        last = end;
    }
    last == data_len && u32_at(payload, (count - 1) as usize * 4) & BATCH_END != 0
}

/// An iterator over the entries of a [`Frame`], as slices of its bytes.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    frame: &'a Frame,
    next: u32,
}

impl Iterator for Entries<'_> {
    type Item = Bytes;
    fn next(&mut self) -> Option<Bytes> {
        let entry = self.frame.entry(self.next)?;
        self.next += 1;
        Some(entry)
    }
}

/// Decodes the frame at the beginning of `bytes`, which are at `position` in the file. Checks its
/// header, its checksums and its structure.
#[must_use]
pub fn decode(bytes: &Bytes, position: &FramePosition, limits: &Limits) -> Decoded<Frame> {
    let header = match decode_header(bytes, position, limits) {
        Decoded::Frame(header) => header,
        Decoded::Incomplete { needed } => return Decoded::Incomplete { needed },
        Decoded::Blank => return Decoded::Blank,
        Decoded::Invalid(why) => return Decoded::Invalid(why),
        Decoded::Newer(what) => return Decoded::Newer(what),
    };
    let end = FRAME_HEADER_LEN + header.payload_len as usize;
    if bytes.len() < end {
        return Decoded::Incomplete { needed: header.frame_len() };
    }
    decode_payload(header, bytes.slice(FRAME_HEADER_LEN..end))
}

/// Checks the payload of a frame with a valid header, for readers that need a single entry rather
/// than a [`Frame`].
///
/// For a data frame it verifies the checksum and the table of ends. For a control frame it verifies
/// only the checksum. A payload whose length is not `payload_len` is incomplete.
#[inline]
#[must_use]
pub fn check_payload(header: &FrameHeader, payload: &[u8]) -> Decoded<()> {
    if payload.len() != header.payload_len as usize {
        return Decoded::Incomplete { needed: header.frame_len() };
    }
    if checksum::payload(payload) != header.payload_crc {
        return Decoded::Invalid(Invalid::PayloadChecksum);
    }
    match header.codec {
        Codec::Raw => {}
        Codec::Lz4 => return Decoded::Newer(Newer::Codec(1)),
        Codec::Zstd => return Decoded::Newer(Newer::Codec(2)),
    }
    if header.is_control() || is_table_valid(header, payload) {
        Decoded::Frame(())
    } else {
        Decoded::Invalid(Invalid::EntryTable)
    }
}

/// Decodes a frame from its valid header and its stored payload of `payload_len` bytes.
#[must_use]
pub fn decode_payload(header: FrameHeader, payload: Bytes) -> Decoded<Frame> {
    match check_payload(&header, &payload) {
        Decoded::Frame(()) => {}
        Decoded::Incomplete { needed } => return Decoded::Incomplete { needed },
        Decoded::Blank => return Decoded::Blank,
        Decoded::Invalid(why) => return Decoded::Invalid(why),
        Decoded::Newer(what) => return Decoded::Newer(what),
    }
    if !header.is_control() {
        return Decoded::Frame(Frame { header, payload, control: None });
    }
    match Control::decode(&payload, header.first_seq) {
        Decoded::Frame(control) => Decoded::Frame(Frame { header, payload, control: Some(control) }),
        Decoded::Newer(what) => Decoded::Newer(what),
        _ => Decoded::Invalid(Invalid::ControlPayload),
    }
}
