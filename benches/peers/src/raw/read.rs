//! Reading with a checksum for each entry, from a mapping or a piece that was read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use memmap2::Mmap;

use super::{CHUNK_LEN, HEADER_LEN, PIECE_LEN};
use crate::payload::Tally;
use crate::promise;
use crate::subject::{Answer, Stop, failed};

/// How one entry is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Map,
    Pread,
    /// A scan in blocks.
    Blocks,
    /// Read with the entries that share its checksum, if appends are grouped.
    Group,
}

/// The number of 128-byte entries in a frame of stratawal.
const GROUP: u64 = 46;

/// The largest entry that one `pread` reads here.
const PREAD_LEN: usize = 4096;

fn wrong() -> Stop {
    Stop::Failed("a checksum is wrong".to_owned())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// Returns the entry at the beginning of `bytes`, or `None` at their end.
#[inline]
fn first(bytes: &[u8]) -> Answer<Option<&[u8]>> {
    let (Some(len), Some(crc)) = (word(bytes, 0), word(bytes, 4)) else { return Ok(None) };
    if len == 0 {
        return Ok(None);
    }
    let Some(entry) = bytes.get(HEADER_LEN..HEADER_LEN + len as usize) else { return Ok(None) };
    if crc32fast::hash(entry) == crc { Ok(Some(entry)) } else { Err(wrong()) }
}

/// Reads all entries of a file, from a mapping or block by block.
pub(super) fn scan(by: By, map: &OnceLock<Mmap>, file: &File, tally: &mut Tally) -> Answer<()> {
    if by != By::Blocks {
        return entries(mapped(map, file)?, tally).map(drop);
    }
    let mut block = vec![0; CHUNK_LEN];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut block, at).map_err(failed("read"))?;
        match entries(&block[..read], tally)? {
            0 => return Ok(()),
            // An entry that is cut by the end of a block is read again at the beginning of the
            // next.
            len => at += len as u64,
        }
    }
}

/// Reads the complete entries at the beginning of `bytes`, and returns their total length.
pub(super) fn entries(bytes: &[u8], tally: &mut Tally) -> Answer<usize> {
    let mut rest = bytes;
    while let Some(entry) = first(rest)? {
        tally.see(entry);
        rest = &rest[HEADER_LEN + entry.len()..];
    }
    Ok(bytes.len() - rest.len())
}

/// Reads complete pieces. A piece has one checksum, and an entry has only its length.
pub(super) fn scan_pieces(map: &OnceLock<Mmap>, file: &File, tally: &mut Tally) -> Answer<()> {
    let mut rest = &mapped(map, file)?[..];
    while let Some(mut piece) = first(rest)? {
        debug_assert!(piece.len() <= PIECE_LEN);
        rest = &rest[HEADER_LEN + piece.len()..];
        while let Some(len) = word(piece, 0) {
            tally.see(piece.get(4..4 + len as usize).ok_or_else(wrong)?);
            piece = &piece[4 + len as usize..];
        }
    }
    Ok(())
}

/// Returns the entry at `at`, which takes `len` bytes with its header.
pub(super) fn get(by: By, map: &OnceLock<Mmap>, file: &File, at: u64, len: usize, tally: &mut Tally) -> Answer<()> {
    let entry = match by {
        By::Map | By::Blocks => {
            first(mapped(map, file)?.get(at as usize..).ok_or_else(wrong)?)?.map(|entry| tally.see(entry))
        }
        By::Group => {
            let len = len as u64;
            let n = at / len as u64;
            let mut block = [0; 2 * PREAD_LEN];
            let block = block.get_mut(..(GROUP * len) as usize).ok_or_else(wrong)?;
            // The last group may be incomplete.
            let read = file.read_at(block, (n - n % GROUP) * len).map_err(failed("read"))?;
            std::hint::black_box(crc32fast::hash(&block[..read]));
            first(block.get((n % GROUP * len) as usize..read).ok_or_else(wrong)?)?.map(|entry| tally.see(entry))
        }
        By::Pread => {
            let mut block = [0; PREAD_LEN];
            let block = &mut block[..len.min(PREAD_LEN)];
            file.read_exact_at(block, at).map_err(failed("read"))?;
            first(block)?.map(|entry| tally.see(entry))
        }
    };
    entry.ok_or_else(|| Stop::Failed(format!("no entry at {at}")))
}

/// The file, mapped at the first read, when its writers are done.
fn mapped<'a>(map: &'a OnceLock<Mmap>, file: &File) -> Answer<&'a Mmap> {
    if let Some(map) = map.get() {
        return Ok(map);
    }
    let made = promise::map(file).map_err(failed("map"))?;
    Ok(map.get_or_init(|| made))
}
