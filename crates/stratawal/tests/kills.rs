//! Kills a process of many threads with `kill -9` many times. Acknowledged entries exist, batches
//! are whole, and no dropped entry comes back.
//!
//! Many threads share some of the streams, and drop entries from their beginnings. Each of the
//! other streams has its own thread, which also cuts off the end, deletes the stream and creates it
//! again. For those streams the model knows exactly which entries may exist.
//!
//! `STRATAWAL_KILLS` sets how often the process is killed.

mod recorder;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use recorder::{Recorder, check_recovered, entry_of, observe, parts, print_line, recorded, seed_fault_of_env};
use stratawal::{Batch, Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_testkit::{Rng, StreamModel};

const STREAMS: [&str; 3] = ["ledger", "events/of the day", "raft"];
const THREADS: u64 = 12;
/// The streams that have their own thread.
const OWN: [&str; 3] = ["own", "own/A", "own/b"];
/// The variable with the directory of the log; it makes this process the child.
const CHILD: &str = "STRATAWAL_KILLS_CHILD";

/// Opens the log as in the given life: without a commit journal, with one that is mapped, or with
/// one that is written. An opening without a journal gives up the one that the life before left.
fn open(dir: &str, life: u64) -> Wal {
    // Small segments, so that kills hit rotations, settling and unlinking.
    let options = StreamOptions::new()
        .segment_bytes(64 << 10)
        .frame_bytes(500)
        .unsynced_bytes_max(256 << 10)
        .unsynced_segments_max(2);
    // A small journal, so that kills hit its release.
    Options::new()
        .stream_defaults(options)
        .journal(!life.is_multiple_of(3))
        .journal_mapped(life % 3 == 1)
        .journal_bytes(256 << 10)
        .open(dir)
        .unwrap()
}

/// A line of the child about a stream that many threads share: a batch was acknowledged, or the
/// entries below a seq are about to be dropped or were dropped.
#[derive(Clone, Copy, Debug)]
enum Event {
    Kept { stream: usize, seq: u64, change: u64, count: u64 },
    Drops { stream: usize, first: u64 },
    Dropped { stream: usize, first: u64 },
}

impl Event {
    fn print(self) {
        print_line(&match self {
            Self::Kept { stream, seq, change, count } => format!("kept {stream} {seq} {change} {count}"),
            Self::Drops { stream, first } => format!("drops {stream} {first}"),
            Self::Dropped { stream, first } => format!("dropped {stream} {first}"),
        });
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let stream = usize::try_from(number(1)?).ok()?;
        match words[0] {
            "kept" => Some(Self::Kept { stream, seq: number(2)?, change: number(3)?, count: number(4)? }),
            "drops" => Some(Self::Drops { stream, first: number(2)? }),
            "dropped" => Some(Self::Dropped { stream, first: number(2)? }),
            _ => None,
        }
    }
}

/// Appends from many threads until the process is killed.
fn child(dir: &str, life: u64) {
    // A thread that fails ends the process.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    seed_fault_of_env();
    let wal = open(dir, life);
    let streams = STREAMS.map(|name| wal.stream(name).unwrap());
    let next_change = AtomicU64::new(life << 32);
    print_line("\nready");
    thread::scope(|scope| {
        let wal = &wal;
        let streams = &streams;
        let next_change = &next_change;
        for t in 0..THREADS {
            scope.spawn(move || {
                seed_fault_of_env();
                work(streams, next_change, &mut Rng::new(life << 8 | t));
            });
        }
        for (name, t) in OWN.iter().zip(THREADS..) {
            scope.spawn(move || {
                seed_fault_of_env();
                let mut recorder = Recorder::new(wal, name, life << 32).with_tickets();
                let mut rng = Rng::new(life << 8 | t);
                recorder.record_found();
                loop {
                    recorder.change(&mut rng);
                }
            });
        }
    });
}

fn work(streams: &[Stream; 3], next_change: &AtomicU64, rng: &mut Rng) {
    loop {
        let at = rng.index(3);
        let change = next_change.fetch_add(1, Ordering::Relaxed);
        if rng.chance(4) {
            let from = streams[at].first_seq();
            let next = streams[at].stable_seq();
            let first = from + rng.below(next - from + 1);
            Event::Drops { stream: at, first }.print();
            streams[at].truncate_before(first).unwrap();
            Event::Dropped { stream: at, first }.print();
            continue;
        }
        let durability = [Durability::Buffered, Durability::Flushed, Durability::Synced][rng.index(3)];
        let stream = streams[at].with_durability(durability);
        let count = if rng.chance(32) { 1 + rng.below(300) } else { 1 + rng.below(4) };
        let batch: Batch = (0..count).map(|i| entry_of(change, i, count)).collect();
        let seqs = match change % 2 {
            0 => stream.append_batch(&batch).unwrap(),
            _ => stream.submit(&batch).unwrap().wait().unwrap(),
        };
        if durability >= Durability::Flushed {
            Event::Kept { stream: at, seq: seqs.start, change, count }.print();
        }
    }
}

/// The command of a child.
fn command() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// Runs a child and kills it after a while. Returns the complete lines that it printed.
fn life(mut command: Command, dir: &str, life: u64, rng: &mut Rng) -> String {
    let mut child = command
        .args(["--exact", "killed_process_keeps_acknowledged_entries", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .env("STRATAWAL_KILLS_LIFE", life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    // Some children are killed while they recover from the previous kill.
    let early = rng.chance(32).then(|| Duration::from_micros(rng.below(5000)));
    let later = Duration::from_micros(rng.below(12_000));
    let (ready, is_ready) = mpsc::channel();
    let killer = thread::spawn(move || {
        if early.is_none() {
            is_ready.recv().expect("the child gets ready");
        }
        thread::sleep(early.unwrap_or(later));
        child.kill().unwrap();
        child.wait().unwrap()
    });
    let mut text = Vec::new();
    let mut buf = vec![0; 64 << 10];
    loop {
        let n = out.read(&mut buf).unwrap();
        if n == 0 {
            break;
        }
        let seen = text.len().saturating_sub(6);
        text.extend_from_slice(&buf[..n]);
        if text[seen..].windows(6).any(|w| w == b"ready\n") {
            // If the child is killed early, the killer does not wait for this.
            let _ = ready.send(());
        }
    }
    drop(ready);
    let ended = killer.join().unwrap();
    assert_eq!(ended.signal(), Some(9), "the child ended without the kill: {ended}");
    let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    text.truncate(whole);
    String::from_utf8(text).unwrap()
}

/// A stream that many threads share. The order of their appends is unknown, so only the
/// acknowledged batches are known, not the whole content of the stream.
#[derive(Debug, Default)]
struct SharedStream {
    /// The change and the length of each acknowledged batch, keyed by the seq of its first entry.
    kept: BTreeMap<u64, (u64, u64)>,
    /// The entries below this seq were dropped.
    dropped: u64,
    /// The entries below this seq may be dropped.
    dropping: u64,
    /// One past the last entry seen or acknowledged.
    next: u64,
}

impl SharedStream {
    fn observe(&mut self, event: Event) {
        match event {
            Event::Kept { seq, change, count, .. } => {
                assert!(self.kept.insert(seq, (change, count)).is_none(), "seq {seq} was acknowledged twice");
                self.next = self.next.max(seq + count);
            }
            Event::Drops { first, .. } => self.dropping = self.dropping.max(first),
            Event::Dropped { first, .. } => self.dropped = self.dropped.max(first),
        }
    }

    /// Compares the stream with this model after a kill.
    fn check(&mut self, stream: &Stream) {
        let first = stream.first_seq();
        let next = stream.next_seq();
        assert!(
            (self.dropped..=self.dropping).contains(&first),
            "begins at {first}: {} {}",
            self.dropped,
            self.dropping
        );
        assert!(next >= self.next, "ends at {next}, {} were acknowledged", self.next);
        let mut seq = first;
        let mut rest = 0;
        let mut last = None;
        for found in stream.iter(..) {
            let found = found.unwrap();
            assert_eq!(found.seq(), seq, "a gap");
            let (change, i, count) = parts(found.data());
            assert_eq!(found.data()[..], entry_of(change, i, count), "no thread appended entry {seq}");
            match last {
                Some(before) if rest > 0 => assert_eq!((change, i, count), before, "{seq}: a batch continues"),
                // The beginning of the first batch may be dropped.
                None => {}
                Some(_) => assert_eq!(i, 0, "{seq}: a batch begins"),
            }
            rest = count - i - 1;
            last = Some((change, i + 1, count));
            let kept = self.kept.range(..=seq).next_back().filter(|(at, kept)| seq < *at + kept.1);
            assert!(
                kept.is_none_or(|(_, &kept)| kept == (change, count)),
                "{seq}: another entry than was acknowledged"
            );
            seq += 1;
        }
        assert_eq!((seq, rest), (next, 0), "a batch in part, or a gap at the end");
        self.dropped = first;
        self.dropping = first;
        self.next = next;
        self.kept.retain(|at, kept| at + kept.1 > first);
    }
}

#[test]
fn killed_process_keeps_acknowledged_entries() {
    if let Ok(dir) = std::env::var(CHILD) {
        let life = std::env::var("STRATAWAL_KILLS_LIFE").unwrap().parse().unwrap();
        return child(&dir, life);
    }
    let kills = std::env::var("STRATAWAL_KILLS").map_or(15, |kills| kills.parse().unwrap());
    kill_many_times(kills, command);
}

fn kill_many_times(kills: u64, command: fn() -> Command) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let log = log.to_str().unwrap();
    let mut shared: [SharedStream; 3] = Default::default();
    let mut own: [StreamModel; 3] = std::array::from_fn(|_| StreamModel::with_past());
    let mut rng = Rng::new(u64::from(std::process::id()));
    let mut acknowledged = 0;
    let mut changes = 0;
    let mut checked = 0;
    for number in 1..=kills {
        for line in life(command(), log, number, &mut rng).lines() {
            if let Some((name, line)) = recorded(line) {
                let at = OWN.iter().position(|own| *own == name).unwrap();
                observe(&mut own[at], line);
                changes += 1;
            } else if let Some(event) = Event::parse(line) {
                let (Event::Kept { stream, .. } | Event::Drops { stream, .. } | Event::Dropped { stream, .. }) = event;
                shared[stream].observe(event);
                acknowledged += 1;
            }
        }
        // A reader looks first, then the next writer, which is sometimes the next child.
        if rng.chance(64) {
            continue;
        }
        match Options::new().open_read_only(log) {
            Ok(wal) => {
                for (name, shared) in STREAMS.iter().zip(&mut shared) {
                    let stream = wal.stream(name).unwrap();
                    assert!(stream.next_seq() >= shared.next, "{number}: {name}");
                }
                for (name, own) in OWN.iter().zip(&own) {
                    let stream = wal.stream(name).unwrap();
                    let seqs = stream.first_seq()..stream.next_seq();
                    assert!(!own.matching(own.last_done(), seqs.clone()).is_empty(), "{number}: {name}: {seqs:?}");
                }
            }
            // The child was killed before it created the log.
            Err(error) => assert!(error.kind() == ErrorKind::Missing && acknowledged == 0, "{error}"),
        }
        let wal = open(log, number + rng.below(3));
        for (name, shared) in STREAMS.iter().zip(&mut shared) {
            shared.check(&wal.stream(name).unwrap());
        }
        for (name, own) in OWN.iter().zip(&mut own) {
            checked += check_recovered(name, own, &wal.stream(name).unwrap());
        }
        if rng.chance(128) {
            wal.close().unwrap();
        }
    }
    println!(
        "volume: {kills} kills, {acknowledged} acknowledgements; {changes} changes to streams of one thread, {checked} entries"
    );
    assert!(acknowledged > kills && changes > kills && checked > kills, "too little is done in a life");
}

/// The fault: entries still in the tail buffer are acknowledged, but die with the process.
#[cfg(stratawal_faults)]
#[test]
fn seeded_acknowledgement_before_write_is_found() {
    let faulty = || {
        let mut command = command();
        command.env(recorder::FAULT, "1");
        command
    };
    let tried = std::panic::catch_unwind(|| kill_many_times(50, faulty));
    assert!(tried.is_err(), "it is not found");
}
