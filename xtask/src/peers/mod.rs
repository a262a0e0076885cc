//! The comparison with other logs and with raw loops. Runs every case with every subject, in turn,
//! several times; then writes a table, the raw figures, and plots.

mod json;
mod machine;
mod plot;
mod run;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{Run, cargo, root};
use crate::{Done, Stop};
use json::{field, text};
use machine::Machine;

/// The parsed arguments.
#[derive(Debug, PartialEq)]
struct Options {
    /// The cases, or what their names begin with and a `*`; empty means all.
    cases: Vec<String>,
    /// The subjects; empty means all.
    subjects: Vec<String>,
    rounds: usize,
    seconds: f64,
    /// The number of entries of the large logs.
    entries: u64,
    /// The number of GiB that are written and deleted before the first case.
    warm: u64,
    out: PathBuf,
    data: PathBuf,
    /// Whether the page and its plots replace those of the repository.
    keep: bool,
}

/// The directory of the page and the plots in the repository. It is outside the crates, which need
/// not ship them. Hosting sites show the page with the directory.
const KEPT: &str = "benches/plots";

/// One of the workloads, as listed by the program that runs them.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    name: String,
    what: String,
    unit: String,
    /// Whether less is better.
    less: bool,
    level: String,
    subjects: Vec<String>,
}

/// The outcome of a subject in all rounds of a case.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// One line of JSON for each round.
    Figures(Vec<String>),
    /// The reason why it does not have the operation, or not with that guarantee.
    None(String),
    Failed(String),
}

/// A case and its outcomes, in the order of its subjects.
struct Results {
    case: Case,
    outcomes: Vec<(String, Outcome)>,
}

pub(crate) fn peers(arguments: &[String]) -> Done {
    let options = Options::parse(arguments).map_err(Stop::Usage)?;
    let program = build()?;
    let cases = options.chosen(listed(&program)?)?;
    for dir in [&options.out, &options.data] {
        fs::create_dir_all(dir).map_err(|error| Stop::Failed(format!("cannot make {}: {error}", dir.display())))?;
    }
    let machine = Machine::of(&options.data);
    let mut all = run::Runner::new(&program, &options, &cases)?;
    let mut results = Vec::new();
    for case in &cases {
        results.push(all.case(case));
        // Done after each case, so that an interrupted comparison has written its results so far.
        write(&options, &machine, &results)?;
    }
    all.finish();
    if options.keep {
        keep(&root().join(KEPT), &machine, &options.conditions(), &results)?;
    }
    println!("{}", options.out.join("peers.md").display());
    let failed: Vec<String> = results.iter().flat_map(Results::failures).collect();
    if failed.is_empty() { Ok(()) } else { Err(Stop::Failed(failed.join("\nxtask: "))) }
}

/// Builds the program that runs one case with one subject, and returns its path.
fn build() -> Result<PathBuf, Stop> {
    let manifest = root().join("benches/peers/Cargo.toml");
    let target = root().join("target/peers");
    cargo(&["build", "--release", "--manifest-path", &manifest.to_string_lossy()])
        .env("CARGO_TARGET_DIR", &target.to_string_lossy())
        .done("building the peers")?;
    Ok(target.join("release/stratawal-peers"))
}

fn listed(program: &Path) -> Result<Vec<Case>, Stop> {
    let lines = Run::new(&program.to_string_lossy()).args(["list"]).output();
    let cases: Vec<Case> = lines.unwrap_or_default().lines().filter_map(Case::parse).collect();
    if cases.is_empty() { Err(Stop::Failed("the peers list no cases".to_owned())) } else { Ok(cases) }
}

fn write(options: &Options, machine: &Machine, results: &[Results]) -> Done {
    let out = &options.out;
    let conditions = options.conditions();
    put(out, "peers.md", &table::page(results, machine, &conditions))?;
    put(out, "peers-summary.md", &table::head(results, machine, &conditions))?;
    put(out, "peers-journal.md", &table::journal(results, machine, &conditions))?;
    put(out, "peers.json", &json::document(machine, &conditions, results))?;
    plots(out, machine, &conditions, results)
}

/// Writes the page and its plots in place of those of an earlier run, because figures of two runs
/// cannot be compared.
fn keep(dir: &Path, machine: &Machine, conditions: &str, results: &[Results]) -> Done {
    drop(fs::remove_dir_all(dir));
    fs::create_dir_all(dir).map_err(|error| Stop::Failed(format!("cannot make {}: {error}", dir.display())))?;
    put(dir, "README.md", &table::page(results, machine, conditions))?;
    plots(dir, machine, conditions, results)
}

fn plots(dir: &Path, machine: &Machine, conditions: &str, results: &[Results]) -> Done {
    for one in results {
        if let Some(svg) = plot::plot(one, machine, conditions) {
            put(dir, &one.case.plot_name(), &svg)?;
        }
    }
    Ok(())
}

fn put(dir: &Path, name: &str, text: &str) -> Done {
    let path = dir.join(name);
    fs::write(&path, text).map_err(|error| Stop::Failed(format!("cannot write {}: {error}", path.display())))
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            cases: Vec::new(),
            subjects: Vec::new(),
            rounds: 5,
            seconds: 3.0,
            entries: 4_000_000,
            warm: 4,
            out: root().join("target/bench"),
            data: root().join("target/peers/data"),
            keep: false,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if !argument.starts_with("--") {
                options.cases.push(argument.clone());
                continue;
            }
            if argument == "--help" {
                return Err("`cargo xtask help` shows the arguments of bench --peers; an unknown CASE lists all cases"
                    .to_owned());
            }
            if argument == "--keep" {
                options.keep = true;
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{argument} needs a value"))?;
            let wrong = |_| format!("{argument}: {value:?} is not a valid number");
            match argument.as_str() {
                "--subjects" => options.subjects = value.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = value.parse::<std::num::NonZeroUsize>().map_err(|_| wrong(()))?.get(),
                "--seconds" => options.seconds = value.parse().map_err(|_| wrong(()))?,
                "--entries" => options.entries = value.parse().map_err(|_| wrong(()))?,
                "--warm" => options.warm = value.parse().map_err(|_| wrong(()))?,
                "--out" => options.out = PathBuf::from(value),
                "--data" => options.data = PathBuf::from(value),
                other => return Err(format!("bench --peers has no {other}")),
            }
        }
        if !(0.01..=600.0).contains(&options.seconds) || options.entries < 10_000 {
            return Err("--seconds is between 0.01 and 600, --entries at least 10000".to_owned());
        }
        Ok(options)
    }

    /// Returns the requested cases with the requested subjects.
    fn chosen(&self, all: Vec<Case>) -> Result<Vec<Case>, Stop> {
        let names: Vec<String> = all.iter().map(|case| case.name.clone()).collect();
        let is = |name: &str, wanted: &str| match wanted.strip_suffix('*') {
            Some(begins) => name.starts_with(begins),
            None => name == wanted,
        };
        let unknown = self.cases.iter().find(|wanted| !names.iter().any(|name| is(name, wanted)));
        if let Some(unknown) = unknown {
            return Err(Stop::Usage(format!("unknown case {unknown}; the cases are {}", names.join(" "))));
        }
        let known = |name: &&String| !all.iter().any(|case| case.subjects.contains(name));
        if let Some(unknown) = self.subjects.iter().find(known) {
            return Err(Stop::Usage(format!("unknown subject {unknown}")));
        }
        let mut cases = all;
        cases.retain(|case| self.cases.is_empty() || self.cases.iter().any(|wanted| is(&case.name, wanted)));
        for case in &mut cases {
            case.subjects.retain(|name| self.subjects.is_empty() || self.subjects.contains(name));
        }
        Ok(cases)
    }

    /// Returns a description of the conditions of the measurement.
    fn conditions(&self) -> String {
        let rounds = if self.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", self.rounds) };
        let entries = table::figure(self.entries as f64);
        format!(
            "{rounds} of {} s, in turn, each in its own process; large logs have {entries} entries, those that are scanned \
             or weighed a quarter of that, those with entries of 1 KiB a sixteenth",
            self.seconds
        )
    }
}

impl Case {
    fn parse(line: &str) -> Option<Self> {
        Some(Self {
            name: text(line, "case")?,
            what: text(line, "what")?,
            unit: text(line, "unit")?,
            less: text(line, "better")? == "less",
            level: text(line, "level")?,
            subjects: text(line, "subjects")?.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// Returns the name used in file names.
    fn file_name(&self) -> String {
        self.name.replace('/', "-")
    }

    fn plot_name(&self) -> String {
        format!("peers-{}.svg", self.file_name())
    }

    fn better(&self) -> &'static str {
        if self.less { "less is better" } else { "more is better" }
    }
}

impl Outcome {
    /// Returns the values of one figure in all rounds.
    fn figures(&self, name: &str) -> Vec<f64> {
        match self {
            Self::Figures(lines) => lines.iter().filter_map(|line| field(line, name)?.parse().ok()).collect(),
            _ => Vec::new(),
        }
    }

    fn spread(&self, name: &str) -> Option<table::Spread> {
        table::Spread::of(self.figures(name))
    }
}

impl Results {
    fn failures(&self) -> Vec<String> {
        let failed = self.outcomes.iter().filter_map(|(subject, outcome)| match outcome {
            Outcome::Failed(why) => Some(format!("{} by {subject} failed: {why}", self.case.name)),
            _ => None,
        });
        failed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(&arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>())
    }

    pub(super) fn case() -> Case {
        let line = r#"{"case":"W3/8","what":"8 \"threads\"","unit":"acks","better":"more","level":"synced","subjects":"raw stratawal a b"}"#;
        Case::parse(line).unwrap()
    }

    /// Three rounds with three subjects, one subject without figures, and one that failed.
    pub(super) fn results() -> Results {
        let line = |subject: &str, value: f64| {
            format!(
                r#"{{"case":"W3/8","subject":"{subject}","value":{value},"p50_ns":2000,"extra <b>":1.5,"note":"a & b"}}"#
            )
        };
        let figures = |subject: &str, values: [f64; 3]| {
            (subject.to_owned(), Outcome::Figures(values.map(|value| line(subject, value)).to_vec()))
        };
        let outcomes = vec![
            figures("raw", [100.0, 120.0, 90.0]),
            figures("stratawal", [80.0, 75.0, 90.0]),
            figures("ironwal", [40.0, 8.0, 50.0]),
            ("b".to_owned(), Outcome::None("it has \"none\"".to_owned())),
            ("c".to_owned(), Outcome::Failed("it | broke".to_owned())),
        ];
        Results { case: case(), outcomes }
    }

    #[test]
    fn arguments_are_cases_and_options() {
        let options = parse(&["W3/8", "--rounds", "2", "W5", "--seconds", "0.5", "--out", "o"]).unwrap();
        assert_eq!(options.cases, ["W3/8", "W5"]);
        assert_eq!((options.rounds, options.seconds, options.out.as_path()), (2, 0.5, Path::new("o")));
        assert_eq!(parse(&[]).unwrap().rounds, 5);
        assert!(!options.keep && parse(&["--keep", "W5"]).unwrap().keep);
        for wrong in [&["--rounds"][..], &["--rounds", "0"], &["--seconds", "x"], &["--seconds", "0"], &["--else", "1"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn kept_files_are_of_one_run() {
        let dir = std::env::temp_dir().join(format!("stratawal-kept-{}", std::process::id()));
        let names = || {
            let entries = fs::read_dir(&dir).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let mut one = results();
        one.case.name = "W9".to_owned();
        for (one, plot) in [(one, "peers-W9.svg"), (results(), "peers-W3-8.svg")] {
            assert!(keep(&dir, &Machine::default(), "two rounds", &[one]).is_ok());
            assert_eq!(names(), ["README.md", plot]);
            assert!(fs::read_to_string(dir.join("README.md")).unwrap().contains(&format!("({plot})")));
            assert!(fs::metadata(dir.join(plot)).unwrap().len() < 30_000);
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn unknown_cases_and_subjects_are_refused() {
        let chosen = |arguments: &[&str]| parse(arguments).unwrap().chosen(vec![case()]);
        assert!(chosen(&["W9"]).is_err());
        assert!(chosen(&["--subjects", "z"]).is_err());
        let cases = chosen(&["W3/8", "--subjects", "raw,a"]).ok().unwrap();
        assert_eq!(cases[0].subjects, ["raw", "a"]);
    }

    #[test]
    fn a_star_stands_for_the_end_of_a_name() {
        let chosen = |wanted: &str| parse(&[wanted]).unwrap().chosen(vec![case()]).ok().map(|cases| cases.len());
        assert_eq!(["W3/*", "W3/8*", "*", "W4*", "W3/"].map(chosen), [Some(1), Some(1), Some(1), None, None]);
    }

    #[test]
    fn a_listed_case_is_read() {
        let case = case();
        assert_eq!((case.what.as_str(), case.less, case.subjects.len()), ("8 \"threads\"", false, 4));
        assert_eq!(case.plot_name(), "peers-W3-8.svg");
    }
}
