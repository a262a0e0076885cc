//! Makes segments durable, and moves the durable watermark.

use std::sync::Arc;

use stratawal_frame::SeqNo;
use stratawal_segment::{Access, ControlContext, SegmentFile};
use stratawal_sync::fail_point;

use crate::error::Result;
use crate::read::snapshot::Snapshot;
use crate::shared::Shared;
use crate::write::writer::{OpenSegments, Writer, sealed};

impl Writer {
    /// Whether finished segments hold more unsynced bytes than they may.
    pub(super) fn is_past_bound(&self) -> bool {
        matches!(self, Self::Open(segments) if segments.is_past_bound())
    }

    /// Past the bound, settles the oldest.
    pub(super) fn settle_past_bound(&mut self) -> Result<()> {
        match self {
            Self::Open(segments) => segments.settle_past_bound(),
            Self::NoSegment(_) => Ok(()),
        }
    }
}

impl OpenSegments {
    /// Makes everything drained durable, oldest first, lets the watermark pass, and marks it.
    pub(super) fn settle(&mut self) -> Result<()> {
        while !self.unsynced.is_empty() && !fail_point!(UnsyncedPassed) {
            self.settle_oldest()?;
        }
        let end_seq =
            if fail_point!(LateArrivalCovered) { self.shared.watermarks.accepted() } else { self.active.end_seq };
        if end_seq <= self.shared.watermarks.durable() {
            return Ok(());
        }
        fail_point!(AttestedBeforeSync, self.advance_durable(end_seq)?);
        if !fail_point!(AcknowledgedBeforeSync) {
            self.active.writer.sync().map_err(|e| self.shared.segment_error(e))?;
        }
        self.advance_durable(end_seq)
    }

    /// The same, and whatever else stands in the active segment: a START moves no watermark.
    pub(super) fn settle_all(&mut self) -> Result<()> {
        self.settle_finished()?;
        self.active.writer.sync().map_err(|e| self.shared.segment_error(e))?;
        self.advance_durable(self.active.end_seq)
    }

    /// Makes the finished segments durable, oldest first.
    pub(super) fn settle_finished(&mut self) -> Result<()> {
        while !self.unsynced.is_empty() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    /// Syncs the oldest finished segment and shortens it to its SEAL; the watermark passes to its
    /// end.
    fn settle_oldest(&mut self) -> Result<()> {
        let Some(oldest) = self.unsynced.front() else { return Ok(()) };
        let Shared { context, location, .. } = &*self.shared;
        let synced = if fail_point!(DescriptorClosed) {
            let reopened = SegmentFile::open(context.storage(), &location.dir(), oldest.writer.id(), Access::ReadWrite);
            reopened.and_then(|file| file.sync())
        } else {
            oldest.writer.sync()
        };
        synced.map_err(|e| self.shared.segment_error(e))?;
        oldest.writer.trim_to_trailer().map_err(|e| self.shared.segment_error(e))?;
        let id = oldest.writer.id();
        let end_seq = oldest.end_seq;
        // Published before the descriptor goes: readers open the segment anew from here on.
        let snapshot = self.shared.snapshot.load();
        let segments = snapshot
            .segments
            .iter()
            .map(|segment| if segment.id() == id { sealed(segment) } else { Arc::clone(segment) });
        self.shared.snapshot.store(Arc::new(Snapshot::new(segments.collect())));
        self.unsynced.pop_front();
        if end_seq > self.shared.watermarks.durable() { self.advance_durable(end_seq) } else { Ok(()) }
    }

    /// The MARK, and then the watermark: a process killed here would leave the last group
    /// unattested otherwise.
    fn advance_durable(&mut self, durable: u64) -> Result<()> {
        let context = ControlContext { durable: SeqNo(durable), ..self.control_context() };
        let marked = self.active.writer.write_mark(&context, self.preallocated);
        marked.map_err(|e| self.shared.segment_error(e))?;
        self.shared.watermarks.set_durable(durable);
        Ok(())
    }

    /// Whether finished segments hold more unsynced bytes than they may.
    fn is_past_bound(&self) -> bool {
        let options = &self.shared.options;
        let len: u64 = self.unsynced.iter().map(|unsynced| unsynced.len).sum();
        let too_many = || !self.unsynced.is_empty() && self.shared.context.unsynced_files.are_too_many();
        self.unsynced.len() > options.unsynced_segments_max || len > options.unsynced_bytes_max || too_many()
    }

    /// Past the bound, settles the oldest.
    fn settle_past_bound(&mut self) -> Result<()> {
        while self.is_past_bound() {
            self.settle_oldest()?;
        }
        Ok(())
    }
}
