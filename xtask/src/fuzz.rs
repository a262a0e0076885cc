//! Fuzzing with cargo-fuzz on nightly. Installs cargo-fuzz if it is missing.

use std::fs;

use crate::run::{Run, cargo, cargo_of, on_all_cores, root, toolchain};
use crate::{Done, Stop};

const SECONDS: u64 = 60;

/// The time limit for building a target and running the inputs of its corpus.
const BUILD_SECONDS_MAX: u64 = 1800;

pub(crate) fn fuzz(arguments: &[String]) -> Done {
    let (target, seconds) = parse(arguments).map_err(Stop::Usage)?;
    let all = targets();
    let chosen: Vec<&String> = all.iter().filter(|name| target.as_ref().is_none_or(|wanted| wanted == *name)).collect();
    if chosen.is_empty() {
        return Err(Stop::Usage(format!("no such fuzz target; the targets are: {}", all.join(", "))));
    }
    let Some(nightly) = toolchain("nightly") else {
        return Err(Stop::Missing("fuzzing needs a nightly toolchain: rustup toolchain install nightly".to_owned()));
    };
    if Run::new("cargo-fuzz").args(["--version"]).output().is_none() {
        println!("installing cargo-fuzz, which fuzzing needs");
        cargo(&["install", "cargo-fuzz", "--locked"])
            .done("installing")
            .map_err(|_| Stop::Missing("fuzzing needs cargo-fuzz: cargo install cargo-fuzz --locked".to_owned()))?;
    }
    // A target runs on one core, so several run at the same time. They are built before, because
    // builds wait for each other.
    cargo_of(&nightly, &["fuzz", "build"]).limit(BUILD_SECONDS_MAX).done("building the fuzz targets")?;
    on_all_cores(&chosen, |target| fuzz_one(&nightly, target, seconds))
}

fn fuzz_one(nightly: &str, target: &str, seconds: u64) -> Done {
    println!("fuzzing {target} for {seconds} s");
    let corpus = format!("fuzz/corpus/{target}");
    fs::create_dir_all(root().join(&corpus)).map_err(|e| Stop::Failed(format!("cannot create {corpus}: {e}")))?;
    let seeds = format!("fuzz/seeds/{target}");
    let seeds = root().join(&seeds).is_dir().then_some(seeds);
    cargo_of(nightly, &["fuzz", "run", target, &corpus])
        .args(seeds)
        .args([
            "--",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-malloc_limit_mb=64",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .args([format!("-max_total_time={seconds}")])
        .limit(BUILD_SECONDS_MAX + seconds)
        .done(&format!("fuzzing {target} (what failed is in fuzz/artifacts/{target})"))
}

/// Returns the names of the targets, in order.
pub(crate) fn targets() -> Vec<String> {
    let Ok(entries) = fs::read_dir(root().join("fuzz/fuzz_targets")) else { return Vec::new() };
    let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = files.filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned())).collect();
    names.sort();
    names
}

fn parse(arguments: &[String]) -> Result<(Option<String>, u64), String> {
    let mut target = None;
    let mut seconds = SECONDS;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--seconds" => {
                let value = rest.next().and_then(|value| value.parse().ok()).filter(|&n| n > 0);
                seconds = value.ok_or("--seconds takes a whole number of at least 1")?;
            }
            flag if flag.starts_with('-') => return Err(format!("unknown argument of fuzz: {flag}")),
            name if target.is_none() => target = Some(name.to_owned()),
            name => return Err(format!("one target at a time, or none for all; {name} is too many")),
        }
    }
    Ok((target, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_come_in_any_order() {
        assert_eq!(parse(&[]), Ok((None, SECONDS)));
        assert_eq!(parse(&words("a --seconds 5")), Ok((Some("a".to_owned()), 5)));
        assert_eq!(parse(&words("--seconds 5 a")), Ok((Some("a".to_owned()), 5)));
        for wrong in ["--seconds", "--seconds 0", "--seconds x", "a b", "--fast"] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_targets_are_found() {
        let expected = [
            "cli_lines",
            "frame_decode",
            "index_decode",
            "journal_replay",
            "log_operations",
            "segment_recovery",
            "stream_names",
        ];
        assert_eq!(targets(), expected);
    }
}
