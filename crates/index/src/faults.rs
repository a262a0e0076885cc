//! Faults that tests seed, to prove that the models would find them.
//!
//! Without `--cfg stratawal_faults` no fault can be seeded: [`seeded`] is a constant, and the
//! faulty branches are gone before code is generated. It is a cfg and no feature, so that no
//! dependency graph can switch it on.

/// A fault in the code that ships, switched on by a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The active index raises a chunk's length before the new point's words are there.
    LengthBeforePoint,
    /// The active index raises a chunk's length without releasing the new point's words.
    LengthRelaxed,
    /// The cache keeps an entry whose load began before the entry's removal.
    EntryAfterRemoval,
    /// The cache lets two callers load one key at the same time.
    LoadNotExclusive,
    /// The cache leaves those asleep who wait for a load that fails.
    WaiterNotWoken,
    /// The search for a seq that has a point of its own finds the point before it.
    FloorOffByOne,
}

/// Whether a test has seeded `fault`.
#[cfg(not(stratawal_faults))]
#[inline(always)]
pub(crate) const fn seeded(fault: Fault) -> bool {
    let _ = fault;
    false
}

#[cfg(stratawal_faults)]
pub(crate) use switch::seeded;

// The switch is the thread's own: tests run side by side, and the model checker runs all threads of
// a model on the one thread that started it.
#[cfg(stratawal_faults)]
mod switch {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static SEEDED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(crate) fn seeded(fault: Fault) -> bool {
        SEEDED.get() == Some(fault)
    }

    /// Runs `test` with `fault` seeded and says whether it panicked, which it should.
    #[cfg(test)]
    pub(crate) fn is_found(fault: Fault, test: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        SEEDED.set(Some(fault));
        let outcome = std::panic::catch_unwind(test);
        SEEDED.set(None);
        outcome.is_err()
    }
}

#[cfg(all(test, stratawal_faults))]
pub(crate) use switch::is_found;
