//! A thread that waits for a commit.

use stratawal_sync::{Condvar, Mutex};

use crate::options::Durability;

/// A seq to be reached, and the epoch it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitTarget {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
}

/// A thread that waits: for a watermark, or (with `target` `None`) for the lead alone.
pub(super) struct Waiter {
    pub(super) durability: Durability,
    pub(super) target: Option<CommitTarget>,
    woken: Mutex<bool>,
    wake: Condvar,
}

impl Waiter {
    pub(super) fn new(durability: Durability, target: Option<CommitTarget>) -> Self {
        Self { durability, target, woken: Mutex::new(false), wake: Condvar::new() }
    }

    pub(super) fn wake(&self) {
        *self.woken.lock() = true;
        self.wake.notify_one();
    }

    pub(super) fn sleep(&self) {
        let mut woken = self.woken.lock();
        while !*woken {
            woken = self.wake.wait(woken);
        }
    }
}
