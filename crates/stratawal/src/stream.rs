//! A handle on a stream.

use std::ops::{Range, RangeBounds};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stratawal_stream::{Batch, Durability, Entry, Iter, OpenReport, StreamLog, StreamStats, Visibility};

use crate::error::Result;
use crate::slots::SlotUser;

/// A handle on a stream: an append-only sequence of entries, numbered from 0 without gaps.
///
/// Clones are cheap, and all methods may be called from many threads at once. A handle keeps the
/// lock of the log, as a [`Wal`](crate::Wal) does.
///
/// Reads see the entries that are *stable* (see [`Visibility`]) and take no lock of the writer. The
/// *live range* of a handle is from [`first_seq`](Self::first_seq) to one past the last entry that
/// it sees.
///
/// # Appends from many threads
///
/// An append blocks the calling thread until its entry is as durable as the handle promises: at
/// [`Durability::Synced`] for the time of a sync, which is tens of microseconds to many
/// milliseconds, as the disk has it. Threads that append to a stream at the same time share a
/// sync, so many threads append much more per second than one.
///
/// A lock of your own defeats that if a thread holds it during a synced append: then only one
/// thread at a time waits for the disk. Append within the lock without a wait for the disk, and
/// sync after you have released it:
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
///         // In the order of the changes, because the lock is held. This does not wait for the disk.
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
/// Until `sync` returns, other threads may see a balance that is not durable yet. If they must not,
/// let one thread do all appends: it collects requests from a channel into a [`Batch`], appends the
/// batch, and then replies.
#[derive(Clone, Debug)]
pub struct Stream {
    // Dropped before the user, which gives the slot of the stream up with its last handle.
    log: StreamLog,
    /// Shared by clones: they are one user of the stream.
    _user: Arc<SlotUser>,
    durability: Durability,
    visibility: Visibility,
}

impl Stream {
    pub(crate) fn new(log: StreamLog, user: SlotUser) -> Self {
        let durability = log.durability();
        Self { log, _user: Arc::new(user), durability, visibility: Visibility::Stable }
    }

    /// The name of the stream.
    #[must_use]
    pub fn name(&self) -> &str {
        self.log.name()
    }

    /// Returns a handle whose appends are acknowledged at `durability`. The meaning of *stable*
    /// does not change: it is the stream's own.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        Self { durability, ..self.clone() }
    }

    /// Returns a handle that reads with `visibility`.
    #[must_use]
    pub fn with_visibility(&self, visibility: Visibility) -> Self {
        Self { visibility, ..self.clone() }
    }

    /// Whether the stream exists: it was appended to, now or in an earlier process.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.log.exists()
    }

    /// The seq of the first live entry. If there is none, the seq that the next one gets.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.log.first_seq()
    }

    /// The seq that the next append gets: one past the last accepted entry.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.log.next_seq()
    }

    /// One past the last entry that is stable.
    #[must_use]
    pub fn stable_seq(&self) -> u64 {
        self.log.end_seq(Visibility::Stable)
    }

    /// The report of the opening, or of the last [`reopen`](Self::reopen).
    #[must_use]
    pub fn report(&self) -> Arc<OpenReport> {
        self.log.report()
    }

    /// Appends one entry, which may be empty, and returns its seq. Blocks until the entry is
    /// acknowledged at the handle's durability; see [Appends from many
    /// threads](Self#appends-from-many-threads).
    ///
    /// # Errors
    /// As [`append_batch`](Self::append_batch).
    pub fn append(&self, entry: impl AsRef<[u8]>) -> Result<u64> {
        self.log.append(entry.as_ref(), self.durability)
    }

    /// Appends the entries of `batch` and returns their seqs. After any crash all of them exist, or
    /// none. Blocks until they are acknowledged at the handle's durability; see [Appends from many
    /// threads](Self#appends-from-many-threads).
    ///
    /// An empty batch writes nothing and returns an empty range. It fails if no append can succeed
    /// in the state of the stream or of the log.
    ///
    /// A batch of more than 1 MiB (its bytes and 4 for each entry) is written from the caller's
    /// memory before this returns, even at [`Durability::Buffered`]. Other appends to this stream
    /// wait until it is written.
    ///
    /// # Errors
    /// - [`Poisoned`](crate::ErrorKind::Poisoned): a write or sync failed. If it was an earlier
    ///   one, nothing was appended. If it was just now, these entries may or may not exist once
    ///   [`reopen`](Self::reopen) has recovered the stream; if they do, no other entries ever get
    ///   their seqs.
    /// - Any other kind: nothing was appended. [`Full`](crate::ErrorKind::Full);
    ///   [`TooLarge`](crate::ErrorKind::TooLarge); [`Closed`](crate::ErrorKind::Closed);
    ///   [`ReadOnly`](crate::ErrorKind::ReadOnly); [`Io`](crate::ErrorKind::Io) if a new segment
    ///   file could not be created.
    pub fn append_batch(&self, batch: &Batch) -> Result<Range<u64>> {
        self.log.append_batch(batch, self.durability)
    }

    /// Writes everything accepted so far to the operating system, whichever handle it was appended
    /// with.
    ///
    /// # Errors
    /// [`Poisoned`](crate::ErrorKind::Poisoned), [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn flush(&self) -> Result<()> {
        self.log.flush()
    }

    /// Makes everything accepted so far durable, whichever handle it was appended with. Threads
    /// that call this at the same time share a sync.
    ///
    /// # Errors
    /// [`Poisoned`](crate::ErrorKind::Poisoned), [`ReadOnly`](crate::ErrorKind::ReadOnly). After a
    /// sync has failed, no later one reports its entries as durable.
    pub fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    /// Drops the entries below `first`, durably: none of them comes back after any crash. Removes
    /// the segment files that hold nothing else. Does nothing if `first` is at or below
    /// [`first_seq`](Self::first_seq). If it is above the end, the stream is empty afterwards, and
    /// its next entry gets `first`; a stream that does not exist is created so.
    ///
    /// On a full disk this works up to the end of the stream. From then on reads below `first` fail
    /// with [`Truncated`](crate::ErrorKind::Truncated). An iterator that is below `first` reads to
    /// the end of the file it has open, and then fails so, too.
    ///
    /// Appends wait until the truncation is durable, and not for the removal of files. Truncations
    /// of one stream run one after the other.
    ///
    /// # Errors
    /// - [`Full`](crate::ErrorKind::Full): nothing was dropped.
    /// - [`Poisoned`](crate::ErrorKind::Poisoned): a write or sync failed. The entries may or may
    ///   not be dropped once [`reopen`](Self::reopen) has recovered the stream.
    /// - [`Io`](crate::ErrorKind::Io): the text states whether the entries are dropped. If they
    ///   are, they are so durably, and a file that the text names could not be removed; a later
    ///   truncation or the next opening tries again to free its space. If the text does not state
    ///   it, nothing was dropped.
    /// - Other kinds as [`append_batch`](Self::append_batch).
    pub fn truncate_before(&self, first: u64) -> Result<()> {
        self.log.truncate_before(first)
    }

    /// Drops the entry `next` and all after it, durably. [`next_seq`](Self::next_seq) is then
    /// `next`, and later appends give these seqs to other entries. This may cut a batch in two. At
    /// the end of the stream it does nothing.
    ///
    /// Removes the segment files that hold nothing else. The file that `next` is in keeps its
    /// length until [`truncate_before`](Self::truncate_before) passes it.
    ///
    /// Appends wait until the entries are dropped, and not for the removal of files. Entries whose
    /// durability a thread waits for become durable first. An iterator made before ends with
    /// [`Cut`](crate::ErrorKind::Cut) once it is at or after `next`.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) if `next` is below the first entry or above the
    /// end. Otherwise as [`truncate_before`](Self::truncate_before).
    pub fn truncate_from(&self, next: u64) -> Result<()> {
        self.log.truncate_from(next)
    }

    /// Recovers a poisoned stream, as opening the log again would. Does nothing on a healthy one.
    ///
    /// Entries that were accepted and not yet written are kept, and written by the next flush.
    /// Entries that were written and not synced may be lost if a sync has failed, and with them all
    /// later ones.
    ///
    /// # In a log opened for reading
    ///
    /// This looks at the stream again. A look reads only the entries that have come since the last
    /// one. It takes some microseconds if there are none, so a program may poll. Other threads see
    /// the state before the look or the state after it. Entries and iterators that they have stay
    /// valid.
    ///
    /// A look does not notice damage to entries that an earlier one has found valid. Reading them
    /// reports it, and so does the next [`open_read_only`](crate::Options::open_read_only).
    ///
    /// A look may find that the end of the stream was dropped and appended to again, or that the
    /// stream was deleted and created anew. Iterators that were made before report that as
    /// [`Cut`](crate::ErrorKind::Cut). A program that only remembers the seq it has come to does not
    /// notice: the seqs below may belong to other entries.
    ///
    /// # Errors
    /// As [`Wal::stream`](crate::Wal::stream). The stream then stays as it was, and its calls
    /// continue to report this error.
    pub fn reopen(&self) -> Result<()> {
        self.log.reopen()
    }

    /// Returns the entry `seq`, or `None` if the handle does not see it yet. Within the live range
    /// the result is an entry or an error, never `None`.
    ///
    /// # Errors
    /// [`Truncated`](crate::ErrorKind::Truncated) below [`first_seq`](Self::first_seq);
    /// [`Damaged`](crate::ErrorKind::Damaged); I/O.
    pub fn get(&self, seq: u64) -> Result<Option<Entry>> {
        self.log.get(seq, self.visibility)
    }

    /// Returns the entries `seqs`, in that order. Entries that are neighbours in `seqs` and in the
    /// same frame cost one read, so sorted seqs are cheapest.
    ///
    /// An entry of less than 1 KiB has memory of its own. A longer one keeps the memory that was
    /// read with it: 4 to 8 KiB.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first seq that fails.
    pub fn get_many(&self, seqs: &[u64]) -> Result<Vec<Option<Entry>>> {
        self.log.get_many(seqs, self.visibility)
    }

    /// Returns the last entry, or `None` if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn last(&self) -> Result<Option<Entry>> {
        self.log.last(self.visibility)
    }

    /// Returns an iterator over the entries in `seqs`, from both ends. Its end is fixed now: a
    /// range that reaches further ends there. If the stream is empty or does not exist, so is the
    /// iterator, and nothing is created.
    ///
    /// A range with a lower bound below [`first_seq`](Self::first_seq) yields one error,
    /// [`Truncated`](crate::ErrorKind::Truncated). The range `..` begins at the first live entry.
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

    /// Returns the first seq from which on all entries have a timestamp of `time` or later. If
    /// there is no such entry, returns one past the last entry. With [`iter`](Self::iter) this
    /// reads from a time on.
    ///
    /// If the times of the stream have fallen back (see
    /// [`Entry::timestamp`](crate::Entry::timestamp)), entries before that may have later times.
    ///
    /// # Errors
    /// [`Damaged`](crate::ErrorKind::Damaged); I/O.
    pub fn seq_at(&self, time: SystemTime) -> Result<u64> {
        // Rounded up: an entry's timestamp is in whole microseconds.
        let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let micros = u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX);
        self.log.seq_at(micros, self.visibility)
    }

    /// Returns how much the stream holds. Opens the file of each segment for a moment.
    ///
    /// # Errors
    /// I/O.
    pub fn stats(&self) -> Result<StreamStats> {
        self.log.stats()
    }
}
