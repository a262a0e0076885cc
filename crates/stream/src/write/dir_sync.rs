//! Syncs of the directory that holds the streams, shared by all who wait for one: many streams that
//! are created at once wait for a few syncs of it, and not each for one of its own.
//!
//! Invariant: whoever asks is answered by a sync that began after it asked, or by the error of that
//! very sync. One that is running already may have begun before what the asker did to the directory,
//! and answers nobody who comes later. But should it fail, it fails for them, too: the system tells
//! of a failed write once, and perhaps not the sync that comes after.

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
    /// The directory itself, from the first use on: a process may have no descriptor left when it is
    /// to be synced.
    dir: Mutex<Option<Arc<DirToSync>>>,
}

#[derive(Debug)]
struct State {
    /// The one that is running.
    running: Option<Arc<Round>>,
    /// The one that begins when nobody runs; whoever asks now waits for it.
    next: Arc<Round>,
}

/// One sync: what came of it, once it has ended. An error as its kind, its number in the system,
/// and its text.
#[derive(Debug)]
struct Round(Mutex<Option<Result<(), Failure>>>);

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

    /// Sees to it that syncing `dir` needs nothing that may be lacking by then: before what cannot
    /// be undone.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn ready(&self, storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<Arc<DirToSync>> {
        let mut known = self.dir.lock();
        if let Some(open) = &*known {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(DirToSync::new(storage, dir)?);
        *known = Some(Arc::clone(&open));
        Ok(open)
    }

    /// Makes durable what has happened to the names in `dir` up to now. All calls are for the same
    /// directory.
    ///
    /// # Errors
    /// That of the sync that this call waited for, or of one that ran when it was asked; then it is
    /// not known what is durable.
    pub(crate) fn sync(&self, storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<()> {
        let dir = self.ready(storage, dir)?;
        self.shared(|| dir.sync())
    }

    /// What `sync`, done by this thread or another, answers when it begins after this call does.
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
        // Nobody has begun it, or it had an outcome; so it is still the next.
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

/// Ends a round, also where it unwinds: nobody waits for ever.
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
