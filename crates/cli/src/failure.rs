//! How a failed command ends: with an exit code, and one line with the cause, the place and the
//! remedy.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use stratawal::{Error, ErrorKind, Options, inspect};

use crate::name::{self, pasteable, quoted};
use crate::terminal::{Output, Tone};
use crate::{advice, bounds, json, near, writer};

/// Exit code: success.
pub(crate) const DONE: u8 = 0;
/// Exit code: damage was found.
pub(crate) const DAMAGE: u8 = 1;
/// Exit code: the arguments are wrong.
pub(crate) const USAGE: u8 = 2;
/// Exit code: the command failed.
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
    /// The first and the last of the entries that the command had appended before. In a box,
    /// because few failures have it.
    appended: Option<Box<(u64, u64)>>,
}

impl Failure {
    pub(crate) fn new(code: u8, kind: &'static str, message: impl Into<String>) -> Self {
        Self { code, kind, message: message.into(), stream: None, segment: None, offset: None, appended: None }
    }

    /// Creates a failure of the command's own input or output. `what` is the message before the
    /// cause, and names the file.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self::new(FAILED, "io", format!("{what}: {error}; {}", remedy(error)))
    }

    /// Creates a failure from an error of the log in `dir`, with the path that it concerns and the
    /// remedy.
    pub(crate) fn of_log(dir: &Path, error: &Error) -> Self {
        if let (ErrorKind::Missing, Some(stream)) = (error.kind(), error.stream()) {
            return Self::unknown_stream(dir, stream);
        }
        // The directory of a stream is not free, but that error has a better remedy.
        if error.kind() == ErrorKind::Missing
            && inspect::enclosing_log(dir).is_none()
            && let Some(other) = writer::other_file(dir)
        {
            return Self::not_a_log(dir, &other, "give the directory of a log");
        }
        let code = match error.kind() {
            ErrorKind::Damaged => DAMAGE,
            ErrorKind::InvalidName => USAGE,
            _ => FAILED,
        };
        let mut message = name::message_of(error);
        let path = path_of(dir, error).map(|path| path.display().to_string());
        // Errors about a name already state its path and, in some cases, the remedy.
        if let Some(path) = path.filter(|path| !message.contains(path)) {
            message.push_str(&format!("; path {path}"));
        }
        if let Some(advice) = advice(dir, error).filter(|advice| !message.contains(advice)) {
            message.push_str(&format!("; {advice}"));
        }
        Self {
            code,
            kind: error.kind().as_str(),
            message,
            stream: error.stream().map(ToOwned::to_owned),
            segment: error.segment().map(ToOwned::to_owned),
            offset: error.offset(),
            appended: None,
        }
    }

    /// Creates a failure for a directory that has the file `other`, and is not a log.
    pub(crate) fn not_a_log(dir: &Path, other: &OsStr, remedy: &str) -> Self {
        let other = Path::new(other).display();
        let text = format!("{} is not a log, and not empty: it has {other}; {remedy}", dir.display());
        Self::new(FAILED, "not_a_log", text)
    }

    /// Replaces the kind of this failure.
    pub(crate) fn of_kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    /// Sets the stream that this failure concerns.
    pub(crate) fn of_stream(self, stream: &str) -> Self {
        Self { stream: Some(stream.to_owned()), ..self }
    }

    pub(crate) fn unknown_stream(dir: &Path, stream: &str) -> Self {
        let near = Options::new().open_read_only(dir).ok().and_then(|wal| near::in_log(&wal, stream));
        let near = near.map_or_else(String::new, |near| format!(" did you mean {}?", pasteable(&near)));
        let dir = dir.display();
        let text = format!("there is no stream {} in {dir};{near} `stratawal streams` lists them", pasteable(stream));
        Self::new(FAILED, "missing", text).of_stream(stream)
    }

    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Adds `more`, if any, to the message of this failure.
    pub(crate) fn with(self, more: Option<&str>) -> Self {
        match more {
            Some(more) => Self { message: format!("{}; {more}", self.message), ..self },
            None => self,
        }
    }

    /// Sets the entries, if any, that were appended before this failure, and adds them to its
    /// message.
    pub(crate) fn after_appending(self, seqs: Option<(u64, u64)>) -> Self {
        let Some((first, last)) = seqs else { return self };
        let were = if first == last { "was" } else { "were" };
        let more = format!("{} {were} appended before that", bounds::entries(first, last + 1));
        Self { appended: seqs.map(Box::new), ..self }.with(Some(&more))
    }

    /// Prints the failure as one line on standard error. If that fails, nowhere else remains to
    /// print it.
    pub(crate) fn print(&self, as_json: bool) {
        let line = if as_json {
            self.json()
        } else {
            let start = Output::Err.paint(Tone::Bad, "stratawal:");
            format!("{start} {}", self.message.replace('\n', " "))
        };
        // One write, because other processes may write there too.
        let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
    }

    fn json(&self) -> String {
        let appended = self.appended.as_deref();
        let appended = appended.map(|(first, last)| format!(r#","appended":{{"first":{first},"last":{last}}}"#));
        format!(
            r#"{{"error":{{"kind":{},"message":{},"stream":{},"segment":{},"offset":{}{}}}}}"#,
            json::text(self.kind),
            json::text(&self.message),
            json::text_or_null(self.stream.as_deref()),
            json::text_or_null(self.segment.as_deref()),
            json::number_or_null(self.offset),
            appended.unwrap_or_default(),
        )
    }
}

/// Returns the file or directory that an error concerns, if known.
fn path_of(dir: &Path, error: &Error) -> Option<PathBuf> {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Full | ErrorKind::Poisoned | ErrorKind::Damaged | ErrorKind::NewerFormat => {}
        _ => return None,
    }
    let Some(stream) = error.stream() else { return Some(dir.to_owned()) };
    let stream = dir.join("streams").join(inspect::escape_name(stream).ok()?);
    Some(error.segment().map_or_else(|| stream.clone(), |segment| stream.join(segment)))
}

/// Returns the remedy for an error, unless the error itself states it.
fn advice(dir: &Path, error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::Damaged if error.stream().is_none() => {
            // The message about FORMAT names the command.
            let is_named = error.to_string().contains("repair");
            (!is_named).then(|| "or `repair` shows what can be kept".to_owned())
        }
        ErrorKind::Damaged => advice::about(error),
        ErrorKind::Missing | ErrorKind::Nested if error.stream().is_none() => inside_log(dir, error.kind()),
        ErrorKind::Locked => {
            Some("`cat`, `follow`, `streams`, `info`, `verify` and --dry-run work beside it".to_owned())
        }
        ErrorKind::Full if !is_removal(error) => {
            Some("`truncate --before` and `delete` make room in the log, also on a full disk".to_owned())
        }
        ErrorKind::Io | ErrorKind::Poisoned => io_cause(error).map(|cause| match cause.kind() {
            // A log that is not there yet is about to be created.
            io::ErrorKind::NotFound if !dir.exists() => "give a path where a directory can be created".to_owned(),
            _ => remedy(cause).to_owned(),
        }),
        _ => None,
    }
}

/// Returns whether the call that failed was to drop entries.
fn is_removal(error: &Error) -> bool {
    let message = error.to_string();
    ["cannot truncate", "cannot delete"].iter().any(|call| message.contains(call))
}

/// Returns the remedy if the directory given as a log is inside one: give the log itself.
fn inside_log(dir: &Path, kind: ErrorKind) -> Option<String> {
    let log = inspect::enclosing_log(dir)?;
    let inside = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let stream = inside.strip_prefix(log.join("streams")).ok().and_then(|name| inspect::unescape_name(name.to_str()?));
    let log = quoted(&log.display().to_string());
    match stream.map(|stream| pasteable(&stream)) {
        Some(name) => Some(format!("it is the directory of the stream {name} of the log {log}: give {log} {name}")),
        // The message names the log.
        None if kind == ErrorKind::Nested => None,
        None => Some(format!("it is inside the log {log}")),
    }
}

/// Returns the innermost I/O error that caused this one; it has the operating system's error
/// number.
fn io_cause(error: &Error) -> Option<&io::Error> {
    let mut cause = std::error::Error::source(error);
    let mut found = None;
    while let Some(error) = cause {
        found = error.downcast_ref().or(found);
        cause = error.source();
    }
    found
}

/// Returns the remedy for an operating-system error.
fn remedy(error: &io::Error) -> &'static str {
    // Too many open files, in this process or in the system. Std has no kinds for these.
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
        _ => "look for the cause in the system's log, and repeat the command once it is repaired",
    }
}

/// Formats a number with its unit.
pub(crate) fn counted(n: u64, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// Handles an error in writing the output. If the reader has closed the pipe, the command has
/// succeeded.
pub(crate) fn output(error: io::Error) -> Result<(), Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Ok(())
    } else {
        Err(Failure::io("cannot write to standard output", &error))
    }
}
