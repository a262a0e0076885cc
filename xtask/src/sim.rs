//! The simulation: crashes at every change of a simulated disk, and faults at every operation, seed by seed; and the
//! damage sweep.

use crate::run::cargo;
use crate::{Done, Stop};

/// Proves that the harnesses can fail: faults are seeded into the code, and the simulation, the damage sweep or the tests of
/// hostile files have to find each.
pub(crate) fn seeded() -> Done {
    cargo(&["test", "--release", "--package", "stratawal", "--package", "stratawal-stream"])
        .args(["--test", "simulation", "--test", "damage", "--test", "hostile", "seeded"])
        .env("RUSTFLAGS", "--cfg stratawal_faults")
        .env("CARGO_TARGET_DIR", &crate::run::root().join("target/faults").to_string_lossy())
        .done("a fault that no harness finds")
}

/// Every bit of the files of small logs flipped, every page zeroed, every file cut, lost and swapped.
pub(crate) fn sweep() -> Done {
    cargo(&["test", "--release", "--package", "stratawal", "--test", "damage"])
        .env("STRATAWAL_ALL_BITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_TARGET_DIR", &crate::run::root().join("target/sim").to_string_lossy())
        .done("the damage sweep")
}

/// The cases of the model that CI runs.
const CASES: &str = "10000";

/// Programs of random steps, on a log and on a plain model of it: other ones each time.
pub(crate) fn model(arguments: &[String]) -> Done {
    match arguments {
        [] => run_model(CASES, None),
        [flag, cases] if flag == "--cases" && cases.parse::<u32>().is_ok_and(|n| n > 0) => run_model(cases, None),
        _ => Err(Stop::Usage("model takes --cases N".to_owned())),
    }
}

/// The same ones each time.
pub(crate) fn model_of_ci() -> Done {
    run_model(CASES, Some("1"))
}

fn run_model(cases: &str, seed: Option<&str>) -> Done {
    let mut run = cargo(&["test", "--release", "--package", "stratawal", "--test", "model", "--", "--nocapture"])
        .env("PROPTEST_CASES", cases)
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_TARGET_DIR", &crate::run::root().join("target/sim").to_string_lossy());
    if let Some(seed) = seed {
        run = run.env("PROPTEST_RNG_SEED", seed);
    }
    // Nothing is cut off here but processes, which a file system in memory survives as any other does.
    if std::env::var_os("TMPDIR").is_none() && std::path::Path::new("/dev/shm").is_dir() {
        run = run.env("TMPDIR", "/dev/shm");
    }
    run.done("the model")
}

/// What `sim` tries without arguments.
const SEEDS: &str = "0..200";

pub(crate) fn sim(arguments: &[String]) -> Done {
    let seeds = match arguments {
        [] => SEEDS,
        [flag, seeds] if flag == "--seeds" => seeds,
        _ => return Err(Stop::Usage("sim takes --seeds A..B".to_owned())),
    };
    let range =
        seeds.split_once("..").and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
    if range.is_none_or(|(from, to)| from >= to) {
        return Err(Stop::Usage(format!("{seeds:?} is no range of seeds; give A..B")));
    }
    cargo(&["test", "--release", "--package", "stratawal", "--test", "simulation", "--", "--nocapture"])
        .env("STRATAWAL_SEEDS", seeds)
        // The invariants that the code asserts of itself are a part of what is tried.
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_TARGET_DIR", &crate::run::root().join("target/sim").to_string_lossy())
        .done("the simulation")
}
