//! Names on disk.
//!
//! The streams of a log are directories in one parent directory:
//!
//! | in the parent directory | what it is |
//! |---|---|
//! | the name in a [`Location`] | a stream |
//! | `.new-` and 16 hex digits | a stream that is being created |
//! | `.del-` and 16 hex digits | a stream that was deleted, until its files are removed |
//!
//! | in a stream's directory | what it is |
//! |---|---|
//! | the name that [`SegmentId`] writes | a segment |
//! | `.tmp-` and the name of a segment | a segment that is being created |
//! | any other name | not a file of the log, never touched |
//!
//! The directory name of a stream must not begin with the prefix of one of the other directories.
//! The facade escapes a leading dot.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use stratawal_segment::{SegmentId, is_temporary};

use crate::location::Location;

/// Prefix of the name of a stream's directory while the stream is being created.
const NEW_PREFIX: &str = ".new-";

/// Prefix of the name of a stream's directory once the stream is deleted.
const DELETED_PREFIX: &str = ".del-";

/// Whether an interrupted creation or deletion of a stream may have left a directory with this
/// name. Such a directory may be removed as long as no process has the log open.
#[must_use]
pub fn is_leftover_dir(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    [NEW_PREFIX, DELETED_PREFIX].iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// A directory, next to the stream's own, in which the stream at `location` is created. `random`
/// makes its name unique.
pub(crate) fn new_dir(location: &Location, random: u64) -> PathBuf {
    location.parent().join(format!("{NEW_PREFIX}{random:016x}"))
}

/// The path to which the directory of the stream at `location` is renamed when the stream is
/// deleted. `random` makes its name unique.
pub(crate) fn deleted_dir(location: &Location, random: u64) -> PathBuf {
    location.parent().join(format!("{DELETED_PREFIX}{random:016x}"))
}

/// The path of segment `id` of the stream in `dir`.
pub(crate) fn segment_path(dir: &Path, id: SegmentId) -> PathBuf {
    dir.join(id.to_string())
}

/// Whether this is the name of a segment.
pub(crate) fn is_segment(name: &OsStr) -> bool {
    SegmentId::parse(name).is_some()
}

/// A file of the log in a stream's directory, recognized by its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OwnFile {
    Segment(SegmentId),
    /// A segment that was being created when its process died.
    Temporary(OsString),
}

impl OwnFile {
    /// Returns `None` if the log does not create files with such a name.
    pub(crate) fn of_name(name: OsString) -> Option<Self> {
        if is_temporary(&name) { Some(Self::Temporary(name)) } else { SegmentId::parse(&name).map(Self::Segment) }
    }
}

#[cfg(test)]
mod tests {
    use stratawal_frame::{Generation, SeqNo};

    use super::*;

    #[test]
    fn a_created_or_deleted_directory_is_a_leftover() {
        let location = Location::new("/streams", "orders");
        for dir in [new_dir(&location, 7), deleted_dir(&location, u64::MAX)] {
            assert_eq!(dir.parent(), Some(Path::new("/streams")));
            assert!(is_leftover_dir(dir.file_name().unwrap()), "{dir:?}");
        }
        assert!(!is_leftover_dir(location.dir().file_name().unwrap()));
    }

    #[test]
    fn only_names_that_the_log_gives_are_its_files() {
        let id = SegmentId { base: SeqNo(40), generation: Generation(3) };
        let path = segment_path(Path::new("/streams/orders"), id);
        let name = path.file_name().unwrap();
        assert_eq!(OwnFile::of_name(name.to_owned()), Some(OwnFile::Segment(id)));
        let temporary = OsString::from(format!(".tmp-{id}"));
        assert_eq!(OwnFile::of_name(temporary.clone()), Some(OwnFile::Temporary(temporary)));
        assert_eq!(OwnFile::of_name(OsString::from(format!("{id}.bak"))), None);
    }
}
