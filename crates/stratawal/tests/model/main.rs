//! Runs programs of random steps on a log and on an in-memory model of each stream. After every
//! step the log must agree with the models. A kill may take entries away; the models check that a
//! kill can leave the remaining entries, and continue from them.
//!
//! `PROPTEST_CASES` sets how many programs run, and `PROPTEST_RNG_SEED` chooses them. A failure
//! prints the seed.

mod checks;
mod followers;
mod steps;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use steps::{setup, step};
use world::World;

/// Names that, unless escaped, would collide or leave the directory.
const NAMES: [&str; 3] = ["..", "CON.a/B\0", "con.A/b\0"];

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
#[test]
fn random_programs_agree_with_the_model() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("PROPTEST_RNG_SEED").unwrap_or_else(|| mix(u64::from(std::process::id())));
    let cases = number("PROPTEST_CASES").and_then(|cases| u32::try_from(cases).ok()).unwrap_or(60);
    println!("volume: {cases} programs, PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases}");
    // From 200 programs on, threads share them: at most one thread for each core, and at least 100
    // programs each. Each thread has its own seed.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = u32::try_from(cores).unwrap_or(1).min(cases / 100).max(1);
    std::thread::scope(|scope| {
        for i in 0..threads {
            scope.spawn(move || run_programs(seed.wrapping_add(i.into()), cases.div_ceil(threads)));
        }
    });
}

fn run_programs(seed: u64, cases: u32) {
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let programs = (setup(), proptest::collection::vec(step(), 1..80));
    let outcome = TestRunner::new(config).run(&programs, |(setup, steps)| {
        let mut world = World::new(setup);
        for step in steps {
            world.step(step);
        }
        world.pull_all();
        world.follow_all();
        world.kill(setup);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("PROPTEST_RNG_SEED={seed}: {failure}");
    }
}

/// The model finds seeded faults.
#[cfg(stratawal_faults)]
mod seeded {
    use std::panic::catch_unwind;

    use stratawal_stream::FailPoint;

    /// The text of a failure whose program was shrunk.
    const FOUND: &str = "Test failed:";

    fn is_found(fail_point: FailPoint) {
        fail_point.activate();
        let tried = catch_unwind(|| super::run_programs(1, 400));
        FailPoint::deactivate();
        let panic = tried.expect_err("it is not found");
        let text = panic.downcast_ref::<String>().expect("a failure has a text");
        assert!(text.contains(FOUND), "the harness failed, and found nothing: {text}");
    }

    #[test]
    fn acknowledgement_before_write_is_found() {
        is_found(FailPoint::AcknowledgedBeforeWrite);
    }

    #[test]
    fn cut_that_is_not_followed_is_found() {
        is_found(FailPoint::CutNotFollowed);
    }

    #[test]
    fn cut_that_keeps_the_epoch_is_found() {
        is_found(FailPoint::EpochKept);
    }
}
