//! The streams that are open in this process: one slot for each name in use.
//!
//! A slot stays as long as its stream is open and has entries. Otherwise it is removed with its
//! last user, so that deleted streams, and names that are only looked up, do not take memory
//! forever. The users of a slot are the handles on its stream, and the calls that are about to look
//! it up, create it, or delete it.
//!
//! No stream is ever open twice. A user gets its share of a slot only from the map, under the map's
//! lock, and returns the share under the same lock. So under that lock the count of shares is
//! exact, and a slot that is removed has no user: an earlier user would still be counted, and a
//! later look-up creates a new slot. A call on all streams is a user of each of them until it is
//! done, because it may recover a stream, which writes to its files. The stream in a slot is
//! guarded by the slot's own lock, so that two look-ups of one name open it once.
//!
//! Closing one stream empties its slot, under the slot's lock, as a deletion does. So a look-up
//! that runs at the same time either gets the stream before it is closed or opens it after that.
//! The old handles still share the slot, and their stream does not use its files any more. The log
//! is checked to be open under the slot's lock, because a close that fails lets its stream
//! continue.
//!
//! An iterator is not a user. It cannot append, and on a stream without entries it has nothing to
//! read, so a new slot of the same name does no harm.
//!
//! The map's lock is taken before a slot's lock. A slot's lock is held while its stream is
//! recovered or deleted. No thread holds the map's lock while it waits for such a slot, because
//! under the map's lock only a slot without other users is locked.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use stratawal_stream::StreamLog;
use stratawal_sync::atomic::{AtomicBool, Ordering};
use stratawal_sync::{Mutex, MutexGuard, Weak};

use crate::error::Result;
use crate::follow_prefix::Watch;
use crate::wal::Wal;

/// All slots of a log.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    map: Mutex<BTreeMap<Arc<str>, Arc<Slot>>>,
    /// Those to be woken when a stream is opened.
    watches: Mutex<Vec<Weak<Watch>>>,
    is_final: AtomicBool,
}

/// A change of a stream that followers of many streams are to know of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    Opened(&'a StreamLog),
    /// The stream was closed, and the next look-up opens it again.
    Closed(&'a StreamLog),
    Deleted,
}

/// The slot of one stream.
#[derive(Debug)]
pub(crate) struct Slot {
    name: Arc<str>,
    /// Set once a look-up has succeeded.
    log: Mutex<Option<StreamLog>>,
}

impl Slots {
    /// Returns a share of the slot of `name`, to be returned to [`leave`](Self::leave).
    fn enter(&self, name: &str) -> Arc<Slot> {
        let mut map = self.map.lock();
        if let Some(slot) = map.get(name) {
            return Arc::clone(slot);
        }
        let name: Arc<str> = name.into();
        let slot = Arc::new(Slot { name: Arc::clone(&name), log: Mutex::new(None) });
        map.insert(name, Arc::clone(&slot));
        slot
    }

    fn leave(&self, slot: Arc<Slot>) {
        // Only the map and the caller have a share.
        const LAST: usize = 2;
        let mut map = self.map.lock();
        let unused = Arc::strong_count(&slot) == LAST && !slot.has_entries();
        let removed = if unused { map.remove(&slot.name) } else { None };
        // Dropped under the lock; otherwise the next call would count it.
        drop(slot);
        drop(map);
        drop(removed);
    }

    /// Has `watch` woken for each stream that is opened, until it is dropped.
    pub(crate) fn watch(&self, watch: &Arc<Watch>) {
        let mut watches = self.watches.lock();
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(watch));
    }

    fn watches(&self) -> Vec<Arc<Watch>> {
        self.watches.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Notes a change of the stream `name`, whose slot the caller has locked. The watches that this
    /// returns are to be woken after the slot is unlocked: a woken task may look up a stream.
    pub(crate) fn note(&self, name: &str, change: Change<'_>) -> Vec<Arc<Watch>> {
        let mut watches = self.watches();
        watches.retain(|watch| watch.note(name, change));
        watches
    }

    /// The streams that were closed, and whose last entries a watch may not have returned.
    pub(crate) fn unread(&self) -> Vec<Arc<str>> {
        let watches = self.watches();
        if watches.is_empty() {
            return Vec::new();
        }
        // A close of a stream that has begun is noted once its slot is unlocked.
        drop(self.open());
        watches.iter().flat_map(|watch| watch.closed()).collect()
    }

    /// Opens the stream `name` unless it is open, so that followers read its last entries after the
    /// log is closed.
    pub(crate) fn open_for_followers(&self, name: &str, open: impl FnOnce() -> Result<StreamLog>) {
        let slot = self.enter(name);
        let mut log = slot.log.lock();
        let mut watches = Vec::new();
        let opened = if log.is_none() { open().map(Some) } else { Ok(None) };
        match opened {
            Ok(Some(opened)) => {
                watches = self.note(name, Change::Opened(&opened));
                *log = Some(opened);
            }
            Ok(None) => {}
            Err(error) => {
                watches = self.watches();
                watches.iter().for_each(|watch| watch.failed(name, &error));
            }
        }
        drop(log);
        watches.iter().for_each(|watch| watch.wake());
        self.leave(slot);
    }

    /// From here on no stream is opened or closed.
    pub(crate) fn set_final(&self) {
        // Release; pairs with the Acquire in `is_final`.
        self.is_final.store(true, Ordering::Release);
        self.wake_watches();
    }

    /// Whether the log is closed, and no stream is opened or closed any more.
    pub(crate) fn is_final(&self) -> bool {
        // Acquire; pairs with the Release in `set_final`.
        self.is_final.load(Ordering::Acquire)
    }

    fn wake_watches(&self) {
        let watches = self.watches();
        watches.iter().for_each(|watch| watch.wake());
    }

    /// Whether the stream `name` is open. Waits while it is being opened.
    pub(crate) fn is_open(&self, name: &str) -> bool {
        let slot = self.enter(name);
        let is_open = slot.log.lock().is_some();
        self.leave(slot);
        is_open
    }

    /// Runs `act`, which opens the stream `name` and closes it, unless the stream is open or a call
    /// is looking it up. A look-up waits until `act` is done.
    pub(crate) fn while_not_open(&self, name: &str, act: impl FnOnce()) {
        let slot = self.enter(name);
        // This thread may hold the lock of another slot, so it does not wait.
        if let Some(log) = slot.log.try_lock()
            && log.is_none()
        {
            act();
        }
        self.leave(slot);
    }

    /// Returns the open streams, without those that are being opened or closed. All stay in use
    /// until the result is dropped.
    pub(crate) fn at_rest(&self) -> OpenStreams<'_> {
        let shares: Vec<Arc<Slot>> = self.map.lock().values().cloned().collect();
        let logs = shares.iter().filter_map(|slot| slot.log.try_lock()?.clone()).collect();
        OpenStreams { slots: self, shares, logs }
    }

    /// Returns the open streams, and waits for those that are being opened. All stay in use until
    /// the result is dropped.
    pub(crate) fn open(&self) -> OpenStreams<'_> {
        let shares: Vec<Arc<Slot>> = self.map.lock().values().cloned().collect();
        let logs = shares.iter().filter_map(|slot| slot.log.lock().clone()).collect();
        OpenStreams { slots: self, shares, logs }
    }
}

/// The streams of a log that were open at one time, with a share of each slot. A call on all
/// streams may recover one of them, and no look-up may open that stream at the same time.
pub(crate) struct OpenStreams<'a> {
    slots: &'a Slots,
    shares: Vec<Arc<Slot>>,
    logs: Vec<StreamLog>,
}

impl Deref for OpenStreams<'_> {
    type Target = [StreamLog];

    fn deref(&self) -> &[StreamLog] {
        &self.logs
    }
}

impl Drop for OpenStreams<'_> {
    fn drop(&mut self) {
        self.logs.clear();
        self.shares.drain(..).for_each(|slot| self.slots.leave(slot));
    }
}

impl Slot {
    fn has_entries(&self) -> bool {
        self.log.lock().as_ref().is_some_and(StreamLog::exists)
    }
}

/// A user of a slot and of the log. It keeps the log open and locked.
pub(crate) struct SlotUser {
    /// `None` in a log opened for reading, because each look-up opens the stream again.
    slot: Option<Arc<Slot>>,
    wal: Wal,
}

impl SlotUser {
    pub(crate) fn of_slot(wal: &Wal, slots: &Slots, name: &str) -> Self {
        Self { slot: Some(slots.enter(name)), wal: wal.clone() }
    }

    pub(crate) fn of_reader(wal: &Wal) -> Self {
        Self { slot: None, wal: wal.clone() }
    }

    /// Closes the stream `log`, which this user looked up, unless the log is closed. See
    /// [`Stream::close`](crate::Stream::close).
    pub(crate) fn close(&self, log: &StreamLog) -> Result<()> {
        self.wal.check_process()?;
        if self.slot.is_none() {
            return log.close_for_good();
        }
        let mut slot = self.lock();
        let is_open = slot.as_ref().is_some_and(|open| open.is_same(log));
        if !is_open {
            // It was closed or deleted.
            return Ok(());
        }
        if self.wal.is_closed() {
            drop(slot);
            // The close of the log closes its streams, and reports their errors.
            self.wal.wait_for_close();
            return Ok(());
        }
        log.close_for_good()?;
        *slot = None;
        // The close itself has woken the followers.
        let watches = self.wal.slots().note(log.name(), Change::Closed(log));
        drop(slot);
        drop(watches);
        Ok(())
    }

    pub(crate) const fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Locks the slot and returns its stream.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<StreamLog>> {
        self.slot.as_ref().expect("invariant: only users with a slot lock it").log.lock()
    }
}

impl Drop for SlotUser {
    fn drop(&mut self) {
        // In a forked child the lock may stay held forever.
        if let Some(slot) = self.slot.take()
            && !self.wal.is_forked()
        {
            self.wal.slots().leave(slot);
        }
    }
}

impl fmt::Debug for SlotUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotUser").field("wal", &self.wal).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Barrier;
    use std::thread;

    use stratawal_storage::MemoryStorage;

    use super::*;
    use crate::{Durability, ErrorKind, Options, StreamOptions};

    fn wal() -> Wal {
        Wal::open_on(Arc::new(MemoryStorage::new()), Path::new("/log"), &Options::new(), false).unwrap()
    }

    fn slots(wal: &Wal) -> usize {
        wal.slots().map.lock().len()
    }

    #[test]
    fn names_that_are_only_looked_up_take_no_slots() {
        let wal = wal();
        for i in 0..1000 {
            let stream = wal.stream(&format!("s{i}")).unwrap();
            let clone = stream.with_durability(Durability::Buffered);
            drop(stream);
            assert_eq!(slots(&wal), 1, "a clone is in use");
            assert!(!clone.exists());
        }
        assert!(wal.delete_stream("other").is_err_and(|error| error.kind() == ErrorKind::Missing));
        wal.sync().unwrap();
        assert_eq!(slots(&wal), 0);
    }

    #[test]
    fn deleted_streams_take_no_slots() {
        let wal = wal();
        for i in 0..100 {
            let name = format!("s{i}");
            wal.stream(&name).unwrap().append(b"x").unwrap();
            assert_eq!(slots(&wal), 1, "a stream with entries stays open");
            assert_eq!(wal.stats().unwrap().streams, 1);
            wal.delete_stream(&name).unwrap();
            assert_eq!(slots(&wal), 0);
        }
    }

    #[test]
    fn a_handle_on_a_deleted_stream_does_not_end_the_new_one() {
        let wal = wal();
        let old = wal.stream("s").unwrap();
        old.append(b"old").unwrap();
        wal.delete_stream("s").unwrap();
        let new = wal.stream("s").unwrap();
        drop(old);
        assert_eq!(new.append(b"new").unwrap(), 0);
        drop(new);
        assert_eq!((slots(&wal), wal.stream("s").unwrap().next_seq()), (1, 1));
    }

    #[test]
    fn options_last_as_long_as_a_stream_is_in_use() {
        let wal = wal();
        let options = || StreamOptions::new().durability(Durability::Buffered);
        let first = wal.stream_with("s", options()).unwrap();
        assert_eq!(wal.stream_with("s", options()).unwrap_err().kind(), ErrorKind::InvalidOption);
        drop(first);
        wal.stream_with("s", options()).unwrap().append(b"x").unwrap();
        assert_eq!(wal.stream_with("s", options()).unwrap_err().kind(), ErrorKind::InvalidOption);
    }

    /// Two open streams of one name would both create its directory, and the second would fail.
    #[test]
    fn a_stream_is_open_once_while_last_handles_are_dropped() {
        const THREADS: usize = 4;
        const ROUNDS: usize = 3000;
        let wal = wal();
        let barrier = Barrier::new(THREADS);
        let append = |name: &str| {
            drop(wal.stream(name)?);
            let first = wal.stream(name)?;
            let second = wal.stream(name)?;
            let seq = first.append(b"x")?;
            drop(first);
            // An entry appended through one handle is visible through another.
            Ok(second.next_seq() > seq && second.get(seq)?.is_some())
        };
        let delete = |name: &str| {
            let all = wal.stream(name)?.next_seq() == THREADS as u64;
            wal.delete_stream(name)?;
            Ok(all)
        };
        let run = || {
            // A thread that fails still goes to the barrier; otherwise the others would wait there
            // forever.
            let mut results: Vec<crate::Result<bool>> = Vec::new();
            for round in 0..ROUNDS {
                let name = format!("s{}", round % 2);
                barrier.wait();
                results.push(append(&name));
                if barrier.wait().is_leader() {
                    results.push(delete(&name));
                }
            }
            results
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let wrong: Vec<_> = results.iter().filter(|result| !matches!(result, Ok(true))).collect();
        assert!(wrong.is_empty(), "{} of {} calls: {:?}", wrong.len(), results.len(), wrong[0]);
        assert_eq!(slots(&wal), 0);
    }
}
