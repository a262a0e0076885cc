//! Runs the command.
#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod damaged;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use stratawal_testkit::Disk;
use tempfile::TempDir;

/// The result of one run of the command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let err = String::from_utf8(output.stderr).expect("messages are text");
        Self { code: output.status.code().unwrap_or(-1), out: output.stdout, err }
    }
}

impl Ran {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("text")
    }

    /// Returns the last line of standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.text().lines().last().expect("a line")).expect("JSON")
    }

    /// Returns the error that `--json` prints.
    pub(crate) fn error(&self) -> serde_json::Value {
        let lines: Vec<_> = self.err.lines().collect();
        assert_eq!(lines.len(), 1, "{:?}", self.err);
        serde_json::from_str::<serde_json::Value>(lines[0]).expect("JSON")["error"].clone()
    }
}

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stratawal"))
}

/// A log, which may not exist yet.
pub(crate) struct Log {
    dir: TempDir,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `stratawal COMMAND DIR ARGUMENTS…` with `input`.
    pub(crate) fn run<I: AsRef<OsStr>>(&self, name: &str, arguments: impl IntoIterator<Item = I>, input: &[u8]) -> Ran {
        let mut child = command()
            .arg(name)
            .arg(self.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // A command that does not read its input closes it.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap().into()
        })
    }

    pub(crate) fn append(&self, stream: &str, input: &[u8]) -> Ran {
        let ran = self.run("append", [stream], input);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran
    }

    pub(crate) fn cat(&self, stream: &str) -> Vec<u8> {
        let ran = self.run("cat", [stream], b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    }

    /// Returns the stream's segment files, oldest first.
    pub(crate) fn segments(&self, stream: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.path().join("streams").join(stream))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .collect();
        files.sort();
        files
    }
}

/// Returns all files below a directory with their bytes.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.insert(path.clone(), Vec::new());
                dirs.push(path);
            } else {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Copies a log from a simulated disk to the real one.
pub(crate) fn copy(disk: &Disk, log: &str, to: &Path) {
    for (path, _) in disk.files() {
        let target = to.join(Path::new(&path).strip_prefix(log).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, disk.bytes(Path::new(&path)).unwrap()).unwrap();
    }
}
