//! The one place of this crate that names the synchronisation primitives; under
//! `cfg(stratawal_loom)` they are the model checker's, and every line above this file stays the
//! line that ships.
//!
//! It hides lock poisoning: a leader that unwinds fails the *stream*, which says more than a
//! poisoned mutex does.

pub(crate) use stratawal_index::Published;
pub(crate) use stratawal_index::sync::{Arc, Mutex, MutexGuard};

use std::sync::PoisonError;

#[cfg(stratawal_loom)]
use loom::sync as body;
#[cfg(not(stratawal_loom))]
use std::sync as body;

use body::atomic::{AtomicU64, Ordering};

#[cfg(stratawal_loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(stratawal_loom))]
pub(crate) use std::thread::yield_now;

/// A name that many share: it never changes, so the model checker has nothing to see in it.
pub(crate) type Name = std::sync::Arc<str>;

/// Between showing readers that something is gone and removing its file; and between finding a file
/// gone and asking what was shown. There the file system carries the message, of which the
/// language's memory model knows nothing.
pub(crate) fn fence() {
    body::atomic::fence(Ordering::SeqCst);
}

/// Whether a panic has ended the model that runs: the model checker's locks cannot be taken any
/// more.
#[cfg(stratawal_loom)]
pub(crate) fn model_is_over() -> bool {
    std::thread::panicking()
}

/// Whether a panic has ended the model that runs; outside of the model checker there is none.
#[cfg(not(stratawal_loom))]
pub(crate) const fn model_is_over() -> bool {
    false
}

/// A place where one thread waits for another.
#[derive(Debug)]
pub(crate) struct Condvar(body::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(body::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A number that readers watch: who sees one sees everything its writer did before
/// [`store`](Self::store).
///
/// `turn` is there for the model checker alone and orders nothing: of the accesses to an atomic it
/// remembers only the last, so a store behind a load of the same thread would hide the loads of all
/// others from it (tokio-rs/loom, issues 166 and 392).
#[derive(Debug)]
pub(crate) struct Mark {
    value: AtomicU64,
    #[cfg(stratawal_loom)]
    turn: AtomicU64,
}

impl Mark {
    pub(crate) fn new(value: u64) -> Self {
        Self {
            value: AtomicU64::new(value),
            #[cfg(stratawal_loom)]
            turn: AtomicU64::new(0),
        }
    }

    /// Acquire; pairs with the Release in `store`.
    pub(crate) fn load(&self) -> u64 {
        self.take_turn();
        self.value.load(Ordering::Acquire)
    }

    /// Release; pairs with the Acquire in `load`.
    pub(crate) fn store(&self, value: u64) {
        self.take_turn();
        self.value.store(value, Ordering::Release);
    }

    #[cfg(stratawal_loom)]
    fn take_turn(&self) {
        self.turn.fetch_add(0, Ordering::Relaxed);
    }

    #[cfg(not(stratawal_loom))]
    #[allow(clippy::unused_self)]
    const fn take_turn(&self) {}
}

/// Bits that are set and never cleared, each by itself: nothing else is ordered by them.
#[derive(Debug, Default)]
pub(crate) struct Bits(Box<[AtomicU64]>);

impl Bits {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether bit `i` was seen set; a bit that there is not is not set.
    pub(crate) fn get(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (i % 64) != 0)
    }

    pub(crate) fn set(&self, i: usize) {
        if let Some(word) = self.0.get(i / 64) {
            word.fetch_or(1 << (i % 64), Ordering::Relaxed);
        }
    }
}

/// How a scenario is run: every interleaving under the model checker, many rounds of real threads
/// otherwise.
#[cfg(test)]
pub(crate) mod explore {
    #[cfg(stratawal_loom)]
    pub(crate) use loom::thread::spawn;
    #[cfg(not(stratawal_loom))]
    pub(crate) use std::thread::spawn;

    #[cfg(stratawal_loom)]
    pub(crate) fn explore(scenario: fn()) {
        explore_bounded(3, scenario);
    }

    /// With at most so many preemptions: more threads than three have too many interleavings with
    /// three.
    #[cfg(stratawal_loom)]
    pub(crate) fn explore_bounded(preemptions: usize, scenario: fn()) {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};

        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
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
        for _ in 0..1_000 {
            scenario();
        }
    }
}
