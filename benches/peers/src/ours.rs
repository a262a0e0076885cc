//! stratawal, with its defaults.

use std::path::Path;

use stratawal::{Batch, Durability, Options, Stream, StreamOptions, Wal};

use crate::{Level, Subject};

pub(crate) struct Ours {
    stream: Stream,
    _wal: Wal,
}

impl Ours {
    pub(crate) fn new(dir: &Path, level: Level) -> Self {
        let durability = match level {
            Level::Flushed => Durability::Flushed,
            Level::Synced => Durability::Synced,
        };
        let options = Options::new().stream_defaults(StreamOptions::new().durability(durability));
        let wal = options.open(dir.join("log")).expect("opens");
        Self { stream: wal.stream("s").expect("opens"), _wal: wal }
    }
}

impl Subject for Ours {
    fn append(&self, entry: &[u8]) {
        self.stream.append(entry).expect("appends");
    }

    fn append_batch(&self, entries: &[Vec<u8>]) {
        let batch: Batch = entries.iter().collect();
        self.stream.append_batch(&batch).expect("appends");
    }

    fn scan(&self, see: &mut dyn FnMut(&[u8])) {
        for entry in self.stream.iter(..) {
            see(entry.expect("reads").data());
        }
    }
}
