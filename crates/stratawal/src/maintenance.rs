//! The thread that maintains the commit journal of a log.
//!
//! It prepares the journal's files, frees their space before appends need it, and makes entries
//! durable after [`Options::sync_interval`](crate::Options::sync_interval). It has a share of the
//! journal but none of the log, so a program that drops its last handle closes the log.
//!
//! Nothing depends on it: an append that finds no room frees some itself. So errors of this thread
//! are not kept. The call that needs what failed meets the error again and reports it.

use std::mem;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use stratawal_storage::Storage;
use stratawal_stream::LogJournal;
use stratawal_sync::atomic::{AtomicBool, Ordering};

use crate::error::{Result, io_error};

/// The name of the thread. Linux shows its first 15 bytes.
const NAME: &str = "stratawal-maintenance";

/// The maximum time between two rounds. A round that failed, for example because the disk is full,
/// is repeated after this time.
const ROUND: Duration = Duration::from_secs(1);

/// The running thread. Dropping this stops it.
pub(crate) struct Maintenance {
    stop: Arc<AtomicBool>,
    /// `None` once it is stopped.
    thread: Option<JoinHandle<()>>,
    /// Knows whether this process is a forked child.
    storage: Arc<dyn Storage>,
}

impl Maintenance {
    pub(crate) fn start(
        journal: &Arc<LogJournal>,
        storage: &Arc<dyn Storage>,
        sync_interval: Option<Duration>,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let run = {
            let journal = Arc::clone(journal);
            let stop = Arc::clone(&stop);
            move || maintain(&journal, &stop, sync_interval)
        };
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(run);
        let thread = thread.map_err(|e| io_error("cannot start the maintenance thread of the log", e))?;
        Ok(Self { stop, thread: Some(thread), storage: Arc::clone(storage) })
    }
}

impl Drop for Maintenance {
    /// Returns once the thread has ended.
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.storage.is_forked() {
            // The thread exists only in the parent.
            mem::forget(thread);
            return;
        }
        // Release; pairs with the Acquire in `maintain`.
        self.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        // A panic of the thread has no effect on the log: each append frees the room that it needs.
        let _ = thread.join();
    }
}

/// Runs until `stop` is set.
fn maintain(journal: &LogJournal, stop: &AtomicBool, sync_interval: Option<Duration>) {
    journal.wake_this_thread();
    let mut synced = Instant::now();
    // Acquire; pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        // An append that needs the file or the room tries this itself and reports the error.
        let _ = journal.maintain();
        let mut wait = ROUND;
        if let Some(interval) = sync_interval {
            if synced.elapsed() >= interval {
                // A stream or a journal that has failed reports it to its next append.
                let _ = journal.sync_streams();
                synced = Instant::now();
            }
            wait = wait.min(interval.saturating_sub(synced.elapsed()));
        }
        thread::park_timeout(wait);
    }
}
