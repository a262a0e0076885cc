//! A write-ahead log of many named streams in one folder, embedded in the program.
//!
//! For ledgers, event stores, brokers, Raft logs, game and agent state. It is no database (nothing
//! is looked up but by number and time) and no server (one process writes, any number read).
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
//! // A batch is there as a whole after any crash, or not at all.
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
//! # What is promised
//!
//! What an append was acknowledged for ([`Durability`]) is there after the crash that it names,
//! byte for byte, without gaps. Damage to entries acknowledged as durable is an error that says
//! where and what is lost ([`ErrorKind::Damaged`]), and changes nothing; only what was never
//! acknowledged is cut, and [`Stream::report`] says so. After a failed write or sync nothing is
//! acknowledged until [`Stream::reopen`] has recovered the stream.
//!
//! The limit: where a stream was not closed cleanly, damage that takes the whole end of its newest
//! segment, with everything that attested it, cannot be told from a torn tail.
//!
//! # Threads and processes
//!
//! [`Wal`] and [`Stream`] are cheap handles, and all their methods may be called from many threads at once; appends
//! from many threads share writes and syncs. Readers take no lock of the writer's. One process
//! writes: a second
//! [`Wal::open`] fails with [`ErrorKind::Locked`]; any number may [`Options::open_read_only`].
//!
//! A process that forks keeps its log: in the child every call on a handle of the parent's fails
//! with
//! [`ErrorKind::Forked`], and dropping it there writes, closes and unlocks nothing. The parent goes on as before.
//!
//! A log is the directory that was opened, not its path. Once it is open the process may change its
//! working directory, and the directory may be renamed. If it is removed, the calls that need a
//! name in it fail, and so do [`Wal::sync`] and
//! [`Wal::close`]. Entries that are appended to a file which is still open are lost with it, whatever their durability.
//!
//! # Features
//!
//! `tracing` (off by default): each opening of a stream, recovery among it, is an event with the
//! target `stratawal` and the fields of [`OpenReport`]; damage is an event of level `ERROR`.
#![deny(unsafe_code)]

mod error;
mod for_each;
pub mod inspect;
mod name;
mod options;
mod root;
mod slots;
mod stream;
mod wal;

pub use bytes::Bytes;
pub use error::{DamageKind, Error, ErrorKind, Result};
pub use options::Options;
pub use stratawal_stream::{
    Batch, CacheStats, Durability, Entry, Iter, OpenReport, Run, RunEntry, StreamOptions, StreamStats, TornTail,
    Visibility,
};
pub use stream::Stream;
pub use wal::{Stats, Wal};

#[cfg(doc)]
pub mod docs;

/// The program in the README is a doctest.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
