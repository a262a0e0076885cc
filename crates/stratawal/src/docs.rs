//! Long texts about this crate. The modules hold documentation and no code.

#[doc = include_str!("../PERFORMANCE.md")]
pub mod performance {}

#[doc = include_str!("../RELIABILITY.md")]
pub mod reliability {}
