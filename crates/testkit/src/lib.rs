//! A simulated storage that can lose the same bytes as a power loss, a reference model of streams,
//! and generated workloads that run on any log. The tests of all crates share them.
//!
//! Only the tests of this workspace should use this crate. It depends only on the storage crate: a
//! test describes its log by implementing [`LogUnderTest`].
//!
//! ```
//! use std::path::Path;
//! use stratawal_storage::Storage;
//! use stratawal_testkit::{Crash, Rng, SimStorage};
//!
//! let sim = SimStorage::new(7);
//! let file = sim.create_new(Path::new("/f"))?;
//! file.write_all_at(b"unsynced", 0)?;
//! // Without sync_dir, a power loss also takes the name.
//! let after = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(1)), 8);
//! assert!(after.list(Path::new("/"))?.is_empty());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`HookedStorage`] asks the test before it forwards an operation to another storage. The test can
//! hold a thread at the operation, or make the operation fail.
//!
//! Deliberately absent: background threads (a simulation runs on one thread, so that a seed can be
//! replayed), and any knowledge of the format.
#![forbid(unsafe_code)]

mod hooked;
mod model;
mod rng;
mod run;
mod sim;
mod workload;

pub use hooked::{Call, Gate, HookedStorage, Operation, Verdict};
pub use model::{Change, Expected, Found, Level, Mismatch, Snapshot, StreamModel};
pub use rng::Rng;
pub use run::{
    Failure, LogUnderTest, Outcome, Refusal, Volume, crash_everywhere, fault_everywhere, interrupt_recovery, play,
};
pub use sim::{Crash, Disk, Fault, Faults, Lie, SimStorage};
pub use workload::{How, Shape, Step, Workload, entry};
