//! How a stream is kept and read.

use stratawal_segment::MapPromise;
use stratawal_sync::fail_point;

/// What an acknowledgement of an append means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// It is in this process; it survives nothing.
    Buffered,
    /// It was handed to the operating system: it survives the death of the process.
    Flushed,
    /// It is on stable storage: it survives power loss.
    #[default]
    Synced,
}

/// Which entries a reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Those that are settled: durable ones on a stream whose own durability is `Synced`, flushed
    /// ones otherwise.
    #[default]
    Stable,
    /// Also those that this process has accepted and not yet handed over.
    Accepted,
}

/// How a stream is kept. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// What an append is acknowledged for, and what *settled* means. Default: `Synced`.
    pub durability: Durability,
    /// A segment is followed by another when it would grow past this. Default: 64 MiB; at least 64
    /// KiB.
    pub segment_len: u64,
    /// Appends that wait together become one frame of up to about this. Default: 6 KiB.
    pub frame_len: usize,
    /// The largest batch, its bytes and 4 for each entry. Default: 1 GiB; at most 2 GiB - 1.
    pub batch_len_max: u64,
    /// The largest frame that is read into memory. Default: 2 GiB - 1, whatever was appended can be
    /// read.
    pub read_len_max: u64,
    /// Buffered appends are handed over when this much waits. Default: 256 KiB.
    pub buffer_len: usize,
    /// Past this, unsynced bytes in finished segments are synced by the append that crosses it.
    /// Default: 1 GiB.
    pub unsettled_len_max: u64,
    /// The same as a number of segments. Default: 16.
    pub unsettled_segments_max: usize,
    /// Index points lie at least this far apart. Default: 4 KiB.
    pub index_every: u64,
    /// Sealed segments are read through mappings, on the caller's promise. Default: `None`, by
    /// positioned reads.
    pub map: Option<MapPromise>,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            segment_len: 64 << 20,
            frame_len: 6 << 10,
            batch_len_max: 1 << 30,
            read_len_max: u64::from(stratawal_frame::PAYLOAD_LEN_MAX),
            buffer_len: 256 << 10,
            unsettled_len_max: 1 << 30,
            unsettled_segments_max: 16,
            index_every: 4 << 10,
            map: None,
        }
    }
}

impl StreamOptions {
    /// Why these options cannot be kept, if they cannot.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        if self.segment_len < 64 << 10 {
            Some("a segment must be at least 64 KiB")
        } else if !(1..=u64::from(stratawal_frame::PAYLOAD_LEN_MAX)).contains(&self.batch_len_max) {
            Some("the bound on batches must be 1 byte to 2 GiB - 1")
        } else if !(1..=1 << 20).contains(&self.frame_len) {
            Some("a frame must be 1 byte to 1 MiB")
        } else if self.buffer_len == 0 {
            Some("the buffer must be at least 1 byte")
        } else if self.index_every == 0 {
            Some("index points must be at least 1 byte apart")
        } else {
            None
        }
    }
}

impl StreamOptions {
    /// The longest frame that is read into memory, in bytes. A hostile file may state any length.
    pub(crate) fn frame_len_max(&self) -> u64 {
        if fail_point!(LengthBelieved) { u64::MAX } else { self.read_len_max.saturating_add(64) }
    }
}
