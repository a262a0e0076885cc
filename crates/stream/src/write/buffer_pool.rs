//! Memory that the streams of a log share. A log may have very many streams but only a few that
//! write at the same time, so a stream has little memory of its own.

use stratawal_sync::Mutex;

/// A stream keeps its own buffers up to this many bytes, so that short appends do not need the
/// pool.
pub(crate) const OWN_BUFFER_LEN_MAX: usize = 512;

/// Longer buffers, which grew with a huge batch, are freed.
const POOLED_LEN_MAX: usize = 4 << 20;

/// The maximum number of buffers that the pool keeps.
const FREE_MAX: usize = 16;

/// Buffers that are not in use, each with its length.
#[derive(Debug)]
pub(crate) struct BufferPool<T>(Mutex<Vec<(T, usize)>>);

impl<T> BufferPool<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Takes a buffer for `needed` bytes, if the pool has one. It is at most eight times as long as
    /// needed, because the caller may keep it for a long time.
    pub(crate) fn take(&self, needed: usize) -> Option<T> {
        let mut free = self.0.lock();
        let at = free.iter().rposition(|(_, len)| *len <= needed.saturating_mul(8))?;
        Some(free.swap_remove(at).0)
    }

    /// Takes back a buffer of `len` bytes.
    pub(crate) fn put(&self, buffer: T, len: usize) {
        if len <= POOLED_LEN_MAX {
            let mut free = self.0.lock();
            if free.len() < FREE_MAX {
                free.push((buffer, len));
            }
        }
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
