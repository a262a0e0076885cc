//! Reads and continues a journal written by an earlier version of this crate.
//!
//! The files in `tests/golden` are never changed. `cargo xtask golden --bless` writes them if they
//! do not exist.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Image, Journal, JournalOptions, Part, Record};
use stratawal_storage::{MemoryStorage, Storage, UnixStorage};

const WAL: WalId = WalId(0x5EED);

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn limits() -> JournalOptions {
    JournalOptions::default().bytes(64 << 10).first_file_bytes(16 << 10)
}

/// One record of each kind, spread across two files.
fn records() -> Vec<Record> {
    let part = |stream: u64, first, count: u32, firm| Part {
        stream: StreamId(stream),
        name: Some(format!("stream/{stream}").into()),
        first: SeqNo(first),
        count,
        timestamp: 1_700_000_000_000_000 + first,
        firm,
        body: vec![b'a' + stream as u8; 700 * count as usize].into(),
    };
    let mut records = vec![
        Record::Data(vec![part(1, 0, 1, true)]),
        Record::Data(vec![part(1, 1, 2, true), Part { name: None, ..part(2, 0, 3, true) }]),
        Record::Firm { stream: StreamId(1), seq: SeqNo(3) },
        Record::Copy(vec![part(1, 0, 1, true)]),
        Record::Start { stream: StreamId(2), seq: SeqNo(2), name: None },
        Record::Settled { stream: StreamId(3), seq: SeqNo(9) },
        Record::Drop { stream: StreamId(4), name: "gone".into() },
    ];
    records.extend((0..8).map(|seq| Record::Data(vec![part(5, seq, 1, true)])));
    records
}

fn bless(dir: &Path) {
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    fs::create_dir_all(dir.parent().expect("it has a parent")).expect("the tree is writable");
    let journal = Journal::create(&storage, dir, WAL, limits()).expect("it is new");
    for record in records() {
        journal.append(&record).expect("there is room");
    }
    journal.sync().expect("the disk works");
}

#[test]
fn journal_of_version_1_is_read_and_continued() {
    let dir = golden_dir();
    if std::env::var_os("STRATAWAL_BLESS").is_some() && !dir.exists() {
        bless(&dir);
    }
    // A copy in memory: opening changes the files.
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    storage.create_dir(Path::new("/journal")).expect("it is new");
    for entry in fs::read_dir(&dir).expect("the golden files exist") {
        let entry = entry.expect("they can be listed");
        let file = storage.create_new(&Path::new("/journal").join(entry.file_name())).expect("it is new");
        file.write_all_at(&fs::read(entry.path()).expect("they can be read"), 0).expect("memory");
    }
    let image = Image::read(&*storage, Path::new("/journal"), WAL).expect("it is sound");
    let found = image.records().iter().map(|located| located.record.clone());
    let found: Vec<_> = found.filter(|record| *record != Record::Next).collect();
    assert_eq!(found, records());
    assert_eq!((image.end(), image.attested()), (image.attested(), image.end()), "all of it was durable");

    let (journal, needed) =
        Journal::open(&storage, Path::new("/journal"), WAL, limits().adopt_copy(true), image, |_| true)
            .expect("it opens");
    assert_eq!(needed.streams[&StreamId(1)].tail_after(SeqNo(0)).expect("no gap").end, SeqNo(3));
    assert_eq!(needed.streams[&StreamId(2)].start, Some(SeqNo(2)));
    assert_eq!(needed.drops[0].name, "gone");
    let position = journal.append(&records()[0]).expect("there is room");
    journal.sync_to(position).expect("memory");
}
