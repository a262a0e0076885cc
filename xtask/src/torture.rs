//! Runs every harness for a whole night, and prints a table of the cases tried.
//!
//! A harness reports its volume in lines of standard output that begin with `volume: `. A harness
//! that reports none has not run, and that is a failure.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::run::Run;
use crate::{Done, Stop, fuzz, loom, memcheck, sim};

/// The approximate default duration on two cores.
const HOURS: f64 = 6.0;

/// The name of a harness, and a function that runs it and returns its volume.
type Harness<'a> = (&'static str, &'a dyn Fn() -> Result<Vec<String>, Stop>);

struct Row {
    harness: &'static str,
    volume: Vec<String>,
    took: Duration,
    found: &'static str,
}

pub(crate) fn torture(arguments: &[String]) -> Done {
    let hours = match arguments {
        [] => HOURS,
        [flag, hours] if flag == "--hours" => hours
            .parse()
            .ok()
            .filter(|&hours: &f64| hours > 0.0 && hours < 1e4)
            .ok_or_else(|| Stop::Usage("torture --hours takes a number above 0".to_owned()))?,
        _ => return Err(Stop::Usage("torture takes --hours H".to_owned())),
    };
    let plan = Plan::of(hours, fresh_seed());
    println!("seeds from {}; about {hours} hours", plan.seed);
    let harnesses: [Harness<'_>; 11] = [
        ("simulation: crashes and faults", &|| plan.simulation()),
        ("model: random programs", &|| plan.model()),
        ("damage sweep", &|| reported(sim::sweep_run())),
        ("kill -9", &|| plan.kills()),
        ("readers in another process", &|| plan.beside()),
        ("many streams", &|| reported(sim::streams_run(sim::STREAMS))),
        ("full file systems", &|| reported(sim::volumes_run())),
        ("models of concurrency", &|| loom::loom(&[]).map(|()| vec!["all, and their seeded faults".to_owned()])),
        ("seeded faults", &|| sim::seeded().map(|()| vec!["all found".to_owned()])),
        ("memory errors", &|| memcheck::memcheck().map(|()| vec!["codecs, index, segments, mapping".to_owned()])),
        ("fuzzing", &|| plan.fuzz()),
    ];
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (harness, run) in harnesses {
        println!("== {harness}");
        let began = Instant::now();
        let (volume, found) = match run() {
            Ok(volume) => (volume, "nothing"),
            Err(Stop::Missing(what)) => (vec![format!("skipped: {what}")], "-"),
            Err(Stop::Failed(what) | Stop::Usage(what)) => {
                failed.push(harness);
                (vec![what], "FAILED")
            }
        };
        rows.push(Row { harness, volume, took: began.elapsed(), found });
    }
    println!("\n{}", table(&rows));
    if failed.is_empty() { Ok(()) } else { Err(Stop::Failed(format!("found something: {}", failed.join(", ")))) }
}

/// How many cases each harness tries in the given time.
struct Plan {
    seed: u64,
    hours: f64,
}

impl Plan {
    const fn of(hours: f64, seed: u64) -> Self {
        Self { seed, hours }
    }

    /// Returns the number of cases for the hours of the plan, at least one.
    fn scaled(&self, per_hour: f64) -> u64 {
        (self.hours * per_hour).ceil() as u64
    }

    /// The simulation gets a third of the time, at about 4 seconds a seed on two cores for each of
    /// the three kinds of log.
    fn simulation(&self) -> Result<Vec<String>, Stop> {
        let to = self.seed + self.scaled(100.0);
        reported(sim::simulation_of_all_kinds(&format!("{}..{to}", self.seed)))
    }

    fn model(&self) -> Result<Vec<String>, Stop> {
        reported(sim::model_run(&self.scaled(60_000.0).to_string(), Some(&self.seed.to_string())))
    }

    fn kills(&self) -> Result<Vec<String>, Stop> {
        reported(sim::kills_run(&self.scaled(2_000.0).to_string()))
    }

    fn beside(&self) -> Result<Vec<String>, Stop> {
        reported(sim::beside_run(&self.scaled(120.0).to_string()))
    }

    fn fuzz(&self) -> Result<Vec<String>, Stop> {
        let targets = fuzz::targets();
        let seconds = self.scaled(1_200.0 / targets.len() as f64);
        fuzz::fuzz(&["--seconds".to_owned(), seconds.to_string()])?;
        Ok(vec![format!("{} targets, {seconds} s each", targets.len())])
    }
}

/// Runs a harness and returns the volume that it reported.
fn reported(run: Run) -> Result<Vec<String>, Stop> {
    let volume = volume_lines(&run.shown("the harness")?);
    if volume.is_empty() { Err(Stop::Failed("the harness reported no volume".to_owned())) } else { Ok(volume) }
}

fn volume_lines(printed: &str) -> Vec<String> {
    // The line may begin with output of the test harness.
    printed.lines().filter_map(|line| Some(line.split_once("volume: ")?.1.to_owned())).collect()
}

/// Returns a seed that differs from night to night. It is printed.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() % 1_000_000 * 1_000
}

fn table(rows: &[Row]) -> String {
    let mut text = "| harness | volume | minutes | found |\n|---|---|---|---|\n".to_owned();
    for Row { harness, volume, took, found } in rows {
        let minutes = took.as_secs_f64() / 60.0;
        text.push_str(&format!("| {harness} | {} | {minutes:.1} | {found} |\n", volume.join("; ").replace('|', "/")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_found_in_the_output_of_harnesses() {
        let printed = "running 1 test\ntest a ... volume: 3 crashes, seeds 1..2\nok\nvolume: 4 faults\n";
        assert_eq!(volume_lines(printed), ["3 crashes, seeds 1..2", "4 faults"]);
        assert!(volume_lines("test result: ok\n").is_empty());
    }

    #[test]
    fn the_table_is_one_of_markdown() {
        let row = Row {
            harness: "a",
            volume: vec!["1 | 2".to_owned(), "3".to_owned()],
            took: Duration::from_secs(90),
            found: "nothing",
        };
        assert_eq!(table(&[row]).lines().last(), Some("| a | 1 / 2; 3 | 1.5 | nothing |"));
    }

    #[test]
    fn a_short_night_still_tries_something() {
        assert_eq!(Plan::of(0.001, 0).scaled(600.0), 1);
    }
}
