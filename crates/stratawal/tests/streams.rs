//! A log as a program uses it: names, restarts, many segments, many threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use stratawal::{Batch, Durability, ErrorKind, Options, Stream, StreamOptions, Visibility, Wal};

fn data(stream: &Stream, seq: u64) -> Vec<u8> {
    stream.get(seq).expect("reads").expect("exists").data().to_vec()
}

fn all(stream: &Stream) -> Vec<Vec<u8>> {
    stream.iter(..).map(|entry| entry.expect("reads").data().to_vec()).collect()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn appended_entries_exist_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for life in 0..5_u64 {
        let wal = Wal::open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        assert_eq!(stream.next_seq(), life * 3);
        assert_eq!(stream.append(format!("a{life}")).unwrap(), life * 3);
        let batch: Batch = [format!("b{life}"), String::new()].into_iter().collect();
        assert_eq!(stream.append_batch(&batch).unwrap(), life * 3 + 1..life * 3 + 3);
        for seq in 0..stream.next_seq() {
            let expected = match seq % 3 {
                0 => format!("a{}", seq / 3),
                1 => format!("b{}", seq / 3),
                _ => String::new(),
            };
            assert_eq!(data(&stream, seq), expected.as_bytes());
        }
        // Every other life ends with a close; the others end with a drop, which also closes.
        if life % 2 == 0 {
            wal.close().unwrap();
        }
    }
}

#[test]
fn log_that_was_not_closed_is_recovered() {
    for journal in [true, false] {
        // Each life continues a copy of the directory, made while nothing changes it.
        let options = Options::new().journal(journal).maintenance_thread(false).adopt_copy(true);
        let dir = tempfile::tempdir().unwrap();
        for life in 0..6_u64 {
            let wal = options.open(dir.path()).unwrap();
            let stream = wal.stream("s").unwrap();
            assert_eq!(stream.next_seq(), life * 10, "{:?}", stream.report());
            // The files of a stream are clean while the journal alone has its entries.
            assert!(life == 0 || journal || !stream.report().clean);
            for i in 0..10 {
                stream.append(format!("{life} {i}")).unwrap();
            }
            let copy = tempfile::tempdir().unwrap();
            copy_tree(dir.path(), copy.path());
            drop((stream, wal));
            // The files as a killed process leaves them, with no clean end.
            std::fs::remove_dir_all(dir.path()).unwrap();
            copy_tree(copy.path(), dir.path());
        }
        let wal = options.open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        let expected: Vec<_> = (0..60).map(|i| format!("{} {}", i / 10, i % 10).into_bytes()).collect();
        assert_eq!(all(&stream), expected);
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn different_names_are_different_streams() {
    let long = "x".repeat(240);
    let names = [
        "a/b", "a_b", "a:b", "a\\b", "user/1", "日本", "中国", "CON", "con", "..", ".", "A", "a", " ", "a b", "%",
        "%61", "nul.txt", "LOCK", ".new-1", ".tmp-a", "\0", "\n", "é", "e\u{301}", &long,
    ];
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("log");
    let wal = Wal::open(&dir).unwrap();
    for name in names {
        wal.stream(name).unwrap().append(name).unwrap();
    }
    wal.close().unwrap();
    let wal = Wal::open(&dir).unwrap();
    let mut listed = wal.streams().unwrap();
    listed.sort();
    let mut sorted = names.map(ToOwned::to_owned);
    sorted.sort();
    assert_eq!(listed, sorted);
    for name in names {
        let stream = wal.stream(name).unwrap();
        assert_eq!(stream.next_seq(), 1, "{name:?}");
        assert_eq!(data(&stream, 0), name.as_bytes());
    }
    assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1, "nothing leaves the root");
}

#[test]
fn invalid_names_are_refused_with_their_lengths() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    assert_eq!(wal.stream("").unwrap_err().kind(), ErrorKind::InvalidName);
    let error = wal.stream(&"日".repeat(1667)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidName);
    assert!(error.to_string().contains("5001 bytes, 15003 when escaped, at most 240"), "{error}");
    assert_eq!(wal.stream(&"x".repeat(241)).unwrap_err().kind(), ErrorKind::InvalidName);
    assert!(wal.streams().unwrap().is_empty());
}

#[test]
fn missing_stream_reads_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    // The thread would prepare a file for the journal.
    let wal = Options::new().maintenance_thread(false).open(dir.path()).unwrap();
    let before = files(dir.path());
    let stream = wal.stream("s").unwrap();
    assert!(!stream.exists());
    assert_eq!(stream.iter(..).count(), 0);
    assert_eq!(stream.iter(5..10).rev().count(), 0);
    assert!(stream.get(0).unwrap().is_none() && stream.last().unwrap().is_none());
    assert_eq!(stream.append_batch(&Batch::new()).unwrap(), 0..0);
    stream.sync().unwrap();
    assert!(!stream.exists() && wal.streams().unwrap().is_empty());
    assert_eq!(files(dir.path()).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
}

#[test]
fn second_writer_is_refused_and_a_reader_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Options::new().maintenance_thread(false).open(dir.path()).unwrap();
    wal.stream("s").unwrap().append("one").unwrap();
    let error = Wal::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(
        error.to_string().contains("LOCK") && error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );

    let before = files(dir.path());
    let reader = Options::new().open_read_only(dir.path()).unwrap();
    let seen = reader.stream("s").unwrap();
    assert_eq!(all(&seen), [b"one"]);
    assert_eq!(seen.append("two").unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(seen.sync().unwrap_err().kind(), ErrorKind::ReadOnly);
    reader.close().unwrap();
    assert_eq!(files(dir.path()), before, "a reader changes nothing");

    wal.stream("s").unwrap().append("two").unwrap();
    let seen = Options::new().open_read_only(dir.path()).unwrap().stream("s").unwrap();
    assert_eq!(all(&seen), [b"one", b"two"]);
    wal.close().unwrap();
    Wal::open(dir.path()).unwrap();
}

#[test]
fn invalid_options_create_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let new = |stream: StreamOptions| Options::new().stream_defaults(stream);
    for options in [
        new(StreamOptions::new().segment_bytes(1)),
        new(StreamOptions::new().frame_bytes(0)),
        new(StreamOptions::new().batch_bytes_max(0)),
        new(StreamOptions::new().batch_bytes_max(1 << 31)),
        new(StreamOptions::new().buffer_bytes(0)),
        new(StreamOptions::new().index_interval_bytes(0)),
    ] {
        let error = options.open(dir.path().join("log")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(format!("{error:?}").contains("at least") || format!("{error:?}").contains("1 byte to"), "{error:?}");
    }
    assert!(files(dir.path()).is_empty() && !dir.path().join("log").exists());
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for opened in [Wal::open(&file), Options::new().open_read_only(&file)] {
        let error = opened.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{} is a file, but a log is a directory; give the directory, or a new name", file.display())
        );
    }
}

#[test]
fn reader_creates_no_log() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("none")] {
        assert_eq!(Options::new().open_read_only(&path).unwrap_err().kind(), ErrorKind::Missing);
    }
    assert!(files(dir.path()).is_empty());
}

#[test]
fn thousand_clean_lives_make_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let lives = 1000;
    for life in 0..lives {
        let wal = Wal::open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        assert_eq!(stream.append(format!("line {life}")).unwrap(), life);
        wal.close().unwrap();
    }
    let segments = std::fs::read_dir(dir.path().join("streams/s")).unwrap().count();
    assert!(segments <= 3, "{segments} segments");
    let began = Instant::now();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    assert!(stream.report().clean && stream.report().scanned_bytes == 0);
    // A generous limit: this takes a few milliseconds.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for seq in (0..lives).step_by(97) {
        assert_eq!(data(&stream, seq), format!("line {seq}").as_bytes());
    }
    assert_eq!(all(&stream).len() as u64, lives);
}

#[test]
fn appends_of_many_threads_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let small = StreamOptions::new().segment_bytes(64 << 10);
    let wal = Options::new().stream_defaults(small).open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let wal = &wal;
            scope.spawn(move || {
                for i in 0..300_u64 {
                    let durability = [Durability::Buffered, Durability::Flushed, Durability::Synced][i as usize % 3];
                    let own = wal.stream(&format!("own {thread}")).unwrap().with_durability(durability);
                    assert_eq!(own.append(i.to_le_bytes()).unwrap(), i);
                    let shared = wal.stream("shared").unwrap().with_durability(durability);
                    let batch: Batch = [thread, i].iter().map(|n| n.to_le_bytes()).collect();
                    let seqs = shared.append_batch(&batch).unwrap();
                    if durability != Durability::Buffered {
                        let own_reads = shared.with_visibility(Visibility::Accepted);
                        assert_eq!(data(&own_reads, seqs.start), thread.to_le_bytes());
                    }
                }
            });
        }
    });
    wal.close().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let shared = all(&wal.stream("shared").unwrap());
    assert_eq!(shared.len(), 2 * 8 * 300);
    let mut next = [0_u64; 8];
    for pair in shared.chunks(2) {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let thread = number(&pair[0]) as usize;
        let i = number(&pair[1]);
        assert_eq!(i, next[thread], "batches are whole, and each thread's are in order");
        next[thread] += 1;
    }
    for thread in 0..8 {
        let own = all(&wal.stream(&format!("own {thread}")).unwrap());
        assert!(own.iter().enumerate().all(|(i, entry)| entry == &(i as u64).to_le_bytes()) && own.len() == 300);
    }
}

#[test]
fn accepted_entries_are_visible_before_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap().with_durability(Durability::Buffered);
    for i in 0..100_u64 {
        stream.append(i.to_le_bytes()).unwrap();
    }
    assert_eq!((stream.stable_seq(), stream.next_seq()), (0, 100));
    assert!(stream.get(0).unwrap().is_none() && stream.iter(..).next().is_none());
    let accepted = stream.with_visibility(Visibility::Accepted);
    assert_eq!(data(&accepted, 99), 99_u64.to_le_bytes());
    assert_eq!(all(&accepted).len(), 100);
    assert_eq!(
        accepted.iter(..).rev().map(|e| e.unwrap().seq()).collect::<Vec<_>>(),
        (0..100).rev().collect::<Vec<_>>()
    );
    stream.sync().unwrap();
    assert_eq!((stream.stable_seq(), all(&stream).len()), (100, 100));
}

#[test]
fn batch_larger_than_a_segment_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Options::new().stream_defaults(StreamOptions::new().segment_bytes(64 << 10)).open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append("small").unwrap();
    let big: Batch = (0..3000_u32).map(|i| vec![i as u8; 100]).collect();
    assert_eq!(stream.append_batch(&big).unwrap(), 1..3001);
    stream.append("after").unwrap();
    let huge = vec![7; 5 << 20];
    stream.append(&huge).unwrap();
    assert_eq!(stream.stats().unwrap().segments, 4);
    drop((stream, wal));
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    assert_eq!((data(&stream, 0), data(&stream, 3001)), (b"small".to_vec(), b"after".to_vec()));
    assert_eq!(data(&stream, 1500), vec![1499_u32 as u8; 100]);
    assert_eq!(data(&stream, 3002), huge);
    assert_eq!(all(&stream).len(), 3003);
}

#[test]
fn batch_over_the_bound_appends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Options::new().stream_defaults(StreamOptions::new().batch_bytes_max(1000)).open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    assert_eq!(stream.append([0; 1000]).unwrap_err().kind(), ErrorKind::TooLarge { len: 1004, max: 1000 });
    assert_eq!(stream.append([0; 996]).unwrap(), 0);
    assert_eq!(stream.next_seq(), 1);
}

#[test]
fn seq_at_finds_the_first_entry_of_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Options::new().stream_defaults(StreamOptions::new().segment_bytes(64 << 10)).open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    let before = SystemTime::now() - Duration::from_secs(1);
    for i in 0..400_u32 {
        stream.append(vec![i as u8; 700]).unwrap();
        if i % 100 == 50 {
            std::thread::sleep(Duration::from_millis(15));
        }
    }
    stream.sync().unwrap();
    let times: Vec<_> = stream.iter(..).map(|e| e.unwrap().timestamp()).collect();
    assert!(times.is_sorted());
    for time in times.iter().copied().chain([before, SystemTime::now() + Duration::from_secs(9)]) {
        let expected = times.partition_point(|&t| t < time) as u64;
        assert_eq!(stream.seq_at(time).unwrap(), expected);
    }
}

#[test]
fn closed_log_reads_and_refuses_appends() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append("one").unwrap();
    wal.close().unwrap();
    wal.close().unwrap();
    assert_eq!(stream.append("two").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(wal.stream("t").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(all(&stream), [b"one"]);
    let again = Wal::open(dir.path()).unwrap();
    assert!(again.stream("s").unwrap().report().clean);
}

#[test]
fn stream_keeps_its_log_open() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Wal::open(dir.path()).unwrap().stream("s").unwrap();
    stream.append("one").unwrap();
    assert_eq!(Wal::open(dir.path()).unwrap_err().kind(), ErrorKind::Locked);
    let iter = stream.iter(..);
    drop(stream);
    Wal::open(dir.path()).unwrap();
    assert_eq!(iter.count(), 1);
}

#[test]
fn log_keeps_space_for_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = dir.path().join("RESERVE");
    drop(Wal::open(dir.path()).unwrap());
    assert_eq!(reserve.metadata().unwrap().len(), 64 << 10);
    std::fs::remove_file(&reserve).unwrap();
    drop(Wal::open(dir.path()).unwrap());
    assert_eq!(reserve.metadata().unwrap().len(), 64 << 10, "recreated after its removal");
}

#[test]
fn reader_passes_earlier_closes_in_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    for life in 0..3_u64 {
        let wal = Wal::open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        // The second life appends nothing, so its CLOSE has no index points of its own. The third
        // life has few.
        for i in 0..[200, 0, 3][usize::try_from(life).unwrap()] {
            stream.append(vec![7; 100 + i]).unwrap();
        }
        wal.close().unwrap();
        let reader = Options::new().open_read_only(dir.path()).unwrap().stream("s").unwrap();
        assert_eq!(reader.next_seq(), [200, 200, 203][usize::try_from(life).unwrap()]);
        for seq in [0, 1, 57, 199] {
            assert_eq!(data(&reader, seq), vec![7; 100 + usize::try_from(seq).unwrap()]);
        }
        assert_eq!(all(&reader).len() as u64, reader.next_seq());
    }
}

#[test]
fn reader_survives_a_writer_that_continues() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    wal.stream("s").unwrap().append("first").unwrap();
    wal.close().unwrap();
    let reader = Options::new().open_read_only(dir.path()).unwrap().stream("s").unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    for i in 0..100 {
        stream.append(vec![7; i * 10]).unwrap();
    }
    assert_eq!(data(&reader, 0), b"first");
    assert_eq!(all(&reader), [b"first"]);
    reader.reopen().unwrap();
    assert_eq!(all(&reader).len(), 101);
}

#[test]
fn leftover_of_a_deletion_does_not_block_opening() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    wal.stream("gone").unwrap().append("a").unwrap();
    wal.stream("kept").unwrap().append("b").unwrap();
    // Now the streams have directories.
    wal.close().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    // Names that a file system or a user has created.
    std::fs::create_dir(dir.path().join("streams/gone/.snapshot")).unwrap();
    let error = wal.delete_stream("gone").unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains(".snapshot"), "{error}");
    assert!(error.to_string().contains("the stream is deleted"), "{error}");
    wal.close().unwrap();
    let again = Wal::open(dir.path()).unwrap();
    assert_eq!(again.streams().unwrap(), ["kept"]);
    assert_eq!(again.stream("gone").unwrap().append("new").unwrap(), 0);
}
