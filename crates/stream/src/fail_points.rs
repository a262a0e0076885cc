//! Fail points: a test switches one on to break this crate, to prove that the models and the
//! simulation find the bug.

stratawal_sync::fail_points! {
    /// A bug that a test can switch on in the shipped code.
    enum FailPoint {
        /// A synced append rests on entries that are only in the files, and not synced there.
        FirmAboveFileOnly,
        /// A ticket that is polled while it completes does not look again under the lock.
        PollUnchecked,
        /// A submit lists its stream for the next round after it has released the stream's lock.
        ListedLate,
        /// A conditional append compares the seq before it takes the lock under which its entries
        /// are accepted.
        ExpectedEarly,
        /// An append goes into the journal while earlier entries are still being written to the
        /// files.
        DrainOvertaken,
        /// A sync of entries that are already in the journal does not make them firm.
        FirmNotWritten,
        /// A release reads the claims of the open streams before the records of the others.
        ClaimsReadEarly,
        /// A look-up takes the records of a stream while the journal is being restarted.
        HandedOverInRestart,
        /// The entries that a look-up finds in the journal make no claim on it.
        JoinedNotClaimed,
        /// A sync of entries that a look-up found in the journal leaves them loose.
        JoinedLoose,
        /// The directory of a stream gets an id other than that of its records in the journal.
        CreatedWithOtherId,
        /// A stream that only the journal has is not found by its name.
        NameNotFound,
        /// Of the records of a stream without a directory, only the first in a file has its name.
        NamedOnce,
        /// A copy of a firm record is loose.
        CopyBecomesLoose,
        /// The journal does not record that a stream got its directory.
        DirectoryNotRecorded,
        /// The journal is released although streams need it.
        NeededIgnored,
        /// A release reads the end of the journal after it has asked the streams for their
        /// needs.
        EndReadLate,
        /// The flushed watermark does not cover the frames that an append put before the journal
        /// had no more room.
        FlushedLeftBehind,
        /// An append holds its stream's lock while it makes room in the journal.
        RoomMadeUnderLock,
        /// A record of a dropped entry makes an entry of a later epoch durable.
        EpochNotChecked,
        /// The journal is released although a START in it is needed.
        StartNotClaimed,
        /// A START is not copied forward, and does not count as needed any more.
        StartNotCopied,
        /// A restart of the journal leaves out the STARTs of open streams.
        StartNotRestarted,
        /// A stream that is looked up does not take its START from the journal.
        StartNotJoined,
        /// A START frame counts before it is synced.
        FrameTakenForSynced,
        /// The records of a stream that restarts at its START are made void before their entries
        /// are in the files.
        VoidBeforeJoined,
        /// A restart of the journal leaves out the records of streams that were not opened.
        CarriedNotRestarted,
        /// The journal is released although streams that were not opened need it.
        CarriedReleased,
        /// Records that do not continue the stream are not made void.
        DroppedNotVoided,
        /// A SETTLED is not durable when the end of the stream changes.
        SettledNotSynced,
        /// The end of the stream changes without a SETTLED.
        SettledSkipped,
        /// A SETTLED is written for entries that are not durable in the files.
        VoidNotSettled,
        /// The files of a deleted stream are removed before the DROP is durable.
        DropNotSynced,
        /// The deletion of a stream whose files cannot be read puts no DROP.
        UnreadableNotDropped,
        /// The DROP of a stream counts as needless before its directory is removed.
        DropFinishedEarly,
        /// Opening forgets the deletions that are not finished.
        DropsForgotten,
        /// Entries on which a promise rests are released once they are drained.
        FirmReleased,
        /// Entries that are released before they are settled do not count as file-only.
        ReleasedForgotten,
        /// The files of a stream attest entries that are durable in the journal alone.
        JournalAttested,
        /// Drained entries leave memory before they are settled.
        RetainedForgotten,
        /// Entries that are not drained are not copied forward.
        TailNotCopied,
        /// A fast close leaves the lead to threads that are about to write to the files.
        FastCloseLeavesLead,
        /// The journal is closed although a stream could not be settled.
        ClosedUnsettled,
        /// A leader that finishes does not wake a thread to lead next.
        NoHandOver,
        /// A thread that was woken to lead and does not need to does not wake the next one.
        TurnKept,
        /// A failed leader does not wake the threads that are waiting for it.
        NoWakeOnFailure,
        /// A watermark advances before the bytes and index points that it covers exist.
        WatermarkFirst,
        /// The watermark of a sync covers entries that were accepted after the sync took its work.
        LateArrivalCovered,
        /// An entry that recovery dropped is acknowledged once another entry has its seq.
        EpochIgnored,
        /// The file of an active segment is closed although it has unsynced writes.
        UnsyncedFileClosed,
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
        /// A stream that was closed for good can be read, and shows nothing.
        ReadAfterEnd,
        /// An append is acknowledged while its entry is still in the tail buffer.
        AcknowledgedBeforeWrite,
        /// A commit is acknowledged without its sync.
        AcknowledgedBeforeSync,
        /// The MARK of a commit is written before the commit's sync.
        AttestedBeforeSync,
        /// The watermark passes finished segments that are not synced.
        UnsyncedPassed,
        /// A change of a stream does not wake its followers.
        FollowersNotWoken,
        /// A follower returns nothing for a cut below its position.
        CutNotFollowed,
        /// A follower registers and does not look at the stream again.
        RegisteredUnseen,
        /// Recovery does not rewrite frames that may not be durable.
        TailNotRewritten,
        /// Recovery trusts attestations of entries that a newer generation has voided.
        AttestationNotClamped,
        /// Recovery gives its new generation the number of the newest one.
        GenerationKept,
        /// Segments below a START are unlinked before the START is durable.
        StartAfterUnlink,
        /// A MARK after zeros attests nothing.
        ZerosAreTheEnd,
        /// The name of a new stream is acknowledged without a sync of the directory that holds it.
        DirSyncSkipped,
        /// A request to sync a directory is satisfied by a sync that began before the request.
        DirSyncJoined,
        /// The SEAL of a finished segment names no successor.
        SealNamesNone,
        /// A finished segment is synced through a descriptor other than the one that wrote it.
        DescriptorClosed,
        /// Readers of a synced stream see entries that are only flushed.
        FlushedShown,
        /// A reader in a process other than the writer's shows entries that are not attested,
        /// without syncing them.
        ShownUnsynced,
        /// A reader in another process shows records of the journal that are not attested, without
        /// syncing them.
        UnsyncedRecordsShown,
        /// A reader in another process does not look at the journal again after it has read the
        /// files.
        NotLookedAgain,
        /// A reader shows the files of a stream although the journal is damaged.
        JournalDamageIgnored,
        /// A reader takes the entries that the files have where the journal had others for the same
        /// ones.
        SubstituteNotCompared,
        /// A segment gets the salt of the one before it.
        SaltKept,
        /// The salts by which segments name each other are not compared.
        SaltsIgnored,
        /// A frame length is trusted without a bound.
        LengthBelieved,
    }
}
