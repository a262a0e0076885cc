//! `stratawal streams`: lists the streams, as names, as a table or as JSON.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::time::SystemTime;

use stratawal::{Entry, ErrorKind, Options, Wal, inspect};

use crate::failure::{DAMAGE, DONE, FAILED, Failure, output};
use crate::name::pasteable;
use crate::table::{Align, Cell, Column, Table};
use crate::terminal::{Output, Tone};
use crate::{Common, human, json, signals, terminal};

/// The part of the help text about the output.
pub(crate) const JSON: &str = r#"A name is printed as every command takes it, and quoted as a shell needs it: orders, 'a b', $'tab\t', -- '-x'. With
--escaped, it is printed in the form of its directory, which a command takes after --escaped. A table that is wider than
the terminal leaves columns out. In it, and with --sort last, the first and the last entry of each stream are read.
With --json, a line for each stream, with its name as it is:
{"stream":"s","state":"ok","first":0,"next":100,"segments":1,"disk_bytes":65536}
`next` is one past the last entry. `state` is `damaged` if the stream cannot be opened, with `first` and `next` null;
only `verify` reads every entry."#;

/// The arguments of `streams`.
#[derive(Debug, clap::Args)]
pub(crate) struct Streams {
    #[command(flatten)]
    common: Common,
    /// Only the streams whose names begin with PREFIX.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only the streams whose files have at least SIZE, such as `64 MiB`.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = human::parse_bytes)]
    min_size: Option<u64>,
    /// The order of the streams.
    #[arg(long, value_enum, default_value = "name")]
    sort: Sort,
    /// Print a table, as on a terminal, even if standard output is not one. Otherwise a name a line
    /// is printed.
    #[arg(long, conflicts_with = "json")]
    table: bool,
    /// Print each name in the form that its directory has, like `a%20b`.
    #[arg(long)]
    escaped: bool,
    /// Print each stream's state, range and size as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// By the bytes of their names.
    Name,
    /// The one with the most entries first.
    Entries,
    /// The one with the largest files first.
    Bytes,
    /// The one that was appended to last first.
    Last,
}

/// A stream with the facts about it.
#[derive(Debug)]
struct Row {
    name: String,
    /// `None` if the stream cannot be opened.
    seqs: Option<(u64, u64)>,
    first_time: Option<SystemTime>,
    last_time: Option<SystemTime>,
    /// Whether no damage was found.
    is_sound: bool,
    segments: usize,
    bytes: u64,
}

impl Streams {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        signals::exit_on_interrupt()?;
        let wal = self.common.result(Options::new().open_read_only(&self.common.dir))?;
        let mut names = self.common.result(wal.streams())?;
        if let Some(prefix) = &self.prefix {
            names.retain(|name| name.starts_with(prefix));
        }
        if let Some(min) = self.min_size {
            let mut large = Vec::new();
            for name in names {
                if self.files(&name)?.1 >= min {
                    large.push(name);
                }
            }
            names = large;
        }
        let is_table = !self.json && (self.table || Output::Out.is_terminal());
        if names.is_empty() && is_table {
            let is_selected = self.prefix.is_some() || self.min_size.is_some();
            terminal::note(if is_selected { "the log has no such streams" } else { "the log has no streams" });
            return Ok(DONE);
        }
        if self.sort == Sort::Name && !is_table {
            return self.print_each(&wal, names);
        }
        let mut code = DONE;
        let mut rows = Vec::with_capacity(names.len());
        for name in names {
            rows.extend(self.row(&wal, name, &mut code));
        }
        self.sort(&mut rows);
        let printed = if is_table { self.print_table(&rows) } else { self.print_rows(&rows) };
        printed.or_else(output)?;
        Ok(code)
    }

    /// Prints the streams in the order of their names, each as soon as it was looked up.
    fn print_each(&self, wal: &Wal, names: Vec<String>) -> Result<u8, Failure> {
        let mut out = io::stdout().lock();
        let mut code = DONE;
        for name in names {
            let line = if self.json {
                let Some(row) = self.row(wal, name, &mut code) else { continue };
                row.json()
            } else {
                self.shown(&name)
            };
            if let Err(e) = writeln!(out, "{line}") {
                return output(e).map(|()| code);
            }
        }
        out.flush().or_else(output)?;
        Ok(code)
    }

    fn print_rows(&self, rows: &[Row]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for row in rows {
            let line = if self.json { row.json() } else { self.shown(&row.name) };
            writeln!(out, "{line}")?;
        }
        out.flush()
    }

    fn print_table(&self, rows: &[Row]) -> io::Result<()> {
        let now = SystemTime::now();
        // The columns with the highest numbers are left out first.
        let columns = [
            Column { heading: "STREAM", align: Align::Left, drop: 0 },
            Column { heading: "ENTRIES", align: Align::Right, drop: 1 },
            Column { heading: "FIRST", align: Align::Left, drop: 4 },
            Column { heading: "LAST", align: Align::Left, drop: 2 },
            Column { heading: "SEGMENTS", align: Align::Right, drop: 5 },
            Column { heading: "SIZE", align: Align::Right, drop: 3 },
            Column { heading: "STATE", align: Align::Left, drop: 0 },
        ];
        let mut table = Table::new(&columns);
        for row in rows {
            table.push(row.cells(&self.shown(&row.name), now));
        }
        let mut out = io::stdout().lock();
        table.print(&mut out, Output::Out)?;
        out.flush()
    }

    /// Returns the name of a stream as it is printed.
    fn shown(&self, name: &str) -> String {
        // Every stream of a log has a valid name.
        if self.escaped
            && let Ok(escaped) = inspect::escape_name(name)
        {
            escaped
        } else {
            pasteable(name)
        }
    }

    /// Returns the row of a stream, or `None` if it was deleted after it was listed, or cannot be
    /// read. Then the failure is printed. Changes the exit code if the stream is not sound.
    fn row(&self, wal: &Wal, name: String, code: &mut u8) -> Option<Row> {
        match self.look_up(wal, name) {
            Ok(row) => {
                if row.as_ref().is_some_and(|row| !row.is_sound) {
                    *code = DAMAGE;
                }
                row
            }
            Err(failure) => {
                failure.print(self.json);
                // Damage takes precedence over streams that could not be read.
                *code = if *code == DAMAGE { DAMAGE } else { FAILED };
                None
            }
        }
    }

    fn look_up(&self, wal: &Wal, name: String) -> Result<Option<Row>, Failure> {
        let mut row =
            Row { name, seqs: None, first_time: None, last_time: None, is_sound: false, segments: 0, bytes: 0 };
        match wal.stream(&row.name) {
            Ok(stream) if !stream.exists() => return Ok(None),
            Ok(stream) => {
                row.seqs = Some((stream.first_seq(), stream.next_seq()));
                row.is_sound = true;
                if !self.json || self.sort == Sort::Last {
                    // One after the other, because both may be large.
                    row.first_time = self.time_of(stream.iter(..).next().transpose(), &mut row.is_sound)?;
                    row.last_time = self.time_of(stream.last(), &mut row.is_sound)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::Damaged => {}
            Err(error) => return self.common.result(Err(error)),
        }
        let files = self.files(&row.name)?;
        row.segments = files.0;
        row.bytes = files.1;
        Ok(Some(row))
    }

    /// Returns the number of the segment files of a stream, and their bytes.
    fn files(&self, name: &str) -> Result<(usize, u64), Failure> {
        let files = self.common.result(inspect::segment_files(&self.common.dir, name))?;
        Ok((files.len(), files.iter().map(|file| file.bytes).sum()))
    }

    /// Returns the time of an entry, if it is not damaged.
    fn time_of(
        &self,
        entry: stratawal::Result<Option<Entry>>,
        is_sound: &mut bool,
    ) -> Result<Option<SystemTime>, Failure> {
        match entry {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                *is_sound = false;
                Ok(None)
            }
            entry => Ok(self.common.result(entry)?.map(|entry| entry.timestamp())),
        }
    }

    /// Sorts the rows, which are in the order of their names.
    fn sort(&self, rows: &mut [Row]) {
        match self.sort {
            Sort::Name => {}
            Sort::Entries => rows.sort_by_key(|row| Reverse(row.seqs.map(|(first, next)| next - first))),
            Sort::Bytes => rows.sort_by_key(|row| Reverse(row.bytes)),
            Sort::Last => rows.sort_by_key(|row| Reverse(row.last_time)),
        }
    }
}

impl Row {
    fn json(&self) -> String {
        // Damage that only the first or the last entry has is left to `verify`.
        let state = if self.seqs.is_some() { "ok" } else { "damaged" };
        format!(
            r#"{{"stream":{},"state":"{state}","first":{},"next":{},"segments":{},"disk_bytes":{}}}"#,
            json::text(&self.name),
            json::number_or_null(self.seqs.map(|(first, _)| first)),
            json::number_or_null(self.seqs.map(|(_, next)| next)),
            self.segments,
            self.bytes,
        )
    }

    fn cells(&self, name: &str, now: SystemTime) -> Vec<Cell> {
        let entry = |seq: u64, time: Option<SystemTime>| match time {
            Some(time) => format!("{seq} ({})", human::age(time, now)),
            None => seq.to_string(),
        };
        let unknown = || "?".to_owned();
        let (entries, first, last) = match self.seqs {
            Some((first, next)) if first == next => ("0".to_owned(), "-".to_owned(), "-".to_owned()),
            Some((first, next)) => {
                ((next - first).to_string(), entry(first, self.first_time), entry(next - 1, self.last_time))
            }
            None => (unknown(), unknown(), unknown()),
        };
        let state = if self.is_sound { ("ok", Tone::Good) } else { ("damaged", Tone::Bad) };
        vec![
            Cell::plain(name),
            Cell::plain(entries),
            Cell::plain(first),
            Cell::plain(last),
            Cell::plain(self.segments.to_string()),
            Cell::plain(human::bytes(self.bytes)),
            Cell::toned(state.0, state.1),
        ]
    }
}
