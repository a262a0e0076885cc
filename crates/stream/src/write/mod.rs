//! Writing to one stream: append, group commit, rotation, truncation, close.

pub(crate) mod active;
mod admission;
mod append;
pub(crate) mod buffer_pool;
pub(crate) mod clock;
mod close;
pub(crate) mod commit;
pub(crate) mod create;
pub(crate) mod dir_sync;
pub(crate) mod encode;
pub(crate) mod failed_epochs;
mod flush;
pub(crate) mod pending;
pub(crate) mod reserve;
mod rotate;
mod sync;
pub(crate) mod tail;
mod truncate;
pub(crate) mod waiter;
pub(crate) mod writer;
