//! Begins the successor of the active segment, and seals the active one.

use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{End, EndKind, Generation, INDEX_BLOCK_LEN_MAX, SegmentHeader, SeqNo, TRAILER_LEN};
use stratawal_index::{IndexPoint, encode_points_within};
use stratawal_segment::{CONTROL_RESERVE, ControlContext, Preallocation};
use stratawal_sync::fail_point;

use crate::error::{Error, Result};
use crate::read::segment_reader::SegmentReader;
use crate::unsynced_files::UnsyncedFile;
use crate::write::active::Active;
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;
use crate::write::writer::{UnsyncedSegment, Writer};

/// The length that the file of a successor begins with, if a segment is not shorter. A stream that
/// has filled one segment will fill another, and each step of growth costs the sync after it a
/// commit of the file system's journal and the file another extent: with segments of 64 KiB,
/// milliseconds where a sync takes 0.04. No more than this, because a stream whose entries were all
/// dropped holds it, too.
const SUCCESSOR_LEN: u64 = 1 << 20;

impl Writer {
    /// Creates the segment that the next entry goes into: the first one, or the successor of the
    /// active one.
    pub(crate) fn begin_segment(&mut self, tail: &mut Tail) -> Result<()> {
        if self.active.is_none() { self.create_stream(tail, tail.next_seq) } else { self.rotate(tail) }
    }

    /// The successor by rule H, then the SEAL that names it. No data of the predecessor is synced.
    pub(crate) fn rotate(&mut self, tail: &mut Tail) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let active = self.active.as_ref().expect("invariant: only a stream with a segment rotates");
        let predecessor = *active.writer.header();
        let last = SegmentReader::Live(Arc::clone(&active.live));
        let Some(generation) = predecessor.generation.0.checked_add(1).map(Generation) else {
            return Err(self.used_up());
        };
        let header = self.header(
            predecessor.stream_id,
            generation,
            last.predecessor_of(tail.next_seq),
            tail.next_seq,
            tail.restart,
        );
        assert!(predecessor.base < header.base, "a segment without entries has no successor but voids it");
        self.reserve_seal(tail, ReserveUse::Never)?;
        let len = SUCCESSOR_LEN.min(shared.options.segment_len.saturating_add(CONTROL_RESERVE));
        let (writer, preallocation) = self.create(&header, len, ReserveUse::Never)?;
        let reservation = tail.reservation.as_mut().expect("invariant: a stream with a segment takes reservations");
        self.seal(&mut reservation.preallocation, &header).map_err(Error::poisoned)?;
        let sealed = self.active.take().expect("invariant: it was there above");
        let len = reservation.preallocation.preallocated();
        self.unsynced.push_back(UnsyncedSegment {
            writer: sealed.writer,
            end_seq: sealed.end_seq,
            len,
            _counted: UnsyncedFile::new(&shared.context.unsynced_files),
        });
        let snapshot = shared.snapshot.load();
        self.activate_segment(tail, writer, preallocation, &snapshot.segments);
        // After a full disk, or where it was removed, it comes back here.
        shared.context.make_reserve();
        Ok(())
    }

    /// Makes sure of the room for a SEAL without index in the active file, before a successor is
    /// created: a full disk is no failure until then. A file that was closed has to grow for it.
    pub(crate) fn reserve_seal(&self, tail: &mut Tail, reserve: ReserveUse) -> Result<()> {
        let active = self.active.as_ref().expect("invariant: only a stream with a segment seals it");
        let reservation = tail.reservation.as_mut().expect("invariant: a stream with a segment takes reservations");
        let len = End::frame_len_max(0) + TRAILER_LEN as u64;
        self.with_room(reserve, || reservation.preallocation.ensure_control(&active.writer.next_position().offset, len))
    }

    /// Writes the SEAL that names `next`, the segment that follows. It counts the entries below the
    /// base of that one, so that the base is known even if the file of that segment is lost.
    pub(crate) fn seal(&mut self, preallocation: &mut Preallocation, next: &SegmentHeader) -> Result<()> {
        let active = self.active.as_ref().expect("invariant: only a stream with a segment seals it");
        let points = active.live.index.points_from(0);
        let kind = if fail_point!(SealNamesNone) {
            EndKind::Close { previous: None }
        } else {
            EndKind::Seal { successor: next.generation, salt: next.salt }
        };
        let end = self.end(kind, active, &points);
        let entries = end.entries.min(next.base - active.writer.header().base);
        self.finish(preallocation, End { entries, ..end })
    }

    pub(super) fn end(&self, kind: EndKind, active: &Active, points: &[IndexPoint]) -> End {
        let block = encode_points_within(points, INDEX_BLOCK_LEN_MAX).expect("invariant: points of an index rise");
        End {
            kind,
            start: SeqNo(self.shared.watermarks.start()),
            entries: active.end_seq - active.writer.header().base.0,
            times: active.times.unwrap_or_default(),
            index: Bytes::from(block),
        }
    }

    pub(super) fn finish(&mut self, preallocation: &mut Preallocation, end: End) -> Result<()> {
        let active = self.active.as_mut().expect("invariant: only a stream with a segment finishes it");
        let tail = ControlContext {
            next_seq: SeqNo(active.end_seq),
            timestamp: self.timestamp,
            durable: SeqNo(self.shared.watermarks.durable()),
        };
        let result = active.writer.finish(preallocation, &tail, end);
        result.map_err(|e| Error::segment_error(&self.shared.location, e))
    }
}
