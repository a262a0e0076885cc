//! Space that is kept for a full disk. Calls that free space or close give it up where they lack
//! room: truncation, deletion, close. Looking up, reading and appending never use it. It is made
//! again when there is room.
//!
//! Its bytes are pseudo-random and synced, so that neither compression nor hole punching makes it
//! shorter than it looks; and it is the blocks on the disk that count, not the length: a copy of a
//! log may have made holes of it.

use std::io;
use std::path::PathBuf;

use stratawal_segment::Access;
use stratawal_storage::{File, Storage};
use stratawal_sync::{AtomicSeq, Mutex};

use crate::fs::remove_file;

/// Bytes that the emergency reserve holds.
pub const RESERVE_LEN: u64 = 64 << 10;

/// Bytes of one write to the file: on a disk that lacks room for all of it, the emergency reserve
/// holds as much as fits.
const PIECE_LEN: usize = 4 << 10;

/// Whether a call may use up the emergency reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReserveUse {
    /// It may not: it looks up, reads, or appends.
    Never,
    /// It may: it frees space, or closes.
    Allowed,
}

/// A file that holds space.
#[derive(Debug)]
pub(crate) struct EmergencyReserve {
    path: PathBuf,
    /// Its bytes follow from this.
    seed: u64,
    /// Keeps one call from writing the file while another removes it; and whether the file held all
    /// of its space when it was last looked at.
    is_whole: Mutex<bool>,
    /// 1 where the file system reports fewer blocks than the synced bytes take: then the length
    /// counts.
    blocks_unreported: AtomicSeq,
}

impl EmergencyReserve {
    pub(crate) fn new(path: PathBuf, seed: u64) -> Self {
        Self { path, seed, is_whole: Mutex::new(false), blocks_unreported: AtomicSeq::new(0) }
    }

    /// Makes it where it is missing, or holds less than it should. Not having it is not an error:
    /// there may be no room now, or something that is not a plain file has its name.
    pub(crate) fn make(&self, storage: &dyn Storage) {
        let mut is_whole = self.is_whole.lock();
        *is_whole = false;
        let file = match storage.open(&self.path, Access::ReadWrite) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => storage.create_new(&self.path),
            other => other,
        };
        let Ok(file) = file else { return };
        if !self.is_ours(&*file) {
            return;
        }
        if self.held_by(&*file) < RESERVE_LEN {
            if self.fill(&*file).is_err() {
                return;
            }
            match file.sync_all() {
                Ok(()) => {
                    let are_reported = file.allocated().is_ok_and(|bytes| bytes >= RESERVE_LEN);
                    self.blocks_unreported.store(u64::from(!are_reported));
                }
                Err(_) => {
                    // It is not known how much the disk holds of it. It is made anew with the next
                    // segment.
                    let _ = storage.remove_file(&self.path);
                    return;
                }
            }
        }
        *is_whole = true;
    }

    /// Makes it where it was not whole when it was last looked at.
    pub(crate) fn make_again(&self, storage: &dyn Storage) {
        let is_whole = *self.is_whole.lock();
        if !is_whole {
            self.make(storage);
        }
    }

    /// How much of its space it holds now, in bytes; 0 where it cannot be looked at. Takes no lock,
    /// so that it may be asked in a forked child.
    pub(crate) fn held(&self, storage: &dyn Storage) -> u64 {
        let file = storage.open(&self.path, Access::Read).ok().filter(|file| self.is_ours(&**file));
        file.map_or(0, |file| self.held_by(&*file))
    }

    /// Gives its space up; whether there was any.
    pub(crate) fn give_up(&self, storage: &dyn Storage) -> bool {
        let mut is_whole = self.is_whole.lock();
        *is_whole = false;
        // Looked at first: nothing but a plain file is removed.
        self.held(storage) > 0 && remove_file(storage, &self.path).is_ok()
    }

    fn held_by(&self, file: &dyn File) -> u64 {
        let Ok(len) = file.len() else { return 0 };
        let blocks = if self.blocks_unreported.load() == 0 { file.allocated().unwrap_or(0) } else { len };
        len.min(blocks).min(RESERVE_LEN)
    }

    /// Whether the log has made this file: it is empty, or begins with the emergency reserve's
    /// bytes, or with zeros that stand for them (a crash, or a copy with holes). Any other file
    /// that has the name is neither written nor removed.
    fn is_ours(&self, file: &dyn File) -> bool {
        let mut first = [0; size_of::<u64>()];
        let own = mixed(self.seed.wrapping_add(STEP));
        file.read_at(&mut first, 0).is_ok() && [0, own].contains(&u64::from_le_bytes(first))
    }

    fn fill(&self, file: &dyn File) -> io::Result<()> {
        let (mut piece, mut state) = ([0; PIECE_LEN], self.seed);
        for at in (0..RESERVE_LEN).step_by(PIECE_LEN) {
            for word in piece.chunks_exact_mut(size_of::<u64>()) {
                state = state.wrapping_add(STEP);
                word.copy_from_slice(&mixed(state).to_le_bytes());
            }
            file.write_all_at(&piece, at)?;
        }
        Ok(())
    }
}

/// By how much the counter moves from one number to the next.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64: from a counter it makes numbers that no compressor makes shorter.
const fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
