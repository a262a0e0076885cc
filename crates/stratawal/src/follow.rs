//! Follows a stream.

use std::fmt;
use std::time::Duration;

use stratawal_stream::{FollowEvent, FollowStopper};

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::stream::Stream;

/// Returns the entries of a stream, and then new ones as they become visible. Created by
/// [`Stream::follow`].
///
/// Each entry is returned once and in order, with no gap between those that exist and those that
/// are appended later. Truncations and the deletion of the stream are events of their own: see
/// [`FollowEvent`].
///
/// As an iterator, this blocks until there is an event. It ends after [`FollowEvent::Deleted`],
/// after an error, and when [`FollowStopper::stop`] is called. When the log is closed, it ends
/// after every entry was returned; when the stream alone is [closed](Stream::close), it ends at
/// once, with or without entries that were not returned. [`next_timeout`](Self::next_timeout) waits
/// for a limited time.
///
/// If a write or sync of the stream fails, this waits until the stream is
/// [reopened](Stream::reopen), and continues.
///
/// # Threads and resources
///
/// A waiting thread uses no processor time, and is woken by the append. If entries come faster than
/// one in a millisecond, it looks once a millisecond instead, so that followers do not slow the
/// writer down. A slow consumer delays no append: it reads entries from the segment files once they
/// are no longer in memory. Nothing is kept for it, so [`Stream::truncate_before`] may overtake it.
///
/// Like a [`Stream`], this keeps the log open and locked.
///
/// # Positions
///
/// A consumer that stores [`position`](Self::position) with its results, in one transaction,
/// processes each entry once, also across restarts: it continues with `follow(position)`. If
/// entries below that position were lost in a crash, because they were not durable, or were dropped
/// by [`Stream::truncate_from`], the first event is [`FollowEvent::Cut`], unless the stream has as
/// many entries again. A consumer that must notice this too follows only entries that are durable:
/// those of a stream whose own durability is [`Synced`](crate::Durability::Synced).
///
/// # In a log opened for reading
///
/// This looks at the stream again, as [`Stream::reopen`] does, whenever the writer wakes it: after
/// each sync, truncation and deletion. Entries that are only flushed are seen within 50 ms. If the
/// writer wakes no reader ([`journal_mapped(false)`](crate::Options::journal_mapped), a file system
/// without shared mappings such as one of a network, or a system other than Linux), this looks
/// every [`poll_interval`](crate::Options::poll_interval), by default 10 ms. A
/// [`stop`](FollowStopper::stop) or a [close](crate::Wal::close) ends it within 50 ms, with or
/// without entries that were not returned. The stream holds one open file, its newest segment, once
/// it has one. A writer in another process may be closed, killed and started again; this continues.
/// If a stream is deleted and created again between two looks, this may be returned as
/// [`FollowEvent::Cut`]. After a writer was killed, a cut may begin below the entries that were
/// lost: if recovery wrote entries again, a reader takes them for others, and returns them again
/// after the cut. The same is true of a cut among entries that were appended together; and if
/// [`Stream::truncate_before`] drops some of them, the others may be returned again after a cut.
pub struct Follow {
    follow: stratawal_stream::Follow,
    // Dropped last: it keeps the stream in use.
    _stream: Stream,
}

impl Follow {
    pub(crate) fn new(follow: stratawal_stream::Follow, stream: &Stream) -> Self {
        Self { follow, _stream: stream.clone() }
    }

    /// The seq of the next entry: one past the last entry that was returned, unless entries were
    /// dropped since.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.follow.position()
    }

    /// Returns a handle by which another thread ends this.
    #[must_use]
    pub fn stopper(&self) -> FollowStopper {
        self.follow.stopper()
    }

    /// Returns the next event, or `None` if there is none within about `timeout`. A `timeout` of
    /// zero does not wait for entries.
    ///
    /// # Errors
    /// - [`Closed`](ErrorKind::Closed): the stream was closed, or the log was closed and every
    ///   entry was returned, or this was stopped.
    /// - [`Missing`](ErrorKind::Missing): the stream was deleted, and [`FollowEvent::Deleted`] was
    ///   returned.
    /// - [`Damaged`](ErrorKind::Damaged). If [`Error::lost`](crate::Error::lost) returns the range
    ///   of the lost entries, continue with a new `follow(lost.end)`.
    /// - [`Forked`](ErrorKind::Forked); any operating-system error.
    ///
    /// After an error no event follows, and each call returns the same error.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<FollowEvent>> {
        self.follow.next_timeout(timeout)
    }

    /// Returns this as a stream for programs with tasks. No thread waits for it.
    #[cfg(feature = "futures")]
    pub const fn into_stream(self) -> crate::FollowStream {
        crate::FollowStream::new(self)
    }

    #[cfg(feature = "futures")]
    pub(crate) fn poll_next(
        &mut self,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<FollowEvent>>> {
        self.follow.poll_next(context)
    }
}

impl Iterator for Follow {
    type Item = Result<FollowEvent>;

    /// Blocks until there is an event. Returns `None` at the end, as described for the type.
    fn next(&mut self) -> Option<Result<FollowEvent>> {
        self.follow.next()
    }
}

impl std::iter::FusedIterator for Follow {}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.follow.fmt(f)
    }
}
