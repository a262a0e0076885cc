//! Helpers for the tests of both storages: the suite's runner, and short ways to create and read
//! files.

// Each test file uses only some of this.
#![allow(dead_code, unused_macros)]

use std::io;
use std::path::Path;
use std::sync::Arc;

use stratawal_storage::{Access, File, FileType, Storage};

/// Generates tests `unix::…` and `memory::…` from functions that take a storage and an empty
/// directory in it.
macro_rules! on_both_storages {
    ($($test:ident,)*) => {
        mod unix {
            $(#[test]
            fn $test() {
                let dir = tempfile::tempdir().unwrap();
                super::$test(&stratawal_storage::UnixStorage::new(), dir.path());
            })*
        }
        mod memory {
            $(#[test]
            fn $test() {
                let storage = stratawal_storage::MemoryStorage::new();
                let root = std::path::Path::new("/root");
                stratawal_storage::Storage::create_dir(&storage, root).unwrap();
                super::$test(&storage, root);
            })*
        }
    };
}

/// Creates a file that holds `bytes`.
pub(crate) fn put(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Arc<dyn File> {
    let file = storage.create_new(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// All bytes of an open file.
pub(crate) fn all(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// All bytes of the file at `path`.
pub(crate) fn get(storage: &dyn Storage, path: &Path) -> Vec<u8> {
    all(&*storage.open(path, Access::Read).unwrap())
}

/// The entries of a directory as text.
pub(crate) fn names(storage: &dyn Storage, dir: &Path) -> Vec<String> {
    let entries = storage.list(dir).unwrap();
    entries.into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
}

/// All paths below `dir`, with the bytes of the files. Used to show that nothing has changed.
pub(crate) fn tree(storage: &dyn Storage, dir: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in storage.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        found.push((path.display().to_string(), (entry.file_type == FileType::File).then(|| get(storage, &path))));
        if entry.file_type == FileType::Dir {
            found.extend(tree(storage, &path));
        }
    }
    found
}

/// The kind of the error that `result` must be.
#[track_caller]
pub(crate) fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    match result {
        Ok(_) => panic!("it returned no error"),
        Err(e) => e.kind(),
    }
}

/// Random numbers determined by a seed: `SplitMix64`.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
