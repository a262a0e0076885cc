//! Reads through a file by positioned reads of bounded size.

use std::io;
use std::sync::Arc;

use stratawal_frame::PayloadChecksum;
use stratawal_storage::File;

/// The maximum number of bytes read at a time.
const WINDOW_LEN: usize = 256 << 10;
/// The length of the first read. Each further read is twice as long, because a scan for new frames
/// often ends after a few of them.
const FIRST_LEN: usize = 4 << 10;

/// A window over the first `len` bytes of a file.
pub(crate) struct Window {
    file: Arc<dyn File>,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
    /// The length of the next read.
    next_len: usize,
    /// The length and the end of the run of zeros that was skipped last.
    zeros: u64,
    zeros_end: u64,
}

/// The length of a run of zeros after which the file system is asked for holes. Preallocation
/// leaves fewer zeros than this after the last frame.
const ZEROS_MAX: u64 = 64 << 20;

impl Window {
    pub(crate) fn new(file: Arc<dyn File>, len: u64) -> Self {
        Self { file, len, start: 0, bytes: Vec::new(), next_len: FIRST_LEN, zeros: 0, zeros_end: 0 }
    }

    /// Returns at least `want` bytes at `at`, or fewer only at the end of `len`. `want` must be at
    /// most `WINDOW_LEN`.
    pub(crate) fn at(&mut self, at: u64, want: usize) -> io::Result<&[u8]> {
        debug_assert!(want <= WINDOW_LEN);
        let end = self.start + self.bytes.len() as u64;
        let wanted_end = at.saturating_add(want as u64).min(self.len);
        if at < self.start || wanted_end > end {
            let n = self.len.saturating_sub(at).min(self.next_len.max(want) as u64);
            self.next_len = (self.next_len * 2).min(WINDOW_LEN);
            self.bytes.resize(usize::try_from(n).expect("invariant: at most a window's length"), 0);
            self.start = at;
            let read = self.file.read_at(&mut self.bytes, at)?;
            // Another process may have finished and shortened the file since `len` was read.
            self.bytes.truncate(read);
        }
        let from = usize::try_from(at - self.start).expect("invariant: within the window");
        Ok(self.bytes.get(from..).unwrap_or(&[]))
    }

    /// Returns the first multiple of `align`, starting at `at`, that is not known to be zeros: the
    /// end of the zeros in the window, or of a hole in the file.
    pub(crate) fn skip_zeros(&mut self, at: u64, align: u64) -> io::Result<u64> {
        let bytes = self.at(at, 1)?;
        let len = bytes.len() as u64;
        let data = bytes.iter().position(|&b| b != 0);
        match data {
            Some(n) => Ok((at + n as u64) / align * align),
            None if len == 0 => Ok(self.len),
            None => {
                // A search for headers steps back by up to one header.
                let continues = (at..=at + 64).contains(&self.zeros_end);
                self.zeros = if continues { self.zeros + len } else { len };
                let end = at + len;
                // Some file systems report holes for written bytes that are not yet on the disk. So
                // they are asked only after more zeros than any writer leaves.
                let next = if self.zeros < ZEROS_MAX { end } else { self.file.next_data(end)? };
                self.zeros_end = next;
                Ok(next.min(self.len) / align * align)
            }
        }
    }

    /// Returns the checksum of `n` bytes at `at`, or `None` if the file has fewer.
    pub(crate) fn checksum(&mut self, mut at: u64, mut n: u64) -> io::Result<Option<u32>> {
        let mut sum = PayloadChecksum::new();
        while n > 0 {
            let want = usize::try_from(n.min(WINDOW_LEN as u64)).expect("invariant: at most a window's length");
            let piece = self.at(at, want.min(8))?;
            let take = piece.len().min(want);
            if take == 0 {
                return Ok(None);
            }
            sum.update(&piece[..take]);
            at += take as u64;
            n -= take as u64;
        }
        Ok(Some(sum.finish()))
    }
}
