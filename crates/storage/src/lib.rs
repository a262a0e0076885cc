//! The services that a log uses, as a trait: files, directories, locks, the clock, random numbers.
//!
//! Use this crate to put a log on a storage of your own, or to simulate a storage. It is not a log:
//! it knows nothing of segments or frames. Most programs want the facade crate `stratawal`.
//!
//! ```
//! use std::path::Path;
//! use stratawal_storage::{Access, MemoryStorage, Storage, UnixStorage};
//!
//! fn greet(storage: &dyn Storage, dir: &Path) -> std::io::Result<()> {
//!     let file = storage.create_new(&dir.join("greeting"))?;
//!     file.preallocate(4096)?;
//!     file.write_all_at(b"hello", 0)?;
//!     file.sync_data()?;
//!     storage.sync_dir(dir)?;
//!     let mut back = [0; 5];
//!     storage.open(&dir.join("greeting"), Access::Read)?.read_exact_at(&mut back, 0)?;
//!     assert_eq!(&back, b"hello");
//!     Ok(())
//! }
//!
//! greet(&MemoryStorage::new(), Path::new("/"))?;
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! greet(&UnixStorage::new(), dir)?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! This is the only crate of the workspace that has platform code or maps files. The others only
//! pass the caller's promise about mapped files to it. Deliberately absent: any knowledge of the
//! files' purpose, and any retry of a failed sync.

#[cfg(not(unix))]
compile_error!("stratawal-storage needs Unix: it preallocates space, locks directories, and reads at positions");

mod error;
mod file;
mod map;
mod memory;
mod storage;
mod sync;
mod unix;

pub use error::{is_full, is_out_of_files};
pub use file::{ChangeStamp, File, RangeSync, StoreMap};
pub use map::Map;
pub use memory::MemoryStorage;
pub use storage::{Access, DirEntry, DirToSync, FileType, Lock, LockError, LockOwner, Storage};
pub use unix::{UnixStorage, open_files_limit};
