//! Look-ups of streams that have entries in the commit journal: the entries stay there.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stratawal::{ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Disk, Fault, Faults, Gate, HookedStorage, Operation, Rng, SimStorage};

const LOG: &str = "/log";

fn journaled() -> Options {
    let streams = StreamOptions::new().segment_bytes(1 << 20);
    Options::new().stream_defaults(streams).journal(true).journal_mapped(false).maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, options: &Options) -> Wal {
    options.open_on(Arc::new(storage), Path::new(LOG), false).unwrap()
}

fn crashed(disk: &Disk, crash: Crash) -> SimStorage {
    SimStorage::on(disk.crash(crash, &mut Rng::new(1)), 2)
}

fn text(seq: u64) -> Vec<u8> {
    format!("entry {seq}").into_bytes()
}

fn append(stream: &Stream, seqs: std::ops::Range<u64>) {
    seqs.for_each(|seq| assert_eq!(stream.append(text(seq)).unwrap(), seq));
}

fn check(stream: &Stream, count: u64, what: &str) {
    let found: Vec<Vec<u8>> = stream.iter(..).map(|entry| entry.unwrap().data().to_vec()).collect();
    assert_eq!(found, (0..count).map(text).collect::<Vec<_>>(), "{what}");
}

fn fill_journal(wal: &Wal) {
    let filler = wal.stream("filler").unwrap();
    for _ in 0..80 {
        filler.append(vec![b'f'; 3000]).unwrap();
    }
}

/// A log whose process died. The stream "old" has a directory, and 5 of its 8 entries are in the
/// journal alone, like all of the stream "new".
fn log_after_a_crash(options: &Options) -> SimStorage {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), options);
    append(&wal.stream("old").unwrap(), 0..3);
    wal.close().unwrap();
    let wal = open(sim.clone(), options);
    append(&wal.stream("old").unwrap(), 3..8);
    append(&wal.stream("new").unwrap(), 0..8);
    crashed(&sim.disk(), Crash::Lost)
}

#[test]
fn look_up_writes_no_entry() {
    let sim = log_after_a_crash(&journaled());
    let storage = HookedStorage::new(sim.clone());
    let wal = open(storage.clone(), &journaled());
    // The files of "old" are recovered without the entries in the journal.
    let changes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&changes);
    storage.set(move |operation, path| {
        if operation != Operation::Open && !path.starts_with("/log/streams/old") && path != Path::new("/log/streams") {
            seen.lock().unwrap().push((operation, path.to_owned()));
        }
        Ok(())
    });
    for name in ["old", "new"] {
        let stream = wal.stream(name).unwrap();
        check(&stream, 8, name);
        assert_eq!((stream.stable_seq(), stream.report().next_seq), (8, 8));
        stream.sync().unwrap();
    }
    assert_eq!(wal.streams().unwrap(), ["new", "old"]);
    storage.clear();
    assert_eq!(*changes.lock().unwrap(), []);
    for name in ["old", "new"] {
        append(&wal.stream(name).unwrap(), 8..10);
    }
    for crash in [Crash::Kill, Crash::Lost, Crash::Kept] {
        let wal = open(crashed(&sim.disk(), crash), &journaled());
        ["old", "new"].iter().for_each(|name| check(&wal.stream(name).unwrap(), 10, name));
    }
}

/// Continuing a file that was closed takes a sync of its own. It can wait until entries are drained
/// to the file.
#[test]
fn first_append_after_a_close_writes_to_no_file() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), &journaled());
    append(&wal.stream("s").unwrap(), 0..3);
    wal.close().unwrap();
    let storage = HookedStorage::new(sim.clone());
    let wal = open(storage.clone(), &journaled());
    let stream = wal.stream("s").unwrap();
    storage.set(|operation, path| {
        let is_file = path.starts_with("/log/streams/s") && operation != Operation::Open;
        assert!(!is_file, "{operation:?} of {}", path.display());
        Ok(())
    });
    append(&stream, 3..8);
    storage.set(|_, _| Ok(()));
    let crashed = open(crashed(&sim.disk(), Crash::Lost), &journaled());
    check(&crashed.stream("s").unwrap(), 8, "after a crash");
    drop(stream);
    wal.close().unwrap();
    check(&open(sim, &journaled()).stream("s").unwrap(), 8, "after a close");
}

#[test]
fn close_after_a_look_up_settles_the_entries() {
    let sim = log_after_a_crash(&journaled());
    let wal = open(sim.clone(), &journaled());
    check(&wal.stream("old").unwrap(), 8, "old");
    wal.close().unwrap();
    let wal = open(crashed(&sim.disk(), Crash::Lost), &journaled().journal(false));
    for name in ["old", "new"] {
        let stream = wal.stream(name).unwrap();
        check(&stream, 8, name);
        assert!(stream.report().clean, "{name}");
    }
}

/// The journal is released after the look-ups, which have claimed the entries.
#[test]
fn release_after_a_look_up_keeps_the_entries() {
    let options = journaled().journal_bytes(64 << 10);
    for crash in [Crash::Kill, Crash::Lost] {
        let sim = log_after_a_crash(&options);
        let wal = open(sim.clone(), &options);
        ["old", "new"].iter().for_each(|name| check(&wal.stream(name).unwrap(), 8, name));
        fill_journal(&wal);
        let wal = open(crashed(&sim.disk(), crash), &options);
        ["old", "new"].iter().for_each(|name| check(&wal.stream(name).unwrap(), 8, name));
    }
}

/// Streams that hold much of the journal are settled when the log is opened. If the disk is full,
/// they are closed unsettled, and looked up later.
#[test]
fn stream_that_could_not_be_settled_is_found_again() {
    let options = journaled().journal_bytes(64 << 10);
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), &options);
    wal.stream("filler").unwrap().append(vec![b'f'; 70 << 10]).unwrap();
    let entry = |seq: u64| [text(seq), vec![b'.'; 500]].concat();
    let stream = wal.stream("s").unwrap();
    (0..50).for_each(|seq| assert_eq!(stream.append(entry(seq)).unwrap(), seq));
    let sim = crashed(&sim.disk(), Crash::Lost);
    let storage = HookedStorage::new(sim.clone());
    storage.set(|operation, path| {
        let fails = path.starts_with("/log/streams") && operation == Operation::CreateDir;
        if fails { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
    });
    let wal = open(storage.clone(), &options);
    for _ in 0..2 {
        let stream = wal.stream("s").unwrap();
        assert_eq!((stream.next_seq(), stream.iter(..).count()), (50, 50));
        fill_journal(&wal);
    }
    storage.clear();
    assert_eq!(wal.stream("s").unwrap().append(entry(50)).unwrap(), 50);
    wal.sync().unwrap();
    for crash in [Crash::Kill, Crash::Lost] {
        let wal = open(crashed(&sim.disk(), crash), &options);
        assert_eq!(wal.stream("s").unwrap().next_seq(), 51, "{crash:?}");
    }
}

/// The journal fails after the look-ups. The restart has the entries from memory.
#[test]
fn restart_after_a_look_up_keeps_the_entries() {
    for settles in [true, false] {
        let sim = log_after_a_crash(&journaled());
        let storage = HookedStorage::new(sim.clone());
        let wal = open(storage.clone(), &journaled());
        ["old", "new"].iter().for_each(|name| check(&wal.stream(name).unwrap(), 8, name));
        storage.set(move |operation, path| {
            let journal = path.starts_with("/log/journal") && operation == Operation::Sync;
            let streams = !settles && path.starts_with("/log/streams") && operation != Operation::Open;
            if journal || streams { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        assert_eq!(wal.stream("old").unwrap().append("fails").unwrap_err().kind(), ErrorKind::Poisoned);
        storage.set(move |operation, path| {
            let streams = !settles && path.starts_with("/log/streams") && operation != Operation::Open;
            if streams { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        wal.stream("new").unwrap().reopen().unwrap_or_else(|error| panic!("settles: {settles}: {error}"));
        storage.clear();
        for crash in [Crash::Kill, Crash::Lost] {
            let wal = open(crashed(&sim.disk(), crash), &journaled());
            check(&wal.stream("new").unwrap(), 8, "new");
            assert!(wal.stream("old").unwrap().next_seq() >= 8);
        }
        wal.stream("old").unwrap().reopen().unwrap();
        assert!(wal.stream("old").unwrap().next_seq() >= 8);
        append(&wal.stream("new").unwrap(), 8..9);
    }
}

/// A fault at each operation of a life that looks up, appends and closes.
#[test]
fn fault_after_a_look_up_loses_nothing() {
    let options = journaled().journal_bytes(64 << 10);
    let start = log_after_a_crash(&options).disk();
    for fault in [Fault::Io, Fault::Full, Fault::WriteBack] {
        for after in (0..).step_by(2) {
            let sim = SimStorage::on(start.clone(), 5);
            sim.set_faults(Some(Faults { after, fault, forever: false }));
            if let Ok(wal) = options.open_on(Arc::new(sim.clone()), Path::new(LOG), false) {
                for name in ["old", "new"] {
                    let _ = wal.stream(name).map(|stream| stream.append(vec![b'x'; 20 << 10]));
                }
                let _ = wal.close();
            }
            let has_failed = sim.failed() > 0;
            sim.set_faults(None);
            for crash in [Crash::Kill, Crash::Lost] {
                let wal = open(crashed(&sim.disk(), crash), &options);
                for name in ["old", "new"] {
                    let stream = wal.stream(name).unwrap();
                    for seq in 0..8 {
                        let found = stream.get(seq).unwrap().unwrap();
                        assert_eq!(found.data()[..], text(seq), "{fault:?} {after} {crash:?} {name}");
                    }
                }
            }
            if !has_failed {
                break;
            }
        }
    }
}

/// A log that died with 80 entries of the stream "s", of which one is in its files.
fn log_with_a_long_tail() -> SimStorage {
    let options = journaled().journal_bytes(256 << 10);
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), &options);
    for name in ["s", "t"] {
        wal.stream(name).unwrap().append([1; 1000]).unwrap();
    }
    wal.close().unwrap();
    let wal = open(sim.clone(), &options);
    let stream = wal.stream("s").unwrap();
    while stream.next_seq() < 80 {
        stream.append([1; 1000]).unwrap();
    }
    crashed(&sim.disk(), Crash::Lost)
}

/// The stream cannot take its entries, and a thread that frees space still has a share of it.
#[test]
fn stream_in_use_by_a_release_is_found_again() {
    // The active segment, as its file was named when it was created.
    const ACTIVE: &str = "/log/streams/s/.tmp-00000000000000000001-00000002.seg";
    let sim = log_with_a_long_tail();
    let storage = HookedStorage::new(sim.clone());
    let wal = open(storage.clone(), &journaled().journal_bytes(64 << 10));
    let (settles, releases) = (Gate::new(), Gate::new());
    let gates = (settles.clone(), releases.clone());
    let (is_renamed, has_failed) = (AtomicBool::new(false), AtomicBool::new(false));
    storage.set(move |operation, path| {
        if path.starts_with("/log/streams/s") && operation == Operation::Rename {
            is_renamed.store(true, Ordering::SeqCst);
        }
        if path == Path::new(ACTIVE) && operation == Operation::Write && is_renamed.load(Ordering::SeqCst) {
            gates.0.pass();
            has_failed.store(true, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(28));
        }
        if path.starts_with("/log/streams/t") && operation != Operation::Open && has_failed.load(Ordering::SeqCst) {
            gates.1.pass();
        }
        Ok(())
    });
    let fill = |name: &str| {
        let stream = wal.stream(name).unwrap();
        for _ in 0..100 {
            stream.append([2; 1000]).unwrap();
        }
    };
    let found = std::thread::scope(|scope| {
        scope.spawn(|| fill("t"));
        settles.await_one();
        scope.spawn(|| fill("other"));
        // The release waits for the settle.
        std::thread::sleep(Duration::from_millis(300));
        settles.open();
        releases.await_one();
        // A look-up waits for the settle.
        let found = wal.stream("s").map(|stream| (stream.next_seq(), stream.iter(..).count()));
        releases.open();
        found
    });
    assert_eq!(found.unwrap(), (80, 80));
    storage.clear();
    let wal = open(crashed(&sim.disk(), Crash::Lost), &journaled());
    assert_eq!(wal.stream("s").unwrap().next_seq(), 80);
}
