//! Programs of random steps, run on a log and on a plain model of it in memory. After every step
//! the log answers what the model says; where a kill may have taken something, the model takes over
//! what is left, if that is lawful.
//!
//! `PROPTEST_CASES` sets how many programs run, `PROPTEST_RNG_SEED` which; the seed is printed with
//! a failure.

use std::collections::VecDeque;
use std::ops::{Bound, Range};
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use stratawal::inspect::{self, CheckState};
use stratawal::{Batch, Durability, Entry, ErrorKind, Iter, Options, Result, Stream, StreamOptions, Visibility, Wal};
use tempfile::TempDir;

use Durability::{Buffered, Flushed, Synced};
use Visibility::{Accepted, Stable};

/// Names that would meet each other, or leave the folder, if they were not escaped.
const NAMES: [&str; 3] = ["..", "CON.a/B\0", "con.A/b\0"];

#[derive(Clone, Copy, Debug)]
enum Step {
    Append {
        to: usize,
        durability: Durability,
        shape: Shape,
    },
    Flush {
        of: usize,
    },
    Sync {
        of: usize,
    },
    SyncAll,
    Get {
        of: usize,
        seen: Visibility,
        at: At,
    },
    GetMany {
        of: usize,
        seen: Visibility,
        at: [At; 5],
    },
    Iterate {
        of: usize,
        seen: Visibility,
        from: Bound<At>,
        to: Bound<At>,
        turns: u64,
    },
    FindTime {
        of: usize,
        seen: Visibility,
        at: At,
    },
    /// Makes an iterator and keeps it.
    Hold {
        of: usize,
        seen: Visibility,
        from: At,
    },
    /// Goes on with the oldest that is kept, and puts it behind the others.
    Pull {
        count: usize,
        turns: u64,
    },
    TruncateBefore {
        of: usize,
        at: At,
    },
    TruncateFrom {
        of: usize,
        at: At,
    },
    Delete {
        of: usize,
    },
    Close(Kept),
    /// Drops all handles, without closing.
    Leave(Kept),
    /// Goes on with a copy of the folder: what `kill -9` leaves.
    Kill(Kept),
    /// Looks at a copy of the folder, read-only.
    Copy(Kept),
    /// Reads beside the writer, with the reader that is there or a new one.
    Beside {
        again: bool,
        kept: Kept,
    },
}

/// A batch: how many entries, and how long they may be.
#[derive(Clone, Copy, Debug)]
struct Shape {
    count: u64,
    len_max: u64,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug)]
enum At {
    /// So many 65,536ths on the way from the first entry to behind the last.
    Live(u16),
    First,
    Last,
    Next,
    Before(u8),
    Beyond(u16),
}

/// How the streams of one life are kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    durability: Durability,
    frame: usize,
    buffer: usize,
    index_every: u64,
    unsettled: usize,
    small_cache: bool,
    map: bool,
}

impl Kept {
    fn options(self) -> Options {
        let streams = StreamOptions::new()
            .durability(self.durability)
            .segment_bytes(64 << 10)
            .frame_bytes(self.frame)
            .buffer_bytes(self.buffer)
            .index_every(self.index_every)
            .unsettled_max(1 << 20, self.unsettled);
        let options = Options::new().stream_defaults(streams);
        let options = if self.small_cache { options.cache(0, 1) } else { options };
        if self.map { mapped(options) } else { options }
    }
}

#[allow(unsafe_code)]
fn mapped(options: Options) -> Options {
    // SAFETY: only the library touches the files of these logs; they are copied, never shortened.
    unsafe { options.map_reads() }
}

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// An entry that was accepted.
#[derive(Debug)]
struct Known {
    data: Vec<u8>,
    /// What it was first read with.
    time: std::cell::Cell<Option<SystemTime>>,
}

/// What a stream must be.
#[derive(Clone, Debug, Default)]
struct Model {
    exists: bool,
    first: u64,
    entries: VecDeque<Rc<Known>>,
    /// Where a batch ended: nowhere else may a kill have cut.
    ends: Vec<u64>,
    /// What is below survives a kill, and a power loss.
    flushed: u64,
    durable: u64,
    /// Nothing at or above it was ever synced, on request or by the log itself.
    durable_max: u64,
    /// The last answer.
    settled: u64,
}

impl Model {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn known(&self, seq: u64) -> Option<&Rc<Known>> {
        self.entries.get(usize::try_from(seq.checked_sub(self.first)?).unwrap())
    }

    fn acknowledge(&mut self, durability: Durability) {
        if durability >= Flushed {
            self.flushed = self.next();
        }
        if durability == Synced {
            self.durable = self.next();
            self.durable_max = self.durable;
        }
    }

    fn append(&mut self, batch: Vec<Vec<u8>>) -> Range<u64> {
        let first = self.next();
        self.exists |= !batch.is_empty();
        self.entries.extend(batch.into_iter().map(|data| Rc::new(Known { data, time: None.into() })));
        self.ends.push(self.next());
        first..self.next()
    }

    fn truncate_before(&mut self, first: u64) {
        if first <= self.first {
            return;
        }
        self.exists = true;
        for _ in 0..(first - self.first).min(self.entries.len() as u64) {
            self.entries.pop_front();
        }
        self.first = first;
        self.ends.retain(|&end| end > first);
        self.ends.push(first);
        self.flushed = self.flushed.max(first);
        self.durable = self.durable.max(first);
        // All that stands in the files is settled before anything is dropped.
        self.durable_max = self.next();
    }

    fn truncate_from(&mut self, next: u64) -> bool {
        if next < self.first || next > self.next() {
            return false;
        }
        if next < self.next() {
            self.end_at(next);
            self.acknowledge(Synced);
        }
        true
    }

    fn end_at(&mut self, next: u64) {
        self.entries.truncate(usize::try_from(next - self.first).unwrap());
        self.ends.retain(|&end| end < next);
        self.ends.push(next);
        self.settled = self.settled.min(next);
    }

    /// Whether a kill may leave entries up to `end`.
    fn may_end_at(&self, end: u64) -> bool {
        (self.flushed..=self.next()).contains(&end) && (self.ends.contains(&end) || end == self.first)
    }

    /// What is shown where entries up to `end` are.
    fn up_to(&self, end: u64) -> Self {
        let mut model = self.clone();
        model.end_at(end);
        model
    }

    fn at(&self, at: At) -> u64 {
        match at {
            At::Live(part) => self.first + (((self.entries.len() as u64 + 1) * u64::from(part)) >> 16),
            At::First => self.first,
            At::Last => self.next().saturating_sub(1),
            At::Next => self.next(),
            At::Before(by) => self.first.saturating_sub(1 + u64::from(by)),
            At::Beyond(by) => self.next() + 1 + u64::from(by),
        }
    }

    fn bound(&self, bound: Bound<At>) -> Bound<u64> {
        match bound {
            Bound::Included(at) => Bound::Included(self.at(at)),
            Bound::Excluded(at) => Bound::Excluded(self.at(at)),
            Bound::Unbounded => Bound::Unbounded,
        }
    }
}

fn is_entry(found: &Entry, seq: u64, known: &Known) {
    assert_eq!((found.seq(), found.data().len()), (seq, known.data.len()));
    assert!(found.data()[..] == known.data[..], "other bytes at {seq}");
    let first_read = known.time.replace(Some(found.timestamp()));
    assert!(first_read.is_none_or(|time| time == found.timestamp()), "another time at {seq}");
}

fn is_truncated<T: std::fmt::Debug>(answer: Result<T>, start: u64) {
    assert_eq!(answer.map_err(|error| error.kind()).unwrap_err(), ErrorKind::Truncated { start });
}

/// That `stream` answers about `seq` what `model` says, of which it shows what is below `end`.
fn check_get(stream: &Stream, model: &Model, end: u64, seq: u64) {
    let found = stream.get(seq);
    if seq < model.first {
        return is_truncated(found, model.first);
    }
    match (found.unwrap(), model.known(seq).filter(|_| seq < end)) {
        (Some(found), Some(known)) => is_entry(&found, seq, known),
        (found, known) => assert!(found.is_none() && known.is_none(), "{seq}: {found:?}, expected {known:?}"),
    }
}

fn check_get_many(stream: &Stream, model: &Model, end: u64, seqs: &[u64]) {
    let found = stream.get_many(seqs);
    if seqs.iter().any(|&seq| seq < model.first) {
        return is_truncated(found, model.first);
    }
    let found = found.unwrap();
    assert_eq!(found.len(), seqs.len());
    for (found, &seq) in found.iter().zip(seqs) {
        match (found, model.known(seq).filter(|_| seq < end)) {
            (Some(found), Some(known)) => is_entry(found, seq, known),
            (found, known) => assert!(found.is_none() && known.is_none(), "{seq}: {found:?}, expected {known:?}"),
        }
    }
}

/// Reads all of `iter`, from the end where a bit of `turns` is set; it stands for `range` within
/// the live entries.
fn check_iter(mut iter: Iter, model: &Model, range: Range<u64>, turns: u64) {
    let (mut front, mut back) = (range.start, range.end);
    let mut turn = 0;
    while front < back {
        let from_back = turns >> (turn % 64) & 1 == 1;
        let seq = if from_back { back - 1 } else { front };
        let found = if from_back { iter.next_back() } else { iter.next() };
        let found = found.unwrap_or_else(|| panic!("ends at {front}..{back} of {range:?}")).unwrap();
        is_entry(&found, seq, model.known(seq).unwrap());
        (front, back) = if from_back { (front, back - 1) } else { (front + 1, back) };
        turn += 1;
    }
    assert!(iter.next().is_none() && iter.next_back().is_none());
}

/// The same, of any range.
fn check_range(stream: &Stream, model: &Model, end: u64, bounds: (Bound<u64>, Bound<u64>), turns: u64) {
    let mut iter = stream.iter(bounds);
    let from = match bounds.0 {
        Bound::Included(seq) => seq,
        Bound::Excluded(seq) => seq + 1,
        Bound::Unbounded => model.first,
    };
    let to = match bounds.1 {
        Bound::Included(seq) => (seq + 1).min(end),
        Bound::Excluded(seq) => seq.min(end),
        Bound::Unbounded => end,
    };
    if from < model.first && from < to {
        is_truncated(if turns & 1 == 1 { iter.next_back() } else { iter.next() }.unwrap(), model.first);
        assert!(iter.next().is_none() && iter.next_back().is_none());
    } else {
        check_iter(iter, model, from..to.max(from), turns);
    }
}

/// That `stream`, which shows what is below `end`, is what `model` says: the whole of it.
fn check_whole(stream: &Stream, model: &Model, end: u64) {
    assert_eq!((stream.exists(), stream.first_seq()), (model.exists, model.first), "{:?}", stream.report());
    check_iter(stream.iter(..), model, model.first..end, 0);
    check_iter(stream.iter(..), model, model.first..end, u64::MAX);
    let seqs: Vec<u64> = (0..9).map(|i| model.first + (end - model.first) * i / 8).collect();
    check_get_many(stream, model, end, &seqs);
    check_last(stream, model, end);
    let times: Vec<_> = model.entries.iter().filter_map(|known| known.time.get()).collect();
    assert!(times.is_sorted(), "a time falls");
}

fn check_last(stream: &Stream, model: &Model, end: u64) {
    match stream.last().unwrap() {
        Some(last) => is_entry(&last, end - 1, model.known(end - 1).unwrap()),
        None => assert_eq!(end, model.first),
    }
}

/// An iterator that is kept while the stream changes under it.
struct Held {
    iter: Iter,
    of: usize,
    model: Model,
    range: Range<u64>,
    /// The lowest cut, and the highest first seq, since it was made.
    cut: u64,
    start: u64,
    beside: bool,
}

impl Held {
    /// The next entry; whether there may be more.
    fn pull(&mut self, from_back: bool) -> bool {
        let found = if from_back { self.iter.next_back() } else { self.iter.next() };
        if self.range.is_empty() {
            assert!(found.is_none());
            return false;
        }
        let seq = if from_back { self.range.end - 1 } else { self.range.start };
        match found.expect("an iterator ends where it ended when it was made, or with an error") {
            Ok(entry) => {
                // A reader in another process need not notice; what it shows is what was there.
                assert!(seq < self.cut || self.beside, "{seq} was cut at {}", self.cut);
                is_entry(&entry, seq, self.model.known(seq).unwrap());
                self.range = if from_back { self.range.start..seq } else { seq + 1..self.range.end };
                true
            }
            Err(error) => {
                match error.kind() {
                    ErrorKind::Cut { .. } => assert!(seq >= self.cut, "{error}: {seq} was not cut"),
                    ErrorKind::Truncated { .. } => assert!(seq < self.start, "{error}: {seq} was not dropped"),
                    _ => panic!("{error}"),
                }
                assert!(self.iter.next().is_none() && self.iter.next_back().is_none());
                self.range = self.range.end..self.range.end;
                false
            }
        }
    }
}

/// A log, what it must be, and who looks at it.
struct World {
    dir: TempDir,
    kept: Kept,
    wal: Option<Wal>,
    streams: Vec<Stream>,
    models: Vec<Model>,
    held: VecDeque<Held>,
    reader: Option<(Wal, Vec<Stream>)>,
    /// Makes the bytes of an entry.
    count: u64,
}

fn look_up(wal: &Wal) -> Vec<Stream> {
    NAMES.iter().map(|name| wal.stream(name).unwrap()).collect()
}

fn copy_of(from: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path());
    dir
}

impl World {
    fn new(kept: Kept) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wal = kept.options().open(dir.path()).unwrap();
        let (streams, models) = (look_up(&wal), vec![Model::default(); NAMES.len()]);
        Self { dir, kept, wal: Some(wal), streams, models, held: VecDeque::new(), reader: None, count: 0 }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append { to, durability, shape } => self.append(to, durability, shape),
            Step::Flush { of } => {
                self.streams[of].flush().unwrap();
                self.models[of].acknowledge(Flushed);
            }
            Step::Sync { of } => {
                self.streams[of].sync().unwrap();
                self.models[of].acknowledge(Synced);
            }
            Step::SyncAll => {
                self.wal().sync().unwrap();
                self.models.iter_mut().for_each(|model| model.acknowledge(Synced));
            }
            Step::TruncateBefore { of, at } => self.truncate_before(of, at),
            Step::TruncateFrom { of, at } => self.truncate_from(of, at),
            Step::Delete { of } => self.delete(of),
            Step::Close(kept) => self.close(kept),
            Step::Leave(kept) => self.leave(kept),
            Step::Kill(kept) => self.kill(kept),
            Step::Copy(kept) => self.look_at_copy(kept),
            Step::Beside { again, kept } => self.beside(again, kept),
            Step::Pull { count, turns } => self.pull(count, turns),
            read => self.read(read),
        }
        self.glance();
    }

    fn read(&mut self, step: Step) {
        match step {
            Step::Get { of, seen, at } => {
                let (stream, model, end) = self.view(of, seen);
                check_get(&stream, model, end, model.at(at));
            }
            Step::GetMany { of, seen, at } => {
                let (stream, model, end) = self.view(of, seen);
                check_get_many(&stream, model, end, &at.map(|at| model.at(at)));
            }
            Step::Iterate { of, seen, from, to, turns } => {
                let (stream, model, end) = self.view(of, seen);
                check_range(&stream, model, end, (model.bound(from), model.bound(to)), turns);
            }
            Step::FindTime { of, seen, at } => self.find_time(of, seen, at),
            Step::Hold { of, seen, from } => {
                let (stream, model, end) = self.view(of, seen);
                let from = model.at(from).clamp(model.first, end);
                self.hold(&stream, of, from..end, false);
            }
            _ => unreachable!("{step:?} is no reading"),
        }
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("it is open between steps")
    }

    /// A handle, and what it must show: the model, up to a seq.
    fn view(&self, of: usize, seen: Visibility) -> (Stream, &Model, u64) {
        let stream = self.streams[of].with_visibility(seen);
        let end = if seen == Accepted { self.models[of].next() } else { stream.stable_seq() };
        (stream, &self.models[of], end)
    }

    /// What every stream says of itself.
    fn glance(&mut self) {
        for of in 0..NAMES.len() {
            let (stream, model) = (&self.streams[of], &mut self.models[of]);
            assert_eq!((stream.exists(), stream.first_seq()), (model.exists, model.first));
            assert_eq!(stream.next_seq(), model.next());
            let settled = stream.stable_seq();
            let least = if self.kept.durability == Synced { model.durable } else { model.flushed };
            assert!((least..=model.next()).contains(&settled), "{settled} settled, {least} at least");
            assert!(settled >= model.settled, "{settled} settled, {} before", model.settled);
            let most = if self.kept.durability == Synced { model.durable_max } else { model.next() };
            assert!(settled <= most, "{settled} settled, {most} may be durable");
            model.settled = settled;
            for seen in [Stable, Accepted] {
                let (stream, model, end) = self.view(of, seen);
                check_last(&stream, model, end);
            }
        }
    }

    fn append(&mut self, to: usize, durability: Durability, shape: Shape) {
        let mut batch = Vec::new();
        for _ in 0..shape.count {
            self.count += 1;
            let len = usize::try_from(mix(self.count) % (shape.len_max + 1)).unwrap();
            let pattern = mix(!self.count).to_le_bytes();
            batch.push(pattern.iter().copied().cycle().take(len).collect::<Vec<u8>>());
        }
        let stream = self.streams[to].with_durability(durability);
        let model = &mut self.models[to];
        let segments = |stream: &Stream| stream.stats().unwrap().segments;
        let before = (segments(&stream), model.next());
        if let [entry] = &batch[..] {
            assert_eq!(stream.append(entry).unwrap(), model.next());
            model.append(batch);
        } else {
            let seqs = stream.append_batch(&batch.iter().collect::<Batch>()).unwrap();
            assert_eq!(seqs, model.append(batch));
        }
        // An append that begins a segment may sync those before it, which have none of its entries.
        if segments(&stream) > before.0 {
            model.durable_max = before.1;
        }
        // An empty batch waits for nothing.
        if shape.count > 0 {
            model.acknowledge(durability);
        }
    }

    fn find_time(&mut self, of: usize, seen: Visibility, at: At) {
        let (stream, model, end) = self.view(of, seen);
        // Times are known once they were read.
        check_iter(stream.iter(..), model, model.first..end, 0);
        let time_of = |seq| model.known(seq).and_then(|known| known.time.get()).unwrap();
        let seq = model.at(at).clamp(model.first, end);
        let time = if seq < end { time_of(seq) } else { SystemTime::now() + std::time::Duration::from_secs(1) };
        let first = (model.first..end).find(|&seq| time_of(seq) >= time).unwrap_or(end);
        assert_eq!(stream.seq_at(time).unwrap(), first, "in {}..{end}", model.first);
    }

    fn hold(&mut self, stream: &Stream, of: usize, range: Range<u64>, beside: bool) {
        let (iter, model) = (stream.iter(range.clone()), self.models[of].clone());
        let start = model.first;
        self.held.push_back(Held { iter, of, model, range, cut: u64::MAX, start, beside });
    }

    fn pull(&mut self, count: usize, turns: u64) {
        let Some(mut held) = self.held.pop_front() else { return };
        if (0..count).all(|turn| held.pull(turns >> (turn % 64) & 1 == 1)) {
            self.held.push_back(held);
        }
    }

    /// Reads what is left of the iterators, one in each direction.
    fn pull_all(&mut self) {
        for (i, mut held) in std::mem::take(&mut self.held).into_iter().enumerate() {
            while held.pull(i % 2 == 1) {}
        }
    }

    fn truncate_before(&mut self, of: usize, at: At) {
        let first = self.models[of].at(at);
        self.streams[of].truncate_before(first).unwrap();
        self.models[of].truncate_before(first);
        let first = self.models[of].first;
        self.held.iter_mut().filter(|held| held.of == of).for_each(|held| held.start = held.start.max(first));
    }

    fn truncate_from(&mut self, of: usize, at: At) {
        let model = &mut self.models[of];
        let (first, end, next) = (model.first, model.next(), model.at(at));
        let answer = self.streams[of].truncate_from(next);
        if !model.truncate_from(next) {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::OutOfRange { first, next: end });
            return;
        }
        answer.unwrap();
        if next < end {
            self.held.iter_mut().filter(|held| held.of == of).for_each(|held| held.cut = held.cut.min(next));
        }
    }

    fn delete(&mut self, of: usize) {
        let answer = self.wal().delete_stream(NAMES[of]);
        if !self.models[of].exists {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Missing);
        } else {
            answer.unwrap();
            let before = &self.streams[of];
            assert_eq!(before.append("x").unwrap_err().kind(), ErrorKind::Missing);
            assert!(!before.exists() && before.iter(..).next().is_none());
            self.held.iter_mut().filter(|held| held.of == of).for_each(|held| held.cut = 0);
        }
        self.streams[of] = self.wal().stream(NAMES[of]).unwrap();
        self.models[of] = Model::default();
    }

    fn close(&mut self, kept: Kept) {
        self.wal().close().unwrap();
        self.models.iter_mut().for_each(|model| model.acknowledge(Synced));
        self.glance();
        for (stream, model) in self.streams.iter().zip(&self.models) {
            assert_eq!(stream.append("x").unwrap_err().kind(), ErrorKind::Closed);
            check_whole(stream, model, model.next());
        }
        self.pull_all();
        inspect::verify(self.dir.path(), None, &mut |check| {
            let check = check.unwrap();
            assert_eq!(check.state, CheckState::Sound, "{check:?}");
        })
        .unwrap();
        self.reopen(kept);
        assert!(self.streams.iter().all(|s| !s.exists() || s.report().clean && s.report().scanned_bytes == 0));
    }

    fn leave(&mut self, kept: Kept) {
        self.streams.clear();
        self.wal = None;
        self.pull_all();
        self.models.iter_mut().for_each(|model| model.acknowledge(Synced));
        self.reopen(kept);
    }

    /// Opens the log anew; nobody has it open.
    fn reopen(&mut self, kept: Kept) {
        self.kept = kept;
        // The one before is closed by now, and gives up its place.
        self.wal = Some(kept.options().open(self.dir.path()).unwrap());
        self.streams = look_up(self.wal());
        self.check_all();
    }

    fn check_all(&self) {
        for (stream, model) in self.streams.iter().zip(&self.models) {
            check_whole(stream, model, model.next());
        }
        self.check_names(self.wal());
    }

    fn check_names(&self, wal: &Wal) {
        let mut expected: Vec<_> = NAMES.iter().zip(&self.models).filter(|(_, model)| model.exists).collect();
        expected.sort_by_key(|(name, _)| inspect::escape_name(name).unwrap());
        assert_eq!(wal.streams().unwrap(), expected.iter().map(|(name, _)| **name).collect::<Vec<_>>());
    }

    fn kill(&mut self, kept: Kept) {
        let copy = copy_of(self.dir.path());
        self.held.clear();
        self.reader = None;
        self.streams.clear();
        self.wal = None;
        self.dir = copy;
        self.kept = kept;
        self.wal = Some(kept.options().open(self.dir.path()).unwrap());
        self.streams = look_up(self.wal());
        for (stream, model) in self.streams.iter().zip(&mut self.models) {
            let end = stream.next_seq();
            assert!(model.may_end_at(end), "{end} after a kill; {} were flushed of {}", model.flushed, model.next());
            model.end_at(end);
            // Recovery syncs what it keeps.
            model.acknowledge(Synced);
            assert_eq!((stream.report().existed, stream.report().next_seq), (model.exists, end));
        }
        self.check_all();
    }

    fn look_at_copy(&mut self, kept: Kept) {
        let copy = copy_of(self.dir.path());
        let wal = kept.options().open_read_only(copy.path()).unwrap();
        self.check_reader(&wal, &look_up(&wal));
        inspect::verify(copy.path(), None, &mut |check| {
            let check = check.unwrap();
            assert_ne!(check.state, CheckState::Damaged, "{check:?}");
        })
        .unwrap();
    }

    fn beside(&mut self, again: bool, kept: Kept) {
        let reader = self.reader.take().filter(|_| again);
        let (wal, streams) = match reader {
            Some((wal, streams)) => {
                streams.iter().for_each(|stream| stream.reopen().unwrap());
                (wal, streams)
            }
            None => {
                let wal = kept.options().open_read_only(self.dir.path()).unwrap();
                let streams = look_up(&wal);
                (wal, streams)
            }
        };
        self.check_reader(&wal, &streams);
        for (of, stream) in streams.iter().enumerate() {
            assert_eq!(stream.append("x").unwrap_err().kind(), ErrorKind::ReadOnly);
            self.hold(stream, of, stream.first_seq()..stream.next_seq(), true);
        }
        self.reader = Some((wal, streams));
    }

    /// What a reader shows that has just looked.
    fn check_reader(&self, wal: &Wal, streams: &[Stream]) {
        self.check_names(wal);
        for (stream, model) in streams.iter().zip(&self.models) {
            let end = stream.next_seq();
            assert!(model.may_end_at(end), "a reader sees {end}; {} were flushed of {}", model.flushed, model.next());
            assert_eq!(stream.stable_seq(), end);
            check_whole(stream, &model.up_to(end), end);
        }
    }
}

fn of() -> impl Strategy<Value = usize> {
    0..NAMES.len()
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Buffered), Just(Flushed), Just(Synced)]
}

fn seen() -> impl Strategy<Value = Visibility> {
    prop_oneof![Just(Stable), Just(Accepted)]
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        12 => any::<u16>().prop_map(At::Live),
        2 => Just(At::First),
        2 => Just(At::Last),
        2 => Just(At::Next),
        1 => any::<u8>().prop_map(At::Before),
        1 => (0..2000_u16).prop_map(At::Beyond),
    ]
}

fn bound() -> impl Strategy<Value = Bound<At>> {
    prop_oneof![at().prop_map(Bound::Included), at().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}

fn shape() -> impl Strategy<Value = Shape> {
    let of = |counts: Range<u64>, lens: Range<u64>| {
        (counts, lens).prop_map(|(count, len_max)| Shape { count, len_max }).boxed()
    };
    // Up to some bytes, a tenth of a segment, a segment, and several.
    prop_oneof![
        1 => of(0..1, 0..1),
        8 => of(1..2, 0..300),
        8 => of(1..200, 0..50),
        4 => of(1..50, 0..3000),
        2 => of(1..3, 40_000..70_000),
        1 => of(1..3000, 0..150),
    ]
}

fn kept() -> impl Strategy<Value = Kept> {
    let frame = prop_oneof![Just(1_usize), Just(300), Just(6 << 10), Just(1 << 20)];
    let buffer = prop_oneof![Just(1_usize), Just(5000), Just(256 << 10)];
    let index_every = prop_oneof![Just(1_u64), Just(500), Just(4 << 10), Just(1 << 20)];
    (durability(), frame, buffer, index_every, 0..4_usize, any::<bool>(), any::<bool>()).prop_map(
        |(durability, frame, buffer, index_every, unsettled, small_cache, map)| Kept {
            durability,
            frame,
            buffer,
            index_every,
            unsettled,
            small_cache,
            map,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (of(), durability(), shape()).prop_map(|(to, durability, shape)| Step::Append { to, durability, shape }),
        2 => of().prop_map(|of| Step::Flush { of }),
        2 => of().prop_map(|of| Step::Sync { of }),
        1 => Just(Step::SyncAll),
        4 => (of(), seen(), at()).prop_map(|(of, seen, at)| Step::Get { of, seen, at }),
        4 => (of(), seen(), [at(), at(), at(), at(), at()]).prop_map(|(of, seen, at)| Step::GetMany { of, seen, at }),
        6 => (of(), seen(), bound(), bound(), any::<u64>())
            .prop_map(|(of, seen, from, to, turns)| Step::Iterate { of, seen, from, to, turns }),
        2 => (of(), seen(), at()).prop_map(|(of, seen, at)| Step::FindTime { of, seen, at }),
        4 => (of(), seen(), at()).prop_map(|(of, seen, from)| Step::Hold { of, seen, from }),
        4 => (0..300_usize, any::<u64>()).prop_map(|(count, turns)| Step::Pull { count, turns }),
        5 => (of(), at()).prop_map(|(of, at)| Step::TruncateBefore { of, at }),
        5 => (of(), at()).prop_map(|(of, at)| Step::TruncateFrom { of, at }),
        1 => of().prop_map(|of| Step::Delete { of }),
        2 => kept().prop_map(Step::Close),
        1 => kept().prop_map(Step::Leave),
        4 => kept().prop_map(Step::Kill),
        2 => kept().prop_map(Step::Copy),
        3 => (any::<bool>(), kept()).prop_map(|(again, kept)| Step::Beside { again, kept }),
    ]
}

#[test]
fn any_program_of_steps_does_what_a_plain_model_does() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("PROPTEST_RNG_SEED").unwrap_or_else(|| mix(u64::from(std::process::id())));
    let cases = number("PROPTEST_CASES").and_then(|cases| u32::try_from(cases).ok()).unwrap_or(60);
    println!("volume: {cases} programs, PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases}");
    // Many are shared by the cores, each of which has a seed of its own.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = u32::try_from(cores).unwrap_or(1).min(cases / 100).max(1);
    std::thread::scope(|scope| {
        for i in 0..threads {
            scope.spawn(move || run_programs(seed.wrapping_add(i.into()), cases.div_ceil(threads)));
        }
    });
}

fn run_programs(seed: u64, cases: u32) {
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let programs = (kept(), proptest::collection::vec(step(), 1..80));
    let outcome = TestRunner::new(config).run(&programs, |(kept, steps)| {
        let mut world = World::new(kept);
        for step in steps {
            world.step(step);
        }
        world.pull_all();
        world.kill(kept);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("PROPTEST_RNG_SEED={seed}: {failure}");
    }
}

/// The model finds what it is there for.
#[cfg(stratawal_faults)]
mod seeded {
    use std::panic::catch_unwind;

    use stratawal_stream::FailPoint;

    /// What a program says that shrinks to a step in which the log and the model differ.
    const FOUND: &str = "Test failed:";

    fn is_found(fail_point: FailPoint) {
        fail_point.activate();
        let tried = catch_unwind(|| super::run_programs(1, 400));
        FailPoint::deactivate();
        let panic = tried.expect_err("it is not found");
        let text = panic.downcast_ref::<String>().expect("the model says what it has found");
        assert!(text.contains(FOUND), "the harness failed, and found nothing: {text}");
    }

    #[test]
    fn an_acknowledgement_before_the_write_is_found() {
        is_found(FailPoint::AcknowledgedBeforeWrite);
    }

    #[test]
    fn a_cut_without_an_epoch_of_its_own_is_found() {
        is_found(FailPoint::EpochKept);
    }
}
