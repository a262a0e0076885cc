//! W9: one reader at full speed while other threads append to the stream that it reads.
//!
//! With more threads than cores, elapsed time would measure the scheduler. So the figure is the
//! reader's own processor time in three phases: alone; while threads append to another stream,
//! sharing the reader's caches, but no lock or file; and while as many threads append to the
//! reader's own stream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fill::{fill_apart, in_scope, recipe};
use super::get::{Random, get};
use super::{ENTRY_LEN, Figures, Run, check};
use crate::hist::Hist;
use crate::payload::{Payload, Tally};
use crate::subject::{Answer, Setup, Stop, Subject};

/// The number of threads that append.
const APPENDERS: u64 = 8;

/// The reader alone, with appends to another stream, and with appends to its own.
const PHASES: u32 = 3;

/// The number of gets that are timed together, because reading the thread's clock is a system call.
const BLOCK: u64 = 32;

/// The maximum bytes that a phase appends, so that a long phase does not fill the disk.
const APPENDS_MAX: u64 = 20_000_000;

/// The work of the reader in one phase.
struct Phase {
    /// The processor time of each block.
    took: Hist,
    entries: u64,
    cpu: Duration,
    wall: Duration,
    /// The number of appends by all appenders.
    appends: u64,
}

impl Phase {
    fn cpu_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.entries as f64
    }

    fn wall_ns(&self) -> f64 {
        self.wall.as_nanos() as f64 / self.entries as f64
    }
}

pub(super) fn gets(run: &Run<'_>) -> Answer<Figures> {
    beside(run, |subject, bound, took| {
        let mut random = Random::new(bound);
        phase(run.time / PHASES, took, |tally| {
            (0..BLOCK).try_for_each(|_| get(subject, random.below(bound), tally))?;
            Ok(BLOCK)
        })
    })
}

/// Reads only entries that existed before the phases, so that all phases read the same entries.
pub(super) fn scan(run: &Run<'_>) -> Answer<Figures> {
    beside(run, |subject, bound, took| {
        phase(run.time / PHASES, took, |tally| {
            subject.scan_below(bound, tally)?;
            Ok(bound)
        })
    })
}

/// Runs `block`, which reads some entries and returns how many, until the time is up.
fn phase(time: Duration, mut took: Hist, mut block: impl FnMut(&mut Tally) -> Answer<u64>) -> Answer<Phase> {
    let mut tally = Tally::new();
    let mut entries = 0;
    let began = Instant::now();
    let cpu = thread_time();
    let mut before = cpu;
    while began.elapsed() < time || entries == 0 {
        let read = block(&mut tally)?;
        let now = thread_time();
        took.add(now.saturating_sub(before) / u32::try_from(read).unwrap_or(u32::MAX).max(1));
        before = now;
        entries += read;
    }
    let wall = began.elapsed();
    let cpu = before.saturating_sub(cpu);
    if (tally.count, tally.bytes) != (entries, entries * ENTRY_LEN as u64) {
        return Err(Stop::Failed("the reader saw other entries".to_owned()));
    }
    Ok(Phase { took, entries, cpu, wall, appends: 0 })
}

/// Returns the processor time of this thread.
pub(super) fn thread_time() -> Duration {
    time_of(rustix::time::ClockId::ThreadCPUTime)
}

/// Returns the processor time of all threads of this process, those that ended included.
pub(super) fn process_time() -> Duration {
    time_of(rustix::time::ClockId::ProcessCPUTime)
}

fn time_of(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn beside(run: &Run<'_>, read: impl Fn(&dyn Subject, u64, Hist) -> Answer<Phase>) -> Answer<Figures> {
    let recipe = recipe(run);
    // The other stream is empty in the prepared log.
    let setup = Setup { streams: 2, threads: APPENDERS + 1, ..recipe.setup(run) };
    // Reads from sealed segments of a log that was opened, or from entries that this process has
    // just appended.
    let sealed = run.case.name == "W9";
    let filled = if sealed { fill_apart(run)?.entries } else { 0 };
    let subject = (run.kind.open)(&setup)?;
    let entries = if sealed { filled } else { recipe.write(&*subject, run)? };
    // The last eighth may be in the active segment.
    let bound = if sealed { entries - entries / 8 } else { entries };
    // Reads once before the phases, which opens the files and indexes, and checks every byte.
    let mut tally = Tally::checked(ENTRY_LEN);
    subject.scan_below(entries, &mut tally)?;
    check("the scan", (tally.count, tally.sum), (entries, super::append::sum_below(entries)), tally.wrong)?;
    let alone = read(&*subject, bound, Hist::new())?;
    let other = amid(&*subject, 1, |took| read(&*subject, bound, took))?;
    let same = amid(&*subject, 0, |took| read(&*subject, bound, took))?;
    for (stream, expected) in [(0, entries + same.appends), (1, other.appends)] {
        let mut tally = Tally::checked(ENTRY_LEN);
        subject.scan(stream, &mut tally)?;
        check("the scan", (tally.count, 0), (expected, 0), tally.wrong)?;
    }
    subject.close()?;
    let rate = |phase: &Phase| phase.appends as f64 / phase.wall.as_secs_f64() / 1e6;
    let more = vec![
        ("ns of CPU alone", alone.cpu_ns()),
        ("ns of CPU alone, p50", alone.took.at(0.5) as f64),
        ("ns of CPU alone, p99", alone.took.at(0.99) as f64),
        ("ns of CPU beside 8 on another stream", other.cpu_ns()),
        ("ns by the wall alone", alone.wall_ns()),
        ("ns by the wall beside 8", same.wall_ns()),
        ("million appends a second on another stream", rate(&other)),
        ("million appends a second beside the reader", rate(&same)),
    ];
    let note = format!("{}; all percentiles are of the reader's CPU, by block", recipe.note());
    Ok(Figures {
        value: same.cpu_ns(),
        entries: same.entries,
        bytes: same.entries * ENTRY_LEN as u64,
        seconds: same.wall.as_secs_f64(),
        took: Some(same.took),
        more,
        note,
    })
}

/// Runs a phase while others append to `stream`.
fn amid(subject: &dyn Subject, stream: u64, read: impl FnOnce(Hist) -> Answer<Phase>) -> Answer<Phase> {
    let over = AtomicBool::new(false);
    let append = |thread: u64| {
        let mut writer = subject.writer(stream)?;
        let mut payload = Payload::new(ENTRY_LEN);
        let mut appended = 0;
        // Relaxed, because the flag only ends the loop and orders no other access.
        while !over.load(Ordering::Relaxed) && appended < APPENDS_MAX / APPENDERS {
            writer.append(payload.entry((thread + 1) << 40 | appended))?;
            appended += 1;
        }
        writer.flush()?;
        Ok(appended)
    };
    let (appended, phase) = in_scope(APPENDERS, append, || {
        // Waits until all of them are running.
        std::thread::sleep(Duration::from_millis(20));
        let phase = read(Hist::new());
        over.store(true, Ordering::Relaxed);
        phase
    });
    let mut phase = phase?;
    phase.appends = appended?.into_iter().sum();
    Ok(phase)
}
