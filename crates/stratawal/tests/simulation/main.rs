//! The log on a simulated disk: crashes at every change and faults at every operation, compared
//! with the reference model.
//!
//! A failure prints its seed.
//! `STRATAWAL_SEEDS=17..18 cargo test --package stratawal --test simulation` runs a single seed,
//! and `cargo xtask sim --seeds A..B` runs many in release mode.

mod log;
#[cfg(stratawal_faults)]
mod seeded;
mod stale;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use stratawal_testkit::{Failure, Lie, Outcome, Volume, crash_everywhere, fault_everywhere, interrupt_recovery};

use log::{LOG, Log, SHAPE};

/// The workloads of a run, and how much of each is tried.
struct Plan {
    seeds: Range<u64>,
    volume: Volume,
    /// One in this many operations fails; the seed determines the first.
    stride: u64,
    /// How many recoveries in a row are interrupted at every change.
    deep: u32,
}

impl Plan {
    /// The seeds given in the environment, or a small sample. The work for a seed does not depend
    /// on other seeds, so that a seed alone reproduces a finding of a long run.
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

/// Tries every seed, on all cores. Each seed runs on one thread, so that it can be replayed.
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

/// A run of at least this many seeds must have a minimum number of crashes.
const FULL_SEEDS: u64 = 200;
const FULL_CRASHES_MIN: u64 = 1_000_000;

#[test]
fn crash_at_any_disk_change_keeps_acknowledged() {
    let Plan { seeds, volume, .. } = Plan::from_env();
    let outcome = try_all(seeds.clone(), |seed, outcome| crash_everywhere(&LOG, seed, &SHAPE, &volume, outcome));
    println!("volume: {} crashes, seeds {seeds:?}: {outcome:?}", outcome.crashes);
    assert!(outcome.crashes > outcome.places * volume.losses, "{outcome:?}");
    let full = seeds.end - seeds.start >= FULL_SEEDS;
    assert!(!full || outcome.crashes >= FULL_CRASHES_MIN, "{} crashes, {FULL_CRASHES_MIN} promised", outcome.crashes);
}

/// Shows that the harness can fail.
#[test]
fn disk_that_reports_false_syncs_is_noticed() {
    for lie in [Lie::Files, Lie::Dirs] {
        let volume = Volume { losses: 6, depth: 2, nested: 1, lie: Some(lie) };
        let failure =
            (0..20).find_map(|seed| crash_everywhere(&LOG, seed, &SHAPE, &volume, &mut Outcome::default()).err());
        println!("{}", failure.unwrap_or_else(|| panic!("{lie:?} is not noticed")));
    }
}

/// Shows that the harness can fail.
#[test]
fn batch_that_is_split_is_noticed() {
    let volume = Volume { losses: 6, depth: 2, nested: 1, lie: None };
    let log = Log { splits_batches: true };
    let run = |seed| crash_everywhere(&log, seed, &SHAPE, &volume, &mut Outcome::default());
    let failure = (0..40).find_map(|seed| run(seed).err()).expect("a split batch is noticed");
    println!("{failure}");
    assert!(failure.what.contains("in part"), "{failure}");
}

#[test]
fn interrupted_recovery_ends_in_the_same_state() {
    const EVERY: u64 = 8;
    let Plan { seeds, deep, .. } = Plan::from_env();
    let chosen = seeds.clone().filter(|seed| seed % EVERY == 0).count();
    let outcome = try_all(seeds, |seed, outcome| match seed % EVERY {
        0 => interrupt_recovery(&LOG, seed, &SHAPE, deep, outcome),
        _ => Ok(()),
    });
    println!("volume: {} crashes within recovery, {chosen} workloads, {deep} deep", outcome.crashes);
    let least = if deep > 1 { 500 } else { 20 };
    assert!(outcome.crashes >= least * chosen as u64, "recoveries that change little: {outcome:?}");
}

#[test]
fn fault_at_any_operation_keeps_acknowledged() {
    let Plan { seeds, stride, .. } = Plan::from_env();
    let outcome = try_all(seeds, |seed, outcome| fault_everywhere(&LOG, seed, &SHAPE, stride, outcome));
    println!("volume: {} faults: {outcome:?}", outcome.faults);
    assert!(outcome.faults > 0, "{outcome:?}");
}
