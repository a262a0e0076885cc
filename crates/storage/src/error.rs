//! Operating-system errors, with the path that they concern and, if known, a remedy.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// An error about a path, of the same kind as its cause.
#[derive(Debug)]
struct AtPath {
    path: PathBuf,
    cause: io::Error,
}

impl fmt::Display for AtPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)?;
        match remedy(&self.cause) {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl Error for AtPath {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        _ if is_out_of_files(error) => Some("raise the limit of open files (`ulimit -n`), or open fewer streams"),
        io::ErrorKind::StaleNetworkFileHandle => Some("close this log, and open the one that has the path now"),
        io::ErrorKind::PermissionDenied => Some("give this user access to it, or run as another user"),
        io::ErrorKind::ReadOnlyFilesystem => Some("open the log read-only, or make its file system writable"),
        io::ErrorKind::CrossesDevices | io::ErrorKind::ResourceBusy => {
            Some("keep the log in one directory tree of one file system, without mount points or overlays within it")
        }
        _ => None,
    }
}

/// Adds the path that an error is about.
pub(crate) fn at_path(path: &Path, cause: io::Error) -> io::Error {
    let kind = cause.kind();
    io::Error::new(kind, AtPath { path: path.to_owned(), cause })
}

/// The operating system's code of an error, even after a path was added to the error.
fn os_code(error: &io::Error) -> Option<i32> {
    let cause = || error.get_ref()?.downcast_ref::<AtPath>()?.cause.raw_os_error();
    error.raw_os_error().or_else(cause)
}

/// Whether an error reports that the disk or the quota is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an error reports that this process, or the system, has reached its limit of open files.
#[must_use]
pub fn is_out_of_files(error: &io::Error) -> bool {
    matches!(os_code(error).map(Errno::from_raw_os_error), Some(Errno::MFILE | Errno::NFILE))
}
