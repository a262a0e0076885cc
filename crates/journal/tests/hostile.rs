//! Bytes that no journal has written. Reading them ends soon, with an error or with records, but
//! never with a panic.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Image, Journal, JournalOptions, Part, Record, properties};
use stratawal_storage::{Access, MemoryStorage, Storage};

const WAL: WalId = WalId(1);
const DIR: &str = "/journal";
const FIRST_FILE: &str = "/journal/00000000000000000001.jnl";

fn part(seq: u64, body: Vec<u8>) -> Part {
    Part {
        stream: StreamId(1),
        name: Some("s".into()),
        first: SeqNo(seq),
        count: 1,
        timestamp: 0,
        firm: true,
        body: body.into(),
    }
}

fn journal(storage: &Arc<dyn Storage>, records: u64) -> Journal {
    let journal = Journal::create(storage, Path::new(DIR), WAL, JournalOptions::default()).expect("memory");
    for seq in 0..records {
        journal.append(&Record::Data(vec![part(seq, vec![7; 40])])).expect("memory");
    }
    journal
}

fn read(storage: &dyn Storage) {
    if let Ok(image) = Image::read(storage, Path::new(DIR), WAL) {
        let needed = image.needed();
        for stream in needed.streams.values() {
            let _ = stream.tail_after(SeqNo(0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn overwritten_bytes_are_read_without_a_panic(
        overwrites in prop::collection::vec((0u64..12_000, prop::collection::vec(any::<u8>(), 1..64)), 1..8),
    ) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        drop(journal(&storage, 50));
        let file = storage.open(Path::new(FIRST_FILE), Access::ReadWrite).expect("it exists");
        for (at, bytes) in overwrites {
            file.write_all_at(&bytes, at).expect("memory");
        }
        read(&*storage);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn properties_hold_for_any_bytes(data in prop::collection::vec(any::<u8>(), 0..600)) {
        properties::replay_any(&data);
    }

    #[test]
    fn properties_hold_for_bytes_like_records(
        selector in any::<u8>(),
        records in prop::collection::vec((1u8..10, 0u32..200, any::<[u8; 8]>()), 0..12),
    ) {
        let mut data = vec![selector];
        for (kind, len, fill) in records {
            data.extend([0, 0, 0, 0, kind, 0, 0, 0]);
            data.extend(len.to_le_bytes());
            data.extend([0; 4]);
            // Mostly small numbers, and zeros where the format requires them.
            let payload: Vec<u8> = (0..len as usize).map(|i| if i % 8 < 2 { fill[(i / 8) % 8] % 4 } else { 0 }).collect();
            data.extend(&payload);
            data.resize(data.len() + payload.len().next_multiple_of(16) - payload.len(), 0);
        }
        properties::replay_any(&data);
    }
}

/// At each position of the file begins something that looks like a record up to the end of the
/// file. A search that read each of them in full would read 2 TiB.
#[test]
fn false_lengths_do_not_make_the_search_slow() {
    const LEN: usize = 8 << 20;
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    drop(journal(&storage, 1));
    let file = storage.open(Path::new(FIRST_FILE), Access::ReadWrite).expect("it exists");
    let mut bytes = vec![0; LEN];
    for at in (0..LEN).step_by(16) {
        let payload = u32::try_from(LEN - at - 16).expect("it is short");
        bytes[at + 4] = 1;
        bytes[at + 8..at + 12].copy_from_slice(&payload.to_le_bytes());
    }
    file.write_all_at(&bytes, 8192).expect("memory");
    let began = Instant::now();
    read(&*storage);
    // A single pass takes far less than this; a pass for each position would take far more.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn entry_that_looks_like_a_record_is_not_one() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    drop(journal(&storage, 3));
    let file = storage.open(Path::new(FIRST_FILE), Access::Read).expect("it exists");
    let mut copy = vec![0; 400];
    file.read_exact_at(&mut copy, 4096).expect("it is long enough");
    // These bytes become an entry of another journal, where none of the records in them is at its
    // own LSN.
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let other = journal(&storage, 0);
    other.append(&Record::Data(vec![part(0, copy)])).expect("memory");
    drop(other);
    let image = Image::read(&*storage, Path::new(DIR), WAL).expect("it is sound");
    assert_eq!(image.records().len(), 1);
}
