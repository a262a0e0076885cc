//! Streams on a simulated disk: crashes at every change and faults at every operation, compared
//! with the model. The facade's tests run the same with many more seeds; these run only a stream,
//! without the format file, the lock and the cleaning of leftovers.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use common::{DURABILITIES, durability_of, read};
use stratawal_frame::WalId;
use stratawal_journal::{Dropped, JournalOptions};
use stratawal_storage::{Access, Storage};
use stratawal_stream::{
    Batch, DeleteError, Durability, Error, ErrorKind, JournalReader, Location, LogContext, LogJournal, LogTickets,
    StreamLog, StreamOptions, Ticket, Visibility, is_leftover_dir, remove_leftover_dir, stream_id,
};
use stratawal_testkit::{
    Found, Level, LogUnderTest, Outcome, Refusal, Shape, SimStorage, Volume, crash_everywhere, fault_everywhere,
    interrupt_recovery,
};

const SHAPE: Shape = Shape { streams_max: 2, steps_max: 12, segment_len: 64 << 10, entry_len_max: u64::MAX };

/// How appends are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Off,
    Mapped,
    Written,
}

const JOURNALS: [Journal; 3] = [Journal::Off, Journal::Mapped, Journal::Written];

/// Streams of this durability.
#[derive(Debug)]
struct Streams(Durability, Journal);

/// Streams, each opened when first used.
struct Open {
    context: Arc<LogContext>,
    options: StreamOptions,
    streams: RefCell<BTreeMap<String, StreamLog>>,
    tickets: Arc<LogTickets>,
    submitted: RefCell<Vec<Ticket>>,
}

/// The directory of the journal.
const JOURNAL: &str = "/journal";

/// The file that marks a journal that was created whole.
const MARKER: &str = "/JOURNAL";

impl Open {
    fn new(storage: SimStorage, durability: Durability, journal: Option<LogJournal>, read_only: bool) -> Self {
        let options = StreamOptions::new()
            .durability(durability)
            .segment_bytes(SHAPE.segment_len)
            .frame_bytes(512)
            .unsynced_bytes_max(256 << 10)
            .unsynced_segments_max(2);
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let mut context = LogContext::new(Arc::clone(&storage)).read_only(read_only);
        if read_only {
            context = context.journal_reader(Arc::new(reader_of(&storage)));
        }
        if let Some(journal) = journal {
            context = context.journal(Arc::new(journal));
        }
        let context = Arc::new(context);
        let tickets = Arc::new(LogTickets::new());
        Self { context, options, streams: RefCell::default(), tickets, submitted: RefCell::default() }
    }

    fn stream(&self, name: &str) -> Result<StreamLog, Refusal> {
        if let Some(stream) = self.streams.borrow().get(name) {
            return Ok(stream.clone());
        }
        let location = Location::new("/streams", name.replace('/', "-"));
        let stream = StreamLog::open(Arc::clone(&self.context), location, self.options.clone()).map_err(refusal)?;
        self.streams.borrow_mut().insert(name.to_owned(), stream.clone());
        Ok(stream)
    }
}

fn refusal(error: Error) -> Refusal {
    Refusal { unknown: error.kind() == ErrorKind::Poisoned, message: error.to_string() }
}

fn io_refusal(error: std::io::Error) -> Refusal {
    Refusal { unknown: false, message: error.to_string() }
}

/// A truncation that could not remove a file may report that it has dropped the entries. It then
/// counts as done.
fn truncated(result: Result<(), Error>) -> Result<(), Refusal> {
    match result {
        Err(error) if error.to_string().contains("the entries are dropped") => Ok(()),
        other => other.map_err(refusal),
    }
}

fn journal_refusal(error: stratawal_journal::Error) -> Refusal {
    Refusal { unknown: true, message: error.to_string() }
}

/// A reader of the journal, as long as there is one.
fn reader_of(storage: &Arc<dyn Storage>) -> JournalReader {
    let marked = Arc::clone(storage);
    let has_journal = move || Some(marked.open(Path::new(MARKER), Access::Read).is_ok());
    JournalReader::new(storage, Path::new(JOURNAL), WalId(0), has_journal)
}

/// Opens the journal, or creates it. It is as
/// small as a journal can be, so that it has to be released often.
fn open_journal(storage: &SimStorage, mapped: bool) -> Result<LogJournal, Refusal> {
    let options = JournalOptions::default().bytes(64 << 10).first_file_bytes(16 << 10).mapped(mapped);
    let dir = Path::new(JOURNAL);
    let marker = Path::new(MARKER);
    let wal_id = WalId(0);
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    if storage.open(marker, Access::Read).is_ok() {
        let is_unfinished = |dropped: &Dropped| {
            let location = Location::new("/streams", std::str::from_utf8(&dropped.name).expect("a name"));
            match stream_id(&shared, wal_id, &location) {
                stratawal_stream::Found::Missing => false,
                stratawal_stream::Found::Unreadable => true,
                stratawal_stream::Found::Stream(id) => dropped.stream == id,
            }
        };
        return LogJournal::open(&shared, dir, wal_id, options, is_unfinished).map_err(journal_refusal);
    }
    for entry in storage.list(dir).unwrap_or_default() {
        storage.remove_file(&dir.join(&entry.name)).map_err(io_refusal)?;
    }
    let journal = LogJournal::create(&shared, dir, wal_id, options).map_err(journal_refusal)?;
    let create = || storage.create_new(marker).and_then(|file| file.sync_all());
    create().and_then(|()| storage.sync_dir(Path::new("/"))).map_err(io_refusal)?;
    Ok(journal)
}

impl LogUnderTest for Streams {
    type Log = Open;

    fn open(&self, storage: SimStorage) -> Result<Open, Refusal> {
        let dir = Path::new("/streams");
        match storage.create_dir(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io_refusal(error)),
            _ => storage.sync_dir(Path::new("/")).map_err(io_refusal)?,
        }
        for entry in storage.list(dir).map_err(io_refusal)? {
            if is_leftover_dir(&entry.name) {
                // An interrupted deletion must become durable before it is shown.
                storage.sync_dir(dir).map_err(io_refusal)?;
                remove_leftover_dir(&storage, &dir.join(&entry.name)).map_err(io_refusal)?;
            }
        }
        let journal = match self.1 {
            Journal::Off => None,
            journal => Some(open_journal(&storage, journal == Journal::Mapped)?),
        };
        Ok(Open::new(storage, self.0, journal, false))
    }

    fn append(&self, log: &Open, stream: &str, entries: &[Vec<u8>], level: Level) -> Result<Range<u64>, Refusal> {
        let stream = log.stream(stream)?;
        let durability = durability_of(level);
        match entries {
            [entry] => stream.append(entry, durability).map(|seq| seq..seq + 1),
            entries => {
                let mut batch = Batch::new();
                entries.iter().for_each(|entry| batch.push(entry));
                stream.append_batch(&batch, durability)
            }
        }
        .map_err(refusal)
    }

    fn append_if(
        &self,
        log: &Open,
        stream: &str,
        expected_next_seq: u64,
        entries: &[Vec<u8>],
        level: Level,
    ) -> Result<Range<u64>, Refusal> {
        let batch = entries.iter().collect();
        log.stream(stream)?.append_if(expected_next_seq, &batch, durability_of(level)).map_err(refusal)
    }

    fn submit(&self, log: &Open, stream: &str, entries: &[Vec<u8>], level: Level) -> Result<Range<u64>, Refusal> {
        let batch = entries.iter().collect();
        let stream = log.stream(stream)?;
        let ticket = stream.try_submit(&log.tickets, &batch, durability_of(level)).map_err(refusal)?;
        let seqs = ticket.seqs();
        log.submitted.borrow_mut().push(ticket);
        Ok(seqs)
    }

    fn await_submitted(&self, log: &Open) -> Result<(), Refusal> {
        while log.tickets.drive() {}
        let submitted = log.submitted.take();
        submitted.into_iter().map(|ticket| ticket.wait().map(drop).map_err(refusal)).fold(Ok(()), Result::and)
    }

    fn flush(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        log.stream(stream)?.flush().map_err(refusal)
    }

    fn sync(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        log.stream(stream)?.sync().map_err(refusal)
    }

    fn truncate_before(&self, log: &Open, stream: &str, first_seq: u64) -> Result<(), Refusal> {
        truncated(log.stream(stream)?.truncate_before(first_seq))
    }

    fn truncate_from(&self, log: &Open, stream: &str, next_seq: u64) -> Result<(), Refusal> {
        truncated(log.stream(stream)?.truncate_from(next_seq))
    }

    fn delete(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        let deleted = log.stream(stream)?.delete();
        match deleted {
            Ok(_) | Err(DeleteError::Left(_)) => {
                log.streams.borrow_mut().remove(stream);
                Ok(())
            }
            Err(DeleteError::Undone(error) | DeleteError::Indeterminate(error)) => {
                Err(Refusal { unknown: true, message: error.to_string() })
            }
        }
    }

    fn close_stream(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        log.stream(stream)?.close_for_good().map_err(refusal)?;
        log.streams.borrow_mut().remove(stream);
        Ok(())
    }

    fn reopen(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        log.stream(stream)?.reopen().map_err(refusal)
    }

    fn read(&self, log: &Open, stream: &str, accepted: bool) -> Result<Found, Refusal> {
        let visibility = if accepted { Visibility::Accepted } else { Visibility::Stable };
        read(&log.stream(stream)?, visibility).map_err(refusal)
    }

    fn stable_level(&self, _log: &Open) -> Level {
        if self.0 == Durability::Synced { Level::Synced } else { Level::Flushed }
    }

    fn read_only(&self, storage: SimStorage, stream: &str) -> Result<Option<Found>, Refusal> {
        let reader = Open::new(storage, Durability::Synced, None, true);
        read(&reader.stream(stream)?, Visibility::Stable).map(Some).map_err(refusal)
    }

    fn shares_journal(&self) -> bool {
        self.1 != Journal::Off
    }

    fn close(&self, log: Open) -> Result<(), Refusal> {
        let Open { context, streams, .. } = log;
        streams.into_inner().into_values().try_for_each(|stream| stream.close()).map_err(refusal)?;
        match context.log_journal() {
            Some(journal) => journal.close().map(drop).map_err(journal_refusal),
            None => Ok(()),
        }
    }
}

#[test]
fn crash_at_any_disk_change_keeps_acknowledged() {
    let volume = Volume { losses: 2, depth: 2, nested: 1, lie: None };
    for (seed, streams) in all() {
        let mut outcome = Outcome::default();
        let tried = crash_everywhere(&streams, seed, &SHAPE, &volume, &mut outcome);
        tried.unwrap_or_else(|failure| panic!("{streams:?}: {failure}"));
        assert!(outcome.crashes > outcome.places * volume.losses, "{outcome:?}");
    }
}

#[test]
fn interrupted_recovery_ends_in_the_same_state() {
    for journal in JOURNALS {
        let mut outcome = Outcome::default();
        let tried = interrupt_recovery(&Streams(Durability::Flushed, journal), 0, &SHAPE, 1, &mut outcome);
        tried.unwrap_or_else(|failure| panic!("{journal:?}: {failure}"));
        assert!(outcome.crashes >= 20, "a recovery that changes little: {outcome:?}");
    }
}

#[test]
fn fault_at_any_operation_keeps_acknowledged() {
    for (seed, streams) in all() {
        let mut outcome = Outcome::default();
        let tried = fault_everywhere(&streams, seed, &SHAPE, 11, &mut outcome);
        tried.unwrap_or_else(|failure| panic!("{streams:?}: {failure}"));
        assert!(outcome.faults > 0, "{outcome:?}");
    }
}

/// Every durability with every kind of journal, each with its first seed, or with those of
/// `STREAM_SEEDS=A..B`.
fn all() -> Vec<(u64, Streams)> {
    let parse = |text: String| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    let seeds: Range<u64> = std::env::var("STREAM_SEEDS").ok().and_then(parse).unwrap_or(0..1);
    let kinds = JOURNALS.into_iter().flat_map(|journal| DURABILITIES.map(|durability| (durability, journal)));
    seeds
        .flat_map(|seed| (seed..).zip(kinds.clone()))
        .map(|(seed, (durability, journal))| (seed, Streams(durability, journal)))
        .collect()
}
