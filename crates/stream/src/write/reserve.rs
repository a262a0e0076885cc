//! The emergency reserve: a file that keeps space for use on a full disk. Calls that free space or
//! close (truncation, deletion, close) give it up if they run out of space. Looking up, reading and
//! appending never use it, except for an append that ends a truncation: it removes the files of
//! dropped entries. It is recreated once there is space.
//!
//! Its bytes are pseudo-random and synced, so that neither compression nor hole punching makes it
//! smaller than it looks. Its disk blocks count rather than its length, because a copy of a log may
//! have holes instead.

use std::io;
use std::path::PathBuf;

use stratawal_segment::Access;
use stratawal_storage::{File, Storage};
use stratawal_sync::{AtomicSeq, Mutex};

use crate::fs::remove_file;

/// The size of the emergency reserve in bytes.
pub const RESERVE_LEN: u64 = 64 << 10;

/// The number of bytes per write to the file. If the disk has no space for all of the reserve, it
/// holds as many pieces as fit.
const PIECE_LEN: usize = 4 << 10;

/// Whether a call may use up the emergency reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReserveUse {
    /// The call must not use it: it looks up, reads, or appends.
    Never,
    /// The call may use it: it frees space or closes.
    Allowed,
}

/// A file that keeps space.
#[derive(Debug)]
pub(crate) struct EmergencyReserve {
    path: PathBuf,
    /// Determines the bytes of the file.
    seed: u64,
    /// Whether the file held all of its space when it was last checked. The lock also keeps one
    /// call from writing the file while another removes it.
    is_whole: Mutex<bool>,
    /// 1 if the file system reports fewer blocks than the synced bytes take. Then the length
    /// counts.
    blocks_unreported: AtomicSeq,
}

impl EmergencyReserve {
    pub(crate) fn new(path: PathBuf, seed: u64) -> Self {
        Self { path, seed, is_whole: Mutex::new(false), blocks_unreported: AtomicSeq::new(0) }
    }

    /// Creates or completes the reserve if it is missing or holds less than it should. This may
    /// fail without an error: there may be no space now, or a different kind of file may have its
    /// name.
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
                    // It is not known how much of the reserve is on the disk. It is recreated with
                    // the next segment.
                    let _ = storage.remove_file(&self.path);
                    return;
                }
            }
        }
        *is_whole = true;
    }

    /// Creates or completes the reserve if it was incomplete when last checked.
    pub(crate) fn make_again(&self, storage: &dyn Storage) {
        let is_whole = *self.is_whole.lock();
        if !is_whole {
            self.make(storage);
        }
    }

    /// The bytes that the reserve holds now, or 0 if the file cannot be checked. Takes no lock, so
    /// a forked child may call it.
    pub(crate) fn held(&self, storage: &dyn Storage) -> u64 {
        let file = storage.open(&self.path, Access::Read).ok().filter(|file| self.is_ours(&**file));
        file.map_or(0, |file| self.held_by(&*file))
    }

    /// Gives up the space. Returns whether there was any.
    pub(crate) fn give_up(&self, storage: &dyn Storage) -> bool {
        let mut is_whole = self.is_whole.lock();
        *is_whole = false;
        // Checked first, so that only a file of the log is removed.
        self.held(storage) > 0 && remove_file(storage, &self.path).is_ok()
    }

    fn held_by(&self, file: &dyn File) -> u64 {
        let Ok(len) = file.len() else { return 0 };
        let blocks = if self.blocks_unreported.load() == 0 { file.allocated().unwrap_or(0) } else { len };
        len.min(blocks).min(RESERVE_LEN)
    }

    /// Whether the log created this file: it is empty, or begins with the bytes of the reserve, or
    /// with zeros instead (after a crash, or in a copy with holes). Any other file with this name
    /// is neither written nor removed.
    fn is_ours(&self, file: &dyn File) -> bool {
        let mut first = [0; size_of::<u64>()];
        let own = mixed(self.seed.wrapping_add(STEP));
        file.read_at(&mut first, 0).is_ok() && [0, own].contains(&u64::from_le_bytes(first))
    }

    fn fill(&self, file: &dyn File) -> io::Result<()> {
        let mut piece = [0; PIECE_LEN];
        let mut state = self.seed;
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

/// The counter's step from one number to the next.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64: turns a counter into numbers that cannot be compressed.
const fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
