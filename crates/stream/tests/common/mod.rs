//! Helpers for these tests: storages with a directory for streams, a stream in it, and reads of the
//! whole stream.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_stream::{Durability, Iter, Location, LogContext, Result, StreamLog, StreamOptions, Visibility};
use stratawal_testkit::{Found, HookedStorage, Level, SimStorage};

/// The directory of the stream.
pub(crate) const DIR: &str = "/streams/s";

/// An in-memory storage, empty except for a directory for streams.
pub(crate) fn memory() -> MemoryStorage {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/streams")).unwrap();
    storage
}

/// A simulated disk, empty except for a durable directory for streams.
pub(crate) fn simulated(seed: u64) -> SimStorage {
    let sim = SimStorage::new(seed);
    sim.create_dir(Path::new("/streams")).unwrap();
    sim.sync_dir(Path::new("/")).unwrap();
    sim
}

/// A storage with hooks on top of `storage`, with a durable directory for streams.
pub(crate) fn hooked(storage: impl Storage + 'static) -> HookedStorage {
    storage.create_dir(Path::new("/streams")).unwrap();
    storage.sync_dir(Path::new("/")).unwrap();
    HookedStorage::new(storage)
}

/// Options with segments of 64 KiB, so that a test has several segments.
pub(crate) fn small_segments() -> StreamOptions {
    StreamOptions::new().segment_bytes(64 << 10)
}

pub(crate) fn location() -> Location {
    Location::new("/streams", "s")
}

pub(crate) fn open_with(storage: impl Storage + 'static, options: StreamOptions) -> Result<StreamLog> {
    StreamLog::open(Arc::new(LogContext::new(Arc::new(storage))), location(), options)
}

/// Opens the stream, with small segments.
pub(crate) fn open(storage: impl Storage + 'static) -> StreamLog {
    open_with(storage, small_segments()).expect("the stream opens")
}

/// Opens the stream as a reader in another process does.
pub(crate) fn open_read_only(storage: impl Storage + 'static) -> Result<StreamLog> {
    StreamLog::open(Arc::new(LogContext::new(Arc::new(storage)).read_only(true)), location(), small_segments())
}

pub(crate) const DURABILITIES: [Durability; 3] = [Durability::Buffered, Durability::Flushed, Durability::Synced];

pub(crate) const fn durability_of(level: Level) -> Durability {
    match level {
        Level::Buffered => Durability::Buffered,
        Level::Flushed => Durability::Flushed,
        Level::Synced => Durability::Synced,
    }
}

/// Returns all entries that the stream shows, or the error that ends the iteration.
pub(crate) fn read(log: &StreamLog, visibility: Visibility) -> Result<Found> {
    let first_seq = log.first_seq();
    let entries = log.iter(.., visibility).map(|entry| entry.map(|entry| entry.data().to_vec()));
    Ok(Found { first_seq, entries: entries.collect::<Result<_>>()? })
}

/// Returns the seqs from an iterator, and the error that ends it.
pub(crate) fn seqs(iter: Iter) -> (Vec<u64>, Option<stratawal_stream::ErrorKind>) {
    let mut seqs = Vec::new();
    for entry in iter {
        match entry {
            Ok(entry) => seqs.push(entry.seq()),
            Err(error) => return (seqs, Some(error.kind())),
        }
    }
    (seqs, None)
}

/// Every file of the stream with its bytes, ordered by name.
pub(crate) fn files(storage: &dyn Storage) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| {
        let file = storage.open(&path, Access::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (path, bytes)
    };
    storage.list(Path::new(DIR)).unwrap().into_iter().map(|entry| read(Path::new(DIR).join(entry.name))).collect()
}
