//! Iterates over the entries of a range from both ends.
//!
//! Invariants: an iterator owns everything that it needs. Its end is fixed when it is created.
//! After an error it returns no more items. It keeps at most two segments open, one for each end.
//!
//! [`forward`] moves the front and [`backward`] the back. [`in_block`] is the fast path of the
//! front. This file joins the two ends, and keeps their reads consistent.

mod backward;
mod forward;
mod in_block;

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use self::backward::Backward;
use self::forward::Forward;
use super::snapshot::Snapshot;
use super::tail_run::TailRun;
use crate::batch::{Entry, Run};
use crate::error::{Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::options::Visibility;
use crate::watermarks::Watermarks;

/// A double-ended iterator over the entries of a stream in a range, created by the stream's `iter`.
///
/// Its end is fixed when it is created. It owns everything that it needs, and may be sent to
/// another thread. It ends after an error, so its size hint is only an upper bound. To continue
/// after damage, create an iterator that begins at the end of [`Error::lost`], if that is known.
/// Reading backwards takes about twice as long as reading forwards.
pub struct Iter {
    inner: Arc<Inner>,
    /// The epoch that the iterator saw last.
    epoch: u64,
    /// The lowest seq at which the stream was truncated between this iterator's creation and
    /// `epoch`.
    truncated_at: Option<u64>,
    /// The snapshot in which the iterator last searched for a segment.
    last_snapshot: Option<Arc<Snapshot>>,
    /// The next entry from the front.
    front: u64,
    /// One past the next entry from the back.
    back: u64,
    forward: Option<Forward>,
    backward: Option<Backward>,
    /// Entries that were in the tail when they were copied.
    tail: Option<TailRun>,
    /// The error to return next.
    error: Option<Error>,
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("front", &self.front).field("back", &self.back).finish_non_exhaustive()
    }
}

impl Iter {
    /// See [`StreamLog::iter`](crate::StreamLog::iter).
    pub(crate) fn new(inner: &Arc<Inner>, seqs: &impl RangeBounds<u64>, visibility: Visibility) -> Self {
        let mut iter = Self {
            inner: Arc::clone(inner),
            epoch: 0,
            truncated_at: None,
            last_snapshot: None,
            front: 0,
            back: 0,
            forward: None,
            backward: None,
            tail: None,
            error: None,
        };
        if let Err(error) = inner.check_process() {
            iter.error = Some(error);
            return iter;
        }
        let watermarks = &inner.shared.watermarks;
        let (epoch, start, end) =
            watermarks.in_one_epoch(|epoch| (epoch, watermarks.start(), inner.end_seq(visibility)));
        let back = match seqs.end_bound() {
            Bound::Included(&last) => last.saturating_add(1).min(end),
            Bound::Excluded(&bound) => bound.min(end),
            Bound::Unbounded => end,
        };
        let front = match seqs.start_bound() {
            Bound::Included(&first) => first,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => start,
        };
        if front < start && front < back {
            iter.error = Some(Error::new(ErrorKind::Truncated { first_seq: start }, &inner.shared.location));
        }
        if let Err(closed) = inner.check_not_over(epoch) {
            iter.error = Some(closed);
        }
        iter.epoch = epoch;
        iter.front = front;
        iter.back = back.max(front);
        iter
    }

    /// An iterator without entries at `seq` in `epoch`, which [`extend_to`](Self::extend_to) and
    /// [`restart`](Self::restart) move.
    pub(crate) fn at(inner: &Arc<Inner>, epoch: u64, seq: u64) -> Self {
        Self {
            inner: Arc::clone(inner),
            epoch,
            truncated_at: None,
            last_snapshot: None,
            front: seq,
            back: seq,
            forward: None,
            backward: None,
            tail: None,
            error: None,
        }
    }

    /// Continues at `seq` in `epoch`, without entries.
    pub(crate) fn restart(&mut self, epoch: u64, seq: u64) {
        *self = Self::at(&self.inner, epoch, seq);
    }

    /// Moves the end to `end`, which was loaded from a watermark.
    pub(crate) fn extend_to(&mut self, end: u64) {
        if end <= self.back {
            return;
        }
        self.back = end;
        // The entries after the old end may be in another segment. The snapshot is loaded after the
        // watermark, so if it is the same, its segments have them.
        let snapshot = self.inner.shared.snapshot.load();
        if self.last_snapshot.as_ref().is_some_and(|last| !Arc::ptr_eq(last, &snapshot)) {
            self.release();
        }
    }

    /// Frees the memory and the file of the position.
    pub(crate) fn release(&mut self) {
        self.forward = None;
        self.backward = None;
        self.tail = None;
        self.last_snapshot = None;
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.front >= self.back
    }

    /// Returns the next entries from the front together, as a run. A run holds entries of one tick
    /// of the clock that are in memory, and ends once it is at least 16 KiB long; it may also be a
    /// single entry. All of its entries are verified. Damage after them is the error of the next
    /// call. Calls of this method and [`next`](Iterator::next) may be mixed.
    ///
    /// A run does not always hold whole batches: it may begin and end within one, for example if it
    /// is a single entry. [`RunEntry::ends_batch`](crate::RunEntry::ends_batch) marks their ends.
    ///
    /// This is for programs that go through many entries and need each only briefly. It avoids
    /// reference counting and copying for each entry, which saves a sixth to a quarter of the time
    /// of a scan if the entries were flushed one at a time, and a third or more if they were
    /// appended in batches.
    ///
    /// ```
    /// # use stratawal_stream::{Iter, Result};
    /// fn total_len(mut entries: Iter) -> Result<usize> {
    ///     let mut total = 0;
    ///     while let Some(run) = entries.next_run() {
    ///         total += run?.entries().map(|entry| entry.data.len()).sum::<usize>();
    ///     }
    ///     Ok(total)
    /// }
    /// ```
    ///
    /// # Errors
    /// Returns the same errors as [`next`](Iterator::next).
    #[inline]
    pub fn next_run(&mut self) -> Option<Result<Run>> {
        self.run_in_block().map(Ok).or_else(|| self.next_run_slow())
    }

    fn next_run_slow(&mut self) -> Option<Result<Run>> {
        let entry = match self.peek()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        // The entry's frame is now in memory, unless the entry was in the tail buffer or a new
        // epoch has begun since.
        Some(Ok(self.run_in_block().unwrap_or_else(|| {
            self.front += 1;
            Run::of_one(entry)
        })))
    }

    /// Reads the next entry from the front, without moving the front.
    fn peek(&mut self) -> Option<Result<Entry>> {
        if let Some(error) = self.error.take() {
            return self.fail(error);
        }
        if self.front >= self.back {
            return None;
        }
        match self.read_consistently(self.front, Self::read_front) {
            Ok(entry) => Some(Ok(entry)),
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: Error) -> Option<Result<Entry>> {
        self.front = self.back;
        self.forward = None;
        self.backward = None;
        self.tail = None;
        Some(Err(error))
    }

    /// Repeats `read`, which reads entry `seq`, until the result is consistent: from one epoch, and
    /// without a segment that was removed at the same time.
    ///
    /// # Errors
    /// [`ErrorKind::Cut`] if the stream was truncated at or below `seq` since the iterator was
    /// created. [`ErrorKind::Closed`] if it was closed for good.
    fn read_consistently(&mut self, seq: u64, read: fn(&mut Self) -> Result<Entry>) -> Result<Entry> {
        self.inner.check_process()?;
        loop {
            self.inner.check_not_over(self.epoch)?;
            if let Some(at) = self.truncated_at.filter(|&at| at <= seq) {
                return Err(Error::new(ErrorKind::Cut { next_seq: at }, &self.inner.shared.location));
            }
            let result = read(self);
            // The epoch is loaded after the read. If the read saw anything of a later epoch, this
            // load returns that epoch.
            let epoch = self.inner.shared.watermarks.stable_epoch();
            if epoch != self.epoch {
                self.begin_epoch(epoch);
                let is_over = Watermarks::is_over(epoch);
                if is_over || result.is_err() || self.truncated_at.is_some_and(|at| at <= seq) {
                    continue;
                }
            }
            match (result, &self.last_snapshot) {
                (Err(error), Some(snapshot)) if self.inner.segment_removed(&error, &(seq..=seq), snapshot)? => {
                    self.forward = None;
                    self.backward = None;
                }
                (result, _) => return result,
            }
        }
    }

    fn begin_epoch(&mut self, epoch: u64) {
        let at = self.inner.shared.truncations.since(self.epoch);
        self.truncated_at = self.truncated_at.into_iter().chain(at).min();
        self.epoch = epoch;
        // Entries of the tail buffer may now be in another segment, and a frame in memory may now
        // extend past the new limit of its segment.
        self.forward = None;
        self.backward = None;
        // Truncated entries may have been replaced by others.
        self.tail = None;
    }

    /// Returns entry `seq` from the tail, from which `copy` takes a run that holds the entry.
    /// Returns `None` if the entry is in the file.
    ///
    /// # Errors
    /// [`ErrorKind::Cut`] if recovery has dropped the entry.
    fn read_tail(&mut self, seq: u64, copy: impl Fn(&Inner) -> Option<TailRun>) -> Result<Option<Entry>> {
        let watermarks = &self.inner.shared.watermarks;
        if let Some(entry) = self.tail.as_ref().and_then(|run| run.entry(seq)) {
            return Ok(Some(entry));
        }
        if seq < watermarks.drained() {
            return Ok(None);
        }
        if self.inner.shared.context.reader_of_journal().is_some() {
            if let Some(entry) = self.inner.journal_entry(seq)? {
                return Ok(Some(entry));
            }
        } else {
            self.tail = copy(&self.inner);
        }
        if let Some(entry) = self.tail.as_ref().and_then(|run| run.entry(seq)) {
            return Ok(Some(entry));
        }
        // A leader may have written it to the file since the first look.
        if seq < watermarks.drained() {
            return Ok(None);
        }
        Err(Error::new(ErrorKind::Cut { next_seq: watermarks.accepted() }, &self.inner.shared.location))
    }
}

impl Iterator for Iter {
    type Item = Result<Entry>;

    #[inline]
    fn next(&mut self) -> Option<Result<Entry>> {
        if let Some(entry) = self.next_in_block() {
            return Some(Ok(entry));
        }
        let next = self.peek()?;
        self.front += u64::from(next.is_ok());
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.back - self.front).unwrap_or(usize::MAX);
        // An error may end the iterator after one item.
        (usize::from(left > 0), Some(left.max(usize::from(self.error.is_some()))))
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Result<Entry>> {
        if let Some(error) = self.error.take() {
            return self.fail(error);
        }
        if self.front >= self.back {
            return None;
        }
        match self.read_consistently(self.back - 1, Self::read_back) {
            Ok(entry) => {
                self.back -= 1;
                Some(Ok(entry))
            }
            Err(error) => self.fail(error),
        }
    }
}

impl std::iter::FusedIterator for Iter {}
