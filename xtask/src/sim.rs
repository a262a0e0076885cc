//! The harnesses: the simulation (crashes at every change of a simulated disk, and faults at every
//! operation, seed by seed), the damage sweep, the model, processes that are killed, readers in
//! another process, and logs of many streams.

use crate::run::{Run, cargo};
use crate::{Done, Stop};

/// Proves that the harnesses can fail. Faults are seeded into the code, and a harness must find
/// each of them: the simulation, the damage sweep, the tests of hostile files and of mixed
/// histories, the model, a process that is killed, or a reader in another process. To these
/// harnesses a wrong index is only slow, so the index's own tests find its faults.
pub(crate) fn seeded() -> Done {
    let faulty = |arguments: &[&str]| {
        cargo(&["test", "--release"])
            .args(arguments)
            .env("RUSTFLAGS", "--cfg stratawal_faults")
            .env("CARGO_TARGET_DIR", &crate::run::root().join("target/faults").to_string_lossy())
            .limit(SECONDS_MAX)
            .done("a fault that no harness finds")
    };
    let harnesses = ["simulation", "damage", "hostile", "histories", "kills", "kill_points", "beside", "model"]
        .map(|name| ["--test", name])
        .concat();
    faulty(&[&["--package", "stratawal", "--package", "stratawal-stream"], &harnesses[..], &["seeded"]].concat())?;
    faulty(&["--package", "stratawal-journal", "--test", "seeded"])?;
    faulty(&["--package", "stratawal-index", "--lib"])
}

/// The time limit of a harness with a fixed volume, or of a build: many times as long as either
/// takes.
const SECONDS_MAX: u64 = 3600;

/// The damage sweep: flips every bit of the files of small logs, zeroes every page, and cuts, loses
/// and swaps every file.
pub(crate) fn sweep() -> Done {
    sweep_run().done("the damage sweep")
}

pub(crate) fn sweep_run() -> Run {
    in_memory(harness("damage", 0).env("STRATAWAL_ALL_BITS", "1"))
}

/// A test of the facade, optimised, but with debug assertions. `seconds` is the time that its
/// volume may take, in addition to the limit of every harness.
fn harness(test: &str, seconds: u64) -> Run {
    harnesses(&[test], seconds)
}

/// Several tests of the facade, run like a [`harness`].
fn harnesses(tests: &[&str], seconds: u64) -> Run {
    let tests: Vec<&str> = tests.iter().flat_map(|test| ["--test", test]).collect();
    cargo(&["test", "--release", "--package", "stratawal"])
        .args(&tests)
        .args(["--", "--nocapture"])
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_TARGET_DIR", &crate::run::root().join("target/sim").to_string_lossy())
        .limit(SECONDS_MAX.saturating_add(seconds))
}

/// Returns the volume of a harness from its argument: a number, or the length of a range.
fn volume(text: &str) -> u64 {
    let (from, to) = text.split_once("..").unwrap_or(("0", text));
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    number(to).saturating_sub(number(from))
}

/// The number of cases of the model in CI.
const CASES: &str = "10000";

/// Runs programs of random steps on a log and on a plain model of it. Each run generates different
/// programs.
pub(crate) fn model(arguments: &[String]) -> Done {
    model_run(&number(arguments, "--cases", CASES, "model")?, None).done("the model")
}

/// Runs the model with a fixed seed, so that each run has the same programs.
pub(crate) fn model_of_ci() -> Done {
    model_run(CASES, Some("1")).done("the model")
}

pub(crate) fn model_run(cases: &str, seed: Option<&str>) -> Run {
    let run = harness("model", volume(cases)).env("PROPTEST_CASES", cases);
    in_memory(match seed {
        Some(seed) => run.env("PROPTEST_RNG_SEED", seed),
        None => run,
    })
}

/// Runs a harness on a file system in memory, if the machine has one. These harnesses only kill
/// processes, so the files need not survive a power loss.
fn in_memory(run: Run) -> Run {
    let available = std::env::var_os("TMPDIR").is_none() && std::path::Path::new("/dev/shm").is_dir();
    if available { run.env("TMPDIR", "/dev/shm") } else { run }
}

/// Runs a process with many threads and kills it `--times` times. Kills another at each operation
/// of a fixed workload.
pub(crate) fn kills(arguments: &[String]) -> Done {
    kills_run(&number(arguments, "--times", "500", "kills")?).done("a killed process")
}

pub(crate) fn kills_run(kills: &str) -> Run {
    let run = harnesses(&["kills", "kill_points"], volume(kills).saturating_mul(10));
    in_memory(run.env("STRATAWAL_KILLS", kills).env("STRATAWAL_ALL_KILL_POINTS", "1"))
}

/// Runs readers in one process and a writer in another, for `--seconds`.
pub(crate) fn beside(arguments: &[String]) -> Done {
    beside_run(&number(arguments, "--seconds", "120", "beside")?).done("reading beside a writer")
}

/// Half of the time goes to readers that look, and half to one that follows.
pub(crate) fn beside_run(seconds: &str) -> Run {
    let each = (volume(seconds) / 2).max(1).to_string();
    let run = harnesses(&["beside", "follow_beside"], volume(seconds));
    let rotations = volume(seconds).saturating_mul(20).to_string();
    run.env("STRATAWAL_BESIDE_SECONDS", &each)
        .env("STRATAWAL_FOLLOW_SECONDS", &each)
        .env("STRATAWAL_FOLLOW_ROTATIONS", &rotations)
}

/// The streams of a log that has very many.
pub(crate) const STREAMS: &str = "100000";

/// Runs a log of `--count` streams in a process that may have few files open.
pub(crate) fn streams(arguments: &[String]) -> Done {
    streams_run(&number(arguments, "--count", STREAMS, "streams")?).done("a log of many streams")
}

pub(crate) fn streams_run(count: &str) -> Run {
    in_memory(harness("many_streams", volume(count) / 100).env("STRATAWAL_STREAMS", count))
}

/// Fills real file systems to the last block.
pub(crate) fn volumes_run() -> Run {
    harness("volumes", 0)
}

/// Parses the only argument of a task, a number above 0.
fn number(arguments: &[String], flag: &str, default: &str, task: &str) -> Result<String, Stop> {
    match arguments {
        [] => Ok(default.to_owned()),
        [given, number] if given == flag && number.parse::<u32>().is_ok_and(|n| n > 0) => Ok(number.clone()),
        _ => Err(Stop::Usage(format!("{task} takes {flag} N"))),
    }
}

/// The seeds of `sim` if it has no arguments.
const SEEDS: &str = "0..90";

pub(crate) fn sim(arguments: &[String]) -> Done {
    let seeds = match arguments {
        [] => SEEDS,
        [flag, seeds] if flag == "--seeds" => seeds,
        _ => return Err(Stop::Usage("sim takes --seeds A..B".to_owned())),
    };
    let range =
        seeds.split_once("..").and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
    if range.is_none_or(|(from, to)| from >= to) {
        return Err(Stop::Usage(format!("{seeds:?} is not a range of seeds; give A..B")));
    }
    simulation_run(seeds).done("the simulation")
}

/// Each seed runs on one kind of log: without a commit journal, with one that is mapped, or with
/// one that is written.
fn simulation_run(seeds: &str) -> Run {
    harness("simulation", volume(seeds).saturating_mul(20)).env("STRATAWAL_SEEDS", seeds)
}

/// Each seed runs on all three kinds of log.
pub(crate) fn simulation_of_all_kinds(seeds: &str) -> Run {
    simulation_run(seeds)
        .limit(SECONDS_MAX.saturating_add(volume(seeds).saturating_mul(60)))
        .env("STRATAWAL_ALL_KINDS", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_number_or_a_range() {
        assert_eq!(["500", "10..210", "3..1", "x"].map(volume), [500, 200, 0, 0]);
    }
}
