//! The tickets of one stream that are not complete, in the order of their seqs.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};

use stratawal_storage::Storage;
use stratawal_sync::{AtomicSeq, Mutex, fail_point, model};

use super::{Call, Callback, Cost, LogTickets, Ticket, drop_quietly};
use crate::error::{Call as Caller, Error, ErrorKind, Result};
use crate::events;
use crate::options::Durability;
use crate::write::waiter::CommitTarget;

/// The number of a ticket that was complete when it was made.
pub(super) const COMPLETE: u64 = 0;

/// An empty queue with room for more tickets than this gives the memory back.
const KEPT_LEN_MAX: usize = 1024;

/// The tickets of one stream.
pub(crate) struct TicketQueue {
    state: Mutex<Queued>,
    /// The tickets with smaller numbers are complete.
    completed: AtomicSeq,
    /// How many outcomes are kept.
    failed_len: AtomicSeq,
    log: Arc<LogTickets>,
    /// Knows whether this process is a forked child.
    storage: Arc<dyn Storage>,
    /// The name of the stream in errors.
    stream: Arc<str>,
}

struct Queued {
    /// The number of the first ticket in the queue.
    first: u64,
    slots: VecDeque<Slot>,
    /// The errors of complete tickets that still exist.
    failed: BTreeMap<u64, Error>,
    /// How many of the tickets wait for each durability.
    waiting: [usize; 3],
    /// The next round takes the stream.
    is_listed: bool,
}

/// A ticket that is not complete.
pub(crate) struct Slot {
    first_seq: u64,
    target: CommitTarget,
    durability: Durability,
    cost: Cost,
    interest: Interest,
}

impl Slot {
    pub(crate) const fn new(first_seq: u64, target: CommitTarget, durability: Durability, cost: Cost) -> Self {
        Self { first_seq, target, durability, cost, interest: Interest::None }
    }

    pub(crate) const fn target(&self) -> CommitTarget {
        self.target
    }

    pub(crate) const fn durability(&self) -> Durability {
        self.durability
    }
}

/// What happens when a ticket completes.
enum Interest {
    /// The ticket exists, and nothing waits for it.
    None,
    Wake(Waker),
    Call(Callback),
    /// The ticket was dropped.
    Dropped,
}

/// What a completion has to do outside the locks.
#[must_use]
#[derive(Default)]
pub(crate) struct Completion {
    wakers: Vec<Waker>,
    calls: Vec<Call>,
    released: Cost,
    count: usize,
}

impl fmt::Debug for TicketQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketQueue").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl TicketQueue {
    pub(crate) fn new(log: Arc<LogTickets>, storage: Arc<dyn Storage>, stream: Arc<str>) -> Self {
        let first = COMPLETE + 1;
        let state =
            Queued { first, slots: VecDeque::new(), failed: BTreeMap::new(), waiting: [0; 3], is_listed: false };
        Self {
            state: Mutex::new(state),
            completed: AtomicSeq::new(first),
            failed_len: AtomicSeq::new(0),
            log,
            storage,
            stream,
        }
    }

    pub(crate) const fn log(&self) -> &Arc<LogTickets> {
        &self.log
    }

    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    /// Adds a ticket for entries that were just accepted. The caller holds the stream's lock. If
    /// the second value is true, the caller lists the stream before it releases that lock.
    pub(crate) fn push(self: &Arc<Self>, slot: Slot) -> (Ticket, bool) {
        let seqs = slot.first_seq..slot.target.seq;
        let mut state = self.state.lock();
        let number = state.first + state.slots.len() as u64;
        state.waiting[slot.durability as usize] += 1;
        state.slots.push_back(slot);
        let must_list = !std::mem::replace(&mut state.is_listed, true);
        (Ticket::new(Arc::clone(self), number, seqs), must_list)
    }

    /// A round begins: the next ticket lists the stream again. Returns the durability for which the
    /// tickets wait, or `None` if there are no tickets. Called before the round reads the end
    /// of the accepted entries.
    pub(crate) fn begin(&self) -> Option<Durability> {
        let mut state = self.state.lock();
        state.is_listed = false;
        let durabilities = [Durability::Synced, Durability::Flushed, Durability::Buffered];
        durabilities.into_iter().find(|durability| state.waiting[*durability as usize] > 0)
    }

    /// Completes the tickets at the front for which `outcome` returns a result. They complete in
    /// the order of their seqs: the first for which it returns `None` ends this.
    pub(crate) fn complete(self: &Arc<Self>, outcome: impl Fn(&Slot) -> Option<Result<()>>) -> Completion {
        let mut done = Completion::default();
        let mut calls = Vec::new();
        let mut state = self.state.lock();
        while let Some(result) = state.slots.front().and_then(&outcome) {
            let Some(slot) = state.slots.pop_front() else { break };
            let number = state.first;
            state.first += 1;
            state.waiting[slot.durability as usize] -= 1;
            done.count += 1;
            let cost = slot.cost;
            let result = result.map_err(|error| error.of_call(Caller::Append));
            match slot.interest {
                Interest::Call(callback) => {
                    let outcome = result.map(|()| slot.first_seq..slot.target.seq);
                    calls.push(Call { queue: Arc::clone(self), callback, outcome, cost });
                    continue;
                }
                Interest::Dropped => {}
                Interest::None | Interest::Wake(_) => {
                    if let Err(error) = result {
                        state.failed.insert(number, error);
                    }
                }
            }
            if let Interest::Wake(waker) = slot.interest {
                done.wakers.push(waker);
            }
            done.released += cost;
        }
        if state.slots.is_empty() && state.slots.capacity() > KEPT_LEN_MAX {
            state.slots = VecDeque::new();
        }
        // The errors are stored before the number that makes a ticket look for its error.
        self.failed_len.store(state.failed.len() as u64);
        self.completed.store(state.first);
        done.calls = self.log.call_later(calls);
        drop(state);
        done
    }

    /// Wakes those that wait for complete tickets, and gives the room of the tickets back. The
    /// caller holds no lock. Returns the number of tickets.
    pub(crate) fn announce(&self, done: Completion) -> usize {
        self.log.release(done.released);
        for waker in done.wakers {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                events::callback_panicked(&self.stream);
                drop_quietly(panic);
            }
        }
        done.calls.into_iter().for_each(|call| self.log.run(call));
        done.count
    }

    /// The epoch of the first ticket in the queue.
    pub(crate) fn first_epoch(&self) -> Option<u64> {
        self.state.lock().slots.front().map(|slot| slot.target.epoch)
    }
}

/// The calls of a ticket.
impl TicketQueue {
    /// The error of every call in a forked child. There the locks may stay held forever.
    pub(super) fn check_process(&self) -> Result<()> {
        if self.storage.is_forked() { Err(Error::named(ErrorKind::Forked, &self.stream)) } else { Ok(()) }
    }

    /// Whether the ticket is complete, and its outcome. Otherwise has `waker` woken when it is, and
    /// no other.
    pub(super) fn poll(&self, number: u64, waker: &Waker) -> Poll<Result<()>> {
        if number < self.completed.load() {
            return Poll::Ready(self.outcome(number));
        }
        // Cloned and dropped outside the lock, because this is code of the program.
        let waker = waker.clone();
        let unused = {
            let mut state = self.state.lock();
            match state.slot(number) {
                Some(slot) => std::mem::replace(&mut slot.interest, Interest::Wake(waker)),
                None if fail_point!(PollUnchecked) => return Poll::Pending,
                None => {
                    drop(state);
                    return Poll::Ready(self.outcome(number));
                }
            }
        };
        drop(unused);
        Poll::Pending
    }

    fn outcome(&self, number: u64) -> Result<()> {
        if self.failed_len.load() == 0 {
            return Ok(());
        }
        self.state.lock().failed.get(&number).cloned().map_or(Ok(()), Err)
    }

    /// Has `callback` called with the outcome of the ticket, which is given up.
    pub(super) fn call_when_done(self: &Arc<Self>, number: u64, seqs: Range<u64>, callback: Callback) {
        let mut state = self.state.lock();
        if let Some(slot) = state.slot(number) {
            let unused = std::mem::replace(&mut slot.interest, Interest::Call(callback));
            drop(state);
            drop(unused);
            return;
        }
        let outcome = state.failed.remove(&number).map_or(Ok(seqs), Err);
        self.failed_len.store(state.failed.len() as u64);
        // The ticket has already given its room back.
        let call = Call { queue: Arc::clone(self), callback, outcome, cost: Cost::default() };
        let mine = self.log.call_later(vec![call]);
        drop(state);
        mine.into_iter().for_each(|call| self.log.run(call));
    }

    /// The ticket was dropped. Nothing is cancelled.
    pub(super) fn forget(&self, number: u64) {
        if number == COMPLETE || model::is_over() || self.storage.is_forked() {
            return;
        }
        if number < self.completed.load() && self.failed_len.load() == 0 {
            return;
        }
        let mut state = self.state.lock();
        if let Some(slot) = state.slot(number) {
            let unused = std::mem::replace(&mut slot.interest, Interest::Dropped);
            drop(state);
            // Code of the program runs here, and may use the log.
            drop(unused);
        } else if state.failed.remove(&number).is_some() {
            self.failed_len.store(state.failed.len() as u64);
        }
    }
}

impl Queued {
    /// The place of a ticket that is not complete.
    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let i = number.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(i).ok()?)
    }
}
