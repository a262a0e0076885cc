//! A lock that cannot fail, and the condition that its holders wait for.

use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use crate::primitives::{self, MutexGuard};

/// A lock that is not poisoned if its holder panics.
#[derive(Debug)]
pub struct Mutex<T>(primitives::Mutex<T>);

impl<T> Mutex<T> {
    /// Creates a free lock around `value`.
    pub fn new(value: T) -> Self {
        Self(primitives::Mutex::new(value))
    }

    /// Waits for the lock and holds it until the guard is dropped.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if it is free. Returns `None` if another thread holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A condition that threads wait for. The holder of a [`Mutex`] announces it.
#[derive(Debug)]
pub struct Condvar(primitives::Condvar);

impl Condvar {
    /// Creates a condition that no thread waits for yet.
    #[allow(clippy::new_without_default, reason = "made where it is used, like every primitive here")]
    pub fn new() -> Self {
        Self(primitives::Condvar::new())
    }

    /// Releases the lock, waits, and takes the lock again. It may return without a notification, so
    /// the caller checks the condition in a loop.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Like [`wait`](Self::wait), but returns after `timeout` at the latest.
    /// The model checker knows no time: there this is `wait`.
    pub fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> MutexGuard<'a, T> {
        self.0.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes one waiting thread.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
