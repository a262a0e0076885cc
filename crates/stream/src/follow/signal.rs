//! Wakes the thread or the task of one follower.

use std::fmt;
use std::time::{Duration, Instant};

use stratawal_sync::atomic::{AtomicBool, Ordering};
use stratawal_sync::{Condvar, Mutex};

/// What a follower waits on. Other threads wake it or stop it.
pub(crate) struct Signal {
    is_stopped: AtomicBool,
    is_woken: Mutex<bool>,
    wake: Condvar,
}

/// Why a sleep has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    Woken,
    TimedOut,
}

impl Signal {
    pub(crate) fn new() -> Self {
        Self { is_stopped: AtomicBool::new(false), is_woken: Mutex::new(false), wake: Condvar::new() }
    }

    /// Wakes the follower, or has its next sleep end at once.
    pub(crate) fn wake(&self) {
        *self.is_woken.lock() = true;
        self.wake.notify_one();
    }

    /// Forgets an earlier wake-up. Called before the follower registers.
    pub(crate) fn reset(&self) {
        *self.is_woken.lock() = false;
    }

    /// Has the follower end.
    pub(crate) fn stop(&self) {
        // Release; pairs with the Acquire in `is_stopped`. The lock in `wake` orders it before the
        // sleep that it ends.
        self.is_stopped.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        // Acquire; pairs with the Release in `stop`.
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Sleeps until the follower is woken or stopped, at the latest until `deadline`.
    pub(crate) fn sleep(&self, deadline: Option<Instant>) -> Sleep {
        let mut is_woken = self.is_woken.lock();
        while !*is_woken && !self.is_stopped() {
            let Some(deadline) = deadline else {
                is_woken = self.wake.wait(is_woken);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Sleep::TimedOut;
            }
            is_woken = self.wake.wait_timeout(is_woken, left);
        }
        Sleep::Woken
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").field("is_stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}
