//! Work on many streams, in batches that a few threads share.
//!
//! A disk syncs many files much faster at the same time than one after the other: in a measurement
//! 1,600 a second one by one, and 65,000 in batches.

use std::thread;

use stratawal_sync::atomic::{AtomicUsize, Ordering};

/// The items of one batch. More would gain nothing.
pub(crate) const BATCH_LEN_MAX: usize = 32;

/// The threads that share the batches, the caller included.
pub(crate) const THREADS_MAX: usize = 4;

/// One thread is used for this many items, because fewer are not worth a thread. So the caller
/// handles up to 15 items itself, in order, and a simulation can replay them.
const ITEMS_PER_THREAD: usize = 8;

/// Calls `run` for the items, in batches of at most `len`, in this thread and in up to three
/// others, which end before this returns. A panic of `run` continues here.
///
/// # Errors
/// The error of the first batch that fails, in the order of the items. The others still run.
pub(crate) fn in_batches<T: Sync, E: Send>(
    items: &[T],
    len: usize,
    run: impl Fn(&[T]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let threads = (items.len() / ITEMS_PER_THREAD).min(THREADS_MAX);
    let len = len.clamp(1, BATCH_LEN_MAX).min(items.len().div_ceil(threads.max(1)).max(1));
    let next = AtomicUsize::new(0);
    let some = || {
        let mut first = None;
        loop {
            // Relaxed: the number alone is shared.
            let from = next.fetch_add(len, Ordering::Relaxed);
            let Some(batch) = items.get(from..items.len().min(from + len)).filter(|batch| !batch.is_empty()) else {
                return first;
            };
            if let (Err(error), None) = (run(batch), &first) {
                first = Some((from, error));
            }
        }
    };
    let first = thread::scope(|scope| {
        // Fewer threads do the same work, so it does not matter if the system grants none.
        let others: Vec<_> = (1..threads)
            .map_while(|_| thread::Builder::new().name("stratawal-settle".to_owned()).spawn_scoped(scope, some).ok())
            .collect();
        let mine = some();
        let theirs = others.into_iter().filter_map(|thread| {
            // A panic of `run` continues here, as if this thread had called it.
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        theirs.chain(mine).min_by_key(|(from, _)| *from)
    });
    first.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn each_item_is_in_one_batch() {
        for count in [0, 1, 15, 16, 31, 32, 33, 200, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let seen = Mutex::new(Vec::new());
            let run = |batch: &[usize]| {
                assert!((1..=7).contains(&batch.len()));
                seen.lock().unwrap().extend_from_slice(batch);
                Ok::<_, ()>(())
            };
            in_batches(&items, 7, run).unwrap();
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable();
            assert_eq!(seen, items);
        }
    }

    #[test]
    fn few_items_stay_in_the_callers_thread() {
        let caller = thread::current().id();
        let run = |batch: &[u8]| {
            assert_eq!((thread::current().id(), batch.len()), (caller, 15));
            Ok::<_, ()>(())
        };
        in_batches(&[0; 15], 32, run).unwrap();
    }

    #[test]
    fn the_first_error_is_returned_and_all_run() {
        let items: Vec<usize> = (0..500).collect();
        let done = Mutex::new(0);
        let run = |batch: &[usize]| {
            *done.lock().unwrap() += batch.len();
            if batch[0] >= 64 { Err(batch[0]) } else { Ok(()) }
        };
        assert_eq!(in_batches(&items, 32, run), Err(64));
        assert_eq!(*done.lock().unwrap(), 500);
    }
}
