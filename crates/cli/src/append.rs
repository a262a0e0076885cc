//! `stratawal append`: lines to entries.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use stratawal::{Batch, Durability, Stream, Wal, inspect};

use crate::failure::{DONE, FAILED, Failure, counted};
use crate::lines::Lines;
use crate::{Common, json, signals};

/// What its help says of its JSON.
pub(crate) const JSON: &str = r#"With --ack --json, a line for each batch: {"first":0,"last":99}
With --json, the last line: {"stream":"s","entries":100,"bytes":5120,"first":0,"last":99,"seconds":0.01}
(`first` and `last` are null where there was nothing to append)."#;

/// The arguments of `append`.
#[derive(Debug, clap::Args)]
pub(crate) struct Append {
    #[command(flatten)]
    common: Common,
    /// The stream. Any name of at least one character whose escaped form (`streams` prints it) is at most 240 bytes.
    stream: String,
    /// Files to read, one entry a line; `-` is standard input, and so is none.
    files: Vec<PathBuf>,
    /// What an entry must be before it counts as appended.
    #[arg(long, value_enum, default_value = "synced")]
    durability: DurabilityArgument,
    /// Append so many lines as one batch, which is there as a whole after a crash or not at all. Otherwise a batch is
    /// what one read brings.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
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
    /// In this process.
    Buffered,
    /// Handed to the operating system: survives kill -9.
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

/// What is held while a batch is appended and acknowledged, so that an interrupt comes between two.
struct Appender {
    stream: Stream,
    batch: Batch,
    batch_len: Option<usize>,
    ack: Option<File>,
    json: bool,
    first: Option<u64>,
    last: Option<u64>,
    bytes: u64,
}

impl Append {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        // Before anything is created.
        inspect::escape_name(&self.stream)?;
        for file in &self.files {
            check_file(file)?;
        }
        let began = Instant::now();
        let wal = Wal::open(&self.common.dir)?;
        let appender = self.appender(&wal)?;
        let appender = Arc::new(Mutex::new(appender));
        let result = self.append_all(&wal, &appender);
        // Closed whatever happened: what was appended is there, and the next open scans nothing.
        let closed = wal.close();
        result.and_then(|()| Ok(closed?)).map_err(|failure| failure.with(lock(&appender).done_before().as_deref()))?;
        self.print_summary(&lock(&appender), began)?;
        Ok(DONE)
    }

    fn appender(&self, wal: &Wal) -> Result<Appender, Failure> {
        let stream = wal.stream(&self.stream)?.with_durability(self.durability.into());
        let ack = if self.ack { Some(stdout()?) } else { None };
        Ok(Appender {
            stream,
            batch: Batch::new(),
            batch_len: self.batch.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            ack,
            json: self.json,
            first: None,
            last: None,
            bytes: 0,
        })
    }

    fn append_all(&self, wal: &Wal, appender: &Arc<Mutex<Appender>>) -> Result<(), Failure> {
        let (interrupted, at_interrupt) = (wal.clone(), Arc::clone(appender));
        signals::on_interrupt(move || {
            // Held for good: nothing is appended behind the close.
            let held = lock(&at_interrupt);
            let _ = interrupted.close();
            std::mem::forget(held);
        })
        .map_err(|e| Failure::io("cannot watch for interrupts", &e))?;

        let standard_input = [PathBuf::from("-")];
        let files = if self.files.is_empty() { &standard_input[..] } else { &self.files };
        let result = files.iter().try_for_each(|file| append_file(file, appender));
        // Lines that were read before an error are appended all the same; those of a batch that failed are gone from it.
        let rest = lock(appender).append();
        result.and(rest)
    }

    fn print_summary(&self, appender: &Appender, began: Instant) -> Result<(), Failure> {
        let seconds = began.elapsed().as_secs_f64();
        let entries = match (appender.first, appender.last) {
            (Some(first), Some(last)) => last - first + 1,
            _ => 0,
        };
        let result = if self.json {
            let line = format!(
                "{{\"stream\":{},\"entries\":{entries},\"bytes\":{},\"first\":{},\"last\":{},\"seconds\":{seconds:.6}}}\n",
                json::text(&self.stream),
                appender.bytes,
                json::number_or_null(appender.first),
                json::number_or_null(appender.last),
            );
            stdout()?.write_all(line.as_bytes())
        } else {
            let seqs = match (appender.first, appender.last) {
                (Some(first), Some(last)) => format!("seqs {first} to {last}"),
                _ => "nothing to append".to_owned(),
            };
            // A rate over no time says nothing.
            let rate = entries as f64 / seconds.max(1e-6);
            let bytes = appender.bytes;
            let entries = counted(entries, "entry", "entries");
            let line = format!("{entries}, {bytes} bytes, {seqs}, {seconds:.3} s, {rate:.0} entries/s\n");
            // Standard error has no buffer: in one piece, beside other processes that write there.
            io::stderr().write_all(line.as_bytes())
        };
        result.map_err(|e| Failure::io("everything was appended, but the summary cannot be written", &e))
    }
}

/// So that a mistyped name is seen before anything is appended.
fn check_file(file: &Path) -> Result<(), Failure> {
    if file == Path::new("-") {
        return Ok(());
    }
    let metadata = file.metadata().map_err(|e| cannot_read(file, &e))?;
    if metadata.is_dir() {
        return Err(cannot_read(file, &io::ErrorKind::IsADirectory.into()));
    }
    // Opening a pipe would wait for its other end.
    if metadata.is_file() {
        File::open(file).map_err(|e| cannot_read(file, &e))?;
    }
    Ok(())
}

fn cannot_read(file: &Path, error: &io::Error) -> Failure {
    let kind = if error.kind() == io::ErrorKind::NotFound { "missing" } else { "io" };
    Failure::new(FAILED, kind, format!("cannot read {}: {error}", file.display()))
}

fn append_file(file: &Path, appender: &Mutex<Appender>) -> Result<(), Failure> {
    let input: Box<dyn Read> = if file == Path::new("-") {
        // Not std's buffered handle: what one read brings is one batch.
        Box::new(File::from(io::stdin().as_fd().try_clone_to_owned().map_err(|e| cannot_read(file, &e))?))
    } else {
        Box::new(File::open(file).map_err(|e| cannot_read(file, &e))?)
    };
    let mut lines = Lines::new(input);
    let mut read: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut count = 0;
        // Read without the lock: an interrupt must not wait for input.
        let more = lines.read(&mut |line| {
            match read.get_mut(count) {
                Some(kept) => {
                    kept.clear();
                    kept.extend_from_slice(line);
                }
                None => read.push(line.to_vec()),
            }
            count += 1;
        });
        lock(appender).take(&read[..count])?;
        if !more.map_err(|e| cannot_read(file, &e))? {
            return Ok(());
        }
    }
}

impl Appender {
    /// What a failure leaves behind it, in words.
    fn done_before(&self) -> Option<String> {
        let (first, last) = (self.first?, self.last?);
        Some(format!("entries {first} to {last} were appended before that"))
    }

    /// Takes lines, and appends what is a batch by now.
    fn take(&mut self, lines: &[Vec<u8>]) -> Result<(), Failure> {
        for line in lines {
            self.batch.push(line);
            if self.batch_len == Some(self.batch.len()) {
                self.append()?;
            }
        }
        if self.batch_len.is_none() { self.append() } else { Ok(()) }
    }

    fn append(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let appended = self.stream.append_batch(&self.batch);
        let bytes = self.batch.bytes() as u64;
        // Never again, if it failed: it may be there.
        self.batch.clear();
        let seqs = appended?;
        let last = seqs.end - 1;
        self.first.get_or_insert(seqs.start);
        self.last = Some(last);
        self.bytes += bytes;
        let Some(out) = &mut self.ack else { return Ok(()) };
        let line =
            if self.json { format!("{{\"first\":{},\"last\":{last}}}\n", seqs.start) } else { format!("{last}\n") };
        out.write_all(line.as_bytes()).map_err(|e| {
            Failure::io(
                &format!("entries up to {last} are appended, but that cannot be written to standard output"),
                &e,
            )
        })
    }
}

fn lock(appender: &Mutex<Appender>) -> MutexGuard<'_, Appender> {
    appender.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard output without a buffer: an acknowledgement is one write.
fn stdout() -> Result<File, Failure> {
    let fd = io::stdout().as_fd().try_clone_to_owned();
    fd.map(File::from).map_err(|e| Failure::io("cannot use standard output", &e))
}
