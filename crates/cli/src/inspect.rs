//! `stratawal inspect`: the files of a log in detail.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use stratawal::inspect::{self, FrameDetails, JournalRecord, SegmentDetails, SegmentEnd, SegmentFooter};
use stratawal::{ErrorKind, Options};

use crate::advice::message_of;
use crate::failure::{DAMAGE, DONE, FAILED, Failure, counted, output};
use crate::name::{Escaped, pasteable};
use crate::svg::{self, Row};
use crate::{Common, bounds, human, json, signals};

/// The part of the help text about the output.
pub(crate) const JSON: &str = r#"DIR alone shows a line for each stream, with a map of its files, and the records of the journal; with STREAM, a line for
each file; with SEGMENT, the frames of the file, and the places of its header, index and trailer. In the map, each file is
`#` sealed, `|` closed, `>` being written, `x` damaged, or `.` without entries that are still needed.
All files are read, unless SEGMENT is given. `verify` finds damage to the ends of files, too. A file that a writer is
changing at the same time may look damaged.
With --json, a line for each file, frame or record:
{"stream":"s","segment":"…","state":"sealed|closed|open|void|damaged","first":0,"next":9,"frames":2,"bytes":4096,
 "written":900,"first_time":"…","last_time":"…","message":null}
{"offset":128,"bytes":64,"kind":"entries|mark|start|seal|close|unknown","first":0,"count":3,"time":"…","valid":true}
{"lsn":0,"bytes":64,"kind":"data","after_damage":false,"streams":[{"stream":"s","first":0,"next":1}]}"#;

/// The arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// Show the files of this stream.
    stream: Option<String>,
    /// Show the frames of this file of the stream.
    segment: Option<String>,
    /// Also draw the files as a picture: their lengths, how full they are, their states and times.
    /// The file must not exist.
    #[arg(long, value_name = "FILE", conflicts_with = "segment")]
    svg: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The state of a file, as a word and as a character of the map.
pub(crate) fn state_of(segment: &SegmentDetails) -> (&'static str, char) {
    match segment.end {
        _ if segment.damage.is_some() => ("damaged", 'x'),
        _ if segment.is_void => ("void", '.'),
        SegmentEnd::Sealed(_) => ("sealed", '#'),
        SegmentEnd::Closed(_) => ("closed", '|'),
        _ => ("open", '>'),
    }
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        signals::exit_on_interrupt()?;
        let name = self.stream.as_deref().map(|stream| self.escaped.name(stream)).transpose()?;
        let names = self.names()?;
        if let Some(name) = name.as_ref().filter(|name| !names.contains(name)) {
            return Err(Failure::unknown_stream(&self.common.dir, name));
        }
        if let (Some(name), Some(segment)) = (&name, &self.segment) {
            return self.print_segment(name, segment);
        }
        let is_of_all = name.is_none();
        let mut rows = Vec::new();
        for name in name.map_or(names, |name| vec![name]) {
            let segments = self.common.result(inspect::segments(&self.common.dir, &name))?;
            rows.push(Row { name, segments });
        }
        let is_damaged = rows.iter().flat_map(|row| &row.segments).any(|segment| segment.damage.is_some());
        for row in &rows {
            self.print_row(row, is_of_all).or_else(output)?;
        }
        let mut code = if is_damaged { DAMAGE } else { DONE };
        if is_of_all {
            // The files are shown even if the journal cannot be read.
            match self.common.result(inspect::journal_records(&self.common.dir)) {
                Ok(records) => self.print_records(&records).or_else(output)?,
                Err(failure) => {
                    failure.print(self.json);
                    code = code.max(failure.code());
                }
            }
        }
        if let Some(path) = &self.svg {
            self.draw(path, &rows)?;
        }
        Ok(code)
    }

    /// The streams of the log. If its journal is damaged, those that have files.
    fn names(&self) -> Result<Vec<String>, Failure> {
        let wal = self.common.result(Options::new().open_read_only(&self.common.dir))?;
        match wal.streams() {
            Err(error) if error.kind() != ErrorKind::Damaged => self.common.result(Err(error)),
            names => Ok(names.unwrap_or_default()),
        }
    }

    fn draw(&self, path: &PathBuf, rows: &[Row]) -> Result<(), Failure> {
        let failed = |e| Failure::io(&format!("cannot write {}", path.display()), &e);
        let mut file = std::fs::File::create_new(path).map_err(failed)?;
        file.write_all(svg::picture(&self.common.dir.display().to_string(), rows).as_bytes()).map_err(failed)
    }

    fn print_row(&self, row: &Row, is_of_all: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            let mut lines = row.segments.iter().map(|segment| segment_as_json(&row.name, segment));
            return lines.try_for_each(|line| writeln!(out, "{line}"));
        }
        if is_of_all {
            let bytes: u64 = row.segments.iter().map(|segment| segment.bytes).sum();
            let map: String = row.segments.iter().map(|segment| state_of(segment).1).collect();
            let files = counted(row.segments.len() as u64, "file", "files");
            return writeln!(out, "{:<24} {files:>12} {:>10}  {map}", pasteable(&row.name), human::bytes(bytes));
        }
        let [segment, state, frames, bytes, full] = ["SEGMENT", "STATE", "FRAMES", "BYTES", "FULL"];
        writeln!(out, "{segment:<33} {state:<8} {frames:>9} {bytes:>11} {full:>5} {:<10}  ENTRIES", "")?;
        for segment in &row.segments {
            let SegmentDetails { name, bytes, frames, base, next_seq, .. } = segment;
            let tenths = (segment.written_bytes * 10).checked_div(*bytes).unwrap_or(0) as usize;
            let percent = (segment.written_bytes * 100).checked_div(*bytes).unwrap_or(0);
            let bar = format!("{}{}", "#".repeat(tenths), "-".repeat(10_usize.saturating_sub(tenths)));
            let entries = bounds::entries(*base, *next_seq);
            let state = state_of(segment).0;
            writeln!(out, "{name:<33} {state:<8} {frames:>9} {bytes:>11} {percent:>4}% {bar}  {entries}")?;
            if let Some((first, last)) = segment.times {
                writeln!(out, "  from {} to {}", human::time(first), human::time(last))?;
            }
            if let Some(damage) = &segment.damage {
                writeln!(out, "  {}", message_of(damage))?;
            }
        }
        Ok(())
    }

    fn print_segment(&self, name: &str, segment: &str) -> Result<u8, Failure> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut end = 0;
        let mut written = Ok(());
        let details = inspect::frames(&self.common.dir, name, segment, |frame| {
            if written.is_ok() {
                written = if self.json {
                    writeln!(out, "{}", frame_as_json(&frame))
                } else {
                    print_frame(&mut out, &frame, end)
                };
            }
            end = frame.offset + frame.bytes;
        });
        let Some(details) = self.common.result(details)? else {
            let text =
                format!("stream {} has no file {segment:?}; `inspect` with the stream lists them", pasteable(name));
            return Err(Failure::new(FAILED, "missing", text).of_stream(name));
        };
        if end == 0 && !self.json {
            written = print_header(&mut out);
        }
        if let (SegmentEnd::Sealed(footer) | SegmentEnd::Closed(footer), false) = (details.end, self.json) {
            let SegmentFooter { offset, index_bytes, trailer_offset, .. } = footer;
            written = written.and_then(|()| {
                writeln!(out, "index of {index_bytes} bytes in the frame at {offset}")?;
                writeln!(out, "{trailer_offset:>10} {:>10} trailer", details.bytes - trailer_offset)
            });
        }
        if let (Some(damage), false) = (&details.damage, self.json) {
            written = written.and_then(|()| writeln!(out, "{}", message_of(damage)));
        }
        written.and_then(|()| out.flush()).or_else(output)?;
        Ok(if details.damage.is_some() { DAMAGE } else { DONE })
    }

    fn print_records(&self, records: &[JournalRecord]) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for JournalRecord { lsn, bytes, kind, streams, is_after_damage, .. } in records {
            if self.json {
                let shown = |(name, first, next): &(String, u64, u64)| {
                    format!(r#"{{"stream":{},"first":{first},"next":{next}}}"#, json::text(name))
                };
                let streams: Vec<String> = streams.iter().map(shown).collect();
                let streams = streams.join(",");
                let start = format!(r#"{{"lsn":{lsn},"bytes":{bytes},"kind":"{kind}""#);
                writeln!(out, r#"{start},"after_damage":{is_after_damage},"streams":[{streams}]}}"#)?;
                continue;
            }
            let after = if *is_after_damage { "  after damage" } else { "" };
            write!(out, "journal {lsn:>12} {bytes:>9} {kind:<8}{after}")?;
            for (name, first, next) in streams {
                let entries = if next > first { bounds::entries(*first, *next) } else { format!("at {first}") };
                write!(out, "  {} {entries}", pasteable(name))?;
            }
            writeln!(out)?;
        }
        out.flush()
    }
}

/// The length of the header of a segment file in bytes.
const HEADER_LEN: u64 = 128;

fn print_header(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:>10} {HEADER_LEN:>10} header", 0)
}

/// Prints a frame, after the bytes between it and `end`, where the frame before it ends. Before the
/// first frame, `end` is 0, and the header is printed.
fn print_frame(out: &mut impl Write, frame: &FrameDetails, mut end: u64) -> io::Result<()> {
    let FrameDetails { offset, bytes, kind, first_seq, count, time, is_valid, .. } = *frame;
    if end == 0 {
        print_header(out)?;
        end = HEADER_LEN;
    }
    if offset > end {
        writeln!(out, "{end:>10} {:>10} not a frame", offset - end)?;
    }
    let entries = match count {
        0 => format!("the next entry is {first_seq}"),
        _ => bounds::entries(first_seq, first_seq + u64::from(count)),
    };
    let damaged = if is_valid { "" } else { "  DAMAGED" };
    writeln!(out, "{offset:>10} {bytes:>10} {:<8} {}  {entries}{damaged}", kind.as_str(), human::time(time))
}

fn frame_as_json(frame: &FrameDetails) -> String {
    let FrameDetails { offset, bytes, kind, first_seq, count, time, is_valid, .. } = *frame;
    format!(
        r#"{{"offset":{offset},"bytes":{bytes},"kind":"{}","first":{first_seq},"count":{count},"time":"{}","valid":{is_valid}}}"#,
        kind.as_str(),
        human::time(time),
    )
}

fn segment_as_json(name: &str, segment: &SegmentDetails) -> String {
    let time = |time: Option<SystemTime>| json::text_or_null(time.map(human::time).as_deref());
    format!(
        r#"{{"stream":{},"segment":{},"state":"{}","first":{},"next":{},"frames":{},"bytes":{},"written":{},"first_time":{},"last_time":{},"message":{}}}"#,
        json::text(name),
        json::text(&segment.name),
        state_of(segment).0,
        segment.base,
        segment.next_seq,
        segment.frames,
        segment.bytes,
        segment.written_bytes,
        time(segment.times.map(|times| times.0)),
        time(segment.times.map(|times| times.1)),
        json::text_or_null(segment.damage.as_ref().map(message_of).as_deref()),
    )
}
