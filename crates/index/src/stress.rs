//! Histories of an index and a cache on real threads, too large for a model checker to exhaust.

use std::convert::Infallible;
use std::sync::Arc;

use stratawal_sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use stratawal_sync::thread::spawn;
use stratawal_sync::{Condvar, Mutex};

use crate::scenarios::{self, point, push};
use crate::{ActiveIndex, Cache, CacheKey, CacheLimits};

#[test]
fn readers_of_a_long_active_index_see_a_growing_prefix() {
    const POINTS: u64 = 20_000;
    let index = Arc::new(ActiveIndex::new(0));
    let readers = [0u64, 1].map(|reader| {
        let index = Arc::clone(&index);
        spawn(move || {
            let mut len = 0;
            let mut random = reader;
            while (len as u64) < POINTS {
                let now = index.len();
                assert!(now >= len, "{now} points after {len}");
                len = now;
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let position = (random >> 33) % (len as u64 + 1);
                match index.floor(point(position).seq + 5) {
                    None => assert_eq!(len, 0),
                    Some(span) => {
                        assert!(position == len as u64 || span.point == point(position), "{span:?} at {position}");
                        let next = span.point.seq / 10;
                        assert!(span.next.is_none_or(|found| found == point(next)), "{span:?}");
                    }
                }
            }
        })
    });
    (0..POINTS).for_each(|position| push(&index, position));
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(index.to_index().points().iter().copied().eq((0..POINTS).map(point)));
}

#[test]
fn callers_of_many_keys_keep_the_cache_within_limits() {
    const LIMITS: CacheLimits = CacheLimits { bytes_max: 200, entries_max: 12 };
    const KEYS: usize = 24;
    let cache = Arc::new(Cache::new(LIMITS));
    let loading: Arc<[AtomicBool; KEYS]> = Arc::new(std::array::from_fn(|_| AtomicBool::new(false)));
    let callers = [1usize, 2, 3].map(|caller| {
        let cache = Arc::clone(&cache);
        let loading = Arc::clone(&loading);
        spawn(move || {
            let mut random = caller;
            for round in 0..20_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (random >> 33) % KEYS;
                let key = CacheKey { stream_id: at as u64 / 4, generation: at as u32 % 4 };
                if round % 100 == 0 {
                    cache.remove(key);
                } else if round % 777 == 0 {
                    cache.remove_stream(key.stream_id);
                } else if round % 1_111 == 0 {
                    cache.clear();
                }
                let loaded = cache.get_or_load(key, || {
                    assert!(!loading[at].swap(true, Ordering::SeqCst), "two loads at the same time");
                    let fails = random % 16 == 0;
                    loading[at].store(false, Ordering::SeqCst);
                    if fails { Err(()) } else { Ok((key, at * 10)) }
                });
                assert!(loaded.is_err() || loaded.as_deref() == Ok(&key));
                let stats = cache.stats();
                assert!(stats.bytes <= LIMITS.bytes_max && stats.entries <= LIMITS.entries_max, "{stats:?}");
            }
        })
    });
    for caller in callers {
        caller.join().unwrap();
    }
    for stream_id in 0..KEYS as u64 {
        cache.remove_stream(stream_id);
    }
    assert_eq!((cache.stats().bytes, cache.stats().entries), (0, 0));
}

/// A load that a test holds open.
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
    arrived: AtomicUsize,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self { is_open: Mutex::new(false), opened: Condvar::new(), arrived: AtomicUsize::new(0) })
    }

    fn pass(&self) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut is_open = self.is_open.lock();
        while !*is_open {
            is_open = self.opened.wait(is_open);
        }
    }

    fn wait_for_arrival(&self) {
        while self.arrived.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }

    fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }
}

#[test]
fn a_loader_that_panics_wakes_the_waiting_threads() {
    let cache = Arc::new(Cache::new(CacheLimits { bytes_max: 100, entries_max: 10 }));
    let gate = Gate::new();
    let panicking = spawn({
        let cache = Arc::clone(&cache);
        let gate = Arc::clone(&gate);
        move || {
            cache.get_or_load(scenarios::KEY, || -> Result<(u32, usize), Infallible> {
                gate.pass();
                panic!("a loader that panics, as this test wants it");
            })
        }
    });
    gate.wait_for_arrival();
    let waiting = spawn({
        let cache = Arc::clone(&cache);
        move || cache.get_or_load(scenarios::KEY, || Ok::<_, Infallible>((42, 1)))
    });
    // The second call is a miss before it waits.
    while cache.stats().misses < 2 {
        std::thread::yield_now();
    }
    gate.open();
    assert!(panicking.join().is_err());
    assert_eq!(waiting.join().unwrap().as_deref(), Ok(&42));
    assert_eq!(cache.get(scenarios::KEY).as_deref(), Some(&42));
}

#[test]
fn a_call_after_a_removal_loads_the_value_again() {
    let cache = Arc::new(Cache::new(CacheLimits { bytes_max: 100, entries_max: 10 }));
    let gate = Gate::new();
    let before = spawn({
        let cache = Arc::clone(&cache);
        let gate = Arc::clone(&gate);
        move || {
            cache.get_or_load(scenarios::KEY, || {
                gate.pass();
                Ok::<_, Infallible>(("before", 1))
            })
        }
    });
    gate.wait_for_arrival();
    cache.remove(scenarios::KEY);
    let after = spawn({
        let cache = Arc::clone(&cache);
        move || cache.get_or_load(scenarios::KEY, || Ok::<_, Infallible>(("after", 1)))
    });
    while cache.stats().misses < 2 {
        std::thread::yield_now();
    }
    gate.open();
    assert_eq!(before.join().unwrap().as_deref(), Ok(&"before"));
    assert_eq!(after.join().unwrap().as_deref(), Ok(&"after"));
    assert_eq!(cache.get(scenarios::KEY).as_deref(), Some(&"after"));
}

#[test]
fn a_value_too_large_to_keep_reaches_waiting_callers() {
    let cache = Arc::new(Cache::new(CacheLimits { bytes_max: 100, entries_max: 10 }));
    let gate = Gate::new();
    let loading = spawn({
        let cache = Arc::clone(&cache);
        let gate = Arc::clone(&gate);
        move || {
            cache.get_or_load(scenarios::KEY, || {
                gate.pass();
                Ok::<_, Infallible>((1, 101))
            })
        }
    });
    gate.wait_for_arrival();
    let waiting = spawn({
        let cache = Arc::clone(&cache);
        move || cache.get_or_load(scenarios::KEY, || Ok::<_, Infallible>((2, 101)))
    });
    // The second call is a miss before it waits. Then it holds the first call's load.
    while cache.stats().misses < 2 {
        std::thread::yield_now();
    }
    gate.open();
    assert_eq!(loading.join().unwrap().as_deref(), Ok(&1));
    assert_eq!(waiting.join().unwrap().as_deref(), Ok(&1));
    assert_eq!(cache.get(scenarios::KEY), None);
}
