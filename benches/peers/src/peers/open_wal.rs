//! open-wal 0.2.1. `append` only writes to memory; `commit` is a write and a sync. It has one
//! writer, which threads share under a mutex. A record is found by reading its segment from the
//! beginning, so it does not have a random read.

use std::sync::{Mutex, MutexGuard};

use open_wal::{Lsn, Wal, WalConfig};

use crate::payload::Tally;
use crate::subject::{Answer, Level, Setup, Stop, Subject, Writer, failed, none};

/// Buffered appends are committed once this many bytes are pending, because the other logs also
/// bound their buffers.
const BUFFER_LEN: usize = 1 << 20;

struct OpenWal {
    logs: Vec<Mutex<Wal>>,
    level: Level,
    alone: bool,
}

struct Appender<'a> {
    log: &'a Mutex<Wal>,
    /// Held for the whole run if no other thread appends.
    held: Option<MutexGuard<'a, Wal>>,
    level: Level,
    waiting: usize,
}

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    if setup.streams > 64 {
        return none("a log has one stream, and a file preallocated");
    }
    let mut config = WalConfig::default();
    if let Some(len) = setup.segment_len {
        config.segment_size = len;
        config.max_record_size = u32::try_from(len / 2).unwrap_or(u32::MAX).min(config.max_record_size);
    } else if setup.streams > 1 {
        config.segment_size = 16 << 20;
    }
    let open = |stream: u64| {
        let dir = setup.dir.join(format!("log{stream}"));
        std::fs::create_dir_all(&dir).map_err(failed("open"))?;
        Ok(Mutex::new(Wal::open(&dir, config).map_err(failed("open"))?.0))
    };
    let logs = (0..setup.streams).map(open).collect::<Answer<Vec<_>>>()?;
    Ok(Box::new(OpenWal { logs, level: setup.level, alone: setup.threads == 1 }))
}

fn lock(log: &Mutex<Wal>) -> Answer<MutexGuard<'_, Wal>> {
    log.lock().map_err(|_| Stop::Failed("a thread panicked".to_owned()))
}

impl OpenWal {
    fn log(&self, stream: u64) -> Answer<&Mutex<Wal>> {
        let log = usize::try_from(stream).ok().and_then(|at| self.logs.get(at));
        log.ok_or_else(|| Stop::Failed("no such stream".to_owned()))
    }
}

impl Subject for OpenWal {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        let log = self.log(stream)?;
        let held = if self.alone { Some(lock(log)?) } else { None };
        Ok(Box::new(Appender { log, held, level: self.level, waiting: 0 }))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        let log = lock(self.log(stream)?)?;
        let mut reader = log.reader_from(Lsn(0)).map_err(failed("scan"))?;
        while let Some(record) = reader.next() {
            tally.see(record.map_err(failed("scan"))?.1);
        }
        Ok(())
    }

    fn get(&self, _: u64, _: &mut Tally) -> Answer<()> {
        none("a record is found by reading its segment from the beginning")
    }
}

impl Appender<'_> {
    fn with<T>(&mut self, what: impl FnOnce(&mut Wal) -> open_wal::Result<T>) -> Answer<T> {
        match &mut self.held {
            Some(log) => what(log).map_err(failed("append")),
            None => what(&mut *lock(self.log)?).map_err(failed("append")),
        }
    }

    fn commits(&mut self, len: usize) -> bool {
        self.waiting += len;
        self.level == Level::Synced || self.waiting >= BUFFER_LEN
    }
}

impl Writer for Appender<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        self.append_batch(&[entry])
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        let commits = self.commits(entries.iter().map(|entry| entry.len()).sum());
        self.with(|log| {
            for entry in entries {
                log.append(entry)?;
            }
            if commits { log.commit().map(drop) } else { Ok(()) }
        })?;
        if commits {
            self.waiting = 0;
        }
        Ok(())
    }

    fn flush(&mut self) -> Answer<()> {
        self.waiting = 0;
        self.with(|log| log.commit().map(drop))
    }
}
