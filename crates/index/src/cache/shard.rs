//! A part of the cache's map: an immutable snapshot that readers search and that only the holder of
//! the cache's lock replaces.

use std::ops::RangeInclusive;
use std::sync::Arc;

use stratawal_sync::Published;
use stratawal_sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::key::CacheKey;

/// A value that the cache holds.
pub(super) struct Entry<T> {
    value: Arc<T>,
    pub(super) weight: usize,
    used: AtomicBool,
}

impl<T> Entry<T> {
    /// A new entry. It counts as unused, so that a value read only once is evicted before others.
    pub(super) fn new(value: Arc<T>, weight: usize) -> Self {
        Self { value, weight, used: AtomicBool::new(false) }
    }
}

/// Entries sorted by key. A look-up is a binary search over a few cache lines, and a copy is one
/// allocation.
type Map<T> = Vec<(CacheKey, Arc<Entry<T>>)>;

pub(super) struct Shard<T> {
    map: Published<Map<T>>,
    /// The count is per shard, so that hits on different shards do not contend for it.
    pub(super) hits: AtomicU64,
}

impl<T> Shard<T> {
    pub(super) fn new() -> Self {
        Self { map: Published::new(Map::new()), hits: AtomicU64::new(0) }
    }

    /// Returns the value of `key`, and marks it as used.
    pub(super) fn get(&self, key: CacheKey) -> Option<Arc<T>> {
        let map = self.map.load();
        let entry = find(&map, key)?;
        // Both are Relaxed, because this is only a hint to eviction. The load before the store
        // keeps the cache line of a frequently read entry shared.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.value))
    }

    /// Whether the entry of `key` has been used since the last call for that key.
    pub(super) fn take_used(&self, key: CacheKey) -> bool {
        // Relaxed, because this is only a hint. A missed use costs one load.
        find(&self.map.load(), key).is_some_and(|entry| entry.used.swap(false, Ordering::Relaxed))
    }

    /// Adds an entry. The caller holds the cache's lock, and the map does not have the key.
    pub(super) fn put(&self, key: CacheKey, entry: Arc<Entry<T>>) {
        let map = self.map.load();
        let at = map.partition_point(|(other, _)| *other < key);
        let mut longer = Map::with_capacity(map.len() + 1);
        longer.extend_from_slice(&map[..at]);
        longer.push((key, entry));
        longer.extend_from_slice(&map[at..]);
        self.map.store(Arc::new(longer));
    }

    /// Removes the entries of `keys` and adds them to `taken`. The caller holds the cache's lock.
    pub(super) fn take(&self, keys: &RangeInclusive<CacheKey>, taken: &mut Vec<Arc<Entry<T>>>) {
        let map = self.map.load();
        let from = map.partition_point(|(key, _)| key < keys.start());
        let to = from + map[from..].partition_point(|(key, _)| key <= keys.end());
        if from == to {
            return;
        }
        taken.extend(map[from..to].iter().map(|(_, entry)| Arc::clone(entry)));
        let mut shorter = Map::with_capacity(map.len() - (to - from));
        shorter.extend_from_slice(&map[..from]);
        shorter.extend_from_slice(&map[to..]);
        self.map.store(Arc::new(shorter));
    }
}

fn find<T>(map: &Map<T>, key: CacheKey) -> Option<&Arc<Entry<T>>> {
    let at = map.binary_search_by_key(&key, |(other, _)| *other).ok()?;
    Some(&map[at].1)
}
