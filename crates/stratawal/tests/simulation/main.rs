//! The log on a simulated disk: crashes at every change, faults at every operation, against the
//! reference model.
//!
//! A failure names its seed;
//! `STRATAWAL_SEEDS=17..18 cargo test --package stratawal --test simulation` runs it alone, and
//! `cargo xtask sim --seeds A..B` many, in release.

#[cfg(stratawal_faults)]
mod seeded;
mod stale;
mod subject;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use stratawal_testkit::{Failure, Lie, Outcome, Volume, crash_everywhere, fault_everywhere, interrupt_recovery};

use subject::{LOG, Log, SHAPE};

/// What is tried of which workloads.
struct Tried {
    seeds: Range<u64>,
    volume: Volume,
    /// Of how many operations one is made to fail; with which it begins follows from the seed.
    stride: u64,
    /// How many recoveries in a row are interrupted at every change.
    deep: u32,
}

impl Tried {
    /// The seeds that are asked for, or a small sample. What is tried of a seed never depends on
    /// which others are asked for, or what is found in a long run would not be found again by its
    /// seed alone.
    fn from_env() -> Self {
        let Ok(text) = std::env::var("STRATAWAL_SEEDS") else {
            return Self {
                seeds: 0..3,
                volume: Volume { losses: 2, depth: 3, nested: 1, lie: None },
                stride: 7,
                deep: 1,
            };
        };
        let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
        let seeds = parsed.expect("STRATAWAL_SEEDS is A..B");
        Self { seeds, volume: Volume { losses: 17, depth: 3, nested: 1, lie: None }, stride: 1, deep: 2 }
    }
}

/// Tries every seed, on all cores; a seed runs on one thread, so that it replays.
fn try_all(seeds: Range<u64>, one: impl Fn(u64, &mut Outcome) -> Result<(), Failure> + Sync) -> Outcome {
    let next = AtomicU64::new(seeds.start);
    let worker = || {
        let mut outcome = Outcome::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return outcome;
            }
            if let Err(failure) = one(seed, &mut outcome) {
                panic!("{failure}");
            }
        }
    };
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no seed fails")).collect()
    });
    outcomes.into_iter().fold(Outcome::default(), |sum, one| sum + one)
}

/// What a run over this many seeds promises to try.
const FULL_SEEDS: u64 = 200;
const FULL_CRASHES_MIN: u64 = 1_000_000;

#[test]
fn a_crash_at_any_change_of_the_disk_loses_nothing_acknowledged() {
    let Tried { seeds, volume, .. } = Tried::from_env();
    let outcome = try_all(seeds.clone(), |seed, outcome| crash_everywhere(&LOG, seed, &SHAPE, &volume, outcome));
    println!("volume: {} crashes, seeds {seeds:?}: {outcome:?}", outcome.crashes);
    assert!(outcome.crashes > outcome.places * volume.losses, "{outcome:?}");
    let full = seeds.end - seeds.start >= FULL_SEEDS;
    assert!(!full || outcome.crashes >= FULL_CRASHES_MIN, "{} crashes, {FULL_CRASHES_MIN} promised", outcome.crashes);
}

/// The harness fails where it should: where the disk answers syncs, and does nothing.
#[test]
fn a_disk_that_lies_is_seen() {
    for lie in [Lie::Files, Lie::Folders] {
        let volume = Volume { losses: 6, depth: 2, nested: 1, lie: Some(lie) };
        let seen =
            (0..20).find_map(|seed| crash_everywhere(&LOG, seed, &SHAPE, &volume, &mut Outcome::default()).err());
        println!("{}", seen.unwrap_or_else(|| panic!("{lie:?} is not seen")));
    }
}

#[test]
fn a_batch_that_is_split_is_seen() {
    let volume = Volume { losses: 6, depth: 2, nested: 1, lie: None };
    let log = Log { splits_batches: true };
    let run = |seed| crash_everywhere(&log, seed, &SHAPE, &volume, &mut Outcome::default());
    let seen = (0..40).find_map(|seed| run(seed).err()).expect("a split batch is seen");
    println!("{seen}");
    assert!(seen.what.contains("in part"), "{seen}");
}

/// Some dozens of dirty logs, each of whose recoveries is interrupted at every change.
#[test]
fn a_recovery_interrupted_at_any_change_and_once_more_comes_to_the_same_end() {
    const EVERY: u64 = 8;
    let Tried { seeds, deep, .. } = Tried::from_env();
    let chosen = seeds.clone().filter(|seed| seed % EVERY == 0).count();
    let outcome = try_all(seeds, |seed, outcome| match seed % EVERY {
        0 => interrupt_recovery(&LOG, seed, &SHAPE, deep, outcome),
        _ => Ok(()),
    });
    println!("volume: {} crashes within recovery, {chosen} workloads, {deep} deep", outcome.crashes);
    let least = if deep > 1 { 500 } else { 20 };
    assert!(outcome.crashes >= least * chosen as u64, "recoveries that have little to do: {outcome:?}");
}

#[test]
fn a_fault_at_any_operation_loses_nothing_acknowledged() {
    let Tried { seeds, stride, .. } = Tried::from_env();
    let outcome = try_all(seeds, |seed, outcome| fault_everywhere(&LOG, seed, &SHAPE, stride, outcome));
    println!("volume: {} faults: {outcome:?}", outcome.faults);
    assert!(outcome.faults > 0, "{outcome:?}");
}
