//! The interface between the commit journal of a log and the streams that use it. Through it the
//! journal frees its space and syncs streams, and knows nothing else about them.

use std::fmt;

use stratawal_frame::StreamId;
use stratawal_journal::{Lsn, Position, Record};
use stratawal_sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Result;
use crate::write::waiter::CommitTarget;

/// A stream, as the journal of its log sees it. Every call takes the stream's lock, and some wait
/// for its lead.
pub(crate) trait JournalUser: fmt::Debug + Send + Sync {
    /// About how many bytes a copy of the needed records takes, or `None` if none of them is before
    /// `target`. First forgets the records that are not needed.
    fn needed_below(&self, target: Lsn) -> Option<usize>;

    /// Puts the needed records again at the end of the journal, and sets `has_copies`, if they take
    /// at most `max` bytes and there is room. Returns how many bytes they take, or `None` if they
    /// stay where they are.
    fn copy_forward(&self, max: usize, has_copies: &AtomicBool) -> stratawal_journal::Result<Option<usize>>;

    /// Drains the stream and has the system begin to write its files, as far as that needs no
    /// waiting. A call before [`free_journal_below`](Self::free_journal_below) that saves time if
    /// many streams are freed.
    fn begin_to_free(&self);

    /// Makes the records before `target` needless: drains or settles the stream, or copies the
    /// records and sets `has_copies` if the stream cannot be settled.
    fn free_journal_below(&self, target: Lsn, has_copies: &AtomicBool) -> stratawal_journal::Result<()>;

    /// The records that a restart of the journal writes for this stream.
    fn journal_records(&self) -> Vec<Record>;

    /// The journal was restarted. The stream's records are at or after `lsn`.
    fn journal_moved_to(&self, lsn: Lsn);

    /// Has the files record the START that the journal has, if that was found to free some of them.
    fn write_due_start(&self);

    /// Drains the stream, and syncs its files.
    fn settle(&self) -> Result<()>;

    /// Drains the stream and has the system begin to write its files, as far as that needs no
    /// waiting. A call before [`settle`](Self::settle), or before a
    /// [`finish_sync`](Self::finish_sync) that syncs the files, that saves time if many streams are
    /// settled.
    fn begin_settle(&self);

    /// Begins a sync: everything accepted is in the journal afterwards, if that is possible.
    /// Returns `None` if everything is durable already.
    fn begin_sync(&self) -> Result<Option<BegunSync>>;

    /// Returns once everything that was accepted when the sync began is durable.
    fn finish_sync(&self, begun: BegunSync) -> Result<()>;
}

/// A sync of a stream that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BegunSync {
    pub(crate) target: CommitTarget,
    /// `None` if the stream's files have to be synced.
    pub(crate) position: Option<Position>,
}

/// The LSN from which on a stream needs the journal. It outlives the stream: a stream that could
/// not be settled before its last handle was dropped needs its records until the journal is next
/// opened.
#[derive(Debug)]
pub(crate) struct Claim {
    lsn: AtomicU64,
    /// The id of the stream, or 0 until it exists.
    stream: AtomicU64,
}

impl Claim {
    const NONE: u64 = u64::MAX;

    pub(crate) fn new() -> Self {
        Self { lsn: AtomicU64::new(Self::NONE), stream: AtomicU64::new(0) }
    }

    /// Only the holder of the stream's lock sets it.
    pub(crate) fn set(&self, lsn: Option<Lsn>) {
        // Release; pairs with the Acquire in `lsn`.
        self.lsn.store(lsn.map_or(Self::NONE, |lsn| lsn.0), Ordering::Release);
    }

    pub(crate) fn set_stream(&self, stream: StreamId) {
        // Relaxed: a thread that does not see it yet does not find the stream.
        self.stream.store(stream.0, Ordering::Relaxed);
    }

    pub(crate) fn stream(&self) -> u64 {
        self.stream.load(Ordering::Relaxed)
    }

    pub(crate) fn lsn(&self) -> Option<Lsn> {
        Some(self.lsn.load(Ordering::Acquire)).filter(|&lsn| lsn != Self::NONE).map(Lsn)
    }
}
