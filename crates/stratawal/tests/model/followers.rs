//! Followers of the streams: one of each stream and one of all, in the process and in a log that is
//! opened for reading beside it. Each must return every entry once and in order, and an event for
//! each change that takes entries away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use stratawal::{Entry, ErrorKind, Follow, FollowEvent, FollowPrefix, Options, PrefixEvent, Stream, Visibility, Wal};
use stratawal_testkit::StreamModel;

use crate::NAMES;

/// The longest wait for an event that is due.
const LONG: Duration = Duration::from_secs(10);

fn hash_of(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish()
}

/// Entries of a stream, by the hashes of their bytes.
#[derive(Clone, Debug, Default)]
struct Entries {
    first: u64,
    hashes: VecDeque<u64>,
}

impl Entries {
    fn next(&self) -> u64 {
        self.first + self.hashes.len() as u64
    }

    fn get(&self, seq: u64) -> Option<u64> {
        self.hashes.get(usize::try_from(seq.checked_sub(self.first)?).ok()?).copied()
    }

    fn cut(&mut self, at: u64) {
        self.hashes.truncate(usize::try_from(at.saturating_sub(self.first)).unwrap());
        self.first = self.first.min(at);
    }

    fn begin_at(&mut self, first: u64) {
        let dropped = usize::try_from(first - self.first).unwrap().min(self.hashes.len());
        self.hashes.drain(..dropped);
        self.first = first;
    }

    /// Whether both have the same entries in `seqs`.
    fn is_same(&self, other: &Self, mut seqs: Range<u64>) -> bool {
        seqs.all(|seq| self.get(seq).is_some() && self.get(seq) == other.get(seq))
    }
}

/// The changes of a stream since a follower has seen all of it.
#[derive(Debug, Default)]
struct Changes {
    /// The ends to which it was cut.
    cuts: BTreeSet<u64>,
    /// The seqs from which on it was kept.
    starts: BTreeSet<u64>,
    is_deleted: bool,
    /// Whether a deletion has found no stream, and has ended its handles.
    was_missing: bool,
}

/// What a follower has returned of a stream.
#[derive(Debug, Default)]
struct Seen {
    entries: Entries,
    changes: Changes,
    /// Where the follower began, which may be above the entries that it shows.
    from: u64,
    /// Whether the follower belongs to a log that is opened for reading.
    beside: bool,
}

impl Seen {
    fn observe(&mut self, event: &FollowEvent, stream: &Entries, end: u64) {
        let position = self.entries.next();
        match event {
            FollowEvent::Entry(entry) => self.observe_entry(entry, stream, end),
            FollowEvent::Truncated { dropped } => {
                assert!(dropped.start == position && dropped.end > position, "{event:?} at {position}");
                assert!(self.changes.starts.contains(&dropped.end), "{event:?} after {:?}", self.changes);
                self.entries = Entries { first: dropped.end, hashes: VecDeque::new() };
            }
            FollowEvent::Cut { dropped } => {
                assert!(dropped.end == position && dropped.start < position, "{event:?} at {position}");
                // A reader in another process takes entries that were appended together with
                // dropped ones for others, and a stream that was created again for the old one.
                let cuts = &self.changes.cuts;
                let is_early = dropped.start == stream.first || !cuts.is_empty();
                let is_due = cuts.contains(&dropped.start) || self.beside && is_early;
                assert!(is_due, "{event:?} after {:?}", self.changes);
                self.entries.cut(dropped.start);
            }
            FollowEvent::Deleted => {
                let Changes { is_deleted, was_missing, .. } = &mut self.changes;
                assert!(std::mem::take(is_deleted) || *was_missing && position == 0, "{event:?} at {position}");
                self.entries = Entries::default();
            }
            _ => panic!("{event:?}"),
        }
    }

    fn observe_entry(&mut self, entry: &Entry, stream: &Entries, end: u64) {
        assert_eq!(entry.seq(), self.entries.next(), "an entry is missing, or came twice");
        let hash = hash_of(entry.data());
        if !self.beside {
            assert!(entry.seq() < end, "{} is returned before it is visible", entry.seq());
            assert_eq!(stream.get(entry.seq()), Some(hash), "{} has other bytes", entry.seq());
        }
        self.entries.hashes.push_back(hash);
    }

    /// Whether the follower has returned `stream` up to its position, which is in `ends`.
    fn has_all(&self, stream: &Entries, ends: Range<u64>) -> bool {
        let position = self.entries.next();
        let from = self.entries.first.max(stream.first);
        let is_up_to_date = (ends.start..=ends.end.max(self.from)).contains(&position) && position >= stream.first;
        is_up_to_date && self.entries.is_same(stream, from..position)
    }

    /// Checks [`has_all`](Self::has_all), and forgets the changes, which the follower has seen.
    fn check_all(&mut self, stream: &Entries, ends: Range<u64>) {
        let Self { entries, changes, .. } = self;
        let (first, next) = (entries.first, entries.next());
        let shown = format!("{first}..{next} of {}..{ends:?} after {changes:?}", stream.first);
        assert!(self.has_all(stream, ends), "{shown}");
        assert!(self.beside || !self.changes.is_deleted, "no event for the deletion: {shown}");
        self.changes = Changes::default();
    }

    /// A new follower begins at the position of this one. It takes the entries of `stream` below
    /// the position for those that were returned.
    fn resume(&mut self, stream: &Entries, position: u64) {
        let first = self.entries.first.max(stream.first).min(position);
        let hashes = (first..position).map(|seq| stream.get(seq).unwrap_or_default()).collect();
        self.entries = Entries { first, hashes };
        self.changes = Changes::default();
        self.from = position;
        if position > stream.next() {
            self.changes.cuts.insert(stream.next());
        }
        self.changes.starts.insert(stream.first);
    }
}

/// The streams of the log, as the followers are to see them.
#[derive(Clone, Copy)]
pub(crate) struct Now<'a> {
    pub(crate) wal: &'a Wal,
    pub(crate) streams: &'a [Stream],
    pub(crate) models: &'a [StreamModel],
}

impl Now<'_> {
    fn end(self, of: usize, seen: Visibility) -> u64 {
        let stream = &self.streams[of];
        if seen == Visibility::Accepted { stream.next_seq() } else { stream.stable_seq() }
    }

    /// The ends of the stream that a reader may see.
    fn ends_beside(self, of: usize) -> Range<u64> {
        self.models[of].sure(false)..self.models[of].next_seq()
    }

    fn follow(self, of: usize, seen: Visibility, from: u64) -> Follow {
        self.streams[of].with_visibility(seen).follow(from)
    }
}

/// The followers of a log that is opened for reading beside the writer.
struct Reader {
    wal: Wal,
    follows: Vec<Follow>,
    prefix: FollowPrefix,
}

/// All followers.
pub(crate) struct Followers {
    streams: Vec<Entries>,
    visible: Vec<Visibility>,
    follows: Vec<Follow>,
    prefix: Option<FollowPrefix>,
    seen: Vec<Seen>,
    seen_by_prefix: Vec<Seen>,
    reader: Option<Reader>,
    seen_beside: Vec<Seen>,
    seen_by_prefix_beside: Vec<Seen>,
}

fn index_of(event: &PrefixEvent) -> usize {
    NAMES.iter().position(|name| **name == *event.stream).expect("a stream of the log")
}

/// Changes of the streams.
impl Followers {
    pub(crate) fn new() -> Self {
        let seen = |beside: bool| NAMES.map(|_| Seen { beside, ..Seen::default() }).into();
        Self {
            streams: vec![Entries::default(); NAMES.len()],
            visible: vec![Visibility::Stable; NAMES.len()],
            follows: Vec::new(),
            prefix: None,
            seen: seen(false),
            seen_by_prefix: seen(false),
            reader: None,
            seen_beside: seen(true),
            seen_by_prefix_beside: seen(true),
        }
    }

    fn all_seen(&mut self, of: usize) -> [&mut Seen; 4] {
        let Self { seen, seen_by_prefix, seen_beside, seen_by_prefix_beside, .. } = self;
        [seen, seen_by_prefix, seen_beside, seen_by_prefix_beside].map(|seen| &mut seen[of])
    }

    pub(crate) fn appended(&mut self, to: usize, batch: &[Vec<u8>]) {
        self.streams[to].hashes.extend(batch.iter().map(|entry| hash_of(entry)));
    }

    pub(crate) fn truncated_before(&mut self, of: usize, first: u64) {
        if first > self.streams[of].first {
            self.streams[of].begin_at(first);
            self.all_seen(of).into_iter().for_each(|seen| _ = seen.changes.starts.insert(first));
        }
    }

    pub(crate) fn truncated_from(&mut self, of: usize, next: u64) {
        if next < self.streams[of].next() {
            self.streams[of].cut(next);
            self.all_seen(of).into_iter().for_each(|seen| _ = seen.changes.cuts.insert(next));
        }
    }

    /// A deletion has found no stream.
    pub(crate) fn missing(&mut self, of: usize) {
        self.seen[of].changes.was_missing = true;
        self.seen_by_prefix[of].changes.was_missing = true;
    }

    pub(crate) fn deleted(&mut self, of: usize) {
        self.streams[of] = Entries::default();
        for seen in self.all_seen(of) {
            // A follower may return an earlier change first.
            seen.changes.is_deleted = true;
            // A stream that is created again between two looks may be taken for the old one.
            if seen.beside {
                seen.changes.cuts.insert(0);
            }
        }
    }

    /// The stream was closed alone. Its follower ends, and `again` is followed by a new one.
    pub(crate) fn closed(&mut self, of: usize, closed: Now<'_>, again: &Stream) {
        let end = closed.models[of].next_seq();
        loop {
            match self.follows[of].next_timeout(Duration::ZERO) {
                Ok(Some(event)) => self.observe(of, &event, closed, end),
                Ok(None) => panic!("a follower of a closed stream does not end"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                    break;
                }
            }
        }
        let position = self.seen[of].entries.next();
        self.seen[of].check_all(&self.streams[of], position..position);
        self.follows[of] = again.with_visibility(self.visible[of]).follow(position);
    }

    /// Ends the followers in the process, so that the log can be opened again.
    pub(crate) fn leave(&mut self) {
        self.follows.clear();
        self.prefix = None;
    }

    /// The log was closed: the followers return the remaining entries, and end.
    pub(crate) fn end(&mut self, now: Now<'_>) {
        for of in 0..NAMES.len() {
            let end = now.end(of, self.visible[of]);
            let error = loop {
                match self.follows[of].next_timeout(Duration::ZERO) {
                    Ok(Some(event)) => self.observe(of, &event, now, end),
                    Ok(None) => panic!("a follower of a closed log does not end"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            self.seen[of].check_all(&self.streams[of], end..end);
        }
        let error = loop {
            match self.next_of_prefix() {
                Ok(Some(event)) => self.observe_prefix(&event, now),
                Ok(None) => panic!("a follower of a closed log does not end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        self.check_prefix(now);
        self.leave();
    }

    /// The log was opened again, or for the first time. After a kill, `is_killed`, the streams may
    /// have fewer entries, and the directory is another one.
    pub(crate) fn begin(&mut self, now: Now<'_>, is_killed: bool) {
        let mut positions = BTreeMap::new();
        for (of, name) in NAMES.iter().enumerate() {
            let stream = &mut self.streams[of];
            stream.cut(now.models[of].next_seq());
            stream.first = now.models[of].first_seq();
            for seen in [&mut self.seen[of], &mut self.seen_by_prefix[of]] {
                let position = seen.entries.next();
                seen.resume(stream, position);
            }
            positions.insert((*name).to_owned(), self.seen_by_prefix[of].entries.next());
        }
        if is_killed {
            self.reader = None;
        }
        let from = |of: usize| self.seen[of].entries.next();
        self.follows = (0..NAMES.len()).map(|of| now.follow(of, self.visible[of], from(of))).collect();
        self.prefix = Some(now.wal.follow_prefix("", positions).unwrap());
        // A position above the end is noticed as long as the stream has fewer entries.
        let of_all = self.seen.iter().chain(&self.seen_by_prefix);
        if of_all.zip(self.streams.iter().cycle()).any(|(seen, stream)| seen.entries.next() > stream.next()) {
            self.pull(now, usize::MAX);
        }
    }
}

/// Followers in the process.
impl Followers {
    /// Replaces the follower of the stream by one that begins at `from`.
    pub(crate) fn follow_from(&mut self, of: usize, seen: Visibility, from: u64, now: Now<'_>) {
        self.visible[of] = seen;
        self.seen[of].resume(&self.streams[of], from);
        self.follows[of] = now.follow(of, seen, from);
        if from > self.streams[of].next() {
            self.pull_one(of, now, 1);
        }
    }

    /// Takes `count` events from each follower, or all.
    pub(crate) fn pull(&mut self, now: Now<'_>, count: usize) {
        for of in 0..NAMES.len() {
            self.pull_one(of, now, count);
        }
        for _ in 0..count {
            match self.next_of_prefix().unwrap() {
                Some(event) => self.observe_prefix(&event, now),
                None => return self.check_prefix(now),
            }
        }
    }

    fn pull_one(&mut self, of: usize, now: Now<'_>, count: usize) {
        for _ in 0..count {
            let end = now.end(of, self.visible[of]);
            match self.follows[of].next_timeout(Duration::ZERO).unwrap() {
                Some(event) => self.observe(of, &event, now, end),
                None => return self.seen[of].check_all(&self.streams[of], end..end),
            }
        }
    }

    fn observe(&mut self, of: usize, event: &FollowEvent, now: Now<'_>, end: u64) {
        self.seen[of].observe(event, &self.streams[of], end);
        let follow = &mut self.follows[of];
        if *event == FollowEvent::Deleted {
            assert_eq!(follow.next_timeout(Duration::ZERO).unwrap_err().kind(), ErrorKind::Missing);
            *follow = now.follow(of, self.visible[of], 0);
        }
        assert_eq!(Follow::position(follow), self.seen[of].entries.next());
    }

    fn next_of_prefix(&mut self) -> stratawal::Result<Option<PrefixEvent>> {
        let prefix = self.prefix.as_mut().expect("the log is open");
        for (name, seen) in NAMES.iter().zip(&mut self.seen_by_prefix) {
            // A stream that it has not reached is deleted without an event.
            if !prefix.positions().contains_key(*name) {
                seen.changes.is_deleted = false;
            }
        }
        prefix.next_timeout(Duration::ZERO)
    }

    fn observe_prefix(&mut self, event: &PrefixEvent, now: Now<'_>) {
        let of = index_of(event);
        let end = now.end(of, Visibility::Stable);
        let seen = &mut self.seen_by_prefix[of];
        seen.observe(&event.event, &self.streams[of], end);
        let positions = self.prefix.as_ref().expect("the log is open").positions();
        assert_eq!(positions.get(NAMES[of]).copied().unwrap_or_default(), seen.entries.next());
    }

    fn check_prefix(&mut self, now: Now<'_>) {
        for (of, seen) in self.seen_by_prefix.iter_mut().enumerate() {
            let end = now.end(of, Visibility::Stable);
            seen.check_all(&self.streams[of], end..end);
        }
    }
}

/// Followers beside the writer.
impl Followers {
    /// Has the followers of each stream return what they have not. Opens the log in `dir` for
    /// reading unless that was done.
    pub(crate) fn pull_beside(&mut self, now: Now<'_>, options: &Options, dir: &Path) {
        if self.reader.is_none() {
            self.open_reader(now, options, dir);
        }
        let reader = self.reader.as_mut().expect("it was opened");
        for (of, follow) in reader.follows.iter_mut().enumerate() {
            let (seen, stream, ends) = (&mut self.seen_beside[of], &self.streams[of], now.ends_beside(of));
            while let Some(event) = follow.next_timeout(Duration::ZERO).unwrap() {
                seen.observe(&event, stream, ends.end);
                if event == FollowEvent::Deleted {
                    *follow = reader.wal.stream(NAMES[of]).unwrap().follow(0);
                }
                assert_eq!(Follow::position(follow), seen.entries.next());
            }
            seen.check_all(stream, ends);
        }
    }

    /// Has the follower of all streams return what it has not.
    pub(crate) fn pull_prefix_beside(&mut self, now: Now<'_>, options: &Options, dir: &Path) {
        if self.reader.is_none() {
            self.open_reader(now, options, dir);
        }
        let reader = self.reader.as_mut().expect("it was just opened");
        loop {
            let mut all = self.seen_by_prefix_beside.iter().zip(&self.streams).enumerate();
            let has_all = all.all(|(of, (seen, stream))| seen.has_all(stream, now.ends_beside(of)));
            let wait = if has_all { Duration::ZERO } else { LONG };
            let Some(event) = reader.prefix.next_timeout(wait).unwrap() else { break };
            let of = index_of(&event);
            let seen = &mut self.seen_by_prefix_beside[of];
            seen.observe(&event.event, &self.streams[of], now.models[of].next_seq());
        }
        for (of, seen) in self.seen_by_prefix_beside.iter_mut().enumerate() {
            seen.check_all(&self.streams[of], now.ends_beside(of));
        }
    }

    fn open_reader(&mut self, now: Now<'_>, options: &Options, dir: &Path) {
        let wal = options.open_read_only(dir).unwrap();
        let mut follows = Vec::new();
        let mut positions = BTreeMap::new();
        for (of, stream) in self.streams.iter().enumerate() {
            for seen in [&mut self.seen_beside[of], &mut self.seen_by_prefix_beside[of]] {
                // It did not follow since the last kill, and the stream may be another one.
                let was_deleted = seen.changes.is_deleted;
                let position = seen.entries.next();
                seen.resume(stream, position);
                seen.changes.is_deleted = was_deleted;
                let end = now.ends_beside(of).start;
                if position > end {
                    seen.changes.cuts.insert(end);
                }
            }
            follows.push(wal.stream(NAMES[of]).unwrap().follow(self.seen_beside[of].entries.next()));
            let position = self.seen_by_prefix_beside[of].entries.next();
            if position > 0 {
                positions.insert(NAMES[of].to_owned(), position);
            }
        }
        let prefix = wal.follow_prefix("", positions).unwrap();
        self.reader = Some(Reader { wal, follows, prefix });
        // A follower learns at its first look whether its position is above the end.
        self.pull_beside(now, options, dir);
        self.pull_prefix_beside(now, options, dir);
    }
}
