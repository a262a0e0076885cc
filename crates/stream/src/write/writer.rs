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

use crate::error::{Error, ErrorKind, Result};
use crate::options::Durability;
use crate::read::snapshot::{PublishedSegment, SegmentState};
use crate::shared::Shared;
use crate::unsynced_files::UnsyncedFile;
use crate::write::active::Active;
use crate::write::commit::CommitLeader;
use crate::write::encode::FrameEncoder;
use crate::write::pending::PendingFrames;
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Reservation, Tail};

/// The lead over the files of a stream.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "every writer is in a box, where group commit keeps it")]
pub(crate) enum Writer {
    /// The stream has no segment before its first append. A stream that is only read has none to
    /// write to.
    NoSegment(Arc<Shared>),
    /// The stream has an active segment.
    Open(OpenSegments),
}

/// The segments of a stream that are open for writing.
#[derive(Debug)]
pub(crate) struct OpenSegments {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Active,
    /// Finished segments, oldest first.
    pub(super) unsynced: VecDeque<UnsyncedSegment>,
    /// Timestamp of the last frame in the files.
    pub(super) timestamp: u64,
    /// How long the active file was when it was last looked at; it only grows.
    pub(super) preallocated: u64,
    /// Encodes short groups of frames. A longer group is encoded in memory of the pool.
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
        match active {
            Some(active) => Self::Open(OpenSegments::new(shared, active, timestamp)),
            None => Self::NoSegment(shared),
        }
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        match self {
            Self::NoSegment(shared) => shared,
            Self::Open(segments) => &segments.shared,
        }
    }

    /// The open segments, and what is reserved in the active one. Under the lock, of a stream that
    /// has a segment. A stream that was closed takes no reservations any more.
    pub(super) fn open_in<'a>(&'a mut self, tail: &'a mut Tail) -> Result<(&'a mut OpenSegments, &'a mut Reservation)> {
        match (self, &mut tail.reservation) {
            (Self::Open(segments), Some(reservation)) => Ok((segments, reservation)),
            (writer, _) => Err(Error::new(ErrorKind::Closed, &writer.shared().location)),
        }
    }
}

impl OpenSegments {
    pub(super) fn new(shared: Arc<Shared>, active: Active, timestamp: u64) -> Self {
        let unsynced = VecDeque::new();
        Self { shared, active, unsynced, timestamp, preallocated: 0, encoder: FrameEncoder::default() }
    }

    /// What a control frame after the last entry in the files states.
    pub(super) fn control_context(&self) -> ControlContext {
        ControlContext {
            next_seq: SeqNo(self.active.end_seq),
            timestamp: self.timestamp,
            durable: SeqNo(self.shared.watermarks.durable()),
        }
    }
}

impl Shared {
    /// Does `act`, which needs space in the active file; on a full disk, out of the emergency
    /// reserve where `reserve` allows it. Nothing has changed where it fails with any error but
    /// `Poisoned`.
    pub(super) fn with_room<T>(
        &self,
        reserve: ReserveUse,
        act: impl FnMut() -> stratawal_segment::Result<T>,
    ) -> Result<T> {
        let is_full = |error: &stratawal_segment::Error| error.is_refusal() && error.is_full();
        let done = self.context.with_reserve(reserve, is_full, act);
        done.map_err(|error| {
            let nothing_written = error.is_refusal();
            let error = self.segment_error(error);
            if nothing_written { error } else { error.poisoned() }
        })
    }
}

impl CommitLeader for Writer {
    type Tail = Tail;
    type Work = Arc<PendingFrames>;

    fn take(&mut self, tail: &mut Tail) -> Arc<PendingFrames> {
        if let (Self::Open(segments), Some(reservation)) = (self, &tail.reservation) {
            // Appends may make it longer meanwhile. What is reserved leaves room for a MARK after
            // it.
            segments.preallocated = reservation.preallocation.preallocated();
        }
        tail.take()
    }

    fn run(&mut self, work: &Arc<PendingFrames>, durability: Durability) -> Result<()> {
        match self {
            Self::Open(segments) => {
                segments.drain(work)?;
                if durability == Durability::Synced { segments.settle() } else { Ok(()) }
            }
            Self::NoSegment(_) => {
                assert!(work.end_seq().is_none(), "entries are accepted only once there is a segment");
                Ok(())
            }
        }
    }

    fn put_back(&mut self, tail: &mut Tail, work: Arc<PendingFrames>) {
        let end = match self {
            Self::Open(segments) => segments.active.writer.next_position().offset.0,
            Self::NoSegment(_) => 0,
        };
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
