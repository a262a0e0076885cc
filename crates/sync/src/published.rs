//! A value that readers load without waiting.

use std::fmt;
use std::sync::Arc;

/// A value that readers load as a whole and a writer replaces as a whole.
///
/// A reader that loads a value sees everything that its writer did before [`store`](Self::store).
/// Readers never wait. The caller serialises writers. No code may depend on when a replaced value
/// is dropped.
pub struct Published<T>(body::Body<T>);

impl<T> Published<T> {
    /// Creates a cell that holds a first value.
    pub fn new(value: impl Into<Arc<T>>) -> Self {
        Self(body::Body::new(value.into()))
    }

    /// Returns the last value stored.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        self.0.load()
    }

    /// Replaces the value. The caller serialises calls; of two concurrent ones, one would be lost.
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
mod body {
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

// The model checker cannot see into arc-swap: models that used it missed a lost update and a value
// torn across two loads. This body promises no more than arc-swap documents. The arena's lock is
// the standard library's. The checker does not see it, so it orders nothing in a model. No
// operation that the checker sees happens while the lock is held.
//
// `turn` orders nothing either: it is Relaxed, and its value means nothing. It makes the checker
// explore more interleavings. The checker remembers only the last access to an atomic, so a store
// after a load by the same thread hides the loads of all other threads from it (tokio-rs/loom,
// issues 166 and 392). Writers here usually load, change and store. Without `turn` the first model
// of the active index ran a single interleaving, and passed with every fail point active.
#[cfg(stratawal_loom)]
mod body {
    use std::sync::{Mutex, PoisonError};

    use super::Arc;
    use crate::atomic::{AtomicUsize, Ordering};

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
