//! The logs that are compared, each used as its authors intend.

pub(crate) mod commitlog;
pub(crate) mod fjall;
pub(crate) mod ironwal;
pub(crate) mod okaywal;
pub(crate) mod open_wal;
pub(crate) mod raft_engine;
pub(crate) mod raft_log;
pub(crate) mod stratawal;
pub(crate) mod wal_db;
pub(crate) mod walrus;

/// Returns the name of a stream.
fn stream_name(stream: u64) -> String {
    format!("s{stream}")
}
