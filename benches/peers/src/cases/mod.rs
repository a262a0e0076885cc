//! The workloads.

mod again;
mod append;
mod beside;
mod fill;
mod get;
mod growth;
mod idle;
mod latency;
mod many;
mod open;
mod scan;

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::hist::Hist;
use crate::subject::{Answer, Kind, Level, Setup, Stop, Subject};

pub(crate) use fill::{fill, print_filled};

/// The length of an entry, unless a case has its own.
pub(crate) const ENTRY_LEN: usize = 128;

/// The number of entries in a batch.
const BATCH: usize = 100;

/// One of the workloads.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// Whether less is better.
    pub(crate) less: bool,
    /// The guarantee of all its figures, or `None` for cases of reading, opening, or space.
    pub(crate) level: Option<Level>,
    /// The raw loops that show its limit.
    pub(crate) raws: &'static [&'static str],
    /// Whether other logs take part. They do not if the case measures a goal of stratawal only.
    pub(crate) peers: bool,
    /// The logs that take part, if it is not determined by `peers` and `mapped`; otherwise empty.
    pub(crate) only: &'static [&'static str],
    /// Whether it reads sealed segments, which stratawal can do through mappings.
    pub(crate) mapped: bool,
    pub(crate) run: fn(&Run<'_>) -> Answer<Figures>,
}

/// One run of a case with a subject.
pub(crate) struct Run<'a> {
    pub(crate) case: &'static Case,
    pub(crate) kind: &'static Kind,
    /// The directory for this run, which exists.
    pub(crate) dir: &'a Path,
    pub(crate) time: Duration,
    /// The number of entries of the large logs.
    pub(crate) entries: u64,
}

/// The figures of a case.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) value: f64,
    pub(crate) took: Option<Hist>,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Further figures, by name and unit.
    pub(crate) more: Vec<(&'static str, f64)>,
    /// A note for the reader of the figures.
    pub(crate) note: String,
}

impl Run<'_> {
    /// Returns the number of streams of a case that has `wanted`. A run with few entries has fewer,
    /// so that it ends soon.
    fn streams(&self, wanted: u64) -> u64 {
        wanted.min(self.entries / 20)
    }

    pub(crate) fn setup(&self, level: Level) -> Setup<'_> {
        Setup {
            dir: self.dir,
            name: self.kind.name,
            level,
            threads: 1,
            streams: 1,
            entry_len: ENTRY_LEN,
            entries_max: 4_000_000,
            segment_len: None,
            index_every: None,
            journal_bytes: None,
            reader: false,
        }
    }
}

impl Figures {
    /// Returns the duration that the fraction `part` of all durations did not exceed.
    fn percentile_us(&self, part: f64) -> f64 {
        self.took.as_ref().map_or(0.0, |took| took.at(part) as f64 / 1e3)
    }
}

impl Case {
    /// Whether the figure depends on how entries were appended.
    fn writes(&self) -> bool {
        self.level.is_some() || matches!(self.name, "W5" | "W8")
    }

    /// Returns whether the subject takes part in the case.
    pub(crate) fn has(&self, kind: &Kind) -> bool {
        if !self.only.is_empty() {
            let few = if kind.is_raw() { self.raws } else { self.only };
            return few.contains(&kind.name);
        }
        match kind.name {
            "stratawal-mapped" => self.mapped,
            "stratawal-runs" | "stratawal-mapped-runs" => self.name.starts_with("W5"),
            "stratawal-off" => self.writes(),
            "stratawal-written" => self.writes() && self.level.is_some(),
            "stratawal" => true,
            name if kind.is_raw() => self.raws.contains(&name),
            _ => self.peers,
        }
    }
}

/// Opens the subject of a run. It is not dropped, because its files are removed next, and closing
/// very many streams takes long.
fn kept(run: &Run<'_>, setup: &Setup<'_>) -> Answer<ManuallyDrop<Box<dyn Subject>>> {
    (run.kind.open)(setup).map(ManuallyDrop::new)
}

/// Fails if the entries that were read are not those that were appended.
fn check(what: &str, found: (u64, u64), expected: (u64, u64), wrong: u64) -> Answer<()> {
    if (found, wrong) == (expected, 0) {
        return Ok(());
    }
    let ((count, sum), (count_expected, sum_expected)) = (found, expected);
    let sums = if sum == sum_expected { "" } else { ", with other numbers" };
    Err(Stop::Failed(format!(
        "{what} found {count} of {count_expected} entries{sums}, {wrong} of them with other bytes"
    )))
}

/// The files of a directory: their number, their total length, and the space they take.
fn files(dir: &Path) -> (u64, u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let mut found = (0, 0, 0);
    let mut dirs: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                Ok(meta) => found = (found.0 + 1, found.1 + meta.len(), found.2 + meta.blocks() * 512),
                Err(_) => {}
            }
        }
    }
    found
}

const APPEND: Case = Case {
    name: "",
    what: "",
    unit: "acknowledgements a second",
    less: false,
    level: Some(Level::Synced),
    raws: &["raw", "raw-condvar"],
    peers: true,
    only: &[],
    mapped: false,
    run: |run| append::synced(run, 1, false),
};

const READ: Case = Case {
    name: "",
    what: "",
    unit: "ns an entry",
    less: true,
    level: None,
    raws: &["raw", "raw-blocks", "raw-16k"],
    peers: true,
    only: &[],
    mapped: true,
    run: scan::scan,
};

const OPEN: Case = Case { unit: "ms", raws: &[], mapped: false, run: open::open, ..READ };

/// A case of one reader while others append. The figure is its processor time, so no raw loop shows
/// a limit.
const BESIDE: Case = Case { unit: "ns of CPU a get", raws: &[], peers: false, mapped: true, run: beside::gets, ..READ };

const LONG: Case = Case { unit: "ns a get, p50", run: growth::long, ..BESIDE };

const DISK: Case = Case { unit: "bytes an entry", raws: &["raw"], mapped: false, run: open::disk, ..READ };

/// The logs that can have very many streams.
const MANY: &[&str] =
    &["stratawal", "stratawal-off", "stratawal-written", "ironwal", "raft-engine", "raft-log", "fjall"];

/// Those that create 100,000 streams in seconds, and stratawal without a journal.
const FASTER: &[&str] = &["stratawal", "stratawal-off", "stratawal-written", "raft-engine", "raft-log"];

/// A case of very many streams that are appended to in turn.
const TURN: Case = Case { only: MANY, raws: &["raw"], run: |run| many::in_turn(run, 64), ..APPEND };

/// A case of creating, opening or closing very many streams.
const EXIST: Case = Case { only: MANY, level: None, ..OPEN };

pub(crate) const CASES: [Case; 36] = [
    Case {
        name: "W1a",
        what: "append 128 B, one call each, buffered, 1 thread",
        unit: "ns an append",
        less: true,
        level: Some(Level::Buffered),
        raws: &["raw"],
        run: append::one_by_one,
        ..APPEND
    },
    Case {
        name: "W1b",
        what: "append 128 B, one call each, flushed, 1 thread",
        unit: "ns an append",
        less: true,
        level: Some(Level::Flushed),
        raws: &["raw", "raw-ring"],
        run: append::one_by_one,
        ..APPEND
    },
    Case {
        name: "W1p",
        what: "append 128 B, flushed, 1 thread, while another syncs every 10 ms, p99.9",
        unit: "ns an append",
        less: true,
        level: Some(Level::Flushed),
        raws: &["raw"],
        run: latency::singles,
        ..APPEND
    },
    Case {
        name: "W1u",
        what: "append 128 B, one call each, flushed, 1 thread, in bursts of 384 Ki entries",
        unit: "ns an append",
        less: true,
        level: Some(Level::Flushed),
        raws: &["raw", "raw-ring"],
        run: latency::bursts,
        ..APPEND
    },
    Case {
        name: "W2",
        what: "batches of 100 x 128 B, flushed, 1 thread",
        unit: "million entries a second",
        level: Some(Level::Flushed),
        raws: &["raw", "raw-chunked"],
        run: append::batches,
        ..APPEND
    },
    Case {
        name: "W3/1",
        what: "append 128 B, synced, 1 thread, p50",
        unit: "us an append",
        less: true,
        raws: &["raw", "raw-growing"],
        ..APPEND
    },
    Case {
        name: "W3r",
        what: "append 128 B, synced, 1 thread, segments of 64 KiB, p99.9",
        unit: "us an append",
        less: true,
        raws: &["raw"],
        peers: false,
        run: append::rotating,
        ..APPEND
    },
    Case {
        name: "W3/8",
        what: "append 128 B, synced, 8 threads, one stream",
        run: |run| append::synced(run, 8, false),
        ..APPEND
    },
    Case {
        name: "W3/64",
        what: "append 128 B, synced, 64 threads, one stream",
        run: |run| append::synced(run, 64, false),
        ..APPEND
    },
    Case {
        name: "W4",
        raws: &["raw", "raw-condvar", "raw-files"],
        what: "append 128 B, synced, 64 threads on 64 streams",
        run: |run| append::synced(run, 64, true),
        ..APPEND
    },
    Case { name: "W5", what: "warm scan, 128 B, single appends", ..READ },
    Case { name: "W5a", what: "warm scan, 128 B, single appends, buffered", ..READ },
    Case { name: "W5b", what: "warm scan, 128 B, batches of 100", ..READ },
    Case { name: "W5k", what: "warm scan, 1 KiB, single appends", ..READ },
    Case {
        name: "W6",
        what: "random get of 128 B in a large log, appended buffered where a log can",
        unit: "ns a get, p50",
        raws: &["raw", "raw-pread", "raw-group"],
        run: get::sealed,
        ..READ
    },
    Case {
        name: "W6f",
        what: "random get of 128 B in a large log, flushed one by one",
        unit: "ns a get, p50",
        raws: &["raw", "raw-pread"],
        run: get::sealed,
        ..READ
    },
    Case {
        name: "W6a",
        what: "random get of 128 B in the segment that is written",
        unit: "ns a get, p50",
        raws: &["raw", "raw-pread", "raw-group"],
        run: get::active,
        ..READ
    },
    Case { name: "W7e", what: "open a large log", ..OPEN },
    Case { name: "W7s", what: "open 1,000 segments", raws: &["raw-files"], ..OPEN },
    Case { name: "W7t", what: "open 10,000 streams", ..OPEN },
    Case { name: "W8", what: "disk space of 128 B entries, appended one by one", ..DISK },
    Case { name: "W8b", what: "disk space of 128 B entries, batches of 100", ..DISK },
    Case { name: "W9", what: "random get of 128 B, sealed, while 8 threads append to the stream", ..BESIDE },
    Case { name: "W9a", what: "random get of 128 B in the segment that 8 threads append to", ..BESIDE },
    Case {
        name: "W9s",
        what: "warm scan, 128 B, while 8 threads append to the stream",
        unit: "ns of CPU an entry",
        run: beside::scan,
        ..BESIDE
    },
    Case {
        name: "W10",
        what: "memory of 10,000 idle streams whose handles are held",
        unit: "MiB",
        peers: false,
        run: idle::idle,
        ..OPEN
    },
    Case {
        name: "W11/64",
        what: "append 128 B, synced, 64 threads, 64 streams in turn",
        only: &["stratawal", "stratawal-off", "stratawal-written", "ironwal", "raft-engine", "raft-log", "fjall"],
        ..TURN
    },
    Case {
        name: "W11/10k",
        what: "append 128 B, synced, 64 threads, 10,000 streams in turn",
        run: |run| many::in_turn(run, 10_000),
        ..TURN
    },
    Case {
        name: "W11/100k",
        what: "append 128 B, synced, 64 threads, 100,000 streams in turn",
        only: FASTER,
        run: |run| many::in_turn(run, 100_000),
        ..TURN
    },
    Case {
        name: "W12f",
        what: "one flushed append to each of 10,000 looked-up streams, then a sync",
        run: again::touch,
        ..EXIST
    },
    Case {
        name: "W12c",
        what: "create 10,000 streams with one synced entry each, 64 threads",
        raws: &["raw"],
        run: |run| many::creation(run, 10_000),
        ..EXIST
    },
    Case {
        name: "W12k",
        what: "close 100,000 streams that have one synced entry each",
        only: FASTER,
        run: |run| many::closing(run, 100_000),
        ..EXIST
    },
    Case {
        name: "W12o",
        what: "open after a kill, 320 streams with 64 MiB of flushed entries",
        run: again::open_killed,
        ..EXIST
    },
    Case {
        name: "W12p",
        what: "a reader in another process looks for new entries and finds none, p50",
        unit: "us",
        only: &["stratawal", "stratawal-off", "stratawal-written"],
        run: again::poll,
        ..EXIST
    },
    Case { name: "G1", what: "random get of 128 B in a log of 1 GiB", ..LONG },
    Case { name: "G50", what: "random get of 128 B in a log of 50 GiB", ..LONG },
];
