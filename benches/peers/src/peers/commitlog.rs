//! commitlog 0.2.0. Each append is a write. Its `flush` syncs neither file, so it has no synced
//! figure.

use std::sync::Mutex;

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use crate::payload::Tally;
use crate::subject::{Answer, Setup, Stop, Subject, Writer, failed, none};

/// The number of bytes that a scan reads at once.
const READ_LEN: usize = 256 << 10;

struct Log {
    log: Mutex<CommitLog>,
    /// One message rather than two.
    one: ReadLimit,
}

struct Appender<'a> {
    log: &'a Mutex<CommitLog>,
    messages: MessageBuf,
}

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    if setup.streams > 2 {
        return none("a log has one stream, and a mapped index preallocated for each segment");
    }
    let mut options = LogOptions::new(setup.dir.join("log"));
    if let Some(len) = setup.segment_len {
        let len = usize::try_from(len).map_err(failed("open"))?.min(u32::MAX as usize);
        options.segment_max_bytes(len).index_max_items((len / setup.entry_len).max(1));
    }
    let log = Mutex::new(CommitLog::new(options).map_err(failed("open"))?);
    Ok(Box::new(Log { log, one: ReadLimit::max_bytes(setup.entry_len + setup.entry_len / 2) }))
}

fn lock<T>(mutex: &Mutex<T>) -> Answer<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| Stop::Failed("a thread panicked".to_owned()))
}

impl Subject for Log {
    fn writer(&self, _: u64) -> Answer<Box<dyn Writer + '_>> {
        Ok(Box::new(Appender { log: &self.log, messages: MessageBuf::default() }))
    }

    fn scan(&self, _: u64, tally: &mut Tally) -> Answer<()> {
        let log = lock(&self.log)?;
        let mut at = 0;
        while at < log.next_offset() {
            let messages = log.read(at, ReadLimit::max_bytes(READ_LEN)).map_err(failed("scan"))?;
            if messages.is_empty() {
                return Err(Stop::Failed(format!("scan: nothing at {at}")));
            }
            at += messages.len() as u64;
            messages.iter().for_each(|message| tally.see(message.payload()));
        }
        Ok(())
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let messages = lock(&self.log)?.read(n, self.one).map_err(failed("get"))?;
        let message = messages.iter().next();
        tally.see(message.ok_or_else(|| Stop::Failed(format!("entry {n} is missing")))?.payload());
        Ok(())
    }

    fn close(self: Box<Self>) -> Answer<()> {
        lock(&self.log)?.flush().map_err(failed("close"))
    }
}

impl Writer for Appender<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        self.append_batch(&[entry])
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        self.messages.clear();
        for entry in entries {
            self.messages.push(entry).map_err(|_| Stop::Failed("append: it is too large".to_owned()))?;
        }
        lock(self.log)?.append(&mut self.messages).map(drop).map_err(failed("append"))
    }
}
