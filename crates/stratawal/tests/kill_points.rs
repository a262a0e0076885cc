//! Kills a process with `kill -9` at every operation of a small workload: before the operation, and
//! after it has taken effect but before it returns. Acknowledged entries exist, and the log works
//! on.
//!
//! The process works on real files, through a storage that counts the operations: each write, store
//! into the mapped journal, sync, creation, renaming and removal. The workload appends, syncs,
//! truncates from both ends, deletes, begins segments, uses the files of the journal several times
//! over, closes, and opens again. It has two lives. The kills of the second life also hit the
//! recovery from a kill at the end of the first.
//!
//! With `STRATAWAL_ALL_KILL_POINTS` (`cargo xtask kills`) every operation is tried, without it a
//! sample.

mod recorder;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use recorder::{Recorder, check_recovered, observe, print_line, recorded, seed_fault_of_env};
use rustix::process::{Signal, getpid, kill_process};
use stratawal::{Durability, ErrorKind, Options, StreamOptions, Wal};
use stratawal_storage::UnixStorage;
use stratawal_testkit::{HookedStorage, StreamModel, Verdict};

const NAMES: [&str; 3] = ["ledger", "events/B", "raft"];

/// The variable with the directory of the log; it makes this process the child.
const CHILD: &str = "STRATAWAL_KILL_POINTS_CHILD";
/// The variable with what the child does, as [`Plan`] prints it.
const PLAN: &str = "STRATAWAL_KILL_POINTS_PLAN";
/// The test that the child runs.
const ENTRY: &str = "child_of_the_kills";

/// How the log keeps its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Without,
    Mapped,
    Written,
}

const KINDS: [Kind; 3] = [Kind::Without, Kind::Mapped, Kind::Written];

fn options(kind: Kind) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500);
    Options::new()
        .stream_defaults(streams)
        .journal(kind != Kind::Without)
        .journal_mapped(kind == Kind::Mapped)
        .journal_bytes(64 << 10)
        // The same operations in each run.
        .maintenance_thread(false)
}

/// The task of a child.
#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Kind,
    /// 1 or 2.
    life: u64,
    /// It is killed at the operation with this number.
    at: u64,
    /// The kill comes only once that operation has taken effect.
    after: bool,
}

impl Plan {
    fn print(self) -> String {
        let kind = KINDS.iter().position(|&kind| kind == self.kind).unwrap();
        format!("{kind} {} {} {}", self.life, self.at, u8::from(self.after))
    }

    fn parse(text: &str) -> Self {
        let numbers: Vec<u64> = text.split(' ').map(|word| word.parse().unwrap()).collect();
        let kind = KINDS[usize::try_from(numbers[0]).unwrap()];
        Self { kind, life: numbers[1], at: numbers[2], after: numbers[3] == 1 }
    }
}

fn kill_this_process() {
    kill_process(getpid(), Signal::KILL).unwrap();
    unreachable!("this process is dead");
}

/// Not a test of its own: the other tests start it as a process.
#[test]
fn child_of_the_kills() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let plan = Plan::parse(&std::env::var(PLAN).unwrap());
    // Ends the line that the test harness has begun.
    print_line("");
    seed_fault_of_env();
    let storage = HookedStorage::new(UnixStorage::new());
    let operations = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&operations);
    storage.intercept(move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) < plan.at {
            return Verdict::Proceed;
        }
        if !plan.after {
            kill_this_process();
        }
        Verdict::ProceedThen(kill_this_process)
    });
    let open = || options(plan.kind).open_on(Arc::new(storage.clone()), Path::new(&dir), false).unwrap();
    let end = if plan.life == 1 { first_life(open()) } else { second_life(open, plan.life << 32) };
    // The first life ends without a close.
    print_line(&format!("\nended {}", operations.load(Ordering::SeqCst)));
    std::mem::forget(end);
    kill_this_process();
}

/// A round of appends that the journal takes, to all streams.
fn append_to_all(streams: &mut [Recorder; 3], count: u64) {
    for (stream, durability) in streams.iter_mut().zip([Durability::Flushed, Durability::Synced, Durability::Flushed]) {
        stream.append(durability, count);
    }
}

fn sync_all(wal: &Wal, streams: &[Recorder; 3]) {
    wal.sync().unwrap();
    streams.iter().for_each(Recorder::record_synced);
}

fn first_life(wal: Wal) -> (Wal, [Recorder; 3]) {
    let mut streams = NAMES.map(|name| Recorder::new(&wal, name, 1));
    append_to_all(&mut streams, 3);
    streams[2].append(Durability::Buffered, 2);
    streams[0].append(Durability::Buffered, 1);
    sync_all(&wal, &streams);
    streams[0].truncate_before(2);
    streams[1].truncate_from(1);
    streams[1].append(Durability::Synced, 2);
    // The files of the journal are used several times over.
    for _ in 0..6 {
        append_to_all(&mut streams, 16);
    }
    // Too large for the journal; begins segments.
    streams[0].append(Durability::Synced, 250);
    streams[0].append(Durability::Flushed, 250);
    streams[0].truncate_before(400);
    streams[2].delete();
    streams[2].append(Durability::Flushed, 2);
    let end = streams[1].stream().next_seq();
    streams[1].truncate_before(end + 3);
    append_to_all(&mut streams, 2);
    streams[2].stream().sync().unwrap();
    streams[2].record_synced();
    streams[0].append(Durability::Flushed, 2);
    (wal, streams)
}

fn second_life(open: impl Fn() -> Wal, number: u64) -> (Wal, [Recorder; 3]) {
    let wal = open();
    let mut streams = NAMES.map(|name| Recorder::new(&wal, name, number));
    // The last stream is looked up late, so that its records are carried along.
    streams[..2].iter_mut().for_each(Recorder::record_found);
    for _ in 0..3 {
        streams[..2].iter_mut().for_each(|stream| stream.append(Durability::Flushed, 16));
    }
    streams[2].record_found();
    let end = streams[2].stream().next_seq();
    streams[2].truncate_from(end - 1);
    append_to_all(&mut streams, 3);
    streams[0].delete();
    let first = streams[1].stream().first_seq();
    streams[1].truncate_before(first + 2);
    let number = streams.iter().map(Recorder::number).max().unwrap();
    drop(streams);
    wal.close().unwrap();
    drop(wal);
    let wal = open();
    let mut streams = NAMES.map(|name| Recorder::new(&wal, name, number));
    streams.iter_mut().for_each(Recorder::record_found);
    append_to_all(&mut streams, 2);
    streams.iter_mut().for_each(|stream| stream.append(Durability::Buffered, 1));
    wal.close().unwrap();
    streams.iter().for_each(Recorder::record_synced);
    (wal, streams)
}

/// Runs a child, and has the models observe what it printed. Returns the number of its operations
/// if it was not killed at one of them.
fn run(plan: Plan, log: &Path, models: &mut [StreamModel; 3], faulty: bool) -> Option<usize> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", ENTRY, "--nocapture", "--test-threads=1"]).env(CHILD, log).env(PLAN, plan.print());
    if faulty {
        command.env(recorder::FAULT, "1");
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let ended: ExitStatus = child.wait().unwrap();
    assert_eq!(ended.signal(), Some(9), "{plan:?}: the child was not killed: {ended}");
    let mut operations = None;
    for line in text.lines() {
        if let Some((name, line)) = recorded(line) {
            let at = NAMES.iter().position(|of| *of == name).unwrap();
            observe(&mut models[at], line);
        } else if let Some(count) = line.strip_prefix("ended ") {
            operations = Some(count.parse::<usize>().unwrap());
        }
    }
    operations
}

/// A reader shows every acknowledged entry, also those that only the journal has.
fn check_reader(what: &str, log: &Path, models: &[StreamModel; 3]) {
    let wal = match Options::new().open_read_only(log) {
        Ok(wal) => wal,
        Err(error) => {
            // The child was killed before it created the log.
            let is_new = models.iter().all(|model| model.last_done() == 0);
            assert!(error.kind() == ErrorKind::Missing && is_new, "{what}: {error}");
            return;
        }
    };
    for (name, model) in NAMES.iter().zip(models) {
        let stream = wal.stream(name).unwrap_or_else(|error| panic!("{what}: a reader of {name}: {error}"));
        let seqs = stream.first_seq()..stream.next_seq();
        assert!(!model.matching(model.last_done(), seqs.clone()).is_empty(), "{what}: a reader of {name}: {seqs:?}");
        let read = stream.iter(..).map(|found| found.unwrap().seq());
        assert!(read.eq(seqs), "{what}: a reader of {name} misses entries");
    }
}

/// Opens the log after a kill, compares it with the models, and uses it. Returns the number of
/// entries.
fn check(what: &str, log: &Path, kind: Kind, models: &mut [StreamModel; 3]) -> u64 {
    check_reader(what, log, models);
    let wal = options(kind).open(log).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut ends = Vec::new();
    let mut entries = 0;
    for (name, model) in NAMES.iter().zip(models) {
        let stream = wal.stream(name).unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
        entries += check_recovered(&format!("{what}: {name}"), model, &stream);
        assert_eq!(stream.append("after the kill").unwrap(), model.next_seq(), "{what}: {name}");
        ends.push(stream.next_seq());
    }
    wal.close().unwrap();
    let wal = Options::new().open_read_only(log).unwrap();
    for (name, end) in NAMES.iter().zip(ends) {
        let stream = wal.stream(name).unwrap();
        assert_eq!((stream.iter(..).last().unwrap().unwrap().seq(), stream.next_seq()), (end - 1, end), "{what}");
    }
    entries
}

/// Without `STRATAWAL_ALL_KILL_POINTS` one of this many operations is tried.
const SAMPLE: usize = 12;

/// Kills a life of the child at each of its operations.
fn kill_at_each(kind: Kind, life: u64, faulty: bool) {
    let step = if std::env::var_os("STRATAWAL_ALL_KILL_POINTS").is_some() { 1 } else { SAMPLE };
    let mut kills = 0;
    let mut entries = 0;
    let mut ended = None;
    for at in (0..).step_by(step) {
        for after in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let log = dir.path().join("log");
            let mut models: [StreamModel; 3] = std::array::from_fn(|_| StreamModel::with_past());
            if life == 2 {
                let whole = Plan { kind, life: 1, at: u64::MAX, after };
                assert!(run(whole, &log, &mut models, faulty).is_some(), "the first life is whole");
            }
            let plan = Plan { kind, life, at, after };
            ended = run(plan, &log, &mut models, faulty);
            // Sometimes the next process keeps its journal in another way, or keeps none.
            let next = if kills % 4 == 3 { KINDS[kills / 4 % 3] } else { kind };
            entries += check(&format!("{plan:?}"), &log, next, &mut models);
            kills += 1;
        }
        if ended.is_some() {
            break;
        }
    }
    let operations = ended.unwrap();
    println!(
        "volume: {kills} kills before and after one in {step} of {operations} operations, life {life}, journal \
         {kind:?}; {entries} entries compared"
    );
    assert!(kills >= 2 * (operations / step) && operations > 100, "{kills} kills at {operations} operations");
}

#[test]
fn kill_in_the_first_life_of_a_mapped_journal() {
    kill_at_each(Kind::Mapped, 1, false);
}

#[test]
fn kill_in_the_second_life_of_a_mapped_journal() {
    kill_at_each(Kind::Mapped, 2, false);
}

#[test]
fn kill_in_the_first_life_of_a_written_journal() {
    kill_at_each(Kind::Written, 1, false);
}

#[test]
fn kill_in_the_second_life_of_a_written_journal() {
    kill_at_each(Kind::Written, 2, false);
}

/// The fault: entries still in the tail buffer are acknowledged, but die with the process.
#[cfg(stratawal_faults)]
#[test]
fn seeded_acknowledgement_before_write_is_found() {
    for kind in [Kind::Mapped, Kind::Written] {
        let tried = std::panic::catch_unwind(|| kill_at_each(kind, 1, true));
        assert!(tried.is_err(), "it is not found");
    }
}
