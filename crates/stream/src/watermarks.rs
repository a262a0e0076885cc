//! The ends of a stream, as numbers that readers load without a lock.
//!
//! *accepted* is the seq of the next append. Entries below *flushed* have been handed to the
//! operating system, and entries below *durable* are on stable storage. *start* is the first live
//! seq. Invariant: durable <= flushed <= accepted.

use stratawal_sync::thread::yield_now;
use stratawal_sync::{AtomicSeq, fail_point};

use crate::options::Durability;

#[derive(Debug)]
pub(crate) struct Watermarks {
    accepted: AtomicSeq,
    flushed: AtomicSeq,
    durable: AtomicSeq,
    start: AtomicSeq,
    /// Rises by two whenever the stream is recovered or its end is truncated. A seq of one epoch
    /// may name another entry in the next.
    epoch: AtomicSeq,
}

impl Watermarks {
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self {
            accepted: AtomicSeq::new(end),
            flushed: AtomicSeq::new(end),
            durable: AtomicSeq::new(end),
            start: AtomicSeq::new(start),
            epoch: AtomicSeq::new(0),
        }
    }

    /// Begins another epoch, in which `change` sets what readers see: the watermarks, and the
    /// snapshot beside them. The epoch is odd while `change` runs, and readers wait. Call it under
    /// the stream's lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&Self) -> T) -> T {
        // Before the watermarks: a reader that loads one of the new epoch then sees that the old
        // epoch is over.
        let epoch = self.epoch.load();
        self.epoch.store(epoch + 1);
        let changed = change(self);
        self.epoch.store(if fail_point!(EpochKept) { epoch } else { epoch + 2 });
        changed
    }

    /// Sets all watermarks at once, within a change. This may lower `accepted`.
    pub(crate) fn reset(&self, start: u64, end: u64) {
        for watermark in [&self.durable, &self.flushed, &self.accepted] {
            watermark.store(end);
        }
        self.start.store(start);
    }

    /// Drops the entries below `start`. Call it before the snapshot that lacks them is stored.
    pub(crate) fn set_start(&self, start: u64) {
        self.start.store(start);
    }

    /// The stream, whose entries are all durable, begins anew at `start`, beyond its end. Call it
    /// after `set_start` and after the snapshot is stored.
    pub(crate) fn reset_all(&self, start: u64) {
        for watermark in [&self.accepted, &self.flushed, &self.durable] {
            watermark.store(start);
        }
    }

    /// Call it once the entries are in the tail buffer.
    pub(crate) fn set_accepted(&self, end: u64) {
        self.accepted.store(end);
    }

    /// Call it once the bytes are in the file, the points in the index, and the segment's end is
    /// stored.
    pub(crate) fn set_flushed(&self, end: u64) {
        self.flushed.store(end);
    }

    /// Call it after the sync and the MARK.
    pub(crate) fn set_durable(&self, end: u64) {
        self.durable.store(end);
    }

    /// The epoch, which is odd within a change.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load()
    }

    /// The epoch, outside a change: waits until a change is over.
    pub(crate) fn stable_epoch(&self) -> u64 {
        loop {
            let epoch = self.epoch.load();
            if epoch.is_multiple_of(2) {
                return epoch;
            }
            yield_now();
        }
    }

    /// What `read` returns within one epoch. It reads again where another epoch began during the
    /// call.
    pub(crate) fn in_one_epoch<T>(&self, mut read: impl FnMut(u64) -> T) -> T {
        loop {
            let epoch = self.stable_epoch();
            let result = read(epoch);
            if self.epoch.load() == epoch {
                return result;
            }
        }
    }

    pub(crate) fn start(&self) -> u64 {
        self.start.load()
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load()
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load()
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load()
    }

    /// Appends of this durability are acknowledged below this seq.
    pub(crate) fn reached(&self, durability: Durability) -> u64 {
        match durability {
            Durability::Buffered => self.accepted(),
            Durability::Flushed => self.flushed(),
            Durability::Synced => self.durable(),
        }
    }
}
