//! Appends that do not wait: accepts entries for a ticket, and does the work of a round of tickets
//! for one stream. See [`tickets`](crate::tickets).

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use stratawal_journal::Position;
use stratawal_sync::{MutexGuard, fail_point};

use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::DueFollowers;
use crate::inner::Inner;
use crate::options::Durability;
use crate::tickets::{Cost, LogTickets, NoRoom, Slot, Ticket, TicketQueue};
use crate::write::commit::GroupState;
use crate::write::journaled::Put;
use crate::write::pending::{COPIED_LEN_MAX, Entries};
use crate::write::waiter::CommitTarget;
use crate::write::writer::Writer;

/// A submit puts the accepted entries into the commit journal once they have this many bytes. A
/// round that finds more than twice as many writes them to the files instead.
const PUT_LEN: usize = 32 << 10;

/// The work of a round for one stream.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    /// Everything that was accepted when the round began.
    target: CommitTarget,
    durability: Durability,
    put: Result<Put>,
}

impl Begun {
    /// Whether the stream's own files have to be written or synced.
    pub(crate) const fn is_in_files(&self) -> bool {
        matches!(self.put, Ok(Put::ThroughFiles))
    }

    /// Where the journal has to be synced.
    pub(crate) fn position(&self) -> Option<Position> {
        match self.put {
            Ok(Put::InJournal(position)) if self.durability == Durability::Synced => Some(position),
            _ => None,
        }
    }
}

/// The room that a call has taken, until there is a ticket.
struct Admitted<'a> {
    log: &'a LogTickets,
    cost: Cell<Cost>,
}

impl Admitted<'_> {
    /// The ticket has the room from here on.
    fn give_to_ticket(&self) -> Cost {
        self.cost.take()
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.log.release(self.cost.take());
    }
}

impl Inner {
    /// See [`StreamLog::submit`](crate::StreamLog::submit).
    pub(crate) fn submit(
        self: &Arc<Self>,
        log: &Arc<LogTickets>,
        batch: &Batch,
        durability: Durability,
        no_room: NoRoom,
    ) -> Result<Ticket> {
        self.check_process()?;
        let queue = self.tickets.get_or_init(|| {
            let storage = Arc::clone(self.shared.context.plain());
            Arc::new(TicketQueue::new(Arc::clone(log), storage, self.shared.location.shared_name()))
        });
        if batch.is_empty() {
            let seqs = self.append_batch(batch, durability)?;
            return Ok(Ticket::complete(Arc::clone(queue), seqs));
        }
        let entries = Entries::Batch(batch);
        let reserved = self.reserved_len(&entries)?;
        let len = entries.tail_len();
        let is_large = len > COPIED_LEN_MAX;
        if is_large && no_room == NoRoom::Refuse {
            let kind = ErrorKind::TooLarge { len: len as u64, max: COPIED_LEN_MAX as u64 };
            return Err(Error::new(kind, &self.shared.location));
        }
        // A large batch is in the file when this returns.
        let cost = Cost { tickets: 1, bytes: if is_large { 0 } else { len } };
        if !log.admit(cost, no_room) {
            return Err(Error::new(ErrorKind::Busy, &self.shared.location));
        }
        let admitted = Admitted { log, cost: Cell::new(cost) };
        let ticket = if is_large {
            self.submit_large(queue, &entries, reserved, durability, &admitted)
        } else {
            self.submit_copied(queue, &entries, reserved, durability, &admitted)
        };
        // After an error too: a large batch may have a ticket although its submit fails.
        log.wake_driver();
        ticket
    }

    fn submit_copied(
        self: &Arc<Self>,
        queue: &Arc<TicketQueue>,
        entries: &Entries<'_>,
        reserved: u64,
        durability: Durability,
        admitted: &Admitted<'_>,
    ) -> Result<Ticket> {
        // Woken once the lock is released.
        let mut due = DueFollowers::default();
        let (mut state, seqs) = self.accept(entries, reserved, None)?;
        if durability != Durability::Buffered {
            self.put_if_long(&mut state, durability);
        }
        due.extend(self.group.take_due(&mut state));
        let (ticket, must_list) = self.push_ticket(&state, queue, seqs, durability, admitted);
        if fail_point!(ListedLate) {
            drop(state);
        }
        if must_list {
            queue.log().list(self);
        }
        Ok(ticket)
    }

    /// Adds the ticket for the entries `seqs`, which were just accepted.
    fn push_ticket(
        &self,
        state: &GroupState<Writer>,
        queue: &Arc<TicketQueue>,
        seqs: Range<u64>,
        durability: Durability,
        admitted: &Admitted<'_>,
    ) -> (Ticket, bool) {
        let target = CommitTarget { seq: seqs.end, ..self.group.target(state) };
        queue.push(Slot::new(seqs.start, target, durability, admitted.give_to_ticket()))
    }

    /// Puts the accepted entries into the commit journal if they are long and that takes no
    /// waiting. The driver of the tickets does the rest, and meets any error of this again.
    fn put_if_long(&self, state: &mut MutexGuard<'_, GroupState<Writer>>, durability: Durability) {
        if state.tail.unjournaled_len() >= PUT_LEN {
            self.give_id(state);
            let _ = state.tail.put_in_journal(durability, &self.shared.watermarks);
        }
    }

    /// Writes a batch over [`COPIED_LEN_MAX`] from the caller's memory, and leaves the sync to the
    /// driver of the tickets.
    fn submit_large(
        self: &Arc<Self>,
        queue: &Arc<TicketQueue>,
        entries: &Entries<'_>,
        reserved: u64,
        durability: Durability,
        admitted: &Admitted<'_>,
    ) -> Result<Ticket> {
        let ticket = self.write_large_with(entries, reserved, None, |state, seqs| {
            let (ticket, must_list) = self.push_ticket(state, queue, seqs, durability, admitted);
            if must_list {
                queue.log().list(self);
            }
            ticket
        })?;
        self.bound_files();
        Ok(ticket)
    }

    /// Begins a round: has everything accepted acknowledged as its tickets ask, as far as that
    /// needs no sync.
    pub(crate) fn begin_tickets(&self) -> Begun {
        let asked = self.tickets.get().and_then(|queue| queue.begin());
        // Woken once the lock is released.
        let mut due = DueFollowers::default();
        let state = self.group.lock();
        let target = self.group.target(&state);
        let durability = asked.unwrap_or(Durability::Buffered);
        let put = match state.failure() {
            Some(error) => Err(error.clone().after_acceptance()),
            None if durability == Durability::Buffered => Ok(Put::Done),
            None if state.tail.journaled.is_none() => Ok(Put::ThroughFiles),
            None => self.put(state, target, durability, &mut due).map(|(_, put)| put),
        };
        Begun { target, durability, put }
    }

    /// Ends a round: completes the tickets that it reached, or that fail. The caller holds no lock.
    /// Returns how many there were.
    pub(crate) fn finish_tickets(&self, begun: Begun) -> usize {
        let Some(queue) = self.tickets.get() else { return 0 };
        let Begun { target, durability, put } = begun;
        let done = put.and_then(|put| match put {
            Put::InJournal(position) if durability == Durability::Synced => self.sync_to(position, target),
            Put::InJournal(_) | Put::Done => Ok(()),
            Put::ThroughFiles => self.group.wait_for(durability, target),
        });
        let reached = |slot: &Slot| self.group.reached(slot.durability(), slot.target()).then_some(Ok(()));
        let count = queue.announce(queue.complete(reached));
        let is_over = |epoch| epoch != self.shared.watermarks.epoch();
        if done.is_ok() && !queue.first_epoch().is_some_and(is_over) {
            return count;
        }
        let state = self.group.lock();
        let epoch = self.shared.watermarks.epoch();
        let completion = queue.complete(|slot| {
            let of_slot = slot.target();
            if let Some(reached) = reached(slot) {
                return Some(reached);
            }
            if of_slot.epoch != epoch {
                return Some(state.outcome_of(of_slot.epoch, queue.stream()));
            }
            let failure = state.failure().map(|error| error.clone().after_acceptance());
            // A journal that has failed does not fail the stream.
            let of_round = || done.clone().err().filter(|_| of_slot.epoch == target.epoch && of_slot.seq <= target.seq);
            failure.or_else(of_round).map(Err)
        });
        drop(state);
        count + queue.announce(completion)
    }

    /// Bounds the length of the tail after a round, as appends do. A stream that fails here reports
    /// it to its next append.
    pub(crate) fn bound_tail_after_tickets(&self, begun: &Begun) {
        let _ = self.drain_if_long();
        if begun.durability == Durability::Buffered {
            let state = self.group.lock();
            let len = state.tail.pending_len();
            let target = self.group.target(&state);
            drop(state);
            if len >= self.shared.options.buffer_bytes {
                let _ = self.bound_memory(len, target);
            }
        }
    }
}
