//! The entries that `truncate` and `delete` would drop, found without changing anything.

use std::fmt::Write;
use std::ops::Range;
use std::time::SystemTime;

use stratawal::inspect::{self, Salvaged};
use stratawal::{Error, ErrorKind, Options, Stream};

use crate::failure::{Failure, counted};
use crate::name::pasteable;
use crate::{Common, bounds, human, json};

/// The part of a stream that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The entries below this one.
    Before(u64),
    /// This entry and all after it.
    From(u64),
    /// The whole stream.
    All,
}

/// A stream, and the part of it that goes.
#[derive(Debug)]
pub(crate) struct Plan {
    name: String,
    part: Part,
    /// The entries of the stream now.
    first: u64,
    next: u64,
    /// All entries that were found in a stream that cannot be opened.
    damaged: Option<Content>,
}

/// The entries that were found in a range of seqs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    entries: u64,
    bytes: u64,
    times: Option<(SystemTime, SystemTime)>,
    /// The entries that damage had already destroyed.
    lost: u64,
    /// Whether there may have been more, of which nothing is known.
    lost_more: bool,
    /// Whether a part cannot be read because a newer version wrote it.
    has_newer: bool,
    /// The first seq that was found, lost ones included, and one past the last.
    seqs: Option<(u64, u64)>,
    /// One past the last lost entry.
    lost_end: u64,
}

/// The segment files that hold nothing else than entries that go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Segments {
    whole: usize,
    bytes: u64,
    all: usize,
    /// The least --before with which a file goes. `None` if it is not known, or this is not
    /// a truncation from the beginning.
    first_end: Option<u64>,
}

impl Segments {
    /// Returns the files that go, and the space that this frees.
    fn text(self) -> String {
        let Self { whole, bytes, all, first_end } = self;
        if whole > 0 {
            return format!("segment files that go: {whole} of {all}, {}", human::bytes(bytes));
        }
        let least = first_end.map_or_else(String::new, |end| format!("; --before {end} is the least that does"));
        format!("segment files that go: none of {all}, so this frees no space{least}")
    }
}

impl Plan {
    /// Looks at the stream `name`, and changes nothing. Another process may write to it.
    pub(crate) fn new(common: &Common, name: &str, part: Part) -> Result<Self, Failure> {
        let wal = common.result(Options::new().open_read_only(&common.dir))?;
        let plan = |first, next, damaged| Self { name: name.to_owned(), part, first, next, damaged };
        match wal.stream(name) {
            Ok(stream) if !stream.exists() => Err(Failure::unknown_stream(&common.dir, name)),
            Ok(stream) => Ok(plan(stream.first_seq(), stream.next_seq(), None)),
            // A deletion needs nothing of the stream.
            Err(error) if error.kind() == ErrorKind::NewerFormat && part == Part::All => {
                let content = Content::salvaged(common, name, 0..u64::MAX)?;
                let (first, next) = content.seqs.unwrap_or_default();
                Ok(plan(first, next, Some(content)))
            }
            Err(error) if error.kind() == ErrorKind::Damaged && !matches!(part, Part::From(_)) => {
                let content = Content::salvaged(common, name, 0..u64::MAX)?;
                let (first, next) = content.seqs.unwrap_or_default();
                // The truncation itself is then refused with this error, too.
                let is_refused = match part {
                    Part::Before(seq) => content.lost_more || content.has_newer || content.lost_end > seq,
                    _ => false,
                };
                if is_refused { common.result(Err(error)) } else { Ok(plan(first, next, Some(content))) }
            }
            Err(error) => common.result(Err(error)),
        }
    }

    /// The entries of the stream now.
    pub(crate) fn live(&self) -> Range<u64> {
        self.first..self.next
    }

    /// The entries that go.
    fn dropped(&self) -> Range<u64> {
        match self.part {
            Part::Before(seq) => self.first..seq.clamp(self.first, self.next),
            Part::From(seq) => seq.clamp(self.first, self.next)..self.next,
            Part::All => self.first..self.next,
        }
    }

    /// The entries that stay.
    fn kept(&self) -> (u64, u64) {
        match self.part {
            Part::Before(seq) => (seq.max(self.first), seq.max(self.next)),
            Part::From(seq) => (self.first, seq.clamp(self.first, self.next)),
            Part::All => (0, 0),
        }
    }

    /// Returns the text for people about the entries that go and those that stay. Reads the former.
    pub(crate) fn text(&self, common: &Common) -> Result<String, Failure> {
        let Range { start, end } = self.dropped();
        let verb = if self.part == Part::All { "delete" } else { "truncate" };
        let content = self.content(common)?;
        let goes = match start == end {
            true if content.has_newer || content.lost_more => "entries that cannot be read".to_owned(),
            true => "no entries".to_owned(),
            false => bounds::entries(start, end),
        };
        let mut text = format!("stream {}: {verb} would drop {goes}\n", pasteable(&self.name));
        let segments = self.segments(common)?;
        // Writing to a string does not fail.
        if let Some((first, last)) = content.times {
            let entries = counted(content.entries, "entry", "entries");
            let bytes = human::bytes(content.bytes);
            let _ = writeln!(text, "  {entries}, {bytes}, from {} to {}", human::time(first), human::time(last));
        }
        if content.lost > 0 {
            let _ = writeln!(text, "  {} already lost", counted(content.lost, "entry is", "entries are"));
        }
        if content.lost_more {
            let _ = writeln!(text, "  more entries may be lost (how many is not known)");
        }
        if content.has_newer {
            let _ = writeln!(
                text,
                "  some are not counted: a newer version wrote a part of the stream, or a version number is damaged"
            );
        }
        let _ = writeln!(text, "  {}", segments.text());
        let (first, next) = self.kept();
        let _ = match self.part {
            Part::All => writeln!(text, "  nothing stays; a new stream of this name begins with entry 0"),
            _ => writeln!(text, "  what stays: {}", bounds::entries(first, next)),
        };
        Ok(text)
    }

    /// Returns the fields of a JSON object about the entries that go and those that stay. Reads the
    /// former.
    pub(crate) fn json(&self, common: &Common) -> Result<String, Failure> {
        let Range { start, end } = self.dropped();
        let content = self.content(common)?;
        let Segments { whole, bytes: disk_bytes, .. } = self.segments(common)?;
        let Content { entries, bytes, lost, .. } = content;
        // Shown only if it is true.
        let unread = if content.has_newer { r#","unread":true"# } else { "" };
        let (first, next) = self.kept();
        let time = |time: Option<SystemTime>| time.map_or_else(|| "null".to_owned(), |at| json::text(&human::time(at)));
        let first_time = time(content.times.map(|times| times.0));
        let last_time = time(content.times.map(|times| times.1));
        let last = json::number_or_null((end > start).then(|| end - 1));
        let begin = json::number_or_null((end > start).then_some(start));
        let stays = match self.part {
            Part::All => r#""deleted":false"#.to_owned(),
            _ => format!(r#""truncated":false,"first":{first},"next":{next}"#),
        };
        Ok(format!(
            r#""stream":{},{stays},"drops":{{"first":{begin},"last":{last},"entries":{entries},"bytes":{bytes},"lost":{lost},"first_time":{first_time},"last_time":{last_time},"segments":{whole},"disk_bytes":{disk_bytes}{unread}}}"#,
            json::text(&self.name),
        ))
    }

    fn content(&self, common: &Common) -> Result<Content, Failure> {
        let seqs = self.dropped();
        match &self.damaged {
            Some(all) if self.part == Part::All => return Ok(all.clone()),
            Some(_) => return Content::salvaged(common, &self.name, seqs),
            None => {}
        }
        let wal = common.result(Options::new().open_read_only(&common.dir))?;
        let stream = common.result(wal.stream(&self.name))?;
        let is_readable_in_part = |error: &Error| match error.kind() {
            ErrorKind::Damaged => true,
            ErrorKind::NewerFormat => self.part == Part::All,
            _ => false,
        };
        match Content::read(&stream, seqs.clone()) {
            Err(error) if is_readable_in_part(&error) => Content::salvaged(common, &self.name, seqs),
            content => common.result(content),
        }
    }

    fn segments(&self, common: &Common) -> Result<Segments, Failure> {
        let files = common.result(inspect::segment_files(&common.dir, &self.name))?;
        let mut segments = Segments { all: files.len(), ..Segments::default() };
        for (i, file) in files.iter().enumerate() {
            // A file ends where the next one begins.
            let end = files.get(i + 1).map_or(Some(self.next), |next| next.base_seq);
            let is_whole = match self.part {
                Part::Before(seq) => end.is_some_and(|end| end <= seq),
                Part::From(seq) => seq < self.next && file.base_seq.is_some_and(|base| base >= seq),
                Part::All => true,
            };
            if i == 0 && matches!(self.part, Part::Before(_)) {
                segments.first_end = end;
            }
            if is_whole {
                segments.whole += 1;
                segments.bytes += file.bytes;
            }
        }
        Ok(segments)
    }
}

impl Content {
    /// Reads the entries in `seqs` of a sound stream.
    fn read(stream: &Stream, seqs: Range<u64>) -> stratawal::Result<Self> {
        let mut content = Self::default();
        for entry in stream.iter(seqs) {
            let entry = entry?;
            content.add(entry.seq(), entry.data().len(), entry.timestamp());
        }
        Ok(content)
    }

    /// Reads the entries in `seqs` of a damaged stream.
    fn salvaged(common: &Common, name: &str, seqs: Range<u64>) -> Result<Self, Failure> {
        let mut content = Self::default();
        for item in common.result(inspect::salvage(&common.dir, name))? {
            if matches!(&item, Err(error) if error.kind() == ErrorKind::NewerFormat) {
                content.has_newer = true;
                break;
            }
            match common.result(item)? {
                Salvaged::Lost(lost) if lost.error.kind() == ErrorKind::NewerFormat => content.has_newer = true,
                Salvaged::Entry(entry) | Salvaged::Uncertain(entry) => {
                    if entry.seq() >= seqs.end {
                        break;
                    }
                    if entry.seq() >= seqs.start {
                        content.add(entry.seq(), entry.data().len(), entry.timestamp());
                    }
                }
                Salvaged::Lost(lost) => content.add_lost(lost.first_seq, lost.next_seq, &seqs),
                // A kind that a later version of the library adds.
                _ => {}
            }
        }
        Ok(content)
    }

    fn add(&mut self, seq: u64, bytes: usize, time: SystemTime) {
        self.entries += 1;
        self.bytes += bytes as u64;
        let first = self.times.map_or(time, |(first, _)| first);
        self.times = Some((first, time));
        self.cover(seq, seq + 1);
    }

    fn add_lost(&mut self, first: u64, next: Option<u64>, seqs: &Range<u64>) {
        let begin = first.max(seqs.start);
        match next.map(|next| next.min(seqs.end)) {
            Some(end) if begin < end => {
                self.lost += end - begin;
                self.lost_end = self.lost_end.max(end);
                self.cover(begin, end);
            }
            Some(_) => {}
            None if first < seqs.end => self.lost_more = true,
            None => {}
        }
    }

    fn cover(&mut self, first: u64, next: u64) {
        let (begin, end) = self.seqs.unwrap_or((first, next));
        self.seqs = Some((begin.min(first), end.max(next)));
    }
}
