//! Group commit for the journal: one thread syncs for all that are waiting.
//!
//! The leader reads the end of the log, syncs every file that holds records below it, and publishes
//! exactly the end that it read *before* the syncs. So every published byte had been written before
//! the syncs began.

use std::sync::Arc;

use stratawal_sync::atomic::Ordering;
use stratawal_sync::{Condvar, Mutex, fail_point, model};

use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journal, Position};
use crate::lsn::Lsn;

/// Whether a thread leads, and the condition on which the others wait.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    /// Whether a thread is syncing or prevents others from syncing.
    led: Mutex<bool>,
    ended: Condvar,
}

impl GroupCommit {
    pub(crate) fn new() -> Self {
        Self { led: Mutex::new(false), ended: Condvar::new() }
    }
}

/// The lead. Dropping it gives it back, even while the thread unwinds.
pub(crate) struct CommitLead<'a>(&'a GroupCommit);

impl Drop for CommitLead<'_> {
    fn drop(&mut self) {
        if model::is_over() {
            return;
        }
        *self.0.led.lock() = false;
        self.0.ended.notify_all();
    }
}

/// Fails the journal if the leader unwinds: which records are durable is then unknown.
struct Unwinding<'a> {
    journal: &'a Journal,
    armed: bool,
}

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if self.armed && !model::is_over() {
            let source = std::io::Error::other("the thread that synced the journal panicked");
            let error = Error::new(ErrorKind::Io { operation: "sync", source: Arc::new(source) });
            self.journal.log.lock().fail(&error);
        }
    }
}

impl Journal {
    /// Returns once the record at `position`, and everything before it, is on stable storage. Calls
    /// from many threads share a sync.
    ///
    /// # Errors
    /// I/O: the journal has failed. Which records are durable is unknown, and no later call reports
    /// one of them as durable. [`ErrorKind::Failed`] after an earlier failure;
    /// [`ErrorKind::Restarted`].
    pub fn sync_to(&self, position: Position) -> Result<()> {
        self.check_process()?;
        loop {
            // The watermark is loaded first: a watermark of a later epoch makes that epoch visible.
            let is_durable = self.durable() >= position.end;
            if self.epoch.load(Ordering::Acquire) != position.epoch {
                return Err(Error::new(ErrorKind::Restarted));
            }
            if is_durable {
                return Ok(());
            }
            let end = self.end();
            if position.end > end {
                return Err(Error::new(ErrorKind::BeyondEnd { lsn: position.end, end }));
            }
            let mut led = self.commit.led.lock();
            if *led {
                drop(self.commit.ended.wait(led));
                // The loop sees the watermark or the failure that the leader left.
                continue;
            }
            *led = true;
            drop(led);
            let lead = CommitLead(&self.commit);
            if self.durable() < position.end {
                self.commit_once()?;
            }
            drop(lead);
        }
    }

    /// Returns once every record put before the call is on stable storage.
    ///
    /// # Errors
    /// Same as for [`sync_to`](Self::sync_to).
    pub fn sync(&self) -> Result<()> {
        self.check_process()?;
        let position = {
            let log = self.log.lock();
            Position { lsn: log.end, end: log.end, epoch: self.epoch.load(Ordering::Relaxed) }
        };
        self.sync_to(position)
    }

    /// Takes the lead, so that no other thread syncs until the lead is dropped.
    pub(crate) fn take_lead(&self) -> CommitLead<'_> {
        let mut led = self.commit.led.lock();
        while *led {
            led = self.commit.ended.wait(led);
        }
        *led = true;
        CommitLead(&self.commit)
    }

    /// Syncs everything that was put before this began. Only the leader calls it.
    fn commit_once(&self) -> Result<()> {
        let (end, files) = {
            let log = self.log.lock();
            log.check_failure()?;
            (log.end, log.files_from(self.durable()))
        };
        let mut unwinding = Unwinding { journal: self, armed: true };
        let synced =
            files.iter().try_for_each(
                |(file, from, to)| {
                    if fail_point!(AcknowledgedBeforeSync) { Ok(()) } else { file.sync(*from, *to) }
                },
            );
        unwinding.armed = false;
        let mut log = self.log.lock();
        if let Err(error) = synced {
            log.fail(&error);
            return Err(error);
        }
        let end = if fail_point!(EndReadAfterSync) { log.end } else { end };
        self.advance_durable(end);
        // The records are durable whether or not the MARK is written, but a failed write fails the
        // journal.
        if let Err(error) = log.mark(end) {
            log.fail(&error);
        }
        Ok(())
    }

    pub(crate) fn advance_durable(&self, end: Lsn) {
        // Release; pairs with the Acquire in `durable`.
        self.durable.store(end.0, Ordering::Release);
    }
}
