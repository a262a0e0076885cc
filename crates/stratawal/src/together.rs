//! The same for many streams at once: a disk that syncs many files together is not asked for them
//! one by one.

use std::thread;

use stratawal_stream::{Result, StreamLog};
use stratawal_sync::MutexGuard;
use stratawal_sync::atomic::{AtomicUsize, Ordering};

/// As many wait for the disk at the same time; more bring nothing.
const THREADS_MAX: usize = 64;

/// A thread for every so many streams: fewer are not worth one. So with seven streams and less
/// everything is done in order, which a simulation that replays counts on.
const STREAMS_MIN: usize = 4;

/// Does `act` for every stream, and answers the error of the first in their order for which it
/// fails.
///
/// Those for which it may wait for the disk (`waits`) are taken by several threads, as far as the
/// system lets this one have any; it takes part itself. Only with `helpers`, which one call has at
/// a time: of many, each is a thread by itself.
pub(crate) fn together(
    streams: &[StreamLog],
    helpers: Option<MutexGuard<'_, ()>>,
    waits: fn(&StreamLog) -> bool,
    act: fn(&StreamLog) -> Result<()>,
) -> Result<()> {
    let (waiting, quick): (Vec<_>, Vec<_>) = streams.iter().enumerate().partition(|(_, stream)| waits(stream));
    let threads = if helpers.is_some() { (waiting.len() / STREAMS_MIN).min(THREADS_MAX) } else { 1 };
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
            // What `act` panics with goes on here, as if this thread had called it.
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        theirs.chain(mine).chain(of_quick).min_by_key(|(i, _)| *i)
    });
    first.map_or(Ok(()), |(_, error)| Err(error))
}
