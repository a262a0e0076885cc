//! Appends that do not wait: the tickets of a log, and the rounds that complete them.
//!
//! ```text
//! submit        write/submit.rs   accepts the entries, and adds a ticket to its stream's queue
//!   |                             (under the stream's lock)
//!   v
//! list          here              the stream waits for the next round
//!   |
//!   v
//! a round       here              takes all listed streams, and puts the missing records of each
//!   |                             one sync of the journal, or one of the files of each stream
//!   v
//! complete      queue.rs          the tickets at the front of each queue that are reached
//! ```
//!
//! A round makes the entries durable that were accepted before it; tickets that arrive during its
//! sync gather for the next round. A ticket is not an object of its own but a place in the queue of
//! its stream: a number. One number for each stream states which tickets are complete, so a round
//! completes any number of them in one hold of one lock.
//!
//! This module has no threads. The facade runs [`drive`](LogTickets::drive) in one thread, and
//! [`run_callbacks`](LogTickets::run_callbacks) in another.
//!
//! Locks, in the order in which they are taken: a stream's lock, the lock of its queue, and then
//! that of *streams*, *calls* or *budget*. No code of the program (a waker, a callback, the drop of
//! either) runs under any of them.

mod queue;
mod ticket;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Thread;

use stratawal_sync::thread::yield_now;
use stratawal_sync::{Condvar, Mutex, OnceLock, model};

pub(crate) use self::queue::{Slot, TicketQueue};
pub use self::ticket::Ticket;
use crate::batches::{BATCH_LEN_MAX, in_batches};
use crate::error::Result;
use crate::events;
use crate::inner::Inner;
use crate::write::submit::Begun;

/// The maximum number of tickets of a log that are in flight.
const TICKETS_MAX: usize = 128 << 10;

/// The maximum number of bytes of the entries of these tickets.
const BYTES_MAX: usize = 64 << 20;

/// The function that [`Ticket::on_done`] takes.
pub(crate) type Callback = Box<dyn FnOnce(Result<Range<u64>>) + Send>;

/// The tickets of all streams of a log.
pub struct LogTickets {
    budget: Mutex<Budget>,
    /// There is room in the budget again.
    room: Condvar,
    /// The streams that the next round takes.
    streams: Mutex<Vec<Arc<Inner>>>,
    calls: Mutex<Calls>,
    driver: OnceLock<Thread>,
    caller: OnceLock<Thread>,
}

/// The tickets in flight.
#[derive(Debug, Default)]
struct Budget {
    tickets: usize,
    bytes: usize,
    /// The threads that wait for room.
    waiting: usize,
    /// How many tickets the last round completed.
    last_completed: usize,
}

/// The callbacks that are due.
#[derive(Default)]
struct Calls {
    /// In the order in which they are called.
    queue: VecDeque<Call>,
    /// No thread calls callbacks any more.
    is_over: bool,
}

/// A callback that is due.
pub(crate) struct Call {
    queue: Arc<TicketQueue>,
    callback: Callback,
    outcome: Result<Range<u64>>,
    cost: Cost,
}

/// The part of the budget that a ticket takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) tickets: usize,
    pub(crate) bytes: usize,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.tickets += other.tickets;
        self.bytes += other.bytes;
    }
}

/// What a call does if there is no room for its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Wait,
    Refuse,
}

impl fmt::Debug for LogTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogTickets").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl Default for LogTickets {
    fn default() -> Self {
        Self::new()
    }
}

impl LogTickets {
    /// The tickets of a log that has none.
    #[must_use]
    pub fn new() -> Self {
        Self {
            budget: Mutex::new(Budget::default()),
            room: Condvar::new(),
            streams: Mutex::new(Vec::new()),
            calls: Mutex::new(Calls::default()),
            driver: OnceLock::new(),
            caller: OnceLock::new(),
        }
    }

    /// How many tickets are in flight: not complete, or with a callback that has not returned.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.budget.lock().tickets
    }

    /// Takes room for a ticket. Returns false if there is none and the call does not wait. The
    /// threads of the tickets never wait: they are the ones that make room.
    pub(crate) fn admit(&self, cost: Cost, no_room: NoRoom) -> bool {
        let mut budget = self.budget.lock();
        while budget.tickets > 0
            && (budget.tickets + cost.tickets > TICKETS_MAX || budget.bytes + cost.bytes > BYTES_MAX)
        {
            if no_room == NoRoom::Refuse || self.is_own_thread() {
                return false;
            }
            budget.waiting += 1;
            budget = self.room.wait(budget);
            budget.waiting -= 1;
        }
        budget.tickets += cost.tickets;
        budget.bytes += cost.bytes;
        true
    }

    /// Gives the room of tickets back.
    pub(crate) fn release(&self, cost: Cost) {
        if cost == Cost::default() {
            return;
        }
        let mut budget = self.budget.lock();
        budget.tickets -= cost.tickets;
        budget.bytes -= cost.bytes;
        if budget.waiting > 0 {
            self.room.notify_all();
        }
    }

    /// Whether the current thread runs the rounds or calls the callbacks.
    #[must_use]
    pub fn is_own_thread(&self) -> bool {
        let current = std::thread::current().id();
        [&self.driver, &self.caller].iter().any(|thread| thread.get().is_some_and(|thread| thread.id() == current))
    }

    /// Has the next round take `stream`. The caller holds the stream's lock, so that a close of the
    /// stream finds it listed.
    pub(crate) fn list(&self, stream: &Arc<Inner>) {
        self.streams.lock().push(Arc::clone(stream));
    }

    /// Wakes the thread that runs the rounds.
    pub(crate) fn wake_driver(&self) {
        if let Some(driver) = self.driver.get() {
            driver.unpark();
        }
    }

    /// Has callbacks called. The caller holds the lock of the queue, so that the callbacks of a
    /// stream are called in the order of its seqs. Returns those that the caller has to call itself
    /// once it holds no lock, because the log is closed.
    #[must_use]
    pub(crate) fn call_later(&self, calls: Vec<Call>) -> Vec<Call> {
        if calls.is_empty() {
            return calls;
        }
        {
            let mut due = self.calls.lock();
            if due.is_over {
                return calls;
            }
            due.queue.extend(calls);
        }
        if let Some(caller) = self.caller.get() {
            caller.unpark();
        }
        Vec::new()
    }

    /// Calls a callback. One that panics harms no other; the panic is an event.
    pub(crate) fn run(&self, call: Call) {
        let Call { queue, callback, outcome, cost } = call;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(outcome))) {
            events::callback_panicked(queue.stream());
            drop_quietly(panic);
        }
        self.release(cost);
    }
}

/// The threads of the tickets. Each parks between two calls that had nothing to do.
impl LogTickets {
    /// Has the current thread woken whenever [`drive`](Self::drive) has work.
    pub fn drive_in_this_thread(&self) {
        let _ = self.driver.set(std::thread::current());
    }

    /// Has the current thread woken whenever [`run_callbacks`](Self::run_callbacks) has work.
    pub fn call_in_this_thread(&self) {
        let _ = self.caller.set(std::thread::current());
    }

    /// Runs one round: makes everything durable, or flushed, for which a ticket waits, and
    /// completes the tickets. Returns whether there was work.
    ///
    /// A stream that fails gives its tickets the error; the next append to it reports the failure.
    pub fn drive(&self) -> bool {
        self.gather();
        let due = Due { tickets: self, streams: std::mem::take(&mut *self.streams.lock()) };
        if due.streams.is_empty() {
            return false;
        }
        let mut completed = 0;
        let begun: Vec<(&Arc<Inner>, Begun)> =
            due.streams.iter().map(|stream| (stream, stream.begin_tickets())).collect();
        sync_journal(&begun);
        let (in_files, in_journal): (Vec<_>, Vec<_>) =
            begun.iter().cloned().partition(|(_, begun)| begun.is_in_files());
        for (stream, begun) in in_journal {
            completed += stream.finish_tickets(begun);
        }
        let of_files = Mutex::new(0);
        let finish = |batch: &[(&Arc<Inner>, Begun)]| {
            let finished: usize = batch.iter().map(|(stream, begun)| stream.finish_tickets(begun.clone())).sum();
            *of_files.lock() += finished;
            Ok::<(), ()>(())
        };
        let finished = in_batches(&in_files, BATCH_LEN_MAX, finish);
        debug_assert!(finished.is_ok(), "no batch fails");
        completed += *of_files.lock();
        begun.iter().for_each(|(stream, begun)| stream.bound_tail_after_tickets(begun));
        self.budget.lock().last_completed = completed;
        due.end();
        true
    }

    /// Gives the threads and tasks whose tickets have just completed a chance to submit again
    /// before the round begins. A sync for many tickets takes as long as a sync for one.
    fn gather(&self) {
        // After this many yields without a new ticket, no more are expected.
        const IN_VAIN_MAX: usize = if cfg!(stratawal_loom) { 0 } else { 3 };
        let expected = std::mem::take(&mut self.budget.lock().last_completed);
        let mut arrived = self.in_flight();
        let mut in_vain = 0;
        while arrived < expected && in_vain < IN_VAIN_MAX {
            yield_now();
            let before = std::mem::replace(&mut arrived, self.in_flight());
            in_vain = if arrived > before { 0 } else { in_vain + 1 };
        }
    }

    /// Calls the callbacks that are due. Returns whether there were any. With `stopping`, callbacks
    /// that are due later are called by the threads that register them.
    pub fn run_callbacks(&self, stopping: bool) -> bool {
        let mut any = false;
        loop {
            // The lock is not held while a callback runs.
            let call = {
                let mut due = self.calls.lock();
                let call = due.queue.pop_front();
                due.is_over |= stopping && call.is_none();
                call
            };
            let Some(call) = call else { return any };
            any = true;
            self.run(call);
        }
    }
}

/// Syncs the journal once for all streams. The call on each stream meets any error of this again.
fn sync_journal(begun: &[(&Arc<Inner>, Begun)]) {
    let last = begun.iter().filter_map(|(_, begun)| begun.position()).max_by_key(|position| position.end);
    if let (Some(position), Some((stream, _))) = (last, begun.first())
        && let Some(log) = stream.shared.context.log_journal()
    {
        let _ = log.journal.sync_to(position);
    }
}

/// Drops a value of the program whose drop may panic.
pub(crate) fn drop_quietly<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // Dropping this could panic again.
        std::mem::forget(panic);
    }
}

/// The streams of a round. If the round unwinds, the next one takes them again, so that no ticket
/// is forgotten.
struct Due<'a> {
    tickets: &'a LogTickets,
    streams: Vec<Arc<Inner>>,
}

impl Due<'_> {
    fn end(mut self) {
        self.streams.clear();
    }
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        if !self.streams.is_empty() && !model::is_over() {
            self.tickets.streams.lock().append(&mut self.streams);
        }
    }
}
