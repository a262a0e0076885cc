//! Reading one stream: single entries, iterators, and the snapshot of segments that they read from.

pub(crate) mod consistency;
mod damage;
mod get;
pub(crate) mod iter;
mod locate;
pub(crate) mod sealed;
mod seek_time;
pub(crate) mod segment_reader;
pub(crate) mod snapshot;
