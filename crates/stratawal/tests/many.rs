//! Many streams at the same time: the work that they share, and the memory that each one takes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use allocation_counter::measure;
use stratawal::{Durability, ErrorKind, Options, Stream, Wal};
use stratawal_storage::MemoryStorage;
use stratawal_testkit::{HookedStorage, Operation};

const LOG: &str = "/log";

/// Opens a log without a journal, in which each stream creates and syncs its own files.
fn open(storage: &HookedStorage) -> Wal {
    Options::new().journal(false).open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap()
}

/// Creates `count` streams of one entry each, and returns handles on them.
fn streams(wal: &Wal, count: usize) -> Vec<Stream> {
    let streams: Vec<Stream> = (0..count).map(|i| wal.stream(&format!("s{i:03}")).unwrap()).collect();
    streams.iter().for_each(|stream| assert_eq!(stream.append("entry").unwrap(), 0));
    streams
}

/// Counts how many threads are in an operation at the same time.
#[derive(Default)]
struct Concurrency {
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl Concurrency {
    /// Enters the operation, which takes a while, as it would on a disk.
    fn enter(&self) {
        self.all.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn all(&self) -> usize {
        self.all.load(Ordering::SeqCst)
    }
}

#[test]
fn concurrent_creations_share_directory_syncs() {
    const THREADS: usize = 32;
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open(&storage);
    let syncs = Arc::new(Concurrency::default());
    let seen = Arc::clone(&syncs);
    storage.set(move |operation, path| {
        if operation == Operation::SyncDir && path == Path::new("/log/streams") {
            seen.enter();
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        for i in 0..THREADS {
            let wal = &wal;
            scope.spawn(move || wal.stream(&format!("s{i}")).unwrap().append("entry").unwrap());
        }
    });
    storage.clear();
    assert_eq!(syncs.most(), 1);
    // At least two: a thread that arrives during a sync waits for the next one.
    assert!((1..=THREADS / 2).contains(&syncs.all()), "{} syncs for {THREADS} streams", syncs.all());
    wal.close().unwrap();
    drop(wal);
    let wal = open(&storage);
    assert_eq!(wal.streams().unwrap().len(), THREADS);
}

#[test]
fn many_streams_wait_for_the_disk_together() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open(&storage);
    let handles = streams(&wal, 64);
    for round in 0..2 {
        let syncs = Arc::new(Concurrency::default());
        let seen = Arc::clone(&syncs);
        for stream in &handles {
            stream.with_durability(Durability::Buffered).append("waits").unwrap();
        }
        storage.set(move |operation, _| {
            if operation == Operation::Sync {
                seen.enter();
            }
            Ok(())
        });
        if round == 0 { wal.sync() } else { wal.close() }.unwrap();
        storage.clear();
        assert!(syncs.all() >= 64 && syncs.most() >= 4, "{} at a time, {} in all", syncs.most(), syncs.all());
    }
    drop((handles, wal));
    let wal = open(&storage);
    for name in wal.streams().unwrap() {
        let stream = wal.stream(&name).unwrap();
        assert!(stream.report().clean, "{name}: {:?}", stream.report());
        assert_eq!(stream.next_seq(), 3);
    }
}

/// A log with a small journal, and without a thread of its own.
fn open_journaled(storage: &HookedStorage) -> Wal {
    let options = Options::new().journal(true).journal_bytes(256 << 10).maintenance_thread(false).sync_interval(None);
    options.open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap()
}

fn is_of_stream(path: &Path) -> bool {
    path.starts_with("/log/streams")
}

#[test]
fn full_journal_settles_streams_together() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open_journaled(&storage);
    let handles = streams(&wal, 64);
    let syncs = Arc::new(Concurrency::default());
    let begun = Arc::new(AtomicUsize::new(0));
    let (seen, seen_begun) = (Arc::clone(&syncs), Arc::clone(&begun));
    storage.set(move |operation, path| {
        match operation {
            Operation::StartWriteBack => drop(seen_begun.fetch_add(1, Ordering::SeqCst)),
            Operation::Sync if is_of_stream(path) => seen.enter(),
            _ => {}
        }
        Ok(())
    });
    for stream in (0..30).flat_map(|_| &handles) {
        stream.append([7; 400]).unwrap();
    }
    storage.clear();
    assert!(syncs.most() >= 2 && syncs.most() <= 4, "{} at a time, {} in all", syncs.most(), syncs.all());
    assert!(begun.load(Ordering::SeqCst) >= syncs.all() - 64, "the disk begins with a batch at once");
    drop((handles, wal));
    let wal = open_journaled(&storage);
    for name in wal.streams().unwrap() {
        assert_eq!(wal.stream(&name).unwrap().iter(..).filter(|entry| entry.is_ok()).count(), 31, "{name}");
    }
}

#[test]
fn stream_that_fails_in_a_batch_fails_alone() {
    let storage = HookedStorage::new(MemoryStorage::new());
    streams(&open_journaled(&storage), 64);
    // The log is reopened, so that each file has its final name.
    let wal = open_journaled(&storage);
    let handles: Vec<Stream> = wal.streams().unwrap().iter().map(|name| wal.stream(name).unwrap()).collect();
    storage.set(|operation, path| {
        let fails = operation == Operation::Sync && is_of_stream(path) && path.to_string_lossy().contains("s017");
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    });
    let mut acknowledged = vec![1; handles.len()];
    for (i, stream) in (0..30).flat_map(|_| handles.iter().enumerate()) {
        match stream.append([7; 400]) {
            Ok(_) => acknowledged[i] += 1,
            Err(error) => assert!(i == 17 && error.kind() == ErrorKind::Poisoned, "{i}: {error}"),
        }
    }
    assert!(acknowledged[17] < 31, "the sync failed");
    drop((handles, wal));
    storage.clear();
    let wal = open_journaled(&storage);
    for (i, &count) in acknowledged.iter().enumerate() {
        let found = wal.stream(&format!("s{i:03}")).unwrap().iter(..).filter(|entry| entry.is_ok()).count();
        assert!(found >= count, "stream {i} has {found} of {count} entries");
    }
}

#[test]
fn sync_of_the_log_settles_streams_together() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let wal = open_journaled(&storage);
    let handles = streams(&wal, 64);
    let syncs = Arc::new(Concurrency::default());
    for stream in &handles {
        // Too long for the journal.
        stream.with_durability(Durability::Buffered).append(vec![7; 80 << 10]).unwrap();
    }
    let seen = Arc::clone(&syncs);
    storage.set(move |operation, path| {
        if operation == Operation::Sync && is_of_stream(path) {
            seen.enter();
        }
        Ok(())
    });
    wal.sync().unwrap();
    storage.clear();
    assert!(syncs.all() == 64 && (2..=4).contains(&syncs.most()), "{} at a time, {} in all", syncs.most(), syncs.all());
    assert!(handles.iter().all(|stream| stream.stable_seq() == 2));
}

/// The close opens the streams that were not looked up, and so does an opening without the journal.
#[test]
fn streams_not_looked_up_wait_for_the_disk_together() {
    for closes in [true, false] {
        let storage = HookedStorage::new(MemoryStorage::new());
        let wal = open_journaled(&storage);
        drop(streams(&wal, 64));
        wal.close_fast().unwrap();
        drop(wal);
        let wal = closes.then(|| open_journaled(&storage));
        let syncs = Arc::new(Concurrency::default());
        let seen = Arc::clone(&syncs);
        storage.set(move |operation, path| {
            if operation == Operation::Sync && is_of_stream(path) {
                seen.enter();
            }
            Ok(())
        });
        match &wal {
            Some(wal) => wal.close().unwrap(),
            None => drop(open(&storage)),
        }
        storage.clear();
        assert!(syncs.all() >= 64 && syncs.most() >= 4, "{} at a time, {} in all", syncs.most(), syncs.all());
        drop(wal);
        let wal = open_journaled(&storage);
        for name in wal.streams().unwrap() {
            let stream = wal.stream(&name).unwrap();
            assert!(stream.report().clean && stream.next_seq() == 1, "{name}: {:?}", stream.report());
        }
    }
}

#[test]
fn failed_streams_do_not_stop_the_others() {
    let storage = HookedStorage::new(MemoryStorage::new());
    streams(&open(&storage), 64);
    // The log is reopened, so that each file has its final name.
    let wal = open(&storage);
    let names = wal.streams().unwrap();
    for name in &names {
        wal.stream(name).unwrap().with_durability(Durability::Buffered).append("waits").unwrap();
    }
    storage.set(|operation, path| {
        let path = path.to_string_lossy();
        let fails = operation == Operation::Sync && ["s017", "s040", "s063"].iter().any(|name| path.contains(name));
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    });
    let error = wal.close().unwrap_err();
    storage.clear();
    assert!(error.kind() == ErrorKind::Poisoned && error.to_string().contains("s017"), "{error}");
    drop(wal);
    let wal = open(&storage);
    for (i, name) in names.iter().enumerate() {
        let stream = wal.stream(name).unwrap();
        assert_eq!(stream.report().clean, ![17, 40, 63].contains(&i), "{name}");
        assert_eq!(stream.get(0).unwrap().unwrap().data(), "entry");
    }
}

#[test]
fn ten_thousand_idle_streams_take_32_mib() {
    const EACH_MAX: i64 = (32 << 20) / 10_000;
    const STREAMS: usize = 200;
    for ((appends, len), journal) in
        [(10, 128), (1, 64 << 10), (3, 1_000), (0, 0)].into_iter().flat_map(|work| [(work, false), (work, true)])
    {
        let dir = tempfile::tempdir().unwrap();
        let wal = Options::new().journal(journal).maintenance_thread(false).open(dir.path()).unwrap();
        // Entries in the journal also wait in memory. A longer entry goes into the files.
        let waiting = if journal && len < 64 << 10 { appends * len as i64 } else { 0 };
        let entry = vec![7; len];
        let append = |name: &str| {
            let stream = wal.stream(name).unwrap();
            for _ in 0..appends {
                stream.append(&entry).unwrap();
            }
            stream
        };
        // By now the memory that all streams share is allocated.
        let first = append("first");
        let mut kept = Vec::with_capacity(STREAMS);
        let counted = measure(|| kept.extend((0..STREAMS).map(|i| append(&format!("idle-{i}")))));
        let each = counted.bytes_current / i64::try_from(STREAMS).unwrap();
        assert!(
            each <= EACH_MAX + waiting,
            "{each} bytes for each idle stream after {appends} of {len}, journal {journal}"
        );
        drop((first, kept));
    }
}

/// The entry of each stream is in the journal, and no stream has a directory.
#[test]
fn new_stream_of_a_journal_takes_1_500_bytes() {
    const STREAMS: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let wal = Options::new().maintenance_thread(false).open(dir.path()).unwrap();
    let append = |name: &str| {
        let stream = wal.stream(name).unwrap();
        stream.append([7; 100]).unwrap();
        stream
    };
    let first = append("first");
    let mut kept = Vec::with_capacity(STREAMS);
    let counted = measure(|| kept.extend((0..STREAMS).map(|i| append(&format!("idle-stream-{i}")))));
    let each = counted.bytes_current / i64::try_from(STREAMS).unwrap();
    assert!(each <= 1_500, "{each} bytes for each stream");
    drop((first, kept));
}

#[test]
fn waiting_entries_take_memory_of_their_length() {
    const STREAMS: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let large = wal.stream("large").unwrap().with_durability(Durability::Flushed);
    let small = streams(&wal, STREAMS);
    let entry = vec![7; 3 << 20];
    large.append(&entry).unwrap();
    let counted = measure(|| {
        for stream in &small {
            // By now the large entry's buffer is free again.
            large.append(&entry).unwrap();
            stream.with_durability(Durability::Buffered).append([1; 300]).unwrap();
        }
    });
    let each = counted.bytes_current / i64::try_from(STREAMS).unwrap();
    assert!(each <= 4 << 10, "{each} bytes for each stream with 300 bytes waiting");
}

#[test]
fn log_is_closed_wherever_it_is_dropped() {
    thread_local!(static WAL: std::cell::RefCell<Option<Wal>> = const { std::cell::RefCell::new(None) });
    let dir = tempfile::tempdir().unwrap();
    let buffered = |wal: &Wal| {
        for i in 0..64 {
            let stream = wal.stream(&format!("s{i:02}")).unwrap();
            assert!(stream.report().clean || !stream.report().existed);
            stream.with_durability(Durability::Buffered).append("x").unwrap();
        }
    };
    std::thread::scope(|scope| {
        // Drops the log with the thread's local data.
        let kept = scope.spawn(|| {
            let wal = Wal::open(dir.path()).unwrap();
            buffered(&wal);
            WAL.set(Some(wal));
        });
        kept.join().unwrap();
    });
    std::thread::scope(|scope| {
        // Drops the log while the thread unwinds.
        let unwinds = scope.spawn(|| {
            let wal = Wal::open(dir.path()).unwrap();
            buffered(&wal);
            panic!("on purpose");
        });
        assert!(unwinds.join().is_err());
    });
    let wal = Wal::open(dir.path()).unwrap();
    for name in wal.streams().unwrap() {
        let stream = wal.stream(&name).unwrap();
        assert!(stream.report().clean && stream.next_seq() == 2, "{name}: {:?}", stream.report());
    }
}
