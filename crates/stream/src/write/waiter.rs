//! Threads that are waiting for a commit.

use std::collections::VecDeque;
use std::sync::Arc;

use stratawal_sync::{Condvar, Mutex};

use crate::options::Durability;

/// A seq for a watermark to reach, and the epoch to which the seq belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitTarget {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
}

/// A thread that is waiting for a watermark, or, without a target, only for the lead.
pub(super) struct Waiter {
    pub(super) durability: Durability,
    pub(super) target: Option<CommitTarget>,
    woken: Mutex<Option<Wake>>,
    wake: Condvar,
}

/// Why a thread was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// It no longer needs to wait.
    Satisfied,
    /// The lead was free, and it is this thread's turn. If it does not take the lead, it has to
    /// wake the next thread, because no other thread does.
    Turn,
}

impl Waiter {
    pub(super) fn new(durability: Durability, target: Option<CommitTarget>) -> Self {
        Self { durability, target, woken: Mutex::new(None), wake: Condvar::new() }
    }

    pub(super) fn wake(&self, wake: Wake) {
        *self.woken.lock() = Some(wake);
        self.wake.notify_one();
    }

    /// Returns once [`wake`](Self::wake) has been called, even if that was before this call.
    pub(super) fn sleep(&self) -> Wake {
        let mut woken = self.woken.lock();
        loop {
            match *woken {
                Some(wake) => return wake,
                None => woken = self.wake.wait(woken),
            }
        }
    }
}

/// The waiting threads, in the order in which they arrived.
#[derive(Default)]
pub(super) struct Waiters {
    queue: VecDeque<Arc<Waiter>>,
    /// How many threads the last commit satisfied, apart from its leader.
    last_satisfied: usize,
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, waiter: Arc<Waiter>) {
        self.queue.push_back(waiter);
    }

    /// Returns how many threads the last commit satisfied, and resets the count.
    pub(super) fn take_last_satisfied(&mut self) -> usize {
        std::mem::take(&mut self.last_satisfied)
    }

    /// Takes all threads.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Arc<Waiter>> {
        self.queue.drain(..)
    }

    /// Takes the threads that no longer need to wait, and the first of the others, which leads
    /// next.
    pub(super) fn take_satisfied(
        &mut self,
        is_satisfied: impl Fn(&Waiter) -> bool,
    ) -> (VecDeque<Arc<Waiter>>, Option<Arc<Waiter>>) {
        let (satisfied, mut others): (VecDeque<_>, VecDeque<_>) =
            self.queue.drain(..).partition(|waiter| is_satisfied(waiter));
        let next = others.pop_front();
        self.queue = others;
        self.last_satisfied = satisfied.len();
        (satisfied, next)
    }
}
