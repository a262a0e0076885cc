//! Followers as `futures_core::Stream`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use stratawal_stream::FollowEvent;

use crate::error::Result;
use crate::follow::Follow;
use crate::follow_prefix::{FollowPrefix, PrefixEvent};

/// A [`Follow`] or a [`FollowPrefix`] as a [`Stream`] of a program with tasks. Created by their
/// `into_stream`.
///
/// No thread waits for it: its task is woken by the append, whatever runs the task. Each call reads
/// entries from memory or from the page cache, and blocks while the disk reads a block that is not
/// there. In a log opened for reading, a call looks at the stream, which may wait for a sync; one
/// thread, `stratawal-follow`, waits for the writer and wakes all tasks of the log.
///
/// The stream ends where the iterator would. It may be polled again after its end.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct FollowStream<F = Follow>(F);

impl<F> FollowStream<F> {
    pub(crate) const fn new(follow: F) -> Self {
        Self(follow)
    }

    /// The follower, for its position and its stopper.
    #[must_use]
    pub const fn get_ref(&self) -> &F {
        &self.0
    }

    /// Returns the follower, which continues at the same position.
    #[must_use]
    pub fn into_inner(self) -> F {
        self.0
    }
}

impl Stream for FollowStream<Follow> {
    type Item = Result<FollowEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(context)
    }
}

impl Stream for FollowStream<FollowPrefix> {
    type Item = Result<PrefixEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(context)
    }
}
