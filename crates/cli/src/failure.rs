//! How a command ends that could not do what was asked: an exit code, and one line that says what, where, what to do.

use std::io::{self, Write};

use stratawal::{Error, ErrorKind};

use crate::json;

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

    /// Input or output of the command itself; `what` is a sentence without its end.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self::new(FAILED, "io", format!("{what}: {error}"))
    }

    pub(crate) fn unknown_stream(dir: &std::path::Path, stream: &str) -> Self {
        let text = format!("there is no stream {stream:?} in {}; `stratawal streams` lists them", dir.display());
        Self { stream: Some(stream.to_owned()), ..Self::new(FAILED, "missing", text) }
    }

    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    /// The same, with one more thing that the user should know.
    pub(crate) fn with(self, more: Option<&str>) -> Self {
        match more {
            Some(more) => Self { message: format!("{}; {more}", self.message), ..self },
            None => self,
        }
    }

    /// Prints its one line on standard error. There is nobody to tell where that fails.
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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Damaged => DAMAGE,
            ErrorKind::InvalidName => USAGE,
            _ => FAILED,
        };
        let advice = match error.kind() {
            ErrorKind::Damaged if error.stream().is_some() => {
                "; `verify` tells all that is lost, `cat` prints what precedes it; restore the files from a copy, or `delete` \
                 the stream"
            }
            _ => "",
        };
        Self {
            code,
            kind: error.kind().as_str(),
            message: format!("{error}{advice}"),
            stream: error.stream().map(ToOwned::to_owned),
            segment: error.segment().map(ToOwned::to_owned),
            offset: error.offset(),
        }
    }
}

/// A number and what it is of.
pub(crate) fn counted(n: u64, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// A command whose output nobody reads any more has done its work.
pub(crate) fn output(error: io::Error) -> Result<(), Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Ok(())
    } else {
        Err(Failure::io("cannot write to standard output", &error))
    }
}
