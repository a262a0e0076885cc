//! Counts the instructions of operations under valgrind and compares them with bounds. This finds
//! slower code, which behaviour tests do not notice and no test can judge by time.
//! `benches/src/bin/instructions.rs` is the program that is counted.
//!
//! A system call counts only as the instructions that lead to it, so neither the number of calls
//! nor their cost is visible here.

use std::fs;
use std::path::Path;

use crate::run::{Run, cargo, root};
use crate::{Done, Stop, memcheck};

/// An operation, its instructions when this line was set, and the number it may take. A log has a
/// commit journal, unless its name states that it has none.
/// `cargo xtask instructions --print` prints the lines with the present counts.
///
/// The bounds are generous, because counts vary with the compiler, the C library and the CPU: the
/// checksum and the C library choose among the CPU's vector instructions that valgrind supports. On
/// one machine counts repeat to within 1 %.
const TABLE: &[(&str, u64, u64)] = &[
    ("append, buffered", 733, 920),
    ("append, flushed", 2_307, 2_900),
    ("batch of 100, flushed", 25_342, 32_000),
    ("scan, single", 206, 260),
    ("scan by runs, single", 120, 150),
    ("scan, batches", 202, 260),
    ("scan by runs, batches", 107, 140),
    ("get, sealed, single", 5_896, 7_400),
    ("get, active, single", 6_067, 7_600),
    ("get, sealed, shared", 6_375, 8_000),
    ("get, active, shared", 5_996, 7_500),
    ("append, buffered, no journal", 717, 900),
    ("append, flushed, no journal", 2_314, 2_900),
    ("batch of 100, flushed, no journal", 12_349, 16_000),
    ("scan, single, no journal", 620, 780),
    ("scan by runs, single, no journal", 572, 720),
    ("scan, batches, no journal", 202, 260),
    ("scan by runs, batches, no journal", 107, 140),
    ("get, sealed, single, no journal", 3_384, 4_300),
    ("get, active, single, no journal", 6_749, 8_500),
    ("get, sealed, shared, no journal", 6_421, 8_100),
    ("get, active, shared, no journal", 6_024, 7_600),
];

/// A count below this fraction of the count in the table is reported, so that the line is updated.
const LOW: f64 = 0.75;

/// `--print` sets each bound to this many times the count.
const ROOM: f64 = 1.25;

/// The function whose instructions are counted, in callgrind's notation. Callgrind resets its
/// counts when the function begins, and dumps them when it ends.
const COUNTED: &str = "*::counted";

/// Above some length, the C library copies and clears with an instruction that valgrind counts once
/// for each byte. With this setting it uses vectors for every length.
const NO_STRING_INSTRUCTIONS: &str =
    "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:glibc.cpu.x86_rep_stosb_threshold=0x7fffffff";

pub(crate) fn instructions(arguments: &[String]) -> Done {
    let print = match arguments {
        [] => false,
        [flag] if flag == "--print" => true,
        _ => return Err(Stop::Usage("instructions takes --print, or nothing".to_owned())),
    };
    if !cfg!(target_arch = "x86_64") {
        return Err(Stop::Missing("the bounds are for x86-64".to_owned()));
    }
    memcheck::valgrind()?;
    let counts = count()?;
    if print {
        counts.iter().for_each(|(name, count)| println!("    {}", row(name, *count)));
        return Ok(());
    }
    println!("instructions, bound, operation");
    for (name, count) in &counts {
        let bound = TABLE.iter().find(|row| row.0 == name).map_or("none".to_owned(), |row| row.2.to_string());
        println!("{count:>8} {bound:>8}  {name}");
    }
    let Verdict { over, under } = judge(TABLE, &counts);
    under.iter().for_each(|line| println!("{line}"));
    if over.is_empty() { Ok(()) } else { Err(Stop::Failed(over.join("\nxtask: "))) }
}

/// Returns each operation and its instructions.
fn count() -> Result<Vec<(String, u64)>, Stop> {
    cargo(&["build", "--quiet", "--release", "--package", "stratawal-benches", "--bin", "instructions"])
        .env("CARGO_TARGET_DIR", &root().join("target").to_string_lossy())
        .done("building the counted program")?;
    let dir = root().join("target/instructions");
    // Dumps of an earlier run would be mistaken for those of this run.
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir).map_err(|error| Stop::Failed(format!("cannot make {}: {error}", dir.display())))?;
    let printed = Run::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .args([format!("--callgrind-out-file={}", dir.join("dump").display())])
        .args([format!("--zero-before={COUNTED}"), format!("--dump-after={COUNTED}")])
        .args([root().join("target/release/instructions")])
        .env("GLIBC_TUNABLES", NO_STRING_INSTRUCTIONS)
        .limit(300)
        .quiet("target/release/instructions under valgrind")?;
    let mut counts = Vec::new();
    for (line, at) in printed.lines().zip((1..).step_by(2)) {
        counts.push(difference(line, total(&dir, at), total(&dir, at + 1))?);
    }
    Ok(counts)
}

/// Returns the total instructions of a dump.
fn total(dir: &Path, number: usize) -> Option<u64> {
    let dump = fs::read_to_string(dir.join(format!("dump.{number}"))).ok()?;
    dump.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

/// Returns the operation that a line of the program names, and its instructions. `once` is the
/// count for as many operations as the line states, and `twice` the count for twice as many.
fn difference(line: &str, once: Option<u64>, twice: Option<u64>) -> Result<(String, u64), Stop> {
    let (times, name) = line.split_once(' ').unwrap_or_default();
    let count = |times: u64| Some(twice?.checked_sub(once?)? / times);
    match times.parse().ok().filter(|&times| times > 0).and_then(count) {
        Some(count) => Ok((name.to_owned(), count)),
        None => Err(Stop::Failed(format!("valgrind has not counted {line:?}: {once:?} and {twice:?}"))),
    }
}

/// A line of the table.
fn row(name: &str, count: u64) -> String {
    let tens = 10_u64.pow(count.max(100).ilog10() - 1);
    let bound = (count as f64 * ROOM).ceil() as u64;
    format!("({name:?}, {}, {}),", grouped(count), grouped(bound.next_multiple_of(tens)))
}

/// Formats a number as a Rust literal.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}

/// Lines to print.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    /// Failures: counts above their bounds, and lines without a partner.
    over: Vec<String>,
    /// Counts far below those in their lines.
    under: Vec<String>,
}

fn judge(table: &[(&str, u64, u64)], counts: &[(String, u64)]) -> Verdict {
    let mut verdict = Verdict::default();
    for (name, count) in counts {
        let Some((_, before, bound)) = table.iter().find(|row| row.0 == name) else {
            verdict.over.push(format!("{name} has no bound; its line would be {}", row(name, *count)));
            continue;
        };
        if count > bound {
            verdict.over.push(format!(
                "{name} takes {count} instructions, {before} before, and may take {bound}; mend the cause, or raise the \
                 bound in xtask/src/instructions.rs in a commit that gives the reason: {}",
                row(name, *count)
            ));
        } else if (*count as f64) < *before as f64 * LOW {
            verdict.under.push(format!(
                "{name} takes only {count} instructions, {before} before: the bound can be lowered: {}",
                row(name, *count)
            ));
        }
    }
    let lost = table.iter().filter(|row| counts.iter().all(|(name, _)| name != row.0));
    verdict.over.extend(lost.map(|row| format!("{} has a bound and is not counted", row.0)));
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(count: u64) -> (usize, usize) {
        let Verdict { over, under } = judge(&[("a", 1000, 1250)], &[("a".to_owned(), count)]);
        (over.len(), under.len())
    }

    #[test]
    fn a_count_over_its_bound_fails_and_a_low_one_is_noted() {
        assert_eq!([749, 750, 1250, 1251].map(judged), [(0, 1), (0, 0), (0, 0), (1, 0)]);
    }

    #[test]
    fn counts_without_bounds_and_bounds_without_counts_fail() {
        let verdict = judge(&[("a", 1, 2)], &[("b".to_owned(), 1)]);
        assert_eq!((verdict.over.len(), verdict.under.len()), (2, 0), "{verdict:?}");
    }

    #[test]
    fn costs_of_every_run_cancel_out() {
        assert_eq!(difference("10 a, b", Some(1_100), Some(1_600)).ok(), Some(("a, b".to_owned(), 50)));
        for wrong in
            [("", Some(1), Some(2)), ("0 a", Some(1), Some(2)), ("1 a", Some(2), Some(1)), ("1 a", Some(1), None)]
        {
            assert!(difference(wrong.0, wrong.1, wrong.2).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lines_are_ready_for_the_table() {
        assert_eq!(row("a, b", 1234), "(\"a, b\", 1_234, 1_600),");
        assert_eq!(row("c", 40), "(\"c\", 40, 50),");
    }
}
