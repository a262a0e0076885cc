//! Caches loaded values by key, bounded in bytes and in entries.
//!
//! Invariants: the entries of the maps never exceed the limits; one key is never loaded twice at
//! the same time; an entry whose load began before its removal is not in the cache once the removal
//! has returned. The cache knows nothing about its values, and does not depend on when a replaced
//! snapshot is dropped.

mod key;
mod load;
mod shard;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use stratawal_sync::atomic::Ordering;
use stratawal_sync::{Mutex, MutexGuard, fail_point};

pub use self::key::CacheKey;
use self::load::Load;
use self::shard::{Entry, Shard};

/// The limits of a [`Cache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// The maximum number of bytes, by the weights that the loaders return. The memory of the cache
    /// itself, about 150 bytes an entry, is not counted.
    pub bytes_max: usize,
    /// The maximum number of entries. If 0, the cache keeps nothing.
    pub entries_max: usize,
}

/// Statistics of the calls and the contents of a [`Cache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Calls that found their value in the cache.
    pub hits: u64,
    /// Calls of [`get_or_load`](Cache::get_or_load) that did not find it: they loaded the value, or
    /// waited for another thread to load it.
    pub misses: u64,
    /// The number of entries held now.
    pub entries: usize,
    /// The number of bytes held now, by the weights that the loaders returned.
    pub bytes: usize,
}

/// A cache of loaded values, bounded in bytes and in entries, for any number of threads.
///
/// A hit takes no lock: the map consists of immutable snapshots, one for each shard. Every change
/// to the cache takes one lock, which is not held while a loader runs or a value is dropped.
///
/// A value is returned but not kept if it is too large for the limits, or if its key was removed
/// while it was being loaded.
///
/// ```
/// use stratawal_index::{Cache, CacheKey, CacheLimits};
///
/// let cache = Cache::new(CacheLimits { bytes_max: 1 << 20, entries_max: 128 });
/// let key = CacheKey { stream_id: 7, generation: 3 };
/// let loaded = cache.get_or_load(key, || Ok::<_, std::io::Error>(("an index".to_owned(), 8)))?;
/// assert_eq!(*loaded, "an index");
/// assert!(cache.get(key).is_some());
///
/// cache.remove(key);
/// assert!(cache.get(key).is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Cache<T> {
    limits: CacheLimits,
    shards: Box<[Shard<T>]>,
    // One lock for all shards. It is held while one shard's map is copied, which takes a few
    // microseconds, whereas a miss costs a read from a file. With a lock for each shard, the
    // limits, the order of eviction and the removal of a stream would need several locks at once.
    state: Mutex<State<T>>,
}

/// The state that the lock protects.
struct State<T> {
    /// The running loads.
    loads: BTreeMap<CacheKey, RunningLoad<T>>,
    /// The keys of all entries, with the next candidate for eviction first.
    queue: VecDeque<CacheKey>,
    bytes: usize,
    misses: u64,
}

/// A running load.
struct RunningLoad<T> {
    load: Arc<Load<T>>,
    /// Whether the key was removed since the load began.
    is_removed: bool,
}

/// The next step of a caller that did not find its value.
enum Lookup<'a, T> {
    /// The entry has been added in the meantime.
    Hit(Arc<T>),
    /// Another thread is loading the value. This caller can also use it, unless the key was removed
    /// before this call.
    Wait {
        load: Arc<Load<T>>,
        is_removed: bool,
    },
    Load(LoadGuard<'a, T>),
}

// A power of two. Few enough that an empty cache takes little memory, and enough that an
// insertion, which copies one shard, copies little.
const SHARDS: usize = if cfg!(stratawal_loom) { 2 } else { 16 };

impl<T> Cache<T> {
    /// An empty cache.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        let state = State { loads: BTreeMap::new(), queue: VecDeque::new(), bytes: 0, misses: 0 };
        Self { limits, shards: (0..SHARDS).map(|_| Shard::new()).collect(), state: Mutex::new(state) }
    }

    /// Returns the value of `key` if the cache holds it. Takes no lock.
    #[must_use]
    pub fn get(&self, key: CacheKey) -> Option<Arc<T>> {
        let shard = self.shard(key);
        let value = shard.get(key)?;
        // Relaxed: the count orders nothing.
        shard.hits.fetch_add(1, Ordering::Relaxed);
        Some(value)
    }

    /// Returns the value of `key`. If the cache does not hold it, calls `load`, which returns the
    /// value and its weight in bytes.
    ///
    /// A hit takes no lock. If several callers miss at the same time, one loads and the others wait
    /// for its value; if its loader fails or panics, the others try their own. `load` may use the
    /// cache for other keys, but with the same key it would wait for itself.
    ///
    /// # Errors
    /// The error of this caller's own `load`.
    pub fn get_or_load<E>(&self, key: CacheKey, load: impl FnOnce() -> Result<(T, usize), E>) -> Result<Arc<T>, E> {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let mut is_first_try = true;
        let guard = loop {
            match self.look_up(key, is_first_try) {
                Lookup::Hit(value) => return Ok(value),
                Lookup::Wait { load, is_removed } => match load.wait() {
                    Some(value) if !is_removed => return Ok(value),
                    _ => is_first_try = false,
                },
                Lookup::Load(guard) => break guard,
            }
        };
        // If this fails or unwinds, the waiting threads are woken when the guard is dropped.
        let (value, weight) = load()?;
        Ok(guard.finish(value, weight))
    }

    /// Removes `key`. Once this has returned, no new call finds the value, and no load that began
    /// before adds it. Values returned earlier stay valid.
    pub fn remove(&self, key: CacheKey) {
        self.remove_all(key..=key);
    }

    /// Removes every key of a stream, like [`remove`](Self::remove).
    pub fn remove_stream(&self, stream_id: u64) {
        let key = |generation| CacheKey { stream_id, generation };
        self.remove_all(key(0)..=key(u32::MAX));
    }

    /// Drops every value in the cache. A running load is not affected: its value is kept, unless
    /// its key was removed. Once this has returned, a dropped value lives only as long as a caller
    /// or a running call holds it.
    pub fn clear(&self) {
        let key = |stream_id, generation| CacheKey { stream_id, generation };
        self.take(self.state.lock(), &(key(0, 0)..=key(u64::MAX, u32::MAX)));
    }

    /// Returns the current statistics of the cache.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        // Relaxed: the count orders nothing.
        let hits = self.shards.iter().map(|shard| shard.hits.load(Ordering::Relaxed)).sum();
        let state = self.state.lock();
        CacheStats { hits, misses: state.misses, entries: state.queue.len(), bytes: state.bytes }
    }

    fn shard(&self, key: CacheKey) -> &Shard<T> {
        // Stream ids are random, and generations count up. The product of their sum and 2^64 / phi
        // spreads both over the top bits.
        let hash = key.stream_id.wrapping_add(key.generation.into()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.shards[(hash >> (u64::BITS - SHARDS.ilog2())) as usize]
    }

    fn look_up(&self, key: CacheKey, is_first_try: bool) -> Lookup<'_, T> {
        let mut state = self.state.lock();
        state.misses += u64::from(is_first_try);
        if let Some(value) = self.shard(key).get(key) {
            return Lookup::Hit(value);
        }
        if let Some(RunningLoad { load, is_removed }) = state.loads.get(&key)
            && !fail_point!(LoadNotExclusive)
        {
            return Lookup::Wait { load: Arc::clone(load), is_removed: *is_removed };
        }
        let load = Arc::new(Load::new());
        state.loads.insert(key, RunningLoad { load: Arc::clone(&load), is_removed: false });
        Lookup::Load(LoadGuard { cache: self, key, load, outcome: None })
    }

    fn remove_all(&self, keys: RangeInclusive<CacheKey>) {
        let mut state = self.state.lock();
        for (_, running) in state.loads.range_mut(keys.clone()) {
            running.is_removed = !fail_point!(EntryAfterRemoval);
        }
        self.take(state, &keys);
    }

    /// Takes the entries of `keys` out of the cache, and drops them once the lock is released.
    fn take(&self, mut state: MutexGuard<'_, State<T>>, keys: &RangeInclusive<CacheKey>) {
        let mut removed = Vec::new();
        state.queue.retain(|key| !keys.contains(key));
        for shard in &self.shards {
            shard.take(keys, &mut removed);
        }
        state.bytes -= removed.iter().map(|entry| entry.weight).sum::<usize>();
        // Dropped outside the lock: a value may be slow to drop, and may even call the cache.
        drop(state);
        drop(removed);
    }

    /// Adds `entry`, and returns the entries that were evicted for it.
    fn put(&self, state: &mut State<T>, key: CacheKey, entry: Arc<Entry<T>>) -> Vec<Arc<Entry<T>>> {
        let mut evicted = Vec::new();
        if entry.weight > self.limits.bytes_max || self.limits.entries_max == 0 {
            return evicted;
        }
        let bytes_left = self.limits.bytes_max - entry.weight;
        while state.bytes > bytes_left || state.queue.len() >= self.limits.entries_max {
            let key = self.next_victim(&mut state.queue);
            let from = evicted.len();
            self.shard(key).take(&(key..=key), &mut evicted);
            state.bytes -= evicted[from..].iter().map(|entry| entry.weight).sum::<usize>();
        }
        state.bytes += entry.weight;
        state.queue.push_back(key);
        self.shard(key).put(key, entry);
        evicted
    }

    /// Takes the next victim off the queue by the second-chance algorithm: the first entry not used
    /// since it was last examined. Used entries go to the end of the queue, each at most once in a
    /// call.
    fn next_victim(&self, queue: &mut VecDeque<CacheKey>) -> CacheKey {
        for _ in 0..queue.len() {
            let Some(&key) = queue.front() else { break };
            if !self.shard(key).take_used(key) {
                break;
            }
            queue.rotate_left(1);
        }
        queue.pop_front().expect("invariant: bytes are held only by entries in the queue")
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The duty to end a load that this caller has begun. If this guard is dropped before `finish`, the
/// load has failed.
struct LoadGuard<'a, T> {
    cache: &'a Cache<T>,
    key: CacheKey,
    load: Arc<Load<T>>,
    outcome: Option<Arc<T>>,
}

impl<T> LoadGuard<'_, T> {
    fn finish(mut self, value: T, weight: usize) -> Arc<T> {
        let value = Arc::new(value);
        self.outcome = Some(Arc::clone(&value));
        let entry = Arc::new(Entry::new(Arc::clone(&value), weight));
        let mut state = self.cache.state.lock();
        let evicted = match state.loads.get(&self.key) {
            Some(RunningLoad { is_removed: false, .. }) => self.cache.put(&mut state, self.key, entry),
            _ => Vec::new(),
        };
        // Removed under the same lock under which the entry is added, so that every caller finds
        // one of the two.
        state.loads.remove(&self.key);
        drop(state);
        drop(evicted);
        value
    }
}

impl<T> Drop for LoadGuard<'_, T> {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        if outcome.is_none() {
            self.cache.state.lock().loads.remove(&self.key);
        }
        self.load.end(outcome);
    }
}
