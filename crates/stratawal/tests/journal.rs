//! Logs with a commit journal: their promises, and how they get a journal and give it up.
//!
//! A crash is an image of the simulated disk, which another log opens. Every test runs with a
//! journal that is mapped and with one that is written.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use stratawal::{Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_frame::{Features, FormatFile};
use stratawal_journal::Image;
use stratawal_storage::{Access, Storage};
use stratawal_testkit::{Crash, Disk, Fault, Faults, Rng, SimStorage};

const LOG: &str = "/log";
const LEVELS: [Durability; 3] = [Durability::Synced, Durability::Flushed, Durability::Buffered];

/// A journal without a thread, so that a simulation can be replayed.
fn journaled(mapped: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500);
    Options::new().stream_defaults(streams).journal(true).journal_mapped(mapped).maintenance_thread(false)
}

fn plain() -> Options {
    journaled(true).journal(false)
}

fn open(storage: &SimStorage, options: &Options) -> Wal {
    options.open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap()
}

/// A machine that starts with the disk as a crash leaves it.
fn crashed(storage: &SimStorage, crash: Crash) -> SimStorage {
    SimStorage::on(storage.disk().crash(crash, &mut Rng::new(1)), 2)
}

fn entries(stream: &Stream) -> Vec<Vec<u8>> {
    stream.iter(..).map(|entry| entry.unwrap().data().to_vec()).collect()
}

/// The entries of a stream in the segment files alone: those that a reader finds if FORMAT states
/// that the log has no journal.
fn entries_in_files(storage: &SimStorage, stream: &str) -> Vec<Vec<u8>> {
    let copy = SimStorage::on(storage.disk(), 9);
    let format = format_of(&copy.disk());
    let format = FormatFile { features: format.features.with_journal(false), ..format };
    let file = copy.open(Path::new("/log/FORMAT"), Access::ReadWrite).unwrap();
    file.write_all_at(&format.encode(), 0).unwrap();
    let wal = Options::new().open_on(Arc::new(copy), Path::new(LOG), true).unwrap();
    entries(&wal.stream(stream).unwrap())
}

fn has_journal(storage: &SimStorage) -> bool {
    storage.disk().files().iter().any(|(path, _)| path.starts_with("/log/journal/"))
}

fn text(stream: usize, seq: u64) -> Vec<u8> {
    format!("entry {seq} of stream {stream}, {}", "x".repeat(usize::try_from(seq * 7 % 90).unwrap())).into_bytes()
}

fn texts(stream: usize, count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|seq| text(stream, seq)).collect()
}

fn append_all(stream: &Stream, entries: &[Vec<u8>]) {
    for entry in entries {
        stream.append(entry).unwrap();
    }
}

/// Opens a log whose streams have directories, with their first entries.
fn open_with_directories(storage: &SimStorage, options: &Options, names: &[&str]) -> Wal {
    let wal = open(storage, options);
    for name in names {
        append_all(&wal.stream(name).unwrap(), &texts(0, 1));
    }
    wal.close().unwrap();
    open(storage, options)
}

fn for_both(test: impl Fn(&Options)) {
    for mapped in [true, false] {
        test(&journaled(mapped));
    }
}

#[test]
fn acknowledged_entries_survive_a_crash() {
    const COUNT: u64 = 60;
    for_both(|options| {
        let storage = SimStorage::new(1);
        let wal = open(&storage, options);
        let streams: Vec<Stream> = LEVELS
            .iter()
            .map(|&level| wal.stream_with(&format!("{level:?}"), StreamOptions::new().durability(level)).unwrap())
            .collect();
        for seq in 0..COUNT {
            for (number, stream) in streams.iter().enumerate() {
                assert_eq!(stream.append(text(number, seq)).unwrap(), seq);
            }
        }
        for (crash, sure) in [(Crash::Kill, 2), (Crash::Kept, 2), (Crash::Lost, 1), (Crash::Mixed(128), 1)] {
            let after = crashed(&storage, crash);
            // The second life appends, and the third one finds that as well.
            let again = open(&after, options);
            for (number, level) in LEVELS.iter().enumerate() {
                let stream = again.stream(&format!("{level:?}")).unwrap();
                let found = entries(&stream);
                assert_eq!(stream.report().next_seq, found.len() as u64, "the report counts all entries");
                assert!(number >= sure || found.len() as u64 == COUNT, "{crash:?} {level:?}: {} entries", found.len());
                assert_eq!(found, texts(number, found.len() as u64), "{crash:?} {level:?}");
                let next = stream.next_seq();
                assert_eq!(stream.append(text(number, next)).unwrap(), next);
            }
            let third = open(&crashed(&after, Crash::Lost), options);
            for (number, level) in LEVELS.iter().enumerate() {
                let found = entries(&third.stream(&format!("{level:?}")).unwrap());
                assert!(number >= sure || found.len() as u64 == COUNT + 1, "{crash:?} {level:?}");
                assert_eq!(found, texts(number, found.len() as u64), "{crash:?} {level:?}");
            }
        }
    });
}

#[test]
fn closed_log_needs_no_journal_and_no_scan() {
    for_both(|options| {
        let storage = SimStorage::new(1);
        let wal = open(&storage, options);
        for (number, name) in ["a", "b"].into_iter().enumerate() {
            let stream = wal.stream(name).unwrap().with_durability(LEVELS[number]);
            append_all(&stream, &texts(number, 40));
        }
        wal.close().unwrap();
        let wal_id = format_of(&storage.disk()).wal_id;
        let image = Image::read(&storage, Path::new("/log/journal"), wal_id).unwrap();
        assert!(image.is_closed() && image.needed().is_empty());
        for (number, name) in ["a", "b"].into_iter().enumerate() {
            assert_eq!(entries_in_files(&storage, name), texts(number, 40));
        }
        let wal = open(&crashed(&storage, Crash::Lost), options);
        assert!(wal.stream("a").unwrap().report().clean && wal.stream("b").unwrap().report().clean);
    });
}

/// A stream that the second process never looks up is settled by its close.
#[test]
fn close_settles_streams_that_were_not_looked_up() {
    for_both(|options| {
        let storage = SimStorage::new(1);
        let wal = open(&storage, options);
        append_all(&wal.stream("s").unwrap(), &texts(0, 20));
        let after = crashed(&storage, Crash::Lost);
        assert_eq!(entries_in_files(&after, "s").len(), 0, "the entries are in the journal alone");
        let again = open(&after, options);
        assert!(again.streams().unwrap() == ["s"]);
        again.close().unwrap();
        assert_eq!(entries_in_files(&after, "s"), texts(0, 20));
        assert!(open(&after, options).stream("s").unwrap().report().clean);
    });
}

#[test]
fn deleted_stream_does_not_come_back() {
    for_both(|options| {
        let storage = SimStorage::new(1);
        let wal = open(&storage, options);
        let stream = |wal: &Wal| wal.stream("s").unwrap();
        append_all(&stream(&wal), &texts(0, 20));
        wal.delete_stream("s").unwrap();
        let deleted = crashed(&storage, Crash::Lost);
        append_all(&stream(&wal), &texts(1, 5));
        let created = crashed(&storage, Crash::Lost);

        let wal = open(&deleted, options);
        assert!(wal.streams().unwrap().is_empty() && !stream(&wal).exists());
        assert_eq!(stream(&wal).append(b"new").unwrap(), 0);
        let wal = open(&created, options);
        assert_eq!(entries(&stream(&wal)), texts(1, 5));
        let wal = open(&crashed(&created, Crash::Kill), options);
        assert_eq!(entries(&stream(&wal)), texts(1, 5), "after a second crash");
    });
}

#[test]
fn truncated_entries_do_not_come_back() {
    for_both(|options| {
        let storage = SimStorage::new(1);
        let wal = open(&storage, options);
        let stream = wal.stream("s").unwrap();
        append_all(&stream, &texts(0, 30));
        stream.truncate_from(10).unwrap();
        for crash in [Crash::Kill, Crash::Lost] {
            let wal = open(&crashed(&storage, crash), options);
            assert_eq!(entries(&wal.stream("s").unwrap()), texts(0, 10), "{crash:?}");
        }
        assert_eq!(stream.append("other").unwrap(), 10);
        stream.truncate_before(4).unwrap();
        let expected = [&texts(0, 10)[4..], &[b"other".to_vec()]].concat();
        for crash in [Crash::Kill, Crash::Lost] {
            let wal = open(&crashed(&storage, crash), options);
            let stream = wal.stream("s").unwrap();
            assert_eq!((stream.first_seq(), entries(&stream)), (4, expected.clone()), "{crash:?}");
        }
        stream.truncate_before(100).unwrap();
        assert_eq!(stream.append("far").unwrap(), 100);
        let wal = open(&crashed(&storage, Crash::Lost), options);
        assert_eq!(entries(&wal.stream("s").unwrap()), [b"far"]);
    });
}

#[test]
fn journal_comes_and_goes_with_the_option() {
    for_both(|options| {
        let storage = SimStorage::new(1);
        let wal = open(&storage, &plain());
        assert!(!has_journal(&storage) && wal.stats().unwrap().journal_bytes == 0);
        let append = |wal: &Wal, seqs: std::ops::Range<u64>| {
            seqs.for_each(|seq| assert_eq!(wal.stream("s").unwrap().append(text(0, seq)).unwrap(), seq));
        };
        append(&wal, 0..10);
        let mut storage = crashed(&storage, Crash::Lost);
        for (round, options) in [options, &plain(), options, &plain()].into_iter().enumerate() {
            let before = 10 * (round as u64 + 1);
            let wal = open(&storage, options);
            assert_eq!(entries(&wal.stream("s").unwrap()), texts(0, before));
            append(&wal, before..before + 10);
            let with = round % 2 == 0;
            assert_eq!(has_journal(&storage), with);
            assert_eq!(format_of(&storage.disk()).has_journal(), with);
            assert_eq!(wal.stats().unwrap().journal_bytes > 0, with);
            // Without a close, so the journal is needed by the next opening.
            storage = crashed(&storage, Crash::Lost);
        }
        assert_eq!(entries_in_files(&storage, "s"), texts(0, 50));
    });
}

/// Every change of an opening that creates a journal, or gives one up, may be the last.
#[test]
fn crash_while_the_journal_comes_or_goes_loses_nothing() {
    for_both(|options| {
        for (from, to) in [(&plain(), options), (options, &plain())] {
            let storage = SimStorage::new(1);
            let wal = open(&storage, from);
            append_all(&wal.stream("s").unwrap(), &texts(0, 20));
            let storage = crashed(&storage, Crash::Lost);
            let images = Arc::new(Mutex::new(vec![storage.disk()]));
            let seen = Arc::clone(&images);
            storage.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
            drop(open(&storage, to));
            storage.unwatch();
            let images = images.lock().unwrap();
            assert!(images.len() > 20, "{} changes", images.len());
            let mut rng = Rng::new(3);
            for disk in images.iter().step_by(3) {
                for crash in [Crash::Kill, Crash::Lost, Crash::Kept, Crash::Mixed(128), Crash::Prefix] {
                    let disk = disk.crash(crash, &mut rng);
                    for next in [&plain(), options] {
                        let wal = open(&SimStorage::on(disk.clone(), 5), next);
                        assert_eq!(entries(&wal.stream("s").unwrap()), texts(0, 20), "{crash:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn leftover_journal_is_removed_without_foreign_files() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let options = [plain(), journaled(true)];
    for options in &options {
        drop(plain().open(dir.path()).unwrap());
        fs::create_dir_all(&journal).unwrap();
        for name in ["00000000000000000007.jnl", ".spare-00000000000000aa", "mine"] {
            fs::write(journal.join(name), "old").unwrap();
        }
        let wal = options.open(dir.path()).unwrap();
        wal.stream("s").unwrap().append("x").unwrap();
        let mut names: Vec<_> = fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| !name.to_str().unwrap().starts_with("0000000000000000000"));
        assert_eq!(names, ["mine"]);
        assert!(!journal.join("00000000000000000007.jnl").exists());
        wal.close().unwrap();
    }
    drop(plain().open(dir.path()).unwrap());
    assert_eq!(fs::read_dir(&journal).unwrap().count(), 1, "a foreign file keeps the directory");
}

fn format_of(disk: &Disk) -> FormatFile {
    FormatFile::decode(&disk.bytes(Path::new("/log/FORMAT")).unwrap()).unwrap()
}

#[test]
fn unknown_bit_beside_that_of_the_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(journaled(true).open(dir.path()).unwrap());
    let format = FormatFile::decode(&fs::read(dir.path().join("FORMAT")).unwrap()).unwrap();
    assert_eq!(format.features, Features::default().with_journal(true));
    for features in [Features { incompatible: 3, ..format.features }, Features { incompatible: 2, ..format.features }] {
        fs::write(dir.path().join("FORMAT"), FormatFile { features, ..format }.encode()).unwrap();
        for options in [journaled(true), plain()] {
            assert_eq!(options.open(dir.path()).unwrap_err().kind(), ErrorKind::NewerFormat);
            assert_eq!(options.open_read_only(dir.path()).unwrap_err().kind(), ErrorKind::NewerFormat);
        }
    }
}

#[test]
fn small_journal_holds_a_large_log() {
    const COUNT: u64 = 4000;
    for_both(|options| {
        let storage = SimStorage::new(1);
        let wal = open(&storage, &options.clone().journal_bytes(64 << 10));
        for seq in 0..COUNT {
            let stream = usize::try_from(seq % 5).unwrap();
            let handle = wal.stream(&stream.to_string()).unwrap().with_durability(LEVELS[stream % 2]);
            handle.append(text(stream, seq / 5)).unwrap();
        }
        assert!(wal.stats().unwrap().journal_bytes <= 64 << 10);
        let wal = open(&crashed(&storage, Crash::Kill), options);
        for stream in 0..5 {
            assert_eq!(entries(&wal.stream(&stream.to_string()).unwrap()), texts(stream, COUNT / 5));
        }
    });
}

#[test]
fn damaged_journal_refuses_writing_and_names_streams() {
    let storage = SimStorage::new(1);
    let wal = open_with_directories(&storage, &journaled(true), &["a", "b"]);
    for name in ["a", "b"] {
        append_all(&wal.stream(name).unwrap(), &texts(0, 20)[1..]);
    }
    let mut disk = crashed(&storage, Crash::Lost).disk();
    let files = disk.files();
    let (file, _) = files.iter().rfind(|(path, _)| path.ends_with(".jnl")).unwrap();
    let number: u64 = Path::new(file).file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let place = format!("file {number} at offset");
    disk.flip(Path::new(file), 4096 + 1000, 3).unwrap();
    let before = disk.files();
    let damaged = SimStorage::on(disk, 3);
    for options in [journaled(true), plain()] {
        let error = options.open_on(Arc::new(damaged.clone()), Path::new(LOG), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        let text = error.to_string();
        for part in ["/log/journal", &place, "\"a\"", "\"b\"", "inspect::readable"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
    let of_journal = |files: Vec<(String, u64)>| files.into_iter().filter(|(path, _)| path.contains("journal"));
    assert!(of_journal(damaged.disk().files()).eq(of_journal(before)), "nothing has changed");
    let reader = Options::new().open_on(Arc::new(damaged), Path::new(LOG), true).unwrap();
    assert_eq!(reader.streams().unwrap(), ["a", "b"]);
}

#[test]
fn missing_journal_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    journaled(true).open(dir.path()).unwrap().close().unwrap();
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    assert_eq!(journaled(true).open(dir.path()).unwrap_err().kind(), ErrorKind::Damaged);
    journaled(true).open_read_only(dir.path()).unwrap();
}

#[test]
fn options_out_of_range_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = [
        (Options::new().journal_bytes((64 << 10) - 1), "64 KiB to 512 MiB"),
        (Options::new().journal_bytes((512 << 20) + 1), "64 KiB to 512 MiB"),
        (Options::new().sync_interval(Some(Duration::ZERO)), "at least 1 ms"),
    ];
    for (options, range) in refused {
        let error = options.open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains(range), "{error}");
    }
}

/// Held by each test that has maintenance threads, or counts them.
fn alone_with_threads() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The maintenance threads of this process.
#[cfg(target_os = "linux")]
fn maintenance_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // A thread may end while they are listed.
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "stratawal-maint").count()
}

fn wait_until(event: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "{event}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn sync_interval_makes_buffered_entries_durable() {
    let _alone = alone_with_threads();
    for mapped in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let options = journaled(mapped).maintenance_thread(true).sync_interval(Some(Duration::from_millis(20)));
        let wal = options.open(dir.path()).unwrap();
        // The default of the stream is synced, so a stable entry is durable.
        let stream = wal.stream("s").unwrap();
        let buffered = stream.with_durability(Durability::Buffered);
        for seq in 0..5 {
            buffered.append(text(0, seq)).unwrap();
            wait_until("the entry becomes durable", || stream.stable_seq() == seq + 1);
        }
        wal.close().unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn maintenance_thread_lives_as_long_as_the_log() {
    let _alone = alone_with_threads();
    let dir = tempfile::tempdir().unwrap();
    let options = journaled(true).maintenance_thread(true);
    assert_eq!(maintenance_threads(), 0);
    let wal = options.open(dir.path()).unwrap();
    wait_until("the thread gets its name", || maintenance_threads() == 1);
    assert!(options.open(dir.path()).is_err_and(|error| error.kind() == ErrorKind::Locked));
    wal.close().unwrap();
    assert_eq!(maintenance_threads(), 0, "after the close");
    drop(wal);
    let wal = options.open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    drop(wal);
    stream.append("x").unwrap();
    wait_until("a stream keeps the thread", || maintenance_threads() == 1);
    drop(stream);
    assert_eq!(maintenance_threads(), 0, "after the last handle");
    for without in [options.clone().maintenance_thread(false), options.clone().journal(false)] {
        let wal = without.open(dir.path()).unwrap();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(maintenance_threads(), 0);
        assert_eq!(entries(&wal.stream("s").unwrap()), [b"x"]);
    }
    let reader = options.open_read_only(dir.path()).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(maintenance_threads(), 0, "a reader has none");
    assert_eq!(entries(&reader.stream("s").unwrap()), [b"x"]);
}

#[test]
fn many_threads_share_a_small_journal() {
    const THREADS: usize = 6;
    const COUNT: u64 = 300;
    let _alone = alone_with_threads();
    for has_thread in [true, false] {
        let storage = SimStorage::new(1);
        let options = journaled(has_thread).journal_bytes(64 << 10).maintenance_thread(has_thread);
        let options = options.sync_interval(Some(Duration::from_millis(1)));
        let wal = open(&storage, &options);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let stream = wal.stream(&number.to_string()).unwrap().with_durability(LEVELS[number % 2]);
                scope.spawn(move || append_all(&stream, &texts(number, COUNT)));
            }
        });
        let killed = crashed(&storage, Crash::Kill);
        wal.sync().unwrap();
        for after in [killed, crashed(&storage, Crash::Lost)] {
            let wal = open(&after, &options);
            for number in 0..THREADS {
                assert_eq!(entries(&wal.stream(&number.to_string()).unwrap()), texts(number, COUNT));
            }
        }
        wal.close().unwrap();
    }
}

#[test]
fn close_beside_appends_keeps_all_acknowledged() {
    const THREADS: usize = 4;
    let _alone = alone_with_threads();
    for mapped in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let options = journaled(mapped).maintenance_thread(true).sync_interval(Some(Duration::from_millis(1)));
        let wal = options.open(dir.path()).unwrap();
        let counts: Vec<u64> = thread::scope(|scope| {
            let append = |number: usize| {
                let stream = wal.stream(&number.to_string()).unwrap().with_durability(LEVELS[number % 3]);
                move || (0..).take_while(|&seq| stream.append(text(number, seq)).is_ok()).count() as u64
            };
            let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(append(number))).collect();
            thread::sleep(Duration::from_millis(50));
            wal.close().unwrap();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let reader = options.open_read_only(dir.path()).unwrap();
        for (number, &count) in counts.iter().enumerate() {
            assert_eq!(entries(&reader.stream(&number.to_string()).unwrap()), texts(number, count));
        }
    }
}

/// The stream "a" cannot take its entries, so the journal keeps them.
#[test]
fn damaged_stream_keeps_the_journal() {
    let storage = SimStorage::new(1);
    let wal = open_with_directories(&storage, &journaled(true), &["a", "b"]);
    for name in ["a", "b"] {
        append_all(&wal.stream(name).unwrap(), &texts(0, 20)[1..]);
    }
    let mut disk = storage.disk();
    let files = disk.files();
    let (segment, _) = files.iter().find(|(path, _)| path.starts_with("/log/streams/a/")).unwrap();
    let flip = |disk: &mut Disk| disk.flip(Path::new(segment), 40, 1).unwrap();
    flip(&mut disk);
    let damaged = SimStorage::on(disk, 3);
    let error = plain().open_on(Arc::new(damaged.clone()), Path::new(LOG), false).unwrap_err();
    assert_eq!((error.kind(), error.stream()), (ErrorKind::Damaged, Some("a")), "{error}");
    assert!(has_journal(&damaged) && format_of(&damaged.disk()).has_journal());
    let wal = open(&damaged, &journaled(true));
    assert_eq!(entries(&wal.stream("b").unwrap()), texts(0, 20));
    assert_eq!(wal.stream("a").unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(wal.close().unwrap_err().kind(), ErrorKind::Damaged, "the close reports it");

    let mut disk = damaged.disk();
    flip(&mut disk);
    let repaired = SimStorage::on(disk, 4);
    let wal = open(&repaired, &plain());
    assert_eq!(entries(&wal.stream("a").unwrap()), texts(0, 20));
    assert!(!has_journal(&repaired));
}

/// Every operation of an opening that creates a journal, or gives one up, may fail.
#[test]
fn failure_while_the_journal_comes_or_goes_loses_nothing() {
    for (from, to) in [(&plain(), &journaled(true)), (&journaled(false), &plain())] {
        let storage = SimStorage::new(1);
        let wal = open(&storage, from);
        append_all(&wal.stream("s").unwrap(), &texts(0, 20));
        let disk = crashed(&storage, Crash::Lost).disk();
        for fault in [Fault::Io, Fault::Full, Fault::TooManyFiles, Fault::IoAfterEffect] {
            for after in 0.. {
                let storage = SimStorage::on(disk.clone(), 5);
                storage.set_faults(Some(Faults { after, fault, forever: false }));
                let opened = to.open_on(Arc::new(storage.clone()), Path::new(LOG), false);
                let has_failed = storage.failed() > 0;
                storage.set_faults(None);
                drop(opened);
                for next in [&plain(), &journaled(true)] {
                    let wal = open(&crashed(&storage, Crash::Lost), next);
                    assert_eq!(entries(&wal.stream("s").unwrap()), texts(0, 20), "{fault:?} after {after}");
                }
                if !has_failed {
                    assert!(after > 5, "{fault:?}: {after} operations");
                    break;
                }
            }
        }
    }
}

/// In a forked child the thread does not exist, and dropping a handle waits for nothing.
#[test]
fn forked_child_waits_for_no_thread() {
    let _alone = alone_with_threads();
    let dir = tempfile::tempdir().unwrap();
    let wal = journaled(true).maintenance_thread(true).open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append(text(0, 0)).unwrap();
    // SAFETY: the child runs only the code below and ends with `_exit`. An allocation in it would
    // deadlock only if the C library left its allocator locked; glibc and musl do not.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "cannot fork");
    if pid == 0 {
        let is_refused = wal.close().is_err_and(|error| error.kind() == ErrorKind::Forked);
        drop((wal, stream));
        // SAFETY: only ends this process.
        unsafe { libc::_exit(i32::from(!is_refused)) };
    }
    let mut status = 0;
    wait_until("the child ends", || {
        // SAFETY: `status` is valid for writes.
        unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) == pid }
    });
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status}");
    stream.append(text(0, 1)).unwrap();
    wal.close().unwrap();
    assert_eq!(entries(&stream), texts(0, 2));
}

/// The journal shows that a removed directory had entries.
#[test]
fn removed_stream_with_entries_in_the_journal_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let copied = dir.path().join("copy");
    let live = dir.path().join("live");
    let wal = journaled(false).open(&live).unwrap();
    append_all(&wal.stream("s").unwrap(), &texts(0, 1));
    wal.close().unwrap();
    drop(wal);
    let wal = journaled(false).open(&live).unwrap();
    append_all(&wal.stream("s").unwrap(), &texts(0, 5)[1..]);
    for name in ["streams", "journal"] {
        fs::create_dir_all(copied.join(name)).unwrap();
        for file in fs::read_dir(live.join(name)).unwrap().map(Result::unwrap) {
            if file.file_type().unwrap().is_file() {
                fs::copy(file.path(), copied.join(name).join(file.file_name())).unwrap();
            }
        }
    }
    fs::copy(live.join("FORMAT"), copied.join("FORMAT")).unwrap();
    assert_eq!(plain().adopt_copy(true).open(&copied).unwrap_err().kind(), ErrorKind::Damaged);
    let wal = journaled(false).adopt_copy(true).open(&copied).unwrap();
    assert_eq!(wal.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
    wal.delete_stream("s").unwrap();
    assert_eq!(wal.stream("s").unwrap().append("new").unwrap(), 0);
    wal.close().unwrap();
    drop(wal);
    assert_eq!(entries(&plain().open(&copied).unwrap().stream("s").unwrap()), [b"new"]);
}
