//! A full disk and a full commit journal. What a truncation has dropped gives its space back to the
//! next append, although no thread has removed the files yet.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{location, memory, small_segments};
use stratawal_frame::WalId;
use stratawal_journal::JournalOptions;
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_stream::{
    Durability, ErrorKind, Location, LogContext, LogJournal, RESERVE_LEN, StreamLog, StreamOptions, Visibility,
};

/// The entries of the stream when the disk fills up, in several segments.
const COUNT: u64 = 37;
const ENTRY: [u8; 10_000] = [7; 10_000];

const OTHERS: usize = 12;

/// A log whose streams were closed, and opened again. The thread of the test stands for the one
/// that maintains the journal: a due START is written to the files only once it calls `maintain`.
struct Opened {
    storage: MemoryStorage,
    context: Arc<LogContext>,
    log: StreamLog,
    /// Each may have only so much in the journal.
    others: Vec<StreamLog>,
}

impl Opened {
    fn new() -> Self {
        Self::with(&small_segments())
    }

    fn with(options_of_streams: &StreamOptions) -> Self {
        let storage = memory();
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        let options = JournalOptions::default().bytes(256 << 10);
        let dir = Path::new("/journal");
        let with = |journal: &Arc<LogJournal>| {
            let context = LogContext::new(Arc::clone(&shared)).emergency_reserve_at("/RESERVE");
            Arc::new(context.journal(Arc::clone(journal)))
        };
        let open = |context: &Arc<LogContext>, location| {
            StreamLog::open(Arc::clone(context), location, options_of_streams.clone()).expect("opens")
        };
        let journal = Arc::new(LogJournal::create(&shared, dir, WalId(0), options).expect("memory"));
        let context = with(&journal);
        let others = || (0..OTHERS).map(|i| Location::new("/streams", format!("other-{i}")));
        for (location, count) in others().map(|other| (other, 1)).chain([(location(), COUNT)]) {
            let log = open(&context, location);
            for seq in 0..count {
                assert_eq!(log.append(&ENTRY, Durability::Synced).expect("there is room"), seq);
            }
            log.close().expect("memory");
        }
        assert!(journal.close().expect("memory"));
        let journal = Arc::new(LogJournal::open(&shared, dir, WalId(0), options, |_| true).expect("memory"));
        journal.wake_this_thread();
        let context = with(&journal);
        let log = open(&context, location());
        let others = others().map(|other| open(&context, other)).collect();
        Self { storage, context, log, others }
    }

    /// From now on the disk has no room.
    fn fill_disk(&self) {
        let used = u64::MAX - self.storage.free_space(Path::new("/")).expect("memory");
        drop(self.storage.clone().with_capacity(used));
    }

    /// From now on neither the disk nor the journal has room.
    fn fill(&self) {
        self.fill_disk();
        self.fill_journal();
    }

    /// From now on the journal has no room. The disk has none already, so each of the other streams
    /// puts there as much as it may.
    fn fill_journal(&self) {
        for len in [3000, 300, 8] {
            for other in &self.others {
                while other.append(&ENTRY[..len], Durability::Synced).is_ok() {}
            }
        }
    }

    /// Checks that the stream has the entries from `first` to `end`, and that the reserve is whole.
    fn check(&self, first: u64, end: u64) {
        let found: Vec<u64> = self.log.iter(.., Visibility::Stable).map(|found| found.expect("intact").seq()).collect();
        assert_eq!(found, (first..end).collect::<Vec<_>>());
        assert_eq!(self.context.reserve_bytes(), RESERVE_LEN);
    }
}

#[test]
fn append_removes_files_of_dropped_entries() {
    let opened = Opened::new();
    opened.fill();
    let used = |opened: &Opened| opened.log.disk_usage().expect("memory").segment_bytes;
    let before = used(&opened);
    opened.log.truncate_before(COUNT / 2).expect("a record in the journal");
    assert_eq!(used(&opened), before, "no thread has removed a file");
    assert_eq!(opened.log.append(&ENTRY, Durability::Synced).expect("it frees what it needs"), COUNT);
    assert!(used(&opened) < before);
    opened.check(COUNT / 2, COUNT + 1);
}

#[test]
fn large_batch_removes_files_of_dropped_entries() {
    let opened = Opened::new();
    opened.fill();
    opened.log.truncate_before(COUNT / 2).expect("a record in the journal");
    let large = vec![7; 100_000];
    assert_eq!(opened.log.append(&large, Durability::Synced).expect("it frees what it needs"), COUNT);
    opened.check(COUNT / 2, COUNT + 1);
}

/// Its own files have nothing to give.
#[test]
fn append_removes_dropped_files_of_other_streams() {
    let opened = Opened::new();
    opened.fill();
    opened.log.truncate_before(COUNT / 2).expect("a record in the journal");
    opened.others[0].append(&ENTRY, Durability::Synced).expect("it frees what it needs");
    opened.check(COUNT / 2, COUNT);
}

#[test]
fn append_without_room_is_refused_and_not_poisoned() {
    let opened = Opened::new();
    opened.fill();
    for durability in [Durability::Buffered, Durability::Flushed, Durability::Synced] {
        let refused = opened.log.append(&ENTRY, durability).expect_err("there is no room");
        assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
        assert_eq!(opened.log.next_seq(), COUNT);
    }
    opened.check(0, COUNT);
    drop(opened.storage.clone().with_capacity(u64::MAX));
    assert_eq!(opened.log.append(&ENTRY, Durability::Synced).expect("there is room"), COUNT);
}

/// A stream that has failed removes no file, so the space would never come back.
#[test]
fn stopped_stream_continues_in_the_space_of_dropped_entries() {
    let opened = Opened::new();
    assert_eq!(opened.log.append(&ENTRY, Durability::Buffered).expect("it waits in memory"), COUNT);
    opened.fill();
    opened.log.truncate_before(COUNT / 2).expect("a record in the journal");
    let stopped = opened.log.flush().expect_err("neither the journal nor the file has room");
    assert_eq!(stopped.kind(), ErrorKind::Poisoned, "{stopped}");
    assert_eq!(opened.log.append(&ENTRY, Durability::Synced).expect("it frees what it needs"), COUNT + 1);
    opened.check(COUNT / 2, COUNT + 2);
}

/// The entries that only the journal has need space in the file before the end can move. The
/// journal takes no more of them than the reserve has space for. The longer the file, the further
/// it is extended when there is room.
#[test]
fn truncation_drains_entries_with_the_reserve() {
    let options = [small_segments(), StreamOptions::new().segment_bytes(256 << 10)];
    for (from, options) in [0, COUNT / 2, COUNT + 1].into_iter().flat_map(|from| options.iter().map(move |o| (from, o)))
    {
        let opened = Opened::with(options);
        opened.fill_disk();
        while opened.log.append(&ENTRY, Durability::Synced).is_ok() {}
        assert!(opened.log.next_seq() > COUNT + 1);
        opened.fill_journal();
        let refused = opened.log.append(&ENTRY, Durability::Synced).expect_err("there is no room");
        assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
        opened.log.truncate_from(from).expect("the reserve has room");
        assert_eq!(opened.log.next_seq(), from);
    }
}
