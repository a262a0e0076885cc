//! Checks that the segments of a stream were written in sequence ("One history" in the format's
//! FORMAT.md).
//!
//! If two copies of a log are both continued, their segments have the same generations, bases and
//! stream id. So a header names its predecessor by generation and salt, and a SEAL names its
//! successor. But both copies may also continue the same segment file, whose salt does not change
//! while it grows. So a header also records the checksum of the last frame before it, which differs
//! in the other copy.

use stratawal_frame::{ByteOffset, FooterKind, Generation, Salt, SegmentHeader, SeqNo};
use stratawal_index::IndexPoint;
use stratawal_segment::{FooterSummary, SegmentData};
use stratawal_sync::fail_point;

/// The predecessor of a segment, as a header records it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Predecessor {
    pub(crate) generation: Generation,
    pub(crate) salt: Salt,
    /// The header checksum of its last frame, or 0 if not recorded.
    pub(crate) frame_crc: u32,
}

impl Predecessor {
    pub(crate) const NONE: Self = Self { generation: Generation(0), salt: Salt(0), frame_crc: 0 };

    /// The segment with this header, if its last frame cannot be read.
    pub(crate) const fn unread(header: &SegmentHeader) -> Self {
        Self { generation: header.generation, salt: header.salt, frame_crc: 0 }
    }

    /// The segment of `data`. Searches from `point` for the frame that holds the entry before
    /// `base`.
    pub(crate) fn from_point(data: &SegmentData, point: IndexPoint, base: u64) -> Self {
        Self { frame_crc: last_frame_crc(data, point, base).unwrap_or(0), ..Self::unread(data.header()) }
    }
}

/// Returns the header checksum of the frame that holds the entry before `base`, or `None` if there
/// is no such frame or it cannot be read. In the latter case, reading that entry reports why.
pub(crate) fn last_frame_crc(data: &SegmentData, point: IndexPoint, base: u64) -> Option<u32> {
    let last = base.checked_sub(1)?;
    data.header_crc_of(ByteOffset(point.offset), SeqNo(point.seq), SeqNo(last)).ok().flatten()
}

/// Whether the header `next` names a segment with the generation of `before` but a different salt.
pub(crate) fn contradicts_header(before: &SegmentHeader, next: &SegmentHeader) -> bool {
    let is_other = next.predecessor == before.generation && next.predecessor_salt != before.salt;
    is_other && !fail_point!(SaltsIgnored)
}

/// Whether a segment with this footer cannot have `next` as its live successor.
pub(crate) fn contradicts_footer(footer: &FooterSummary, next: &SegmentHeader) -> bool {
    match footer.kind {
        // A writer durably extends the file before it writes anything after a CLOSE.
        FooterKind::Close { .. } => true,
        FooterKind::Seal { successor, salt } => {
            let is_other = successor == next.generation && salt != next.salt && !fail_point!(SaltsIgnored);
            // The successor may be older than `next` and void, but cannot be missing.
            successor > next.generation || is_other || footer.end_seq < next.base
        }
    }
}

/// Whether the last frame before `next` (its header checksum is `crc`) differs from the one that
/// `next` records.
pub(crate) const fn contradicts_frame(crc: u32, next: &SegmentHeader) -> bool {
    next.predecessor_frame_crc != 0 && next.predecessor_frame_crc != crc
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: SegmentHeader = SegmentHeader { generation: Generation(3), salt: Salt(30), ..SegmentHeader::EMPTY };

    const NEXT: SegmentHeader = SegmentHeader {
        generation: Generation(4),
        salt: Salt(40),
        base: SeqNo(100),
        predecessor: Generation(3),
        predecessor_salt: Salt(30),
        predecessor_frame_crc: 7,
        ..SegmentHeader::EMPTY
    };

    fn seal(successor: u32, salt: u64, end_seq: u64) -> FooterSummary {
        let kind = FooterKind::Seal { successor: Generation(successor), salt: Salt(salt) };
        FooterSummary { end_seq: SeqNo(end_seq), kind }
    }

    #[test]
    fn a_header_names_its_predecessor_by_its_salt() {
        assert!(!contradicts_header(&FIRST, &NEXT));
        assert!(contradicts_header(&SegmentHeader { salt: Salt(31), ..FIRST }, &NEXT));
        // A gap is a different kind of damage.
        assert!(!contradicts_header(&SegmentHeader { generation: Generation(2), salt: Salt(31), ..FIRST }, &NEXT));
    }

    #[test]
    fn a_seal_names_its_successor_by_its_salt() {
        assert!(!contradicts_footer(&seal(4, 40, 100), &NEXT));
        assert!(contradicts_footer(&seal(4, 41, 100), &NEXT));
    }

    #[test]
    fn the_successor_in_a_seal_may_be_void_not_missing() {
        assert!(!contradicts_footer(&seal(3, 99, 100), &NEXT));
        assert!(contradicts_footer(&seal(5, 40, 100), &NEXT));
    }

    #[test]
    fn a_sealed_segment_reaches_the_base_of_the_next() {
        assert!(!contradicts_footer(&seal(4, 40, 101), &NEXT));
        assert!(contradicts_footer(&seal(4, 40, 99), &NEXT));
    }

    #[test]
    fn nothing_follows_a_close() {
        let close = FooterSummary { end_seq: SeqNo(100), kind: FooterKind::Close { previous: None } };
        assert!(contradicts_footer(&close, &NEXT));
    }

    #[test]
    fn a_stated_frame_checksum_must_be_that_of_the_frame() {
        assert!(!contradicts_frame(7, &NEXT));
        assert!(contradicts_frame(8, &NEXT));
        assert!(!contradicts_frame(8, &SegmentHeader { predecessor_frame_crc: 0, ..NEXT }));
    }
}
