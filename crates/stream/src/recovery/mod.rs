//! Recovery of a stream. Decides which bytes of the files in its directory are valid, and repairs
//! the files accordingly.
//!
//! Words: *void* segments are dropped in step 2, *garbage* in step 3; the others are *live*. The
//! live segments with a base below that of the new generation are *kept*. A segment's *limit* is
//! the base of the next one; entries at or above it are void. The *chain* of a segment is the run
//! of valid frames that starts with its first frame.
//!
//! The nine steps:
//!
//! 1. List the directory and read the headers. A stream without segments is damaged. (`list.rs`:
//!    `list`, `read_headers`)
//! 2. Drop every segment whose base is at or above that of a newer one, and compute limits.
//!    (`void.rs`: `drop_void`)
//! 3. Drop segments that are entirely below the first live seq, which the newest segment records.
//!    None of the others may be missing, and each must continue the one before it
//!    (see `history.rs`). (`links.rs`: `drop_garbage`, `check_history`)
//! 4. If the newest segment ends in a valid CLOSE and trailer, the stream ends there; nothing is
//!    scanned. (`analyse.rs`: `decide`; `repair.rs`: `resume_closed`)
//! 5. Otherwise scan to find how far the chain of frames extends, and how far anything valid
//!    attests that it once extended. (`scan.rs`: `SegmentScan::new`; `chain_end.rs`: `scan_back`,
//!    `find_chain_end`)
//! 6. Rewrite in place every frame that may not be durable, and sync. (`rewrite.rs`: `rewrite`)
//! 7. Sync the directories and begin a new generation at the end of the chain. This is the commit
//!    point. (`generation.rs`: `begin_generation`)
//! 8. Write the missing SEALs. (`seal.rs`: `seal_kept`)
//! 9. Remove void and garbage segments. (`open.rs` and `reopen.rs` call `Removals::remove_found`)
//!
//! Steps 1 to 5 ([`analyse`](mod@analyse)) read and decide, but change nothing. A reader takes only
//! these steps; [`read`](mod@read) shows the chain that they found. Only a writer takes steps 6 to
//! 9 ([`repair`](mod@repair)). An interrupted recovery starts over from step 1: only step 7 changes
//! the meaning of the files, by one rename.
//!
//! Step 9 runs after the stream is available again, since a leftover file has no effect. So a file
//! that cannot be removed does not prevent a stream from being opened.
//!
//! A stream may have more segments than a process may have open files, and any number of them may
//! have to be scanned. So at most 16 files, the newest ones, are open at a time. A scan keeps its
//! findings, and a file is reopened if it is needed.
//!
//! A damaged stream is refused, and its files are left unchanged. [`salvage`](mod@salvage) reads
//! the intact entries around the damage. [`floor`] is a variant of steps 1 to 5 in which only the
//! entries at or above a given seq have to be sound, so that a truncation can drop the damage
//! below. [`cut`](mod@cut) ends a stream before its damage. [`lost_range`] computes which entries
//! an error reports as lost.
//!
//! A refreshed reader continues from its last look, see [`refresh`](mod@refresh).
//!
//! Some damage looks like the traces of a crash and cannot be distinguished from them:
//!
//! - in a newest segment that was not closed, damage to a frame and to every frame and MARK that
//!   attested it: in practice, to the whole end of the segment;
//! - a damaged START: the entries that it dropped may reappear if they are still on the disk;
//! - after a power loss or a kill in mid-write, damage inside the groups of the last two syncs: the
//!   half-written frame has overwritten the MARK after the previous frame;
//! - a closed newest file shortened to exactly 4096 * k + 8 bytes, the length of a file that is
//!   being written;
//! - a missing stream directory: nothing else lists the streams.

mod analyse;
mod analysis;
mod chain_end;
mod closed_index;
mod cut;
mod files;
mod floor;
mod found;
mod generation;
mod install;
mod journal_tail;
mod links;
mod list;
mod lost_range;
mod open;
mod read;
mod reader_state;
mod recover;
mod recovered;
mod refresh;
mod reopen;
mod repair;
mod replaced;
mod rewrite;
mod salvage;
mod scan;
mod seal;
mod stamp;
mod void;

pub use cut::cut_damaged;
pub(crate) use files::StreamFiles;
pub(crate) use journal_tail::entries_of;
pub(crate) use list::list_segments as segment_ids;
pub(crate) use read::read;
pub(crate) use reader_state::ReaderState;
pub(crate) use recovered::Recovered;
pub use replaced::drop_replaced;
pub use salvage::{Lost, Salvage, Salvaged, salvage};
