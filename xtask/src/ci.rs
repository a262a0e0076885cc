//! Everything needed to land a change, step by step.

use std::fs;
use std::time::{Duration, Instant};

use crate::run::{cargo, cargo_of, root, toolchain};
use crate::{Done, Stop, fuzz, golden, instructions, loom, memcheck, sim, tidy};

/// The oldest Rust that builds the workspace, as in Cargo.toml.
const MSRV: &str = "1.89";

/// The time limit of one example: many times as long as it needs.
const EXAMPLE_SECONDS_MAX: u64 = 300;

/// The name of a step and its function.
type Step = (&'static str, fn() -> Done);

const QUICK: [Step; 5] = [
    ("format", format),
    ("clippy", clippy),
    ("tidy", || tidy::tidy(&[])),
    ("unit tests", unit_tests),
    ("instructions", || instructions::instructions(&[])),
];

const FULL: [Step; 17] = [
    ("format", format),
    ("clippy", clippy),
    ("tidy", || tidy::tidy(&[])),
    ("tests", tests),
    ("docs", docs),
    ("examples", examples),
    ("golden files", || golden::golden(&[])),
    ("concurrency", || loom::loom(&[])),
    ("model", sim::model_of_ci),
    ("simulation", || sim::sim(&[])),
    ("kills", || sim::kills(&[])),
    ("seeded faults", sim::seeded),
    ("damage sweep", sim::sweep),
    ("memory", memcheck::memcheck),
    ("instructions", || instructions::instructions(&[])),
    ("fuzzing", || fuzz::fuzz(&["--seconds".to_owned(), "30".to_owned()])),
    ("oldest Rust", msrv),
];

pub(crate) fn ci(arguments: &[String]) -> Done {
    let mut quick = false;
    let mut with_tests = true;
    for argument in arguments {
        match argument.as_str() {
            "--quick" => quick = true,
            "--no-tests" => with_tests = false,
            other => return Err(Stop::Usage(format!("unknown argument of ci: {other}"))),
        }
    }
    let steps = if quick { &QUICK[..] } else { &FULL[..] };
    let steps: Vec<&Step> = steps.iter().filter(|step| with_tests || !step.0.ends_with("tests")).collect();
    let mut rows = Vec::new();
    for (name, step) in steps {
        println!("== {name}");
        let began = Instant::now();
        let outcome = match step() {
            Ok(()) => "passed".to_owned(),
            Err(Stop::Missing(what)) => format!("skipped: {what}"),
            Err(stop) => {
                table(&rows);
                println!("{name}: FAILED");
                return Err(stop);
            }
        };
        println!("== {name}: {outcome}");
        rows.push((*name, began.elapsed(), outcome));
    }
    table(&rows);
    Ok(())
}

fn table(rows: &[(&str, Duration, String)]) {
    println!();
    for (name, took, outcome) in rows {
        println!("{name:16}{:>7.1} s  {outcome}", took.as_secs_f64());
    }
}

/// Succeeds if a component of the toolchain is installed. With a bare toolchain, CI skips the step
/// and reports that.
fn need(component: &str) -> Done {
    match cargo(&[component, "--version"]).output() {
        Some(_) => Ok(()),
        None => Err(Stop::Missing(format!("rustup component add {component} is needed"))),
    }
}

fn format() -> Done {
    need("fmt").map_err(|_| Stop::Missing("rustfmt is missing: rustup component add rustfmt".to_owned()))?;
    cargo(&["fmt", "--all", "--check"]).done("the format check")?;
    cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]).done("the format check of fuzz")
}

fn clippy() -> Done {
    need("clippy").map_err(|_| Stop::Missing("clippy is missing: rustup component add clippy".to_owned()))?;
    cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"]).done("clippy")
}

fn unit_tests() -> Done {
    cargo(&["test", "--quiet", "--workspace", "--lib", "--bins"]).done("a unit test")
}

fn tests() -> Done {
    cargo(&["test", "--workspace"]).limit(3600).done("a test")
}

fn docs() -> Done {
    cargo(&["doc", "--workspace", "--no-deps", "--lib"]).env("RUSTDOCFLAGS", "--deny warnings").done("the docs")
}

/// Runs each example in its own temporary directory.
fn examples() -> Done {
    let Ok(entries) = fs::read_dir(root().join("crates/stratawal/examples")) else {
        return Err(Stop::Failed("the examples are missing".to_owned()));
    };
    let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = files.filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned())).collect();
    names.sort();
    cargo(&["build", "--quiet", "--package", "stratawal", "--examples"]).done("building the examples")?;
    names.iter().try_for_each(|name| {
        println!("example {name}");
        cargo(&["run", "--quiet", "--package", "stratawal", "--example", name])
            .limit(EXAMPLE_SECONDS_MAX)
            .done(&format!("the example {name}"))
    })
}

fn msrv() -> Done {
    match toolchain(MSRV) {
        Some(name) => cargo_of(&name, &["check", "--workspace", "--all-targets"])
            .env("CARGO_TARGET_DIR", &root().join("target/msrv").to_string_lossy())
            .done("the check with the oldest Rust"),
        None => Err(Stop::Missing(format!("Rust {MSRV} is not installed: rustup toolchain install {MSRV}"))),
    }
}
