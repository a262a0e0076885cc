//! Reading frames whose place is known, from blocks that were read or from a mapping.
//!
//! Everything below a published end is there and valid, so here anything else is damage.

mod cursor;
mod data;
mod entry;
mod header_crc;

pub use cursor::{CursorStep, FrameCursor, FrameRef, OwnedFrame};
pub use data::{BLOCK_LEN_MAX, MapPromise, SegmentData};
pub use entry::{FoundEntry, FrameLayout, SpanState};
