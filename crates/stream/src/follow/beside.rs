//! The thread that wakes the tasks of a log that is opened for reading. All followers of the log
//! share it. It is started by the first task that waits, and ends a second after the last one.
//!
//! It waits for the writer as a follower with a thread of its own does, and then wakes all tasks,
//! each of which looks at its stream.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use stratawal_sync::Mutex;

use super::signal::Signal;
use super::{LOOK_PAUSE, WAIT_MAX};
use crate::context::LogContext;
use crate::notify::NotifyReader;

/// The thread ends after so many waits, each of [`WAIT_MAX`] or less, without a task.
const IDLE_ROUNDS: u32 = 20;

/// The tasks of a log that is opened for reading.
#[derive(Debug, Default)]
pub(crate) struct ReaderTasks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<(Arc<Signal>, Option<u64>)>,
    has_thread: bool,
}

impl ReaderTasks {
    /// Has `signal` woken when the writer has changed a stream, and at the latest after
    /// [`WAIT_MAX`]. If the writer wakes no readers, the log's `poll_interval` applies instead.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn add(context: &Arc<LogContext>, signal: &Arc<Signal>, key: Option<u64>) -> io::Result<()> {
        let mut state = context.reader_tasks.0.lock();
        if !state.has_thread {
            let context = Arc::clone(context);
            thread::Builder::new().name("stratawal-follow".to_owned()).spawn(move || wake_tasks(&context))?;
            state.has_thread = true;
        }
        state.waiting.push((Arc::clone(signal), key));
        drop(state);
        Ok(())
    }

    pub(crate) fn remove(&self, signal: &Arc<Signal>, key: Option<u64>) {
        self.0.lock().waiting.retain(|(waiting, its)| !(Arc::ptr_eq(waiting, signal) && *its == key));
    }
}

/// Waits between two looks if the writer wakes no readers. Ends early, within [`WAIT_MAX`], if no
/// task waits or the log is closed.
fn pause(context: &LogContext) {
    let until = Instant::now() + context.poll_interval;
    loop {
        let is_closed = context.have_followers_ended();
        let left = until.saturating_duration_since(Instant::now());
        thread::sleep(left.min(if is_closed { LOOK_PAUSE } else { WAIT_MAX }));
        if is_closed || left <= WAIT_MAX || context.reader_tasks.0.lock().waiting.is_empty() {
            return;
        }
    }
}

fn wake_tasks(context: &LogContext) {
    let mut idle = 0;
    let wait = |reader: &NotifyReader| {
        let point = reader.wait_point(context.system());
        point.is_some_and(|point| reader.wait(point, WAIT_MAX))
    };
    loop {
        if !context.notified_by().is_some_and(wait) {
            pause(context);
        }
        let mut state = context.reader_tasks.0.lock();
        let waiting = std::mem::take(&mut state.waiting);
        idle = if waiting.is_empty() { idle + 1 } else { 0 };
        if idle > IDLE_ROUNDS {
            state.has_thread = false;
            return;
        }
        drop(state);
        for (signal, key) in waiting {
            signal.wake(key);
        }
    }
}
