//! A process of many threads, killed with -9 again and again: what it was told is kept is there,
//! batches are whole, and nothing that was dropped comes back.
//!
//! Some streams are many threads' together, with entries that are dropped from the beginning.
//! Others have a thread each, which cuts the end off as well, deletes the stream and begins it
//! anew, so that what may be there is known exactly.
//!
//! `STRATAWAL_KILLS` sets how often.

mod told;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use stratawal::{Batch, Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_testkit::Rng;
use told::{History, Teller, entry, parts, say, seed_if_told, told};

const STREAMS: [&str; 3] = ["ledger", "events/of the day", "raft"];
const THREADS: u64 = 12;
/// Those that have a thread each.
const OWN: [&str; 3] = ["own", "own/A", "own/b"];
/// Where the child finds its log, if this process is one.
const CHILD: &str = "STRATAWAL_KILLS_CHILD";

fn open(dir: &str) -> Wal {
    // Small, so that kills fall on rotations, settling and unlinking.
    let options = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500).unsettled_max(256 << 10, 2);
    Options::new().stream_defaults(options).open(dir).unwrap()
}

/// What the child says of the streams that are many threads' together: the entry at a seq of a
/// stream was acknowledged, or those below are about to be dropped, or were.
#[derive(Clone, Copy, Debug)]
enum Said {
    Kept { stream: usize, seq: u64, tag: u64, of: u64 },
    Drops { stream: usize, first: u64 },
    Dropped { stream: usize, first: u64 },
}

impl Said {
    fn say(self) {
        say(&match self {
            Self::Kept { stream, seq, tag, of } => format!("kept {stream} {seq} {tag} {of}"),
            Self::Drops { stream, first } => format!("drops {stream} {first}"),
            Self::Dropped { stream, first } => format!("dropped {stream} {first}"),
        });
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let stream = usize::try_from(number(1)?).ok()?;
        match words[0] {
            "kept" => Some(Self::Kept { stream, seq: number(2)?, tag: number(3)?, of: number(4)? }),
            "drops" => Some(Self::Drops { stream, first: number(2)? }),
            "dropped" => Some(Self::Dropped { stream, first: number(2)? }),
            _ => None,
        }
    }
}

/// Appends from many threads until it is killed.
fn child(dir: &str, life: u64) {
    // A thread that fails ends them all.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    seed_if_told();
    let wal = open(dir);
    let streams = STREAMS.map(|name| wal.stream(name).unwrap());
    let next_tag = AtomicU64::new(life << 32);
    say("\nready");
    thread::scope(|scope| {
        let (wal, streams, next_tag) = (&wal, &streams, &next_tag);
        for t in 0..THREADS {
            scope.spawn(move || {
                seed_if_told();
                work(streams, next_tag, &mut Rng::new(life << 8 | t));
            });
        }
        for (name, t) in OWN.iter().zip(THREADS..) {
            scope.spawn(move || {
                seed_if_told();
                let (mut teller, mut rng) = (Teller::new(wal, name, life << 32), Rng::new(life << 8 | t));
                teller.tell();
                loop {
                    teller.change(&mut rng);
                }
            });
        }
    });
}

fn work(streams: &[Stream; 3], next_tag: &AtomicU64, rng: &mut Rng) {
    loop {
        let at = rng.index(3);
        let tag = next_tag.fetch_add(1, Ordering::Relaxed);
        if rng.chance(4) {
            let (from, next) = (streams[at].first_seq(), streams[at].stable_seq());
            let first = from + rng.below(next - from + 1);
            Said::Drops { stream: at, first }.say();
            streams[at].truncate_before(first).unwrap();
            Said::Dropped { stream: at, first }.say();
            continue;
        }
        let durability = [Durability::Buffered, Durability::Flushed, Durability::Synced][rng.index(3)];
        let stream = streams[at].with_durability(durability);
        let of = if rng.chance(32) { 1 + rng.below(300) } else { 1 + rng.below(4) };
        let batch: Batch = (0..of).map(|i| entry(tag, i, of)).collect();
        let seqs = stream.append_batch(&batch).unwrap();
        if durability >= Durability::Flushed {
            Said::Kept { stream: at, seq: seqs.start, tag, of }.say();
        }
    }
}

/// A child to be.
fn command() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// Runs a child, kills it after a while, and answers what it said in whole lines.
fn life(mut command: Command, dir: &str, life: u64, rng: &mut Rng) -> String {
    let mut child = command
        .args(["--exact", "what_a_killed_process_was_told_is_kept", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .env("STRATAWAL_KILLS_LIFE", life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    // Some are killed while they recover what the one before left.
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
            // A child that is killed early does not listen.
            let _ = ready.send(());
        }
    }
    drop(ready);
    let ended = killer.join().unwrap();
    assert_eq!(ended.signal(), Some(9), "the child ended by itself: {ended}");
    let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    text.truncate(whole);
    String::from_utf8(text).unwrap()
}

/// What is known of a stream.
#[derive(Debug, Default)]
struct Known {
    /// The batches that were acknowledged, by the seq of their first entry.
    kept: BTreeMap<u64, (u64, u64)>,
    /// All entries below this seq were dropped; and below that, they may be.
    dropped: u64,
    dropping: u64,
    /// One past the last entry that was seen or acknowledged.
    next: u64,
}

impl Known {
    fn hear(&mut self, said: Said) {
        match said {
            Said::Kept { seq, tag, of, .. } => {
                assert!(self.kept.insert(seq, (tag, of)).is_none(), "seq {seq} was acknowledged twice");
                self.next = self.next.max(seq + of);
            }
            Said::Drops { first, .. } => self.dropping = self.dropping.max(first),
            Said::Dropped { first, .. } => self.dropped = self.dropped.max(first),
        }
    }

    /// Holds what is there against it.
    fn check(&mut self, stream: &Stream) {
        let (first, next) = (stream.first_seq(), stream.next_seq());
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
            let (tag, i, of) = parts(found.data());
            assert_eq!(found.data()[..], entry(tag, i, of), "entry {seq} is of nobody");
            match last {
                Some(before) if rest > 0 => assert_eq!((tag, i, of), before, "{seq}: a batch goes on"),
                // Of the first batch the beginning may be dropped.
                None => {}
                Some(_) => assert_eq!(i, 0, "{seq}: a batch begins"),
            }
            rest = of - i - 1;
            last = Some((tag, i + 1, of));
            let kept = self.kept.range(..=seq).next_back().filter(|(at, kept)| seq < *at + kept.1);
            assert!(kept.is_none_or(|(_, &kept)| kept == (tag, of)), "{seq}: another entry than was acknowledged");
            seq += 1;
        }
        assert_eq!((seq, rest), (next, 0), "a batch in part, or a gap at the end");
        (self.dropped, self.dropping, self.next) = (first, first, next);
        // Before what was dropped nothing is asked for any more.
        self.kept.retain(|at, kept| at + kept.1 > first);
    }
}

#[test]
fn what_a_killed_process_was_told_is_kept() {
    if let Ok(dir) = std::env::var(CHILD) {
        let life = std::env::var("STRATAWAL_KILLS_LIFE").unwrap().parse().unwrap();
        return child(&dir, life);
    }
    let kills = std::env::var("STRATAWAL_KILLS").map_or(15, |kills| kills.parse().unwrap());
    is_killed(kills, command);
}

fn is_killed(kills: u64, command: fn() -> Command) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let log = log.to_str().unwrap();
    let mut known: [Known; 3] = Default::default();
    let mut own: [History; 3] = Default::default();
    let mut rng = Rng::new(u64::from(std::process::id()));
    let (mut heard, mut changes, mut checked) = (0, 0, 0);
    for number in 1..=kills {
        for line in life(command(), log, number, &mut rng).lines() {
            if let Some((name, line)) = told(line) {
                let at = OWN.iter().position(|own| *own == name).unwrap();
                own[at].hear(line);
                changes += 1;
            } else if let Some(said) = Said::parse(line) {
                let (Said::Kept { stream, .. } | Said::Drops { stream, .. } | Said::Dropped { stream, .. }) = said;
                known[stream].hear(said);
                heard += 1;
            }
        }
        // A reader beside nobody sees it first, and then the next writer; now and then the next
        // child is that.
        if rng.chance(64) {
            continue;
        }
        match Options::new().open_read_only(log) {
            Ok(wal) => {
                for (name, known) in STREAMS.iter().zip(&mut known) {
                    let stream = wal.stream(name).unwrap();
                    assert!(stream.next_seq() >= known.next, "{number}: {name}");
                }
                for (name, own) in OWN.iter().zip(&own) {
                    let stream = wal.stream(name).unwrap();
                    let (first, next) = (stream.first_seq(), stream.next_seq());
                    assert!(!own.matching(own.done(), first, next).is_empty(), "{number}: {name}: {first} to {next}");
                }
            }
            // Killed before there was one.
            Err(error) => assert!(error.kind() == ErrorKind::Missing && heard == 0, "{error}"),
        }
        let wal = open(log);
        for (name, known) in STREAMS.iter().zip(&mut known) {
            known.check(&wal.stream(name).unwrap());
        }
        for (name, own) in OWN.iter().zip(&mut own) {
            checked += own.check(&wal.stream(name).unwrap());
        }
        if rng.chance(128) {
            wal.close().unwrap();
        }
    }
    println!(
        "volume: {kills} kills, {heard} acknowledgements; {changes} changes to streams of one thread, {checked} entries"
    );
    assert!(heard > kills && changes > kills && checked > kills, "too little is done in a life");
}

/// What waits in the tail buffer dies with the process.
#[cfg(stratawal_faults)]
#[test]
fn seeded_an_acknowledgement_before_the_write_is_found() {
    let faulty = || {
        let mut command = command();
        command.env(told::FAULT, "1");
        command
    };
    let tried = std::panic::catch_unwind(|| is_killed(50, faulty));
    assert!(tried.is_err(), "it is not found");
}
