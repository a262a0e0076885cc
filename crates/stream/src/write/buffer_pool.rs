//! Memory that the streams of a log lend one another, and how they use little of their own: there
//! may be very many, and few that write at the same time.

use stratawal_sync::Mutex;
/// A stream keeps buffers up to so many bytes for itself, so that short appends need nothing of the
/// pool.
pub(crate) const OWN_BUFFER_LEN_MAX: usize = 512;

/// A buffer that grew with a huge batch is not kept.
const POOLED_LEN_MAX: usize = 4 << 20;

/// So many are kept for those who come next.
const FREE_MAX: usize = 16;

/// Buffers that nobody uses just now.
#[derive(Debug)]
pub(crate) struct BufferPool<T>(Mutex<Vec<(T, usize)>>);

impl<T> BufferPool<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// A buffer for `needed` bytes, but none that is many times as long: whoever takes it may keep
    /// it for long.
    pub(crate) fn take(&self, needed: usize) -> Option<T> {
        let mut free = self.0.lock();
        let at = free.iter().rposition(|(_, len)| *len <= needed.saturating_mul(8))?;
        Some(free.swap_remove(at).0)
    }

    /// Takes back a buffer of so many bytes.
    pub(crate) fn put(&self, buffer: T, len: usize) {
        if len <= POOLED_LEN_MAX {
            let mut free = self.0.lock();
            if free.len() < FREE_MAX {
                free.push((buffer, len));
            }
        }
    }
}

/// Adds to a list that mostly holds one: room for four is what a list begins with, and there are
/// many streams.
pub(crate) fn push_exact<T>(list: &mut Vec<T>, item: T) {
    if list.capacity() == 0 {
        list.reserve_exact(1);
    }
    list.push(item);
}
