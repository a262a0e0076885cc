//! The state that all handles of a stream share.

use std::sync::Arc;

use stratawal_sync::{Mutex, OnceLock, Published};

use crate::error::{Error, ErrorKind, Result};
use crate::notify::LastLook;
use crate::read::journal_entries::JournalEntries;
use crate::recovery::ReaderState;
use crate::removal::Removals;
use crate::report::OpenReport;
use crate::shared::Shared;
use crate::tickets::TicketQueue;
use crate::write::commit::Group;
use crate::write::writer::Writer;

/// The state that all handles of a stream share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Group<Writer>,
    pub(crate) report: Published<OpenReport>,
    /// Locked before the group, never after it. See [`removal`](crate::removal).
    pub(crate) removals: Mutex<Removals>,
    /// The state from which a stream opened for reading is refreshed. Taken under the group's lock.
    pub(crate) reader_state: Mutex<Option<Box<ReaderState>>>,
    /// The last look of a stream opened for reading. Taken under the group's lock.
    pub(crate) last_look: Mutex<Option<Box<LastLook>>>,
    /// The entries that a stream opened for reading shows from the commit journal.
    pub(crate) journal_entries: JournalEntries,
    /// Set by the first submit.
    pub(crate) tickets: OnceLock<Arc<TicketQueue>>,
}

impl Inner {
    /// See [`StreamLog::exists`](crate::StreamLog::exists).
    pub(crate) fn exists(&self) -> bool {
        self.shared.snapshot.load().exists() || self.shared.watermarks.accepted() > 0
    }

    /// Fails in a forked child, where the files and the lock belong to the parent and a mutex may
    /// stay locked forever. Call this before any of them is used.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        let shared = &self.shared;
        if shared.context.system().is_forked() { Err(Error::new(ErrorKind::Forked, &shared.location)) } else { Ok(()) }
    }
}
