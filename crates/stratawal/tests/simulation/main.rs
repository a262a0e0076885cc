//! The log on a simulated disk: crashes at every change and faults at every operation, compared
//! with the reference model.
//!
//! The log has no commit journal, one that is mapped, or one that is written: each seed runs on one
//! of these three kinds, or with `STRATAWAL_ALL_KINDS` on all of them.
//!
//! A failure prints its seed and the kind of the log.
//! `STRATAWAL_SEEDS=17..18 cargo test --package stratawal --test simulation` runs a single seed,
//! and `cargo xtask sim --seeds A..B` runs many in release mode.

mod journal;
mod log;
#[cfg(stratawal_faults)]
mod seeded;
mod stale;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use stratawal_testkit::{Failure, Lie, Outcome, Shape, Volume, crash_everywhere, fault_everywhere, interrupt_recovery};

use log::{Journal, LOGS, Log, SHAPE};

/// Many steps with small entries, which go through the journal and fill it slowly, so that records
/// are copied forward.
const SMALL: Shape = Shape { steps_max: 60, entry_len_max: 4 << 10, ..SHAPE };

/// The shape of the workload of `seed`: half of those on a journal are small.
fn shape(log: &Log, seed: u64) -> &'static Shape {
    if log.journal != Journal::Off && seed % 2 == 1 { &SMALL } else { &SHAPE }
}

/// The workloads of a run, and how much of each is tried.
struct Plan {
    seeds: Range<u64>,
    /// Whether each seed runs on every kind of log.
    all_kinds: bool,
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
                seeds: 0..1,
                all_kinds: true,
                volume: Volume { losses: 2, depth: 3, nested: 1, lie: None },
                stride: 7,
                deep: 1,
            };
        };
        let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
        let seeds = parsed.expect("STRATAWAL_SEEDS is A..B");
        let all_kinds = std::env::var_os("STRATAWAL_ALL_KINDS").is_some();
        Self { seeds, all_kinds, volume: Volume { losses: 17, depth: 3, nested: 1, lie: None }, stride: 1, deep: 2 }
    }

    /// Each seed that `is_chosen`, with each kind of log that it runs on.
    fn runs(&self, is_chosen: impl Fn(u64) -> bool) -> Vec<(u64, Log)> {
        let kinds = |seed: u64| {
            let of_seed = usize::try_from(seed % LOGS.len() as u64).expect("small");
            if self.all_kinds { &LOGS[..] } else { &LOGS[of_seed..=of_seed] }
        };
        let seeds = self.seeds.clone().filter(|seed| is_chosen(*seed));
        seeds.flat_map(|seed| kinds(seed).iter().map(move |log| (seed, *log))).collect()
    }
}

/// Tries every seed, on all cores. Each seed runs on one thread, so that it can be replayed.
fn try_all(runs: &[(u64, Log)], one: impl Fn(&Log, u64, &mut Outcome) -> Result<(), Failure> + Sync) -> Outcome {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut outcome = Outcome::default();
        while let Some((seed, log)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(failure) = one(log, *seed, &mut outcome) {
                panic!("{log:?}: {failure}");
            }
        }
        outcome
    };
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no seed fails")).collect()
    });
    outcomes.into_iter().fold(Outcome::default(), |sum, one| sum + one)
}

/// A run of at least this many seeds must have a minimum number of crashes.
const FULL_SEEDS: u64 = 90;
const FULL_CRASHES_MIN: u64 = 1_000_000;

#[test]
fn crash_at_any_disk_change_keeps_acknowledged() {
    let plan = Plan::from_env();
    let Plan { seeds, volume, .. } = &plan;
    let outcome = try_all(&plan.runs(|_| true), |log, seed, outcome| {
        crash_everywhere(log, seed, shape(log, seed), volume, outcome)
    });
    println!("volume: {} crashes, seeds {seeds:?}: {outcome:?}", outcome.crashes);
    assert!(outcome.crashes > outcome.places * volume.losses, "{outcome:?}");
    let full = seeds.end - seeds.start >= FULL_SEEDS;
    assert!(!full || outcome.crashes >= FULL_CRASHES_MIN, "{} crashes, {FULL_CRASHES_MIN} promised", outcome.crashes);
}

/// Shows that the harness can fail.
#[test]
fn disk_that_reports_false_syncs_is_noticed() {
    for log in LOGS {
        for lie in [Lie::Files, Lie::Dirs] {
            let volume = Volume { losses: 6, depth: 2, nested: 1, lie: Some(lie) };
            let failure = (0..20).find_map(|seed| {
                crash_everywhere(&log, seed, shape(&log, seed), &volume, &mut Outcome::default()).err()
            });
            println!("{}", failure.unwrap_or_else(|| panic!("{log:?}: {lie:?} is not noticed")));
        }
    }
}

/// Shows that the harness can fail.
#[test]
fn batch_that_is_split_is_noticed() {
    let volume = Volume { losses: 6, depth: 2, nested: 1, lie: None };
    for log in LOGS {
        let log = Log { splits_batches: true, ..log };
        let run = |seed| crash_everywhere(&log, seed, shape(&log, seed), &volume, &mut Outcome::default());
        let failure = (0..40).find_map(|seed| run(seed).err()).expect("a split batch is noticed");
        println!("{log:?}: {failure}");
        assert!(failure.what.contains("in part"), "{log:?}: {failure}");
    }
}

#[test]
fn interrupted_recovery_ends_in_the_same_state() {
    const EVERY: u64 = 8;
    let plan = Plan::from_env();
    let chosen = plan.runs(|seed| seed % EVERY == 0);
    let outcome =
        try_all(&chosen, |log, seed, outcome| interrupt_recovery(log, seed, shape(log, seed), plan.deep, outcome));
    let count = chosen.len();
    println!("volume: {} crashes within recovery, {count} workloads, {} deep", outcome.crashes, plan.deep);
    let least = if plan.deep > 1 { 500 } else { 20 };
    assert!(outcome.crashes >= least * count as u64, "recoveries that change little: {outcome:?}");
}

#[test]
fn fault_at_any_operation_keeps_acknowledged() {
    let plan = Plan::from_env();
    let outcome = try_all(&plan.runs(|_| true), |log, seed, outcome| {
        fault_everywhere(log, seed, shape(log, seed), plan.stride, outcome)
    });
    println!("volume: {} faults: {outcome:?}", outcome.faults);
    assert!(outcome.faults > 0, "{outcome:?}");
}
