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
    /// Rises by two whenever the stream is recovered or its end is truncated. A seq may name a
    /// different entry in the next epoch.
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

    /// Begins a new epoch, in which `change` sets the watermarks and the snapshot. While `change`
    /// runs, the epoch is odd and readers wait. Call this under the stream's lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&Self) -> T) -> T {
        // Stored before the watermarks, so that a reader that loads a watermark of the new epoch
        // sees that the old epoch is over.
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

    /// Drops the entries below `start`. Call this before storing the snapshot that lacks them.
    pub(crate) fn set_start(&self, start: u64) {
        self.start.store(start);
    }

    /// Lets the stream, whose entries are all durable, begin anew at `start`, which is beyond its
    /// end. Call this after `set_start` and after the snapshot is stored.
    pub(crate) fn reset_all(&self, start: u64) {
        for watermark in [&self.accepted, &self.flushed, &self.durable] {
            watermark.store(start);
        }
    }

    /// Call this once the entries are in the tail buffer.
    pub(crate) fn set_accepted(&self, end: u64) {
        self.accepted.store(end);
    }

    /// Call this once the bytes are in the file, the points are in the index, and the segment's end
    /// is stored.
    pub(crate) fn set_flushed(&self, end: u64) {
        self.flushed.store(end);
    }

    /// Call this after the sync and the MARK.
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

    /// Returns the result of `read` from within one epoch. Calls `read` again if a new epoch began
    /// during the call.
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

    /// The seq below which appends of this durability are acknowledged.
    pub(crate) fn reached(&self, durability: Durability) -> u64 {
        match durability {
            Durability::Buffered => self.accepted(),
            Durability::Flushed => self.flushed(),
            Durability::Synced => self.durable(),
        }
    }
}
