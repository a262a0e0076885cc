//! Runs a scenario of a few threads in many interleavings. For tests.
//!
//! A scenario is a test whose body is one call to [`explore`]. With the standard library's
//! primitives, the scenario is repeated on real threads. Under `--cfg stratawal_loom` the model
//! checker runs every interleaving of its threads, up to a number of preemptions.

/// How often a scenario is repeated on real threads.
#[cfg(not(stratawal_loom))]
const ROUNDS: usize = 1_000;

/// The minimum number of interleavings of a model. A model in which the checker sees no conflict
/// passes at once, and proves nothing.
#[cfg(stratawal_loom)]
const INTERLEAVINGS_MIN: usize = 20;

/// The maximum number of steps of one interleaving. A model in which threads wait for each other
/// forever, without being blocked, exceeds it. Appends through a full commit journal take over a
/// thousand steps.
#[cfg(stratawal_loom)]
const STEPS_MAX: usize = 4_000;

/// Runs a scenario of at most three threads, with at most three preemptions under the model
/// checker.
pub fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    explore_bounded(3, scenario);
}

/// Runs a scenario with at most `preemptions` preemptions under the model checker. With more than
/// three threads, three preemptions give too many interleavings.
#[cfg(stratawal_loom)]
pub fn explore_bounded(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = STEPS_MAX;
    let interleavings = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&interleavings);
    model.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    let interleavings = interleavings.load(Ordering::Relaxed);
    assert!(interleavings >= INTERLEAVINGS_MIN, "only {interleavings} interleavings");
}

/// Runs a scenario with at most `preemptions` preemptions under the model checker. With more than
/// three threads, three preemptions give too many interleavings.
#[cfg(not(stratawal_loom))]
pub fn explore_bounded(_preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    for _ in 0..ROUNDS {
        scenario();
    }
}

/// Whether a panic has ended the running model. The model checker's locks can then no longer be
/// taken, so a destructor that would take one returns early.
#[cfg(stratawal_loom)]
#[must_use]
pub fn is_over() -> bool {
    std::thread::panicking()
}

/// Always false: without the model checker, locks can be taken while a thread unwinds.
#[cfg(not(stratawal_loom))]
#[must_use]
pub const fn is_over() -> bool {
    false
}
