//! `stratawal cat`: prints the entries of a stream.

use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use stratawal::inspect::{self, Readable};
use stratawal::{Entry, Stream};

use crate::around_damage::AroundDamage;
use crate::failure::{DONE, Failure, counted, output};
use crate::follow::Following;
use crate::form::{Form, FormOptions};
use crate::name::Escaped;
use crate::selection::{self, Selection};
use crate::{Common, bounds, form, human, signals, terminal};

const JSON: &str = r#"With --json, a line for each entry: {"seq":0,"time":"2025-01-01T00:00:00.000000Z","text":"…"}
("base64" instead of "text" if it is not UTF-8). A time after the year 9999, which this form cannot represent, is
"time":null,"unix_micros":253402300800000000, in microseconds since 1970.
With --skip-damage, also a line for each lost range: {"lost_first":0,"lost_last":9,"segment":"…"} (`lost_last` is
null if the number of lost entries is not known, and `segment` if no file is concerned). An entry that may have been
dropped by `truncate --from`, because the file that would show it is missing, has "uncertain":true.
With --follow, the lines are those of `follow`."#;

/// Returns the part of the help text about the output.
pub(crate) fn help() -> String {
    format!("{}\n\n{}\n\n{JSON}", form::FORMAT, selection::TIMES)
}

/// The arguments of `cat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Cat {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// The stream.
    stream: String,
    /// End before this entry.
    #[arg(long, value_name = "SEQ", allow_hyphen_values = true, value_parser = selection::parse_seq)]
    to: Option<u64>,
    #[command(flatten)]
    selection: Selection,
    /// Print them in reverse, the last one first.
    #[arg(long)]
    reverse: bool,
    /// Print every readable entry, even after damage. Each lost range is reported as a note on
    /// standard error, and the exit code is then 1. Reads the stream from its beginning.
    #[arg(long, conflicts_with_all = ["last", "reverse"])]
    skip_damage: bool,
    /// Then wait for new entries and print them, like `follow`.
    #[arg(long, short = 'f', conflicts_with_all = ["to", "reverse", "skip_damage"])]
    follow: bool,
    #[command(flatten)]
    form: FormOptions,
}

/// Prints the selected entries of a stream, and counts them.
#[derive(Clone, Debug)]
pub(crate) struct Printer {
    stream: String,
    form: Form,
    selection: Selection,
    printed: Arc<AtomicU64>,
}

impl Printer {
    pub(crate) const fn is_json(&self) -> bool {
        self.form.is_json()
    }

    /// Prints an entry if it is selected, and returns whether it is. `more` is appended to the
    /// fields of its JSON; each field begins with a comma.
    pub(crate) fn print(&self, out: &mut impl Write, entry: &Entry, more: &str) -> io::Result<bool> {
        if !self.selection.has(entry) {
            return Ok(false);
        }
        self.form.print(out, &self.stream, entry, more)?;
        self.printed.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}

impl Cat {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        let name = self.escaped.name(&self.stream)?;
        if self.follow {
            let common = self.common.clone();
            return Following::of_streams(common, vec![name], self.selection.clone(), &self.form).run();
        }
        let printed = Arc::<AtomicU64>::default();
        note_on_interrupt(&printed, self.form.is_json())?;
        let printer = Printer { stream: name, form: self.form.of_one(), selection: self.selection.clone(), printed };
        if self.skip_damage { self.print_around_damage(printer) } else { self.print(&printer) }
    }

    fn print(&self, printer: &Printer) -> Result<u8, Failure> {
        let dir = &self.common.dir;
        let Readable { stream, damage, .. } = self.common.result(inspect::readable(dir, &printer.stream))?;
        if !stream.exists() && damage.is_none() {
            return Err(Failure::unknown_stream(dir, &printer.stream));
        }
        if let Some(note) = later_begin(&self.selection, &stream) {
            terminal::note(&note);
        }
        let next = stream.next_seq();
        let end = self.common.result(self.selection.end(&stream, self.to))?;
        let begin = self.common.result(self.selection.begin(&stream))?;
        if begin >= end && damage.is_none() {
            self.note_nothing(&stream);
        }
        let begin = self.common.result(self.selection.begin_of_last(&stream, begin, end))?;
        let code = self.print_range(printer, &stream, begin..end.max(begin))?;
        // The damage is an error unless the range ends before it.
        let is_before_damage = self.to.is_some_and(|to| to <= next) || self.selection.until.is_some() && end < next;
        match damage {
            Some(damage) if !is_before_damage => self.common.result(Err(damage)),
            _ => Ok(code),
        }
    }

    fn print_range(&self, printer: &Printer, stream: &Stream, seqs: Range<u64>) -> Result<u8, Failure> {
        let entries = stream.iter(seqs);
        if self.reverse { self.print_all(printer, entries.rev()) } else { self.print_all(printer, entries) }
    }

    fn print_all(
        &self,
        printer: &Printer,
        entries: impl Iterator<Item = stratawal::Result<Entry>>,
    ) -> Result<u8, Failure> {
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
            if let Err(e) = printer.print(&mut out, &entry, "") {
                return output(e).map(|()| DONE);
            }
        }
        out.flush().or_else(output)?;
        Ok(DONE)
    }

    fn print_around_damage(&self, printer: Printer) -> Result<u8, Failure> {
        let from = self.selection.from.unwrap_or(0);
        let to = self.to.unwrap_or(u64::MAX);
        let items = self.common.result(inspect::salvage(&self.common.dir, &printer.stream))?;
        let mut printer = AroundDamage::new(io::stdout().lock(), from..to, printer);
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

    /// Prints a note on why nothing is printed, if the user asked for a range.
    fn note_nothing(&self, stream: &Stream) {
        if !self.selection.has_bounds() && self.to.is_none() {
            return;
        }
        let has = bounds::entries(stream.first_seq(), stream.next_seq());
        // Only for the note, so an error is left to a command that reads the entry. Read one after
        // the other, because both may be large.
        let time_of = |entry: Option<Entry>| entry.map(|entry| entry.timestamp());
        let first = stream.iter(..).next().and_then(Result::ok);
        let times = match (time_of(first), time_of(stream.last().unwrap_or_default())) {
            (Some(first), Some(last)) => times(first, last),
            _ => String::new(),
        };
        terminal::note(&format!("nothing is in that range; the stream has {has}{times}"));
    }
}

/// Returns the times of the entries of a stream in words.
fn times(first: SystemTime, last: SystemTime) -> String {
    let age = human::age(last, SystemTime::now());
    format!(", of {} to {} (the last one {age})", human::time(first), human::time(last))
}

/// Returns a note if the entries that were asked for begin before the stream does.
pub(crate) fn later_begin(selection: &Selection, stream: &Stream) -> Option<String> {
    let first = stream.first_seq();
    let from = selection.from.filter(|&from| from < first)?;
    Some(format!("the stream begins at {first}, not at {from}; beginning there"))
}

/// Has the number of printed entries noted if the command is interrupted. Errors are JSON with
/// `json`, and then there is no note.
fn note_on_interrupt(printed: &Arc<AtomicU64>, json: bool) -> Result<(), Failure> {
    let printed = Arc::clone(printed);
    signals::on_interrupt(json, move || {
        if !json {
            let printed = counted(printed.load(Ordering::Relaxed), "entry", "entries");
            signals::print_in_time(move || terminal::note(&format!("interrupted after {printed}")));
        }
        Ok(())
    })
}
