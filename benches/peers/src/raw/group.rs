//! Group commit over one preallocated file: threads that wait at the same time share a write and a
//! sync.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::Thread;

use memmap2::Mmap;

use super::{frame, read};
use crate::payload::Tally;
use crate::subject::{Answer, Stop, Subject, Writer, failed, none};

/// The part that both variants share: the file, and the bytes waiting to be written to it.
struct Shared {
    file: File,
    map: OnceLock<Mmap>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// The offset of the next write.
    end: u64,
    /// The number of accepted appends.
    taken: u64,
    /// The number of durable appends.
    durable: u64,
    /// Whether a thread is writing and syncing.
    led: bool,
    failed: bool,
    /// Used only with hand-over: the threads waiting for the group after the one that is being
    /// synced.
    threads: Vec<Thread>,
}

fn poisoned<E>(_: E) -> Stop {
    Stop::Failed("a thread panicked".to_owned())
}

impl Shared {
    fn new(file: File) -> Self {
        Self { file, map: OnceLock::new() }
    }

    /// Writes and syncs all waiting bytes, without the lock. Then marks them as durable, or the log
    /// as failed.
    fn commit<'a>(
        &self,
        state: &'a Mutex<Waiting>,
        mut waiting: MutexGuard<'a, Waiting>,
        spare: &mut Vec<u8>,
    ) -> Answer<(MutexGuard<'a, Waiting>, Answer<()>)> {
        waiting.led = true;
        spare.clear();
        std::mem::swap(&mut waiting.bytes, spare);
        let at = waiting.end;
        let group = waiting.taken;
        waiting.end += spare.len() as u64;
        drop(waiting);
        let done = self.file.write_all_at(spare, at).and_then(|()| self.file.sync_data());
        let mut waiting = state.lock().map_err(poisoned)?;
        waiting.led = false;
        match &done {
            Ok(()) => waiting.durable = group,
            Err(_) => waiting.failed = true,
        }
        Ok((waiting, done.map_err(failed("write and sync"))))
    }
}

/// The leader of a group first hands over to a thread of the next group, whose sync then runs while
/// the leader wakes its own group. Each thread is woken once.
pub(super) struct HandOver {
    shared: Shared,
    state: Mutex<Waiting>,
}

impl HandOver {
    pub(super) fn new(file: File) -> Self {
        Self { shared: Shared::new(file), state: Mutex::default() }
    }

    fn append(&self, entry: &[u8], spare: &mut Vec<u8>) -> Answer<()> {
        let mut waiting = self.state.lock().map_err(poisoned)?;
        frame(&mut waiting.bytes, entry);
        waiting.taken += 1;
        let ticket = waiting.taken;
        if waiting.led {
            waiting.threads.push(std::thread::current());
            drop(waiting);
            loop {
                std::thread::park();
                waiting = self.state.lock().map_err(poisoned)?;
                if waiting.durable >= ticket {
                    return Ok(());
                }
                if waiting.failed {
                    return Err(Stop::Failed("another thread's sync has failed".to_owned()));
                }
                // If a thread is woken before its entry is durable, it leads, unless park returned
                // spuriously.
                if !waiting.led {
                    break;
                }
                drop(waiting);
            }
        }
        let group = std::mem::take(&mut waiting.threads);
        let (mut waiting, done) = self.shared.commit(&self.state, waiting, spare)?;
        // After a failure all threads are woken, because none will lead them.
        let next = if done.is_ok() {
            waiting.threads.first().cloned().into_iter().collect()
        } else {
            std::mem::take(&mut waiting.threads)
        };
        drop(waiting);
        next.iter().for_each(Thread::unpark);
        group.iter().for_each(Thread::unpark);
        done
    }
}

/// The simple variant: one condition variable that wakes all threads. It may be faster with few
/// threads.
pub(super) struct Condvar {
    shared: Shared,
    state: Mutex<Waiting>,
    changed: std::sync::Condvar,
}

impl Condvar {
    pub(super) fn new(file: File) -> Self {
        Self { shared: Shared::new(file), state: Mutex::default(), changed: std::sync::Condvar::new() }
    }

    fn append(&self, entry: &[u8], spare: &mut Vec<u8>) -> Answer<()> {
        let mut waiting = self.state.lock().map_err(poisoned)?;
        frame(&mut waiting.bytes, entry);
        waiting.taken += 1;
        let ticket = waiting.taken;
        loop {
            if waiting.durable >= ticket {
                return Ok(());
            }
            if waiting.failed {
                return Err(Stop::Failed("another thread's sync has failed".to_owned()));
            }
            if !waiting.led {
                break;
            }
            waiting = self.changed.wait(waiting).map_err(poisoned)?;
        }
        let (waiting, done) = self.shared.commit(&self.state, waiting, spare)?;
        drop(waiting);
        self.changed.notify_all();
        done
    }
}

/// The buffer of one thread.
struct Appender<'a, T>(&'a T, Vec<u8>);

macro_rules! subject {
    ($name:ident) => {
        impl Subject for $name {
            fn writer(&self, _: u64) -> Answer<Box<dyn Writer + '_>> {
                Ok(Box::new(Appender(self, Vec::new())))
            }

            /// One file has the entries of all streams, which are all counted for the first.
            fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
                if stream == 0 { read::scan(read::By::Map, &self.shared.map, &self.shared.file, tally) } else { Ok(()) }
            }

            fn get(&self, _: u64, _: &mut Tally) -> Answer<()> {
                none("a group is for appends")
            }
        }

        impl Writer for Appender<'_, $name> {
            fn append(&mut self, entry: &[u8]) -> Answer<()> {
                self.0.append(entry, &mut self.1)
            }

            fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
                entries.iter().try_for_each(|entry| self.append(entry))
            }
        }
    };
}

subject!(HandOver);
subject!(Condvar);
