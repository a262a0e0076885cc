//! A follower in one process and a writer in another, which rotates, drops entries from both ends,
//! closes and opens the log, and is killed again and again.
//!
//! In the first test the writer drops entries at any time. At the end the follower has seen exactly
//! the live entries, and none of them twice, unless it was reported as cut in between.
//! `STRATAWAL_FOLLOW_SECONDS` sets how long it runs.
//!
//! In the second test the writer reports each acknowledged entry, and drops entries only once the
//! follower has seen all that it has reported. So the follower must see every one of them.
//! `STRATAWAL_FOLLOW_ROTATIONS` sets how often the writer begins a segment.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use stratawal::{Durability, Follow, FollowEvent, Options, StreamOptions};
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

/// The command of a process that runs `test` as the writer.
fn writer(test: &str, dir: &Path, life: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, dir).env(LIFE, life.to_string());
    command
}

fn start_writer(dir: &Path, life: u64) -> Writer {
    let mut command = writer("follower_survives_kills_of_the_writer", dir, life);
    Writer(command.stdout(Stdio::null()).spawn().unwrap())
}

/// The stream as the follower has seen it.
#[derive(Default)]
struct Followed {
    first: u64,
    numbers: VecDeque<u64>,
    seen: HashSet<u64>,
    /// The numbers of all entries, also of those that were reported as cut.
    ever: HashSet<u64>,
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
                self.ever.insert(number);
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

/// A file of more than half a segment.
const LARGE: usize = 34 << 10;

/// Reports a line to the process that follows.
fn report(line: std::fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    // In one call, so that a kill leaves no part of a line before another one.
    stdout.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Writes until the process is killed. Reports the number of each synced entry once it is
/// acknowledged. Waits for the follower before it drops entries.
fn write_and_report(dir: &str) {
    let life: u64 = std::env::var(LIFE).unwrap().parse().unwrap();
    let mut rng = Rng::new(life);
    let mut number = life << 32;
    report(format_args!(""));
    loop {
        let wal = options(!life.is_multiple_of(3)).journal_mapped(life % 3 == 1).open(dir).unwrap();
        report(format_args!("opened"));
        let stream = wal.stream("s").unwrap();
        for _ in 0..rng.below(40) {
            let kind = rng.below(16);
            if kind < 2 {
                report(format_args!("drops"));
                std::io::stdin().read_exact(&mut [0]).unwrap();
                let (first, next) = (stream.first_seq(), stream.next_seq());
                match kind {
                    0 => stream.truncate_before(first + rng.below(next + 3 - first)).unwrap(),
                    _ => stream.truncate_from(next - rng.below((next - first).min(5) + 1)).unwrap(),
                }
                continue;
            }
            number += 1;
            let len = if kind < 8 { LARGE } else { 8 * (1 + rng.index(300)) };
            let entry = number.to_le_bytes().repeat(len / 8);
            if kind == 2 {
                stream.with_durability(Durability::Flushed).append(entry).unwrap();
            } else {
                stream.with_durability(Durability::Synced).append(entry).unwrap();
                report(format_args!("synced {number}"));
            }
        }
        wal.close().unwrap();
    }
}

/// A writer, and the lines that it reports.
struct Reporting {
    writer: Writer,
    lines: Receiver<String>,
}

impl Reporting {
    fn start(dir: &Path, life: u64) -> Self {
        let mut command = writer("follower_sees_each_synced_entry", dir, life);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        // It ends with the child.
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { writer: Writer(child), lines }
    }

    /// Kills the writer, and returns the lines that were not read.
    fn kill(self) -> Vec<String> {
        let Self { writer, lines } = self;
        drop(writer);
        lines.into_iter().collect()
    }
}

/// The entries that the follower has seen, and those that it must see.
#[derive(Default)]
struct Due {
    followed: Followed,
    due: HashSet<u64>,
    synced: u64,
    opened: u64,
    drops: u64,
    segments: HashSet<std::ffi::OsString>,
}

impl Due {
    /// Takes in a line of the writer. Returns whether the writer waits for the follower.
    fn read(&mut self, line: &str) -> bool {
        if let Some(number) = line.strip_prefix("synced ") {
            self.due.insert(number.parse().unwrap());
            self.synced += 1;
        }
        self.opened += u64::from(line == "opened");
        self.drops += u64::from(line == "drops");
        line == "drops"
    }

    fn follow(&mut self, follow: &mut Follow, timeout: Duration) -> bool {
        let event = follow.next_timeout(timeout).unwrap();
        let is_some = event.is_some();
        event.into_iter().for_each(|event| self.followed.observe(event));
        is_some
    }

    /// Follows until every entry that was reported has been seen.
    fn see_all(&mut self, follow: &mut Follow) {
        let Self { due, followed, .. } = self;
        due.retain(|number| !followed.ever.contains(number));
        while !self.due.is_empty() {
            let is_some = self.follow(follow, Duration::from_secs(20));
            assert!(is_some, "synced and never seen: {:?}", self.due);
            let Self { due, followed, .. } = self;
            due.retain(|number| !followed.ever.contains(number));
        }
    }

    fn count_segments(&mut self, dir: &Path) {
        let files = fs::read_dir(dir.join("streams/s")).into_iter().flatten().flatten();
        let segments = files.map(|file| file.file_name()).filter(|name| name.to_string_lossy().ends_with(".seg"));
        self.segments.extend(segments);
    }
}

#[test]
fn follower_sees_each_synced_entry() {
    if let Ok(dir) = std::env::var(CHILD) {
        write_and_report(&dir);
    }
    let rotations: usize = std::env::var("STRATAWAL_FOLLOW_ROTATIONS").map_or(100, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    options(false).open(dir.path()).unwrap().close().unwrap();
    let reader = Options::new().open_read_only(dir.path()).unwrap();
    let mut follow = reader.stream("s").unwrap().follow(0);
    let mut seen = Due::default();
    let mut rng = Rng::new(1);
    let mut life = 0;
    while life < 4 || seen.segments.len() <= rotations {
        life += 1;
        let mut reporting = Reporting::start(dir.path(), life);
        let opened = seen.opened;
        let killed_at = Instant::now() + Duration::from_millis(200 + rng.below(400));
        // The first opening may take long on a busy machine.
        while Instant::now() < killed_at || seen.opened == opened {
            seen.follow(&mut follow, Duration::from_millis(5));
            let lines: Vec<String> = reporting.lines.try_iter().collect();
            for line in lines {
                if seen.read(&line) {
                    seen.see_all(&mut follow);
                    reporting.writer.0.stdin.as_mut().unwrap().write_all(b"g").unwrap();
                }
            }
            seen.count_segments(dir.path());
        }
        let rest = reporting.kill();
        rest.iter().for_each(|line| {
            seen.read(line);
        });
        seen.see_all(&mut follow);
    }
    let Due { followed: Followed { truncated, cut, .. }, synced, opened, drops, segments, .. } = &seen;
    let rotations = segments.len() - 1;
    println!(
        "volume: {rotations} rotations, {life} writers killed, {opened} openings, {synced} synced entries, {drops} drops, \
         {truncated} truncations and {cut} cuts seen"
    );
    assert!(*opened > life && *cut > 0 && *drops > 0, "the writer also restarts, and drops entries");
}
