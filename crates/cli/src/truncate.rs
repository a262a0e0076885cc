//! `stratawal truncate` and `stratawal delete`: drop entries from either end of a stream, or the
//! whole stream.

use std::io::{self, Write};
use std::ops::Range;

use stratawal::{ErrorKind, Options, Wal};

use crate::failure::{DONE, Failure, USAGE, output};
use crate::name::{Escaped, pasteable};
use crate::plan::{Part, Plan};
use crate::writer::{closed, open_existing};
use crate::{Common, bounds, json, signals};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"Without --yes, nothing is changed, and no file of the log is opened for writing. --dry-run prints the same, with exit code 0.
With --yes --json, the remaining range: {"stream":"s","first":10,"next":100}
Without --yes: {"stream":"s","truncated":false,"first":10,"next":100,"drops":{"first":0,"last":9,"entries":10,"bytes":90,
"lost":0,"first_time":"…","last_time":"…","segments":1,"disk_bytes":4096}} (one line): `first` and `next` as they would be,
`lost` the entries of these that damage has already destroyed, `segments` and `disk_bytes` the files that go as a whole."#;

/// The options of the commands that drop entries.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Consent {
    /// Do it. Without this, the command prints what would go, changes nothing, and exits with 2.
    #[arg(long)]
    yes: bool,
    /// Print what would go, change nothing, and exit with 0, even with --yes.
    #[arg(long)]
    dry_run: bool,
}

impl Consent {
    const fn is_given(self) -> bool {
        self.yes && !self.dry_run
    }

    /// Prints what would go, and ends the command.
    fn refuse(self, common: &Common, plan: &Plan, as_json: bool) -> Result<u8, Failure> {
        let text = if as_json { format!("{{{}}}\n", plan.json(common)?) } else { plan.text(common)? };
        print(&text)?;
        if self.dry_run {
            return Ok(DONE);
        }
        Err(Failure::new(USAGE, "usage", "nothing was changed; repeat the command with --yes to drop this for good"))
    }
}

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
    #[command(flatten)]
    consent: Consent,
    /// Allow a --before that is beyond the end: the stream becomes empty, and its next entry has
    /// that seq.
    #[arg(long, requires = "before")]
    beyond_end: bool,
    /// Print the remaining range as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Where to truncate: exactly one of the two.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Drop the entries below this one.
    #[arg(long, value_name = "SEQ", allow_negative_numbers = true, value_parser = bounds::parse_number)]
    before: Option<u64>,
    /// Drop this entry and all after it.
    #[arg(long, value_name = "SEQ", allow_negative_numbers = true, value_parser = bounds::parse_number)]
    from: Option<u64>,
}

impl Truncate {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        let name = self.escaped.name(&self.stream)?;
        signals::exit_on_interrupt()?;
        let part = match self.place {
            Place { before: Some(first), .. } => Part::Before(first),
            Place { from, .. } => Part::From(from.expect("invariant: exactly one of the two is given")),
        };
        let plan = Plan::new(&self.common, &name, part)?;
        self.check_place(&name, part, plan.live())?;
        if !self.consent.is_given() {
            return self.consent.refuse(&self.common, &plan, self.json);
        }
        let wal = open_existing(&self.common)?;
        let (first, next) = self.truncate(&wal, &name, part)?;
        closed(&self.common, wal.close(), &name)?;
        if self.json {
            let name = json::text(&name);
            print(&format!("{{\"stream\":{name},\"first\":{first},\"next\":{next}}}\n"))?;
        } else {
            let _ = writeln!(io::stderr(), "stream {} now has {}", pasteable(&name), bounds::entries(first, next));
        }
        Ok(DONE)
    }

    /// Truncates the stream, and returns its first and next seq.
    fn truncate(&self, wal: &Wal, name: &str, part: Part) -> Result<(u64, u64), Failure> {
        // Again, because another process may have appended or truncated since the first look.
        match wal.stream(name) {
            Ok(stream) if !stream.exists() => return Err(Failure::unknown_stream(&self.common.dir, name)),
            Ok(stream) => self.check_place(name, part, stream.first_seq()..stream.next_seq())?,
            // Below `first`, damage does not prevent a truncation.
            Err(error) if error.kind() == ErrorKind::Damaged && matches!(part, Part::Before(_)) => {}
            Err(error) => return self.common.result(Err(error)),
        }
        if let Part::Before(first) = part {
            self.common.result(wal.truncate_before(name, first))?;
        }
        let stream = self.common.result(wal.stream(name))?;
        if let Part::From(next) = part {
            self.common.result(stream.truncate_from(next))?;
        }
        Ok((stream.first_seq(), stream.next_seq()))
    }

    /// Checks that a seq is not one that was probably mistyped: nothing is there.
    fn check_place(&self, name: &str, part: Part, live: Range<u64>) -> Result<(), Failure> {
        let shown = pasteable(name);
        let has = bounds::entries(live.start, live.end);
        let text = match part {
            Part::Before(first) if first > live.end && !self.beyond_end => format!(
                "--before {first} is beyond the end of stream {shown}, which has {has}; give a seq up to {}, which drops \
                 every entry, or add --beyond-end to drop every entry and go on with {first}",
                live.end
            ),
            Part::From(next) if !(live.start..=live.end).contains(&next) => format!(
                "--from {next} is not in stream {shown}, which has {has}; give a seq from {} to {}",
                live.start, live.end
            ),
            _ => return Ok(()),
        };
        Err(Failure::new(USAGE, "out_of_range", text).of_stream(name))
    }
}

/// The part of the help text about JSON.
pub(crate) const DELETE_JSON: &str = r#"Without --yes, nothing is changed, and no file of the log is opened for writing. --dry-run prints the same, with exit code 0.
With --yes --json: {"stream":"s","deleted":true}
Without --yes: {"stream":"s","deleted":false,"drops":{"first":0,"last":9,"entries":10,"bytes":90,"lost":0,
"first_time":"…","last_time":"…","segments":1,"disk_bytes":4096}} (one line): `lost` is the entries of these that damage has
already destroyed, `segments` and `disk_bytes` the files that go. "unread":true is added if a newer version wrote a part of
the stream, so that its entries are not counted."#;

/// The arguments of `delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// The stream.
    stream: String,
    #[command(flatten)]
    consent: Consent,
    /// Report the deletion as JSON on standard output.
    #[arg(long)]
    json: bool,
}

impl Delete {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        let name = self.escaped.name(&self.stream)?;
        signals::exit_on_interrupt()?;
        if !self.consent.is_given() {
            let plan = Plan::new(&self.common, &name, Part::All)?;
            return self.consent.refuse(&self.common, &plan, self.json);
        }
        // Not planned: a stream that cannot be read can still be deleted.
        let unknown = || Failure::unknown_stream(&self.common.dir, &name);
        let reader = self.common.result(Options::new().open_read_only(&self.common.dir))?;
        if !self.common.result(reader.streams())?.contains(&name) {
            return Err(unknown());
        }
        let wal = open_existing(&self.common)?;
        match wal.delete_stream(&name) {
            Err(error) if error.kind() == ErrorKind::Missing => return Err(unknown()),
            deleted => self.common.result(deleted)?,
        }
        closed(&self.common, wal.close(), &name)?;
        if self.json {
            print(&format!("{{\"stream\":{},\"deleted\":true}}\n", json::text(&name)))?;
        } else {
            let _ = writeln!(io::stderr(), "stream {} was deleted", pasteable(&name));
        }
        Ok(DONE)
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_else(output)
}
