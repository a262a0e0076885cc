//! The ends of a stream, as numbers that readers load without a lock.
//!
//! *accepted*: the next seq to be given; *drained*: in the stream's own file; *flushed*: handed to
//! the operating system; *durable*: on stable storage. durable <= flushed <= drained <= accepted.
//! Drained and flushed are the same number as long as a stream's only way to the operating system
//! is its own file.

use stratawal_sync::thread::yield_now;
use stratawal_sync::{AtomicSeq, fail_point};

use crate::options::Durability;

#[derive(Debug)]
pub(crate) struct Watermarks {
    accepted: AtomicSeq,
    drained: AtomicSeq,
    flushed: AtomicSeq,
    durable: AtomicSeq,
    start: AtomicSeq,
    /// How often the stream was recovered, or cut. Seqs of one epoch say nothing in another.
    epoch: AtomicSeq,
}

impl Watermarks {
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self {
            accepted: AtomicSeq::new(end),
            drained: AtomicSeq::new(end),
            flushed: AtomicSeq::new(end),
            durable: AtomicSeq::new(end),
            start: AtomicSeq::new(start),
            epoch: AtomicSeq::new(0),
        }
    }

    /// Begins another epoch, in which `change` sets what readers see: its marks, and the snapshot
    /// beside them. Meanwhile the epoch is odd, and readers wait. Under the stream's lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&Self) -> T) -> T {
        // Before the marks: who sees one of them that belongs to the new epoch sees that the old
        // one is over.
        let epoch = self.epoch.load();
        self.epoch.store(epoch + 1);
        let changed = change(self);
        self.epoch.store(if fail_point!(EpochKept) { epoch } else { epoch + 2 });
        changed
    }

    /// All of them at once, within a change; it may lower what was accepted.
    pub(crate) fn reset(&self, start: u64, end: u64) {
        for mark in [&self.durable, &self.flushed, &self.drained, &self.accepted] {
            mark.store(end);
        }
        self.start.store(start);
    }

    /// The entries below `start` are dropped. Before the snapshot that lacks them.
    pub(crate) fn set_start(&self, start: u64) {
        self.start.store(start);
    }

    /// The stream, all settled, begins anew at `start`, beyond its end. Behind `set_start` and the
    /// snapshot.
    pub(crate) fn reset_all(&self, start: u64) {
        for mark in [&self.accepted, &self.drained, &self.flushed, &self.durable] {
            mark.store(start);
        }
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

    /// Odd within a change.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load()
    }

    /// The epoch, once none is being changed.
    pub(crate) fn stable_epoch(&self) -> u64 {
        loop {
            let epoch = self.epoch.load();
            if epoch.is_multiple_of(2) {
                return epoch;
            }
            yield_now();
        }
    }

    /// What `read` answers about one epoch: read again where another began meanwhile.
    pub(crate) fn in_one_epoch<T>(&self, mut read: impl FnMut(u64) -> T) -> T {
        loop {
            let epoch = self.stable_epoch();
            let answer = read(epoch);
            if self.epoch.load() == epoch {
                return answer;
            }
        }
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
