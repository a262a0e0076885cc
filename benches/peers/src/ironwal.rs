//! ironwal 0.6.9. `Strict` syncs each append; `Async` leaves what is written with the operating system.

use std::path::Path;

use ironwal::{CompressionType, SyncMode, Wal, WalOptions};

use crate::{Level, Subject};

pub(crate) struct Ironwal(Wal);

impl Ironwal {
    pub(crate) fn new(dir: &Path, level: Level) -> Self {
        let mut options = WalOptions::new(dir.join("log"));
        options.compression = CompressionType::None;
        options.sync_mode = match level {
            Level::Flushed => SyncMode::Async,
            Level::Synced => SyncMode::Strict,
        };
        Self(Wal::new(options).expect("opens"))
    }
}

impl Subject for Ironwal {
    fn append(&self, entry: &[u8]) {
        self.0.append("s", entry).expect("appends");
    }

    fn append_batch(&self, entries: &[Vec<u8>]) {
        let slices: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        self.0.append_batch("s", &slices).expect("appends");
    }

    fn scan(&self, see: &mut dyn FnMut(&[u8])) {
        for entry in self.0.iter("s", 0).expect("iterates") {
            see(&entry.expect("reads"));
        }
    }
}
