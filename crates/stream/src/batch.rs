//! What goes in, and what comes out.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use stratawal_frame::{EntrySlices, FrameHeader};

/// Entries that are appended together: all of them are there after any crash, or none.
///
/// Clearing one keeps its memory, so a batch that is used again allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The bytes of the entries, then those of the entry that [`push_part`](Self::push_part) has
    /// begun.
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// No entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { data: Vec::new(), ends: Vec::new() }
    }

    /// Adds an entry, which may be empty. Where [`push_part`](Self::push_part) has begun an entry,
    /// this completes that entry: these bytes are its last ones.
    pub fn push(&mut self, entry: impl AsRef<[u8]>) {
        self.data.extend_from_slice(entry.as_ref());
        self.ends.push(self.data.len());
    }

    /// Begins or continues an entry that the next [`push`](Self::push) completes. So an entry that
    /// arrives in pieces is collected here, and not in other memory first.
    ///
    /// An entry that is not complete is not in the batch: [`len`](Self::len),
    /// [`bytes`](Self::bytes),
    /// [`iter`](Self::iter) and appending leave it out. Only a push completes it, and only [`clear`](Self::clear)
    /// removes it.
    pub fn push_part(&mut self, part: impl AsRef<[u8]>) {
        self.data.extend_from_slice(part.as_ref());
    }

    /// How many entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no entries; appending such a batch writes nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of all the entries together.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        match self.ends.as_slice() {
            [.., end] => *end,
            [] => 0,
        }
    }

    /// Removes all entries, one that is not complete too, and keeps the memory.
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

/// An entry of a stream. Its bytes are a slice of what was read, which lives as long as any of its
/// entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(crate) seq: u64,
    pub(crate) timestamp: u64,
    pub(crate) data: Bytes,
}

impl Entry {
    /// Its number in the stream, from 0.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was appended, by the coarse clock, which moves each 1 to 10 ms.
    ///
    /// Times do not fall from one entry to the next, with one exception: where the last time of a
    /// stream was more than a day ahead of the clock when the stream was opened, the next entry has
    /// the present time. A clock that is more than an hour ahead of the time that has passed since
    /// the last append is not believed, see [`StreamStats`](crate::StreamStats).
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.timestamp)
    }

    /// Its bytes.
    #[must_use]
    pub const fn data(&self) -> &Bytes {
        &self.data
    }

    /// Its bytes, without the rest.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        self.data
    }
}

/// Entries that stand side by side, and were appended in one tick of the clock, with the memory
/// that they share: for those who go through many, and need each only for a moment. See
/// [`Iter::next_run`](crate::Iter::next_run).
#[derive(Clone, Debug)]
pub struct Run {
    seqs: Range<u64>,
    timestamp: u64,
    bytes: Bytes,
    /// The number in its frame of the first entry; `None` where `bytes` are that entry, and no
    /// frames.
    first: Option<u32>,
}

impl Run {
    /// The entries `seqs`, of which `bytes` has the frames; the first is in the frame with this
    /// header.
    #[inline]
    pub(crate) fn of_frames(header: &FrameHeader, bytes: Bytes, seqs: Range<u64>) -> Option<Self> {
        let first = u32::try_from(seqs.start.checked_sub(header.first_seq.0)?).ok()?;
        (!seqs.is_empty()).then_some(Self { seqs, timestamp: header.timestamp, bytes, first: Some(first) })
    }

    pub(crate) fn of_one(entry: Entry) -> Self {
        let Entry { seq, timestamp, data } = entry;
        Self { seqs: seq..seq + 1, timestamp, bytes: data, first: None }
    }

    /// The seqs of the entries; never empty.
    #[inline]
    #[must_use]
    pub fn seqs(&self) -> Range<u64> {
        self.seqs.clone()
    }

    /// When the first of them was appended, which is the [`Entry::timestamp`] of each of them.
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.timestamp)
    }

    /// The entries in order, each with its seq. Nothing is copied, counted or allocated.
    #[inline]
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (u64, &[u8])> {
        let entries = match self.first {
            Some(first) => EntrySlices::frames(&self.bytes, first),
            None => EntrySlices::one(&self.bytes),
        };
        RunEntries { seqs: self.seqs.clone(), entries }
    }
}

/// See [`Run::entries`].
struct RunEntries<'a> {
    seqs: Range<u64>,
    entries: EntrySlices<'a>,
}

impl<'a> Iterator for RunEntries<'a> {
    type Item = (u64, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(u64, &'a [u8])> {
        let seq = self.seqs.next()?;
        Some((seq, self.entries.next().unwrap_or_default()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // As many as bytes that are in memory have.
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
