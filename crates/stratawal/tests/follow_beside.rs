//! A follower in one process and a writer in another, which rotates, drops entries from both ends,
//! closes and opens the log, and is killed again and again. At the end the follower has seen
//! exactly the live entries, and none of them twice, unless it was reported as cut in between.
//!
//! `STRATAWAL_FOLLOW_SECONDS` sets how long this runs.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stratawal::{Durability, FollowEvent, Options, StreamOptions};
use stratawal_testkit::Rng;

/// The variable with the directory of the log; it makes this process the writer.
const CHILD: &str = "STRATAWAL_FOLLOW_CHILD";
/// The variable with the number of the writer's life, and whether the log has a journal.
const LIFE: &str = "STRATAWAL_FOLLOW_LIFE";

fn options(journal: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500);
    Options::new().stream_defaults(streams).journal(journal).journal_bytes(128 << 10)
}

/// Writes until the process is killed. Each entry begins with a number that no other has.
fn write(dir: &str) {
    let life: u64 = std::env::var(LIFE).unwrap().parse().unwrap();
    let mut rng = Rng::new(life);
    let mut number = life << 32;
    loop {
        let wal = options(life % 2 == 1).open(dir).unwrap();
        let stream = wal.stream("s").unwrap();
        for _ in 0..rng.below(60) {
            let (first, next) = (stream.first_seq(), stream.next_seq());
            match rng.below(24) {
                0 => stream.truncate_before(first + rng.below(next - first + 1)).unwrap(),
                1 => stream.truncate_before(next + 2).unwrap(),
                2 | 3 => stream.truncate_from(next - rng.below((next - first).min(5) + 1)).unwrap(),
                4 => stream.sync().unwrap(),
                durability => {
                    let durability = [Durability::Synced, Durability::Flushed][durability as usize % 2];
                    for _ in 0..=rng.below(8) {
                        number += 1;
                        let entry = number.to_le_bytes().repeat(1 + rng.index(300));
                        stream.with_durability(durability).append(entry).unwrap();
                    }
                }
            }
        }
        wal.close().unwrap();
    }
}

struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start_writer(dir: &Path, life: u64) -> Writer {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "follower_survives_kills_of_the_writer", "--nocapture"])
        .env(CHILD, dir)
        .env(LIFE, life.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Writer(child)
}

/// The stream as the follower has seen it.
#[derive(Default)]
struct Followed {
    first: u64,
    numbers: VecDeque<u64>,
    seen: HashSet<u64>,
    truncated: u64,
    cut: u64,
    /// How many entries were cut.
    again: u64,
}

impl Followed {
    fn next(&self) -> u64 {
        self.first + self.numbers.len() as u64
    }

    fn observe(&mut self, event: FollowEvent) {
        match event {
            FollowEvent::Entry(entry) => {
                assert_eq!(entry.seq(), self.next(), "an entry is missing, or came twice");
                let number = u64::from_le_bytes(entry.data()[..8].try_into().unwrap());
                assert!(self.seen.insert(number), "the entry {number} came twice");
                self.numbers.push_back(number);
            }
            FollowEvent::Truncated { dropped } => {
                assert_eq!(dropped.start, self.next());
                assert!(dropped.end > dropped.start);
                *self = Self { first: dropped.end, numbers: VecDeque::new(), ..std::mem::take(self) };
                self.truncated += 1;
            }
            FollowEvent::Cut { dropped } => {
                assert_eq!(dropped.end, self.next());
                assert!(dropped.start < dropped.end);
                let kept = dropped.start.saturating_sub(self.first);
                self.first = self.first.min(dropped.start);
                // After a kill the writer may write entries again that it recovers. A reader takes
                // them for others.
                for number in self.numbers.drain(usize::try_from(kept).unwrap()..) {
                    self.again += u64::from(self.seen.remove(&number));
                }
                self.cut += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn follower_survives_kills_of_the_writer() {
    if let Ok(dir) = std::env::var(CHILD) {
        write(&dir);
    }
    let seconds = std::env::var("STRATAWAL_FOLLOW_SECONDS").map_or(3, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    options(false).open(dir.path()).unwrap().close().unwrap();
    let reader = Options::new().open_read_only(dir.path()).unwrap();
    let mut follow = reader.stream("s").unwrap().follow(0);
    let mut followed = Followed::default();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut life = 0;
    let mut rng = Rng::new(1);
    while Instant::now() < until {
        life += 1;
        let writer = start_writer(dir.path(), life);
        let killed_at = Instant::now() + Duration::from_millis(50 + rng.below(300));
        while Instant::now() < killed_at {
            if let Some(event) = follow.next_timeout(Duration::from_millis(5)).unwrap() {
                followed.observe(event);
            }
        }
        drop(writer);
    }
    let wal = options(true).open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append(u64::MAX.to_le_bytes()).unwrap();
    while followed.numbers.back() != Some(&u64::MAX) {
        let event = follow.next_timeout(Duration::from_secs(20)).unwrap();
        followed.observe(event.expect("the last entry is due"));
    }
    let first = stream.first_seq().max(followed.first);
    let live: Vec<u64> =
        stream.iter(first..).map(|entry| u64::from_le_bytes(entry.unwrap().data()[..8].try_into().unwrap())).collect();
    let from = usize::try_from(first - followed.first).unwrap();
    assert!(followed.numbers.iter().skip(from).copied().eq(live));
    let Followed { seen, truncated, cut, again, .. } = &followed;
    let seen_len = seen.len();
    println!(
        "volume: {life} writers killed, {seen_len} entries, {truncated} truncations, {cut} cuts of {again} entries"
    );
    assert!(seen_len > 100 && *truncated > 0 && *cut > 0);
}
