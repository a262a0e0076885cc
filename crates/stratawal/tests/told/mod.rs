//! A writer in another process that says what it does to a stream, and what the stream may hold by
//! that.
//!
//! One thread changes a stream. Each change has a number, rising, and is said before it is begun
//! and once it is acknowledged. So the stream is at any time in the state behind the last change
//! that was done, or behind the one that is being made; and each entry names the change that
//! appended it.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::io::Write;

use stratawal::{Batch, Durability, Stream, Wal};
use stratawal_testkit::Rng;

/// What an entry is: by which change, which of its batch, of how many; and some bytes that follow
/// from that.
pub(crate) fn entry(tag: u64, i: u64, of: u64) -> Vec<u8> {
    let mut bytes = [tag, i, of].map(u64::to_le_bytes).concat();
    let len = tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 55;
    bytes.extend((0..len).map(|at| (tag ^ i ^ at).to_le_bytes()[0]));
    bytes
}

pub(crate) fn parts(bytes: &[u8]) -> (u64, u64, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().unwrap());
    (word(0), word(1), word(2))
}

/// A line on standard output, in one write: whoever reads it gets it as a whole.
pub(crate) fn say(line: &str) {
    // Where nobody listens any more it is about to be killed.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// What is set where a child has a fault: an append acknowledged before its write.
pub(crate) const FAULT: &str = "STRATAWAL_TESTS_FAULT";

/// For each thread of a child, since a fault is the thread's own.
#[cfg(stratawal_faults)]
pub(crate) fn seed_if_told() {
    use stratawal_stream::FailPoint;
    if std::env::var_os(FAULT).is_some() {
        FailPoint::AcknowledgedBeforeWrite.activate();
    }
}

#[cfg(not(stratawal_faults))]
pub(crate) const fn seed_if_told() {}

/// Changes a stream that nobody else changes.
pub(crate) struct Teller {
    wal: Wal,
    name: String,
    stream: Stream,
    number: u64,
}

impl Teller {
    /// Of the stream `name`; its first change is `number`.
    pub(crate) fn new(wal: &Wal, name: &str, number: u64) -> Self {
        Self { wal: wal.clone(), name: name.to_owned(), stream: wal.stream(name).unwrap(), number }
    }

    /// The number of the next change.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Says what is there: for what was before a kill.
    pub(crate) fn tell(&mut self) {
        self.say(&format!("found {} {}", self.stream.first_seq(), self.stream.next_seq()));
        self.number += 1;
    }

    fn say(&self, what: &str) {
        say(&format!("told {} {} {what}", self.name, self.number));
    }

    /// One change of any kind.
    pub(crate) fn change(&mut self, rng: &mut Rng) {
        let (first, next) = (self.stream.first_seq(), self.stream.next_seq());
        let live = next - first;
        match rng.below(64) {
            0 | 1 if live > 0 => {
                // Now and then beyond the end.
                let first = if rng.chance(16) { next + 1 + rng.below(5) } else { first + 1 + rng.below(live) };
                self.say(&format!("drop {first}"));
                self.stream.truncate_before(first).unwrap();
            }
            2 | 3 if live > 0 => {
                let many = if rng.chance(32) { live } else { live.min(60) };
                let at = next - 1 - rng.below(many);
                self.say(&format!("cut {at}"));
                self.stream.truncate_from(at).unwrap();
            }
            4 if self.stream.exists() && rng.chance(64) => {
                self.say("delete");
                self.wal.delete_stream(&self.name).unwrap();
                self.stream = self.wal.stream(&self.name).unwrap();
            }
            _ => {
                let durability = [Durability::Buffered, Durability::Flushed, Durability::Synced][rng.index(3)];
                let of = if rng.chance(24) { 1 + rng.below(200) } else { 1 + rng.below(6) };
                self.say(&format!("append {next} {of} {}", u64::from(durability >= Durability::Flushed)));
                let batch: Batch = (0..of).map(|i| entry(self.number, i, of)).collect();
                let seqs = self.stream.with_durability(durability).append_batch(&batch).unwrap();
                assert_eq!(seqs, next..next + of);
            }
        }
        self.say("done");
        self.number += 1;
    }
}

/// A state that a stream may be in.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    first: u64,
    /// One past the last entry that is certain to be there, and one past the last that may be.
    sure: u64,
    end: u64,
    /// Whether all of it is certain once the change is done.
    settles: bool,
}

/// What was heard of a stream.
#[derive(Debug)]
pub(crate) struct History {
    /// The states behind the changes, by number; before those that were heard of, nothing is there.
    states: BTreeMap<u64, State>,
    /// What was appended: first seq and entries.
    appends: BTreeMap<u64, (u64, u64)>,
    /// Where the end was taken back.
    cuts: Vec<(u64, u64)>,
    /// The last change that is known to be done.
    done: u64,
}

impl Default for History {
    fn default() -> Self {
        let states = BTreeMap::from([(0, State::default())]);
        Self { states, appends: BTreeMap::new(), cuts: Vec::new(), done: 0 }
    }
}

/// The stream that a line is about, and the rest for [`History::hear`]; `None` if it is another
/// line.
pub(crate) fn told(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("told ")?.split_once(' ')
}

impl History {
    pub(crate) fn hear(&mut self, line: &str) {
        let (number, what) = line.split_once(' ').unwrap();
        let number: u64 = number.parse().unwrap();
        let words: Vec<&str> = what.split(' ').collect();
        let at = |i: usize| words[i].parse::<u64>().unwrap();
        let last = self.last();
        let now = self.states[&last];
        let next = match words[0] {
            "done" => {
                assert_eq!(number, last, "it was begun");
                self.done = number;
                let state = self.states.get_mut(&number).unwrap();
                if state.settles {
                    state.sure = state.end;
                }
                return;
            }
            "found" => {
                let candidates = self.matching(self.done, at(1), at(2));
                assert!(!candidates.is_empty(), "found {} to {}: {self:?}", at(1), at(2));
                self.settle(&candidates, number, at(1), at(2));
                return;
            }
            "append" => {
                assert_eq!(at(1), now.end, "appends are numbered on");
                self.appends.insert(number, (at(1), at(2)));
                State { end: now.end + at(2), settles: at(3) == 1, ..now }
            }
            // Everything before it is in the file by the time that it shows.
            "drop" => {
                let end = now.end.max(at(1));
                State { first: at(1), sure: end, end, settles: true }
            }
            "cut" => {
                self.cuts.push((number, at(1)));
                State { sure: at(1), end: at(1), settles: true, ..now }
            }
            "delete" => {
                self.cuts.push((number, 0));
                State { settles: true, ..State::default() }
            }
            other => panic!("{other}"),
        };
        assert_eq!(self.done, last, "one change at a time");
        self.states.insert(number, next);
    }

    /// The last change that is known to be done.
    pub(crate) const fn done(&self) -> u64 {
        self.done
    }

    /// The last change that was begun.
    pub(crate) fn last(&self) -> u64 {
        *self.states.last_key_value().unwrap().0
    }

    /// How many changes were heard of.
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether entries were dropped or cut in a change behind `number`, so that a reader of that
    /// state may be told so.
    pub(crate) fn has_lost_since(&self, number: u64) -> bool {
        let first = self.states[&number].first;
        self.states.range(number..).any(|(_, state)| state.first != first) || self.cuts.iter().any(|cut| cut.0 > number)
    }

    /// The changes from `from` on behind which the stream may reach from `first` to `next`.
    pub(crate) fn matching(&self, from: u64, first: u64, next: u64) -> Vec<u64> {
        let is = |state: &State| state.first == first && (state.sure..=state.end).contains(&next);
        self.states.range(from..).filter(|(_, state)| is(state)).map(|(&number, _)| number).collect()
    }

    /// Of the states that `candidates` names, keeps those in which this is the entry `seq`.
    pub(crate) fn retain(&self, candidates: &mut Vec<u64>, seq: u64, data: &[u8]) {
        let (tag, i, of) = parts(data);
        assert_eq!(data[..], entry(tag, i, of), "{seq}: torn");
        assert_eq!(self.appends.get(&tag), Some(&(seq - i, of)), "{seq}: no such entry was appended there");
        let behind = self.cuts.partition_point(|cut| cut.0 <= tag);
        let cut = self.cuts[behind..].iter().find(|cut| cut.1 <= seq).map_or(u64::MAX, |cut| cut.0);
        let before = candidates.clone();
        candidates.retain(|&number| (tag..cut).contains(&number));
        assert!(
            !candidates.is_empty(),
            "{seq}: {tag} {i} of {of}, cut in {cut}, is not in any of the states {before:?}"
        );
    }

    /// Of the states that `candidates` names, keeps those in which the stream may end behind this
    /// entry, the last one.
    pub(crate) fn retain_end(&self, candidates: &mut Vec<u64>, seq: u64, data: &[u8]) {
        let (_, i, of) = parts(data);
        candidates.retain(|number| i + 1 == of || self.states[number].sure == seq + 1);
        assert!(!candidates.is_empty(), "{seq}: {i} of {of}: a batch in part");
    }

    /// Holds all that is there against it, nobody changing the stream; answers how much.
    pub(crate) fn check(&mut self, stream: &Stream) -> u64 {
        let (first, next) = (stream.first_seq(), stream.next_seq());
        let mut candidates = self.matching(self.done, first, next);
        assert!(!candidates.is_empty(), "{first} to {next}: {:?}", self.states);
        let mut seq = first;
        for found in stream.iter(..) {
            let found = found.unwrap();
            assert_eq!(found.seq(), seq, "a gap");
            self.retain(&mut candidates, seq, found.data());
            seq += 1;
            if seq == next {
                self.retain_end(&mut candidates, seq - 1, found.data());
            }
        }
        assert_eq!(seq, next);
        self.settle(&candidates, self.last() + 1, first, next);
        next - first
    }

    /// The state is known by now, and gets the number `number`: what was neither done nor found is
    /// never to come.
    fn settle(&mut self, candidates: &[u64], number: u64, first: u64, next: u64) {
        let found = *candidates.last().unwrap();
        self.cuts.retain(|cut| cut.0 <= found);
        self.cuts.push((number, next));
        let state = State { first, sure: next, end: next, settles: true };
        self.states = BTreeMap::from([(number, state)]);
        self.done = number;
        self.appends.retain(|_, &mut (at, of)| at + of > first && at < next);
        let oldest = self.appends.first_key_value().map_or(number, |(&tag, _)| tag);
        self.cuts.retain(|cut| cut.0 > oldest);
    }
}
