//! Where a test can make this crate wrong, to prove that the simulated crashes and the damage sweep
//! find it.

stratawal_sync::fail_points! {
    /// A place where a test can make the shipped code wrong.
    enum FailPoint {
        /// A commit is acknowledged without its sync.
        AcknowledgedBeforeSync,
        /// The durable LSN that a sync publishes is the end of the log after it.
        EndReadAfterSync,
        /// A restart does not end the epoch of the records before it.
        EpochKept,
        /// After a failed sync the journal is written on.
        FailureForgotten,
        /// A file gets its name before its header, or what recovery wrote into it, is synced.
        HeaderNotSynced,
        /// The directory is not synced after a file got its name.
        DirSyncSkipped,
        /// A file is used again although its records are needed.
        ReleasedEarly,
        /// Records are released although the copies of them are not durable.
        CopiesNotSynced,
        /// Valid records after zeros, or after damage, attest nothing.
        ZerosAreTheEnd,
        /// No MARK is written after a sync.
        MarkSkipped,
        /// The header of the file that recovery writes does not attest its records.
        NewFileAttestsNothing,
        /// The file that recovery writes does not hold the unfinished deletions.
        DropForgotten,
        /// The file that recovery writes does not hold the STARTs.
        StartForgotten,
        /// The file that recovery writes does not hold the FIRM records.
        FirmForgotten,
        /// Loose parts become firm when recovery writes them again.
        LooseBecomesFirm,
        /// SETTLED does not void the earlier records of its stream.
        SettledIgnored,
        /// Parts are taken in the order of the journal, not by seq.
        TakenByPlace,
        /// A gap below a promised entry is taken for a lawful one.
        GapIgnored,
        /// A gap that no promise rests on is taken for damage.
        LawfulGapRefused,
    }
}
