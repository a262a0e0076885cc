//! In a process other than the one that opened it, a handle refuses all work, and dropping it does
//! not change the log.
//!
//! A forked child has one thread, and locks held by the parent's other threads stay locked in it. A
//! call that takes such a lock hangs; the parent notices this after some seconds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stratawal::{Batch, Durability, ErrorKind, Options, StreamOptions, Wal};
use stratawal_testkit::SimStorage;

/// Runs `child` in a forked process. Returns whether it ended in time and without a panic.
fn in_child(child: impl FnOnce()) -> bool {
    // SAFETY: the child runs test code and then ends with `_exit`, without unwinding into the
    // parent's frames. An allocation in the child would deadlock only if the C library left its
    // allocator locked; glibc and musl do not.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "cannot fork");
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
        // SAFETY: only ends this process.
        unsafe { libc::_exit(i32::from(!done)) };
    }
    let began = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if ended == pid {
            return libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        }
        if began.elapsed() > Duration::from_secs(20) {
            // SAFETY: signals a child that was not yet waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_forked<T>(result: Result<T, stratawal::Error>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::Forked)
}

/// Every call that could touch the files or wait for a lock.
fn refuses_everything(wal: &Wal) {
    let stream = |wal: &Wal| wal.stream("s");
    assert!(is_forked(stream(wal)));
    assert!(is_forked(wal.streams()));
    assert!(is_forked(wal.sync()));
    assert!(is_forked(wal.stats()));
    assert!(is_forked(wal.disk_usage()));
    assert!(is_forked(wal.delete_stream("s")));
    assert!(is_forked(wal.close()));
}

fn stream_refuses_everything(stream: &stratawal::Stream) {
    assert!(is_forked(stream.append("child")));
    assert!(is_forked(stream.append_batch(&["child"].into_iter().collect())));
    assert!(is_forked(stream.with_durability(Durability::Buffered).append("child")));
    assert!(is_forked(stream.append_if(0, &["child"].into_iter().collect())));
    assert!(is_forked(stream.submit(&["child"].into_iter().collect())));
    assert!(is_forked(stream.try_submit(&["child"].into_iter().collect())));
    assert!(is_forked(stream.flush()));
    assert!(is_forked(stream.sync()));
    assert!(is_forked(stream.reopen()));
    assert!(is_forked(stream.stats()));
    assert!(is_forked(stream.disk_usage()));
    assert!(is_forked(stream.close()));
    assert!(is_forked(stream.truncate_before(1)));
    assert!(is_forked(stream.truncate_from(0)));
    assert!(is_forked(stream.get(0)));
    assert!(is_forked(stream.get_many(&[0])));
    assert!(is_forked(stream.last()));
    assert!(is_forked(stream.seq_at(std::time::SystemTime::UNIX_EPOCH)));
    assert!(is_forked(stream.iter(..).next().expect("an error")));
    assert!(is_forked(stream.iter(..).next_back().expect("an error")));
    assert!(is_forked(stream.iter(..).next_run().expect("an error")));
}

fn is_locked(path: &Path) -> bool {
    Wal::open(path).is_err_and(|error| error.kind() == ErrorKind::Locked)
}

#[test]
fn child_that_drops_handles_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let wal = Options::new().sync_interval(None).open(&path).unwrap();
    let stream = wal.stream("s").unwrap();
    let mut held = stream.iter(..);
    let (mut polled, mut waiting) = (stream.follow(2), stream.follow(2));
    // This entry goes into the stream's file, because it is long.
    let long = "0".repeat(100_000);
    stream.append(&long).unwrap();
    stream.append("1").unwrap();
    stream.with_durability(Durability::Buffered).append("2").unwrap();
    let segment = std::fs::read_dir(path.join("streams/s")).unwrap().next().unwrap().unwrap().path();
    let journal = path.join("journal/00000000000000000001.jnl");
    let files = || [&segment, &journal].map(|file| std::fs::read(file).unwrap());
    let before = files();
    let child_wal = wal.clone();
    let child_stream = stream.clone();
    assert!(in_child(|| {
        refuses_everything(&child_wal);
        stream_refuses_everything(&child_stream);
        assert!(is_forked(child_stream.iter(0..1).next().expect("an error")));
        assert!(held.next().is_none_or(is_forked));
        assert!(is_forked(polled.next_timeout(Duration::ZERO)));
        assert!(waiting.next().is_some_and(is_forked));
        assert!(waiting.next().is_none(), "it ends after an error");
        drop((child_wal, child_stream, wal.clone(), held, polled, waiting));
        // The child also drops its copies of the parent's handles. In this process they are the
        // last handles.
        drop((unleaked(&wal), unleaked(&stream)));
    }));
    assert!(before == files(), "the child has written, closed or shortened a file");
    assert!(is_locked(&path), "the child has unlocked the log");
    assert_eq!(stream.append("3").unwrap(), 3);
    wal.close().unwrap();
    let again = Wal::open(&path).unwrap();
    let entries: Vec<_> = again.stream("s").unwrap().iter(..).map(|entry| entry.unwrap().into_data()).collect();
    assert_eq!(entries, [&long, "1", "2", "3"]);
}

/// Copies the handle out of its variable, because in the child the parent's frames never drop it.
fn unleaked<T>(handle: &T) -> T {
    // SAFETY: the child ends with `_exit`, so the original variable is not dropped.
    unsafe { std::ptr::read(handle) }
}

#[test]
fn child_waits_for_no_lock_of_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().stream_defaults(StreamOptions::new().segment_bytes(64 << 10));
    let wal = options.open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append("0").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for i in 0..3 {
            let stream = &stream;
            let wal = &wal;
            let done = &done;
            scope.spawn(move || {
                // The locks of the stream, its group commit and the log are held most of the time.
                while !done.load(Ordering::Relaxed) {
                    match i {
                        0 => drop(stream.with_durability(Durability::Flushed).append(vec![7; 3000]).unwrap()),
                        1 => drop(stream.truncate_before(stream.next_seq().saturating_sub(20))),
                        _ => drop(wal.stream("t").unwrap().append("x").unwrap()),
                    }
                }
            });
        }
        let all_end = (0..30).all(|_| {
            in_child(|| {
                refuses_everything(&wal);
                stream_refuses_everything(&stream);
                drop((unleaked(&stream), unleaked(&wal)));
            })
        });
        done.store(true, Ordering::Relaxed);
        assert!(all_end, "a child hangs, or does what it must not");
    });
    assert!(is_locked(dir.path()));
    wal.close().unwrap();
}

#[test]
fn child_opens_the_log_after_the_parents_close() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append("parent").unwrap();
    assert!(in_child(|| assert!(is_locked(dir.path()))), "while the parent has it");
    wal.close().unwrap();
    assert!(in_child(|| {
        let own = Wal::open(dir.path()).unwrap();
        let own_stream = own.stream("s").unwrap();
        assert_eq!(own_stream.append("child").unwrap(), 1);
        // In the grandchild, both the child's and the parent's handles belong to another process.
        assert!(in_child(|| {
            refuses_everything(&own);
            stream_refuses_everything(&own_stream);
            stream_refuses_everything(&stream);
            drop((unleaked(&own_stream), unleaked(&own)));
        }));
        stream_refuses_everything(&stream);
        assert_eq!(own_stream.append("child").unwrap(), 2);
        own.close().unwrap();
    }));
    assert_eq!(Wal::open(dir.path()).unwrap().stream("s").unwrap().next_seq(), 3);
}

#[test]
fn tickets_of_the_parent_are_refused_in_a_child() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    let batch: Batch = ["parent"].into_iter().collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The locks of the tickets are held most of the time.
            while !done.load(Ordering::Relaxed) {
                drop(stream.submit(&batch).unwrap());
            }
        });
        let all_end = (0..20).all(|_| {
            let tickets = [(); 4].map(|()| stream.submit(&batch).unwrap());
            let [awaited, mut timed, called, dropped] = tickets;
            in_child(|| {
                assert!(is_forked(awaited.wait()));
                assert!(is_forked(timed.wait_timeout(Duration::from_secs(1)).expect("no wait")));
                called.on_done(|_| panic!("there is no thread for it"));
                drop((timed, dropped));
                refuses_everything(&wal);
                stream_refuses_everything(&stream);
                drop((unleaked(&stream), unleaked(&wal)));
            })
        });
        done.store(true, Ordering::Relaxed);
        assert!(all_end, "a child hangs, or does what it must not");
    });
    stream.submit(&batch).unwrap().wait().unwrap();
    wal.close().unwrap();
}

#[test]
fn simulated_fork_leaves_the_disk_as_it_is() {
    let disk = SimStorage::new(1);
    // A child has no such thread, but here that of the parent runs on, and may add a spare file.
    let options = Options::new().maintenance_thread(false);
    let open = || options.clone().open_on(Arc::new(disk.clone()), Path::new("/log"), false);
    let wal = open().unwrap();
    let stream = wal.stream("s").unwrap();
    stream.with_durability(Durability::Buffered).append("waits").unwrap();
    let before = disk.disk().files();
    disk.set_forked(true);
    refuses_everything(&wal);
    stream_refuses_everything(&stream);
    drop((stream, wal));
    disk.set_forked(false);
    assert_eq!(disk.disk().files(), before);
    assert_eq!(open().unwrap_err().kind(), ErrorKind::Locked, "the child has unlocked the log");
}
