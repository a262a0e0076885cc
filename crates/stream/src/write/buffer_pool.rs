//! Memory that the streams of a log share. A log may have very many streams but only a few that
//! write at the same time, so a stream has little memory of its own.

use std::sync::Arc;

use stratawal_sync::{Counter, Mutex};

/// A stream keeps its own buffers up to this many bytes, so that short appends do not need the
/// pool.
pub(crate) const OWN_BUFFER_LEN_MAX: usize = 512;

/// Longer buffers, which grew with a huge batch, are freed.
const POOLED_LEN_MAX: usize = 4 << 20;

/// The maximum number of buffers that the pool keeps.
const FREE_MAX: usize = 16;

/// The memory of a stream's pending entries is counted in steps of this many bytes, so that few
/// appends touch the count, which all streams share.
const HELD_STEP: usize = 512;

/// Buffers that are not in use, each with its length, and the count of the bytes that are in use.
#[derive(Debug)]
pub(crate) struct BufferPool<T> {
    free: Mutex<Vec<(T, usize)>>,
    held: Counter,
    held_max: u64,
}

impl<T> BufferPool<T> {
    pub(crate) fn new() -> Self {
        Self { free: Mutex::new(Vec::new()), held: Counter::default(), held_max: u64::MAX }
    }

    /// Sets how many bytes of entries the streams of a log may hold before appends write them.
    pub(crate) fn holding(self, max: usize) -> Self {
        Self { held_max: max as u64, ..self }
    }

    /// Whether the entries that wait to be written take more memory than they may.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.held.get() > self.held_max
    }

    /// Takes a buffer for `needed` bytes, if the pool has one. It is at most eight times as long as
    /// needed, because the caller may keep it for a long time.
    pub(crate) fn take(&self, needed: usize) -> Option<T> {
        let mut free = self.free.lock();
        let at = free.iter().rposition(|(_, len)| *len <= needed.saturating_mul(8))?;
        Some(free.swap_remove(at).0)
    }

    /// Takes back a buffer of `len` bytes.
    pub(crate) fn put(&self, buffer: T, len: usize) {
        if len <= POOLED_LEN_MAX {
            let mut free = self.free.lock();
            if free.len() < FREE_MAX {
                free.push((buffer, len));
            }
        }
    }
}

/// The bytes of the pending entries of one stream, rounded up, as part of the count of its log.
#[derive(Debug)]
pub(crate) struct Held<T> {
    pool: Arc<BufferPool<T>>,
    bytes: usize,
}

impl<T> Held<T> {
    pub(crate) const fn new(pool: Arc<BufferPool<T>>) -> Self {
        Self { pool, bytes: 0 }
    }

    pub(crate) const fn pool(&self) -> &Arc<BufferPool<T>> {
        &self.pool
    }

    /// The entries have `len` bytes now.
    #[inline]
    pub(crate) fn raise(&mut self, len: usize) {
        if len > self.bytes {
            let bytes = len.next_multiple_of(HELD_STEP);
            self.pool.held.add((bytes - self.bytes) as u64);
            self.bytes = bytes;
        }
    }

    /// No entries are pending.
    pub(crate) fn clear(&mut self) {
        if self.bytes > 0 {
            self.pool.held.sub(self.bytes as u64);
            self.bytes = 0;
        }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Adds to a list that mostly has one item. An ordinary `push` would allocate space for four, in
/// each of very many streams.
pub(crate) fn push_exact<T>(list: &mut Vec<T>, item: T) {
    if list.capacity() == 0 {
        list.reserve_exact(1);
    }
    list.push(item);
}
