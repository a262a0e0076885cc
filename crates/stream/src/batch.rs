//! The entries that a stream takes and returns.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use stratawal_frame::{EntrySlice, EntrySlices, FrameHeader};

/// Entries that are appended together: after any crash all of them exist, or none.
///
/// [`clear`](Self::clear) keeps the memory, so a batch that is used again allocates nothing.
///
/// ```
/// # use stratawal_stream::Batch;
/// let batch: Batch = ["a", "b"].into_iter().collect();
/// assert_eq!((batch.len(), batch.bytes()), (2, 2));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The bytes of the complete entries, then those of the entry begun by
    /// [`push_part`](Self::push_part).
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// A batch without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { data: Vec::new(), ends: Vec::new() }
    }

    /// Adds an entry, which may be empty. If [`push_part`](Self::push_part) has begun an entry,
    /// these bytes complete that entry instead.
    pub fn push(&mut self, entry: impl AsRef<[u8]>) {
        self.data.extend_from_slice(entry.as_ref());
        self.ends.push(self.data.len());
    }

    /// Begins an entry, or continues the incomplete one. The next [`push`](Self::push) completes
    /// it. An entry that arrives in pieces can thus be collected in the batch without another
    /// buffer.
    ///
    /// An incomplete entry is not part of the batch: [`len`](Self::len), [`bytes`](Self::bytes),
    /// [`iter`](Self::iter) and appending ignore it. Only a push completes it, and only
    /// [`clear`](Self::clear) removes it.
    ///
    /// ```
    /// # use stratawal_stream::Batch;
    /// let mut batch = Batch::new();
    /// batch.push_part("a large ");
    /// assert_eq!((batch.len(), batch.bytes()), (0, 0));
    /// batch.push("entry");
    /// assert_eq!((batch.len(), batch.bytes()), (1, 13));
    /// ```
    pub fn push_part(&mut self, part: impl AsRef<[u8]>) {
        self.data.extend_from_slice(part.as_ref());
    }

    /// The number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the batch has no entries. Appending such a batch writes nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The total length of all entries in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        match self.ends.as_slice() {
            [.., end] => *end,
            [] => 0,
        }
    }

    /// Removes all entries, including an incomplete one, and keeps the memory.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.data[start..end])
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.data[..self.bytes()]
    }

    pub(crate) fn ends(&self) -> &[usize] {
        &self.ends
    }
}

impl<E: AsRef<[u8]>> Extend<E> for Batch {
    fn extend<I: IntoIterator<Item = E>>(&mut self, entries: I) {
        for entry in entries {
            self.push(entry);
        }
    }
}

impl<E: AsRef<[u8]>> FromIterator<E> for Batch {
    fn from_iter<I: IntoIterator<Item = E>>(entries: I) -> Self {
        let mut batch = Self::new();
        batch.extend(entries);
        batch
    }
}

/// An entry of a stream.
///
/// Its bytes are a slice of the memory that the entry was read into. That memory is freed once all
/// entries in it are dropped, so copy entries that you keep for a long time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(crate) seq: u64,
    pub(crate) timestamp: u64,
    pub(crate) data: Bytes,
    pub(crate) ends_batch: bool,
}

impl Entry {
    /// The number of the entry in its stream. The first entry is 0.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The time of the append, from the system's coarse clock, which advances every 1 to 10 ms.
    ///
    /// Timestamps never go backwards from one entry to the next, even if the clock is set back,
    /// with one exception: if the last timestamp of a stream was more than a day ahead of the clock
    /// when the stream was opened, the next entry gets the clock's time. If the clock has advanced
    /// over an hour more than the time elapsed since the last append, it is not believed. Such
    /// appends are counted in [`StreamStats::clock_jumps`](crate::StreamStats::clock_jumps).
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.timestamp)
    }

    /// The bytes of the entry.
    #[must_use]
    pub const fn data(&self) -> &Bytes {
        &self.data
    }

    /// Returns the bytes of the entry.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        self.data
    }

    /// Whether this is the last entry of its batch. An entry appended on its own is a batch. If a
    /// truncation has dropped the end of a batch, the last remaining entry ends the batch. Nothing
    /// marks a batch whose beginning was dropped.
    ///
    /// A consumer that must apply whole batches collects entries until one ends its batch.
    #[must_use]
    pub const fn ends_batch(&self) -> bool {
        self.ends_batch
    }
}

impl AsRef<[u8]> for Entry {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// Consecutive entries appended in one tick of the clock, with the memory they share.
/// [`Iter::next_run`](crate::Iter::next_run) returns it.
#[derive(Clone, Debug)]
pub struct Run {
    seqs: Range<u64>,
    timestamp: u64,
    bytes: Bytes,
    /// The index of the first entry in its frame. `None` if `bytes` is a single entry rather than
    /// frames.
    first: Option<u32>,
    /// Whether the last entry ends its batch even if the table of its frame does not say so.
    ends_batch: bool,
}

impl Run {
    /// The entries `seqs`. `bytes` holds their frames, and `header` is the header of the first one.
    /// `ends_batch` is whether a truncation dropped the entries after them.
    #[inline]
    pub(crate) fn of_frames(header: &FrameHeader, bytes: Bytes, seqs: Range<u64>, ends_batch: bool) -> Option<Self> {
        let first = u32::try_from(seqs.start.checked_sub(header.first_seq.0)?).ok()?;
        let run = Self { seqs, timestamp: header.timestamp, bytes, first: Some(first), ends_batch };
        (!run.seqs.is_empty()).then_some(run)
    }

    pub(crate) fn of_one(entry: Entry) -> Self {
        let Entry { seq, timestamp, data, ends_batch } = entry;
        Self { seqs: seq..seq + 1, timestamp, bytes: data, first: None, ends_batch }
    }

    /// The seqs of the entries. Never empty.
    #[inline]
    #[must_use]
    pub fn seqs(&self) -> Range<u64> {
        self.seqs.clone()
    }

    /// The [`Entry::timestamp`] that all the entries share.
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.timestamp)
    }

    /// The entries in order, each as a [`RunEntry`]. Nothing is copied, counted or allocated.
    #[inline]
    pub fn entries(&self) -> impl ExactSizeIterator<Item = RunEntry<'_>> {
        let entries = match self.first {
            Some(first) => EntrySlices::frames(&self.bytes, first),
            None => EntrySlices::one(&self.bytes),
        };
        RunEntries { seqs: self.seqs.clone(), entries, is_in_frames: self.first.is_some(), ends_batch: self.ends_batch }
    }
}

/// An entry of a [`Run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunEntry<'a> {
    /// The number of the entry in its stream.
    pub seq: u64,
    /// The bytes of the entry.
    pub data: &'a [u8],
    /// Whether this is the last entry of its batch, as returned by [`Entry::ends_batch`].
    pub ends_batch: bool,
}

/// The iterator that [`Run::entries`] returns.
struct RunEntries<'a> {
    seqs: Range<u64>,
    entries: EntrySlices<'a>,
    is_in_frames: bool,
    /// Same as [`Run::ends_batch`].
    ends_batch: bool,
}

impl<'a> Iterator for RunEntries<'a> {
    type Item = RunEntry<'a>;

    #[inline]
    fn next(&mut self) -> Option<RunEntry<'a>> {
        let seq = self.seqs.next()?;
        let EntrySlice { bytes, ends_batch } = self.entries.next().unwrap_or_default();
        let ends_batch = (ends_batch && self.is_in_frames) || (self.ends_batch && self.seqs.is_empty());
        Some(RunEntry { seq, data: bytes, ends_batch })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Each entry has its bytes, or its end, in memory, so the number of entries fits a `usize`.
        let len = usize::try_from(self.seqs.end - self.seqs.start).unwrap_or(usize::MAX);
        (len, Some(len))
    }
}

impl ExactSizeIterator for RunEntries<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(batch: &Batch) -> Vec<&[u8]> {
        batch.iter().collect()
    }

    #[test]
    fn a_push_completes_the_entry_that_parts_began() {
        let mut batch = Batch::new();
        for part in ["o", "", "n"] {
            batch.push_part(part);
        }
        batch.push("e");
        batch.push("two");
        batch.push_part("three");
        batch.push("");
        assert_eq!(entries(&batch), [&b"one"[..], b"two", b"three"]);
        assert_eq!((batch.len(), batch.bytes()), (3, 11));
    }

    #[test]
    fn an_entry_that_is_not_complete_is_left_out() {
        let mut batch = Batch::new();
        batch.push_part("begun");
        assert_eq!((batch.len(), batch.bytes(), batch.data()), (0, 0, &b""[..]));
        assert!(batch.is_empty() && entries(&batch).is_empty());
        batch.push("");
        batch.push_part("again");
        assert_eq!((batch.len(), batch.bytes(), batch.data()), (1, 5, &b"begun"[..]));
        assert_eq!(entries(&batch), [b"begun"]);
        batch.clear();
        batch.push("new");
        assert_eq!(entries(&batch), [b"new"]);
    }
}
