//! A queue of jobs that survives a crash: jobs are entries, and finished jobs are truncated.
//!
//! `cargo run --example work_queue [DIR]` works in DIR, or in a temporary directory that it
//! removes.

use std::error::Error;
use std::path::PathBuf;

use stratawal::{ErrorKind, Result, Stream, Wal};

/// Finished jobs are dropped once the queue has this many. A truncation syncs, so it is not done
/// for every job.
const FINISHED_MAX: u64 = 16;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| temporary.path().join("log"), PathBuf::from);

    let wal = Wal::open(&dir)?;
    let queue = Queue { jobs: wal.stream("jobs")?, done: wal.stream("done")? };
    for i in 0..100 {
        queue.submit(&format!("resize image {i}"))?;
    }
    let mut finished = 0;
    while let Some((seq, job)) = queue.next()? {
        if finished == 60 {
            println!("the process stops before it has done job {seq}: {job}");
            break;
        }
        finished += 1;
        queue.finish(seq)?;
    }
    wal.close()?;

    // A later process continues with the first unfinished job.
    let wal = Wal::open(&dir)?;
    let queue = Queue { jobs: wal.stream("jobs")?, done: wal.stream("done")? };
    while let Some((seq, _)) = queue.next()? {
        finished += 1;
        queue.finish(seq)?;
    }
    println!("{finished} jobs finished; the queue keeps {} of them", queue.jobs.next_seq() - queue.jobs.first_seq());
    Ok(wal.close()?)
}

struct Queue {
    jobs: Stream,
    /// One entry for each finished job: the job's seq. The last entry gives the position of the
    /// consumer.
    done: Stream,
}

impl Queue {
    /// Returns once the job is on stable storage. Only one thread submits jobs.
    fn submit(&self, job: &str) -> Result<u64> {
        match self.jobs.append(job) {
            // A write or a sync failed. Recovery decides whether the entry exists.
            Err(error) if error.kind() == ErrorKind::Poisoned => {
                let seq = self.jobs.stable_seq();
                self.jobs.reopen()?;
                if self.jobs.next_seq() > seq { Ok(seq) } else { self.jobs.append(job) }
            }
            // Nothing was appended. Finished jobs can be dropped even on a full disk.
            Err(error) if error.kind() == ErrorKind::Full => {
                self.jobs.truncate_before(self.position()?)?;
                self.jobs.append(job)
            }
            appended => appended,
        }
    }

    /// Returns the next job with its seq.
    fn next(&self) -> Result<Option<(u64, String)>> {
        let entry = self.jobs.get(self.position()?)?;
        Ok(entry.map(|entry| (entry.seq(), String::from_utf8_lossy(entry.data()).into_owned())))
    }

    fn finish(&self, seq: u64) -> Result<()> {
        self.done.append(seq.to_le_bytes())?;
        if seq - self.jobs.first_seq() >= FINISHED_MAX {
            self.jobs.truncate_before(seq + 1)?;
            self.done.truncate_before(self.done.next_seq() - 1)?;
        }
        Ok(())
    }

    /// Returns the seq of the first unfinished job.
    fn position(&self) -> Result<u64> {
        let last = self.done.last()?;
        let seq = last.and_then(|entry| entry.data()[..].try_into().ok().map(u64::from_le_bytes));
        Ok(seq.map_or(self.jobs.first_seq(), |seq| seq + 1))
    }
}
