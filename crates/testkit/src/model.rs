//! The contents that a stream may and must have. All tests compare their logs with this model.
//!
//! Changes of a stream happen one at a time. The model numbers the changes and keeps the stream's
//! state after each: which entries may exist, and up to which seq they must exist. A change that
//! was begun but not acknowledged may or may not have happened. So a crash leaves the stream in the
//! state after the last acknowledged change, or in a later state. A test that compares a whole
//! stream calls [`StreamModel::check_recovered`]. A test that reads single entries while another
//! process changes the stream calls [`StreamModel::matching`] and narrows down the result.

mod found;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::workload::entry;

pub use found::{Found, Mismatch};

/// The durability that an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In the process.
    Buffered,
    /// With the operating system: survives the death of the process.
    Flushed,
    /// On stable storage: survives a power loss.
    Synced,
}

/// The models of all streams at one moment.
pub type Snapshot = Vec<StreamModel>;

/// A change of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Appends one batch: the tag and the length of each entry.
    Append(Vec<(u64, usize)>),
    /// Drops the entries below this seq.
    TruncateBefore(u64),
    /// Drops the entries from this seq on.
    TruncateFrom(u64),
    /// Deletes the stream.
    Delete,
}

/// An appended entry.
#[derive(Debug)]
pub struct Expected {
    tag: u64,
    len: usize,
    /// The timestamp that the first read returned.
    timestamp: OnceLock<SystemTime>,
}

impl Expected {
    /// The bytes of the entry.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        entry(self.tag, self.len)
    }

    /// Checks the bytes read for entry `seq`.
    ///
    /// # Errors
    /// If the entry has other bytes.
    pub fn check_data(&self, seq: u64, data: &[u8]) -> Result<(), Mismatch> {
        let is_same = data.len() == self.len && data == self.data();
        if is_same { Ok(()) } else { Err(Mismatch(format!("entry {seq} has other bytes"))) }
    }

    /// Checks the timestamp read with entry `seq`: all reads must agree with the first.
    ///
    /// # Errors
    /// If an earlier read returned a different timestamp.
    pub fn check_timestamp(&self, seq: u64, timestamp: SystemTime) -> Result<(), Mismatch> {
        let first_read = *self.timestamp.get_or_init(|| timestamp);
        let is_same = first_read == timestamp;
        if is_same { Ok(()) } else { Err(Mismatch(format!("entry {seq} has another timestamp"))) }
    }

    /// The timestamp that the first read returned.
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.timestamp.get().copied()
    }
}

#[derive(Clone, Debug)]
struct Batch {
    first_seq: u64,
    entries: Arc<[Expected]>,
}

impl Batch {
    fn next_seq(&self) -> u64 {
        self.first_seq + self.entries.len() as u64
    }

    fn get(&self, seq: u64) -> Option<&Expected> {
        self.entries.get(usize::try_from(seq.checked_sub(self.first_seq)?).ok()?)
    }
}

/// A state that a stream may be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    exists: bool,
    first_seq: u64,
    /// One past the last entry that may exist.
    next_seq: u64,
    /// One past the last entry that must exist after the death of the process.
    flushed: u64,
    /// One past the last entry that must exist after a power loss.
    synced: u64,
    /// No entry at or above this seq was ever synced, either on request or by the log itself.
    synced_max: u64,
}

impl State {
    fn after(self, change: &Change) -> Self {
        match *change {
            Change::Append(ref entries) => Self {
                exists: self.exists || !entries.is_empty(),
                next_seq: self.next_seq + entries.len() as u64,
                ..self
            },
            Change::TruncateBefore(seq) if seq > self.first_seq => {
                let next_seq = self.next_seq.max(seq);
                // Entries from `seq` on may stay where they are. Before the log removes a file, it
                // settles the stream.
                Self {
                    exists: true,
                    first_seq: seq,
                    next_seq,
                    flushed: self.flushed.max(seq),
                    synced: self.synced.max(seq),
                    synced_max: next_seq,
                }
            }
            Change::TruncateFrom(seq) if seq < self.next_seq => {
                Self { next_seq: seq, flushed: seq, synced: seq, synced_max: seq, ..self }
            }
            // The change has no effect, so it makes nothing durable.
            Change::TruncateBefore(_) | Change::TruncateFrom(_) => self,
            Change::Delete => Self::default(),
        }
    }

    fn acknowledge(&mut self, level: Level) {
        if level >= Level::Flushed {
            self.flushed = self.next_seq;
        }
        if level == Level::Synced {
            self.synced = self.next_seq;
            self.synced_max = self.next_seq;
        }
    }

    const fn sure(&self, power_loss: bool) -> u64 {
        if power_loss { self.synced } else { self.flushed }
    }
}

/// The knowledge about a stream: the states that it may be in, and the batches that were appended.
#[derive(Clone, Debug)]
pub struct StreamModel {
    /// Keyed by the number of the change that leads to the state. Never empty.
    states: BTreeMap<u64, State>,
    /// Keyed by the number of the change that appended the batch.
    batches: BTreeMap<u64, Batch>,
    /// The changes that removed entries from the end, each with the new end. Ascending.
    cuts: Vec<(u64, u64)>,
    /// The last acknowledged change.
    done: u64,
    pending: Option<Change>,
    keeps_past: bool,
    /// The last stable seq that the log reported.
    stable_seq: u64,
}

impl Default for StreamModel {
    fn default() -> Self {
        Self {
            states: BTreeMap::from([(0, State::default())]),
            batches: BTreeMap::new(),
            cuts: Vec::new(),
            done: 0,
            pending: None,
            keeps_past: false,
            stable_seq: 0,
        }
    }
}

/// Changes of the stream, and events that decide which of them survive.
impl StreamModel {
    /// Creates the model of a stream that does not exist yet. It keeps past states, because a
    /// reader in another process may still see any of them.
    #[must_use]
    pub fn with_past() -> Self {
        Self { keeps_past: true, ..Self::default() }
    }

    /// Records that a change has begun: from now on it may have happened.
    pub fn begin(&mut self, change: Change) {
        self.begin_numbered(self.last() + 1, change);
    }

    /// Begins a change whose number was chosen elsewhere. It must be greater than all earlier
    /// numbers.
    ///
    /// # Panics
    /// If the previous change is not done, or if the number is not greater.
    pub fn begin_numbered(&mut self, number: u64, change: Change) {
        let last = self.last();
        assert!(self.pending.is_none(), "change {last} is not done and {number} begins");
        assert!(number > last, "change {number} begins after {last}");
        let before = self.states[&last];
        let after = before.after(&change);
        match &change {
            Change::Append(entries) => {
                let expected = |&(tag, len)| Expected { tag, len, timestamp: OnceLock::new() };
                let entries = entries.iter().map(expected).collect();
                self.batches.insert(number, Batch { first_seq: before.next_seq, entries });
            }
            Change::TruncateFrom(_) | Change::Delete => self.cuts.push((number, after.next_seq)),
            Change::TruncateBefore(_) => {}
        }
        self.states.insert(number, after);
        self.pending = Some(change);
    }

    /// Records that the last change begun is acknowledged, at this level if it is an append.
    pub fn done(&mut self, level: Level) {
        let is_append = matches!(self.pending.take(), Some(Change::Append(_)));
        self.done = self.last();
        if is_append {
            self.last_state().acknowledge(level);
        }
        self.stable_seq = self.stable_seq.min(self.next_seq());
        if !self.keeps_past {
            self.forget_past();
        }
    }

    /// Records that the last change begun was refused, and will never happen.
    pub fn refused(&mut self) {
        if self.pending.take().is_some() {
            let last = self.last();
            self.states.remove(&last);
            self.batches.remove(&last);
            self.cuts.retain(|cut| cut.0 != last);
        }
    }

    /// Records that every change so far is acknowledged at this level.
    pub fn acknowledged(&mut self, level: Level) {
        self.done(level);
        self.last_state().acknowledge(level);
    }

    /// Records that the log may have synced the entries below `seq` without a request.
    pub fn may_be_synced_to(&mut self, seq: u64) {
        let state = self.last_state();
        state.synced_max = state.synced_max.max(seq);
    }

    /// Records that the process or the machine died.
    pub fn crashed(&mut self, power_loss: bool) {
        if power_loss {
            self.states.values_mut().for_each(|state| state.flushed = state.synced);
        }
    }

    /// Records that a reader saw the entries below `seq` as durable: from now on they must exist.
    pub fn shown_durable(&mut self, seq: u64) {
        let state = self.last_state();
        let seq = seq.clamp(state.first_seq, state.next_seq);
        state.flushed = state.flushed.max(seq);
        state.synced = state.synced.max(seq);
    }

    /// Records that a reader saw the entries below `seq` as flushed: from now on they must exist
    /// after the death of the process.
    pub fn shown_flushed(&mut self, seq: u64) {
        let state = self.last_state();
        state.flushed = state.flushed.max(seq.clamp(state.first_seq, state.next_seq));
    }

    fn last_state(&mut self) -> &mut State {
        self.states.last_entry().expect("a stream is always in some state").into_mut()
    }

    fn forget_past(&mut self) {
        let done = self.done;
        self.states.retain(|&number, _| number >= done);
        let first_seq = self.states.values().map(|state| state.first_seq).min().unwrap_or(0);
        let next_seq = self.states.values().map(|state| state.next_seq).max().unwrap_or(0);
        self.batches.retain(|_, batch| batch.next_seq() > first_seq && batch.first_seq < next_seq);
        let oldest = self.batches.first_key_value().map_or(done, |(&number, _)| number);
        self.cuts.retain(|cut| cut.0 > oldest);
    }
}

/// The stream after the last change begun.
impl StreamModel {
    fn state(&self) -> &State {
        self.states.last_key_value().expect("a stream is always in some state").1
    }

    /// Whether the stream exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.state().exists
    }

    /// The seq of the first entry.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.state().first_seq
    }

    /// One past the seq of the last entry.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.state().next_seq
    }

    /// One past the last entry that must exist after the death of the process or a power loss.
    #[must_use]
    pub fn sure(&self, power_loss: bool) -> u64 {
        self.state().sure(power_loss)
    }

    /// The change that has begun but is not acknowledged.
    #[must_use]
    pub const fn pending(&self) -> Option<&Change> {
        self.pending.as_ref()
    }

    /// The last change acknowledged.
    #[must_use]
    pub const fn last_done(&self) -> u64 {
        self.done
    }

    /// The last change begun.
    #[must_use]
    pub fn last(&self) -> u64 {
        *self.states.last_key_value().expect("a stream is always in some state").0
    }

    /// How many states are kept.
    #[must_use]
    pub fn states(&self) -> usize {
        self.states.len()
    }

    /// The entry `seq`.
    #[must_use]
    pub fn entry(&self, seq: u64) -> Option<&Expected> {
        let state = self.state();
        let batch = || self.batches.values().rev().find_map(|batch| batch.get(seq));
        (state.first_seq..state.next_seq).contains(&seq).then(batch).flatten()
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Expected)> {
        self.entries_of(self.last(), self.next_seq())
    }

    /// For each batch, one past its last entry. A batch whose end was dropped ends at its last
    /// remaining entry.
    #[must_use]
    pub fn batch_ends(&self) -> BTreeSet<u64> {
        self.batches_of(self.last(), self.next_seq()).iter().map(|(seqs, _)| seqs.end).collect()
    }

    /// The stream as readers see it if only the entries below `seq` exist.
    #[must_use]
    pub fn up_to(&self, seq: u64) -> Self {
        let mut model = self.clone();
        model.last_state().next_seq = seq;
        model.stable_seq = model.stable_seq.min(seq);
        model
    }

    /// Records that recovery found the entries below `seq` and synced them.
    pub fn end_at(&mut self, seq: u64) {
        self.collapse(self.last(), self.last() + 1, seq, seq);
    }

    /// Whether the death of the process may leave the stream with the entries below `seq`.
    #[must_use]
    pub fn may_end_at(&self, seq: u64) -> bool {
        let state = self.state();
        (state.flushed..=state.next_seq).contains(&seq) && self.can_end_at(self.last(), seq)
    }

    /// Checks the stable seq that the log reports. An entry is stable once it has reached this
    /// level.
    ///
    /// # Errors
    /// If acknowledged entries are not stable, if others are, or if the seq decreased.
    pub fn check_stable(&mut self, stable_seq: u64, level: Level) -> Result<(), Mismatch> {
        let state = self.state();
        let is_synced = level == Level::Synced;
        let least = state.sure(is_synced).max(self.stable_seq);
        let most = if is_synced { state.synced_max } else { state.next_seq };
        self.stable_seq = stable_seq;
        if (least..=most).contains(&stable_seq) {
            return Ok(());
        }
        Err(Mismatch(format!("the stable seq is {stable_seq}, not from {least} to {most}")))
    }
}

/// A whole stream, compared with the model.
impl StreamModel {
    /// The batches of the state `number` below `next_seq`, each with its remaining seqs.
    fn batches_of(&self, number: u64, next_seq: u64) -> Vec<(Range<u64>, &Batch)> {
        let first_seq = self.states[&number].first_seq;
        let mut end = next_seq;
        let mut live = Vec::new();
        for batch in self.batches.range(..=number).rev().map(|(_, batch)| batch) {
            if end <= first_seq {
                break;
            }
            // A batch that begins at or above the end was cut off by a later change.
            if batch.first_seq < end {
                live.push((batch.first_seq.max(first_seq)..end, batch));
                end = batch.first_seq;
            }
        }
        live.reverse();
        live
    }

    fn entries_of(&self, number: u64, next_seq: u64) -> impl Iterator<Item = (u64, &Expected)> {
        let live = self.batches_of(number, next_seq);
        let entries = |(seqs, batch): (Range<u64>, _)| seqs.map(move |seq| (seq, Batch::get(batch, seq)));
        live.into_iter().flat_map(entries).map(|(seq, entry)| (seq, entry.expect("batches follow each other")))
    }

    /// Whether the state `number` can end at `seq` without splitting a batch.
    fn can_end_at(&self, number: u64, seq: u64) -> bool {
        let state = &self.states[&number];
        let is_end = |(seqs, _): &(Range<u64>, &Batch)| seqs.end == seq;
        seq == state.first_seq || self.batches_of(number, state.next_seq).iter().any(is_end)
    }

    fn possible(&self) -> impl Iterator<Item = (u64, &State)> {
        self.states.range(self.done..).map(|(&number, state)| (number, state))
    }

    /// Compares the entries that a reader of the running log sees. They must include the
    /// acknowledged ones.
    ///
    /// # Errors
    /// If the stream was never in such a state.
    pub fn check_readers(&self, found: &Found, power_loss: bool) -> Result<(), Mismatch> {
        first_of(self.possible(), |(number, state)| self.matches(number, found, state.sure(power_loss)))
    }

    fn matches(&self, number: u64, found: &Found, least: u64) -> Result<(), Mismatch> {
        let state = &self.states[&number];
        let first = found.first_seq;
        let next = found.next_seq();
        if first != state.first_seq {
            return Err(Mismatch(format!("begins at {first}, not at {}", state.first_seq)));
        }
        if next < least {
            return Err(Mismatch(format!("ends at {next}, but entries up to {least} were acknowledged")));
        }
        if next > state.next_seq {
            return Err(Mismatch(format!("ends at {next}, only up to {} were ever asked for", state.next_seq)));
        }
        for ((seq, expected), data) in self.entries_of(number, state.next_seq).zip(&found.entries) {
            expected.check_data(seq, data)?;
        }
        Ok(())
    }

    /// Compares a recovered stream, and continues from the entries found, which are now durable.
    ///
    /// # Errors
    /// If a crash cannot leave these entries.
    pub fn check_recovered(&mut self, found: &Found) -> Result<(), Mismatch> {
        self.check_reopened(found, found)
    }

    /// Compares a stream recovered within its process. The stable entries are now durable, and
    /// accepted entries may follow them that are not written yet.
    ///
    /// # Errors
    /// If the recovery cannot leave these entries.
    pub fn check_reopened(&mut self, stable: &Found, accepted: &Found) -> Result<(), Mismatch> {
        let number = first_of(self.possible(), |(number, state)| {
            self.matches(number, stable, state.flushed)?;
            self.matches(number, accepted, stable.next_seq())?;
            for next_seq in [stable.next_seq(), accepted.next_seq()] {
                if !self.can_end_at(number, next_seq) {
                    return Err(Mismatch(format!("ends at {next_seq}: the last batch exists only in part")));
                }
            }
            Ok(number)
        })?;
        self.collapse(number, self.last() + 1, stable.next_seq(), accepted.next_seq());
        Ok(())
    }

    /// Records that another process found the stream with these entries, and continues from there
    /// with the change `number`.
    ///
    /// # Errors
    /// If the stream was never in such a state.
    pub fn found(&mut self, number: u64, seqs: Range<u64>) -> Result<(), Mismatch> {
        let candidates = self.matching(self.done, seqs.clone());
        let is_whole = |&candidate: &u64| self.can_end_at(candidate, seqs.end);
        let Some(candidate) = candidates.into_iter().rfind(is_whole) else {
            return Err(Mismatch(format!("found as {seqs:?}: {:?}", self.states)));
        };
        self.collapse(candidate, number, seqs.end, seqs.end);
        Ok(())
    }

    /// Records that the stream was found in the state `found`. The entries below `stable_seq` are
    /// on stable storage, and those below `next_seq` are accepted. The state is renumbered to
    /// `number`; the changes after `found` never happened.
    fn collapse(&mut self, found: u64, number: u64, stable_seq: u64, next_seq: u64) {
        let state =
            State { next_seq, flushed: stable_seq, synced: stable_seq, synced_max: stable_seq, ..self.states[&found] };
        self.batches.retain(|&batch, _| batch <= found);
        self.cuts.retain(|cut| cut.0 <= found);
        self.cuts.push((number, next_seq));
        self.states = BTreeMap::from([(number, state)]);
        self.done = number;
        self.pending = None;
        self.stable_seq = self.stable_seq.min(next_seq);
        self.forget_past();
    }
}

/// Single entries as a reader in another process sees them while the stream changes.
impl StreamModel {
    /// The changes, from `from` on, after which the stream may consist of the entries `seqs`.
    #[must_use]
    pub fn matching(&self, from: u64, seqs: Range<u64>) -> Vec<u64> {
        let is = |state: &State| state.first_seq == seqs.start && (state.flushed..=state.next_seq).contains(&seqs.end);
        self.states.range(from..).filter(|(_, state)| is(state)).map(|(&number, _)| number).collect()
    }

    /// Keeps those `candidates` in whose states entry `seq` has these bytes and was appended by
    /// `change`.
    ///
    /// # Errors
    /// If no such entry was appended, or if none of the states has it.
    pub fn retain(&self, candidates: &mut Vec<u64>, change: u64, seq: u64, data: &[u8]) -> Result<(), Mismatch> {
        let expected = self.batches.get(&change).and_then(|batch| batch.get(seq));
        let expected = expected.ok_or_else(|| Mismatch(format!("change {change} appended no entry {seq}")))?;
        expected.check_data(seq, data)?;
        let after = self.cuts.partition_point(|cut| cut.0 <= change);
        let cut = self.cuts[after..].iter().find(|cut| cut.1 <= seq).map_or(u64::MAX, |cut| cut.0);
        let before = candidates.clone();
        candidates.retain(|&number| (change..cut).contains(&number));
        if candidates.is_empty() {
            return Err(Mismatch(format!("entry {seq} existed from change {change} to {cut}, not in {before:?}")));
        }
        Ok(())
    }

    /// Keeps those `candidates` in whose states entry `seq`, appended by `change`, may be the last
    /// entry.
    ///
    /// # Errors
    /// If part of a batch would be missing in every one of the states.
    pub fn retain_last(&self, candidates: &mut Vec<u64>, change: u64, seq: u64) -> Result<(), Mismatch> {
        let ends_batch = self.batches.get(&change).is_some_and(|batch| batch.next_seq() == seq + 1);
        candidates.retain(|number| ends_batch || self.states[number].flushed == seq + 1);
        if candidates.is_empty() {
            return Err(Mismatch(format!("ends at {}: the last batch exists only in part", seq + 1)));
        }
        Ok(())
    }

    /// Whether a change after `number` removed entries, so that a reader of that state may get an
    /// error.
    #[must_use]
    pub fn has_lost_since(&self, number: u64) -> bool {
        let first_seq = self.states[&number].first_seq;
        self.states.range(number..).any(|(_, state)| state.first_seq != first_seq)
            || self.cuts.iter().any(|cut| cut.0 > number)
    }
}

/// Returns the result of `check` for the first candidate that passes, or the reason why none
/// passes.
fn first_of<C, T>(
    candidates: impl Iterator<Item = C>,
    check: impl Fn(C) -> Result<T, Mismatch>,
) -> Result<T, Mismatch> {
    let mut wrong = Vec::new();
    for candidate in candidates {
        match check(candidate) {
            Ok(passed) => return Ok(passed),
            Err(Mismatch(what)) => wrong.push(what),
        }
    }
    Err(Mismatch(wrong.join("; nor: ")))
}
