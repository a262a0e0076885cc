//! `Stream::close`: one stream is closed for all of its handles, and the next look-up opens it
//! again with every entry.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use stratawal::{Batch, Durability, Error, ErrorKind, Options, Stream, StreamOptions, Visibility, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Gate, HookedStorage, Operation, Rng, SimStorage, Verdict};

const LEVELS: [Durability; 3] = [Durability::Synced, Durability::Flushed, Durability::Buffered];

fn options(journal: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
    Options::new().stream_defaults(streams).journal(journal).journal_bytes(64 << 10)
}

/// The options of a log whose operations a test determines.
fn alone(journal: bool) -> Options {
    options(journal).maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, options: &Options) -> Wal {
    options.open_on(Arc::new(storage), Path::new("/log"), false).unwrap()
}

fn entries(stream: &Stream) -> Vec<Vec<u8>> {
    let stream = stream.with_visibility(Visibility::Accepted);
    stream.iter(..).map(|entry| entry.unwrap().data().to_vec()).collect()
}

fn texts(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|seq| format!("entry {seq}").into_bytes()).collect()
}

fn append(stream: &Stream, count: u64, durability: Durability) {
    let stream = stream.with_durability(durability);
    for _ in 0..count {
        stream.append(format!("entry {}", stream.next_seq())).unwrap();
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn is_closed<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn every_call_on_other_handles_reports_closed() {
    for journal in [false, true] {
        let wal = open(SimStorage::new(1), &alone(journal));
        let stream = wal.stream("s").unwrap();
        append(&stream, 20, Durability::Buffered);
        let other = wal.stream("s").unwrap().with_visibility(Visibility::Accepted);
        let mut held = other.iter(..);
        let mut unread = other.iter(3..);
        assert_eq!(held.next().unwrap().unwrap().seq(), 0);
        stream.close().unwrap();
        assert_eq!((other.first_seq(), other.next_seq(), other.stable_seq()), (0, 20, 20));
        is_closed(other.append("x"));
        is_closed(other.append_batch(&Batch::new()));
        is_closed(other.flush());
        is_closed(other.sync());
        is_closed(other.reopen());
        is_closed(other.get(0));
        is_closed(other.get(100));
        is_closed(other.get_many(&[0]));
        is_closed(other.last());
        is_closed(other.seq_at(std::time::UNIX_EPOCH));
        is_closed(other.truncate_before(1));
        is_closed(other.truncate_from(1));
        for iter in [&mut other.iter(..), &mut other.iter(50..), &mut held, &mut unread] {
            is_closed(iter.next().unwrap());
            assert!(iter.next().is_none() && iter.next_back().is_none());
        }
        other.close().unwrap();
        let again = wal.stream("s").unwrap();
        assert_eq!(entries(&again), texts(20));
        append(&again, 1, Durability::Synced);
        other.close().unwrap();
        drop(other);
        assert_eq!(entries(&again), texts(21), "the old handles close nothing else");
        is_closed(stream.last());
        wal.close().unwrap();
    }
}

#[test]
fn close_ends_followers_and_they_continue_after_it() {
    for journal in [false, true] {
        let wal = open(SimStorage::new(1), &alone(journal));
        let stream = wal.stream("s").unwrap();
        append(&stream, 5, Durability::Flushed);
        let mut waiting = stream.follow(5);
        let mut behind = stream.follow(0);
        assert_eq!(behind.next().unwrap().unwrap().into_entry().unwrap().seq(), 0);
        thread::scope(|scope| {
            let waits = scope.spawn(|| waiting.next().is_none());
            stream.close().unwrap();
            assert!(waits.join().unwrap());
        });
        while behind.next().is_some() {}
        let from = behind.position();
        assert_eq!(behind.next_timeout(std::time::Duration::ZERO).unwrap_err().kind(), ErrorKind::Closed);
        let again = wal.stream("s").unwrap();
        let event = again.follow(from).next().unwrap().unwrap();
        assert_eq!(event.into_entry().unwrap().seq(), from);
    }
}

#[test]
fn tickets_in_flight_are_completed_by_a_close() {
    for round in 0..20 {
        let wal = open(SimStorage::new(1), &options(round % 2 == 0));
        let stream = wal.stream("s").unwrap();
        let tickets = thread::scope(|scope| {
            let submits = scope.spawn(|| -> Vec<_> {
                let submit = |i: usize| stream.with_durability(LEVELS[i % 3]).submit(&["entry"].into_iter().collect());
                (0..200).map_while(|i| submit(i).ok()).collect()
            });
            thread::yield_now();
            stream.close().unwrap();
            submits.join().unwrap()
        });
        let accepted = tickets.len() as u64;
        for (seq, ticket) in (0..).zip(tickets) {
            assert_eq!(ticket.wait().unwrap(), seq..seq + 1);
        }
        assert_eq!(wal.stream("s").unwrap().next_seq(), accepted);
    }
}

#[test]
fn empty_stream_and_new_stream_can_be_closed() {
    for journal in [false, true] {
        let wal = open(SimStorage::new(1), &alone(journal));
        let stream = wal.stream("s").unwrap();
        stream.close().unwrap();
        is_closed(stream.append("x"));
        is_closed(stream.last());
        let stream = wal.stream("s").unwrap();
        assert!(!stream.exists());
        stream.truncate_before(7).unwrap();
        stream.close().unwrap();
        let streams = StreamOptions::new().durability(Durability::Buffered);
        let stream = wal.stream_with("s", streams).unwrap();
        assert_eq!(stream.append("first").unwrap(), 7);
        stream.close().unwrap();
        assert_eq!(wal.streams().unwrap(), ["s"]);
        assert_eq!(wal.stream("s").unwrap().last().unwrap().unwrap().seq(), 7);
        wal.close().unwrap();
    }
}

#[test]
fn closed_stream_is_as_closed_with_the_log() {
    for journal in [false, true] {
        let sim = SimStorage::new(1);
        let wal = open(sim.clone(), &alone(journal));
        let stream = wal.stream("s").unwrap();
        for durability in LEVELS {
            append(&stream, 30, durability);
        }
        stream.truncate_before(5).unwrap();
        stream.close().unwrap();
        for crash in [Crash::Kill, Crash::Lost, Crash::Kept] {
            let after = SimStorage::on(sim.disk().crash(crash, &mut Rng::new(1)), 2);
            let wal = open(after, &alone(journal));
            let found = wal.stream("s").unwrap();
            assert_eq!((found.first_seq(), found.next_seq()), (5, 90), "{crash:?}");
            assert!(found.report().clean && found.report().journal_entries == 0, "{:?}", found.report());
        }
    }
}

/// A sync of the stream's file fails, so the close fails.
#[test]
fn failed_close_loses_no_buffered_entry() {
    for journal in [false, true] {
        let storage = HookedStorage::new(SimStorage::new(1));
        let wal = open(storage.clone(), &alone(journal));
        let stream = wal.stream("s").unwrap();
        append(&stream, 10, Durability::Synced);
        append(&stream, 10, Durability::Buffered);
        storage.set(|operation, path| {
            let fails = operation == Operation::Sync && path.extension().is_some_and(|extension| extension == "seg");
            if fails { Err(eio()) } else { Ok(()) }
        });
        let error = stream.close().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Io), "{error}");
        storage.clear();
        let found = wal.stream("s").unwrap();
        assert_eq!(found.next_seq(), 20, "the look-up finds the open stream");
        found.reopen().unwrap();
        assert_eq!(entries(&found), texts(20));
        append(&stream, 1, Durability::Synced);
        stream.close().unwrap();
        assert_eq!(entries(&wal.stream("s").unwrap()), texts(21));
        is_closed(found.append("x"));
    }
}

/// The directory of a stream that only the journal has cannot be created: nothing has failed.
#[test]
fn refused_close_leaves_the_stream_open() {
    let storage = HookedStorage::new(SimStorage::new(1));
    let wal = open(storage.clone(), &alone(true));
    let stream = wal.stream("s").unwrap();
    append(&stream, 10, Durability::Synced);
    append(&stream, 10, Durability::Buffered);
    storage.set(|operation, path| {
        let fails = operation == Operation::Create && path.starts_with("/log/streams");
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    let error = stream.close().unwrap_err();
    println!("{error}");
    assert!(!matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Closed), "{error}");
    append(&stream, 1, Durability::Synced);
    storage.clear();
    stream.close().unwrap();
    assert_eq!(entries(&wal.stream("s").unwrap()), texts(21));
}

#[test]
fn look_up_during_a_close_waits_for_it() {
    for journal in [false, true] {
        let storage = HookedStorage::new(SimStorage::new(1));
        let wal = open(storage.clone(), &alone(journal));
        let stream = wal.stream("s").unwrap();
        // So long that the segment exists from here on: the close creates none under the stream's
        // lock.
        stream.append(vec![b'.'; 70 << 10]).unwrap();
        append(&stream, 9, Durability::Buffered);
        let gate = Gate::new();
        let at_sync = gate.clone();
        storage.intercept(move |call| {
            if call.operation == Operation::Sync && call.path.extension().is_some_and(|extension| extension == "seg") {
                at_sync.pass();
            }
            Verdict::Proceed
        });
        let looked_up = AtomicBool::new(false);
        thread::scope(|scope| {
            let closing = scope.spawn(|| stream.close());
            gate.await_one();
            let found = scope.spawn(|| {
                let found = wal.stream("s").unwrap();
                looked_up.store(true, Ordering::SeqCst);
                found
            });
            // An append through an old handle does not get in.
            let late = stream.append("late");
            let is_open_twice = looked_up.load(Ordering::SeqCst);
            gate.open();
            is_closed(late);
            assert!(!is_open_twice);
            closing.join().unwrap().unwrap();
            let found = found.join().unwrap();
            append(&found, 1, Durability::Synced);
            assert_eq!(entries(&found)[1..], texts(11)[1..], "journal: {journal}");
        });
    }
}

#[test]
fn handle_on_a_deleted_stream_closes_nothing() {
    for journal in [false, true] {
        let wal = open(SimStorage::new(1), &alone(journal));
        let old = wal.stream("s").unwrap();
        append(&old, 3, Durability::Synced);
        wal.delete_stream("s").unwrap();
        let new = wal.stream("s").unwrap();
        append(&new, 2, Durability::Synced);
        old.close().unwrap();
        append(&new, 1, Durability::Synced);
        assert_eq!(entries(&new), texts(3));
    }
}

#[test]
fn closing_in_a_closed_log_does_nothing() {
    for journal in [false, true] {
        let wal = open(SimStorage::new(1), &alone(journal));
        let stream = wal.stream("s").unwrap();
        append(&stream, 3, Durability::Buffered);
        wal.close().unwrap();
        stream.close().unwrap();
        assert_eq!(entries(&stream), texts(3), "it can still be read");
    }
}

#[test]
fn reader_closes_the_handles_of_one_look_up() {
    for journal in [false, true] {
        let sim = SimStorage::new(1);
        let wal = open(sim.clone(), &alone(journal));
        let stream = wal.stream("s").unwrap();
        append(&stream, 3, Durability::Synced);
        let reader = options(journal).open_on(Arc::new(sim), Path::new("/log"), true).unwrap();
        let first = reader.stream("s").unwrap();
        let clone = first.clone();
        let second = reader.stream("s").unwrap();
        first.close().unwrap();
        is_closed(clone.get(0));
        is_closed(clone.reopen());
        is_closed(clone.append("x"));
        append(&stream, 2, Durability::Synced);
        second.reopen().unwrap();
        assert_eq!(entries(&second), texts(5));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn closed_streams_hold_no_descriptors() {
    for journal in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        // Of this log alone, because other tests run at the same time.
        let files = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap();
            let paths = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
            let is_of_stream = |path: &std::path::PathBuf| {
                path.parent().is_some_and(|parent| parent.starts_with(dir.path().join("streams")))
            };
            paths.filter(is_of_stream).count()
        };
        let open_and_fill = || -> Vec<Stream> {
            let streams: Vec<Stream> = (0..20).map(|i| wal.stream(&i.to_string()).unwrap()).collect();
            for stream in &streams {
                (0..30).for_each(|_| _ = stream.append(vec![7; 5000]).unwrap());
                assert!(stream.get(0).unwrap().is_some());
            }
            streams
        };
        let before = files();
        let streams = open_and_fill();
        assert!(files() > before + 20);
        streams.iter().for_each(|stream| stream.close().unwrap());
        assert_eq!(files(), before, "journal: {journal}");
        drop(streams);
        let again = open_and_fill();
        assert_eq!(again[3].next_seq(), 60);
    }
}

/// Entries that were acknowledged, by seq.
type Acknowledged = Mutex<BTreeMap<u64, Vec<u8>>>;

/// Threads look up, append to, read, sync and close the same streams. In the end exactly the
/// acknowledged entries exist.
fn contend(options: &Options, rounds: usize) {
    const THREADS: usize = 4;
    const STREAMS: usize = 2;
    let storage = SimStorage::new(1);
    let wal = open(storage.clone(), options);
    let acknowledged: Vec<Acknowledged> = (0..STREAMS).map(|_| Mutex::default()).collect();
    let is_done = AtomicBool::new(false);
    let run = |thread: usize| {
        let mut refused = 0;
        for round in 0..rounds {
            let i = (round / 3 + thread) % STREAMS;
            let stream = wal.stream(&i.to_string()).unwrap().with_durability(LEVELS[(round + thread) % 3]);
            let len = [10, 300, 9_000][(round * 7 + thread) % 3];
            let mut entry = format!("{thread} {round} ").into_bytes();
            entry.resize(entry.len() + len, b'.');
            match stream.append(&entry) {
                Ok(seq) => {
                    let before = acknowledged[i].lock().unwrap().insert(seq, entry.clone());
                    assert!(before.is_none(), "two entries have the seq {seq}");
                    match stream.with_visibility(Visibility::Accepted).get(seq) {
                        Ok(found) => assert_eq!(found.unwrap().data()[..], entry[..]),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                    refused += 1;
                }
            }
            match (round + thread) % 5 {
                0 => stream.close().unwrap(),
                1 => assert!(
                    stream.sync().is_err_and(|error| error.kind() == ErrorKind::Closed) || stream.stable_seq() > 0
                ),
                _ => {}
            }
        }
        refused
    };
    let refused: usize = thread::scope(|scope| {
        let syncs = scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                wal.sync().unwrap();
                wal.streams().unwrap();
                thread::yield_now();
            }
        });
        let run = &run;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        let refused = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        is_done.store(true, Ordering::Relaxed);
        syncs.join().unwrap();
        refused
    });
    println!("volume: {rounds} rounds of {THREADS} threads, {refused} appends refused");
    let check = |wal: &Wal| {
        for (i, acknowledged) in acknowledged.iter().enumerate() {
            let acknowledged = acknowledged.lock().unwrap();
            let stream = wal.stream(&i.to_string()).unwrap();
            let found: BTreeMap<u64, Vec<u8>> = (0..).zip(entries(&stream)).collect();
            assert!(found == *acknowledged, "stream {i}: {} of {} entries", found.len(), acknowledged.len());
        }
    };
    check(&wal);
    wal.close().unwrap();
    drop(wal);
    check(&open(storage, options));
}

#[test]
fn no_entry_is_lost_while_threads_close_streams() {
    for journal in [false, true] {
        contend(&options(journal), 400);
        contend(&alone(journal), 400);
    }
}

#[test]
fn stream_and_log_are_closed_at_the_same_time() {
    for round in 0..60 {
        let storage = SimStorage::new(1);
        let options = options(round % 2 == 0);
        let wal = open(storage.clone(), &options);
        let stream = wal.stream("s").unwrap();
        append(&stream, 5, Durability::Buffered);
        thread::scope(|scope| {
            let closes = scope.spawn(|| stream.close().unwrap());
            wal.close().unwrap();
            closes.join().unwrap();
        });
        drop((stream, wal));
        assert_eq!(entries(&open(storage, &options).stream("s").unwrap()), texts(5));
    }
}
