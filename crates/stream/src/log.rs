//! The public handle of one stream. Each method delegates to the file that does the work.

use std::fmt;
use std::ops::{Range, RangeBounds};
use std::sync::Arc;

use stratawal_sync::Weak;

use crate::batch::{Batch, Entry};
use crate::context::LogContext;
use crate::deletion::DeleteError;
use crate::error::{Call, Error, Result};
#[cfg(doc)]
use crate::error::{DamageKind, ErrorKind};
use crate::follow::Follow;
use crate::inner::Inner;
use crate::location::Location;
use crate::options::{Durability, StreamOptions, Visibility};
use crate::read::iter::Iter;
use crate::report::OpenReport;
use crate::stats::{DiskUsage, StreamStats};
use crate::tickets::{LogTickets, NoRoom, Ticket};

/// A handle to one stream.
///
/// Clones are cheap and refer to the same stream. All methods may be called from many threads at
/// once.
///
/// *Failure.* A failed write or sync poisons the stream: the appends that depend on it and all
/// later ones fail with [`ErrorKind::Poisoned`], and so do flush and sync. Reads still work.
/// [`reopen`](Self::reopen) recovers the stream. A full disk does not poison: the append fails with
/// [`ErrorKind::Full`], changes nothing, and may be repeated.
///
/// *Closing.* Call [`close`](Self::close) when done. If the last handle is dropped instead, closing
/// the stream is best effort, and errors are lost.
#[derive(Clone)]
pub struct StreamLog {
    pub(crate) inner: Arc<Inner>,
}

/// A moment in the life of an open stream. It keeps nothing open.
#[derive(Clone, Debug)]
pub struct StreamMoment {
    inner: Weak<Inner>,
    pub(crate) epoch: u64,
}

impl StreamMoment {
    /// Whether `log` is a handle of the same opening of the stream.
    #[must_use]
    pub fn is_of(&self, log: &StreamLog) -> bool {
        std::ptr::eq(self.inner.as_ptr(), Arc::as_ptr(&log.inner))
    }

    /// The lowest end to which the stream, which was not opened again, was cut since this moment.
    #[must_use]
    pub fn lowest_cut(&self, log: &StreamLog) -> Option<u64> {
        log.inner.shared.truncations.since(self.epoch)
    }
}

impl fmt::Debug for StreamLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLog")
            .field("name", &self.name())
            .field("watermarks", &self.inner.shared.watermarks)
            .finish_non_exhaustive()
    }
}

/// Opening.
impl StreamLog {
    /// Opens the stream at `location`. If it was not closed cleanly, recovers it first. A stream
    /// that does not exist is created by its first append. If the log has a commit journal, its
    /// directory is created later.
    ///
    /// With a read-only [`LogContext`], nothing on disk is ever changed. The handle shows the
    /// stream as of this call, until [`reopen`](Self::reopen) refreshes it.
    ///
    /// If recovery needs space and the disk is full, the stream is opened for reading. The first
    /// call that finds space recovers it: an append, flush or sync once space is free, or a
    /// truncation or close, which may use the emergency reserve.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if acknowledged entries are missing or damaged; nothing has changed
    /// in that case. [`ErrorKind::NewerFormat`], [`ErrorKind::Io`], or
    /// [`ErrorKind::InvalidOption`].
    pub fn open(context: Arc<LogContext>, location: Location, options: StreamOptions) -> Result<Self> {
        Inner::open(context, location, options).map(|inner| Self { inner })
    }

    /// Opens a stream whose entries at or above `first` are intact, and durably drops the entries
    /// below `first`. Use it for a stream that [`open`](Self::open) refuses because of damage below
    /// `first`: a missing or unreadable segment, or a damaged frame. If the first live seq is above
    /// `first`, it does not change.
    ///
    /// If a segment that must be scanned contains a damaged frame, the entries at and above `first`
    /// are found by searching for their frames.
    ///
    /// # Errors
    /// - [`ErrorKind::Damaged`] if entries at or above `first` are or may be damaged or missing, or
    ///   if a segment is [misplaced](DamageKind::Misplaced). Nothing has changed.
    /// - [`ErrorKind::NewerFormat`] if a segment has a newer format. Nothing has changed.
    /// - [`ErrorKind::Missing`] if the stream does not exist.
    /// - [`ErrorKind::Full`] or [`ErrorKind::Io`], for example if a damaged file could not be
    ///   removed. The entries may or may not have been dropped; the call may be repeated.
    /// - Otherwise returns the same errors as [`open`](Self::open).
    pub fn open_above(
        context: Arc<LogContext>,
        location: Location,
        options: StreamOptions,
        first: u64,
    ) -> Result<Self> {
        Inner::open_above(context, location, options, first).map(|inner| Self { inner })
    }

    /// Opens the stream for reading only the entries before its first damage, and also returns that
    /// damage, or `None` if the stream is sound. If the commit journal is damaged, those are the
    /// entries in the stream's files. Needs a read-only [`LogContext`]; with any other
    /// context, damage is an error.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] and [`ErrorKind::NewerFormat`].
    pub fn open_before_damage(
        context: Arc<LogContext>,
        location: Location,
        options: StreamOptions,
    ) -> Result<(Self, Option<Error>)> {
        Inner::open_before_damage(context, location, options).map(|(inner, damage)| (Self { inner }, damage))
    }

    /// Recovers a stream that has failed, as opening it again would. Does nothing on a healthy
    /// stream.
    ///
    /// Entries that were accepted but not yet written when the stream failed are kept, and are
    /// written by the next flush. If a sync has failed, entries that were written but not synced
    /// may be lost, together with all later ones; their seqs are then reused.
    ///
    /// On a stream opened for reading, this refreshes the handle's view of the stream, and reads
    /// only the entries added since the last refresh. Damage to entries that were valid before is
    /// reported when they are read, and by the next open.
    ///
    /// # Errors
    /// Returns the same errors as [`open`](Self::open). The stream then stays failed. Later calls
    /// report this error if it is damage, a newer format or a full disk, and otherwise the error
    /// that made the stream fail.
    pub fn reopen(&self) -> Result<()> {
        self.inner.reopen().map_err(|error| error.of_call(Call::Reopen))
    }

    /// Makes every accepted entry durable and ends the stream's newest segment cleanly, so that the
    /// next open need not scan it. Later appends fail with [`ErrorKind::Closed`]; reads still work.
    /// Closing twice is not an error. On a stream opened for reading, this does nothing.
    ///
    /// # Errors
    /// Returns the same errors as [`sync`](Self::sync). The stream is closed anyway, and is
    /// recovered when it is next opened. Once this returns, whether or not it failed, no thread of
    /// this stream uses its files.
    pub fn close(&self) -> Result<()> {
        if self.inner.shared.context.is_read_only() {
            return Ok(());
        }
        self.inner.close().map_err(|error| error.of_call(Call::Close))
    }
}

/// Closing one stream of a log, and the streams of a log with a commit journal.
impl StreamLog {
    /// Makes every accepted entry durable in the stream's own files, ends their use, and frees the
    /// memory and the descriptors that the stream holds. Afterwards every call on this stream fails
    /// with [`ErrorKind::Closed`], reads and iterators included, because the stream may be opened
    /// again, and may then be truncated or deleted. The numbers ([`next_seq`](Self::next_seq) and
    /// the like) stay as they are.
    ///
    /// # Errors
    /// Returns the same errors as [`sync`](Self::sync). The stream then stays open, and nothing is
    /// lost: if it has failed, [`reopen`](Self::reopen) recovers it, and the call may be repeated.
    /// Appends during the call may have been refused as if the stream were closed.
    pub fn close_for_good(&self) -> Result<()> {
        self.inner.close_for_good().map_err(|error| error.of_call(Call::CloseOne))
    }

    /// Whether [`close_for_good`](Self::close_for_good) has closed the stream.
    #[must_use]
    pub fn is_closed_for_good(&self) -> bool {
        self.inner.is_over()
    }

    /// Whether both handles are of the same opening of a stream.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The present moment, from which on cuts of the stream can be asked for.
    #[must_use]
    pub fn moment(&self) -> StreamMoment {
        StreamMoment { inner: Arc::downgrade(&self.inner), epoch: self.inner.shared.watermarks.stable_epoch() }
    }

    /// Like [`close`](Self::close), for a stream that is not used afterwards: if it cannot take its
    /// entries from the commit journal, a look-up finds them as soon as this returns.
    ///
    /// # Errors
    /// Same as for [`close`](Self::close).
    pub fn close_and_give_back(&self) -> Result<()> {
        self.inner.close_and_give_back().map_err(|error| error.of_call(Call::Close))
    }

    /// Accepts no more entries: later appends fail with [`ErrorKind::Closed`]. Recovers a stream
    /// that a full disk has stopped, as [`close`](Self::close) does.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`].
    pub fn stop_appends(&self) -> Result<()> {
        self.inner.stop_appends()
    }

    /// Makes every accepted entry durable, in the commit journal if that is possible, and ends the
    /// use of the stream's files. The next opening takes the entries from the journal. Later
    /// appends and syncs fail with [`ErrorKind::Closed`]; reads still work.
    ///
    /// # Errors
    /// Returns the same errors as [`sync`](Self::sync). The stream is closed anyway.
    pub fn close_fast(&self) -> Result<()> {
        self.inner.close_fast().map_err(|error| error.of_call(Call::Close))
    }
}

/// Name, state and statistics.
impl StreamLog {
    /// The name of the stream in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.shared.location.name()
    }

    /// The durability that the stream was opened with.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.inner.shared.options.durability
    }

    /// The options that the stream was opened with.
    #[must_use]
    pub fn options(&self) -> &StreamOptions {
        &self.inner.shared.options
    }

    /// The report of the last open or [`reopen`](Self::reopen).
    #[must_use]
    pub fn report(&self) -> Arc<OpenReport> {
        self.inner.report.load()
    }

    /// Whether the stream exists: this process or an earlier one has appended to it. It may have no
    /// directory yet if the log has a commit journal.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.inner.exists()
    }

    /// The seq of the first live entry, or of the next append if the stream has none.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.inner.shared.watermarks.start()
    }

    /// The seq of the next append: one past the last accepted entry.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.inner.shared.watermarks.accepted()
    }

    /// One past the last entry that is on stable storage.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.inner.shared.watermarks.durable()
    }

    /// One past the last entry that a reader with this visibility sees.
    #[must_use]
    pub fn end_seq(&self, visibility: Visibility) -> u64 {
        self.inner.end_seq(visibility)
    }

    /// The state of the stream, and what it has done. Opens no file.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`].
    pub fn stats(&self) -> Result<StreamStats> {
        self.inner.stats()
    }

    /// Measures the disk space of the stream. Briefly opens each segment's file. A file that
    /// another thread or process removes at the same time is not counted.
    ///
    /// # Errors
    /// I/O.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        self.inner.disk_usage()
    }
}

/// Writing.
impl StreamLog {
    /// Appends one entry, which may be empty, and returns its seq once the entry has this
    /// durability.
    ///
    /// # Errors
    /// Returns the same errors as [`append_batch`](Self::append_batch).
    pub fn append(&self, entry: &[u8], durability: Durability) -> Result<u64> {
        self.inner.append_one(entry, durability).map_err(|error| error.of_call(Call::Append))
    }

    /// Appends the entries of `batch` and returns their seqs once they have this durability. After
    /// a crash, all entries of a batch exist or none does.
    ///
    /// Calls from many threads share writes and syncs. A batch of more than 1 MiB, counting 4 extra
    /// bytes for each entry, is written from the caller's memory before this returns, even at
    /// [`Durability::Buffered`]. Other appends to this stream wait until it is written.
    ///
    /// An empty batch writes nothing and returns an empty range. It fails only if no append to the
    /// stream can succeed: it is closed, deleted, poisoned, opened for reading, or belongs to a
    /// parent process.
    ///
    /// # Errors
    /// - [`ErrorKind::Poisoned`]: a write or sync has failed. If it failed during this call,
    ///   recovery decides whether the entries are appended; if it failed earlier, the entries are
    ///   not appended.
    /// - Any other error, such as [`ErrorKind::Full`], [`ErrorKind::TooLarge`], or
    ///   [`ErrorKind::Io`] if a new segment could not be created: nothing was appended, and later
    ///   appends may succeed.
    pub fn append_batch(&self, batch: &Batch, durability: Durability) -> Result<Range<u64>> {
        self.inner.append_batch(batch, durability).map_err(|error| error.of_call(Call::Append))
    }

    /// Appends the entries of `batch` if the first of them gets the seq `expected_next_seq`.
    /// Otherwise changes nothing. The seq is compared under the lock under which the entries are
    /// accepted, so of several calls that expect the same seq only one succeeds. Apart from that
    /// like [`append_batch`](Self::append_batch). With an empty batch, only compares.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] with both seqs; nothing was appended. Otherwise returns the same
    /// errors as [`append_batch`](Self::append_batch).
    pub fn append_if(&self, expected_next_seq: u64, batch: &Batch, durability: Durability) -> Result<Range<u64>> {
        let appended = self.inner.append_batch_if(Some(expected_next_seq), batch, durability);
        appended.map_err(|error| error.of_call(Call::Append))
    }

    /// Appends the entries of `batch` without waiting for this durability. The ticket has their
    /// seqs, and completes when [`LogTickets::drive`] has made them durable. `tickets` are those of
    /// the log, the same in each call.
    ///
    /// Waits while there is no room for another ticket, and for the write of a batch of more than
    /// 1 MiB. Apart from that it waits where a [`Durability::Buffered`] append does, except that
    /// it does not write what is buffered.
    ///
    /// # Errors
    /// Those of [`append_batch`](Self::append_batch), for a failure before the entries were
    /// accepted. Later ones are the outcome of the ticket.
    pub fn submit(&self, tickets: &Arc<LogTickets>, batch: &Batch, durability: Durability) -> Result<Ticket> {
        let submitted = self.inner.submit(tickets, batch, durability, NoRoom::Wait);
        submitted.map_err(|error| error.of_call(Call::Append))
    }

    /// Like [`submit`](Self::submit), but refuses where that waits for room.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if there is no room, and [`ErrorKind::TooLarge`] if the batch has more
    /// than 1 MiB; nothing was appended. Otherwise the same errors as [`submit`](Self::submit).
    pub fn try_submit(&self, tickets: &Arc<LogTickets>, batch: &Batch, durability: Durability) -> Result<Ticket> {
        let submitted = self.inner.submit(tickets, batch, durability, NoRoom::Refuse);
        submitted.map_err(|error| error.of_call(Call::Append))
    }

    /// Hands every accepted entry to the operating system, so that it survives the end of this
    /// process.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`]. If an earlier write failed because the disk was full, this recovers
    /// the stream first, as an append does, and fails if the recovery fails.
    pub fn flush(&self) -> Result<()> {
        self.inner.wait_for(Durability::Flushed).map_err(|error| error.of_call(Call::Flush))
    }

    /// Makes every accepted entry durable.
    ///
    /// # Errors
    /// Returns the same errors as [`flush`](Self::flush). If a sync has failed, no later sync
    /// reports its entries as durable unless recovery has found them in between.
    pub fn sync(&self) -> Result<()> {
        self.inner.wait_for(Durability::Synced).map_err(|error| error.of_call(Call::Sync))
    }
}

/// Reading.
impl StreamLog {
    /// Returns entry `seq`, or `None` if `visibility` does not show it yet: it has not been
    /// appended, or is not stable.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] if `seq` is below [`first_seq`](Self::first_seq).
    /// [`ErrorKind::Damaged`], with the entries that are lost. [`ErrorKind::Io`].
    pub fn get(&self, seq: u64, visibility: Visibility) -> Result<Option<Entry>> {
        self.inner.get(seq, visibility)
    }

    /// Returns the entries `seqs` in that order, each as [`get`](Self::get) would. Entries that are
    /// adjacent in `seqs` and in the same frame cost one read.
    ///
    /// An entry of 1 KiB or more shares the memory of the block it was read with; a shorter entry
    /// has its own memory.
    ///
    /// # Errors
    /// Returns the same errors as [`get`](Self::get), for the first seq that fails.
    pub fn get_many(&self, seqs: &[u64], visibility: Visibility) -> Result<Vec<Option<Entry>>> {
        self.inner.get_many(seqs, visibility)
    }

    /// Returns the last entry that `visibility` shows, or `None` if the stream has none.
    ///
    /// # Errors
    /// Returns the same errors as [`get`](Self::get). [`ErrorKind::Truncated`] only if this stream
    /// is opened for reading and a writer in another process has dropped the entry.
    pub fn last(&self, visibility: Visibility) -> Result<Option<Entry>> {
        self.inner.last(visibility)
    }

    /// Returns the entries in `seqs` that `visibility` shows now. A range that extends past the end
    /// of the stream ends there. If the stream is empty or does not exist, the iterator is empty;
    /// nothing is created.
    ///
    /// A range with a lower bound below the first live entry yields [`ErrorKind::Truncated`]; a
    /// range without a lower bound begins at the first live entry. After an error the iterator
    /// ends. Entries of one frame share its memory.
    #[must_use]
    pub fn iter(&self, seqs: impl RangeBounds<u64>, visibility: Visibility) -> Iter {
        Iter::new(&self.inner, &seqs, visibility)
    }

    /// Returns the entries from `from` on that `visibility` shows, and then new ones as they become
    /// visible, each once. See [`Follow`].
    ///
    /// If `from` is above [`next_seq`](Self::next_seq), entries were dropped from the end of the
    /// stream since the caller got this position: the first event is
    /// [`FollowEvent::Cut`](crate::FollowEvent::Cut).
    #[must_use]
    pub fn follow(&self, from: u64, visibility: Visibility) -> Follow {
        Follow::of_stream(&self.inner, from, visibility)
    }

    /// Returns the lowest seq such that its entry and all later entries have a timestamp of
    /// `timestamp` (microseconds since 1970) or later. If there is no such entry, returns the seq
    /// after the last entry that `visibility` shows.
    ///
    /// If the stream's timestamps ever went backwards (see [`Entry::timestamp`]), entries before
    /// the returned seq may have later ones, because the search begins in the newest segment that
    /// begins before `timestamp`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] and [`ErrorKind::Io`]. [`ErrorKind::Truncated`] or [`ErrorKind::Cut`]
    /// only if this stream is opened for reading and a writer in another process has dropped
    /// entries that the search needs.
    pub fn seq_at(&self, timestamp: u64, visibility: Visibility) -> Result<u64> {
        self.inner.seq_at(timestamp, visibility)
    }
}

/// Dropping entries.
impl StreamLog {
    /// Durably drops the entries below `first`: none of them reappears after any crash. Later reads
    /// below `first` fail with [`ErrorKind::Truncated`].
    ///
    /// If `first` is at or below [`first_seq`](Self::first_seq), this does nothing. If `first` is
    /// beyond the end, the stream is empty afterwards, and `first` is the seq of its next entry. A
    /// stream that does not exist is created in that state.
    ///
    /// The disk space of segments that are entirely below `first` is freed. If `first` is the end
    /// of the stream, the space of an active segment of more than 64 KiB is also freed. On a full
    /// disk, this works for any `first` up to the end of the stream.
    ///
    /// Without a commit journal, appends wait until the entries are dropped, but not until their
    /// files are removed, and truncations of one stream run one after the other.
    ///
    /// With a commit journal, and a `first` up to the end, the drop is a record in it, which shares
    /// its sync with appends. No reader sees the entries from the moment at which the record is
    /// put. Appends do not wait. The files are removed later, by the thread that maintains the
    /// journal or by an append that finds the disk full, or before this returns if there is no such
    /// thread. Entries that were not durable stay so.
    ///
    /// # Errors
    /// - [`ErrorKind::Full`]: nothing was dropped.
    /// - [`ErrorKind::Poisoned`]: a write or sync has failed, and recovery decides whether the
    ///   entries are dropped. If [`first_seq`](Self::first_seq) is already `first`, no reader of
    ///   this handle sees them again, and a [`reopen`](Self::reopen) drops them durably; a crash
    ///   before that may keep them.
    /// - [`ErrorKind::Io`]: if [`first_seq`](Self::first_seq) is now `first`, the entries are
    ///   durably dropped, but the file that the error names could not be removed; a later
    ///   truncation or the next open tries again. Otherwise nothing was dropped.
    /// - Otherwise returns the same errors as an append.
    pub fn truncate_before(&self, first: u64) -> Result<()> {
        self.inner.truncate_before(first).map_err(|error| error.of_call(Call::Truncate))
    }

    /// Durably drops the entry `next` and all later ones; `next` is then the seq of the next entry.
    /// This may split a batch. If `next` is the end of the stream, this does nothing.
    ///
    /// Appends wait until the entries are dropped, but not until their files are removed.
    /// Truncations of one stream run one after the other. Iterators created earlier end with
    /// [`ErrorKind::Cut`] when they reach `next`.
    ///
    /// # Errors
    /// - [`ErrorKind::OutOfRange`]: `next` is below the first entry or beyond the end.
    /// - [`ErrorKind::Full`]: nothing was dropped.
    /// - [`ErrorKind::Poisoned`]: a write or sync has failed, and recovery decides whether the
    ///   entries are dropped.
    /// - [`ErrorKind::Io`] with "the entries are dropped" in its text: the entries are durably
    ///   dropped, but the file that the error names could not be removed; a later truncation or the
    ///   next open tries again.
    /// - Otherwise returns the same errors as an append.
    pub fn truncate_from(&self, next: u64) -> Result<()> {
        self.inner.truncate_from(next).map_err(|error| error.of_call(Call::Truncate))
    }

    /// Durably deletes the stream: it does not reappear after any crash, and a stream created later
    /// with the same name shares nothing with it. Returns whether the stream existed. A poisoned
    /// stream can also be deleted.
    ///
    /// Every later call on this stream fails with [`ErrorKind::Missing`], and so do pending
    /// appends. Readers no longer see any entries.
    ///
    /// # Errors
    /// Every failure is a [`DeleteError`].
    pub fn delete(&self) -> std::result::Result<bool, DeleteError> {
        self.inner.delete().map_err(DeleteError::of_call)
    }
}
