//! A handle on a stream.

use std::ops::{Range, RangeBounds};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stratawal_stream::{Batch, Durability, Entry, Iter, OpenReport, StreamLog, StreamStats, Visibility};

use crate::error::Result;
use crate::slots::SlotUser;

/// A handle on a stream: an append-only sequence of entries, numbered from 0 without gaps.
///
/// Clones are cheap, and all methods may be called from many threads at once. Reads see what is
/// *settled* (see
/// [`Visibility`]) and take no lock of the writer's; "the live range" of a handle is from [`first_seq`](Self::first_seq)
/// to one past the last entry visible to it.
#[derive(Clone, Debug)]
pub struct Stream {
    // Before the user, which gives the stream up if this was the last handle on it.
    log: StreamLog,
    /// What clones share: they are one user of the stream.
    _user: Arc<SlotUser>,
    durability: Durability,
    visibility: Visibility,
}

impl Stream {
    pub(crate) fn new(log: StreamLog, user: SlotUser) -> Self {
        let durability = log.durability();
        Self { log, _user: Arc::new(user), durability, visibility: Visibility::Stable }
    }

    /// The name it was looked up by.
    #[must_use]
    pub fn name(&self) -> &str {
        self.log.name()
    }

    /// A handle whose appends are acknowledged at `durability`. What *settled* means stays the
    /// stream's own.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        Self { durability, ..self.clone() }
    }

    /// A handle that reads with `visibility`.
    #[must_use]
    pub fn with_visibility(&self, visibility: Visibility) -> Self {
        Self { visibility, ..self.clone() }
    }

    /// Whether the stream is there: it has been appended to, now or in an earlier process.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.log.exists()
    }

    /// The seq of the first live entry, or of the one that would be.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.log.first_seq()
    }

    /// The seq that the next append gets: one past the last entry accepted.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.log.next_seq()
    }

    /// One past the last entry that is settled.
    #[must_use]
    pub fn stable_seq(&self) -> u64 {
        self.log.end_seq(Visibility::Stable)
    }

    /// What opening (or the last [`reopen`](Self::reopen)) found and did.
    #[must_use]
    pub fn report(&self) -> Arc<OpenReport> {
        self.log.report()
    }

    /// Appends one entry, which may be empty, and answers its seq once it is acknowledged at the
    /// handle's durability.
    ///
    /// # Errors
    /// As [`append_batch`](Self::append_batch).
    pub fn append(&self, entry: impl AsRef<[u8]>) -> Result<u64> {
        self.log.append(entry.as_ref(), self.durability)
    }

    /// Appends the entries of `batch`, which are all there after any crash or none, and answers
    /// their seqs once they are acknowledged at the handle's durability. An empty batch writes
    /// nothing and returns an empty range; it fails where an append cannot succeed because of the
    /// state of the stream or of the log.
    ///
    /// A batch of more than 1 MiB, its bytes and 4 for each entry, is written from the memory of
    /// the caller before this returns, also at
    /// [`Durability::Buffered`](crate::Durability::Buffered). Other appends to this stream wait
    /// until it is written.
    ///
    /// # Errors
    /// [`Poisoned`](crate::ErrorKind::Poisoned): a write or sync failed, earlier (then nothing was appended) or just
    /// now: then these entries may or may not be there once [`reopen`](Self::reopen) has recovered
    /// the stream, and nothing else ever gets their seqs if they are. Any other: nothing was
    /// appended;
    /// [`Full`](crate::ErrorKind::Full), [`TooLarge`](crate::ErrorKind::TooLarge), [`Closed`](crate::ErrorKind::Closed),
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly), or [`Io`](crate::ErrorKind::Io) where a new segment file could not be
    /// created.
    pub fn append_batch(&self, batch: &Batch) -> Result<Range<u64>> {
        self.log.append_batch(batch, self.durability)
    }

    /// Hands everything accepted so far to the operating system, whatever handle it came through.
    ///
    /// # Errors
    /// [`Poisoned`](crate::ErrorKind::Poisoned), [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn flush(&self) -> Result<()> {
        self.log.flush()
    }

    /// Makes everything accepted so far durable, whatever handle it came through.
    ///
    /// # Errors
    /// [`Poisoned`](crate::ErrorKind::Poisoned), [`ReadOnly`](crate::ErrorKind::ReadOnly). What a failed sync was asked
    /// for is never reported as durable by a later one.
    pub fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    /// Drops the entries below `first`, durably: none of them comes back after any crash. Segment
    /// files that lie wholly below are removed. At or below [`first_seq`](Self::first_seq) it does
    /// nothing. Beyond the end the stream is empty afterwards, and its next entry gets `first`; so
    /// it is for a stream that is not there yet, which is created.
    ///
    /// Works on a full disk up to the end of the stream. From then on reads below `first` fail with
    /// [`Truncated`](crate::ErrorKind::Truncated); iterators that stand below it go on in the file they have open, and
    /// then say the same.
    ///
    /// Appends wait until that is durable, and not for the removal of files. Truncations of one
    /// stream run one after the other.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full): nothing was dropped. [`Poisoned`](crate::ErrorKind::Poisoned): a write or sync
    /// failed; whether the entries are dropped shows once [`reopen`](Self::reopen) has recovered
    /// the stream.
    /// [`Io`](crate::ErrorKind::Io): where the text states that the entries are dropped, they are, durably, and a file that it
    /// names could not be removed, so that its space is not free yet; a later truncation or the
    /// next opening tries again. Otherwise nothing was dropped. Other kinds as
    /// [`append_batch`](Self::append_batch).
    pub fn truncate_before(&self, first: u64) -> Result<()> {
        self.log.truncate_before(first)
    }

    /// Drops the entry `next` and all behind it, durably: [`next_seq`](Self::next_seq) is `next`
    /// then, and later appends give these seqs to other entries. May cut a batch in two: that is
    /// what was asked. At the end it does nothing.
    ///
    /// Segment files that hold nothing else are removed; the one that `next` is in keeps its length
    /// until
    /// [`truncate_before`](Self::truncate_before) passes it.
    ///
    /// Appends wait until the entries are dropped, and not for the removal of files; those that
    /// waited for their durability get it first. An iterator made before ends with
    /// [`Cut`](crate::ErrorKind::Cut) once it stands at `next` or behind it.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) below the first entry or beyond the end. Otherwise as
    /// [`truncate_before`](Self::truncate_before).
    pub fn truncate_from(&self, next: u64) -> Result<()> {
        self.log.truncate_from(next)
    }

    /// Recovers a stream that is poisoned, as opening the log again would; a healthy one is left
    /// alone.
    ///
    /// In a log opened for reading, looks at the stream again. A look reads only the entries that
    /// have come since the last one: it takes some microseconds where there are none, so a program
    /// may poll. A look does not notice damage to entries that an earlier one has found valid:
    /// reading them reports it, and so does the next
    /// [`open_read_only`](crate::Options::open_read_only). Other threads see the state before the look or after it, and
    /// entries and iterators that they have stay valid.
    ///
    /// A look may find that the end of the stream was dropped and appended to again, or that the
    /// stream was deleted and begun anew. Iterators that were made before report that as
    /// [`Cut`](crate::ErrorKind::Cut). A program that remembers the seq it has come to does not see
    /// it: other entries may have the seqs below.
    ///
    /// Entries that were accepted and not yet handed over go on waiting. Those that had been handed
    /// over, and not synced, may be lost where a sync has failed, and all behind them.
    ///
    /// # Errors
    /// As [`Wal::stream`](crate::Wal::stream); the stream then stays as it is, and says this error.
    pub fn reopen(&self) -> Result<()> {
        self.log.reopen()
    }

    /// The entry `seq`; `None` if it is not there yet. Within the live range it is an entry or an
    /// error, never `None`.
    ///
    /// # Errors
    /// [`Truncated`](crate::ErrorKind::Truncated) below [`first_seq`](Self::first_seq);
    /// [`Damaged`](crate::ErrorKind::Damaged); I/O.
    pub fn get(&self, seq: u64) -> Result<Option<Entry>> {
        self.log.get(seq, self.visibility)
    }

    /// The entries `seqs`, in that order. Neighbours in one frame are read once, so sorted seqs are
    /// cheapest. Each has memory of its own, but for those of 1 KiB and more, which keep what was
    /// read with them: some 4 to 8 KiB.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first that fails.
    pub fn get_many(&self, seqs: &[u64]) -> Result<Vec<Option<Entry>>> {
        self.log.get_many(seqs, self.visibility)
    }

    /// The last entry; `None` if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn last(&self) -> Result<Option<Entry>> {
        self.log.last(self.visibility)
    }

    /// The entries in `seqs`, forwards and backwards. The end is fixed now; a range that reaches
    /// beyond it ends there. A stream that is missing or has nothing is empty, and nothing is
    /// created.
    ///
    /// A range that names a beginning below [`first_seq`](Self::first_seq) yields one error,
    /// [`Truncated`](crate::ErrorKind::Truncated); `..` begins at the first live entry.
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

    /// The seq from which on all entries have a timestamp of `time` or later; one past the last
    /// entry where there is none. With [`iter`](Self::iter) this reads from a time on.
    ///
    /// Where times have begun anew (see [`Entry::timestamp`](crate::Entry::timestamp)), earlier
    /// entries may have later times.
    ///
    /// # Errors
    /// [`Damaged`](crate::ErrorKind::Damaged); I/O.
    pub fn seq_at(&self, time: SystemTime) -> Result<u64> {
        // Rounded up: an entry's timestamp has whole microseconds.
        let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let micros = u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX);
        self.log.seq_at(micros, self.visibility)
    }

    /// How much the stream holds, and how the cache of the log is used. Opens each segment's file
    /// for a moment.
    ///
    /// # Errors
    /// I/O.
    pub fn stats(&self) -> Result<StreamStats> {
        self.log.stats()
    }
}
