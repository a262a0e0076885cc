//! The one door to synchronisation: the only file of the crate that names the standard library's
//! primitives, arc-swap or the model checker.
//!
//! Under `--cfg stratawal_loom` the same names stand for the model checker's primitives, and every
//! line above this file stays the line that ships. The module is public so that a layer above may
//! stand on the same door; it is no general toolbox, and takes whatever the layers need and nothing
//! more.
//!
//! Lock poisoning is hidden: whoever needs to know that a holder unwound keeps that in the data.

use std::fmt;
use std::sync::PoisonError;

#[cfg(not(stratawal_loom))]
use std::sync as body;

#[cfg(stratawal_loom)]
use loom::sync as body;

pub use std::sync::Arc;

pub use body::MutexGuard;
pub use body::atomic;

/// A value that readers load as a whole while a writer replaces it as a whole.
///
/// A reader that sees a value sees everything its writer did before [`store`](Self::store). Readers
/// never wait. Writers are serialised by the caller. Nothing may rest on when a replaced value is
/// dropped.
pub struct Published<T>(published::Body<T>);

impl<T> Published<T> {
    /// Publishes a first value.
    pub fn new(value: impl Into<Arc<T>>) -> Self {
        Self(published::Body::new(value.into()))
    }

    /// The value stored last.
    pub fn load(&self) -> Arc<T> {
        self.0.load()
    }

    /// Replaces the value. Of two concurrent calls one is lost: the caller serialises them.
    pub fn store(&self, value: Arc<T>) {
        self.0.store(value);
    }
}

impl<T: fmt::Debug> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Published").field(&self.load()).finish()
    }
}

#[cfg(not(stratawal_loom))]
mod published {
    use super::Arc;
    use arc_swap::ArcSwap;

    pub(super) struct Body<T>(ArcSwap<T>);

    impl<T> Body<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self(ArcSwap::new(value))
        }

        pub(super) fn load(&self) -> Arc<T> {
            self.0.load_full()
        }

        pub(super) fn store(&self, value: Arc<T>) {
            self.0.store(value);
        }
    }
}

// The model checker cannot see into arc-swap: models over it missed a lost update and a two-load
// tear. This body promises no more than arc-swap documents. The arena's lock is the standard
// library's, which the checker does not see, so that it orders nothing; it is never held across an
// operation that the checker does see.
//
// `turn` orders nothing either (it is Relaxed, and its value means nothing), but makes the checker
// look: of the accesses to an atomic it remembers only the last, so a store behind a load of the
// same thread hides the loads of all others from it (tokio-rs/loom, issues 166 and 392). A writer
// that loads, changes and stores is the usual thing behind this door. Without `turn` the first
// model of the active index ran one interleaving, and passed whatever fault was seeded.
#[cfg(stratawal_loom)]
mod published {
    use super::Arc;
    use super::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    pub(super) struct Body<T> {
        arena: Mutex<Vec<Arc<T>>>,
        newest: AtomicUsize,
        turn: AtomicUsize,
    }

    impl<T> Body<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self { arena: Mutex::new(vec![value]), newest: AtomicUsize::new(0), turn: AtomicUsize::new(0) }
        }

        pub(super) fn load(&self) -> Arc<T> {
            self.turn.fetch_add(0, Ordering::Relaxed);
            // Acquire; pairs with the AcqRel swap in `store`.
            let newest = self.newest.load(Ordering::Acquire);
            Arc::clone(&self.arena.lock().unwrap_or_else(PoisonError::into_inner)[newest])
        }

        pub(super) fn store(&self, value: Arc<T>) {
            let at = {
                let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
                arena.push(value);
                arena.len() - 1
            };
            self.turn.fetch_add(0, Ordering::Relaxed);
            // AcqRel; pairs with the Acquire in `load`.
            self.newest.swap(at, Ordering::AcqRel);
        }
    }
}

/// A lock that a panic of its holder does not poison.
#[derive(Debug)]
pub struct Mutex<T>(body::Mutex<T>);

impl<T> Mutex<T> {
    /// A free lock around `value`.
    pub fn new(value: T) -> Self {
        Self(body::Mutex::new(value))
    }

    /// Waits for the lock and takes it until the guard is dropped.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place to wait for what the holder of a [`Mutex`] will announce.
#[derive(Debug)]
pub struct Condvar(body::Condvar);

impl Condvar {
    /// A place where nobody waits.
    #[allow(clippy::new_without_default, reason = "made where it is used, like every primitive here")]
    pub fn new() -> Self {
        Self(body::Condvar::new())
    }

    /// Gives the lock up, waits, and takes it again. May return unannounced: look again, in a loop.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everyone who waits.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// How a scenario is run: every interleaving under the model checker, many rounds of real threads
/// otherwise.
#[cfg(test)]
pub(crate) mod explore {
    #[cfg(stratawal_loom)]
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[cfg(stratawal_loom)]
    pub(crate) use loom::thread::spawn;
    #[cfg(not(stratawal_loom))]
    pub(crate) use std::thread::spawn;

    #[cfg(stratawal_loom)]
    pub(crate) fn explore(scenario: fn()) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        let interleavings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&interleavings);
        model.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            scenario();
        });
        // A model that the checker sees no conflict in passes at once, and proves nothing.
        let interleavings = interleavings.load(Ordering::Relaxed);
        assert!(interleavings >= 20, "only {interleavings} interleavings");
    }

    #[cfg(not(stratawal_loom))]
    pub(crate) fn explore(scenario: fn()) {
        for _ in 0..2_000 {
            scenario();
        }
    }
}
