//! Following many streams by the beginning of their names, and following with tasks. Most tests run
//! without a commit journal and with one.

use std::collections::BTreeMap;
use std::future::{Future as _, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use futures_core::Stream as _;
use stratawal::{Durability, ErrorKind, FollowEvent, FollowPrefix, FollowStream, Options, PrefixEvent, Wal};
use stratawal_storage::MemoryStorage;
use stratawal_testkit::{HookedStorage, Operation};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);

fn options(journal: bool) -> Options {
    Options::new().journal(journal).journal_bytes(1 << 20)
}

fn on_both(test: impl Fn(&Path, &Wal)) {
    for journal in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        test(dir.path(), &wal);
    }
}

fn append(wal: &Wal, stream: &str, entry: &str) {
    wal.stream(stream).unwrap().append(entry).unwrap();
}

#[track_caller]
fn event(follow: &mut FollowPrefix) -> (String, FollowEvent) {
    let PrefixEvent { stream, event, .. } = follow.next_timeout(LONG).unwrap().expect("an event is due");
    (stream.to_string(), event)
}

/// The next entry as `stream seq data`.
#[track_caller]
fn entry(follow: &mut FollowPrefix) -> String {
    let (stream, event) = event(follow);
    let entry = event.into_entry().expect("an entry");
    format!("{stream} {} {}", entry.seq(), String::from_utf8_lossy(entry.data()))
}

/// The next `n` entries, sorted: between streams there is no order.
#[track_caller]
fn entries(follow: &mut FollowPrefix, n: usize) -> Vec<String> {
    let mut entries: Vec<_> = (0..n).map(|_| entry(follow)).collect();
    entries.sort();
    entries
}

#[track_caller]
fn assert_idle(follow: &mut FollowPrefix) {
    assert_eq!(follow.next_timeout(SHORT).unwrap(), None);
}

#[test]
fn streams_of_now_and_later_are_followed() {
    on_both(|_, wal| {
        append(wal, "order-1", "a");
        append(wal, "orders", "not this one");
        let empty = wal.stream("order-2").unwrap();
        let mut follow = wal.follow_prefix("order-", BTreeMap::new()).unwrap();
        assert_eq!(entry(&mut follow), "order-1 0 a");
        assert_idle(&mut follow);
        empty.append("b").unwrap();
        assert_eq!(entry(&mut follow), "order-2 0 b");
        let appending = wal.clone();
        let appended = thread::spawn(move || {
            thread::sleep(SHORT);
            append(&appending, "order-3", "c");
            append(&appending, "other", "not this one");
            append(&appending, "order-1", "d");
        });
        assert_eq!(entries(&mut follow, 2), ["order-1 1 d", "order-3 0 c"]);
        appended.join().unwrap();
        assert_idle(&mut follow);
        let positions = follow.positions().clone();
        assert_eq!(positions, BTreeMap::from([("order-1".into(), 2), ("order-2".into(), 1), ("order-3".into(), 1)]));
        drop(follow);
        append(wal, "order-2", "e");
        append(wal, "order-4", "f");
        let mut resumed = wal.follow_prefix("order-", positions).unwrap();
        assert_eq!(entries(&mut resumed, 2), ["order-2 1 e", "order-4 0 f"]);
        assert_idle(&mut resumed);
    });
}

#[test]
fn deletion_ends_only_the_part_of_that_stream() {
    on_both(|_, wal| {
        append(wal, "a", "1");
        append(wal, "b", "2");
        let mut follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
        assert_eq!(entries(&mut follow, 2), ["a 0 1", "b 0 2"]);
        wal.delete_stream("a").unwrap();
        // The new stream is open before the deletion of the old one is returned.
        append(wal, "a", "new");
        append(wal, "b", "3");
        let mut events: Vec<_> = (0..3).map(|_| event(&mut follow)).collect();
        let of_a: Vec<_> = events.extract_if(.., |(stream, _)| stream == "a").map(|(_, event)| event).collect();
        assert_eq!(of_a[0], FollowEvent::Deleted);
        assert_eq!(of_a[1].clone().into_entry().unwrap().data(), "new");
        assert_eq!(events[0].1.clone().into_entry().unwrap().data(), "3");
        let positions = follow.positions().clone();
        wal.delete_stream("b").unwrap();
        assert_eq!(event(&mut follow), ("b".into(), FollowEvent::Deleted));
        assert!(!follow.positions().contains_key("b"));
        let mut later = wal.follow_prefix("", positions).unwrap();
        assert_eq!(event(&mut later), ("b".into(), FollowEvent::Deleted), "it was deleted in between");
        assert_idle(&mut later);
        append(wal, "b", "again");
        assert_eq!(entry(&mut later), "b 0 again");
        assert_eq!(entry(&mut follow), "b 0 again");
    });
}

#[test]
fn closed_stream_continues_once_it_is_opened_again() {
    on_both(|_, wal| {
        append(wal, "a", "1");
        let mut follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
        assert_eq!(entry(&mut follow), "a 0 1");
        assert_idle(&mut follow);
        wal.stream("a").unwrap().close().unwrap();
        assert_idle(&mut follow);
        append(wal, "a", "2");
        assert_eq!(entry(&mut follow), "a 1 2");
    });
}

/// The stream is appended to and closed between two looks of the follower.
#[test]
fn entries_of_a_closed_stream_are_returned() {
    on_both(|_, wal| {
        append(wal, "a", "1");
        let held = wal.stream("a").unwrap();
        let mut follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
        assert_eq!(entry(&mut follow), "a 0 1");
        assert_idle(&mut follow);
        for seq in [1, 3, 5] {
            append(wal, "a", "2");
            wal.stream("a").unwrap().close().unwrap();
            append(wal, "a", "3");
            wal.stream("a").unwrap().close().unwrap();
            assert_eq!(entries(&mut follow, 2), [format!("a {seq} 2"), format!("a {} 3", seq + 1)]);
            assert_idle(&mut follow);
        }
        // A stream that is new to the follower, and one of which it has returned a part.
        append(wal, "b", "1");
        wal.stream("b").unwrap().close().unwrap();
        assert_eq!(entry(&mut follow), "b 0 1");
        append(wal, "a", "4");
        append(wal, "a", "5");
        assert_eq!(entry(&mut follow), "a 7 4");
        wal.stream("a").unwrap().close().unwrap();
        assert_eq!(entry(&mut follow), "a 8 5");
        assert_idle(&mut follow);
        drop(held);
    });
}

#[test]
fn entries_of_closed_streams_come_before_the_end() {
    let closes: [fn(&Wal) -> stratawal::Result<()>; 2] = [Wal::close, Wal::close_fast];
    for close in closes {
        on_both(|_, wal| entries_come_before(close, wal));
    }
}

fn entries_come_before(close: fn(&Wal) -> stratawal::Result<()>, wal: &Wal) {
    append(wal, "a", "1");
    let mut follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
    assert_eq!(entry(&mut follow), "a 0 1");
    assert_idle(&mut follow);
    append(wal, "a", "2");
    append(wal, "b", "3");
    append(wal, "c", "4");
    for closed in ["a", "b"] {
        wal.stream(closed).unwrap().close().unwrap();
    }
    close(wal).unwrap();
    assert_eq!(entries(&mut follow, 3), ["a 1 2", "b 0 3", "c 0 4"]);
    assert!(follow.next().is_none());
}

#[test]
fn follower_ends_while_streams_and_the_log_are_closed() {
    for round in 0..10_u64 {
        on_both(|_, wal| {
            let follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
            let following = thread::spawn(move || {
                let mut next: BTreeMap<Arc<str>, u64> = BTreeMap::new();
                for event in follow {
                    let PrefixEvent { stream, event, .. } = event.unwrap();
                    let seq = event.into_entry().expect("only entries").seq();
                    assert_eq!(next.insert(stream, seq + 1).unwrap_or_default(), seq);
                }
                next
            });
            for i in 0..30 {
                let stream = wal.stream(&format!("s{}", i % 7)).unwrap();
                stream.append("x").unwrap();
                stream.close().unwrap();
                if i % 10 == round {
                    thread::sleep(Duration::from_millis(3));
                }
            }
            wal.close().unwrap();
            assert_eq!(following.join().unwrap().values().sum::<u64>(), 30);
        });
    }
}

#[test]
fn closed_stream_without_new_entries_stays_closed() {
    on_both(|_, wal| {
        for i in 0..20 {
            append(wal, &format!("s{i}"), "1");
        }
        let mut follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
        assert_eq!(entries(&mut follow, 20).len(), 20);
        for round in 0..2 {
            for i in 0..20 {
                wal.stream(&format!("s{i}")).unwrap().close().unwrap();
            }
            assert_idle(&mut follow);
            assert_eq!(wal.stats().unwrap().streams, 0, "round {round}");
        }
        append(wal, "s7", "2");
        assert_eq!(entry(&mut follow), "s7 1 2");
        assert_eq!(wal.stats().unwrap().streams, 1);
    });
}

#[test]
fn changes_of_a_closed_stream_are_events() {
    on_both(|_, wal| {
        for _ in 0..5 {
            append(wal, "a", "1");
            append(wal, "b", "1");
        }
        let mut follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
        assert_eq!(entries(&mut follow, 10).len(), 10);
        assert_idle(&mut follow);
        let a = wal.stream("a").unwrap();
        a.truncate_from(3).unwrap();
        for _ in 0..4 {
            a.append("2").unwrap();
        }
        a.close().unwrap();
        assert_eq!(event(&mut follow), ("a".into(), FollowEvent::Cut { dropped: 3..5 }));
        assert_eq!(entries(&mut follow, 4), ["a 3 2", "a 4 2", "a 5 2", "a 6 2"]);
        wal.stream("b").unwrap().close().unwrap();
        assert_idle(&mut follow);
        wal.delete_stream("b").unwrap();
        assert_eq!(event(&mut follow), ("b".into(), FollowEvent::Deleted));
        assert!(!follow.positions().contains_key("b"));
        append(wal, "b", "new");
        wal.stream("b").unwrap().close().unwrap();
        assert_eq!(entry(&mut follow), "b 0 new");
        let c = wal.stream("c").unwrap();
        for _ in 0..5 {
            c.append("1").unwrap();
        }
        assert_eq!(entries(&mut follow, 2), ["c 0 1", "c 1 1"]);
        c.truncate_from(1).unwrap();
        for _ in 0..5 {
            c.append("2").unwrap();
        }
        c.close().unwrap();
        assert_eq!(event(&mut follow), ("c".into(), FollowEvent::Cut { dropped: 1..2 }));
        assert_eq!(entries(&mut follow, 5), ["c 1 2", "c 2 2", "c 3 2", "c 4 2", "c 5 2"]);
        // Closed, deleted and created again between two looks.
        wal.stream("b").unwrap().close().unwrap();
        wal.delete_stream("b").unwrap();
        for _ in 0..3 {
            append(wal, "b", "newer");
        }
        wal.stream("b").unwrap().close().unwrap();
        assert_eq!(event(&mut follow), ("b".into(), FollowEvent::Deleted));
        assert_eq!(entries(&mut follow, 3), ["b 0 newer", "b 1 newer", "b 2 newer"]);
        assert_idle(&mut follow);
    });
}

/// Cuts the stream at 1, and appends until it has five entries again.
fn cut_and_append(wal: &Wal, name: &str) {
    wal.stream(name).unwrap().truncate_from(1).unwrap();
    (0..4).for_each(|_| append(wal, name, "2"));
}

#[test]
fn cut_before_the_follower_looks_is_an_event() {
    on_both(|_, wal| {
        let names = ["a", "b", "c"];
        for name in names {
            (0..5).for_each(|_| append(wal, name, "1"));
        }
        let positions = BTreeMap::from(names.map(|name| (name.to_owned(), 5)));
        let check = |follow: &mut FollowPrefix, name: &str| {
            let mut next = event(follow);
            // Between streams there is no order, and only this one has changed.
            assert_eq!(next, (name.to_owned(), FollowEvent::Cut { dropped: 1..5 }));
            for seq in 1..5 {
                next = event(follow);
                let data = next.1.into_entry().map(|entry| (entry.seq(), entry.data().to_vec()));
                assert_eq!((next.0.as_str(), data), (name, Some((seq, b"2".to_vec()))));
            }
            assert_idle(follow);
        };
        // The stream is cut after the follower was created, and before it looks.
        let mut follow = wal.follow_prefix("", positions).unwrap();
        cut_and_append(wal, "a");
        check(&mut follow, "a");
        // Its entries were all returned, and it was closed before it is cut.
        wal.stream("b").unwrap().close().unwrap();
        assert_idle(&mut follow);
        cut_and_append(wal, "b");
        check(&mut follow, "b");
        // It is closed before the cut and after it.
        wal.stream("c").unwrap().close().unwrap();
        assert_idle(&mut follow);
        cut_and_append(wal, "c");
        wal.stream("c").unwrap().close().unwrap();
        wal.stream("c").unwrap().close().unwrap();
        check(&mut follow, "c");
    });
}

#[test]
fn stream_that_cannot_be_opened_is_tried_again() {
    for read_only in [false, true] {
        let storage = HookedStorage::new(MemoryStorage::new());
        let failing = Arc::new(AtomicBool::new(false));
        let open =
            |read_only| Options::new().journal(false).open_on(Arc::new(storage.clone()), Path::new("/log"), read_only);
        let wal = open(false).unwrap();
        append(&wal, "a", "1");
        append(&wal, "b", "2");
        wal.stream("b").unwrap().close().unwrap();
        let refused = Arc::clone(&failing);
        storage.set(move |operation, path| {
            let is_refused = operation == Operation::Open && path.extension().is_some_and(|end| end == "seg");
            let too_many_files = std::io::Error::from_raw_os_error(24);
            if is_refused && refused.load(Ordering::Relaxed) { Err(too_many_files) } else { Ok(()) }
        });
        let reader = if read_only { open(true).unwrap() } else { wal.clone() };
        let mut follow = reader.follow_prefix("", BTreeMap::from([("a".into(), 1)])).unwrap();
        failing.store(true, Ordering::Relaxed);
        let error = loop {
            if let Err(error) = follow.next_timeout(LONG) {
                break error;
            }
        };
        assert_eq!((error.kind(), error.io_kind().is_some()), (ErrorKind::Io, true), "{error}");
        let more = follow.next_timeout(LONG).unwrap_err();
        assert_eq!(more.kind(), ErrorKind::Io, "each try returns its error");
        failing.store(false, Ordering::Relaxed);
        let next = loop {
            if let Ok(Some(next)) = follow.next_timeout(LONG) {
                break next;
            }
        };
        assert_eq!((&*next.stream, next.event.into_entry().unwrap().seq()), ("b", 0));
        append(&wal, "a", "3");
        assert_eq!(entry(&mut follow), "a 1 3");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn followed_streams_of_a_reader_share_the_counter() {
    const STREAMS: usize = 30;
    on_both(|dir, wal| {
        for i in 0..STREAMS {
            append(wal, &format!("s{i}"), "1");
        }
        let reader = Options::new().open_read_only(dir).unwrap();
        let mut follow = reader.follow_prefix("", BTreeMap::new()).unwrap();
        assert_eq!(entries(&mut follow, STREAMS).len(), STREAMS);
        let handles: Vec<_> = (0..STREAMS).map(|i| reader.stream(&format!("s{i}")).unwrap()).collect();
        assert_idle(&mut follow);
        for handle in &handles {
            handle.reopen().unwrap();
        }
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let files = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
        let counters = files.filter(|file| *file == dir.canonicalize().unwrap().join("NOTIFY")).count();
        // The writer has the file mapped or open, and one look of the reader may use an older one.
        assert!(counters <= 3, "{counters} descriptors");
    });
}

#[test]
fn truncations_are_events_of_their_stream() {
    on_both(|_, wal| {
        for i in 0..5_u8 {
            wal.stream("a").unwrap().append([i]).unwrap();
        }
        let mut follow = wal.follow_prefix("", BTreeMap::from([("a".into(), 5)])).unwrap();
        assert_idle(&mut follow);
        wal.stream("a").unwrap().truncate_from(3).unwrap();
        assert_eq!(event(&mut follow), ("a".into(), FollowEvent::Cut { dropped: 3..5 }));
        assert_eq!(follow.positions()["a"], 3);
        wal.stream("a").unwrap().truncate_before(9).unwrap();
        assert_eq!(event(&mut follow), ("a".into(), FollowEvent::Truncated { dropped: 3..9 }));
    });
}

#[test]
fn stop_and_close_end_a_waiting_follower() {
    on_both(|_, wal| {
        append(wal, "a", "1");
        for stops in [true, false] {
            let follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
            let stopper = follow.stopper();
            let waiting = thread::spawn(move || follow.map(Result::unwrap).count());
            thread::sleep(SHORT);
            if stops {
                stopper.stop();
            } else {
                wal.close().unwrap();
            }
            assert_eq!(waiting.join().unwrap(), 1);
        }
        assert_eq!(wal.follow_prefix("", BTreeMap::new()).unwrap_err().kind(), ErrorKind::Closed);
    });
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let follow = wal.follow_prefix("none", BTreeMap::new()).unwrap();
    let waiting = thread::spawn(move || follow.count());
    thread::sleep(SHORT);
    wal.close().unwrap();
    assert_eq!(waiting.join().unwrap(), 0, "it follows no stream");
}

#[test]
fn entries_of_many_streams_and_threads_come_once() {
    const STREAMS: u64 = 60;
    on_both(|_, wal| {
        let follow = wal.follow_prefix("s", BTreeMap::new()).unwrap();
        let following = thread::spawn(move || {
            let mut next: BTreeMap<Arc<str>, u64> = BTreeMap::new();
            for event in follow {
                let PrefixEvent { stream, event, .. } = event.unwrap();
                let entry = event.into_entry().expect("only entries");
                let next = next.entry(stream).or_default();
                assert_eq!(entry.seq(), *next);
                assert_eq!(entry.data()[..8], next.to_le_bytes());
                *next += 1;
            }
            next
        });
        thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || {
                    for round in 0..40_u64 {
                        for stream in (0..STREAMS).filter(|stream| stream % 4 == writer) {
                            let handle = wal.stream(&format!("s{stream}")).unwrap();
                            let kept = if (round + stream) % 9 == 0 { Durability::Synced } else { Durability::Flushed };
                            handle.with_durability(kept).append(round.to_le_bytes()).unwrap();
                        }
                    }
                });
            }
        });
        wal.close().unwrap();
        let next = following.join().unwrap();
        assert_eq!(next.len() as u64, STREAMS);
        assert!(next.values().all(|&next| next == 40), "{next:?}");
    });
}

#[test]
fn reader_follows_streams_that_the_writer_creates() {
    on_both(|dir, wal| {
        append(wal, "a", "1");
        let reader = Options::new().open_read_only(dir).unwrap();
        let mut follow = reader.follow_prefix("", BTreeMap::new()).unwrap();
        assert_eq!(entry(&mut follow), "a 0 1");
        append(wal, "b", "2");
        assert_eq!(entry(&mut follow), "b 0 2");
        append(wal, "a", "3");
        assert_eq!(entry(&mut follow), "a 1 3");
        wal.delete_stream("a").unwrap();
        assert_eq!(event(&mut follow), ("a".into(), FollowEvent::Deleted));
        append(wal, "a", "new");
        assert_eq!(entry(&mut follow), "a 0 new");
        reader.close().unwrap();
        assert!(follow.next().is_none());
    });
}

/// Wakes a thread that runs one task.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `poll` in this thread until it is ready.
fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(ready) = poll(&mut Context::from_waker(&waker)) {
            return ready;
        }
        // A wake-up that is lost fails the test.
        thread::park_timeout(LONG);
    }
}

fn next<F>(follow: &mut FollowStream<F>) -> Option<<FollowStream<F> as futures_core::Stream>::Item>
where
    FollowStream<F>: futures_core::Stream + Unpin,
{
    let mut next = std::pin::pin!(poll_fn(|context| Pin::new(&mut *follow).poll_next(context)));
    block_on(|context| next.as_mut().poll(context))
}

#[test]
fn task_is_woken_for_each_entry_and_the_end() {
    on_both(|dir, wal| {
        let stream = wal.stream("s").unwrap();
        stream.append("0").unwrap();
        let mut follow = stream.follow(0).into_stream();
        let mut all = wal.follow_prefix("", BTreeMap::new()).unwrap().into_stream();
        let reader = Options::new().open_read_only(dir).unwrap();
        let mut beside = reader.stream("s").unwrap().follow(0).into_stream();
        let appender = stream.clone();
        let appended = thread::spawn(move || {
            for i in 1..100_u8 {
                thread::sleep(Duration::from_millis(u64::from(i % 3)));
                appender.append([i]).unwrap();
            }
        });
        for seq in 0..100 {
            let entry = next(&mut follow).unwrap().unwrap().into_entry().unwrap();
            assert_eq!(entry.seq(), seq);
            let event = next(&mut all).unwrap().unwrap();
            assert_eq!(event.event.into_entry().unwrap().seq(), seq);
            assert_eq!(next(&mut beside).unwrap().unwrap().into_entry().unwrap().seq(), seq);
        }
        appended.join().unwrap();
        assert_eq!((follow.get_ref().position(), all.get_ref().positions()["s"]), (100, 100));
        // A task that is dropped while it waits, and one that is woken by the end.
        let mut dropped = stream.follow(100).into_stream();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        assert!(Pin::new(&mut dropped).poll_next(&mut Context::from_waker(&waker)).is_pending());
        drop(dropped);
        let closing = wal.clone();
        let closed = thread::spawn(move || {
            thread::sleep(SHORT);
            closing.close().unwrap();
        });
        assert!(next(&mut follow).is_none());
        assert!(next(&mut all).is_none());
        assert!(next(&mut follow).is_none(), "again");
        closed.join().unwrap();
        beside.get_ref().stopper().stop();
        assert!(next(&mut beside).is_none());
    });
}
