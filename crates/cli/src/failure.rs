//! How a command ends that failed: an exit code, and one line with the cause, the place, and the
//! remedy.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use stratawal::{Error, ErrorKind, inspect};

use crate::{advice, json};

/// Exit code: done.
pub(crate) const DONE: u8 = 0;
/// Exit code: damage was met.
pub(crate) const DAMAGE: u8 = 1;
/// Exit code: the arguments are wrong.
pub(crate) const USAGE: u8 = 2;
/// Exit code: it could not run.
pub(crate) const FAILED: u8 = 3;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    kind: &'static str,
    message: String,
    stream: Option<String>,
    segment: Option<String>,
    offset: Option<u64>,
}

impl Failure {
    pub(crate) fn new(code: u8, kind: &'static str, message: impl Into<String>) -> Self {
        Self { code, kind, message: message.into(), stream: None, segment: None, offset: None }
    }

    /// Input or output of the command itself; `what` is a sentence without its end, and names the
    /// file.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self::new(FAILED, "io", format!("{what}: {error}; {}", remedy(error)))
    }

    /// An error of the log in `dir`, with the path that it concerns and the remedy.
    pub(crate) fn of_log(dir: &Path, error: &Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Damaged => DAMAGE,
            ErrorKind::InvalidName => USAGE,
            _ => FAILED,
        };
        let mut message = error.to_string();
        let path = path_of(dir, error).map(|path| path.display().to_string());
        // Errors about a name state its path, and some remedies, themselves.
        if let Some(path) = path.filter(|path| !message.contains(path)) {
            message.push_str(&format!("; path {path}"));
        }
        if let Some(advice) = advice(error).filter(|advice| !message.contains(advice)) {
            message.push_str(&format!("; {advice}"));
        }
        Self {
            code,
            kind: error.kind().as_str(),
            message,
            stream: error.stream().map(ToOwned::to_owned),
            segment: error.segment().map(ToOwned::to_owned),
            offset: error.offset(),
        }
    }

    /// This failure with another kind.
    pub(crate) fn of_kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    /// This failure as one of a stream.
    pub(crate) fn of_stream(self, stream: &str) -> Self {
        Self { stream: Some(stream.to_owned()), ..self }
    }

    pub(crate) fn unknown_stream(dir: &Path, stream: &str) -> Self {
        let text = format!("there is no stream {stream:?} in {}; `stratawal streams` lists them", dir.display());
        Self::new(FAILED, "missing", text).of_stream(stream)
    }

    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// This failure with one more thing that the user should know.
    pub(crate) fn with(self, more: Option<&str>) -> Self {
        match more {
            Some(more) => Self { message: format!("{}; {more}", self.message), ..self },
            None => self,
        }
    }

    /// Prints its one line on standard error. There is nowhere else to print it where that fails.
    pub(crate) fn print(&self, as_json: bool) {
        let line = if as_json { self.json() } else { format!("stratawal: {}", self.message.replace('\n', " ")) };
        // In one write, beside other processes that write there.
        let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
    }

    fn json(&self) -> String {
        format!(
            r#"{{"error":{{"kind":{},"message":{},"stream":{},"segment":{},"offset":{}}}}}"#,
            json::text(self.kind),
            json::text(&self.message),
            json::text_or_null(self.stream.as_deref()),
            json::text_or_null(self.segment.as_deref()),
            json::number_or_null(self.offset),
        )
    }
}

/// The file or directory that an error concerns, as far as that is known.
fn path_of(dir: &Path, error: &Error) -> Option<PathBuf> {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Full | ErrorKind::Poisoned | ErrorKind::Damaged | ErrorKind::NewerFormat => {}
        _ => return None,
    }
    let Some(stream) = error.stream() else { return Some(dir.to_owned()) };
    let stream = dir.join("streams").join(inspect::escape_name(stream).ok()?);
    Some(error.segment().map_or_else(|| stream.clone(), |segment| stream.join(segment)))
}

/// The remedy for an error, where the error itself does not state it.
fn advice(error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::Damaged => advice::about(error),
        ErrorKind::Io | ErrorKind::Poisoned => io_cause(error).map(|cause| remedy(cause).to_owned()),
        _ => None,
    }
}

/// The operating system's error that caused this one: the innermost, which has its number.
fn io_cause(error: &Error) -> Option<&io::Error> {
    let mut cause = std::error::Error::source(error);
    let mut found = None;
    while let Some(error) = cause {
        found = error.downcast_ref().or(found);
        cause = error.source();
    }
    found
}

/// The remedy for an error of the operating system.
fn remedy(error: &io::Error) -> &'static str {
    // Too many open files, in this process and in the system; std has no kinds for them.
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
        return "raise the limit of open files (`ulimit -n`)";
    }
    match error.kind() {
        io::ErrorKind::NotFound => "give a path that exists",
        io::ErrorKind::PermissionDenied => "give this user access to it",
        io::ErrorKind::IsADirectory => "give a file",
        io::ErrorKind::NotADirectory => "give a directory",
        io::ErrorKind::DirectoryNotEmpty => "move it away or remove it by hand",
        io::ErrorKind::StorageFull => "free some space",
        io::ErrorKind::QuotaExceeded => "free some space, or raise the quota",
        io::ErrorKind::FileTooLarge => "raise the limit of file sizes (`ulimit -f`)",
        io::ErrorKind::ReadOnlyFilesystem => "make its file system writable",
        io::ErrorKind::BrokenPipe => "keep its reader running",
        io::ErrorKind::OutOfMemory => "free some memory",
        _ => "look for its cause in the system's log, and repeat the command once that is repaired",
    }
}

/// A number and its unit.
pub(crate) fn counted(n: u64, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// A command whose reader has closed the output has done its work.
pub(crate) fn output(error: io::Error) -> Result<(), Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Ok(())
    } else {
        Err(Failure::io("cannot write to standard output", &error))
    }
}
