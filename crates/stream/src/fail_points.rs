//! Where a test can make this crate wrong, to prove that the models and the simulation find it.

stratawal_sync::fail_points! {
    /// A place where a test can make the shipped code wrong.
    enum FailPoint {
        /// A leader that ends wakes no thread to lead after it.
        NoHandOver,
        /// A failed leader does not wake the threads that wait for it.
        NoWakeOnFailure,
        /// The end of an epoch does not wake the threads that wait in it.
        SleepThroughEpoch,
        /// A watermark advances before the bytes and the index points that it promises exist.
        WatermarkFirst,
        /// The watermark of a sync covers entries that were accepted after the sync took its work.
        LateArrivalCovered,
        /// An entry that recovery took back is acknowledged once another entry has its seq.
        EpochIgnored,
        /// A failure that is no longer remembered counts as a success.
        OutcomeForgotten,
        /// Readers see the new first entry only after the entries below it are unlinked.
        StartShownLate,
        /// A close does not wait for the removal of files that a truncation has begun.
        RemovalsNotAwaited,
        /// A truncation of the end begins no epoch, so that readers do not notice it.
        EpochKept,
        /// A closed stream accepts appends.
        CloseLetsIn,
        /// An append is acknowledged while its entry is still in the tail buffer.
        AcknowledgedBeforeWrite,
        /// A commit is acknowledged without its sync.
        AcknowledgedBeforeSync,
        /// The MARK of a commit is written before its sync.
        AttestedBeforeSync,
        /// The watermark passes finished segments that are not synced.
        UnsyncedPassed,
        /// Recovery does not rewrite frames that may not be durable.
        TailNotRewritten,
        /// Recovery believes attestations of entries that a newer generation has voided.
        AttestationNotClamped,
        /// Recovery gives its new generation the number of the newest one.
        GenerationKept,
        /// Segments below a START are unlinked before the START is durable.
        StartAfterUnlink,
        /// A MARK after zeros attests nothing.
        ZerosAreTheEnd,
        /// The name of a new stream is acknowledged without a sync of the directory that holds it.
        DirSyncSkipped,
        /// A sync of a directory is reported as done by a sync that began before it was asked for.
        DirSyncJoined,
        /// The SEAL of a finished segment names no successor.
        SealNamesNone,
        /// A finished segment is synced through another descriptor than the one that wrote it.
        DescriptorClosed,
        /// Readers of a synced stream see entries that are only flushed.
        FlushedShown,
        /// A reader beside the writer shows entries that are not attested, without syncing them.
        ShownUnsynced,
        /// A segment gets the salt of the one before it.
        SaltKept,
        /// The salts by which segments name each other are not compared.
        SaltsIgnored,
        /// A frame length is believed, whatever the bound on it.
        LengthBelieved,
    }
}
