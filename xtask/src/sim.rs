//! The simulation: crashes at every change of a simulated disk, and faults at every operation, seed by seed; the damage
//! sweep; and processes that are killed, or read beside one another.

use crate::run::{Run, cargo};
use crate::{Done, Stop};

/// Proves that the harnesses can fail: faults are seeded into the code, and the simulation, the damage sweep, the tests of hostile
/// files, a process that is killed or one that reads beside it have to find each.
pub(crate) fn seeded() -> Done {
    cargo(&["test", "--release", "--package", "stratawal", "--package", "stratawal-stream"])
        .args(["--test", "simulation", "--test", "damage", "--test", "hostile", "--test", "kills", "--test", "beside"])
        .args(["seeded"])
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
    run_model(&number(arguments, "--cases", CASES, "model")?, None)
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
    in_memory(run).done("the model")
}

/// Nothing is cut off by what runs so but processes, which a file system in memory survives as any other does.
fn in_memory(run: Run) -> Run {
    let is_there = std::env::var_os("TMPDIR").is_none() && std::path::Path::new("/dev/shm").is_dir();
    if is_there { run.env("TMPDIR", "/dev/shm") } else { run }
}

/// A process of many threads, killed so often.
pub(crate) fn kills(arguments: &[String]) -> Done {
    let kills = number(arguments, "--times", "500", "kills")?;
    let run = cargo(&["test", "--release", "--package", "stratawal", "--test", "kills", "--", "--nocapture"]);
    in_memory(run.env("STRATAWAL_KILLS", &kills)).done("what a killed process was told")
}

/// Readers in one process beside a writer in another, for so long.
pub(crate) fn beside(arguments: &[String]) -> Done {
    let seconds = number(arguments, "--seconds", "120", "beside")?;
    let run = cargo(&["test", "--release", "--package", "stratawal", "--test", "beside", "--", "--nocapture"]);
    run.env("STRATAWAL_BESIDE_SECONDS", &seconds).done("reading beside a writer")
}

/// The one argument that a task takes, a number over 0.
fn number(arguments: &[String], flag: &str, default: &str, task: &str) -> Result<String, Stop> {
    match arguments {
        [] => Ok(default.to_owned()),
        [given, number] if given == flag && number.parse::<u32>().is_ok_and(|n| n > 0) => Ok(number.clone()),
        _ => Err(Stop::Usage(format!("{task} takes {flag} N"))),
    }
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
