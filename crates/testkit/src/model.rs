//! What a stream may be after a crash: the plain model that everything is held to.

use std::fmt;

use crate::workload::entry;

/// What an append was acknowledged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In the process.
    Buffered,
    /// With the operating system.
    Flushed,
    /// On stable storage.
    Synced,
}

/// What a log shows of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The seq of the first entry.
    pub first: u64,
    /// The entries.
    pub entries: Vec<Vec<u8>>,
}

impl Found {
    /// One past the seq of the last entry.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// That every entry that was shown here is still there in `later`, where nothing was asked for
    /// in between.
    ///
    /// # Errors
    /// What is gone, or another.
    pub fn is_still_in(&self, later: &Self) -> Result<(), Mismatch> {
        for (seq, bytes) in (self.first..).zip(&self.entries) {
            let index = seq.checked_sub(later.first).and_then(|index| usize::try_from(index).ok());
            match index.and_then(|index| later.entries.get(index)) {
                Some(found) if found == bytes => {}
                Some(_) => return Err(Mismatch(format!("entry {seq} was shown and has other bytes now"))),
                None => {
                    let (first, end) = (later.first, later.end());
                    return Err(Mismatch(format!("entry {seq} was shown and is gone: {first}..{end} is left")));
                }
            }
        }
        Ok(())
    }
}

/// What the model does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch(pub String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The models of all streams at one time.
pub type Snapshot = Vec<StreamModel>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spec {
    tag: u64,
    len: usize,
    ends_batch: bool,
}

/// What was asked of a stream and is not answered: it may be so or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Entries below this seq are dropped.
    Before(u64),
    /// Entries from this seq on are dropped.
    From(u64),
    /// The stream is deleted.
    Delete,
}

/// What is known of a stream: the entries that were ever asked for and may be there, in order, and
/// up to where they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamModel {
    start: u64,
    /// From `start` on.
    entries: Vec<Spec>,
    flushed: u64,
    synced: u64,
    pending: Option<Pending>,
}

impl StreamModel {
    /// The first entry.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// One past the last entry that may be there.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.entries.len() as u64
    }

    /// What is not answered.
    #[must_use]
    pub const fn pending(&self) -> Option<Pending> {
        self.pending
    }

    /// One past the last entry that must be there after a crash of the process or of the machine.
    #[must_use]
    pub const fn sure(&self, power_loss: bool) -> u64 {
        if power_loss { self.synced } else { self.flushed }
    }

    /// A batch is about to be appended: from here on it may be there.
    pub fn begin(&mut self, entries: &[(u64, usize)]) {
        let specs = entries.iter().map(|&(tag, len)| Spec { tag, len, ends_batch: false });
        self.entries.extend(specs);
        if let Some(last) = self.entries.last_mut() {
            last.ends_batch = true;
        }
    }

    /// It was refused, and will never be there.
    pub fn refused(&mut self, entries: usize) {
        self.entries.truncate(self.entries.len() - entries);
    }

    /// Everything asked for so far is acknowledged.
    pub fn acknowledged(&mut self, level: Level) {
        let end = self.end();
        if level >= Level::Flushed {
            self.flushed = end;
        }
        if level == Level::Synced {
            self.synced = end;
        }
    }

    /// Entries are about to be dropped: from here on they may be.
    pub fn ask(&mut self, pending: Pending) {
        self.pending = Some(pending);
    }

    /// It was refused, and will never be so.
    pub fn unasked(&mut self) {
        self.pending = None;
    }

    /// It is done, durably.
    pub fn done(&mut self) {
        match self.pending.take() {
            None => {}
            Some(Pending::Delete) => *self = Self::default(),
            // At the end there is nothing to do, which makes nothing durable.
            Some(Pending::From(next)) if next == self.end() => {}
            Some(Pending::From(next)) => {
                self.entries.truncate(self.index(next));
                // It may have cut a batch in two.
                if let Some(last) = self.entries.last_mut() {
                    last.ends_batch = true;
                }
                (self.flushed, self.synced) = (next, next);
            }
            Some(Pending::Before(first)) => {
                self.entries.drain(..self.index(first).min(self.entries.len()));
                self.start = self.start.max(first);
                (self.flushed, self.synced) = (self.flushed.max(self.start), self.synced.max(self.start));
            }
        }
    }

    fn index(&self, seq: u64) -> usize {
        usize::try_from(seq.saturating_sub(self.start)).unwrap_or(usize::MAX)
    }

    /// The process or the machine died.
    pub fn crashed(&mut self, power_loss: bool) {
        if power_loss {
            self.flushed = self.synced;
        }
    }

    /// What the stream may be now: as it was, or with what is pending done.
    fn candidates(&self) -> Vec<Self> {
        let mut undone = self.clone();
        undone.unasked();
        let mut candidates = vec![undone];
        if self.pending.is_some() {
            let mut done = self.clone();
            done.done();
            candidates.push(done);
        }
        candidates
    }

    /// Holds what a reader of the running log sees against the model: a prefix up to `sure` at
    /// least.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_readers(&self, found: &Found, power_loss: bool) -> Result<(), Mismatch> {
        first_of(self.candidates(), |candidate| candidate.matches(found, candidate.sure(power_loss)))
    }

    fn matches(&self, found: &Found, min: u64) -> Result<(), Mismatch> {
        let (first, n) = (found.first, found.first + found.entries.len() as u64);
        if first != self.start {
            return Err(Mismatch(format!("begins at {first}, not at {}", self.start)));
        }
        if n < min {
            return Err(Mismatch(format!("ends at {n}, up to {min} were acknowledged")));
        }
        if n > self.end() {
            return Err(Mismatch(format!("ends at {n}, only up to {} were ever asked for", self.end())));
        }
        for (seq, (spec, bytes)) in (first..).zip(self.entries.iter().zip(&found.entries)) {
            if *bytes != entry(spec.tag, spec.len) {
                return Err(Mismatch(format!("entry {seq} of {first}..{n} has other bytes")));
            }
        }
        Ok(())
    }

    /// A reader was shown the stream up to `end` as what is on stable storage: from here on it must
    /// be there.
    pub fn shown_durable(&mut self, end: u64) {
        let end = end.clamp(self.start, self.end());
        (self.flushed, self.synced) = (self.flushed.max(end), self.synced.max(end));
    }

    /// Holds a recovered stream against the model, and goes on from what was found, which is
    /// durable now.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_recovered(&mut self, found: &Found) -> Result<(), Mismatch> {
        self.check_reopened(found, found)
    }

    /// The same for a stream that was recovered within its process: what is settled is durable, and
    /// more may be accepted still.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_reopened(&mut self, settled: &Found, accepted: &Found) -> Result<(), Mismatch> {
        let after = first_of(self.candidates(), |mut candidate| {
            candidate.matches(settled, candidate.flushed)?;
            candidate.matches(accepted, settled.first + settled.entries.len() as u64)?;
            for n in [settled.entries.len(), accepted.entries.len()] {
                if n > 0 && !candidate.entries[n - 1].ends_batch {
                    return Err(Mismatch(format!("{n} entries: the last batch is there in part")));
                }
            }
            candidate.entries.truncate(settled.entries.len());
            candidate.acknowledged(Level::Synced);
            let waiting = self.entries.iter().skip(candidate.index_in(self)).take(accepted.entries.len());
            candidate.entries.extend(waiting.skip(settled.entries.len()));
            Ok(candidate)
        })?;
        *self = after;
        Ok(())
    }

    /// Where this one's first entry stands in `other`.
    fn index_in(&self, other: &Self) -> usize {
        other.index(self.start)
    }
}

/// What `check` answers for the first candidate that passes; or what the last one fails by.
fn first_of<T>(
    candidates: Vec<StreamModel>,
    check: impl Fn(StreamModel) -> Result<T, Mismatch>,
) -> Result<T, Mismatch> {
    let mut wrong = Mismatch(String::new());
    for candidate in candidates {
        match check(candidate) {
            Ok(passed) => return Ok(passed),
            Err(Mismatch(what)) if wrong.0.is_empty() => wrong = Mismatch(what),
            Err(Mismatch(what)) => wrong = Mismatch(format!("neither: {}; nor: {what}", wrong.0)),
        }
    }
    Err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tags: &[(u64, usize)]) -> Found {
        Found { first: 0, entries: tags.iter().map(|&(tag, len)| entry(tag, len)).collect() }
    }

    #[test]
    fn only_whole_batches_from_what_is_sure_to_what_was_asked_for_are_allowed() {
        let mut model = StreamModel::default();
        model.begin(&[(1, 10), (2, 20)]);
        model.acknowledged(Level::Synced);
        model.begin(&[(3, 5), (4, 6)]);
        model.begin(&[(5, 0)]);
        let all = [(1, 10), (2, 20), (3, 5), (4, 6), (5, 0)];
        for n in [2, 4, 5] {
            assert_eq!(model.clone().check_recovered(&found(&all[..n])), Ok(()), "{n}");
        }
        for n in [0, 1, 3] {
            assert!(model.clone().check_recovered(&found(&all[..n])).is_err(), "{n}");
        }
        let other = [(1, 10), (2, 20), (9, 5), (4, 6)];
        assert!(model.clone().check_recovered(&found(&other)).is_err(), "other bytes");
        let more = [&all[..], &[(6, 1)]].concat();
        assert!(model.clone().check_recovered(&found(&more)).is_err(), "never asked for");
        let mut after = model.clone();
        after.check_recovered(&found(&all[..4])).unwrap();
        assert!(after.check_recovered(&found(&all)).is_err(), "what was cut came back");
        assert!(after.check_recovered(&found(&all[..2])).is_err(), "what recovery had shown is gone");
    }

    #[test]
    fn what_was_flushed_is_sure_until_the_power_goes() {
        let mut model = StreamModel::default();
        model.begin(&[(1, 10)]);
        model.acknowledged(Level::Flushed);
        assert!(model.clone().check_recovered(&found(&[])).is_err());
        model.crashed(true);
        assert_eq!(model.check_recovered(&found(&[])), Ok(()));
    }

    #[test]
    fn what_was_shown_as_durable_is_sure() {
        let mut model = StreamModel::default();
        model.begin(&[(1, 10)]);
        model.begin(&[(2, 10)]);
        model.shown_durable(1);
        model.crashed(true);
        assert!(model.clone().check_recovered(&found(&[])).is_err());
        assert_eq!(model.check_recovered(&found(&[(1, 10)])), Ok(()));
    }

    #[test]
    fn what_was_shown_is_still_there_wherever_the_stream_begins() {
        let all = found(&[(1, 10), (2, 20), (3, 30)]);
        let shown = Found { first: 1, ..found(&[(2, 20)]) };
        assert_eq!(shown.is_still_in(&all), Ok(()));
        assert_eq!(shown.is_still_in(&shown), Ok(()));
        assert!(all.is_still_in(&shown).is_err(), "the first is gone");
        assert!(all.is_still_in(&found(&[(1, 10), (2, 20)])).is_err(), "the last is gone");
        assert!(all.is_still_in(&found(&[(1, 10), (9, 20), (3, 30)])).is_err(), "another");
    }

    #[test]
    fn what_is_pending_is_so_or_not_and_nothing_between() {
        let mut model = StreamModel::default();
        model.begin(&[(1, 10), (2, 20), (3, 30)]);
        model.acknowledged(Level::Synced);
        let at = |first: u64, tags: &[(u64, usize)]| Found { first, ..found(tags) };
        model.ask(Pending::From(1));
        assert_eq!(model.clone().check_recovered(&at(0, &[(1, 10), (2, 20), (3, 30)])), Ok(()));
        assert_eq!(model.clone().check_recovered(&at(0, &[(1, 10)])), Ok(()));
        assert!(model.clone().check_recovered(&at(0, &[(1, 10), (2, 20)])).is_err());
        model.ask(Pending::Before(2));
        assert_eq!(model.clone().check_recovered(&at(2, &[(3, 30)])), Ok(()));
        assert!(model.clone().check_recovered(&at(1, &[(2, 20), (3, 30)])).is_err());
        model.done();
        assert!(model.clone().check_recovered(&at(0, &[(1, 10), (2, 20), (3, 30)])).is_err(), "it came back");
        model.ask(Pending::Before(9));
        assert_eq!(model.clone().check_recovered(&at(9, &[])), Ok(()));
        model.ask(Pending::Delete);
        assert_eq!(model.clone().check_recovered(&at(0, &[])), Ok(()));
        assert_eq!(model.clone().check_recovered(&at(2, &[(3, 30)])), Ok(()));
        model.done();
        assert_eq!((model.start(), model.end()), (0, 0));
    }
}
