//! Failures of other write-ahead logs that this one must not share. Each test lists the logs that
//! fail it, and how, in the versions named in `benches/peers`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use stratawal::{Batch, Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::MemoryStorage;
use stratawal_testkit::{Crash, Fault, Faults, Rng, SimStorage};
use tempfile::TempDir;

const ENTRIES: u64 = 1000;

/// Logs with a commit journal and without one share no failure.
const JOURNALS: [bool; 2] = [true, false];

fn small(journal: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10);
    Options::new().stream_defaults(streams).journal(journal).journal_bytes(256 << 10).maintenance_thread(false)
}

fn entry(seq: u64) -> String {
    format!("entry {seq} {}", "x".repeat(80))
}

fn append_up_to(stream: &Stream, end: u64) {
    for seq in stream.next_seq()..end {
        assert_eq!(stream.append(entry(seq)).unwrap(), seq);
    }
}

/// Checks that the stream has exactly the entries below `next`.
fn assert_entries(stream: &Stream, next: u64) {
    let found: Vec<_> = stream.iter(..).map(|found| found.unwrap().data().to_vec()).collect();
    assert_eq!(found.len() as u64, next);
    for (seq, found) in (0..).zip(found) {
        assert_eq!(found, entry(seq).as_bytes(), "{seq}");
    }
}

fn simulated(sim: &SimStorage, journal: bool) -> Wal {
    small(journal).open_on(Arc::new(sim.clone()), Path::new("/log"), false).unwrap()
}

/// A copy of a log with [`ENTRIES`] synced entries in several segments, as after `kill -9`. It has
/// no journal, because the segments are damaged next.
fn killed() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let wal = small(false).open(dir.path().join("live")).unwrap();
    append_up_to(&wal.stream("s").unwrap(), ENTRIES);
    let copy = dir.path().join("killed");
    for subdir in ["", "streams", "streams/s"] {
        fs::create_dir(copy.join(subdir)).unwrap();
        for file in fs::read_dir(dir.path().join("live").join(subdir)).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                fs::copy(&path, copy.join(subdir).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    (dir, copy)
}

/// The segment files of `s`, oldest first.
fn segments(log: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(log.join("streams/s")).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 1, "{paths:?}");
    paths
}

/// Changes bytes of a file.
fn damage(path: &Path, at: u64, len: usize, change: impl Fn(&mut [u8])) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
}

/// Checks that the error names the damage and its position, that no file is changed, and that no
/// acknowledged seq is assigned again.
fn refuses(log: &Path) {
    let before: Vec<_> = segments(log).iter().map(|path| fs::read(path).unwrap()).collect();
    let wal = small(false).open(log).unwrap();
    match wal.stream("s") {
        Err(error) => {
            assert_eq!((error.kind(), error.stream()), (ErrorKind::Damaged, Some("s")), "{error}");
            assert!(error.segment().is_some() && error.offset().is_some() && error.lost().is_some(), "{error:?}");
        }
        Ok(stream) => {
            assert!(stream.iter(..).any(|found| found.is_err()), "fewer entries, silently");
            assert_eq!(stream.append("next").unwrap(), ENTRIES, "a seq that was acknowledged before");
            return;
        }
    }
    drop(wal);
    let after: Vec<_> = segments(log).iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(before == after, "a damaged stream was changed");
}

/// Fail: ironwal (deletes 990 of 1,000 entries and reuses their numbers), wal-db, raft-engine,
/// walogs; okaywal and walrus on some bits.
#[test]
fn flipped_bit_in_the_last_segment_is_damage() {
    for bit in 0..8 {
        let (_dir, log) = killed();
        let last = segments(&log).pop().unwrap();
        let bytes = fs::read(&last).unwrap();
        let tenth = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"entry ")).nth(9).unwrap();
        damage(&last, tenth as u64 + 20, 1, |bytes| bytes[0] ^= 1 << bit);
        refuses(&log);
    }
}

/// Five logs continue without an error with 64 to 113 of 1,000 entries.
#[test]
fn page_of_zeros_is_damage() {
    let (_dir, log) = killed();
    for path in segments(&log) {
        let len = fs::metadata(&path).unwrap().len();
        let (_dir, log) = killed();
        let path = log.join("streams/s").join(path.file_name().unwrap());
        damage(&path, len / 2 / 4096 * 4096, 4096, |bytes| bytes.fill(0));
        let used = fs::read(&path).unwrap().iter().rposition(|&b| b != 0).unwrap() as u64;
        if used > len / 2 {
            refuses(&log);
        }
    }
}

/// raft-engine in its strict mode, okaywal (as documented) and commitlog do not open.
#[test]
fn torn_last_frame_loses_only_itself() {
    for journal in JOURNALS {
        let sim = SimStorage::new(1);
        let wal = simulated(&sim, journal);
        let stream = wal.stream("s").unwrap();
        append_up_to(&stream, 100);
        stream.with_durability(Durability::Flushed).append("x".repeat(5000)).unwrap();
        for seed in 0..50 {
            let torn = SimStorage::on(sim.disk().crash(Crash::Mixed(128), &mut Rng::new(seed)), seed);
            let stream = simulated(&torn, journal).stream("s").unwrap();
            assert!((100..=101).contains(&stream.next_seq()));
            assert_eq!(stream.get(99).unwrap().unwrap().data()[..], entry(99).as_bytes()[..]);
        }
    }
}

/// ironwal: seq 0.
#[test]
fn name_with_a_slash_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    append_up_to(&wal.stream("user/1").unwrap(), 100);
    drop(wal);
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("user/1").unwrap();
    assert_eq!(stream.append(entry(100)).unwrap(), 100);
    assert_entries(&stream, 101);
}

/// ironwal: 5 of 106 are left. walrus: 43,690 of 100,000 can be read. commitlog: ended by a signal.
#[test]
fn full_disk_recovers_once_there_is_room() {
    for journal in JOURNALS {
        let storage = MemoryStorage::new().with_capacity(1 << 20);
        let open = || small(journal).open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap();
        let wal = open();
        let stream = wal.stream("s").unwrap();
        let error = (0..).find_map(|_| stream.append(entry(stream.next_seq())).err()).unwrap();
        assert_eq!(error.kind(), ErrorKind::Full);
        let full = stream.next_seq();
        assert!(full > 2000, "{full}");
        assert_entries(&stream, full);
        let _ = storage.clone().with_capacity(8 << 20);
        append_up_to(&stream, full + 101);
        drop((stream, wal));
        assert_entries(&open().stream("s").unwrap(), full + 101);
    }
}

/// ironwal: the entry is acknowledged and missing.
#[test]
fn failed_batch_at_a_rotation_is_whole_or_absent() {
    for journal in JOURNALS {
        let batch: Batch = (600..700).map(entry).collect();
        let mut failed = 0;
        for after in 0..12 {
            let sim = SimStorage::new(1);
            let wal = simulated(&sim, journal);
            let stream = wal.stream("s").unwrap();
            append_up_to(&stream, 600);
            sim.set_faults(Some(Faults { after, fault: Fault::Io, forever: false }));
            let result = stream.append_batch(&batch);
            sim.set_faults(None);
            failed += u64::from(result.is_err());
            let lost = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(after)), 2);
            let next = simulated(&lost, journal).stream("s").unwrap().next_seq();
            match result {
                Ok(seqs) => assert_eq!((seqs, next), (600..700, 700)),
                Err(_) => assert!(next == 600 || next == 700, "{next}: a part of a batch"),
            }
        }
        assert!(failed > u64::from(!journal), "{failed}");
    }
}

/// ironwal: the next calls succeed. okaywal: the next commit hangs.
#[test]
fn failed_sync_is_never_reported_as_done() {
    for journal in JOURNALS {
        let sim = SimStorage::new(1);
        let wal = simulated(&sim, journal);
        let stream = wal.stream("s").unwrap();
        append_up_to(&stream, 10);
        // The write to a segment comes before its sync; a mapped journal has no write.
        sim.set_faults(Some(Faults { after: u64::from(!journal), fault: Fault::WriteBack, forever: false }));
        let error = stream.append("lost").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        let (done, finished) = mpsc::channel();
        let again = stream.clone();
        thread::spawn(move || {
            let results = [again.append("next").map(drop), again.flush(), again.sync()];
            done.send(results).unwrap();
        });
        for result in finished.recv_timeout(Duration::from_secs(60)).expect("no call hangs") {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Poisoned);
        }
        stream.reopen().unwrap();
        let next = stream.next_seq();
        assert!((10..=11).contains(&next));
        assert_eq!(stream.append("next").unwrap(), next);
        let lost = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(1)), 2);
        assert_eq!(simulated(&lost, journal).stream("s").unwrap().next_seq(), next + 1);
    }
}

/// ironwal: both get seq 0. wal-db: the second one overwrites the synced entries of the first. The
/// command line's tests cover two processes.
#[test]
fn second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    append_up_to(&stream, 10);
    assert_eq!(Wal::open(dir.path()).unwrap_err().kind(), ErrorKind::Locked);
    append_up_to(&stream, 20);
    drop((stream, wal));
    assert_entries(&Wal::open(dir.path()).unwrap().stream("s").unwrap(), 20);
}

/// ironwal with segments of 600 bytes: panic. Segments here are at least 64 KiB.
#[test]
fn smallest_segments_serve_three_readers() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Options::new().stream_defaults(StreamOptions::new().segment_bytes(600));
    assert_eq!(tiny.open(dir.path()).unwrap_err().kind(), ErrorKind::InvalidOption);
    let smallest = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Flushed);
    let wal = Options::new().stream_defaults(smallest).cache_bytes(0).cache_files(1).open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            let reader = stream.clone();
            scope.spawn(move || {
                let mut next = 0;
                // Entries appended later need another look.
                while next < 5000 {
                    for found in reader.iter(next..) {
                        assert_eq!(found.unwrap().data()[..], entry(next).as_bytes()[..]);
                        next += 1;
                    }
                    thread::yield_now();
                }
            });
        }
        append_up_to(&stream, 5000);
    });
    assert!(stream.stats().unwrap().segments > 5);
}

/// ironwal: 4 GiB are allocated.
#[test]
fn length_of_4_gib_allocates_nothing() {
    let (_dir, log) = killed();
    let path = segments(&log).pop().unwrap();
    let salt = fs::read(&path).unwrap()[64..72].to_vec();
    // Forges the length of the first frame, and the checksum of its header, which covers the salt,
    // the offset and the bytes after the checksum.
    damage(&path, 128, 40, |header| {
        header[28..32].fill(0xFF);
        let mut sum = stratawal_frame::PayloadChecksum::new();
        sum.update(&salt);
        sum.update(&128_u64.to_le_bytes());
        sum.update(&header[4..]);
        header[..4].copy_from_slice(&sum.finish().to_le_bytes());
    });
    let before = address_space_peak();
    refuses(&log);
    if let (Some(before), Some(after)) = (before, address_space_peak()) {
        assert!(after - before < 1 << 30, "{before}, then {after} bytes");
    }
}

/// The largest address space that this process ever had, in bytes, if the system reports it.
fn address_space_peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// ironwal: the iteration never ends.
#[test]
fn iterator_over_a_cut_file_returns_an_error() {
    let (_dir, log) = killed();
    let wal = small(false).open(&log).unwrap();
    let stream = wal.stream("s").unwrap();
    let mut iter = stream.iter(..);
    assert!(iter.next().unwrap().is_ok());
    for path in segments(&log) {
        fs::File::options().write(true).open(path).unwrap().set_len(300).unwrap();
    }
    let found: Vec<_> = iter.by_ref().take(2 * usize::try_from(ENTRIES).unwrap()).collect();
    let (last, before) = found.split_last().unwrap();
    assert_eq!(last.as_ref().unwrap_err().kind(), ErrorKind::Damaged);
    assert!(before.iter().all(Result::is_ok) && iter.next().is_none());
}

/// commitlog: `flush` never syncs. Here, `flush` hands entries to the operating system, and `sync`
/// syncs them.
#[test]
fn flush_is_distinct_from_sync() {
    for journal in JOURNALS {
        let sim = SimStorage::new(1);
        let wal = simulated(&sim, journal);
        let stream = wal.stream("s").unwrap().with_durability(Durability::Buffered);
        append_up_to(&stream, 10);
        let after = |crash| {
            let sim = SimStorage::on(sim.disk().crash(crash, &mut Rng::new(1)), 2);
            simulated(&sim, journal).stream("s").unwrap().next_seq()
        };
        stream.flush().unwrap();
        assert_eq!((after(Crash::Kill), after(Crash::Lost)), (10, 0));
        stream.sync().unwrap();
        assert_eq!((after(Crash::Kill), after(Crash::Lost)), (10, 10));
    }
}
