//! Keeps a reader consistent although it takes no lock: a read that spans two epochs is repeated.
//!
//! An *epoch* of a stream ends when the stream's end is moved back: by `truncate_from`, recovery or
//! deletion. A seq may name a different entry in the next epoch. So a reader notes the epoch,
//! reads, and starts over if the epoch has changed. The last epoch begins when the stream is closed
//! for good; reads in it fail, because the stream may be open again elsewhere.
//!
//! A segment's file may be removed while a reader opens it. Before its removal the writer publishes
//! a snapshot without the segment. So a reader that finds no file checks whether the snapshot has
//! changed. If it has, the reader reads again; if not, the file is missing. If the stream was
//! opened for reading, or is closed, another process may have removed the file; the reader then
//! lists the directory again to find out what happened to the entries.

use std::ops::RangeInclusive;
use std::sync::Arc;

use stratawal_sync::{fail_point, fence};

use super::snapshot::Snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::options::{Durability, Visibility};
use crate::recovery::{self, StreamFiles};
use crate::watermarks::Watermarks;

impl Inner {
    /// One past the last entry that a reader with this visibility sees.
    pub(crate) fn end_seq(&self, visibility: Visibility) -> u64 {
        // With a journal, a truncation flushes nothing. So the entries just below the start may
        // have been dropped before they were stable.
        let watermarks = &self.shared.watermarks;
        watermarks.reached(self.shown_at(visibility)).max(watermarks.start())
    }

    /// The durability that entries have at least once a reader with this visibility sees them.
    pub(crate) fn shown_at(&self, visibility: Visibility) -> Durability {
        match (visibility, self.shared.options.durability) {
            (Visibility::Accepted, _) => Durability::Buffered,
            (Visibility::Stable, Durability::Synced) if !fail_point!(FlushedShown) => Durability::Synced,
            (Visibility::Stable, _) => Durability::Flushed,
        }
    }

    /// Repeats `read`, which reads some of `seqs`, until one call stays within one epoch and meets
    /// no segment that was removed at the same time.
    pub(super) fn read_consistently<T>(
        &self,
        seqs: RangeInclusive<u64>,
        mut read: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        self.check_process()?;
        loop {
            let snapshot = self.shared.snapshot.load();
            let read = |epoch| self.check_not_over(epoch).and_then(|()| read());
            match self.shared.watermarks.in_one_epoch(read) {
                Err(error) if self.segment_removed(&error, &seqs, &snapshot)? => {}
                result => return result,
            }
        }
    }

    /// Fails if `epoch` is the last one: the stream was closed for good.
    #[inline]
    pub(super) fn check_not_over(&self, epoch: u64) -> Result<()> {
        let is_over = Watermarks::is_over(epoch) && !fail_point!(ReadAfterEnd);
        if is_over { Err(Error::new(ErrorKind::Closed, &self.shared.location)) } else { Ok(()) }
    }

    /// Whether `error` means only that a segment was removed while it was read, so that reading
    /// again helps. The reader loaded `snapshot`, or a later one, before it met the error.
    ///
    /// # Errors
    /// If some of `seqs` were removed with the segment: [`ErrorKind::Truncated`] or
    /// [`ErrorKind::Cut`].
    pub(crate) fn segment_removed(
        &self,
        error: &Error,
        seqs: &RangeInclusive<u64>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<bool> {
        if !error.is_not_found() {
            return Ok(false);
        }
        fence();
        self.check_live(*seqs.start())?;
        if self.shared.context.is_read_only() {
            return self.compare_with_disk(seqs, snapshot);
        }
        // A deletion renames the directory under this lock, and then publishes its snapshot.
        let is_closed = self.group.lock().tail.closed;
        self.check_live(*seqs.start())?;
        if !Arc::ptr_eq(snapshot, &self.shared.snapshot.load()) {
            return Ok(true);
        }
        // The files of a closed stream may belong to another process.
        if is_closed { self.compare_with_disk(seqs, snapshot) } else { Ok(false) }
    }

    fn check_live(&self, seq: u64) -> Result<()> {
        let start = self.shared.watermarks.start();
        if seq < start {
            Err(Error::new(ErrorKind::Truncated { first_seq: start }, &self.shared.location))
        } else {
            Ok(())
        }
    }

    /// Fails if a writer in another process has removed some of `seqs`. Otherwise returns whether
    /// another thread has refreshed this handle, so that reading again helps.
    fn compare_with_disk(&self, seqs: &RangeInclusive<u64>, snapshot: &Arc<Snapshot>) -> Result<bool> {
        let shared = &self.shared;
        let watermarks = &shared.watermarks;
        let (is_current, end, accepted) = watermarks.in_one_epoch(|_| {
            let is_current = Arc::ptr_eq(snapshot, &shared.snapshot.load());
            (is_current, watermarks.drained(), watermarks.accepted())
        });
        if !is_current {
            return Ok(true);
        }
        let kind = match recovery::read(&StreamFiles::new(&shared.context, &shared.location, &shared.options))? {
            None => ErrorKind::Cut { next_seq: 0 },
            Some(now) if *seqs.start() < now.first_seq => ErrorKind::Truncated { first_seq: now.first_seq },
            Some(now) => {
                // Where the files ended, a segment may begin with entries that were in the journal.
                let has_more = end < accepted;
                let at = snapshot.diverges_at(end, &now.snapshot, now.first_seq);
                match at.filter(|at| at <= seqs.end() && !(has_more && *at >= end)) {
                    Some(at) => ErrorKind::Cut { next_seq: at },
                    None => return Ok(false),
                }
            }
        };
        Err(Error::new(kind, &shared.location))
    }
}

/// Whether an entry could not be read because it was dropped from the beginning of the stream.
pub(super) fn is_truncated(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Truncated { .. })
}
