//! `stratawal info`: the log in one screen.

use std::io::{self, Write};

use rustix::process::{Resource, getrlimit};
use stratawal::inspect::{self, JournalCheck, LogInfo, Writer};
use stratawal::{ErrorKind, Options};

use crate::append::ENTRY_BYTES_MAX;
use crate::failure::{DAMAGE, DONE, Failure, counted, output};
use crate::terminal::{Output, Tone};
use crate::verify::state_of;
use crate::{Common, human, json, signals};

/// The part of the help text about the output.
pub(crate) const JSON: &str = r#"Reads the journal, but no entry of a segment file; `verify` reads everything. The lock of a process in another container
or on another machine is not seen.
With --json, one line:
{"path":"log","format":1,"id":"…","writable":true,"streams":2,"segments":3,"segment_bytes":12288,"journal":"sound",
"journal_bytes":65536,"journal_records":9,"streams_that_need_it":1,"reserve_bytes":65536,"free_bytes":1073741824,
"writer":{"process":123,"command":"stratawal","certain":true},
"limits":{"entry_bytes":1073741820,"name_bytes":240,"open_files":1024}}
`journal` is `sound`, `damaged`, `copied` or null (none). `writer` is null if the log is not open for writing; it is not
`certain` if the lock file alone names it. `open_files` is the limit of this shell, or null if there is none."#;

/// The size of a complete reserve.
const RESERVE_BYTES: u64 = 64 << 10;

/// The maximum length of the escaped form of a stream's name, in bytes.
const NAME_BYTES_MAX: u64 = 240;

/// The arguments of `info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    #[command(flatten)]
    common: Common,
    /// Print the facts as JSON.
    #[arg(long)]
    json: bool,
}

/// The facts that are printed.
struct Facts {
    log: LogInfo,
    streams: u64,
    segments: u64,
    segment_bytes: u64,
    journal: Option<JournalCheck>,
    open_files: Option<u64>,
}

impl Info {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        signals::exit_on_interrupt()?;
        let facts = self.facts()?;
        let text = if self.json { self.as_json(&facts) } else { self.as_text(&facts) };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_else(output)?;
        let is_damaged = facts.journal.is_some_and(|journal| journal.damage.is_some());
        Ok(if is_damaged { DAMAGE } else { DONE })
    }

    fn facts(&self) -> Result<Facts, Failure> {
        let dir = &self.common.dir;
        let log = self.common.result(inspect::log_info(dir))?;
        let journal = self.common.result(inspect::verify_journal(dir))?;
        let open_files = getrlimit(Resource::Nofile).current;
        let mut facts = Facts { log, streams: 0, segments: 0, segment_bytes: 0, journal, open_files };
        let wal = self.common.result(Options::new().open_read_only(dir))?;
        for name in self.common.result(wal.streams())? {
            let files = self.common.result(inspect::segment_files(dir, &name))?;
            facts.streams += 1;
            facts.segments += files.len() as u64;
            facts.segment_bytes += files.iter().map(|file| file.bytes).sum::<u64>();
        }
        Ok(facts)
    }

    fn as_text(&self, facts: &Facts) -> String {
        let log = &facts.log;
        let writable = if log.is_writable { "" } else { ", written by a newer version, only to be read by this one" };
        let lines = [
            ("log", self.common.dir.display().to_string()),
            ("format", format!("version {}{writable}", log.format_version)),
            ("id", format!("{:032x}", log.id)),
            ("streams", streams(facts)),
            ("journal", journal(facts)),
            ("reserve", reserve(log.reserve_bytes)),
            ("disk", format!("{} free", human::bytes(log.free_bytes))),
            ("writer", writer(log.writer.as_ref())),
            ("limits", limits(facts)),
        ];
        let line = |(name, text): (&str, String)| {
            let padding = " ".repeat(8 - name.len());
            format!("{}{padding}{text}\n", Output::Out.paint(Tone::Heading, name))
        };
        lines.into_iter().map(line).collect()
    }

    fn as_json(&self, facts: &Facts) -> String {
        let log = &facts.log;
        let journal = facts.journal.as_ref();
        let writer = log.writer.as_ref().map_or_else(
            || "null".to_owned(),
            |writer| {
                let Writer { process_id, is_certain, .. } = writer;
                let command = json::text_or_null(writer.command.as_deref());
                format!(r#"{{"process":{process_id},"command":{command},"certain":{is_certain}}}"#)
            },
        );
        let fields = [
            ("path", json::text(&self.common.dir.to_string_lossy())),
            ("format", log.format_version.to_string()),
            ("id", format!("\"{:032x}\"", log.id)),
            ("writable", log.is_writable.to_string()),
            ("streams", facts.streams.to_string()),
            ("segments", facts.segments.to_string()),
            ("segment_bytes", facts.segment_bytes.to_string()),
            ("journal", json::text_or_null(journal.map(state_of))),
            ("journal_bytes", log.journal_bytes.to_string()),
            ("journal_records", json::number_or_null(journal.map(|journal| journal.records))),
            ("streams_that_need_it", json::number_or_null(journal.map(|journal| journal.streams))),
            ("reserve_bytes", log.reserve_bytes.to_string()),
            ("free_bytes", log.free_bytes.to_string()),
            ("writer", writer),
            (
                "limits",
                format!(
                    r#"{{"entry_bytes":{ENTRY_BYTES_MAX},"name_bytes":{NAME_BYTES_MAX},"open_files":{}}}"#,
                    json::number_or_null(facts.open_files)
                ),
            ),
        ];
        let fields = fields.map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}\n", fields.join(","))
    }
}

fn streams(facts: &Facts) -> String {
    let segments = counted(facts.segments, "segment file", "segment files");
    format!("{} in {segments}, {}", facts.streams, human::bytes(facts.segment_bytes))
}

fn journal(facts: &Facts) -> String {
    let Some(journal) = &facts.journal else { return "none".to_owned() };
    let bytes = human::bytes(facts.log.journal_bytes);
    match &journal.damage {
        None if journal.streams == 0 => format!("sound, {bytes}, no stream needs it"),
        None => {
            let records = counted(journal.records, "record", "records");
            let streams = counted(journal.streams, "stream may need it", "streams may need it");
            format!("sound, {bytes}, {records}, {streams}")
        }
        Some(error) if error.kind() == ErrorKind::Copied => {
            Output::Out.paint(Tone::Warning, &format!("copied before the log was closed, {bytes}; see `verify`"))
        }
        Some(_) => Output::Out.paint(Tone::Bad, &format!("damaged, {bytes}; see `verify`")),
    }
}

fn reserve(bytes: u64) -> String {
    match bytes {
        RESERVE_BYTES.. => format!("{}, for a full disk", human::bytes(bytes)),
        _ => Output::Out.paint(
            Tone::Warning,
            &format!(
                "{} of {}, for a full disk; the log restores it when space is free",
                human::bytes(bytes),
                human::bytes(RESERVE_BYTES)
            ),
        ),
    }
}

fn writer(writer: Option<&Writer>) -> String {
    let Some(writer) = writer else { return "none; the log is not open for writing".to_owned() };
    let command = writer.command.as_deref().map_or_else(String::new, |command| format!(" ({command})"));
    let id = writer.process_id;
    if writer.is_certain {
        format!("process {id}{command} has the log open for writing; commands that read work beside it")
    } else {
        format!("process {id}{command} may have the log open for writing: the lock file names it")
    }
}

fn limits(facts: &Facts) -> String {
    let files = facts.open_files.map_or_else(|| "any number of".to_owned(), |files| files.to_string());
    format!(
        "{ENTRY_BYTES_MAX} bytes an entry ({}), {NAME_BYTES_MAX} bytes an escaped name, {files} open files here",
        human::bytes(ENTRY_BYTES_MAX)
    )
}
