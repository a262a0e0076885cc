//! `stratawal append`: appends lines, or other parts of its input, as entries.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use stratawal::{Batch, Durability, Stream, StreamOptions, Wal, inspect};

use crate::failure::{DONE, FAILED, Failure, counted};
use crate::framing::{FramingOptions, Position};
use crate::input::{Entries, Framing, Piece};
use crate::name::{Escaped, pasteable};
use crate::writer::{closed, open_or_create};
use crate::{Common, bounds, json, signals};

/// The most bytes that a batch takes: those of its entries, plus [`ENTRY_BYTES`] for each.
const BATCH_BYTES_MAX: u64 = 1 << 30;

/// Each entry counts this many bytes towards a batch's bound, in addition to its own.
const ENTRY_BYTES: u64 = 4;

/// The most bytes that an entry has.
pub(crate) const ENTRY_BYTES_MAX: u64 = BATCH_BYTES_MAX - ENTRY_BYTES;

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"With --ack --json, a line for each batch: {"first":0,"last":99}
With --json, the last line: {"stream":"s","entries":100,"bytes":5120,"first":0,"last":99,"seconds":0.01}
(`first` and `last` are null if there was nothing to append. It is also printed after an interrupt. A stream is created by its first entry.)
An error names the entries that were appended before it, if any: {"error":{"kind":"full",…,"appended":{"first":0,"last":99}}}

A line has at most 1,073,741,820 bytes. A batch has at most 1,073,741,824, and each entry counts 4 bytes more than its
own. A longer one is an error that names its file and line; the lines before it, or before its batch, are appended. The
same holds for other entries than lines."#;

/// The arguments of `append`.
#[derive(Debug, clap::Args)]
pub(crate) struct Append {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// The stream. Its name is UTF-8 and has at least one character. Its escaped form, which
    /// `streams --escaped` prints, has at most 240 bytes.
    stream: String,
    /// Files to read, one entry per line unless an option sets another form. `-` is standard input,
    /// which is also read if no file is given.
    files: Vec<PathBuf>,
    #[command(flatten)]
    framing: FramingOptions,
    /// How safe an entry must be before it counts as appended.
    #[arg(long, value_enum, default_value = "synced")]
    durability: DurabilityArgument,
    /// Append N entries as one batch: after a crash, it exists as a whole or not at all. Without
    /// this option, the entries that end within one read of the input are a batch.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = bounds::parse_count)]
    batch: Option<u64>,
    /// Print the seq of each batch's last entry once it is acknowledged.
    #[arg(long)]
    ack: bool,
    /// Print acknowledgements, the summary and errors as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DurabilityArgument {
    /// In the memory of this process: survives nothing.
    Buffered,
    /// Written to the operating system: survives kill -9.
    Flushed,
    /// On stable storage: survives power loss.
    Synced,
}

impl From<DurabilityArgument> for Durability {
    fn from(argument: DurabilityArgument) -> Self {
        match argument {
            DurabilityArgument::Buffered => Self::Buffered,
            DurabilityArgument::Flushed => Self::Flushed,
            DurabilityArgument::Synced => Self::Synced,
        }
    }
}

/// Lets an interrupt close the log between two appends, but never during one. Only appends and the
/// close are done under the lock, so that a command waiting for input, or for a reader of its
/// output, does not delay an interrupt.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Gated>>);

#[derive(Default)]
struct Gated {
    /// The log, once it is open.
    wal: Option<Wal>,
    done: Done,
    /// The command has closed the log itself, and ends.
    is_ended: bool,
}

/// The entries that were appended.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// The first and the last of them.
    seqs: Option<(u64, u64)>,
    bytes: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Gated> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the log because of an interrupt, and prevents all later appends. Returns the entries
    /// that were appended.
    ///
    /// Returns `None` if the log is still being opened, without waiting: the next open recovers it.
    /// Returns `None` also if the command has closed the log itself. Then this first waits, so that
    /// the command can print how it ended.
    fn interrupt(&self, common: &Common) -> Result<Option<Done>, Failure> {
        let held = self.lock();
        if held.is_ended {
            drop(held);
            thread::sleep(signals::PRINT_TIME_MAX);
            return Ok(None);
        }
        let closed = held.wal.as_ref().map(Wal::close).transpose();
        let done = held.done;
        // Never unlocked, because an append after the close would fail and print an error.
        std::mem::forget(held);
        let closed = common.result(closed).map_err(|failure| failure.after_appending(done.seqs))?;
        Ok(closed.map(|()| done))
    }

    /// Closes the log at the end of the command. An interrupt waits for this, and then neither
    /// closes the log nor prints a summary. `stream` is closed first, because closing the log
    /// reports only the first stream that fails, which may be another one.
    fn end(&self, wal: &Wal, stream: &Stream) -> stratawal::Result<()> {
        let mut held = self.lock();
        held.is_ended = true;
        let own = stream.close();
        let all = wal.close();
        own.and(all)
    }
}

impl Done {
    /// Returns how many entries were appended.
    fn entries(&self) -> u64 {
        self.seqs.map_or(0, |(first, last)| last - first + 1)
    }

    /// Returns the summary as JSON.
    fn as_json(&self, stream: &str, began: Instant) -> String {
        format!(
            "{{\"stream\":{},\"entries\":{},\"bytes\":{},\"first\":{},\"last\":{},\"seconds\":{:.6}}}\n",
            json::text(stream),
            self.entries(),
            self.bytes,
            json::number_or_null(self.seqs.map(|(first, _)| first)),
            json::number_or_null(self.seqs.map(|(_, last)| last)),
            began.elapsed().as_secs_f64(),
        )
    }

    /// Returns the summary in words. `nothing` is the part about the entries if there are none.
    fn as_text(&self, began: Instant, nothing: &str) -> String {
        let seconds = began.elapsed().as_secs_f64();
        let seqs = self.seqs.map_or_else(|| nothing.to_owned(), |(first, last)| bounds::entries(first, last + 1));
        // Avoids a division by zero.
        let rate = self.entries() as f64 / seconds.max(1e-6);
        let entries = counted(self.entries(), "entry", "entries");
        format!("{entries}, {} bytes, {seqs}, {seconds:.3} s, {rate:.0} entries/s\n", self.bytes)
    }
}

/// Prints the summary of a command that is interrupted, unless nothing takes it.
fn print_interrupted(done: Done, stream: String, json: bool, began: Instant) {
    signals::print_in_time(move || {
        let printed = if json {
            stdout().map(|mut out| out.write_all(done.as_json(&stream, began).as_bytes()))
        } else {
            let line = format!("interrupted: {}", done.as_text(began, "nothing was appended"));
            Ok(io::stderr().write_all(line.as_bytes()))
        };
        // The process ends anyway.
        drop(printed);
    });
}

/// Collects entries, appends them in batches, and acknowledges the batches.
struct Appender {
    stream: Stream,
    gate: Gate,
    common: Common,
    batch: Batch,
    /// The bytes of the unfinished entry, which are already in the batch.
    begun_bytes: usize,
    batch_len: Option<usize>,
    batch_bytes_max: u64,
    ack: Option<File>,
    json: bool,
    done: Done,
}

impl Append {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        // The name is checked before anything is created.
        let name = self.escaped.name(&self.stream)?;
        self.common.result(inspect::escape_name(&name))?;
        for file in &self.files {
            check_file(file)?;
        }
        let began = Instant::now();
        let gate = Gate::default();
        let at_interrupt = gate.clone();
        let common = self.common.clone();
        let (json, stream) = (self.json, name.clone());
        signals::on_interrupt(json, move || {
            if let Some(done) = at_interrupt.interrupt(&common)? {
                print_interrupted(done, stream, json, began);
            }
            Ok(())
        })?;
        let wal = open_or_create(&self.common)?;
        let mut appender = self.appender(&wal, &name, gate.clone())?;
        let result = self.append_all(&mut appender);
        // Closed even after an error, so that the next open scans nothing. Not closed fast, because
        // the log could not be copied then. If a killed process left many streams in the journal,
        // this takes a while, once.
        let closed = closed(&self.common, gate.end(&wal, &appender.stream), &name);
        result.and(closed).map_err(|failure| failure.after_appending(appender.done.seqs))?;
        self.print_summary(&appender, began)?;
        Ok(DONE)
    }

    fn appender(&self, wal: &Wal, name: &str, gate: Gate) -> Result<Appender, Failure> {
        let options = StreamOptions::new().batch_bytes_max(BATCH_BYTES_MAX);
        let stream = self.common.result(wal.stream_with(name, options))?;
        gate.lock().wal = Some(wal.clone());
        Ok(Appender {
            stream: stream.with_durability(self.durability.into()),
            gate,
            common: self.common.clone(),
            batch: Batch::new(),
            begun_bytes: 0,
            batch_len: self.batch.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            batch_bytes_max: BATCH_BYTES_MAX,
            ack: if self.ack { Some(stdout()?) } else { None },
            json: self.json,
            done: Done::default(),
        })
    }

    fn append_all(&self, appender: &mut Appender) -> Result<(), Failure> {
        let standard_input = [PathBuf::from("-")];
        let files = if self.files.is_empty() { &standard_input[..] } else { &self.files };
        let result = files.iter().try_for_each(|file| append_file(file, self.framing.framing(), appender));
        // Complete entries that were read before an error are also appended. A batch that was
        // refused or failed has been cleared.
        let rest = appender.append();
        result.and(rest)
    }

    fn print_summary(&self, appender: &Appender, began: Instant) -> Result<(), Failure> {
        let stream = &appender.stream;
        let result = if self.json {
            stdout()?.write_all(appender.done.as_json(stream.name(), began).as_bytes())
        } else {
            let nothing = if stream.exists() {
                "nothing to append".to_owned()
            } else {
                format!("nothing to append, so stream {} does not exist yet", pasteable(stream.name()))
            };
            // Standard error has no buffer. The line is written in one piece, because other
            // processes may write there too.
            io::stderr().write_all(appender.done.as_text(began, &nothing).as_bytes())
        };
        let what = if self.json { "to standard output" } else { "to standard error" };
        result
            .map_err(|e| Failure::io(&format!("everything was appended, but the summary cannot be written {what}"), &e))
    }
}

/// Checks that a file can be read, so that a mistyped name is noticed before anything is appended.
fn check_file(file: &Path) -> Result<(), Failure> {
    if file == Path::new("-") {
        return Ok(());
    }
    let metadata = file.metadata().map_err(|e| cannot_read(&shown(file), &e))?;
    if metadata.is_dir() {
        return Err(cannot_read(&shown(file), &io::ErrorKind::IsADirectory.into()));
    }
    // Opening a pipe would wait for the other end.
    if metadata.is_file() {
        File::open(file).map_err(|e| cannot_read(&shown(file), &e))?;
    }
    Ok(())
}

/// Returns the name of an input in messages.
fn shown(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

fn cannot_read(input: &str, error: &io::Error) -> Failure {
    let failure = Failure::io(&format!("cannot read {input}"), error);
    if error.kind() == io::ErrorKind::NotFound { failure.of_kind("missing") } else { failure }
}

fn open(file: &Path) -> io::Result<File> {
    if file == Path::new("-") {
        // Std's handle is not used because it buffers: the lines of one read are to be one batch.
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(file)
    }
}

fn append_file(file: &Path, framing: Framing, appender: &mut Appender) -> Result<(), Failure> {
    let input = shown(file);
    let mut at = Position::first(&input, framing);
    let mut entries = Entries::new(open(file).map_err(|e| cannot_read(&input, &e))?, framing);
    loop {
        let more = entries.read();
        while let Some(piece) = entries.piece() {
            appender.take(&piece, &at)?;
            if matches!(piece, Piece::Last(_)) {
                at.advance();
            }
        }
        appender.end_of_read()?;
        match more {
            Ok(true) => {}
            Ok(false) if entries.is_cut() => return Err(cut(&at)),
            Ok(false) => return Ok(()),
            Err(e) => return Err(cannot_read(&at.place(), &e)),
        }
    }
}

/// The input ended within the entry at `at`, whose length is known.
fn cut(at: &Position<'_>) -> Failure {
    let text = format!(
        "{at}: the input ends within this entry or its length, so it was not appended; check that the input is \
         length-prefixed and was not cut off"
    );
    Failure::new(FAILED, "cut_input", text)
}

impl Appender {
    /// Takes a piece of the entry at `at`, and appends the batch once it is complete. An entry or
    /// batch is refused as soon as a piece exceeds the bound, so no more of it is read.
    fn take(&mut self, piece: &Piece<'_>, at: &Position<'_>) -> Result<(), Failure> {
        let bytes = match *piece {
            Piece::Length(len) => usize::try_from(len).unwrap_or(usize::MAX),
            Piece::Part(bytes) | Piece::Last(bytes) => bytes.len(),
        };
        // Without `--batch`, the complete entries are a batch.
        if self.batch_len.is_none() && (matches!(piece, Piece::Part(_)) || !self.has_room(bytes)) {
            self.append()?;
        }
        if !self.has_room(bytes) {
            return Err(self.refuse(at, bytes));
        }
        match piece {
            Piece::Length(_) => return Ok(()),
            Piece::Part(part) => {
                self.batch.push_part(part);
                self.begun_bytes += part.len();
            }
            Piece::Last(last) => {
                self.batch.push(last);
                self.begun_bytes = 0;
            }
        }
        if self.batch_len == Some(self.batch.len()) { self.append() } else { Ok(()) }
    }

    /// Called once all input read so far has been consumed. Without `--batch`, the complete entries
    /// in it form one batch.
    fn end_of_read(&mut self) -> Result<(), Failure> {
        if self.batch_len.is_none() { self.append() } else { Ok(()) }
    }

    /// Returns whether an entry of the batch may grow by `bytes`.
    fn has_room(&self, bytes: usize) -> bool {
        let bytes = (self.batch.bytes() + self.begun_bytes + bytes) as u64;
        bytes + ENTRY_BYTES * (self.batch.len() as u64 + 1) <= self.batch_bytes_max
    }

    /// Drops the batch because `bytes` more would exceed the bound.
    fn refuse(&mut self, at: &Position<'_>, bytes: usize) -> Failure {
        let entry_max = self.batch_bytes_max - ENTRY_BYTES;
        let mut text = if (self.begun_bytes + bytes) as u64 > entry_max {
            let unit = at.unit();
            format!("{at}: the {unit} is longer than {entry_max} bytes, the most that an entry can have; shorten it")
        } else {
            let max = self.batch_bytes_max;
            format!(
                "{at}: the batch takes more than {max} bytes, including {ENTRY_BYTES} for each entry; lower --batch"
            )
        };
        if !self.batch.is_empty() {
            text.push_str("; nothing of this batch was appended");
        }
        self.batch.clear();
        self.begun_bytes = 0;
        Failure::new(FAILED, "too_large", text).of_stream(self.stream.name())
    }

    fn append(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut held = self.gate.lock();
        let appended = self.stream.append_batch(&self.batch);
        if let Ok(seqs) = &appended {
            let first = self.done.seqs.map_or(seqs.start, |(first, _)| first);
            self.done = Done { seqs: Some((first, seqs.end - 1)), bytes: self.done.bytes + self.batch.bytes() as u64 };
            held.done = self.done;
        }
        drop(held);
        // A failed batch is never appended again, because its entries may exist.
        self.batch.clear();
        let seqs = self.common.result(appended)?;
        self.acknowledge(seqs.start, seqs.end - 1)
    }

    /// Prints an acknowledgement. The lock is not held, because an interrupt must be able to close
    /// the log even if no reader takes the output.
    fn acknowledge(&mut self, first: u64, last: u64) -> Result<(), Failure> {
        let Some(out) = &mut self.ack else { return Ok(()) };
        let line = if self.json { format!("{{\"first\":{first},\"last\":{last}}}\n") } else { format!("{last}\n") };
        out.write_all(line.as_bytes()).map_err(|e| {
            Failure::io(
                &format!("entries up to {last} are appended, but that cannot be written to standard output"),
                &e,
            )
        })
    }
}

/// Returns standard output without a buffer, so that an acknowledgement is one write.
fn stdout() -> Result<File, Failure> {
    let fd = io::stdout().as_fd().try_clone_to_owned();
    fd.map(File::from).map_err(|e| Failure::io("cannot use standard output", &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appends files with these texts, in batches of at most 20 bytes including 4 for each entry.
    /// Returns the error and the entries of the stream.
    fn append(batch: Option<u64>, texts: &[&str]) -> (Option<Failure>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let texts = texts.iter().enumerate().map(|(i, text)| {
            let file = dir.path().join(format!("input-{i}"));
            std::fs::write(&file, text).unwrap();
            file
        });
        let arguments = Append {
            common: Common { dir: dir.path().join("log") },
            escaped: Escaped::default(),
            framing: FramingOptions::default(),
            stream: "s".to_owned(),
            files: texts.collect(),
            durability: DurabilityArgument::Synced,
            batch,
            ack: false,
            json: false,
        };
        let wal = Wal::open(&arguments.common.dir).unwrap();
        let mut appender = arguments.appender(&wal, "s", Gate::default()).unwrap();
        appender.batch_bytes_max = 20;
        let failure = arguments.append_all(&mut appender).err();
        let entries = wal.stream("s").unwrap().iter(..);
        (failure, entries.map(|entry| String::from_utf8(entry.unwrap().data().to_vec()).unwrap()).collect())
    }

    #[test]
    fn a_line_at_the_bound_is_appended_and_one_over_it_is_refused() {
        let at = "-".repeat(16);
        let over = "-".repeat(17);
        assert_eq!(append(None, &[&at]).1, [&*at]);
        for batch in [None, Some(1)] {
            for end in ["", "\n", "\nmore\n"] {
                let (failure, entries) = append(batch, &["1\n2\n", &format!("3\n{at}\n{over}{end}")]);
                let text = failure.unwrap().message().to_owned();
                assert!(text.contains("input-1, line 3: the line is longer than 16 bytes"), "{text}");
                assert_eq!(entries, ["1", "2", "3", &*at], "{batch:?}");
            }
        }
    }

    #[test]
    fn a_batch_over_the_bound_is_refused_with_all_its_lines() {
        let (failure, entries) = append(Some(3), &["1\n2\n3\n", "4\n", "5\n1234567\n7\n"]);
        let text = failure.unwrap().message().to_owned();
        assert!(text.contains("input-2, line 2: the batch takes more than 20 bytes"), "{text}");
        assert!(text.ends_with("nothing of this batch was appended"), "{text}");
        assert_eq!(entries, ["1", "2", "3"]);
        // A batch exactly at the bound is appended.
        let (failure, entries) = append(Some(3), &["4\n", "5\n123456\n7\n"]);
        assert!(failure.is_none());
        assert_eq!(entries, ["4", "5", "123456", "7"]);
    }

    #[test]
    fn lines_of_one_read_over_the_bound_are_several_batches() {
        let (failure, entries) = append(None, &["1234567\n1234567\n\n1\n"]);
        assert!(failure.is_none());
        assert_eq!(entries, ["1234567", "1234567", "", "1"]);
    }
}
