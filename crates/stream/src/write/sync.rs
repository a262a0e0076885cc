//! Makes segments durable, raises the durable watermark, and attests it with a MARK.

use std::sync::Arc;
use std::time::Instant;

use stratawal_frame::SeqNo;
use stratawal_segment::{Access, ControlContext, SegmentFile, SegmentWriter};
use stratawal_sync::fail_point;

use crate::error::Result;
use crate::read::snapshot::Snapshot;
use crate::shared::Shared;
use crate::write::active::ActiveSegment;
use crate::write::writer::{OpenSegments, Writer};

impl Writer {
    /// Whether finished segments hold more unsynced bytes than allowed.
    pub(super) fn is_past_bound(&self) -> bool {
        matches!(self, Self::Open(segments) if segments.is_past_bound())
    }

    /// Settles the oldest finished segments until the others are within the bound.
    pub(super) fn settle_past_bound(&mut self) -> Result<()> {
        match self {
            Self::Open(segments) => segments.settle_past_bound(),
            Self::NoSegment(_) => Ok(()),
        }
    }
}

impl Writer {
    /// Has the system begin to write the files, and does not wait for that.
    pub(super) fn start_write_back(&self) {
        let Self::Open(segments) = self else { return };
        let finished = segments.unsynced.iter().map(|unsynced| &unsynced.writer);
        for writer in finished.chain([&segments.active.writer]) {
            // Bytes that this does not write are written by the sync of the same file, or fail it.
            let _ = writer.file().start_write_back();
        }
    }
}

impl Shared {
    /// Syncs the file of `writer`, and measures the time.
    fn timed_sync(&self, writer: &SegmentWriter) -> stratawal_segment::Result<()> {
        let began = Instant::now();
        writer.sync()?;
        self.context.sync_times.add(began.elapsed());
        self.meters.syncs.add(1);
        Ok(())
    }
}

impl OpenSegments {
    /// Makes all drained entries durable, oldest first, and raises the watermark. Does nothing if
    /// they are already durable.
    pub(super) fn settle(&mut self) -> Result<()> {
        while !self.unsynced.is_empty() && !fail_point!(UnsyncedPassed) {
            self.settle_oldest()?;
        }
        let end_seq =
            if fail_point!(LateArrivalCovered) { self.shared.watermarks.accepted() } else { self.active.end_seq };
        if end_seq <= self.shared.watermarks.settled() {
            return Ok(());
        }
        fail_point!(AttestedBeforeSync, self.advance_durable(end_seq)?);
        if !fail_point!(AcknowledgedBeforeSync) {
            self.shared.timed_sync(&self.active.writer).map_err(|e| self.shared.segment_error(e))?;
        }
        self.advance_durable(end_seq)
    }

    /// Makes the open segments durable even if they have no new entries: a START in the active
    /// segment raises no watermark.
    pub(super) fn settle_all(&mut self) -> Result<()> {
        self.settle_finished()?;
        self.shared.timed_sync(&self.active.writer).map_err(|e| self.shared.segment_error(e))?;
        self.advance_durable(self.active.end_seq)
    }

    /// Makes the finished segments durable, oldest first.
    pub(super) fn settle_finished(&mut self) -> Result<()> {
        while !self.unsynced.is_empty() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    /// Syncs the oldest finished segment, shortens its file to the end of its SEAL, and raises the
    /// watermark to its end.
    fn settle_oldest(&mut self) -> Result<()> {
        let Some(oldest) = self.unsynced.front() else { return Ok(()) };
        let Shared { context, location, .. } = &*self.shared;
        let synced = if fail_point!(DescriptorClosed) {
            let reopened = SegmentFile::open(context.storage(), &location.dir(), oldest.writer.id(), Access::ReadWrite);
            reopened.and_then(|file| file.sync())
        } else {
            self.shared.timed_sync(&oldest.writer)
        };
        synced.map_err(|e| self.shared.segment_error(e))?;
        oldest.writer.trim_to_trailer().map_err(|e| self.shared.segment_error(e))?;
        let id = oldest.writer.id();
        let end_seq = oldest.end_seq;
        // Published before the descriptor is closed, because from here on readers open the segment
        // themselves.
        let snapshot = self.shared.snapshot.load();
        let segments = snapshot
            .segments
            .iter()
            .map(|segment| if segment.id() == id { segment.sealed() } else { Arc::clone(segment) });
        self.shared.snapshot.store(Arc::new(Snapshot::new(segments.collect())));
        self.unsynced.pop_front();
        if end_seq > self.shared.watermarks.settled() { self.advance_durable(end_seq) } else { Ok(()) }
    }

    /// Writes a MARK, and then raises the watermark. If the watermark were raised first, a process
    /// killed in between would leave the last group unattested.
    fn advance_durable(&mut self, durable: u64) -> Result<()> {
        let context = ControlContext { durable: SeqNo(durable), ..self.control_context() };
        let preallocated = self.preallocated;
        let ActiveSegment { writer, file, .. } = &mut self.active;
        let mut write = || writer.write_mark(&context, preallocated);
        let marked = match file {
            // A MARK repeats what the sync has made durable.
            Some(file) => file.with_unneeded_write(write),
            None => write(),
        };
        marked.map_err(|e| self.shared.segment_error(e))?;
        self.shared.watermarks.set_settled(durable);
        Ok(())
    }

    fn is_past_bound(&self) -> bool {
        let options = &self.shared.options;
        let len: u64 = self.unsynced.iter().map(|unsynced| unsynced.len).sum();
        let too_many = || !self.unsynced.is_empty() && self.shared.context.unsynced_files.are_too_many();
        self.unsynced.len() > options.unsynced_segments_max || len > options.unsynced_bytes_max || too_many()
    }

    fn settle_past_bound(&mut self) -> Result<()> {
        while self.is_past_bound() {
            self.settle_oldest()?;
        }
        Ok(())
    }
}
