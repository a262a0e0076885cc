//! Writing to one stream: append, group commit, rotation, truncation, close.

pub(crate) mod append;
pub(crate) mod buffer_pool;
pub(crate) mod clock;
pub(crate) mod commit;
pub(crate) mod dir_sync;
pub(crate) mod reserve;
pub(crate) mod tail;
pub(crate) mod truncate;
pub(crate) mod writer;
