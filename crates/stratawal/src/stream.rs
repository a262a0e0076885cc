//! A handle on a stream.

use std::ops::{Range, RangeBounds};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stratawal_stream::{
    Batch, DiskUsage, Durability, Entry, Iter, OpenReport, StreamLog, StreamStats, Ticket, Visibility,
};

use crate::error::Result;
use crate::follow::Follow;
use crate::slots::SlotUser;

/// A handle on a stream: an append-only sequence of entries, numbered from 0 without gaps.
///
/// Clones are cheap, and all methods may be called from many threads at once. A handle keeps the
/// log locked, like a [`Wal`](crate::Wal).
///
/// Reads see the entries that are *stable* (see [`Visibility`]) and never take the writer's lock.
/// The *live range* of a handle is from [`first_seq`](Self::first_seq) to one past the last entry
/// that it sees.
///
/// [`follow`](Self::follow) returns the entries and then waits for new ones, in the process that
/// writes and in others. Every other call returns what exists.
///
/// # Appends from many threads
///
/// An append blocks the calling thread until its entry is as durable as the handle promises: at
/// [`Durability::Synced`] for the time of a sync, which is tens of microseconds to many
/// milliseconds, depending on the disk. Threads that append to a stream at the same time share a
/// sync, so many threads together append far more per second than one.
///
/// A lock of your own defeats this if a thread holds it during a synced append: then only one
/// thread at a time waits for the disk. Instead, append under the lock without waiting for the
/// disk, and sync after releasing it:
///
/// ```
/// use std::sync::Mutex;
/// use stratawal::{Durability, Stream};
///
/// struct Ledger {
///     balance: Mutex<i64>,
///     entries: Stream,
/// }
///
/// impl Ledger {
///     fn new(entries: &Stream) -> Self {
///         Self { balance: Mutex::new(0), entries: entries.with_durability(Durability::Buffered) }
///     }
///
///     /// Adds `amount`. It is durable when this returns.
///     fn add(&self, amount: i64) -> stratawal::Result<()> {
///         let mut balance = self.balance.lock().unwrap();
///         // The lock keeps the entries in the order of the changes. This does not wait for the disk.
///         self.entries.append(amount.to_le_bytes())?;
///         *balance += amount;
///         drop(balance);
///         // All threads that are here at the same time share one sync.
///         self.entries.sync()
///     }
/// }
/// # let dir = tempfile::tempdir()?;
/// # let ledger = Ledger::new(&stratawal::Wal::open(dir.path())?.stream("ledger")?);
/// # ledger.add(5)?;
/// # assert_eq!(ledger.entries.stable_seq(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Until `sync` returns, other threads may see a balance that is not durable yet. If that is not
/// acceptable, let one thread do all appends: it collects requests from a channel into a [`Batch`],
/// appends the batch, and then replies.
///
/// # Tickets
///
/// [`submit`](Self::submit) does not wait for the disk. It gives the entries their seqs and returns
/// a [`Ticket`], which completes once they have the handle's durability. A thread can thus keep
/// many appends in flight, and an async service never blocks the threads of its runtime. Tickets
/// share syncs as threads do: while one sync runs, new tickets gather for the next.
///
/// ```
/// use stratawal::Batch;
///
/// # let dir = tempfile::tempdir()?;
/// # let wal = stratawal::Wal::open(dir.path())?;
/// let orders = wal.stream("orders")?;
/// let apple = orders.submit(&Batch::from_iter(["one apple"]))?;
/// let pears = orders.submit(&Batch::from_iter(["two pears"]))?;
/// pears.on_done(|outcome| println!("durable: {outcome:?}"));
/// // Or `apple.await?` in an async function.
/// assert_eq!(apple.wait()?, 0..1);
/// # wal.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The first submit starts two threads of the log: one writes and syncs, the other calls callbacks.
/// Closing the log stops them, once every ticket is complete and every callback has returned.
/// [`Options::maintenance_thread`](crate::Options::maintenance_thread) forbids them, and submits.
///
/// Other threads may see the entries of a ticket before it completes, as they see those of an
/// append that is waiting: [`next_seq`](Self::next_seq) counts them, and [`Visibility::Accepted`]
/// shows them.
///
/// A ticket takes about 100 bytes until it completes, in addition to its entries. At most 131,072
/// tickets of a log are in flight, and their entries have at most 64 MiB.
#[derive(Clone, Debug)]
pub struct Stream {
    // Dropped before the user, which releases the stream's slot with the last handle.
    log: StreamLog,
    /// Shared by all clones, which together are one user of the stream.
    user: Arc<SlotUser>,
    durability: Durability,
    visibility: Visibility,
}

impl Stream {
    pub(crate) fn new(log: StreamLog, user: SlotUser) -> Self {
        let durability = log.durability();
        Self { log, user: Arc::new(user), durability, visibility: Visibility::Stable }
    }

    pub(crate) const fn log(&self) -> &StreamLog {
        &self.log
    }

    /// Returns the name of the stream.
    #[must_use]
    pub fn name(&self) -> &str {
        self.log.name()
    }

    /// Returns a handle whose appends are acknowledged at `durability`. This does not change which
    /// entries are *stable*: that depends on the stream's own durability.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        Self { durability, ..self.clone() }
    }

    /// Returns a handle that reads with `visibility`.
    #[must_use]
    pub fn with_visibility(&self, visibility: Visibility) -> Self {
        Self { visibility, ..self.clone() }
    }

    /// Returns whether the stream exists: it was appended to, by this process or an earlier one.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.log.exists()
    }

    /// Returns the seq of the first live entry, or the seq of the next append if there is none.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.log.first_seq()
    }

    /// Returns the seq that the next append gets: one past the last accepted entry.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.log.next_seq()
    }

    /// Returns one past the seq of the last stable entry.
    #[must_use]
    pub fn stable_seq(&self) -> u64 {
        self.log.end_seq(Visibility::Stable)
    }

    /// Returns the report of the last [`reopen`](Self::reopen), or of the opening if there was
    /// none.
    #[must_use]
    pub fn report(&self) -> Arc<OpenReport> {
        self.log.report()
    }

    /// Appends one entry, which may be empty, and returns its seq. Blocks until the entry is
    /// acknowledged at the handle's durability; see [Appends from many
    /// threads](Self#appends-from-many-threads).
    ///
    /// # Errors
    /// Same as [`append_batch`](Self::append_batch).
    pub fn append(&self, entry: impl AsRef<[u8]>) -> Result<u64> {
        self.log.append(entry.as_ref(), self.durability)
    }

    /// Appends the entries of `batch` and returns their seqs. After any crash either all of them
    /// exist or none do. Blocks until they are acknowledged at the handle's durability; see
    /// [Appends from many threads](Self#appends-from-many-threads).
    ///
    /// An empty batch writes nothing and returns an empty range. It fails if the stream or the log
    /// is in a state in which every append fails.
    ///
    /// A batch of more than 1 MiB (its bytes plus 4 for each entry) is written from the caller's
    /// memory before this returns, even at [`Durability::Buffered`]. Other appends to this stream
    /// wait until it is written.
    ///
    /// # Errors
    /// - [`Poisoned`](crate::ErrorKind::Poisoned): a write or sync failed. If it failed before this
    ///   call, nothing was appended. If it failed during this call, these entries may or may not
    ///   exist once [`reopen`](Self::reopen) has recovered the stream; if they do, no other entries
    ///   ever get their seqs.
    /// - Any other kind: nothing was appended. Among these are
    ///   [`Full`](crate::ErrorKind::Full), [`TooLarge`](crate::ErrorKind::TooLarge),
    ///   [`Closed`](crate::ErrorKind::Closed), [`ReadOnly`](crate::ErrorKind::ReadOnly), and, if a
    ///   new segment file could not be created, [`Io`](crate::ErrorKind::Io).
    pub fn append_batch(&self, batch: &Batch) -> Result<Range<u64>> {
        self.log.append_batch(batch, self.durability)
    }

    /// Appends the entries of `batch` if the first of them gets the seq `expected_next_seq`;
    /// otherwise changes nothing. Apart from that like [`append_batch`](Self::append_batch).
    ///
    /// The seq is compared under the lock under which the entries are accepted. So of several
    /// threads that expect the same seq one succeeds, and the others get
    /// [`Conflict`](crate::ErrorKind::Conflict). The entry that took the seq may not be durable yet.
    /// An empty batch only compares.
    ///
    /// # When the outcome is unknown
    ///
    /// If a call failed with [`Poisoned`](crate::ErrorKind::Poisoned), or the process died in it,
    /// the entries may or may not exist. To append them exactly once, repeat the call with the same
    /// seq. A conflict then means that the entries exist, or that other entries have their seqs,
    /// and the entry at the seq shows which. So each entry needs bytes that no other entry has,
    /// such as a random id. The entry must not be dropped before the outcome is known.
    ///
    /// ```
    /// use stratawal::{Batch, ErrorKind, Stream};
    ///
    /// /// Appends `event`, which has a unique id, as the entry `seq`. Returns whether the stream has
    /// /// it, or false if another entry has this seq. May be called again after any error, and after
    /// /// the process was killed.
    /// fn append_once(stream: &Stream, seq: u64, event: &[u8]) -> stratawal::Result<bool> {
    ///     // Recovers the stream if an earlier attempt has poisoned it.
    ///     stream.reopen()?;
    ///     let batch: Batch = [event].into_iter().collect();
    ///     match stream.append_if(seq, &batch) {
    ///         Ok(_) => Ok(true),
    ///         Err(error) => match error.kind() {
    ///             ErrorKind::Conflict { next_seq, .. } if next_seq > seq => {
    ///                 // An earlier attempt may have left the entry in memory.
    ///                 stream.sync()?;
    ///                 Ok(stream.get(seq)?.is_some_and(|entry| entry.data() == event))
    ///             }
    ///             _ => Err(error),
    ///         },
    ///     }
    /// }
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = stratawal::Wal::open(dir.path())?;
    /// # let stream = wal.stream("orders")?;
    /// let seq = stream.next_seq();
    /// assert!(append_once(&stream, seq, b"id 7: one apple")?);
    /// // A second attempt finds the entry.
    /// assert!(append_once(&stream, seq, b"id 7: one apple")?);
    /// assert_eq!(stream.next_seq(), seq + 1);
    /// // Another writer was late.
    /// assert!(!append_once(&stream, seq, b"id 8: two pears")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) with both seqs; nothing was appended. If its
    /// `next_seq` is below the expected one, entries that this process saw were not durable and are
    /// lost, or they were dropped. Otherwise the same errors as
    /// [`append_batch`](Self::append_batch).
    pub fn append_if(&self, expected_next_seq: u64, batch: &Batch) -> Result<Range<u64>> {
        self.log.append_if(expected_next_seq, batch, self.durability)
    }

    /// Appends the entries of `batch` without waiting until they have the handle's durability.
    /// Returns a [`Ticket`], which has their seqs at once, and the outcome later: see
    /// [Tickets](Self#tickets).
    ///
    /// An empty batch gives a complete ticket. Otherwise everything that
    /// [`append_batch`](Self::append_batch) states about batches, threads and crashes holds.
    ///
    /// # Where this waits
    /// - While 131,072 tickets of the log are in flight, or the entries of those tickets have
    ///   64 MiB (their bytes plus 4 for each). It does not wait for that in a callback or a waker
    ///   of a ticket, but refuses with [`Busy`](crate::ErrorKind::Busy).
    /// - For the write of a batch of more than 1 MiB, but not for its sync.
    /// - Where [`try_submit`](Self::try_submit) does.
    ///
    /// # Errors
    /// Those of [`append_batch`](Self::append_batch), for failures before the entries are accepted:
    /// nothing was appended, except that a batch of more than 1 MiB may or may not exist after
    /// [`Poisoned`](crate::ErrorKind::Poisoned). Later failures are the outcome of the ticket. Also
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) if the log was opened with
    /// [`maintenance_thread(false)`](crate::Options::maintenance_thread), and
    /// [`Io`](crate::ErrorKind::Io) if a thread could not be started.
    pub fn submit(&self, batch: &Batch) -> Result<Ticket> {
        self.log.submit(self.user.wal().tickets(self.name())?, batch, self.durability)
    }

    /// Like [`submit`](Self::submit), but refuses where that waits for room. So it may be called by
    /// the threads of an async runtime. If it refuses, await an earlier ticket and try again, or
    /// call `submit` in a thread that may block.
    ///
    /// # Where this waits
    /// For no sync that other appends wait for, and for no write of theirs. It waits where
    /// every append does:
    /// - for another append that copies its entries, or writes a batch of more than 1 MiB;
    /// - once for each segment, while its file is created. At that time it also waits for a write
    ///   or sync of the stream's files that is under way, and syncs finished segments beyond
    ///   [`StreamOptions::unsynced_bytes_max`](crate::StreamOptions::unsynced_bytes_max). With a
    ///   [journal](crate::Options::journal), a new stream creates its directory after 64 KiB;
    /// - for a truncation of the end, and for a recovery;
    /// - for a system call that writes to the journal, once in 32 KiB, if the journal is not
    ///   [mapped](crate::Options::journal_mapped).
    ///
    /// # Errors
    /// [`Busy`](crate::ErrorKind::Busy) if there is no room, and
    /// [`TooLarge`](crate::ErrorKind::TooLarge) if the batch has more than 1 MiB; nothing was
    /// appended. Otherwise the same errors as [`submit`](Self::submit).
    pub fn try_submit(&self, batch: &Batch) -> Result<Ticket> {
        self.log.try_submit(self.user.wal().tickets(self.name())?, batch, self.durability)
    }

    /// Writes everything accepted so far to the operating system, through whichever handle it was
    /// appended.
    ///
    /// # Errors
    /// [`Poisoned`](crate::ErrorKind::Poisoned); [`Closed`](crate::ErrorKind::Closed) after
    /// [`close`](Self::close) or [`close_fast`](crate::Wal::close_fast);
    /// [`Missing`](crate::ErrorKind::Missing) if the stream was deleted;
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly); [`Forked`](crate::ErrorKind::Forked).
    pub fn flush(&self) -> Result<()> {
        self.log.flush()
    }

    /// Makes everything accepted so far durable, through whichever handle it was appended. Threads
    /// that call this at the same time share a sync.
    ///
    /// # Errors
    /// Same as [`flush`](Self::flush). After a failed sync, no later sync reports the same entries
    /// as durable.
    pub fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    /// Makes everything accepted durable in the stream's own files, closes them, and frees the
    /// memory and the descriptors that the stream holds. The log stays open, and the next
    /// [`look-up`](crate::Wal::stream) of the name opens the stream again, with options of its own
    /// if it likes. Use this for a stream that is not needed for a long time, in a log of many.
    ///
    /// The close is for all handles: afterwards their appends, reads and syncs fail with
    /// [`Closed`](crate::ErrorKind::Closed), and so does the next step of an iterator. A
    /// [`Follow`](crate::Follow) ends as soon as the stream is closed, with or without entries that it
    /// has not returned (when the log is closed, it ends after every entry was returned). A
    /// [`FollowPrefix`](crate::FollowPrefix) opens the stream again if it has such entries.
    /// [`next_seq`](Self::next_seq) and the like return what they returned last. An append that
    /// runs at the same time is either acknowledged, and then durable, or fails with `Closed` and
    /// has appended nothing. A look-up that runs at the same time waits for the close. Closing
    /// again does nothing, and neither does closing a handle on a deleted stream; the stream that
    /// was looked up since stays open. In a log opened for reading, this closes the handles of one
    /// look-up.
    ///
    /// It takes two syncs if the stream was written since it was last closed. Each handle keeps
    /// about 1 KiB until it is dropped, and an iterator keeps the file and the block that it reads.
    ///
    /// # Errors
    /// If the entries cannot be made durable, for example
    /// [`Poisoned`](crate::ErrorKind::Poisoned) or [`Full`](crate::ErrorKind::Full). Then the stream
    /// stays open and nothing is lost: handles and look-ups find it as it is, with its buffered
    /// entries. A poisoned stream is recovered by [`reopen`](Self::reopen); then close it again.
    /// While such a close runs, appends may be refused with `Closed`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = stratawal::Wal::open(dir.path())?;
    /// let session = wal.stream("session/17")?;
    /// session.append("hello")?;
    /// session.close()?;
    /// assert_eq!(session.append("?").unwrap_err().kind(), stratawal::ErrorKind::Closed);
    /// // Days later:
    /// assert_eq!(wal.stream("session/17")?.append("hello again")?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) -> Result<()> {
        self.user.close(&self.log)
    }

    /// Durably drops the entries below `first`: no crash brings them back. Removes the segment
    /// files that hold nothing else. Does nothing if `first` is at or below
    /// [`first_seq`](Self::first_seq). If `first` is above the end, the stream becomes empty and
    /// its next entry gets `first`; if the stream does not exist, it is created in that state.
    /// So compare a number that comes from elsewhere with [`next_seq`](Self::next_seq) first: one
    /// that is too high drops every entry.
    ///
    /// This may cut a batch in two. Nothing marks the first entry that is left of it.
    ///
    /// On a full disk this works for any `first` up to the end of the stream. Afterwards, reads
    /// below `first` fail with [`Truncated`](crate::ErrorKind::Truncated). An iterator that is
    /// below `first` reads to the end of the file it has open, and then fails with the same error.
    ///
    /// # Cost
    /// Without a [journal](crate::Options::journal), this syncs the stream's files. Appends wait
    /// until the truncation is durable, but not for the removal of files. Truncations of one stream
    /// run one after the other.
    ///
    /// With a journal, and a `first` up to the end, this is one record in the journal, and shares
    /// its sync with appends, which do not wait for it. Other threads see the new
    /// [`first_seq`](Self::first_seq) a moment before the truncation is durable. The segment files
    /// are synced and removed only when a whole one is dropped: by the
    /// [maintenance thread](crate::Options::maintenance_thread), soon after this returns, or by an
    /// append that finds the disk full before that, or by this call if there is no such thread. A
    /// truncation beyond the end makes every entry durable in the segment files first, and appends
    /// wait for it.
    ///
    /// # Errors
    /// - [`Full`](crate::ErrorKind::Full): nothing was dropped.
    /// - [`Poisoned`](crate::ErrorKind::Poisoned): a write or sync failed. The entries may or may
    ///   not be dropped once [`reopen`](Self::reopen) has recovered the stream. If
    ///   [`first_seq`](Self::first_seq) is already `first`, they will be; only a crash before that
    ///   may keep them.
    /// - [`Io`](crate::ErrorKind::Io): if the text states that the entries are dropped, this is
    ///   durable, and only the removal of a file that the text names has failed; a later truncation
    ///   or the next opening tries again to free its space. Otherwise nothing was dropped.
    /// - The other errors of [`append_batch`](Self::append_batch).
    pub fn truncate_before(&self, first: u64) -> Result<()> {
        self.log.truncate_before(first)
    }

    /// Durably drops the entry `next` and all after it. [`next_seq`](Self::next_seq) is then
    /// `next`, and later appends give these seqs to other entries. This may cut a batch in two; the
    /// last entry that is left of it then [ends the batch](crate::Entry::ends_batch). If `next` is
    /// the end of the stream, it does nothing.
    ///
    /// Removes the segment files that hold nothing else. The file that contains `next` keeps its
    /// length until [`truncate_before`](Self::truncate_before) passes it.
    ///
    /// Appends wait until the entries are dropped, but not for the removal of files. Entries whose
    /// durability a thread is waiting for become durable first. An iterator created before the call
    /// ends with [`Cut`](crate::ErrorKind::Cut) once it is at or after `next`.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) if `next` is below the first entry or above the
    /// end. Otherwise the same errors as [`truncate_before`](Self::truncate_before).
    pub fn truncate_from(&self, next: u64) -> Result<()> {
        self.log.truncate_from(next)
    }

    /// Recovers a poisoned stream, as opening the log again would. Does nothing to a healthy one.
    ///
    /// Entries that were accepted but not yet written are kept, and the next flush writes them. If
    /// a sync has failed, entries that were written but not synced may be lost, along with all
    /// later ones.
    ///
    /// # In a log opened for reading
    ///
    /// This looks at the stream again. A look reads only the entries appended since the last look.
    /// If there are none it takes some microseconds, so a program may poll. Other threads see
    /// either the state before the look or the state after it; their entries and iterators stay
    /// valid.
    ///
    /// A look does not notice damage to entries that an earlier look found valid. Reading those
    /// entries reports the damage, and so does the next
    /// [`open_read_only`](crate::Options::open_read_only).
    ///
    /// A look may find that the end of the stream was dropped and appended to again, or that the
    /// stream was deleted and created anew. Iterators created before the look report that as
    /// [`Cut`](crate::ErrorKind::Cut). An iterator over entries that were only in the journal may
    /// report that, or [`Truncated`](crate::ErrorKind::Truncated), too early: for any entry that
    /// was acknowledged together with a dropped one. After another look, a new iterator reads it. A
    /// program that only remembers the seq it has reached does not notice a cut, although the seqs
    /// below may now belong to other entries.
    ///
    /// # Errors
    /// Same as [`Wal::stream`](crate::Wal::stream). After an error the stream stays as it was, and
    /// its calls continue to report this error.
    pub fn reopen(&self) -> Result<()> {
        self.log.reopen()
    }

    /// Returns the entry `seq`, or `None` if the handle does not see it yet. Within the live range
    /// it returns an entry or an error, never `None`.
    ///
    /// # Errors
    /// [`Truncated`](crate::ErrorKind::Truncated) below [`first_seq`](Self::first_seq);
    /// [`Damaged`](crate::ErrorKind::Damaged); any operating-system error.
    pub fn get(&self, seq: u64) -> Result<Option<Entry>> {
        self.log.get(seq, self.visibility)
    }

    /// Returns the entries `seqs`, in that order. Consecutive seqs in the same frame cost one read,
    /// so sorted seqs are cheapest.
    ///
    /// An entry of less than 1 KiB has its own memory. A longer entry keeps the whole block of
    /// memory that it was read into: 4 to 8 KiB.
    ///
    /// # Errors
    /// Same as [`get`](Self::get), for the first seq that fails.
    pub fn get_many(&self, seqs: &[u64]) -> Result<Vec<Option<Entry>>> {
        self.log.get_many(seqs, self.visibility)
    }

    /// Returns the last entry, or `None` if there is none.
    ///
    /// # Errors
    /// Same as [`get`](Self::get).
    pub fn last(&self) -> Result<Option<Entry>> {
        self.log.last(self.visibility)
    }

    /// Returns an iterator over the entries in `seqs`, usable from both ends. It ends at the latest
    /// where the visible entries end at the time of this call. If the stream is empty or does not
    /// exist, the iterator is empty, and nothing is created.
    ///
    /// A range with a lower bound below [`first_seq`](Self::first_seq) yields one error,
    /// [`Truncated`](crate::ErrorKind::Truncated). The range `..` begins at the first live entry. A
    /// range with a lower bound above the end yields nothing, and no error. So a program that keeps
    /// a position compares it with [`next_seq`](Self::next_seq) before it reads from there: if the
    /// position is higher, entries were dropped, and their seqs will be given to new ones.
    ///
    /// The visible entries never end in the middle of a batch, unless
    /// [`truncate_from`](Self::truncate_from) cut that batch. The bounds of `seqs` may.
    ///
    /// After an error the iterator ends. If the error is damage and [`Error::lost`] returns the
    /// range of the lost entries, continue with `iter(lost.end..)`; otherwise use
    /// [`inspect::salvage`](crate::inspect::salvage).
    ///
    /// [`Error::lost`]: crate::Error::lost
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let stream = stratawal::Wal::open(dir.path())?.stream("s")?;
    /// for i in 0..5 {
    ///     stream.append([i])?;
    /// }
    /// let seqs = |iter: stratawal::Iter| iter.map(|e| e.map(|e| e.seq())).collect::<Result<Vec<_>, _>>();
    /// assert_eq!(seqs(stream.iter(1..3))?, [1, 2]);
    /// assert_eq!(stream.iter(..).next_back().transpose()?.map(|e| e.seq()), Some(4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn iter(&self, seqs: impl RangeBounds<u64>) -> Iter {
        self.log.iter(seqs, self.visibility)
    }

    /// Returns the visible entries from `from` on, and then new ones as they become visible, each
    /// once. See [`Follow`].
    ///
    /// If `from` is below [`first_seq`](Self::first_seq), the first event is
    /// [`Truncated`](crate::FollowEvent::Truncated). If it is above [`next_seq`](Self::next_seq),
    /// the entries below it were dropped since the caller got it, and the first event is
    /// [`Cut`](crate::FollowEvent::Cut). So `follow(stream.next_seq())` returns only new entries.
    ///
    /// A stream that does not exist is followed from its first append. In a log opened for reading,
    /// this looks at the stream anew, and waits for a stream that does not exist yet.
    ///
    /// ```
    /// use stratawal::{FollowEvent, Wal};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let wal = Wal::open(dir.path())?;
    /// let orders = wal.stream("orders")?;
    /// orders.append("one apple")?;
    ///
    /// let follow = orders.follow(0);
    /// let consumer = std::thread::spawn(move || -> stratawal::Result<u64> {
    ///     let mut bytes = 0;
    ///     for event in follow {
    ///         match event? {
    ///             FollowEvent::Entry(entry) => bytes += entry.data().len() as u64,
    ///             other => println!("{other:?}"),
    ///         }
    ///     }
    ///     Ok(bytes)
    /// });
    /// orders.append("two pears")?;
    /// // The consumer gets all entries, and then ends.
    /// wal.close()?;
    /// assert_eq!(consumer.join().unwrap()?, 18);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn follow(&self, from: u64) -> Follow {
        Follow::new(self.log.follow(from, self.visibility), self)
    }

    /// Returns the first seq such that its entry and all later ones have a timestamp of `time` or
    /// later. If there is no such entry, returns one past the last entry. Use it with
    /// [`iter`](Self::iter) to read from a given time.
    ///
    /// If the stream's timestamps ever went backwards (see
    /// [`Entry::timestamp`](crate::Entry::timestamp)), entries before the returned seq may have
    /// later ones.
    ///
    /// # Errors
    /// [`Damaged`](crate::ErrorKind::Damaged); any operating-system error.
    pub fn seq_at(&self, time: SystemTime) -> Result<u64> {
        // Rounded up, because an entry's timestamp is in whole microseconds.
        let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let micros = u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX);
        self.log.seq_at(micros, self.visibility)
    }

    /// Returns the state of the stream, and what it has done since it was opened. Opens no file,
    /// and takes less than a microsecond, unless an append that writes to the files holds the
    /// stream's lock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let stream = stratawal::Wal::open(dir.path())?.stream("s")?;
    /// stream.append("an entry")?;
    /// let stats = stream.stats()?;
    /// assert_eq!((stats.next_seq, stats.durable_seq), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Only [`Forked`](crate::ErrorKind::Forked): a forked child does not wait for a lock.
    pub fn stats(&self) -> Result<StreamStats> {
        self.log.stats()
    }

    /// Measures the disk space of the stream. Briefly opens each segment's file; a file that is
    /// removed at the same time is not counted.
    ///
    /// # Errors
    /// Any operating-system error.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        self.log.disk_usage()
    }
}
