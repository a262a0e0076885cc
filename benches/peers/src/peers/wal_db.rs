//! wal-db 1.1.0. `append` is a write; `append_and_sync` shares syncs. A record is read by its byte
//! address, which can be computed from the number of the entry if all entries have the same length.

use wal_db::{FileStore, Lsn, SegmentedStore, Wal, WalStore};

use crate::payload::Tally;
use crate::subject::{Answer, Level, Setup, Stop, Subject, Writer, failed, none};

/// The length of the header before each record.
const HEADER_LEN: u64 = 8;

struct WalDb<S: WalStore> {
    logs: Vec<Wal<S>>,
    level: Level,
    framed_len: u64,
}

struct Appender<'a, S: WalStore>(&'a Wal<S>, Level);

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    if setup.streams > 64 {
        return none("a log has one stream");
    }
    let level = setup.level;
    let framed_len = setup.entry_len as u64 + HEADER_LEN;
    let path = |stream: u64| setup.dir.join(format!("log{stream}"));
    if let Some(len) = setup.segment_len {
        let open = |stream| Wal::<SegmentedStore>::open_segmented(path(stream), len).map_err(failed("open"));
        let logs = (0..setup.streams).map(open).collect::<Answer<Vec<_>>>()?;
        return Ok(Box::new(WalDb { logs, level, framed_len }));
    }
    let open = |stream| Wal::<FileStore>::open(path(stream)).map_err(failed("open"));
    let logs = (0..setup.streams).map(open).collect::<Answer<Vec<_>>>()?;
    Ok(Box::new(WalDb { logs, level, framed_len }))
}

impl<S: WalStore> WalDb<S> {
    fn log(&self, stream: u64) -> Answer<&Wal<S>> {
        let log = usize::try_from(stream).ok().and_then(|at| self.logs.get(at));
        log.ok_or_else(|| Stop::Failed("no such stream".to_owned()))
    }
}

impl<S: WalStore> Subject for WalDb<S> {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        Ok(Box::new(Appender(self.log(stream)?, self.level)))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        for record in self.log(stream)?.iter().map_err(failed("scan"))? {
            tally.see(record.map_err(failed("scan"))?.data());
        }
        Ok(())
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let mut records = self.log(0)?.iter_from(Lsn::new(n * self.framed_len)).map_err(failed("get"))?;
        let record = records.next().ok_or_else(|| Stop::Failed(format!("entry {n} is missing")))?;
        tally.see(record.map_err(failed("get"))?.data());
        Ok(())
    }

    fn sync(&self) -> Answer<()> {
        self.logs.iter().try_for_each(|log| log.sync()).map_err(failed("sync"))
    }

    fn close(self: Box<Self>) -> Answer<()> {
        self.logs.iter().try_for_each(|log| log.sync().map_err(failed("sync")))
    }
}

impl<S: WalStore> Writer for Appender<'_, S> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        match self.1 {
            Level::Synced => self.0.append_and_sync(entry).map(drop).map_err(failed("append")),
            _ => self.0.append(entry).map(drop).map_err(failed("append")),
        }
    }

    fn append_batch(&mut self, _: &[&[u8]]) -> Answer<()> {
        none("it has no batches")
    }
}
