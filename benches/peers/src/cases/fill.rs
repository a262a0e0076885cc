//! Creates the logs that are read or opened. A separate process creates the large ones, so that its
//! memory does not count as the reader's.

use super::get::memory;
use super::idle::raise_files_max;
use super::{BATCH, ENTRY_LEN, Run, again, files, growth};
use crate::payload::Payload;
use crate::subject::{Answer, Level, Setup, Stop, Subject, failed};

/// The number of threads that append if each append syncs, so that they share syncs, or if there
/// are many streams.
pub(super) const THREADS: u64 = 64;

/// The content of a log, determined by the case and the subject.
pub(super) struct Recipe {
    pub(super) level: Level,
    pub(super) streams: u64,
    /// The number of entries in each stream, unless `segments` is set.
    pub(super) entries: u64,
    pub(super) entry_len: usize,
    pub(super) batch: bool,
    pub(super) segment_len: Option<u64>,
    pub(super) segments: Option<u64>,
}

/// The smallest segment size of stratawal.
pub(super) const SMALL_LEN: u64 = 64 << 10;

pub(super) fn recipe(run: &Run<'_>) -> Recipe {
    let kind = run.kind;
    let base = Recipe {
        level: kind.nearest(Level::Flushed),
        streams: 1,
        entries: run.entries / 4,
        entry_len: ENTRY_LEN,
        batch: false,
        segment_len: None,
        segments: None,
    };
    // For a large log, syncing appends one by one would take minutes.
    let large = Recipe { level: kind.levels[0], entries: run.entries, batch: kind.levels == [Level::Synced], ..base };
    let base = Recipe { level: kind.nearest(Level::Flushed), entries: run.entries / 4, batch: false, ..large };
    // Segments have an eighth of the log, if that is less than the default of stratawal and of
    // ironwal, so that most of the log is sealed.
    let sealed = |recipe: Recipe| {
        let len = recipe.entries * recipe.entry_len as u64 / 8;
        let small = len < 64 << 20 && (kind.name.starts_with("stratawal") || kind.name == "ironwal");
        Recipe { segment_len: small.then_some(len.max(SMALL_LEN)), ..recipe }
    };
    // One stream for each pass of a scan if reading consumes the entries.
    let scanned = |recipe: Recipe| sealed(Recipe { streams: if kind.reads_once { 2 } else { 1 }, ..recipe });
    match run.case.name {
        "W5" => scanned(base),
        // stratawal writes buffered entries in larger frames.
        "W5a" => scanned(Recipe { level: kind.nearest(Level::Buffered), ..base }),
        "W5b" => scanned(Recipe { batch: true, ..base }),
        "W5k" => scanned(Recipe { entries: run.entries / 16, entry_len: 1024, ..base }),
        "W8b" => Recipe { batch: true, ..base },
        "W6" | "W9" => sealed(large),
        "W6f" => sealed(Recipe { level: kind.nearest(Level::Flushed), ..large }),
        // As many as the first segment of each holds.
        "W6a" => Recipe { entries: run.entries.min(350_000), ..large },
        // Entries that are appended while reading go into the same segment.
        "W9a" => Recipe { entries: run.entries.min(350_000), segment_len: Some(32 << 30), ..large },
        "W7e" => large,
        "W7s" => Recipe { segment_len: Some(SMALL_LEN), segments: Some(1000), ..base },
        "W7t" => Recipe { streams: 10_000, entries: 10, ..base },
        "W12f" => Recipe { streams: run.streams(10_000), entries: 1, ..base },
        _ => base,
    }
}

impl Recipe {
    pub(super) fn setup<'a>(&self, run: &Run<'a>) -> Setup<'a> {
        Setup {
            dir: run.dir,
            name: run.kind.name,
            level: self.level,
            threads: if self.syncs_each() || self.streams > 2 { THREADS } else { 1 },
            streams: self.streams,
            entry_len: self.entry_len,
            entries_max: self.entries * self.streams,
            segment_len: self.segment_len,
            index_every: None,
            journal_bytes: None,
            reader: false,
        }
    }

    fn syncs_each(&self) -> bool {
        self.level == Level::Synced && !self.batch && self.segments.is_none() && self.streams == 1
    }

    /// Returns a guard to hold while the log is created or closed, if that syncs often.
    pub(super) fn awake(&self) -> Answer<Option<Awake>> {
        if self.level == Level::Synced || self.streams > 2 || self.segments.is_some() {
            Awake::new().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Returns a note to report with the figure.
    pub(super) fn note(&self) -> String {
        let how = match (self.batch, self.level) {
            (true, level) => format!("in batches of {BATCH}, {level}"),
            (false, Level::Synced) => format!("by {THREADS} threads, synced"),
            (false, level) => format!("one by one, {level}"),
        };
        format!("appended {how}")
    }

    /// Fills open streams, and returns how many entries stream 0 got.
    pub(super) fn write(&self, subject: &dyn Subject, run: &Run<'_>) -> Answer<u64> {
        if self.syncs_each() {
            return self.write_together(THREADS, |thread| {
                let mut writer = subject.writer(0)?;
                let mut payload = Payload::new(self.entry_len);
                let mut entries = (thread..self.entries).step_by(THREADS as usize);
                entries.try_for_each(|n| writer.append(payload.entry(n)))
            });
        }
        // Streams are created concurrently, as in programs with many streams.
        if self.streams > 2 {
            let threads = if run.kind.creates_alone { 1 } else { THREADS };
            return self.write_together(threads, |thread| {
                let mut payload = Payload::new(self.entry_len);
                (thread..self.streams).step_by(threads as usize).try_for_each(|stream| {
                    let mut writer = subject.writer(stream)?;
                    (0..self.entries).try_for_each(|n| writer.append(payload.entry(n)))?;
                    writer.flush()
                })
            });
        }
        let mut payload = Payload::new(self.entry_len);
        let mut entries = 0;
        for stream in 0..self.streams {
            let mut writer = subject.writer(stream)?;
            let mut n = 0;
            while self.goes_on(n, run) {
                if self.batch {
                    writer.append_batch(&payload.batch::<BATCH>(n))?;
                    n += BATCH as u64;
                } else {
                    writer.append(payload.entry(n))?;
                    n += 1;
                }
            }
            writer.flush()?;
            if stream == 0 {
                entries = n;
            }
        }
        Ok(entries)
    }

    fn goes_on(&self, n: u64, run: &Run<'_>) -> bool {
        match self.segments {
            None => n < self.entries,
            // Counting the files takes longer than appending.
            Some(segments) => !n.is_multiple_of(64) || n < segments * 32 || segment_files(run) < segments,
        }
    }

    fn write_together(&self, threads: u64, part: impl Fn(u64) -> Answer<()> + Sync) -> Answer<u64> {
        in_scope(threads, part, || ()).0?;
        Ok(self.entries)
    }
}

/// Runs `part` on several threads and `beside` on this one, and returns the results.
pub(super) fn in_scope<T: Send, U>(
    threads: u64,
    part: impl Fn(u64) -> Answer<T> + Sync,
    beside: impl FnOnce() -> U,
) -> (Answer<Vec<T>>, U) {
    std::thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        let result = beside();
        let panicked = |_| Stop::Failed("a thread panicked".to_owned());
        // All threads are joined before the first failure is reported.
        let results: Vec<Answer<T>> = threads.into_iter().map(|thread| thread.join().map_err(panicked)?).collect();
        (results.into_iter().collect(), result)
    })
}

/// Keeps the cores awake while it lives, at the lowest priority, because a sync takes many times as
/// long on a sleeping core.
pub(super) struct Awake([std::process::Child; 2]);

impl Awake {
    pub(super) fn new() -> Answer<Self> {
        let program = std::env::current_exe().map_err(failed("the program"))?;
        let busy = || {
            let mut command = std::process::Command::new("nice");
            command.args(["-n", "19"]).arg(&program).args(["busy", "300"]).spawn().map_err(failed("nice"))
        };
        Ok(Self([busy()?, busy()?]))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn segment_files(run: &Run<'_>) -> u64 {
    let (count, _, _) = files(run.dir);
    // Each segment has an index file.
    if run.kind.name == "commitlog" { count / 2 } else { count }
}

/// Creates the log of a case in this process. Calls `filled` with the number of entries that stream
/// 0 has, and returns it.
pub(crate) fn fill(run: &Run<'_>, filled: &dyn Fn(u64)) -> Answer<u64> {
    match run.case.name {
        "W12o" => return again::fill_and_kill(run, filled),
        "W12p" => return again::fill_and_hold(run, filled),
        _ => {}
    }
    let entries = if run.case.name.starts_with('G') {
        growth::fill(run)?
    } else {
        let recipe = recipe(run);
        if recipe.streams > THREADS {
            raise_files_max();
        }
        let subject = (run.kind.open)(&recipe.setup(run))?;
        let _awake = recipe.awake()?;
        let entries = recipe.write(&*subject, run)?;
        subject.close()?;
        entries
    };
    filled(entries);
    Ok(entries)
}

/// The first word of the line that a process prints when it has created a log. The number of
/// entries and the most memory that it has used, in MiB, follow.
pub(crate) const FILLED: &str = "filled";

/// Prints that a log was created.
pub(crate) fn print_filled(entries: u64) {
    use std::io::Write;
    let peak = memory("VmHWM:").unwrap_or(0.0);
    let mut out = std::io::stdout();
    // The process that reads this fails without it.
    let _ = writeln!(out, "{FILLED} {entries} {peak}").and_then(|()| out.flush());
}

/// A log that another process has created.
pub(super) struct Filled {
    /// The number of entries of stream 0.
    pub(super) entries: u64,
    /// The most memory that the process has used, in MiB.
    pub(super) peak: f64,
}

/// Creates the log of a case in another process, and waits for it.
pub(super) fn fill_apart(run: &Run<'_>) -> Answer<Filled> {
    use std::os::unix::process::ExitStatusExt;
    let program = std::env::current_exe().map_err(failed("the program"))?;
    let output = std::process::Command::new(program)
        .args(["fill", run.case.name, run.kind.name])
        .arg(run.dir)
        .args([run.time.as_secs_f64().to_string(), run.entries.to_string()])
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(failed("fill"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let ended = if run.case.name == "W12o" { output.status.signal() == Some(9) } else { output.status.success() };
    let words: Vec<&str> = line.split(' ').collect();
    if let ([FILLED, entries, peak], true) = (&words[..], ended) {
        let entries = entries.parse().map_err(failed("fill"))?;
        return Ok(Filled { entries, peak: peak.parse().map_err(failed("fill"))? });
    }
    match line.split_once(' ') {
        Some(("none", why)) if output.status.success() => Err(Stop::None(why.to_owned())),
        _ => Err(Stop::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
