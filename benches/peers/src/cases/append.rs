//! W1 to W4: appends.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::beside::{process_time, thread_time};
use super::fill::{Awake, SMALL_LEN, in_scope};
use super::{BATCH, ENTRY_LEN, Figures, Run, check, files};
use crate::hist::Hist;
use crate::payload::{Payload, Tally};
use crate::subject::{Answer, Level, Setup, Subject, Writer, none};

/// The maximum bytes that a run appends, so that a long run does not fill the disk.
const ENTRIES_MAX: u64 = (8 << 30) / ENTRY_LEN as u64;

/// The number of appends that are timed together. Reading the clock for each would
/// take a large part of the time of the fastest appends.
pub(super) const BLOCK: u64 = 256;

/// The first part of a run, which has its own figure: the bytes within the bound on unsynced bytes.
const BURST: u64 = (512 << 20) / ENTRY_LEN as u64;

/// Runs `append(n)` for `step` entries at a time until the time is up.
pub(super) fn timed(
    time: Duration,
    step: u64,
    mut append: impl FnMut(u64) -> Answer<()>,
) -> Answer<(u64, Hist, Option<f64>)> {
    let mut n = 0;
    let mut took = Hist::new();
    let mut burst = None;
    let began = Instant::now();
    let mut before = began;
    while before - began < time && n < ENTRIES_MAX {
        let next = n + BLOCK.next_multiple_of(step);
        let block = next - n;
        while n < next {
            append(n)?;
            n += step;
        }
        let now = Instant::now();
        took.add((now - before) / u32::try_from(block).unwrap_or(1));
        before = now;
        if burst.is_none() && n >= BURST {
            burst = Some((now - began).as_nanos() as f64 / n as f64);
        }
    }
    Ok((n, took, burst))
}

/// Checks the entries `0..entries` of stream 0, appended by one thread.
pub(super) fn verified(subject: &dyn Subject, entries: u64) -> Answer<()> {
    let mut tally = Tally::checked(ENTRY_LEN);
    subject.scan(0, &mut tally)?;
    check("the scan", (tally.count, tally.sum), (entries, sum_below(entries)), tally.wrong)
}

/// Returns the sum of the numbers below `n`.
pub(super) fn sum_below(n: u64) -> u64 {
    if n == 0 { 0 } else { (u128::from(n) * u128::from(n - 1) / 2) as u64 }
}

/// The processor time of this thread, and of all others of the process together.
struct Cpu {
    here: Duration,
    others: Duration,
}

impl Cpu {
    fn now() -> Self {
        let here = thread_time();
        Self { here, others: process_time().saturating_sub(here) }
    }

    fn since(&self) -> Self {
        let Self { here, others } = Self::now();
        Self { here: here.saturating_sub(self.here), others: others.saturating_sub(self.others) }
    }
}

pub(super) fn one_by_one(run: &Run<'_>) -> Answer<Figures> {
    let level = run.case.level.unwrap_or(Level::Flushed);
    run.kind.gives(level)?;
    let subject = (run.kind.open)(&run.setup(level))?;
    let mut payload = Payload::new(ENTRY_LEN);
    let mut writer = subject.writer(0)?;
    let cpu = Cpu::now();
    let began = Instant::now();
    let (entries, took, burst) = timed(run.time, 1, |n| writer.append(payload.entry(n)))?;
    // The figure includes handing over the bytes that are still buffered.
    if level == Level::Buffered {
        writer.flush()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu.since();
    drop(writer);
    verified(&*subject, entries)?;
    subject.close()?;
    let each = |time: Duration| time.as_nanos() as f64 / entries as f64;
    let mut more =
        vec![("ns of CPU an append", each(cpu.here)), ("ns of CPU an append, other threads", each(cpu.others))];
    more.extend(burst.map(|burst| ("ns an append within the first 512 MiB", burst)));
    Ok(Figures {
        value: seconds * 1e9 / entries as f64,
        took: Some(took),
        entries,
        bytes: entries * ENTRY_LEN as u64,
        seconds,
        more,
        note: format!("percentiles are of {BLOCK} appends each"),
    })
}

pub(super) fn batches(run: &Run<'_>) -> Answer<Figures> {
    run.kind.gives(Level::Flushed)?;
    if run.kind.batches_sync {
        return none("its batches are always synced");
    }
    let subject = (run.kind.open)(&run.setup(Level::Flushed))?;
    let mut payload = Payload::new(ENTRY_LEN);
    let mut writer = subject.writer(0)?;
    let began = Instant::now();
    let step = BATCH as u64;
    let (entries, took, burst) = timed(run.time, step, |n| writer.append_batch(&payload.batch::<BATCH>(n)))?;
    let seconds = began.elapsed().as_secs_f64();
    writer.flush()?;
    drop(writer);
    verified(&*subject, entries)?;
    subject.close()?;
    Ok(Figures {
        value: entries as f64 / seconds / 1e6,
        took: Some(took),
        entries,
        bytes: entries * ENTRY_LEN as u64,
        seconds,
        more: burst.map(|ns| ("million entries a second within the first 512 MiB", 1e3 / ns)).into_iter().collect(),
        note: "percentiles are ns an entry, of a few batches each".to_owned(),
    })
}

/// The result of one thread.
struct Done {
    entries: u64,
    took: Hist,
    ran: Duration,
}

/// Returns numbers such that those of different threads do not overlap.
fn first_of(thread: u64) -> u64 {
    thread << 40
}

fn work(writer: &mut dyn Writer, thread: u64, time: Duration, barrier: &Barrier, early: Answer<()>) -> Answer<Done> {
    // All threads reach the barrier, including those that failed before it; otherwise the others
    // would wait forever.
    barrier.wait();
    early?;
    let mut payload = Payload::new(ENTRY_LEN);
    let mut entries = 1;
    let mut took = Hist::new();
    let began = Instant::now();
    let mut before = began;
    while before - began < time {
        let entry = payload.entry(first_of(thread) + entries);
        let start = Instant::now();
        writer.append(entry)?;
        before = Instant::now();
        took.add(before - start);
        entries += 1;
    }
    Ok(Done { entries, took, ran: before - began })
}

/// Appends from several threads, acknowledged one by one. Each thread has its own stream if
/// `apart`.
pub(super) fn synced(run: &Run<'_>, threads: u64, apart: bool) -> Answer<Figures> {
    run.kind.gives(Level::Synced)?;
    let streams = if apart { threads } else { 1 };
    let mut figures = acknowledged(run, &Setup { threads, streams, ..run.setup(Level::Synced) })?;
    let rate = figures.entries as f64 / figures.seconds;
    figures.value = if run.case.less { figures.percentile_us(0.5) } else { rate };
    if run.case.less {
        figures.more.push(("acknowledgements a second", rate));
    }
    Ok(figures)
}

/// Measures how long appends from one thread wait for the next segment, with segments so small that
/// more than one append in a thousand waits.
pub(super) fn rotating(run: &Run<'_>) -> Answer<Figures> {
    let _awake = Awake::new()?;
    // Waits until each has its own core.
    std::thread::sleep(Duration::from_millis(200));
    let segment_len = (!run.kind.is_raw()).then_some(SMALL_LEN);
    let mut figures = acknowledged(run, &Setup { segment_len, ..run.setup(Level::Synced) })?;
    figures.value = figures.percentile_us(0.999);
    if segment_len.is_some() {
        let (segments, _, _) = files(run.dir);
        figures.more.push(("files at the end", segments as f64));
    }
    Ok(figures)
}

/// Runs the appends of `synced`, without a value.
fn acknowledged(run: &Run<'_>, setup: &Setup<'_>) -> Answer<Figures> {
    let threads = setup.threads;
    let setup = Setup { entries_max: 2_000_000, ..setup.clone() };
    let apart = setup.streams > 1 || run.kind.stream_per_thread;
    let subject = (run.kind.open)(&setup)?;
    let barrier = Barrier::new(usize::try_from(threads).unwrap_or(1));
    let thread = |thread: u64| {
        let mut writer = match subject.writer(if apart { thread } else { 0 }) {
            Ok(writer) => writer,
            Err(stop) => {
                barrier.wait();
                return Err(stop);
            }
        };
        // Files and streams are created before the clock starts.
        let early = writer.append(Payload::new(ENTRY_LEN).entry(first_of(thread)));
        work(&mut *writer, thread, run.time, &barrier, early)
    };
    let done: Vec<Done> = in_scope(threads, thread, || ()).0?;
    let mut tally = Tally::checked(ENTRY_LEN);
    (0..if apart { threads } else { 1 }).try_for_each(|stream| subject.scan(stream, &mut tally))?;
    subject.close()?;
    let appended: u64 = done.iter().map(|one| one.entries).sum();
    let sum = (0..).zip(&done).fold(0_u64, |sum, (thread, one)| {
        sum.wrapping_add(first_of(thread).wrapping_mul(one.entries)).wrapping_add(sum_below(one.entries))
    });
    check("the scan", (tally.count, tally.sum), (appended, sum), tally.wrong)?;
    let mut took = Hist::new();
    done.iter().for_each(|one| took.merge(&one.took));
    let seconds = done.iter().map(|one| one.ran.as_secs_f64()).fold(0.0, f64::max);
    // The first append of each thread was made before the clock started.
    let entries = appended - threads;
    let bytes = entries * ENTRY_LEN as u64;
    Ok(Figures { took: Some(took), entries, bytes, seconds, ..Figures::default() })
}
