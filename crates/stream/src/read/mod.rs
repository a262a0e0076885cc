//! Reading one stream: single entries, iterators, and the snapshot of segments that they read from.

pub(crate) mod get;
pub(crate) mod iter;
pub(crate) mod sealed;
pub(crate) mod segment_reader;
pub(crate) mod snapshot;
