//! The ends of a stream, as numbers that readers load without a lock.
//!
//! *accepted*: the next seq to be given; *drained*: in the stream's own file; *flushed*: handed to the operating
//! system; *durable*: on stable storage. durable <= flushed <= drained <= accepted. Drained and flushed are the same
//! number as long as a stream's only way to the operating system is its own file.

use crate::options::Durability;
use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Marks {
    accepted: AtomicU64,
    drained: AtomicU64,
    flushed: AtomicU64,
    durable: AtomicU64,
    start: AtomicU64,
    /// How often the stream was recovered. Seqs of one epoch say nothing in another.
    epoch: AtomicU64,
}

impl Marks {
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self {
            accepted: AtomicU64::new(end),
            drained: AtomicU64::new(end),
            flushed: AtomicU64::new(end),
            durable: AtomicU64::new(end),
            start: AtomicU64::new(start),
            epoch: AtomicU64::new(0),
        }
    }

    /// All of them at once, for recovery, which may also lower what was accepted and never durable.
    pub(crate) fn reset(&self, start: u64, end: u64) {
        // Before the marks: who sees one of them that belongs to the new epoch sees the new epoch, too.
        self.epoch.fetch_add(1, Ordering::AcqRel);
        for mark in [&self.durable, &self.flushed, &self.drained, &self.accepted] {
            mark.store(end, Ordering::Release);
        }
        self.start.store(start, Ordering::Release);
    }

    /// Release; pairs with the Acquire in `accepted`, behind the bytes in the tail buffer.
    pub(crate) fn set_accepted(&self, end: u64) {
        self.accepted.store(end, Ordering::Release);
    }

    /// Release; pairs with the Acquires in `drained` and `flushed`, behind the bytes in the file and the index.
    pub(crate) fn set_flushed(&self, end: u64) {
        self.drained.store(end, Ordering::Release);
        self.flushed.store(end, Ordering::Release);
    }

    /// Release; pairs with the Acquire in `durable`, behind the sync.
    pub(crate) fn set_durable(&self, end: u64) {
        self.durable.store(end, Ordering::Release);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    pub(crate) fn drained(&self) -> u64 {
        self.drained.load(Ordering::Acquire)
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
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
