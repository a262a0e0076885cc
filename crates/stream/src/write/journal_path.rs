//! The path of an append through the commit journal.
//!
//! ```text
//! accepted      append.rs
//!   |
//!   v
//! put           journaled.rs    entries that are not in it become a record       (under the lock)
//!   |                           -> flushed
//!   v
//! sync_to       the journal     one sync for all streams                          (no lock)
//!   |
//!   v
//! durable       here            the watermark rises, in the epoch of the entries  (under the lock)
//! ```
//!
//! If the journal has no room, or the entries are too long for it, the files acknowledge them as
//! they would without a journal.

use stratawal_journal::{Error as JournalError, ErrorKind as JournalErrorKind, Lsn, Position, Record};
use stratawal_sync::atomic::{AtomicBool, Ordering};
use stratawal_sync::{MutexGuard, fail_point};

use crate::deletion::make_room;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::DueFollowers;
use crate::inner::Inner;
use crate::journal_user::{BegunSync, JournalUser};
use crate::options::Durability;
use crate::write::commit::GroupState;
use crate::write::create::new_stream_id;
use crate::write::journaled::Put;
use crate::write::reserve::ReserveUse;
use crate::write::waiter::CommitTarget;
use crate::write::writer::Writer;

/// The tail is drained once it has this many bytes.
const DRAIN_LEN: usize = 256 << 10;

/// An append that finds no room in the journal makes room this often. The room that it, or another
/// thread, has made may be taken by other appends.
const ROOM_TRIES: usize = 3;

impl Inner {
    /// Waits until everything accepted is acknowledged at `durability`, through the journal if that
    /// is possible.
    pub(super) fn acknowledge_in_journal(
        &self,
        state: MutexGuard<'_, GroupState<Writer>>,
        durability: Durability,
    ) -> Result<()> {
        let target = self.group.target(&state);
        let mut due = DueFollowers::default();
        let (state, put) = self.put(state, target, durability, &mut due)?;
        let pending_len = state.tail.pending_len();
        match put {
            Put::ThroughFiles => {
                self.group.wait_for_locked(state, durability, target)?;
                self.bound_files();
                return Ok(());
            }
            Put::InJournal(position) if durability == Durability::Synced => {
                drop(state);
                self.sync_to(position, target)?;
            }
            Put::InJournal(_) | Put::Done => drop(state),
        }
        drop(due);
        self.maintain_and_drain(pending_len)
    }

    /// Maintains the journal if that is due, and drains the tail, of `len` bytes, if it is long.
    fn maintain_and_drain(&self, len: usize) -> Result<()> {
        if let Some(log) = self.shared.context.log_journal() {
            log.maintain_if_due();
        }
        if len < DRAIN_LEN && !self.holds_too_much() {
            return Ok(());
        }
        let drained = self.drain(len);
        self.bound_files();
        drained
    }

    /// The same after a round of tickets. Does nothing without a journal.
    pub(super) fn drain_if_long(&self) -> Result<()> {
        if self.shared.context.log_journal().is_none() {
            return Ok(());
        }
        let len = self.group.lock().tail.pending_len();
        self.maintain_and_drain(len)
    }

    /// Gives the stream an id if it is about to have its first record.
    pub(super) fn give_id(&self, state: &mut GroupState<Writer>) {
        if state.tail.lacks_id() {
            state.tail.set_id(new_stream_id(&self.shared.context));
        }
    }

    /// Closes files of active segments if too many are open. The caller holds no lock.
    pub(super) fn bound_files(&self) {
        if let Some(log) = self.shared.context.log_journal() {
            log.bound_files();
        }
    }

    /// Puts the missing records into the journal. Makes room if there is none. Adds the followers
    /// that the caller wakes to `due`.
    pub(super) fn put<'a>(
        &'a self,
        mut state: MutexGuard<'a, GroupState<Writer>>,
        target: CommitTarget,
        durability: Durability,
        due: &mut DueFollowers,
    ) -> Result<(MutexGuard<'a, GroupState<Writer>>, Put)> {
        let watermarks = &self.shared.watermarks;
        self.give_id(&mut state);
        loop {
            let put = state.tail.put_in_journal(durability, watermarks);
            // An error may come after some frames were put.
            due.extend(self.group.take_due(&mut state));
            let error = match put {
                Ok(put) => return Ok((state, put)),
                Err(error) => error,
            };
            let JournalErrorKind::NoRoom { len } = *error.kind() else {
                return self.unless_failed(&state, error).map(|put| (state, put));
            };
            fail_point!(RoomMadeUnderLock, drop(self.make_journal_room(len)));
            drop(state);
            let has_room = self.make_journal_room(len);
            state = self.group.lock();
            if watermarks.epoch() != target.epoch {
                let outcome = state.outcome_of(target.epoch, self.shared.location.name());
                return outcome.map(|()| (state, Put::Done));
            }
            if watermarks.reached(durability) >= target.seq {
                return Ok((state, Put::Done));
            }
            if let Some(error) = state.failure() {
                return Err(error.clone().after_acceptance());
            }
            if let Err(error) = has_room {
                return self.unless_failed(&state, error).map(|put| (state, put));
            }
        }
    }

    /// The entries go through the files after `error`, unless the journal has failed.
    fn unless_failed(&self, state: &GroupState<Writer>, error: JournalError) -> Result<Put> {
        let failed = state.tail.journaled.as_ref().is_none_or(|journaled| journaled.is_failure(&error));
        if failed { Err(self.journal_error(error).poisoned()) } else { Ok(Put::ThroughFiles) }
    }

    pub(crate) fn journal_error(&self, error: JournalError) -> Error {
        Error::journal(&self.shared.location, error)
    }

    /// Makes room for a record of `len` bytes. The caller holds no lock.
    pub(super) fn make_journal_room(&self, len: u64) -> stratawal_journal::Result<()> {
        let Some(log) = self.shared.context.log_journal() else { return Ok(()) };
        for _ in 0..ROOM_TRIES {
            match log.journal.reserve_len(len) {
                Err(full) if matches!(full.kind(), JournalErrorKind::Full { .. }) => log.make_room()?,
                other => return other,
            }
        }
        log.journal.reserve_len(len)
    }

    /// Makes the commit journal ready for a truncation. The caller holds no lock.
    pub(super) fn make_journal_room_for_control(&self, reserve: ReserveUse) {
        // Not every truncation needs a record, and one that does reports the error.
        let _ = make_room(&self.shared.context, &self.shared.location, reserve);
    }

    /// Returns once the record at `position` is durable, and raises the durable watermark to
    /// `target`.
    pub(super) fn sync_to(&self, position: Position, target: CommitTarget) -> Result<()> {
        let Some(log) = self.shared.context.log_journal() else { return Ok(()) };
        log.journal.sync_to(position).map_err(|error| self.journal_error(error).poisoned())?;
        self.shared.context.wake_after_sync();
        let watermarks = &self.shared.watermarks;
        if watermarks.durable() >= target.seq && watermarks.epoch() == target.epoch {
            return Ok(());
        }
        // The lock keeps the epoch from ending between the check and the rise.
        let mut state = self.group.lock();
        if watermarks.epoch() != target.epoch && !fail_point!(EpochNotChecked) {
            return state.outcome_of(target.epoch, self.shared.location.name());
        }
        // Threads that wait for other entries of this stream then need no lock.
        let durable = state.tail.journaled.as_ref().and_then(|journaled| journaled.durable_end(log.journal.durable()));
        watermarks.raise_durable(durable.unwrap_or(target.seq).max(target.seq));
        let due = self.group.take_due(&mut state);
        drop(state);
        drop(due);
        Ok(())
    }

    /// Drains the tail, of `len` bytes, if no thread leads. A thread that leads may be syncing the
    /// files for a long time; so the tail may grow to an eighth of the journal before an append
    /// waits for it.
    fn drain(&self, len: usize) -> Result<()> {
        let max = self.shared.context.log_journal().map_or(0, |log| log.capacity() / 8);
        let drained = if len as u64 >= max.max(DRAIN_LEN as u64) || self.holds_too_much() {
            self.group.commit_now(Durability::Flushed)
        } else {
            self.group.commit_if_free(self.group.lock(), Durability::Flushed)
        };
        match drained {
            // No descriptor was left. The entries are in the journal, and the next append tries
            // again.
            Err(_) if self.group.lock().failure().is_none() => Ok(()),
            // The stream was closed, which has drained it.
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            drained => drained,
        }
    }

    /// Drains the stream, and syncs its files.
    pub(crate) fn settle_files(&self) -> Result<()> {
        self.group.commit_now(Durability::Synced)
    }
}

/// Freeing space in the journal.
impl Inner {
    /// Puts the needed records again at the end of the journal if they take at most `max` bytes.
    /// Returns how many bytes they take, or `None` if they stay where they are.
    fn copy_records(&self, max: usize, has_copies: &AtomicBool) -> stratawal_journal::Result<Option<usize>> {
        loop {
            let error = {
                let mut state = self.group.lock();
                let Some((journaled, rest)) = state.tail.journaled_and_rest() else { return Ok(Some(0)) };
                let len = journaled.needed_len(&rest);
                if len > max {
                    return Ok(None);
                }
                // Relaxed: the thread that releases space reads it after this call, or after it has
                // joined this thread.
                has_copies.store(true, Ordering::Relaxed);
                match journaled.copy_forward(&rest) {
                    Ok(()) => return Ok(Some(len)),
                    Err(error) => error,
                }
            };
            match *error.kind() {
                JournalErrorKind::NoRoom { len } => {
                    let Some(log) = self.shared.context.log_journal() else { return Ok(Some(0)) };
                    match log.journal.reserve_len(len) {
                        // Settling needs no room.
                        Err(full) if full.is_full() || matches!(full.kind(), JournalErrorKind::Full { .. }) => {
                            return Ok(None);
                        }
                        other => other?,
                    }
                }
                _ => return Err(error),
            }
        }
    }

    /// Whether draining the entries is enough for their records to be released. If too many files
    /// have unsynced writes, settling is better.
    fn is_loose(&self) -> bool {
        if self.shared.context.log_journal().is_some_and(|log| log.files().is_crowded()) {
            return false;
        }
        let state = self.group.lock();
        let all_firm = self.all_firm();
        state.tail.journaled.as_ref().is_some_and(|journaled| journaled.is_loose(&self.shared.watermarks, all_firm))
    }

    /// Whether readers take every entry for durable, so that no record is loose.
    pub(super) fn all_firm(&self) -> bool {
        self.shared.options.durability == Durability::Synced
    }

    /// The LSN from which on this stream needs the journal.
    pub(crate) fn journal_needed_from(&self) -> Option<Lsn> {
        let mut state = self.group.lock();
        // After a failure it is unknown what of the drained entries the files still hold.
        let all_firm = self.all_firm() || state.failure().is_some();
        state.tail.journaled.as_mut()?.needed_from(&self.shared.watermarks, all_firm)
    }
}

impl JournalUser for Inner {
    fn begin_sync(&self) -> Result<Option<BegunSync>> {
        // Dropped after the lock.
        let mut due = DueFollowers::default();
        let state = self.group.lock();
        if self.shared.watermarks.durable() >= state.tail.next_seq {
            return Ok(None);
        }
        if let Some(error) = state.failure() {
            // A deleted stream has nothing to sync.
            return if error.kind() == ErrorKind::Missing { Ok(None) } else { Err(error.clone()) };
        }
        let target = self.group.target(&state);
        let (_state, put) = self.put(state, target, Durability::Synced, &mut due)?;
        Ok(match put {
            Put::Done => None,
            Put::InJournal(position) => Some(BegunSync { target, position: Some(position) }),
            Put::ThroughFiles => Some(BegunSync { target, position: None }),
        })
    }

    fn finish_sync(&self, begun: BegunSync) -> Result<()> {
        match begun.position {
            Some(position) => self.sync_to(position, begun.target),
            None => self.group.wait_for(Durability::Synced, begun.target),
        }
    }

    fn needed_below(&self, target: Lsn) -> Option<usize> {
        self.journal_needed_from().filter(|&lsn| lsn < target)?;
        let mut state = self.group.lock();
        state.tail.journaled_and_rest().map(|(journaled, rest)| journaled.needed_len(&rest))
    }

    fn copy_forward(&self, max: usize, has_copies: &AtomicBool) -> stratawal_journal::Result<Option<usize>> {
        self.free_start_below(Lsn(u64::MAX), has_copies)?;
        self.copy_records(max, has_copies)
    }

    fn begin_to_free(&self) {
        if !self.is_loose() {
            self.begin_settle();
        }
    }

    fn free_journal_below(&self, target: Lsn, has_copies: &AtomicBool) -> stratawal_journal::Result<()> {
        if self.journal_needed_from().is_none_or(|lsn| lsn >= target) {
            return Ok(());
        }
        self.free_start_below(target, has_copies)?;
        if self.journal_needed_from().is_none_or(|lsn| lsn >= target) {
            return Ok(());
        }
        let durability = if self.is_loose() { Durability::Flushed } else { Durability::Synced };
        // A stream that has failed keeps its records: they are copied below.
        let _ = self.group.commit_now(durability);
        if self.journal_needed_from().is_some_and(|lsn| lsn < target) {
            self.copy_records(usize::MAX, has_copies)?;
        }
        Ok(())
    }

    fn journal_records(&self) -> Vec<Record> {
        let mut state = self.group.lock();
        let all_firm = self.all_firm() || state.failure().is_some();
        let Some((journaled, rest)) = state.tail.journaled_and_rest() else { return Vec::new() };
        journaled.needed_from(&self.shared.watermarks, all_firm);
        journaled.records(&rest)
    }

    fn journal_moved_to(&self, lsn: Lsn) {
        let mut state = self.group.lock();
        if let Some(journaled) = &mut state.tail.journaled {
            journaled.moved_to(lsn);
        }
    }

    fn settle(&self) -> Result<()> {
        self.settle_files()
    }

    fn begin_settle(&self) {
        // A stream that fails here reports it to the call that settles it.
        let _ = self.group.commit_if_free(self.group.lock(), Durability::Flushed);
        let state = self.group.lock();
        // The files of a closed stream may belong to another process.
        if !state.tail.closed {
            let _ = self.group.lead_if_free(state, |writer| {
                writer.start_write_back();
                Ok(())
            });
        }
    }

    fn write_due_start(&self) {
        self.write_start_if_due();
    }
}
