//! The simulation: crashes at every change of a simulated disk, and faults at every operation, seed by seed; the damage
//! sweep; and processes that are killed, or read beside one another.

use crate::run::{Run, cargo};
use crate::{Done, Stop};

/// Proves that the harnesses can fail: faults are seeded into the code, and the simulation, the damage sweep, the tests of hostile
/// files, a process that is killed or one that reads beside it have to find each; in the index, which those see only by its
/// speed, its own tests.
pub(crate) fn seeded() -> Done {
    let faulty = |arguments: &[&str]| {
        cargo(&["test", "--release"])
            .args(arguments)
            .env("RUSTFLAGS", "--cfg stratawal_faults")
            .env("CARGO_TARGET_DIR", &crate::run::root().join("target/faults").to_string_lossy())
            .done("a fault that no harness finds")
    };
    let harnesses =
        ["simulation", "damage", "hostile", "kills", "beside", "model"].map(|name| ["--test", name]).concat();
    faulty(&[&["--package", "stratawal", "--package", "stratawal-stream"], &harnesses[..], &["seeded"]].concat())?;
    faulty(&["--package", "stratawal-index", "--lib"])
}

/// Every bit of the files of small logs flipped, every page zeroed, every file cut, lost and swapped.
pub(crate) fn sweep() -> Done {
    sweep_run().done("the damage sweep")
}

pub(crate) fn sweep_run() -> Run {
    in_memory(harness("damage").env("STRATAWAL_ALL_BITS", "1"))
}

/// A test of the facade, optimised. The invariants that the code asserts of itself are a part of what is tried.
fn harness(test: &str) -> Run {
    cargo(&["test", "--release", "--package", "stratawal", "--test", test, "--", "--nocapture"])
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_TARGET_DIR", &crate::run::root().join("target/sim").to_string_lossy())
}

/// The cases of the model that CI runs.
const CASES: &str = "10000";

/// Programs of random steps, on a log and on a plain model of it: other ones each time.
pub(crate) fn model(arguments: &[String]) -> Done {
    model_run(&number(arguments, "--cases", CASES, "model")?, None).done("the model")
}

/// The same ones each time.
pub(crate) fn model_of_ci() -> Done {
    model_run(CASES, Some("1")).done("the model")
}

pub(crate) fn model_run(cases: &str, seed: Option<&str>) -> Run {
    let run = harness("model").env("PROPTEST_CASES", cases);
    in_memory(match seed {
        Some(seed) => run.env("PROPTEST_RNG_SEED", seed),
        None => run,
    })
}

/// Nothing is cut off by what runs so but processes, which a file system in memory survives as any other does.
fn in_memory(run: Run) -> Run {
    let is_there = std::env::var_os("TMPDIR").is_none() && std::path::Path::new("/dev/shm").is_dir();
    if is_there { run.env("TMPDIR", "/dev/shm") } else { run }
}

/// A process of many threads, killed so often.
pub(crate) fn kills(arguments: &[String]) -> Done {
    kills_run(&number(arguments, "--times", "500", "kills")?).done("what a killed process was told")
}

pub(crate) fn kills_run(kills: &str) -> Run {
    in_memory(harness("kills").env("STRATAWAL_KILLS", kills))
}

/// Readers in one process beside a writer in another, for so long.
pub(crate) fn beside(arguments: &[String]) -> Done {
    beside_run(&number(arguments, "--seconds", "120", "beside")?).done("reading beside a writer")
}

pub(crate) fn beside_run(seconds: &str) -> Run {
    harness("beside").env("STRATAWAL_BESIDE_SECONDS", seconds)
}

/// Real file systems, filled to the last block.
pub(crate) fn volumes_run() -> Run {
    harness("volumes")
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
    simulation_run(seeds).done("the simulation")
}

pub(crate) fn simulation_run(seeds: &str) -> Run {
    harness("simulation").env("STRATAWAL_SEEDS", seeds)
}
