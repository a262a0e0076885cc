//! The one place of this crate that names the synchronisation primitives; under `cfg(stratawal_loom)` they are loom's.
//!
//! It hides lock poisoning: a leader that unwinds poisons the *stream*, which says more than a poisoned mutex does.

pub(crate) use stratawal_index::Published;

#[cfg(not(stratawal_loom))]
pub(crate) use std::sync::{
    Arc, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(stratawal_loom)]
pub(crate) use {
    loom::sync::{
        MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    std::sync::Arc,
};

#[cfg(stratawal_loom)]
use loom::sync as imp;
#[cfg(not(stratawal_loom))]
use std::sync as imp;

/// A mutex whose lock cannot fail.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A condition variable to go with it.
#[derive(Debug, Default)]
pub(crate) struct Condvar(imp::Condvar);

impl Condvar {
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }
}

/// The bugs that can be put in on purpose, to see that the models find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A leader that ends wakes nobody to lead after it.
    NoHandOver,
    /// A failed leader leaves its waiters asleep.
    NoWakeOnFailure,
    /// A watermark is stored before the bytes it stands for are there.
    WatermarkFirst,
    /// The watermark of a commit covers what arrived after its work was taken.
    LateArrivalCovered,
}

#[cfg(not(stratawal_faults))]
pub(crate) const fn seeded(_: Fault) -> bool {
    false
}

#[cfg(stratawal_faults)]
pub(crate) use faults::seeded;

#[cfg(stratawal_faults)]
pub(crate) mod faults {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Fault;

    // Not a loom atomic: the switch is set before a model starts and is no part of it.
    static SEEDED: AtomicU8 = AtomicU8::new(u8::MAX);

    pub(crate) fn seeded(fault: Fault) -> bool {
        SEEDED.load(Ordering::SeqCst) == fault as u8
    }

    #[cfg(all(test, stratawal_loom))]
    pub(crate) fn seed(fault: Option<Fault>) {
        SEEDED.store(fault.map_or(u8::MAX, |fault| fault as u8), Ordering::SeqCst);
    }
}
