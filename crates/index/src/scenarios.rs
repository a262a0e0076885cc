//! Histories of several concurrent threads, and the promises that must hold. The model checker runs
//! each scenario in every interleaving of its threads; otherwise real threads run it many times.
//!
//! Each scenario is one small history of at most three threads, and panics if a promise is broken.
//! `cargo xtask loom` runs the models. With `stratawal_faults` the scenarios must find the fail
//! points listed at the end.

use std::sync::Arc;

use stratawal_sync::Published;
use stratawal_sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use stratawal_sync::model::explore;
use stratawal_sync::thread::spawn;

use crate::{ActiveIndex, Cache, CacheKey, CacheLimits, IndexPoint};

pub(crate) const KEY: CacheKey = CacheKey { stream_id: 7, generation: 1 };

/// The point at `position` of every index here. None of its words is 0, the value of an unwritten
/// word.
pub(crate) fn point(position: u64) -> IndexPoint {
    IndexPoint { seq: 10 * position + 10, offset: 100 * position + 100, timestamp: position + 1 }
}

pub(crate) fn push(index: &ActiveIndex, position: u64) {
    let IndexPoint { seq, offset, timestamp } = point(position);
    assert!(index.push(seq, offset, timestamp).unwrap());
}

/// A reader that sees a flag set after a store sees the stored value, and what its writer did
/// before.
#[test]
fn a_flag_shows_the_value_published_before_it() {
    explore(|| {
        let published = Arc::new(Published::new(Arc::new(AtomicU64::new(1))));
        let flag = Arc::new(AtomicBool::new(false));
        let writer = spawn({
            let published = Arc::clone(&published);
            let flag = Arc::clone(&flag);
            move || {
                let second = Arc::new(AtomicU64::new(0));
                second.store(2, Ordering::Relaxed);
                published.store(Arc::new(second));
                flag.store(true, Ordering::Release);
            }
        });
        let is_set = flag.load(Ordering::Acquire);
        let value = published.load().load(Ordering::Relaxed);
        assert!(value == 2 || (value == 1 && !is_set), "saw {value}, flag {is_set}");
        writer.join().unwrap();
    });
}

/// While the writer fills chunk after chunk, a reader sees whole points, a prefix of them, and
/// never fewer than before.
#[test]
fn a_reader_sees_a_growing_prefix_of_whole_points() {
    explore(|| {
        const POINTS: u64 = 4;
        let index = Arc::new(ActiveIndex::new(0));
        let writer = spawn({
            let index = Arc::clone(&index);
            move || (0..POINTS).for_each(|position| push(&index, position))
        });
        let mut len_seen = 0;
        for _ in 0..2 {
            let newest = index.floor(u64::MAX).map_or(0, |span| {
                let position = (span.point.seq / 10).checked_sub(1).expect("a point without a seq");
                assert_eq!((span.point, span.next), (point(position), None), "a torn point");
                position as usize + 1
            });
            assert!(newest >= len_seen, "{newest} points after {len_seen}");
            let points = index.points_from(0);
            assert!(points.len() >= newest, "{} points after {newest}", points.len());
            assert!(points.iter().copied().eq((0..points.len() as u64).map(point)), "no prefix: {points:?}");
            len_seen = points.len();
        }
        writer.join().unwrap();
        assert_eq!(index.len() as u64, POINTS);
        assert_eq!(index.floor(25).map(|span| (span.point, span.next)), Some((point(1), Some(point(2)))));
    });
}

fn cache<T>() -> Arc<Cache<T>> {
    Arc::new(Cache::new(CacheLimits { bytes_max: 100, entries_max: 10 }))
}

/// Two callers ask for one key: one of them loads, and both get the value.
#[test]
fn one_key_is_loaded_once_at_a_time() {
    explore(|| {
        let cache = cache();
        let loading = Arc::new(AtomicUsize::new(0));
        let loads = Arc::new(AtomicUsize::new(0));
        let caller = {
            let cache = Arc::clone(&cache);
            let loads = Arc::clone(&loads);
            move || {
                let value = cache.get_or_load(KEY, || {
                    assert_eq!(loading.fetch_add(1, Ordering::SeqCst), 0, "two loads at the same time");
                    loads.fetch_add(1, Ordering::SeqCst);
                    loading.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, ()>((42, 1))
                });
                assert_eq!(value.as_deref(), Ok(&42));
            }
        };
        let other = spawn(caller.clone());
        caller();
        other.join().unwrap();
        assert_eq!(loads.load(Ordering::SeqCst), 1, "a value that was kept is loaded again");
    });
}

/// One caller's loader fails. The other caller, which may have waited for it, gets the value of its
/// own loader.
#[test]
fn a_failed_load_wakes_its_waiters() {
    explore(|| {
        let cache = cache();
        let other = spawn({
            let cache = Arc::clone(&cache);
            move || match cache.get_or_load(KEY, || Err("failed")) {
                Ok(value) => assert_eq!(*value, 42),
                Err(error) => assert_eq!(error, "failed"),
            }
        });
        let value = cache.get_or_load(KEY, || Ok::<_, ()>((42, 1)));
        assert_eq!(value.as_deref(), Ok(&42));
        other.join().unwrap();
        assert_eq!(cache.stats().entries, 1);
    });
}

/// A segment is removed while readers load its index. After the removal, the cache does not hold an
/// index loaded from the removed file.
#[test]
fn a_load_that_began_before_a_removal_is_not_kept() {
    explore(|| {
        let cache = cache();
        let file_is_there = Arc::new(AtomicBool::new(true));
        let loading = Arc::new(AtomicUsize::new(0));
        let reader = {
            let cache = Arc::clone(&cache);
            let file_is_there = Arc::clone(&file_is_there);
            move || {
                let loaded = cache.get_or_load(KEY, || {
                    assert_eq!(loading.fetch_add(1, Ordering::SeqCst), 0, "two loads at the same time");
                    let is_there = file_is_there.load(Ordering::SeqCst);
                    loading.fetch_sub(1, Ordering::SeqCst);
                    if is_there { Ok((42, 1)) } else { Err(()) }
                });
                assert!(loaded.is_err() || loaded.as_deref() == Ok(&42));
            }
        };
        let readers = [spawn(reader.clone()), spawn(reader)];
        file_is_there.store(false, Ordering::SeqCst);
        cache.remove(KEY);
        assert_eq!(cache.get(KEY), None, "there right after the removal");
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(cache.get(KEY), None, "put in after the removal");
        assert_eq!(cache.stats().bytes, 0);
    });
}

/// A segment is removed while one reader loads its index and another thread clears the cache. After
/// the removal, the index is not in the cache.
#[test]
fn a_clear_does_not_keep_a_removed_index() {
    explore(|| {
        let cache = cache();
        let file_is_there = Arc::new(AtomicBool::new(true));
        let reader = spawn({
            let cache = Arc::clone(&cache);
            let file_is_there = Arc::clone(&file_is_there);
            move || {
                let load = || if file_is_there.load(Ordering::SeqCst) { Ok((42, 1)) } else { Err(()) };
                let loaded = cache.get_or_load(KEY, load);
                assert!(loaded.is_err() || loaded.as_deref() == Ok(&42));
            }
        });
        let clearing = spawn({
            let cache = Arc::clone(&cache);
            move || cache.clear()
        });
        file_is_there.store(false, Ordering::SeqCst);
        cache.remove(KEY);
        assert_eq!(cache.get(KEY), None, "there right after the removal");
        reader.join().unwrap();
        clearing.join().unwrap();
        assert_eq!(cache.get(KEY), None, "put in after the removal");
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    });
}

#[cfg(all(stratawal_loom, stratawal_faults))]
mod fail_points_are_found {
    stratawal_sync::found_by_scenarios! {
        length_before_point: LengthBeforePoint by a_reader_sees_a_growing_prefix_of_whole_points;
        length_relaxed: LengthRelaxed by a_reader_sees_a_growing_prefix_of_whole_points;
        entry_after_removal: EntryAfterRemoval by a_load_that_began_before_a_removal_is_not_kept;
        entry_after_removal_during_a_clear: EntryAfterRemoval by a_clear_does_not_keep_a_removed_index;
        load_not_exclusive: LoadNotExclusive by one_key_is_loaded_once_at_a_time;
        waiter_not_woken: WaiterNotWoken by a_failed_load_wakes_its_waiters;
    }
}
