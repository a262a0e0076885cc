//! Logs of every shape, in memory or in a directory, and their files' contents.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal::inspect::{self, Salvage, Verify};
use stratawal::{Batch, Options, StreamOptions, Wal};
use stratawal_storage::{Access, FileType, MemoryStorage, Storage, UnixStorage};

use crate::check::OWN;
use crate::frames;

pub(crate) const DIR: &str = "/log/streams/s";

fn options() -> Options {
    // Without a journal, every entry is in a segment. Index points are close together, so that some
    // follow the damage.
    Options::new()
        .journal(false)
        .stream_defaults(StreamOptions::new().frame_bytes(200).segment_bytes(64 << 10).index_interval_bytes(500))
}

pub(crate) fn open(storage: &MemoryStorage, read_only: bool) -> stratawal::Result<Wal> {
    options().open_on(Arc::new(storage.clone()), Path::new("/log"), read_only)
}

/// A damaged log, in memory or in files.
pub(crate) trait DamagedLog {
    fn open_log(&self, read_only: bool) -> stratawal::Result<Wal>;
    /// Salvages the stream `s`.
    fn salvage(&self) -> stratawal::Result<Salvage>;
    /// Verifies the stream `s`.
    fn verify(&self) -> stratawal::Result<Verify>;
    /// The path below `/log` and the contents of every file. For a link, its target.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)>;
}

impl DamagedLog for MemoryStorage {
    fn open_log(&self, read_only: bool) -> stratawal::Result<Wal> {
        open(self, read_only)
    }

    fn salvage(&self) -> stratawal::Result<Salvage> {
        inspect::salvage_on(self, Path::new("/log"), "s")
    }

    fn verify(&self) -> stratawal::Result<Verify> {
        inspect::verify_on(self, Path::new("/log"), Some("s"))
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        files(self)
    }
}

/// The log in the subdirectory `log` of a directory, read with positioned reads or through
/// mappings.
pub(crate) struct Real<'a> {
    pub(crate) root: &'a Path,
    pub(crate) mapped: bool,
}

impl DamagedLog for Real<'_> {
    fn open_log(&self, read_only: bool) -> stratawal::Result<Wal> {
        let options = options();
        // SAFETY: only this thread uses the directory, and it changes no file while the log is
        // open.
        let options = if self.mapped { unsafe { options.map_reads() } } else { options };
        options.open_on(Arc::new(UnixStorage::new()), &self.root.join("log"), read_only)
    }

    fn salvage(&self) -> stratawal::Result<Salvage> {
        inspect::salvage(self.root.join("log"), "s")
    }

    fn verify(&self) -> stratawal::Result<Verify> {
        inspect::verify(self.root.join("log"), Some("s"))
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut dirs = vec![self.root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let named = Path::new("/").join(path.strip_prefix(self.root).unwrap());
                let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
                if kind.is_symlink() {
                    let target = std::fs::read_link(&path).unwrap();
                    found.push((named, target.into_os_string().into_encoded_bytes()));
                } else if kind.is_dir() {
                    dirs.push(path);
                } else if named != Path::new("/log/LOCK") {
                    // LOCK names the owner of the log.
                    found.push((named, std::fs::read(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }
}

/// A log with a stream `s`, which gets damaged, and a stream `other`, which must stay intact.
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) storage: MemoryStorage,
    pub(crate) first: u64,
    pub(crate) next: u64,
    /// Whether the stream was closed cleanly.
    pub(crate) closed: bool,
}

pub(crate) fn entry(seq: u64) -> Vec<u8> {
    let mut bytes = format!("entry {seq} ").into_bytes();
    bytes.resize(bytes.len() + usize::try_from(seq * 13 % 60).unwrap(), b'.');
    bytes
}

/// Runs one life of the log, which appends to `s` and ends with or without a close.
pub(crate) fn live(
    storage: &MemoryStorage,
    appends: u64,
    act: impl FnOnce(&stratawal::Stream),
    close: bool,
) -> MemoryStorage {
    let wal = open(storage, false).unwrap();
    let stream = wal.stream("s").unwrap();
    let other = wal.stream("other").unwrap();
    other.append("of the other").unwrap();
    for i in 0..appends {
        let next = stream.next_seq();
        if i % 3 == 0 {
            let batch: Batch = (next..next + 4).map(entry).collect();
            stream.append_batch(&batch).unwrap();
        } else {
            stream.append(entry(next)).unwrap();
        }
    }
    act(&stream);
    if close {
        wal.close().unwrap();
    }
    // Copied before the log is dropped, which would close it.
    storage.snapshot()
}

pub(crate) fn new() -> MemoryStorage {
    MemoryStorage::new().with_seed(1).with_clock(1_000_000, 10)
}

pub(crate) fn nothing(_: &stratawal::Stream) {}

pub(crate) fn layout(name: &'static str, storage: MemoryStorage, first: u64, closed: bool) -> Layout {
    let stream = open(&storage.snapshot(), true).unwrap().stream("s");
    let next = stream.unwrap_or_else(|e| panic!("{OWN}{name}, which is not damaged: {e}")).next_seq();
    Layout { name, storage, first, next, closed }
}

/// Layouts with segments that were rotated because they were full. These are too long to damage bit
/// by bit.
pub(crate) fn rotated() -> [Layout; 2] {
    let rotated = |close| live(&new(), 1500, nothing, close);
    [layout("rotated, closed", rotated(true), 0, true), layout("rotated, killed", rotated(false), 0, false)]
}

/// Each recovery begins a segment.
pub(crate) fn many_segments(close: bool) -> Layout {
    let storage = (0..3).fold(new(), |storage, life| live(&storage, 6, nothing, close && life == 2));
    layout(if close { "many segments, closed" } else { "many segments, killed" }, storage, 0, close)
}

pub(crate) fn layouts() -> Vec<Layout> {
    let one_closed = live(&new(), 12, nothing, true);
    let one_killed = live(&new(), 12, nothing, false);
    // The chain contains CLOSE frames.
    let again = |close| (0..3).fold(new(), |storage, life| live(&storage, 5, nothing, close || life < 2));
    let cut = |close| {
        let storage = (0..2).fold(new(), |storage, _| live(&storage, 8, nothing, false));
        let truncate = |stream: &stratawal::Stream| {
            stream.truncate_before(5).unwrap();
            stream.truncate_from(stream.next_seq() - 3).unwrap();
            stream.append(entry(stream.next_seq())).unwrap();
        };
        live(&storage, 4, truncate, close)
    };
    vec![
        layout("one segment, closed", one_closed, 0, true),
        layout("one segment, killed", one_killed, 0, false),
        many_segments(true),
        many_segments(false),
        layout("cut on both sides, closed", cut(true), 5, true),
        layout("cut on both sides, killed", cut(false), 5, false),
        layout("closed three times", again(true), 0, true),
        layout("closed twice, killed", again(false), 0, false),
    ]
}

impl Layout {
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        segments_of(&self.storage, DIR)
    }

    pub(crate) fn len(&self, path: &Path) -> u64 {
        self.storage.open(path, Access::Read).unwrap().len().unwrap()
    }

    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        read(&self.storage, path)
    }

    /// The seq from which entries may be missing without an error if `bytes` of the segment
    /// `damaged` are damaged. It follows all entries that other bytes attest. A closed stream is
    /// protected to its last byte, so none of its entries may be missing.
    pub(crate) fn silent_from(&self, damaged: &Path, bytes: &Range<u64>) -> u64 {
        if self.closed { u64::MAX } else { self.attested(damaged, bytes) }
    }

    pub(crate) fn attested(&self, damaged: &Path, bytes: &Range<u64>) -> u64 {
        let segments: Vec<_> = self.segments().into_iter().map(|path| (path.clone(), self.bytes(&path))).collect();
        frames::attested(&segments, &damaged.to_owned(), bytes)
    }
}

pub(crate) fn segments_of(storage: &MemoryStorage, dir: &str) -> Vec<PathBuf> {
    let entries = storage.list(Path::new(dir)).unwrap();
    entries.into_iter().map(|entry| Path::new(dir).join(entry.name)).collect()
}

pub(crate) fn read(storage: &MemoryStorage, path: &Path) -> Vec<u8> {
    let file = storage.open(path, Access::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub(crate) fn files(storage: &MemoryStorage) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from("/log")];
    while let Some(dir) = dirs.pop() {
        for entry in storage.list(&dir).unwrap() {
            let path = dir.join(entry.name);
            match entry.file_type {
                FileType::Dir => dirs.push(path),
                _ => found.push((path.clone(), read(storage, &path))),
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn change(storage: &MemoryStorage, path: &Path, at: u64, change: impl Fn(&mut [u8]), len: usize) {
    let file = storage.open(path, Access::ReadWrite).unwrap();
    let mut bytes = vec![0; len];
    let n = file.read_at(&mut bytes, at).unwrap();
    change(&mut bytes[..n]);
    file.write_all_at(&bytes[..n], at).unwrap();
}

pub(crate) fn set_len(storage: &MemoryStorage, path: &Path, len: u64) {
    storage.open(path, Access::ReadWrite).unwrap().set_len(len).unwrap();
}

pub(crate) fn copy(storage: &MemoryStorage, from: &Path, to: &Path) {
    storage.create_new(to).unwrap().write_all_at(&read(storage, from), 0).unwrap();
}

pub(crate) fn swap(storage: &MemoryStorage, one: &Path, other: &Path) {
    let aside = Path::new("/log/aside");
    storage.rename(one, aside).unwrap();
    storage.rename(other, one).unwrap();
    storage.rename(aside, other).unwrap();
}
