//! The preallocated space of an active segment's file. It is extended before a seq is assigned, so
//! that a full disk refuses an append as a whole.
//!
//! Invariant (the rule of Length of the format): the length of an active segment's file is a
//! multiple of 4 KiB plus 8, so that a file cut off at a block or page boundary is recognized. The
//! file is extended before bytes are written, never by writing them.

use std::sync::Arc;

use stratawal_frame::ByteOffset;
use stratawal_storage::File;

use crate::{Error, ErrorKind, Result, SegmentId};

/// The number of bytes at the end of every preallocation that are reserved for control frames, so
/// that `truncate_before`, SEAL and CLOSE work on a full disk.
pub const CONTROL_RESERVE: u64 = 4096;

/// A length that no file reaches, on any system.
const LEN_MAX: u64 = 1 << 62;

/// The maximum number of bytes by which a file is extended beyond its need.
const STEP_MAX: u64 = 8 << 20;

/// The smallest length of an active segment's file that holds `n` bytes.
#[must_use]
pub const fn active_len(n: u64) -> u64 {
    n.saturating_sub(8).next_multiple_of(4096) + 8
}

/// The preallocated space of one file. It is separate from the
/// [`SegmentWriter`](crate::SegmentWriter), so that an append can extend it while another thread
/// writes.
#[derive(Clone, Debug)]
pub struct Preallocation {
    id: SegmentId,
    file: Arc<dyn File>,
    len: u64,
    /// The offset and the bytes of the CLOSE at the end of the file, if the file was closed cleanly
    /// and has not been written since.
    after_close: Option<(ByteOffset, Vec<u8>)>,
}

impl Preallocation {
    pub(crate) fn new(id: SegmentId, file: Arc<dyn File>, len: u64) -> Self {
        Self { id, file, len, after_close: None }
    }

    pub(crate) fn with_close(mut self, offset: ByteOffset, frame: Vec<u8>) -> Self {
        self.after_close = Some((offset, frame));
        self
    }

    /// The same space of the same file, used through `file`.
    #[must_use]
    pub fn with_file(self, file: Arc<dyn File>) -> Self {
        Self { file, ..self }
    }

    /// The length of the file in bytes, including preallocated space.
    #[must_use]
    pub const fn preallocated(&self) -> u64 {
        self.len
    }

    /// Whether the file was closed cleanly and has not been extended since. If so, its length is
    /// that of a finished file.
    #[must_use]
    pub const fn is_after_close(&self) -> bool {
        self.after_close.is_some()
    }

    /// Ensures that `bytes` bytes at `tail` and [`CONTROL_RESERVE`] bytes after them are
    /// preallocated. Extends the file in steps that start small and grow with the file.
    ///
    /// # Errors
    /// [`ErrorKind::Preallocate`]: nothing has changed, and the call may be repeated. After any
    /// other error the CLOSE at the end of the file could not be rewritten, and nothing may be
    /// written to the file until recovery has run.
    pub fn ensure(&mut self, tail: &ByteOffset, bytes: u64) -> Result<()> {
        self.ensure_exactly(tail.0.saturating_add(bytes).saturating_add(CONTROL_RESERVE), true)
    }

    /// Ensures that `bytes` bytes at `tail` are preallocated for a control frame. These bytes may
    /// be taken from the [`CONTROL_RESERVE`] bytes.
    ///
    /// # Errors
    /// Returns the same errors as [`ensure`](Self::ensure).
    pub fn ensure_control(&mut self, tail: &ByteOffset, bytes: u64) -> Result<()> {
        self.ensure_exactly(tail.0.saturating_add(bytes), false)
    }

    fn ensure_exactly(&mut self, need: u64, ahead: bool) -> Result<()> {
        if need <= self.len && self.after_close.is_none() {
            return Ok(());
        }
        if need > LEN_MAX {
            return Err(self.refused(std::io::ErrorKind::FileTooLarge.into()));
        }
        // A finished file gets the length of an active one even if it is already long enough.
        let least = active_len(need.max(self.len + 1));
        let step = (self.len / 2).min(STEP_MAX);
        let wanted = active_len(need.max(self.len + if ahead { step } else { 0 })).max(least);
        let reserved = match self.file.preallocate(wanted) {
            Err(e) if stratawal_storage::is_full(&e) && wanted > least => self.file.preallocate(least).map(|()| least),
            other => other.map(|()| wanted),
        };
        let len = reserved.map_err(|source| self.refused(source))?;
        self.rewrite_close()?;
        self.len = len;
        Ok(())
    }

    fn refused(&self, source: std::io::Error) -> Error {
        Error::new(self.id, None, ErrorKind::Preallocate(source))
    }

    /// Rewrites the CLOSE at the end of the file in place, and syncs it. This must happen before
    /// anything is written after the CLOSE: its first sync may have failed, so that the page cache
    /// shows bytes that the disk does not hold. The file is already extended; after the sync the
    /// trailer may be overwritten.
    fn rewrite_close(&mut self) -> Result<()> {
        if let Some((offset, frame)) = &self.after_close {
            self.file.write_all_at(frame, offset.0).map_err(Error::io(self.id, "write"))?;
            self.file.sync_data().map_err(Error::io(self.id, "sync"))?;
            self.after_close = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_length_is_never_at_a_boundary() {
        for n in [0, 1, 7, 8, 9, 4095, 4096, 4103, 4104, 4105, 1 << 30] {
            let len = active_len(n);
            assert!(len >= n && len % 4096 == 8 && len < n + 4097, "{n} {len}");
        }
    }
}
