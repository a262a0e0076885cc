//! W12f, W12o and W12p: appends to many streams after a clean close, opening after a kill, and a
//! reader that finds nothing new.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

use super::append::sum_below;
use super::fill::{FILLED, THREADS, fill_apart, in_scope, recipe};
use super::idle::{raise_files_max, seconds};
use super::{BATCH, ENTRY_LEN, Figures, Run, check, files, kept};
use crate::hist::Hist;
use crate::payload::{Payload, Tally};
use crate::subject::{Answer, Level, Setup, Stop, failed};

/// The streams of a log that is killed: so many that none has enough to be drained at once.
const KILLED_STREAMS: u64 = 320;

/// The entries of each of them. With their headers they fill a journal of 64 MiB.
const KILLED_ENTRIES: u64 = 1_600;

/// The entries that a reader has seen before it polls.
const HELD_ENTRIES: u64 = 1_000;

/// The number of streams that are read to check their entries.
const CHECKED: u64 = 10;

/// Measures one flushed append to each of many streams that were looked up, and then one sync.
pub(super) fn touch(run: &Run<'_>) -> Answer<Figures> {
    raise_files_max();
    let recipe = recipe(run);
    let entries = fill_apart(run)?.entries;
    let setup = Setup { threads: 1, ..recipe.setup(run) };
    let (subject, opened) = seconds(|| kept(run, &setup))?;
    let _awake = recipe.awake()?;
    let writers = || (0..recipe.streams).map(|stream| subject.writer(stream)).collect::<Answer<Vec<_>>>();
    let (mut writers, looked_up) = seconds(writers)?;
    let mut payload = Payload::new(ENTRY_LEN);
    let began = Instant::now();
    writers.iter_mut().try_for_each(|writer| writer.append(payload.entry(entries)))?;
    let appended = began.elapsed().as_secs_f64();
    subject.sync()?;
    let taken = began.elapsed().as_secs_f64();
    drop(writers);
    for stream in (0..recipe.streams).step_by(recipe.streams.div_ceil(CHECKED) as usize) {
        let mut tally = Tally::checked(ENTRY_LEN);
        subject.scan(stream, &mut tally)?;
        let expected = (entries + 1, sum_below(entries + 1));
        check("the scan", (tally.count, tally.sum), expected, tally.wrong)?;
    }
    Ok(Figures {
        value: taken * 1e3,
        took: None,
        entries: recipe.streams,
        bytes: recipe.streams * ENTRY_LEN as u64,
        seconds: taken,
        more: vec![
            ("ms of it for the appends", appended * 1e3),
            ("ms to open", opened * 1e3),
            ("ms to look them up", looked_up * 1e3),
        ],
        note: format!("{} streams", recipe.streams),
    })
}

fn killed_setup<'a>(run: &'a Run<'_>) -> Setup<'a> {
    let entries_max = KILLED_STREAMS * KILLED_ENTRIES;
    Setup { threads: THREADS, streams: KILLED_STREAMS, entries_max, ..run.setup(Level::Flushed) }
}

/// Fills a log, and ends this process by a signal while the log is open.
pub(super) fn fill_and_kill(run: &Run<'_>, filled: &dyn Fn(u64)) -> Answer<u64> {
    raise_files_max();
    let subject = (run.kind.open)(&killed_setup(run))?;
    let part = |thread: u64| {
        let mut payload = Payload::new(ENTRY_LEN);
        let streams = (thread..KILLED_STREAMS).step_by(THREADS as usize);
        let mut writers = streams.map(|stream| subject.writer(stream)).collect::<Answer<Vec<_>>>()?;
        // Other logs are filled in batches, which take less time, and leave them less to read.
        let step = if run.kind.name.starts_with("stratawal") { 1 } else { BATCH as u64 };
        (0..KILLED_ENTRIES).step_by(step as usize).try_for_each(|n| {
            writers.iter_mut().try_for_each(|writer| match step {
                1 => writer.append(payload.entry(n)),
                _ => writer.append_batch(&payload.batch::<BATCH>(n)),
            })
        })
    };
    in_scope(THREADS, part, || ()).0?;
    filled(KILLED_ENTRIES);
    use rustix::process::{Signal, getpid, kill_process};
    kill_process(getpid(), Signal::KILL).map_err(failed("kill"))?;
    Err(Stop::Failed("the process outlived its signal".to_owned()))
}

/// Measures how long a log takes to open after its process was killed.
pub(super) fn open_killed(run: &Run<'_>) -> Answer<Figures> {
    raise_files_max();
    let entries = fill_apart(run)?.entries;
    let (count, _, _) = files(run.dir);
    let setup = killed_setup(run);
    let mut payload = Payload::new(ENTRY_LEN);
    let began = Instant::now();
    let subject = kept(run, &setup)?;
    let opened = began.elapsed();
    subject.writer(0)?.append(payload.entry(entries))?;
    let appended = began.elapsed();
    for stream in 1..KILLED_STREAMS {
        subject.writer(stream)?.append(payload.entry(entries))?;
    }
    let all = began.elapsed();
    for stream in (0..KILLED_STREAMS).step_by(KILLED_STREAMS.div_ceil(CHECKED) as usize) {
        let mut tally = Tally::checked(ENTRY_LEN);
        subject.scan(stream, &mut tally)?;
        let expected = (entries + 1, sum_below(entries + 1));
        check("the scan", (tally.count, tally.sum), expected, tally.wrong)?;
    }
    Ok(Figures {
        value: opened.as_secs_f64() * 1e3,
        took: None,
        entries: entries * KILLED_STREAMS,
        bytes: entries * KILLED_STREAMS * ENTRY_LEN as u64,
        seconds: opened.as_secs_f64(),
        more: vec![
            ("ms until an append was acknowledged", appended.as_secs_f64() * 1e3),
            ("ms until all streams were appended to", all.as_secs_f64() * 1e3),
        ],
        note: format!("{KILLED_STREAMS} streams of {KILLED_ENTRIES} flushed entries; {count} files"),
    })
}

/// A process that holds the log of a case open for writing, until this is dropped.
struct Holder {
    child: Child,
    /// The child ends when this is closed.
    input: Option<ChildStdin>,
    entries: u64,
}

impl Holder {
    fn new(run: &Run<'_>) -> Answer<Self> {
        let program = std::env::current_exe().map_err(failed("the program"))?;
        let mut child = Command::new(program)
            .args(["fill", run.case.name, run.kind.name])
            .arg(run.dir)
            .args([run.time.as_secs_f64().to_string(), run.entries.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed("the writer"))?;
        let input = child.stdin.take();
        let mut line = String::new();
        let output = child.stdout.take().ok_or_else(|| Stop::Failed("the writer has no output".to_owned()))?;
        let mut held = Self { child, input, entries: 0 };
        BufReader::new(output).read_line(&mut line).map_err(failed("the writer"))?;
        let entries = line.split_whitespace().nth(1).filter(|_| line.starts_with(FILLED));
        let entries = entries.ok_or_else(|| Stop::Failed("the writer has failed".to_owned()))?;
        held.entries = entries.parse().map_err(failed("the writer"))?;
        Ok(held)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.input.take());
        // Its log is removed next; how it ended does not matter.
        let _ = self.child.wait();
    }
}

/// Fills stream 0, and holds the log open until the standard input ends.
pub(super) fn fill_and_hold(run: &Run<'_>, filled: &dyn Fn(u64)) -> Answer<u64> {
    let subject = (run.kind.open)(&run.setup(Level::Flushed))?;
    let mut payload = Payload::new(ENTRY_LEN);
    let mut writer = subject.writer(0)?;
    (0..HELD_ENTRIES).try_for_each(|n| writer.append(payload.entry(n)))?;
    subject.sync()?;
    filled(HELD_ENTRIES);
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(failed("wait"))?;
    drop(writer);
    subject.close()?;
    Ok(HELD_ENTRIES)
}

/// Measures how long a reader takes to find that a writer in another process has appended nothing.
pub(super) fn poll(run: &Run<'_>) -> Answer<Figures> {
    let holder = Holder::new(run)?;
    let subject = (run.kind.open)(&Setup { reader: true, ..run.setup(Level::Flushed) })?;
    let mut tally = Tally::checked(ENTRY_LEN);
    subject.scan(0, &mut tally)?;
    check("the scan", (tally.count, tally.sum), (holder.entries, sum_below(holder.entries)), tally.wrong)?;
    let mut took = Hist::new();
    let began = Instant::now();
    let mut before = began;
    while before - began < run.time {
        let end = subject.poll()?;
        let now = Instant::now();
        took.add(now - before);
        before = now;
        if end != holder.entries {
            return Err(Stop::Failed(format!("a poll found {end} of {} entries", holder.entries)));
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let polls = took.count();
    Ok(Figures {
        value: took.at(0.5) as f64 / 1e3,
        took: Some(took),
        entries: polls,
        bytes: 0,
        seconds,
        more: Vec::new(),
        note: format!("{HELD_ENTRIES} entries, which the reader has seen"),
    })
}
