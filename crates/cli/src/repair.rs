//! `stratawal repair`: makes a log usable that opening refuses.

use std::io::{self, Write};

use stratawal::{ErrorKind, Options, inspect};

use crate::failure::{DONE, Failure, output};
use crate::{Common, signals};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"--adopt-copy is for a copy that was made while no process had the log open for writing, but before the log was closed, for
example because its process had died. A copy that was made while a process had the log open is of different times:
entries may be missing or mixed with others. Close the original, and copy it again.
With --json: {"adopted":true}, or false if the log needs no such repair: then nothing is changed.
A damaged journal is not repaired, and is an error"#;

/// The arguments of `repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    #[command(flatten)]
    common: Common,
    /// Use this copy of a log as a log of its own. No process may have had the original open for
    /// writing while it was copied.
    #[arg(long, required = true)]
    adopt_copy: bool,
    /// Report the repair as JSON on standard output.
    #[arg(long)]
    json: bool,
}

impl Repair {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        signals::exit_on_interrupt()?;
        let journal = self.common.result(inspect::verify_journal(&self.common.dir))?;
        let is_needed = match journal.and_then(|journal| journal.damage) {
            Some(copied) if copied.kind() == ErrorKind::Copied => self.adopt_copy,
            // No command repairs it.
            Some(damage) => return self.common.result(Err(damage)),
            None => false,
        };
        if is_needed {
            let wal = self.common.result(Options::new().adopt_copy(true).open(&self.common.dir))?;
            self.common.result(wal.close_fast())?;
        }
        if self.json {
            let mut out = io::stdout().lock();
            writeln!(out, r#"{{"adopted":{is_needed}}}"#).and_then(|()| out.flush()).or_else(output)?;
        } else {
            let done = if is_needed { "adopted" } else { "nothing to repair: no copy, or one of a closed log" };
            let _ = writeln!(io::stderr(), "{}: {done}", self.common.dir.display());
        }
        Ok(DONE)
    }
}
