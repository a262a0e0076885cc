//! Reads frames whose position is known, from blocks that are read or mapped.
//!
//! Below a published end every frame exists and is valid, so anything else found here is damage.

mod cursor;
mod data;
mod entry;
mod header_crc;

pub use cursor::{CursorStep, FrameCursor, FrameEntry, FrameRef, OwnedFrame};
pub use data::{BLOCK_LEN_MAX, MapPromise, SegmentData};
pub use entry::{FoundEntry, FrameLayout, SpanState};
