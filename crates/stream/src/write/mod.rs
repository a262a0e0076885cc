//! Writes to one stream. The path of an append:
//!
//! ```text
//! append        append.rs    reserve its bytes in the active segment      (under the lock)
//!   |                        accept it: its seqs and time are fixed
//!   |-- tail.rs, pending.rs  the bytes wait in the tail
//!   |
//!   |-- rotate.rs            if the segment is full: create its successor, SEAL
//!   |     create.rs          and the stream's directory, for the first segment
//!   v
//! wait          commit.rs    one thread takes the lead, the others wait   (waiter.rs)
//!   |
//!   v
//! lead          writer.rs    the work of a leader                         (outside the lock)
//!   |-- flush.rs             encode what is pending, write it in one call -> flushed
//!   |     encode.rs
//!   |-- sync.rs              sync the files, oldest first, then MARK      -> durable
//!   v
//! acknowledged  commit.rs    the leader wakes the threads that it satisfied, and the next leader
//! ```
//!
//! submit.rs accepts entries without waiting, and a round of tickets/ waits for them.
//!
//! If the log has a commit journal, journal_path.rs acknowledges most appends, and a new stream has
//! no segment before its entries are drained.
//!
//! Other calls take the lead for their own work: truncate.rs drops entries at either end, close.rs
//! writes CLOSE, delete.rs deletes the stream. admission.rs decides which calls may write; after a
//! full disk it has the stream recovered first.
//!
//! Below these: commit.rs is group commit for any [`CommitLeader`](commit::CommitLeader), and knows
//! neither the tail nor the writer. reserve.rs keeps space back for when the disk is full,
//! dir_sync.rs shares syncs of the directory that holds the streams, buffer_pool.rs lends memory,
//! and clock.rs provides timestamps.

pub(crate) mod active;
mod admission;
mod append;
pub(crate) mod buffer_pool;
pub(crate) mod clock;
mod close;
pub(crate) mod commit;
pub(crate) mod create;
mod delete;
pub(crate) mod dir_sync;
pub(crate) mod encode;
pub(crate) mod failed_epochs;
mod flush;
pub(crate) mod journal_path;
mod journal_start;
pub(crate) mod journaled;
pub(crate) mod pending;
pub(crate) mod reserve;
mod rotate;
pub(crate) mod submit;
mod sync;
pub(crate) mod tail;
mod truncate;
pub(crate) mod waiter;
pub(crate) mod writer;
