//! A reader in one process and a writer in another. The writer rotates, drops entries from both
//! ends, deletes the stream and creates it again, closes and opens. At each moment the reader sees
//! some state that the stream was in, and continues to see that state.
//!
//! `STRATAWAL_BESIDE_SECONDS` sets how long this runs. Tests that need a failing disk or a chosen
//! moment run in one process, on a simulated disk that a writer and a reader share as two processes
//! would.

mod recorder;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use recorder::{Recorder, observe, parts, print_line, recorded, seed_fault_of_env};
use stratawal::inspect::{self, CheckState};
use stratawal::{Batch, Durability, Entry, Error, ErrorKind, Iter, Options, Stream, StreamOptions, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Fault, Faults, HookedStorage, Operation, Rng, SimStorage, StreamModel};

const STREAMS: [&str; 2] = ["ledger", "raft"];
/// The variable with the directory of the log; it makes this process the child.
const CHILD: &str = "STRATAWAL_BESIDE_CHILD";

/// The variable with the kind of log of the child.
const KIND: &str = "STRATAWAL_BESIDE_KIND";

/// The kinds of log: whether it has a commit journal, and whether that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    NoJournal,
    Mapped,
    Written,
}

const KINDS: [Kind; 3] = [Kind::NoJournal, Kind::Mapped, Kind::Written];

impl Kind {
    /// The journal is as small as it can be, so that its files are used again and again.
    fn of(self, options: Options) -> Options {
        options.journal(self != Self::NoJournal).journal_mapped(self == Self::Mapped).journal_bytes(64 << 10)
    }

    fn from_env() -> Self {
        let name = std::env::var(KIND).unwrap_or_default();
        KINDS.into_iter().find(|kind| format!("{kind:?}") == name).unwrap_or(Self::NoJournal)
    }
}

/// Writes until the process is killed.
fn child(dir: &str) {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    print_line("");
    let mut numbers = [1; 2];
    for round in 0.. {
        let options = StreamOptions::new()
            .segment_bytes(64 << 10)
            .frame_bytes(500)
            .unsynced_bytes_max(256 << 10)
            .unsynced_segments_max(2);
        let wal = Kind::from_env().of(Options::new().stream_defaults(options)).open(dir).unwrap();
        let until = Instant::now() + Duration::from_millis(300);
        numbers = thread::scope(|scope| {
            let recorders = [0, 1].map(|i| {
                let wal = &wal;
                let number = numbers[i];
                scope.spawn(move || {
                    seed_fault_of_env();
                    let mut recorder = Recorder::new(wal, STREAMS[i], number);
                    let mut rng = Rng::new(round << 8 | i as u64);
                    while Instant::now() < until {
                        recorder.change(&mut rng);
                        if rng.chance(8) {
                            thread::sleep(Duration::from_millis(2));
                        }
                    }
                    recorder.number()
                })
            });
            recorders.map(|recorder| recorder.join().unwrap())
        });
        wal.close().unwrap();
    }
}

/// The child's lines that were read so far.
struct Observed {
    file: File,
    rest: Vec<u8>,
    models: [StreamModel; 2],
}

impl Observed {
    /// Reads everything printed up to now. The child prints to a file, so no line is in flight.
    fn now(observed: &Mutex<Self>) -> MutexGuard<'_, Self> {
        let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
        let Self { file, rest, models } = &mut *observed;
        file.read_to_end(rest).unwrap();
        let whole = rest.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = rest.drain(..whole).collect();
        for line in String::from_utf8(lines).unwrap().lines() {
            let Some((name, line)) = recorded(line) else { continue };
            observe(&mut models[STREAMS.iter().position(|stream| *stream == name).unwrap()], line);
        }
        observed
    }
}

/// A stream opened by a reader, and the states in which the reader may have seen it.
struct Seen<'h> {
    observed: &'h Mutex<Observed>,
    at: usize,
    stream: Stream,
    candidates: Vec<u64>,
    /// The last change that the reader is certain to have seen.
    since: u64,
}

impl fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, candidates, since, .. } = self;
        write!(f, "{}, seen at change {since} or later, in one of {candidates:?}", STREAMS[*at])
    }
}

impl<'h> Seen<'h> {
    fn look(observed: &'h Mutex<Observed>, dir: &Path, at: usize) -> Option<Self> {
        let since = Observed::now(observed).models[at].last_done();
        let wal = match Options::new().open_read_only(dir) {
            Ok(wal) => wal,
            Err(error) if error.kind() == ErrorKind::Missing && since == 0 => return None,
            Err(error) => panic!("{error}"),
        };
        let stream = wal.stream(STREAMS[at]).unwrap_or_else(|error| panic!("{error}"));
        Some(Self::of(observed, at, stream, since))
    }

    /// Looks again through a handle opened earlier.
    fn look_again(observed: &'h Mutex<Observed>, at: usize, stream: Stream) -> Self {
        let since = Observed::now(observed).models[at].last_done();
        stream.reopen().unwrap_or_else(|error| panic!("{error}"));
        Self::of(observed, at, stream, since)
    }

    fn of(observed: &'h Mutex<Observed>, at: usize, stream: Stream, since: u64) -> Self {
        let seqs = stream.first_seq()..stream.next_seq();
        let now = Observed::now(observed);
        let model = &now.models[at];
        let candidates = model.matching(since, seqs.clone());
        assert!(!candidates.is_empty(), "{seqs:?} never existed from change {since} to {}", model.last());
        drop(now);
        Self { observed, at, stream, candidates, since }
    }

    fn range(&self) -> Range<u64> {
        self.stream.first_seq()..self.stream.next_seq()
    }

    /// Checks that all of the entries read, in any order, exist in one state.
    fn check<'e>(&mut self, entries: impl IntoIterator<Item = &'e Entry>) {
        let observed = Observed::now(self.observed);
        let model = &observed.models[self.at];
        let next = self.stream.next_seq();
        for entry in entries {
            let (change, ..) = parts(entry.data());
            let mut retained = model.retain(&mut self.candidates, change, entry.seq(), entry.data());
            if entry.seq() + 1 == next {
                retained = retained.and_then(|()| model.retain_last(&mut self.candidates, change, entry.seq()));
            }
            retained.unwrap_or_else(|mismatch| panic!("{mismatch}"));
        }
    }

    /// Checks that an error reports removed entries, and that entries were removed.
    fn check_error(&self, error: &Error) {
        let is_loss = matches!(error.kind(), ErrorKind::Truncated { .. } | ErrorKind::Cut { .. });
        let observed = Observed::now(self.observed);
        assert!(is_loss, "{:?} of {self:?}: {error}", self.range());
        assert!(observed.models[self.at].has_lost_since(self.since), "nothing was removed: {error}");
    }

    /// Returns the result, or `None` for an error because entries were removed.
    fn unless_removed<T>(&self, result: Result<T, Error>) -> Option<T> {
        result.inspect_err(|error| self.check_error(error)).ok()
    }

    fn iterate(&mut self, backwards: bool) {
        let range = self.range();
        let iter = self.stream.iter(..);
        let mut found = Vec::new();
        let mut whole = true;
        let mut note = |entry: Result<Entry, Error>| match entry {
            Ok(entry) => found.push(entry),
            Err(error) => {
                self.check_error(&error);
                whole = false;
            }
        };
        if backwards {
            iter.rev().for_each(&mut note)
        } else {
            iter.for_each(&mut note)
        }
        let seqs: Vec<u64> = found.iter().map(Entry::seq).collect();
        let count = seqs.len() as u64;
        let expected: Vec<u64> = if backwards {
            range.clone().rev().take(seqs.len()).collect()
        } else {
            range.clone().take(seqs.len()).collect()
        };
        assert_eq!(seqs, expected, "no gaps");
        assert!(!whole || count == range.end - range.start, "{count} of {range:?}");
        self.check(&found);
    }

    fn look_up(&mut self, rng: &mut Rng) {
        let range = self.range();
        assert_eq!(self.unless_removed(self.stream.get(range.end)), Some(None));
        if range.is_empty() {
            assert_eq!(self.unless_removed(self.stream.last()), Some(None));
            return;
        }
        let any = |rng: &mut Rng| range.start + rng.below(range.end - range.start);
        let mut found = Vec::new();
        for _ in 0..10 {
            let seq = any(rng);
            if let Some(entry) = self.unless_removed(self.stream.get(seq)) {
                let entry = entry.expect("inside the live range");
                assert_eq!(entry.seq(), seq);
                if let Some(at) = self.unless_removed(self.stream.seq_at(entry.timestamp())) {
                    assert!((range.start..=seq).contains(&at), "{at}, {seq}");
                }
                found.push(entry);
            }
        }
        let mut seqs: Vec<u64> = (0..20).map(|_| any(rng)).collect();
        seqs.sort_unstable();
        if let Some(entries) = self.unless_removed(self.stream.get_many(&seqs)) {
            let entries: Vec<Entry> = entries.into_iter().map(|entry| entry.expect("inside the live range")).collect();
            assert!(entries.iter().map(Entry::seq).eq(seqs));
            found.extend(entries);
        }
        if let Some(last) = self.unless_removed(self.stream.last()) {
            let last = last.expect("the range is not empty");
            assert_eq!(last.seq() + 1, range.end);
            found.push(last);
        }
        if let Some(at) = self.unless_removed(self.stream.seq_at(SystemTime::UNIX_EPOCH)) {
            assert_eq!(at, range.start);
        }
        if let Some(at) = self.unless_removed(self.stream.seq_at(SystemTime::now() + Duration::from_secs(3600))) {
            assert_eq!(at, range.end);
        }
        self.check(&found);
    }
}

/// Looks many times, through a new handle or an earlier one.
fn look_often(observed: &Mutex<Observed>, dir: &Path, mut rng: Rng, done: &AtomicBool, looks: &AtomicU64) {
    let mut handles: [Option<Stream>; 2] = [None, None];
    while !done.load(Ordering::Relaxed) {
        let at = rng.index(STREAMS.len());
        let mut seen = match handles[at].take().filter(|_| rng.chance(224)) {
            Some(stream) => Seen::look_again(observed, at, stream),
            None => match Seen::look(observed, dir, at) {
                Some(seen) => seen,
                None => continue,
            },
        };
        match rng.below(6) {
            0 => seen.iterate(false),
            1 => seen.iterate(true),
            2 => seen.look_up(&mut rng),
            _ => {}
        }
        handles[at] = Some(seen.stream);
        looks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Keeps some handles and iterators for a long time, and reads a little from each now and then.
fn hold_long(observed: &Mutex<Observed>, dir: &Path, mut rng: Rng, done: &AtomicBool, entries: &AtomicU64) {
    const HELD: usize = 6;
    // Each with the seqs that its iterator still has to return.
    let mut held: Vec<(Seen<'_>, Iter, Range<u64>)> = Vec::new();
    while !done.load(Ordering::Relaxed) {
        if held.len() < HELD || rng.chance(2) {
            let Some(seen) = Seen::look(observed, dir, rng.index(STREAMS.len())) else { continue };
            if held.len() == HELD {
                held.remove(0);
            }
            let iter = seen.stream.iter(..);
            let range = seen.range();
            held.push((seen, iter, range));
        }
        let at = rng.index(held.len());
        let (seen, iter, left) = &mut held[at];
        let mut found = Vec::new();
        for _ in 0..rng.below(40) {
            let forwards = rng.chance(128);
            match if forwards { iter.next() } else { iter.next_back() } {
                Some(Ok(entry)) => {
                    let expected = if forwards { left.next() } else { left.next_back() };
                    assert_eq!(Some(entry.seq()), expected, "no gaps");
                    found.push(entry);
                    continue;
                }
                Some(Err(error)) => seen.check_error(&error),
                None => assert!(left.is_empty(), "{left:?} is missing"),
            }
            *iter = seen.stream.iter(..);
            *left = seen.range();
            break;
        }
        seen.check(&found);
        entries.fetch_add(found.len() as u64, Ordering::Relaxed);
        if rng.chance(32) {
            seen.look_up(&mut rng);
        }
        thread::sleep(Duration::from_micros(rng.below(2000)));
    }
}

fn verify_often(dir: &Path, done: &AtomicBool, verified: &AtomicU64) {
    while !done.load(Ordering::Relaxed) {
        match inspect::verify(dir, None) {
            Ok(checks) => {
                for check in checks {
                    let check = check.unwrap_or_else(|error| panic!("{error}"));
                    assert_ne!(check.state, CheckState::Damaged, "{check:?}");
                    verified.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => {
                assert!(error.kind() == ErrorKind::Missing && verified.load(Ordering::Relaxed) == 0, "{error}");
            }
        }
    }
}

/// A child that is killed when this is dropped.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn reader_sees_states_that_the_writer_made() {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(&dir);
    }
    read_beside(seconds(), Kind::NoJournal, command());
}

#[test]
fn reader_beside_a_mapped_journal_sees_states() {
    read_beside(seconds(), Kind::Mapped, command());
}

#[test]
fn reader_beside_a_written_journal_sees_states() {
    read_beside(seconds(), Kind::Written, command());
}

fn seconds() -> u64 {
    std::env::var("STRATAWAL_BESIDE_SECONDS").map_or(3, |seconds| seconds.parse().unwrap())
}

/// The command of a child.
fn command() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// Starts the child, which prints its changes to the file `lines`.
fn start_writer(mut command: Command, log: &Path, lines: &Path) -> Writer {
    let child = command
        .args(["--exact", "reader_sees_states_that_the_writer_made", "--nocapture", "--test-threads=1"])
        .env(CHILD, log)
        .stdout(File::create(lines).unwrap())
        .spawn()
        .unwrap();
    Writer(child)
}

/// Counts of the readers' work.
#[derive(Default)]
struct Counts {
    looks: AtomicU64,
    entries: AtomicU64,
    verified: AtomicU64,
}

impl Counts {
    fn get(&self) -> [u64; 3] {
        [&self.looks, &self.entries, &self.verified].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Ends all other threads when one ends, even by a panic.
struct Ends<'d>(&'d AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn changes(observed: &Mutex<Observed>) -> usize {
    Observed::now(observed).models.iter().map(StreamModel::states).sum()
}

fn read_beside(seconds: u64, kind: Kind, mut command: Command) {
    let dir = tempfile::tempdir().unwrap();
    let log = &dir.path().join("log");
    let lines = dir.path().join("lines");
    command.env(KIND, format!("{kind:?}"));
    let mut writer = start_writer(command, log, &lines);
    let models = std::array::from_fn(|_| StreamModel::with_past());
    let observed = &Mutex::new(Observed { file: File::open(&lines).unwrap(), rest: Vec::new(), models });
    let done = &AtomicBool::new(false);
    let counts = &Counts::default();
    let seed = u64::from(std::process::id());
    thread::scope(|scope| {
        for i in 0..2 {
            scope.spawn(move || {
                let _ends = Ends(done);
                look_often(observed, log, Rng::new(seed << 8 | i), done, &counts.looks);
            });
        }
        scope.spawn(move || {
            let _ends = Ends(done);
            hold_long(observed, log, Rng::new(seed << 8 | 2), done, &counts.entries);
        });
        scope.spawn(move || {
            let _ends = Ends(done);
            verify_often(log, done, &counts.verified);
        });
        let _ends = Ends(done);
        let began = Instant::now();
        let is_enough = || {
            let [looks, entries, verified] = counts.get();
            changes(observed) > 100 && looks > 20 && entries > 100 && verified > 2
        };
        // A busy machine takes longer.
        while (began.elapsed().as_secs() < seconds || !is_enough()) && !done.load(Ordering::Relaxed) {
            assert!(began.elapsed().as_secs() < seconds + 120, "too little is done");
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(writer.0.try_wait().unwrap().is_none(), "the writer ended without a kill");
    let changes = changes(observed);
    let [looks, entries, verified] = counts.get();
    println!(
        "volume: {changes} changes; {looks} looks, {entries} entries read by those held, {verified} streams verified"
    );
}

/// A reader that has just looked trusts the counter of the log. It notices each change that was
/// acknowledged, and a counter that was deleted hides changes only for a short time.
#[test]
fn poll_notices_every_acknowledged_change() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
        let wal = kind.of(Options::new().stream_defaults(streams)).open(dir.path()).unwrap();
        let mut stream = wal.stream("s").unwrap();
        stream.append("first").unwrap();
        let reader = Options::new().open_read_only(dir.path()).unwrap();
        let seen = reader.stream("s").unwrap();
        let mut rng = Rng::new(5);
        for change in 0..300 {
            let live = stream.first_seq()..stream.next_seq();
            match rng.below(20) {
                0 => stream.truncate_before(live.end.min(live.start + 3)).unwrap(),
                1 => stream.truncate_from(live.end.max(live.start + 2) - 2).unwrap(),
                2 => {
                    wal.delete_stream("s").unwrap();
                    stream = wal.stream("s").unwrap();
                    stream.append("again").unwrap();
                }
                3 => {
                    let large: Batch = (0..100).map(|_| vec![7; 1000]).collect();
                    stream.append_batch(&large).unwrap();
                }
                4 => {
                    stream.with_durability(Durability::Synced).append("synced").unwrap();
                }
                _ => {
                    stream.append(text(change)).unwrap();
                }
            }
            seen.reopen().unwrap();
            let now = seen.first_seq()..seen.next_seq();
            assert_eq!(now, stream.first_seq()..stream.next_seq(), "{kind:?}, change {change}");
            // Nothing is new.
            seen.reopen().unwrap();
        }
        let began = Instant::now();
        (0..1000).for_each(|_| seen.reopen().unwrap());
        println!("volume: {kind:?}: 1000 polls with nothing new in {:?}", began.elapsed());
        std::fs::remove_file(dir.path().join("NOTIFY")).unwrap();
        thread::sleep(Duration::from_millis(60));
        stream.append("after").unwrap();
        seen.reopen().unwrap();
        assert_eq!(seen.next_seq(), stream.next_seq(), "{kind:?}");
    }
}

/// A reader polls all the time while a writer appends to two streams, and now and then drops
/// entries from an end. No poll misses an entry or a start that was acknowledged before it.
#[test]
fn poll_beside_a_busy_writer_misses_nothing() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
        let wal = kind.of(Options::new().stream_defaults(streams)).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        let other = wal.stream("other").unwrap();
        stream.append("first").unwrap();
        // The first live seq and the end; the end alone never falls.
        let acknowledged = [stream.first_seq(), stream.next_seq()].map(AtomicU64::new);
        let now = || acknowledged.each_ref().map(|seq| seq.load(Ordering::SeqCst));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ends = Ends(&done);
                let mut rng = Rng::new(9);
                let until = Instant::now() + Duration::from_secs(seconds().min(20));
                while Instant::now() < until && !done.load(Ordering::Relaxed) {
                    match rng.below(64) {
                        0 => stream.truncate_before(stream.next_seq().max(1) - 1).unwrap(),
                        1 => {
                            let large: Batch = (0..100).map(|_| vec![0; 1000]).collect();
                            stream.append_batch(&large).unwrap();
                        }
                        2 => {
                            stream.with_durability(Durability::Synced).append([0; 300]).unwrap();
                        }
                        3 => thread::sleep(Duration::from_millis(2)),
                        4..20 => drop(other.append([0; 700]).unwrap()),
                        _ => drop(stream.append([0; 300]).unwrap()),
                    }
                    acknowledged[0].store(stream.first_seq(), Ordering::SeqCst);
                    acknowledged[1].store(stream.next_seq(), Ordering::SeqCst);
                }
            });
            let _ends = Ends(&done);
            let reader = Options::new().open_read_only(dir.path()).unwrap();
            let seen = reader.stream("s").unwrap();
            let mut polls = 0;
            while !done.load(Ordering::Relaxed) {
                let expected = now();
                seen.reopen().unwrap();
                let found = [seen.first_seq(), seen.next_seq()];
                assert!(found[0] >= expected[0] && found[1] >= expected[1], "{kind:?}: {found:?}, not {expected:?}");
                polls += 1;
            }
            println!("volume: {kind:?}: {polls} polls, {} entries", now()[1]);
        });
    }
}

/// The fault: entries still in the tail buffer are acknowledged, but no other process sees them.
#[cfg(stratawal_faults)]
#[test]
fn seeded_early_acknowledgement_is_noticed() {
    let mut command = command();
    command.env(recorder::FAULT, "1");
    let beside = || read_beside(10, Kind::NoJournal, command);
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(beside));
    assert!(tried.is_err(), "it is not found");
}

const LOG: &str = "/log";

fn small() -> Options {
    Options::new().stream_defaults(StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500))
}

/// The options of a log whose entries are all in segment files.
fn without_journal() -> Options {
    small().journal(false)
}

/// Opens the stream as a reader in another process does.
fn beside(disk: &SimStorage) -> Stream {
    small().open_on(Arc::new(disk.clone()), Path::new(LOG), true).unwrap().stream("s").unwrap()
}

fn open(storage: &HookedStorage, options: &Options) -> (Wal, Stream) {
    let wal = options.open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap();
    let stream = wal.stream("s").unwrap();
    (wal, stream)
}

/// An entry that differs from all others.
fn text(number: u64) -> Vec<u8> {
    let len = 8 + usize::try_from(number * 37 % 900).unwrap();
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// Compares the stream with the entries from `first` on, in both directions and one at a time.
fn assert_stream(stream: &Stream, first: u64, entries: &[Vec<u8>]) {
    assert_eq!(stream.first_seq()..stream.next_seq(), first..first + entries.len() as u64);
    let found: Vec<_> = stream.iter(..).map(|entry| entry.unwrap().into_data()).collect();
    assert!(found == entries);
    let mut found: Vec<_> = stream.iter(..).rev().map(|entry| entry.unwrap().into_data()).collect();
    found.reverse();
    assert!(found == entries);
    for (seq, entry) in (first..).zip(entries).step_by(17) {
        assert_eq!(stream.get(seq).unwrap().unwrap().data(), entry);
    }
    assert_eq!(stream.last().unwrap().map(Entry::into_data).as_deref(), entries.last().map(Vec::as_slice));
}

/// Opens a log for reading while another process creates it: FORMAT does not exist when the reader
/// looks for it, and the whole log does right after that.
fn open_while_created(options: Options) -> stratawal::Result<Wal> {
    let disk = SimStorage::new(1);
    let storage = HookedStorage::new(disk.clone());
    disk.create_dir(Path::new(LOG)).unwrap();
    let writer = Mutex::new(None);
    storage.set(move |operation, path| {
        let mut writer = writer.lock().unwrap();
        if operation == Operation::Open && path.ends_with("FORMAT") && writer.is_none() {
            let wal = options.open_on(Arc::new(disk.clone()), Path::new(LOG), false).unwrap();
            wal.stream("s").unwrap().append(text(0)).unwrap();
            *writer = Some(wal);
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    });
    small().open_on(Arc::new(storage), Path::new(LOG), true)
}

#[test]
fn log_that_is_being_created_is_not_damaged() {
    // A directory of a stream, or the journal, shows that FORMAT exists by now.
    for options in [without_journal(), small()] {
        let wal = open_while_created(options).unwrap();
        assert_stream(&wal.stream("s").unwrap(), 0, &[text(0)]);
    }
}

#[test]
fn reader_never_mixes_a_stream_and_its_successor() {
    // The chosen moment is the opening of a segment file: the first, the second, and so on.
    let mut is_new = Vec::new();
    for moment in 1..10 {
        let disk = SimStorage::new(moment);
        let (wal, stream) = open(&HookedStorage::new(disk.clone()), &small());
        let [old, new] = [0, 1000].map(|from| (from..from + 200).map(text).collect::<Vec<_>>());
        for text in &old {
            stream.append(text).unwrap();
        }
        let storage = HookedStorage::new(disk);
        let new: Vec<_> = new.iter().map(|text| text.repeat(2)).collect();
        let opened = AtomicU64::new(0);
        let successor = new.clone();
        storage.set(move |operation, path| {
            let is_segment = path.extension().is_some_and(|extension| extension == "seg");
            if operation == Operation::Open && is_segment && opened.fetch_add(1, Ordering::Relaxed) + 1 == moment {
                wal.delete_stream("s").unwrap();
                let stream = wal.stream("s").unwrap();
                // The successor's segments have the same names, but end at different entries.
                for text in &successor {
                    stream.append(text).unwrap();
                }
            }
            Ok(())
        });
        let wal = small().open_on(Arc::new(storage), Path::new(LOG), true).unwrap();
        let seen = wal.stream("s").unwrap();
        let found: Result<Vec<_>, _> = seen.iter(..).map(|entry| entry.map(Entry::into_data)).collect();
        match found {
            Ok(found) => {
                assert!(found == old || found == new, "opening file {moment}");
                is_new.push(found == new);
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Cut { .. }), "opening file {moment}: {error}"),
        }
    }
    assert!(is_new.contains(&true) && is_new.contains(&false), "before the look, and after it: {is_new:?}");
}

#[test]
fn reader_beside_poisoned_writer_sees_acknowledged() {
    let disk = SimStorage::new(2);
    let storage = HookedStorage::new(disk.clone());
    let (wal, stream) = open(&storage, &without_journal());
    let mut entries = Vec::new();
    let mut number = 0;
    let mut poisoned = 0;
    let mut held: Vec<(Stream, usize)> = Vec::new();
    for round in 0..12 {
        let failing = [Operation::Write, Operation::Sync, Operation::SyncDir][round % 3];
        let mut append = || {
            number += 1;
            (text(number), stream.append(text(number)))
        };
        for _ in 0..100 {
            let (text, appended) = append();
            appended.unwrap();
            entries.push(text);
        }
        held.push((beside(&disk), entries.len()));
        storage.set(move |operation, path| {
            let fails = operation == failing && path.starts_with("/log/streams/s");
            if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        let failed = loop {
            match append() {
                (text, Ok(_)) => entries.push(text),
                (text, Err(error)) if error.kind() == ErrorKind::Poisoned => break Some(text),
                (_, Err(error)) => {
                    // No segment could be created, so nothing was appended.
                    assert_eq!((error.kind(), failing == Operation::SyncDir), (ErrorKind::Io, false), "{error}");
                    break None;
                }
            }
        };
        poisoned += u32::from(failed.is_some());
        // The failed entry may exist as a whole.
        let seen = beside(&disk);
        let mut more = entries.clone();
        more.extend(failed.clone().filter(|_| seen.next_seq() > entries.len() as u64));
        assert_stream(&seen, 0, &more);
        storage.clear();
        stream.reopen().unwrap();
        // Accepted entries that were not written stay pending.
        stream.sync().unwrap();
        entries.extend(failed.filter(|_| stream.next_seq() > entries.len() as u64));
        assert_stream(&stream, 0, &entries);
        assert_stream(&beside(&disk), 0, &entries);
        // A reader that looked earlier still sees the entries that it saw then.
        held.iter().for_each(|(stream, end)| assert_stream(stream, 0, &entries[..*end]));
    }
    assert!(poisoned > 8, "{poisoned} of 12");
    wal.close().unwrap();
    assert_stream(&beside(&disk), 0, &entries);
}

#[test]
fn reader_beside_a_full_disk_sees_acknowledged() {
    let disk = SimStorage::new(3);
    let storage = HookedStorage::new(disk.clone());
    let (wal, stream) = open(&storage, &without_journal());
    let mut entries = Vec::new();
    let mut first = 0;
    let mut number = 0;
    for round in 0..6 {
        let room = disk.disk().used() + (300 << 10);
        disk.set_faults(Some(Faults { after: room, fault: Fault::Capacity, forever: true }));
        let mut append = || {
            number += 1;
            let text = text(number);
            stream.append(&text).map(|_| text)
        };
        let held = beside(&disk);
        let held_end = entries.len();
        let full = loop {
            match append() {
                Ok(text) => entries.push(text),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::Full, "{full}");
        assert!(entries.len() > held_end + 100);
        assert_stream(&beside(&disk), first, &entries);
        assert_stream(&held, first, &entries[..held_end]);
        // Entries can be dropped from either end, and readers notice.
        let before = beside(&disk);
        let dropped = entries.len() / 2;
        first += dropped as u64;
        stream.truncate_before(first).unwrap();
        entries.drain(..dropped);
        assert_stream(&beside(&disk), first, &entries);
        if round % 2 == 0 {
            let kept = entries.len() - 40;
            stream.truncate_from(first + kept as u64).unwrap();
            entries.truncate(kept);
            assert_stream(&beside(&disk), first, &entries);
        }
        for entry in before.iter(..).rev() {
            match entry {
                Ok(entry) => assert!(entry.seq() < before.next_seq()),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Truncated { .. } | ErrorKind::Cut { .. }), "{error}");
                }
            }
        }
        // Now the disk has room.
        for _ in 0..50 {
            entries.push(append().unwrap());
        }
        assert_stream(&beside(&disk), first, &entries);
        disk.set_faults(None);
    }
    wal.close().unwrap();
    assert_stream(&beside(&disk), first, &entries);
}

#[test]
fn reader_syncs_every_segment_that_it_shows() {
    const SEGMENTS: u64 = 40;
    let disk = SimStorage::new(4);
    let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
    let options = without_journal().stream_defaults(streams.unsynced_bytes_max(1 << 30).unsynced_segments_max(1000));
    let wal = options.open_on(Arc::new(disk.clone()), Path::new(LOG), false).unwrap();
    let stream = wal.stream("s").unwrap();
    let mut entries = Vec::new();
    while stream.stats().unwrap().segments < SEGMENTS {
        entries.push(text(entries.len() as u64).repeat(20));
        stream.append(entries.last().unwrap()).unwrap();
    }
    let storage = HookedStorage::new(disk.clone());
    let synced = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&synced);
    storage.set(move |operation, path| {
        if operation == Operation::Sync {
            noted.lock().unwrap().push(path.to_owned());
        }
        Ok(())
    });
    let look = || small().open_on(Arc::new(storage.clone()), Path::new(LOG), true).unwrap().stream("s");
    let seen = look().unwrap();
    assert_stream(&seen, 0, &entries);
    let files = disk.disk().files().into_iter().map(|(path, _)| Path::new(&path).to_owned());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    let mut synced = synced.lock().unwrap().clone();
    segments.sort();
    synced.sort();
    assert_eq!(synced, segments);
    // So a power loss takes no entry that a reader saw.
    let lost = SimStorage::on(disk.disk().crash(Crash::Lost, &mut Rng::new(4)), 4);
    assert_stream(&beside(&lost), 0, &entries);
    // A reader whose sync fails shows nothing.
    for segment in segments {
        storage.set(move |operation, path| {
            let fails = operation == Operation::Sync && path == segment;
            if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        assert_eq!(look().unwrap_err().kind(), ErrorKind::Io);
    }
}
