//! The interface of every subject of the comparison, and the list of subjects.

use std::fmt;
use std::path::Path;

use crate::payload::Tally;
use crate::{peers, raw};

/// The guarantee of an acknowledged append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Survives nothing: the bytes are only in the process.
    Buffered,
    /// Survives a process crash.
    Flushed,
    /// Survives power loss.
    Synced,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Buffered => "buffered",
            Self::Flushed => "flushed",
            Self::Synced => "synced",
        })
    }
}

/// The reason for a missing figure.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The reason why the subject does not have the operation, or not with that guarantee.
    None(String),
    /// The message of an operation that failed.
    Failed(String),
}

pub(crate) type Answer<T> = Result<T, Stop>;

/// For `map_err`: the operation `what` failed.
pub(crate) fn failed<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Stop {
    move |error| Stop::Failed(format!("{what}: {error}"))
}

/// For operations that a subject does not have.
pub(crate) fn none<T>(why: &str) -> Answer<T> {
    Err(Stop::None(why.to_owned()))
}

/// The requirements of a case.
#[derive(Clone, Debug)]
pub(crate) struct Setup<'a> {
    /// The directory for this run, which exists.
    pub(crate) dir: &'a Path,
    /// The name of the subject in [`KINDS`].
    pub(crate) name: &'a str,
    pub(crate) level: Level,
    /// The number of threads that append at the same time.
    pub(crate) threads: u64,
    pub(crate) streams: u64,
    pub(crate) entry_len: usize,
    /// An upper estimate of the entries, for subjects that preallocate.
    pub(crate) entries_max: u64,
    /// The size of a segment, if it is not the subject's own default.
    pub(crate) segment_len: Option<u64>,
    /// The distance between the points of an index, if it is not the subject's own default.
    pub(crate) index_every: Option<u64>,
    /// The size of the commit journal, if it is not the default.
    pub(crate) journal_bytes: Option<u64>,
    /// Whether another process writes, and this one only reads.
    pub(crate) reader: bool,
}

/// An open log. Streams are numbered from 0.
pub(crate) trait Subject: Sync {
    /// Returns an appender for one thread and one stream.
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>>;
    /// Reads a stream from its beginning.
    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()>;
    /// Reads stream 0 from its beginning up to the entry `n`, while others may append.
    fn scan_below(&self, _: u64, _: &mut Tally) -> Answer<()> {
        none("only stratawal is asked for this")
    }
    /// Makes all flushed entries durable.
    fn sync(&self) -> Answer<()> {
        none("it has no call that syncs what was flushed")
    }
    /// Reads the entry `n` of stream 0.
    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()>;
    /// Looks for new entries of stream 0 that another process has appended, and returns the number
    /// of all entries.
    fn poll(&self) -> Answer<u64> {
        none("only stratawal is asked for this")
    }
    /// Closes the log with what it has put off left for the next time that it is opened.
    fn close_fast(self: Box<Self>) -> Answer<()> {
        none("it closes in one way")
    }
    /// Closes the log as its authors intend.
    fn close(self: Box<Self>) -> Answer<()> {
        Ok(())
    }
}

/// The appender of one thread.
pub(crate) trait Writer {
    /// Appends one entry, acknowledged at the level of the setup.
    fn append(&mut self, entry: &[u8]) -> Answer<()>;
    /// Appends a batch that is whole or absent after a crash, if the subject has such batches;
    /// otherwise the nearest equivalent.
    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()>;
    /// Hands the buffered entries over to the operating system.
    fn flush(&mut self) -> Answer<()> {
        Ok(())
    }
}

/// The properties of a subject, known before it is opened.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) open: fn(&Setup<'_>) -> Answer<Box<dyn Subject>>,
    /// The guarantees that the subject can give, the weakest first.
    pub(crate) levels: &'static [Level],
    /// The reason why it has only these.
    pub(crate) lacks: &'static str,
    /// Each thread appends to its own stream in cases where other subjects share one.
    pub(crate) stream_per_thread: bool,
    /// Reading consumes the entries.
    pub(crate) reads_once: bool,
    /// It cannot create very many streams from several threads, because segments that are in use
    /// may be evicted.
    pub(crate) creates_alone: bool,
    /// Its batches are synced at every level.
    pub(crate) batches_sync: bool,
    /// The reason why it does not have a random read; empty if it has one.
    pub(crate) no_get: &'static str,
    /// A note for the reader of its figures.
    pub(crate) note: &'static str,
}

impl Kind {
    /// Fails if the subject cannot give exactly this guarantee, so that only equal guarantees are
    /// compared.
    pub(crate) fn gives(&self, level: Level) -> Answer<()> {
        if self.levels.contains(&level) { Ok(()) } else { none(self.lacks) }
    }

    /// Returns `level`, or the nearest one that the subject has. Used for data that is only written
    /// to be read.
    pub(crate) fn nearest(&self, level: Level) -> Level {
        if self.levels.contains(&level) { level } else { self.levels[0] }
    }

    /// Fails if the subject does not have a random read.
    pub(crate) fn gets(&self) -> Answer<()> {
        if self.no_get.is_empty() { Ok(()) } else { none(self.no_get) }
    }

    pub(crate) fn is_raw(&self) -> bool {
        self.name.starts_with("raw")
    }
}

const ALL: &[Level] = &[Level::Buffered, Level::Flushed, Level::Synced];
const WRITTEN: &[Level] = &[Level::Flushed, Level::Synced];
const WRITES: &str = "each append is a write: nothing is buffered";

const RAW: Kind = Kind {
    name: "raw",
    open: raw::open,
    levels: ALL,
    lacks: "",
    stream_per_thread: false,
    reads_once: false,
    creates_alone: false,
    batches_sync: false,
    no_get: "",
    note: "",
};

const PEER: Kind = Kind { name: "", open: peers::ironwal::open, levels: WRITTEN, lacks: WRITES, ..RAW };

pub(crate) const KINDS: [Kind; 25] = [
    Kind { note: "a plain loop", ..RAW },
    Kind { name: "raw-chunked", note: "256 KiB a write: not acknowledged one by one", ..RAW },
    Kind { name: "raw-ring", note: "a mapped ring that was touched before", ..RAW },
    Kind { name: "raw-growing", note: "a file that grows", ..RAW },
    Kind { name: "raw-condvar", note: "one condition variable that wakes all", ..RAW },
    Kind { name: "raw-16k", note: "a checksum over 16 KiB", ..RAW },
    Kind { name: "raw-blocks", note: "256 KiB a read, a checksum each", ..RAW },
    Kind {
        name: "raw-files",
        note: "a file for each stream and segment; opening reads the first bytes of each",
        ..RAW
    },
    Kind { name: "raw-pread", note: "one pread and a checksum", ..RAW },
    Kind { name: "raw-group", note: "one pread of 46 entries and a checksum over all", ..RAW },
    Kind { name: "stratawal", open: peers::stratawal::open, ..RAW },
    Kind { name: "stratawal-runs", open: peers::stratawal::open, note: "by `next_run`", ..RAW },
    Kind {
        name: "stratawal-mapped-runs",
        open: peers::stratawal::open,
        note: "reads by mapping, and by `next_run`",
        ..RAW
    },
    Kind { name: "stratawal-off", open: peers::stratawal::open, note: "without a commit journal", ..RAW },
    Kind { name: "stratawal-written", open: peers::stratawal::open, note: "its commit journal is not mapped", ..RAW },
    Kind { name: "stratawal-mapped", open: peers::stratawal::open, note: "reads by mapping", ..RAW },
    Kind { name: "ironwal", creates_alone: true, ..PEER },
    Kind {
        name: "okaywal",
        open: peers::okaywal::open,
        levels: &[Level::Synced],
        lacks: "each commit syncs: it has nothing weaker",
        note: "preallocated for all entries, never checkpointed; scanned by recovery; read by address, which the caller keeps",
        ..PEER
    },
    Kind {
        name: "wal-db",
        open: peers::wal_db::open,
        note: "a file a stream; read by address, which follows from the number here",
        ..PEER
    },
    Kind {
        name: "open-wal",
        open: peers::open_wal::open,
        levels: &[Level::Buffered, Level::Synced],
        lacks: "each write is synced: it has nothing between buffered and synced",
        no_get: "a record is found by reading its segment from the beginning",
        note: "a single writer under a mutex; a log a stream; buffered entries are committed, with a sync, each MiB",
        ..PEER
    },
    Kind {
        name: "raft-engine",
        open: peers::raft_engine::open,
        stream_per_thread: true,
        note: "a region a thread, no compression",
        ..PEER
    },
    Kind {
        name: "raft-log",
        open: peers::raft_log::open,
        note: "one log for all streams, under a mutex; a thread of its own writes",
        ..PEER
    },
    Kind {
        name: "fjall",
        open: peers::fjall::open,
        levels: ALL,
        lacks: "",
        note: "one keyspace, keys of stream and number; threads do not share syncs",
        ..PEER
    },
    Kind {
        name: "commitlog",
        open: peers::commitlog::open,
        levels: &[Level::Flushed],
        lacks: "each append is a write, and nothing is ever synced",
        note: "a single writer under a mutex; opening checks nothing",
        ..PEER
    },
    Kind {
        name: "walrus-rust",
        open: peers::walrus::open,
        reads_once: true,
        batches_sync: true,
        no_get: "topics are read forwards only",
        note: "entries that were read are consumed",
        ..PEER
    },
];
