//! The leader of a stream's commits, and the segments that it writes to.
//!
//! Invariants:
//! - A stream has one `Writer`. The thread that has it has the lead.
//! - A descriptor with unsynced writes is never closed, because a write-back error would be lost
//!   with it. So a finished segment stays open until it is synced. In a log with a commit journal,
//!   the file of a synced active segment may be closed, see [`active_files`](crate::active_files).
//! - The durable watermark passes an entry only once everything below it is synced.
//! - After any error, except a full disk that is noticed before a write, nothing more is written.
//!   The group fails, and recovery decides which entries the files hold.

use std::collections::VecDeque;
use std::sync::Arc;

use stratawal_frame::SeqNo;
use stratawal_segment::{ControlContext, SegmentWriter};
use stratawal_storage::is_out_of_files;

use crate::error::{Error, ErrorKind, Result};
use crate::options::Durability;
use crate::shared::Shared;
use crate::unsynced_files::UnsyncedFile;
use crate::write::active::ActiveSegment;
use crate::write::commit::CommitLeader;
use crate::write::encode::FrameEncoder;
use crate::write::pending::PendingFrames;
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Reservation, Tail};

/// The lead over the files of a stream.
#[derive(Debug)]
pub(crate) enum Writer {
    /// The stream has no segment to write to: it has no entries yet, only the commit journal has
    /// them, or it is only read.
    NoSegment(Arc<Shared>),
    /// The stream has an active segment. Boxed, because many streams of a log have none.
    Open(Box<OpenSegments>),
}

/// The segments of a stream that are open for writing.
#[derive(Debug)]
pub(crate) struct OpenSegments {
    pub(super) shared: Arc<Shared>,
    pub(super) active: ActiveSegment,
    /// Finished segments, oldest first.
    pub(super) unsynced: VecDeque<UnsyncedSegment>,
    /// Timestamp of the last frame in the files.
    pub(super) timestamp: u64,
    /// The length of the active file when this was last updated. The file only grows.
    pub(super) preallocated: u64,
    /// Encodes short groups of frames. A longer group is encoded in memory from the pool.
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
    pub(crate) fn new(shared: Arc<Shared>, active: Option<ActiveSegment>, timestamp: u64) -> Self {
        match active {
            Some(active) => Self::Open(Box::new(OpenSegments::new(shared, active, timestamp))),
            None => Self::NoSegment(shared),
        }
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        match self {
            Self::NoSegment(shared) => shared,
            Self::Open(segments) => &segments.shared,
        }
    }

    /// Returns the open segments, and the reservation in the active one. Call this under the lock,
    /// for a stream that has a segment and was not closed.
    pub(super) fn open_in<'a>(&'a mut self, tail: &'a mut Tail) -> Result<(&'a mut OpenSegments, &'a mut Reservation)> {
        match (self, &mut tail.reservation) {
            (Self::Open(segments), Some(reservation)) => Ok((segments, reservation)),
            (writer, _) => Err(Error::new(ErrorKind::Closed, &writer.shared().location)),
        }
    }

    /// Makes it possible to drain `tail`: creates the directory of a stream whose entries were
    /// accepted without one, opens the active file if there is something to write, and reserves the
    /// space of entries that the commit journal had. On a full disk this may use the emergency
    /// reserve if `reserve` allows that. After an error other than `Poisoned` nothing has changed.
    pub(super) fn prepare_with(&mut self, tail: &mut Tail, reserve: ReserveUse) -> Result<()> {
        self.create_for_pending(tail, reserve)?;
        if let Self::Open(segments) = self
            && let Some(file) = segments.active.file.as_ref().filter(|_| tail.pending_len() > 0)
        {
            file.open().map_err(|error| {
                let passes = is_out_of_files(&error);
                let error = Error::io(&segments.shared.location, error);
                if passes { error } else { error.poisoned() }
            })?;
        }
        // The second time, the emergency reserve was given up.
        let mut ahead = true;
        self.shared().with_room(reserve, || tail.reserve_pending(std::mem::take(&mut ahead)))
    }
}

impl OpenSegments {
    pub(super) fn new(shared: Arc<Shared>, active: ActiveSegment, timestamp: u64) -> Self {
        let unsynced = VecDeque::new();
        Self { shared, active, unsynced, timestamp, preallocated: 0, encoder: FrameEncoder::default() }
    }

    /// The context of a control frame after the last entry in the files.
    pub(super) fn control_context(&self) -> ControlContext {
        ControlContext {
            next_seq: SeqNo(self.active.end_seq),
            timestamp: self.timestamp,
            durable: SeqNo(self.shared.watermarks.attested()),
        }
    }
}

impl Shared {
    /// The error if space in the active file was not reserved. After any error other than
    /// `Poisoned`, nothing has changed.
    pub(super) fn not_reserved(&self, error: stratawal_segment::Error) -> Error {
        let nothing_written = error.is_refusal();
        let error = self.segment_error(error);
        if nothing_written { error } else { error.poisoned() }
    }

    /// Runs `act`, which needs space in the active file. On a full disk it may use the emergency
    /// reserve if `reserve` allows that. After any error other than `Poisoned`, nothing has
    /// changed.
    pub(crate) fn with_room<T>(
        &self,
        reserve: ReserveUse,
        act: impl FnMut() -> stratawal_segment::Result<T>,
    ) -> Result<T> {
        let is_full = |error: &stratawal_segment::Error| error.is_refusal() && error.is_full();
        let done = self.context.with_reserve(reserve, is_full, act);
        done.map_err(|error| self.not_reserved(error))
    }
}

impl CommitLeader for Writer {
    type Tail = Tail;
    type Work = Arc<PendingFrames>;

    fn prepare(&mut self, tail: &mut Tail) -> Result<()> {
        self.prepare_with(tail, ReserveUse::Never)
    }

    fn take(&mut self, tail: &mut Tail) -> Arc<PendingFrames> {
        if let (Self::Open(segments), Some(reservation)) = (self, &tail.reservation) {
            // Appends may extend the file at the same time. A reservation leaves room for a MARK
            // after its frames.
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
                assert!(work.is_empty(), "a segment is created before entries are taken");
                Ok(())
            }
        }
    }

    fn put_back(&mut self, tail: &mut Tail, work: Arc<PendingFrames>) {
        let end = match self {
            Self::Open(segments) => segments.active.end_offset(),
            Self::NoSegment(_) => 0,
        };
        tail.put_back(work, end, self.shared().watermarks.settled());
    }
}
