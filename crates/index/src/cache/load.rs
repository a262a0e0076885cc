//! A running load, and the threads that are waiting for it.

use std::sync::Arc;

use stratawal_sync::{Condvar, Mutex, fail_point};

/// A running load. Every thread that misses the same key waits here.
pub(super) struct Load<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
}

enum State<T> {
    Running,
    Loaded(Arc<T>),
    Failed,
}

impl<T> Load<T> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::Running), ended: Condvar::new() }
    }

    /// Waits for the end of the load, and returns its value unless the load failed.
    pub(super) fn wait(&self) -> Option<Arc<T>> {
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::Running => state = self.ended.wait(state),
                State::Loaded(value) => return Some(Arc::clone(value)),
                State::Failed => return None,
            }
        }
    }

    /// Ends the load, with a value unless it failed.
    pub(super) fn end(&self, outcome: Option<Arc<T>>) {
        *self.state.lock() = outcome.map_or(State::Failed, State::Loaded);
        if !fail_point!(WaiterNotWoken) {
            self.ended.notify_all();
        }
    }
}
