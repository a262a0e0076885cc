//! The raw loops, which show the limits of the machine. Each does only the checksum and the fewest
//! system calls that a guarantee needs, without a log around them.
//!
//! All streams share one file. An entry is its length, its checksum and its bytes; in pieces, each
//! checksum covers 16 KiB.

mod files;
mod group;
mod read;
mod write;

use std::fs::File;

use crate::subject::{Answer, Level, Setup, Subject, failed};

/// The length of an entry's header: its length and its checksum.
const HEADER_LEN: usize = 8;

/// The bytes that a buffered loop writes at once.
const CHUNK_LEN: usize = 256 << 10;

/// The length of a piece, which has one checksum.
const PIECE_LEN: usize = 16 << 10;

/// The length of the file that has blocks before the first append. Appends beyond it grow the file.
const RESERVED_LEN: u64 = 1 << 30;

pub(crate) fn open(setup: &Setup<'_>) -> Answer<Box<dyn Subject>> {
    if setup.name == "raw-files" {
        return Ok(Box::new(files::Files::open(setup)?));
    }
    let path = setup.dir.join("raw");
    let file =
        File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed("open"))?;
    let reads = match setup.name {
        "raw-pread" => read::By::Pread,
        "raw-group" => read::By::Group,
        "raw-blocks" => read::By::Blocks,
        _ => read::By::Map,
    };
    match (setup.name, setup.level) {
        ("raw-16k", _) => Ok(Box::new(write::Pieces::new(file))),
        ("raw-ring", _) => Ok(Box::new(write::Ring::new(&file)?)),
        ("raw-chunked", _) | (_, Level::Buffered) => Ok(Box::new(write::Single::new(file, write::Mode::Chunks, reads))),
        (_, Level::Flushed) => Ok(Box::new(write::Single::new(file, write::Mode::Each, reads))),
        ("raw-growing", Level::Synced) => Ok(Box::new(write::Single::new(file, write::Mode::Sync, reads))),
        (name, Level::Synced) => {
            reserve(&file, RESERVED_LEN)?;
            match (name, setup.threads) {
                ("raw-condvar", _) => Ok(Box::new(group::Condvar::new(file))),
                (_, 1) => Ok(Box::new(write::Single::new(file, write::Mode::Sync, reads))),
                _ => Ok(Box::new(group::HandOver::new(file))),
            }
        }
    }
}

/// Durably allocates blocks for the file.
fn reserve(file: &File, len: u64) -> Answer<()> {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len).map_err(failed("fallocate"))?;
    file.sync_all().map_err(failed("sync"))
}

/// Adds an entry to a buffer.
#[inline]
fn frame(into: &mut Vec<u8>, entry: &[u8]) {
    into.extend_from_slice(&(entry.len() as u32).to_le_bytes());
    into.extend_from_slice(&crc32fast::hash(entry).to_le_bytes());
    into.extend_from_slice(entry);
}
