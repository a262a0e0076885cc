//! stratawal, with its defaults.

use stratawal::{Batch, Durability, Options, Stream, StreamOptions, Wal};

use super::stream_name;
use crate::payload::Tally;
use crate::promise;
use crate::subject::{Answer, Level, Setup, Stop, Subject, Writer, failed};

struct Ours {
    wal: Wal,
    first: Stream,
    /// Whether a scan reads entries by runs.
    runs: bool,
}

struct Appender {
    stream: Stream,
    batch: Batch,
}

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    let durability = match setup.level {
        Level::Buffered => Durability::Buffered,
        Level::Flushed => Durability::Flushed,
        Level::Synced => Durability::Synced,
    };
    let mut defaults = StreamOptions::new().durability(durability);
    if let Some(len) = setup.segment_len {
        defaults = defaults.segment_bytes(len.max(64 << 10));
    }
    if let Some(len) = setup.index_every {
        defaults = defaults.index_interval_bytes(len);
    }
    let mut options = Options::new().stream_defaults(defaults);
    if setup.name.contains("-mapped") {
        options = promise::map_reads(options);
    }
    options = match setup.name {
        "stratawal-off" => options.journal(false),
        "stratawal-written" => options.journal_mapped(false),
        _ => options,
    };
    if let Some(bytes) = setup.journal_bytes {
        options = options.journal_bytes(bytes);
    }
    let path = setup.dir.join("log");
    let wal = if setup.reader { options.open_read_only(path) } else { options.open(path) };
    let wal = wal.map_err(failed("open"))?;
    let first = wal.stream(&stream_name(0)).map_err(failed("look-up"))?;
    Ok(Box::new(Ours { wal, first, runs: setup.name.ends_with("-runs") }))
}

impl Subject for Ours {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        let stream = self.wal.stream(&stream_name(stream)).map_err(failed("look-up"))?;
        Ok(Box::new(Appender { stream, batch: Batch::new() }))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        let stream = self.wal.stream(&stream_name(stream)).map_err(failed("look-up"))?;
        if self.runs {
            let mut entries = stream.iter(..);
            while let Some(run) = entries.next_run() {
                run.map_err(failed("scan"))?.entries().for_each(|entry| tally.see(entry.data));
            }
            return Ok(());
        }
        for entry in stream.iter(..) {
            tally.see(entry.map_err(failed("scan"))?.data());
        }
        Ok(())
    }

    fn scan_below(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        for entry in self.first.iter(..n) {
            tally.see(entry.map_err(failed("scan"))?.data());
        }
        Ok(())
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let entry = self.first.get(n).map_err(failed("get"))?;
        tally.see(entry.ok_or_else(|| Stop::Failed(format!("entry {n} is missing")))?.data());
        Ok(())
    }

    fn sync(&self) -> Answer<()> {
        self.wal.sync().map_err(failed("sync"))
    }

    fn poll(&self) -> Answer<u64> {
        self.first.reopen().map_err(failed("look again"))?;
        Ok(self.first.next_seq())
    }

    fn close_fast(self: Box<Self>) -> Answer<()> {
        self.wal.close_fast().map_err(failed("close"))
    }

    fn close(self: Box<Self>) -> Answer<()> {
        self.wal.close().map_err(failed("close"))
    }
}

impl Writer for Appender {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        self.stream.append(entry).map(drop).map_err(failed("append"))
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        self.batch.clear();
        self.batch.extend(entries);
        self.stream.append_batch(&self.batch).map(drop).map_err(failed("append"))
    }

    fn flush(&mut self) -> Answer<()> {
        self.stream.flush().map_err(failed("flush"))
    }
}
