//! Wakes the thread or the task of a follower, or of a group of them.

use std::fmt;
use std::task::Waker;
use std::time::{Duration, Instant};

use stratawal_sync::atomic::{AtomicBool, Ordering};
use stratawal_sync::{Condvar, Mutex};

/// The object on which a follower, or a group of them, waits. Other threads wake it or stop it.
pub(crate) struct Signal {
    is_stopped: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    is_woken: bool,
    /// A thread sleeps until it is woken. Otherwise a wake-up needs no call of the system.
    is_sleeping: bool,
    /// The keys of the followers of a group that were woken.
    ready: Vec<u64>,
    /// The task to wake.
    waker: Option<Waker>,
}

/// Why a sleep has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    Woken,
    TimedOut,
}

impl Signal {
    pub(crate) fn new() -> Self {
        Self { is_stopped: AtomicBool::new(false), state: Mutex::new(State::default()), wake: Condvar::new() }
    }

    /// Wakes the follower, or has its next sleep end at once. `key` is its key in a group.
    pub(crate) fn wake(&self, key: Option<u64>) {
        let mut state = self.state.lock();
        state.is_woken = true;
        state.ready.extend(key);
        let is_sleeping = state.is_sleeping;
        let waker = state.waker.take();
        drop(state);
        if is_sleeping {
            self.wake.notify_one();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Forgets an earlier wake-up. Called before the follower registers.
    pub(crate) fn reset(&self) {
        self.state.lock().is_woken = false;
    }

    /// Takes the keys of the followers that were woken, and forgets the wake-up.
    pub(crate) fn take_ready(&self) -> Vec<u64> {
        let mut state = self.state.lock();
        state.is_woken = false;
        std::mem::take(&mut state.ready)
    }

    /// Sets the task that the next wake-up wakes.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let mut state = self.state.lock();
        let before = match &state.waker {
            Some(same) if same.will_wake(waker) => None,
            _ => state.waker.replace(waker.clone()),
        };
        drop(state);
        // Dropping a waker may run code of the program.
        drop(before);
    }

    /// Has the follower end.
    pub(crate) fn stop(&self) {
        // Release; pairs with the Acquire in `is_stopped`. The lock orders it before the sleep that
        // it ends.
        self.is_stopped.store(true, Ordering::Release);
        self.wake(None);
        self.wake.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        // Acquire; pairs with the Release in `stop`.
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Sleeps until the follower is woken or stopped, at the latest until `deadline`.
    pub(crate) fn sleep(&self, deadline: Option<Instant>) -> Sleep {
        self.sleep_while(deadline, true)
    }

    /// Sleeps until `deadline`, or until the follower is stopped.
    pub(crate) fn pause(&self, deadline: Instant) {
        self.sleep_while(Some(deadline), false);
    }

    fn sleep_while(&self, deadline: Option<Instant>, may_be_woken: bool) -> Sleep {
        let mut state = self.state.lock();
        while !(self.is_stopped() || state.is_woken && may_be_woken) {
            let Some(deadline) = deadline else {
                state.is_sleeping = true;
                state = self.wake.wait(state);
                state.is_sleeping = false;
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Sleep::TimedOut;
            }
            state.is_sleeping = may_be_woken;
            state = self.wake.wait_timeout(state, left);
            state.is_sleeping = false;
        }
        Sleep::Woken
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").field("is_stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}
