//! Which process this is, known without a system call.
//!
//! A child of `fork` has copies of all memory and of all descriptors, and so of every handle on a
//! log; but the open files and their locks are shared with the parent. Asking for the process id
//! would cost a system call for each append. So one page of memory is marked to be wiped in a child
//! (`MADV_WIPEONFORK`, Linux 4.14), and holds a number that no ancestor of the process had: a child
//! finds 0 there, and takes the next number. Where there is no such page, the process is asked for
//! its id.

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::sync::{AtomicU64, Ordering};

/// The process that made this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessMark(u64);

impl ProcessMark {
    /// The process that runs now.
    pub(crate) fn now() -> Self {
        Self(current())
    }

    /// Whether another process runs now: a child of the one that made this, or a child of that.
    #[inline]
    pub(crate) fn is_another(self) -> bool {
        current() != self.0
    }
}

impl Default for ProcessMark {
    fn default() -> Self {
        Self::now()
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
fn current() -> u64 {
    // Relaxed: the number stands for itself alone.
    match crate::map::page_wiped_on_fork() {
        Some(page) => match page.load(Ordering::Relaxed) {
            0 => number_of_child(page),
            number => number,
        },
        None => u64::from(std::process::id()),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[cold]
fn number_of_child(page: &AtomicU64) -> u64 {
    /// Copied by a fork, so a child goes on from its parent's number.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // Of two threads that find the page wiped, one number wins.
    page.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|other| other, |_| next)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn current() -> u64 {
    u64::from(std::process::id())
}
