//! The ends of a stream, as numbers that readers load without a lock.
//!
//! *accepted* is the seq of the next append. Entries below *flushed* have been handed to the
//! operating system, and entries below *durable* are on stable storage. *start* is the first live
//! seq. Entries below *drained* are in the stream's own files, and entries below *settled* are
//! durable there. *Start in files* is the first live seq that the files durably record.
//!
//! Without a commit journal, drained equals flushed, settled equals durable, and start in files
//! equals start. With one, entries are flushed and durable in the journal before they are in the
//! files, and the journal records a new start before the files do.
//!
//! Invariants: settled <= durable <= flushed <= accepted, settled <= drained <= flushed, and start
//! in files <= start.

use std::sync::Arc;

use stratawal_sync::thread::yield_now;
use stratawal_sync::{AtomicSeq, fail_point};

use crate::notify::Notifier;
use crate::options::Durability;

/// The epoch of a stream that was closed for good. It is even, and no other epoch follows it.
const OVER: u64 = u64::MAX - 1;

#[derive(Debug)]
pub(crate) struct Watermarks {
    accepted: AtomicSeq,
    flushed: AtomicSeq,
    durable: AtomicSeq,
    drained: AtomicSeq,
    settled: AtomicSeq,
    start: AtomicSeq,
    start_in_files: AtomicSeq,
    /// Rises by two whenever the stream is recovered or its end is truncated. A seq may name a
    /// different entry in the next epoch.
    epoch: AtomicSeq,
    /// Increased after each change of the files and before the watermarks, so that a reader in
    /// another process notices a change before it is acknowledged.
    notifier: Option<Arc<Notifier>>,
}

impl Watermarks {
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self {
            accepted: AtomicSeq::new(end),
            flushed: AtomicSeq::new(end),
            durable: AtomicSeq::new(end),
            drained: AtomicSeq::new(end),
            settled: AtomicSeq::new(end),
            start: AtomicSeq::new(start),
            start_in_files: AtomicSeq::new(start),
            epoch: AtomicSeq::new(0),
            notifier: None,
        }
    }

    /// Has changes of the files noticed by readers in other processes.
    pub(crate) fn notifying(mut self, notifier: Option<Arc<Notifier>>) -> Self {
        self.notifier = notifier;
        self
    }

    fn notify(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.notify_and_wake();
        }
    }

    /// Begins a new epoch, in which `change` sets the watermarks and the snapshot. While `change`
    /// runs, the epoch is odd and readers wait. Call this under the stream's lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&Self) -> T) -> T {
        self.notify();
        // Stored before the watermarks, so that a reader that loads a watermark of the new epoch
        // sees that the old epoch is over.
        let epoch = self.epoch.load();
        self.epoch.store(epoch + 1);
        let changed = change(self);
        self.epoch.store(if fail_point!(EpochKept) { epoch } else { epoch + 2 });
        changed
    }

    /// Begins the last epoch, after `change`, which takes the segments away from readers. The other
    /// numbers stay as they are. Call this under the stream's lock.
    pub(crate) fn end(&self, change: impl FnOnce()) {
        let epoch = self.epoch.load();
        self.epoch.store(epoch + 1);
        change();
        self.epoch.store(if fail_point!(EpochKept) { epoch } else { OVER });
    }

    /// Whether `epoch` is the last one: the stream was closed for good.
    pub(crate) const fn is_over(epoch: u64) -> bool {
        epoch == OVER
    }

    /// Sets all watermarks at once, within a change. This may lower `accepted`.
    pub(crate) fn reset(&self, start: u64, end: u64) {
        self.reset_with(start, start, end);
    }

    /// Like [`reset`](Self::reset), if the files have an older start.
    pub(crate) fn reset_with(&self, start: u64, start_in_files: u64, end: u64) {
        for watermark in [&self.settled, &self.drained, &self.durable, &self.flushed, &self.accepted] {
            watermark.store(end);
        }
        self.start_in_files.store(start_in_files);
        self.start.store(start);
    }

    /// Drops the entries below `start`, which the commit journal records. Call this under the
    /// stream's lock, or within a change.
    pub(crate) fn raise_start(&self, start: u64) {
        self.start.raise(start);
    }

    /// Drops the entries below `start`, which the files durably record. Call this before storing
    /// the snapshot that lacks them.
    pub(crate) fn set_start(&self, start: u64) {
        self.notify();
        self.start.raise(start);
        self.start_in_files.raise(start);
    }

    /// Lets the stream, whose entries are all durable, begin again at `start`, which is beyond its
    /// end. Call this after `set_start` and after the snapshot is stored.
    pub(crate) fn reset_all(&self, start: u64) {
        for watermark in [&self.accepted, &self.flushed, &self.durable, &self.drained, &self.settled] {
            watermark.store(start);
        }
    }

    /// Call this once the entries are in the tail buffer.
    pub(crate) fn set_accepted(&self, end: u64) {
        self.accepted.store(end);
    }

    /// Call this once the bytes are in the file, the points are in the index, and the segment's end
    /// is stored.
    pub(crate) fn set_drained(&self, end: u64) {
        // Followers in other processes are not woken: a call of the system for each flushed append
        // would cost half as much as the append.
        if let Some(notifier) = &self.notifier {
            notifier.notify();
        }
        self.flushed.raise(end);
        self.drained.store(end);
    }

    /// Call this after the sync of the files and the MARK.
    pub(crate) fn set_settled(&self, end: u64) {
        self.notify();
        self.durable.raise(end);
        self.settled.store(end);
    }

    /// Call this under the stream's lock once the entries are in the commit journal.
    pub(crate) fn raise_flushed(&self, end: u64) {
        self.flushed.raise(end);
    }

    /// Call this under the stream's lock, in the epoch of the entries, once they are durable in the
    /// commit journal.
    pub(crate) fn raise_durable(&self, end: u64) {
        self.durable.raise(end);
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

    /// The first live seq that the stream's files durably record.
    pub(crate) fn start_in_files(&self) -> u64 {
        self.start_in_files.load()
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

    /// One past the last entry in the stream's files.
    pub(crate) fn drained(&self) -> u64 {
        self.drained.load()
    }

    /// One past the last entry that is durable in the stream's files.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load()
    }

    /// One past the last entry that the stream's files may attest.
    pub(crate) fn attested(&self) -> u64 {
        if fail_point!(JournalAttested) { self.durable() } else { self.settled() }
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
