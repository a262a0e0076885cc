//! The scenarios under the model checker: every interleaving of at most three threads with at most
//! three preemptions (of four threads with one).
//!
//! Run with `cargo xtask loom`. With `stratawal_faults` each seeded fault must be found by the
//! model that guards against it.

use crate::scenarios;
use crate::sync::explore::{explore, explore_bounded};

#[test]
fn a_folder_sync_covers_what_was_done_before_it_was_asked_for() {
    explore(scenarios::a_folder_sync_covers_what_was_done_before_it_was_asked_for);
}

#[test]
fn a_folder_sync_that_fails_is_nobodys_success() {
    explore(scenarios::a_folder_sync_that_fails_is_nobodys_success);
}

#[test]
fn an_acknowledged_append_is_durable() {
    explore(scenarios::an_acknowledged_append_is_durable);
}

#[test]
fn what_a_watermark_promises_can_be_read() {
    explore(scenarios::what_a_watermark_promises_can_be_read);
}

#[test]
fn a_reader_sees_accepted_entries_wherever_they_are() {
    explore(scenarios::a_reader_sees_accepted_entries_wherever_they_are);
}

#[test]
fn an_append_beside_a_close_is_in_the_stream_or_refused() {
    explore(scenarios::an_append_beside_a_close_is_in_the_stream_or_refused);
}

#[test]
fn what_is_dropped_under_a_reader_is_truncated_and_no_error_of_files() {
    explore(scenarios::what_is_dropped_under_a_reader_is_truncated_and_no_error_of_files);
}

#[test]
fn a_close_waits_until_no_file_is_removed() {
    explore(scenarios::a_close_waits_until_no_file_is_removed);
}

#[test]
fn a_reader_made_before_a_cut_does_not_go_on_in_other_entries() {
    explore(scenarios::a_reader_made_before_a_cut_does_not_go_on_in_other_entries);
}

#[test]
fn what_was_cut_does_not_show_again() {
    explore(scenarios::what_was_cut_does_not_show_again);
}

#[test]
fn a_late_arrival_waits_for_its_own_sync() {
    explore(scenarios::a_late_arrival_waits_for_its_own_sync);
}

#[test]
fn everybody_gets_the_error_of_a_failed_group() {
    explore(scenarios::everybody_gets_the_error_of_a_failed_group);
}

#[test]
fn nobody_sleeps_through_a_cut() {
    explore_bounded(1, scenarios::nobody_sleeps_through_a_cut);
}

#[test]
fn nobody_sleeps_through_a_failure_beside_the_lead() {
    explore(scenarios::nobody_sleeps_through_a_failure_beside_the_lead);
}

#[test]
fn what_recovery_takes_back_is_not_acknowledged() {
    explore(scenarios::what_recovery_takes_back_is_not_acknowledged);
}

#[test]
fn a_waiter_keeps_its_success_through_many_cuts() {
    explore(scenarios::a_waiter_keeps_its_success_through_many_cuts);
}

#[test]
fn a_failure_is_not_a_success_once_it_is_forgotten() {
    explore(scenarios::a_failure_is_not_a_success_once_it_is_forgotten);
}

#[cfg(stratawal_faults)]
mod seeded {
    use super::*;
    use crate::faults::{Fault, is_found};

    #[test]
    fn a_folder_sync_that_has_begun_before_is_found() {
        assert!(is_found(Fault::FolderSyncJoined, || explore(
            scenarios::a_folder_sync_covers_what_was_done_before_it_was_asked_for
        )));
    }

    #[test]
    fn a_leader_that_wakes_no_successor_is_found() {
        assert!(is_found(Fault::NoHandOver, || explore(scenarios::a_late_arrival_waits_for_its_own_sync)));
    }

    #[test]
    fn waiters_left_asleep_by_a_failure_are_found() {
        assert!(is_found(Fault::NoWakeOnFailure, || explore(scenarios::everybody_gets_the_error_of_a_failed_group)));
    }

    #[test]
    fn a_watermark_before_its_bytes_is_found() {
        assert!(is_found(Fault::WatermarkFirst, || explore(scenarios::what_a_watermark_promises_can_be_read)));
    }

    #[test]
    fn a_late_arrival_that_is_covered_is_found() {
        assert!(is_found(Fault::LateArrivalCovered, || explore(scenarios::a_late_arrival_waits_for_its_own_sync)));
    }

    #[test]
    fn a_late_arrival_that_is_covered_is_found_in_a_whole_stream() {
        assert!(is_found(Fault::LateArrivalCovered, || explore(scenarios::an_acknowledged_append_is_durable)));
    }

    #[test]
    fn an_acknowledgement_of_another_epoch_is_found() {
        assert!(is_found(Fault::EpochIgnored, || explore(scenarios::what_recovery_takes_back_is_not_acknowledged)));
    }

    #[test]
    fn a_close_that_lets_appends_in_is_found() {
        assert!(is_found(Fault::CloseLetsIn, || explore(
            scenarios::an_append_beside_a_close_is_in_the_stream_or_refused
        )));
    }

    #[test]
    fn a_start_that_readers_see_behind_the_unlink_is_found() {
        assert!(is_found(Fault::StartShownLate, || explore(
            scenarios::what_is_dropped_under_a_reader_is_truncated_and_no_error_of_files
        )));
    }

    #[test]
    fn a_close_that_does_not_wait_for_removals_is_found() {
        assert!(is_found(Fault::RemovalsNotAwaited, || explore(scenarios::a_close_waits_until_no_file_is_removed)));
    }

    #[test]
    fn a_cut_without_an_epoch_of_its_own_is_found() {
        assert!(is_found(Fault::EpochKept, || explore(
            scenarios::a_reader_made_before_a_cut_does_not_go_on_in_other_entries
        )));
    }

    #[test]
    fn a_waiter_that_sleeps_through_a_cut_is_found() {
        assert!(is_found(Fault::SleepThroughEpoch, || explore_bounded(1, scenarios::nobody_sleeps_through_a_cut)));
    }

    #[test]
    fn a_waiter_that_sleeps_through_a_failure_beside_the_lead_is_found() {
        assert!(is_found(Fault::NoWakeOnFailure, || explore(
            scenarios::nobody_sleeps_through_a_failure_beside_the_lead
        )));
    }

    #[test]
    fn a_forgotten_failure_that_counts_as_a_success_is_found() {
        assert!(is_found(Fault::OutcomeForgotten, || explore(
            scenarios::a_failure_is_not_a_success_once_it_is_forgotten
        )));
    }
}
