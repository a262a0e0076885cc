//! The log on a simulated disk: crashes at every change, faults at every operation, against the reference model.
//!
//! A failure names its seed; `STRATAWAL_SEEDS=17..18 cargo test --package stratawal --test simulation` runs it alone,
//! and `cargo xtask sim --seeds A..B` many, in release.

#[cfg(stratawal_faults)]
mod seeded;
mod subject;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use stratawal_testkit::{Failure, Lie, Outcome, Volume, crash_everywhere, fault_everywhere};

use subject::{Log, SHAPE};

/// The seeds that are asked for, with what is tried of each; a small sample otherwise.
fn seeds() -> (Range<u64>, Volume) {
    let Ok(text) = std::env::var("STRATAWAL_SEEDS") else {
        return (0..3, Volume { losses: 2, depth: 3, nested: 1, lie: None });
    };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    (parsed.expect("STRATAWAL_SEEDS is A..B"), Volume { losses: 17, depth: 3, nested: 1, lie: None })
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

#[test]
fn a_crash_at_any_change_of_the_disk_loses_nothing_acknowledged() {
    let (seeds, volume) = seeds();
    let outcome = try_all(seeds, |seed, outcome| crash_everywhere(&Log, seed, &SHAPE, &volume, outcome));
    println!("{outcome:?}");
    assert!(outcome.crashes > outcome.places * volume.losses, "{outcome:?}");
}

/// The harness fails where it should: where the disk answers syncs, and does nothing.
#[test]
fn a_disk_that_lies_is_seen() {
    for lie in [Lie::Files, Lie::Folders] {
        let volume = Volume { losses: 6, depth: 2, nested: 1, lie: Some(lie) };
        let seen =
            (0..20).find_map(|seed| crash_everywhere(&Log, seed, &SHAPE, &volume, &mut Outcome::default()).err());
        println!("{}", seen.unwrap_or_else(|| panic!("{lie:?} is not seen")));
    }
}

#[test]
fn a_fault_at_any_operation_loses_nothing_acknowledged() {
    let (seeds, _) = seeds();
    // Every seventh in a small sample; which one it begins with follows from the seed.
    let stride = if seeds.end - seeds.start > 3 { 1 } else { 7 };
    let outcome = try_all(seeds, |seed, outcome| fault_everywhere(&Log, seed, &SHAPE, stride, outcome));
    println!("{outcome:?}");
    assert!(outcome.faults > 0, "{outcome:?}");
}
