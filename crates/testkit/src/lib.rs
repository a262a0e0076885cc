//! What the tests of a log share: a simulated storage that loses what a power loss may lose, a
//! reference model of streams, and generated workloads that run on anything that can append.
//!
//! For tests of the crates of this workspace only. It knows storages and nothing else: a test says
//! what a log is to it by implementing [`Subject`].
//!
//! ```
//! use std::path::Path;
//! use stratawal_storage::Storage;
//! use stratawal_testkit::{Crash, Rng, SimStorage};
//!
//! let sim = SimStorage::new(7);
//! let file = sim.create_new(Path::new("/f"))?;
//! file.write_all_at(b"unsynced", 0)?;
//! // No sync_dir: the name itself is gone with the power.
//! let after = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(1)), 8);
//! assert!(after.list(Path::new("/"))?.is_empty());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`HookedStorage`] is for tests of what threads do at one moment: it holds one of them, or fails it.
//!
//! Deliberately absent: threads of its own (a simulation runs on one, so that a seed replays), and
//! any knowledge of the format.
#![forbid(unsafe_code)]

mod hooked;
mod model;
mod rng;
mod run;
mod sim;
mod workload;

pub use hooked::{Gate, HookedStorage, Operation};
pub use model::{Change, Expected, Found, Level, Mismatch, Snapshot, StreamModel};
pub use rng::Rng;
pub use run::{
    Failure, LogUnderTest, Outcome, Refusal, Volume, crash_everywhere, fault_everywhere, interrupt_recovery, play,
};
pub use sim::{Crash, Disk, Fault, Faults, Lie, SimStorage};
pub use workload::{Shape, Step, Workload, entry};
