//! Damage that a reader has met: which entries are lost, and where the intact frames after it are.
//!
//! A frame whose payload is damaged has a valid header, so its entries and its end are known. If a
//! header is damaged, the next frame is searched for in the file. If none is found, the next point
//! of the index is where reading can begin again.

use std::ops::Range;

use stratawal_frame::{ByteOffset, SeqNo};
use stratawal_segment::{Access, FrameCursor, FrameSearch, SegmentFile};

use super::locate::OpenSegment;
use crate::error::{DamageKind, Error};
use crate::inner::Inner;

/// Where a frame of entries begins, in the file and in the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameStart {
    pub(super) offset: ByteOffset,
    pub(super) first_seq: SeqNo,
}

impl Inner {
    /// The live entries lost to the damage at which `cursor` failed.
    pub(super) fn lost_at(&self, segment: &OpenSegment, cursor: &FrameCursor) -> Range<u64> {
        let expected = cursor.next_seq().0;
        match cursor.failed_frame() {
            Some(frame) => self.live_part(frame.first_seq.0..frame.end_seq().0, segment.limit),
            None => match self.frames_after_damage(segment, cursor).into_iter().flatten().next() {
                Some(next) => self.live_part(expected..next.first_seq.0, segment.limit),
                None => self.lost_from(segment, expected),
            },
        }
    }

    /// The live entries that may be lost if the frame of `seq` is not known: those from `seq` to
    /// the next point of the index.
    pub(super) fn lost_from(&self, segment: &OpenSegment, seq: u64) -> Range<u64> {
        let next = segment.reader.next_point(seq).map_or(u64::MAX, |next| next.seq);
        self.live_part(seq..next, segment.limit)
    }

    /// The error of a segment that ends at `offset`, before its entry `expected`.
    pub(super) fn ends_early(&self, segment: &OpenSegment, offset: u64, expected: u64) -> Error {
        let id = Some(segment.reader.data().id());
        let error = Error::damage_at(&self.shared.location, DamageKind::Lost, id, Some(offset));
        error.with_lost(self.lost_from(segment, expected))
    }

    /// Returns the last frame that begins at or below `seq`, after the damage at which `cursor`
    /// failed. Reading can continue there. Returns `None` if there is no such frame, or if the
    /// payload of the frame of `seq` itself is damaged.
    pub(super) fn last_after_damage(
        &self,
        segment: &OpenSegment,
        cursor: &FrameCursor,
        seq: u64,
    ) -> Option<FrameStart> {
        if cursor.failed_frame().is_some() {
            return None;
        }
        self.frames_after_damage(segment, cursor)?.take_while(|frame| frame.first_seq.0 <= seq).last()
    }

    /// Searches the file for the frames of entries after the damage at which `cursor` failed, up to
    /// the next point of the index. Also finds frames whose payload is damaged. Returns `None` if
    /// the file cannot be opened.
    pub(super) fn frames_after_damage(
        &self,
        segment: &OpenSegment,
        cursor: &FrameCursor,
    ) -> Option<impl Iterator<Item = FrameStart> + use<>> {
        let shared = &self.shared;
        let reader = &segment.reader;
        let from = cursor.offset();
        let expected = cursor.next_seq();
        let id = reader.data().id();
        let file = SegmentFile::open(shared.context.storage(), &shared.location.dir(), id, Access::Read).ok()?;
        // The name may belong to a segment of another stream by now.
        let file = Some(file).filter(|file| file.header() == reader.data().header())?;
        let (_, span) = reader.span(expected.0);
        let mut search = FrameSearch::within(&file, from, span.end.saturating_sub(from.0));
        Some(std::iter::from_fn(move || {
            loop {
                let found = search.next_frame().ok()??;
                let frame = FrameStart { offset: found.offset, first_seq: found.header.first_seq };
                // The frame expected at `from` is the one that failed. It is left out, so that
                // reading never returns to the same place.
                let is_after = frame.first_seq > expected || frame.first_seq == expected && frame.offset > from;
                if is_after && !found.header.is_control() {
                    return Some(frame);
                }
            }
        }))
    }

    /// The part of `seqs` that is live. `seqs` belong to a segment whose limit is `limit`. The
    /// newest segment has no limit, so its entries end where the stream ends.
    pub(super) fn live_part(&self, seqs: Range<u64>, limit: u64) -> Range<u64> {
        let watermarks = &self.shared.watermarks;
        seqs.start.max(watermarks.start())..seqs.end.min(limit).min(watermarks.accepted())
    }
}
