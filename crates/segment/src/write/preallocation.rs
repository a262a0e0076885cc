//! The space of a file being written: booked before a seq is given, so that a full disk refuses an
//! append whole.
//!
//! Invariant (the rule of Length): while a segment is written its file's length is a multiple of 4
//! KiB plus 8, so that a cut at any block or page border shows; and it grows before the bytes,
//! never with them.

use std::sync::Arc;

use stratawal_frame::ByteOffset;
use stratawal_storage::File;

use crate::{Error, ErrorKind, Result, SegmentId};

/// Bytes at the end of every reservation that are kept for control frames, so that
/// `truncate_before`, SEAL and CLOSE work on a full disk.
pub const CONTROL_RESERVE: u64 = 4096;

/// No file is longer, on any system.
const LEN_MAX: u64 = 1 << 62;

/// The largest step by which a file grows ahead of its bytes.
const STEP_MAX: u64 = 8 << 20;

/// The smallest length of a file being written that holds `n` bytes.
#[must_use]
pub const fn active_len(n: u64) -> u64 {
    n.saturating_sub(8).next_multiple_of(4096) + 8
}

/// The reserved space of one file. It is kept apart from the
/// [`SegmentWriter`](crate::SegmentWriter) so that appends can book while another thread writes.
#[derive(Clone, Debug)]
pub struct Preallocation {
    id: SegmentId,
    file: Arc<dyn File>,
    len: u64,
    /// The CLOSE at the end of a file that was closed cleanly and not written since: its offset and
    /// bytes.
    after_close: Option<(ByteOffset, Vec<u8>)>,
}

impl Preallocation {
    pub(crate) fn new(id: SegmentId, file: Arc<dyn File>, len: u64) -> Self {
        Self { id, file, len, after_close: None }
    }

    pub(crate) fn behind_close(mut self, offset: ByteOffset, frame: Vec<u8>) -> Self {
        self.after_close = Some((offset, frame));
        self
    }

    /// The length of the file in bytes.
    #[must_use]
    pub const fn preallocated(&self) -> u64 {
        self.len
    }

    /// Whether the file was closed cleanly and nothing was booked since: its length is that of a
    /// finished file.
    #[must_use]
    pub const fn is_after_close(&self) -> bool {
        self.after_close.is_some()
    }

    /// Makes sure of `bytes` bytes at `tail`, with [`CONTROL_RESERVE`] behind them. Grows ahead in
    /// steps that start small and grow with the file.
    ///
    /// # Errors
    /// [`ErrorKind::Preallocate`]: nothing has changed, and the call may be repeated. After any other error nothing may be written
    /// to the file until recovery has run: the CLOSE that the file ended with could not be written
    /// again.
    pub fn ensure(&mut self, tail: &ByteOffset, bytes: u64) -> Result<()> {
        self.ensure_exactly(tail.0.saturating_add(bytes).saturating_add(CONTROL_RESERVE), true)
    }

    /// Makes sure of `bytes` bytes at `tail` for a control frame, out of what is kept for them
    /// where it is enough.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub fn ensure_control(&mut self, tail: &ByteOffset, bytes: u64) -> Result<()> {
        self.ensure_exactly(tail.0.saturating_add(bytes), false)
    }

    fn ensure_exactly(&mut self, need: u64, ahead: bool) -> Result<()> {
        let behind_close = self.after_close.is_some();
        if need <= self.len && !behind_close {
            return Ok(());
        }
        if need > LEN_MAX {
            return Err(self.refused(std::io::ErrorKind::FileTooLarge.into()));
        }
        // A file behind its CLOSE has a finished length, and gets the length of one being written
        // even if it would do.
        let least = active_len(need.max(self.len + 1));
        let step = (self.len / 2).min(STEP_MAX);
        let wanted = active_len(need.max(self.len + if ahead { step } else { 0 })).max(least);
        let reserved = match self.file.reserve(wanted) {
            Err(e) if stratawal_storage::is_full(&e) && wanted > least => self.file.reserve(least).map(|()| least),
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

    /// Before anything is written behind a CLOSE: its own sync may have failed, so that the page
    /// cache shows what the disk does not hold. With the longer length already set, it is written
    /// again in place and synced; only then may the trailer behind it be overwritten.
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
    fn a_written_length_is_never_a_border() {
        for n in [0, 1, 7, 8, 9, 4095, 4096, 4103, 4104, 4105, 1 << 30] {
            let len = active_len(n);
            assert!(len >= n && len % 4096 == 8 && len < n + 4097, "{n} {len}");
        }
    }
}
