//! A seq that one thread advances and others watch.

use crate::atomic::{AtomicU64, Ordering};

/// A seq that a writer stores and readers load.
///
/// A reader that loads a value sees everything that its writer did before [`store`](Self::store).
#[derive(Debug)]
pub struct AtomicSeq {
    value: AtomicU64,
    // Only for the model checker. It has no effect on the memory order: see `Published`.
    #[cfg(stratawal_loom)]
    turn: AtomicU64,
}

impl AtomicSeq {
    /// Creates a seq that is `value` until the first store.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Self {
            value: AtomicU64::new(value),
            #[cfg(stratawal_loom)]
            turn: AtomicU64::new(0),
        }
    }

    /// Returns the last value stored. Acquire; pairs with the Release in [`store`](Self::store).
    #[must_use]
    pub fn load(&self) -> u64 {
        self.take_turn();
        self.value.load(Ordering::Acquire)
    }

    /// Stores a value. Release; pairs with the Acquire in [`load`](Self::load).
    pub fn store(&self, value: u64) {
        self.take_turn();
        self.value.store(value, Ordering::Release);
    }

    /// Stores `value` unless the seq is already as great. Release; pairs with the Acquire in
    /// [`load`](Self::load).
    pub fn raise(&self, value: u64) {
        self.take_turn();
        self.value.fetch_max(value, Ordering::Release);
    }

    #[cfg(stratawal_loom)]
    fn take_turn(&self) {
        self.turn.fetch_add(0, Ordering::Relaxed);
    }

    #[cfg(not(stratawal_loom))]
    #[allow(clippy::unused_self, reason = "the model checker's version uses it")]
    const fn take_turn(&self) {}
}
