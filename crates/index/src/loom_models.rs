//! The scenarios under the model checker: every interleaving of at most three threads with at most
//! three preemptions.
//!
//! Run with
//! `RUSTFLAGS="--cfg stratawal_loom --cfg stratawal_faults" cargo test -p stratawal-index --release --lib`,
//! in a target folder of its own. With `stratawal_faults` each seeded fault must be found by the
//! model that guards against it.

use crate::scenarios;
use crate::sync::explore::explore;

#[test]
fn what_was_published_before_a_flag_is_seen_with_it() {
    explore(scenarios::what_was_published_before_a_flag_is_seen_with_it);
}

#[test]
fn a_reader_sees_a_growing_prefix_of_whole_points() {
    explore(scenarios::a_reader_sees_a_growing_prefix_of_whole_points);
}

#[test]
fn one_key_is_loaded_once_at_a_time() {
    explore(scenarios::one_key_is_loaded_once_at_a_time);
}

#[test]
fn a_failed_load_leaves_nobody_waiting() {
    explore(scenarios::a_failed_load_leaves_nobody_waiting);
}

#[test]
fn nothing_loaded_before_its_removal_is_kept() {
    explore(scenarios::nothing_loaded_before_its_removal_is_kept);
}

#[test]
fn a_clear_keeps_nothing_that_was_removed() {
    explore(scenarios::a_clear_keeps_nothing_that_was_removed);
}

#[cfg(stratawal_faults)]
mod seeded {
    use super::*;
    use crate::faults::{Fault, is_found};

    #[test]
    fn a_length_stored_before_its_point_is_found() {
        assert!(is_found(Fault::LengthBeforePoint, || explore(
            scenarios::a_reader_sees_a_growing_prefix_of_whole_points
        )));
    }

    #[test]
    fn a_length_that_does_not_release_its_point_is_found() {
        assert!(is_found(Fault::LengthRelaxed, || explore(scenarios::a_reader_sees_a_growing_prefix_of_whole_points)));
    }

    #[test]
    fn an_entry_put_in_after_its_removal_is_found() {
        assert!(is_found(Fault::EntryAfterRemoval, || explore(scenarios::nothing_loaded_before_its_removal_is_kept)));
    }

    #[test]
    fn an_entry_put_in_after_its_removal_is_found_beside_a_clear() {
        assert!(is_found(Fault::EntryAfterRemoval, || explore(scenarios::a_clear_keeps_nothing_that_was_removed)));
    }

    #[test]
    fn two_loads_of_one_key_at_once_are_found() {
        assert!(is_found(Fault::LoadNotExclusive, || explore(scenarios::one_key_is_loaded_once_at_a_time)));
    }

    #[test]
    fn a_waiter_left_asleep_is_found() {
        assert!(is_found(Fault::WaiterNotWoken, || explore(scenarios::a_failed_load_leaves_nobody_waiting)));
    }
}
