//! A group of followers that one thread or one task waits for.

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::beside::ReaderTasks;
use super::signal::Signal;
use super::{Follow, FollowStopper};
use crate::context::LogContext;
use crate::log::{StreamLog, StreamMoment};
use crate::options::Visibility;

/// A group of followers that one thread or one task waits for.
///
/// Each [`Follow`] of a group has a key. Call its [`next_or_register`](Follow::next_or_register)
/// until there is no event; from then on its key is among those that
/// [`take_ready`](Self::take_ready) returns once there may be one.
#[derive(Clone, Debug)]
pub struct FollowGroup {
    signal: Arc<Signal>,
}

impl Default for FollowGroup {
    fn default() -> Self {
        Self { signal: Arc::new(Signal::new()) }
    }
}

impl FollowGroup {
    /// Follows a stream as [`StreamLog::follow`] does, as a member of this group.
    #[must_use]
    pub fn follow(&self, log: &StreamLog, from: u64, visibility: Visibility, key: u64) -> Follow {
        let epoch = log.inner.shared.watermarks.stable_epoch();
        Follow::new(&log.inner, epoch, from, visibility, Arc::clone(&self.signal), Some(key))
    }

    /// Like [`follow`](Self::follow), for a position that was valid at an earlier `moment` of the
    /// same opening of the stream. If entries below it were dropped from the end since then, this
    /// returns [`Cut`](super::FollowEvent::Cut), also if the stream has as many entries again.
    #[must_use]
    pub fn follow_since(
        &self,
        log: &StreamLog,
        moment: &StreamMoment,
        from: u64,
        visibility: Visibility,
        key: u64,
    ) -> Follow {
        Follow::new(&log.inner, moment.epoch, from, visibility, Arc::clone(&self.signal), Some(key))
    }

    /// Has [`take_ready`](Self::take_ready) return `key`, and wakes the thread or the task.
    pub fn wake(&self, key: u64) {
        self.signal.wake(Some(key));
    }

    /// Returns the keys of the followers that may have an event, in the order in which they were
    /// woken.
    #[must_use]
    pub fn take_ready(&self) -> Vec<u64> {
        self.signal.take_ready()
    }

    /// Sleeps until a follower is woken or the group is stopped, at the latest until `deadline`.
    /// Returns at once if a follower was woken since the last [`take_ready`](Self::take_ready).
    pub fn sleep(&self, deadline: Option<Instant>) {
        self.signal.sleep(deadline);
    }

    /// Sleeps until `deadline`, or until the group is stopped. A wake-up at that time costs the
    /// other thread no call of the system.
    pub fn pause(&self, deadline: Instant) {
        self.signal.pause(deadline);
    }

    /// Has [`take_ready`](Self::take_ready) return `key` once the writer of a log that is opened
    /// for reading has changed something, within about 50 ms. If the writer wakes no reader, the
    /// log's `poll_interval` applies instead.
    ///
    /// # Errors
    /// If the thread that wakes followers cannot be started.
    pub fn wake_with_reader(&self, context: &Arc<LogContext>, key: u64) -> io::Result<()> {
        ReaderTasks::add(context, &self.signal, Some(key))
    }

    /// Sets the task that the next wake-up wakes.
    pub fn set_waker(&self, waker: &Waker) {
        self.signal.set_waker(waker);
    }

    /// Returns a handle that stops every follower of the group.
    #[must_use]
    pub fn stopper(&self) -> FollowStopper {
        FollowStopper { signal: Arc::clone(&self.signal) }
    }

    /// Whether the group was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.signal.is_stopped()
    }
}
