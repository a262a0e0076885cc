//! walrus-rust 0.2.0, in the directory that `WALRUS_DATA_DIR` names. A stream is a topic, which is
//! read forwards once. Single appends are either each synced (by `O_SYNC`) or never synced; batches
//! are always synced.

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use super::stream_name;
use crate::payload::Tally;
use crate::subject::{Answer, Level, Setup, Subject, Writer, failed, none};

/// The maximum number of entries that a read returns, and the length of the header before each.
const READ_MAX: usize = 2000;
const HEADER_LEN: usize = 64;

struct Log {
    walrus: Walrus,
    /// The bytes that a read asks for: enough for the largest number of entries that it returns.
    /// With fewer bytes, a read that ends within a block continues in the block that is being
    /// written, and the entries between the two are never read.
    read_len: usize,
}

struct Appender<'a>(&'a Walrus, String);

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    if setup.segment_len.is_some_and(|len| len < 1 << 20) {
        return none("the size of its files is fixed");
    }
    if setup.streams > 1000 {
        return none("a topic takes 10 MiB at least");
    }
    let schedule = match setup.level {
        Level::Synced => FsyncSchedule::SyncEach,
        _ => FsyncSchedule::NoFsync,
    };
    // The position of the reader is not needed here, so it is not stored after each read.
    let consistency = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
    let walrus = Walrus::with_consistency_and_schedule(consistency, schedule).map_err(failed("open"))?;
    Ok(Box::new(Log { walrus, read_len: READ_MAX * (HEADER_LEN + setup.entry_len) }))
}

impl Subject for Log {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        Ok(Box::new(Appender(&self.walrus, stream_name(stream))))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        let topic = stream_name(stream);
        loop {
            let entries = self.walrus.batch_read_for_topic(&topic, self.read_len, true).map_err(failed("scan"))?;
            if entries.is_empty() {
                return Ok(());
            }
            entries.iter().for_each(|entry| tally.see(&entry.data));
        }
    }

    fn get(&self, _: u64, _: &mut Tally) -> Answer<()> {
        none("topics are read forwards only")
    }
}

impl Writer for Appender<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        self.0.append_for_topic(&self.1, entry).map_err(failed("append"))
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        self.0.batch_append_for_topic(&self.1, entries).map_err(failed("append"))
    }
}
