//! Group commit: decides which thread leads, which threads wait, and which are woken.
//!
//! A thread that needs the entries in the tail to become durable takes the *lead*, the exclusive
//! right to write to the files. It takes everything that is pending, writes it outside the lock,
//! and releases the lead. A thread that arrives in the meantime waits: the leader may satisfy it;
//! otherwise it leads next. A leader that fails or unwinds fails the group. Every thread then gets
//! the leader's error, until recovery has run.
//!
//! Invariant, so that no thread waits forever: a thread that makes waiting unnecessary for others
//! (their seq is reached, their epoch is over, or the group has failed) wakes all of them. A thread
//! that releases the lead also wakes one of the remaining threads, which then leads. The woken
//! thread may find that it need not lead, but then the thread that satisfied it has woken the
//! others.
//!
//! This file is only the mechanism; a [`CommitLeader`] does the work.

use std::fmt;
use std::sync::Arc;

use stratawal_sync::thread::yield_now;
use stratawal_sync::{Mutex, MutexGuard, fail_point};

use crate::error::{Error, ErrorKind, Result};
use crate::follow::{DueFollowers, Followers};
use crate::options::Durability;
use crate::watermarks::Watermarks;
use crate::write::failed_epochs::FailedEpochs;
use crate::write::waiter::{CommitTarget, Waiter, Waiters, Wake};

/// The work that a leader does.
pub(crate) trait CommitLeader: Send {
    /// The state under the lock, which holds pending work.
    type Tail: Send;
    /// Work taken from the tail.
    type Work;

    /// Makes it possible to do the pending work. Called under the lock. After an error other than
    /// `Poisoned` nothing has changed.
    fn prepare(&mut self, _tail: &mut Self::Tail) -> Result<()> {
        Ok(())
    }
    /// Takes all pending work, once it is prepared. Called under the lock.
    fn take(&mut self, tail: &mut Self::Tail) -> Self::Work;
    /// Flushes or syncs the work, and raises the watermarks. Called outside the lock.
    fn run(&mut self, work: &Self::Work, durability: Durability) -> Result<()>;
    /// Returns the work of `take` to the tail once it is done. Called under the lock.
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
    pub(crate) followers: Followers,
}

/// The exclusive right to write to the files of a stream. Boxed, because every commit moves it out
/// and back.
enum Lead<L> {
    Free(Box<L>),
    /// A thread has the lead.
    Taken,
    /// A leader has unwound, a recovery has failed, or the group is shut down.
    Lost,
}

impl<L> Lead<L> {
    /// Takes the lead if it is free, and leaves `otherwise` in its place.
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

    /// Refuses all work with exactly this error, because the stream must not be written.
    pub(crate) fn set_error(&mut self, error: Error) {
        self.failed = Some(error);
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Refuses all work until [`Group::recover`]. If the lead is free, no thread will release it
    /// and wake the others, so this wakes all threads.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone().poisoned());
        for waiter in self.waiters.drain().filter(|_| !fail_point!(NoWakeOnFailure)) {
            waiter.wake(Wake::Satisfied);
        }
    }
}

impl<L: CommitLeader> GroupState<L> {
    /// The outcome of an epoch that is over, for a thread that waited in it.
    pub(crate) fn outcome_of(&self, epoch: u64, name: &str) -> Result<()> {
        self.failed_epochs.outcome_of(epoch, name)
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
            followers: Followers::default(),
        };
        Self { state: Mutex::new(state), watermarks, name }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, GroupState<L>> {
        self.state.lock()
    }

    /// A target that covers everything accepted so far. Called under the lock, so that the epoch is
    /// that of the seq.
    pub(crate) fn target(&self, _: &GroupState<L>) -> CommitTarget {
        CommitTarget { seq: self.watermarks.accepted(), epoch: self.watermarks.epoch() }
    }

    /// Waits until the watermark for `durability` has reached `target`, leading commits as needed.
    pub(crate) fn wait_for(&self, durability: Durability, target: CommitTarget) -> Result<()> {
        // Most threads are satisfied by another leader, and see that without taking the lock.
        if self.reached(durability, target) {
            return Ok(());
        }
        self.wait_for_locked(self.state.lock(), durability, target)
    }

    /// Like [`wait_for`](Self::wait_for), for a thread that already has the lock. An append that
    /// finds the lead free takes it under the same lock under which it was accepted.
    pub(crate) fn wait_for_locked<'a>(
        &'a self,
        mut state: MutexGuard<'a, GroupState<L>>,
        durability: Durability,
        target: CommitTarget,
    ) -> Result<()> {
        let mut has_turn = false;
        loop {
            if let Some(outcome) = self.outcome(&state, durability, target) {
                self.end_turn(state, has_turn);
                return outcome;
            }
            has_turn = match state.lead.take_free(Lead::Taken) {
                Some(lead) => {
                    self.commit(state, lead, durability).map_err(|error| self.fail_accepted(error))?;
                    false
                }
                None => self.sleep(state, durability, Some(target)) == Wake::Turn,
            };
            if !has_turn && self.reached(durability, target) {
                return Ok(());
            }
            state = self.state.lock();
        }
    }

    /// The outcome of waiting for `target`, if the wait is over.
    fn outcome(&self, state: &GroupState<L>, durability: Durability, target: CommitTarget) -> Option<Result<()>> {
        if self.reached(durability, target) {
            return Some(Ok(()));
        }
        if self.watermarks.epoch() != target.epoch {
            return Some(state.failed_epochs.outcome_of(target.epoch, &self.name));
        }
        state.failed.as_ref().map(|error| Err(error.clone().after_acceptance()))
    }

    /// Wakes the next thread if it was this one's turn and the lead is still free. The watermarks
    /// can rise without a leader, by a sync of the commit journal, so a thread may not need the
    /// lead for which it was woken.
    fn end_turn(&self, state: MutexGuard<'_, GroupState<L>>, has_turn: bool) {
        if has_turn && matches!(state.lead, Lead::Free(_)) && !fail_point!(TurnKept) {
            self.pass_on(state);
        }
    }

    /// Fails the group after `error`, because entries that were accepted cannot be acknowledged.
    fn fail_accepted(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Poisoned {
            self.state.lock().fail(&error);
        }
        error.poisoned()
    }

    /// The watermark is loaded before the epoch. If the watermark passed `target` in a later epoch,
    /// that epoch is visible too.
    pub(crate) fn reached(&self, durability: Durability, target: CommitTarget) -> bool {
        let reached = self.watermarks.reached(durability) >= target.seq;
        reached && (self.watermarks.epoch() == target.epoch || fail_point!(EpochIgnored))
    }

    /// Runs one commit: takes the pending work, does it, and releases the lead. After an error
    /// other than `Poisoned` nothing has changed.
    fn commit(&self, state: MutexGuard<'_, GroupState<L>>, mut lead: Box<L>, durability: Durability) -> Result<()> {
        let state = if durability == Durability::Synced { self.coalesce(state) } else { state };
        if let Some(error) = state.failed.clone() {
            // An append failed the group while the lock was free. Nothing is written after a
            // failure.
            self.release_lead(state, Some(lead));
            return Err(error);
        }
        let (mut state, prepared) = self.prepare(state, &mut lead);
        if let Err(error) = prepared {
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
            // The entries taken stay readable in the tail until recovery.
            Err(error) => state.fail(error),
        }
        self.release_lead(state, Some(lead));
        result.map_err(Error::poisoned)
    }

    /// Prepares the pending work. An error of the kind `Poisoned` fails the group.
    fn prepare<'a>(
        &'a self,
        state: MutexGuard<'a, GroupState<L>>,
        lead: &mut L,
    ) -> (MutexGuard<'a, GroupState<L>>, Result<()>) {
        let mut guard = Unwinding { group: self, armed: true };
        // Dropped before the guard, which takes the lock.
        let mut locked = state;
        let prepared = lead.prepare(&mut locked.tail);
        guard.armed = false;
        if let Err(error) = &prepared
            && error.kind() == ErrorKind::Poisoned
        {
            locked.fail(error);
        }
        (locked, prepared)
    }

    /// Gives threads that were just woken and are about to append again a chance to join this
    /// commit. A sync for many threads takes as long as a sync for one, and a thread that arrives
    /// just after it began waits for all of it and then for the next. A single thread does not
    /// wait.
    fn coalesce<'a>(&'a self, mut state: MutexGuard<'a, GroupState<L>>) -> MutexGuard<'a, GroupState<L>> {
        // After this many yields without a new thread, no more threads are expected.
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

    /// Sleeps until woken. The caller finds out the reason.
    fn sleep(
        &self,
        mut state: MutexGuard<'_, GroupState<L>>,
        durability: Durability,
        target: Option<CommitTarget>,
    ) -> Wake {
        let waiter = Arc::new(Waiter::new(durability, target));
        state.waiters.push(Arc::clone(&waiter));
        drop(state);
        waiter.sleep()
    }

    /// Releases the lead, or marks it as lost if `lead` is `None`. The thread that leads next is
    /// woken first, so that its sync runs while the satisfied threads wake up.
    pub(crate) fn release_lead(&self, mut state: MutexGuard<'_, GroupState<L>>, lead: Option<Box<L>>) {
        state.lead = lead.map_or(Lead::Lost, Lead::Free);
        let due = self.take_due(&mut state);
        if state.waiters.is_empty() {
            drop(state);
            drop(due);
            return;
        }
        let failed = state.failed.is_some();
        let epoch = self.watermarks.epoch();
        let is_over = |target: CommitTarget| target.epoch != epoch;
        let (satisfied, next) = state.waiters.take_satisfied(|waiter| {
            failed || waiter.target.is_some_and(|target| is_over(target) || self.reached(waiter.durability, target))
        });
        drop(state);
        let next = next.filter(|_| !fail_point!(NoHandOver));
        let woken =
            next.iter().map(|next| (next, Wake::Turn)).chain(satisfied.iter().map(|one| (one, Wake::Satisfied)));
        for (waiter, wake) in woken.filter(|_| !(failed && fail_point!(NoWakeOnFailure))) {
            waiter.wake(wake);
        }
        drop(due);
    }

    /// Takes the followers that have something to see since a watermark was changed. Call this
    /// under the lock, after the change. They are woken when the result is dropped, which must be
    /// after the lock is released.
    #[inline]
    pub(crate) fn take_due(&self, state: &mut GroupState<L>) -> DueFollowers {
        if state.followers.is_empty() || fail_point!(FollowersNotWoken) {
            return DueFollowers::default();
        }
        state.followers.take_due(&self.watermarks)
    }

    /// Has followers end once they have seen every entry. No watermark changes after this.
    pub(crate) fn close_followers(&self) {
        let mut state = self.state.lock();
        state.followers.is_closed = true;
        let all = state.followers.take_all();
        drop(state);
        drop(all);
    }
}

/// Other uses of the lead.
impl<L: CommitLeader> Group<L> {
    /// Waits for the lead and takes it together with the lock. The caller releases it with
    /// [`release_lead`](Self::release_lead) or [`lead`](Self::lead).
    pub(crate) fn acquire(&self) -> Result<(MutexGuard<'_, GroupState<L>>, Box<L>)> {
        let mut has_turn = false;
        loop {
            let mut state = self.state.lock();
            if let Some(error) = state.failed.clone() {
                self.end_turn(state, has_turn);
                return Err(error);
            }
            if let Some(lead) = state.lead.take_free(Lead::Taken) {
                return Ok((state, lead));
            }
            has_turn = self.sleep(state, Durability::Buffered, None) == Wake::Turn;
        }
    }

    /// Runs one commit if the lead is free.
    pub(crate) fn commit_if_free(
        &self,
        mut state: MutexGuard<'_, GroupState<L>>,
        durability: Durability,
    ) -> Result<()> {
        match state.lead.take_free(Lead::Taken) {
            Some(lead) => self.commit(state, lead, durability),
            None => Ok(()),
        }
    }

    /// Waits for the lead, and runs one commit even if the watermarks need none.
    pub(crate) fn commit_now(&self, durability: Durability) -> Result<()> {
        let (state, lead) = self.acquire()?;
        self.commit(state, lead, durability)
    }

    /// Runs `act` with the lead, outside the lock, if the lead is free and the group has not
    /// failed. An error fails the group.
    pub(crate) fn lead_if_free(
        &self,
        mut state: MutexGuard<'_, GroupState<L>>,
        act: impl FnOnce(&mut L) -> Result<()>,
    ) -> Result<()> {
        if state.failed.is_some() {
            return Ok(());
        }
        let Some(lead) = state.lead.take_free(Lead::Taken) else { return Ok(()) };
        drop(state);
        self.lead(lead, act)
    }

    /// Runs `act` with the acquired lead, outside the lock, and then releases the lead. An error
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

    /// Runs `act` with the lead, under the lock. An error of the kind `Poisoned` fails the group.
    pub(crate) fn exclusively<R>(&self, act: impl FnOnce(&mut GroupState<L>, &mut L) -> Result<R>) -> Result<R> {
        self.with_lead(|mut state, lead| {
            let result = act(&mut state, lead);
            (state, result)
        })
    }

    /// Runs `act` with the lead, under the lock, and then `then` with the result of `act`, outside
    /// the lock. An error of `act` of the kind `Poisoned`, or any error of `then`, fails the group.
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

    /// Whether no thread currently leads.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self.state.lock().lead, Lead::Free(_))
    }

    /// Waits until no thread leads.
    pub(crate) fn wait_until_free(&self) {
        let state = self.lock_unled();
        self.pass_on(state);
    }

    /// Takes the lock once no thread leads. Call [`pass_on`](Self::pass_on) afterwards.
    fn lock_unled(&self) -> MutexGuard<'_, GroupState<L>> {
        let mut state = self.state.lock();
        while let Lead::Taken = state.lead {
            self.sleep(state, Durability::Buffered, None);
            state = self.state.lock();
        }
        state
    }

    /// Leaves the lead as it is, but wakes the next thread, because this one may have been woken to
    /// lead.
    fn pass_on(&self, mut state: MutexGuard<'_, GroupState<L>>) {
        let lead = state.lead.take_free(Lead::Lost);
        self.release_lead(state, lead);
    }
}

/// Recovery and shutdown.
impl<L: CommitLeader> Group<L> {
    /// Runs `recovery` instead of a failed lead, and continues with the lead that it returns. Does
    /// nothing to a group that has not failed.
    pub(crate) fn recover(&self, recovery: impl FnOnce(&mut L::Tail, Option<Box<L>>) -> Result<L>) -> Result<()> {
        let mut has_turn = false;
        loop {
            let mut state = self.state.lock();
            let Some(failure) = state.failed.clone() else {
                self.end_turn(state, has_turn);
                return Ok(());
            };
            if failure.kind() == ErrorKind::Missing {
                return Err(failure);
            }
            // A leader may still be using the files: an append can fail the group at the same time.
            if let Lead::Taken = state.lead {
                has_turn = self.sleep(state, Durability::Buffered, None) == Wake::Turn;
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
                    // A worse failure, or one that passes without a reopen, is reported from here
                    // on. Otherwise the first failure stays: a transient error must not replace it
                    // or look like an error before any write.
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

    /// Runs `act` whatever the state of the group, and refuses all work with `error` from then on.
    /// If `act` fails, nothing changes.
    pub(crate) fn shut_down(&self, error: Error, act: impl FnOnce(&mut GroupState<L>) -> Result<()>) -> Result<()> {
        let mut state = self.lock_unled();
        let epoch = self.watermarks.epoch();
        // Recorded before anything of the next epoch becomes visible, so that a thread that unwinds
        // in between leaves a record.
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

/// The end of a group.
impl<L: CommitLeader> Group<L> {
    /// Refuses all work with `error` from now on. Everything accepted was acknowledged, or is given
    /// up by `act`. Returns the lead, if it is free.
    pub(crate) fn end(&self, error: Error, act: impl FnOnce(&mut GroupState<L>)) -> Option<Box<L>> {
        let mut state = self.lock_unled();
        act(&mut state);
        state.failed = Some(error);
        let lead = state.lead.take_free(Lead::Lost);
        self.pass_on(state);
        lead
    }
}

/// Fails the group if the leader unwinds, so that no thread waits forever or writes after the
/// leader's half-finished work.
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
