//! The tasks of the workspace; `cargo xtask` lists them. Uses only the standard library, so that it
//! builds in seconds.
#![forbid(unsafe_code)]

mod ci;
mod fuzz;
mod golden;
mod instructions;
mod loom;
mod memcheck;
mod peers;
mod run;
mod sim;
mod tidy;
mod torture;

use std::process::ExitCode;

/// A command: its name, its arguments, its description.
const COMMANDS: [(&str, &str, &str); 15] = [
    (
        "ci",
        "[--quick] [--no-tests]",
        "everything needed to land a change; --quick: the steps that are fast enough to run while working",
    ),
    (
        "tidy",
        "[--prose]",
        "the house rules: layers, unsafe, panics, prints, prose; --prose lists every sentence with a habit",
    ),
    ("fuzz", "[TARGET] [--seconds N]", "fuzz one target, or all in turn, 60 seconds each by default"),
    ("loom", "[FILTER]", "the models of concurrency, under the model checker, with and without seeded faults"),
    ("memcheck", "", "codecs, index, segments and the unsafe module under valgrind"),
    (
        "instructions",
        "[--print]",
        "instructions of each operation, compared with bounds; --print: the lines of the table",
    ),
    ("sim", "[--seeds A..B]", "the simulation: crashes at every change of the disk, faults at every operation"),
    ("model", "[--cases N]", "programs of random steps, on a log and on a plain model of it"),
    (
        "kills",
        "[--times N]",
        "a process with many threads, killed with -9 again and again; acknowledged entries are kept",
    ),
    ("beside", "[--seconds N]", "readers in one process beside a writer in another that drops, cuts and deletes"),
    ("streams", "[--count N]", "100,000 streams at 1,024 open files against a plain model, closed and killed"),
    ("sweep", "", "the damage sweep: every bit flipped, every page zeroed, every file cut, lost, swapped"),
    (
        "bench",
        "[--peers [CASE…]] [ARGS…]",
        "the criterion benches; --peers: the same work by other logs and raw loops, with [--rounds 5] [--seconds 3] \
         [--entries 4000000] [--subjects A,B] [--warm 4] [--out target/bench] [--data DIR] [--keep]; a CASE may be the \
         beginning of names and a *; --keep puts the page and the plots in place of those in benches/plots",
    ),
    ("torture", "[--hours H]", "every harness for a whole night, 6 hours by default, and a table of the cases tried"),
    ("golden", "[--bless]", "files of every released format can still be read; --bless writes missing ones"),
];

/// Why a task did not succeed.
enum Stop {
    /// It failed, with this message.
    Failed(String),
    /// Something that it needs is missing. The message names it and how to install it.
    Missing(String),
    /// Its arguments are wrong.
    Usage(String),
}

type Done = Result<(), Stop>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first() else {
        list();
        return ExitCode::SUCCESS;
    };
    let done = match command.as_str() {
        "ci" => ci::ci(rest),
        "tidy" => tidy::tidy(rest),
        "fuzz" => fuzz::fuzz(rest),
        "loom" => loom::loom(rest),
        "memcheck" => memcheck::memcheck(),
        "instructions" => instructions::instructions(rest),
        "sim" => sim::sim(rest),
        "model" => sim::model(rest),
        "kills" => sim::kills(rest),
        "beside" => sim::beside(rest),
        "streams" => sim::streams(rest),
        "sweep" => sim::sweep(),
        "bench" if rest.first().is_some_and(|first| first == "--peers") => peers::peers(&rest[1..]),
        "bench" => benches(rest),
        "torture" => torture::torture(rest),
        "golden" => golden::golden(rest),
        "help" | "--help" | "-h" => {
            list();
            Ok(())
        }
        other => Err(Stop::Usage(format!("unknown task {other:?}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Failed(what)) => {
            eprintln!("xtask: {what}");
            ExitCode::FAILURE
        }
        Err(Stop::Usage(what)) => {
            eprintln!("xtask: {what}");
            list();
            ExitCode::from(2)
        }
        Err(Stop::Missing(what)) => {
            eprintln!("xtask: {what}");
            ExitCode::from(3)
        }
    }
}

/// Runs the benches of the crates' own layers.
fn benches(arguments: &[String]) -> Done {
    if arguments.first().is_some_and(|first| first == "--help" || first == "-h") {
        list();
        return Ok(());
    }
    let benches = || run::cargo(&["bench", "--package", "stratawal-benches", "--"]);
    if let Some(filter) = arguments.first().filter(|first| !first.starts_with('-')) {
        // A filter that matches nothing would run nothing and pass.
        let listed = benches().args(["--list", filter]).output();
        // If listing fails, the run below reports why.
        if listed.is_some_and(|listed| !listed.lines().any(|line| line.ends_with(": benchmark"))) {
            return Err(Stop::Failed(format!(
                "no bench has {filter:?} in its name; `cargo xtask bench --list` lists them"
            )));
        }
    }
    benches().args(arguments).done("the benches")
}

fn list() {
    println!("cargo xtask COMMAND");
    for (name, arguments, what) in COMMANDS {
        println!("  {:32}{what}", format!("{name} {arguments}"));
    }
}
