//! Properties that hold for any bytes, for fuzzing and tests. Each function panics if its property
//! does not hold. Not part of the API.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{Features, Salt, WalId};
use stratawal_storage::{MemoryStorage, Storage};

use crate::header::{FileHeader, HEADER_BLOCK_LEN};
use crate::lsn::Lsn;
use crate::record::{Decoded, UnverifiedHeader, decode, encoded};
use crate::{Image, Journal, JournalOptions, Located, Needed, layout};

const WAL: WalId = WalId(7);
const DIR: &str = "/journal";

/// Replays the bytes as the files of a journal: first as they are, then with valid headers and
/// checksums, to reach the later checks.
///
/// The first byte gives the number of files, 1 to 4. Each file gets an equal share of the rest.
pub fn replay_any(data: &[u8]) {
    let (selector, data) = data.split_first().map_or((0, data), |(&first, rest)| (first, rest));
    let count = usize::from(selector % 4) + 1;
    let files: Vec<&[u8]> = data.chunks(data.len().div_ceil(count).max(1)).collect();
    replay(files.iter().map(|bytes| bytes.to_vec()));
    let mut first = Lsn(u64::from(selector) * 16);
    let repaired = (1..).zip(&files).map(|(number, bytes)| {
        let (file, end) = with_valid_checksums(bytes, number, first);
        first = end;
        file
    });
    replay(repaired.collect::<Vec<_>>().into_iter());
}

/// Returns a file with a valid header and `bytes` as its records, and the LSN at which the records
/// end. Gives one record after another a valid checksum, until the bytes cannot be a record.
fn with_valid_checksums(bytes: &[u8], number: u64, first: Lsn) -> (Vec<u8>, Lsn) {
    let header = FileHeader {
        wal_id: WAL,
        number,
        salt: Salt(number),
        first,
        oldest: 1,
        attested: Lsn(0),
        inode: 0,
        created: 0,
        file_len: HEADER_BLOCK_LEN + bytes.len() as u64,
        features: Features::default(),
    };
    let mut file = header.encode().to_vec();
    file.resize(usize::try_from(HEADER_BLOCK_LEN).expect("invariant: a block fits a usize"), 0);
    let mut records = bytes.to_vec();
    let mut at = 0;
    while let Some(unverified) = records.get(at..).and_then(|rest| UnverifiedHeader::read(rest, first + at as u64)) {
        let checksum = unverified.checksum_of(&records[at..], header.salt, first + at as u64);
        records[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        at += unverified.record_len();
    }
    file.extend_from_slice(&records);
    (file, first + at as u64)
}

fn replay(files: impl Iterator<Item = Vec<u8>>) {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    storage.create_dir(Path::new(DIR)).expect("invariant: the storage is in memory");
    for (number, bytes) in (1..).zip(files) {
        let path = Path::new(DIR).join(layout::file_name(number));
        storage
            .create_new(&path)
            .expect("invariant: the storage is in memory")
            .write_all_at(&bytes, 0)
            .expect("invariant: the storage is in memory");
    }
    let Ok(image) = Image::read(&*storage, Path::new(DIR), WAL) else { return };
    chain_has_no_gap(&image);
    for located in image.records().iter().chain(image.records_after_damage()) {
        encodes_to_itself(located);
    }
    let needed = image.needed();
    if image.damage().is_some() {
        return;
    }
    // Recovery may refuse a record that is longer than its files, but nothing else.
    let limits = JournalOptions::default().bytes(1 << 20).first_file_bytes(16 << 10);
    let end = image.end();
    if end.0 > u64::MAX / 2 {
        return;
    }
    let opened = Journal::open(&storage, Path::new(DIR), WAL, limits, image, |_| true);
    let (journal, after) = opened.expect("invariant: a sound journal opens");
    assert!(journal.end() >= end, "LSNs never fall");
    same_content(&needed, &after);
    drop(journal);
    let again = Image::read(&*storage, Path::new(DIR), WAL).expect("invariant: recovery leaves a sound journal");
    assert!(again.damage().is_none());
    same_content(&needed, &again.needed());
}

/// The records of the chain follow each other, from the TRIM to the end.
fn chain_has_no_gap(image: &Image) {
    let mut at = image.trim();
    for located in image.records() {
        assert_eq!(located.lsn, at);
        assert!(located.attested <= located.lsn);
        at = located.end();
    }
    assert_eq!(at, image.end());
}

fn encodes_to_itself(located: &Located) {
    let mut buffer = Vec::new();
    located.record.encode(&mut buffer, Salt(9), located.lsn, located.attested);
    let bytes = Bytes::copy_from_slice(encoded(&buffer));
    assert_eq!(bytes.len() as u64, located.len);
    assert_eq!(decode(&bytes, Salt(9), located.lsn), Decoded::Record(located.clone()));
}

/// Recovery changes only the positions of records, and adds names to parts.
fn same_content(before: &Needed, after: &Needed) {
    assert_eq!(before.drops.len(), after.drops.len());
    for (old, new) in before.drops.iter().zip(&after.drops) {
        assert_eq!((old.stream, &old.name), (new.stream, &new.name));
    }
    assert!(before.streams.keys().eq(after.streams.keys()));
    for (old, new) in before.streams.values().zip(after.streams.values()) {
        assert_eq!((old.firm, old.start), (new.firm, new.start));
        assert_eq!(old.name, new.name);
        assert_eq!(old.parts.len(), new.parts.len());
        for (old, new) in old.parts.iter().zip(&new.parts) {
            let name = old.part.name.clone().or_else(|| new.part.name.clone());
            assert_eq!(crate::Part { name, ..old.part.clone() }, new.part);
        }
    }
}
