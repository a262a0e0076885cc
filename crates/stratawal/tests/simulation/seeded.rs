//! Checks that the simulation finds each of these faults in the code.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use stratawal_segment::FailPoint as SegmentFailPoint;
use stratawal_stream::FailPoint;
use stratawal_testkit::{Failure, Outcome, Rng, Volume, crash_everywhere, fault_everywhere, play};

use crate::journal;
use crate::log::{LOGS, Log, SHAPE};
use crate::shape;
use crate::stale::cut_entries_come_back;

const VOLUME: Volume = Volume { losses: 6, depth: 2, nested: 1, lie: None };

/// The kinds of log.
const OFF: Log = LOGS[0];
const MAPPED: Log = LOGS[1];
const WRITTEN: Log = LOGS[2];

/// Returns the failure of the first seed below `seeds_max` that finds the fault in `log`.
fn first_found(log: &Log, seeds_max: u64) -> Option<Failure> {
    (0..seeds_max).find_map(|seed| {
        let mut outcome = Outcome::default();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let crashes = crash_everywhere(log, seed, shape(log, seed), &VOLUME, &mut outcome);
            crashes.and_then(|()| fault_everywhere(log, seed, shape(log, seed), 3, &mut outcome))
        }));
        let found = match tried {
            Ok(outcome) => outcome.err()?,
            Err(panic) if ASSERTED.contains(&text_of(&*panic)) => {
                Failure { seed, at: "an assertion".to_owned(), what: text_of(&*panic).to_owned() }
            }
            Err(panic) => resume_unwind(panic),
        };
        assert!(is_finding(&found), "the harness failed without a finding: {found}");
        Some(found)
    })
}

/// Assertions of the code that a fault can violate. Any other panic is not a finding.
const ASSERTED: [&str; 1] = ["all is settled"];

/// The texts of failures in which a log broke a promise: it does not open, shows too few, too many
/// or wrong entries, or loses entries that it has shown.
const FINDINGS: [&str; 9] = [
    "does not open",
    "begins at",
    "ends at",
    "has other bytes",
    "in part",
    "was shown",
    "another process",
    "a follower has not seen",
    "after a power loss just then",
];

fn is_finding(failure: &Failure) -> bool {
    let asserted = ASSERTED.contains(&&*failure.what);
    failure.at != "at the start" && (asserted || FINDINGS.iter().any(|finding| failure.what.contains(finding)))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

fn found_by(fail_point: FailPoint, log: &Log) -> Option<Failure> {
    fail_point.activate();
    let found = first_found(log, 40);
    FailPoint::deactivate();
    found
}

macro_rules! is_found {
    ($($test:ident: $fail_point:ident in $($log:ident)+,)*) => {
        $(
            #[test]
            fn $test() {
                for log in [$($log),+] {
                    let found = found_by(FailPoint::$fail_point, &log);
                    println!("{log:?}: {found:?}");
                    assert!(found.is_some(), "{:?} is not found in {log:?}", FailPoint::$fail_point);
                }
            }
        )*
    };
}

is_found! {
    acknowledgement_before_sync_is_found: AcknowledgedBeforeSync in OFF MAPPED WRITTEN,
    attestation_before_sync_is_found: AttestedBeforeSync in OFF MAPPED WRITTEN,
    watermark_above_unsynced_entries_is_found: UnsyncedPassed in OFF MAPPED WRITTEN,
    tail_that_is_not_rewritten_is_found: TailNotRewritten in OFF MAPPED WRITTEN,
    attestation_that_is_not_clamped_is_found: AttestationNotClamped in OFF MAPPED WRITTEN,
    generation_used_twice_is_found: GenerationKept in OFF MAPPED WRITTEN,
    start_recorded_after_unlink_is_found: StartAfterUnlink in OFF MAPPED WRITTEN,
    unsynced_directory_is_found: DirSyncSkipped in OFF MAPPED WRITTEN,
    descriptor_closed_before_sync_is_found: DescriptorClosed in OFF MAPPED WRITTEN,
    active_file_closed_before_sync_is_found: UnsyncedFileClosed in MAPPED WRITTEN,
    reader_shown_flushed_entries_is_found: FlushedShown in OFF MAPPED WRITTEN,
    other_process_that_shows_unsynced_is_found: ShownUnsynced in OFF MAPPED WRITTEN,
    other_process_that_shows_unsynced_records_is_found: UnsyncedRecordsShown in MAPPED WRITTEN,
    promise_above_unsynced_files_is_found: FirmAboveFileOnly in MAPPED WRITTEN,
    release_of_needed_records_is_found: NeededIgnored in MAPPED WRITTEN,
    directory_with_another_id_is_found: CreatedWithOtherId in MAPPED WRITTEN,
    new_stream_that_is_not_found_is_found: NameNotFound in MAPPED WRITTEN,
    new_stream_without_its_name_is_found: NamedOnce in MAPPED WRITTEN,
    dropped_records_that_are_not_void_are_found: DroppedNotVoided in MAPPED WRITTEN,
    cut_before_settled_is_durable_is_found: SettledNotSynced in MAPPED WRITTEN,
    cut_without_settled_is_found: SettledSkipped in MAPPED WRITTEN,
    settled_before_the_files_are_is_found: VoidNotSettled in MAPPED WRITTEN,
    removal_before_drop_is_durable_is_found: DropNotSynced in MAPPED WRITTEN,
    opening_that_forgets_deletions_is_found: DropsForgotten in MAPPED WRITTEN,
    files_that_attest_the_journal_are_found: JournalAttested in MAPPED WRITTEN,
    copy_without_the_tail_is_found: TailNotCopied in MAPPED WRITTEN,
    close_of_a_needed_journal_is_found: ClosedUnsettled in MAPPED WRITTEN,
    cut_that_is_not_followed_is_found: CutNotFollowed in OFF MAPPED WRITTEN,
}

macro_rules! is_found_in_a_life {
    ($($test:ident: $fail_point:ident in $life:ident,)*) => {
        $(
            #[test]
            fn $test() {
                for mapped in [true, false] {
                    FailPoint::$fail_point.activate();
                    let found = journal::$life(mapped);
                    FailPoint::deactivate();
                    println!("mapped {mapped}: {found:?}");
                    assert!(found.is_err(), "{:?} is not found, mapped {mapped}", FailPoint::$fail_point);
                }
            }
        )*
    };
}

is_found_in_a_life! {
    sync_that_leaves_no_promise_is_found: FirmNotWritten in entries_synced_later_survive_a_release,
    release_of_promised_entries_is_found: FirmReleased in synced_entries_survive_a_release,
    release_that_is_forgotten_is_found: ReleasedForgotten in synced_entry_after_released_ones_survives,
    drained_entries_that_leave_memory_are_found: RetainedForgotten in drained_entries_survive_two_failures,
    copy_that_becomes_loose_is_found: CopyBecomesLoose in promise_in_the_journal_shows_lost_files,
    restart_without_unopened_streams_is_found: CarriedNotRestarted in stream_not_looked_up_survives_a_restart,
    drain_after_a_fast_close_is_found: FastCloseLeavesLead in fast_close_stops_a_drain,
    release_of_unopened_streams_is_found: CarriedReleased in stream_not_looked_up_survives_a_release,
    joined_entries_without_a_claim_are_found: JoinedNotClaimed in joined_entries_survive_a_release,
    joined_entries_that_stay_loose_are_found: JoinedLoose in joined_entries_that_are_synced_survive,
    start_that_is_not_claimed_is_found: StartNotClaimed in start_survives_a_release,
    start_that_is_not_copied_is_found: StartNotCopied in start_survives_a_release,
    restart_without_a_start_is_found: StartNotRestarted in start_survives_a_restart,
    release_of_a_start_at_rest_is_found: CarriedReleased in start_of_stream_not_looked_up_survives,
    restart_without_a_start_at_rest_is_found: CarriedNotRestarted in start_of_stream_not_looked_up_survives,
    look_up_without_the_start_is_found: StartNotJoined in start_survives_a_crash,
    frame_taken_for_synced_is_found: FrameTakenForSynced in start_survives_a_failed_frame,
    deletion_of_an_unknown_stream_is_found: UnreadableNotDropped in stream_that_cannot_be_read_stays_deleted,
    needless_record_of_a_deletion_is_found: DropFinishedEarly in half_removed_stream_stays_deleted,
    reader_that_does_not_look_again_is_found: NotLookedAgain in reader_beside_a_cut_sees_a_state,
    reader_that_shows_other_entries_is_found: SubstituteNotCompared in held_entries_are_never_replaced,
    records_void_before_they_are_joined_are_found: VoidBeforeJoined in entries_survive_a_restart_at_start,
    silence_about_a_damaged_journal_is_found: JournalDamageIgnored in damage_of_the_journal_is_no_silence,
}

#[test]
fn unsynced_segment_name_is_found() {
    SegmentFailPoint::DirSyncSkipped.activate();
    let found = first_found(&OFF, 40);
    SegmentFailPoint::deactivate();
    println!("{found:?}");
    assert!(found.is_some());
}

#[test]
fn kept_salt_is_found() {
    FailPoint::SaltKept.activate();
    assert!(cut_entries_come_back());
}

/// Plays the fuzzer's run on random bytes.
#[test]
fn fuzzer_run_finds_acknowledgement_before_sync() {
    FailPoint::AcknowledgedBeforeSync.activate();
    let found = (0..300).find_map(|seed| {
        let mut rng = Rng::new(seed);
        let bytes: Vec<u8> = (0..300).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect();
        play(&OFF, &bytes, &SHAPE).err()
    });
    FailPoint::deactivate();
    println!("{found:?}");
    assert!(found.as_ref().is_some_and(is_finding));
}
