//! Opening a log whose journal holds entries: no stream is touched before it is looked up, or
//! before the journal needs room.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use stratawal::{Durability, Options, Stream, StreamOptions, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Gate, HookedStorage, Operation, Rng, SimStorage};

fn journaled() -> Options {
    let streams = StreamOptions::new().segment_bytes(256 << 10).durability(Durability::Flushed);
    Options::new().stream_defaults(streams).journal(true).journal_bytes(128 << 10).maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, options: &Options) -> Wal {
    options.open_on(Arc::new(storage), Path::new("/log"), false).unwrap()
}

fn text(stream: &str, seq: u64) -> Vec<u8> {
    let mut text = format!("entry {seq} of {stream} ").into_bytes();
    text.resize(1000, b'.');
    text
}

fn append(wal: &Wal, name: &str, count: u64) {
    let stream = wal.stream(name).unwrap();
    for _ in 0..count {
        stream.append(text(name, stream.next_seq())).unwrap();
    }
}

fn has(stream: &Stream, name: &str, count: u64) {
    assert_eq!(stream.next_seq(), count, "{name}");
    for entry in stream.iter(..) {
        let entry = entry.unwrap();
        assert!(*entry.data() == text(name, entry.seq()), "{name}: entry {}", entry.seq());
    }
}

fn after(sim: &SimStorage, crash: Crash) -> SimStorage {
    SimStorage::on(sim.disk().crash(crash, &mut Rng::new(1)), 2)
}

const STREAMS: [(&str, u64); 4] = [("large", 20), ("medium", 12), ("small", 4), ("tiny", 1)];

/// A log whose journal holds entries of four streams.
fn killed() -> SimStorage {
    let sim = SimStorage::new(1);
    // A journal that is long enough to settle nothing.
    let wal = open(sim.clone(), &journaled().journal_bytes(1 << 20));
    for (name, count) in STREAMS {
        append(&wal, name, count);
    }
    after(&sim, Crash::Kill)
}

/// Counts the operations on files of streams.
fn count_uses(storage: &HookedStorage) -> Arc<AtomicUsize> {
    let uses = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&uses);
    storage.set(move |_, path| {
        seen.fetch_add(
            usize::from(path.starts_with("/log/streams") && path != Path::new("/log/streams")),
            Ordering::SeqCst,
        );
        Ok(())
    });
    uses
}

#[test]
fn opening_touches_no_stream() {
    let closed = |close: fn(&Wal) -> stratawal::Result<()>| {
        let sim = killed();
        let wal = open(sim.clone(), &journaled());
        close(&wal).unwrap();
        after(&sim, Crash::Lost)
    };
    for sim in [killed(), closed(Wal::close), closed(Wal::close_fast)] {
        let storage = HookedStorage::new(sim);
        let uses = count_uses(&storage);
        let wal = open(storage.clone(), &journaled().maintenance_thread(true));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(uses.load(Ordering::SeqCst), 0);
        wal.close_fast().unwrap();
        assert_eq!(uses.load(Ordering::SeqCst), 0);
        storage.clear();
        let wal = open(storage, &journaled());
        STREAMS.iter().for_each(|(name, count)| has(&wal.stream(name).unwrap(), name, *count));
    }
}

/// The journal needs room: the streams that hold most of it are settled, and the others are copied.
#[test]
fn largest_streams_are_settled_when_the_journal_needs_room() {
    for mapped in [true, false] {
        let sim = killed();
        let options = journaled().journal_mapped(mapped);
        let wal = open(sim.clone(), &options);
        append(&wal, "other", 200);
        for crash in [Crash::Kill, Crash::Lost] {
            let files = after(&sim, crash).disk().files();
            let is_settled =
                |(name, _)| files.iter().any(|(path, _)| path.starts_with(&format!("/log/streams/{name}/")));
            assert_eq!(STREAMS.map(is_settled), [true, true, false, false], "{crash:?}");
        }
        let uses = wal.stats().unwrap();
        assert_eq!(uses.streams, 1, "the settled streams are closed");
        let again = open(after(&sim, Crash::Kill), &options);
        STREAMS.iter().for_each(|(name, count)| has(&again.stream(name).unwrap(), name, *count));
        has(&again.stream("other").unwrap(), "other", 200);
        for (name, count) in STREAMS {
            append(&wal, name, 1);
            has(&wal.stream(name).unwrap(), name, count + 1);
        }
        wal.close().unwrap();
    }
}

/// A crash at any change of the disk while the streams are settled.
#[test]
fn crash_while_streams_make_room_loses_nothing() {
    let sim = killed();
    let wal = open(sim.clone(), &journaled());
    let images = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&images);
    sim.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
    append(&wal, "other", 100);
    sim.unwatch();
    let images = images.lock().unwrap();
    let mut rng = Rng::new(5);
    for disk in images.iter().step_by(3) {
        for crash in [Crash::Kill, Crash::Mixed(128)] {
            let again = open(SimStorage::on(disk.crash(crash, &mut rng), 3), &journaled());
            // The kill before made everything flushed; opening made it durable.
            STREAMS.iter().for_each(|(name, count)| has(&again.stream(name).unwrap(), name, *count));
        }
    }
}

/// The stream "large" is being settled to make room. A look-up waits, and opens it afterwards.
#[test]
fn look_up_waits_for_a_stream_that_makes_room() {
    let storage = HookedStorage::new(killed());
    let wal = open(storage.clone(), &journaled());
    let gate = Gate::new();
    let passes = gate.clone();
    storage.set(move |operation, path| {
        // The directory gets its name when its stream is first drained.
        if operation == Operation::Rename && path == Path::new("/log/streams/large") {
            passes.pass();
        }
        Ok(())
    });
    let looked_up = AtomicUsize::new(0);
    thread::scope(|scope| {
        let appender = scope.spawn(|| append(&wal, "other", 200));
        gate.await_one();
        let reader = scope.spawn(|| {
            append(&wal, "large", 1);
            looked_up.fetch_add(1, Ordering::SeqCst);
        });
        // Another stream does not wait.
        has(&wal.stream("tiny").unwrap(), "tiny", 1);
        thread::sleep(Duration::from_millis(50));
        let is_early = looked_up.load(Ordering::SeqCst) > 0;
        gate.open();
        assert!(!is_early, "the stream is open already");
        reader.join().unwrap();
        appender.join().unwrap();
    });
    has(&wal.stream("large").unwrap(), "large", 21);
    storage.clear();
    wal.close().unwrap();
    drop(wal);
    has(&open(storage, &journaled()).stream("large").unwrap(), "large", 21);
}

#[test]
fn look_ups_beside_appends_that_need_room_find_everything() {
    for round in 0..10 {
        let sim = killed();
        let wal = open(sim.clone(), &journaled().maintenance_thread(round % 2 == 0));
        thread::scope(|scope| {
            for number in 0..2 {
                let wal = &wal;
                scope.spawn(move || append(wal, &format!("other {number}"), 150));
            }
            for (i, (name, count)) in STREAMS.iter().enumerate() {
                let wal = &wal;
                scope.spawn(move || {
                    thread::sleep(Duration::from_micros(1000 * (i as u64 + round)));
                    append(wal, name, 3);
                    has(&wal.stream(name).unwrap(), name, count + 3);
                });
            }
        });
        let again = open(after(&sim, Crash::Kill), &journaled());
        STREAMS.iter().for_each(|(name, count)| has(&again.stream(name).unwrap(), name, count + 3));
        if round % 3 == 0 {
            wal.close_fast().unwrap()
        } else {
            wal.close().unwrap()
        }
        let again = open(after(&sim, Crash::Lost), &journaled());
        STREAMS.iter().for_each(|(name, count)| has(&again.stream(name).unwrap(), name, count + 3));
    }
}
