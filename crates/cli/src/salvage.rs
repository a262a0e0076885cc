//! `stratawal salvage`: copies the intact entries of a damaged stream to streams of their own.

use std::io::{self, Write};
use std::ops::Range;

use stratawal::inspect::{self, Salvaged};
use stratawal::{Batch, Durability, Entry, Stream, Wal};

use crate::bounds::entries;
use crate::failure::{DAMAGE, DONE, FAILED, Failure, USAGE, counted, output};
use crate::name::{Escaped, message_of, pasteable};
use crate::writer::open_existing;
use crate::{Common, json, signals, terminal};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"Each run of intact entries that follow each other becomes the stream NAME.salvaged-N, which begins at N: the entries keep
their seqs and their batches. With --into, all of them go to one stream, and get new seqs from 0 on; the mapping is printed.
The damaged stream is not changed. Entries get the time at which they are copied; `cat --skip-damage --json` prints the times
that they had. Entries are uncertain if the damage hides whether `truncate --from` dropped them; they get runs of their own.
A salvage that was interrupted continues when it is repeated; with --into, `delete` the stream that it left first. A stream
of the same name with other entries is an error.
No process may have the log open for writing, unless with --dry-run.
With --json, in this order as far as there are any: a line for each run, one for each lost range, and one with the totals:
{"from_first":0,"from_last":9,"uncertain":false,"stream":"s.salvaged-0","first":0,"last":9,"entries":10,"bytes":100}
{"lost_first":10,"lost_last":12,"message":"…"}
{"runs":1,"lost_ranges":1,"entries":10,"bytes":100,"dry_run":false}
`lost_last` is null if it is not known. A sound stream has no runs here, and nothing is changed.
Exit code 1 means here that no intact entry is left."#;

/// The arguments of `salvage`.
#[derive(Debug, clap::Args)]
pub(crate) struct Salvage {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// The damaged stream.
    stream: String,
    /// Copy all intact entries to this one stream, which begins at 0. The entries get new seqs.
    #[arg(long, value_name = "NAME")]
    into: Option<String>,
    /// Print what would be copied, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the runs and the lost ranges as JSON.
    #[arg(long)]
    json: bool,
}

/// Intact entries that follow each other.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    /// The seqs that they have in the damaged stream.
    seqs: Range<u64>,
    /// The seq that the first of them gets.
    to: u64,
    bytes: u64,
    is_uncertain: bool,
}

/// Entries that cannot be read.
#[derive(Debug)]
struct Hole {
    first: u64,
    last: Option<u64>,
    message: String,
}

/// The intact entries of a stream, and the lost ranges.
#[derive(Debug, Default)]
struct Plan {
    runs: Vec<Run>,
    holes: Vec<Hole>,
}

impl Plan {
    /// The number of entries that are copied.
    fn copied(&self) -> u64 {
        self.runs.iter().map(|run| run.seqs.end - run.seqs.start).sum()
    }
}

impl Salvage {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        self.note_on_interrupt()?;
        let name = self.escaped.name(&self.stream)?;
        let into = self.into.as_deref().map(|into| self.escaped.name(into)).transpose()?;
        if into.as_ref() == Some(&name) {
            return Err(Failure::new(USAGE, "usage", "--into names the damaged stream itself; give another name"));
        }
        let plan = self.plan(&name, into.is_some())?;
        if plan.holes.is_empty() && !plan.runs.iter().any(|run| run.is_uncertain) {
            return self.report_sound(&name, &plan);
        }
        let targets: Vec<String> = plan.runs.iter().map(|run| target(&name, into.as_deref(), run)).collect();
        for target in &targets {
            self.common
                .result(inspect::escape_name(target))
                .map_err(|failure| failure.with(Some("give the new stream a shorter name with --into")))?;
        }
        if !self.dry_run && !plan.runs.is_empty() {
            self.copy(&name, &plan, &targets)?;
        }
        self.print(&plan, &targets).or_else(output)?;
        Ok(if plan.runs.is_empty() { DAMAGE } else { DONE })
    }

    /// Has a note printed if the command is interrupted, unless with `--json`.
    fn note_on_interrupt(&self) -> Result<(), Failure> {
        let json = self.json;
        let rest = match self.into {
            _ if self.dry_run => "nothing was changed",
            None => "repeat the command, and it continues",
            Some(_) => "repeat the command; if it finds a part of the copy, `delete` the stream of --into first",
        };
        signals::on_interrupt(json, move || {
            if !json {
                signals::print_in_time(move || terminal::note(&format!("interrupted; {rest}")));
            }
            Ok(())
        })
    }

    /// Reads the stream, and finds the runs of intact entries.
    fn plan(&self, name: &str, renumber: bool) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        let mut total = 0;
        for item in self.common.result(inspect::salvage(&self.common.dir, name))? {
            let (entry, is_uncertain) = match self.common.result(item)? {
                Salvaged::Entry(entry) => (entry, false),
                Salvaged::Uncertain(entry) => (entry, true),
                Salvaged::Lost(lost) => {
                    let last = lost.next_seq.map(|next| next.saturating_sub(1));
                    plan.holes.push(Hole { first: lost.first_seq, last, message: message_of(&lost.error) });
                    continue;
                }
                // A kind that a later version of the library adds.
                _ => continue,
            };
            let seq = entry.seq();
            let bytes = entry.data().len() as u64;
            match plan.runs.last_mut().filter(|run| run.seqs.end == seq && run.is_uncertain == is_uncertain) {
                Some(run) => {
                    run.seqs.end += 1;
                    run.bytes += bytes;
                }
                None => {
                    let to = if renumber { total } else { seq };
                    plan.runs.push(Run { seqs: seq..seq + 1, to, bytes, is_uncertain });
                }
            }
            total += 1;
        }
        Ok(plan)
    }

    /// Copies the runs of `plan` to `targets`, and makes them durable.
    fn copy(&self, name: &str, plan: &Plan, targets: &[String]) -> Result<(), Failure> {
        let wal = open_existing(&self.common).map_err(|failure| self.with_first_step(failure))?;
        let copied = self.copy_runs(&wal, name, plan, targets);
        // The streams that were copied to are closed, and so settled. The journal may have entries
        // of the damaged stream: they stay there, because its files are not to be changed.
        let has_others = wal.journal_report().is_some_and(|report| report.streams > 0);
        let closed = self.common.result(if has_others { wal.close_fast() } else { wal.close() });
        copied.and(closed)
    }

    /// Adds what comes first if the journal is damaged, because the log cannot be opened then.
    fn with_first_step(&self, failure: Failure) -> Failure {
        let journal = inspect::verify_journal(&self.common.dir).ok().flatten();
        let is_damaged = journal.is_some_and(|journal| journal.damage.is_some());
        failure.with(is_damaged.then_some(
            "or first `repair --apply` without --keep, which repairs the journal and cuts no stream, and then \
             `salvage`",
        ))
    }

    fn copy_runs(&self, wal: &Wal, name: &str, plan: &Plan, targets: &[String]) -> Result<(), Failure> {
        let mut items = self.common.result(inspect::salvage(&self.common.dir, name))?;
        for (run, target) in plan.runs.iter().zip(targets) {
            let end = if self.into.is_some() { plan.copied() } else { run.seqs.end };
            let mut copy = Copy::begin(self, wal, target, run, end)?;
            while copy.next < run.seqs.end {
                let entry = match items.next().map(|item| self.common.result(item)).transpose()? {
                    Some(Salvaged::Entry(entry)) if !run.is_uncertain => entry,
                    Some(Salvaged::Uncertain(entry)) if run.is_uncertain => entry,
                    Some(Salvaged::Lost(_)) => continue,
                    _ => return Err(changed(name)),
                };
                if entry.seq() != copy.next {
                    return Err(changed(name));
                }
                copy.push(self, &entry)?;
            }
            copy.end(self)?;
        }
        Ok(())
    }

    fn report_sound(&self, name: &str, plan: &Plan) -> Result<u8, Failure> {
        if self.json {
            self.print(&Plan::default(), &[]).or_else(output)?;
        } else {
            let seqs = plan
                .runs
                .first()
                .map_or_else(|| "it has no entries".to_owned(), |run| entries(run.seqs.start, run.seqs.end));
            let name = pasteable(name);
            let _ = writeln!(io::stderr(), "stream {name}: nothing to salvage, every entry can be read: {seqs}");
        }
        Ok(DONE)
    }

    fn print(&self, plan: &Plan, targets: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for (run, target) in plan.runs.iter().zip(targets) {
            let copied = run.to..run.to + (run.seqs.end - run.seqs.start);
            if self.json {
                writeln!(out, "{}", run_as_json(run, target, &copied))?;
                continue;
            }
            let uncertain = if run.is_uncertain { ", uncertain: `truncate --from` may have dropped them" } else { "" };
            let bytes = counted(run.bytes, "byte", "bytes");
            write!(out, "{} ({bytes}{uncertain}) -> {}", entries(run.seqs.start, run.seqs.end), pasteable(target))?;
            match &self.into {
                Some(_) => writeln!(out, ", {}", entries(copied.start, copied.end))?,
                None => writeln!(out)?,
            }
        }
        for Hole { first, last, message } in &plan.holes {
            if self.json {
                let last = json::number_or_null(*last);
                let message = json::text(message);
                writeln!(out, r#"{{"lost_first":{first},"lost_last":{last},"message":{message}}}"#)?;
                continue;
            }
            let range = last.map_or_else(
                || format!("entries from {first} on, how many is not known"),
                |last| entries(*first, last + 1),
            );
            writeln!(out, "{range}: lost: {}", message.replace('\n', " "))?;
        }
        let copied = plan.copied();
        let bytes: u64 = plan.runs.iter().map(|run| run.bytes).sum();
        let runs = plan.runs.len();
        let holes = plan.holes.len();
        if self.json {
            let dry_run = self.dry_run;
            writeln!(
                out,
                r#"{{"runs":{runs},"lost_ranges":{holes},"entries":{copied},"bytes":{bytes},"dry_run":{dry_run}}}"#
            )?;
        } else {
            let all = counted(copied, "entry", "entries");
            let ranges = counted(holes as u64, "lost range", "lost ranges");
            let note = match (self.dry_run, runs) {
                (_, 0) => "no intact entry is left; restore the files from a copy, or `delete` the stream",
                (true, _) => "nothing was copied; leave out --dry-run to copy them",
                (false, _) => "copied; the damaged stream is unchanged, and `repair` shows what it can keep",
            };
            writeln!(out, "{all}, {}, {ranges}: {note}", counted(bytes, "byte", "bytes"))?;
        }
        out.flush()
    }
}

/// The stream that a run is copied to.
fn target(name: &str, into: Option<&str>, run: &Run) -> String {
    into.map_or_else(|| format!("{name}.salvaged-{}", run.seqs.start), ToOwned::to_owned)
}

fn run_as_json(run: &Run, target: &str, copied: &Range<u64>) -> String {
    let Run { seqs, bytes, is_uncertain, .. } = run;
    format!(
        r#"{{"from_first":{},"from_last":{},"uncertain":{is_uncertain},"stream":{},"first":{},"last":{},"entries":{},"bytes":{bytes}}}"#,
        seqs.start,
        seqs.end - 1,
        json::text(target),
        copied.start,
        copied.end - 1,
        seqs.end - seqs.start,
    )
}

fn changed(name: &str) -> Failure {
    let text = format!("stream {}: it was changed while it was read; run the command again", pasteable(name));
    Failure::new(FAILED, "io", text).of_stream(name)
}

/// A run that is being copied.
struct Copy {
    stream: Stream,
    /// The seq that the next entry has in the damaged stream.
    next: u64,
    /// The new seq of the first entry of the run.
    to: u64,
    /// The seq that it has in the damaged stream.
    from: u64,
    /// The new stream already has the entries below this seq of its own.
    present: u64,
    batch: Batch,
}

impl Copy {
    /// Begins to copy a run to the stream `target`. Of one with the seqs of the damaged stream, any
    /// number of entries below `end` may be there. One with new seqs has the earlier runs, or the
    /// whole copy.
    fn begin(command: &Salvage, wal: &Wal, target: &str, run: &Run, end: u64) -> Result<Self, Failure> {
        let stream = command.common.result(wal.stream(target))?.with_durability(Durability::Buffered);
        if !stream.exists() && run.to > 0 {
            command.common.result(stream.truncate_before(run.to))?;
        }
        let present = stream.next_seq();
        let is_fitting = match command.into {
            // A stream of this name with the first of these entries may be another one.
            Some(_) => stream.first_seq() == 0 && (present == run.to || present == end),
            None => stream.first_seq() == run.to && (run.to..=end).contains(&present),
        };
        if !is_fitting {
            return Err(taken(target));
        }
        Ok(Self { stream, next: run.seqs.start, to: run.to, from: run.seqs.start, present, batch: Batch::new() })
    }

    /// Copies the entry, or checks that the stream has it.
    fn push(&mut self, command: &Salvage, entry: &Entry) -> Result<(), Failure> {
        self.next += 1;
        let seq = self.to + (entry.seq() - self.from);
        if seq < self.present {
            let found = command.common.result(self.stream.get(seq))?;
            let is_same =
                found.is_some_and(|found| found.data() == entry.data() && found.ends_batch() == entry.ends_batch());
            return if is_same { Ok(()) } else { Err(taken(self.stream.name())) };
        }
        if entry.ends_batch() && self.batch.is_empty() {
            // A long entry is in memory only once.
            return command.common.result(self.stream.append(entry)).map(drop);
        }
        self.batch.push(entry);
        if entry.ends_batch() { self.append(command) } else { Ok(()) }
    }

    fn append(&mut self, command: &Salvage) -> Result<(), Failure> {
        if !self.batch.is_empty() {
            command.common.result(self.stream.append_batch(&self.batch))?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Makes the run durable.
    fn end(mut self, command: &Salvage) -> Result<(), Failure> {
        self.append(command)?;
        command.common.result(self.stream.close())
    }
}

/// The error for a stream that exists and is not the copy.
fn taken(target: &str) -> Failure {
    let name = pasteable(target);
    let text = format!(
        "stream {name}: it exists, and is not a whole copy of these entries; nothing was added to it; `delete` it, or give another \
         name with --into"
    );
    Failure::new(FAILED, "exists", text).of_stream(target)
}
