//! raft-log 0.4.6, which stores its records with chunked-wal 0.2.3. A log has one stream, one
//! writer and one thread that writes, so the streams share a log: an entry's id is its place in the
//! log and the number of its stream. Threads share the log under a mutex, and wait without it.
//!
//! `flush` wakes the thread, which waits for more entries, writes them all at once, calls
//! fdatasync if one of them asks for it (seen with strace), and then completes each. Without a wait
//! it takes one entry at a time even if others are in its queue. So it waits if several threads
//! append, but not the default of 1 ms: 0.1 ms is as fast as any wait here.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Config, RaftLog, Types, chunked_wal};

use crate::payload::Tally;
use crate::subject::{Answer, Level, Setup, Stop, Subject, Writer, failed};

/// The wait for more entries if several threads append.
const SHARED_WAIT: Duration = Duration::from_micros(100);

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Entries;

type Flushed = Result<(), std::io::Error>;

impl Types for Entries {
    /// The place in the log, and the stream.
    type LogId = (u64, u64);
    type LogPayload = Vec<u8>;
    type Vote = (u64, u64);
    type Callback = SyncSender<Flushed>;
    type UserData = String;

    fn log_index(id: &(u64, u64)) -> u64 {
        id.0
    }

    fn payload_size(payload: &Vec<u8>) -> u64 {
        payload.len() as u64
    }
}

struct Shared {
    log: RaftLog<Entries>,
    next: u64,
}

struct OfRaft {
    shared: Mutex<Shared>,
    level: Level,
}

struct Appender<'a> {
    log: &'a OfRaft,
    stream: u64,
    send: SyncSender<Flushed>,
    flushed: Receiver<Flushed>,
}

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    let dir = setup.dir.join("log");
    std::fs::create_dir_all(&dir).map_err(failed("open"))?;
    let wal = chunked_wal::Config {
        dir: dir.to_string_lossy().into_owned(),
        flush_batch_wait: Some(if setup.threads == 1 { Duration::ZERO } else { SHARED_WAIT }),
        chunk_max_size: setup.segment_len.and_then(|len| usize::try_from(len).ok()),
        ..chunked_wal::Config::default()
    };
    let config = Config { wal, ..Config::default() };
    let log = RaftLog::<Entries>::open(Arc::new(config)).map_err(failed("open"))?;
    let next = log.log_state().last().map_or(0, |last| last.0 + 1);
    Ok(Box::new(OfRaft { shared: Mutex::new(Shared { log, next }), level: setup.level }))
}

impl OfRaft {
    fn lock(&self) -> Answer<MutexGuard<'_, Shared>> {
        self.shared.lock().map_err(|_| Stop::Failed("a thread panicked".to_owned()))
    }
}

impl Subject for OfRaft {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        let (send, flushed) = sync_channel(1);
        Ok(Box::new(Appender { log: self, stream, send, flushed }))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        let shared = self.lock()?;
        for entry in shared.log.read(0, shared.next) {
            let (id, entry) = entry.map_err(failed("scan"))?;
            if id.1 == stream {
                tally.see(&entry);
            }
        }
        Ok(())
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let shared = self.lock()?;
        let entry = shared.log.read(n, n + 1).next();
        let entry = entry.ok_or_else(|| Stop::Failed(format!("entry {n} is missing")))?;
        tally.see(&entry.map_err(failed("get"))?.1);
        Ok(())
    }

    fn sync(&self) -> Answer<()> {
        let (send, flushed) = sync_channel(1);
        self.lock()?.log.flush(true, Some(send)).map_err(failed("sync"))?;
        flushed.recv().map_err(failed("sync"))?.map_err(failed("sync"))
    }

    fn close(self: Box<Self>) -> Answer<()> {
        self.lock()?.log.wait_worker_idle().map_err(failed("close"))
    }
}

impl Writer for Appender<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        self.append_batch(&[entry])
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        let entries: Vec<Vec<u8>> = entries.iter().map(|entry| entry.to_vec()).collect();
        let mut shared = self.log.lock()?;
        let first = shared.next;
        shared.next += entries.len() as u64;
        let entries = (first..).zip(entries).map(|(n, entry)| ((n, self.stream), entry));
        shared.log.append(entries).map_err(failed("append"))?;
        shared.log.flush(self.log.level == Level::Synced, Some(self.send.clone())).map_err(failed("append"))?;
        drop(shared);
        self.flushed.recv().map_err(failed("append"))?.map_err(failed("append"))
    }
}
