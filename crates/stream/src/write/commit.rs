//! Group commit: which thread leads, which threads wait, and which are woken.
//!
//! A thread that needs the entries in the tail to become durable takes the *lead*, the one right to
//! write to the files. It takes everything that waits, writes it outside the lock, and gives the
//! lead back. A thread that comes in the meantime waits: the leader may satisfy it, otherwise it
//! leads next. A leader that fails or unwinds fails the group. Every thread then gets its error,
//! until recovery has run.
//!
//! Invariant, so that no thread waits for ever: a thread that changes what others wait for wakes
//! all of those that need not wait any more (their seq is reached, their epoch is over, or the
//! group has failed). A thread that gives the lead back also wakes one of the others, which then
//! leads. That one may find that it need not lead, but then the thread that satisfied it has woken
//! the others.
//!
//! This is mechanism alone. The work is known to a [`CommitLeader`].

use std::fmt;
use std::sync::Arc;

use stratawal_sync::thread::yield_now;
use stratawal_sync::{Mutex, MutexGuard, fail_point};

use crate::error::{Error, ErrorKind, Result};
use crate::options::Durability;
use crate::watermarks::Watermarks;
use crate::write::failed_epochs::FailedEpochs;
use crate::write::waiter::{CommitTarget, Waiter, Waiters};

/// The work of a leader.
pub(crate) trait CommitLeader: Send {
    /// The state under the lock, where work waits.
    type Tail: Send;
    /// Work that was taken.
    type Work;

    /// Takes all work that waits. Under the lock.
    fn take(&mut self, tail: &mut Self::Tail) -> Self::Work;
    /// Does the work, so that it is flushed or synced, and raises the watermarks. Outside the lock.
    fn run(&mut self, work: &Self::Work, durability: Durability) -> Result<()>;
    /// Gives back what `take` took, once it is done. Under the lock.
    fn put_back(&mut self, tail: &mut Self::Tail, work: Self::Work);
}

/// The lock of a stream, and the lead over its files.
pub(crate) struct Group<L: CommitLeader> {
    state: Mutex<GroupState<L>>,
    watermarks: Arc<Watermarks>,
    /// The name of the stream in errors.
    name: Arc<str>,
}

/// The state under the lock of a stream.
pub(crate) struct GroupState<L: CommitLeader> {
    pub(crate) tail: L::Tail,
    lead: Lead<L>,
    failed: Option<Error>,
    failed_epochs: FailedEpochs,
    waiters: Waiters,
}

/// The one right to write to the files of a stream. In a box, because every commit moves it to and
/// fro.
enum Lead<L> {
    Free(Box<L>),
    /// A thread has it.
    Taken,
    /// A leader has unwound, a recovery has failed, or the group is shut down.
    Lost,
}

impl<L> Lead<L> {
    /// The lead, if it is free; `otherwise` stays in its place.
    fn take_free(&mut self, otherwise: Self) -> Option<Box<L>> {
        match std::mem::replace(self, otherwise) {
            Self::Free(lead) => Some(lead),
            unavailable => {
                *self = unavailable;
                None
            }
        }
    }
}

impl<L: CommitLeader> GroupState<L> {
    /// The error of all calls, if the group has failed.
    pub(crate) const fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Refuses all work with exactly this error: the stream is not to be written at all.
    pub(crate) fn set_error(&mut self, error: Error) {
        self.failed = Some(error);
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Lets no work be done until [`Group::recover`]. The lead may be free, and no thread gives it
    /// back then, so this wakes all threads.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone().poisoned());
        for waiter in self.waiters.drain().filter(|_| !fail_point!(NoWakeOnFailure)) {
            waiter.wake();
        }
    }
}

impl<L: CommitLeader> fmt::Debug for Group<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("watermarks", &self.watermarks).finish_non_exhaustive()
    }
}

/// Waiting for a commit, and leading one.
impl<L: CommitLeader> Group<L> {
    pub(crate) fn new(tail: L::Tail, lead: Option<L>, watermarks: Arc<Watermarks>, name: Arc<str>) -> Self {
        let state = GroupState {
            tail,
            lead: lead.map_or(Lead::Lost, |lead| Lead::Free(Box::new(lead))),
            failed: None,
            failed_epochs: FailedEpochs::default(),
            waiters: Waiters::default(),
        };
        Self { state: Mutex::new(state), watermarks, name }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, GroupState<L>> {
        self.state.lock()
    }

    /// Everything accepted so far. Under the lock, so that the epoch is that of the seq.
    pub(crate) fn target(&self, _: &GroupState<L>) -> CommitTarget {
        CommitTarget { seq: self.watermarks.accepted(), epoch: self.watermarks.epoch() }
    }

    /// Returns once the watermark for `durability` has reached `target`, and leads commits as
    /// needed.
    pub(crate) fn wait_for(&self, durability: Durability, target: CommitTarget) -> Result<()> {
        // Most threads are satisfied by another leader, and see that without the lock.
        if self.reached(durability, target) {
            return Ok(());
        }
        self.wait_for_locked(self.state.lock(), durability, target)
    }

    /// As [`wait_for`](Self::wait_for), for a thread that has the lock already. An append that
    /// finds the lead free takes it under the lock under which it was accepted.
    pub(crate) fn wait_for_locked<'a>(
        &'a self,
        mut state: MutexGuard<'a, GroupState<L>>,
        durability: Durability,
        target: CommitTarget,
    ) -> Result<()> {
        loop {
            if self.reached(durability, target) {
                return Ok(());
            }
            if self.watermarks.epoch() != target.epoch {
                return state.failed_epochs.outcome_of(target.epoch, &self.name);
            }
            if let Some(error) = &state.failed {
                return Err(error.clone().after_acceptance());
            }
            match state.lead.take_free(Lead::Taken) {
                Some(lead) => self.commit(state, lead, durability)?,
                None => self.sleep(state, durability, Some(target)),
            }
            if self.reached(durability, target) {
                return Ok(());
            }
            state = self.state.lock();
        }
    }

    /// The watermark is loaded before the epoch. One that passed `target` in a later epoch shows
    /// that epoch.
    fn reached(&self, durability: Durability, target: CommitTarget) -> bool {
        let reached = self.watermarks.reached(durability) >= target.seq;
        reached && (self.watermarks.epoch() == target.epoch || fail_point!(EpochIgnored))
    }

    /// One commit: takes the work that waits, does it, and gives the lead back.
    fn commit(&self, state: MutexGuard<'_, GroupState<L>>, mut lead: Box<L>, durability: Durability) -> Result<()> {
        let mut state = if durability == Durability::Synced { self.coalesce(state) } else { state };
        if let Some(error) = state.failed.clone() {
            // An append has failed the group while the lock was free. Nothing is written after a
            // failure.
            self.release_lead(state, Some(lead));
            return Err(error);
        }
        let work = lead.take(&mut state.tail);
        drop(state);
        let mut guard = Unwinding { group: self, armed: true };
        let result = lead.run(&work, durability);
        guard.armed = false;
        let mut state = self.state.lock();
        match &result {
            Ok(()) => lead.put_back(&mut state.tail, work),
            // The entries that were taken stay readable in the tail until recovery.
            Err(error) => state.fail(error),
        }
        self.release_lead(state, Some(lead));
        result.map_err(Error::poisoned)
    }

    /// Lets the threads join that were woken just now and are about to append again. A sync for
    /// many takes as long as a sync for one, and a thread that comes a moment after it began waits
    /// for all of it and then for the next. A thread that is alone does not wait.
    fn coalesce<'a>(&'a self, mut state: MutexGuard<'a, GroupState<L>>) -> MutexGuard<'a, GroupState<L>> {
        // After so many yields in which no thread came, the others are not expected any more.
        const IN_VAIN_MAX: usize = if cfg!(stratawal_loom) { 0 } else { 3 };
        let expected = state.waiters.len() + state.waiters.take_last_satisfied();
        let mut in_vain = 0;
        while state.waiters.len() < expected && in_vain < IN_VAIN_MAX {
            let before = state.waiters.len();
            drop(state);
            yield_now();
            state = self.state.lock();
            in_vain = if state.waiters.len() > before { 0 } else { in_vain + 1 };
        }
        state
    }

    /// Sleeps until woken. The caller finds out why it was.
    fn sleep(&self, mut state: MutexGuard<'_, GroupState<L>>, durability: Durability, target: Option<CommitTarget>) {
        let waiter = Arc::new(Waiter::new(durability, target));
        state.waiters.push(Arc::clone(&waiter));
        drop(state);
        waiter.sleep();
    }

    /// Gives the lead back; without a lead it is lost. The thread that leads next is woken first,
    /// so that its sync runs while the satisfied threads wake up.
    pub(crate) fn release_lead(&self, mut state: MutexGuard<'_, GroupState<L>>, lead: Option<Box<L>>) {
        state.lead = lead.map_or(Lead::Lost, Lead::Free);
        if state.waiters.is_empty() {
            return;
        }
        let failed = state.failed.is_some();
        let epoch = self.watermarks.epoch();
        let is_over = |target: CommitTarget| target.epoch != epoch && !fail_point!(SleepThroughEpoch);
        let (satisfied, next) = state.waiters.take_satisfied(|waiter| {
            failed || waiter.target.is_some_and(|target| is_over(target) || self.reached(waiter.durability, target))
        });
        drop(state);
        let next = next.filter(|_| !fail_point!(NoHandOver));
        for waiter in next.iter().chain(&satisfied).filter(|_| !(failed && fail_point!(NoWakeOnFailure))) {
            waiter.wake();
        }
    }
}

/// Other uses of the lead.
impl<L: CommitLeader> Group<L> {
    /// Waits for the lead and takes it, together with the lock. The caller gives it back with
    /// [`release_lead`](Self::release_lead) or [`lead`](Self::lead).
    pub(crate) fn acquire(&self) -> Result<(MutexGuard<'_, GroupState<L>>, Box<L>)> {
        loop {
            let mut state = self.state.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if let Some(lead) = state.lead.take_free(Lead::Taken) {
                return Ok((state, lead));
            }
            self.sleep(state, Durability::Buffered, None);
        }
    }

    /// Does `act` with a lead that was acquired, outside the lock, and gives it back. An error
    /// fails the group.
    pub(crate) fn lead(&self, mut lead: Box<L>, act: impl FnOnce(&mut L) -> Result<()>) -> Result<()> {
        let mut guard = Unwinding { group: self, armed: true };
        let result = act(&mut lead);
        guard.armed = false;
        let mut state = self.state.lock();
        if let Err(error) = &result {
            state.fail(error);
        }
        self.release_lead(state, Some(lead));
        result.map_err(Error::poisoned)
    }

    /// Does `act` with the lead, under the lock. An error of the kind `Poisoned` fails the group.
    pub(crate) fn exclusively<R>(&self, act: impl FnOnce(&mut GroupState<L>, &mut L) -> Result<R>) -> Result<R> {
        self.with_lead(|mut state, lead| {
            let result = act(&mut state, lead);
            (state, result)
        })
    }

    /// Does `act` with the lead, under the lock, and then `then` with what `act` returns, outside
    /// the lock. An error of `act` of the kind `Poisoned`, and any error of `then`, fails the
    /// group.
    pub(crate) fn exclusively_then<T, R>(
        &self,
        act: impl FnOnce(&mut GroupState<L>, &mut L) -> Result<Option<T>>,
        then: impl FnOnce(&mut L, T) -> Result<R>,
    ) -> Result<Option<R>> {
        self.with_lead(|mut state, lead| match act(&mut state, lead) {
            Ok(Some(work)) => {
                drop(state);
                let result = then(lead, work).map_err(Error::poisoned);
                (self.state.lock(), result.map(Some))
            }
            Ok(None) => (state, Ok(None)),
            Err(error) => (state, Err(error)),
        })
    }

    fn with_lead<'a, R>(
        &'a self,
        act: impl FnOnce(MutexGuard<'a, GroupState<L>>, &mut L) -> (MutexGuard<'a, GroupState<L>>, Result<R>),
    ) -> Result<R> {
        let (state, mut lead) = self.acquire()?;
        let mut guard = Unwinding { group: self, armed: true };
        let (mut state, result) = act(state, &mut lead);
        guard.armed = false;
        if let Err(error) = &result
            && error.kind() == ErrorKind::Poisoned
        {
            state.fail(error);
        }
        self.release_lead(state, Some(lead));
        result
    }

    /// Whether no thread leads at this moment.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self.state.lock().lead, Lead::Free(_))
    }

    /// Waits until no thread leads.
    pub(crate) fn wait_until_free(&self) {
        let state = self.lock_unled();
        self.pass_on(state);
    }

    /// The lock, once no thread leads. Call [`pass_on`](Self::pass_on) afterwards.
    fn lock_unled(&self) -> MutexGuard<'_, GroupState<L>> {
        let mut state = self.state.lock();
        while let Lead::Taken = state.lead {
            self.sleep(state, Durability::Buffered, None);
            state = self.state.lock();
        }
        state
    }

    /// Leaves the lead as it is. This thread may be the one that was woken to lead, so it wakes the
    /// next.
    fn pass_on(&self, mut state: MutexGuard<'_, GroupState<L>>) {
        let lead = state.lead.take_free(Lead::Lost);
        self.release_lead(state, lead);
    }
}

/// Recovery and the end.
impl<L: CommitLeader> Group<L> {
    /// Runs `recovery` in place of a failed lead, and continues with the lead that it returns. A
    /// group that has not failed is left alone.
    pub(crate) fn recover(&self, recovery: impl FnOnce(&mut L::Tail, Option<Box<L>>) -> Result<L>) -> Result<()> {
        loop {
            let mut state = self.state.lock();
            let Some(failure) = state.failed.clone() else { return Ok(()) };
            if failure.kind() == ErrorKind::Missing {
                return Err(failure);
            }
            // A leader may still be at the files: an append can fail the group at the same time.
            if let Lead::Taken = state.lead {
                self.sleep(state, Durability::Buffered, None);
                continue;
            }
            let failed_lead = state.lead.take_free(Lead::Lost);
            let epoch = self.watermarks.epoch();
            // If recovery unwinds, the group stays failed, and so does the epoch if it is over.
            state.failed_epochs.push(epoch, failure);
            let result = recovery(&mut state.tail, failed_lead);
            let (lead, result) = match result {
                Ok(lead) => {
                    state.failed = None;
                    (Some(Box::new(lead)), Ok(()))
                }
                Err(error) => {
                    // A failure that is worse, or that passes without a reopen, is reported from
                    // here on. Otherwise the first failure stays: a transient error must not
                    // replace it, nor look like an error before any write.
                    if error.is_damage() || matches!(error.kind(), ErrorKind::Full | ErrorKind::NewerFormat) {
                        state.failed = Some(error.clone());
                    }
                    if self.watermarks.epoch() == epoch {
                        state.failed_epochs.remove(epoch);
                    }
                    (None, Err(error))
                }
            };
            self.release_lead(state, lead);
            return result;
        }
    }

    /// Does `act` whatever the state of the group, and refuses all work with `error` from then on.
    /// If `act` fails, everything stays as it was.
    pub(crate) fn shut_down(&self, error: Error, act: impl FnOnce(&mut GroupState<L>) -> Result<()>) -> Result<()> {
        let mut state = self.lock_unled();
        let epoch = self.watermarks.epoch();
        // Before anything of the next epoch shows, so that a thread that unwinds in between leaves
        // a record.
        state.failed_epochs.push(epoch, error.clone());
        let acted = act(&mut state);
        if acted.is_ok() {
            state.failed = Some(error);
            state.lead = Lead::Lost;
        } else {
            state.failed_epochs.remove(epoch);
        }
        self.pass_on(state);
        acted
    }
}

/// Fails the group if the leader unwinds, so that no thread waits for ever, and no thread writes
/// after the leader's half-finished work.
struct Unwinding<'a, L: CommitLeader> {
    group: &'a Group<L>,
    armed: bool,
}

impl<L: CommitLeader> Drop for Unwinding<'_, L> {
    fn drop(&mut self) {
        if self.armed && !stratawal_sync::model::is_over() {
            let mut state = self.group.state.lock();
            state.fail(&Error::unwound(&self.group.name));
            self.group.release_lead(state, None);
        }
    }
}
