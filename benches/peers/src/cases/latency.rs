//! W1p and W1u: the duration of single appends that are flushed, also while another thread syncs,
//! and bursts with pauses between them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::append::{BLOCK, verified};
use super::fill::in_scope;
use super::{ENTRY_LEN, Figures, Run};
use crate::hist::Hist;
use crate::payload::Payload;
use crate::subject::{Answer, Level, Subject, Writer};

/// The pause between two syncs of the other thread.
const SYNC_PAUSE: Duration = Duration::from_millis(10);

/// The entries of a burst: with their headers, about as much as a journal of 64 MiB holds.
const BURST: u64 = 384 << 10;

/// The pause after a burst, in which a log does what it has put off.
const BURST_PAUSE: Duration = Duration::from_millis(200);

/// The maximum bytes of one phase, so that a long phase does not fill the disk.
const ENTRIES_MAX: u64 = (4 << 30) / ENTRY_LEN as u64;

/// Measures single appends: alone for the first half of the time, and beside a thread that
/// syncs for the second.
pub(super) fn singles(run: &Run<'_>) -> Answer<Figures> {
    run.kind.gives(Level::Flushed)?;
    let subject = (run.kind.open)(&run.setup(Level::Flushed))?;
    // Ends here if the subject has no such call.
    subject.sync()?;
    let mut writer = subject.writer(0)?;
    let mut payload = Payload::new(ENTRY_LEN);
    let began = Instant::now();
    let alone = timed(&mut *writer, &mut payload, 0, run.time / 2)?;
    let over = AtomicBool::new(false);
    let (syncs, beside) = in_scope(
        1,
        |_| syncs(&*subject, &over),
        || {
            let beside = timed(&mut *writer, &mut payload, alone.count(), run.time / 2);
            // Relaxed, because the flag only ends the loop and orders no other access.
            over.store(true, Ordering::Relaxed);
            beside
        },
    );
    let syncs = syncs?.pop().unwrap_or_else(Hist::new);
    let beside = beside?;
    let seconds = began.elapsed().as_secs_f64();
    drop(writer);
    let entries = alone.count() + beside.count();
    verified(&*subject, entries)?;
    subject.close()?;
    let more = vec![
        ("ns p99.99", beside.at(0.9999) as f64),
        ("us at most", beside.at(1.0) as f64 / 1e3),
        ("ns alone, p50", alone.at(0.5) as f64),
        ("ns alone, p99", alone.at(0.99) as f64),
        ("ns alone, p99.9", alone.at(0.999) as f64),
        ("ns alone, p99.99", alone.at(0.9999) as f64),
        ("us alone, at most", alone.at(1.0) as f64 / 1e3),
        ("us a sync, p50", syncs.at(0.5) as f64 / 1e3),
    ];
    Ok(Figures {
        value: beside.at(0.999) as f64,
        entries,
        bytes: entries * ENTRY_LEN as u64,
        seconds,
        more,
        note: format!("each append with one reading of the clock; {} syncs", syncs.count()),
        took: Some(beside),
    })
}

/// Appends entries from the number `first` on until the time is up, and returns their durations.
fn timed(writer: &mut dyn Writer, payload: &mut Payload, first: u64, time: Duration) -> Answer<Hist> {
    let mut took = Hist::new();
    let began = Instant::now();
    let mut before = began;
    let mut n = first;
    while before - began < time && n - first < ENTRIES_MAX {
        writer.append(payload.entry(n))?;
        n += 1;
        let now = Instant::now();
        took.add(now - before);
        before = now;
    }
    Ok(took)
}

fn syncs(subject: &dyn Subject, over: &AtomicBool) -> Answer<Hist> {
    let mut took = Hist::new();
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        subject.sync()?;
        took.add(start.elapsed());
        std::thread::sleep(SYNC_PAUSE);
    }
    Ok(took)
}

/// Appends in bursts. Only the bursts count, not the pauses and syncs between them.
pub(super) fn bursts(run: &Run<'_>) -> Answer<Figures> {
    run.kind.gives(Level::Flushed)?;
    let subject = (run.kind.open)(&run.setup(Level::Flushed))?;
    let mut writer = subject.writer(0)?;
    let mut payload = Payload::new(ENTRY_LEN);
    let mut took = Hist::new();
    let mut bursts = Vec::new();
    let mut entries = 0;
    let began = Instant::now();
    // A slow subject has shorter bursts.
    while (began.elapsed() < run.time || bursts.len() < 2) && entries < ENTRIES_MAX {
        let start = Instant::now();
        let mut before = start;
        let mut n = 0;
        while n < BURST && before - start < run.time {
            (0..BLOCK).try_for_each(|at| writer.append(payload.entry(entries + n + at)))?;
            n += BLOCK;
            let now = Instant::now();
            took.add((now - before) / u32::try_from(BLOCK).unwrap_or(1));
            before = now;
        }
        bursts.push((before - start).as_nanos() as f64 / n as f64);
        entries += n;
        // Without such a call the pause has to do.
        let _ = subject.sync();
        std::thread::sleep(BURST_PAUSE);
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(writer);
    verified(&*subject, entries)?;
    subject.close()?;
    bursts.sort_by(f64::total_cmp);
    Ok(Figures {
        value: bursts[bursts.len() / 2],
        took: Some(took),
        entries,
        bytes: entries * ENTRY_LEN as u64,
        seconds,
        more: Vec::new(),
        note: format!(
            "median of {} bursts of at most {BURST} entries, each followed by a sync and a pause; percentiles are of \
             {BLOCK} appends each",
            bursts.len()
        ),
    })
}
