//! Following a stream: each entry is returned once and in order, and every other change of the
//! stream is an event. Most tests run without a commit journal and with one.

use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use stratawal::{Durability, ErrorKind, Follow, FollowEvent, Options, Stream, StreamOptions, Visibility, Wal};

/// Much more than any wake-up takes.
const LONG: Duration = Duration::from_secs(20);
/// So short that nothing new comes in it.
const SHORT: Duration = Duration::from_millis(30);

fn options(journal: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500);
    Options::new().stream_defaults(streams).journal(journal).journal_bytes(256 << 10)
}

/// Runs `test` with the stream of a log without a journal, and of one with it.
fn on_both(test: impl Fn(&Wal, Stream)) {
    for journal in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        test(&wal, stream);
    }
}

#[track_caller]
fn event(follow: &mut Follow) -> FollowEvent {
    follow.next_timeout(LONG).unwrap().expect("an event is due")
}

#[track_caller]
fn entry(follow: &mut Follow) -> (u64, Vec<u8>) {
    match event(follow) {
        FollowEvent::Entry(entry) => (entry.seq(), entry.data().to_vec()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_idle(follow: &mut Follow) {
    assert_eq!(follow.next_timeout(SHORT).unwrap(), None);
}

#[test]
fn stored_entries_come_first_and_then_new_ones() {
    on_both(|_, stream| {
        for i in 0..3_u8 {
            stream.append([i]).unwrap();
        }
        let mut follow = stream.follow(1);
        assert_eq!(entry(&mut follow), (1, vec![1]));
        assert_eq!(entry(&mut follow), (2, vec![2]));
        assert_idle(&mut follow);
        let appender = stream.clone();
        let appending = thread::spawn(move || {
            thread::sleep(SHORT);
            appender.append([3]).unwrap();
        });
        assert_eq!(entry(&mut follow), (3, vec![3]));
        assert_eq!(follow.position(), 4);
        appending.join().unwrap();
        assert_idle(&mut follow);
    });
}

#[test]
fn missing_stream_is_followed_from_its_first_append() {
    on_both(|wal, stream| {
        let mut follow = stream.follow(0);
        drop(stream);
        assert_idle(&mut follow);
        // The follower keeps the stream in use, so this is the same one.
        wal.stream("s").unwrap().append("a").unwrap();
        assert_eq!(entry(&mut follow), (0, b"a".to_vec()));
    });
}

#[test]
fn event_wakes_a_waiting_thread_at_once() {
    on_both(|_, stream| {
        let follow = stream.follow(0);
        let (sender, received) = mpsc::channel();
        let consumer = thread::spawn(move || {
            for event in follow.take(100) {
                sender.send((Instant::now(), event.unwrap())).unwrap();
            }
        });
        let mut slowest = Duration::ZERO;
        for i in 0..100_u64 {
            // So long that the follower has registered.
            thread::sleep(Duration::from_millis(3));
            stream.append(i.to_le_bytes()).unwrap();
            let appended = Instant::now();
            let (at, event) = received.recv_timeout(LONG).unwrap();
            assert_eq!(event.into_entry().map(|entry| entry.seq()), Some(i));
            slowest = slowest.max(at.saturating_duration_since(appended));
        }
        consumer.join().unwrap();
        println!("volume: the slowest of 100 wake-ups took {slowest:?}");
    });
}

#[test]
fn visibility_decides_what_is_followed() {
    on_both(|_, stream| {
        stream.append("0").unwrap();
        let buffered = stream.with_durability(Durability::Buffered);
        let mut stable = stream.follow(0);
        let mut accepted = stream.with_visibility(Visibility::Accepted).follow(0);
        assert_eq!(entry(&mut stable).0, 0);
        assert_eq!(entry(&mut accepted).0, 0);
        let appending = thread::spawn(move || {
            thread::sleep(SHORT);
            buffered.append("1").unwrap();
            buffered.append("2").unwrap();
        });
        assert_eq!(entry(&mut accepted), (1, b"1".to_vec()));
        assert_eq!(entry(&mut accepted), (2, b"2".to_vec()));
        appending.join().unwrap();
        assert_eq!(stable.next_timeout(Duration::ZERO).unwrap(), None, "it is not durable yet");
        stream.sync().unwrap();
        assert_eq!(entry(&mut stable), (1, b"1".to_vec()));
        assert_eq!(entry(&mut stable), (2, b"2".to_vec()));
    });
}

#[test]
fn truncated_beginning_is_an_event() {
    on_both(|_, stream| {
        for i in 0..10_u8 {
            stream.append([i]).unwrap();
        }
        stream.truncate_before(4).unwrap();
        let mut follow = stream.follow(1);
        assert_eq!(event(&mut follow), FollowEvent::Truncated { dropped: 1..4 });
        assert_eq!(entry(&mut follow).0, 4);
        // Beyond the end, while the follower waits.
        let mut waiting = stream.follow(10);
        assert_idle(&mut waiting);
        let truncating = stream.clone();
        let truncated = thread::spawn(move || {
            thread::sleep(SHORT);
            truncating.truncate_before(20).unwrap();
        });
        assert_eq!(event(&mut waiting), FollowEvent::Truncated { dropped: 10..20 });
        truncated.join().unwrap();
        assert_eq!(event(&mut follow), FollowEvent::Truncated { dropped: 5..20 });
        stream.append("x").unwrap();
        assert_eq!(entry(&mut waiting), (20, b"x".to_vec()));
        assert_eq!(entry(&mut follow), (20, b"x".to_vec()));
    });
}

#[test]
fn truncation_below_the_position_is_no_event() {
    on_both(|_, stream| {
        for i in 0..10_u8 {
            stream.append([i]).unwrap();
        }
        let mut follow = stream.follow(8);
        stream.truncate_before(8).unwrap();
        stream.truncate_from(9).unwrap();
        assert_eq!(entry(&mut follow), (8, vec![8]));
        assert_idle(&mut follow);
        stream.append("x").unwrap();
        assert_eq!(entry(&mut follow), (9, b"x".to_vec()));
    });
}

#[test]
fn cut_end_is_an_event_and_seqs_come_anew() {
    on_both(|_, stream| {
        for i in 0..10_u8 {
            stream.append([i]).unwrap();
        }
        let mut follow = stream.follow(8);
        assert_eq!(entry(&mut follow), (8, vec![8]));
        assert_eq!(entry(&mut follow), (9, vec![9]));
        let cutting = stream.clone();
        let cut = thread::spawn(move || {
            thread::sleep(SHORT);
            cutting.truncate_from(7).unwrap();
            cutting.append("x").unwrap();
        });
        assert_eq!(event(&mut follow), FollowEvent::Cut { dropped: 7..10 });
        assert_eq!(follow.position(), 7);
        assert_eq!(entry(&mut follow), (7, b"x".to_vec()));
        cut.join().unwrap();
        // Two cuts between two events are one, at the lower seq.
        stream.truncate_from(5).unwrap();
        stream.append("y").unwrap();
        stream.truncate_from(6).unwrap();
        stream.append("z").unwrap();
        assert_eq!(event(&mut follow), FollowEvent::Cut { dropped: 5..8 });
        assert_eq!(entry(&mut follow), (5, b"y".to_vec()));
        assert_eq!(entry(&mut follow), (6, b"z".to_vec()));
    });
}

#[test]
fn position_above_the_end_is_a_cut() {
    on_both(|_, stream| {
        stream.append("0").unwrap();
        let mut follow = stream.follow(5);
        assert_eq!(event(&mut follow), FollowEvent::Cut { dropped: 1..5 });
        stream.append("1").unwrap();
        assert_eq!(entry(&mut follow), (1, b"1".to_vec()));
        // The end itself is a position, also if its entry is not stable.
        stream.with_durability(Durability::Buffered).append("2").unwrap();
        let mut follow = stream.follow(3);
        stream.sync().unwrap();
        assert_idle(&mut follow);
    });
}

#[test]
fn deletion_is_the_last_event() {
    on_both(|wal, stream| {
        stream.append("0").unwrap();
        let mut follow = stream.follow(0);
        let behind = stream.follow(0);
        assert_eq!(entry(&mut follow).0, 0);
        let deleting = wal.clone();
        let deleted = thread::spawn(move || {
            thread::sleep(SHORT);
            deleting.delete_stream("s").unwrap();
        });
        assert_eq!(event(&mut follow), FollowEvent::Deleted);
        deleted.join().unwrap();
        wal.stream("s").unwrap().append("new").unwrap();
        assert_eq!(follow.next_timeout(LONG).unwrap_err().kind(), ErrorKind::Missing);
        assert!(follow.next().is_none());
        let rest: Vec<_> = behind.map(Result::unwrap).collect();
        assert_eq!(rest.last(), Some(&FollowEvent::Deleted), "{rest:?}");
        let late: Vec<_> = stream.follow(0).map(Result::unwrap).collect();
        assert_eq!(late, [FollowEvent::Deleted]);
    });
}

/// A thread that collects the entries of `follow` until its end.
fn collect(follow: Follow) -> JoinHandle<Vec<Vec<u8>>> {
    thread::spawn(move || {
        follow.map(|event| event.unwrap().into_entry().expect("only entries").data().to_vec()).collect()
    })
}

#[test]
fn close_ends_a_follower_after_the_last_entry() {
    for fast in [false, true] {
        on_both(|wal, stream| {
            let follower = collect(stream.follow(0));
            let buffered = stream.with_durability(Durability::Buffered);
            for i in 0..50_u8 {
                buffered.append([i]).unwrap();
            }
            let mut late = stream.follow(49);
            if fast { wal.close_fast() } else { wal.close() }.unwrap();
            assert_eq!(follower.join().unwrap().len(), 50);
            assert_eq!(entry(&mut late).0, 49);
            assert_eq!(late.next_timeout(LONG).unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(late.next_timeout(LONG).unwrap_err().kind(), ErrorKind::Closed);
            assert!(late.next().is_none());
            assert!(stream.follow(50).next().is_none());
        });
    }
}

#[test]
fn call_without_a_timeout_notices_the_end() {
    on_both(|wal, stream| {
        let mut follow = stream.follow(0);
        assert_eq!(follow.next_timeout(Duration::ZERO).unwrap(), None);
        stream.append("0").unwrap();
        wal.close().unwrap();
        assert!(follow.next_timeout(Duration::ZERO).unwrap().is_some());
        assert_eq!(follow.next_timeout(Duration::ZERO).unwrap_err().kind(), ErrorKind::Closed);
    });
    on_both(|_, stream| {
        let mut follow = stream.follow(0);
        stream.close().unwrap();
        assert_eq!(follow.next_timeout(Duration::ZERO).unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[test]
fn stop_ends_a_waiting_follower() {
    on_both(|_, stream| {
        stream.append("0").unwrap();
        let follow = stream.follow(1);
        let stopper = follow.stopper();
        let waiting = collect(follow);
        thread::sleep(SHORT);
        stopper.stop();
        assert!(waiting.join().unwrap().is_empty());
        let mut follow = stream.follow(0);
        follow.stopper().stop();
        assert_eq!(follow.next_timeout(LONG).unwrap_err().kind(), ErrorKind::Closed, "although there is an entry");
        assert!(follow.next().is_none());
    });
}

#[test]
fn timeout_ends_a_wait_and_nothing_else() {
    on_both(|_, stream| {
        let mut follow = stream.follow(0);
        let began = Instant::now();
        for _ in 0..3 {
            assert_idle(&mut follow);
        }
        let waited = began.elapsed();
        assert!(waited >= SHORT * 3, "{waited:?}");
        stream.append("0").unwrap();
        assert_eq!(entry(&mut follow).0, 0);
        assert_eq!(follow.next_timeout(Duration::ZERO).unwrap(), None);
        stream.append("1").unwrap();
        assert_eq!(follow.next_timeout(Duration::MAX).unwrap().unwrap().into_entry().unwrap().seq(), 1);
    });
}

/// Sends each seq that `follow` returns.
fn seqs(follow: Follow) -> (JoinHandle<()>, Receiver<u64>) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        for event in follow {
            let entry = event.unwrap().into_entry().expect("only entries");
            assert_eq!(entry.data()[..8], entry.seq().to_le_bytes());
            sender.send(entry.seq()).unwrap();
        }
    });
    (thread, receiver)
}

#[test]
fn followers_of_a_burst_miss_and_double_nothing() {
    on_both(|wal, stream| {
        let handles = [Visibility::Stable, Visibility::Accepted].map(|visibility| stream.with_visibility(visibility));
        let followers: Vec<_> = (0..6).map(|i| seqs(handles[i % 2].follow(0))).collect();
        let durabilities = [Durability::Buffered, Durability::Flushed, Durability::Synced];
        let mut end = 0_u64;
        for burst in 0..60_u64 {
            let handle = stream.with_durability(durabilities[burst as usize % 3]);
            for _ in 0..burst * 7 % 200 + 1 {
                // Some entries are long, so that the burst goes through several segments.
                let len = if end.is_multiple_of(50) { 1000 } else { 1 };
                handle.append(end.to_le_bytes().repeat(len)).unwrap();
                end += 1;
            }
            stream.sync().unwrap();
            // The last entry of the burst reaches every follower without another append.
            for (_, received) in &followers {
                while received.recv_timeout(LONG).expect("the entries are durable") < end - 1 {}
            }
        }
        wal.close().unwrap();
        for (thread, received) in followers {
            thread.join().unwrap();
            assert_eq!(received.try_iter().count(), 0);
        }
    });
}

#[test]
fn entries_of_many_threads_are_followed_in_order() {
    on_both(|wal, stream| {
        let followers: Vec<_> = (0..3).map(|_| collect(stream.follow(0))).collect();
        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let stream = &stream;
                scope.spawn(move || {
                    let handle = stream.with_durability([Durability::Flushed, Durability::Synced][thread as usize % 2]);
                    for i in 0..300_u64 {
                        handle.append((thread << 32 | i).to_le_bytes()).unwrap();
                    }
                });
            }
        });
        // The last entries may only be flushed.
        stream.sync().unwrap();
        let expected: Vec<_> = stream.iter(..).map(|entry| entry.unwrap().data().to_vec()).collect();
        wal.close().unwrap();
        assert_eq!(expected.len(), 1200);
        for follower in followers {
            assert!(follower.join().unwrap() == expected);
        }
    });
}

/// The processor time that this thread has used.
#[cfg(target_os = "linux")]
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn idle_follower_uses_no_processor_time() {
    on_both(|wal, stream| {
        stream.append("0").unwrap();
        let mut follow = stream.follow(0);
        let waiting = thread::spawn(move || {
            assert_eq!(entry(&mut follow).0, 0);
            let before = thread_time();
            assert!(follow.next().is_none());
            thread_time() - before
        });
        thread::sleep(Duration::from_millis(500));
        wal.close().unwrap();
        let used = waiting.join().unwrap();
        assert!(used < Duration::from_millis(2), "{used:?}");
    });
}

#[test]
fn follower_of_a_reader_sees_a_writer_that_restarts() {
    for journal in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        drop(options(journal).open(dir.path()).unwrap());
        let reader = Options::new().open_read_only(dir.path()).unwrap();
        let mut follow = reader.stream("s").unwrap().follow(0);
        assert_idle(&mut follow);
        let mut next = 0_u64;
        for life in 0..4 {
            let wal = options(journal).open(dir.path()).unwrap();
            let stream = wal.stream("s").unwrap();
            for _ in 0..40 {
                stream.append(u64::to_le_bytes(next)).unwrap();
                assert_eq!(entry(&mut follow), (next, next.to_le_bytes().into()));
                next += 1;
            }
            if life % 2 == 0 {
                wal.close().unwrap();
            }
        }
        let stream = options(journal).open(dir.path()).unwrap().stream("s").unwrap();
        stream.truncate_from(next - 2).unwrap();
        assert_eq!(event(&mut follow), FollowEvent::Cut { dropped: next - 2..next });
        stream.truncate_before(next + 10).unwrap();
        assert_eq!(event(&mut follow), FollowEvent::Truncated { dropped: next - 2..next + 10 });
        let stopper = follow.stopper();
        let waiting = thread::spawn(move || follow.next().is_none());
        thread::sleep(SHORT);
        stopper.stop();
        assert!(waiting.join().unwrap());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn follower_of_a_reader_is_quick_and_cheap() {
    for journal in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        stream.append("0").unwrap();
        let reader = Options::new().open_read_only(dir.path()).unwrap();
        let mut follow = reader.stream("s").unwrap().follow(0);
        assert_eq!(entry(&mut follow).0, 0);
        let before = thread_time();
        assert_eq!(follow.next_timeout(Duration::from_secs(1)).unwrap(), None);
        let idle = thread_time() - before;
        let (sender, received) = mpsc::channel();
        let consumer = thread::spawn(move || {
            for event in follow.take(200) {
                sender.send((Instant::now(), event.unwrap())).unwrap();
            }
        });
        let mut delays = Vec::new();
        for seq in 1..=200 {
            stream.append("x").unwrap();
            let appended = Instant::now();
            let (at, event) = received.recv_timeout(LONG).unwrap();
            assert_eq!(event.into_entry().map(|entry| entry.seq()), Some(seq));
            delays.push(at.saturating_duration_since(appended));
            thread::sleep(Duration::from_millis(seq % 7));
        }
        consumer.join().unwrap();
        delays.sort();
        println!("volume: {idle:?} in an idle second, delays p50 {:?}, p98 {:?}", delays[100], delays[196]);
        // Much more than on a machine that does nothing else.
        assert!(idle < Duration::from_millis(100), "{idle:?}");
        assert!(delays[100] < Duration::from_millis(100), "{delays:?}");
    }
}

/// The processor time of a flushed append of 128 bytes, in nanoseconds, beside this many followers.
#[cfg(target_os = "linux")]
fn append_nanos(journal: bool, followers: usize) -> u64 {
    const APPENDS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let wal = Options::new().journal(journal).open(dir.path()).unwrap();
    let flushed = StreamOptions::new().durability(Durability::Flushed);
    let stream = wal.stream_with("s", flushed).unwrap();
    let following: Vec<_> = (0..followers)
        .map(|_| {
            let follow = stream.follow(0);
            thread::spawn(move || follow.map(Result::unwrap).count())
        })
        .collect();
    let before = thread_time();
    for _ in 0..APPENDS {
        stream.append([7; 128]).unwrap();
    }
    let used = thread_time() - before;
    wal.close().unwrap();
    for follower in following {
        assert_eq!(follower.join().unwrap() as u64, APPENDS);
    }
    u64::try_from(used.as_nanos()).unwrap() / APPENDS
}

#[cfg(target_os = "linux")]
#[test]
fn ten_followers_see_a_writer_at_full_speed() {
    for journal in [false, true] {
        let best = |followers| (0..3).map(|_| append_nanos(journal, followers)).min().unwrap();
        let (alone, beside) = (best(0), best(10));
        println!("volume: journal {journal}: an append takes {alone} ns alone, {beside} ns beside ten followers");
    }
}

#[test]
fn reader_begins_at_a_position_newer_than_its_look() {
    let dir = tempfile::tempdir().unwrap();
    let stream = options(true).open(dir.path()).unwrap().stream("s").unwrap();
    stream.append("0").unwrap();
    let reader = Options::new().open_read_only(Path::new(dir.path())).unwrap().stream("s").unwrap();
    for _ in 0..9 {
        stream.append("x").unwrap();
    }
    assert_eq!(entry(&mut reader.follow(8)).0, 8);
    stream.truncate_from(5).unwrap();
    assert_eq!(event(&mut reader.follow(8)), FollowEvent::Cut { dropped: 5..8 });
}

#[test]
fn stream_created_again_is_another_for_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let wal = options(true).open(dir.path()).unwrap();
    wal.stream("s").unwrap().append("old").unwrap();
    // The old stream is in its files, and the new one in the journal alone.
    wal.close().unwrap();
    let wal = options(true).open(dir.path()).unwrap();
    let reader = Options::new().open_read_only(dir.path()).unwrap();
    let mut follow = reader.stream("s").unwrap().follow(0);
    assert_eq!(entry(&mut follow).1, b"old");
    wal.delete_stream("s").unwrap();
    wal.stream("s").unwrap().append("new").unwrap();
    assert_eq!(event(&mut follow), FollowEvent::Deleted);
    let mut follow = reader.stream("s").unwrap().follow(0);
    assert_eq!(entry(&mut follow).1, b"new");
    // The new stream gets its files.
    wal.close().unwrap();
    let wal = options(true).open(dir.path()).unwrap();
    wal.stream("s").unwrap().append("newer").unwrap();
    assert_eq!(entry(&mut follow).1, b"newer");
}

#[test]
fn follower_of_a_reader_sees_a_deletion() {
    for journal in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        wal.stream("s").unwrap().append("0").unwrap();
        let mut follow = Options::new().open_read_only(dir.path()).unwrap().stream("s").unwrap().follow(0);
        assert_eq!(entry(&mut follow).0, 0);
        wal.delete_stream("s").unwrap();
        assert_eq!(event(&mut follow), FollowEvent::Deleted);
        assert_eq!(follow.next_timeout(LONG).unwrap_err().kind(), ErrorKind::Missing);
    }
}
