//! Comparisons of a stream with its model.

use std::collections::BTreeSet;
use std::ops::{Bound, Range};

use stratawal::{Entry, ErrorKind, Iter, Result, Stream};
use stratawal_testkit::{Expected, StreamModel};

/// Compares an entry. `ends` is the result of [`StreamModel::batch_ends`].
fn check_entry(found: &Entry, seq: u64, expected: &Expected, ends: &BTreeSet<u64>) {
    assert_eq!(found.seq(), seq);
    assert_eq!(found.ends_batch(), ends.contains(&(seq + 1)), "the end of the batch of {seq}");
    let same = expected.check_data(seq, found.data()).and_then(|()| expected.check_timestamp(seq, found.timestamp()));
    same.unwrap_or_else(|mismatch| panic!("{mismatch}"));
}

fn check_entry_or_none(found: Option<&Entry>, seq: u64, expected: Option<&Expected>, ends: &BTreeSet<u64>) {
    match (found, expected) {
        (Some(found), Some(expected)) => check_entry(found, seq, expected, ends),
        (found, expected) => assert!(found.is_none() && expected.is_none(), "{seq}: {found:?}, not {expected:?}"),
    }
}

fn check_truncated<T: std::fmt::Debug>(result: Result<T>, start: u64) {
    assert_eq!(result.map_err(|error| error.kind()).unwrap_err(), ErrorKind::Truncated { first_seq: start });
}

/// Checks `get` on a stream that shows the entries of `model` below `end`.
pub(crate) fn check_get(stream: &Stream, model: &StreamModel, end: u64, seq: u64) {
    let found = stream.get(seq);
    if seq < model.first_seq() {
        return check_truncated(found, model.first_seq());
    }
    check_entry_or_none(found.unwrap().as_ref(), seq, model.entry(seq).filter(|_| seq < end), &model.batch_ends());
}

pub(crate) fn check_get_many(stream: &Stream, model: &StreamModel, end: u64, seqs: &[u64]) {
    let found = stream.get_many(seqs);
    if seqs.iter().any(|&seq| seq < model.first_seq()) {
        return check_truncated(found, model.first_seq());
    }
    let found = found.unwrap();
    assert_eq!(found.len(), seqs.len());
    let ends = model.batch_ends();
    for (found, &seq) in found.iter().zip(seqs) {
        check_entry_or_none(found.as_ref(), seq, model.entry(seq).filter(|_| seq < end), &ends);
    }
}

/// Reads all entries of `iter`, which are those of `range`. Reads from the end whenever a bit of
/// `turns` is set.
pub(crate) fn check_iter(mut iter: Iter, model: &StreamModel, range: Range<u64>, turns: u64) {
    let expected: Vec<&Expected> = model.entries().map(|(_, expected)| expected).collect();
    let ends = model.batch_ends();
    let mut front = range.start;
    let mut back = range.end;
    let mut turn = 0;
    while front < back {
        let from_back = turns >> (turn % 64) & 1 == 1;
        let seq = if from_back { back - 1 } else { front };
        let found = if from_back { iter.next_back() } else { iter.next() };
        let found = found.unwrap_or_else(|| panic!("ends at {front}..{back} of {range:?}")).unwrap();
        check_entry(&found, seq, expected[usize::try_from(seq - model.first_seq()).unwrap()], &ends);
        if from_back {
            back -= 1
        } else {
            front += 1
        }
        turn += 1;
    }
    assert!(iter.next().is_none() && iter.next_back().is_none());
}

/// Checks an iterator over any range of a stream that shows the entries of `model` below `end`.
pub(crate) fn check_range(
    stream: &Stream,
    model: &StreamModel,
    end: u64,
    bounds: (Bound<u64>, Bound<u64>),
    turns: u64,
) {
    let mut iter = stream.iter(bounds);
    let from = match bounds.0 {
        Bound::Included(seq) => seq,
        Bound::Excluded(seq) => seq + 1,
        Bound::Unbounded => model.first_seq(),
    };
    let to = match bounds.1 {
        Bound::Included(seq) => (seq + 1).min(end),
        Bound::Excluded(seq) => seq.min(end),
        Bound::Unbounded => end,
    };
    if from < model.first_seq() && from < to {
        let first_read = if turns & 1 == 1 { iter.next_back() } else { iter.next() };
        check_truncated(first_read.unwrap(), model.first_seq());
        assert!(iter.next().is_none() && iter.next_back().is_none());
    } else {
        check_iter(iter, model, from..to.max(from), turns);
    }
}

/// Checks all of a stream that shows the entries of `model` below `end`.
pub(crate) fn check_whole(stream: &Stream, model: &StreamModel, end: u64) {
    let first = model.first_seq();
    assert_eq!((stream.exists(), stream.first_seq()), (model.exists(), first), "{:?}", stream.report());
    check_iter(stream.iter(..), model, first..end, 0);
    check_iter(stream.iter(..), model, first..end, u64::MAX);
    let seqs: Vec<u64> = (0..9).map(|i| first + (end - first) * i / 8).collect();
    check_get_many(stream, model, end, &seqs);
    check_last(stream, model, end);
    let timestamps = model.entries().filter_map(|(_, expected)| expected.timestamp());
    assert!(timestamps.is_sorted(), "a timestamp falls");
}

pub(crate) fn check_last(stream: &Stream, model: &StreamModel, end: u64) {
    match stream.last().unwrap() {
        Some(last) => check_entry(&last, end - 1, model.entry(end - 1).unwrap(), &model.batch_ends()),
        None => assert_eq!(end, model.first_seq()),
    }
}

/// An iterator that is held while its stream changes.
pub(crate) struct HeldIter {
    pub(crate) iter: Iter,
    pub(crate) of: usize,
    pub(crate) model: StreamModel,
    pub(crate) range: Range<u64>,
    /// The lowest end to which the stream was cut since the iterator was created.
    pub(crate) cut: u64,
    /// All ends to which the stream was cut since the iterator was created.
    pub(crate) cuts: BTreeSet<u64>,
    /// The highest first seq of the stream since the iterator was created.
    pub(crate) start: u64,
    /// Whether the iterator belongs to a reader in another process.
    pub(crate) beside: bool,
    /// Whether the stream was closed since the iterator was created.
    pub(crate) is_closed: bool,
}

impl HeldIter {
    /// Reads the next entry. Returns whether more may follow.
    pub(crate) fn pull(&mut self, from_back: bool) -> bool {
        let found = if from_back { self.iter.next_back() } else { self.iter.next() };
        if self.range.is_empty() {
            assert!(found.is_none());
            return false;
        }
        let seq = if from_back { self.range.end - 1 } else { self.range.start };
        match found.expect("an iterator ends where it ended when it was created, or with an error") {
            Ok(entry) => {
                assert!(!self.is_closed, "{seq} is read through a closed stream");
                // A reader in another process need not notice the cut, and may show the old entry.
                assert!(seq < self.cut || self.beside, "{seq} was cut at {}", self.cut);
                let mut ends = self.model.batch_ends();
                // A cut just after this entry made it the end of its batch. If the iterator had
                // loaded the entry before that, it still shows the old end.
                if self.cuts.contains(&(seq + 1)) && entry.ends_batch() {
                    ends.insert(seq + 1);
                }
                check_entry(&entry, seq, self.model.entry(seq).unwrap(), &ends);
                self.range = if from_back { self.range.start..seq } else { seq + 1..self.range.end };
                true
            }
            Err(error) => {
                match error.kind() {
                    // A reader in another process can compare the entries of a record only as a
                    // whole once the journal no longer holds it, so it may report a cut or a
                    // truncation for an entry that was appended together with a dropped one.
                    ErrorKind::Cut { .. } => {
                        let is_cut = seq >= self.cut || self.beside && (self.cut < u64::MAX || self.start > 0);
                        assert!(is_cut, "{error}: {seq} was not cut");
                    }
                    ErrorKind::Closed => assert!(self.is_closed, "{error}"),
                    ErrorKind::Truncated { .. } => {
                        let is_dropped = seq < self.start || self.beside && self.start > 0;
                        assert!(is_dropped, "{error}: {seq} was not dropped");
                    }
                    _ => panic!("{error}"),
                }
                assert!(self.iter.next().is_none() && self.iter.next_back().is_none());
                self.range = self.range.end..self.range.end;
                false
            }
        }
    }
}
