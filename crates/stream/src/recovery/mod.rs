//! Recovery of a stream: which bytes of the files in its directory count, and making the files
//! state that.
//!
//! Words: *void* segments are dropped in step 2, *garbage* in step 3, and the others are *live*.
//! *Kept* are the live segments with a base below that of the new generation. A segment's *limit*
//! is the base of the next one; entries from there on are void. The *chain* of a segment is the run
//! of valid frames from its first frame on.
//!
//! The nine steps:
//!
//! 1. List the directory, and read the headers. A stream without segments is damaged.
//!    (`list.rs`: `list`, `read_headers`)
//! 2. Drop every segment whose base is at or above that of a newer one, and compute limits.
//!    (`void.rs`: `drop_void`)
//! 3. Drop segments wholly below the first live seq, which the newest segment states. Among the
//!    others nothing may be missing, and each was written after the one before, see `history.rs`.
//!    (`links.rs`: `drop_garbage`, `check_history`)
//! 4. If the newest segment ends in a valid CLOSE and trailer, the stream ends there, and nothing
//!    is scanned. (`analyse.rs`: `decide`; `repair.rs`: `resume_closed`)
//! 5. Otherwise scan: how far the chain of frames goes, and how far anything valid attests that it
//!    went. (`scan.rs`: `SegmentScan::new`; `chain_end.rs`: `scan_back`, `find_chain_end`)
//! 6. Write again, in place, every frame that may not be durable, and sync. (`rewrite.rs`:
//!    `rewrite`)
//! 7. Sync the directories, and begin a new generation at the end of the chain. This is the commit
//!    point. (`generation.rs`: `begin_generation`)
//! 8. Write the SEALs that are missing. (`seal.rs`: `seal_kept`)
//! 9. Remove void and garbage segments. (`open.rs` and `reopen.rs` call `Removals::remove_found`)
//!
//! Steps 1 to 5 ([`analyse`](mod@analyse)) read and decide, and change nothing. A reader does no
//! others; [`read`](mod@read) shows the chain that they found. Steps 6 to 9
//! ([`repair`](mod@repair)) are the writer's. An interrupted recovery runs again from step 1: only
//! step 7 changes the meaning of the files, by one rename.
//!
//! Step 9 comes once the stream serves its readers and writers again, since a file that stays
//! changes nothing. So a file that cannot be removed does not keep a stream from being opened.
//!
//! A stream may have more segments than a process may have files, and any number of them may have
//! to be scanned. So at most 16 files are open at a time, the newest ones. A scan keeps its
//! findings, and the file is opened again where it is needed.
//!
//! A damaged stream is refused, and its files stay as they are. [`salvage`](mod@salvage) reads the
//! intact entries around the damage. [`floor`] does steps 1 to 5 where only the entries at or above
//! a given seq have to be sound, so that a truncation drops the damage below. [`lost_range`]
//! computes which entries an error reports as lost.
//!
//! A reader that looks again continues its last look, see [`refresh`](mod@refresh).
//!
//! Some damage looks like the traces of a crash, and is taken for them:
//!
//! - in a newest segment that was not closed, damage that takes a frame and also every frame and
//!   MARK that attested it: in practice the whole end of the segment;
//! - a damaged START: the entries that it dropped may come back, as far as they are still on the
//!   disk;
//! - after a power loss, or a kill in mid-write, damage inside the groups of the last two syncs:
//!   the half-written frame has taken the place of the MARK after the frame before;
//! - a closed newest file that was shortened to exactly 4096 * k + 8 bytes, the length of a file
//!   that is being written;
//! - a stream's directory that is missing as a whole: nothing else lists the streams.

mod analyse;
mod analysis;
mod chain_end;
mod closed_index;
mod files;
mod floor;
mod found;
mod generation;
mod install;
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
mod rewrite;
mod salvage;
mod scan;
mod seal;
mod stamp;
mod void;

pub(crate) use files::StreamFiles;
pub(crate) use read::read;
pub(crate) use reader_state::ReaderState;
pub(crate) use recovered::Recovered;
pub use salvage::{Lost, Salvage, Salvaged, salvage};
