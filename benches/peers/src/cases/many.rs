//! W11, W12c and W12k: very many streams in one process.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::append::sum_below;
use super::fill::{Awake, in_scope};
use super::get::memory;
use super::idle::{anonymous, limit_files, open_files, raise_files_max, seconds};
use super::{ENTRY_LEN, Figures, Run, check, files, kept};
use crate::hist::Hist;
use crate::payload::{Payload, Tally};
use crate::subject::{Answer, Level, Setup, Stop, Subject, Writer};

const THREADS: u64 = 64;

/// The open files that most systems allow a process unless it asks for more.
const FILES_MAX: u64 = 1024;

/// The longest time for the creation of the streams, after which the subject has no figure.
const CREATION_MAX: Duration = Duration::from_secs(30);

/// The number of streams that are read to check their entries.
const CHECKED: u64 = 16;

/// The part of a thread: its entries in each of its streams in turn.
struct Done {
    created: Duration,
    entries: u64,
    took: Hist,
    ran: Duration,
}

/// The state of the process after the appends, while the handles are held.
struct Held {
    files: f64,
    peak: f64,
    anonymous: f64,
    on_disk: f64,
}

/// Measures appends to all streams in turn, each acknowledged when it is synced.
pub(super) fn in_turn(run: &Run<'_>, streams: u64) -> Answer<Figures> {
    let streams = run.streams(streams);
    limit_files(FILES_MAX);
    attempt(|| {
        let subject = kept(run, &setup(run, streams))?;
        let (done, held) = appended(run, &**subject, streams, run.time)?;
        checked(run, &**subject, streams, &done)?;
        let mut took = Hist::new();
        done.iter().for_each(|one| took.merge(&one.took));
        let entries = done.iter().map(|one| one.entries).sum::<u64>() - streams;
        let ran = done.iter().map(|one| one.ran.as_secs_f64()).fold(0.0, f64::max);
        let mut more = vec![("s to create them by 64 threads", created(&done).as_secs_f64())];
        more.extend(held.figures());
        Ok(Figures {
            value: entries as f64 / ran,
            took: Some(took),
            entries,
            bytes: entries * ENTRY_LEN as u64,
            seconds: ran,
            more,
            note: format!("{streams} streams; at most {FILES_MAX} open files"),
        })
    })
}

/// Measures the creation of streams with one synced entry each, by many threads.
pub(super) fn creation(run: &Run<'_>, streams: u64) -> Answer<Figures> {
    let mut figures = existence(run, streams)?;
    figures.value = figures.seconds * 1e3;
    Ok(figures)
}

/// Measures the close of a log whose streams have one synced entry each.
pub(super) fn closing(run: &Run<'_>, streams: u64) -> Answer<Figures> {
    let mut figures = existence(run, streams)?;
    let close = figures.more.iter().find(|(name, _)| *name == CLOSE);
    figures.value = close.map_or(0.0, |(_, ms)| *ms);
    figures.more.retain(|(name, _)| *name != CLOSE);
    figures.more.insert(0, ("s to create them by 64 threads", figures.seconds));
    Ok(figures)
}

const CLOSE: &str = "ms to close";

/// Creates the streams, closes the log, and opens it again. The seconds are those of the creation.
/// A commit journal allows to close fast, which is done first, before the log is opened for the
/// other way of closing.
fn existence(run: &Run<'_>, streams: u64) -> Answer<Figures> {
    let streams = run.streams(streams);
    raise_files_max();
    let _awake = Awake::new()?;
    attempt(|| {
        let setup = setup(run, streams);
        let mut subject = kept(run, &setup)?;
        let (done, held) = appended(run, &**subject, streams, Duration::ZERO)?;
        let mut more: Vec<(&'static str, f64)> = held.figures().to_vec();
        if matches!(run.kind.name, "stratawal" | "stratawal-written") {
            let ((), closed) = seconds(|| ManuallyDrop::into_inner(subject).close_fast())?;
            let (again, opened) = seconds(|| kept(run, &setup))?;
            more.extend([("ms to close fast", closed * 1e3), ("ms to open it after that", opened * 1e3)]);
            subject = again;
        }
        let ((), closed) = seconds(|| ManuallyDrop::into_inner(subject).close())?;
        let (count, _, _) = files(run.dir);
        let (subject, opened) = seconds(|| kept(run, &setup))?;
        more.extend([(CLOSE, closed * 1e3), ("ms to open it again", opened * 1e3), ("files on disk", count as f64)]);
        checked(run, &**subject, streams, &done)?;
        Ok(Figures {
            value: 0.0,
            took: None,
            entries: streams,
            bytes: streams * ENTRY_LEN as u64,
            seconds: created(&done).as_secs_f64(),
            more,
            note: format!("{streams} streams"),
        })
    })
}

/// Runs `what`. A subject that needs more open files than it may have, has no figure.
fn attempt(what: impl FnOnce() -> Answer<Figures>) -> Answer<Figures> {
    what().map_err(|stop| match stop {
        Stop::Failed(why) if why.contains("os error 24") => Stop::None(format!("it opens too many files: {why}")),
        other => other,
    })
}

fn setup<'a>(run: &'a Run<'_>, streams: u64) -> Setup<'a> {
    let journal = match streams {
        ..1_000 => 64 << 20,
        1_000..50_000 => 128 << 20,
        50_000.. => 512 << 20,
    };
    let journal_bytes = Some(journal);
    Setup { threads: THREADS, streams, entries_max: 2_000_000, journal_bytes, ..run.setup(Level::Synced) }
}

/// Creates the streams by appending an entry to each, and then appends to all in turn until the
/// time is up.
fn appended(run: &Run<'_>, subject: &dyn Subject, streams: u64, time: Duration) -> Answer<(Vec<Done>, Held)> {
    // Set by the first thread that fails, so that the others stop as well. Relaxed,
    // because it orders no other access.
    let over = AtomicBool::new(false);
    // The threads, and this one.
    let barrier = Barrier::new(THREADS as usize + 1);
    let part = |thread: u64| {
        let mut payload = Payload::new(ENTRY_LEN);
        // Every thread reaches every barrier; otherwise the others would wait forever.
        let begun = caught(|| create(subject, thread, streams, &mut payload, &over));
        over.fetch_or(begun.is_err(), Ordering::Relaxed);
        barrier.wait();
        let (done, writers) = match begun {
            Ok((created, mut writers)) => {
                let done = caught(|| go_round(&mut writers, created, &mut payload, time));
                (done, writers)
            }
            Err(stop) => (Err(stop), Vec::new()),
        };
        barrier.wait();
        barrier.wait();
        drop(writers);
        done
    };
    let (done, held) = in_scope(THREADS, part, || {
        barrier.wait();
        barrier.wait();
        let held = Held::now(run.dir);
        barrier.wait();
        held
    });
    Ok((done?, held?))
}

/// A panic is a failure, so that the other threads do not wait for this one.
fn caught<T>(what: impl FnOnce() -> Answer<T>) -> Answer<T> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|_| Stop::Failed("a thread panicked".to_owned()))?
}

type Writers<'a> = Vec<Box<dyn Writer + 'a>>;

fn create<'a>(
    subject: &'a dyn Subject,
    thread: u64,
    streams: u64,
    payload: &mut Payload,
    over: &AtomicBool,
) -> Answer<(Duration, Writers<'a>)> {
    let began = Instant::now();
    let mut writers = Vec::new();
    for stream in (thread..streams).step_by(THREADS as usize) {
        let mut writer = subject.writer(stream)?;
        writer.append(payload.entry(0))?;
        writers.push(writer);
        if over.load(Ordering::Relaxed) {
            return Ok((began.elapsed(), Vec::new()));
        }
        if began.elapsed() > CREATION_MAX {
            let made = writers.len() as u64 * THREADS;
            let seconds = CREATION_MAX.as_secs();
            return Err(Stop::None(format!("it created some {made} of the streams within {seconds} s")));
        }
    }
    Ok((began.elapsed(), writers))
}

fn go_round(writers: &mut Writers<'_>, created: Duration, payload: &mut Payload, time: Duration) -> Answer<Done> {
    let each = writers.len() as u64;
    let mut entries = each;
    let mut took = Hist::new();
    let began = Instant::now();
    let mut before = began;
    // Without streams, another thread has failed.
    while each > 0 && before - began < time {
        let at = usize::try_from(entries % each).unwrap_or(0);
        writers[at].append(payload.entry(entries / each))?;
        entries += 1;
        let now = Instant::now();
        took.add(now - before);
        before = now;
    }
    Ok(Done { created, entries, took, ran: before - began })
}

fn created(done: &[Done]) -> Duration {
    done.iter().map(|one| one.created).max().unwrap_or_default()
}

/// Reads some streams, or the one file that has all of them, and checks every byte.
fn checked(run: &Run<'_>, subject: &dyn Subject, streams: u64, done: &[Done]) -> Answer<()> {
    let expected = |stream: u64| {
        let thread = stream % THREADS;
        let each = (streams - thread).div_ceil(THREADS);
        let at = stream / THREADS;
        let entries = done.get(thread as usize).map_or(0, |one| one.entries);
        let count = entries / each + u64::from(at < entries % each);
        (count, sum_below(count))
    };
    let all = run.kind.is_raw();
    let step = if all { streams } else { streams.div_ceil(CHECKED) };
    for stream in (0..streams).step_by(step as usize) {
        let mut tally = Tally::checked(ENTRY_LEN);
        subject.scan(stream, &mut tally)?;
        let expected = if all {
            let add = |sum: (u64, u64), one: (u64, u64)| (sum.0 + one.0, sum.1.wrapping_add(one.1));
            (0..streams).map(expected).fold((0, 0), add)
        } else {
            expected(stream)
        };
        check("the scan", (tally.count, tally.sum), expected, tally.wrong)?;
    }
    Ok(())
}

impl Held {
    fn now(dir: &Path) -> Answer<Self> {
        let (_, _, blocks) = files(dir);
        let peak = memory("VmHWM:").ok_or_else(|| Stop::Failed("the memory is not known".to_owned()))?;
        Ok(Self { files: open_files()?, peak, anonymous: anonymous()?, on_disk: blocks as f64 / f64::from(1 << 20) })
    }

    fn figures(&self) -> [(&'static str, f64); 4] {
        [
            ("files open", self.files),
            ("MiB of memory at most", self.peak),
            ("MiB of it anonymous", self.anonymous),
            ("MiB on disk", self.on_disk),
        ]
    }
}
