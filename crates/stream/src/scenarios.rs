//! Histories of a stream used by several threads at the same time, and the promises that must hold.
//! The model checker runs each scenario in every interleaving of its threads; otherwise real
//! threads run it many times.
//!
//! The scenarios run the shipped code on in-memory storage. Some of them use a lead that can be
//! made to fail. `cargo xtask loom` runs the models. With `stratawal_faults` the scenarios must
//! find the fail points listed at the end.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Wake, Waker};

use stratawal_storage::MemoryStorage;
use stratawal_sync::model::{explore, explore_bounded};
use stratawal_sync::thread::{JoinHandle, spawn, yield_now};
use stratawal_sync::{AtomicSeq, Condvar, Mutex, fail_point};

use crate::error::{Error, ErrorKind, Result};
use crate::watermarks::Watermarks;
use crate::write::commit::{CommitLeader, Group};
use crate::write::dir_sync::DirSyncs;
use crate::write::failed_epochs::FAILED_EPOCHS_MAX;
use crate::write::waiter::CommitTarget;
use crate::{
    Batch, Durability, FollowEvent, Location, LogContext, LogTickets, StreamLog, StreamOptions, Ticket, Visibility,
};

/// A stream with one entry, so that its first segment exists.
fn stream() -> StreamLog {
    let storage = MemoryStorage::new().with_clock(1, 1).with_seed(1);
    let context = Arc::new(LogContext::new(Arc::new(storage)));
    context.storage().create_dir(Path::new("/streams")).expect("memory");
    let log = StreamLog::open(context, Location::new("/streams", "s"), StreamOptions::new()).expect("opens");
    log.append(b"0", Durability::Buffered).expect("appends");
    log
}

#[test]
fn a_dir_sync_covers_earlier_changes() {
    explore(|| {
        let syncs = Arc::new(DirSyncs::new());
        // The changes to the directory, and the changes that a sync has made durable.
        let done = Arc::new(Mutex::new(0_u8));
        let durable = Arc::new(Mutex::new(0_u8));
        let act = move |bit: u8, syncs: &DirSyncs, done: &Mutex<u8>, durable: &Mutex<u8>| {
            *done.lock() |= bit;
            let synced = syncs.shared(|| {
                let seen = *done.lock();
                yield_now();
                *durable.lock() |= seen;
                Ok(())
            });
            synced.expect("syncs");
            assert!(*durable.lock() & bit != 0, "answered by a sync that had begun before");
        };
        let others: Vec<_> = [1, 2]
            .map(|bit| {
                let (syncs, done, durable) = (Arc::clone(&syncs), Arc::clone(&done), Arc::clone(&durable));
                spawn(move || act(bit, &syncs, &done, &durable))
            })
            .into();
        act(4, &syncs, &done, &durable);
        others.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

#[test]
fn no_caller_takes_a_failed_dir_sync_for_success() {
    explore(|| {
        let syncs = Arc::new(DirSyncs::new());
        // The changes to the directory, those that are durable, and the number of syncs. The first
        // sync fails.
        let state = Arc::new((Mutex::new(0_u8), Mutex::new(0_u8), Mutex::new(0)));
        let act = move |bit: u8, syncs: &DirSyncs, (done, durable, times): &(Mutex<u8>, Mutex<u8>, Mutex<usize>)| {
            *done.lock() |= bit;
            let synced = syncs.shared(|| {
                let seen = *done.lock();
                *times.lock() += 1;
                if *times.lock() == 1 {
                    return Err(std::io::Error::from_raw_os_error(5));
                }
                *durable.lock() |= seen;
                Ok(())
            });
            match synced {
                Ok(()) => {
                    assert!(*durable.lock() & bit != 0, "answered with success by a sync that failed, or had begun")
                }
                Err(error) => assert_eq!(error.raw_os_error(), Some(5)),
            }
        };
        let others: Vec<_> = [1, 2]
            .map(|bit| {
                let syncs = Arc::clone(&syncs);
                let state = Arc::clone(&state);
                spawn(move || act(bit, &syncs, &state))
            })
            .into();
        others.into_iter().for_each(|thread| thread.join().expect("no panic"));
        // A later sync does not report the earlier failure.
        assert!(syncs.shared(|| Ok(())).is_ok());
    });
}

fn read(log: &StreamLog, seq: u64) -> Option<Vec<u8>> {
    log.get(seq, Visibility::Stable).expect("reads").map(|entry| entry.data().to_vec())
}

#[test]
fn an_acknowledged_append_is_durable() {
    explore(|| {
        let log = stream();
        let threads: Vec<_> = [b"a", b"b"]
            .map(|entry| {
                let log = log.clone();
                spawn(move || {
                    let seq = log.append(entry, Durability::Synced).expect("appends");
                    assert!(log.durable_seq() > seq, "acknowledged and not durable");
                    assert_eq!(read(&log, seq).as_deref(), Some(&entry[..]));
                })
            })
            .into();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(log.durable_seq(), 3);
    });
}

#[test]
fn one_of_two_conditional_appends_wins() {
    explore(|| {
        let log = stream();
        let threads: Vec<_> = [b"a", b"b"]
            .map(|entry| {
                let log = log.clone();
                spawn(move || {
                    let batch = [entry].into_iter().collect();
                    match log.append_if(1, &batch, Durability::Flushed) {
                        Ok(seqs) => assert_eq!(seqs, 1..2),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Conflict { expected_next_seq: 1, next_seq: 2 });
                            return false;
                        }
                    }
                    true
                })
            })
            .into();
        let won = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        assert_eq!(won.filter(|won| *won).count(), 1, "one call wins");
        assert_eq!(log.next_seq(), 2);
    });
}

#[test]
fn entries_below_the_flushed_watermark_can_be_read() {
    explore(|| {
        let log = stream();
        let writer = {
            let log = log.clone();
            spawn(move || {
                log.append(b"1", Durability::Flushed).expect("appends");
                log.append(b"2", Durability::Flushed).expect("appends");
            })
        };
        for _ in 0..2 {
            let flushed = log.inner.shared.watermarks.flushed();
            for seq in 0..flushed {
                let entry = log.inner.read_entry(seq).expect("what is flushed can be read");
                assert_eq!(entry.data()[..], [b'0' + u8::try_from(seq).expect("small")]);
            }
        }
        writer.join().expect("no panic");
    });
}

#[test]
fn accepted_entries_can_be_read_during_a_flush() {
    explore(|| {
        let log = stream();
        let writer = {
            let log = log.clone();
            spawn(move || {
                log.append(b"1", Durability::Buffered).expect("appends");
                log.flush().expect("flushes");
            })
        };
        let end = log.end_seq(Visibility::Accepted);
        for seq in 0..end {
            let entry = log.get(seq, Visibility::Accepted).expect("reads").expect("within the live range");
            assert_eq!(entry.data()[..], [b'0' + u8::try_from(seq).expect("small")]);
        }
        writer.join().expect("no panic");
    });
}

#[test]
fn an_append_during_a_close_is_kept_or_refused() {
    explore(|| {
        let log = stream();
        let appender = {
            let log = log.clone();
            spawn(move || match log.append(b"1", Durability::Flushed) {
                Ok(seq) => Some(seq),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Closed);
                    None
                }
            })
        };
        log.close().expect("closes");
        let end = log.durable_seq();
        let appended = appender.join().expect("no panic");
        assert_eq!(end, if appended.is_some() { 2 } else { 1 }, "a clean end has everything that was acknowledged");
    });
}

#[test]
fn a_read_after_a_close_for_good_is_refused() {
    explore(|| {
        let log = stream();
        let reader = {
            let log = log.clone();
            spawn(move || {
                let mut iter = log.iter(.., Visibility::Accepted);
                for found in [log.get(0, Visibility::Accepted), iter.next().expect("it has an entry").map(Some)] {
                    match found {
                        Ok(entry) => assert_eq!(entry.expect("within the live range").data()[..], *b"0"),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
                    }
                }
            })
        };
        log.close_for_good().expect("closes");
        let refused = log.get(0, Visibility::Accepted).map(drop).map_err(|error| error.kind());
        reader.join().expect("no panic");
        assert_eq!(refused, Err(ErrorKind::Closed));
    });
}

/// Whether a waker was woken, for a thread that waits for it.
struct Woken(Mutex<bool>, Condvar);

impl Woken {
    fn wait(&self) {
        let mut woken = self.0.lock();
        while !*woken {
            woken = self.1.wait(woken);
        }
        *woken = false;
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        *self.0.lock() = true;
        self.1.notify_one();
    }
}

/// Waits for a ticket as a runtime does: polls it again when its waker was woken.
fn block_on(mut ticket: Ticket) -> Result<std::ops::Range<u64>> {
    let woken = Arc::new(Woken(Mutex::new(false), Condvar::new()));
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        match Pin::new(&mut ticket).poll(&mut task::Context::from_waker(&waker)) {
            task::Poll::Ready(outcome) => return outcome,
            task::Poll::Pending => woken.wait(),
        }
    }
}

fn batch_of(entry: &str) -> Batch {
    [entry].into_iter().collect()
}

#[test]
fn a_ticket_completes_while_it_is_polled_or_dropped() {
    explore(|| {
        let log = stream();
        let tickets = Arc::new(LogTickets::new());
        let first = log.submit(&tickets, &batch_of("1"), Durability::Flushed).expect("submits");
        let second = log.submit(&tickets, &batch_of("2"), Durability::Flushed).expect("submits");
        let driver = {
            let tickets = Arc::clone(&tickets);
            spawn(move || assert!(tickets.drive(), "there is work"))
        };
        drop(first);
        assert_eq!(block_on(second).expect("it is flushed"), 2..3);
        driver.join().expect("no panic");
        assert_eq!((tickets.in_flight(), tickets.drive()), (0, false));
    });
}

#[test]
fn every_ticket_completes_during_a_close() {
    explore(|| {
        let log = stream();
        let tickets = Arc::new(LogTickets::new());
        let submitter = {
            let (log, tickets) = (log.clone(), Arc::clone(&tickets));
            spawn(move || match log.submit(&tickets, &batch_of("1"), Durability::Synced) {
                Ok(ticket) => assert_eq!(block_on(ticket).expect("the close makes it durable"), 1..2),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
            })
        };
        // As the facade does: no ticket is submitted to a closed stream.
        log.close().expect("closes");
        while tickets.drive() {}
        submitter.join().expect("no panic");
        assert_eq!(tickets.in_flight(), 0);
    });
}

#[test]
fn an_append_during_a_close_for_good_is_kept_or_refused() {
    explore(|| {
        let log = stream();
        let appender = {
            let log = log.clone();
            spawn(move || match log.append(b"1", Durability::Synced) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                    false
                }
            })
        };
        log.close_for_good().expect("closes");
        let end = log.durable_seq();
        let is_kept = appender.join().expect("no panic");
        assert_eq!(end, if is_kept { 2 } else { 1 }, "the end has exactly what was acknowledged");
    });
}

/// An entry so long that two of them do not fit into the smallest segment.
fn large(seq: u8) -> Vec<u8> {
    vec![b'0' + seq; 40 << 10]
}

/// A stream in which each entry has a segment of its own.
fn segments(entries: u8) -> StreamLog {
    let storage = MemoryStorage::new().with_clock(1, 1).with_seed(1);
    let context = Arc::new(LogContext::new(Arc::new(storage)));
    context.storage().create_dir(Path::new("/streams")).expect("memory");
    let options = StreamOptions::new().durability(Durability::Flushed).segment_bytes(64 << 10);
    let log = StreamLog::open(context, Location::new("/streams", "s"), options).expect("opens");
    for seq in 0..entries {
        log.append(&large(seq), Durability::Flushed).expect("appends");
    }
    log
}

#[test]
fn a_read_of_a_dropped_entry_reports_truncated() {
    explore(|| {
        let log = segments(2);
        let dropper = {
            let log = log.clone();
            spawn(move || log.truncate_before(1).expect("drops"))
        };
        match log.get(0, Visibility::Stable) {
            Ok(entry) => assert_eq!(entry.expect("within the live range").data()[..], large(0)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Truncated { first_seq: 1 }),
        }
        let kept = log.get(1, Visibility::Stable).expect("it is kept").expect("within the live range");
        assert_eq!(kept.data()[..], large(1));
        dropper.join().expect("no panic");
        assert_eq!(log.get(0, Visibility::Stable).expect_err("dropped").kind(), ErrorKind::Truncated { first_seq: 1 });
    });
}

/// Another process may own the files once a close has returned.
#[test]
fn a_close_waits_for_the_removal_of_files() {
    explore(|| {
        let log = segments(2);
        let dropper = {
            let log = log.clone();
            spawn(move || match log.truncate_before(1) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
            })
        };
        log.close().expect("closes");
        let files = || log.inner.shared.context.storage().list(Path::new("/streams/s")).expect("memory");
        let closed = files();
        dropper.join().expect("no panic");
        assert_eq!(files(), closed, "a file was removed after the close");
    });
}

#[test]
fn an_iterator_does_not_continue_past_a_truncation() {
    explore(|| {
        let log = stream();
        log.append(b"1", Durability::Flushed).expect("appends");
        log.flush().expect("flushes");
        let mut before = log.iter(.., Visibility::Accepted);
        assert_eq!(before.size_hint().1, Some(2));
        let cutter = {
            let log = log.clone();
            spawn(move || {
                log.truncate_from(1).expect("cuts");
                log.append(b"x", Durability::Flushed).expect("appends");
            })
        };
        let text = |entry: Result<crate::Entry>| entry.map(|entry| entry.data().to_vec());
        assert_eq!(text(before.next().expect("two entries")).expect("it is kept"), b"0");
        match text(before.next().expect("two entries")) {
            Ok(entry) => assert_eq!(entry, b"1", "an iterator went on behind a cut"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cut { next_seq: 1 }),
        }
        cutter.join().expect("no panic");
    });
}

#[test]
fn a_truncated_entry_does_not_reappear() {
    explore(|| {
        let log = stream();
        log.append(b"1", Durability::Flushed).expect("appends");
        let cutter = {
            let log = log.clone();
            spawn(move || log.truncate_from(1).expect("cuts"))
        };
        let seen =
            [(); 2].map(|()| log.get(1, Visibility::Accepted).expect("reads").map(|entry| entry.data().to_vec()));
        cutter.join().expect("no panic");
        assert!(seen.iter().flatten().all(|entry| entry == b"1"));
        assert!(seen[0].is_some() || seen[1].is_none(), "{seen:?}");
    });
}

/// The thread that follows `log` and expects the entries from 1 to `end`.
fn follower(log: &StreamLog, visibility: Visibility, end: u64) -> JoinHandle<()> {
    let mut follow = log.follow(1, visibility);
    spawn(move || {
        for seq in 1..end {
            let event = follow.next().expect("it is not closed").expect("reads");
            assert_eq!(event.into_entry().expect("nothing is dropped").seq(), seq);
        }
    })
}

/// If a wake-up were lost, the follower would wait forever.
#[test]
fn a_follower_is_woken_for_the_last_entry() {
    explore_bounded(2, || {
        let log = stream();
        let follower = follower(&log, Visibility::Stable, 3);
        log.append(b"1", Durability::Synced).expect("appends");
        log.append(b"2", Durability::Synced).expect("appends");
        follower.join().expect("no panic");
    });
}

#[test]
fn a_follower_is_woken_for_an_accepted_entry() {
    explore(|| {
        let log = stream();
        let follower = follower(&log, Visibility::Accepted, 3);
        log.append(b"1", Durability::Buffered).expect("appends");
        log.append(b"2", Durability::Buffered).expect("appends");
        follower.join().expect("no panic");
    });
}

#[test]
fn a_follower_is_woken_by_truncations_and_the_close() {
    explore_bounded(2, || {
        let log = stream();
        log.append(b"1", Durability::Synced).expect("appends");
        let follower = {
            let mut follow = log.follow(2, Visibility::Stable);
            spawn(move || {
                let cut = follow.next().expect("it was cut before the close").expect("reads");
                assert_eq!(cut, FollowEvent::Cut { dropped: 1..2 });
                assert!(follow.next().is_none(), "it is closed");
            })
        };
        log.truncate_from(1).expect("cuts");
        log.close().expect("closes");
        follower.join().expect("no panic");
    });
}

#[test]
fn a_stopped_follower_does_not_sleep() {
    explore(|| {
        let log = stream();
        let mut follow = log.follow(1, Visibility::Stable);
        let stopper = follow.stopper();
        let follower = spawn(move || assert!(follow.next().is_none()));
        stopper.stop();
        follower.join().expect("no panic");
    });
}

// ---- a lead that can be made to fail

struct FakeLead {
    watermarks: Arc<Watermarks>,
    /// The entries in the "file", and how many of them are synced.
    file: Arc<(AtomicSeq, AtomicSeq)>,
    fails: bool,
}

struct FakeTail {
    next: u64,
}

impl CommitLeader for FakeLead {
    type Tail = FakeTail;
    type Work = u64;

    fn take(&mut self, tail: &mut FakeTail) -> u64 {
        tail.next
    }

    fn run(&mut self, work: &u64, _: Durability) -> Result<()> {
        if self.fails {
            return Err(error(ErrorKind::Io));
        }
        self.file.0.store(*work);
        self.watermarks.set_drained(*work);
        self.file.1.store(*work);
        let durable = if fail_point!(LateArrivalCovered) { self.watermarks.accepted() } else { *work };
        self.watermarks.set_settled(durable);
        Ok(())
    }

    fn put_back(&mut self, _: &mut FakeTail, _: u64) {}
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, &Location::new("/", "s"))
}

struct Fake {
    group: Group<FakeLead>,
    watermarks: Arc<Watermarks>,
    file: Arc<(AtomicSeq, AtomicSeq)>,
}

fn fake(fails: bool) -> Arc<Fake> {
    let watermarks = Arc::new(Watermarks::new(0, 0));
    let file = Arc::new((AtomicSeq::new(0), AtomicSeq::new(0)));
    let lead = FakeLead { watermarks: Arc::clone(&watermarks), file: Arc::clone(&file), fails };
    let group = Group::new(FakeTail { next: 0 }, Some(lead), Arc::clone(&watermarks), "s".into());
    Arc::new(Fake { group, watermarks, file })
}

impl Fake {
    fn accept(&self) -> Result<CommitTarget> {
        let mut state = self.group.lock();
        if let Some(error) = state.failure() {
            return Err(error.clone());
        }
        state.tail.next += 1;
        self.watermarks.set_accepted(state.tail.next);
        Ok(self.group.target(&state))
    }

    fn append(&self) -> Result<u64> {
        let target = self.accept()?;
        self.group.wait_for(Durability::Synced, target)?;
        assert!(self.file.1.load() >= target.seq, "acknowledged before it was synced");
        Ok(target.seq)
    }
}

#[test]
fn a_late_arrival_waits_for_its_own_sync() {
    explore(|| {
        let fake = fake(false);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let fake = Arc::clone(&fake);
                spawn(move || fake.append().map(drop).expect("appends"))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

#[test]
fn all_appends_get_the_error_of_a_failed_commit() {
    explore(|| {
        let fake = fake(true);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let fake = Arc::clone(&fake);
                spawn(move || assert!(fake.append().is_err(), "a failed sync was taken for done"))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!(fake.append().is_err(), "the failure stands until recovery");
    });
}

/// A sync of the commit journal raises the watermark without a leader, after a thread was woken to
/// lead for it. Another thread, such as one that closes the stream, waits only for the lead.
#[test]
fn a_thread_that_needs_no_lead_wakes_the_next() {
    explore_bounded(2, || {
        let fake = fake(false);
        let (state, lead) = fake.group.acquire().expect("it is free");
        drop(state);
        let target = fake.accept().expect("accepted");
        let wait_until = |count: usize| {
            while fake.group.lock().waiting() < count {
                yield_now();
            }
        };
        let first = Arc::clone(&fake);
        let append = spawn(move || first.group.wait_for(Durability::Synced, target).expect("it is durable"));
        wait_until(1);
        let second = Arc::clone(&fake);
        let close = spawn(move || second.group.commit_now(Durability::Synced).expect("it gets the lead"));
        wait_until(2);
        fake.group.lead(lead, |_| Ok(())).expect("it did nothing");
        fake.watermarks.raise_durable(target.seq);
        append.join().expect("no panic");
        close.join().expect("no panic");
    });
}

#[test]
fn a_truncation_wakes_all_waiters() {
    explore_bounded(1, || {
        let fake = fake(false);
        let (state, lead) = fake.group.acquire().expect("it is free");
        drop(state);
        let threads = [(); 3].map(|()| {
            let fake = Arc::clone(&fake);
            let target = fake.accept().expect("accepted");
            spawn(move || {
                fake.group.wait_for(Durability::Synced, target).expect("everything was settled before the cut")
            })
        });
        while fake.group.lock().waiting() < 3 {
            yield_now();
        }
        // One of the threads is woken to lead, and finds that the truncation came first.
        fake.group.lead(lead, |_| Ok(())).expect("it did nothing");
        let cut = fake.group.exclusively(|state, lead| {
            lead.run(&state.tail.next, Durability::Synced)?;
            state.tail.next = 0;
            fake.watermarks.change(|watermarks| watermarks.reset(0, 0));
            Ok(())
        });
        assert!(cut.is_ok());
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

#[test]
fn a_failure_without_a_leader_wakes_all_waiters() {
    explore(|| {
        let fake = fake(false);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let fake = Arc::clone(&fake);
                spawn(move || drop(fake.append()))
            })
            .collect();
        fake.group.lock().fail(&error(ErrorKind::Io));
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!(fake.append().is_err(), "the failure stands until recovery");
    });
}

#[test]
fn an_entry_taken_back_by_recovery_is_not_acknowledged() {
    explore(|| {
        let fake = fake(true);
        let lost = {
            let fake = Arc::clone(&fake);
            spawn(move || {
                // Seq 1; after the recovery, an entry that is kept.
                let epoch = fake.watermarks.epoch();
                let appended = fake.append();
                assert!(appended.is_err() || fake.watermarks.epoch() > epoch || epoch > 0, "acknowledged and lost");
                appended.is_err()
            })
        };
        let target = fake.accept();
        let failed = target.and_then(|target| fake.group.wait_for(Durability::Synced, target)).is_err();
        assert!(failed);
        let kept = fake.group.recover(|tail, lead| {
            tail.next = 0;
            fake.watermarks.change(|watermarks| watermarks.reset(0, 0));
            let lead = lead.expect("it failed by an error");
            Ok(FakeLead { fails: false, ..*lead })
        });
        assert!(kept.is_ok());
        let mine = fake.append().expect("recovered");
        let was_lost = lost.join().expect("no panic");
        // Each acknowledged entry is in the file once. Recovery reuses the seqs of the entries it
        // dropped.
        assert_eq!(fake.file.1.load(), if was_lost { 1 } else { 2 });
        assert!(mine <= 2);
    });
}

#[test]
fn a_waiter_keeps_its_success_through_truncations() {
    explore(|| {
        let fake = fake(false);
        let target = fake.accept().expect("accepted");
        let waiter = {
            let fake = Arc::clone(&fake);
            spawn(move || fake.group.wait_for(Durability::Synced, target))
        };
        for _ in 0..=FAILED_EPOCHS_MAX {
            let cut = fake.group.exclusively(|state, lead| {
                lead.run(&state.tail.next, Durability::Synced)?;
                state.tail.next = 0;
                fake.watermarks.change(|watermarks| watermarks.reset(0, 0));
                Ok(())
            });
            assert!(cut.is_ok());
        }
        waiter.join().expect("no panic").expect("everything was settled before each cut");
    });
}

#[test]
fn a_forgotten_failure_is_not_a_success() {
    explore(|| {
        let fake = fake(true);
        let target = fake.accept().expect("accepted");
        let waiter = {
            let fake = Arc::clone(&fake);
            spawn(move || fake.group.wait_for(Durability::Synced, target))
        };
        for _ in 0..=FAILED_EPOCHS_MAX {
            fake.group.lock().fail(&error(ErrorKind::Io));
            let recovered = fake.group.recover(|tail, lead| {
                tail.next = 0;
                fake.watermarks.change(|watermarks| watermarks.reset(0, 0));
                Ok(*lead.expect("it failed by an error"))
            });
            assert!(recovered.is_ok());
        }
        let error = waiter.join().expect("no panic").expect_err("its entry was taken back");
        assert_eq!(error.kind(), ErrorKind::Poisoned);
    });
}

#[cfg(not(stratawal_loom))]
#[test]
fn an_accepted_entry_is_not_reported_as_refused() {
    let fake = fake(true);
    let target = fake.accept().expect("accepted");
    fake.group.lock().fail(&error(ErrorKind::Full));
    // Another appending thread finds no space for recovery.
    let recovered = fake.group.recover(|_, _| Err(error(ErrorKind::Full)));
    assert_eq!(recovered.map_err(|error| error.kind()), Err(ErrorKind::Full));
    let waited = fake.group.wait_for(Durability::Synced, target);
    assert_eq!(waited.map_err(|error| error.kind()), Err(ErrorKind::Poisoned), "its entry still waits in the tail");
    let refused = fake.accept().map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::Full), "this one was not accepted");
}

#[cfg(all(stratawal_loom, stratawal_faults))]
mod fail_points_are_found {
    stratawal_sync::found_by_scenarios! {
        dir_sync_joined: DirSyncJoined by a_dir_sync_covers_earlier_changes;
        no_hand_over: NoHandOver by a_late_arrival_waits_for_its_own_sync;
        turn_kept: TurnKept by a_thread_that_needs_no_lead_wakes_the_next;
        no_wake_on_failure: NoWakeOnFailure by all_appends_get_the_error_of_a_failed_commit;
        no_wake_on_failure_without_a_leader: NoWakeOnFailure by a_failure_without_a_leader_wakes_all_waiters;
        poll_unchecked: PollUnchecked by a_ticket_completes_while_it_is_polled_or_dropped;
        listed_late: ListedLate by every_ticket_completes_during_a_close;
        expected_early: ExpectedEarly by one_of_two_conditional_appends_wins;
        watermark_first: WatermarkFirst by entries_below_the_flushed_watermark_can_be_read;
        late_arrival_covered: LateArrivalCovered by a_late_arrival_waits_for_its_own_sync;
        late_arrival_covered_in_a_whole_stream: LateArrivalCovered by an_acknowledged_append_is_durable;
        epoch_ignored: EpochIgnored by an_entry_taken_back_by_recovery_is_not_acknowledged;
        read_after_end: ReadAfterEnd by a_read_after_a_close_for_good_is_refused;
        close_lets_in_for_good: CloseLetsIn by an_append_during_a_close_for_good_is_kept_or_refused;
        close_lets_in: CloseLetsIn by an_append_during_a_close_is_kept_or_refused;
        start_shown_late: StartShownLate by a_read_of_a_dropped_entry_reports_truncated;
        removals_not_awaited: RemovalsNotAwaited by a_close_waits_for_the_removal_of_files;
        epoch_kept: EpochKept by an_iterator_does_not_continue_past_a_truncation;
        outcome_forgotten: OutcomeForgotten by a_forgotten_failure_is_not_a_success;
        followers_not_woken: FollowersNotWoken by a_follower_is_woken_for_the_last_entry;
        registered_unseen: RegisteredUnseen by a_follower_is_woken_for_the_last_entry;
        registered_unseen_accepted: RegisteredUnseen by a_follower_is_woken_for_an_accepted_entry;
        registered_unseen_at_a_cut: RegisteredUnseen by a_follower_is_woken_by_truncations_and_the_close;
    }
}
