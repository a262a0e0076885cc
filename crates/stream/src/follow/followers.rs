//! The followers of a stream that wait for a change.
//!
//! Invariant, so that no follower sleeps through the last entry: a follower looks at the stream and
//! registers under the stream's lock. A thread that changes a watermark takes the lock afterwards,
//! if it does not hold it, and looks for followers that the change concerns. If the follower had
//! the lock first, that thread finds it. Otherwise the follower sees the change.
//!
//! Followers are woken after the lock is released, so that they can take it.

use std::sync::Arc;

use super::signal::Signal;
use crate::options::Durability;
use crate::watermarks::Watermarks;

/// The followers of a stream that wait. Used under the stream's lock.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    waiting: Vec<Waiting>,
    /// The stream was closed, so no watermark changes any more.
    pub(crate) is_closed: bool,
}

/// A follower that waits.
#[derive(Debug)]
struct Waiting {
    goal: Goal,
    signal: Arc<Signal>,
    /// The key of the follower in its group.
    key: Option<u64>,
}

/// What a follower has seen, and so what it need not be woken for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// The durability of the entries that it shows.
    pub(crate) shown: Durability,
    /// The next entry.
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
}

impl Goal {
    /// Whether the stream has changed for the follower: it has the next entry, has dropped entries,
    /// or has begun a new epoch.
    pub(crate) fn is_reached(&self, watermarks: &Watermarks) -> bool {
        watermarks.reached(self.shown) > self.seq || watermarks.start() > self.seq || watermarks.epoch() != self.epoch
    }
}

impl Followers {
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn add(&mut self, goal: Goal, signal: &Arc<Signal>, key: Option<u64>) {
        self.waiting.push(Waiting { goal, signal: Arc::clone(signal), key });
    }

    /// Removes a follower that no longer waits.
    pub(crate) fn remove(&mut self, signal: &Arc<Signal>, key: Option<u64>) {
        self.waiting.retain(|waiting| !(Arc::ptr_eq(&waiting.signal, signal) && waiting.key == key));
    }

    /// Takes the followers that a change concerns.
    pub(crate) fn take_due(&mut self, watermarks: &Watermarks) -> DueFollowers {
        let mut due = Vec::new();
        self.waiting.retain(|waiting| {
            let is_due = waiting.goal.is_reached(watermarks);
            if is_due {
                due.push((Arc::clone(&waiting.signal), waiting.key));
            }
            !is_due
        });
        DueFollowers::of(due)
    }

    pub(crate) fn take_all(&mut self) -> DueFollowers {
        DueFollowers::of(self.waiting.drain(..).map(|waiting| (waiting.signal, waiting.key)).collect())
    }
}

/// Followers to be woken, which happens when this is dropped. That is after the stream's lock is
/// released. An append has one, and most streams have no followers, so it costs nothing then.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct DueFollowers(Option<Box<Due>>);

#[derive(Debug)]
struct Due(Vec<(Arc<Signal>, Option<u64>)>);

impl DueFollowers {
    fn of(due: Vec<(Arc<Signal>, Option<u64>)>) -> Self {
        Self((!due.is_empty()).then(|| Box::new(Due(due))))
    }

    #[inline]
    pub(crate) fn extend(&mut self, more: Self) {
        match (&mut self.0, more.0) {
            (_, None) => {}
            (Some(due), Some(mut more)) => due.0.append(&mut more.0),
            (due @ None, more) => *due = more,
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        if !stratawal_sync::model::is_over() {
            self.0.iter().for_each(|(signal, key)| signal.wake(*key));
        }
    }
}
