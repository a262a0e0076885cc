//! `follow`, and `cat --follow`, beside a writer.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use common::{Log, command, tree};
use serde_json::Value;
use stratawal::{Durability, Options, Stream, StreamOptions, Wal};
use stratawal_testkit::Rng;

/// The maximum time for anything that takes far less.
const TIME_MAX: Duration = Duration::from_secs(60);

/// How long nothing may be printed before this counts as silence.
const SILENCE: Duration = Duration::from_millis(400);

/// A running command whose output is read line by line.
struct Follower {
    child: Child,
    lines: Receiver<String>,
    notes: Receiver<String>,
}

fn lines_of(input: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut input = BufReader::new(input);
        let mut line = String::new();
        while input.read_line(&mut line).is_ok_and(|n| n > 0) {
            let _ = sender.send(std::mem::take(&mut line).trim_end_matches('\n').to_owned());
        }
    });
    lines
}

impl Follower {
    fn start(log: &Log, command_name: &str, arguments: &[&str]) -> Self {
        let mut child = command()
            .arg(command_name)
            .arg(log.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let notes = lines_of(child.stderr.take().unwrap());
        Self { child, lines, notes }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(TIME_MAX).expect("a line")
    }

    fn take(&self, n: usize) -> Vec<String> {
        (0..n).map(|_| self.line()).collect()
    }

    fn note(&self) -> String {
        self.notes.recv_timeout(TIME_MAX).expect("a note")
    }

    fn is_silent(&self) -> bool {
        self.lines.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) && self.notes.try_recv().is_err()
    }

    fn send(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        while began.elapsed() < TIME_MAX {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }

    /// Interrupts the command and returns its summary.
    fn interrupt(&mut self) -> String {
        self.send("INT");
        assert_eq!(self.end().code(), Some(130));
        self.note()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The variable with the directory of the log; it makes this process the writer.
const DIR: &str = "STRATAWAL_CLI_FOLLOW_DIR";
/// The variable with the number of the writer's life.
const LIFE: &str = "STRATAWAL_CLI_FOLLOW_LIFE";
/// The variable with `1` if the writer cuts and deletes, too.
const CUTS: &str = "STRATAWAL_CLI_FOLLOW_CUTS";

fn options(journal: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10);
    Options::new().stream_defaults(streams).journal(journal).journal_bytes(128 << 10)
}

/// Appends entries to two streams, rotates and truncates them, and closes and opens the log, until
/// this process is killed. Each entry is a number that no other has, again and again.
fn write_until_killed(dir: &str) {
    let life: u64 = std::env::var(LIFE).unwrap().parse().unwrap();
    let cuts = std::env::var(CUTS).unwrap() == "1";
    let mut rng = Rng::new(life);
    let mut number = life << 32;
    loop {
        let wal = options(!life.is_multiple_of(3)).open(dir).unwrap();
        for _ in 0..rng.below(40) {
            let name = ["s", "t"][rng.index(2)];
            let stream = wal.stream(name).unwrap();
            let (first, next) = (stream.first_seq(), stream.next_seq());
            match rng.below(24) {
                0 => stream.truncate_before(first + rng.below(next - first + 1)).unwrap(),
                1 | 2 if cuts => stream.truncate_from(next - rng.below((next - first).min(5) + 1)).unwrap(),
                3 if cuts && stream.exists() => wal.delete_stream(name).unwrap(),
                durability => {
                    let durability = [Durability::Synced, Durability::Flushed][durability as usize % 2];
                    for _ in 0..=rng.below(8) {
                        number += 1;
                        let entry = format!("{number};").repeat(1 + rng.index(300));
                        stream.with_durability(durability).append(entry).unwrap();
                    }
                }
            }
        }
        wal.close().unwrap();
    }
}

/// A stream as the follower has printed it.
#[derive(Debug, Default)]
struct Seen {
    first: u64,
    texts: VecDeque<String>,
    changes: u64,
    /// Entries that were announced as cut, by seq, while the writer cuts nothing. They come
    /// again: a follower may announce a cut where only some entries of a batch were dropped.
    again: BTreeMap<u64, String>,
}

impl Seen {
    fn next(&self) -> u64 {
        self.first + self.texts.len() as u64
    }

    /// Takes a line of the output. An entry must be the next one, and as it was appended.
    fn take(&mut self, line: &Value) {
        let range =
            |word: &str| Some((line[format!("{word}_first")].as_u64()?, line[format!("{word}_last")].as_u64()?));
        if let Some(seq) = line["seq"].as_u64() {
            let text = line["text"].as_str().unwrap().to_owned();
            let mut parts = text.trim_end_matches(';').split(';');
            let number = parts.next().unwrap();
            assert!(number.parse::<u64>().is_ok() && text.ends_with(';') && parts.all(|part| part == number), "{line}");
            if self.texts.is_empty() && self.first == 0 {
                self.first = seq;
            }
            assert_eq!(seq, self.next(), "an entry is missing, or came twice");
            if let Some(before) = self.again.remove(&seq) {
                assert_eq!(text, before, "an entry that was not stable was printed");
            }
            self.texts.push_back(text);
        } else if let Some((first, last)) = range("truncated") {
            assert_eq!(first, self.next());
            *self = Self { first: last + 1, changes: self.changes + 1, ..Self::default() };
        } else if let Some((first, last)) = range("cut") {
            assert_eq!(last + 1, self.next());
            let cut = self.texts.split_off(usize::try_from(first.saturating_sub(self.first)).unwrap());
            self.again.extend((first.max(self.first)..).zip(cut));
            self.first = self.first.min(first);
            self.changes += 1;
        } else if line["deleted"] == true {
            *self = Self { changes: self.changes + 1, ..Self::default() };
        } else {
            panic!("{line}");
        }
    }
}

fn start_writer(log: &Log, life: u64, cuts: bool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "follow_survives_kills_of_the_writer", "--nocapture"])
        .env(DIR, log.path())
        .env(LIFE, life.to_string())
        .env(CUTS, if cuts { "1" } else { "0" })
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn follow_survives_kills_of_the_writer() {
    if let Ok(dir) = std::env::var(DIR) {
        write_until_killed(&dir);
    }
    for (cuts, arguments) in
        [(false, ["s", "t", "--json"]), (true, ["s", "t", "--json"]), (true, ["--prefix", "", "--json"])]
    {
        let log = Log::new();
        options(true).open(log.path()).unwrap().close().unwrap();
        let mut follower = Follower::start(&log, "follow", &arguments);
        let mut rng = Rng::new(7);
        let mut seen = [Seen::default(), Seen::default()];
        let mut take = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let of = usize::from(line["stream"] == "t");
            seen[of].take(&line);
            if cuts {
                seen[of].again.clear();
            }
        };
        for life in 1..=12 {
            let mut writer = start_writer(&log, life, cuts);
            thread::sleep(Duration::from_millis(50 + rng.below(200)));
            writer.kill().unwrap();
            writer.wait().unwrap();
            follower.lines.try_iter().for_each(|line| take(&line));
        }
        // Entries that the last writer left unstable become stable or are cut now.
        let wal = options(true).open(log.path()).unwrap();
        let live = ["s", "t"].map(|name| wal.stream(name).unwrap());
        live.iter().for_each(|stream| _ = stream.append("1;").unwrap());
        let mut last = 0;
        while last < 2 {
            let line = follower.line();
            last += u64::from(line.contains(r#""text":"1;""#));
            take(&line);
        }
        for (stream, seen) in live.iter().zip(&seen) {
            let first = seen.first.max(stream.first_seq());
            let texts = stream.iter(first..).map(|entry| String::from_utf8(entry.unwrap().data().to_vec()).unwrap());
            let skipped = usize::try_from(first - seen.first).unwrap();
            assert!(texts.eq(seen.texts.iter().skip(skipped).cloned()), "{cuts} {arguments:?}");
            assert!(seen.changes > 0 || !cuts, "nothing was cut");
        }
        assert_eq!(follower.notes.try_recv().ok(), None, "{cuts} {arguments:?}");
        follower.send("INT");
        let summary: Value = serde_json::from_str(&follower.line()).unwrap();
        assert_eq!(summary["next"], serde_json::json!({"s": live[0].next_seq(), "t": live[1].next_seq()}));
        assert_eq!(follower.end().code(), Some(130));
    }
}

/// A log that is open in this process, and one of its streams.
fn opened() -> (Log, Wal, Stream) {
    let log = Log::new();
    let wal = Options::new().open(log.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    (log, wal, stream)
}

fn append(stream: &Stream, seqs: std::ops::Range<u64>) {
    for seq in seqs {
        assert_eq!(stream.append(format!("entry {seq}")).unwrap(), seq);
    }
}

#[test]
fn follow_prints_stored_entries_and_then_new_ones() {
    let (log, _wal, stream) = opened();
    append(&stream, 0..5);
    let followers = [
        ("follow", &["s"][..], 0),
        ("cat", &["s", "--follow"], 0),
        ("cat", &["s", "-f", "-n", "2"], 3),
        ("follow", &["s", "-n", "0"], 5),
        ("follow", &["s", "--from", "3"], 3),
        ("follow", &["s", "--since", "1h", "-n", "1"], 4),
        ("follow", &["s", "--from", "7"], 7),
        ("follow", &["s", "-n", "1", "--grep", "[27]$"], 2),
    ];
    let running: Vec<_> = followers.iter().map(|(name, arguments, _)| Follower::start(&log, name, arguments)).collect();
    let stored: Vec<Vec<String>> = running
        .iter()
        .zip(&followers)
        .map(|(follower, (_, arguments, first))| {
            follower.take(if arguments.contains(&"--grep") { 1 } else { 5_u64.saturating_sub(*first) as usize })
        })
        .collect();
    thread::sleep(SILENCE);
    append(&stream, 5..9);
    for ((mut follower, mut lines), (name, arguments, first)) in running.into_iter().zip(stored).zip(followers) {
        let is_grep = arguments.contains(&"--grep");
        lines.extend(follower.take(if is_grep { 1 } else { 9 - first.max(5) as usize }));
        let seqs: Vec<u64> = if is_grep { vec![2, 7] } else { (first..9).collect() };
        assert_eq!(lines, seqs.iter().map(|seq| format!("entry {seq}")).collect::<Vec<_>>(), "{name} {arguments:?}");
        if first == 7 {
            assert!(follower.note().contains("the next entry of the stream s is 5; waiting for 7"));
        }
        assert!(follower.is_silent(), "{name} {arguments:?}");
        let summary = follower.interrupt();
        let entries = lines.len();
        assert!(summary.starts_with(&format!("{entries} entries, {} B, ", entries * 7)), "{summary}");
        assert!(summary.ends_with(" from 1 stream; the next is 9"), "{summary}");
    }
}

#[test]
fn changes_of_a_stream_are_notes() {
    let (log, wal, stream) = opened();
    append(&stream, 0..5);
    let mut follower = Follower::start(&log, "follow", &["s"]);
    assert_eq!(follower.take(5)[4], "entry 4");
    stream.truncate_from(3).unwrap();
    assert_eq!(follower.note(), "stratawal: note: the stream s dropped entries 3 to 4 from its end; the next is 3");
    append(&stream, 3..5);
    assert_eq!(follower.take(2), ["entry 3", "entry 4"]);
    stream.truncate_before(9).unwrap();
    let note = follower.note();
    assert!(
        note.ends_with("the stream s dropped entries 5 to 8 from its beginning before they were printed"),
        "{note}"
    );
    append(&stream, 9..10);
    assert_eq!(follower.line(), "entry 9");
    wal.delete_stream("s").unwrap();
    assert!(follower.note().contains("the stream s was deleted"));
    append(&wal.stream("s").unwrap(), 0..2);
    assert_eq!(follower.take(2), ["entry 0", "entry 1"]);
    assert!(follower.note().contains("the stream s was created again"));
    assert!(follower.is_silent());
    assert!(follower.interrupt().ends_with("the next is 2"));
}

#[test]
fn several_streams_are_told_apart_by_name() {
    let (log, wal, stream) = opened();
    append(&stream, 0..1);
    let odd = wal.stream("s b").unwrap();
    append(&odd, 0..1);
    append(&wal.stream("other").unwrap(), 0..1);
    let named = Follower::start(&log, "follow", &["s", "s b", "s"]);
    let prefix = Follower::start(&log, "follow", &["--prefix", "s"]);
    for follower in [&named, &prefix] {
        let mut lines = follower.take(2);
        lines.sort();
        assert_eq!(lines, ["'s b': entry 0", "s: entry 0"]);
    }
    append(&odd, 1..2);
    append(&wal.stream("s-new").unwrap(), 0..1);
    assert_eq!(named.line(), "'s b': entry 1");
    let mut lines = prefix.take(2);
    lines.sort();
    assert_eq!(lines, ["'s b': entry 1", "s-new: entry 0"]);
    assert!(named.is_silent() && prefix.is_silent());
    let mut last = Follower::start(&log, "follow", &["--prefix", "s", "-n", "1", "--json"]);
    let mut lines: Vec<Value> = last.take(3).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["stream"].as_str().unwrap().to_owned());
    assert_eq!(
        (&lines[1]["stream"], &lines[1]["seq"], &lines[1]["text"]),
        (&"s b".into(), &1.into(), &"entry 1".into())
    );
    last.send("TERM");
    let summary: Value = serde_json::from_str(&last.line()).unwrap();
    assert_eq!((&summary["entries"], &summary["next"]["s b"]), (&3.into(), &2.into()));
    assert_eq!(last.end().code(), Some(143));
}

#[test]
fn missing_stream_is_waited_for() {
    let (log, wal, stream) = opened();
    append(&stream, 0..1);
    append(&wal.stream("orders").unwrap(), 0..1);
    let mut follower = Follower::start(&log, "follow", &["ordres"]);
    let note = follower.note();
    assert!(note.contains("there is no stream ordres yet; waiting") && note.contains("did you mean orders?"), "{note}");
    assert!(follower.is_silent());
    append(&wal.stream("ordres").unwrap(), 0..1);
    assert_eq!(follower.line(), "entry 0");
    follower.interrupt();
    let missing = Log::new();
    let ran = missing.run("follow", ["s"], b"");
    assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{}", ran.err);
    assert!(!missing.path().exists());
    assert_eq!(log.run("follow", [""; 0], b"").code, 2);
    assert_eq!(log.run("follow", ["s", "--prefix", "s"], b"").code, 2);
}

#[test]
fn closed_pipe_ends_a_follower_that_waits() {
    let (log, _wal, stream) = opened();
    append(&stream, 0..1);
    for arguments in [&["s"][..], &["s", "t"], &["--prefix", ""]] {
        let mut child = command()
            .arg("follow")
            .arg(log.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        drop(out);
        let stderr = child.stderr.take().unwrap();
        let mut follower = Follower { child, lines: mpsc::channel().1, notes: lines_of(stderr) };
        assert_eq!(follower.end().code(), Some(0), "{arguments:?}");
        let notes: Vec<String> = follower.notes.iter().filter(|note| !note.contains("no stream t yet")).collect();
        assert!(notes.is_empty(), "{notes:?}");
    }
}

#[test]
fn signal_ends_a_follower_whose_output_is_not_read() {
    let (log, _wal, stream) = opened();
    let entry = "x".repeat(1000);
    for _ in 0..1000 {
        stream.with_durability(Durability::Buffered).append(&entry).unwrap();
    }
    stream.sync().unwrap();
    for arguments in [&["s"][..], &["s", "--json"]] {
        let mut child = command()
            .arg("follow")
            .arg(log.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0]).unwrap();
        let notes = lines_of(child.stderr.take().unwrap());
        let mut follower = Follower { child, lines: mpsc::channel().1, notes };
        follower.send("INT");
        assert_eq!(follower.end().code(), Some(130), "{arguments:?}");
        let notes: Vec<String> = follower.notes.iter().collect();
        if arguments.len() == 1 {
            assert!(notes.len() == 1 && notes[0].contains("has not taken all of them"), "{notes:?}");
        } else {
            assert!(notes.is_empty(), "{notes:?}");
        }
    }
}

#[test]
fn follow_ends_after_the_time_of_until() {
    let (log, _wal, stream) = opened();
    append(&stream, 0..3);
    let ran = log.run("follow", ["s", "--until", "@1738324800"], b"");
    assert_eq!((ran.code, &ran.out[..]), (0, &b""[..]));
    assert!(ran.err.starts_with("0 entries, "), "{}", ran.err);
    let ran = log.run("follow", ["s", "--until", "0s", "--json"], b"");
    assert_eq!(ran.code, 0);
    assert_eq!((&ran.json()["entries"], ran.text().lines().count(), &ran.err[..]), (&3.into(), 4, ""));
}

#[test]
fn follow_changes_nothing_in_the_log() {
    for journal in [true, false] {
        let log = Log::new();
        let wal = Options::new().journal(journal).open(log.path()).unwrap();
        append(&wal.stream("s").unwrap(), 0..3);
        wal.close().unwrap();
        let before = tree(&log.path());
        let mut follower = Follower::start(&log, "follow", &["s", "t"]);
        assert_eq!(follower.take(3)[2], "s: entry 2");
        follower.interrupt();
        assert!(tree(&log.path()) == before, "following changed the log");
    }
}

#[test]
fn follow_ends_at_damage_after_the_entries_before_it() {
    let log = Log::new();
    let lines: String = (0..2000).map(|i| format!("entry {i}\n")).collect();
    log.run("append", ["s", "--batch", "10"], lines.as_bytes());
    log.append("sound", b"x\n");
    let file = log.segments("s").pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let ran = log.run("follow", ["s"], b"");
    assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{}", ran.err);
    assert!(lines.as_bytes().starts_with(&ran.out) && !ran.out.is_empty());
    assert!(ran.err.contains(file.file_name().unwrap().to_str().unwrap()), "{}", ran.err);
    // Another stream is still followed.
    for arguments in [&["s", "sound", "--until", "0s"][..], &["--prefix", "", "--until", "0s"]] {
        let ran = log.run("follow", arguments, b"");
        assert_eq!((ran.code, ran.text().lines().filter(|&line| line == "sound: x").count()), (1, 1), "{}", ran.err);
    }
}
