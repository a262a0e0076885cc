//! The one place of this crate that names the synchronisation primitives.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Arc, MutexGuard, Weak};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use std::sync::{OnceLock, atomic::AtomicU64};

/// A mutex whose lock cannot fail: what it guards is whole at any time.
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
