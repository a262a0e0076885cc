//! Appends that do not wait: their outcomes, the order in which they complete, and what bounds
//! them.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use stratawal::{Batch, Durability, ErrorKind, FollowEvent, Options, Stream, StreamOptions, Ticket, Visibility, Wal};
use stratawal_testkit::{Fault, Faults, Gate, HookedStorage, Operation, SimStorage};

/// A log without and one with a journal.
const JOURNAL: [bool; 2] = [false, true];

/// A test that waits longer than this hangs.
const LONG: Duration = Duration::from_secs(60);

fn batch(entry: impl AsRef<[u8]>) -> Batch {
    [entry].into_iter().collect()
}

fn options(journal: bool) -> Options {
    Options::new().journal(journal)
}

fn wait(mut ticket: Ticket) -> stratawal::Result<std::ops::Range<u64>> {
    ticket.wait_timeout(LONG).expect("no ticket hangs")
}

/// A storage on which the syncs of files wait while a gate is closed.
fn gated() -> (HookedStorage, Gate, Arc<AtomicBool>) {
    let storage = HookedStorage::new(SimStorage::new(1));
    let gate = Gate::new();
    let is_closed = Arc::new(AtomicBool::new(false));
    let (passed, closed) = (gate.clone(), Arc::clone(&is_closed));
    storage.set(move |operation, _| {
        if operation == Operation::Sync && closed.load(Ordering::Acquire) {
            passed.pass();
        }
        Ok(())
    });
    (storage, gate, is_closed)
}

fn open_on(storage: &HookedStorage, options: &Options) -> Wal {
    options.open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap()
}

#[test]
fn ticket_completes_at_the_durability_of_its_handle() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        for durability in [Durability::Synced, Durability::Flushed, Durability::Buffered, Durability::Synced] {
            let handle = stream.with_durability(durability);
            let next = stream.next_seq();
            let batch: Batch = ["a", "b"].into_iter().collect();
            let ticket = handle.submit(&batch).unwrap();
            assert_eq!(ticket.seqs(), next..next + 2, "the seqs are known at once");
            assert_eq!(stream.next_seq(), next + 2);
            assert_eq!(wait(ticket).unwrap(), next..next + 2);
            if durability == Durability::Synced {
                assert_eq!(stream.stable_seq(), next + 2, "journal {journal}");
            }
            let other = handle.try_submit(&batch).unwrap();
            assert_eq!(other.wait().unwrap(), next + 2..next + 4);
        }
        let mut empty = stream.submit(&Batch::new()).unwrap();
        assert_eq!(empty.wait_timeout(Duration::ZERO).expect("it is complete").unwrap(), 16..16);
        drop(wal);
    }
}

/// Polls a future in this thread until it is ready.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(LONG),
        }
    }
}

#[test]
fn ticket_is_awaited_without_a_runtime() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        let seqs = block_on(async {
            let first = stream.submit(&batch("a"))?.await?;
            let second = stream.submit(&batch("b"))?.await?;
            stratawal::Result::Ok([first, second])
        });
        assert_eq!(seqs.unwrap(), [0..1, 1..2]);
        let mut ticket = stream.submit(&batch("c")).unwrap();
        assert!(ticket.wait_timeout(LONG).is_some());
        // Each further poll and wait returns the outcome again.
        for _ in 0..3 {
            let polled = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Ready(Ok(ref seqs)) if *seqs == (2..3)));
        }
        assert_eq!(ticket.wait().unwrap(), 2..3);
    }
}

#[test]
fn submit_does_not_wait_for_a_sync() {
    for journal in JOURNAL {
        let (storage, gate, is_closed) = gated();
        let wal = open_on(&storage, &options(journal).sync_interval(None));
        let stream = wal.stream("s").unwrap();
        wait(stream.submit(&batch("first")).unwrap()).unwrap();
        is_closed.store(true, Ordering::Release);
        let mut first = stream.submit(&batch("a")).unwrap();
        gate.await_one();
        // A sync is under way, and waits for the gate.
        let mut others: Vec<Ticket> = (0..50).map(|_| stream.try_submit(&batch("b")).unwrap()).collect();
        assert!(first.wait_timeout(Duration::from_millis(20)).is_none());
        assert!(others.iter_mut().all(|ticket| ticket.wait_timeout(Duration::ZERO).is_none()));
        is_closed.store(false, Ordering::Release);
        gate.open();
        assert_eq!(wait(first).unwrap(), 1..2);
        let seqs: Vec<u64> = others.into_iter().map(|ticket| wait(ticket).unwrap().start).collect();
        assert_eq!(seqs, (2..52).collect::<Vec<u64>>());
    }
}

#[test]
fn dropped_tickets_cancel_nothing() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        for i in 0..1000 {
            drop(stream.submit(&batch(format!("{i}"))).unwrap());
        }
        wait(stream.submit(&batch("last")).unwrap()).unwrap();
        assert_eq!(stream.stable_seq(), 1001, "tickets complete in the order of their seqs");
        wal.close().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        assert_eq!(wal.stream("s").unwrap().iter(..).filter(|entry| entry.is_ok()).count(), 1001);
    }
}

#[test]
fn callbacks_of_a_stream_come_in_seq_order() {
    const STREAMS: u64 = 4;
    const TICKETS: u64 = 500;
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let called = Arc::new(Mutex::new(vec![Vec::new(); usize::try_from(STREAMS).unwrap()]));
        thread::scope(|scope| {
            for of in 0..STREAMS {
                let stream = wal.stream(&format!("s{of}")).unwrap();
                let called = &called;
                scope.spawn(move || {
                    for i in 0..TICKETS {
                        // A weaker durability does not overtake a stronger one.
                        let durability = [Durability::Synced, Durability::Buffered][usize::from(i % 3 == 0)];
                        let called = Arc::clone(called);
                        let ticket = stream.with_durability(durability).submit(&batch("x")).unwrap();
                        ticket.on_done(move |outcome| {
                            assert_eq!(thread::current().name(), Some("stratawal-callbacks"));
                            called.lock().unwrap()[usize::try_from(of).unwrap()].push(outcome.unwrap().start);
                        });
                    }
                });
            }
        });
        wal.close().unwrap();
        // A close waits for the callbacks.
        for seqs in &*called.lock().unwrap() {
            assert_eq!(*seqs, (0..TICKETS).collect::<Vec<_>>());
        }
    }
}

#[test]
fn blocked_callback_delays_no_other_ticket() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        let (go, blocked) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel();
        stream.submit(&batch("blocks")).unwrap().on_done(move |_| {
            began.send(()).unwrap();
            blocked.recv_timeout(LONG).unwrap();
        });
        begins.recv_timeout(LONG).unwrap();
        // Enough for several drains of the tail.
        for i in 0..40 {
            assert_eq!(wait(stream.submit(&batch(vec![7; 30_000])).unwrap()).unwrap().start, 1 + i);
        }
        let (done, is_done) = mpsc::channel();
        stream.submit(&batch("later")).unwrap().on_done(move |_| done.send(()).unwrap());
        wait(stream.submit(&batch("other")).unwrap()).unwrap();
        assert!(is_done.try_recv().is_err(), "callbacks are called one at a time");
        go.send(()).unwrap();
        is_done.recv_timeout(LONG).unwrap();
    }
}

#[test]
fn panic_in_a_callback_harms_no_other() {
    /// Panics when it is dropped.
    struct Bomb(bool);
    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 {
                std::panic::panic_any(Bomb(false));
            }
        }
    }
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        stream.submit(&batch("a")).unwrap().on_done(|_| panic!("as intended"));
        stream.submit(&batch("b")).unwrap().on_done(|_| std::panic::panic_any(Bomb(true)));
        let (done, is_done) = mpsc::channel();
        stream.submit(&batch("c")).unwrap().on_done(move |outcome| done.send(outcome).unwrap());
        assert_eq!(is_done.recv_timeout(LONG).unwrap().unwrap(), 2..3);
        assert_eq!(wait(stream.submit(&batch("d")).unwrap()).unwrap(), 3..4);
        wal.close().unwrap();
    }
}

#[test]
fn full_room_refuses_until_tickets_complete() {
    const MAX: u64 = 131_072;
    for journal in JOURNAL {
        let (storage, gate, is_closed) = gated();
        let wal = open_on(&storage, &options(journal).sync_interval(None));
        let stream = wal.stream("s").unwrap();
        // So long that the stream has a directory, which takes syncs.
        wait(stream.submit(&batch(vec![7; 100 << 10])).unwrap()).unwrap();
        is_closed.store(true, Ordering::Release);
        drop(stream.submit(&batch("held")).unwrap());
        gate.await_one();
        let empty = batch("");
        (1..MAX).for_each(|_| drop(stream.try_submit(&empty).unwrap()));
        let next = stream.next_seq();
        assert_eq!(stream.try_submit(&empty).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(stream.next_seq(), next, "nothing was appended");
        // A submit waits for room.
        let (done, is_done) = mpsc::channel();
        let waiting = stream.clone();
        thread::spawn(move || done.send(waiting.submit(&batch("waits")).and_then(Ticket::wait)).unwrap());
        assert!(is_done.recv_timeout(Duration::from_millis(20)).is_err());
        is_closed.store(false, Ordering::Release);
        gate.open();
        assert_eq!(is_done.recv_timeout(LONG).unwrap().unwrap(), next..next + 1);
        // All have given their room back.
        wait(stream.submit(&empty).unwrap()).unwrap();
        (0..1000).for_each(|_| drop(stream.try_submit(&empty).unwrap()));
        wal.close().unwrap();
    }
}

#[test]
fn bytes_in_flight_are_bounded() {
    for journal in JOURNAL {
        let (storage, gate, is_closed) = gated();
        let wal = open_on(&storage, &options(journal).sync_interval(None));
        let stream = wal.stream_with("s", StreamOptions::new().segment_bytes(256 << 20)).unwrap();
        // So long that the stream has a directory, which takes syncs.
        wait(stream.submit(&batch(vec![7; 100 << 10])).unwrap()).unwrap();
        is_closed.store(true, Ordering::Release);
        drop(stream.submit(&batch("held")).unwrap());
        gate.await_one();
        let half = batch(vec![7; 512 << 10]);
        let count = (0..1000).take_while(|_| stream.try_submit(&half).is_ok()).count();
        assert_eq!(count, 127, "64 MiB");
        assert_eq!(stream.try_submit(&half).unwrap_err().kind(), ErrorKind::Busy);
        let large = batch(vec![7; 1 << 20]);
        let kind = stream.try_submit(&large).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::TooLarge { len: (1 << 20) + 4, max: 1 << 20 });
        is_closed.store(false, Ordering::Release);
        gate.open();
        let seq = stream.next_seq();
        assert_eq!(wait(stream.submit(&large).unwrap()).unwrap().start, seq);
        assert_eq!(stream.stable_seq(), seq + 1);
        wal.close().unwrap();
    }
}

#[test]
fn failed_sync_is_the_outcome_of_its_tickets() {
    for journal in JOURNAL {
        let sim = SimStorage::new(1);
        let storage = HookedStorage::new(sim.clone());
        let wal = open_on(&storage, &options(journal).journal_mapped(false).sync_interval(None));
        let stream = wal.stream("s").unwrap();
        let other = wal.stream("t").unwrap();
        wait(stream.submit(&batch("first")).unwrap()).unwrap();
        wait(other.submit(&batch("first")).unwrap()).unwrap();
        storage.set(|operation, _| match operation {
            Operation::Sync => Err(std::io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        let tickets: Vec<Ticket> =
            (0..100).map_while(|i| [&stream, &other][i % 2].submit(&batch("lost")).ok()).collect();
        assert!(!tickets.is_empty());
        let mut kept = tickets.into_iter();
        let mut first = kept.next().unwrap();
        let mut called = 0;
        let (done, is_done) = mpsc::channel();
        for ticket in kept.by_ref().take(3) {
            let done = done.clone();
            ticket.on_done(move |outcome| done.send(outcome).unwrap());
            called += 1;
        }
        for ticket in kept {
            assert_eq!(wait(ticket).unwrap_err().kind(), ErrorKind::Poisoned, "journal {journal}");
        }
        for _ in 0..called {
            assert_eq!(is_done.recv_timeout(LONG).unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
        }
        for _ in 0..2 {
            assert_eq!(first.wait_timeout(LONG).unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
        }
        assert_eq!(stream.submit(&batch("refused")).unwrap_err().kind(), ErrorKind::Poisoned);
        storage.clear();
        stream.reopen().unwrap();
        other.reopen().unwrap();
        assert_eq!(first.wait().unwrap_err().kind(), ErrorKind::Poisoned, "the outcome stays");
        let next = stream.next_seq();
        assert_eq!(wait(stream.submit(&batch("next")).unwrap()).unwrap(), next..next + 1);
        wal.close().unwrap();
    }
}

/// The batch may have its ticket when the sync of earlier segments fails.
#[test]
fn failed_submit_of_a_large_batch_gives_room_back_once() {
    for journal in JOURNAL {
        let mut poisoned = 0;
        for k in 0..10 {
            let storage = HookedStorage::new(SimStorage::new(1));
            let wal = open_on(&storage, &options(journal).journal_mapped(false).sync_interval(None));
            let small = StreamOptions::new().segment_bytes(64 << 10).unsynced_segments_max(0);
            let stream = wal.stream_with("s", small).unwrap();
            let large = batch(vec![7; 2 << 20]);
            let flushed = stream.with_durability(Durability::Flushed);
            wait(flushed.submit(&large).unwrap()).unwrap();
            let syncs = AtomicU64::new(0);
            storage.set(move |operation, path| {
                let is_due = operation == Operation::Sync && path.starts_with("/log/streams");
                if is_due && syncs.fetch_add(1, Ordering::Relaxed) == k {
                    return Err(std::io::Error::from_raw_os_error(5));
                }
                Ok(())
            });
            for _ in 0..3 {
                match flushed.submit(&large) {
                    Err(error) if error.kind() == ErrorKind::Poisoned => poisoned += 1,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{error}"),
                    Ok(ticket) => drop(wait(ticket)),
                }
            }
            storage.clear();
            stream.reopen().unwrap();
            let next = stream.next_seq();
            assert_eq!(wait(stream.submit(&large).unwrap()).unwrap().start, next);
            wal.close().unwrap();
        }
        assert!(poisoned > 0, "journal {journal}");
    }
}

#[test]
fn tickets_of_a_deleted_stream_report_it() {
    for journal in JOURNAL {
        let (storage, gate, is_closed) = gated();
        let wal = open_on(&storage, &options(journal).sync_interval(None));
        let stream = wal.stream("s").unwrap();
        wait(stream.submit(&batch("first")).unwrap()).unwrap();
        is_closed.store(true, Ordering::Release);
        let held = stream.submit(&batch("held")).unwrap();
        gate.await_one();
        let later = stream.submit(&batch("later")).unwrap();
        let deleting = wal.clone();
        let deleter = thread::spawn(move || deleting.delete_stream("s"));
        thread::sleep(Duration::from_millis(10));
        is_closed.store(false, Ordering::Release);
        gate.open();
        for ticket in [held, later] {
            // It was durable before the stream was deleted, or was deleted with it.
            if let Err(error) = wait(ticket) {
                assert_eq!(error.kind(), ErrorKind::Missing, "journal {journal}");
            }
        }
        deleter.join().unwrap().unwrap();
        assert_eq!(stream.submit(&batch("late")).unwrap_err().kind(), ErrorKind::Missing);
        wal.close().unwrap();
    }
}

#[test]
fn every_ticket_is_complete_after_a_close() {
    for journal in JOURNAL {
        for fast in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let wal = options(journal).open(dir.path()).unwrap();
            let streams: Vec<Stream> = (0..3).map(|i| wal.stream(&format!("s{i}")).unwrap()).collect();
            let called = Arc::new(AtomicU64::new(0));
            let submitters: Vec<_> = (streams.iter().cloned())
                .map(|stream| {
                    let called = Arc::clone(&called);
                    thread::spawn(move || {
                        let mut tickets = Vec::new();
                        loop {
                            match stream.submit(&batch("x")) {
                                Ok(ticket) if tickets.len() % 5 == 0 => {
                                    let called = Arc::clone(&called);
                                    ticket.on_done(move |outcome| {
                                        called.fetch_add(1, Ordering::Relaxed);
                                        drop(outcome);
                                    });
                                    tickets.push(None);
                                }
                                Ok(ticket) => tickets.push(Some(ticket)),
                                Err(error) => {
                                    assert_eq!(error.kind(), ErrorKind::Closed);
                                    return tickets;
                                }
                            }
                        }
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(5));
            if fast {
                wal.close_fast().unwrap()
            } else {
                wal.close().unwrap()
            }
            let mut with_callback = 0;
            for submitter in submitters {
                for ticket in submitter.join().unwrap() {
                    let Some(mut ticket) = ticket else {
                        with_callback += 1;
                        continue;
                    };
                    let outcome = ticket.wait_timeout(Duration::ZERO).expect("it is complete");
                    assert!(outcome.is_ok(), "journal {journal}, fast {fast}: {outcome:?}");
                }
            }
            assert_eq!(called.load(Ordering::Relaxed), with_callback, "each callback was called");
        }
    }
}

#[test]
fn tickets_of_a_closed_stream_complete() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        for round in 0..20 {
            let stream = wal.stream("s").unwrap();
            let tickets: Vec<Ticket> = (0..50).map(|_| stream.submit(&batch("x")).unwrap()).collect();
            stream.close().unwrap();
            for (i, ticket) in tickets.into_iter().enumerate() {
                assert_eq!(wait(ticket).unwrap().start, round * 50 + i as u64);
            }
            assert_eq!(stream.submit(&batch("late")).unwrap_err().kind(), ErrorKind::Closed);
        }
        let stream = wal.stream("s").unwrap();
        let (done, is_done) = mpsc::channel();
        let in_callback = stream.clone();
        stream.submit(&batch("closes")).unwrap().on_done(move |_| done.send(in_callback.close()).unwrap());
        is_done.recv_timeout(LONG).unwrap().unwrap();
        assert_eq!(wal.stream("s").unwrap().next_seq(), 1001);
        wal.close().unwrap();
    }
}

#[test]
fn callback_is_called_after_a_close_too() {
    for in_callback in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let wal = Wal::open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        let tickets: Vec<Ticket> = (0..3).map(|_| stream.submit(&batch("x")).unwrap()).collect();
        if in_callback {
            let (done, is_done) = mpsc::channel();
            stream.submit(&batch("closes")).unwrap().on_done(move |_| done.send(wal.close()).unwrap());
            is_done.recv_timeout(LONG).unwrap().unwrap();
        } else {
            wal.close().unwrap();
        }
        let (done, is_done) = mpsc::channel();
        for ticket in tickets {
            let done = done.clone();
            ticket.on_done(move |outcome| done.send(outcome.unwrap().start).unwrap());
        }
        let mut seqs: Vec<u64> = (0..3).map(|_| is_done.recv_timeout(LONG).expect("it is called")).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, [0, 1, 2]);
    }
}

/// Tickets that need only be accepted complete before their entries are written.
#[test]
fn buffered_tickets_do_not_fill_the_memory() {
    const COUNT: u64 = 400;
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).sync_interval(None).open(dir.path()).unwrap();
        let buffered = StreamOptions::new().durability(Durability::Buffered).buffer_bytes(64 << 10);
        let stream = wal.stream_with("s", buffered).unwrap();
        let entry = batch(vec![7; 16 << 10]);
        for _ in 0..COUNT {
            wait(stream.submit(&entry).unwrap()).unwrap();
        }
        let began = Instant::now();
        // At most the bound of the tail is not flushed: 256 KiB.
        while stream.stable_seq() + 16 < COUNT {
            assert!(began.elapsed() < LONG, "journal {journal}: {} are written", stream.stable_seq());
            thread::sleep(Duration::from_millis(1));
        }
        wal.close().unwrap();
    }
}

#[test]
fn followers_see_the_entries_of_tickets() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        for visibility in [Visibility::Stable, Visibility::Accepted] {
            let from = stream.next_seq();
            let follow = stream.with_visibility(visibility).follow(from);
            let (done, is_done) = mpsc::channel();
            thread::spawn(move || {
                let seq = |event| match event {
                    Ok(FollowEvent::Entry(entry)) => entry.seq(),
                    other => panic!("{other:?}"),
                };
                done.send(follow.take(100).map(seq).collect::<Vec<u64>>()).unwrap();
            });
            (0..100).for_each(|_| drop(stream.submit(&batch("x")).unwrap()));
            let seqs = is_done.recv_timeout(LONG).expect("it is woken");
            assert_eq!(seqs, (from..from + 100).collect::<Vec<_>>());
        }
        wal.close().unwrap();
    }
}

/// Within a callback the log's own thread closes it, or drops its last handle.
#[test]
fn callback_may_close_the_log() {
    for journal in JOURNAL {
        for drops in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let wal = options(journal).open(dir.path()).unwrap();
            let stream = wal.stream("s").unwrap();
            let (done, is_done) = mpsc::channel();
            let handles = (wal.clone(), stream.clone());
            stream.submit(&batch("a")).unwrap().on_done(move |_| {
                let (wal, stream) = handles;
                assert_eq!(wait(stream.submit(&batch("b")).unwrap()).unwrap(), 1..2);
                if !drops {
                    wal.close().unwrap();
                }
                drop((wal, stream));
                done.send(()).unwrap();
            });
            drop((wal, stream));
            is_done.recv_timeout(LONG).unwrap();
            let began = Instant::now();
            let wal = loop {
                match options(journal).open(dir.path()) {
                    Ok(wal) => break wal,
                    // The handles of the callback's caller are dropped after it has returned.
                    Err(error) => assert!(error.kind() == ErrorKind::Locked && began.elapsed() < LONG, "{error}"),
                }
            };
            assert_eq!(wal.stream("s").unwrap().next_seq(), 2);
        }
    }
}

#[test]
fn close_in_a_callback_does_not_wait_for_another_close() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    let (began, begins) = mpsc::channel();
    let inner = wal.clone();
    stream.submit(&batch("a")).unwrap().on_done(move |_| {
        began.send(()).unwrap();
        // The other thread has begun to close by then, and waits for this callback.
        thread::sleep(Duration::from_millis(50));
        inner.close().unwrap();
    });
    begins.recv_timeout(LONG).unwrap();
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || done.send(wal.close()).unwrap());
    is_done.recv_timeout(LONG).unwrap().unwrap();
}

#[test]
fn submit_needs_a_writable_log_with_threads() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).maintenance_thread(false).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        assert_eq!(stream.submit(&batch("a")).unwrap_err().kind(), ErrorKind::InvalidOption);
        assert_eq!(stream.next_seq(), 0);
        stream.append("a").unwrap();
        let reader = Options::new().open_read_only(dir.path()).unwrap();
        let seen = reader.stream("s").unwrap();
        assert_eq!(seen.submit(&batch("b")).unwrap_err().kind(), ErrorKind::ReadOnly);
        wal.close().unwrap();
        assert_eq!(stream.submit(&batch("b")).unwrap_err().kind(), ErrorKind::Closed);
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        wal.close().unwrap();
        assert_eq!(stream.submit(&batch("b")).unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn tickets_of_a_full_disk_are_refused_or_complete() {
    for journal in JOURNAL {
        let sim = SimStorage::new(3);
        let storage = HookedStorage::new(sim.clone());
        let wal = open_on(&storage, &options(journal).journal_mapped(false).sync_interval(None));
        let stream = wal.stream("s").unwrap();
        wait(stream.submit(&batch("first")).unwrap()).unwrap();
        sim.set_faults(Some(Faults { after: 600 << 10, fault: Fault::Capacity, forever: true }));
        let mut durable = 1;
        let mut refused = 0;
        for _ in 0..400 {
            match stream.submit(&batch(vec![7; 4000])).map(wait) {
                Ok(Ok(seqs)) => durable = seqs.end,
                Ok(Err(error)) => assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}"),
                Err(error) => {
                    assert!([ErrorKind::Full, ErrorKind::Poisoned].contains(&error.kind()), "{error}");
                    refused += 1;
                }
            }
        }
        assert!(durable > 5 && refused > 0, "{durable} {refused}");
        sim.set_faults(None);
        stream.reopen().unwrap();
        assert!(stream.next_seq() >= durable);
        wait(stream.submit(&batch("room again")).unwrap()).unwrap();
        wal.close().unwrap();
    }
}
