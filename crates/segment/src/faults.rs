//! Faults that tests seed, to prove that the simulation would find them.
//!
//! Without `--cfg stratawal_faults` no fault can be seeded: [`seeded`] is a constant, and the
//! faulty branches are gone before code is generated. It is a cfg and no feature, so that no
//! dependency graph can switch it on.

/// A fault in the code that ships, switched on by a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(stratawal_faults), allow(unreachable_pub, reason = "with the cfg, tests of other crates seed them"))]
pub enum Fault {
    /// Frames go into a segment whose name may not be durable.
    FolderSyncSkipped,
}

/// Whether a test has seeded `fault`.
#[cfg(not(stratawal_faults))]
#[inline(always)]
pub(crate) const fn seeded(fault: Fault) -> bool {
    let _ = fault;
    false
}

#[cfg(stratawal_faults)]
pub use switch::seed;
#[cfg(stratawal_faults)]
pub(crate) use switch::seeded;

// The switch is the thread's own: tests run side by side.
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

    /// Seeds a fault in all that this thread does from here on, or none.
    pub fn seed(fault: Option<Fault>) {
        SEEDED.set(fault);
    }
}
