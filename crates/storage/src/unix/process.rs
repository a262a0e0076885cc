//! The identity of this process, known without a system call.
//!
//! A forked child has copies of all memory and all descriptors, and therefore of every handle on a
//! log, but shares the open files and their locks with its parent. Asking for the process id would
//! cost each append a system call. Instead, one page of memory is marked to be wiped in a child
//! (`MADV_WIPEONFORK`, Linux 4.14). It holds a number that no ancestor of the process had. A child
//! finds 0 there and takes the next number. Without such a page, the process id is used.

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::sync::{AtomicU64, Ordering};

/// Identifies the process that created this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessMark(u64);

impl ProcessMark {
    /// The current process.
    pub(crate) fn now() -> Self {
        Self(current())
    }

    /// Whether the current process is a child, or a later descendant, of the process that created
    /// this value.
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
    // Relaxed: the number orders no other memory access.
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
    /// A fork copies the counter, so a child continues from its parent's number.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // If two threads find the page wiped, one of their numbers wins.
    page.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|other| other, |_| next)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn current() -> u64 {
    u64::from(std::process::id())
}
