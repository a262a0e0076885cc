//! W6: one entry at a time, at random.

use std::time::Instant;

use super::fill::{fill_apart, recipe};
use super::{ENTRY_LEN, Figures, Run};
use crate::hist::Hist;
use crate::payload::Tally;
use crate::subject::{Answer, Level, Stop, Subject};

/// Pseudorandom numbers, each computed from the previous one.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        ((u128::from(self.0 ^ (self.0 >> 31)) * u128::from(bound)) >> 64) as u64
    }
}

/// Reads from sealed segments of a log that another process created.
pub(super) fn sealed(run: &Run<'_>) -> Answer<Figures> {
    run.kind.gets()?;
    let recipe = recipe(run);
    let entries = fill_apart(run)?.entries;
    let subject = (run.kind.open)(&recipe.setup(run))?;
    reset_peak();
    // The last eighth may be in the active segment.
    let figures = gets(run, &*subject, entries - entries / 8);
    let memory = [("MiB of memory at most", memory("VmHWM:")), ("MiB of it anonymous at the end", memory("RssAnon:"))];
    let mut figures = figures?;
    figures.more.extend(memory.into_iter().filter_map(|(name, mib)| Some((name, mib?))));
    figures.note = recipe.note();
    subject.close()?;
    Ok(figures)
}

/// Reads from the active segment, before the log is closed.
pub(super) fn active(run: &Run<'_>) -> Answer<Figures> {
    run.kind.gets()?;
    let recipe = recipe(run);
    if run.kind.levels == [Level::Synced] {
        return Err(Stop::None("addresses come from recovery only".to_owned()));
    }
    let subject = (run.kind.open)(&recipe.setup(run))?;
    let awake = recipe.awake()?;
    let entries = recipe.write(&*subject, run)?;
    drop(awake);
    let mut figures = gets(run, &*subject, entries)?;
    figures.note = recipe.note();
    subject.close()?;
    Ok(figures)
}

fn gets(run: &Run<'_>, subject: &dyn Subject, bound: u64) -> Answer<Figures> {
    let mut random = Random::new(bound);
    // Before the clock starts, every byte of some entries is compared. These gets also open the
    // files and indexes.
    let mut tally = Tally::checked(ENTRY_LEN);
    let began = Instant::now();
    for _ in 0..1000 {
        get(subject, random.below(bound), &mut tally)?;
        if began.elapsed() > run.time {
            break;
        }
    }
    let mut tally = Tally::new();
    let mut took = Hist::new();
    let began = Instant::now();
    let mut before = began;
    while before - began < run.time {
        let n = random.below(bound);
        let start = Instant::now();
        get(subject, n, &mut tally)?;
        before = Instant::now();
        took.add(before - start);
    }
    let seconds = began.elapsed().as_secs_f64();
    let entries = tally.count;
    let bytes = tally.bytes;
    if bytes != entries * ENTRY_LEN as u64 {
        return Err(Stop::Failed("a get answered other lengths".to_owned()));
    }
    let value = took.at(0.5) as f64;
    let mean = seconds * 1e9 / entries as f64;
    let more = vec![("ns a get, mean", mean)];
    Ok(Figures { value, took: Some(took), entries, bytes, seconds, more, note: String::new() })
}

pub(super) fn get(subject: &dyn Subject, n: u64, tally: &mut Tally) -> Answer<()> {
    subject.get(n, tally)?;
    if tally.last == n && tally.wrong == 0 {
        return Ok(());
    }
    Err(Stop::Failed(format!("the entry {n} is another one, or has other bytes")))
}

/// Resets the peak. If the kernel refuses, the figure is too high.
fn reset_peak() {
    drop(std::fs::write("/proc/self/clear_refs", "5"));
}

/// Returns the value of a line of the process's status, in MiB.
pub(super) fn memory(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}
