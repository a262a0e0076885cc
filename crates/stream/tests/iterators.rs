//! Iterators that are held across whatever happens to a stream: cuts, dropped beginnings,
//! rotations, failures and the recovery from them. Used from both ends and by runs, each answers
//! what it saw when it was made, or says why it does not.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_stream::{
    Batch, Durability, Entry, ErrorKind, Iter, Location, LogContext, Result, StreamLog, StreamOptions, Visibility,
};
use stratawal_testkit::{HookedStorage, Operation, Rng};

fn storage() -> HookedStorage {
    storage_with_ticks(1)
}

/// The clock moves by so many microseconds when it is looked at.
fn storage_with_ticks(step: u64) -> HookedStorage {
    let storage = MemoryStorage::new().with_clock(1_000_000, step);
    storage.create_dir(Path::new("/streams")).unwrap();
    HookedStorage::new(storage)
}

fn open(storage: &HookedStorage, options: StreamOptions) -> StreamLog {
    let env = Arc::new(LogContext::new(Arc::new(storage.clone())).cache(1 << 20, 2));
    StreamLog::open(env, Location::new("/streams", "s"), options).unwrap()
}

/// The operation fails, after so many that do not.
fn fail(storage: &HookedStorage, which: Operation, after: u64) {
    let left = AtomicU64::new(after);
    storage.set(move |operation, _| {
        let fails = operation == which && left.load(Ordering::SeqCst) == 0;
        left.fetch_sub(u64::from(operation == which && !fails), Ordering::SeqCst);
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    });
}

fn seqs(iter: &mut Iter, runs: bool) -> Result<Vec<u64>> {
    let mut seqs = Vec::new();
    if runs {
        while let Some(run) = iter.next_run() {
            seqs.extend(run?.seqs());
        }
    } else {
        for entry in iter {
            seqs.push(entry?.seq());
        }
    }
    Ok(seqs)
}

#[test]
fn run_ends_at_the_cut() {
    let log = open(&storage(), StreamOptions::new());
    let batch: Batch = (0..10_u8).map(|i| [i; 4]).collect();
    log.append_batch(&batch, Durability::Synced).unwrap();
    let mut iter = log.iter(.., Visibility::Stable);
    assert_eq!(iter.next().unwrap().unwrap().seq(), 0);
    log.truncate_from(5).unwrap();
    log.append_batch(&batch, Durability::Synced).unwrap();
    let mut read = Vec::new();
    let error = loop {
        match iter.next_run().unwrap() {
            Ok(run) => read.extend(run.seqs()),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!((read, error), (vec![1, 2, 3, 4], ErrorKind::Cut { next_seq: 5 }));
}

#[test]
fn run_spans_frames_of_one_tick() {
    let log = open(&storage_with_ticks(0), StreamOptions::new());
    let entry = |seq: u64| vec![seq as u8; 1 + seq as usize % 40];
    for seq in 0..600 {
        log.append(&entry(seq), Durability::Flushed).unwrap();
    }
    let hundred: Batch = (600..700).map(entry).collect();
    log.append_batch(&hundred, Durability::Flushed).unwrap();
    for (front, back) in [(0, 700), (7, 650), (620, 640)] {
        let mut iter = log.iter(front..back, Visibility::Accepted);
        let mut seq = front;
        let mut runs = 0;
        while let Some(run) = iter.next_run() {
            let run = run.unwrap();
            assert_eq!((run.seqs().start, run.entries().len() as u64), (seq, run.seqs().end - seq));
            for found in run.entries() {
                assert_eq!((found.seq, found.data), (seq, &entry(seq)[..]));
                assert_eq!(found.ends_batch, seq < 600 || seq == 699, "{seq}");
                seq += 1;
            }
            runs += 1;
            // The one behind a run is found by `next`, too.
            if let Some(next) = iter.next() {
                let next = next.unwrap();
                assert_eq!((next.seq(), &next.data()[..]), (seq, &entry(seq)[..]));
                assert_eq!(next.ends_batch(), seq < 600 || seq == 699, "{seq}");
                seq += 1;
            }
        }
        assert!(seq == back && runs < 8, "{seq} of {back}, {runs} runs");
    }
}

#[test]
fn the_entries_of_a_run_have_its_timestamp() {
    let log = open(&storage_with_ticks(1), StreamOptions::new());
    for seq in 0..50_u64 {
        log.append(&seq.to_le_bytes(), Durability::Flushed).unwrap();
    }
    let times: Vec<_> = log.iter(.., Visibility::Accepted).map(|entry| entry.unwrap().timestamp()).collect();
    assert!(times.is_sorted() && times[0] < times[49]);
    let mut iter = log.iter(.., Visibility::Accepted);
    while let Some(run) = iter.next_run() {
        let run = run.unwrap();
        assert!(run.seqs().all(|seq| times[usize::try_from(seq).unwrap()] == run.timestamp()));
    }
}

#[test]
fn entries_before_damage_are_a_run() {
    let storage = storage_with_ticks(0);
    let log = open(&storage, StreamOptions::new());
    for seq in 0..50_u64 {
        log.append(&seq.to_le_bytes(), Durability::Flushed).unwrap();
    }
    let file = storage.list(Path::new("/streams/s")).unwrap().remove(0).name;
    let file = storage.open(&Path::new("/streams/s").join(file), Access::ReadWrite).unwrap();
    // Each frame takes 48 bytes: the header, and the entry.
    file.write_all_at(&[0xFF], 128 + 30 * 48 + 40).unwrap();
    let mut iter = log.iter(.., Visibility::Accepted);
    let mut read = Vec::new();
    let error = loop {
        match iter.next_run().unwrap() {
            Ok(run) => read.extend(run.seqs()),
            Err(error) => break error,
        }
    };
    assert!(read.iter().copied().eq(0..30) && error.lost() == Some(30..31), "{read:?}: {error}");
    assert!(iter.next_run().is_none());
}

#[test]
fn iterator_survives_a_lossless_recovery() {
    for runs in [false, true] {
        let storage = storage();
        let log = open(&storage, StreamOptions::new());
        for i in 0..20_u8 {
            log.append(&[i; 4], if i < 10 { Durability::Flushed } else { Durability::Buffered }).unwrap();
        }
        let mut iter = log.iter(.., Visibility::Accepted);
        assert!((0..5).all(|i| iter.next().unwrap().unwrap().seq() == i));
        fail(&storage, Operation::Write, 0);
        log.flush().unwrap_err();
        storage.clear();
        log.reopen().unwrap();
        assert_eq!(log.next_seq(), 20);
        assert!((5..9).all(|i| iter.next().unwrap().unwrap().seq() == i));
        // What waited goes into another segment.
        log.sync().unwrap();
        assert_eq!(seqs(&mut iter, runs).unwrap(), (9..20).collect::<Vec<_>>(), "by runs: {runs}");
    }
}

/// An entry that was appended.
#[derive(Clone)]
struct Appended {
    data: Vec<u8>,
    ends_batch: bool,
}

/// An iterator, and what it has to answer.
struct Held {
    iter: Iter,
    entries: BTreeMap<u64, Appended>,
    front: u64,
    back: u64,
    /// The lowest cut since it was made.
    cut: u64,
    done: bool,
}

/// A stream, what is in it, and who reads it.
struct Program {
    rng: Rng,
    storage: HookedStorage,
    log: StreamLog,
    entries: BTreeMap<u64, Appended>,
    start: u64,
    end: u64,
    appended: u64,
    held: VecDeque<Held>,
    /// What happened, for a failure.
    told: Vec<String>,
}

impl Program {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        // Where it stands still, many frames are of one tick.
        let storage = storage_with_ticks(rng.below(2));
        let options = StreamOptions::new()
            .segment_bytes((64 << 10) << rng.below(2))
            .frame_bytes([64, 600, 6000][usize::try_from(rng.below(3)).unwrap()])
            .durability(if rng.below(2) == 0 { Durability::Synced } else { Durability::Flushed });
        let log = open(&storage, options);
        let entries = BTreeMap::new();
        let held = VecDeque::new();
        let told = Vec::new();
        Self { rng, storage, log, entries, start: 0, end: 0, appended: 0, held, told }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.rng.below(of.len() as u64)).unwrap()]
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..35 => self.append(),
            35..42 => self.log.sync().unwrap(),
            42..47 => self.truncate_from(),
            47..50 => self.truncate_before(),
            50..56 => self.fail_and_recover(),
            56..68 => self.hold(),
            _ => self.read(),
        }
        assert_eq!((self.log.first_seq(), self.log.next_seq()), (self.start, self.end), "{:#?}", self.told);
    }

    fn append(&mut self) {
        let count = self.pick(&[1, 1, 1, 3, 20]);
        let len = self.pick(&[0, 8, 300, 3_000, 14_000]);
        let durability = self.pick(&[Durability::Buffered, Durability::Flushed, Durability::Synced]);
        self.told.push(format!("append {count} of {len}, {durability:?}, at {}", self.end));
        let mut batch = Batch::new();
        for seq in self.end..self.end + count {
            self.appended += 1;
            let mut data = self.appended.to_le_bytes().to_vec();
            data.resize(8 + len, seq as u8);
            batch.push(&data);
            self.entries.insert(seq, Appended { data, ends_batch: seq + 1 == self.end + count });
        }
        let seqs = match count {
            1 => self.log.append(&self.entries[&self.end].data, durability).map(|seq| seq..seq + 1),
            _ => self.log.append_batch(&batch, durability),
        };
        assert_eq!(seqs.unwrap(), self.end..self.end + count);
        self.end += count;
    }

    fn cut_to(&mut self, next: u64) {
        if next < self.end {
            self.entries.split_off(&next);
            if let Some(mut last) = self.entries.last_entry() {
                last.get_mut().ends_batch = true;
            }
            self.end = next;
            self.held.iter_mut().for_each(|held| held.cut = held.cut.min(next));
        }
    }

    fn truncate_from(&mut self) {
        let next = self.end - self.rng.below((self.end - self.start).min(12) + 1);
        self.told.push(format!("truncate from {next}"));
        self.log.truncate_from(next).unwrap();
        self.cut_to(next);
    }

    fn truncate_before(&mut self) {
        let first = self.start + self.rng.below(self.end - self.start + 2);
        self.told.push(format!("truncate before {first}"));
        self.log.truncate_before(first).unwrap();
        self.entries = self.entries.split_off(&first.max(self.start));
        self.start = self.start.max(first);
        self.end = self.end.max(first);
    }

    fn fail_and_recover(&mut self) {
        let which = self.pick(&[Operation::Write, Operation::Sync]);
        let after = self.rng.below(3);
        fail(&self.storage, which, after);
        let failed = self.log.sync().map_err(|error| error.kind());
        self.storage.clear();
        self.log.reopen().unwrap();
        self.told.push(format!("{which:?} fails: {failed:?}, {} entries, then {}", self.end, self.log.next_seq()));
        self.cut_to(self.log.next_seq());
    }

    fn hold(&mut self) {
        let visibility = self.pick(&[Visibility::Accepted, Visibility::Stable]);
        let front =
            self.pick(&[self.start, self.start, self.start + self.rng.clone().below(self.end - self.start + 1)]);
        let back = self.log.end_seq(visibility).max(front);
        self.told.push(format!("iterator over {front}..{back}"));
        let from = if front == self.start { Bound::Unbounded } else { Bound::Included(front) };
        let iter = self.log.iter((from, Bound::Unbounded), visibility);
        self.held.push_back(Held { iter, entries: self.entries.clone(), front, back, cut: u64::MAX, done: false });
        if self.held.len() > 6 {
            self.held.pop_front();
        }
    }

    fn read(&mut self) {
        for held in &mut self.held {
            for _ in 0..self.rng.below(6) {
                let how = self.rng.below(5);
                let right = match how {
                    0..2 => held.next(self.start),
                    2..4 => held.run(self.start),
                    _ => held.next_back(self.start),
                };
                assert!(right, "{}..{}, cut at {}, way {how}: {:#?}", held.front, held.back, held.cut, self.told);
            }
        }
    }
}

impl Held {
    /// Whether an end, or an error about `seq`, is as it should be.
    fn ends(&mut self, answer: Option<stratawal_stream::Error>, seq: u64, start: u64) -> bool {
        let right = match answer.map(|error| error.kind()) {
            None => self.done || self.front >= self.back,
            Some(ErrorKind::Cut { .. }) => self.cut <= seq,
            Some(ErrorKind::Truncated { .. }) => seq < start,
            Some(_) => false,
        };
        self.done = true;
        right
    }

    fn next(&mut self, start: u64) -> bool {
        match self.iter.next().transpose() {
            Ok(Some(entry)) => {
                self.front += 1;
                self.front <= self.back && self.is_at(&entry, self.front - 1)
            }
            Ok(None) => self.ends(None, self.front, start),
            Err(error) => self.ends(Some(error), self.front, start),
        }
    }

    /// Whether the iterator may return this. The last entry before a truncation ends its batch, in a
    /// block that was read before perhaps not yet.
    fn has(&self, seq: u64, data: &[u8], ends_batch: bool) -> bool {
        let appended = &self.entries[&seq];
        let is_cut = seq + 1 == self.cut;
        seq < self.cut && *data == appended.data && (ends_batch == appended.ends_batch || ends_batch && is_cut)
    }

    fn is_at(&self, entry: &Entry, seq: u64) -> bool {
        !self.done && entry.seq() == seq && self.has(seq, entry.data(), entry.ends_batch())
    }

    fn next_back(&mut self, start: u64) -> bool {
        match self.iter.next_back().transpose() {
            Ok(Some(entry)) => {
                self.back -= 1;
                self.front <= self.back && self.is_at(&entry, self.back)
            }
            Ok(None) => self.ends(None, self.front, start),
            Err(error) => self.ends(Some(error), self.back.saturating_sub(1), start),
        }
    }

    fn run(&mut self, start: u64) -> bool {
        match self.iter.next_run().transpose() {
            Ok(Some(run)) => {
                let seqs = run.seqs();
                let right = seqs.start == self.front && !seqs.is_empty() && seqs.end <= self.back.min(self.cut);
                self.front = seqs.end;
                right && !self.done && run.entries().all(|entry| self.has(entry.seq, entry.data, entry.ends_batch))
            }
            Ok(None) => self.ends(None, self.front, start),
            Err(error) => self.ends(Some(error), self.front, start),
        }
    }
}

#[test]
fn iterator_returns_what_it_saw_or_an_error() {
    for seed in 0..80 {
        let mut program = Program::new(seed);
        for _ in 0..400 {
            program.step();
        }
    }
}
