//! Logs for the benches to work on.
#![forbid(unsafe_code)]

use stratawal::{Batch, Durability, Options, Stream, StreamOptions, Wal};
use tempfile::TempDir;

/// A log in a temporary directory, which is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    /// The log.
    pub wal: Wal,
    _dir: TempDir,
}

impl Scratch {
    /// Creates an empty log in the system's temporary directory.
    ///
    /// # Panics
    /// Panics if the log cannot be created.
    #[must_use]
    pub fn new() -> Self {
        Self::with(&Options::new())
    }

    /// Creates an empty log with these options in the system's temporary directory.
    ///
    /// # Panics
    /// Panics if the log cannot be created.
    #[must_use]
    pub fn with(options: &Options) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let wal = options.open(dir.path()).expect("opens");
        Self { wal, _dir: dir }
    }

    /// Returns the stream `name` of the log, with the durability `durability`.
    ///
    /// # Panics
    /// Panics if the stream cannot be opened.
    #[must_use]
    pub fn stream(&self, name: &str, durability: Durability) -> Stream {
        self.wal.stream_with(name, StreamOptions::new().durability(durability)).expect("opens")
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns `count` entries of `len` pseudorandom bytes.
#[must_use]
pub fn batch(count: usize, len: usize) -> Batch {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut byte = || {
        // Xorshift, because a payload of zeros would flatter a compressing disk.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..count).map(|_| (0..len).map(|_| byte()).collect::<Vec<u8>>()).collect()
}
