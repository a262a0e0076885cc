//! One call for many streams. A disk syncs many files faster concurrently than one by one.

use std::thread;

use stratawal_stream::{Result, StreamLog};
use stratawal_sync::MutexGuard;
use stratawal_sync::atomic::{AtomicUsize, Ordering};

/// The maximum number of threads that wait for the disk at the same time. More would gain nothing.
const THREADS_MAX: usize = 64;

/// One thread is started for this many streams, because fewer are not worth a thread. So the caller
/// handles up to seven streams itself, in order, and a simulation can replay them.
const STREAMS_PER_THREAD: usize = 4;

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
    act: fn(&StreamLog) -> Result<()>,
) -> Result<()> {
    let (waiting, quick): (Vec<_>, Vec<_>) = streams.iter().enumerate().partition(|(_, stream)| waits(stream));
    let threads = if helpers.is_some() { (waiting.len() / STREAMS_PER_THREAD).min(THREADS_MAX) } else { 1 };
    let next = AtomicUsize::new(0);
    let some = || {
        let mut first = None;
        loop {
            let Some(&(i, stream)) = waiting.get(next.fetch_add(1, Ordering::Relaxed)) else { return first };
            if let (Err(error), None) = (act(stream), &first) {
                first = Some((i, error));
            }
        }
    };
    let of_quick: Vec<_> = quick.into_iter().filter_map(|(i, stream)| Some((i, act(stream).err()?))).collect();
    let first = thread::scope(|scope| {
        let others = (1..threads)
            .map_while(|_| thread::Builder::new().name("stratawal".to_owned()).spawn_scoped(scope, some).ok())
            .collect::<Vec<_>>();
        let mine = some();
        let theirs = others.into_iter().filter_map(|thread| {
            // A panic of `act` continues here, as if this thread had called it.
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        theirs.chain(mine).chain(of_quick).min_by_key(|(i, _)| *i)
    });
    first.map_or(Ok(()), |(_, error)| Err(error))
}
