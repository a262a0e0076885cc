//! Iterators held while a stream changes: cuts, dropped beginnings, rotations, failures and
//! recoveries. Read from both ends and by runs, each iterator returns the entries that existed when
//! it was created, or an error with the reason.

mod common;

use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{durability_of, location};
use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_stream::{
    Batch, Durability, Entry, ErrorKind, Iter, LogContext, Result, StreamLog, StreamOptions, Visibility,
};
use stratawal_testkit::{Change, HookedStorage, Level, Operation, Rng, StreamModel, entry};

fn storage() -> HookedStorage {
    storage_with_ticks(1)
}

/// A storage whose clock advances by `step` microseconds each time it is read.
fn storage_with_ticks(step: u64) -> HookedStorage {
    let storage = MemoryStorage::new().with_clock(1_000_000, step);
    storage.create_dir(Path::new("/streams")).unwrap();
    HookedStorage::new(storage)
}

fn open(storage: &HookedStorage, options: StreamOptions) -> StreamLog {
    let context = Arc::new(LogContext::new(Arc::new(storage.clone())).cache(1 << 20, 2));
    StreamLog::open(context, location(), options).unwrap()
}

/// Makes the operation fail after `after` successful ones.
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
            // `next` also returns the entry after a run.
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
fn entries_of_a_run_share_its_timestamp() {
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
    // Each frame takes 48 bytes: the header and the entry.
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
        // The pending entries go into another segment.
        log.sync().unwrap();
        assert_eq!(seqs(&mut iter, runs).unwrap(), (9..20).collect::<Vec<_>>(), "by runs: {runs}");
    }
}

/// An iterator and the entries that it must return.
struct Held {
    iter: Iter,
    model: StreamModel,
    front: u64,
    back: u64,
    /// The lowest end to which the stream was cut since the iterator was created.
    cut: u64,
    done: bool,
}

/// A stream, its model, and the held iterators.
struct Program {
    rng: Rng,
    storage: HookedStorage,
    log: StreamLog,
    model: StreamModel,
    appended: u64,
    held: VecDeque<Held>,
    /// The steps so far, for a failure's message.
    steps: Vec<String>,
}

impl Program {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        // If the clock does not advance, many frames have the same timestamp.
        let storage = storage_with_ticks(rng.below(2));
        let options = StreamOptions::new()
            .segment_bytes((64 << 10) << rng.below(2))
            .frame_bytes([64, 600, 6000][usize::try_from(rng.below(3)).unwrap()])
            .durability(if rng.below(2) == 0 { Durability::Synced } else { Durability::Flushed });
        let log = open(&storage, options);
        let model = StreamModel::default();
        let held = VecDeque::new();
        let steps = Vec::new();
        Self { rng, storage, log, model, appended: 0, held, steps }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.rng.below(of.len() as u64)).unwrap()]
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..35 => self.append(),
            35..42 => {
                self.log.sync().unwrap();
                self.model.acknowledged(Level::Synced);
            }
            42..47 => self.truncate_from(),
            47..50 => self.truncate_before(),
            50..56 => self.fail_and_recover(),
            56..68 => self.hold(),
            _ => self.read(),
        }
        let expected = (self.model.first_seq(), self.model.next_seq());
        assert_eq!((self.log.first_seq(), self.log.next_seq()), expected, "{:#?}", self.steps);
    }

    fn append(&mut self) {
        let count = self.pick(&[1, 1, 1, 3, 20]);
        let len = self.pick(&[0, 8, 300, 3_000, 14_000]);
        let level = self.pick(&[Level::Buffered, Level::Flushed, Level::Synced]);
        let end = self.model.next_seq();
        self.steps.push(format!("append {count} of {len}, {level:?}, at {end}"));
        let tags = self.appended..self.appended + count;
        self.appended = tags.end;
        self.model.begin(Change::Append(tags.clone().map(|tag| (tag, 8 + len)).collect()));
        let mut batch = Batch::new();
        tags.clone().for_each(|tag| batch.push(entry(tag, 8 + len)));
        let seqs = match count {
            1 => self.log.append(&entry(tags.start, 8 + len), durability_of(level)).map(|seq| seq..seq + 1),
            _ => self.log.append_batch(&batch, durability_of(level)),
        };
        assert_eq!(seqs.unwrap(), end..self.model.next_seq());
        self.model.done(level);
    }

    fn note_cut(&mut self, end_before: u64) {
        let end = self.model.next_seq();
        if end < end_before {
            self.held.iter_mut().for_each(|held| held.cut = held.cut.min(end));
        }
    }

    fn truncate_from(&mut self) {
        let end = self.model.next_seq();
        let next = end - self.rng.below((end - self.model.first_seq()).min(12) + 1);
        self.steps.push(format!("truncate from {next}"));
        self.log.truncate_from(next).unwrap();
        self.model.begin(Change::TruncateFrom(next));
        self.model.done(Level::Buffered);
        self.note_cut(end);
    }

    fn truncate_before(&mut self) {
        let start = self.model.first_seq();
        let first = start + self.rng.below(self.model.next_seq() - start + 2);
        self.steps.push(format!("truncate before {first}"));
        self.log.truncate_before(first).unwrap();
        self.model.begin(Change::TruncateBefore(first));
        self.model.done(Level::Buffered);
    }

    fn fail_and_recover(&mut self) {
        let which = self.pick(&[Operation::Write, Operation::Sync]);
        let after = self.rng.below(3);
        fail(&self.storage, which, after);
        let failed = self.log.sync().map_err(|error| error.kind());
        self.storage.clear();
        self.log.reopen().unwrap();
        let end = self.model.next_seq();
        let next = self.log.next_seq();
        self.steps.push(format!("{which:?} fails: {failed:?}, {end} entries, then {next}"));
        assert!(self.model.may_end_at(next), "{:#?}", self.steps);
        self.model.end_at(next);
        self.note_cut(end);
    }

    fn hold(&mut self) {
        let visibility = self.pick(&[Visibility::Accepted, Visibility::Stable]);
        let start = self.model.first_seq();
        let live = self.model.next_seq() - start;
        let front = self.pick(&[start, start, start + self.rng.clone().below(live + 1)]);
        let back = self.log.end_seq(visibility).max(front);
        self.steps.push(format!("iterator over {front}..{back}"));
        let from = if front == start { Bound::Unbounded } else { Bound::Included(front) };
        let iter = self.log.iter((from, Bound::Unbounded), visibility);
        self.held.push_back(Held { iter, model: self.model.clone(), front, back, cut: u64::MAX, done: false });
        if self.held.len() > 6 {
            self.held.pop_front();
        }
    }

    fn read(&mut self) {
        let start = self.model.first_seq();
        for held in &mut self.held {
            for _ in 0..self.rng.below(6) {
                let how = self.rng.below(5);
                let right = match how {
                    0..2 => held.next(start),
                    2..4 => held.run(start),
                    _ => held.next_back(start),
                };
                assert!(right, "{}..{}, cut at {}, way {how}: {:#?}", held.front, held.back, held.cut, self.steps);
            }
        }
    }
}

impl Held {
    /// Whether the end of the iteration, or this error about `seq`, is expected.
    fn ends(&mut self, result: Option<stratawal_stream::Error>, seq: u64, start: u64) -> bool {
        let right = match result.map(|error| error.kind()) {
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

    /// Whether the iterator may return this entry. The last entry before a cut ends its batch, but
    /// not yet in a block that was read before the cut.
    fn has(&self, seq: u64, data: &[u8], ends_batch: bool) -> bool {
        let is_same = self.model.entry(seq).is_some_and(|expected| expected.check_data(seq, data).is_ok());
        let is_cut = seq + 1 == self.cut;
        let is_end = self.model.batch_ends().contains(&(seq + 1));
        seq < self.cut && is_same && (ends_batch == is_end || ends_batch && is_cut)
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
