//! Guides to this crate. These modules contain only documentation.

#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}

#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[doc = include_str!("../docs/glossary.md")]
pub mod glossary {}

#[doc = include_str!("../docs/operations.md")]
pub mod operations {}

#[doc = include_str!("../PERFORMANCE.md")]
pub mod performance {}

#[doc = include_str!("../RELIABILITY.md")]
pub mod reliability {}
