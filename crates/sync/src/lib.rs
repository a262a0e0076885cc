//! Synchronisation primitives that a model checker can replace, and fail points.
//!
//! The crates of stratawal share them. No program should use this crate: it has what those crates
//! need and nothing else, and changes with them. A program wants the crate `stratawal`.
//!
//! Invariant: no crate above names the primitives of the standard library, `arc-swap` or the model
//! checker. Under `--cfg stratawal_loom` the names of this crate mean the model checker's
//! primitives, and the code of the crates above is the code that ships. (`Arc` is always the
//! standard library's, and the crates above import it from there. The storage in memory has locks
//! of its own, which the model checker does not see.)
//!
//! Locks here are not poisoned by a panic. Code that must know whether a holder unwound keeps that
//! in the data that the lock guards.
//!
//! Deliberately absent: threads of its own, time, and any knowledge of a log.
#![forbid(unsafe_code)]

mod bit_set;
mod fail_point;
pub mod model;
mod mutex;
mod published;
mod seq;

#[cfg(stratawal_loom)]
use loom::sync as primitives;
#[cfg(not(stratawal_loom))]
use std::sync as primitives;

pub use bit_set::AtomicBitSet;
pub use mutex::{Condvar, Mutex};
pub use primitives::{MutexGuard, atomic};
pub use published::Published;
pub use seq::AtomicSeq;

/// Threads, of which the model checker chooses the next one to run.
pub mod thread {
    #[cfg(stratawal_loom)]
    pub use loom::thread::{spawn, yield_now};
    #[cfg(not(stratawal_loom))]
    pub use std::thread::{spawn, yield_now};
}

/// Orders everything before it against everything after it, for all threads that call it.
///
/// It is needed where the file system carries a message between threads, of which the memory model
/// knows nothing. A writer hides an entry from readers, calls this, and removes the file. A reader
/// that finds no file calls this, and then loads what readers may see.
pub fn fence() {
    atomic::fence(atomic::Ordering::SeqCst);
}
