//! W7 and W8: how long a log takes to open, and how much space it takes.

use std::time::Instant;

use super::append::sum_below;
use super::fill::{fill_apart, recipe};
use super::{ENTRY_LEN, Figures, Run, check, files};
use crate::payload::{Payload, Tally};
use crate::subject::Answer;

/// The number of streams that are read to check their entries.
const CHECKED: u64 = 10;

pub(super) fn open(run: &Run<'_>) -> Answer<Figures> {
    let recipe = recipe(run);
    let entries = fill_apart(run)?.entries;
    let (count, _, _) = files(run.dir);
    let setup = recipe.setup(run);
    let mut payload = Payload::new(ENTRY_LEN);
    let began = Instant::now();
    let subject = (run.kind.open)(&setup)?;
    let opened = began.elapsed();
    subject.writer(0)?.append(payload.entry(entries))?;
    let appended = began.elapsed();
    let mut more = vec![("ms until an append was acknowledged", appended.as_secs_f64() * 1e3)];
    let mut written = 1;
    if recipe.streams > 1 {
        for stream in 1..recipe.streams {
            subject.writer(stream)?.append(payload.entry(entries))?;
            written += 1;
        }
        more.push(("ms until all streams were appended to", began.elapsed().as_secs_f64() * 1e3));
    }
    // The clock has been read before this.
    let _awake = recipe.awake()?;
    for stream in (0..recipe.streams).step_by((recipe.streams.div_ceil(CHECKED)) as usize) {
        subject.writer(stream)?.flush()?;
        let mut tally = Tally::checked(ENTRY_LEN);
        subject.scan(stream, &mut tally)?;
        let expected = (entries + 1, sum_below(entries + 1));
        check("the scan", (tally.count, tally.sum), expected, tally.wrong)?;
    }
    subject.close()?;
    let note = format!("{} files; {}", count, recipe.note());
    let seconds = opened.as_secs_f64();
    let bytes = entries * recipe.streams * ENTRY_LEN as u64;
    Ok(Figures { value: seconds * 1e3, took: None, entries: written, bytes, seconds, more, note })
}

/// Weighs a closed log. The files of a commit journal do not grow with the log, so the value is
/// without them.
pub(super) fn disk(run: &Run<'_>) -> Answer<Figures> {
    let recipe = recipe(run);
    let began = Instant::now();
    let filled = fill_apart(run)?;
    let entries = filled.entries;
    let seconds = began.elapsed().as_secs_f64();
    let (count, lens, blocks) = files(run.dir);
    let journal = if run.kind.name.starts_with("stratawal") { files(&run.dir.join("log/journal")) } else { (0, 0, 0) };
    let subject = (run.kind.open)(&recipe.setup(run))?;
    let mut tally = Tally::checked(ENTRY_LEN);
    subject.scan(0, &mut tally)?;
    check("the scan", (tally.count, tally.sum), (entries, sum_below(entries)), tally.wrong)?;
    subject.close()?;
    let per = |bytes: u64| bytes as f64 / entries as f64;
    let mut more = vec![
        ("bytes an entry by the lengths of the files", per(lens - journal.1)),
        ("files", count as f64),
        ("MiB of memory at most", filled.peak),
    ];
    if journal.0 > 0 {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        more.extend([("bytes an entry with the journal", per(blocks)), ("MiB of journal", mib(journal.2))]);
    }
    Ok(Figures {
        value: per(blocks - journal.2),
        took: None,
        entries,
        bytes: entries * ENTRY_LEN as u64,
        seconds,
        more,
        note: format!("closed; what is reserved counts; {}", recipe.note()),
    })
}
