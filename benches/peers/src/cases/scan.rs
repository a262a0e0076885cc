//! W5: scanning everything from the beginning, from warm memory.

use std::time::Instant;

use super::append::sum_below;
use super::fill::{fill_apart, recipe};
use super::{Figures, Run, check};
use crate::payload::Tally;
use crate::subject::Answer;

/// Scans a log that another process created and closed.
pub(super) fn scan(run: &Run<'_>) -> Answer<Figures> {
    let recipe = recipe(run);
    let entries = fill_apart(run)?.entries;
    let subject = (run.kind.open)(&recipe.setup(run))?;
    let expected = (entries, sum_below(entries));
    // The first pass warms the cache and checks every byte.
    let mut tally = Tally::checked(recipe.entry_len);
    subject.scan(0, &mut tally)?;
    check("the scan", (tally.count, tally.sum), expected, tally.wrong)?;
    let mut passes = Vec::new();
    let began = Instant::now();
    while passes.is_empty() || began.elapsed() < run.time {
        let mut tally = Tally::new();
        let start = Instant::now();
        subject.scan(recipe.streams - 1, &mut tally)?;
        passes.push(start.elapsed().as_nanos() as f64 / entries as f64);
        check("the timed scan", (tally.count, tally.sum), expected, tally.wrong)?;
        if run.kind.reads_once {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    subject.close()?;
    passes.sort_by(f64::total_cmp);
    let note = format!("{}; median of {} passes", recipe.note(), passes.len());
    let bytes = entries * recipe.entry_len as u64;
    Ok(Figures { value: passes[passes.len() / 2], took: None, entries, bytes, seconds, more: Vec::new(), note })
}
