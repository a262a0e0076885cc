//! A log and its models, on which a program's steps run.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use stratawal::inspect::{self, CheckState};
use stratawal::{Durability, ErrorKind, Stream, Visibility, Wal};
use stratawal_testkit::{Change, Level, StreamModel, entry};
use tempfile::TempDir;

use Durability::Synced;
use Visibility::{Accepted, Stable};

use crate::NAMES;
use crate::checks::{HeldIter, check_get, check_get_many, check_iter, check_last, check_range, check_whole};
use crate::followers::{Followers, Now};
use crate::mix;
use crate::steps::{BatchShape, Position, Setup, Step, bound_of};

/// A log, the models of its streams, and its iterators and readers.
pub(crate) struct World {
    dir: TempDir,
    setup: Setup,
    wal: Option<Wal>,
    streams: Vec<Stream>,
    models: Vec<StreamModel>,
    held: VecDeque<HeldIter>,
    reader: Option<(Wal, Vec<Stream>)>,
    followers: Followers,
    /// How many entries were appended. This determines the bytes of the next entry.
    count: u64,
}

/// A handle on every stream.
fn look_up(wal: &Wal) -> Vec<Stream> {
    NAMES.iter().map(|name| wal.stream(name).unwrap()).collect()
}

fn level_of(durability: Durability) -> Level {
    match durability {
        Durability::Buffered => Level::Buffered,
        Durability::Flushed => Level::Flushed,
        Durability::Synced => Level::Synced,
    }
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

fn check_names(wal: &Wal, models: &[StreamModel]) {
    let mut expected: Vec<_> = NAMES.iter().zip(models).filter(|(_, model)| model.exists()).collect();
    expected.sort_by_key(|(name, _)| inspect::escape_name(name).unwrap());
    assert_eq!(wal.streams().unwrap(), expected.iter().map(|(name, _)| **name).collect::<Vec<_>>());
}

/// Whether the stream does not exist, and had no entry that was flushed. With a journal, a new
/// stream exists for other processes, and after a kill, once its first entry is flushed.
fn is_unborn(stream: &Stream) -> bool {
    !stream.exists() && stream.next_seq() == 0
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wal = setup.options().open(dir.path()).unwrap();
        let streams = look_up(&wal);
        let models = vec![StreamModel::default(); NAMES.len()];
        let mut followers = Followers::new();
        followers.begin(Now { wal: &wal, streams: &streams, models: &models }, false);
        let held = VecDeque::new();
        Self { dir, setup, wal: Some(wal), streams, models, held, reader: None, followers, count: 0 }
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Append { to, durability, shape } => self.append(to, durability, shape, None),
            Step::AppendIf { to, durability, shape, expected } => {
                self.append(to, durability, shape, Some(expected));
            }
            Step::Submit { to, durability, shapes } => self.submit(to, durability, &shapes),
            Step::Flush { of } => {
                self.streams[of].flush().unwrap();
                self.models[of].acknowledged(Level::Flushed);
            }
            Step::Sync { of } => {
                self.streams[of].sync().unwrap();
                self.models[of].acknowledged(Level::Synced);
            }
            Step::SyncAll => {
                self.wal().sync().unwrap();
                self.models.iter_mut().for_each(|model| model.acknowledged(Level::Synced));
            }
            Step::TruncateBefore { of, at } => self.truncate_before(of, at),
            Step::TruncateFrom { of, at } => self.truncate_from(of, at),
            Step::Delete { of } => self.delete(of),
            Step::CloseStream { of } => self.close_stream(of),
            Step::Close(setup) => self.close(setup),
            Step::Leave(setup) => self.leave(setup),
            Step::Kill(setup) => self.kill(setup),
            Step::Copy(setup) => self.look_at_copy(setup),
            Step::Beside { again, setup } => self.beside(again, setup),
            Step::Pull { count, turns } => self.pull(count, turns),
            Step::Follow { count } => self.follow(|followers, now, _| followers.pull(now, count)),
            Step::FollowFrom { of, seen, from } => {
                let from = from.seq(&self.models[of]);
                self.follow(|followers, now, _| followers.follow_from(of, seen, from, now));
            }
            Step::FollowBeside(setup) => {
                self.follow(|followers, now, dir| followers.pull_beside(now, &setup.options(), dir));
            }
            Step::FollowPrefixBeside(setup) => {
                self.follow(|followers, now, dir| followers.pull_prefix_beside(now, &setup.options(), dir));
            }
            read => self.read(read),
        }
        self.glance();
    }

    fn read(&mut self, step: Step) {
        match step {
            Step::Get { of, seen, at } => {
                let (stream, model, end) = self.view(of, seen);
                check_get(&stream, model, end, at.seq(model));
            }
            Step::GetMany { of, seen, at } => {
                let (stream, model, end) = self.view(of, seen);
                check_get_many(&stream, model, end, &at.map(|at| at.seq(model)));
            }
            Step::Iterate { of, seen, from, to, turns } => {
                let (stream, model, end) = self.view(of, seen);
                check_range(&stream, model, end, (bound_of(from, model), bound_of(to, model)), turns);
            }
            Step::FindTime { of, seen, at } => self.find_time(of, seen, at),
            Step::Hold { of, seen, from } => {
                let (stream, model, end) = self.view(of, seen);
                let from = from.seq(model).clamp(model.first_seq(), end);
                self.hold(&stream, of, from..end, false);
            }
            _ => unreachable!("{step:?} does not read"),
        }
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("the log is open between steps")
    }

    fn follow(&mut self, act: impl FnOnce(&mut Followers, Now<'_>, &Path)) {
        let wal = self.wal.as_ref().expect("the log is open between steps");
        act(&mut self.followers, Now { wal, streams: &self.streams, models: &self.models }, self.dir.path());
    }

    /// Has all followers return what they have not.
    pub(crate) fn follow_all(&mut self) {
        let options = self.setup.options();
        self.follow(|followers, now, dir| {
            followers.pull(now, usize::MAX);
            followers.pull_beside(now, &options, dir);
            followers.pull_prefix_beside(now, &options, dir);
        });
    }

    /// A handle, its model, and the end of the entries that the handle shows.
    fn view(&self, of: usize, seen: Visibility) -> (Stream, &StreamModel, u64) {
        let stream = self.streams[of].with_visibility(seen);
        let end = if seen == Accepted { self.models[of].next_seq() } else { stream.stable_seq() };
        (stream, &self.models[of], end)
    }

    /// Checks the bounds and the last entry of every stream.
    fn glance(&mut self) {
        for of in 0..NAMES.len() {
            let stream = &self.streams[of];
            let model = &mut self.models[of];
            if self.setup.has_journal() {
                // Any append may settle any stream, to close its file or to free the journal.
                model.may_be_synced_to(model.next_seq());
            }
            assert_eq!((stream.exists(), stream.first_seq()), (model.exists(), model.first_seq()));
            assert_eq!(stream.next_seq(), model.next_seq());
            let level = if self.setup.durability == Synced { Level::Synced } else { Level::Flushed };
            let stable = model.check_stable(stream.stable_seq(), level);
            stable.unwrap_or_else(|mismatch| panic!("{mismatch}"));
            for seen in [Stable, Accepted] {
                let (stream, model, end) = self.view(of, seen);
                check_last(&stream, model, end);
            }
        }
    }

    /// The tags and lengths of the entries of the next batch, and the entries.
    fn next_batch(&mut self, shape: BatchShape) -> (Vec<(u64, usize)>, Vec<Vec<u8>>) {
        let numbers = self.count..self.count + shape.count;
        self.count = numbers.end;
        let spec = |i: u64| (mix(!i), usize::try_from(mix(i) % (shape.len_max + 1)).unwrap());
        let specs: Vec<(u64, usize)> = numbers.map(spec).collect();
        let batch = specs.iter().map(|&(tag, len)| entry(tag, len)).collect();
        (specs, batch)
    }

    fn submit(&mut self, to: usize, durability: Durability, shapes: &[BatchShape]) {
        // From here on the log needs no threads for tickets.
        self.wal().drive_tickets();
        let stream = self.streams[to].with_durability(durability);
        let mut tickets = Vec::new();
        for &shape in shapes {
            let (specs, batch) = self.next_batch(shape);
            let model = &mut self.models[to];
            let before = model.next_seq();
            let ticket = stream.submit(&batch.iter().collect()).unwrap();
            model.begin(Change::Append(specs));
            model.done(Level::Buffered);
            assert_eq!(ticket.seqs(), before..model.next_seq());
            self.followers.appended(to, &batch);
            tickets.push((ticket, batch.is_empty()));
        }
        while self.wal().drive_tickets() {}
        let model = &mut self.models[to];
        // A new segment may sync earlier entries.
        model.may_be_synced_to(model.next_seq());
        let mut waited = false;
        for (i, (mut ticket, is_empty)) in tickets.into_iter().enumerate() {
            let seqs = ticket.seqs();
            if i % 2 == 0 {
                assert_eq!(ticket.wait().unwrap(), seqs);
            } else {
                assert_eq!(ticket.wait_timeout(Duration::from_secs(60)).expect("it completes").unwrap(), seqs);
            }
            waited |= !is_empty;
        }
        if waited {
            self.models[to].acknowledged(level_of(durability));
        }
    }

    fn append(&mut self, to: usize, durability: Durability, shape: BatchShape, expected: Option<Position>) {
        let (specs, batch) = self.next_batch(shape);
        let stream = self.streams[to].with_durability(durability);
        let model = &mut self.models[to];
        let segments = |stream: &Stream| stream.stats().unwrap().segments;
        let segments_before = segments(&stream);
        let end = model.next_seq();
        let expected = expected.map(|expected| expected.seq(model));
        let seqs = match (expected, &batch[..]) {
            (Some(expected), batch) => stream.append_if(expected, &batch.iter().collect()),
            (None, [entry]) => stream.append(entry).map(|seq| seq..seq + 1),
            (None, batch) => stream.append_batch(&batch.iter().collect()),
        };
        if let Some(expected_next_seq) = expected.filter(|&expected| expected != end) {
            let conflict = ErrorKind::Conflict { expected_next_seq, next_seq: end };
            assert_eq!(seqs.unwrap_err().kind(), conflict);
            return;
        }
        model.begin(Change::Append(specs));
        assert_eq!(seqs.unwrap(), end..model.next_seq());
        self.followers.appended(to, &batch);
        // An append that begins a segment may sync the earlier segments, which have none of its
        // entries.
        if segments(&stream) > segments_before {
            model.may_be_synced_to(end);
        }
        // An empty batch does not wait.
        model.done(if shape.count > 0 { level_of(durability) } else { Level::Buffered });
    }

    fn find_time(&mut self, of: usize, seen: Visibility, at: Position) {
        let (stream, model, end) = self.view(of, seen);
        let first = model.first_seq();
        // The model learns a timestamp at the first read.
        check_iter(stream.iter(..), model, first..end, 0);
        let timestamps = model.entries().map(|(_, expected)| expected.timestamp());
        let timestamps: Vec<Option<SystemTime>> = timestamps.take(usize::try_from(end - first).unwrap()).collect();
        let at = usize::try_from(at.seq(model).clamp(first, end) - first).unwrap();
        let time = timestamps.get(at).map_or_else(|| SystemTime::now() + Duration::from_secs(1), |time| time.unwrap());
        let found = timestamps.iter().position(|timestamp| timestamp.unwrap() >= time).unwrap_or(timestamps.len());
        assert_eq!(stream.seq_at(time).unwrap(), first + found as u64, "in {first}..{end}");
    }

    fn hold(&mut self, stream: &Stream, of: usize, range: Range<u64>, beside: bool) {
        let iter = stream.iter(range.clone());
        let model = self.models[of].clone();
        let start = model.first_seq();
        let cuts = BTreeSet::new();
        let is_closed = false;
        self.held.push_back(HeldIter { iter, of, model, range, cut: u64::MAX, cuts, start, beside, is_closed });
    }

    fn pull(&mut self, count: usize, turns: u64) {
        let Some(mut held) = self.held.pop_front() else { return };
        if (0..count).all(|turn| held.pull(turns >> (turn % 64) & 1 == 1)) {
            self.held.push_back(held);
        }
    }

    /// Reads the held iterators to their ends, every second one backwards.
    pub(crate) fn pull_all(&mut self) {
        for (i, mut held) in std::mem::take(&mut self.held).into_iter().enumerate() {
            while held.pull(i % 2 == 1) {}
        }
    }

    fn truncate_before(&mut self, of: usize, at: Position) {
        let model = &mut self.models[of];
        let first = at.seq(model);
        self.streams[of].truncate_before(first).unwrap();
        model.begin(Change::TruncateBefore(first));
        model.done(Level::Buffered);
        let first = model.first_seq();
        self.followers.truncated_before(of, first);
        self.held.iter_mut().filter(|held| held.of == of).for_each(|held| held.start = held.start.max(first));
    }

    fn truncate_from(&mut self, of: usize, at: Position) {
        let model = &mut self.models[of];
        let first = model.first_seq();
        let end = model.next_seq();
        let next = at.seq(model);
        let result = self.streams[of].truncate_from(next);
        if !(first..=end).contains(&next) {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfRange { first_seq: first, next_seq: end });
            return;
        }
        result.unwrap();
        model.begin(Change::TruncateFrom(next));
        model.done(Level::Buffered);
        self.followers.truncated_from(of, next);
        if next < end {
            for held in self.held.iter_mut().filter(|held| held.of == of) {
                held.cut = held.cut.min(next);
                held.cuts.insert(next);
            }
        }
    }

    fn delete(&mut self, of: usize) {
        let result = self.wal().delete_stream(NAMES[of]);
        if !self.models[of].exists() {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Missing);
            self.followers.missing(of);
        } else {
            result.unwrap();
            let before = &self.streams[of];
            assert_eq!(before.append("x").unwrap_err().kind(), ErrorKind::Missing);
            assert!(!before.exists() && before.iter(..).next().is_none());
            self.held.iter_mut().filter(|held| held.of == of).for_each(|held| held.cut = 0);
            self.followers.deleted(of);
        }
        self.streams[of] = self.wal().stream(NAMES[of]).unwrap();
        self.models[of] = StreamModel::default();
    }

    fn close_stream(&mut self, of: usize) {
        let closed = self.streams[of].clone();
        closed.close().unwrap();
        self.models[of].acknowledged(Level::Synced);
        assert_eq!(closed.append("x").unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(closed.last().unwrap_err().kind(), ErrorKind::Closed);
        for held in self.held.iter_mut().filter(|held| held.of == of && !held.beside) {
            held.is_closed = true;
        }
        let again = self.wal().stream(NAMES[of]).unwrap();
        assert!(!again.exists() || again.report().clean && again.report().scanned_bytes == 0);
        check_whole(&again, &self.models[of], self.models[of].next_seq());
        self.follow(|followers, now, _| followers.closed(of, now, &again));
        self.streams[of] = again;
    }

    fn close(&mut self, setup: Setup) {
        self.wal().close().unwrap();
        self.models.iter_mut().for_each(|model| model.acknowledged(Level::Synced));
        self.glance();
        for (stream, model) in self.streams.iter().zip(&self.models) {
            assert_eq!(stream.append("x").unwrap_err().kind(), ErrorKind::Closed);
            check_whole(stream, model, model.next_seq());
        }
        self.pull_all();
        self.follow(|followers, now, _| followers.end(now));
        for check in inspect::verify(self.dir.path(), None).unwrap().map(Result::unwrap) {
            assert_eq!(check.state, CheckState::Sound, "{check:?}");
        }
        self.reopen(setup);
        assert!(self.streams.iter().all(|s| !s.exists() || s.report().clean && s.report().scanned_bytes == 0));
    }

    fn leave(&mut self, setup: Setup) {
        self.followers.leave();
        self.streams.clear();
        self.wal = None;
        self.pull_all();
        self.models.iter_mut().for_each(|model| model.acknowledged(Level::Synced));
        self.reopen(setup);
    }

    /// Reopens the log, after all its handles were dropped.
    fn reopen(&mut self, setup: Setup) {
        self.setup = setup;
        // This drops the old handle, which is closed.
        self.wal = Some(setup.options().open(self.dir.path()).unwrap());
        self.streams = look_up(self.wal());
        self.check_all();
        self.follow(|followers, now, _| followers.begin(now, false));
    }

    fn check_all(&self) {
        for (stream, model) in self.streams.iter().zip(&self.models) {
            check_whole(stream, model, model.next_seq());
        }
        check_names(self.wal(), &self.models);
    }

    /// Continues with a copy of the directory, as after a process death.
    pub(crate) fn kill(&mut self, setup: Setup) {
        let copy = copy_of(self.dir.path());
        self.held.clear();
        self.followers.leave();
        self.reader = None;
        self.streams.clear();
        self.wal = None;
        self.dir = copy;
        let had_journal = self.setup.has_journal();
        self.setup = setup;
        self.wal = Some(setup.options().open(self.dir.path()).unwrap());
        self.streams = look_up(self.wal());
        for (stream, model) in self.streams.iter().zip(&mut self.models) {
            let end = stream.next_seq();
            let sure = model.sure(false);
            assert!(model.may_end_at(end), "{end} after a kill; {sure} were flushed of {}", model.next_seq());
            if had_journal && is_unborn(stream) {
                *model = StreamModel::default();
                continue;
            }
            // Recovery syncs the entries that it keeps.
            model.end_at(end);
            assert_eq!((stream.report().existed, stream.report().next_seq), (model.exists(), end));
        }
        self.check_all();
        self.follow(|followers, now, _| followers.begin(now, true));
    }

    fn look_at_copy(&mut self, setup: Setup) {
        let copy = copy_of(self.dir.path());
        let wal = setup.options().open_read_only(copy.path()).unwrap();
        self.check_reader(&wal, &look_up(&wal));
        for check in inspect::verify(copy.path(), None).unwrap().map(Result::unwrap) {
            assert_ne!(check.state, CheckState::Damaged, "{check:?}");
        }
    }

    fn beside(&mut self, again: bool, setup: Setup) {
        let reader = self.reader.take().filter(|_| again);
        let (wal, streams) = match reader {
            Some((wal, streams)) => {
                streams.iter().for_each(|stream| stream.reopen().unwrap());
                (wal, streams)
            }
            None => {
                let wal = setup.options().open_read_only(self.dir.path()).unwrap();
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

    /// Checks the streams of a reader that has just looked.
    fn check_reader(&self, wal: &Wal, streams: &[Stream]) {
        let mut seen = Vec::new();
        for (stream, model) in streams.iter().zip(&self.models) {
            let end = stream.next_seq();
            let sure = model.sure(false);
            assert!(model.may_end_at(end), "a reader sees {end}; {sure} were flushed of {}", model.next_seq());
            assert_eq!(stream.stable_seq(), end);
            let is_missing = self.setup.has_journal() && is_unborn(stream);
            let model = if is_missing { StreamModel::default() } else { model.up_to(end) };
            check_whole(stream, &model, end);
            seen.push(model);
        }
        check_names(wal, &seen);
    }
}
