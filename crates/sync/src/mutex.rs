//! A lock that cannot fail, and the condition that its holders wait for.

use std::sync::{PoisonError, TryLockError};

use crate::primitives::{self, MutexGuard};

/// A lock that a panic of its holder does not poison.
#[derive(Debug)]
pub struct Mutex<T>(primitives::Mutex<T>);

impl<T> Mutex<T> {
    /// A free lock around `value`.
    pub fn new(value: T) -> Self {
        Self(primitives::Mutex::new(value))
    }

    /// Waits for the lock and takes it until the guard is dropped.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if it is free. Returns `None` while another thread has it.
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

/// A condition that threads wait for, and that the holder of a [`Mutex`] announces.
#[derive(Debug)]
pub struct Condvar(primitives::Condvar);

impl Condvar {
    /// A condition that no thread waits for yet.
    #[allow(clippy::new_without_default, reason = "made where it is used, like every primitive here")]
    pub fn new() -> Self {
        Self(primitives::Condvar::new())
    }

    /// Releases the lock, waits, and takes the lock again. It may return without an announcement:
    /// the caller checks the condition in a loop.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes one thread that waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all threads that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
