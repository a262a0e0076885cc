//! What the leader does to the files of a stream: drain, settle, rotate, close.
//!
//! Invariants: there is one `Writer`, and whoever has it has the lead. A descriptor with unsynced
//! writes is never closed (the error of their write-back would be forgotten with it), so finished
//! segments stay open until settled. The watermark passes only when everything below it is settled.
//! After any error but a full disk before a write, nothing more is written: the group fails, and
//! recovery decides.
use std::collections::VecDeque;
use std::sync::Arc;

use stratawal_frame::SeqNo;
use stratawal_segment::{ControlContext, SegmentWriter};

use crate::error::{Error, Result};
use crate::options::Durability;
use crate::read::snapshot::{PublishedSegment, SegmentState};
use crate::shared::Shared;
use crate::unsynced_files::UnsyncedFile;
use crate::write::active::Active;
use crate::write::commit::CommitLeader;
use crate::write::encode::FrameEncoder;
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Pending, Tail};

/// The lead over the files of a stream.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    /// `None` before the stream's first append.
    pub(crate) active: Option<Active>,
    pub(super) unsynced: VecDeque<UnsyncedSegment>,
    /// Timestamp of the last frame in the file.
    pub(super) timestamp: u64,
    /// How long the active file was when it was last looked at; it only grows.
    pub(crate) preallocated: u64,
    /// Short ones; what is longer is encoded in memory of the pool.
    pub(super) encoder: FrameEncoder,
}

/// A finished segment that may have unsynced bytes.
#[derive(Debug)]
pub(super) struct UnsyncedSegment {
    pub(super) writer: SegmentWriter,
    pub(super) end_seq: u64,
    pub(super) len: u64,
    pub(super) _counted: UnsyncedFile,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, active: Option<Active>, timestamp: u64) -> Self {
        Self { shared, active, unsynced: VecDeque::new(), timestamp, preallocated: 0, encoder: FrameEncoder::default() }
    }

    pub(crate) fn failed(&self, error: stratawal_segment::Error) -> Error {
        Error::segment_error(&self.shared.location, error)
    }

    pub(crate) fn control_context(&self, next_seq: u64) -> ControlContext {
        ControlContext {
            next_seq: SeqNo(next_seq),
            timestamp: self.timestamp,
            durable: SeqNo(self.shared.watermarks.durable()),
        }
    }

    /// One past the last entry in the files.
    pub(crate) fn end_seq(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.end_seq)
    }

    /// Does `act`, which needs space in the active file; on a full disk, out of the emergency
    /// reserve where `reserve` allows it. Nothing has changed where it fails with any error but
    /// `Poisoned`.
    pub(crate) fn with_room<T>(
        &self,
        reserve: ReserveUse,
        act: impl FnMut() -> stratawal_segment::Result<T>,
    ) -> Result<T> {
        let is_full = |error: &stratawal_segment::Error| error.is_refusal() && error.is_full();
        let done = self.shared.context.with_reserve(reserve, is_full, act);
        done.map_err(|error| {
            let nothing_written = error.is_refusal();
            let error = self.failed(error);
            if nothing_written { error } else { error.poisoned() }
        })
    }
}

impl CommitLeader for Writer {
    type Tail = Tail;
    type Work = Arc<Pending>;

    fn take(&mut self, tail: &mut Tail) -> Arc<Pending> {
        // Appends may make it longer meanwhile. What is booked leaves room for a MARK behind it.
        self.preallocated = tail.reservation.as_ref().map_or(0, |reservation| reservation.preallocation.preallocated());
        tail.take()
    }

    fn run(&mut self, work: &Arc<Pending>, durability: Durability) -> Result<()> {
        self.drain(work)?;
        if durability == Durability::Synced { self.settle() } else { Ok(()) }
    }

    fn put_back(&mut self, tail: &mut Tail, work: Arc<Pending>) {
        let end = self.active.as_ref().map_or(0, |active| active.writer.next_position().offset.0);
        tail.put_back(work, end);
    }
}

/// The same segment once it is sealed and durable.
pub(crate) fn sealed(segment: &Arc<PublishedSegment>) -> Arc<PublishedSegment> {
    match segment.state {
        SegmentState::Sealed => Arc::clone(segment),
        SegmentState::Live(_) => Arc::new(PublishedSegment { header: segment.header, state: SegmentState::Sealed }),
    }
}
