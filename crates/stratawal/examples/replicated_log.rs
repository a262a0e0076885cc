//! The log of a replicated state machine, as Raft needs it: entries with terms, a tail that may be
//! replaced, a beginning that a snapshot replaces, and appends that become durable in groups.
//!
//! `cargo run --release --example replicated_log [DIR]` works in DIR, or in a temporary directory
//! that it removes, and prints how many entries per second became durable.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use stratawal::{Batch, Durability, Stream, Ticket, Visibility, Wal};

/// An entry of the replicated log. Its index is its seq.
#[derive(Debug, PartialEq)]
struct LogEntry {
    term: u64,
    command: Vec<u8>,
}

impl LogEntry {
    fn encode(&self) -> Vec<u8> {
        [&self.term.to_le_bytes(), &self.command[..]].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (term, command) = bytes.split_first_chunk()?;
        Some(Self { term: u64::from_le_bytes(*term), command: command.to_vec() })
    }
}

/// The store below the consensus algorithm.
struct LogStore {
    /// The algorithm reads its own entries before they are durable.
    entries: Stream,
}

impl LogStore {
    fn new(wal: &Wal) -> stratawal::Result<Self> {
        let entries = wal.stream("entries")?.with_durability(Durability::Synced);
        Ok(Self { entries: entries.with_visibility(Visibility::Accepted) })
    }

    /// Appends without waiting. The algorithm sends its acknowledgement once the ticket is
    /// complete.
    fn append(&self, entries: &[LogEntry]) -> stratawal::Result<Ticket> {
        self.entries.submit(&entries.iter().map(LogEntry::encode).collect::<Batch>())
    }

    fn get(&self, index: u64) -> Result<Option<LogEntry>, Box<dyn Error>> {
        let Some(entry) = self.entries.get(index)? else { return Ok(None) };
        Ok(Some(LogEntry::decode(entry.data()).ok_or("an entry without a term")?))
    }

    /// A follower drops what another leader has overruled, from `index` on.
    fn drop_conflict(&self, index: u64) -> stratawal::Result<()> {
        self.entries.truncate_from(index)
    }

    /// A snapshot has everything below `index`.
    fn drop_applied(&self, index: u64) -> stratawal::Result<()> {
        self.entries.truncate_before(index)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    const GROUPS: u64 = 2_000;
    const GROUP_LEN: u64 = 16;
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| temporary.path().join("log"), PathBuf::from);

    let wal = Wal::open(&dir)?;
    let store = LogStore::new(&wal)?;
    // A new replica received a snapshot, so its log begins after it.
    let first = store.entries.next_seq() + 1_000_000;
    store.drop_applied(first)?;
    assert_eq!((store.entries.first_seq(), store.entries.next_seq()), (first, first));

    let entry = |term, i: u64| LogEntry { term, command: format!("set x{} {i}", i % 100).into_bytes() };
    let began = Instant::now();
    let mut tickets = Vec::new();
    for group in 0..GROUPS {
        let entries: Vec<LogEntry> = (0..GROUP_LEN).map(|i| entry(1, group * GROUP_LEN + i)).collect();
        tickets.push(store.append(&entries)?);
    }
    let last = store.entries.next_seq() - 1;
    assert_eq!(store.get(last)?, Some(entry(1, GROUPS * GROUP_LEN - 1)), "it is read before it is durable");
    for ticket in tickets {
        ticket.wait()?;
    }
    let elapsed = began.elapsed();
    let syncs = wal.stats()?.journal.map_or(0, |journal| journal.sync_times.count());
    let count = GROUPS * GROUP_LEN;
    let per_second = f64::from(u32::try_from(count)?) / elapsed.as_secs_f64();
    println!("{count} entries of {GROUP_LEN} each append were durable after {elapsed:.1?} and {syncs} syncs:");
    println!("{per_second:.0} entries per second");

    // The leader of term 2 replaces the last ten entries.
    store.drop_conflict(last - 9)?;
    store.append(&[entry(2, 0)])?.wait()?;
    assert_eq!(store.get(last - 9)?, Some(entry(2, 0)));
    assert_eq!(store.get(last)?, None);

    // A snapshot covers the first half.
    let middle = first + count / 2;
    store.drop_applied(middle)?;
    assert!(store.get(middle - 1).is_err());
    wal.close()?;

    let wal = Wal::open(&dir)?;
    let store = LogStore::new(&wal)?;
    assert_eq!((store.entries.first_seq(), store.entries.next_seq()), (middle, last - 8));
    assert_eq!(store.get(last - 9)?, Some(entry(2, 0)));
    println!("after a restart the log has the entries {middle} to {}", last - 9);
    Ok(wal.close()?)
}
