//! Single-threaded loops that write.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock};

use memmap2::{Mmap, MmapMut};

use super::{CHUNK_LEN, HEADER_LEN, PIECE_LEN, frame, read, reserve};
use crate::payload::Tally;
use crate::promise;
use crate::subject::{Answer, Stop, Subject, Writer, failed, none};

/// When a loop writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// When a chunk is full.
    Chunks,
    /// At each append.
    Each,
    /// At each append, followed by a sync.
    Sync,
}

pub(super) struct Single {
    file: File,
    mode: Mode,
    by: read::By,
    map: OnceLock<Mmap>,
}

struct Loop<'a> {
    file: &'a File,
    mode: Mode,
    end: u64,
    bytes: Vec<u8>,
}

impl Single {
    pub(super) fn new(file: File, mode: Mode, by: read::By) -> Self {
        Self { file, mode, by, map: OnceLock::new() }
    }
}

impl Subject for Single {
    /// Writes from the beginning of the existing file.
    fn writer(&self, _: u64) -> Answer<Box<dyn Writer + '_>> {
        let bytes = Vec::with_capacity(CHUNK_LEN + PIECE_LEN);
        Ok(Box::new(Loop { file: &self.file, mode: self.mode, end: 0, bytes }))
    }

    fn scan(&self, _: u64, tally: &mut Tally) -> Answer<()> {
        read::scan(self.by, &self.map, &self.file, tally)
    }

    fn get(&self, n: u64, tally: &mut Tally) -> Answer<()> {
        let len = HEADER_LEN + crate::cases::ENTRY_LEN;
        read::get(self.by, &self.map, &self.file, n * len as u64, len, tally)
    }

    fn sync(&self) -> Answer<()> {
        self.file.sync_data().map_err(failed("sync"))
    }
}

impl Loop<'_> {
    fn write(&mut self) -> Answer<()> {
        self.file.write_all_at(&self.bytes, self.end).map_err(failed("write"))?;
        self.end += self.bytes.len() as u64;
        self.bytes.clear();
        if self.mode == Mode::Sync { self.file.sync_data().map_err(failed("sync")) } else { Ok(()) }
    }
}

impl Writer for Loop<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        frame(&mut self.bytes, entry);
        if self.mode == Mode::Chunks && self.bytes.len() < CHUNK_LEN { Ok(()) } else { self.write() }
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        entries.iter().for_each(|entry| frame(&mut self.bytes, entry));
        if self.mode == Mode::Chunks && self.bytes.len() < CHUNK_LEN { Ok(()) } else { self.write() }
    }

    fn flush(&mut self) -> Answer<()> {
        if self.bytes.is_empty() { Ok(()) } else { self.write() }
    }
}

/// Entries in pieces, each with one checksum.
pub(super) struct Pieces {
    file: File,
    map: OnceLock<Mmap>,
}

struct PiecesLoop<'a> {
    file: &'a File,
    end: u64,
    bytes: Vec<u8>,
}

impl Pieces {
    pub(super) fn new(file: File) -> Self {
        Self { file, map: OnceLock::new() }
    }
}

impl Subject for Pieces {
    fn writer(&self, _: u64) -> Answer<Box<dyn Writer + '_>> {
        Ok(Box::new(PiecesLoop { file: &self.file, end: 0, bytes: vec![0; HEADER_LEN] }))
    }

    fn scan(&self, _: u64, tally: &mut Tally) -> Answer<()> {
        read::scan_pieces(&self.map, &self.file, tally)
    }

    fn get(&self, _: u64, _: &mut Tally) -> Answer<()> {
        none("pieces are for scans")
    }
}

impl Writer for PiecesLoop<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        if self.bytes.len() + 4 + entry.len() > PIECE_LEN {
            self.flush()?;
        }
        self.bytes.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(entry);
        Ok(())
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        entries.iter().try_for_each(|entry| self.append(entry))
    }

    fn flush(&mut self) -> Answer<()> {
        let (header, piece) = self.bytes.split_at_mut(HEADER_LEN);
        header[..4].copy_from_slice(&(piece.len() as u32).to_le_bytes());
        header[4..].copy_from_slice(&crc32fast::hash(piece).to_le_bytes());
        self.file.write_all_at(&self.bytes, self.end).map_err(failed("write"))?;
        self.end += self.bytes.len() as u64;
        self.bytes.truncate(HEADER_LEN);
        Ok(())
    }
}

/// A mapping whose pages have been touched, overwritten again and again. Bytes belong to the
/// operating system as soon as they are copied. It keeps only the newest entries.
pub(super) struct Ring {
    map: Mutex<MmapMut>,
    counted: Mutex<Tally>,
}

const RING_LEN: usize = 64 << 20;

struct RingLoop<'a> {
    map: std::sync::MutexGuard<'a, MmapMut>,
    at: usize,
    tally: std::sync::MutexGuard<'a, Tally>,
}

fn poisoned<E>(_: E) -> Stop {
    Stop::Failed("a thread panicked".to_owned())
}

impl Ring {
    pub(super) fn new(file: &File) -> Answer<Self> {
        reserve(file, RING_LEN as u64)?;
        let mut map = promise::map_mut(file).map_err(failed("map"))?;
        map.fill(1);
        Ok(Self { map: Mutex::new(map), counted: Mutex::new(Tally::new()) })
    }
}

impl Subject for Ring {
    fn writer(&self, _: u64) -> Answer<Box<dyn Writer + '_>> {
        let map = self.map.lock().map_err(poisoned)?;
        let tally = self.counted.lock().map_err(poisoned)?;
        Ok(Box::new(RingLoop { map, at: 0, tally }))
    }

    /// Overwritten entries cannot be read, so the writer's tally is used.
    fn scan(&self, _: u64, tally: &mut Tally) -> Answer<()> {
        let counted = self.counted.lock().map_err(poisoned)?;
        (tally.count, tally.bytes, tally.sum) = (counted.count, counted.bytes, counted.sum);
        Ok(())
    }

    fn get(&self, _: u64, _: &mut Tally) -> Answer<()> {
        none("a ring is for appends")
    }
}

impl Writer for RingLoop<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        let len = HEADER_LEN + entry.len();
        if self.at + len > RING_LEN {
            self.at = 0;
        }
        let slot = &mut self.map[self.at..self.at + len];
        slot[..4].copy_from_slice(&(entry.len() as u32).to_le_bytes());
        slot[4..HEADER_LEN].copy_from_slice(&crc32fast::hash(entry).to_le_bytes());
        slot[HEADER_LEN..].copy_from_slice(entry);
        self.at += len;
        self.tally.see(entry);
        Ok(())
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        entries.iter().try_for_each(|entry| self.append(entry))
    }
}
