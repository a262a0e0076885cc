//! The system's clock is wrong: briefly, while a log is open, or from one opening to the next. No
//! entry is lost or reordered, and once the clock is right again, so are the times.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stratawal::{Options, Stream, Wal};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_testkit::SimStorage;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// Times in 2025 and in 2261, in microseconds since 1970.
const PRESENT: u64 = 1_750_000_000 * SECOND;
const FAR: u64 = PRESENT + 236 * 365 * DAY;

fn open(storage: &(impl Storage + Clone + 'static)) -> Wal {
    // Each stream has a segment of its own from its first entry on.
    Options::new().journal(false).open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap()
}

fn at(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}

/// The times of all entries, in microseconds since 1970.
fn times(stream: &Stream) -> Vec<u64> {
    let time = |entry: stratawal::Result<stratawal::Entry>| {
        let since = entry.unwrap().timestamp().duration_since(UNIX_EPOCH).unwrap();
        u64::try_from(since.as_micros()).unwrap()
    };
    stream.iter(..).map(time).collect()
}

fn micros(by: u64) -> i64 {
    i64::try_from(by).unwrap()
}

#[test]
fn clock_jump_is_ignored_and_counted() {
    let sim = SimStorage::new(1);
    let wal = open(&sim);
    let stream = wal.stream("s").unwrap();
    stream.append("before").unwrap();
    sim.set_clock_by(micros(200 * 365 * DAY));
    stream.append("wrong").unwrap();
    sim.let_pass(SECOND);
    stream.append("wrong").unwrap();
    sim.set_clock_by(-micros(200 * 365 * DAY));
    sim.let_pass(SECOND);
    stream.append("after").unwrap();
    let times = times(&stream);
    assert!(times.is_sorted() && times[3] - times[0] < 3 * SECOND, "{times:?}");
    assert!(
        times[2] - times[1] >= SECOND - 1000 && times[3] - times[2] >= SECOND - 1000,
        "time passes as it does: {times:?}"
    );
    assert_eq!((stream.stats().unwrap().clock_jumps, wal.stats().unwrap().clock_jumps), (2, 2));
    assert_eq!(stream.seq_at(at(times[3])).unwrap(), 3, "the present is found");
}

#[test]
fn time_in_which_the_machine_slept_is_not_a_jump() {
    let sim = SimStorage::new(1);
    let stream = open(&sim).stream("s").unwrap();
    stream.append("before").unwrap();
    sim.let_pass(30 * DAY);
    stream.append("after").unwrap();
    let times = times(&stream);
    assert!(times[1] - times[0] >= 30 * DAY, "{times:?}");
    assert_eq!(stream.stats().unwrap().clock_jumps, 0);
}

#[test]
fn correct_clock_jump_lags_until_the_next_opening() {
    let sim = SimStorage::new(1);
    let wal = open(&sim);
    let stream = wal.stream("s").unwrap();
    stream.append("before").unwrap();
    sim.set_clock_by(micros(5 * HOUR));
    stream.append("lags").unwrap();
    assert_eq!(stream.stats().unwrap().clock_jumps, 1);
    drop(stream);
    wal.close().unwrap();
    let stream = open(&sim).stream("s").unwrap();
    stream.append("after").unwrap();
    let times = times(&stream);
    assert!(times[1] - times[0] < SECOND && times[2] - times[1] >= 5 * HOUR - SECOND, "{times:?}");
    assert_eq!(stream.stats().unwrap().clock_jumps, 0);
}

/// Runs one life of the log while the clock reads `now`. Returns the files as of its end.
fn life(storage: &MemoryStorage, now: u64, close: bool, act: impl FnOnce(&Stream)) -> MemoryStorage {
    let storage = storage.snapshot().with_clock(now, 10);
    let wal = open(&storage);
    act(&wal.stream("s").unwrap());
    if close {
        wal.close().unwrap();
    }
    // Copied before the log is dropped, which would close it.
    storage.snapshot()
}

fn append_three(stream: &Stream) {
    for _ in 0..3 {
        stream.append("entry").unwrap();
    }
}

#[test]
fn future_timestamps_end_with_the_next_opening() {
    for close in [true, false] {
        let storage = life(&MemoryStorage::new().with_seed(1), PRESENT, close, append_three);
        let storage = life(&storage, FAR, close, append_three);
        let segments = open(&storage.snapshot()).stream("s").unwrap().stats().unwrap().segments;
        let mut found = Vec::new();
        let storage = life(&storage, PRESENT + DAY, close, |stream| {
            append_three(stream);
            found = times(stream);
            let seqs = |time| stream.seq_at(at(time)).unwrap();
            assert_eq!(seqs(found[6]), 6, "the present is found, close {close}");
            assert_eq!(seqs(found[7]), 7);
            assert_eq!(seqs(PRESENT), 0);
            assert_eq!((seqs(FAR), seqs(u64::MAX / 2)), (9, 9), "no entry of the newest segment is that late");
            assert_eq!(stream.stats().unwrap().segments, segments + u64::from(close), "it has a segment of its own");
        });
        assert!(found[..3].iter().all(|&time| time < PRESENT + SECOND), "{found:?}");
        assert!(found[3..6].iter().all(|&time| time >= FAR), "{found:?}");
        assert!(found[6..].iter().all(|&time| (PRESENT + DAY..PRESENT + DAY + SECOND).contains(&time)), "{found:?}");
        // One opening is enough.
        life(&storage, PRESENT + 2 * DAY, close, |stream| {
            append_three(stream);
            assert!(times(stream)[9..].iter().all(|&time| time >= PRESENT + 2 * DAY), "close {close}");
            assert_eq!(stream.seq_at(at(PRESENT + 2 * DAY)).unwrap(), 9);
            assert_eq!((stream.first_seq(), stream.next_seq()), (0, 12));
        });
    }
}

#[test]
fn empty_segment_with_a_future_time_is_replaced() {
    for close in [true, false] {
        let storage = life(&MemoryStorage::new().with_seed(1), FAR, close, |stream| {
            append_three(stream);
            stream.truncate_from(0).unwrap();
        });
        let storage = life(&storage, PRESENT, close, |stream| {
            append_three(stream);
            assert!(times(stream).iter().all(|&time| time < PRESENT + SECOND), "close {close}");
            assert_eq!(stream.stats().unwrap().segments, 1);
            assert_eq!(stream.seq_at(at(PRESENT)).unwrap(), 0);
        });
        let files = storage.list(Path::new("/log/streams/s")).unwrap();
        assert_eq!(files.len(), 1, "{files:?}");
        life(&storage, PRESENT + HOUR, close, |stream| assert_eq!((stream.first_seq(), stream.next_seq()), (0, 3)));
    }
}

#[test]
fn large_entry_has_the_present_time() {
    // Over 1 MiB, so that it is written from the caller's memory.
    let large = vec![7; 1_200_000];
    for is_empty in [true, false] {
        let storage = life(&MemoryStorage::new().with_seed(1), FAR, true, |stream| {
            append_three(stream);
            if is_empty {
                stream.truncate_from(0).unwrap();
            }
        });
        life(&storage, PRESENT, true, |stream| {
            let seq = stream.append(&large).unwrap();
            let entry = stream.get(seq).unwrap().unwrap();
            assert!((at(PRESENT)..at(PRESENT + SECOND)).contains(&entry.timestamp()), "empty {is_empty}");
            assert!(entry.data()[..] == large, "empty {is_empty}");
            assert_eq!(stream.stats().unwrap().segments, if is_empty { 1 } else { 2 });
        });
    }
}

#[test]
fn truncation_resets_timestamps() {
    let storage = life(&MemoryStorage::new().with_seed(1), FAR, true, append_three);
    life(&storage, PRESENT, true, |stream| {
        stream.truncate_from(2).unwrap();
        append_three(stream);
        let times = times(stream);
        assert!(times[1] >= FAR && times[2..].iter().all(|&time| time < PRESENT + SECOND), "{times:?}");
    });
}

#[test]
fn clock_less_than_a_day_behind_keeps_timestamps() {
    for close in [true, false] {
        let storage = life(&MemoryStorage::new().with_seed(1), PRESENT, close, append_three);
        life(&storage, PRESENT - 20 * HOUR, close, |stream| {
            append_three(stream);
            let times = times(stream);
            assert!(times.is_sorted() && times[3] >= PRESENT, "{times:?}");
        });
    }
}
