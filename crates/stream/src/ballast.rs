//! Space that is kept for a full disk: what needs a new file to get space back, or to end what was begun, gives it up
//! first. It is made again when there is room.

use std::path::{Path, PathBuf};

use stratawal_frame::SegmentHeader;
use stratawal_segment::{Access, CreateError, SegmentWriter, Space, create};
use stratawal_storage::Storage;

use crate::env::Env;
use crate::sync::Mutex;

/// Bytes that the ballast holds.
pub const BALLAST_LEN: u64 = 64 << 10;

/// A file that holds space.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    /// Whether it is known to hold its space: it is looked at each time a segment is created.
    whole: Mutex<bool>,
}

impl Ballast {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, whole: Mutex::new(false) }
    }

    /// Makes it where it is missing, or less than it should be. Not having it is no error: there may be no room now.
    pub(crate) fn make(&self, storage: &dyn Storage) {
        let mut whole = self.whole.lock();
        if *whole {
            return;
        }
        let file = storage.create_new(&self.path).or_else(|_| storage.open(&self.path, Access::ReadWrite));
        // Where that fails now, it is tried again with the next segment.
        *whole =
            file.is_ok_and(|file| file.len().is_ok_and(|len| len >= BALLAST_LEN) || file.reserve(BALLAST_LEN).is_ok());
    }

    /// Gives its space up; whether there was any that could be.
    pub(crate) fn give_up(&self, storage: &dyn Storage) -> bool {
        let mut whole = self.whole.lock();
        *whole = false;
        storage.remove_file(&self.path).is_ok()
    }
}

/// Creates a segment of `wanted` bytes, or where the disk is full of no more than it needs at first.
pub(crate) fn create_long_segment(
    env: &Env,
    dir: &Path,
    header: &SegmentHeader,
    reserve: u64,
    wanted: u64,
) -> Result<(SegmentWriter, Space), CreateError> {
    if wanted > reserve {
        match create(env.storage(), dir, header, wanted) {
            Err(CreateError::Undone(error)) if error.is_full() => {}
            created => return created,
        }
    }
    create_segment(env, dir, header, reserve)
}

/// Creates a segment; on a full disk, out of the ballast.
pub(crate) fn create_segment(
    env: &Env,
    dir: &Path,
    header: &SegmentHeader,
    reserve: u64,
) -> Result<(SegmentWriter, Space), CreateError> {
    let storage = env.storage();
    let created = match (create(storage, dir, header, reserve), env.ballast()) {
        (Err(CreateError::Undone(error)), Some(ballast)) if error.is_full() && ballast.give_up(&**storage) => {
            create(storage, dir, header, reserve)
        }
        (created, _) => created,
    };
    if let (Ok(_), Some(ballast)) = (&created, env.ballast()) {
        ballast.make(&**storage);
    }
    created
}
