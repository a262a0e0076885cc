//! An async service that appends durably without blocking the threads of its runtime: each request
//! submits its entry and awaits the ticket. One more task is the tail: it gets every entry as soon
//! as it is durable. A timer runs beside them, to show that the runtime stays free.
//!
//! Prints how many durable appends a second 1,000 tasks make, how late the timer is, and how many
//! entries the tail has seen, next to 64 threads that append in the usual way. Run it with
//! `--release` for figures that mean something:
//! `cargo run --release --package stratawal --example async_service [SECONDS [DIR]]`

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_core::Stream as _;
use stratawal::{Batch, ErrorKind, FollowEvent, Stream, Wal};

const TASKS: usize = 1000;
const THREADS: usize = 64;
const TICK: Duration = Duration::from_millis(1);

/// Appends one entry. It is durable when this returns. Never blocks the thread.
async fn append(stream: &Stream, entry: &[u8]) -> stratawal::Result<u64> {
    let batch: Batch = [entry].into_iter().collect();
    loop {
        match stream.try_submit(&batch) {
            Ok(ticket) => return Ok(ticket.await?.start),
            // Too many tickets are in flight: the disk is slower than the requests.
            Err(error) if error.kind() == ErrorKind::Busy => tokio::time::sleep(TICK).await,
            Err(error) => return Err(error),
        }
    }
}

/// Appends until `until`. Returns how often.
async fn request_loop(stream: Stream, until: Instant) -> stratawal::Result<u64> {
    let mut count = 0;
    while Instant::now() < until {
        append(&stream, b"a request of a client, which waits until it is durable").await?;
        count += 1;
    }
    Ok(count)
}

/// Follows the stream until the log is closed. Returns how many entries came, each once and in
/// order.
async fn tail(stream: Stream, from: u64) -> stratawal::Result<u64> {
    /// After so many entries in a row, other tasks of this thread get their turn.
    const ENTRIES_MAX: u64 = 64;
    let mut entries = stream.follow(from).into_stream();
    let mut count = 0;
    while let Some(event) = poll_fn(|context| Pin::new(&mut entries).poll_next(context)).await {
        if let FollowEvent::Entry(entry) = event? {
            assert_eq!(entry.seq(), from + count);
            count += 1;
            if count % ENTRIES_MAX == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(count)
}

/// How late a timer of 1 ms is, each time.
async fn timer(done: Arc<AtomicBool>) -> Vec<Duration> {
    let mut late = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        tokio::time::sleep(TICK).await;
        late.push(began.elapsed().saturating_sub(TICK));
    }
    late.sort_unstable();
    late
}

async fn serve(stream: Stream, time: Duration) -> stratawal::Result<u64> {
    let until = Instant::now() + time;
    let done = Arc::new(AtomicBool::new(false));
    let timer = tokio::spawn(timer(Arc::clone(&done)));
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(request_loop(stream.clone(), until))).collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("no task panics")?;
    }
    done.store(true, Ordering::Relaxed);
    let late = timer.await.expect("the timer does not panic");
    let at = |percent: usize| late[(late.len() - 1) * percent / 100];
    println!("a timer of 1 ms was late by {:?} (median), {:?} (99 %), {:?} (most)", at(50), at(99), at(100));
    Ok(count)
}

/// Appends from threads that block.
fn with_threads(stream: &Stream, time: Duration) -> stratawal::Result<u64> {
    let until = Instant::now() + time;
    let count = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    while Instant::now() < until {
                        stream.append("a request of a client, which waits until it is durable")?;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    stratawal::Result::Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    Ok(count.into_inner())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(0.5), |text| text.parse::<f64>())?;
    let time = Duration::from_secs_f64(seconds);
    let rate = |count: u64| count as f64 / seconds;
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(2).map_or_else(|| temporary.path().join("log"), PathBuf::from);
    let wal = Wal::open(dir)?;
    let threads = with_threads(&wal.stream("threads")?, time)?;
    println!("{THREADS} threads: {:.0} durable appends a second", rate(threads));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    let requests = wal.stream("requests")?;
    let before = requests.next_seq();
    let tail = runtime.spawn(tail(requests.clone(), before));
    let tasks = runtime.block_on(serve(requests.clone(), time))?;
    println!("{TASKS} tasks:  {:.0} durable appends a second", rate(tasks));
    assert_eq!(requests.stable_seq(), before + tasks, "every outcome was awaited");
    wal.close()?;
    let seen = runtime.block_on(tail)??;
    println!("the tail has seen {seen} entries");
    assert_eq!(seen, tasks, "it ends once it has returned them all");
    Ok(())
}
