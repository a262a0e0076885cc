//! The limits of this process.

/// Returns how many files this process may have open at the same time (the soft limit of
/// `RLIMIT_NOFILE`), or `None` if the number is unlimited.
#[must_use]
pub fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}
