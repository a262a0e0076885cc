//! Group commit for the journal: one thread syncs for all that are waiting.
//!
//! The leader reads the end of the log, syncs every file that holds records below it, and publishes
//! exactly the end that it read *before* the syncs. So every published byte had been written before
//! the syncs began.
//!
//! Invariant, so that no thread waits forever: a thread that gives the lead back wakes every thread
//! that it satisfied, and one other, which then leads. After a failure and after a restart it wakes
//! all. The next leader is woken first, so that its sync runs while the satisfied threads wake up.

use std::sync::Arc;
use std::time::Instant;

use stratawal_sync::atomic::Ordering;
use stratawal_sync::thread::yield_now;
use stratawal_sync::{Condvar, Mutex, MutexGuard, fail_point, model};

use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journal, Position};
use crate::lsn::Lsn;

/// Whether a thread leads, and which threads wait.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    state: Mutex<CommitState>,
}

#[derive(Debug, Default)]
struct CommitState {
    /// Whether a thread is syncing or prevents others from syncing.
    led: bool,
    /// In the order in which they arrived.
    waiters: Vec<Arc<Waiter>>,
    /// How many threads the last commit satisfied, without its leader.
    last_satisfied: usize,
}

/// A thread that waits.
#[derive(Debug)]
struct Waiter {
    /// Where its record ends; `None` if it waits for the lead.
    target: Option<Position>,
    is_woken: Mutex<bool>,
    wake: Condvar,
}

impl Waiter {
    fn wake(&self) {
        *self.is_woken.lock() = true;
        self.wake.notify_one();
    }

    /// Returns once [`wake`](Self::wake) has been called, even if that was before this call.
    fn sleep(&self) {
        let mut is_woken = self.is_woken.lock();
        while !*is_woken {
            is_woken = self.wake.wait(is_woken);
        }
    }
}

impl GroupCommit {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(CommitState::default()) }
    }

    /// Sleeps until woken. The caller finds out the reason.
    fn sleep(mut state: MutexGuard<'_, CommitState>, target: Option<Position>) {
        let waiter = Arc::new(Waiter { target, is_woken: Mutex::new(false), wake: Condvar::new() });
        state.waiters.push(Arc::clone(&waiter));
        drop(state);
        waiter.sleep();
    }
}

/// The lead. Dropping it gives it back, even while the thread unwinds.
pub(crate) struct CommitLead<'a>(&'a Journal);

impl Drop for CommitLead<'_> {
    fn drop(&mut self) {
        if model::is_over() {
            return;
        }
        let journal = self.0;
        let is_over = journal.is_failed();
        let is_satisfied = |waiter: &Arc<Waiter>| {
            let reached = |target: Position| target.epoch != journal.epoch() || target.end <= journal.durable();
            is_over || waiter.target.is_some_and(reached)
        };
        let mut state = journal.commit.state.lock();
        state.led = false;
        let waiters = std::mem::take(&mut state.waiters);
        let (satisfied, mut others): (Vec<_>, Vec<_>) = waiters.into_iter().partition(is_satisfied);
        let next = (!others.is_empty()).then(|| others.remove(0));
        state.waiters = others;
        state.last_satisfied = satisfied.len();
        drop(state);
        for waiter in next.iter().chain(&satisfied) {
            waiter.wake();
        }
    }
}

/// Fails the journal if the leader unwinds: which records are durable is then unknown.
struct Unwinding<'a> {
    journal: &'a Journal,
    armed: bool,
}

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if self.armed && !model::is_over() {
            let source = std::io::Error::other("the thread that synced the journal panicked");
            let error = Error::new(ErrorKind::Io { operation: "sync", source: Arc::new(source) });
            self.journal.log.lock().fail(&error);
        }
    }
}

impl Journal {
    /// Returns once the record at `position`, and everything before it, is on stable storage. Calls
    /// from many threads share a sync.
    ///
    /// # Errors
    /// I/O: the journal has failed. Which records are durable is unknown, and no later call reports
    /// one of them as durable. [`ErrorKind::Failed`] after an earlier failure;
    /// [`ErrorKind::Restarted`].
    pub fn sync_to(&self, position: Position) -> Result<()> {
        self.check_process()?;
        self.wait_for(position).inspect_err(|_| self.report_failure())
    }

    fn wait_for(&self, position: Position) -> Result<()> {
        loop {
            // The watermark is loaded first: a watermark of a later epoch makes that epoch visible.
            let is_durable = self.durable() >= position.end;
            if self.epoch.load(Ordering::Acquire) != position.epoch {
                return Err(Error::new(ErrorKind::Restarted));
            }
            if is_durable {
                return Ok(());
            }
            let end = self.end();
            if position.end > end {
                return Err(Error::new(ErrorKind::BeyondEnd { lsn: position.end, end }));
            }
            let mut state = self.commit.state.lock();
            if state.led {
                GroupCommit::sleep(state, Some(position));
                // The loop sees the watermark or the failure that the leader left.
                continue;
            }
            state.led = true;
            let lead = CommitLead(self);
            self.coalesce(state);
            if self.durable() < position.end {
                self.commit_once()?;
            }
            drop(lead);
        }
    }

    /// Returns once every record put before the call is on stable storage.
    ///
    /// # Errors
    /// Same as for [`sync_to`](Self::sync_to).
    pub fn sync(&self) -> Result<()> {
        self.check_process()?;
        let position = {
            let log = self.log.lock();
            Position { lsn: log.end, end: log.end, epoch: self.epoch.load(Ordering::Relaxed) }
        };
        self.sync_to(position)
    }

    /// Takes the lead, so that no other thread syncs until the lead is dropped.
    pub(crate) fn take_lead(&self) -> CommitLead<'_> {
        loop {
            let mut state = self.commit.state.lock();
            if !state.led {
                state.led = true;
                return CommitLead(self);
            }
            GroupCommit::sleep(state, None);
        }
    }

    /// Gives threads that were just woken and are about to append again a chance to join this
    /// commit. A sync for many threads takes as long as a sync for one, and a thread that arrives
    /// just after it began waits for all of it and then for the next. A single thread does not
    /// wait.
    fn coalesce(&self, mut state: MutexGuard<'_, CommitState>) {
        // After this many yields without a new thread, no more threads are expected.
        const IN_VAIN_MAX: usize = if cfg!(stratawal_loom) { 0 } else { 3 };
        let expected = state.waiters.len() + std::mem::take(&mut state.last_satisfied);
        let mut arrived = state.waiters.len();
        let mut in_vain = 0;
        drop(state);
        while arrived < expected && in_vain < IN_VAIN_MAX {
            yield_now();
            let before = std::mem::replace(&mut arrived, self.commit.state.lock().waiters.len());
            in_vain = if arrived > before { 0 } else { in_vain + 1 };
        }
    }

    /// Syncs everything that was put before this began. Only the leader calls it.
    fn commit_once(&self) -> Result<()> {
        let (end, files) = {
            let log = self.log.lock();
            log.check_failure()?;
            (log.end, log.files_from(self.durable()))
        };
        let mut unwinding = Unwinding { journal: self, armed: true };
        let began = Instant::now();
        let synced =
            files.iter().try_for_each(
                |(file, from, to)| {
                    if fail_point!(AcknowledgedBeforeSync) { Ok(()) } else { file.sync(*from, *to) }
                },
            );
        unwinding.armed = false;
        if synced.is_ok() {
            self.sync_times.add(began.elapsed());
        }
        let mut log = self.log.lock();
        if let Err(error) = synced {
            log.fail(&error);
            return Err(error);
        }
        let end = if fail_point!(EndReadAfterSync) { log.end } else { end };
        // The MARK comes first, so that a reader in another process finds each acknowledged record
        // attested. The records are durable whether or not it is written, but a failed write fails
        // the journal.
        if let Err(error) = log.mark(end) {
            log.fail(&error);
        }
        self.advance_durable(end);
        Ok(())
    }

    pub(crate) fn advance_durable(&self, end: Lsn) {
        // Release; pairs with the Acquire in `durable`.
        self.durable.store(end.0, Ordering::Release);
    }
}
