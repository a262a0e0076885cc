//! A sparse index from seq and time to file offset, for one segment of a write-ahead log.
//!
//! Do not use this crate to read or write a log; use `stratawal` for that. This crate does not open
//! files and knows nothing of frames; the layer above decides where its bytes are stored.
//!
//! An index holds one [`IndexPoint`] for every few KiB of a segment. A reader looks up the [`Span`]
//! that holds a seq, reads that span with one positioned read, and steps through the frames in it.
//!
//! | type | what it is for |
//! |---|---|
//! | [`Index`] | the points of a sealed segment; immutable; encoded to bytes and decoded |
//! | [`PackedIndex`] | the same points in a third of the memory, for a cache of many segments |
//! | [`IndexBuilder`] | builds an [`Index`] from the frames of a segment, in order |
//! | [`ActiveIndex`] | the index of the active segment: one writer, readers without locks |
//! | [`Cache`] | loaded indexes, bounded in bytes and in entries; a hit takes no lock |
//!
//! `FORMAT.md` in this crate's directory specifies the encoded form.
//!
//! ```
//! use stratawal_index::{Bounds, Index, IndexBuilder};
//!
//! // The frames of a segment in order: first seq, file offset, microseconds since 1970.
//! let mut builder = IndexBuilder::new(4096);
//! builder.push(1000, 128, 1_700_000_000_000_000)?;
//! builder.push(1010, 2304, 1_700_000_000_000_400)?; // too near to the last point
//! builder.push(1040, 4264, 1_700_000_000_001_500)?;
//! let index = builder.finish();
//!
//! // To bytes and back. Decoding refuses points outside the bounds of the segment.
//! let block = index.encode();
//! let index = Index::decode(&block, &Bounds { seq: 1000..1100, offset: 128..8192 })?;
//!
//! // Entry 1017 lies in the span that starts at offset 128 and ends at 4264.
//! let span = index.floor(1017).unwrap();
//! assert_eq!(span.point.offset, 128);
//! assert_eq!(span.next.unwrap().offset, 4264);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod active;
mod builder;
mod cache;
mod codec;
mod error;
mod fail_points;
mod index;
mod order;
mod packed;
mod point;
#[doc(hidden)]
pub mod properties;
mod search;

#[cfg(test)]
mod scenarios;
#[cfg(all(test, not(stratawal_loom)))]
mod stress;

pub use active::ActiveIndex;
pub use builder::{INTERVAL_BYTES_DEFAULT, IndexBuilder};
pub use cache::{Cache, CacheKey, CacheLimits, CacheStats};
pub use codec::{Bounds, encode_points, encode_points_within};
pub use error::{DecodeError, DecodeErrorKind, PointsError, PointsErrorKind};
pub use index::Index;
pub use packed::PackedIndex;
pub use point::{IndexPoint, Span};
