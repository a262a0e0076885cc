//! The ends of a stream, as numbers that readers load without a lock.
//!
//! *accepted*: the next seq to be given; *drained*: in the stream's own file; *flushed*: handed to the operating
//! system; *durable*: on stable storage. durable <= flushed <= drained <= accepted. Drained and flushed are the same
//! number as long as a stream's only way to the operating system is its own file.

use crate::options::Durability;
use crate::sync::Mark;

#[derive(Debug)]
pub(crate) struct Marks {
    accepted: Mark,
    drained: Mark,
    flushed: Mark,
    durable: Mark,
    start: Mark,
    /// How often the stream was recovered. Seqs of one epoch say nothing in another.
    epoch: Mark,
}

impl Marks {
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self {
            accepted: Mark::new(end),
            drained: Mark::new(end),
            flushed: Mark::new(end),
            durable: Mark::new(end),
            start: Mark::new(start),
            epoch: Mark::new(0),
        }
    }

    /// All of them at once, for recovery (under the stream's lock), which may also lower what was accepted and never
    /// durable.
    pub(crate) fn reset(&self, start: u64, end: u64) {
        // Before the marks: who sees one of them that belongs to the new epoch sees the new epoch, too.
        self.epoch.store(self.epoch.load() + 1);
        for mark in [&self.durable, &self.flushed, &self.drained, &self.accepted] {
            mark.store(end);
        }
        self.start.store(start);
    }

    /// Behind the bytes in the tail buffer.
    pub(crate) fn set_accepted(&self, end: u64) {
        self.accepted.store(end);
    }

    /// Behind the bytes in the file, the points in the index, and the end of the segment.
    pub(crate) fn set_flushed(&self, end: u64) {
        self.drained.store(end);
        self.flushed.store(end);
    }

    /// Behind the sync, and the MARK.
    pub(crate) fn set_durable(&self, end: u64) {
        self.durable.store(end);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load()
    }

    pub(crate) fn start(&self) -> u64 {
        self.start.load()
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load()
    }

    pub(crate) fn drained(&self) -> u64 {
        self.drained.load()
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load()
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load()
    }

    /// How far an append of this durability is acknowledged.
    pub(crate) fn reached(&self, durability: Durability) -> u64 {
        match durability {
            Durability::Buffered => self.accepted(),
            Durability::Flushed => self.flushed(),
            Durability::Synced => self.durable(),
        }
    }
}
