//! ironwal 0.6.9. `Strict` syncs each append; `Async` leaves written bytes with the operating
//! system.

use ironwal::{CompressionType, SyncMode, Wal, WalOptions};

use super::stream_name;
use crate::payload::Tally;
use crate::subject::{Answer, Level, Setup, Stop, Subject, Writer, failed};

struct Ironwal(Wal);

struct Appender {
    wal: Wal,
    stream: String,
}

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    let mut options = WalOptions::new(setup.dir.join("log"));
    options.compression = CompressionType::None;
    options.sync_mode = match setup.level {
        Level::Synced => SyncMode::Strict,
        _ => SyncMode::Async,
    };
    if let Some(len) = setup.segment_len {
        options.max_segment_size = len;
    }
    Ok(Box::new(Ironwal(Wal::new(options).map_err(failed("open"))?)))
}

impl Subject for Ironwal {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        Ok(Box::new(Appender { wal: self.0.clone(), stream: stream_name(stream) }))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        for entry in self.0.iter(&stream_name(stream), 0).map_err(failed("scan"))? {
            tally.see(&entry.map_err(failed("scan"))?);
        }
        Ok(())
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let entry = self.0.get("s0", n).map_err(failed("get"))?;
        tally.see(&entry.ok_or_else(|| Stop::Failed(format!("entry {n} is missing")))?);
        Ok(())
    }
}

impl Writer for Appender {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        self.wal.append(&self.stream, entry).map(drop).map_err(failed("append"))
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        self.wal.append_batch(&self.stream, entries).map(drop).map_err(failed("append"))
    }
}
