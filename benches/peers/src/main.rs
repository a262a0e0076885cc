//! Compares the same work done by stratawal, by other logs, and by raw loops. Each process runs one
//! case with one subject:
//!
//! `stratawal-peers CASE SUBJECT DIR [SECONDS [ENTRIES]]` prints one line of JSON. Without
//! arguments it lists the cases and their subjects.
//!
//! Each case checks its own work (the number of entries, and their bytes), so that each figure is
//! for the work that it names. A subject that does not have the operation, or not with the same
//! guarantee, reports that instead of a figure. The data is removed at the end.
#![deny(unsafe_code)]

mod cases;
mod hist;
mod json;
mod payload;
mod peers;
mod promise;
mod raw;
mod subject;

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use cases::{CASES, Case, Run};
use subject::{Answer, KINDS, Kind, Stop, failed};

const USAGE: &str = "stratawal-peers CASE SUBJECT DIR [SECONDS [ENTRIES]] | list | warm DIR GIB | busy SECONDS";

/// The message of the first thread that panicked. Others may have panicked because of it.
static FIRST_PANIC: std::sync::OnceLock<String> = std::sync::OnceLock::new();

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The compared crates may panic. The message is reported in one line, like any other failure.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
        drop(FIRST_PANIC.set(format!("it panicked: {} at {place}", said(info.payload()))));
    }));
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| match arguments[..] {
        [] | ["help" | "--help" | "-h"] => help(),
        ["list"] => list(),
        ["warm", dir, gib] => warm(Path::new(dir), gib),
        ["busy", seconds] => busy(seconds),
        ["fill", case, subject, dir, seconds, entries] => fill(case, subject, dir, seconds, entries),
        [case, subject, dir] => one(case, subject, dir, "3", "4000000"),
        [case, subject, dir, seconds] => one(case, subject, dir, seconds, "4000000"),
        [case, subject, dir, seconds, entries] => one(case, subject, dir, seconds, entries),
        _ => Err(Stop::Failed(format!("usage: {USAGE}"))),
    }));
    let why = match done {
        Ok(Ok(code)) => return code,
        Ok(Err(Stop::None(why) | Stop::Failed(why))) => why,
        Err(_) => panicked(),
    };
    eprintln!("{}", why.lines().next().unwrap_or("it failed"));
    ExitCode::FAILURE
}

fn panicked() -> String {
    FIRST_PANIC.get().cloned().unwrap_or_default()
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

fn help() -> Answer<ExitCode> {
    println!("{USAGE}\n");
    CASES.iter().for_each(|case| println!("  {:8}{} ({})", case.name, case.what, case.unit));
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    println!("\nsubjects: {}", names.join(" "));
    Ok(ExitCode::SUCCESS)
}

/// Lists the cases and the subjects of each, one line of JSON for each case, for the program that
/// runs them.
fn list() -> Answer<ExitCode> {
    CASES.iter().for_each(|case| println!("{}", json::case(case)));
    Ok(ExitCode::SUCCESS)
}

/// Writes and deletes some GiB, because memory that the host of a virtual machine has never touched
/// costs a tenth of the speed.
fn warm(dir: &Path, gib: &str) -> Answer<ExitCode> {
    let gib: u64 = parsed(gib, "GIB")?;
    std::fs::create_dir_all(dir).map_err(failed("warm"))?;
    let path = dir.join("warm");
    let written = (|| {
        let mut file = std::fs::File::create(&path)?;
        let block = vec![1; 1 << 20];
        (0..gib << 10).try_for_each(|_| file.write_all(&block))
    })();
    std::fs::remove_file(&path).map_err(failed("warm"))?;
    written.map_err(failed("warm"))?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps a core awake.
fn busy(seconds: &str) -> Answer<ExitCode> {
    let time = Duration::from_secs_f64(parsed(seconds, "SECONDS")?);
    let began = Instant::now();
    let mut n = 0_u64;
    while began.elapsed() < time {
        (0..100_000).for_each(|_| n = std::hint::black_box(n + 1));
    }
    Ok(ExitCode::SUCCESS)
}

fn parsed<T: std::str::FromStr>(text: &str, name: &str) -> Answer<T> {
    text.parse().map_err(|_| Stop::Failed(format!("{name} is not a number: {text}")))
}

fn named(case: &str, subject: &str) -> Answer<(&'static Case, &'static Kind)> {
    static ALL: ([Case; CASES.len()], [Kind; KINDS.len()]) = (CASES, KINDS);
    let found = ALL.0.iter().find(|known| known.name == case);
    let found = found.ok_or_else(|| Stop::Failed(format!("unknown case {case}")))?;
    let kind = ALL.1.iter().find(|known| known.name == subject);
    let kind = kind.ok_or_else(|| Stop::Failed(format!("unknown subject {subject}")))?;
    if !found.has(kind) {
        return Err(Stop::Failed(format!("{subject} takes no part in {case}")));
    }
    Ok((found, kind))
}

/// Performs the run that the arguments describe, in the directory `dir`.
fn run_of<'a>(case: &str, subject: &str, dir: &'a Path, seconds: &str, entries: &str) -> Answer<Run<'a>> {
    let (case, kind) = named(case, subject)?;
    let seconds: f64 = parsed(seconds, "SECONDS")?;
    let entries: u64 = parsed(entries, "ENTRIES")?;
    if !(0.0..=600.0).contains(&seconds) || entries < 10_000 {
        return Err(Stop::Failed("SECONDS is at most 600, ENTRIES at least 10000".to_owned()));
    }
    // The number is rounded so that its fractions are also whole batches.
    let entries = entries.next_multiple_of(6400);
    Ok(Run { case, kind, dir, time: Duration::from_secs_f64(seconds), entries })
}

/// Fills the log of a case.
fn fill(case: &str, subject: &str, dir: &str, seconds: &str, entries: &str) -> Answer<ExitCode> {
    match cases::fill(&run_of(case, subject, Path::new(dir), seconds, entries)?, &cases::print_filled) {
        Ok(_) => {}
        Err(Stop::None(why)) => println!("none {why}"),
        Err(other) => return Err(other),
    }
    Ok(ExitCode::SUCCESS)
}

fn one(case: &str, subject: &str, dir: &str, seconds: &str, entries: &str) -> Answer<ExitCode> {
    let dir: PathBuf = Path::new(dir).join(format!("{subject}-{}", case.replace('/', "-")));
    let run = run_of(case, subject, &dir, seconds, entries)?;
    if run.kind.name == "walrus-rust" && std::env::var_os("WALRUS_DATA_DIR").is_none_or(|set| set != *dir) {
        return again_for_walrus(&dir);
    }
    remove(&dir)?;
    std::fs::create_dir_all(&dir).map_err(failed("the directory for the data"))?;
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| (run.case.run)(&run)));
    remove(&dir)?;
    match done {
        Ok(Ok(figures)) => println!("{}", json::figures(&run, &figures)),
        Ok(Err(Stop::None(why))) => println!("{}", json::none(&run, &why)),
        Ok(Err(Stop::Failed(why))) if FIRST_PANIC.get().is_some() => {
            return Err(Stop::Failed(format!("{}; {why}", panicked())));
        }
        Ok(Err(failure)) => return Err(failure),
        Err(_) => return Err(Stop::Failed(panicked())),
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(dir: &Path) -> Answer<()> {
    // Threads of a log that was not closed may still create files.
    let mut tries = 10;
    loop {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if tries == 0 => return Err(failed("removing the data")(error)),
            Err(_) => tries -= 1,
            Ok(()) => return Ok(()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// walrus takes its directory from one environment variable, and prints its actions unless another
/// forbids it. Both must be set when a process starts.
fn again_for_walrus(dir: &Path) -> Answer<ExitCode> {
    let program = std::env::current_exe().map_err(failed("the program"))?;
    let status = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env("WALRUS_DATA_DIR", dir)
        .env("WALRUS_QUIET", "1")
        .status()
        .map_err(failed("the program"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
