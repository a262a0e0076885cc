//! `stratawal cat`: prints entries as lines.

use std::io::{self, BufWriter, Write};

use stratawal::Entry;
use stratawal::inspect::{self, Readable};

use crate::around_damage::AroundDamage;
use crate::failure::{DONE, Failure, output};
use crate::name::Escaped;
use crate::{Common, json, signals};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"With --json, a line for each entry: {"seq":0,"time":"2025-01-01T00:00:00.000000Z","text":"…"}
("base64" instead of "text" if it is not UTF-8). A time after the year 9999, which this form cannot represent, is
"time":null,"unix_micros":253402300800000000, in microseconds since 1970.
With --skip-damage, also a line for each lost range: {"lost_first":0,"lost_last":9,"segment":"…"} (`lost_last` is
null if the number of lost entries is not known, and `segment` if no file is concerned). An entry that may have been
dropped by `truncate --from`, because the file that would show it is missing, has "uncertain":true."#;

/// The arguments of `cat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Cat {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// The stream.
    stream: String,
    /// Begin with this entry.
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// End before this entry.
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    /// Print only the last N of those.
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Print them in reverse, the last one first.
    #[arg(long)]
    reverse: bool,
    /// Print every readable entry, even after damage. Each lost range is reported as a note on
    /// standard error, and the exit code is then 1. Reads the stream from its beginning.
    #[arg(long, conflicts_with_all = ["last", "reverse"])]
    skip_damage: bool,
    /// Print each entry as JSON, with its seq and time.
    #[arg(long)]
    json: bool,
}

impl Cat {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        signals::exit_on_interrupt()?;
        let name = self.escaped.name(&self.stream)?;
        if self.skip_damage {
            return self.print_around_damage(&name);
        }
        let Readable { stream, damage, .. } = self.common.result(inspect::readable(&self.common.dir, &name))?;
        if !stream.exists() && damage.is_none() {
            return Err(Failure::unknown_stream(&self.common.dir, &name));
        }
        let first = stream.first_seq();
        let next = stream.next_seq();
        if let Some(from) = self.from
            && from < first
        {
            let note = format!("stratawal: note: the stream begins at {first}, not at {from}; beginning there\n");
            let _ = io::stderr().write_all(note.as_bytes());
        }
        let end = self.to.unwrap_or(next).min(next);
        let begin = self.from.unwrap_or(first).max(first);
        let begin = self.last.map_or(begin, |n| begin.max(end.saturating_sub(n)));
        let entries = stream.iter(begin..end.max(begin));
        let code = if self.reverse { self.print(entries.rev()) } else { self.print(entries) }?;
        match damage {
            // The entries before it have already been printed. The damage is an error unless the
            // range ends before it.
            Some(damage) if self.to.is_none_or(|to| to > next) => self.common.result(Err(damage)),
            _ => Ok(code),
        }
    }

    fn print(&self, entries: impl Iterator<Item = stratawal::Result<Entry>>) -> Result<u8, Failure> {
        let mut out = BufWriter::with_capacity(256 << 10, io::stdout().lock());
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    // Entries before the damage are printed first.
                    out.flush().or_else(output)?;
                    return self.common.result(Err(error));
                }
            };
            if let Err(e) = print_entry(&mut out, &entry, self.json, "") {
                return output(e).map(|()| DONE);
            }
        }
        out.flush().or_else(output)?;
        Ok(DONE)
    }

    fn print_around_damage(&self, name: &str) -> Result<u8, Failure> {
        let from = self.from.unwrap_or(0);
        let to = self.to.unwrap_or(u64::MAX);
        let items = self.common.result(inspect::salvage(&self.common.dir, name))?;
        let mut printer = AroundDamage::new(io::stdout().lock(), from..to, self.json);
        for item in items {
            let item = match item {
                Ok(item) => item,
                Err(error) => {
                    printer.end().or_else(output)?;
                    return self.common.result(Err(error));
                }
            };
            match printer.print(&item) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => return output(e).map(|()| printer.code()),
            }
        }
        printer.end().or_else(output)?;
        Ok(printer.code())
    }
}

/// Prints an entry as a line. `more` is appended to the fields of its JSON; each field begins with
/// a comma.
pub(crate) fn print_entry(out: &mut impl Write, entry: &Entry, as_json: bool, more: &str) -> io::Result<()> {
    if as_json {
        write!(out, r#"{{"seq":{},{},"#, entry.seq(), json::time(entry.timestamp()))?;
        json::write_data(out, entry.data())?;
        writeln!(out, "{more}}}")
    } else {
        out.write_all(entry.data())?;
        out.write_all(b"\n")
    }
}
