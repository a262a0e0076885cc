//! A reader in one process beside a writer in another, that rotates, drops entries from both ends,
//! deletes the stream and begins it anew, closes and opens: what the reader sees is at each moment
//! a state that the stream was in, and stays it.
//!
//! `STRATAWAL_BESIDE_SECONDS` sets how long. What needs a disk that fails, or a moment that is
//! chosen, runs in one process on a simulated disk, which a writer and a reader share as two
//! processes would.

mod told;

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

use stratawal::inspect::{self, CheckState};
use stratawal::{Durability, Entry, Error, ErrorKind, Iter, Options, Stream, StreamOptions, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Fault, Faults, HookedStorage, Operation, Rng, SimStorage};
use told::{History, Teller, say, seed_if_told, told};

const STREAMS: [&str; 2] = ["ledger", "raft"];
/// Where the child finds its log, if this process is one.
const CHILD: &str = "STRATAWAL_BESIDE_CHILD";

/// Writes until it is killed.
fn child(dir: &str) {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    say("");
    let mut numbers = [1; 2];
    for round in 0.. {
        let options = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500).unsettled_max(256 << 10, 2);
        let wal = Options::new().stream_defaults(options).open(dir).unwrap();
        let until = Instant::now() + Duration::from_millis(300);
        numbers = thread::scope(|scope| {
            let tellers = [0, 1].map(|i| {
                let (wal, number) = (&wal, numbers[i]);
                scope.spawn(move || {
                    seed_if_told();
                    let mut teller = Teller::new(wal, STREAMS[i], number);
                    let mut rng = Rng::new(round << 8 | i as u64);
                    while Instant::now() < until {
                        teller.change(&mut rng);
                        if rng.chance(8) {
                            thread::sleep(Duration::from_millis(2));
                        }
                    }
                    teller.number()
                })
            });
            tellers.map(|teller| teller.join().unwrap())
        });
        wal.close().unwrap();
    }
}

/// What the child said, as far as it was read.
struct Heard {
    file: File,
    rest: Vec<u8>,
    histories: [History; 2],
}

impl Heard {
    /// All that was said up to now: it stands in a file, so nothing is on its way.
    fn now(heard: &Mutex<Self>) -> MutexGuard<'_, Self> {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let Self { file, rest, histories } = &mut *heard;
        file.read_to_end(rest).unwrap();
        let whole = rest.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = rest.drain(..whole).collect();
        for line in String::from_utf8(lines).unwrap().lines() {
            let Some((name, line)) = told(line) else { continue };
            histories[STREAMS.iter().position(|stream| *stream == name).unwrap()].hear(line);
        }
        heard
    }
}

/// A stream that was looked up, and the states that it may have been seen in.
struct Seen<'h> {
    heard: &'h Mutex<Heard>,
    at: usize,
    stream: Stream,
    candidates: Vec<u64>,
    /// The first change that it can have missed.
    since: u64,
}

impl fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, candidates, since, .. } = self;
        write!(f, "{}, seen after change {since} in one of {candidates:?}", STREAMS[*at])
    }
}

impl<'h> Seen<'h> {
    fn look(heard: &'h Mutex<Heard>, dir: &Path, at: usize) -> Option<Self> {
        let since = Heard::now(heard).histories[at].done();
        let wal = match Options::new().open_read_only(dir) {
            Ok(wal) => wal,
            Err(error) if error.kind() == ErrorKind::Missing && since == 0 => return None,
            Err(error) => panic!("{error}"),
        };
        let stream = wal.stream(STREAMS[at]).unwrap_or_else(|error| panic!("{error}"));
        Some(Self::of(heard, at, stream, since))
    }

    /// Looks again through a handle that has looked before.
    fn look_again(heard: &'h Mutex<Heard>, at: usize, stream: Stream) -> Self {
        let since = Heard::now(heard).histories[at].done();
        stream.reopen().unwrap_or_else(|error| panic!("{error}"));
        Self::of(heard, at, stream, since)
    }

    fn of(heard: &'h Mutex<Heard>, at: usize, stream: Stream, since: u64) -> Self {
        let (first, next) = (stream.first_seq(), stream.next_seq());
        let heard_now = Heard::now(heard);
        let history = &heard_now.histories[at];
        let candidates = history.matching(since, first, next);
        assert!(!candidates.is_empty(), "{first} to {next} was never, from {since} to {}", history.last());
        drop(heard_now);
        Self { heard, at, stream, candidates, since }
    }

    fn range(&self) -> Range<u64> {
        self.stream.first_seq()..self.stream.next_seq()
    }

    /// Entries that were read, in any order, are those of one state.
    fn holds<'e>(&mut self, entries: impl IntoIterator<Item = &'e Entry>) {
        let heard = Heard::now(self.heard);
        let history = &heard.histories[self.at];
        let next = self.stream.next_seq();
        for entry in entries {
            history.retain(&mut self.candidates, entry.seq(), entry.data());
            if entry.seq() + 1 == next {
                history.retain_end(&mut self.candidates, entry.seq(), entry.data());
            }
        }
    }

    /// Only that something was taken away may be told, and only if it was.
    fn is_lawful(&self, error: &Error) {
        let is_loss = matches!(error.kind(), ErrorKind::Truncated { .. } | ErrorKind::Cut { .. });
        let heard = Heard::now(self.heard);
        assert!(is_loss, "{:?} of {self:?}: {error}", self.range());
        assert!(heard.histories[self.at].has_lost_since(self.since), "nothing was taken away: {error}");
    }

    /// The answer, if nothing was taken away.
    fn given<T>(&self, answer: Result<T, Error>) -> Option<T> {
        answer.inspect_err(|error| self.is_lawful(error)).ok()
    }

    fn iterates(&mut self, backwards: bool) {
        let range = self.range();
        let iter = self.stream.iter(..);
        let mut found = Vec::new();
        let mut whole = true;
        let mut note = |entry: Result<Entry, Error>| match entry {
            Ok(entry) => found.push(entry),
            Err(error) => {
                self.is_lawful(&error);
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
        self.holds(&found);
    }

    fn asks(&mut self, rng: &mut Rng) {
        let range = self.range();
        assert_eq!(self.given(self.stream.get(range.end)), Some(None));
        if range.is_empty() {
            assert_eq!(self.given(self.stream.last()), Some(None));
            return;
        }
        let any = |rng: &mut Rng| range.start + rng.below(range.end - range.start);
        let mut found = Vec::new();
        for _ in 0..10 {
            let seq = any(rng);
            if let Some(entry) = self.given(self.stream.get(seq)) {
                let entry = entry.expect("inside the live range");
                assert_eq!(entry.seq(), seq);
                if let Some(at) = self.given(self.stream.seq_at(entry.timestamp())) {
                    assert!((range.start..=seq).contains(&at), "{at}, {seq}");
                }
                found.push(entry);
            }
        }
        let mut seqs: Vec<u64> = (0..20).map(|_| any(rng)).collect();
        seqs.sort_unstable();
        if let Some(entries) = self.given(self.stream.get_many(&seqs)) {
            let entries: Vec<Entry> = entries.into_iter().map(|entry| entry.expect("inside the live range")).collect();
            assert!(entries.iter().map(Entry::seq).eq(seqs));
            found.extend(entries);
        }
        if let Some(last) = self.given(self.stream.last()) {
            let last = last.expect("there are some");
            assert_eq!(last.seq() + 1, range.end);
            found.push(last);
        }
        if let Some(at) = self.given(self.stream.seq_at(SystemTime::UNIX_EPOCH)) {
            assert_eq!(at, range.start);
        }
        if let Some(at) = self.given(self.stream.seq_at(SystemTime::now() + Duration::from_secs(3600))) {
            assert_eq!(at, range.end);
        }
        self.holds(&found);
    }
}

/// Looks, again and again: for the first time, or through a handle that has looked before.
fn look_often(heard: &Mutex<Heard>, dir: &Path, mut rng: Rng, done: &AtomicBool, looks: &AtomicU64) {
    let mut handles: [Option<Stream>; 2] = [None, None];
    while !done.load(Ordering::Relaxed) {
        let at = rng.index(STREAMS.len());
        let mut seen = match handles[at].take().filter(|_| rng.chance(224)) {
            Some(stream) => Seen::look_again(heard, at, stream),
            None => match Seen::look(heard, dir, at) {
                Some(seen) => seen,
                None => continue,
            },
        };
        match rng.below(6) {
            0 => seen.iterates(false),
            1 => seen.iterates(true),
            2 => seen.asks(&mut rng),
            _ => {}
        }
        handles[at] = Some(seen.stream);
        looks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Keeps some handles and iterators for long, and reads a little now here, now there.
fn hold_long(heard: &Mutex<Heard>, dir: &Path, mut rng: Rng, done: &AtomicBool, entries: &AtomicU64) {
    const HELD: usize = 6;
    // With each the entries that are still to come.
    let mut held: Vec<(Seen<'_>, Iter, Range<u64>)> = Vec::new();
    while !done.load(Ordering::Relaxed) {
        if held.len() < HELD || rng.chance(2) {
            let Some(seen) = Seen::look(heard, dir, rng.index(STREAMS.len())) else { continue };
            if held.len() == HELD {
                held.remove(0);
            }
            let (iter, range) = (seen.stream.iter(..), seen.range());
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
                Some(Err(error)) => seen.is_lawful(&error),
                None => assert!(left.is_empty(), "{left:?} did not come"),
            }
            (*iter, *left) = (seen.stream.iter(..), seen.range());
            break;
        }
        seen.holds(&found);
        entries.fetch_add(found.len() as u64, Ordering::Relaxed);
        if rng.chance(32) {
            seen.asks(&mut rng);
        }
        thread::sleep(Duration::from_micros(rng.below(2000)));
    }
}

fn verify_often(dir: &Path, done: &AtomicBool, verified: &AtomicU64) {
    while !done.load(Ordering::Relaxed) {
        let ran = inspect::verify(dir, None, &mut |check| {
            let check = check.unwrap_or_else(|error| panic!("{error}"));
            assert_ne!(check.state, CheckState::Damaged, "{check:?}");
            verified.fetch_add(1, Ordering::Relaxed);
        });
        if let Err(error) = ran {
            assert!(error.kind() == ErrorKind::Missing && verified.load(Ordering::Relaxed) == 0, "{error}");
        }
    }
}

/// A child, killed when this is dropped.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_seen_beside_a_writer_in_another_process_was_so() {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(&dir);
    }
    let seconds = std::env::var("STRATAWAL_BESIDE_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
    is_read_beside(seconds, command());
}

/// A child to be.
fn command() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

fn is_read_beside(seconds: u64, mut command: Command) {
    let dir = tempfile::tempdir().unwrap();
    let (log, said) = (dir.path().join("log"), dir.path().join("said"));
    let writer = command
        .args(["--exact", "what_is_seen_beside_a_writer_in_another_process_was_so", "--nocapture", "--test-threads=1"])
        .env(CHILD, &log)
        .stdout(File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let mut writer = Writer(writer);
    let histories = Default::default();
    let heard = Mutex::new(Heard { file: File::open(&said).unwrap(), rest: Vec::new(), histories });
    let done = AtomicBool::new(false);
    let (looks, entries, verified) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let seed = u64::from(std::process::id());
    /// Ends the others where one ends, by a panic too.
    struct Ends<'d>(&'d AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let changes = |heard: &Heard| heard.histories.iter().map(History::len).sum::<usize>();
    thread::scope(|scope| {
        let (heard, log, done) = (&heard, &log, &done);
        let (looks, entries, verified) = (&looks, &entries, &verified);
        for i in 0..2 {
            scope.spawn(move || {
                let _ends = Ends(done);
                look_often(heard, log, Rng::new(seed << 8 | i), done, looks);
            });
        }
        scope.spawn(move || {
            let _ends = Ends(done);
            hold_long(heard, log, Rng::new(seed << 8 | 2), done, entries);
        });
        scope.spawn(move || {
            let _ends = Ends(done);
            verify_often(log, done, verified);
        });
        let _ends = Ends(done);
        let began = Instant::now();
        let is_enough = || {
            let [looks, entries, verified] = [looks, entries, verified].map(|n| n.load(Ordering::Relaxed));
            changes(&Heard::now(heard)) > 100 && looks > 20 && entries > 100 && verified > 2
        };
        // On a machine that is busy with other things it takes longer.
        while (began.elapsed().as_secs() < seconds || !is_enough()) && !done.load(Ordering::Relaxed) {
            assert!(began.elapsed().as_secs() < seconds + 120, "too little is done");
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(writer.0.try_wait().unwrap().is_none(), "the writer ended by itself");
    let changes = changes(&Heard::now(&heard));
    let [looks, entries, verified] = [looks, entries, verified].map(AtomicU64::into_inner);
    println!(
        "volume: {changes} changes; {looks} looks, {entries} entries read by those held, {verified} streams verified"
    );
}

/// What waits in the tail buffer is seen by no other process.
#[cfg(stratawal_faults)]
#[test]
fn seeded_an_acknowledgement_before_the_write_is_seen() {
    let mut command = command();
    command.env(told::FAULT, "1");
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| is_read_beside(10, command)));
    assert!(tried.is_err(), "it is not found");
}

const LOG: &str = "/log";

fn small() -> Options {
    Options::new().stream_defaults(StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500))
}

/// Looks as another process does.
fn beside(disk: &SimStorage) -> Stream {
    small().open_on(Arc::new(disk.clone()), Path::new(LOG), true).unwrap().stream("s").unwrap()
}

fn open(storage: &HookedStorage) -> (Wal, Stream) {
    let wal = small().open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap();
    let stream = wal.stream("s").unwrap();
    (wal, stream)
}

/// What no other append is.
fn text(number: u64) -> Vec<u8> {
    let len = 8 + usize::try_from(number * 37 % 900).unwrap();
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// Holds the stream against the entries from `first` on, both ways, and one by one.
fn is(stream: &Stream, first: u64, entries: &[Vec<u8>]) {
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

#[test]
fn a_log_that_is_just_being_created_is_not_damaged() {
    let disk = SimStorage::new(1);
    let storage = HookedStorage::new(disk.clone());
    // Another process has begun to create it.
    disk.create_dir(Path::new(LOG)).unwrap();
    let writer = Mutex::new(None);
    storage.set(move |operation, path| {
        let mut writer = writer.lock().unwrap();
        if operation == Operation::Open && path.ends_with("FORMAT") && writer.is_none() {
            // It was not there; and now there is the whole of it.
            let wal = small().open_on(Arc::new(disk.clone()), Path::new(LOG), false).unwrap();
            wal.stream("s").unwrap().append(text(0)).unwrap();
            *writer = Some(wal);
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    });
    let wal = small().open_on(Arc::new(storage), Path::new(LOG), true).unwrap();
    is(&wal.stream("s").unwrap(), 0, &[text(0)]);
}

#[test]
fn a_stream_that_is_begun_anew_under_a_look_is_not_mixed_with_the_one_before() {
    // The moment is that of opening a segment file: the first, the second, and so on.
    let mut is_new = Vec::new();
    for moment in 1..10 {
        let disk = SimStorage::new(moment);
        let (wal, stream) = open(&HookedStorage::new(disk.clone()));
        let [old, new] = [0, 1000].map(|from| (from..from + 200).map(text).collect::<Vec<_>>());
        for text in &old {
            stream.append(text).unwrap();
        }
        let storage = HookedStorage::new(disk);
        let new: Vec<_> = new.iter().map(|text| text.repeat(2)).collect();
        let (opened, begins) = (AtomicU64::new(0), new.clone());
        storage.set(move |operation, path| {
            let is_segment = path.extension().is_some_and(|extension| extension == "seg");
            if operation == Operation::Open && is_segment && opened.fetch_add(1, Ordering::Relaxed) + 1 == moment {
                wal.delete_stream("s").unwrap();
                let stream = wal.stream("s").unwrap();
                // Its segments have the same names, and end at other entries.
                for text in &begins {
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
    assert!(is_new.contains(&true) && is_new.contains(&false), "before the look, and behind it: {is_new:?}");
}

#[test]
fn beside_a_poisoned_writer_all_that_was_acknowledged_is_seen() {
    let disk = SimStorage::new(2);
    let storage = HookedStorage::new(disk.clone());
    let (wal, stream) = open(&storage);
    let (mut entries, mut number, mut poisoned) = (Vec::new(), 0, 0);
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
                    // A segment could not be created: nothing was appended.
                    assert_eq!((error.kind(), failing == Operation::SyncDir), (ErrorKind::Io, false), "{error}");
                    break None;
                }
            }
        };
        poisoned += u32::from(failed.is_some());
        // What failed may be there, whole.
        let seen = beside(&disk);
        let mut more = entries.clone();
        more.extend(failed.clone().filter(|_| seen.next_seq() > entries.len() as u64));
        is(&seen, 0, &more);
        storage.clear();
        stream.reopen().unwrap();
        // What was accepted, and not written, goes on waiting.
        stream.sync().unwrap();
        entries.extend(failed.filter(|_| stream.next_seq() > entries.len() as u64));
        is(&stream, 0, &entries);
        is(&beside(&disk), 0, &entries);
        // Whoever looked before sees what it saw.
        held.iter().for_each(|(stream, end)| is(stream, 0, &entries[..*end]));
    }
    assert!(poisoned > 8, "{poisoned} of 12");
    wal.close().unwrap();
    is(&beside(&disk), 0, &entries);
}

#[test]
fn beside_a_writer_whose_disk_is_full_all_that_was_acknowledged_is_seen() {
    let disk = SimStorage::new(3);
    let storage = HookedStorage::new(disk.clone());
    let (wal, stream) = open(&storage);
    let (mut entries, mut first, mut number) = (Vec::new(), 0, 0);
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
        is(&beside(&disk), first, &entries);
        is(&held, first, &entries[..held_end]);
        // Dropping works, from either end, and is seen.
        let before = beside(&disk);
        let dropped = entries.len() / 2;
        first += dropped as u64;
        stream.truncate_before(first).unwrap();
        entries.drain(..dropped);
        is(&beside(&disk), first, &entries);
        if round % 2 == 0 {
            let kept = entries.len() - 40;
            stream.truncate_from(first + kept as u64).unwrap();
            entries.truncate(kept);
            is(&beside(&disk), first, &entries);
        }
        for entry in before.iter(..).rev() {
            match entry {
                Ok(entry) => assert!(entry.seq() < before.next_seq()),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Truncated { .. } | ErrorKind::Cut { .. }), "{error}");
                }
            }
        }
        // There is room now.
        for _ in 0..50 {
            entries.push(append().unwrap());
        }
        is(&beside(&disk), first, &entries);
        disk.set_faults(None);
    }
    wal.close().unwrap();
    is(&beside(&disk), first, &entries);
}

#[test]
fn a_reader_syncs_all_it_shows_of_many_segments() {
    const SEGMENTS: u64 = 40;
    let disk = SimStorage::new(4);
    let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
    let options = Options::new().stream_defaults(streams.unsettled_max(1 << 30, 1000));
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
    is(&seen, 0, &entries);
    let files = disk.disk().files().into_iter().map(|(path, _)| Path::new(&path).to_owned());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    let mut synced = synced.lock().unwrap().clone();
    segments.sort();
    synced.sort();
    assert_eq!(synced, segments);
    // So a power loss takes nothing that was shown.
    let lost = SimStorage::on(disk.disk().crash(Crash::Lost, &mut Rng::new(4)), 4);
    is(&beside(&lost), 0, &entries);
    // Where one of the syncs fails, nothing is shown.
    for segment in segments {
        storage.set(move |operation, path| {
            let fails = operation == Operation::Sync && path == segment;
            if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        assert_eq!(look().unwrap_err().kind(), ErrorKind::Io);
    }
}
