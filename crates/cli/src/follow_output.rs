//! The output of `follow`, which the followers of all streams share.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use stratawal::{Entry, FollowEvent};

use crate::failure::{Failure, counted, output};
use crate::form::Form;
use crate::name::pasteable;
use crate::selection::Selection;
use crate::terminal::{self, Output};
use crate::{bounds, human, json};

/// The number of bytes that are collected before they are written.
const BUFFER_LEN: usize = 256 << 10;

/// The output, and when to end.
#[derive(Debug)]
pub(crate) struct Shared {
    selection: Selection,
    form: Form,
    began: Instant,
    is_stopped: AtomicBool,
    is_interrupted: AtomicBool,
    entries: AtomicU64,
    bytes: AtomicU64,
    sink: Mutex<Sink>,
}

#[derive(Debug)]
struct Sink {
    out: BufWriter<Stdout>,
    /// Why the output takes no more.
    error: Option<io::Error>,
    /// The seq of the next entry of each stream that is followed.
    next: BTreeMap<String, u64>,
    /// For each stream that is followed from beyond its end, the first entry to print.
    from: BTreeMap<String, u64>,
    /// The streams that were deleted.
    deleted: HashSet<String>,
}

impl Shared {
    pub(crate) fn new(selection: Selection, form: Form) -> Self {
        let out = BufWriter::with_capacity(BUFFER_LEN, io::stdout());
        Self {
            selection,
            form,
            began: Instant::now(),
            is_stopped: AtomicBool::new(false),
            is_interrupted: AtomicBool::new(false),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            sink: Mutex::new(Sink {
                out,
                error: None,
                next: BTreeMap::new(),
                from: BTreeMap::new(),
                deleted: HashSet::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the command end.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Has the command end because of a signal.
    pub(crate) fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::SeqCst);
        self.stop();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::SeqCst)
    }

    /// A stream begins to be followed at `begin`.
    pub(crate) fn begin(&self, stream: &str, begin: u64) {
        let mut sink = self.lock();
        sink.next.insert(stream.to_owned(), begin);
        if !sink.deleted.contains(stream)
            && let Some(from) = self.selection.from.filter(|&from| from > begin)
        {
            sink.from.insert(stream.to_owned(), from);
        }
    }

    /// Prints an event of a stream.
    pub(crate) fn take(&self, stream: &str, event: &FollowEvent) {
        let mut sink = self.lock();
        let taken = match event {
            FollowEvent::Entry(entry) => self.take_entry(&mut sink, stream, entry),
            _ => self.take_change(&mut sink, stream, event),
        };
        self.check(&mut sink, taken);
    }

    fn take_entry(&self, sink: &mut Sink, stream: &str, entry: &Entry) -> io::Result<()> {
        if sink.deleted.remove(stream) {
            self.note_within(sink, &format!("the stream {} was created again", pasteable(stream)))?;
        }
        match sink.next.get_mut(stream) {
            Some(next) => *next = entry.seq() + 1,
            None => _ = sink.next.insert(stream.to_owned(), entry.seq() + 1),
        }
        let is_early = sink.from.get(stream).is_some_and(|&from| entry.seq() < from);
        if is_early || !self.selection.has(entry) {
            return Ok(());
        }
        self.form.print(&mut sink.out, stream, entry, "")?;
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(entry.data().len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn take_change(&self, sink: &mut Sink, stream: &str, event: &FollowEvent) -> io::Result<()> {
        let name = pasteable(stream);
        let (text, fields) = match event {
            FollowEvent::Truncated { dropped } => {
                let was_followed = sink.next.insert(stream.to_owned(), dropped.end).is_some();
                // Before its first entry, a stream that begins above 0 is not a change.
                if !was_followed || sink.deleted.contains(stream) || dropped.is_empty() {
                    return Ok(());
                }
                let range = bounds::entries(dropped.start, dropped.end);
                let text = format!("the stream {name} dropped {range} from its beginning before they were printed");
                (text, range_fields("truncated", dropped))
            }
            FollowEvent::Cut { dropped } => {
                sink.next.insert(stream.to_owned(), dropped.start);
                sink.from.remove(stream);
                let range = bounds::entries(dropped.start, dropped.end);
                let text = format!("the stream {name} dropped {range} from its end; the next is {}", dropped.start);
                (text, range_fields("cut", dropped))
            }
            FollowEvent::Deleted => {
                sink.next.remove(stream);
                sink.from.remove(stream);
                sink.deleted.insert(stream.to_owned());
                let text = format!("the stream {name} was deleted; waiting for a new one of that name");
                (text, r#""deleted":true"#.to_owned())
            }
            // A kind that a later version of the library adds.
            _ => return Ok(()),
        };
        if self.form.is_json() {
            writeln!(sink.out, r#"{{"stream":{},{fields}}}"#, json::text(stream))
        } else {
            self.note_within(sink, &text)
        }
    }

    /// Prints a note on standard error, after the entries before it.
    pub(crate) fn note(&self, text: &str) {
        let mut sink = self.lock();
        let noted = self.note_within(&mut sink, text);
        self.check(&mut sink, noted);
    }

    fn note_within(&self, sink: &mut Sink, text: &str) -> io::Result<()> {
        sink.out.flush()?;
        if !self.form.is_json() {
            terminal::note(text);
        }
        Ok(())
    }

    /// Prints the failure of one of several streams, after the entries before it.
    pub(crate) fn print_failure(&self, failure: &Failure) {
        let mut sink = self.lock();
        let flushed = sink.out.flush();
        self.check(&mut sink, flushed);
        failure.print(self.form.is_json());
    }

    /// Writes everything that was printed. If the reader of the output is gone, the command is to
    /// end, although nothing is left to write.
    pub(crate) fn flush(&self) {
        let mut sink = self.lock();
        let flushed = sink.out.flush();
        let flushed =
            flushed.and_then(|()| if Output::Out.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) });
        self.check(&mut sink, flushed);
    }

    fn check(&self, sink: &mut Sink, written: io::Result<()>) {
        if let Err(error) = written {
            sink.error.get_or_insert(error);
            self.stop();
        }
    }

    /// Writes everything that was printed, and a summary if nothing failed or the command was
    /// interrupted, and returns the first error of the output.
    pub(crate) fn end(&self, has_succeeded: bool) -> Result<(), Failure> {
        let mut sink = self.lock();
        if sink.error.is_none() {
            let flushed = sink.out.flush();
            self.check(&mut sink, flushed);
        }
        if let Some(error) = sink.error.take() {
            return output(error);
        }
        if !has_succeeded && !self.is_interrupted() {
            return Ok(());
        }
        if self.form.is_json() {
            let line = self.json_summary(&sink.next);
            writeln!(sink.out, "{line}").and_then(|()| sink.out.flush()).or_else(output)
        } else {
            let next = match sink.next.iter().next() {
                Some((_, next)) if sink.next.len() == 1 => format!("; the next is {next}"),
                _ => String::new(),
            };
            self.print_summary(&format!(" from {}{next}", counted(sink.next.len() as u64, "stream", "streams")));
            Ok(())
        }
    }

    fn json_summary(&self, next: &BTreeMap<String, u64>) -> String {
        let each: Vec<_> = next.iter().map(|(name, next)| format!("{}:{next}", json::text(name))).collect();
        format!(
            r#"{{"streams":{},"entries":{},"bytes":{},"seconds":{:.3},"next":{{{}}}}}"#,
            next.len(),
            self.entries.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
            self.began.elapsed().as_secs_f64(),
            each.join(","),
        )
    }

    /// Prints the summary while the output is in use.
    pub(crate) fn print_summary_only(&self) {
        if !self.form.is_json() {
            self.print_summary("; the reader of the output has not taken all of them");
        }
    }

    fn print_summary(&self, more: &str) {
        let entries = counted(self.entries.load(Ordering::Relaxed), "entry", "entries");
        let bytes = human::bytes(self.bytes.load(Ordering::Relaxed));
        let time = human::duration(self.began.elapsed());
        let _ = io::stderr().write_all(format!("{entries}, {bytes}, {time}{more}\n").as_bytes());
    }
}

fn range_fields(word: &str, range: &std::ops::Range<u64>) -> String {
    format!(r#""{word}_first":{},"{word}_last":{}"#, range.start, range.end.saturating_sub(1))
}
