//! Reads one stream. Takes a lock only for entries that are still in the tail buffer.
//!
//! The path of a get:
//!
//! ```text
//! StreamLog::get                      ../log.rs
//! └─ get                              get.rs             is `seq` below the visible end?
//!    └─ read_consistently             consistency.rs     again, if the epoch has changed or a
//!       │                                                segment was removed during the read
//!       └─ read_entry                 get.rs
//!          ├─ find_source             locate.rs
//!          │  ├─ tail_entry           ../write/tail.rs   not yet in the file: a copy, under the lock
//!          │  └─ Snapshot::find       snapshot.rs        binary search for the segment
//!          │     └─ open              segment_reader.rs  live: its index is in memory
//!          │        └─ load           sealed.rs          sealed: from the cache, or loaded into it
//!          ├─ SegmentReader::entry    segment_reader.rs  binary search in the index, then one short
//!          │                                             read, or none in a mapping
//!          └─ locate_in               locate.rs          anything else: block by block
//!             └─ lost_at, …           damage.rs          which entries damage takes, and where
//!                                                        intact frames follow
//! ```
//!
//! The path of an iterator:
//!
//! ```text
//! StreamLog::iter                     ../log.rs          fixes the range
//! Iter::next                          iter/mod.rs
//! ├─ next_in_block                    iter/in_block.rs   the usual case: no read, no lock
//! └─ read_consistently                iter/mod.rs        as in consistency.rs, and ends where the
//!    └─ read_front                    iter/forward.rs    stream was truncated since
//!       ├─ enter                                         find and open the segment, as a get does
//!       └─ advance                                       the next frame, or the next block:
//!                                                        16 KiB at first, 256 KiB later
//! Iter::next_back                     iter/mod.rs
//! └─ read_back                        iter/backward.rs   reads a span forwards, returns it backwards
//! ```
//!
//! [`seek_time`] finds the seq for a time, in the same way as a get.

mod consistency;
mod damage;
mod get;
pub(crate) mod iter;
pub(crate) mod journal_entries;
mod locate;
pub(crate) mod sealed;
mod seek_time;
pub(crate) mod segment_reader;
pub(crate) mod snapshot;
pub(crate) mod tail_run;
