//! Checks that the simulated crashes or the damage sweep find each fail point of the crate.
#![cfg(stratawal_faults)]

mod common;

use stratawal_journal::fail_points::FailPoint;

/// The maximum number of seeds tried for a fail point.
const SEEDS: u64 = 3_000;

fn is_found(fail_point: FailPoint) {
    fail_point.activate();
    let damaged = [false, true].into_iter().any(|is_recovered| common::damage_everywhere(is_recovered, 31).is_err());
    let found = damaged
        || common::gaps_are_judged().is_err()
        || common::full_disk::all().is_err()
        || (0..SEEDS).any(|seed| common::lives(seed).is_err() || common::failing_life(seed).is_err());
    FailPoint::deactivate();
    assert!(found, "no harness finds {fail_point:?}");
}

macro_rules! found {
    ($($test:ident: $fail_point:ident;)+) => {
        $(
            #[test]
            fn $test() {
                is_found(FailPoint::$fail_point);
            }
        )+
    };
}

#[test]
fn copy_that_is_opened_is_found() {
    FailPoint::CopyNotNoticed.activate();
    let found = common::copies_are_noticed();
    FailPoint::deactivate();
    assert!(found.is_err());
}

found! {
    commit_without_a_sync_is_found: AcknowledgedBeforeSync;
    journal_that_forgets_a_failure_is_found: FailureForgotten;
    unsynced_header_is_found: HeaderNotSynced;
    unsynced_name_is_found: DirSyncSkipped;
    early_release_is_found: ReleasedEarly;
    release_before_copies_are_durable_is_found: CopiesNotSynced;
    end_at_the_first_zeros_is_found: ZerosAreTheEnd;
    sync_without_a_mark_is_found: MarkSkipped;
    new_file_without_attestation_is_found: NewFileAttestsNothing;
    new_file_without_deletions_is_found: DropForgotten;
    new_file_without_starts_is_found: StartForgotten;
    new_file_without_promises_is_found: FirmForgotten;
    loose_part_that_becomes_firm_is_found: LooseBecomesFirm;
    settled_that_voids_nothing_is_found: SettledIgnored;
    parts_in_the_order_of_the_journal_are_found: TakenByPlace;
    chain_not_rewritten_on_a_full_disk_is_found: ChainNotRewritten;
    rest_not_cleared_on_a_full_disk_is_found: RestNotCleared;
    gap_filled_too_early_on_a_full_disk_is_found: GapFilledFirst;
    full_disk_without_a_sync_is_found: InPlaceNotSynced;
    newer_file_overlooked_on_a_full_disk_is_found: NewerFileOverlooked;
    ignored_gap_is_found: GapIgnored;
    refused_lawful_gap_is_found: LawfulGapRefused;
}
