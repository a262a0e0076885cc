//! `stratawal truncate` and `stratawal delete`: drop entries from either end of a stream, or the
//! whole stream.

use std::io::{self, Write};
use std::path::Path;

use stratawal::{ErrorKind, Options, Wal, inspect};

use crate::failure::{DONE, Failure, USAGE, output};
use crate::name::{Escaped, pasteable};
use crate::{Common, bounds, json, signals};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"With --json, the remaining range: {"stream":"s","first":10,"next":100}"#;

/// The arguments of `truncate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Truncate {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// The stream.
    stream: String,
    #[command(flatten)]
    place: Place,
    /// Print the remaining range as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Where to truncate: exactly one of the two.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Drop the entries below this one. If it is beyond the end, the stream becomes empty and
    /// continues from there.
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
    /// Drop this entry and all after it.
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
}

impl Truncate {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        let name = self.escaped.name(&self.stream)?;
        signals::exit_on_interrupt()?;
        let wal = open_existing(&self.common)?;
        if let Some(first) = self.place.before
            && self.common.result(wal.streams())?.contains(&name)
        {
            // This works even if damage below `first` prevents looking up the stream.
            self.common.result(wal.truncate_before(&name, first))?;
        }
        let stream = self.common.result(wal.stream(&name))?;
        if !stream.exists() {
            return Err(Failure::unknown_stream(&self.common.dir, &name));
        }
        if let Some(next) = self.place.from {
            self.common.result(stream.truncate_from(next))?;
        }
        let first = stream.first_seq();
        let next = stream.next_seq();
        self.common.result(wal.close())?;
        if self.json {
            let name = json::text(&name);
            print(&format!(r#"{{"stream":{name},"first":{first},"next":{next}}}"#))?;
        } else {
            let _ = writeln!(io::stderr(), "stream {} now has {}", pasteable(&name), bounds::entries(first, next));
        }
        Ok(DONE)
    }
}

/// The part of the help text about JSON.
pub(crate) const DELETE_JSON: &str = r#"With --json: {"stream":"s","deleted":true}"#;

/// The arguments of `delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// The stream.
    stream: String,
    /// Confirm that the stream is to be deleted with all its entries, for good.
    #[arg(long)]
    yes: bool,
    /// Report the deletion as JSON on standard output.
    #[arg(long)]
    json: bool,
}

impl Delete {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        let name = self.escaped.name(&self.stream)?;
        if !self.yes {
            let text = format!("add --yes to delete the stream {} with all its entries for good", pasteable(&name));
            return Err(Failure::new(USAGE, "usage", text));
        }
        signals::exit_on_interrupt()?;
        let wal = open_existing(&self.common)?;
        match wal.delete_stream(&name) {
            Err(error) if error.kind() == ErrorKind::Missing => {
                return Err(Failure::unknown_stream(&self.common.dir, &name));
            }
            deleted => self.common.result(deleted)?,
        }
        self.common.result(wal.close())?;
        if self.json {
            print(&format!(r#"{{"stream":{},"deleted":true}}"#, json::text(&name)))?;
        }
        Ok(DONE)
    }
}

/// Opens the log for writing if it exists. These commands do not create one.
fn open_existing(common: &Common) -> Result<Wal, Failure> {
    drop(common.result(Options::new().open_read_only(&common.dir))?);
    common.result(open_to_write(&common.dir))
}

/// Opens or creates the log for writing. A new log gets a commit journal. One that exists stays
/// with or without it, because a program that uses the log may have chosen that.
pub(crate) fn open_to_write(dir: &Path) -> stratawal::Result<Wal> {
    let options = Options::new();
    let is_new = options.open_read_only(dir).is_err_and(|error| error.kind() == ErrorKind::Missing);
    if is_new { options.open(dir) } else { options.journal(inspect::has_journal(dir)?).open(dir) }
}

fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).or_else(output)
}
