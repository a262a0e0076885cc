//! The synchronisation primitives of this crate. They are the standard library's even under the
//! model checker: models run on the in-memory storage, whose locks are not part of them.

pub(crate) use std::sync::{
    MutexGuard, Weak,
    atomic::{AtomicBool, Ordering},
};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use std::sync::{OnceLock, atomic::AtomicU64};

/// A lock that is not poisoned if its holder panics.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
