//! The search for valid records in bytes that the chain does not reach.
//!
//! A valid record there attests an LSN that was durable, even if the bytes before the record are
//! damaged. A length read there is hostile until the checksum holds, and many false lengths could
//! cause each byte to be read again and again. So the checksums of all ranges come from one table,
//! which takes one pass over the bytes; a range then costs a few hundred instructions, whatever its
//! length.

use bytes::Bytes;
use crc32fast::Hasher;

use crate::header::FileHeader;
use crate::record::{ALIGN, Decoded, Located, RECORD_HEADER_LEN, UnverifiedHeader};

/// The CRC-32 of every range of the bytes that begins and ends at a multiple of [`ALIGN`].
struct RangeChecksums(Vec<u32>);

impl RangeChecksums {
    fn new(bytes: &[u8]) -> Self {
        let mut sum = Hasher::new();
        let mut sums = Vec::with_capacity(bytes.len() / ALIGN as usize + 1);
        sums.push(sum.clone().finalize());
        for piece in bytes.chunks_exact(ALIGN as usize) {
            sum.update(piece);
            sums.push(sum.clone().finalize());
        }
        Self(sums)
    }

    /// The checksum of a concatenation is a linear function of the first part's checksum, XORed
    /// with the second part's. So the second part's follows from the other two.
    fn of(&self, from: usize, to: usize) -> u32 {
        let mut shifted = Hasher::new_with_initial_len(self.0[from / ALIGN as usize], from as u64);
        shifted.combine(&Hasher::new_with_initial_len(0, (to - from) as u64));
        shifted.finalize() ^ self.0[to / ALIGN as usize]
    }
}

/// Returns all valid records of a file from the offset `from` on, in order. Does not search inside
/// a valid record: an entry may look like a record.
///
/// `bytes` is the whole file. Takes time in proportion to its length.
pub(crate) fn valid_records(bytes: &Bytes, header: &FileHeader, from: usize) -> Vec<Located> {
    let bytes = bytes.slice(from.min(bytes.len())..);
    let bytes = bytes.slice(..bytes.len() / ALIGN as usize * ALIGN as usize);
    let mut found = Vec::new();
    let mut checksums = None;
    let mut at = 0;
    while at + RECORD_HEADER_LEN <= bytes.len() {
        let rest = bytes.slice(at..);
        let lsn = header.lsn_at((from + at) as u64);
        let valid = UnverifiedHeader::read(&rest, lsn).filter(|unverified| {
            let checksums = checksums.get_or_insert_with(|| RangeChecksums::new(&bytes));
            let end = at + unverified.record_len();
            let sum = checksums.of(at + RECORD_HEADER_LEN, end);
            unverified.holds_with(&rest[..RECORD_HEADER_LEN], sum, header.salt, lsn)
        });
        match valid.map(|header| header.into_record(&rest, lsn)) {
            Some(Decoded::Record(record)) => {
                at += usize::try_from(record.len).expect("invariant: the record is within the file");
                found.push(record);
            }
            _ => at += ALIGN as usize,
        }
    }
    found
}
