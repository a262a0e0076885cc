//! W10: the cost of very many streams that exist but are not used.

use std::time::Instant;

use super::append::sum_below;
use super::fill::{Awake, in_scope};
use super::get::memory;
use super::{ENTRY_LEN, Figures, Run, check, files};
use crate::payload::{Payload, Tally};
use crate::subject::{Answer, Level, Setup, Stop, failed};

const STREAMS: u64 = 10_000;
const ENTRIES: u64 = 10;
const THREADS: u64 = 64;

/// A sufficiently large estimate of the open files other than those of the streams.
const FILES_BESIDES: u64 = 512;

/// The number of streams that are read at the end.
const CHECKED: u64 = 10;

pub(super) fn idle(run: &Run<'_>) -> Answer<Figures> {
    let streams = STREAMS.min(raise_files_max().saturating_sub(FILES_BESIDES));
    let setup = Setup { threads: THREADS, streams, entries_max: streams * ENTRIES, ..run.setup(Level::Synced) };
    let _awake = Awake::new()?;
    let before = anonymous()?;

    let subject = (run.kind.open)(&setup)?;
    let ((), created) = seconds(|| {
        by_all(streams, |stream, payload| {
            let batch: [&[u8]; ENTRIES as usize] = payload.batch(0);
            subject.writer(stream)?.append_batch(&batch)
        })
    })?;
    let handles = (0..streams).map(|stream| subject.writer(stream)).collect::<Answer<Vec<_>>>()?;
    let held = anonymous()? - before;
    let held_files = open_files()?;
    drop(handles);
    let ((), closed) = seconds(|| subject.close())?;
    let (count, _, blocks) = files(run.dir);

    let (subject, opened) = seconds(|| (run.kind.open)(&setup))?;
    let ((), again) =
        seconds(|| by_all(streams, |stream, payload| subject.writer(stream)?.append(payload.entry(ENTRIES))))?;
    let more = vec![
        ("files open", held_files),
        ("s to create them by 64 threads", created),
        ("s to close the log", closed),
        ("ms to open it again", opened * 1e3),
        ("s until each had one more entry, by 64 threads", again),
        ("MiB then", anonymous()? - before),
        ("files open then", open_files()?),
        ("files in the directory", count as f64),
        ("MiB on disk", blocks as f64 / f64::from(1 << 20)),
    ];
    for stream in (0..streams).step_by(streams.div_ceil(CHECKED) as usize) {
        let mut tally = Tally::checked(ENTRY_LEN);
        subject.scan(stream, &mut tally)?;
        let expected = (ENTRIES + 1, sum_below(ENTRIES + 1));
        check("the scan", (tally.count, tally.sum), expected, tally.wrong)?;
    }
    subject.close()?;
    let entries = streams * ENTRIES;
    let mut note = format!("anonymous memory; each stream was appended a batch of {ENTRIES}, synced, and is held");
    if streams < STREAMS {
        note += &format!("; only {streams} streams: the process may not open more files");
    }
    Ok(Figures { value: held, took: None, entries, bytes: entries * ENTRY_LEN as u64, seconds: created, more, note })
}

/// Raises the limit of open files to its maximum, and returns it.
pub(super) fn raise_files_max() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If the kernel refuses, the old limit remains.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lowers the limit of open files to `max`. The process may raise it again.
pub(super) fn limit_files(max: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(max, |most| most.min(max));
    // If the kernel refuses, the old limit remains.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
}

/// Runs a function for each stream. The streams are divided among the threads.
fn by_all(streams: u64, each: impl Fn(u64, &mut Payload) -> Answer<()> + Sync) -> Answer<()> {
    let part = |thread| {
        let mut payload = Payload::new(ENTRY_LEN);
        (thread..streams).step_by(THREADS as usize).try_for_each(|stream| each(stream, &mut payload))
    };
    in_scope(THREADS, part, || ()).0.map(drop)
}

pub(super) fn seconds<T>(what: impl FnOnce() -> Answer<T>) -> Answer<(T, f64)> {
    let began = Instant::now();
    let done = what()?;
    Ok((done, began.elapsed().as_secs_f64()))
}

/// Returns the private memory of this process, in MiB.
pub(super) fn anonymous() -> Answer<f64> {
    memory("RssAnon:").ok_or_else(|| Stop::Failed("/proc/self/status tells no memory".to_owned()))
}

pub(super) fn open_files() -> Answer<f64> {
    let count = std::fs::read_dir("/proc/self/fd").map_err(failed("/proc/self/fd"))?.count();
    // The directory itself was open while its files were counted.
    Ok(count.saturating_sub(1) as f64)
}
