//! `Wal::close_fast`: every accepted entry is durable in the journal, and no stream is settled.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use stratawal::{Batch, Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Disk, Fault, Faults, Gate, HookedStorage, Operation, Rng, SimStorage};

const LEVELS: [Durability; 3] = [Durability::Synced, Durability::Flushed, Durability::Buffered];

fn journaled(mapped: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500);
    Options::new().stream_defaults(streams).journal(true).journal_mapped(mapped).maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, options: &Options) -> Wal {
    options.open_on(Arc::new(storage), Path::new("/log"), false).unwrap()
}

fn crashed(disk: &Disk, crash: Crash, seed: u64) -> SimStorage {
    SimStorage::on(disk.crash(crash, &mut Rng::new(seed)), seed + 1)
}

fn text(stream: usize, seq: u64) -> Vec<u8> {
    format!("entry {seq} of stream {stream}, {}", "x".repeat(usize::try_from(seq * 7 % 90).unwrap())).into_bytes()
}

fn entries(stream: &Stream) -> Vec<Vec<u8>> {
    stream.iter(..).map(|entry| entry.unwrap().data().to_vec()).collect()
}

fn texts(stream: usize, count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|seq| text(stream, seq)).collect()
}

/// Appends `count` entries to each of three streams, at the three levels.
fn append_to_three(wal: &Wal, count: u64) -> Vec<Stream> {
    let streams: Vec<Stream> = (0..3).map(|i| wal.stream(&i.to_string()).unwrap().with_durability(LEVELS[i])).collect();
    for (i, stream) in streams.iter().enumerate() {
        for _ in 0..count {
            stream.append(text(i, stream.next_seq())).unwrap();
        }
    }
    streams
}

#[test]
fn everything_accepted_survives_a_power_loss() {
    for mapped in [true, false] {
        let storage = SimStorage::new(1);
        let wal = open(storage.clone(), &journaled(mapped));
        let streams = append_to_three(&wal, 30);
        // These go to the files, without the journal, and are not synced there.
        let large = wal.stream("large").unwrap().with_durability(Durability::Flushed);
        let batch: Batch = (0..30).map(|_| vec![7; 5000]).collect();
        large.append_batch(&batch).unwrap();
        large.append("behind them").unwrap();
        wal.close_fast().unwrap();
        wal.close().unwrap();
        for (i, stream) in streams.iter().enumerate() {
            assert_eq!(stream.append("x").unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(entries(stream), texts(i, 30), "a handle can still read");
        }
        assert_eq!(wal.stream("0").unwrap_err().kind(), ErrorKind::Closed);
        let mut disk = storage.disk();
        drop((streams, large, wal));
        assert!(storage.disk().files() == disk.files(), "the last handle changes nothing");
        for round in 0..3 {
            let storage = crashed(&disk, Crash::Lost, round);
            let wal = open(storage.clone(), &journaled(mapped));
            let streams = append_to_three(&wal, 1);
            for (i, stream) in streams.iter().enumerate() {
                assert_eq!(stream.next_seq(), 31 + round);
                assert_eq!(entries(stream)[..30], texts(i, 30)[..]);
            }
            if round == 1 {
                assert_eq!(wal.stream("large").unwrap().next_seq(), 31);
            }
            wal.close_fast().unwrap();
            disk = storage.disk();
        }
        let wal = open(crashed(&disk, Crash::Lost, 9), &journaled(mapped).journal(false));
        assert_eq!(entries(&wal.stream("2").unwrap()), texts(2, 33));
    }
}

#[test]
fn many_streams_take_one_sync() {
    let storage = HookedStorage::new(SimStorage::new(1));
    let wal = open(storage.clone(), &journaled(false));
    let append =
        |wal: &Wal, i: usize| wal.stream(&i.to_string()).unwrap().with_durability(Durability::Buffered).append("x");
    for i in 0..100 {
        append(&wal, i).unwrap();
    }
    let syncs = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&syncs);
    storage.set(move |operation, _| {
        seen.fetch_add(usize::from(operation == Operation::Sync), Ordering::SeqCst);
        Ok(())
    });
    wal.close_fast().unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
    drop(wal);
    let wal = open(storage, &journaled(false));
    assert!((0..100).all(|i| wal.stream(&i.to_string()).unwrap().next_seq() == 1));
}

/// Each state of the disk during the close may be the last.
#[test]
fn crash_during_a_fast_close_loses_nothing_acknowledged() {
    for mapped in [true, false] {
        let storage = SimStorage::new(1);
        let wal = open(storage.clone(), &journaled(mapped));
        append_to_three(&wal, 20);
        let images = Arc::new(Mutex::new(vec![storage.disk()]));
        let seen = Arc::clone(&images);
        storage.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
        wal.close_fast().unwrap();
        storage.unwatch();
        let images = images.lock().unwrap();
        assert!(images.len() > 3, "{} changes", images.len());
        for (number, disk) in images.iter().enumerate() {
            for crash in [Crash::Kill, Crash::Lost, Crash::Kept, Crash::Mixed(128), Crash::Prefix] {
                let wal = open(crashed(disk, crash, number as u64), &journaled(mapped));
                let is_closed = number + 1 == images.len();
                // Entries acknowledged as flushed survive a kill.
                let sure = if is_closed { 3 } else { 1 + usize::from(crash == Crash::Kill) };
                for i in 0..3 {
                    let found = entries(&wal.stream(&i.to_string()).unwrap());
                    assert!(i >= sure || found.len() == 20, "{crash:?} {number} {i}: {} entries", found.len());
                    assert_eq!(found, texts(i, found.len() as u64));
                }
            }
        }
    }
}

#[test]
fn fault_during_a_fast_close_is_reported_and_loses_nothing() {
    for (mapped, fault) in [(true, Fault::Io), (false, Fault::Io), (true, Fault::WriteBack), (false, Fault::WriteBack)]
    {
        for after in 0.. {
            let storage = SimStorage::new(1);
            let wal = open(storage.clone(), &journaled(mapped));
            append_to_three(&wal, 20);
            storage.set_faults(Some(Faults { after, fault, forever: false }));
            let closed = wal.close_fast();
            let has_failed = storage.failed() > 0;
            storage.set_faults(None);
            drop(wal);
            let wal = open(crashed(&storage.disk(), Crash::Lost, after), &journaled(mapped));
            let sure = if closed.is_ok() { 3 } else { 1 };
            for i in 0..3 {
                let found = entries(&wal.stream(&i.to_string()).unwrap());
                assert!(i >= sure || found.len() == 20, "{fault:?} after {after}: {i}: {} entries", found.len());
            }
            if !has_failed {
                assert!(closed.is_ok() && after > 0, "{fault:?} after {after}: {closed:?}");
                break;
            }
        }
    }
}

#[test]
fn log_without_a_journal_is_closed_as_by_close() {
    let storage = SimStorage::new(1);
    let options = journaled(true).journal(false);
    let wal = open(storage.clone(), &options);
    append_to_three(&wal, 5);
    wal.close_fast().unwrap();
    let wal = open(crashed(&storage.disk(), Crash::Lost, 1), &options);
    for i in 0..3 {
        let stream = wal.stream(&i.to_string()).unwrap();
        assert!(stream.report().clean);
        assert_eq!(entries(&stream), texts(i, 5));
    }
}

/// The files may belong to another process once the close has returned.
#[test]
fn no_file_is_used_after_a_fast_close_beside_appends() {
    const THREADS: usize = 4;
    for round in 0..20_u64 {
        let storage = HookedStorage::new(SimStorage::new(round));
        let wal = open(storage.clone(), &journaled(false).journal_bytes(256 << 10));
        let is_closed = Arc::new(AtomicBool::new(false));
        let late = Arc::new(Mutex::new(Vec::new()));
        {
            let (is_closed, late) = (Arc::clone(&is_closed), Arc::clone(&late));
            storage.set(move |operation, path| {
                // A thread may be making a spare, which has no content. The next opening removes
                // it.
                let is_spare = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".spare"));
                // These change nothing.
                let is_harmless = matches!(operation, Operation::Open | Operation::StartWriteBack | Operation::SyncDir);
                if is_closed.load(Ordering::SeqCst) && !is_harmless && !is_spare {
                    late.lock().unwrap().push((operation, path.to_owned()));
                }
                Ok(())
            });
        }
        let counts: Vec<u64> = thread::scope(|scope| {
            let append = |number: usize| {
                let stream = wal.stream(&number.to_string()).unwrap().with_durability(LEVELS[number % 3]);
                move || {
                    let big = |seq: u64| if seq.is_multiple_of(7) { 40_000 } else { 100 };
                    (0..).take_while(|&seq| stream.append(vec![number as u8; big(seq)]).is_ok()).count() as u64
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(append(number))).collect();
            thread::sleep(std::time::Duration::from_millis(3 + round));
            wal.close_fast().unwrap();
            is_closed.store(true, Ordering::SeqCst);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        drop(wal);
        assert!(late.lock().unwrap().is_empty(), "{:?}", late.lock().unwrap());
        storage.clear();
        let wal = open(storage, &journaled(false));
        for (number, &count) in counts.iter().enumerate() {
            assert_eq!(wal.stream(&number.to_string()).unwrap().next_seq(), count, "stream {number}");
        }
    }
}

/// A thread that has appended prepares a file of the journal when another closes the log.
#[test]
fn close_waits_for_a_file_that_is_being_prepared() {
    let hooked = HookedStorage::new(SimStorage::new(1));
    let wal = open(hooked.clone(), &journaled(false).journal_bytes(16 << 20));
    let stream = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    let append = || stream.append(vec![b'x'; 60 << 10]);
    (0..4).for_each(|seq| assert_eq!(append().unwrap(), seq));
    // The next append finds no room in the first file, and then prepares the third.
    let gate = Gate::new();
    let passes = gate.clone();
    let created = AtomicUsize::new(0);
    hooked.set(move |operation, path| {
        let is_spare = operation == Operation::Create && path.starts_with("/log/journal");
        if is_spare && created.fetch_add(1, Ordering::SeqCst) == 1 {
            passes.pass();
        }
        Ok(())
    });
    let is_closed = AtomicBool::new(false);
    thread::scope(|scope| {
        // The stream may be closed by the time this drains it.
        let appender = scope.spawn(|| drop(append()));
        gate.await_one();
        let closing = scope.spawn(|| {
            wal.close().unwrap();
            is_closed.store(true, Ordering::SeqCst);
        });
        thread::sleep(Duration::from_millis(100));
        let was_closed = is_closed.load(Ordering::SeqCst);
        gate.open();
        closing.join().unwrap();
        assert!(!was_closed, "a file was being prepared");
        hooked.set(|operation, path| panic!("{operation:?} of {} after the close", path.display()));
        appender.join().unwrap();
    });
    hooked.clear();
}
