//! How often a follower looks at a log whose writer cannot wake it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use stratawal::{ErrorKind, FollowEvent, Options, Stream, Wal};
use stratawal_storage::MemoryStorage;
use stratawal_testkit::{HookedStorage, Operation};

const LONG: Duration = Duration::from_secs(60);

/// A writer, and what its readers open: a storage in which no process can wake another.
fn writer() -> (Wal, HookedStorage) {
    let storage = HookedStorage::new(MemoryStorage::new());
    let options = Options::new().maintenance_thread(false);
    (options.open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap(), storage)
}

fn reader(storage: &HookedStorage, interval: Duration) -> Wal {
    let options = Options::new().poll_interval(interval);
    options.open_on(Arc::new(storage.clone()), Path::new("/log"), true).unwrap()
}

fn stream(wal: &Wal) -> Stream {
    wal.stream("s").unwrap()
}

fn seq(event: Option<FollowEvent>) -> u64 {
    event.and_then(FollowEvent::into_entry).expect("an entry is due").seq()
}

/// Counts how often a look tries to open the file NOTIFY. There is none, so each look does.
fn count_tries(storage: &HookedStorage) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    storage.set(move |operation, path| {
        if operation == Operation::Open && path.ends_with("NOTIFY") {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    count
}

/// How often an idle follower tries to open the file in a second.
fn tries_in_a_second(interval: Duration) -> u64 {
    let (wal, storage) = writer();
    stream(&wal).append("first").unwrap();
    let reader = reader(&storage, interval);
    let mut follow = stream(&reader).follow(0);
    assert_eq!(seq(follow.next_timeout(LONG).unwrap()), 0);
    let tries = count_tries(&storage);
    assert_eq!(follow.next_timeout(Duration::from_secs(1)).unwrap(), None);
    storage.clear();
    tries.load(Ordering::Relaxed)
}

#[test]
fn follower_looks_once_in_an_interval() {
    let often = tries_in_a_second(Duration::from_millis(1));
    let seldom = tries_in_a_second(Duration::from_millis(400));
    // A look tries twice. A thread that gets no processor looks less often.
    assert!((50..=2010).contains(&often), "{often} tries");
    // For a moment after an entry it looks every 2 ms.
    assert!((2..=34).contains(&seldom), "{seldom} tries");
}

#[test]
fn entry_is_seen_within_the_interval() {
    const INTERVAL: Duration = Duration::from_millis(300);
    let (wal, storage) = writer();
    let reader = reader(&storage, INTERVAL);
    let mut follow = stream(&reader).follow(0);
    let mut prefix = reader.follow_prefix("", BTreeMap::new()).unwrap();
    let writing = stream(&wal);
    for expected in 0..3 {
        assert_eq!(follow.next_timeout(Duration::from_millis(1)).unwrap(), None);
        writing.append("later").unwrap();
        let began = Instant::now();
        assert_eq!(seq(follow.next().map(Result::unwrap)), expected);
        assert_eq!(seq(prefix.next().map(|next| next.unwrap().event)), expected);
        // The second half is for a machine that has much else to do.
        assert!(began.elapsed() < 2 * (INTERVAL + Duration::from_millis(100)), "{:?}", began.elapsed());
    }
}

/// Wakes the thread that waits for a task.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls until there is an item.
fn block_on<S: futures_core::Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut next = pin!(poll_fn(|context: &mut Context<'_>| Pin::new(&mut *stream).poll_next(context)));
    loop {
        match next.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(item) => return item,
            Poll::Pending => thread::park_timeout(LONG),
        }
    }
}

#[test]
fn stop_and_close_do_not_wait_for_the_interval() {
    let (wal, storage) = writer();
    stream(&wal).append("first").unwrap();
    let open = || reader(&storage, LONG);
    // Each waiter takes its entry, and then waits until it is ended.
    type Waiter = Box<dyn FnOnce(&Wal) + Send>;
    let waiters: [fn() -> Waiter; 3] = [
        || {
            Box::new(|wal| {
                let mut follow = stream(wal).follow(0);
                assert!(follow.next().is_some() && follow.next().is_none());
            })
        },
        || {
            Box::new(|wal| {
                let mut follow = wal.follow_prefix("", BTreeMap::new()).unwrap();
                assert!(follow.next().is_some() && follow.next().is_none());
            })
        },
        || {
            Box::new(|wal| {
                let mut follow = stream(wal).follow(0).into_stream();
                assert!(block_on(&mut follow).is_some() && block_on(&mut follow).is_none());
            })
        },
    ];
    let began = Instant::now();
    for waiter in waiters {
        let wal = open();
        let waiting = wal.clone();
        let waiter = waiter();
        let thread = thread::spawn(move || waiter(&waiting));
        thread::sleep(Duration::from_millis(100));
        wal.close().unwrap();
        thread.join().unwrap();
    }
    let wal = open();
    let mut follow = stream(&wal).follow(0);
    let stopper = follow.stopper();
    let thread = thread::spawn(move || {
        assert!(follow.next().is_some() && follow.next().is_none());
    });
    thread::sleep(Duration::from_millis(100));
    stopper.stop();
    thread.join().unwrap();
    assert!(began.elapsed() < LONG / 3, "{:?}", began.elapsed());
}

#[test]
fn interval_out_of_its_range_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Wal::open(dir.path()).unwrap().close().unwrap();
    for interval in [Duration::ZERO, Duration::from_micros(999), Duration::from_millis(60_001), Duration::MAX] {
        let options = Options::new().poll_interval(interval);
        for opened in [options.open(dir.path()), options.open_read_only(dir.path())] {
            let error = opened.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
            assert!(error.to_string().contains("poll_interval must be 1 ms to 60 s"), "{error}");
        }
    }
    for interval in [Duration::from_millis(1), Duration::from_secs(60)] {
        Options::new().poll_interval(interval).open_read_only(dir.path()).unwrap();
    }
}
