//! Rotation: creates the successor of the active segment, and seals the active one.

use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{Footer, FooterKind, INDEX_BLOCK_LEN_MAX, SegmentHeader, SeqNo, TRAILER_LEN};
use stratawal_index::{IndexPoint, encode_points_within};
use stratawal_segment::{CONTROL_RESERVE, Preallocation};
use stratawal_sync::fail_point;

use crate::error::{Error, Result};
use crate::read::segment_reader::SegmentReader;
use crate::unsynced_files::UnsyncedFile;
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Reservation, Tail};
use crate::write::writer::{OpenSegments, UnsyncedSegment, Writer};

/// The initial file length of a successor, unless segments are shorter than this.
///
/// A stream that has filled one segment will fill another. Each growth step adds an extent to the
/// file and makes the next sync commit the file system's journal. With 64 KiB segments that takes
/// milliseconds, against 0.04 ms for a plain sync. A larger length was rejected, because a stream
/// whose entries were all dropped still occupies this much.
const SUCCESSOR_LEN: u64 = 1 << 20;

impl Writer {
    /// Creates the segment for the next entry: the first one, which also has the entries that were
    /// accepted without a segment, or the successor of the active one. Call this under the lock.
    pub(super) fn begin_segment(&mut self, tail: &mut Tail) -> Result<()> {
        if let Self::NoSegment(shared) = self {
            let start = shared.watermarks.start_in_files();
            return self.create_stream(tail, start, ReserveUse::Never);
        }
        self.drain_all(tail)?;
        let next_seq = tail.next_seq;
        let (segments, reservation) = self.open_in(tail)?;
        let successor = segments.rotate(reservation, next_seq)?;
        tail.continue_in(successor);
        Ok(())
    }
}

impl OpenSegments {
    /// Creates the successor by rule H, and then writes the SEAL that names it. No data of the
    /// predecessor is synced.
    fn rotate(&mut self, reservation: &mut Reservation, next_seq: u64) -> Result<Reservation> {
        let shared = Arc::clone(&self.shared);
        let last = SegmentReader::Live(Arc::clone(&self.active.live));
        let header = self.next_header(last.predecessor_of(next_seq), next_seq, reservation.restart)?;
        let base = self.active.writer.header().base;
        assert!(base < header.base, "a segment without entries has no successor but voids it");
        self.reserve_seal(reservation, ReserveUse::Never)?;
        let len = SUCCESSOR_LEN.min(shared.options.segment_bytes.saturating_add(CONTROL_RESERVE));
        let (writer, preallocation) = self.create(&header, len, ReserveUse::Never)?;
        self.seal(reservation, &header).map_err(Error::poisoned)?;
        let snapshot = shared.snapshot.load();
        let (sealed, successor) = self.activate(writer, preallocation, &snapshot.segments);
        self.unsynced.push_back(UnsyncedSegment {
            writer: sealed.writer,
            end_seq: sealed.end_seq,
            len: reservation.preallocation.preallocated(),
            _counted: UnsyncedFile::new(&shared.context.unsynced_files),
        });
        // Recreates the reserve if a full disk used it up or it was removed.
        shared.context.make_reserve();
        Ok(successor)
    }

    /// Reserves room for a SEAL without an index in the active file. Called before the successor is
    /// created, because until then a full disk is not a failure. A file that ends in a CLOSE has to
    /// be extended to make room.
    pub(super) fn reserve_seal(&self, reservation: &mut Reservation, reserve: ReserveUse) -> Result<()> {
        let end = self.active.writer.next_position().offset;
        let len = Footer::frame_len_max(0) + TRAILER_LEN as u64;
        self.shared.with_room(reserve, || reservation.preallocation.ensure_control(&end, len))
    }

    /// Writes the SEAL that names `next`, the successor. Its entry count stops at the base of
    /// `next`, so that this base is known even if the file of `next` is lost.
    pub(super) fn seal(&mut self, reservation: &mut Reservation, next: &SegmentHeader) -> Result<()> {
        let points = self.active.live.index.points_from(0);
        let kind = if fail_point!(SealNamesNone) {
            FooterKind::Close { previous: None }
        } else {
            FooterKind::Seal { successor: next.generation, salt: next.salt }
        };
        let end = self.end(kind, &points);
        let entries = end.entries.min(next.base - self.active.writer.header().base);
        self.finish(&mut reservation.preallocation, Footer { entries, ..end })
    }

    pub(super) fn end(&self, kind: FooterKind, points: &[IndexPoint]) -> Footer {
        let block = encode_points_within(points, INDEX_BLOCK_LEN_MAX).expect("invariant: points of an index rise");
        Footer {
            kind,
            start: SeqNo(self.shared.watermarks.start_in_files()),
            entries: self.active.end_seq - self.active.writer.header().base.0,
            times: self.active.times.unwrap_or_default(),
            index: Bytes::from(block),
        }
    }

    pub(super) fn finish(&mut self, preallocation: &mut Preallocation, end: Footer) -> Result<()> {
        let context = self.control_context();
        let result = self.active.writer.finish(preallocation, &context, end);
        result.map_err(|e| self.shared.segment_error(e))
    }
}
