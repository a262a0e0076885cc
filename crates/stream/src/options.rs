//! How a stream is kept and read.

use stratawal_index::INTERVAL_BYTES_DEFAULT;
use stratawal_sync::fail_point;

use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;

/// The failures that an acknowledged entry survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The entries are in the memory of this process. They survive nothing.
    Buffered,
    /// The entries were written to the operating system. They survive the death of the process
    /// (`kill -9`), but not a power loss.
    Flushed,
    /// The entries are on stable storage. They survive a power loss.
    #[default]
    Synced,
}

/// Which entries a reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Entries that are *stable*, that is, as durable as the stream promises: synced entries if the
    /// stream's own durability is [`Durability::Synced`], and flushed entries otherwise.
    #[default]
    Stable,
    /// All entries that this process has accepted. A program then reads its own writes before they
    /// are durable.
    Accepted,
}

/// How a stream is kept. The options are not stored: each process chooses them when it opens the
/// stream.
///
/// ```
/// # use stratawal_stream::{Durability, StreamOptions};
/// let options = StreamOptions::new().durability(Durability::Flushed).segment_bytes(16 << 20);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct StreamOptions {
    pub(crate) durability: Durability,
    pub(crate) segment_bytes: u64,
    pub(crate) frame_bytes: usize,
    pub(crate) batch_bytes_max: u64,
    pub(crate) read_bytes_max: u64,
    pub(crate) buffer_bytes: usize,
    pub(crate) unsynced_bytes_max: u64,
    pub(crate) unsynced_segments_max: usize,
    pub(crate) index_interval_bytes: u64,
}

impl StreamOptions {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let key = |options: &Self| {
            let Self {
                durability,
                segment_bytes,
                frame_bytes,
                batch_bytes_max,
                read_bytes_max,
                buffer_bytes,
                unsynced_bytes_max,
                unsynced_segments_max,
                index_interval_bytes,
            } = *options;
            let bytes = [segment_bytes, batch_bytes_max, read_bytes_max, unsynced_bytes_max, index_interval_bytes];
            (durability, bytes, [frame_bytes, buffer_bytes, unsynced_segments_max])
        };
        key(self) == key(other)
    }
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            durability: Durability::Synced,
            segment_bytes: 64 << 20,
            frame_bytes: 6 << 10,
            batch_bytes_max: 1 << 30,
            read_bytes_max: stratawal_frame::PAYLOAD_LEN_MAX as u64,
            buffer_bytes: 256 << 10,
            unsynced_bytes_max: 1 << 30,
            unsynced_segments_max: 16,
            index_interval_bytes: INTERVAL_BYTES_DEFAULT,
        }
    }

    /// The durability of an append that does not specify one, and what *stable* means (see
    /// [`Visibility`]). Default: [`Durability::Synced`].
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The length of a segment's frames in bytes. An append that would make them longer begins the
    /// next segment. A larger batch gets a file of its own. The record that ends a file can make it
    /// up to 4 KiB longer. Default: 64 MiB; at least 64 KiB.
    #[must_use]
    pub const fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Pending appends are merged into one frame up to this length. Large frames take less disk
    /// space. A single read reads a whole frame or, if frames are small, from one point of the
    /// index to the next ([`index_interval_bytes`](Self::index_interval_bytes)). Reads of frames
    /// over 8 KiB are slower, because they allocate memory. Default: 6 KiB; 1 byte to 1 MiB.
    #[must_use]
    pub const fn frame_bytes(mut self, bytes: usize) -> Self {
        self.frame_bytes = bytes;
        self
    }

    /// The size of the largest batch: its bytes, plus 4 for each entry. Default: 1 GiB; at most 2
    /// GiB - 1.
    #[must_use]
    pub const fn batch_bytes_max(mut self, bytes: u64) -> Self {
        self.batch_bytes_max = bytes;
        self
    }

    /// The largest frame that is read into memory. Default: 2 GiB - 1, so that every entry that
    /// could be appended can be read. Lower it for logs from an untrusted source.
    #[must_use]
    pub const fn read_bytes_max(mut self, bytes: u64) -> Self {
        self.read_bytes_max = bytes;
        self
    }

    /// How many bytes [`Durability::Buffered`] appends may buffer before they are written to the
    /// operating system. Once four times this many are buffered, appends block until the write is
    /// done. Default: 256 KiB; at least 1.
    #[must_use]
    pub const fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How many bytes of finished segments may be unsynced. An append that exceeds this limit syncs
    /// the oldest of them. Default: 1 GiB.
    #[must_use]
    pub const fn unsynced_bytes_max(mut self, bytes: u64) -> Self {
        self.unsynced_bytes_max = bytes;
        self
    }

    /// How many finished segments may be unsynced. An append that exceeds this limit syncs the
    /// oldest of them. Default: 16.
    #[must_use]
    pub const fn unsynced_segments_max(mut self, segments: usize) -> Self {
        self.unsynced_segments_max = segments;
        self
    }

    /// The minimum distance in bytes between points of the sparse index. Fewer points take less
    /// memory and less of the segment file. More points make single reads cheaper if frames are
    /// smaller than this distance, which is the case for small entries flushed or synced one at a
    /// time. Default: 4 KiB; at least 1.
    #[must_use]
    pub const fn index_interval_bytes(mut self, bytes: u64) -> Self {
        self.index_interval_bytes = bytes;
        self
    }

    /// Checks that each option is in its range. Opening a stream also checks this.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`], with the option and its range.
    pub fn validate(&self) -> Result<()> {
        self.invalid().map_or(Ok(()), |why| {
            let text = format!("invalid option for the streams of a log: {why}");
            Err(Error::of_log(ErrorKind::InvalidOption, None, text, None))
        })
    }

    pub(crate) fn validate_for(&self, location: &Location) -> Result<()> {
        self.invalid().map_or(Ok(()), |why| Err(Error::text(ErrorKind::InvalidOption, location, why)))
    }

    /// The longest frame that is read into memory, in bytes. A hostile file may claim any length.
    pub(crate) fn frame_len_max(&self) -> u64 {
        if fail_point!(LengthBelieved) { u64::MAX } else { self.read_bytes_max.saturating_add(64) }
    }

    fn invalid(&self) -> Option<&'static str> {
        if self.segment_bytes < 64 << 10 {
            Some("a segment must be at least 64 KiB")
        } else if !(1..=u64::from(stratawal_frame::PAYLOAD_LEN_MAX)).contains(&self.batch_bytes_max) {
            Some("the limit for batches must be 1 byte to 2 GiB - 1")
        } else if !(1..=1 << 20).contains(&self.frame_bytes) {
            Some("a frame must be 1 byte to 1 MiB")
        } else if self.buffer_bytes == 0 {
            Some("the buffer must be at least 1 byte")
        } else if self.index_interval_bytes == 0 {
            Some("index points must be at least 1 byte apart")
        } else {
            None
        }
    }
}
