//! Records: how they are written, and when bytes are a valid record.
//!
//! A record is valid if and only if (1) it begins at a multiple of 16 after the header block, (2)
//! its reserved bytes are zero and its unsynced distance is not above its LSN, (3) it ends within
//! the file, (4) its checksum holds, and (5) its payload has the form of its kind. The checksum
//! covers the file's salt and the LSN, so a record from another file, from another position, or
//! from an earlier use of the same blocks is not valid.
//!
//! Whether the end of the valid records is a torn tail or damage is decided in `replay`, which
//! compares the chain with the greatest attestation.

use bytes::Bytes;
use stratawal_frame::{Salt, SeqNo, StreamId};

use crate::lsn::{Lsn, u16_at, u32_at, u64_at};

// Record:      at  bytes
//               0    4   checksum: CRC-32 over salt, LSN, bytes 0..16 with this field zero, payload, padding
//               4    1   kind
//               5    3   zero
//               8    4   payload length, without the padding
//              12    4   unsynced: LSN minus the durable LSN when the record was written
//              16    …   payload, then zeros to a multiple of 16
const AT_KIND: usize = 4;
const AT_ZERO: usize = AT_KIND + 1;
const AT_LEN: usize = AT_ZERO + 3;
const AT_UNSYNCED: usize = AT_LEN + 4;

/// The number of bytes before a record's payload.
pub(crate) const RECORD_HEADER_LEN: usize = AT_UNSYNCED + 4;
const _: () = assert!(RECORD_HEADER_LEN == 16);

/// Records begin at multiples of this many bytes. So a checksum covers a multiple of 16 bytes, the
/// lengths for which CRC-32 is fastest.
pub const ALIGN: u64 = 16;

// Part of a DATA or COPY:
//              at  bytes
//               0    8   stream id
//               8    8   seq of the first entry
//              16    8   timestamp of the first entry, microseconds since 1970
//              24    4   count of entries, at least 1
//              28    4   body length
//              32    2   name length; 0: the part has no name
//              34    1   flags: bit 0 firm
//              35    5   zero
//              40    …   name, then zeros to a multiple of 8; body, then zeros to a multiple of 8
const PART_COUNT: usize = 24;
const PART_BODY_LEN: usize = PART_COUNT + 4;
const PART_NAME_LEN: usize = PART_BODY_LEN + 4;
const PART_FLAGS: usize = PART_NAME_LEN + 2;
const PART_ZERO: usize = PART_FLAGS + 1;
const PART_HEADER_LEN: usize = PART_ZERO + 5;
const _: () = assert!(PART_HEADER_LEN == 40);

const FLAG_FIRM: u8 = 1;

/// The length in bytes of the salt and the LSN, which the checksum covers before the record.
const PREFIX_LEN: usize = 16;

/// Consecutive entries of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The stream.
    pub stream: StreamId,
    /// The name of the stream, at most 65,535 bytes. The first part of a stream in each file has
    /// it, and so does every part of a stream that has no directory yet.
    pub name: Option<Bytes>,
    /// The seq of the first entry.
    pub first: SeqNo,
    /// How many entries the body holds, at least 1. `first + count` is at most 2^64 - 1.
    pub count: u32,
    /// The time of the first entry, in microseconds since 1970.
    pub timestamp: u64,
    /// Whether a promise of durability may rest on this part. Recovery treats a gap below a firm
    /// part as damage. A gap before a loose part is lawful: no promise rests on the missing
    /// entries.
    pub firm: bool,
    /// The entries, encoded by the caller. This crate does not look inside.
    pub body: Bytes,
}

impl Part {
    /// One past the seq of the last entry.
    #[must_use]
    pub fn end(&self) -> SeqNo {
        self.first + u64::from(self.count)
    }

    fn encoded_len(&self) -> usize {
        self.as_ref().encoded_len()
    }

    /// The part, with the body in one piece.
    pub(crate) fn as_ref(&self) -> PartRef<'_> {
        PartRef {
            stream: self.stream,
            name: self.name.as_deref().unwrap_or_default(),
            first: self.first,
            count: self.count,
            timestamp: self.timestamp,
            firm: self.firm,
            body: [&self.body, &[]],
        }
    }

    fn decode(payload: &Bytes, at: usize) -> Option<(Self, usize)> {
        let bytes = payload.get(at..)?;
        let header = bytes.get(..PART_HEADER_LEN)?;
        let name_len = usize::from(u16_at(header, PART_NAME_LEN));
        let body_len = usize::try_from(u32_at(header, PART_BODY_LEN)).ok()?;
        let body_at = PART_HEADER_LEN + name_len.next_multiple_of(8);
        let len = body_at + body_len.next_multiple_of(8);
        let bytes = bytes.get(..len)?;
        let gaps = [&header[PART_ZERO..], &bytes[PART_HEADER_LEN + name_len..body_at], &bytes[body_at + body_len..]];
        let flags = header[PART_FLAGS];
        if flags & !FLAG_FIRM != 0 || gaps.iter().any(|gap| gap.iter().any(|&byte| byte != 0)) {
            return None;
        }
        let slice = |from: usize, len: usize| payload.slice(at + from..at + from + len);
        let part = Self {
            stream: StreamId(u64_at(header, 0)),
            name: (name_len > 0).then(|| slice(PART_HEADER_LEN, name_len)),
            first: SeqNo(u64_at(header, 8)),
            count: u32_at(header, PART_COUNT),
            timestamp: u64_at(header, 16),
            firm: flags & FLAG_FIRM != 0,
            body: slice(body_at, body_len),
        };
        part.is_valid().then_some((part, at + len))
    }

    /// Checks the rules that the types do not express.
    fn is_valid(&self) -> bool {
        self.name.as_ref().is_none_or(|name| !name.is_empty()) && self.as_ref().is_valid()
    }
}

/// A [`Part`] whose bytes are elsewhere. An appender puts it without allocating memory.
#[derive(Clone, Copy, Debug)]
pub struct PartRef<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The name of the stream, at most 65,535 bytes.
    pub name: &'a [u8],
    /// The seq of the first entry.
    pub first: SeqNo,
    /// How many entries the body holds, at least 1. `first + count` is at most 2^64 - 1.
    pub count: u32,
    /// The time of the first entry, in microseconds since 1970.
    pub timestamp: u64,
    /// See [`Part::firm`].
    pub firm: bool,
    /// The two pieces of the body, which are stored one after the other.
    pub body: [&'a [u8]; 2],
}

impl PartRef<'_> {
    /// A copy that owns its bytes.
    #[must_use]
    pub fn to_part(&self) -> Part {
        let name = (!self.name.is_empty()).then(|| Bytes::copy_from_slice(self.name));
        let Self { stream, first, count, timestamp, firm, .. } = *self;
        Part { stream, name, first, count, timestamp, firm, body: self.body.concat().into() }
    }

    fn body_len(&self) -> usize {
        self.body[0].len() + self.body[1].len()
    }

    fn encoded_len(&self) -> usize {
        PART_HEADER_LEN + self.name.len().next_multiple_of(8) + self.body_len().next_multiple_of(8)
    }

    /// The length in bytes of the record that has only this part.
    pub(crate) fn record_len(&self) -> u64 {
        (RECORD_HEADER_LEN + self.encoded_len()).next_multiple_of(ALIGN as usize) as u64
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.count > 0
            && self.first.checked_add(u64::from(self.count)).is_some()
            && self.name.len() <= usize::from(u16::MAX)
            && u32::try_from(self.body_len()).is_ok()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let name_len = u16::try_from(self.name.len()).expect("invariant: the length was checked in `is_valid`");
        let body_len = u32::try_from(self.body_len()).expect("invariant: the length was checked in `is_valid`");
        out.extend_from_slice(&self.stream.0.to_le_bytes());
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.timestamp.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&body_len.to_le_bytes());
        out.extend_from_slice(&name_len.to_le_bytes());
        out.push(if self.firm { FLAG_FIRM } else { 0 });
        out.extend_from_slice(&[0; PART_HEADER_LEN - PART_ZERO]);
        push_padded(out, self.name, 8);
        out.extend_from_slice(self.body[0]);
        out.extend_from_slice(self.body[1]);
        let padding = self.body_len().next_multiple_of(8) - self.body_len();
        out.extend_from_slice(&[0; 8][..padding]);
    }

    /// Encodes the record that has only this part, like [`Record::encode`].
    pub(crate) fn encode_record(&self, kind: RecordKind, out: &mut Vec<u8>, salt: Salt, lsn: Lsn, durable: Lsn) {
        let kind = match kind {
            RecordKind::Data => DATA,
            RecordKind::Copy => COPY,
        };
        begin(out, kind, self.encoded_len(), salt, lsn, durable);
        self.encode(out);
        finish(out);
    }
}

/// The kind of a record that has parts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RecordKind {
    Data,
    Copy,
}

/// Begins a record in `out`, replacing its content: the prefix of the checksum, and the header.
fn begin(out: &mut Vec<u8>, kind: u8, payload_len: usize, salt: Salt, lsn: Lsn, durable: Lsn) {
    let payload_len = u32::try_from(payload_len).expect("invariant: no record is longer than a file");
    let unsynced = u32::try_from(lsn - durable).expect("invariant: a journal is shorter than 4 GiB");
    out.clear();
    out.extend_from_slice(&salt.0.to_le_bytes());
    out.extend_from_slice(&lsn.0.to_le_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0]);
    out.extend_from_slice(&payload_len.to_le_bytes());
    out.extend_from_slice(&unsynced.to_le_bytes());
}

/// Pads the record in `out`, and writes its checksum.
fn finish(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGN as usize), 0);
    let checksum = crc32fast::hash(out);
    out[PREFIX_LEN..PREFIX_LEN + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Entries. Several parts are one atomic batch across their streams.
    Data(Vec<Part>),
    /// Parts copied to the end of the journal, so that older files can be released. They are
    /// independent of each other.
    Copy(Vec<Part>),
    /// A promise of durability rests on every entry of the stream below `seq`.
    Firm {
        /// The stream.
        stream: StreamId,
        /// One past the last promised entry.
        seq: SeqNo,
    },
    /// The first live seq of the stream. Of several, the greatest counts.
    Start {
        /// The stream.
        stream: StreamId,
        /// The first live seq.
        seq: SeqNo,
        /// The name of the stream, not empty. The record may be the only one of its stream.
        name: Option<Bytes>,
    },
    /// Every earlier record of the stream is void: its own files durably hold all live entries.
    Settled {
        /// The stream.
        stream: StreamId,
        /// One past the last entry of its files.
        seq: SeqNo,
    },
    /// The stream is deleted. The deletion is committed once this record is durable.
    Drop {
        /// The stream; 0 means every id that the journal has for the name.
        stream: StreamId,
        /// Its name.
        name: Bytes,
    },
    /// No record below `lsn` is needed.
    Trim {
        /// The LSN.
        lsn: Lsn,
    },
    /// Attests the durable LSN, and has no other effect. The next record is written over it.
    Mark,
    /// A clean end: no record before it is needed.
    Close,
    /// The log continues in the next file. The last record of every file except the newest.
    Next,
    /// Fills space, and has no other effect.
    Pad {
        /// How many zeros the payload has.
        zeros: u32,
    },
}

const DATA: u8 = 1;
const COPY: u8 = 2;
const FIRM: u8 = 3;
const START: u8 = 4;
const SETTLED: u8 = 5;
const DROP: u8 = 6;
const TRIM: u8 = 7;
const MARK: u8 = 8;
const CLOSE: u8 = 9;
const NEXT: u8 = 10;
const PAD: u8 = 11;

/// The length in bytes of a NEXT record.
pub(crate) const NEXT_LEN: u64 = RECORD_HEADER_LEN as u64;

impl Record {
    /// Whether the record may use the space reserved at the end of every file, because it frees
    /// space, ends the log, attests, or states that a stream has a directory.
    pub(crate) const fn is_control(&self) -> bool {
        !matches!(self, Self::Data(_) | Self::Copy(_) | Self::Firm { seq: SeqNo(1..), .. })
    }

    /// Whether only the journal writes such a record: its meaning depends on its place.
    pub(crate) const fn is_internal(&self) -> bool {
        matches!(self, Self::Trim { .. } | Self::Mark | Self::Close | Self::Next | Self::Pad { .. })
    }

    /// A record that fills `len` bytes, a multiple of [`ALIGN`] that is not 0.
    pub(crate) fn pad(len: u64) -> Self {
        let zeros = len.saturating_sub(RECORD_HEADER_LEN as u64);
        Self::Pad { zeros: u32::try_from(zeros).expect("invariant: no gap is longer than a file") }
    }

    /// The names of streams that the record gives, except that of a deleted stream.
    pub(crate) fn names(&self) -> impl Iterator<Item = (StreamId, &Bytes)> {
        let of_parts = self.parts().iter().filter_map(|part| part.name.as_ref().map(|name| (part.stream, name)));
        let of_start = match self {
            Self::Start { stream, name: Some(name), .. } => Some((*stream, name)),
            _ => None,
        };
        of_parts.chain(of_start)
    }

    /// The parts of a DATA or COPY. Empty for any other kind.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        match self {
            Self::Data(parts) | Self::Copy(parts) => parts,
            _ => &[],
        }
    }

    /// The length of the encoded record in bytes, a multiple of [`ALIGN`].
    #[must_use]
    pub fn encoded_len(&self) -> u64 {
        (RECORD_HEADER_LEN + self.payload_len()).next_multiple_of(ALIGN as usize) as u64
    }

    fn payload_len(&self) -> usize {
        match self {
            Self::Data(parts) | Self::Copy(parts) => parts.iter().map(Part::encoded_len).sum(),
            Self::Firm { .. } | Self::Settled { .. } => 16,
            Self::Start { name, .. } => 16 + name.as_ref().map_or(0, |name| 8 + name.len()),
            Self::Drop { name, .. } => 16 + name.len(),
            Self::Trim { .. } => 8,
            Self::Mark | Self::Close | Self::Next => 0,
            Self::Pad { zeros } => *zeros as usize,
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Data(_) => DATA,
            Self::Copy(_) => COPY,
            Self::Firm { .. } => FIRM,
            Self::Start { .. } => START,
            Self::Settled { .. } => SETTLED,
            Self::Drop { .. } => DROP,
            Self::Trim { .. } => TRIM,
            Self::Mark => MARK,
            Self::Close => CLOSE,
            Self::Next => NEXT,
            Self::Pad { .. } => PAD,
        }
    }

    /// Whether a reader would accept the record.
    pub(crate) fn is_valid(&self) -> bool {
        match self {
            Self::Data(parts) | Self::Copy(parts) => {
                // Recovery drops a loose part that follows a gap, which would split an atomic
                // batch. So several parts of a DATA must all be firm.
                let is_whole = matches!(self, Self::Copy(_)) || parts.len() == 1 || parts.iter().all(|part| part.firm);
                !parts.is_empty() && is_whole && parts.iter().all(Part::is_valid)
            }
            Self::Drop { name, .. } | Self::Start { name: Some(name), .. } => {
                !name.is_empty() && name.len() <= usize::from(u16::MAX)
            }
            Self::Trim { lsn } => lsn.0.is_multiple_of(ALIGN),
            _ => true,
        }
    }

    /// Encodes the record into `out`, replacing its content, as it is stored at `lsn` in a file
    /// with `salt`. `durable` is the current durable LSN, at most `lsn`. [`encoded`] returns the
    /// record's bytes in `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, salt: Salt, lsn: Lsn, durable: Lsn) {
        begin(out, self.kind(), self.payload_len(), salt, lsn, durable);
        match self {
            Self::Data(parts) | Self::Copy(parts) => parts.iter().for_each(|part| part.as_ref().encode(out)),
            Self::Firm { stream, seq } | Self::Start { stream, seq, .. } | Self::Settled { stream, seq } => {
                out.extend_from_slice(&stream.0.to_le_bytes());
                out.extend_from_slice(&seq.0.to_le_bytes());
                if let Self::Start { name: Some(name), .. } = self {
                    push_name(out, name);
                }
            }
            Self::Drop { stream, name } => {
                out.extend_from_slice(&stream.0.to_le_bytes());
                push_name(out, name);
            }
            Self::Trim { lsn } => out.extend_from_slice(&lsn.0.to_le_bytes()),
            Self::Mark | Self::Close | Self::Next => {}
            Self::Pad { zeros } => out.resize(out.len() + *zeros as usize, 0),
        }
        finish(out);
    }

    fn decode_payload(kind: u8, payload: &Bytes) -> Option<Self> {
        let stream_and_seq =
            || (payload.len() == 16).then(|| (StreamId(u64_at(payload, 0)), SeqNo(u64_at(payload, 8))));
        let record = match kind {
            DATA => Self::Data(decode_parts(payload)?),
            COPY => Self::Copy(decode_parts(payload)?),
            FIRM => stream_and_seq().map(|(stream, seq)| Self::Firm { stream, seq })?,
            START => {
                let name = if payload.len() == 16 { None } else { Some(decode_name(payload, 16)?) };
                let stream = StreamId(u64_at(payload, 0));
                Self::Start { stream, seq: SeqNo(u64_at(payload, 8)), name }
            }
            SETTLED => stream_and_seq().map(|(stream, seq)| Self::Settled { stream, seq })?,
            DROP => Self::Drop { name: decode_name(payload, 8)?, stream: StreamId(u64_at(payload, 0)) },
            TRIM => (payload.len() == 8).then(|| Self::Trim { lsn: Lsn(u64_at(payload, 0)) })?,
            MARK => payload.is_empty().then_some(Self::Mark)?,
            CLOSE => payload.is_empty().then_some(Self::Close)?,
            NEXT => payload.is_empty().then_some(Self::Next)?,
            PAD => {
                let zeros = u32::try_from(payload.len()).ok()?;
                payload.iter().all(|&byte| byte == 0).then_some(Self::Pad { zeros })?
            }
            _ => return None,
        };
        record.is_valid().then_some(record)
    }
}

/// The bytes of the record that [`Record::encode`] left in `out`.
pub(crate) fn encoded(out: &[u8]) -> &[u8] {
    &out[PREFIX_LEN..]
}

/// Ends a payload with the name of a stream: its length, 2 bytes; 6 zeros; the name.
fn push_name(out: &mut Vec<u8>, name: &[u8]) {
    let len = u16::try_from(name.len()).expect("invariant: the length was checked in `is_valid`");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(name);
}

/// The name at `at`, which is the end of the payload.
fn decode_name(payload: &Bytes, at: usize) -> Option<Bytes> {
    let header = payload.get(at..at + 8)?;
    let exact = payload.len() == at + 8 + usize::from(u16_at(header, 0));
    let zeros = header[2..].iter().all(|&byte| byte == 0);
    (exact && zeros).then(|| payload.slice(at + 8..))
}

fn push_padded(out: &mut Vec<u8>, bytes: &[u8], align: usize) {
    out.extend_from_slice(bytes);
    out.resize(out.len() + bytes.len().next_multiple_of(align) - bytes.len(), 0);
}

fn decode_parts(payload: &Bytes) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let (part, end) = Part::decode(payload, at)?;
        parts.push(part);
        at = end;
    }
    Some(parts)
}

/// The header of a record, not yet verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnverifiedHeader {
    pub(crate) kind: u8,
    checksum: u32,
    payload_len: usize,
    unsynced: u64,
}

impl UnverifiedHeader {
    /// Reads the header at the beginning of `bytes`, which extend to the end of the file. Returns
    /// `None` if no record of this format can begin there, whatever its checksum.
    pub(crate) fn read(bytes: &[u8], lsn: Lsn) -> Option<Self> {
        let header = bytes.get(..RECORD_HEADER_LEN)?;
        let payload_len = usize::try_from(u32_at(header, AT_LEN)).ok()?;
        let unsynced = u64::from(u32_at(header, AT_UNSYNCED));
        let this = Self { kind: header[AT_KIND], checksum: u32_at(header, 0), payload_len, unsynced };
        let possible = this.kind != 0 && header[AT_ZERO..AT_LEN] == [0; 3] && unsynced <= lsn.0;
        (possible && this.record_len() <= bytes.len()).then_some(this)
    }

    /// The length in bytes that the header at the beginning of `bytes` states, if it may be a
    /// header.
    pub(crate) fn len_at(bytes: &[u8]) -> Option<u64> {
        let header = bytes.get(..RECORD_HEADER_LEN)?;
        let len = RECORD_HEADER_LEN as u64 + u64::from(u32_at(header, AT_LEN));
        (header[AT_KIND] != 0).then_some(len.next_multiple_of(ALIGN))
    }

    /// The length of the record in bytes, a multiple of [`ALIGN`].
    pub(crate) fn record_len(&self) -> usize {
        (RECORD_HEADER_LEN + self.payload_len).next_multiple_of(ALIGN as usize)
    }

    /// Whether the stored checksum matches the record at the beginning of `bytes`.
    pub(crate) fn holds(&self, bytes: &[u8], salt: Salt, lsn: Lsn) -> bool {
        self.checksum_of(bytes, salt, lsn) == self.checksum
    }

    /// Computes the checksum of the record at the beginning of `bytes`.
    pub(crate) fn checksum_of(&self, bytes: &[u8], salt: Salt, lsn: Lsn) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&checksummed_head(&bytes[..RECORD_HEADER_LEN], salt, lsn));
        sum.update(&bytes[RECORD_HEADER_LEN..self.record_len()]);
        sum.finalize()
    }

    /// Like [`holds`](Self::holds), but takes the CRC-32 of the bytes after the header.
    pub(crate) fn holds_with(&self, header: &[u8], rest: u32, salt: Salt, lsn: Lsn) -> bool {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&checksummed_head(header, salt, lsn));
        let rest_len = (self.record_len() - RECORD_HEADER_LEN) as u64;
        sum.combine(&crc32fast::Hasher::new_with_initial_len(rest, rest_len));
        sum.finalize() == self.checksum
    }

    /// Decodes the record of a header whose checksum holds. The result is `Invalid` if the payload
    /// does not have the form of its kind.
    pub(crate) fn into_record(self, bytes: &Bytes, lsn: Lsn) -> Decoded {
        let payload_end = RECORD_HEADER_LEN + self.payload_len;
        let attested = Lsn(lsn.0 - self.unsynced);
        let len = self.record_len() as u64;
        let padding = &bytes[payload_end..self.record_len()];
        if self.kind > PAD {
            return Decoded::Newer { kind: self.kind };
        }
        if padding.iter().any(|&byte| byte != 0) {
            return Decoded::Invalid;
        }
        match Record::decode_payload(self.kind, &bytes.slice(RECORD_HEADER_LEN..payload_end)) {
            Some(record) => Decoded::Record(Located { lsn, len, attested, record }),
            None => Decoded::Invalid,
        }
    }
}

fn checksummed_head(header: &[u8], salt: Salt, lsn: Lsn) -> [u8; PREFIX_LEN + RECORD_HEADER_LEN] {
    let mut head = [0; PREFIX_LEN + RECORD_HEADER_LEN];
    head[..8].copy_from_slice(&salt.0.to_le_bytes());
    head[8..PREFIX_LEN].copy_from_slice(&lsn.0.to_le_bytes());
    head[PREFIX_LEN + AT_KIND..].copy_from_slice(&header[AT_KIND..]);
    head
}

/// A record and its position in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The LSN at which it begins.
    pub lsn: Lsn,
    /// Its length in bytes.
    pub len: u64,
    /// Everything below this LSN was durable when the record was written.
    pub attested: Lsn,
    /// The record.
    pub record: Record,
}

impl Located {
    /// The LSN at which the next record begins.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.lsn + self.len
    }
}

/// The decoded bytes at some position of a journal file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A valid record.
    Record(Located),
    /// Zeros, or the end of the file: nothing was written here.
    Blank,
    /// A record with a valid checksum and a kind that this version does not know.
    Newer {
        /// The kind.
        kind: u8,
    },
    /// Anything else.
    Invalid,
}

/// Decodes the beginning of `bytes`, which start at `lsn` in a file with `salt` and extend to the
/// end of the file. Takes time in proportion to the length of the record.
pub(crate) fn decode(bytes: &Bytes, salt: Salt, lsn: Lsn) -> Decoded {
    if bytes.iter().take(RECORD_HEADER_LEN).all(|&byte| byte == 0) {
        return Decoded::Blank;
    }
    match UnverifiedHeader::read(bytes, lsn) {
        Some(header) if header.holds(bytes, salt, lsn) => header.into_record(bytes, lsn),
        _ => Decoded::Invalid,
    }
}
