//! Synchronisation primitives that a model checker can replace, and fail points.
//!
//! The crates of stratawal share them. Programs should use the crate `stratawal` instead: this
//! crate has only what those crates need, and changes with them.
//!
//! Invariant: no crate above names the primitives of the standard library, `arc-swap` or the model
//! checker. Under `--cfg stratawal_loom` this crate's names mean the model checker's primitives,
//! while the code of the crates above is the code that ships. (`Arc` and [`Counter`] are always the
//! standard library's, and the crates above import it from there. The in-memory storage has its own
//! locks, which the model checker does not see.)
//!
//! A panic does not poison the locks here. Code that must know whether a holder unwound records it
//! in the data that the lock guards.
//!
//! Deliberately absent: background threads, time except for the limit of a wait, and any knowledge
//! of a log.
#![forbid(unsafe_code)]

mod bit_set;
mod counter;
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
pub use counter::{Counter, DURATION_CLASSES, Durations};
pub use mutex::{Condvar, Mutex};
pub use primitives::{MutexGuard, atomic};
pub use published::Published;
pub use seq::AtomicSeq;
/// Always the standard library's, as `Arc` is.
pub use std::sync::{OnceLock, Weak};

/// Threads. The model checker chooses which one runs next.
pub mod thread {
    #[cfg(stratawal_loom)]
    pub use loom::thread::{JoinHandle, spawn, yield_now};
    #[cfg(not(stratawal_loom))]
    pub use std::thread::{JoinHandle, spawn, yield_now};
}

/// Orders everything before it with respect to everything after it, for all threads that call it.
///
/// It is needed when the file system carries a message between threads: the memory model knows
/// nothing of such messages. A writer hides an entry from readers, calls this, and removes the
/// file. A reader that finds no file calls this, and then loads what readers may see.
pub fn fence() {
    atomic::fence(atomic::Ordering::SeqCst);
}
