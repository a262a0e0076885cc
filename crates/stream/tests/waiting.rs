//! Threads that wait for each other. One thread is held in the middle of an operation while others
//! arrive, so that each moment is the intended one.

mod common;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{hooked, location};
use stratawal_storage::MemoryStorage;
use stratawal_stream::{Durability, ErrorKind, Location, LogContext, StreamLog, StreamOptions, Visibility};
use stratawal_testkit::{Crash, Gate, HookedStorage, Operation, Rng, SimStorage};

fn open(storage: &HookedStorage, read_only: bool) -> StreamLog {
    let context = LogContext::new(Arc::new(storage.clone())).read_only(read_only);
    StreamLog::open(Arc::new(context), location(), StreamOptions::new()).unwrap()
}

/// A stream with three entries.
fn stream(storage: &HookedStorage) -> StreamLog {
    let log = open(storage, false);
    for _ in 0..3 {
        log.append(b"x", Durability::Synced).unwrap();
    }
    log
}

fn broken() -> io::Error {
    io::Error::other("broken")
}

/// Gives the started threads time to reach the points at which they wait.
fn let_threads_wait() {
    thread::sleep(Duration::from_millis(40));
}

/// Threads whose calls must all return.
struct Threads {
    started: usize,
    report: mpsc::Sender<&'static str>,
    done: mpsc::Receiver<&'static str>,
}

impl Threads {
    fn new() -> Self {
        let (report, done) = mpsc::channel();
        Self { started: 0, report, done }
    }

    fn start<T>(&mut self, name: &'static str, log: &StreamLog, act: impl FnOnce(&StreamLog) -> T + Send + 'static) {
        let log = log.clone();
        let report = self.report.clone();
        thread::spawn(move || {
            drop(act(&log));
            let _ = report.send(name);
        });
        self.started += 1;
    }

    fn all_return(self) {
        let mut returned = Vec::new();
        while returned.len() < self.started {
            match self.done.recv_timeout(Duration::from_secs(10)) {
                Ok(name) => returned.push(name),
                Err(_) => panic!("only {returned:?} returned"),
            }
        }
    }
}

fn append(log: &StreamLog) -> stratawal_stream::Result<u64> {
    log.append(b"y", Durability::Synced)
}

#[test]
fn appends_that_wait_for_a_cut_return() {
    let storage = hooked(MemoryStorage::new());
    let log = stream(&storage);
    let gate = Gate::new();
    let at_sync = gate.clone();
    storage.set(move |operation, _| {
        if operation == Operation::Sync {
            at_sync.pass();
        }
        Ok(())
    });
    let mut threads = Threads::new();
    threads.start("leader", &log, append);
    gate.await_one();
    threads.start("cut", &log, |log| log.truncate_from(1).unwrap());
    let_threads_wait();
    for name in ["a", "b", "c"] {
        threads.start(name, &log, append);
        let_threads_wait();
    }
    gate.open();
    threads.all_return();
}

#[test]
fn appends_that_wait_for_a_failure_return() {
    for _ in 0..5 {
        let storage = hooked(MemoryStorage::new());
        let log = stream(&storage);
        let lead = Gate::new();
        let hold = Gate::new();
        let at_sync = lead.clone();
        let at_reserve = hold.clone();
        let reserved = AtomicUsize::new(0);
        storage.set(move |operation, _| {
            match operation {
                Operation::Sync => at_sync.pass(),
                Operation::Preallocate | Operation::SetLen if reserved.fetch_add(1, Ordering::SeqCst) == 0 => {
                    at_reserve.pass()
                }
                Operation::Preallocate | Operation::SetLen => return Err(broken()),
                _ => {}
            }
            Ok(())
        });
        let mut threads = Threads::new();
        threads.start("leader", &log, append);
        lead.await_one();
        threads.start("a", &log, append);
        threads.start("b", &log, append);
        let_threads_wait();
        // One thread holds the stream's lock while it reserves. The leader waits for the lock, and
        // so does a thread whose reservation fails.
        threads.start("holds", &log, |log| log.append(&[7; 100 << 10], Durability::Buffered));
        hold.await_one();
        lead.open();
        thread::sleep(Duration::from_millis(2));
        threads.start("fails", &log, |log| log.append(&[7; 1 << 19], Durability::Buffered));
        thread::sleep(Duration::from_millis(2));
        hold.open();
        threads.all_return();
    }
}

#[test]
fn append_that_waits_for_a_failed_deletion_returns() {
    let storage = hooked(MemoryStorage::new());
    let log = stream(&storage);
    let gate = Gate::new();
    let at_sync = gate.clone();
    storage.set(move |operation, path| match operation {
        Operation::Sync => {
            at_sync.pass();
            Ok(())
        }
        Operation::Rename if path.to_string_lossy().contains(".del-") => Err(broken()),
        _ => Ok(()),
    });
    let mut threads = Threads::new();
    threads.start("leader", &log, append);
    gate.await_one();
    threads.start("delete", &log, |log| log.delete().unwrap_err());
    let_threads_wait();
    threads.start("append", &log, append);
    let_threads_wait();
    gate.open();
    threads.all_return();
    assert_eq!(log.next_seq(), 5);
}

#[test]
fn close_waits_for_a_leader_that_writes() {
    let storage = hooked(MemoryStorage::new());
    let log = stream(&storage);
    let gate = Gate::new();
    let at_write = gate.clone();
    let armed = AtomicBool::new(true);
    storage.set(move |operation, _| {
        match operation {
            Operation::Write if armed.swap(false, Ordering::SeqCst) => at_write.pass(),
            Operation::Preallocate | Operation::SetLen => return Err(broken()),
            _ => {}
        }
        Ok(())
    });
    let leader = {
        let log = log.clone();
        thread::spawn(move || log.append(b"late", Durability::Synced))
    };
    gate.await_one();
    // An entry over 1 MiB would wait for the leader.
    assert_eq!(log.append(&[0; 1 << 19], Durability::Synced).unwrap_err().kind(), ErrorKind::Io);
    let (closed, is_closed) = mpsc::channel();
    let closing = {
        let log = log.clone();
        thread::spawn(move || {
            let _ = closed.send(log.close().map_err(|error| error.kind()));
        })
    };
    // After a close, another process may own the file that a leader writes to.
    assert!(is_closed.recv_timeout(Duration::from_millis(100)).is_err(), "closed under a leader");
    gate.open();
    assert_eq!(is_closed.recv_timeout(Duration::from_secs(10)).expect("it closes"), Err(ErrorKind::Poisoned));
    closing.join().unwrap();
    let late = leader.join().unwrap();
    storage.clear();
    let again = open(&storage, false);
    if let Ok(seq) = late {
        assert_eq!(&again.get(seq, Visibility::Stable).unwrap().unwrap().data()[..], b"late");
    }
}

#[test]
fn passing_error_does_not_replace_a_full_disk() {
    let storage = hooked(MemoryStorage::new());
    let log = stream(&storage);
    let full = |operation, _: &Path| match operation {
        Operation::Write => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    };
    storage.set(full);
    assert_eq!(append(&log).unwrap_err().kind(), ErrorKind::Poisoned);
    let once = AtomicBool::new(true);
    storage.set(move |operation, _| match operation {
        Operation::Open if once.swap(false, Ordering::SeqCst) => Err(broken()),
        _ => Ok(()),
    });
    assert_eq!(append(&log).unwrap_err().kind(), ErrorKind::Io, "the recovery's own error");
    let next = log.next_seq();
    assert_eq!(append(&log).unwrap(), next, "with room, and without the error");
}

#[test]
fn failed_recovery_keeps_the_stream_poisoned() {
    let storage = hooked(MemoryStorage::new());
    let log = stream(&storage);
    storage.set(|operation, _| if operation == Operation::Write { Err(broken()) } else { Ok(()) });
    assert_eq!(append(&log).unwrap_err().kind(), ErrorKind::Poisoned);
    storage.set(|operation, _| if operation == Operation::Open { Err(broken()) } else { Ok(()) });
    assert_eq!(log.reopen().unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(append(&log).unwrap_err().kind(), ErrorKind::Poisoned);
    storage.clear();
    log.reopen().unwrap();
    let next = log.next_seq();
    assert_eq!(append(&log).unwrap(), next);
}

/// A reader of a stream whose entries are all in one segment, which the writer has removed, as a
/// writer in another process would.
fn reader_of_what_was_dropped() -> StreamLog {
    let storage = hooked(MemoryStorage::new());
    // After a kill, recovery begins another segment.
    std::mem::forget(stream(&storage));
    let writer = open(&storage, false);
    let reader = open(&storage, true);
    assert_eq!(reader.end_seq(Visibility::Stable), 3);

    writer.truncate_before(3).unwrap();

    reader
}

#[test]
fn last_of_a_reader_reports_a_truncation() {
    let reader = reader_of_what_was_dropped();
    let (report, done) = mpsc::channel();
    thread::spawn(move || report.send(reader.last(Visibility::Stable).map_err(|error| error.kind())));
    let last = done.recv_timeout(Duration::from_secs(10)).expect("it returns");
    assert_eq!(last.unwrap_err(), ErrorKind::Truncated { first_seq: 3 });
}

#[test]
fn seq_at_of_a_reader_reports_a_truncation() {
    let reader = reader_of_what_was_dropped();
    let found = reader.seq_at(1, Visibility::Stable);
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Truncated { first_seq: 3 });
}

/// A write may fail although all of its bytes were written.
#[test]
fn failed_truncation_does_not_claim_no_effect() {
    let sim = SimStorage::new(1);
    let storage = hooked(sim.clone());
    let log = open(&storage, false);
    for _ in 0..10 {
        log.append(&[7; 100], Durability::Synced).unwrap();
    }
    storage.set(|operation, _| match operation {
        Operation::Write => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let error = log.truncate_before(5).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned, "the entry may exist or not");
    assert!(error.to_string().contains("may or may not be"), "{error}");
    storage.clear();
    let after = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(3)), 2);
    let again = open(&HookedStorage::new(after), false);
    assert!([0, 5].contains(&again.first_seq()));
    assert_eq!(again.next_seq(), 10);
}

#[test]
fn panicking_directory_sync_blocks_no_thread() {
    const STREAMS: usize = 16;
    let storage = hooked(MemoryStorage::new());
    let context = Arc::new(LogContext::new(Arc::new(storage.clone())));
    let times = AtomicUsize::new(0);
    storage.set(move |operation, path| {
        if operation == Operation::SyncDir && path == Path::new("/streams") {
            let_threads_wait();
            assert!(times.fetch_add(1, Ordering::SeqCst) > 0, "on purpose");
        }
        Ok(())
    });
    let open =
        |i| StreamLog::open(Arc::clone(&context), Location::new("/streams", format!("s{i}")), StreamOptions::new());
    let (report, done) = mpsc::channel();
    thread::scope(|scope| {
        for i in 0..STREAMS {
            let report = report.clone();
            let open = &open;
            scope.spawn(move || {
                let append = || open(i).unwrap().append(b"x", Durability::Synced).is_ok();
                report.send((i, std::panic::catch_unwind(std::panic::AssertUnwindSafe(append)))).unwrap();
            });
        }
    });
    storage.clear();
    let results: Vec<_> = done.try_iter().collect();
    assert_eq!(results.len(), STREAMS);
    assert_eq!(results.iter().filter(|(_, result)| result.is_err()).count(), 1, "one thread met the panic");
    for (i, result) in results {
        let log = open(i).unwrap();
        // Entries that were acknowledged exist, and no thread waits forever after a failure.
        assert!(!matches!(result, Ok(true)) || log.next_seq() == 1);
        log.append(b"y", Durability::Synced).unwrap();
    }
}

/// A waiting thread may not get to run during hundreds of cuts. Each entry was stable before it was
/// cut.
#[test]
fn appends_beside_many_cuts_report_success() {
    const THREADS: usize = 100;
    let log = stream(&hooked(MemoryStorage::new()));
    let done = AtomicBool::new(false);
    let appended = AtomicUsize::new(0);
    let append_until_done = || {
        while !done.load(Ordering::SeqCst) {
            log.append(b"x", Durability::Synced)?;
            appended.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    let mut results: Vec<stratawal_stream::Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(append_until_done)).collect();
        let began = Instant::now();
        let cut_until_done = || {
            while began.elapsed() < Duration::from_secs(2) {
                log.append(b"x", Durability::Buffered)?;
                log.truncate_from(log.first_seq())?;
            }
            Ok(())
        };
        let cut = cut_until_done();
        done.store(true, Ordering::SeqCst);
        threads.into_iter().map(|thread| thread.join().unwrap()).chain([cut]).collect()
    });
    results.retain(Result::is_err);
    assert!(results.is_empty(), "{} calls failed: {}", results.len(), results[0].as_ref().unwrap_err());
    assert!(appended.load(Ordering::SeqCst) >= THREADS);
}
