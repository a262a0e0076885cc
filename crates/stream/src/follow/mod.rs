//! Follows a stream: returns its entries, and then new ones as they become visible.
//!
//! Invariants: each entry is returned once and in order. If entries before the position were
//! dropped from the end of the stream, or entries at or after it from the beginning, the follower
//! returns an event for that, and continues where the stream then ends or begins.
//!
//! A follower reads with an iterator whose end it moves. So it falls back to the files when it is
//! slow, and it notices a new epoch as an iterator does. Once it has read everything, it registers
//! with the stream ([`followers`]) and sleeps until it is woken ([`signal`]). A follower of a
//! stream that is opened for reading looks at the files instead, again and again.
//!
//! A follower that was woken a moment ago does not register again at once: it sleeps for a moment,
//! and looks. So a follower costs the writer at most one wake-up in [`PAUSE`], and none while the
//! entries come faster than that.

mod beside;
mod followers;
mod group;
mod signal;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use stratawal_frame::StreamId;
use stratawal_sync::fail_point;

pub(crate) use self::beside::ReaderTasks;
use self::followers::Goal;
pub(crate) use self::followers::{DueFollowers, Followers};
pub use self::group::FollowGroup;
use self::signal::{Signal, Sleep};
use crate::batch::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::notify::WaitPoint;
use crate::options::Visibility;
use crate::read::iter::Iter;

/// The minimum time between two wake-ups of a follower.
const PAUSE: Duration = Duration::from_millis(1);

/// The longest time between two looks of a follower of a stream that is opened for reading, if an
/// entry has come a moment ago.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// The longest time between two looks otherwise. The file on which it waits may have been
/// replaced, and the writer does not wake it for entries that are only flushed. If the writer does
/// not wake it, the log's [`poll_interval`](LogContext::poll_interval) applies instead; it then
/// sees after this time that the log was closed.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// After so many looks without an event, such a follower looks less often.
const QUICK_LOOKS: u32 = 10;

/// A look that fails is repeated this often.
const LOOK_TRIES: u32 = 50;

/// A read that finds its entries removed, and a stream that shows no reason, is repeated this
/// often.
const READ_TRIES: u32 = 3;

/// What a [`Follow`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowEvent {
    /// The next entry.
    Entry(Entry),
    /// The beginning of the stream was dropped, and with it entries that were not returned. The
    /// next entry is at the end of this range.
    Truncated {
        /// The seqs that are skipped.
        dropped: Range<u64>,
    },
    /// The end of the stream was dropped, and with it entries that were returned, or that are below
    /// the first position. The entries that follow get their seqs again, beginning at the start of
    /// this range.
    Cut {
        /// The seqs of the dropped entries.
        dropped: Range<u64>,
    },
    /// The stream was deleted. No event follows. A stream of the same name that is created later is
    /// not followed.
    Deleted,
}

impl FollowEvent {
    /// The entry, unless this is another event.
    #[must_use]
    pub fn into_entry(self) -> Option<Entry> {
        match self {
            Self::Entry(entry) => Some(entry),
            _ => None,
        }
    }
}

/// Returns the entries of a stream, and then waits for new ones. Created by the stream's `follow`.
///
/// As an iterator it blocks until there is an event, and ends with `None` once the stream was
/// closed or deleted, or [`FollowStopper::stop`] was called. After an error it ends.
pub struct Follow {
    inner: Arc<Inner>,
    visibility: Visibility,
    /// The epoch that was looked at last.
    epoch: u64,
    /// The seq of the next entry.
    position: u64,
    iter: Iter,
    signal: Arc<Signal>,
    /// The key in a group.
    key: Option<u64>,
    /// The follower is among those that wait, unless it was woken.
    is_registered: bool,
    /// Whether the first look is over.
    has_looked: bool,
    /// Whether the stream existed at the last look, and its id if that was known.
    existed: (bool, Option<StreamId>),
    /// How often a stream that is opened for reading was looked at since the last event.
    idle_looks: u32,
    /// The number on which such a follower waits.
    wait_point: Option<WaitPoint>,
    /// The stream was found deleted when the follower was about to wait.
    was_deleted: bool,
    /// If this is set, the follower pauses until then before it registers.
    paused_until: Option<Instant>,
    /// Reads that have failed since the last event.
    failed_reads: u32,
    /// Why no event follows.
    end: Option<Error>,
}

/// Ends a [`Follow`] from another thread.
#[derive(Clone, Debug)]
pub struct FollowStopper {
    signal: Arc<Signal>,
}

impl FollowStopper {
    /// Ends the [`Follow`], also if a thread is waiting in it. It returns no event after this, even
    /// if there are more entries.
    pub fn stop(&self) {
        self.signal.stop();
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.inner.shared.location.name();
        f.debug_struct("Follow").field("stream", &name).field("position", &self.position).finish_non_exhaustive()
    }
}

impl Follow {
    /// See [`StreamLog::follow`](crate::StreamLog::follow).
    pub(crate) fn of_stream(inner: &Arc<Inner>, from: u64, visibility: Visibility) -> Self {
        // The lock is not needed: an epoch that begins from here on is noticed.
        let epoch = inner.shared.watermarks.stable_epoch();
        Self::new(inner, epoch, from, visibility, Arc::new(Signal::new()), None)
    }

    fn new(
        inner: &Arc<Inner>,
        epoch: u64,
        from: u64,
        visibility: Visibility,
        signal: Arc<Signal>,
        key: Option<u64>,
    ) -> Self {
        Self {
            inner: Arc::clone(inner),
            visibility,
            epoch,
            position: from,
            iter: Iter::at(inner, epoch, from),
            signal,
            key,
            is_registered: false,
            has_looked: false,
            existed: (inner.exists(), inner.shared.known_id()),
            idle_looks: 0,
            wait_point: None,
            was_deleted: false,
            paused_until: None,
            failed_reads: 0,
            end: None,
        }
    }

    /// The seq of the next entry: one past the last entry that was returned, unless entries were
    /// dropped since. A program that stores it continues there with a new [`Follow`].
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Returns a handle by which another thread ends this.
    #[must_use]
    pub fn stopper(&self) -> FollowStopper {
        FollowStopper { signal: Arc::clone(&self.signal) }
    }

    /// Returns the next event, or `None` if there is none for about `timeout`. A `timeout` of zero
    /// does not wait.
    ///
    /// # Errors
    /// - [`ErrorKind::Closed`]: the stream was closed for good, or closed and every entry was
    ///   returned, or this was stopped. [`ErrorKind::Missing`]: the stream was deleted, and
    ///   [`FollowEvent::Deleted`] was returned.
    /// - [`ErrorKind::Damaged`], [`ErrorKind::Io`] and the other errors of reading.
    ///
    /// After an error there are no more events, and each call returns the same error.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<FollowEvent>> {
        if let Some(event) = self.try_next()? {
            return Ok(Some(event));
        }
        if timeout.is_zero() && !self.inner.shared.context.is_read_only() {
            // This notices a stream that was closed, or deleted without an entry.
            let next = self.next_or_register();
            self.unregister();
            return next;
        }
        // A deadline that the clock cannot express is never reached.
        self.next_until(Instant::now().checked_add(timeout))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<FollowEvent>> {
        loop {
            let is_over = self.wait(deadline)? == Sleep::TimedOut;
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            if is_over {
                return Ok(None);
            }
        }
    }

    /// Returns the next event if it need not wait for one.
    fn try_next(&mut self) -> Result<Option<FollowEvent>> {
        if let Some(error) = &self.end {
            return Err(error.clone());
        }
        // In a forked child the locks may stay held forever.
        self.inner.check_process().inspect_err(|error| self.end = Some(error.clone()))?;
        if !self.has_looked && self.inner.shared.context.is_read_only() {
            // The position may be newer than the last look at the stream.
            self.refresh()?;
        }
        loop {
            if self.signal.is_stopped() {
                return Err(self.end_with(ErrorKind::Closed));
            }
            if self.position < self.inner.shared.watermarks.start()
                && let Some(event) = self.look()
            {
                return Ok(Some(event));
            }
            match self.iter.next() {
                Some(Ok(entry)) => {
                    self.position = entry.seq() + 1;
                    self.failed_reads = 0;
                    self.idle_looks = self.idle_looks.min(1);
                    return Ok(Some(FollowEvent::Entry(entry)));
                }
                Some(Err(error)) => {
                    // Entries were dropped before the stream was closed.
                    if error.kind() == ErrorKind::Closed
                        && let Some(event) = self.look()
                    {
                        return Ok(Some(event));
                    }
                    self.continue_after(error)?;
                }
                None => {}
            }
            if let Some(event) = self.look() {
                self.failed_reads = 0;
                return Ok(Some(event));
            }
            if self.iter.is_at_end() {
                return Ok(None);
            }
        }
    }

    /// Looks at the stream: returns an event for dropped entries, or has the iterator read up to
    /// where the visible entries end.
    fn look(&mut self) -> Option<FollowEvent> {
        let inner = Arc::clone(&self.inner);
        let watermarks = &inner.shared.watermarks;
        let (epoch, start, end, next_seq) = watermarks
            .in_one_epoch(|epoch| (epoch, watermarks.start(), inner.end_seq(self.visibility), watermarks.accepted()));
        let position = self.position;
        if self.was_deleted || epoch != self.epoch && self.is_deleted() {
            self.end_with(ErrorKind::Missing);
            return Some(FollowEvent::Deleted);
        }
        if epoch != self.epoch {
            let cut = inner.shared.truncations.since(self.epoch);
            self.epoch = epoch;
            self.move_to(position);
            if let Some(at) = cut.filter(|&at| at < position && !fail_point!(CutNotFollowed)) {
                self.move_to(at);
                // If this is another stream by now, the cut stands for the deletion too.
                self.existed.1 = inner.shared.known_id();
                return Some(FollowEvent::Cut { dropped: at..position });
            }
        }
        let next_seq = next_seq.max(start);
        if !std::mem::replace(&mut self.has_looked, true) && position > next_seq {
            self.move_to(next_seq);
            return Some(FollowEvent::Cut { dropped: next_seq..position });
        }
        if position < start {
            self.move_to(start);
            return Some(FollowEvent::Truncated { dropped: position..start });
        }
        self.iter.extend_to(end);
        None
    }

    /// Whether the stream was deleted before this epoch. Another one of the same name may exist in
    /// a log that is opened for reading.
    fn is_deleted(&mut self) -> bool {
        if !self.inner.shared.context.is_read_only() {
            return self.inner.group.lock().failure().is_some_and(|failure| failure.kind() == ErrorKind::Missing);
        }
        let (existed, id) = self.existed;
        let exists = self.inner.exists();
        let now = self.inner.shared.known_id();
        self.existed = (exists, now.or(id));
        existed && !exists || id.is_some_and(|id| now.is_some_and(|now| now != id))
    }

    fn move_to(&mut self, position: u64) {
        self.position = position;
        self.iter.restart(self.epoch, position);
    }

    /// Continues if `error` means that entries were removed, which the next look finds.
    fn continue_after(&mut self, error: Error) -> Result<()> {
        let is_removed = matches!(error.kind(), ErrorKind::Truncated { .. } | ErrorKind::Cut { .. });
        self.failed_reads += 1;
        if !is_removed || self.failed_reads > READ_TRIES {
            self.end = Some(error.clone());
            return Err(error);
        }
        self.move_to(self.position);
        if self.inner.shared.context.is_read_only() {
            self.refresh()?;
        }
        Ok(())
    }

    /// Ends this, and returns the error of later calls.
    fn end_with(&mut self, kind: ErrorKind) -> Error {
        let error = Error::new(kind, &self.inner.shared.location);
        self.iter.restart(self.epoch, self.position);
        self.end = Some(error.clone());
        error
    }
}

/// Waiting.
impl Follow {
    /// Waits until the stream may have changed, at the latest until `deadline`.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<Sleep> {
        self.inner.check_process()?;
        if self.inner.shared.context.is_read_only() {
            return self.wait_beside_writer(deadline);
        }
        if let Some(until) = self.paused_until.take() {
            let until = deadline.map_or(until, |deadline| deadline.min(until));
            if until > Instant::now() {
                self.signal.reset();
                self.signal.sleep(Some(until));
                if self.has_news() {
                    // It comes fast, so the next wait also begins with a pause.
                    self.pause();
                }
                let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
                return Ok(if is_over { Sleep::TimedOut } else { Sleep::Woken });
            }
        }
        self.signal.reset();
        if !self.register()? {
            return Ok(Sleep::Woken);
        }
        let slept = self.signal.sleep(deadline);
        if slept == Sleep::TimedOut || self.signal.is_stopped() {
            self.unregister();
        } else {
            self.is_registered = false;
            self.pause();
        }
        Ok(slept)
    }

    /// Has the follower woken when the stream changes. Returns false if it already has.
    fn register(&mut self) -> Result<bool> {
        self.iter.release();
        let goal = self.goal();
        let mut state = self.inner.group.lock();
        if goal.is_reached(&self.inner.shared.watermarks) && !fail_point!(RegisteredUnseen) {
            return Ok(false);
        }
        if state.failure().is_some_and(|failure| failure.kind() == ErrorKind::Missing) {
            self.was_deleted = true;
            return Ok(false);
        }
        if state.followers.is_closed {
            drop(state);
            return Err(self.end_with(ErrorKind::Closed));
        }
        state.followers.add(goal, &self.signal, self.key);
        self.is_registered = true;
        Ok(true)
    }

    fn unregister(&mut self) {
        if !std::mem::replace(&mut self.is_registered, false) {
            return;
        }
        if self.inner.shared.context.is_read_only() {
            self.inner.shared.context.reader_tasks.remove(&self.signal, self.key);
        } else {
            self.inner.group.lock().followers.remove(&self.signal, self.key);
        }
    }

    /// Returns the next event. If there is none now, registers the follower, so that its task or
    /// its group is woken once there may be one, and returns `None`.
    ///
    /// In a log that is opened for reading, this looks at the stream, and may wait for the disk.
    ///
    /// # Errors
    /// Same as [`next_timeout`](Self::next_timeout).
    pub fn next_or_register(&mut self) -> Result<Option<FollowEvent>> {
        self.inner.check_process()?;
        self.unregister();
        let is_reader = self.inner.shared.context.is_read_only();
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            if is_reader {
                return self.look_or_register();
            }
            if self.register()? {
                return Ok(None);
            }
        }
    }

    fn look_or_register(&mut self) -> Result<Option<FollowEvent>> {
        loop {
            let context = Arc::clone(&self.inner.shared.context);
            if context.have_followers_ended() {
                return Err(self.end_with(ErrorKind::Closed));
            }
            let point = || context.notified_by().and_then(|reader| reader.wait_point(context.system()));
            let before = point();
            self.refresh()?;
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            self.iter.release();
            let added = ReaderTasks::add(&context, &self.signal, self.key);
            added.map_err(|error| Error::io(&self.inner.shared.location, error))?;
            self.is_registered = true;
            // A change between the look and the registration may have woken the other tasks only.
            let is_same = before.is_none_or(|before| point().is_none_or(|now| now == before));
            if is_same {
                return Ok(None);
            }
            self.unregister();
        }
    }

    /// Returns the next event, or has the task of `context` woken once there may be one. Ends like
    /// the iterator.
    pub fn poll_next(&mut self, context: &Context<'_>) -> Poll<Option<Result<FollowEvent>>> {
        let was_over = self.end.is_some();
        self.signal.set_waker(context.waker());
        match self.next_or_register() {
            Ok(None) => Poll::Pending,
            next => Poll::Ready(item(was_over, next)),
        }
    }

    fn pause(&mut self) {
        if cfg!(not(stratawal_loom)) {
            self.paused_until = Some(Instant::now() + PAUSE);
        }
    }

    fn goal(&self) -> Goal {
        Goal { shown: self.inner.shown_at(self.visibility), seq: self.position, epoch: self.epoch }
    }

    fn has_news(&self) -> bool {
        self.goal().is_reached(&self.inner.shared.watermarks)
    }

    /// Looks at the files of a stream that is opened for reading. Waits first, except the first
    /// time.
    fn wait_beside_writer(&mut self, deadline: Option<Instant>) -> Result<Sleep> {
        let context = &self.inner.shared.context;
        if context.have_followers_ended() {
            return Err(self.end_with(ErrorKind::Closed));
        }
        // The last entry may be large, and the next one may be long in coming.
        self.iter.release();
        if self.idle_looks > 0 {
            let left = deadline.map_or(WAIT_MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            let max = if self.idle_looks > QUICK_LOOKS { WAIT_MAX } else { LOOK_PAUSE };
            let point = self.wait_point.take().zip(context.notified_by());
            if !point.is_some_and(|(point, reader)| reader.wait(point, left.min(max))) {
                self.signal.reset();
                self.pause_between_looks(deadline);
                if self.inner.shared.context.have_followers_ended() {
                    return Err(self.end_with(ErrorKind::Closed));
                }
            }
        }
        self.idle_looks = self.idle_looks.saturating_add(1);
        // Read before the look, so that the next wait ends at once after a change that the look
        // does not show.
        self.wait_point = context.notified_by().and_then(|reader| reader.wait_point(context.system()));
        self.refresh()?;
        let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        Ok(if is_over { Sleep::TimedOut } else { Sleep::Woken })
    }

    /// Waits between two looks of a follower that the writer does not wake, at the latest until
    /// `deadline`. A stop or a close of the log ends the wait early.
    fn pause_between_looks(&self, deadline: Option<Instant>) {
        let context = &self.inner.shared.context;
        let is_idle = self.idle_looks > QUICK_LOOKS;
        let pause = if is_idle { context.poll_interval } else { context.poll_interval.min(LOOK_PAUSE) };
        let look_at = Instant::now() + pause;
        let until = deadline.map_or(look_at, |deadline| deadline.min(look_at));
        while Instant::now() < until && !self.signal.is_stopped() && !context.have_followers_ended() {
            self.signal.sleep(Some(until.min(Instant::now() + WAIT_MAX)));
        }
    }

    /// Looks at the files of a stream that is opened for reading. A look that fails because the
    /// writer removes a file or the journal at the same time is repeated.
    fn refresh(&mut self) -> Result<()> {
        for _ in 0..LOOK_TRIES {
            match self.inner.reopen() {
                Err(error) if error.kind() == ErrorKind::Io => std::thread::sleep(LOOK_PAUSE),
                looked => return looked.inspect_err(|error| self.end = Some(error.clone())),
            }
        }
        self.inner.reopen().inspect_err(|error| self.end = Some(error.clone()))
    }
}

impl Iterator for Follow {
    type Item = Result<FollowEvent>;

    fn next(&mut self) -> Option<Result<FollowEvent>> {
        let was_over = self.end.is_some();
        let next = match self.try_next() {
            Ok(None) => self.next_until(None),
            next => next,
        };
        item(was_over, next)
    }
}

/// The item of an iterator, which ends where the errors of the other calls begin.
fn item(was_over: bool, next: Result<Option<FollowEvent>>) -> Option<Result<FollowEvent>> {
    match next {
        Ok(event) => event.map(Ok),
        Err(error) if was_over || matches!(error.kind(), ErrorKind::Closed | ErrorKind::Missing) => None,
        Err(error) => Some(Err(error)),
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        // In a forked child a lock may stay held forever.
        if self.is_registered && self.inner.check_process().is_ok() && !stratawal_sync::model::is_over() {
            self.unregister();
        }
    }
}

impl std::iter::FusedIterator for Follow {}
