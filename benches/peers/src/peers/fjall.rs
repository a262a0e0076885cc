//! fjall 3.1.13: a store of keys and values whose journal serves as the log. All streams are in one
//! keyspace, and a key is the number of the stream and the number of the entry, because each
//! keyspace is a tree with files of its own.
//!
//! An insert writes to the journal, which is buffered, flushed by a write, or synced by `persist`,
//! which calls fdatasync (seen with strace) under the lock of the journal. So threads do not share
//! syncs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::payload::Tally;
use crate::subject::{Answer, Level, Setup, Stop, Subject, Writer, failed};

struct Fjall {
    database: Database,
    entries: Keyspace,
    level: Level,
    /// The number of the next entry of each stream, read when the stream is first used.
    next: Vec<OnceLock<AtomicU64>>,
}

struct Appender<'a> {
    log: &'a Fjall,
    stream: u64,
    next: &'a AtomicU64,
}

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    let database = Database::builder(setup.dir.join("log")).open().map_err(failed("open"))?;
    // `persist` also writes the buffered bytes before it syncs.
    let manual = setup.level != Level::Flushed;
    let options = || KeyspaceCreateOptions::default().manual_journal_persist(manual);
    let entries = database.keyspace("entries", options).map_err(failed("open"))?;
    let next = (0..setup.streams.max(setup.threads)).map(|_| OnceLock::new()).collect();
    Ok(Box::new(Fjall { database, entries, level: setup.level, next }))
}

fn key(stream: u64, n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&stream.to_be_bytes());
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

impl Fjall {
    /// Returns the number after that of the last entry of a stream.
    fn end(&self, stream: u64) -> Answer<u64> {
        let Some(last) = self.entries.prefix(stream.to_be_bytes()).next_back() else { return Ok(0) };
        let last = last.key().map_err(failed("look-up"))?;
        let n = last.get(8..).and_then(|n| n.try_into().ok()).map(u64::from_be_bytes);
        n.map(|n| n + 1).ok_or_else(|| Stop::Failed("a key has another length".to_owned()))
    }
}

impl Subject for Fjall {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        let next = usize::try_from(stream).ok().and_then(|at| self.next.get(at));
        let next = next.ok_or_else(|| Stop::Failed("no such stream".to_owned()))?;
        if next.get().is_none() {
            let end = AtomicU64::new(self.end(stream)?);
            next.get_or_init(|| end);
        }
        let next = next.get().ok_or_else(|| Stop::Failed("no such stream".to_owned()))?;
        Ok(Box::new(Appender { log: self, stream, next }))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        for entry in self.entries.prefix(stream.to_be_bytes()) {
            tally.see(&entry.value().map_err(failed("scan"))?);
        }
        Ok(())
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let entry = self.entries.get(key(0, n)).map_err(failed("get"))?;
        tally.see(&entry.ok_or_else(|| Stop::Failed(format!("entry {n} is missing")))?);
        Ok(())
    }

    fn sync(&self) -> Answer<()> {
        self.database.persist(PersistMode::SyncData).map_err(failed("sync"))
    }
}

impl Writer for Appender<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        self.log.entries.insert(key(self.stream, n), entry).map_err(failed("append"))?;
        if self.log.level == Level::Synced { self.log.sync() } else { Ok(()) }
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        let mode = match self.log.level {
            Level::Buffered => None,
            Level::Flushed => Some(PersistMode::Buffer),
            Level::Synced => Some(PersistMode::SyncData),
        };
        let first = self.next.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let mut batch = self.log.database.batch().durability(mode);
        for (n, entry) in (first..).zip(entries) {
            batch.insert(&self.log.entries, key(self.stream, n), *entry);
        }
        batch.commit().map_err(failed("append"))
    }

    fn flush(&mut self) -> Answer<()> {
        self.log.database.persist(PersistMode::Buffer).map_err(failed("flush"))
    }
}
