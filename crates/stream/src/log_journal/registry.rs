//! The open streams of a log with a commit journal.
//!
//! There may be 100,000 of them, and few need anything at a time. So a walk loads one or two atomic
//! numbers of each stream, and gives out only the streams that it looks for, some at a time. No
//! lock is held while the caller uses them.
//!
//! A stream keeps its place as long as it is open. The place of a stream that is gone may be used
//! again. So a walk that runs at the same time may miss a new stream, or meet a stream twice.

use std::collections::HashSet;
use std::sync::Arc;

use stratawal_journal::Lsn;
use stratawal_sync::{Mutex, Weak};

use crate::journal_user::{Claim, JournalUser};
use crate::watermarks::Watermarks;

/// A walk gives out this many streams at a time.
const CHUNK_LEN: usize = 256;

/// The open streams, and those that were dropped although they need the journal.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    streams: Vec<Registered>,
    /// Places of streams that are gone.
    free: Vec<usize>,
}

/// A stream that was opened.
#[derive(Debug)]
struct Registered {
    stream: Weak<dyn JournalUser>,
    claim: Arc<Claim>,
    watermarks: Arc<Watermarks>,
}

impl Registered {
    fn is_gone(&self) -> bool {
        self.stream.strong_count() == 0
    }
}

impl Registry {
    /// Adds a stream that is open.
    pub(super) fn add(&self, stream: &Arc<dyn JournalUser>, claim: Arc<Claim>, watermarks: Arc<Watermarks>) {
        let added = Registered { stream: Arc::downgrade(stream), claim, watermarks };
        let mut places = self.0.lock();
        let Places { streams, free } = &mut *places;
        if free.is_empty() && streams.len() == streams.capacity() {
            let is_free = |stream: &Registered| stream.is_gone() && stream.claim.lsn().is_none();
            free.extend(streams.iter().enumerate().filter(|(_, stream)| is_free(stream)).map(|(place, _)| place));
        }
        match free.pop() {
            Some(place) => streams[place] = added,
            None => streams.push(added),
        }
    }

    /// The LSN from which on some stream needs the journal.
    pub(super) fn claimed_from(&self) -> Option<Lsn> {
        self.0.lock().streams.iter().filter_map(|stream| stream.claim.lsn()).min()
    }

    /// A walk through all open streams.
    pub(super) fn all(&self) -> Walk<'_, impl FnMut(&Claim, &Watermarks) -> bool> {
        self.walk(|_, _| true)
    }

    /// A walk through the open streams that need the journal below `target`.
    pub(super) fn claimed_below(&self, target: Lsn) -> Walk<'_, impl FnMut(&Claim, &Watermarks) -> bool> {
        self.walk(move |claim, _| claim.lsn().is_some_and(|lsn| lsn < target))
    }

    /// A walk through the open streams that have entries which are not durable.
    pub(super) fn unsynced(&self) -> Walk<'_, impl FnMut(&Claim, &Watermarks) -> bool> {
        self.walk(|_, watermarks| watermarks.durable() < watermarks.accepted())
    }

    /// A walk through the open streams with these ids.
    pub(super) fn with_ids(&self, ids: &[u64]) -> Walk<'_, impl FnMut(&Claim, &Watermarks) -> bool> {
        let ids: HashSet<u64> = ids.iter().copied().collect();
        self.walk(move |claim, _| ids.contains(&claim.stream()))
    }

    fn walk<F: FnMut(&Claim, &Watermarks) -> bool>(&self, is_wanted: F) -> Walk<'_, F> {
        Walk { registry: self, next: 0, is_wanted }
    }

    /// The streams at these places that are still open.
    pub(super) fn at(&self, places: impl Iterator<Item = usize>) -> Vec<Arc<dyn JournalUser>> {
        let all = self.0.lock();
        places.filter_map(|place| all.streams.get(place)?.stream.upgrade()).collect()
    }
}

/// A walk through the open streams. Yields some at a time, with their places.
pub(super) struct Walk<'a, F> {
    registry: &'a Registry,
    next: usize,
    is_wanted: F,
}

impl<F: FnMut(&Claim, &Watermarks) -> bool> Iterator for Walk<'_, F> {
    type Item = Vec<(usize, Arc<dyn JournalUser>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let places = self.registry.0.lock();
        let mut found = Vec::new();
        while found.len() < CHUNK_LEN
            && let Some(registered) = places.streams.get(self.next)
        {
            if (self.is_wanted)(&registered.claim, &registered.watermarks)
                && let Some(stream) = registered.stream.upgrade()
            {
                found.push((self.next, stream));
            }
            self.next += 1;
        }
        // Dropping a stream may take the registry's lock.
        drop(places);
        (!found.is_empty()).then_some(found)
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use std::path::Path;

    use stratawal_frame::WalId;
    use stratawal_journal::JournalOptions;
    use stratawal_storage::{MemoryStorage, Storage};

    use super::*;
    use crate::log_journal::LogJournal;
    use crate::{Durability, Location, LogContext, StreamLog, StreamOptions};

    fn context() -> Arc<LogContext> {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        storage.create_dir(Path::new("/streams")).unwrap();
        let options = JournalOptions::default().bytes(1 << 20);
        let journal = LogJournal::create(&storage, Path::new("/journal"), WalId(0), options).unwrap();
        Arc::new(LogContext::new(storage).journal(Arc::new(journal)))
    }

    fn stream(context: &Arc<LogContext>, name: &str) -> StreamLog {
        let options = StreamOptions::new().durability(Durability::Synced);
        StreamLog::open(Arc::clone(context), Location::new("/streams", name), options).unwrap()
    }

    fn places(walk: impl Iterator<Item = Vec<(usize, Arc<dyn JournalUser>)>>) -> Vec<usize> {
        walk.flatten().map(|(place, _)| place).collect()
    }

    #[test]
    fn a_walk_finds_only_the_streams_that_need_it() {
        let context = context();
        let registry = &context.log_journal().unwrap().streams;
        let streams: Vec<StreamLog> = (0..600).map(|i| stream(&context, &i.to_string())).collect();
        assert_eq!(places(registry.all()), (0..600).collect::<Vec<_>>());
        assert_eq!((places(registry.unsynced()), places(registry.claimed_below(Lsn(u64::MAX)))), (vec![], vec![]));
        streams[7].append(b"waits", Durability::Buffered).unwrap();
        streams[8].append(b"durable", Durability::Synced).unwrap();
        assert_eq!(places(registry.unsynced()), [7]);
        assert_eq!(places(registry.claimed_below(Lsn(u64::MAX))), [8]);
        let claimed = registry.claimed_from().unwrap();
        assert_eq!(places(registry.claimed_below(claimed)), [0; 0]);
    }

    #[test]
    fn the_place_of_a_closed_stream_is_used_again() {
        let context = context();
        let registry = &context.log_journal().unwrap().streams;
        for i in 0..100 {
            let stream = stream(&context, &i.to_string());
            stream.append(b"entry", Durability::Synced).unwrap();
            stream.close().unwrap();
        }
        assert!(registry.0.lock().streams.len() < 10);
        assert_eq!(registry.claimed_from(), None);
    }
}
