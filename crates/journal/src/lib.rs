//! The commit journal of stratawal: a log of records that go to many streams, made durable by one
//! sync for all of them.
//!
//! Use this crate to build a log of many streams, or to make several files durable by one sync.
//! Most programs want the crate `stratawal`: this one knows neither segments nor the directories of
//! streams, and does not exclude a second writer.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//! use stratawal_frame::{SeqNo, StreamId, WalId};
//! use stratawal_journal::{Image, Journal, JournalOptions, Needed, Part, Record};
//! use stratawal_storage::{MemoryStorage, Storage};
//!
//! let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
//! let dir = Path::new("/journal");
//! let log = WalId(7);
//! let options = JournalOptions::default();
//!
//! let journal = Journal::create(&storage, dir, log, options)?;
//! let orders = Part {
//!     stream: StreamId(1),
//!     name: Some("orders".into()),
//!     first: SeqNo(0),
//!     count: 1,
//!     timestamp: 0,
//!     firm: true,
//!     body: "one apple".into(),
//! };
//! let position = journal.append(&Record::Data(vec![orders]))?;
//! journal.sync_to(position)?;
//! drop(journal);
//!
//! // After a crash: read the journal, and find the records that the streams still need.
//! let image = Image::read(&*storage, dir, log)?;
//! assert!(image.damage().is_none());
//! let (journal, needed) = Journal::open(&storage, dir, log, options, image, |_| true)?;
//! let orders = &needed.streams[&StreamId(1)];
//! let tail = orders.tail_after(SeqNo(0)).expect("no promised entry is missing");
//! assert_eq!(tail.parts[0].1.part.body, "one apple");
//! # drop(journal);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A record is *put* at the end of the journal. From then on it survives the death of the process.
//! It is durable once [`Journal::sync_to`] has returned for its position; calls from many threads
//! share a sync. When records below an LSN are no longer needed, [`Journal::release`] gives their
//! space back. `FORMAT.md` defines the bytes.
//!
//! Deliberately absent: segments, directory names of streams, threads, and any retry of a failed
//! sync.
#![forbid(unsafe_code)]

mod commit;
mod error;
mod events;
#[cfg(stratawal_faults)]
#[doc(hidden)]
pub mod fail_points;
#[cfg(not(stratawal_faults))]
mod fail_points;
mod files;
mod follow;
mod header;
mod in_place;
mod index;
mod journal;
mod layout;
mod lsn;
mod needed;
mod open;
#[doc(hidden)]
pub mod properties;
mod record;
mod removal;
mod replay;
#[cfg(test)]
mod scenarios;
mod search;

pub use error::{Error, ErrorKind, Result};
pub use follow::{Follower, SYNC_INTERVAL};
pub use header::{FileHeader, FileHeaderError, HEADER_BLOCK_LEN, JOURNAL_VERSION};
pub use index::{Index, IndexedStream, PartPosition};
pub use journal::{Journal, JournalOptions, Position};
pub use lsn::Lsn;
pub use needed::{Dropped, Gap, LocatedPart, Needed, NeededStream, Tail};
pub use record::{ALIGN, Located, Part, PartRef, Record};
pub use replay::Image;
