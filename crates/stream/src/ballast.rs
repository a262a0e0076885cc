//! Space that is kept for a full disk: what needs a new file to get space back, or to end what was begun, gives it up
//! first. It is made again when there is room.

use std::path::{Path, PathBuf};

use stratawal_frame::SegmentHeader;
use stratawal_segment::{Access, CreateError, SegmentWriter, Space, create};
use stratawal_storage::Storage;

use crate::env::Env;

/// Bytes that the ballast holds.
pub const BALLAST_LEN: u64 = 64 << 10;

/// A file that holds space.
#[derive(Clone, Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes it where it is missing, or less than it should be. Not having it is no error: there may be no room now.
    pub(crate) fn make(&self, storage: &dyn Storage) {
        let file = storage.create_new(&self.path).or_else(|_| storage.open(&self.path, Access::ReadWrite));
        if let Ok(file) = file
            && file.len().is_ok_and(|len| len < BALLAST_LEN)
        {
            // Where that fails now, it is tried again with the next segment.
            let _ = file.reserve(BALLAST_LEN);
        }
    }

    /// Gives its space up; whether there was any that could be.
    pub(crate) fn give_up(&self, storage: &dyn Storage) -> bool {
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
    let long = (wanted > reserve).then(|| create(env.storage(), dir, header, wanted));
    match long {
        Some(Ok(created)) => {
            // There is room.
            if let Some(ballast) = env.ballast() {
                ballast.make(&**env.storage());
            }
            Ok(created)
        }
        Some(Err(CreateError::Undone(error))) if error.is_full() => create_segment(env, dir, header, reserve),
        Some(Err(error)) => Err(error),
        None => create_segment(env, dir, header, reserve),
    }
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
