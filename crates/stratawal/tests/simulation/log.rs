//! The log on which the simulation runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stratawal::{
    Batch, Durability, Error, ErrorKind, Follow, FollowEvent, Options, Stream, StreamOptions, Ticket, Visibility, Wal,
};
use stratawal_storage::Storage;
use stratawal_testkit::{Found, HookedStorage, Level, LogUnderTest, Operation, Refusal, Shape, SimStorage};

const SEGMENT_LEN: u64 = 64 << 10;
pub(crate) const SHAPE: Shape =
    Shape { streams_max: 3, steps_max: 24, segment_len: SEGMENT_LEN, entry_len_max: u64::MAX };

/// How appends are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Journal {
    Off,
    Mapped,
    Written,
}

/// The commit journal is as small as it can be, so that it has to be released often.
const JOURNAL_BYTES: u64 = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    pub(crate) journal: Journal,
    /// Whether each batch is appended as two batches, which breaks the promise about batches.
    pub(crate) splits_batches: bool,
}

impl Log {
    pub(crate) const fn new(journal: Journal) -> Self {
        Self { journal, splits_batches: false }
    }

    /// Without a thread, so that a seed determines everything.
    fn options(self) -> Options {
        Options::new()
            .journal(self.journal != Journal::Off)
            .journal_mapped(self.journal == Journal::Mapped)
            .journal_bytes(JOURNAL_BYTES)
            // Each stream closes the file of another one.
            .active_files(1)
            .maintenance_thread(false)
    }
}

/// A log of each kind.
pub(crate) const LOGS: [Log; 3] = [Log::new(Journal::Off), Log::new(Journal::Mapped), Log::new(Journal::Written)];

/// An open log, and the durability of its streams.
pub(crate) struct Open {
    wal: Wal,
    durability: Durability,
    submitted: RefCell<Vec<Ticket>>,
    /// A follower of each stream, and what it has returned.
    followers: RefCell<BTreeMap<String, (Follow, Found)>>,
}

fn stream_options(durability: Durability) -> StreamOptions {
    StreamOptions::new()
        .segment_bytes(SEGMENT_LEN)
        .frame_bytes(512)
        .unsynced_bytes_max(256 << 10)
        .unsynced_segments_max(2)
        .durability(durability)
}

fn durability(level: Level) -> Durability {
    match level {
        Level::Buffered => Durability::Buffered,
        Level::Flushed => Durability::Flushed,
        Level::Synced => Durability::Synced,
    }
}

fn refusal(error: Error) -> Refusal {
    Refusal { unknown: error.kind() == ErrorKind::Poisoned, message: error.to_string() }
}

/// A truncation that could not remove a file may report that it has dropped the entries. It then
/// counts as done.
fn truncated(result: Result<(), Error>, is_done: impl Fn() -> bool) -> Result<(), Refusal> {
    let Err(error) = result else { return Ok(()) };
    let reports_done = error.to_string().contains("the entries are dropped");
    assert!(!reports_done || is_done(), "{error}");
    if reports_done { Ok(()) } else { Err(refusal(error)) }
}

fn read(wal: &Wal, stream: &str, visibility: Visibility) -> Result<Found, Error> {
    let stream = wal.stream(stream)?.with_visibility(visibility);
    let first_seq = stream.first_seq();
    let entries = stream.iter(..).map(|entry| entry.map(|entry| entry.data().to_vec()));
    Ok(Found { first_seq, entries: entries.collect::<Result<_, _>>()? })
}

/// Takes all events of `follow`, a follower of `stream` that has returned `shown`.
fn pull(follow: &mut Follow, shown: &mut Found, stream: &Stream) -> Result<(), Error> {
    loop {
        let event = match follow.next_timeout(Duration::ZERO) {
            Ok(Some(event)) => event,
            Ok(None) => break,
            // The stream was closed alone, and `stream` is open. It may have been cut since the
            // last event, so a new follower begins at the first entry.
            Err(error) if error.kind() == ErrorKind::Closed => {
                (*follow, *shown) = (stream.follow(0), Found::default());
                continue;
            }
            // After an error no event follows. The cause may have been a cut that failed.
            Err(error) => {
                (*follow, *shown) = (stream.follow(0), Found::default());
                return Err(error);
            }
        };
        match event {
            FollowEvent::Entry(entry) => {
                assert_eq!(entry.seq(), shown.next_seq(), "an entry is missing, or came twice");
                shown.entries.push(entry.data().to_vec());
            }
            FollowEvent::Truncated { dropped } => {
                assert_eq!(dropped.start, shown.next_seq());
                *shown = Found { first_seq: dropped.end, entries: Vec::new() };
            }
            FollowEvent::Cut { dropped } => {
                assert_eq!(dropped.end, shown.next_seq());
                let kept = dropped.start.saturating_sub(shown.first_seq);
                shown.first_seq = shown.first_seq.min(dropped.start);
                shown.entries.truncate(usize::try_from(kept).expect("small"));
            }
            FollowEvent::Deleted => {
                *shown = Found::default();
                *follow = stream.follow(0);
            }
            other => panic!("{other:?}"),
        }
    }
    let dropped = stream.first_seq().saturating_sub(shown.first_seq);
    shown.entries.drain(..usize::try_from(dropped).expect("small").min(shown.entries.len()));
    shown.first_seq += dropped;
    Ok(())
}

/// Opens the log while the journal gets no new file, so that it continues in its old ones. Returns
/// `None` if it has none yet, or if this fails.
fn open_without_room(storage: SimStorage, open: impl Fn(Arc<dyn Storage>) -> stratawal::Result<Wal>) -> Option<Wal> {
    let hooked = HookedStorage::new(storage);
    hooked.set(|operation, path| {
        let is_new = operation == Operation::Create && path.starts_with("/log/journal");
        if is_new { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    let wal = open(Arc::new(hooked.clone())).ok()?;
    hooked.clear();
    Some(wal)
}

impl LogUnderTest for Log {
    type Log = Open;

    fn open(&self, storage: SimStorage) -> Result<Open, Refusal> {
        let seed = storage.random_u64();
        let durability =
            [Durability::Synced, Durability::Flushed, Durability::Buffered][usize::try_from(seed % 3).unwrap()];
        let options = self.options().stream_defaults(stream_options(durability));
        let open = |storage: Arc<dyn Storage>| options.open_on(storage, Path::new("/log"), false);
        let has_no_room = self.journal != Journal::Off && (seed >> 32).is_multiple_of(2);
        let in_place = if has_no_room { open_without_room(storage.clone(), open) } else { None };
        let wal = in_place.map_or_else(|| open(Arc::new(storage)), Ok).map_err(refusal)?;
        // From here on tickets need no threads.
        wal.drive_tickets();
        Ok(Open { wal, durability, submitted: RefCell::default(), followers: RefCell::default() })
    }

    fn append(&self, log: &Open, stream: &str, entries: &[Vec<u8>], level: Level) -> Result<Range<u64>, Refusal> {
        let stream = log.wal.stream(stream).map_err(refusal)?.with_durability(durability(level));
        let append_batch = |entries: &[Vec<u8>]| stream.append_batch(&entries.iter().collect::<Batch>());
        match entries {
            [entry] => stream.append(entry).map(|seq| seq..seq + 1),
            entries if self.splits_batches => {
                let (some, rest) = entries.split_at(entries.len() / 2);
                append_batch(some).and_then(|first| Ok(first.start..append_batch(rest)?.end))
            }
            entries => append_batch(entries),
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
        let stream = log.wal.stream(stream).map_err(refusal)?.with_durability(durability(level));
        stream.append_if(expected_next_seq, &entries.iter().collect()).map_err(refusal)
    }

    fn submit(&self, log: &Open, stream: &str, entries: &[Vec<u8>], level: Level) -> Result<Range<u64>, Refusal> {
        let stream = log.wal.stream(stream).map_err(refusal)?.with_durability(durability(level));
        let ticket = stream.try_submit(&entries.iter().collect()).map_err(refusal)?;
        let seqs = ticket.seqs();
        log.submitted.borrow_mut().push(ticket);
        Ok(seqs)
    }

    fn await_submitted(&self, log: &Open) -> Result<(), Refusal> {
        while log.wal.drive_tickets() {}
        let submitted = log.submitted.take();
        submitted.into_iter().map(|ticket| ticket.wait().map(drop).map_err(refusal)).fold(Ok(()), Result::and)
    }

    fn flush(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        log.wal.stream(stream).and_then(|stream| stream.flush()).map_err(refusal)
    }

    fn sync(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        log.wal.stream(stream).and_then(|stream| stream.sync()).map_err(refusal)
    }

    fn truncate_before(&self, log: &Open, stream: &str, first_seq: u64) -> Result<(), Refusal> {
        let stream = log.wal.stream(stream).map_err(refusal)?;
        truncated(stream.truncate_before(first_seq), || stream.first_seq() == first_seq)
    }

    fn truncate_from(&self, log: &Open, stream: &str, next_seq: u64) -> Result<(), Refusal> {
        let stream = log.wal.stream(stream).map_err(refusal)?;
        truncated(stream.truncate_from(next_seq), || stream.next_seq() == next_seq)
    }

    fn delete(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        match log.wal.delete_stream(stream) {
            Err(error) if error.kind() != ErrorKind::Missing => {
                Err(Refusal { unknown: true, message: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn close_stream(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        log.wal.stream(stream).and_then(|stream| stream.close()).map_err(refusal)
    }

    fn reopen(&self, log: &Open, stream: &str) -> Result<(), Refusal> {
        log.wal.stream(stream).and_then(|stream| stream.reopen()).map_err(refusal)
    }

    fn read(&self, log: &Open, stream: &str, accepted: bool) -> Result<Found, Refusal> {
        read(&log.wal, stream, if accepted { Visibility::Accepted } else { Visibility::Stable }).map_err(refusal)
    }

    fn follow(&self, log: &Open, stream: &str) -> Result<Option<Found>, Refusal> {
        let name = stream;
        let stream = log.wal.stream(name).map_err(refusal)?.with_visibility(Visibility::Stable);
        let mut followers = log.followers.borrow_mut();
        let (follow, shown) = followers.entry(name.to_owned()).or_insert_with(|| (stream.follow(0), Found::default()));
        pull(follow, shown, &stream).map_err(refusal)?;
        Ok(Some(shown.clone()))
    }

    fn stable_level(&self, log: &Open) -> Level {
        if log.durability == Durability::Synced { Level::Synced } else { Level::Flushed }
    }

    fn shares_journal(&self) -> bool {
        self.journal != Journal::Off
    }

    fn read_only(&self, storage: SimStorage, stream: &str) -> Result<Option<Found>, Refusal> {
        match Options::new().open_on(Arc::new(storage), Path::new("/log"), true) {
            Ok(wal) => {
                let found = read(&wal, stream, Visibility::Stable).map_err(refusal)?;
                let stream = wal.stream(stream).map_err(refusal)?;
                let mut followed = Found::default();
                pull(&mut stream.follow(0), &mut followed, &stream).map_err(refusal)?;
                let message = "a follower has not seen the same entries".to_owned();
                if followed == found { Ok(Some(found)) } else { Err(Refusal { unknown: false, message }) }
            }
            Err(error) if error.kind() == ErrorKind::Missing => Ok(None),
            Err(error) => Err(refusal(error)),
        }
    }

    fn close(&self, log: Open) -> Result<(), Refusal> {
        log.wal.close().map_err(refusal)
    }
}
