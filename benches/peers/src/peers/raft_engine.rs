//! raft-engine 0.4.2. A stream is a region, and the caller numbers its entries; all regions share
//! one file, its writes and its syncs. Compression is off.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use protobuf::descriptor::UninterpretedOption;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::payload::Tally;
use crate::subject::{Answer, Level, Setup, Stop, Subject, Writer, failed};

/// The number of entries that a scan fetches at once.
const FETCHED: u64 = 1024;

/// An entry must be a protobuf message. This one comes with the protobuf crate. Like an entry of
/// Raft, it has a number and bytes.
#[derive(Clone)]
struct Message;

impl MessageExt for Message {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

struct RaftEngine {
    engine: Engine,
    level: Level,
    /// The next index of each region. Indexes begin at 1.
    next: Vec<AtomicU64>,
}

struct Appender<'a> {
    log: &'a RaftEngine,
    region: u64,
    next: &'a AtomicU64,
}

thread_local! {
    /// The buffers of a thread. They take 10 KiB, so a thread has them once for all its regions.
    static BUFFERS: RefCell<(LogBatch, Vec<UninterpretedOption>)> = RefCell::default();
}

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    let mut config = Config {
        dir: setup.dir.join("log").to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    };
    if let Some(len) = setup.segment_len {
        config.target_file_size = ReadableSize(len);
    }
    let engine = Engine::open(config).map_err(failed("open"))?;
    let next = (0..setup.streams.max(setup.threads))
        .map(|stream| AtomicU64::new(engine.last_index(stream + 1).map_or(1, |last| last + 1)))
        .collect();
    Ok(Box::new(RaftEngine { engine, level: setup.level, next }))
}

impl Subject for RaftEngine {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        let next = usize::try_from(stream).ok().and_then(|at| self.next.get(at));
        let next = next.ok_or_else(|| Stop::Failed("no such stream".to_owned()))?;
        Ok(Box::new(Appender { log: self, region: stream + 1, next }))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        let (Some(first), Some(last)) = (self.engine.first_index(stream + 1), self.engine.last_index(stream + 1))
        else {
            return Ok(());
        };
        let mut entries = Vec::new();
        let mut at = first;
        while at <= last {
            let end = (at + FETCHED).min(last + 1);
            entries.clear();
            self.engine.fetch_entries_to::<Message>(stream + 1, at, end, None, &mut entries).map_err(failed("scan"))?;
            entries.iter().for_each(|entry| tally.see(entry.get_string_value()));
            at = end;
        }
        Ok(())
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let entry = self.engine.get_entry::<Message>(1, n + 1).map_err(failed("get"))?;
        tally.see(entry.ok_or_else(|| Stop::Failed(format!("entry {n} is missing")))?.get_string_value());
        Ok(())
    }

    /// `Engine::sync` writes an empty batch, which syncs nothing (seen with strace); so this writes
    /// a key.
    fn sync(&self) -> Answer<()> {
        let mut batch = LogBatch::default();
        batch.put(u64::MAX, b"synced".to_vec(), Vec::new()).map_err(failed("sync"))?;
        self.engine.write(&mut batch, true).map(drop).map_err(failed("sync"))
    }
}

impl Writer for Appender<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        self.append_batch(&[entry])
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        BUFFERS.with_borrow_mut(|(batch, messages)| {
            let mut next = self.next.load(Ordering::Relaxed);
            messages.resize_with(entries.len(), UninterpretedOption::new);
            for (message, entry) in messages.iter_mut().zip(entries) {
                message.set_positive_int_value(next);
                let bytes = message.mut_string_value();
                bytes.clear();
                bytes.extend_from_slice(entry);
                next += 1;
            }
            batch.add_entries::<Message>(self.region, messages).map_err(failed("append"))?;
            let synced = self.log.level == Level::Synced;
            // This also empties the batch.
            self.log.engine.write(batch, synced).map_err(failed("append"))?;
            // A region has one writer, so this needs no partner.
            self.next.store(next, Ordering::Relaxed);
            Ok(())
        })
    }
}
