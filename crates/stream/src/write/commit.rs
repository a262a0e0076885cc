//! Group commit: who leads, who waits, who is woken.
//!
//! Whoever needs what waits in the tail to become durable takes the *lead* (the one right to write
//! to the files), takes all work that waits, does it outside the lock, and gives the lead back. Who
//! comes meanwhile waits, and is either satisfied by that leader or leads next. A leader that fails
//! or unwinds fails the group: everybody gets its error, until recovery has run.
//!
//! Invariant, so that nobody waits for ever: whoever changes what a waiter waits for wakes those
//! who need not wait any more (their seq is reached, its epoch is over, the group has failed), all
//! of them; and whoever gives the lead back wakes one of the others, who then leads. The one that
//! is woken to lead may find that it need not; but then whoever saw to that has woken the others.
//!
//! It does not know what the work is.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use stratawal_sync::thread::yield_now;
use stratawal_sync::{Mutex, MutexGuard, fail_point};

use crate::error::{Error, ErrorKind, Result};
use crate::options::Durability;
use crate::watermarks::Watermarks;
use crate::write::waiter::{CommitTarget, Waiter};

/// How many failed epochs a stream remembers. A thread that waits is woken when its epoch ends, so
/// it misses more only if it is kept from running for as long.
pub(crate) const FAILED_EPOCHS_MAX: usize = if cfg!(stratawal_loom) { 1 } else { 64 };

/// What a leader does.
pub(crate) trait CommitLeader: Send {
    /// What the lock protects: where work waits.
    type Tail: Send;
    /// Work that was taken.
    type Work;

    /// Takes all work that waits. Under the lock.
    fn take(&mut self, tail: &mut Self::Tail) -> Self::Work;
    /// Does it, so that it is flushed or synced, and raises the watermarks. Outside the lock.
    fn run(&mut self, work: &Self::Work, durability: Durability) -> Result<()>;
    /// Gives back what `take` took. Under the lock.
    fn put_back(&mut self, tail: &mut Self::Tail, work: Self::Work);
}

/// The lock of a stream and the lead over its files.
pub(crate) struct Group<L: CommitLeader> {
    state: Mutex<State<L>>,
    watermarks: Arc<Watermarks>,
    /// What errors call the stream.
    name: Arc<str>,
}

/// What the lock of a stream protects.
pub(crate) struct State<L: CommitLeader> {
    pub(crate) tail: L::Tail,
    /// The lead; `None` while somebody has it, or after a leader has unwound. In a box, because
    /// every commit moves it to and fro.
    lead: Option<Box<L>>,
    /// Whether somebody has the lead.
    led: bool,
    failed: Option<Error>,
    /// The epochs that ended in a failure, newest first, for the threads that waited in them. An
    /// epoch that is not here ended with everything settled, unless it is older than `forgotten`.
    failed_epochs: VecDeque<(u64, Error)>,
    /// The outcome of epochs up to this one may have been forgotten.
    forgotten: Option<u64>,
    waiters: VecDeque<Arc<Waiter>>,
    /// How many the last commit has satisfied besides its leader.
    woken: usize,
}

impl<L: CommitLeader> State<L> {
    /// The error that stands, if the group has failed.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Refuses all work with this very error: for a stream that is not to be written at all.
    pub(crate) fn set_error(&mut self, error: Error) {
        self.failed = Some(error);
    }

    /// Records that `epoch` ends in `failure`. Call it before anything of the next epoch shows, so
    /// that also a thread that unwinds in between leaves a record. An epoch that ends with
    /// everything settled needs no record.
    pub(crate) fn fail_epoch(&mut self, epoch: u64, failure: Error) {
        self.keep_epoch(epoch);
        if self.failed_epochs.len() >= FAILED_EPOCHS_MAX {
            self.forgotten = self.failed_epochs.pop_back().map(|(oldest, _)| oldest);
        }
        self.failed_epochs.push_front((epoch, failure));
    }

    /// Takes the record of `epoch` back: it has not ended.
    fn keep_epoch(&mut self, epoch: u64) {
        self.failed_epochs.retain(|failed| failed.0 != epoch);
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// What an epoch that is over means for a thread that waited in it.
    fn outcome_of(&self, epoch: u64, name: &str) -> Result<()> {
        if let Some((_, error)) = self.failed_epochs.iter().find(|failed| failed.0 == epoch) {
            return Err(error.clone().after_acceptance());
        }
        match self.forgotten {
            Some(forgotten) if epoch <= forgotten && !fail_point!(OutcomeForgotten) => {
                Err(Error::outcome_unknown(name))
            }
            _ => Ok(()),
        }
    }

    fn take_lead(&mut self) -> Option<Box<L>> {
        let lead = self.lead.take();
        self.led |= lead.is_some();
        lead
    }

    /// Lets no work be done until [`Group::recover`]. Also of a group whose lead is free, so that
    /// nobody will give it back.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone().poisoned());
        for waiter in self.waiters.drain(..).filter(|_| !fail_point!(NoWakeOnFailure)) {
            waiter.wake();
        }
    }
}

impl<L: CommitLeader> fmt::Debug for Group<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("watermarks", &self.watermarks).finish_non_exhaustive()
    }
}

impl<L: CommitLeader> Group<L> {
    pub(crate) fn new(tail: L::Tail, lead: Option<L>, watermarks: Arc<Watermarks>, name: Arc<str>) -> Self {
        let lead = lead.map(Box::new);
        let state = State {
            tail,
            lead,
            led: false,
            failed: None,
            failed_epochs: VecDeque::new(),
            forgotten: None,
            waiters: VecDeque::new(),
            woken: 0,
        };
        Self { state: Mutex::new(state), watermarks, name }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock()
    }

    /// Answers once the watermark for `durability` has reached `target`, leading commits as needed.
    pub(crate) fn wait_for(&self, durability: Durability, target: CommitTarget) -> Result<()> {
        // Most waiters are satisfied by another leader, and need no lock to see it.
        if self.reached(durability, target) {
            return Ok(());
        }
        self.wait_for_locked(self.state.lock(), durability, target)
    }

    /// The same for whoever has the lock already: who accepts an entry and finds the lead free
    /// takes both in one.
    pub(crate) fn wait_for_locked<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<L>>,
        durability: Durability,
        target: CommitTarget,
    ) -> Result<()> {
        loop {
            if self.reached(durability, target) {
                return Ok(());
            }
            if self.watermarks.epoch() != target.epoch {
                return state.outcome_of(target.epoch, &self.name);
            }
            if let Some(error) = &state.failed {
                return Err(error.clone().after_acceptance());
            }
            match state.take_lead() {
                Some(lead) => self.commit(state, lead, durability)?,
                None => self.wait(state, durability, Some(target)),
            }
            if self.reached(durability, target) {
                return Ok(());
            }
            state = self.state.lock();
        }
    }

    /// The mark is loaded first: a mark that passed `target` in a later epoch shows that epoch.
    fn reached(&self, durability: Durability, target: CommitTarget) -> bool {
        let reached = self.watermarks.reached(durability) >= target.seq;
        reached && (self.watermarks.epoch() == target.epoch || fail_point!(EpochIgnored))
    }

    /// Everything accepted so far. Under the lock, so that the epoch is that of the seq.
    pub(crate) fn target(&self, _: &State<L>) -> CommitTarget {
        CommitTarget { seq: self.watermarks.accepted(), epoch: self.watermarks.epoch() }
    }

    /// One commit: takes what waits, does it, gives the lead back.
    fn commit(&self, state: MutexGuard<'_, State<L>>, mut lead: Box<L>, durability: Durability) -> Result<()> {
        let mut state = if durability == Durability::Synced { self.coalesce(state) } else { state };
        if let Some(error) = state.failed.clone() {
            // By somebody that was let in: nothing is written behind a failure.
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
            // What was taken stays readable in the tail until recovery.
            Err(error) => state.fail(error),
        }
        self.release_lead(state, Some(lead));
        result.map_err(Error::poisoned)
    }

    /// Lets those join who were woken just now and are about to come again: a sync for many takes
    /// as long as for one, and whoever comes a moment after it began waits for all of it and then
    /// for the next. Who is alone waits for nobody.
    fn coalesce<'a>(&'a self, mut state: MutexGuard<'a, State<L>>) -> MutexGuard<'a, State<L>> {
        // They are given the processor so often without anybody coming before they are taken for
        // gone.
        const IN_VAIN_MAX: usize = if cfg!(stratawal_loom) { 0 } else { 3 };
        let expected = state.waiters.len() + std::mem::take(&mut state.woken);
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

    /// Waits for the lead and takes it, together with the lock. It must be given back with
    /// [`release_lead`].
    ///
    /// [`release_lead`]: Self::release_lead
    pub(crate) fn acquire(&self) -> Result<(MutexGuard<'_, State<L>>, Box<L>)> {
        loop {
            let mut state = self.state.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if let Some(lead) = state.take_lead() {
                return Ok((state, lead));
            }
            self.wait(state, Durability::Buffered, None);
        }
    }

    /// Does `act` with the lead, under the lock. An error of the kind `Poisoned` fails the group.
    pub(crate) fn exclusively<R>(&self, act: impl FnOnce(&mut State<L>, &mut L) -> Result<R>) -> Result<R> {
        let mut acted = None;
        let act = |state: &mut State<L>, lead: &mut L| {
            acted = Some(act(state, lead)?);
            Ok(None::<()>)
        };
        self.exclusively_then(act, |_, ()| Ok(()))?;
        Ok(acted.expect("invariant: what succeeded has set it"))
    }

    /// Does `act` with the lead, under the lock, and what it leaves to do, outside the lock;
    /// returns the result of that. An error of `act` of the kind `Poisoned`, and any of `then`,
    /// fails the group.
    pub(crate) fn exclusively_then<T, R>(
        &self,
        act: impl FnOnce(&mut State<L>, &mut L) -> Result<Option<T>>,
        then: impl FnOnce(&mut L, T) -> Result<R>,
    ) -> Result<Option<R>> {
        // Dropped behind the lock, which it takes.
        let mut guard = Unwinding { group: self, armed: false };
        let (mut state, mut lead) = self.acquire()?;
        guard.armed = true;
        let result = match act(&mut state, &mut lead) {
            Ok(Some(work)) => {
                drop(state);
                let result = then(&mut lead, work).map_err(Error::poisoned);
                state = self.state.lock();
                result.map(Some)
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        guard.armed = false;
        if let Err(error) = &result
            && error.kind() == ErrorKind::Poisoned
        {
            state.fail(error);
        }
        self.release_lead(state, Some(lead));
        result
    }

    /// Whether nobody leads just now.
    pub(crate) fn is_free(&self) -> bool {
        self.state.lock().lead.is_some()
    }

    /// Does `act` with a lead that was acquired, outside the lock, and gives it back.
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

    /// Runs `recovery` in place of a failed lead and goes on with what it answers. A group that has
    /// not failed is left alone.
    pub(crate) fn recover(&self, recovery: impl FnOnce(&mut L::Tail, Option<Box<L>>) -> Result<L>) -> Result<()> {
        loop {
            let mut state = self.state.lock();
            let Some(failure) = state.failed.clone() else { return Ok(()) };
            if failure.kind() == ErrorKind::Missing {
                return Err(failure);
            }
            // A leader may still be at the files: an append can fail the group beside it.
            if state.led {
                self.wait(state, Durability::Buffered, None);
                continue;
            }
            let (old, epoch) = (state.lead.take(), self.watermarks.epoch());
            // Should it unwind, the group stays failed, and so does the epoch if it is over.
            state.fail_epoch(epoch, failure);
            let result = recovery(&mut state.tail, old);
            let (lead, result) = match result {
                Ok(lead) => {
                    state.failed = None;
                    (Some(Box::new(lead)), Ok(()))
                }
                Err(error) => {
                    // What is worse, or passes by itself, is what is said from here on. Otherwise
                    // the failure stands as it was: an error in passing must not take its place,
                    // nor look like one before any write.
                    if error.is_damage() || matches!(error.kind(), ErrorKind::Full | ErrorKind::NewerFormat) {
                        state.failed = Some(error.clone());
                    }
                    if self.watermarks.epoch() == epoch {
                        state.keep_epoch(epoch);
                    }
                    (None, Err(error))
                }
            };
            self.release_lead(state, lead);
            return result;
        }
    }

    /// Does `act` whatever the state of the group, and refuses all work with `error` from then on.
    /// Should `act` fail, everything stays as it was.
    pub(crate) fn shut_down(&self, error: Error, act: impl FnOnce(&mut State<L>) -> Result<()>) -> Result<()> {
        loop {
            let mut state = self.state.lock();
            if state.led {
                self.wait(state, Durability::Buffered, None);
                continue;
            }
            let epoch = self.watermarks.epoch();
            state.fail_epoch(epoch, error.clone());
            let acted = act(&mut state);
            if acted.is_ok() {
                state.failed = Some(error);
                state.lead = None;
            } else {
                state.keep_epoch(epoch);
            }
            // Whoever was woken to lead may be the one that is here.
            let lead = state.lead.take();
            self.release_lead(state, lead);
            return acted;
        }
    }

    /// Waits until nobody leads.
    pub(crate) fn wait_until_free(&self) {
        let mut state = self.state.lock();
        while state.led {
            self.wait(state, Durability::Buffered, None);
            state = self.state.lock();
        }
        // It may be this one that was woken to lead.
        let lead = state.lead.take();
        self.release_lead(state, lead);
    }

    /// Sleeps until woken; the reason is for the caller to find.
    fn wait(&self, mut state: MutexGuard<'_, State<L>>, durability: Durability, target: Option<CommitTarget>) {
        let waiter = Arc::new(Waiter::new(durability, target));
        state.waiters.push_back(Arc::clone(&waiter));
        drop(state);
        waiter.sleep();
    }

    /// Gives the lead back. First the one that leads next is woken, so that its sync runs while the
    /// satisfied ones wake up.
    pub(crate) fn release_lead(&self, mut state: MutexGuard<'_, State<L>>, lead: Option<Box<L>>) {
        (state.lead, state.led) = (lead, false);
        if state.waiters.is_empty() {
            return;
        }
        let failed = state.failed.is_some();
        let epoch = self.watermarks.epoch();
        let is_over = |target: CommitTarget| target.epoch != epoch && !fail_point!(SleepThroughEpoch);
        let satisfied = |waiter: &Waiter| {
            failed || waiter.target.is_some_and(|target| is_over(target) || self.reached(waiter.durability, target))
        };
        let (wake, mut wait): (VecDeque<_>, VecDeque<_>) =
            state.waiters.drain(..).partition(|waiter| satisfied(waiter));
        let next = wait.pop_front().filter(|_| !fail_point!(NoHandOver));
        state.waiters = wait;
        state.woken = wake.len();
        drop(state);
        for waiter in next.iter().chain(&wake).filter(|_| !(failed && fail_point!(NoWakeOnFailure))) {
            waiter.wake();
        }
    }
}

/// Fails the group if the leader unwinds, so that nobody hangs and nobody writes behind what it
/// left.
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
