//! Decides whether a call may write to the stream.

use stratawal_sync::MutexGuard;

use crate::error::{Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::write::commit::GroupState;
use crate::write::reserve::ReserveUse;
use crate::write::writer::Writer;

impl Inner {
    /// Takes the stream's lock. If a full disk has stopped the stream and there is space again,
    /// recovers it first. Uses the emergency reserve only if that removes files of the stream.
    pub(crate) fn writable(&self) -> Result<MutexGuard<'_, GroupState<Writer>>> {
        self.recovered(ReserveUse::Never)
    }

    /// Takes the stream's lock for a call that frees space or closes. If a full disk has stopped
    /// the stream, recovers it first, with the emergency reserve if necessary.
    pub(crate) fn lock_for_truncate(&self) -> Result<MutexGuard<'_, GroupState<Writer>>> {
        self.recovered(ReserveUse::Allowed)
    }

    #[inline]
    fn recovered(&self, reserve: ReserveUse) -> Result<MutexGuard<'_, GroupState<Writer>>> {
        self.check_process()?;
        if self.shared.context.log_journal().is_some_and(|log| log.journal.is_failed()) {
            self.restart_full_journal(reserve)?;
        }
        let state = self.group.lock();
        match state.failure().filter(|error| error.caused_by_full_disk()).cloned() {
            None => Ok(state),
            Some(full) => {
                drop(state);
                self.recovered_from(full, reserve)
            }
        }
    }

    /// Restarts the commit journal if a full disk has failed it and there is space again.
    #[cold]
    fn restart_full_journal(&self, reserve: ReserveUse) -> Result<()> {
        let failure = self.shared.context.log_journal().and_then(|log| log.failure());
        let Some(failure) = failure else { return Ok(()) };
        if !failure.is_full() {
            // Nothing is accepted that could not be acknowledged.
            return Err(self.journal_error(failure).poisoned());
        }
        let full = failure;
        if reserve == ReserveUse::Never && self.lacks_room() {
            return Err(self.journal_error(full));
        }
        self.restart_journal()
    }

    /// Whether the disk has less space than a recovery takes. Finding out is cheaper than a
    /// recovery that fails late.
    fn has_no_room(&self) -> bool {
        // A new generation takes at least this much.
        const ROOM_MIN: u64 = 20 << 10;
        let free = self.shared.context.storage().free_space(self.shared.location.parent());
        free.is_ok_and(|free| free < ROOM_MIN)
    }

    /// [`has_no_room`](Self::has_no_room), once files that hold only dropped entries are removed.
    fn lacks_room(&self) -> bool {
        self.has_no_room() && (!self.free_dropped_files() || self.has_no_room())
    }

    /// The lock, once a stream that the error `full` has stopped is recovered.
    #[cold]
    fn recovered_from(&self, full: Error, reserve: ReserveUse) -> Result<MutexGuard<'_, GroupState<Writer>>> {
        // The space that is missing may be in files of the stream that hold only dropped entries. A
        // stream that has failed removes none, so this completes the truncation that dropped them.
        let frees = self.start_frees(&self.group.lock().tail);
        if reserve == ReserveUse::Never && !frees && self.lacks_room() {
            return Err(full);
        }
        self.recover_without_loss(if frees { ReserveUse::Allowed } else { reserve })?;
        if frees {
            // If this fails, the START stays in the journal, and the files stay.
            let _ = self.drop_in_files(self.shared.watermarks.start());
        }
        Ok(self.group.lock())
    }

    /// Returns an error if the stream has failed or was closed and so takes no more entries.
    pub(crate) fn check(&self, state: &GroupState<Writer>) -> Result<()> {
        if let Some(error) = state.failure() {
            return Err(error.clone());
        }
        if state.tail.closed {
            return Err(Error::new(ErrorKind::Closed, &self.shared.location));
        }
        Ok(())
    }
}
