//! Damage of the commit journal's files. Opening for writing refuses and names the journal, or the
//! log has every acknowledged entry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal::{ErrorKind, Options, Wal};
use stratawal_storage::{MemoryStorage, Storage};

use crate::all;
use crate::layout::{change, entry, files, new, set_len};

const COUNT: u64 = 12;

fn open(storage: &MemoryStorage) -> stratawal::Result<Wal> {
    let options = Options::new().journal(true).journal_bytes(64 << 10).maintenance_thread(false);
    options.open_on(Arc::new(storage.clone()), Path::new("/log"), false)
}

/// A log that was killed with all entries in the journal alone, and its journal's files.
fn killed() -> (MemoryStorage, Vec<(PathBuf, Vec<u8>)>) {
    let storage = new();
    let wal = open(&storage).unwrap();
    let stream = wal.stream("s").unwrap();
    for seq in 0..COUNT {
        assert_eq!(stream.append(entry(seq)).unwrap(), seq);
    }
    let storage = storage.snapshot();
    let mut of_journal = files(&storage);
    of_journal.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "jnl"));
    assert!(!of_journal.is_empty());
    (storage, of_journal)
}

/// Returns whether opening refused.
fn check(what: &str, storage: &MemoryStorage) -> bool {
    let error = match open(storage) {
        Err(error) => error,
        Ok(wal) => {
            let stream = wal.stream("s").unwrap_or_else(|error| panic!("{what}: {error}"));
            let found: Vec<_> = stream.iter(..).map(|found| found.unwrap().data().to_vec()).collect();
            assert!(found == (0..COUNT).map(entry).collect::<Vec<_>>(), "{what}: {} entries", found.len());
            return false;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NewerFormat), "{what}: {error}");
    assert!(error.to_string().contains("/log/journal"), "{what}: {error}");
    true
}

#[test]
fn flipped_bit_of_the_journal_loses_nothing_silently() {
    let (killed, files) = killed();
    let mut refused = 0;
    for (path, bytes) in files {
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64;
        for at in (0..bytes.len() as u64).filter(|at| *at <= used + 64 || at % 509 == 0) {
            let bits = if all() { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                let storage = killed.snapshot();
                change(&storage, &path, at, |bytes| bytes[0] ^= 1 << bit, 1);
                refused += u64::from(check(&format!("bit {bit} of {at} in {}", path.display()), &storage));
            }
        }
    }
    assert!(refused > 500, "{refused} refusals");
}

#[test]
fn missing_or_cut_file_of_the_journal_is_refused() {
    let (killed, files) = killed();
    for (path, bytes) in files {
        let storage = killed.snapshot();
        storage.remove_file(&path).unwrap();
        assert!(check("removed", &storage));
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64;
        for cut in (0..used).step_by(if all() { 1 } else { 61 }) {
            let storage = killed.snapshot();
            set_len(&storage, &path, cut);
            check(&format!("{} cut to {cut}", path.display()), &storage);
        }
    }
}
