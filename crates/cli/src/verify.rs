//! `stratawal verify`: checks that everything is present and intact.

use std::io::{self, Write};

use stratawal::inspect::{self, CheckState, JournalCheck, StreamCheck};
use stratawal::{DamageKind, Error, ErrorKind, TornTail};

use crate::failure::{DAMAGE, DONE, FAILED, Failure, counted, output};
use crate::name::{self, Escaped};
use crate::{Common, advice, bounds, json, signals};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"A stream is torn if bytes follow its last whole frame: either a crash left them, and the next open cuts them off, or a writer
is about to write there. They are not damage.
With --json, a line for each stream, then one with the totals:
{"stream":"s","state":"sound|torn|damaged","first":0,"next":100,"segments":1,"torn":null,"damage":[]}
{"streams":5,"sound":4,"torn":1,"damaged":0,"reserve_bytes":65536}
A log with a commit journal has this line before the totals: {"journal":"sound|damaged|copied","records":9,"streams_that_need_it":1}
`reserve_bytes` is the disk space that the log holds for truncating, deleting and closing on a full disk: 65536 if it is
complete. The log restores it when it is used and space is free; holding less is not damage.
`torn` is null or {"segment":"…","offset":0,"bytes":0}; each damage is
{"segment":"…","offset":0,"kind":"…","lost_first":0,"lost_last":9}, with null for what is not known."#;

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

#[derive(Debug, Default)]
struct Counts {
    sound: u64,
    torn: u64,
    damaged: u64,
    damaged_journals: u64,
    /// The number of streams that could not be read.
    unread: u64,
}

impl Verify {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        signals::exit_on_interrupt()?;
        // Done first, because an error here must not hide damage.
        let reserve = self.common.result(inspect::reserve_bytes(&self.common.dir))?;
        let name = self.stream.as_deref().map(|stream| self.escaped.name(stream)).transpose()?;
        let mut counts = Counts::default();
        let mut written = Ok(());
        for check in self.common.result(inspect::verify(&self.common.dir, name.as_deref()))? {
            let check = match self.common.result(check) {
                Ok(check) => check,
                Err(failure) => {
                    counts.unread += 1;
                    failure.print(self.json);
                    continue;
                }
            };
            match check.state {
                CheckState::Sound => counts.sound += 1,
                CheckState::Torn => counts.torn += 1,
                CheckState::Damaged => counts.damaged += 1,
            }
            if written.is_ok() {
                written = self.print(&check);
            }
        }
        let journal = self.common.result(inspect::verify_journal(&self.common.dir))?;
        if journal.as_ref().is_some_and(|journal| journal.damage.is_some()) {
            counts.damaged_journals = 1;
        }
        // Damage takes precedence over streams that could not be read.
        let code = match counts {
            Counts { damaged: 1.., .. } | Counts { damaged_journals: 1.., .. } => DAMAGE,
            Counts { unread: 1.., .. } => FAILED,
            _ => DONE,
        };
        let written = written.and_then(|()| journal.map_or(Ok(()), |journal| self.print_journal(&journal)));
        written.and_then(|()| self.print_counts(&counts, reserve)).or_else(output)?;
        Ok(code)
    }

    fn print_journal(&self, journal: &JournalCheck) -> io::Result<()> {
        let JournalCheck { records, streams, damage, .. } = journal;
        let word = match damage {
            Some(error) if error.kind() == ErrorKind::Copied => "copied",
            Some(_) => "damaged",
            None => "sound",
        };
        let mut out = io::stdout().lock();
        if self.json {
            return writeln!(out, r#"{{"journal":"{word}","records":{records},"streams_that_need_it":{streams}}}"#);
        }
        let records = counted(*records, "record", "records");
        let needed = match streams {
            0 => "no stream needs them".to_owned(),
            _ => counted(*streams, "stream may need them", "streams may need them"),
        };
        writeln!(out, "commit journal: {word}, {records}, {needed}")?;
        match damage {
            // Its text has the remedy.
            Some(copied) if copied.kind() == ErrorKind::Copied => writeln!(out, "  {copied}"),
            Some(damage) => writeln!(
                out,
                "  {damage}; `cat` prints the entries in the segment files; or restore the log from a copy"
            ),
            None => Ok(()),
        }
    }

    fn print(&self, check: &StreamCheck) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json { writeln!(out, "{}", as_json(check)) } else { print_text(&mut out, check) }
    }

    fn print_counts(&self, counts: &Counts, reserve: u64) -> io::Result<()> {
        let Counts { sound, torn, damaged, unread, .. } = *counts;
        let streams = sound + torn + damaged + unread;
        let mut out = io::stdout().lock();
        if self.json {
            // Shown only if it is not zero.
            let unread = if unread > 0 { format!(r#","unread":{unread}"#) } else { String::new() };
            let numbers = format!(r#""streams":{streams},"sound":{sound},"torn":{torn},"damaged":{damaged}{unread}"#);
            writeln!(out, r#"{{{numbers},"reserve_bytes":{reserve}}}"#)
        } else {
            let unread = if unread > 0 { format!(", {unread} not read") } else { String::new() };
            writeln!(
                out,
                "{}: {sound} sound, {torn} torn, {damaged} damaged{unread}; {reserve} bytes in reserve for a full disk",
                counted(streams, "stream", "streams")
            )
        }
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
        _ => "entries unknown".to_owned(),
    };
    writeln!(out, "{name}: {}, {range}, {}", word(check.state), counted(check.segments, "segment", "segments"))?;
    if let Some(torn) = &check.torn {
        let TornTail { segment, offset, bytes, .. } = torn;
        writeln!(out, "  torn: {bytes} bytes after the last whole frame, segment {segment}, offset {offset}")?;
    }
    for damage in &check.damage {
        write!(out, "  {}", name::message_of(damage))?;
        match advice::about(damage) {
            Some(advice) => writeln!(out, "; {advice}")?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

fn as_json(check: &StreamCheck) -> String {
    let torn = check.torn.as_ref().map_or_else(
        || "null".to_owned(),
        |torn| {
            let segment = json::text(&torn.segment);
            format!(r#"{{"segment":{segment},"offset":{},"bytes":{}}}"#, torn.offset, torn.bytes)
        },
    );
    let damage: Vec<String> = check.damage.iter().map(damage_as_json).collect();
    format!(
        r#"{{"stream":{},"state":"{}","first":{},"next":{},"segments":{},"torn":{torn},"damage":[{}]}}"#,
        json::text(&check.stream),
        word(check.state),
        json::number_or_null(check.first_seq),
        json::number_or_null(check.next_seq),
        check.segments,
        damage.join(","),
    )
}

fn damage_as_json(damage: &Error) -> String {
    let lost = damage.lost();
    format!(
        r#"{{"segment":{},"offset":{},"kind":{},"lost_first":{},"lost_last":{}}}"#,
        json::text_or_null(damage.segment()),
        json::number_or_null(damage.offset()),
        json::text(damage.damage().map_or(damage.kind().as_str(), DamageKind::as_str)),
        json::number_or_null(lost.as_ref().map(|lost| lost.start)),
        json::number_or_null(lost.as_ref().map(|lost| lost.end - 1)),
    )
}
