//! One call for many streams. A disk syncs many files faster concurrently than one by one.

use std::thread;

use stratawal_stream::{Error, StreamLog};
use stratawal_sync::MutexGuard;
use stratawal_sync::atomic::{AtomicUsize, Ordering};

/// The maximum number of threads that wait for the disk at the same time. More would gain nothing.
const THREADS_MAX: usize = 64;

/// One thread is started for this many streams, because fewer are not worth a thread. So the caller
/// handles up to seven streams itself, in order, and a simulation can replay them.
const ITEMS_PER_THREAD: usize = 4;

/// Calls `act` for every stream. If it fails for some, returns the error of the first one in stream
/// order.
///
/// The streams for which `act` may wait for the disk (`waits`) are shared among this thread and as
/// many others as the system grants. The others are started only if `helpers` is held. One call
/// holds it at a time; all other calls work in their own thread.
pub(crate) fn for_each_stream(
    streams: &[StreamLog],
    helpers: Option<MutexGuard<'_, ()>>,
    waits: fn(&StreamLog) -> bool,
    act: fn(&StreamLog) -> Result<(), Error>,
) -> Result<(), Error> {
    let threads_max = if helpers.is_some() { THREADS_MAX } else { 1 };
    let (waiting, quick): (Vec<_>, Vec<_>) = streams.iter().enumerate().partition(|(_, stream)| waits(stream));
    let act_on = |&(i, stream): &(usize, &StreamLog)| act(stream).map_err(|error| (i, error));
    let of_quick: Vec<_> = quick.iter().filter_map(|stream| act_on(stream).err()).collect();
    let first = first_error(&waiting, threads_max, act_on).map(|(_, error)| error);
    first.into_iter().chain(of_quick).min_by_key(|(i, _)| *i).map_or(Ok(()), |(_, error)| Err(error))
}

/// Calls `act` for every item, each of which may wait for the disk, in this thread and in as many
/// others as the system grants. If it fails for some, returns the error of the first one.
pub(crate) fn for_each<T: Sync>(items: &[T], act: impl Fn(&T) -> Result<(), Error> + Sync) -> Result<(), Error> {
    first_error(items, THREADS_MAX, act).map_or(Ok(()), |(_, error)| Err(error))
}

/// Calls `act` for every item, in at most `threads_max` threads. Returns the error of the first
/// item that fails, with its index.
fn first_error<T: Sync, E: Send>(
    items: &[T],
    threads_max: usize,
    act: impl Fn(&T) -> Result<(), E> + Sync,
) -> Option<(usize, E)> {
    let threads = (items.len() / ITEMS_PER_THREAD).min(threads_max);
    let next = AtomicUsize::new(0);
    let some = || {
        let mut first = None;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return first };
            if let (Err(error), None) = (act(item), &first) {
                first = Some((i, error));
            }
        }
    };
    thread::scope(|scope| {
        let others = (1..threads)
            .map_while(|_| thread::Builder::new().name("stratawal".to_owned()).spawn_scoped(scope, some).ok())
            .collect::<Vec<_>>();
        let mine = some();
        let theirs = others.into_iter().filter_map(|thread| {
            // A panic of `act` continues here, as if this thread had called it.
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        theirs.chain(mine).min_by_key(|(i, _)| *i)
    })
}
