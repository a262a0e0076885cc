//! Drops the oldest entries of a stream through the commit journal.
//!
//! ```text
//! put           here            a START record; no reader sees the entries      (under the lock)
//!   |
//! sync_to       the journal     one sync for all streams                        (no lock)
//!   |
//!   v
//! dropped
//!   :
//! write_start   truncate.rs     a START frame, once it frees a file             (with the lead)
//!   |
//! settled       sync.rs         the record is not needed any more               (no lock)
//! ```
//!
//! The frame is written by the thread that maintains the journal, or by the caller if there is
//! none. An append that finds the disk full does not wait for that thread. A START that frees no
//! file stays in the journal, where a release copies it forward, until the stream is closed. So a
//! consumer that truncates often does not sync the stream's files each time.

use std::sync::Arc;

use stratawal_journal::{Error as JournalError, ErrorKind as JournalErrorKind, Lsn, Position};
use stratawal_sync::atomic::{AtomicBool, Ordering};

use crate::deletion::make_room;
use crate::error::{ErrorKind, Result};
use crate::follow::DueFollowers;
use crate::inner::Inner;
use crate::journal_user::JournalUser;
use crate::log_journal::longest_control_record;
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;
use crate::write::truncate::is_worth_reset;

/// How the journal takes a START.
enum StartPut {
    /// It is durable once the journal is synced up to here.
    Position(Position),
    /// The entries are durably dropped.
    Durable,
    /// `first` is beyond the end, or neither the files nor the journal have the entries. The files
    /// have to record it.
    ThroughFiles,
}

impl Inner {
    /// Drops the entries below `first` by a record in the journal, which is durable when this
    /// returns. Returns false if nothing has changed and the files have to record it: `first` is
    /// beyond the end, the entries of a new stream are in memory alone, or the journal has no room.
    pub(super) fn drop_in_journal(&self, first: u64) -> Result<bool> {
        let Some(log) = self.shared.context.log_journal() else { return Ok(false) };
        let position = loop {
            match self.put_start(first)? {
                Ok(StartPut::Position(position)) => break position,
                Ok(StartPut::Durable) => return Ok(true),
                Ok(StartPut::ThroughFiles) => return Ok(false),
                Err(error) if is_no_room(&error) => {}
                Err(error) => return Err(self.journal_error(error).poisoned()),
            }
            match make_room(&self.shared.context, &self.shared.location, ReserveUse::Allowed) {
                Err(full) if full.kind() == ErrorKind::Full => return Ok(false),
                made => made?,
            }
        };
        match log.journal.sync_to(position) {
            // A restart writes the START of every stream durably.
            Err(error) if matches!(error.kind(), JournalErrorKind::Restarted) => Ok(true),
            synced => {
                self.shared.context.wake_after_sync();
                synced.map(|()| true).map_err(|error| self.journal_error(error).poisoned())
            }
        }
    }

    /// Puts the record that drops the entries below `first`. From here on no reader sees them.
    fn put_start(&self, first: u64) -> Result<stratawal_journal::Result<StartPut>> {
        // Dropped after the lock.
        let mut due = DueFollowers::default();
        let mut state = self.group.lock();
        self.check(&state)?;
        let is_beyond = first > state.tail.next_seq;
        let journaled = state.tail.journaled.as_mut().filter(|journaled| journaled.may_have_start(first));
        let Some(journaled) = journaled.filter(|_| !is_beyond) else { return Ok(Ok(StartPut::ThroughFiles)) };
        if first > self.shared.watermarks.start() {
            if let Err(error) = journaled.put_start(first) {
                return Ok(Err(error));
            }
            self.shared.watermarks.raise_start(first);
        }
        let put = journaled.undurable_start().map_or(StartPut::Durable, StartPut::Position);
        due.extend(self.group.take_due(&mut state));
        Ok(Ok(put))
    }

    /// Has the files record the first live seq if that frees some of them: now, or by the thread
    /// that maintains the journal. The entries are durably dropped before this is called.
    ///
    /// # Errors
    /// A failure of the stream.
    pub(crate) fn free_dropped(self: &Arc<Self>) -> Result<()> {
        let Some(log) = self.shared.context.log_journal() else { return Ok(()) };
        log.maintain_if_due();
        {
            let mut state = self.group.lock();
            if !self.start_frees(&state.tail) {
                return Ok(());
            }
            let Some(journaled) = &mut state.tail.journaled else { return Ok(()) };
            let user: Arc<dyn JournalUser> = Arc::clone(self) as _;
            if journaled.is_start_due() || log.write_start_later(Arc::downgrade(&user)) {
                journaled.set_start_due(true);
                return Ok(());
            }
        }
        match self.drop_in_files(self.shared.watermarks.start()) {
            // The START stays in the journal, and the next truncation tries again. The caller must
            // not take the error for a truncation that changed nothing.
            Err(error) if error.kind() != ErrorKind::Poisoned => Ok(()),
            freed => freed,
        }
    }

    /// Whether a START frame frees a file.
    pub(super) fn start_frees(&self, tail: &Tail) -> bool {
        let watermarks = &self.shared.watermarks;
        let start = watermarks.start();
        if start <= watermarks.start_in_files() {
            return false;
        }
        let snapshot = self.shared.snapshot.load();
        let has_dead = snapshot.segments.len() > 1 && snapshot.limit(0) <= start;
        has_dead || is_worth_reset(tail, start)
    }

    /// Removes the files that hold only dropped entries, on a full disk: those of this stream, and
    /// those that the thread that maintains the journal has not removed yet. Returns whether there
    /// may have been some. The caller holds no lock.
    ///
    /// Removing a file takes a START frame, for which this may use the emergency reserve, as the
    /// truncation may.
    #[cold]
    pub(super) fn free_dropped_files(&self) -> bool {
        let Some(log) = self.shared.context.log_journal() else { return false };
        let others = log.write_due_starts();
        let frees = self.start_frees(&self.group.lock().tail);
        // Another thread may have recorded the START, and not removed the files yet.
        let are_removed = self.removals.try_lock().is_some();
        if frees {
            // The START stays in the journal if this fails.
            let _ = self.drop_in_files(self.shared.watermarks.start());
        } else if !are_removed {
            drop(self.removals.lock());
        }
        others || frees || !are_removed
    }

    /// Has the files record the first live seq, if [`free_dropped`](Self::free_dropped) has asked
    /// for it.
    pub(super) fn write_start_if_due(&self) {
        let is_due = {
            let mut state = self.group.lock();
            state.tail.journaled.as_mut().is_some_and(|journaled| {
                let is_due = journaled.is_start_due();
                journaled.set_start_due(false);
                is_due
            })
        };
        if is_due {
            // The START stays in the journal if this fails. A stream that fails reports it to the
            // next append, and the next truncation tries again to remove a file.
            let _ = self.drop_in_files(self.shared.watermarks.start());
        }
    }

    /// Has the files record the first live seq if that frees some of them. For a stream that is
    /// being closed, whose CLOSE records it anyway.
    pub(super) fn write_start_if_it_frees(&self) {
        let frees = self.start_frees(&self.group.lock().tail);
        if frees {
            // A failure of the stream makes the close fail. A file that stays is removed by the
            // next opening.
            let _ = self.drop_in_files(self.shared.watermarks.start());
        }
    }

    /// The journal is not needed for a START that the files durably record.
    pub(super) fn forget_start_in_files(&self) {
        if let Some(journaled) = &mut self.group.lock().tail.journaled {
            journaled.start_is_in_files(self.shared.watermarks.start_in_files());
        }
    }

    /// Has a START whose record is before `target` recorded elsewhere: at the end of the journal,
    /// or in the files if the journal has no room.
    pub(super) fn free_start_below(&self, target: Lsn, has_copies: &AtomicBool) -> stratawal_journal::Result<()> {
        let Some(log) = self.shared.context.log_journal() else { return Ok(()) };
        let record = longest_control_record(self.shared.location.name());
        loop {
            let error = {
                let mut state = self.group.lock();
                let Some(journaled) = &mut state.tail.journaled else { return Ok(()) };
                match journaled.copy_start(target) {
                    Ok(copied) => {
                        if copied {
                            // Relaxed: as in `copy_records`.
                            has_copies.store(true, Ordering::Relaxed);
                        }
                        return Ok(());
                    }
                    Err(error) => error,
                }
            };
            if !is_no_room(&error) {
                return Err(error);
            }
            match log.journal.reserve(&record) {
                Err(full) if full.is_full() => {
                    // A stream that fails keeps its START in the journal.
                    let _ = self.drop_in_files(self.shared.watermarks.start());
                    return Ok(());
                }
                other => other?,
            }
        }
    }
}

fn is_no_room(error: &JournalError) -> bool {
    matches!(error.kind(), JournalErrorKind::NoRoom { .. })
}
