//! What goes in, and what comes out.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use stratawal_stream as inner;

use crate::error::{Error, Result};

/// Entries that are appended together: all of them are there after any crash, or none.
///
/// Clearing one keeps its memory, so a batch that is used again allocates nothing.
///
/// ```
/// let batch: stratawal::Batch = ["a", "b"].into_iter().collect();
/// assert_eq!((batch.len(), batch.bytes()), (2, 2));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(pub(crate) inner::Batch);

impl Batch {
    /// No entries.
    #[must_use]
    pub const fn new() -> Self {
        Self(inner::Batch::new())
    }

    /// Adds an entry, which may be empty. Where [`push_part`](Self::push_part) has begun an entry,
    /// this completes that entry: these bytes are its last ones.
    pub fn push(&mut self, entry: impl AsRef<[u8]>) {
        self.0.push(entry);
    }

    /// Begins or continues an entry that the next [`push`](Self::push) completes. So an entry that
    /// arrives in pieces is collected in the batch, and takes no other memory.
    ///
    /// An entry that is not complete is not in the batch: [`len`](Self::len),
    /// [`bytes`](Self::bytes) and
    /// [`Stream::append_batch`](crate::Stream::append_batch) leave it out. Only a push completes it, and only
    /// [`clear`](Self::clear) removes it.
    ///
    /// ```
    /// let mut batch = stratawal::Batch::new();
    /// batch.push_part("a large ");
    /// assert_eq!((batch.len(), batch.bytes()), (0, 0));
    /// batch.push("entry");
    /// assert_eq!((batch.len(), batch.bytes()), (1, 13));
    /// ```
    pub fn push_part(&mut self, part: impl AsRef<[u8]>) {
        self.0.push_part(part);
    }

    /// How many entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no entries; appending such a batch writes nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all the entries together.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Removes all entries, one that is not complete too, and keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<E: AsRef<[u8]>> Extend<E> for Batch {
    fn extend<I: IntoIterator<Item = E>>(&mut self, entries: I) {
        self.0.extend(entries);
    }
}

impl<E: AsRef<[u8]>> FromIterator<E> for Batch {
    fn from_iter<I: IntoIterator<Item = E>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// An entry of a stream. Its bytes are a slice of what was read, which lives as long as any of its
/// entries: keeping a few small ones for long is better done with a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(inner::Entry);

impl Entry {
    /// Its number in the stream, from 0.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.0.seq()
    }

    /// When it was appended, by the system's coarse clock, which on Linux moves each 1 to 10 ms and
    /// may be late.
    ///
    /// Times do not fall from one entry to the next, even where the clock was set back, with one
    /// exception: where the last time of a stream was more than a day ahead of the clock when the
    /// stream was opened, the next entry has the present time. A clock that is more than an hour
    /// ahead of the time that has passed since the last append is not believed; such appends are
    /// counted in [`Stats`](crate::Stats).
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        self.0.timestamp()
    }

    /// Its bytes.
    #[must_use]
    pub const fn data(&self) -> &Bytes {
        self.0.data()
    }

    /// Its bytes, without the rest.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        self.0.into_data()
    }
}

impl From<inner::Entry> for Entry {
    fn from(entry: inner::Entry) -> Self {
        Self(entry)
    }
}

/// Entries that stand side by side and were appended in one tick of the clock, with the memory that
/// they share. See
/// [`Iter::next_run`].
#[derive(Clone, Debug)]
pub struct Run(inner::Run);

impl Run {
    /// The seqs of the entries; never empty.
    #[must_use]
    pub fn seqs(&self) -> Range<u64> {
        self.0.seqs()
    }

    /// When they were appended: the [`Entry::timestamp`] of each of them.
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        self.0.timestamp()
    }

    /// The entries in order, each with its seq. Nothing is copied or allocated.
    #[inline]
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (u64, &[u8])> {
        self.0.entries()
    }
}

/// The entries of a stream in a range, from both ends. See [`Stream::iter`](crate::Stream::iter).
///
/// Its end was fixed when it was made. It owns what it needs and may go to another thread. After an
/// error it is done, so its size hint says how many there are at most. Backwards takes about twice
/// as long as forwards.
#[derive(Debug)]
pub struct Iter(pub(crate) inner::Iter);

impl Iter {
    /// The next entries, together: those that were appended in one tick of the clock, as far as
    /// they have been read, until they take 16 KiB or more (so a large batch is a run). It may be
    /// one entry, as each is that still waits in the memory of the writer. For those who go through
    /// many, and need each only for a moment: nothing is counted or moved for each, which saves a
    /// sixth to a quarter of the time where each entry was flushed by itself, and a third and more
    /// where they were appended in batches, or waited together. It is fastest through mappings
    /// ([`Options::map_reads`](crate::Options::map_reads)).
    ///
    /// What is in a run was checked when it was made; damage is the error of a later call, behind
    /// what precedes it.
    ///
    /// [`next`](Iterator::next) and this may be mixed; `None` at the end.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = stratawal::Wal::open(dir.path().join("log"))?;
    /// # let stream = wal.stream("s")?;
    /// # stream.append_batch(&["one", "two"].into_iter().collect())?;
    /// let (mut entries, mut bytes) = (stream.iter(..), 0);
    /// while let Some(run) = entries.next_run() {
    ///     for (_seq, data) in run?.entries() {
    ///         bytes += data.len();
    ///     }
    /// }
    /// assert_eq!(bytes, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As `next`.
    #[inline]
    pub fn next_run(&mut self) -> Option<Result<Run>> {
        self.0.next_run().map(|run| run.map(Run).map_err(Error::from))
    }
}

impl Iterator for Iter {
    type Item = Result<Entry>;

    #[inline]
    fn next(&mut self) -> Option<Result<Entry>> {
        self.0.next().map(|entry| entry.map(Entry).map_err(Error::from))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Result<Entry>> {
        self.0.next_back().map(|entry| entry.map(Entry).map_err(Error::from))
    }
}

impl std::iter::FusedIterator for Iter {}
