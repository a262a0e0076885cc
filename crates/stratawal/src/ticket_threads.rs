//! The two threads of a log that complete tickets: one makes entries durable, the other one calls
//! callbacks. The first submit starts them.
//!
//! They have a share of the tickets but none of the log, so a program that drops its last handle
//! closes the log. Wakers and callbacks are code of the program, which may close the log or drop
//! its last handle. So either thread may be the one that stops them.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use stratawal_storage::Storage;
use stratawal_stream::LogTickets;
use stratawal_sync::atomic::{AtomicBool, Ordering};

use crate::error::{Result, io_error};

/// The names of the threads. Linux shows the first 15 bytes.
const DRIVER: &str = "stratawal-tickets";
const CALLER: &str = "stratawal-callbacks";

/// The running threads. Dropping this completes every ticket and stops them.
pub(crate) struct TicketThreads {
    tickets: Arc<LogTickets>,
    driver: Option<Running>,
    caller: Option<Running>,
    /// Knows whether this process is a forked child.
    storage: Arc<dyn Storage>,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl TicketThreads {
    pub(crate) fn start(tickets: &Arc<LogTickets>, storage: &Arc<dyn Storage>) -> Result<Self> {
        let mut threads =
            Self { tickets: Arc::clone(tickets), driver: None, caller: None, storage: Arc::clone(storage) };
        // If the second one cannot be started, dropping this stops the first.
        threads.driver = Some(Running::start(DRIVER, tickets, LogTickets::drive_in_this_thread, |tickets, _| {
            // A leader that panics fails its stream, whose tickets then complete with the error.
            catch_unwind(AssertUnwindSafe(|| tickets.drive())).unwrap_or(true)
        })?);
        threads.caller =
            Some(Running::start(CALLER, tickets, LogTickets::call_in_this_thread, LogTickets::run_callbacks)?);
        Ok(threads)
    }
}

impl Running {
    /// Starts a thread that calls `begin`, and then `work` until it is stopped and `work` has
    /// nothing to do.
    fn start(
        name: &str,
        tickets: &Arc<LogTickets>,
        begin: fn(&LogTickets),
        work: fn(&LogTickets, stopping: bool) -> bool,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let run = {
            let (tickets, stop) = (Arc::clone(tickets), Arc::clone(&stop));
            move || {
                begin(&tickets);
                loop {
                    // Loaded first: work that was added before the stop is done. Acquire; pairs
                    // with the Release in `stop`.
                    let stopping = stop.load(Ordering::Acquire);
                    if work(&tickets, stopping) {
                        continue;
                    }
                    if stopping {
                        return;
                    }
                    thread::park();
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|e| io_error("cannot start a thread for the tickets of the log", e))?;
        Ok(Self { stop, thread })
    }

    /// Returns once the thread has ended, or, in that thread itself, at once: it ends later.
    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if thread::current().id() != self.thread.thread().id() {
            // Neither thread panics: code of the program runs within `catch_unwind`.
            let _ = self.thread.join();
        }
    }
}

impl Drop for TicketThreads {
    /// Every stream is closed, so each ticket completes without a sync: its entries are durable, or
    /// its stream has failed.
    fn drop(&mut self) {
        if self.storage.is_forked() {
            // The threads exist only in the parent.
            mem::forget((self.driver.take(), self.caller.take()));
            return;
        }
        if let Some(driver) = self.driver.take() {
            driver.stop();
        }
        // In the driver's own thread, nothing else completes them.
        while self.tickets.drive() {}
        if let Some(caller) = self.caller.take() {
            caller.stop();
        }
    }
}
