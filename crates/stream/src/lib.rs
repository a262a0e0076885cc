//! One stream of a write-ahead log: append, group commit, rotation, recovery, reading.
//!
//! Use this crate to keep a single stream in a directory of its own, or to build another facade on
//! it. Most programs want the crate `stratawal` instead: it adds many named streams, retention,
//! cursors, and the lock against a second writer. Nothing in this crate prevents a second writer.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use stratawal_storage::MemoryStorage;
//! use stratawal_stream::{Batch, Durability, LogContext, Location, StreamLog, StreamOptions};
//!
//! let context = Arc::new(LogContext::new(Arc::new(MemoryStorage::new())));
//! context.storage().create_dir(Path::new("/streams"))?;
//! let location = Location::new("/streams", "orders");
//!
//! let log = StreamLog::open(context, location, StreamOptions::new())?;
//! let mut batch = Batch::new();
//! batch.push("first");
//! batch.push("second");
//! assert_eq!(log.append_batch(&batch, Durability::Synced)?, 0..2);
//! assert_eq!(&log.get(1, Default::default())?.unwrap().data()[..], b"second");
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`StreamLog`] is a handle to the state that all handles of a stream share (`inner.rs`). The work
//! is split between four directories; the top of each one's `mod.rs` draws the path of a call.
//!
//! - `write/` appends. Under the stream's lock an append reserves space in the active segment and
//!   copies its entries to the tail buffer. Then one of the threads that need durability leads a
//!   group commit: it writes and syncs everything that is pending, and the other threads wait for
//!   it. A batch over 1 MiB is not copied; its thread takes the lead and writes it under the lock.
//!   This directory also begins and seals segments, truncates, and closes.
//! - `read/` reads. Readers load the watermarks and then the newest snapshot of the segments, and
//!   take no lock. The writer publishes both (`shared.rs`, `watermarks.rs`). If it moves the end of
//!   the stream back, it records that for the readers (`truncation_log.rs`).
//! - `follow/` returns entries as they become visible. Before a follower sleeps it registers under
//!   the stream's lock, and each thread that changes the stream wakes the followers that wait for
//!   it.
//! - `recovery/` opens. It decides which bytes of the files are valid, repairs the files, and
//!   installs the result as the state of the stream. It also refreshes the view of a reader that
//!   runs alongside a writer, and salvages intact entries around damage.
//!
//! `tickets/` has the appends that do not wait. A round of it makes the entries of all streams
//! durable that were submitted before it.
//!
//! `layout.rs` has all names on disk, `removal.rs` removes the files of dropped segments,
//! `deletion.rs` deletes streams, and `verify.rs` reads a stream to check it.
//!
//! Deliberately absent: how a stream's name becomes a directory name, other streams, locks against
//! other processes, and threads of a log that is written.
#![forbid(unsafe_code)]

mod active_files;
mod batch;
mod batches;
mod context;
mod deletion;
mod details;
mod error;
mod events;
mod evicting_storage;
mod fail_points;
mod follow;
mod fs;
mod history;
mod inner;
mod journal_reader;
mod journal_user;
mod layout;
mod location;
mod log;
mod log_journal;
mod notify;
mod options;
mod read;
mod recovery;
mod removal;
mod report;
mod shared;
mod stats;
mod tickets;
mod truncation_log;
mod unsynced_files;
mod verify;
mod watermarks;
mod write;

#[cfg(stratawal_faults)]
#[doc(hidden)]
pub use fail_points::FailPoint;

pub use batch::{Batch, Entry, Run, RunEntry};
pub use context::{CacheStats, LogContext, POLL_INTERVAL};
pub use deletion::{DeleteError, Found, delete, finish_deletion, remove_leftover_dir, stream_id};
pub use details::{FrameDetails, FrameKind, SegmentDetails, SegmentEnd, SegmentFooter, frame_details, segment_details};
pub use error::{DamageKind, Error, ErrorKind, Result};
pub use follow::{Follow, FollowEvent, FollowGroup, FollowStopper};
pub use journal_reader::JournalReader;
pub use layout::is_leftover_dir;
pub use location::Location;
pub use log::{StreamLog, StreamMoment};
pub use log_journal::{LogJournal, SettleCarried};
pub use notify::{Notifier, NotifyReader};
pub use options::{Durability, StreamOptions, Visibility};
pub use read::iter::Iter;
pub use recovery::{Lost, Salvage, Salvaged, cut_damaged, drop_replaced, salvage};
pub use report::{CheckState, JournalReport, OpenReport, StreamCheck, TornTail};
pub use stats::{DiskUsage, JournalStats, StreamStats, SyncTimes};
pub use stratawal_segment::{MapPromise, SegmentId};
pub use tickets::{LogTickets, Ticket};
pub use verify::{VerifyWork, verify, verify_shared};
pub use write::reserve::RESERVE_LEN;

#[cfg(test)]
mod scenarios;
