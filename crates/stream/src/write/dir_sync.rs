//! Shared syncs of the directory that holds the streams. Many streams created at the same time need
//! only a few syncs, rather than one each.
//!
//! Invariant: a call succeeds only with a sync that began after the call did. A sync that is
//! already running may have begun before the caller changed the directory, so the caller cannot
//! rely on its success. But its error counts: the system reports a failed write once, and perhaps
//! not to the next sync.

use std::io;
use std::path::Path;
use std::sync::Arc;

use stratawal_storage::{DirToSync, Storage};
use stratawal_sync::{Condvar, Mutex, fail_point};

/// The syncs of one directory.
#[derive(Debug)]
pub(crate) struct DirSyncs {
    state: Mutex<State>,
    ended: Condvar,
    /// The directory, kept open after its first use, because the process may have no descriptor
    /// left when the directory has to be synced.
    dir: Mutex<Option<Arc<DirToSync>>>,
}

#[derive(Debug)]
struct State {
    /// The running sync.
    running: Option<Arc<Round>>,
    /// The sync that begins next. New calls wait for it.
    next: Arc<Round>,
}

/// One sync, and its outcome once it has ended.
#[derive(Debug)]
struct Round(Mutex<Option<Result<(), Failure>>>);

/// An operating-system error in a copyable form.
#[derive(Clone, Debug)]
struct Failure {
    kind: io::ErrorKind,
    code: Option<i32>,
    text: String,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        Self { kind: error.kind(), code: error.raw_os_error(), text: error.to_string() }
    }

    fn into_error(self) -> io::Error {
        self.code.map_or_else(|| io::Error::new(self.kind, self.text), io::Error::from_raw_os_error)
    }
}

impl Round {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(None)))
    }

    fn outcome(&self) -> Option<io::Result<()>> {
        self.0.lock().clone().map(|outcome| outcome.map_err(Failure::into_error))
    }
}

impl DirSyncs {
    pub(crate) fn new() -> Self {
        let state = State { running: None, next: Round::new() };
        Self { state: Mutex::new(state), ended: Condvar::new(), dir: Mutex::new(None) }
    }

    /// Opens `dir`, so that a later [`sync`](Self::sync) cannot run out of descriptors. Call this
    /// before a change that cannot be undone.
    ///
    /// # Errors
    /// Any operating-system error.
    pub(crate) fn ready(&self, storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<Arc<DirToSync>> {
        let mut known = self.dir.lock();
        if let Some(open) = &*known {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(DirToSync::new(storage, dir)?);
        *known = Some(Arc::clone(&open));
        Ok(open)
    }

    /// Makes all earlier changes to the names in `dir` durable. All calls are for the same
    /// directory.
    ///
    /// # Errors
    /// The error of the sync that this call waited for, or of one that was running when the call
    /// began. It is then not known which changes are durable.
    pub(crate) fn sync(&self, storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<()> {
        let dir = self.ready(storage, dir)?;
        self.shared(|| dir.sync())
    }

    /// Returns the outcome of a `sync` that begins after this call does, run by this thread or
    /// another one.
    pub(crate) fn shared(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        let running = state.running.as_ref().filter(|_| fail_point!(DirSyncJoined));
        let round = Arc::clone(running.unwrap_or(&state.next));
        loop {
            if let Some(outcome) = round.outcome() {
                return outcome;
            }
            if state.running.is_none() {
                break;
            }
            state = self.ended.wait(state);
        }
        // The round has no outcome, so no thread has begun it, and it is still the next.
        state.running = Some(std::mem::replace(&mut state.next, Round::new()));
        drop(state);
        let mut ending = Ending { syncs: self, round, outcome: Err(Failure::of(&unwound())) };
        let outcome = sync();
        ending.outcome = outcome.as_ref().map(|&()| ()).map_err(Failure::of);
        outcome
    }
}

fn unwound() -> io::Error {
    io::Error::other("the thread that synced the directory panicked")
}

/// Ends a round even if the sync unwinds, so that no thread waits forever.
struct Ending<'a> {
    syncs: &'a DirSyncs,
    round: Arc<Round>,
    outcome: Result<(), Failure>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if stratawal_sync::model::is_over() {
            return;
        }
        let mut state = self.syncs.state.lock();
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        if outcome.is_err() {
            let waiting = std::mem::replace(&mut state.next, Round::new());
            *waiting.0.lock() = Some(outcome.clone());
        }
        *self.round.0.lock() = Some(outcome);
        state.running = None;
        drop(state);
        self.syncs.ended.notify_all();
    }
}
