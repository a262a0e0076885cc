//! What all handles of a stream share.

use std::sync::Arc;

use stratawal_sync::{Mutex, Published};

use crate::error::{Error, ErrorKind, Result};
use crate::recovery::ReaderState;
use crate::removal::Removals;
use crate::report::OpenReport;
use crate::shared::Shared;
use crate::write::commit::Group;
use crate::write::writer::Writer;

/// What all handles of a stream share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Group<Writer>,
    pub(crate) report: Published<OpenReport>,
    /// Locked before the group, never after; see [`removal`](crate::removal).
    pub(crate) removals: Mutex<Removals>,
    /// Of a stream opened for reading: the next look continues from this. Under the group's lock.
    pub(crate) reader_state: Mutex<Option<Box<ReaderState>>>,
}

impl Inner {
    /// That this process has the stream open itself. In a forked child its files and its lock are
    /// the parent's, and its mutexes may be locked for ever, so this comes before any of them is
    /// touched.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        let shared = &self.shared;
        if shared.context.system().is_forked() { Err(Error::new(ErrorKind::Forked, &shared.location)) } else { Ok(()) }
    }
}
