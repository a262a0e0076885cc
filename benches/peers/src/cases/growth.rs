//! G1 and G50: how the length of a log affects its cost, at 1 GiB and at 50 GiB.
//!
//! The log has its full length and is created through the public interface. Most of its bytes are
//! zeros in large entries. The blocks of a sealed segment that contain only zeros are given back to
//! the file system: they read as before, and the checksums hold. Only the small entries between the
//! large ones are read. Each small entry has its own frame and its own point in the index. They are
//! as many as the points of a segment with frames of 6 KiB, so that an index is as large as in a
//! log of small entries.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use super::append::timed;
use super::fill::fill_apart;
use super::get::{Random, get, memory};
use super::{ENTRY_LEN, Figures, Run, files};
use crate::hist::Hist;
use crate::payload::{Payload, Tally};
use crate::subject::{Answer, Level, Setup, Stop, Subject, failed, none};

const SEGMENT_LEN: u64 = 64 << 20;

/// The length of a large entry. With its frame, it is below the bound of a segment.
const LARGE_LEN: usize = 1 << 20;

/// The number of small entries that follow each large one, which happens 62 times in a segment.
const SMALL: u64 = 176;

/// The number of entries that are read, spread evenly over the log: once to warm the cache, and
/// then again.
const WORKING_SET: u64 = 100_000;

/// The free space required: for the small entries, for the zeros that are not punched yet, and for
/// the appends that are measured.
const FREE_MIN: u64 = 6 << 30;

/// The limit of the log's space on the disk while it is created.
const DISK_MAX: u64 = 4 << 30;

/// How many times the log is opened.
const OPENS: usize = 7;

/// The longest time for which appends are measured, because their blocks are not given back.
const APPENDS_TIME_MAX: Duration = Duration::from_secs(1);

const BLOCK: usize = 4096;

fn setup<'a>(run: &'a Run<'_>) -> Setup<'a> {
    let setup = run.setup(Level::Flushed);
    Setup { segment_len: Some(SEGMENT_LEN), index_every: Some(1), ..setup }
}

/// The number of groups. A group is one large entry and the small ones that follow it.
fn groups(run: &Run<'_>) -> u64 {
    let gib = if run.case.name == "G50" { 50 } else { 1 };
    (gib << 30) / (LARGE_LEN as u64 + SMALL * (ENTRY_LEN as u64 + 40))
}

/// Creates the log, and returns how many entries it has.
pub(super) fn fill(run: &Run<'_>) -> Answer<u64> {
    let space = rustix::fs::statvfs(run.dir).map_err(failed("the space"))?;
    if space.f_bavail * space.f_frsize < FREE_MIN {
        return none("no room: 6 GiB must be free");
    }
    let subject = (run.kind.open)(&setup(run))?;
    let mut writer = subject.writer(0)?;
    let large = vec![0; LARGE_LEN];
    let mut payload = Payload::new(ENTRY_LEN);
    let mut punched = HashSet::new();
    let mut n = 0;
    for group in 0..groups(run) {
        writer.append(&large)?;
        for n in n + 1..=n + SMALL {
            writer.append(payload.entry(n))?;
        }
        n += 1 + SMALL;
        // Done before the zeros reach the disk.
        if group % 32 == 31 {
            punch(run, &mut punched)?;
        }
    }
    drop(writer);
    subject.close()?;
    Ok(n)
}

/// Gives back the blocks of zeros in the segments that were sealed since the last call.
fn punch(run: &Run<'_>, punched: &mut HashSet<PathBuf>) -> Answer<()> {
    let mut segments = segments(run.dir)?;
    // Names are numbers of equal length, and the last file is the one being written.
    segments.sort();
    segments.pop();
    for path in segments {
        if !punched.contains(&path) {
            punch_file(&path).map_err(failed("giving back blocks"))?;
            punched.insert(path);
        }
    }
    let (_, _, blocks) = files(run.dir);
    if blocks > DISK_MAX { Err(Stop::Failed("the disk keeps blocks that were given back".to_owned())) } else { Ok(()) }
}

/// Returns the segment files below a directory.
fn segments(dir: &Path) -> Answer<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in children(&dir)? {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "seg") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn children(dir: &Path) -> Answer<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(failed("the log's directory"))?;
    entries.map(|entry| Ok(entry.map_err(failed("the log's directory"))?.path())).collect()
}

fn punch_file(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let len = file.metadata()?.len();
    let mut piece = vec![0; LARGE_LEN];
    let mut at = 0;
    let mut zeros = 0..0;
    while at < len {
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            break;
        }
        for block in piece[..read].chunks(BLOCK) {
            let end = at + block.len() as u64;
            if block.len() == BLOCK && block == [0; BLOCK] {
                zeros = if zeros.end == at { zeros.start..end } else { at..end };
            } else {
                give_back(&file, &zeros)?;
                zeros = end..end;
            }
            at = end;
        }
    }
    give_back(&file, &zeros)
}

fn give_back(file: &File, range: &Range<u64>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, range.start, range.end - range.start)?)
}

/// Returns the number of the `i`th entry that is read.
fn nth(i: u64, groups: u64) -> u64 {
    let group = i * groups / WORKING_SET;
    // In one group, fewer entries are read than it has small ones, and all differ, because 7919 is
    // prime.
    group * (1 + SMALL) + 1 + i * 7919 % SMALL
}

pub(super) fn long(run: &Run<'_>) -> Answer<Figures> {
    let filled = fill_apart(run)?.entries;
    let (_, len, blocks) = files(run.dir);
    let setup = setup(run);
    let groups = groups(run);
    let mut opened = Vec::new();
    let mut at_first = None;
    for _ in 1..OPENS {
        let (subject, took) = open(run, &setup)?;
        at_first = at_first.or_else(|| memory("RssAnon:"));
        opened.push(took);
        subject.close()?;
    }
    let (subject, took) = open(run, &setup)?;
    opened.push(took);
    opened.sort_by(f64::total_cmp);
    // Reads in order, which warms the cache. Also reads a large entry, most of whose blocks were
    // given back.
    get(&*subject, 0, &mut Tally::new())?;
    let mut tally = Tally::checked(ENTRY_LEN);
    (0..WORKING_SET).try_for_each(|i| get(&*subject, nth(i, groups), &mut tally))?;
    let (took, seconds) = gets(run, &*subject, groups)?;
    let after_gets = memory("RssAnon:");
    let mut payload = Payload::new(ENTRY_LEN);
    let mut writer = subject.writer(0)?;
    let time = run.time.min(APPENDS_TIME_MAX);
    let began = Instant::now();
    let (appends, ..) = timed(time, 1, |n| writer.append(payload.entry(filled + n)))?;
    let append_ns = began.elapsed().as_nanos() as f64 / appends as f64;
    drop(writer);
    let last = filled + appends - 1;
    get(&*subject, last, &mut Tally::checked(ENTRY_LEN))?;
    subject.close()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut more = vec![
        ("ns an append, flushed", append_ns),
        ("ms to open", opened[OPENS / 2]),
        ("GiB of log", mib(len) / 1024.0),
        ("GiB of it on disk", mib(blocks) / 1024.0),
    ];
    more.extend(at_first.map(|mib| ("MiB anonymous after opening", mib)));
    more.extend(after_gets.map(|mib| ("MiB anonymous after the gets", mib)));
    let entries = took.count();
    Ok(Figures {
        value: took.at(0.5) as f64,
        took: Some(took),
        entries,
        bytes: entries * ENTRY_LEN as u64,
        seconds,
        more,
        note: format!(
            "random gets of {WORKING_SET} entries of 128 B spread over the log, each read once before; between them \
             entries of 1 MiB of zeros, whose blocks were given back; a point of the index for each entry"
        ),
    })
}

/// Opens the log, and returns how many milliseconds that took.
fn open(run: &Run<'_>, setup: &Setup<'_>) -> Answer<(Box<dyn Subject>, f64)> {
    let began = Instant::now();
    let subject = (run.kind.open)(setup)?;
    Ok((subject, began.elapsed().as_secs_f64() * 1e3))
}

fn gets(run: &Run<'_>, subject: &dyn Subject, groups: u64) -> Answer<(Hist, f64)> {
    let mut random = Random::new(groups);
    let mut tally = Tally::new();
    let mut took = Hist::new();
    let began = Instant::now();
    let mut before = began;
    while before - began < run.time {
        let n = nth(random.below(WORKING_SET), groups);
        let start = Instant::now();
        get(subject, n, &mut tally)?;
        before = Instant::now();
        took.add(before - start);
    }
    Ok((took, (before - began).as_secs_f64()))
}
