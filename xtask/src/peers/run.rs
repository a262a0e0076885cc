//! Runs the cases one process at a time, subject by subject and round by round, so that changes in
//! the machine during the comparison affect all subjects.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::json::{field, text};
use super::{Case, Options, Outcome, Results};
use crate::run::{Run, wait};
use crate::{Done, Stop};

/// The time that a process may take in addition to the time that it measures.
const LIMIT: Duration = Duration::from_secs(600);

/// The case that needs the cores kept awake. A sync takes many times as long on a sleeping core,
/// and a single thread that syncs lets the cores sleep.
const AWAKE: &str = "W3/1";

pub(super) struct Runner {
    program: PathBuf,
    data: PathBuf,
    rounds: usize,
    seconds: f64,
    entries: u64,
    progress: Progress,
}

impl Runner {
    pub(super) fn new(program: &Path, options: &Options, cases: &[Case]) -> Result<Self, Stop> {
        let runs = cases.iter().map(|case| case.subjects.len()).sum::<usize>() * options.rounds;
        let mut progress = Progress::new(runs);
        if options.warm > 0 {
            progress.show(&format!("warming {} GiB of memory", options.warm));
            warm(program, &options.data, options.warm)?;
        }
        Ok(Self {
            program: program.to_owned(),
            data: options.data.clone(),
            rounds: options.rounds,
            seconds: options.seconds,
            entries: options.entries,
            progress,
        })
    }

    /// Runs all rounds of a case. A subject without a figure, or one that failed, is not run again.
    pub(super) fn case(&mut self, case: &Case) -> Results {
        let begun = |name: &String| (name.clone(), Outcome::Figures(Vec::new()));
        let mut outcomes: Vec<(String, Outcome)> = case.subjects.iter().map(begun).collect();
        for round in 1..=self.rounds {
            for (subject, outcome) in &mut outcomes {
                let Outcome::Figures(lines) = outcome else {
                    self.progress.done += 1;
                    continue;
                };
                self.progress.show(&format!("{}: round {round} of {}, {subject}", case.name, self.rounds));
                match self.one(case, subject) {
                    Ok(line) => match text(&line, "none") {
                        Some(why) => *outcome = Outcome::None(why),
                        None => lines.push(line),
                    },
                    Err(why) => {
                        self.progress.say(&format!("{} by {subject} failed: {why}", case.name));
                        *outcome = Outcome::Failed(why);
                    }
                }
                self.progress.done += 1;
            }
        }
        Results { case: case.clone(), outcomes }
    }

    pub(super) fn finish(&mut self) {
        self.progress.show("");
    }

    /// Runs one case with one subject, and returns its line.
    fn one(&self, case: &Case, subject: &str) -> Result<String, String> {
        let _awake = if case.name == AWAKE { Some(Awake::new(&self.program, self.seconds)?) } else { None };
        let mut child = Command::new(&self.program)
            .args([&case.name, subject])
            .arg(&self.data)
            .args([self.seconds.to_string(), self.entries.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        let ended = wait(&mut child, Some(LIMIT + Duration::from_secs_f64(self.seconds)));
        if ended.is_err() {
            drop(std::fs::remove_dir_all(self.data.join(format!("{subject}-{}", case.file_name()))));
        }
        let success = ended?.success();
        let mut out = String::new();
        let mut err = String::new();
        if let (Some(stdout), Some(stderr)) = (&mut child.stdout, &mut child.stderr) {
            drop((stdout.read_to_string(&mut out), stderr.read_to_string(&mut err)));
        }
        let line = out.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        let has_result = field(line, "value").is_some() || field(line, "none").is_some();
        if success && has_result {
            return Ok(line.to_owned());
        }
        Err(err.lines().next().unwrap_or("it printed no error").to_owned())
    }
}

fn warm(program: &Path, data: &Path, gib: u64) -> Done {
    let data = data.to_string_lossy();
    let gib = gib.to_string();
    Run::new(&program.to_string_lossy()).args(["warm", &*data, &*gib]).done("warming the memory")
}

/// Two busy loops at the lowest priority, one for each core of the machines used for measuring.
struct Awake([Child; 2]);

impl Awake {
    fn new(program: &Path, seconds: f64) -> Result<Self, String> {
        // They end after that time, even if this process is killed.
        let seconds = (seconds + 120.0).to_string();
        let busy = || {
            let mut command = Command::new("nice");
            command.args(["-n", "19"]).arg(program).args(["busy", &seconds]);
            command.spawn().map_err(|error| format!("cannot run nice: {error}"))
        };
        let loops = Self([busy()?, busy()?]);
        // Waits until each loop has its own core.
        std::thread::sleep(Duration::from_millis(200));
        Ok(loops)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Shows the progress on standard error.
struct Progress {
    began: Instant,
    runs: usize,
    done: usize,
    terminal: bool,
}

impl Progress {
    fn new(runs: usize) -> Self {
        Self { began: Instant::now(), runs, done: 0, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, what: &str) {
        let left = match self.done {
            0 => String::new(),
            done => {
                let each = self.began.elapsed().as_secs_f64() / done as f64;
                format!(", about {:.0} min left", (each * (self.runs - done) as f64 / 60.0).ceil())
            }
        };
        match (self.terminal, what) {
            (true, "") => eprint!("\r{:80}\r", ""),
            (true, _) => eprint!("\r{:80}", format!("[{}/{}] {what}{left}", self.done, self.runs)),
            (false, "") => {}
            (false, _) => eprintln!("[{}/{}] {what}{left}", self.done, self.runs),
        }
    }

    fn say(&self, what: &str) {
        eprintln!("{}{what:80}", if self.terminal { "\r" } else { "" });
    }
}
