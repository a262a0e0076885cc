//! Faults that tests seed, to prove that the models would find them.
//!
//! Without `--cfg stratawal_faults` no fault can be seeded: [`seeded`] is a constant, and the
//! faulty branches are gone before code is generated. It is a cfg and no feature, so that no
//! dependency graph can switch it on.

/// A fault in the code that ships, switched on by a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(stratawal_faults), allow(unreachable_pub, reason = "with the cfg, tests of other crates seed them"))]
pub enum Fault {
    /// A leader that ends wakes nobody to lead after it.
    NoHandOver,
    /// A failed leader leaves its waiters asleep.
    NoWakeOnFailure,
    /// Who waits in an epoch that has ended is not woken by that.
    SleepThroughEpoch,
    /// The watermark passes before the bytes and the index points that it stands for are there.
    WatermarkFirst,
    /// The watermark of a sync covers what was accepted after its work was taken.
    LateArrivalCovered,
    /// What recovery took back is acknowledged once other entries have its seqs.
    EpochIgnored,
    /// A failure that is not remembered any more counts as a success.
    OutcomeForgotten,
    /// Readers are shown the new first entry only once what lies below it is unlinked.
    StartShownLate,
    /// A close does not wait for the removal of files that a truncation has begun.
    RemovalsNotAwaited,
    /// A cut begins no epoch, so that readers do not know of it.
    EpochKept,
    /// A close lets appends in that come after it.
    CloseLetsIn,
    /// A `Flushed` append is acknowledged while it waits in the tail buffer.
    AcknowledgedBeforeWrite,
    /// A commit is acknowledged without its sync.
    AcknowledgedBeforeSync,
    /// The MARK of a commit is written before its sync.
    AttestedBeforeSync,
    /// The watermark passes finished segments that are not settled.
    UnsettledPassed,
    /// Recovery does not write again what may not be durable.
    TailNotRewritten,
    /// Recovery believes what a segment attests of entries that a newer generation has voided.
    AttestationNotClamped,
    /// Recovery begins its generation by the number of the newest.
    GenerationKept,
    /// Segments below a START are unlinked before it is durable.
    StartAfterUnlink,
    /// What stands behind zeros attests nothing.
    ZerosAreTheEnd,
    /// The name of a new stream is acknowledged without a sync of the folder that holds it.
    FolderSyncSkipped,
    /// Who asks for a sync of a folder is answered by one that has begun before.
    FolderSyncJoined,
    /// A batch that crosses the border of a segment is written as two.
    BatchSplit,
    /// What ends a finished segment names none that follows it.
    SealNamesNone,
    /// The descriptor that wrote a finished segment is closed, and another one synced.
    DescriptorClosed,
    /// Readers of a synced stream are shown what is only flushed.
    FlushedShown,
    /// A reader beside the writer shows what is not attested without syncing it.
    ShownUnsynced,
    /// A segment gets the salt of the one before it.
    SaltKept,
    /// The salts by which segments name each other are not compared.
    SaltsIgnored,
    /// A length is believed, whatever the bound on it.
    LengthBelieved,
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

    /// Seeds a fault in all that this thread does from here on, or none.
    pub fn seed(fault: Option<Fault>) {
        SEEDED.set(fault);
    }

    /// Runs `test` with `fault` seeded and says whether it panicked, which it should.
    #[cfg(all(test, stratawal_loom))]
    pub(crate) fn is_found(fault: Fault, test: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        SEEDED.set(Some(fault));
        let outcome = std::panic::catch_unwind(test);
        SEEDED.set(None);
        outcome.is_err()
    }
}

#[cfg(all(test, stratawal_faults, stratawal_loom))]
pub(crate) use switch::is_found;
