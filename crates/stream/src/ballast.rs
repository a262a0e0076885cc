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

/// The length in bytes that a new segment's file begins with, unless more is wanted; it grows in steps from there.
pub(crate) const FIRST_LEN: u64 = 16 << 10;

/// Creates a segment whose file has `wanted` bytes; on a full disk [`FIRST_LEN`], and then those out of the ballast.
pub(crate) fn create_segment(
    env: &Env,
    dir: &Path,
    header: &SegmentHeader,
    wanted: u64,
) -> Result<(SegmentWriter, Space), CreateError> {
    let storage = env.storage();
    let is_full = |created: &Result<_, CreateError>| matches!(created, Err(CreateError::Undone(e)) if e.is_full());
    let mut created = create(storage, dir, header, wanted);
    if wanted > FIRST_LEN && is_full(&created) {
        created = create(storage, dir, header, FIRST_LEN);
    }
    let Some(ballast) = env.ballast() else { return created };
    if is_full(&created) && ballast.give_up(&**storage) {
        created = create(storage, dir, header, FIRST_LEN);
    }
    if created.is_ok() {
        ballast.make(&**storage);
    }
    created
}
