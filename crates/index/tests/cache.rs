//! The cache in one thread: limits, order of eviction, statistics.
#![cfg(not(stratawal_loom))]

use std::convert::Infallible;
use std::sync::Arc;

use proptest::prelude::*;
use stratawal_index::{Cache, CacheKey, CacheLimits};

fn key(generation: u32) -> CacheKey {
    CacheKey { stream_id: 1, generation }
}

fn cache<T>(bytes_max: usize, entries_max: usize) -> Cache<T> {
    Cache::new(CacheLimits { bytes_max, entries_max })
}

/// Gets the value of `generation`, and returns whether it was loaded.
fn ask(cache: &Cache<u32>, generation: u32, weight: usize) -> bool {
    let mut is_loaded = false;
    let value = cache.get_or_load(key(generation), || {
        is_loaded = true;
        Ok::<_, Infallible>((generation, weight))
    });
    assert_eq!(value.as_deref(), Ok(&generation));
    is_loaded
}

#[test]
fn a_value_is_loaded_once_and_shared() {
    let cache = cache(100, 10);
    let first = cache.get_or_load(key(1), || Ok::<_, Infallible>(("value".to_owned(), 40))).unwrap();
    let second = cache.get_or_load(key(1), || -> Result<_, Infallible> { panic!("loaded again") }).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries, stats.bytes), (1, 1, 1, 40));
}

#[test]
fn a_failed_load_returns_the_loaders_error() {
    let cache = cache(100, 10);
    assert_eq!(cache.get_or_load(key(1), || Err::<(u32, usize), _>("gone")), Err("gone"));
    assert_eq!(cache.stats().entries, 0);
    assert!(ask(&cache, 1, 1), "a failure is not kept");
}

#[test]
fn a_value_not_used_again_is_evicted_first() {
    let cache = cache(100, 3);
    for generation in 1..=3 {
        assert!(ask(&cache, generation, 1));
    }
    assert!(!ask(&cache, 1, 1));
    assert!(ask(&cache, 4, 1));
    assert_eq!(cache.get(key(2)), None, "the oldest not used goes");
    assert!(cache.get(key(1)).is_some(), "used since it was loaded");
    assert_eq!(cache.stats().entries, 3);
}

#[test]
fn a_scan_does_not_evict_values_in_use() {
    let cache = cache(100, 4);
    ask(&cache, 1, 1);
    for generation in 100..200 {
        assert!(!ask(&cache, 1, 1), "evicted by a value asked for once");
        assert!(ask(&cache, generation, 1));
    }
}

#[test]
fn the_oldest_is_evicted_if_all_are_in_use() {
    let cache = cache(100, 2);
    for generation in [1, 2, 1, 2] {
        ask(&cache, generation, 1);
    }
    ask(&cache, 3, 1);
    assert_eq!(cache.get(key(1)), None);
    assert!(cache.get(key(2)).is_some());
}

#[test]
fn a_large_value_evicts_as_many_as_it_needs() {
    let cache = cache(100, 10);
    for generation in 1..=4 {
        ask(&cache, generation, 25);
    }
    ask(&cache, 5, 60);
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.bytes), (2, 85));
}

#[test]
fn a_value_over_the_limit_is_returned_and_not_kept() {
    let cache = cache(100, 10);
    ask(&cache, 1, 100);
    assert!(ask(&cache, 2, 101));
    assert!(ask(&cache, 2, usize::MAX));
    assert!(!ask(&cache, 1, 100), "nothing was evicted for it");
    assert_eq!(cache.stats().bytes, 100);
}

#[test]
fn a_cache_of_no_entries_keeps_nothing() {
    let cache = cache(100, 0);
    assert!(ask(&cache, 1, 0));
    assert!(ask(&cache, 1, 0));
}

#[test]
fn a_removed_value_stays_valid_for_its_holders() {
    let cache = cache(100, 10);
    let held = cache.get_or_load(key(1), || Ok::<_, Infallible>((1, 10))).unwrap();
    ask(&cache, 2, 10);
    cache.remove(key(1));
    cache.remove(key(99));
    assert_eq!(*held, 1);
    assert_eq!(cache.get(key(1)), None);
    assert_eq!((cache.stats().entries, cache.stats().bytes), (1, 10));
}

#[test]
fn removing_a_stream_removes_only_its_values() {
    let cache = cache(1_000, 100);
    for stream_id in 0..4 {
        for generation in [0, 1, 50, u32::MAX] {
            cache.get_or_load(CacheKey { stream_id, generation }, || Ok::<_, Infallible>(((), 1))).unwrap();
        }
    }
    cache.remove_stream(2);
    assert_eq!(cache.stats().entries, 12);
    assert_eq!(cache.get(CacheKey { stream_id: 2, generation: u32::MAX }), None);
    assert!(cache.get(CacheKey { stream_id: 1, generation: u32::MAX }).is_some());
    assert!(cache.get(CacheKey { stream_id: 3, generation: 0 }).is_some());
}

#[test]
fn a_cleared_cache_is_empty_and_can_be_filled() {
    let cache = cache(100, 10);
    let held = cache.get_or_load(key(1), || Ok::<_, Infallible>((1, 10))).unwrap();
    ask(&cache, 2, 10);
    // A value that is being loaded while the cache is cleared is kept.
    let loaded = cache.get_or_load(key(3), || {
        cache.clear();
        Ok::<_, Infallible>((3, 10))
    });
    assert_eq!((*held, Arc::strong_count(&held), loaded.as_deref()), (1, 1, Ok(&3)));
    assert_eq!((cache.stats().entries, cache.stats().bytes), (1, 10));
    assert!(!ask(&cache, 3, 10));
    assert!(ask(&cache, 1, 80) && ask(&cache, 2, 10));
    assert_eq!((cache.stats().entries, cache.stats().bytes), (3, 100));
}

#[test]
fn a_key_removed_by_its_loader_is_not_kept() {
    let cache = cache(100, 10);
    let value = cache.get_or_load(key(1), || {
        cache.remove(key(1));
        Ok::<_, Infallible>((7, 1))
    });
    assert_eq!(value.as_deref(), Ok(&7));
    assert_eq!(cache.get(key(1)), None);
    assert!(cache.get_or_load(key(1), || Ok::<_, Infallible>((7, 1))).is_ok());
    assert!(cache.get(key(1)).is_some(), "the next load is kept");
}

#[test]
fn a_loader_may_use_the_cache_for_other_keys() {
    let cache = cache(100, 10);
    let inner = || cache.get_or_load(key(2), || Ok::<_, Infallible>((2, 1)));
    let value = cache.get_or_load(key(1), || inner().map(|inner| (*inner + 1, 1)));
    assert_eq!(value.as_deref(), Ok(&3));
    assert_eq!(cache.stats().entries, 2);
}

/// A value that uses its cache when it is dropped.
struct CallsBack(std::sync::Weak<Cache<CallsBack>>);

impl Drop for CallsBack {
    fn drop(&mut self) {
        if let Some(cache) = self.0.upgrade() {
            let _ = cache.stats();
        }
    }
}

#[test]
fn values_are_dropped_outside_the_lock() {
    let cache = Arc::new(cache(100, 1));
    let load = |generation| {
        let value = CallsBack(Arc::downgrade(&cache));
        cache.get_or_load(key(generation), || Ok::<_, Infallible>((value, 1))).map(drop).unwrap();
    };
    load(1);
    load(2);
    cache.remove(key(2));
}

proptest! {
    #[test]
    fn the_limits_hold_and_the_counts_agree(
        calls in prop::collection::vec((0u32..30, 0usize..60, 0u8..20), 0..300),
        bytes_max in 0usize..200,
        entries_max in 0usize..12,
    ) {
        let cache = cache(bytes_max, entries_max);
        let mut asked = 0;
        for (generation, weight, action) in calls {
            match action {
                0 => cache.remove(key(generation)),
                1 => cache.remove_stream(1),
                _ => {
                    ask(&cache, generation, weight);
                    asked += 1;
                }
            }
            let stats = cache.stats();
            prop_assert!(stats.bytes <= bytes_max && stats.entries <= entries_max);
            prop_assert_eq!(stats.hits + stats.misses, asked);
            let held = (0..30).filter(|&generation| cache.get(key(generation)).is_some()).count();
            prop_assert_eq!(held, stats.entries);
            asked += held as u64;
        }
    }
}
