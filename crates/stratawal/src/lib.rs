//! A write-ahead log of many named streams in one directory, embedded in the program.
//!
//! It is for ledgers, event stores, brokers, Raft logs, and the state of games and agents. It is
//! not a database: entries are found only by number or by time. It is not a server: one process
//! writes, and any number of processes read.
//!
//! ```
//! use stratawal::{Batch, Wal};
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("log");
//! let wal = Wal::open(&path)?;
//! let orders = wal.stream("orders")?;
//!
//! // Acknowledged only when it is on stable storage.
//! let seq = orders.append("one apple")?;
//! assert_eq!(seq, 0);
//!
//! // After any crash a batch exists as a whole, or not at all.
//! let batch: Batch = ["two pears", "three plums"].into_iter().collect();
//! assert_eq!(orders.append_batch(&batch)?, 1..3);
//!
//! let entry = orders.get(1)?.expect("it was acknowledged");
//! assert_eq!(&entry.data()[..], b"two pears");
//! for entry in orders.iter(..).rev() {
//!     println!("{}: {:?}", entry.as_ref().unwrap().seq(), entry.as_ref().unwrap().data());
//! }
//! wal.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # First things to know
//!
//! - [`Stream::append`] blocks the calling thread until the entry is durable, which takes as long
//!   as a sync of the disk. Threads that append at the same time share a sync. A lock of your own
//!   that is held during an append prevents that: see [Appends from many
//!   threads](Stream#appends-from-many-threads) for what to do instead.
//! - [`Stream::submit`] does not block. It returns a [`Ticket`], which can be awaited in an async
//!   function, without a particular runtime.
//! - Every clone of a [`Wal`] and every [`Stream`] keeps the log locked, so that no other process
//!   can open it for writing. [`Wal::close`] releases the lock at once and reports errors. Dropping
//!   the last handle also releases it, but reports no errors.
//! - [`Durability`] is the choice between speed and safety. The default is the safest.
//!
//! # Promises
//!
//! Acknowledged entries survive every crash that their [`Durability`] covers, byte for byte and
//! without gaps. Damage to entries acknowledged as durable is an error that reports where the
//! damage is and, where known, which entries are lost ([`ErrorKind::Damaged`]), and nothing is
//! changed. Recovery cuts off only entries that were never acknowledged, and [`Stream::report`]
//! lists them. After a failed write or sync, nothing is acknowledged until [`Stream::reopen`] has
//! recovered the stream.
//!
//! The limits: if a stream was not closed cleanly, damage to the whole end of its newest segment,
//! including everything that attested it, cannot be distinguished from a torn tail. After a power
//! loss, or a kill in the middle of a write, the same is true of damage within the groups of the
//! last two syncs. If the newest file of a cleanly closed stream is cut to exactly 8 bytes past a
//! multiple of 4 KiB, it looks like a file that was being written. RELIABILITY.md lists all limits.
//!
//! # Threads and processes
//!
//! [`Wal`] and [`Stream`] are cheap handles, and all their methods may be called from many threads
//! at once. Readers never take the writer's lock. One process writes: a second [`Wal::open`] fails
//! with [`ErrorKind::Locked`]. Any number of processes may [`Options::open_read_only`].
//!
//! By default a log has a commit journal ([`Options::journal`]): one sync makes the entries of all
//! streams durable, and they reach the files of their streams later. Such a log has one thread of
//! its own, and the first [`Stream::submit`] starts two, unless [`Options::maintenance_thread`] is
//! off. No other thread outlives the call that starts it.
//!
//! A process that forks keeps its log. In the child, every call on one of the parent's handles
//! fails with [`ErrorKind::Forked`], and dropping a handle writes, closes and unlocks nothing. The
//! parent continues as before.
//!
//! A log is the directory that was opened, not its path. Once it is open, the process may change
//! its working directory, and the directory may be renamed. If the directory is removed, calls that
//! need a name in it fail, and so do [`Wal::sync`] and [`Wal::close`]. Entries appended to a file
//! that is still open are then lost with the file, whatever their durability.
//!
//! # Features
//!
//! `futures` (off by default): [`Follow`] and [`FollowPrefix`] become a `futures_core::Stream` by
//! `into_stream`.
//!
//! `tracing` (off by default): each opening of a stream, recovery included, is an event with the
//! target `stratawal` and the fields of [`OpenReport`]. If it takes entries from the commit
//! journal, that is another event. Each opening of the journal is one with the fields of
//! [`JournalReport`]. Damage, and a failure of the journal, are events of level `ERROR`. A restart
//! of the journal is one of level `INFO`, and a release of its space one of level `DEBUG`. A
//! subscriber must not write to the log that it observes.
#![deny(unsafe_code)]

mod error;
mod follow;
mod follow_prefix;
#[cfg(feature = "futures")]
mod follow_stream;
mod for_each;
pub mod inspect;
mod journal;
mod maintenance;
mod name;
mod options;
pub mod repair;
mod root;
mod slots;
mod stream;
mod ticket_threads;
mod wal;

pub use bytes::Bytes;
pub use error::{DamageKind, Error, ErrorKind, Result};
pub use follow::Follow;
pub use follow_prefix::{FollowPrefix, PrefixEvent};
#[cfg(feature = "futures")]
pub use follow_stream::FollowStream;
pub use options::Options;
pub use stratawal_stream::{
    Batch, CacheStats, DiskUsage, Durability, Entry, FollowEvent, FollowStopper, Iter, JournalReport, JournalStats,
    OpenReport, Run, RunEntry, StreamOptions, StreamStats, SyncTimes, Ticket, TornTail, Visibility,
};
pub use stream::Stream;
pub use wal::{Stats, Wal};

#[cfg(doc)]
pub mod docs;

/// The program in the README is a doctest.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
