//! Runs other programs from the root of the workspace.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Done, Stop};

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    // Cargo sets this variable at run time. The path that was compiled in may be that of another
    // clone that shares the target directory.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), ToOwned::to_owned)
}

/// A program to run, and its time limit.
pub(crate) struct Run(Command, Option<Duration>);

/// Uses the cargo that runs this program.
pub(crate) fn cargo(arguments: &[&str]) -> Run {
    Run::new(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())).args(arguments)
}

/// Uses the cargo of another toolchain.
pub(crate) fn cargo_of(toolchain: &str, arguments: &[&str]) -> Run {
    Run::new("rustup").args(["run", toolchain, "cargo"]).args(arguments).without("CARGO").without("RUSTUP_TOOLCHAIN")
}

impl Run {
    pub(crate) fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root());
        Self(command, None)
    }

    /// Ends the program after `seconds`, which counts as a failure.
    pub(crate) fn limit(mut self, seconds: u64) -> Self {
        self.1 = Some(Duration::from_secs(seconds));
        self
    }

    /// Runs the program in the directory `dir`.
    pub(crate) fn within(mut self, dir: &Path) -> Self {
        self.0.current_dir(dir);
        self
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.env_remove(name);
        self
    }

    /// Runs the program. `what` names it in the error if it fails.
    pub(crate) fn done(self, what: &str) -> Done {
        succeeded(self.ended(what)?, what)
    }

    /// Runs the program and returns its exit status, unless it was ended at its limit.
    pub(crate) fn ended(mut self, what: &str) -> Result<ExitStatus, Stop> {
        let mut child = self.start(what)?;
        wait(&mut child, self.1).map_err(|why| Stop::Failed(format!("{what} {why}")))
    }

    fn start(&mut self, what: &str) -> Result<Child, Stop> {
        let program = self.0.get_program().to_owned();
        self.0.spawn().map_err(|error| Stop::Missing(format!("{what}: cannot run {program:?}: {error}")))
    }

    /// Runs the program and returns its standard output if it succeeds.
    pub(crate) fn output(mut self) -> Option<String> {
        self.0.stderr(Stdio::null());
        self.quiet("it").ok()
    }

    /// Runs the program and returns its standard output.
    pub(crate) fn quiet(self, what: &str) -> Result<String, Stop> {
        self.piped(what, false)
    }

    /// Runs the program, shows its standard output, and returns it.
    pub(crate) fn shown(self, what: &str) -> Result<String, Stop> {
        self.piped(what, true)
    }

    fn piped(mut self, what: &str, show: bool) -> Result<String, Stop> {
        self.0.stdout(Stdio::piped());
        let mut child = self.start(what)?;
        let stdout = child.stdout.take();
        // Read while the program runs, because with a full pipe it would wait forever.
        let reader = thread::spawn(move || stdout.map(|stdout| read(stdout, show)));
        let status = wait(&mut child, self.1).map_err(|why| Stop::Failed(format!("{what} {why}")))?;
        succeeded(status, what)?;
        let bytes = reader.join().ok().flatten().unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Calls `run` with each item, in as many threads as there are cores. After a failure, the other
/// items still run; the first failure, in the order of the items of one thread, is returned.
pub(crate) fn on_all_cores<T: Sync>(items: &[T], run: impl Fn(&T) -> Done + Sync) -> Done {
    let next = AtomicUsize::new(0);
    let take = || items.get(next.fetch_add(1, Ordering::Relaxed));
    let work = || std::iter::from_fn(take).map(&run).collect::<Vec<Done>>();
    let done: Vec<Done> = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from).min(items.len());
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("invariant: it does not panic")).collect()
    });
    done.into_iter().collect()
}

/// Reads to the end. Shows each chunk at once if `show` is set.
fn read(mut from: impl Read, show: bool) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        all.extend_from_slice(&chunk[..n]);
        if show {
            let mut out = std::io::stdout();
            drop((out.write_all(&chunk[..n]), out.flush()));
        }
    }
    all
}

fn succeeded(status: ExitStatus, what: &str) -> Done {
    if status.success() { Ok(()) } else { Err(Stop::Failed(format!("{what} failed ({status})"))) }
}

/// Waits for a process. After `limit`, ends the process and those that it has started.
pub(crate) fn wait(child: &mut Child, limit: Option<Duration>) -> Result<ExitStatus, String> {
    let Some(limit) = limit else { return child.wait().map_err(|error| error.to_string()) };
    let began = Instant::now();
    while began.elapsed() < limit {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error.to_string()),
        }
    }
    end(child.id());
    drop((child.kill(), child.wait()));
    Err(format!("took longer than {} s, and was ended", limit.as_secs_f64()))
}

/// Kills a process and its children. The process is stopped before its children are looked up, so
/// that it cannot start more. Without `/proc`, only the process itself is killed.
fn end(id: u32) {
    // Uses the shell's `kill`, because a program of that name may not be installed.
    let send = |signal: &str| drop(Command::new("sh").args(["-c", &format!("kill -{signal} {id}")]).status());
    send("STOP");
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    for children in children {
        children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(end);
    }
    send("KILL");
}

/// Returns the name of an installed toolchain that begins with `prefix`.
pub(crate) fn toolchain(prefix: &str) -> Option<String> {
    let list = Run::new("rustup").args(["toolchain", "list"]).output()?;
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Run {
        Run::new("sh").args(["-c", script])
    }

    fn why(done: Result<impl Sized, Stop>) -> String {
        match done {
            Err(Stop::Failed(why)) => why,
            _ => String::new(),
        }
    }

    #[test]
    fn a_program_over_its_limit_is_ended_with_its_children() {
        // The pipe stays open as long as any of these processes lives.
        let began = Instant::now();
        let done = shell("sh -c 'sleep 60; true' & sleep 60; true").limit(1).shown("the nap");
        assert_eq!(why(done), "the nap took longer than 1 s, and was ended");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_that_ends_in_time_is_not_affected() {
        assert!(shell("true").limit(60).done("it").is_ok());
        assert_eq!(why(shell("exit 3").limit(60).done("it")), why(shell("exit 3").done("it")));
        assert_eq!(shell("echo a").limit(60).quiet("it").ok().as_deref(), Some("a\n"));
    }
    #[test]
    fn each_item_runs_once_although_one_fails() {
        let ran = AtomicUsize::new(0);
        let fails = |&n: &usize| {
            ran.fetch_add(1 << n, Ordering::Relaxed);
            if n == 3 { Err(Stop::Failed("three".to_owned())) } else { Ok(()) }
        };
        assert_eq!(why(on_all_cores(&[0, 1, 2, 3, 4, 5], fails)), "three");
        assert_eq!(ran.load(Ordering::Relaxed), 0b11_1111);
        assert!(on_all_cores(&[0; 0], fails).is_ok());
    }
}
