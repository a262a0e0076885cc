//! A writer in another process that records its changes to a stream. The stream's model is built
//! from that record.
//!
//! Only one thread changes a stream. Changes have increasing numbers. Each is recorded before it
//! begins and again once it is acknowledged. So at any time the stream is in the state after the
//! last finished change, or after the change in progress. Each entry names the change that appended
//! it.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::io::Write;

use stratawal::{Batch, Durability, Stream, Wal};
use stratawal_testkit::{Change, Found, Level, Rng, StreamModel, entry};

/// The tag of an entry: the change that appended it, its index in the batch, and the batch's
/// length.
fn tag(change: u64, index: u64, count: u64) -> u64 {
    assert!(index < count && count < 1 << 10 && change < 1 << 44);
    change << 20 | index << 10 | count
}

/// The length of an entry, up to a few hundred bytes.
fn len_of(tag: u64) -> usize {
    8 + usize::try_from(tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 55).unwrap()
}

/// The bytes of an entry, which name its change, its index in the batch, and the batch's length.
pub(crate) fn entry_of(change: u64, index: u64, count: u64) -> Vec<u8> {
    let tag = tag(change, index, count);
    entry(tag, len_of(tag))
}

/// The change number, the index in the batch and the batch length, decoded from an entry's bytes.
pub(crate) fn parts(bytes: &[u8]) -> (u64, u64, u64) {
    let tag = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    (tag >> 20, tag >> 10 & 0x3FF, tag & 0x3FF)
}

/// Prints a line to standard output in one write, so that a reader gets all of it or nothing.
pub(crate) fn print_line(line: &str) {
    // The write fails if the parent has closed the pipe and is about to kill this process.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// The environment variable that makes a child acknowledge an append before it writes it.
pub(crate) const FAULT: &str = "STRATAWAL_TESTS_FAULT";

/// Activates the fault on this thread if the environment variable [`FAULT`] is set. Faults are per
/// thread, so each thread of a child calls this.
#[cfg(stratawal_faults)]
pub(crate) fn seed_fault_of_env() {
    use stratawal_stream::FailPoint;
    if std::env::var_os(FAULT).is_some() {
        FailPoint::AcknowledgedBeforeWrite.activate();
    }
}

#[cfg(not(stratawal_faults))]
pub(crate) const fn seed_fault_of_env() {}

/// Changes a stream, as the only thread to do so, and records each change.
pub(crate) struct Recorder {
    wal: Wal,
    name: String,
    stream: Stream,
    number: u64,
    /// Whether some appends are tickets, which need the log's own threads.
    has_tickets: bool,
}

impl Recorder {
    /// Creates a recorder for the stream `name`, whose first change has this number.
    pub(crate) fn new(wal: &Wal, name: &str, number: u64) -> Self {
        Self { wal: wal.clone(), name: name.to_owned(), stream: wal.stream(name).unwrap(), number, has_tickets: false }
    }

    /// Has some appends made by tickets.
    pub(crate) fn with_tickets(self) -> Self {
        Self { has_tickets: true, ..self }
    }

    /// The number of the next change.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Records the entries found after an earlier process was killed.
    pub(crate) fn record_found(&mut self) {
        self.record(&format!("found {} {}", self.stream.first_seq(), self.stream.next_seq()));
        self.number += 1;
    }

    fn record(&self, what: &str) {
        print_line(&format!("change {} {} {what}", self.name, self.number));
    }

    /// Makes one change of any kind.
    pub(crate) fn change(&mut self, rng: &mut Rng) {
        let first = self.stream.first_seq();
        let next = self.stream.next_seq();
        let live = next - first;
        match rng.below(64) {
            0 | 1 if live > 0 => {
                // Sometimes beyond the end.
                let first = if rng.chance(16) { next + 1 + rng.below(5) } else { first + 1 + rng.below(live) };
                self.truncate_before(first);
            }
            2 | 3 if live > 0 => {
                let many = if rng.chance(32) { live } else { live.min(60) };
                self.truncate_from(next - 1 - rng.below(many));
            }
            4 if self.stream.exists() && rng.chance(64) => self.delete(),
            _ => {
                let durability = [Durability::Buffered, Durability::Flushed, Durability::Synced][rng.index(3)];
                let count = if rng.chance(24) { 1 + rng.below(200) } else { 1 + rng.below(6) };
                self.append(durability, count);
            }
        }
    }

    /// Appends a batch of `count` entries.
    pub(crate) fn append(&mut self, durability: Durability, count: u64) {
        let next = self.stream.next_seq();
        self.record(&format!("append {next} {count}"));
        let batch: Batch = (0..count).map(|i| entry_of(self.number, i, count)).collect();
        let stream = self.stream.with_durability(durability);
        let seqs = match self.number % 4 {
            0 => stream.append_if(next, &batch).unwrap(),
            1 | 2 if self.has_tickets => stream.submit(&batch).unwrap().wait().unwrap(),
            _ => stream.append_batch(&batch).unwrap(),
        };
        assert_eq!(seqs, next..next + count);
        self.record_done(durability as usize);
    }

    /// Drops the entries below `first`, which may be beyond the end.
    pub(crate) fn truncate_before(&mut self, first: u64) {
        self.record(&format!("truncate-before {first}"));
        self.stream.truncate_before(first).unwrap();
        self.record_done(2);
    }

    /// Drops the entry `at` and all later ones.
    pub(crate) fn truncate_from(&mut self, at: u64) {
        self.record(&format!("truncate-from {at}"));
        self.stream.truncate_from(at).unwrap();
        self.record_done(2);
    }

    /// Deletes the stream.
    pub(crate) fn delete(&mut self) {
        self.record("delete");
        self.wal.delete_stream(&self.name).unwrap();
        self.stream = self.wal.stream(&self.name).unwrap();
        self.record_done(2);
    }

    fn record_done(&mut self, level: usize) {
        self.record(&format!("done {level}"));
        self.number += 1;
    }

    /// Records that everything appended so far was synced.
    pub(crate) fn record_synced(&self) {
        self.record("synced");
    }

    /// The stream, for calls that change nothing.
    pub(crate) const fn stream(&self) -> &Stream {
        &self.stream
    }
}

/// Returns the stream that a line is about, and the rest of the line for [`observe`], or `None` if
/// no [`Recorder`] printed the line.
pub(crate) fn recorded(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("change ")?.split_once(' ')
}

/// Applies a line of a [`Recorder`] to the model of its stream.
pub(crate) fn observe(model: &mut StreamModel, line: &str) {
    let (number, what) = line.split_once(' ').unwrap();
    let number: u64 = number.parse().unwrap();
    let words: Vec<&str> = what.split(' ').collect();
    let at = |i: usize| words[i].parse::<u64>().unwrap();
    match words[0] {
        "done" => {
            assert_eq!(number, model.last(), "it was begun");
            let level = [Level::Buffered, Level::Flushed, Level::Synced][usize::try_from(at(1)).unwrap()];
            model.done(level);
        }
        "synced" => model.acknowledged(Level::Synced),
        "found" => model.found(number, at(1)..at(2)).unwrap_or_else(|mismatch| panic!("{mismatch}")),
        "append" => {
            assert_eq!(at(1), model.next_seq(), "appends are numbered on");
            let entry = |index| {
                let tag = tag(number, index, at(2));
                (tag, len_of(tag))
            };
            model.begin_numbered(number, Change::Append((0..at(2)).map(entry).collect()));
        }
        "truncate-before" => model.begin_numbered(number, Change::TruncateBefore(at(1))),
        "truncate-from" => model.begin_numbered(number, Change::TruncateFrom(at(1))),
        "delete" => model.begin_numbered(number, Change::Delete),
        other => panic!("{other}"),
    }
}

/// Compares a stream that was recovered with its model. Returns how many entries it has.
pub(crate) fn check_recovered(what: &str, model: &mut StreamModel, stream: &Stream) -> u64 {
    let first_seq = stream.first_seq();
    let mut found = Found { first_seq, entries: Vec::new() };
    for entry in stream.iter(..) {
        let entry = entry.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(entry.seq(), found.next_seq(), "{what}: a gap");
        found.entries.push(entry.data().to_vec());
    }
    assert_eq!(found.next_seq(), stream.next_seq(), "{what}: a gap at the end");
    model.check_recovered(&found).unwrap_or_else(|mismatch| panic!("{what}: {mismatch}"));
    found.entries.len() as u64
}
