//! The key of a cached value.

/// The key of a cached value. It names a segment by its stream and its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey {
    /// The id of the stream.
    pub stream_id: u64,
    /// The generation of the segment.
    pub generation: u32,
}
