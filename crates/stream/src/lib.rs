//! One stream of a write-ahead log: append, group commit, rotation, recovery, reading.
//!
//! Use this crate to keep a single stream with its own folder, or to build another facade. Most
//! programs want the crate `stratawal`, which adds many named streams, the lock against a second
//! process, and the format file: nothing here keeps a second writer away.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use stratawal_storage::MemoryStorage;
//! use stratawal_stream::{Batch, Durability, LogContext, Location, StreamLog, StreamOptions};
//!
//! let env = Arc::new(LogContext::new(Arc::new(MemoryStorage::new())));
//! env.storage().create_dir(Path::new("/streams"))?;
//! let place = Location::new("/streams", "orders");
//!
//! let log = StreamLog::open(env, place, StreamOptions::default())?;
//! let mut batch = Batch::new();
//! batch.push("first");
//! batch.push("second");
//! assert_eq!(log.append_batch(&batch, Durability::Synced)?, 0..2);
//! assert_eq!(&log.get(1, Default::default())?.unwrap().data()[..], b"second");
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! How the parts share the work: `append` books space and fills the *tail buffer* under the
//! stream's lock; `group` decides who leads a commit and who waits; `writer` is what the leader
//! does to the files; `snapshot` is what readers see, without any lock; `recover` decides what of
//! the files counts. A batch over 1 MiB passes by the tail buffer: its append takes the lead and
//! writes it under the lock.
//!
//! Deliberately absent: names of streams on disk, other streams, processes, threads of its own.
#![forbid(unsafe_code)]

mod batch;
mod context;
mod deletion;
mod error;
mod events;
mod evicting_storage;
mod fail_points;
mod history;
mod inner;
mod layout;
mod location;
mod log;
mod options;
mod read;
mod recovery;
mod removal;
mod report;
mod shared;
mod stats;
mod truncation_log;
mod unsynced_files;
mod verify;
mod watermarks;
mod write;

#[cfg(stratawal_faults)]
#[doc(hidden)]
pub use fail_points::FailPoint;

pub use batch::{Batch, Entry, Run};
pub use context::{CacheStats, LogContext};
pub use deletion::{DeleteError, delete, remove_leftover_dir};
pub use error::{DamageKind, Error, ErrorKind, Result};
pub use layout::is_leftover_dir;
pub use location::Location;
pub use log::StreamLog;
pub use options::{Durability, StreamOptions, Visibility};
pub use read::iter::Iter;
pub use recovery::{Lost, Salvage, Salvaged, salvage};
pub use report::{OpenReport, TornTail};
pub use stats::StreamStats;
pub use stratawal_segment::MapPromise;
pub use write::reserve::RESERVE_LEN;
#[cfg(test)]
mod scenarios;

pub use verify::{CheckState, Finding, StreamCheck, verify};
