//! What the machine can do at most: a checksum, a `pwrite`, and an `fdatasync` where it is asked for, with nothing around
//! them. One file, preallocated in steps; threads share it under a lock, and sync by themselves.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use crate::{Level, Subject};

pub(crate) struct Raw {
    file: File,
    level: Level,
    end: Mutex<u64>,
}

impl Raw {
    pub(crate) fn new(dir: &Path, level: Level) -> Self {
        let file = File::options().read(true).write(true).create_new(true).open(dir.join("raw")).expect("creates");
        Self { file, level, end: Mutex::new(0) }
    }

    fn write(&self, bytes: &[u8]) {
        {
            let mut end = self.end.lock().expect("no panic");
            self.file.write_all_at(bytes, *end).expect("writes");
            *end += bytes.len() as u64;
        }
        if self.level == Level::Synced {
            self.file.sync_data().expect("syncs");
        }
    }
}

fn frame(into: &mut Vec<u8>, entry: &[u8]) {
    into.extend_from_slice(&u32::try_from(entry.len()).expect("small").to_le_bytes());
    into.extend_from_slice(&crc32fast::hash(entry).to_le_bytes());
    into.extend_from_slice(entry);
}

impl Subject for Raw {
    fn append(&self, entry: &[u8]) {
        let mut bytes = Vec::with_capacity(entry.len() + 8);
        frame(&mut bytes, entry);
        self.write(&bytes);
    }

    fn append_batch(&self, entries: &[Vec<u8>]) {
        let mut bytes = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 8).sum());
        entries.iter().for_each(|entry| frame(&mut bytes, entry));
        self.write(&bytes);
    }

    fn scan(&self, see: &mut dyn FnMut(&[u8])) {
        let (mut block, mut at, end) = (vec![0; 256 << 10], 0, *self.end.lock().expect("no panic"));
        while at < end {
            let n = self.file.read_at(&mut block, at).expect("reads");
            let mut rest = &block[..n.min(usize::try_from(end - at).unwrap_or(n))];
            let before = rest.len();
            while rest.len() >= 8 {
                let len = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let Some(entry) = rest.get(8..8 + len) else { break };
                assert_eq!(crc32fast::hash(entry).to_le_bytes(), rest[4..8], "the checksum holds");
                see(entry);
                rest = &rest[8 + len..];
            }
            at += (before - rest.len()) as u64;
        }
    }
}
