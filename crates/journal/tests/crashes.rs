//! Runs small workloads on a journal, with crashes at some change of the disk, crashes within
//! recovery, and failing operations. After each crash the journal must hold every entry that was
//! promised, and no entry that was never put.
//!
//! `JOURNAL_SEEDS=A..B` runs other seeds than the default ones. A failure prints its seed.

mod common;

use std::ops::Range;

fn seeds() -> Range<u64> {
    let parse = |text: String| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    std::env::var("JOURNAL_SEEDS").ok().and_then(parse).unwrap_or(0..300)
}

#[test]
fn no_promised_entry_is_lost_in_a_crash() {
    for seed in seeds() {
        if let Err(why) = common::lives(seed) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn failed_operation_loses_no_promised_entry() {
    for seed in seeds() {
        if let Err(why) = common::failing_life(seed) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn every_flipped_bit_is_harmless_or_reported() {
    common::damage_everywhere(false, 3).unwrap();
    common::damage_everywhere(true, 3).unwrap();
}

#[test]
fn gap_below_a_promise_is_damage_and_others_are_lawful() {
    common::gaps_are_judged().unwrap();
}
#[test]
fn copy_of_a_journal_that_was_not_closed_is_refused() {
    common::copies_are_noticed().unwrap();
}
