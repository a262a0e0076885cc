//! The places where a test can inject a bug into this crate, to prove that the simulated crashes
//! and the damage sweep find it.

stratawal_sync::fail_points! {
    /// A place where a test can inject a bug into the shipped code.
    enum FailPoint {
        /// A commit is acknowledged without its sync.
        AcknowledgedBeforeSync,
        /// A sync publishes the log's end as read after the sync, not before it.
        EndReadAfterSync,
        /// A restart does not end the epoch of earlier records.
        EpochKept,
        /// The journal is still written to after a failed sync.
        FailureForgotten,
        /// A file gets its name before its header, or the records that recovery wrote into it, are
        /// synced.
        HeaderNotSynced,
        /// The directory is not synced after a file got its name.
        DirSyncSkipped,
        /// A file is reused although its records are needed.
        ReleasedEarly,
        /// Records are released although their copies are not durable.
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
        /// Parts are taken in journal order, not by seq.
        TakenByPlace,
        /// A gap below a promised entry is treated as lawful.
        GapIgnored,
        /// A journal that was copied before it was closed is opened.
        CopyNotNoticed,
        /// Opening on a full disk does not write the records that nothing attests again.
        ChainNotRewritten,
        /// Opening on a full disk leaves the bytes after the end of the chain.
        RestNotCleared,
        /// Opening on a full disk joins a file to the chain before the file is empty.
        GapFilledFirst,
        /// Opening on a full disk does not sync the files that it has overwritten.
        InPlaceNotSynced,
        /// Opening on a full disk continues in the old file although a newer one has its name.
        NewerFileOverlooked,
        /// A gap that no promise rests on is treated as damage.
        LawfulGapRefused,
    }
}
