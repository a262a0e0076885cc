//! okaywal 0.3.1. An entry is one or more chunks, and its commit syncs; threads share syncs. At a
//! checkpoint a log passes its entries to the caller and discards them. Here each log is
//! preallocated for all entries, so that no checkpoint happens. Only recovery reads from the
//! beginning; a single chunk is read by its address.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use okaywal::{Configuration, Entry, EntryId, LogManager, LogPosition, ReadChunkResult, SegmentReader, WriteAheadLog};

use crate::payload::Tally;
use crate::subject::{Answer, Setup, Stop, Subject, Writer, failed};

struct Okaywal {
    logs: Vec<Mutex<Option<WriteAheadLog>>>,
    configurations: Vec<Configuration>,
    positions: Vec<LogPosition>,
    /// A second handle on the first stream's log, for reading.
    first: Option<WriteAheadLog>,
}

struct Appender(WriteAheadLog);

/// The object that recovery reports to.
#[derive(Default)]
struct Found {
    /// If `None`, only the positions are collected.
    tally: Option<Tally>,
    positions: Vec<LogPosition>,
    bad: u64,
}

struct Manager(Arc<Mutex<Found>>);

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Manager")
    }
}

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        let mut found = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            if found.tally.is_none() {
                found.positions.push(chunk.log_position());
                continue;
            }
            let bytes = chunk.read_all()?;
            found.bad += u64::from(!chunk.check_crc()?);
            if let Some(tally) = &mut found.tally {
                tally.see(&bytes);
            }
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    if setup.segment_len.is_some_and(|len| len < 1 << 20) {
        return crate::subject::none("segments are passed on at checkpoints and used again: a log never has many");
    }
    if setup.streams > 64 {
        return crate::subject::none("a log has one stream, a file preallocated with zeros, and a thread");
    }
    let bytes = setup.entries_max * (setup.entry_len as u64 + 32) / setup.streams + (1 << 20);
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let configuration = |stream: u64| {
        let dir: PathBuf = setup.dir.join(format!("log{stream}"));
        Configuration::default_for(dir).preallocate_bytes(bytes).checkpoint_after_bytes(u64::MAX)
    };
    let configurations: Vec<Configuration> = (0..setup.streams).map(configuration).collect();
    let found = Arc::new(Mutex::new(Found::default()));
    let mut logs = Vec::new();
    for one in &configurations {
        logs.push(Mutex::new(Some(one.clone().open(Manager(Arc::clone(&found))).map_err(failed("open"))?)));
    }
    let positions = std::mem::take(&mut lock(&found)?.positions);
    let first = if positions.is_empty() { None } else { lock(&logs[0])?.clone() };
    Ok(Box::new(Okaywal { logs, configurations, positions, first }))
}

fn lock<T>(mutex: &Mutex<T>) -> Answer<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| Stop::Failed("a thread panicked".to_owned()))
}

fn at(stream: u64) -> usize {
    usize::try_from(stream).unwrap_or(usize::MAX)
}

impl Subject for Okaywal {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        let log = lock(&self.logs[at(stream)])?.clone();
        Ok(Box::new(Appender(log.ok_or_else(|| Stop::Failed("it is closed".to_owned()))?)))
    }

    /// Opens the log once more, because only recovery reads it from the beginning.
    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        let mut slot = lock(&self.logs[at(stream)])?;
        drop(slot.take());
        let found = Arc::new(Mutex::new(Found { tally: Some(std::mem::take(tally)), ..Found::default() }));
        let log = self.configurations[at(stream)].clone().open(Manager(Arc::clone(&found))).map_err(failed("scan"))?;
        *slot = Some(log);
        let mut found = lock(&found)?;
        *tally = found.tally.take().unwrap_or_default();
        tally.wrong += found.bad;
        Ok(())
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let (Some(log), Some(&position)) = (&self.first, self.positions.get(at(n))) else {
            return crate::subject::none("addresses come from recovery only");
        };
        let mut reader = log.read_at(position).map_err(failed("get"))?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).map_err(failed("get"))?;
        if !reader.crc_is_valid().map_err(failed("get"))? {
            return Err(Stop::Failed("a checksum is wrong".to_owned()));
        }
        tally.see(&bytes);
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Answer<()> {
        self.first = None;
        for log in &self.logs {
            if let Some(log) = lock(log)?.take() {
                log.shutdown().map_err(failed("close"))?;
            }
        }
        Ok(())
    }
}

impl Writer for Appender {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        self.append_batch(&[entry])
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        let mut writer = self.0.begin_entry().map_err(failed("append"))?;
        for entry in entries {
            writer.write_chunk(entry).map_err(failed("append"))?;
        }
        writer.commit().map(drop).map_err(failed("append"))
    }
}
