//! Many threads that append, each to its own stream or all to one, and read at the same time.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stratawal::{Batch, Durability, Stream, StreamOptions, Visibility, Wal};

fn lines(of: usize, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| format!("{of} {i} {}", "x".repeat((i * 31 + of) % 90)).into_bytes()).collect()
}

/// Appends the texts concurrently, each list to its own stream, then reopens the log and reads them
/// back.
fn append_concurrently(texts: &[(String, Vec<Vec<u8>>)]) {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for (i, (name, lines)) in texts.iter().enumerate() {
            let wal = &wal;
            scope.spawn(move || {
                let durability = [Durability::Synced, Durability::Flushed, Durability::Buffered][i % 3];
                let stream = wal.stream(name).unwrap().with_durability(durability);
                for some in lines.chunks(1 + i * 17) {
                    let batch: Batch = some.iter().collect();
                    stream.append_batch(&batch).unwrap();
                }
            });
        }
    });
    wal.close().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    for (name, lines) in texts {
        let found: Vec<_> = wal.stream(name).unwrap().iter(..).map(|entry| entry.unwrap().data().to_vec()).collect();
        assert!(found == *lines, "{name}");
    }
}

#[test]
fn five_streams_are_filled_concurrently() {
    let texts: Vec<_> = (0..5).map(|i| (format!("stream {i}"), lines(i, 3000))).collect();
    append_concurrently(&texts);
}

#[test]
fn real_logs_are_appended_concurrently() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let Ok(files) = std::fs::read_dir(&data) else {
        // Bypasses the test harness, which hides the output of passing tests.
        let _ = writeln!(std::io::stderr(), "\nskipped: there are no real logs at {}", data.display());
        return;
    };
    let logs = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "log"));
    let texts: Vec<_> = logs
        .map(|path| {
            let text = std::fs::read(&path).unwrap();
            let text = text.strip_suffix(b"\n").unwrap_or(&text);
            let lines = text.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), lines)
        })
        .collect();
    assert!(!texts.is_empty());
    append_concurrently(&texts);
}

/// Encodes an entry: its writer's number, a count, its index in the batch, and the batch's length.
fn entry(writer: u64, count: u64, at: u64, of: u64) -> Vec<u8> {
    [writer, count, at, of].into_iter().flat_map(u64::to_le_bytes).collect()
}

fn fields(data: &[u8]) -> [u64; 4] {
    std::array::from_fn(|i| u64::from_le_bytes(data[i * 8..i * 8 + 8].try_into().unwrap()))
}

/// Reads everything visible. Checks that seqs have no gaps, that batches are complete and
/// contiguous, and that each writer's batches are in its order.
fn check_pass(stream: &Stream, visibility: Visibility) -> u64 {
    let stream = stream.with_visibility(visibility);
    let settled = stream.stable_seq();
    let mut last = [None; 4];
    let mut next = 0;
    let mut within = None;
    for found in stream.iter(..) {
        let found = found.unwrap();
        assert_eq!(found.seq(), next, "no gap");
        next += 1;
        let [writer, count, at, of] = fields(found.data());
        match within.take() {
            None => assert_eq!(at, 0, "a batch begins at its first entry"),
            Some(before) => assert_eq!((writer, count, at), before, "and is contiguous"),
        }
        within = (at + 1 < of).then_some((writer, count, at + 1));
        let last = &mut last[usize::try_from(writer).unwrap()];
        assert!(last.is_none_or(|last| last <= count), "a writer's batches are in its order");
        *last = Some(count);
    }
    assert!(within.is_none(), "the last batch is whole");
    assert!(next >= settled, "everything settled earlier is seen");
    next
}

#[test]
fn readers_see_whole_batches_of_four_writers() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let options = StreamOptions::new()
        .segment_bytes(64 << 10)
        .buffer_bytes(4 << 10)
        .unsynced_bytes_max(256 << 10)
        .unsynced_segments_max(3);
    let stream = wal.stream_with("s", options).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let stream = stream.clone();
                scope.spawn(move || {
                    for count in 0..400 {
                        let durability = [Durability::Buffered, Durability::Flushed, Durability::Synced]
                            [usize::try_from((writer + count / 40) % 3).unwrap()];
                        let of = 1 + count % 7;
                        let batch: Batch = (0..of).map(|at| entry(writer, count, at, of)).collect();
                        let seqs = stream.with_durability(durability).append_batch(&batch).unwrap();
                        if durability == Durability::Synced {
                            assert!(stream.stable_seq() >= seqs.end);
                            let found = stream.get(seqs.start).unwrap().unwrap();
                            assert_eq!(fields(found.data()), [writer, count, 0, of]);
                        }
                    }
                })
            })
            .collect();
        for visibility in [Visibility::Stable, Visibility::Accepted] {
            let stream = stream.clone();
            let done = Arc::clone(&done);
            scope.spawn(move || {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    let now = check_pass(&stream, visibility);
                    assert!(now >= seen, "entries that were seen stay");
                    seen = now;
                    if let Some(last) = stream.with_visibility(visibility).last().unwrap() {
                        assert!(last.seq() + 1 >= seen);
                    }
                }
            });
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let all = (0..400).map(|count| 1 + count % 7).sum::<u64>() * 4;
    assert_eq!(check_pass(&stream, Visibility::Accepted), all);
    drop(stream);
    wal.close().unwrap();
    let stream = Wal::open(dir.path()).unwrap().stream("s").unwrap();
    assert_eq!(check_pass(&stream, Visibility::Stable), all);
}

#[test]
fn concurrent_lookups_return_the_same_stream() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    for round in 0..20 {
        let name = format!("stream {round}");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| wal.stream(&name).unwrap().append("x").unwrap());
            }
        });
        assert_eq!(wal.stream(&name).unwrap().next_seq(), 4);
    }
}
