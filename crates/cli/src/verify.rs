//! `stratawal verify`: checks that everything is present and intact.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use stratawal::inspect::{self, CheckState, JournalCheck, StreamCheck, VerifyOptions};
use stratawal::{DamageKind, Error, ErrorKind, Options, TornTail};

use crate::failure::{DAMAGE, DONE, FAILED, Failure, counted, output};
use crate::name::{self, Escaped};
use crate::terminal::{Output, Progress};
use crate::{Common, advice, bounds, human, json, signals};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"A stream is torn if bytes follow its last whole frame: either a crash left them, and the next open cuts them off, or a writer
is about to write there. They are not damage.
With --json, a line for each stream, then one with the totals:
{"stream":"s","state":"sound|torn|damaged","first":0,"next":100,"segments":1,"entries":100,"torn":null,"damage":[]}
{"streams":5,"sound":4,"torn":1,"damaged":0,"journal":"sound","entries":99,"bytes":8192,"seconds":0.01,"reserve_bytes":65536}
A log with a commit journal has this line before the totals:
{"journal":"sound|damaged|copied","records":9,"streams_that_need_it":1,"message":null}
`first` and `next` are null for a stream that damage keeps from opening; its files are read all the same. `entries` is the
number of entries that were read and are intact. A stream that cannot be read, for example because a newer version wrote
it, has the state "unread" and null in place of the numbers; the error is on standard error, and `unread` in the totals
counts these streams.
In the totals, `journal` is that state, or null without one, and `bytes` is the length of all files that were read, those of
the journal included. `message` has the damage of the journal in words, and what to do.
`reserve_bytes` is the disk space that the log holds for truncating, deleting and closing on a full disk: 65536 if it is
complete. The log restores it when it is used and space is free; holding less is not damage.
`torn` is null or {"segment":"…","offset":0,"bytes":0}; each damage is
{"segment":"…","offset":0,"kind":"…","lost_first":0,"lost_last":9,"message":"…"}, with null for what is not known.
On a terminal, a line shows how far it is, how fast, and the time left."#;

/// The arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// Only this stream.
    stream: Option<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default)]
struct Counts {
    sound: u64,
    torn: u64,
    damaged: u64,
    /// The number of streams that could not be read.
    unread: u64,
    entries: u64,
    /// The state of the journal, if the log has one.
    journal: Option<&'static str>,
}

impl Counts {
    fn add(&mut self, check: &StreamCheck) {
        match check.state {
            CheckState::Sound => self.sound += 1,
            CheckState::Torn => self.torn += 1,
            CheckState::Damaged => self.damaged += 1,
        }
        self.entries += check.entries;
    }

    /// The exit code. Damage takes precedence over streams that could not be read.
    fn code(&self) -> u8 {
        let is_damaged = self.damaged > 0 || self.journal.is_some_and(|journal| journal != "sound");
        match self.unread {
            _ if is_damaged => DAMAGE,
            1.. => FAILED,
            0 => DONE,
        }
    }
}

/// How far the command is, for an interrupt.
#[derive(Debug, Default)]
struct Seen {
    progress: OnceLock<Progress>,
    bytes: AtomicU64,
    streams: AtomicU64,
    damaged: AtomicU64,
}

impl Seen {
    /// Prints the summary of a command that is interrupted.
    fn print(&self) {
        if let Some(progress) = self.progress.get() {
            progress.clear();
        }
        let streams = counted(self.streams.load(Ordering::Relaxed), "stream", "streams");
        let damaged = self.damaged.load(Ordering::Relaxed);
        let bytes = human::bytes(self.bytes.load(Ordering::Relaxed));
        let note =
            format!("stratawal: note: interrupted; {streams} verified so far, {damaged} damaged, {bytes} read\n");
        let _ = io::stderr().write_all(note.as_bytes());
    }
}

impl Verify {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        let seen = Arc::new(Seen::default());
        let interrupted = Arc::clone(&seen);
        signals::on_interrupt(self.json, move || {
            interrupted.print();
            Ok(())
        })?;
        let begun = Instant::now();
        // Done first, because an error here must not hide damage.
        let reserve = self.common.result(inspect::reserve_bytes(&self.common.dir))?;
        let name = self.stream.as_deref().map(|stream| self.escaped.name(stream)).transpose()?;
        let created = self.progress(name.as_deref())?;
        let progress = seen.progress.get_or_init(|| created);
        let read = |n: u64| {
            seen.bytes.fetch_add(n, Ordering::Relaxed);
            progress.add(n);
        };
        let mut counts = Counts::default();
        let mut written = Ok(());
        let options = VerifyOptions::new().progress(&read);
        let verified = inspect::verify_with(&self.common.dir, name.as_deref(), &options, |check| {
            let stream = check.as_ref().err().and_then(Error::stream).map(ToOwned::to_owned);
            match self.common.result(check) {
                Ok(check) => {
                    counts.add(&check);
                    seen.streams.fetch_add(1, Ordering::Relaxed);
                    seen.damaged.fetch_add(u64::from(check.state == CheckState::Damaged), Ordering::Relaxed);
                    if written.is_ok() {
                        written = progress.print(|| self.print(&check));
                    }
                }
                Err(failure) => {
                    counts.unread += 1;
                    progress.print(|| failure.print(self.json));
                    if let Some(stream) = stream.filter(|_| self.json && written.is_ok()) {
                        written = progress.print(|| print_unread(&stream));
                    }
                }
            }
        });
        self.common.result(verified)?;
        let journal = self.common.result(inspect::verify_journal(&self.common.dir))?;
        progress.clear();
        if let Some(journal) = journal {
            seen.bytes.fetch_add(journal.bytes, Ordering::Relaxed);
            counts.journal = Some(state_of(&journal));
            written = written.and_then(|()| self.print_journal(&journal));
        }
        let work = Work { bytes: seen.bytes.load(Ordering::Relaxed), elapsed: begun.elapsed() };
        written.and_then(|()| self.print_counts(&counts, &work, reserve)).or_else(output)?;
        Ok(counts.code())
    }

    /// The line of progress. The total is summed up only if the line is shown.
    fn progress(&self, name: Option<&str>) -> Result<Progress, Failure> {
        if !Output::Err.is_terminal() {
            return Ok(Progress::of_unknown());
        }
        let total = match name {
            Some(name) => bytes_of(&self.common, name)?,
            None => {
                let wal = self.common.result(Options::new().open_read_only(&self.common.dir))?;
                let names = self.common.result(wal.streams())?;
                names.iter().map(|name| bytes_of(&self.common, name)).sum::<Result<_, _>>()?
            }
        };
        let progress = Progress::of_bytes(total);
        progress.say("verifying");
        Ok(progress)
    }

    fn print_journal(&self, journal: &JournalCheck) -> io::Result<()> {
        let JournalCheck { records, streams, damage, .. } = journal;
        let word = state_of(journal);
        let message = damage.as_ref().map(|damage| match damage.kind() {
            // Its text has the remedy.
            ErrorKind::Copied => damage.to_string(),
            _ => format!("{damage}; {}", advice::JOURNAL),
        });
        let mut out = io::stdout().lock();
        if self.json {
            let message = json::text_or_null(message.as_deref());
            return writeln!(
                out,
                r#"{{"journal":"{word}","records":{records},"streams_that_need_it":{streams},"message":{message}}}"#
            );
        }
        let records = counted(*records, "record", "records");
        let needed = match streams {
            0 => "no stream needs them".to_owned(),
            _ => counted(*streams, "stream may need them", "streams may need them"),
        };
        writeln!(out, "commit journal: {word}, {records}, {needed}")?;
        message.map_or(Ok(()), |message| writeln!(out, "  {message}"))
    }

    fn print(&self, check: &StreamCheck) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json { writeln!(out, "{}", as_json(check)) } else { print_text(&mut out, check) }
    }

    fn print_counts(&self, counts: &Counts, work: &Work, reserve: u64) -> io::Result<()> {
        let Counts { sound, torn, damaged, unread, entries, journal } = *counts;
        let Work { bytes, elapsed } = *work;
        let streams = sound + torn + damaged + unread;
        let mut out = io::stdout().lock();
        if self.json {
            // Shown only if it is not zero.
            let unread = if unread > 0 { format!(r#","unread":{unread}"#) } else { String::new() };
            let journal = json::text_or_null(journal);
            let seconds = elapsed.as_secs_f64();
            let numbers = format!(r#""streams":{streams},"sound":{sound},"torn":{torn},"damaged":{damaged}{unread}"#);
            let read = format!(r#""journal":{journal},"entries":{entries},"bytes":{bytes},"seconds":{seconds:.3}"#);
            return writeln!(out, r#"{{{numbers},{read},"reserve_bytes":{reserve}}}"#);
        }
        let unread = if unread > 0 { format!(", {unread} not read") } else { String::new() };
        let journal = journal.map_or_else(String::new, |journal| format!(", journal {journal}"));
        let streams = counted(streams, "stream", "streams");
        writeln!(
            out,
            "{streams}: {sound} sound, {torn} torn, {damaged} damaged{unread}{journal}; {reserve} bytes in reserve for a full disk"
        )?;
        let rate = human::bytes((bytes as f64 / elapsed.as_secs_f64().max(1e-6)) as u64);
        let entries = counted(entries, "entry", "entries");
        writeln!(out, "{entries}, {} read in {}, {rate}/s", human::bytes(bytes), human::duration(elapsed))
    }
}

/// The bytes that were read, and how long that took.
struct Work {
    bytes: u64,
    elapsed: Duration,
}

/// The length of the files of a stream in bytes.
fn bytes_of(common: &Common, name: &str) -> Result<u64, Failure> {
    let files = common.result(inspect::segment_files(&common.dir, name))?;
    Ok(files.iter().map(|file| file.bytes).sum())
}

pub(crate) fn state_of(journal: &JournalCheck) -> &'static str {
    match &journal.damage {
        Some(error) if error.kind() == ErrorKind::Copied => "copied",
        Some(_) => "damaged",
        None => "sound",
    }
}

const fn word(state: CheckState) -> &'static str {
    match state {
        CheckState::Sound => "sound",
        CheckState::Torn => "torn",
        CheckState::Damaged => "damaged",
    }
}

fn print_text(out: &mut impl Write, check: &StreamCheck) -> io::Result<()> {
    let name = name::pasteable(&check.stream);
    let range = match (check.first_seq, check.next_seq) {
        (Some(first), Some(next)) => bounds::entries(first, next),
        _ => format!("{} can be read", counted(check.entries, "entry", "entries")),
    };
    writeln!(out, "{name}: {}, {range}, {}", word(check.state), counted(check.segments, "segment", "segments"))?;
    if let Some(torn) = &check.torn {
        let TornTail { segment, offset, bytes, .. } = torn;
        writeln!(out, "  torn: {bytes} bytes after the last whole frame, segment {segment}, offset {offset}")?;
    }
    messages_of(check).iter().try_for_each(|message| writeln!(out, "  {message}"))
}

/// The messages of all damage to a stream, each with the advice that applies.
fn messages_of(check: &StreamCheck) -> Vec<String> {
    let is_nothing_left = check.next_seq.is_none() && check.entries == 0;
    if is_nothing_left {
        check.damage.iter().map(advice::message_if_nothing_left).collect()
    } else {
        advice::messages_of(&check.damage)
    }
}

/// Prints the line of JSON for a stream that could not be read.
fn print_unread(stream: &str) -> io::Result<()> {
    let stream = json::text(stream);
    writeln!(
        io::stdout().lock(),
        r#"{{"stream":{stream},"state":"unread","first":null,"next":null,"segments":null,"entries":null,"torn":null,"damage":[]}}"#
    )
}

fn as_json(check: &StreamCheck) -> String {
    let torn = check.torn.as_ref().map_or_else(
        || "null".to_owned(),
        |torn| {
            let segment = json::text(&torn.segment);
            format!(r#"{{"segment":{segment},"offset":{},"bytes":{}}}"#, torn.offset, torn.bytes)
        },
    );
    format!(
        r#"{{"stream":{},"state":"{}","first":{},"next":{},"segments":{},"entries":{},"torn":{torn},"damage":[{}]}}"#,
        json::text(&check.stream),
        word(check.state),
        json::number_or_null(check.first_seq),
        json::number_or_null(check.next_seq),
        check.segments,
        check.entries,
        damage_as_json(&check.damage, &messages_of(check)),
    )
}

/// The elements of an array in JSON: all damage to a part of a log, each with its message.
pub(crate) fn damage_as_json(damage: &[Error], messages: &[String]) -> String {
    let elements: Vec<String> = damage.iter().zip(messages).map(|(damage, message)| element(damage, message)).collect();
    elements.join(",")
}

fn element(damage: &Error, message: &str) -> String {
    let lost = damage.lost();
    format!(
        r#"{{"segment":{},"offset":{},"kind":{},"lost_first":{},"lost_last":{},"message":{}}}"#,
        json::text_or_null(damage.segment()),
        json::number_or_null(damage.offset()),
        json::text(damage.damage().map_or(damage.kind().as_str(), DamageKind::as_str)),
        json::number_or_null(lost.as_ref().map(|lost| lost.start)),
        json::number_or_null(lost.as_ref().map(|lost| lost.end - 1)),
        json::text(message),
    )
}
