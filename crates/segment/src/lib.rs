//! Creates, appends to, seals, closes, scans and reads a single segment file of a log.
//!
//! Do not use this crate to keep a stream: it knows nothing of other segments, group commit, or the
//! rules of recovery, which are in `stratawal-stream`. Use it to inspect single segment files, or
//! to build another log on them.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use stratawal_frame::{BATCH_END, DataFrame, Generation, Salt, SegmentHeader, SeqNo};
//! use stratawal_segment::{Access, SegmentFile, SegmentId, create};
//! use stratawal_storage::{MemoryStorage, Storage};
//!
//! let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
//! let dir = Path::new("/streams/a");
//! storage.create_dir(Path::new("/streams"))?;
//! storage.create_dir(dir)?;
//!
//! let header = SegmentHeader { generation: Generation(1), salt: Salt(9), ..SegmentHeader::EMPTY };
//! let (mut writer, mut preallocation) = create(&storage, dir, &header, 16 << 10)?;
//! let position = writer.next_position();
//! let mut bytes = Vec::new();
//! stratawal_frame::encode_data(&mut bytes, &position, &DataFrame {
//!     first_seq: SeqNo(0), timestamp: 1, durable: None, ends: &[5 | BATCH_END], data: b"hello",
//! });
//! preallocation.ensure(&position.offset, bytes.len() as u64)?;
//! writer.append(&bytes)?;
//! writer.sync()?;
//!
//! let file = SegmentFile::open(&storage, dir, SegmentId::of(&header), Access::Read)?;
//! let chain = file.scan_chain(&mut |_, _| ())?;
//! assert_eq!(chain.end_seq, SeqNo(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants: a file with the name of a segment has a valid header (rule H of the format);
//! published bytes never change; a file is shortened only to the end of the trailer of a durable
//! SEAL or CLOSE.
//!
//! Deliberately absent: other segments, seqs promised to a caller, threads, and the meaning of an
//! index block.
#![deny(unsafe_code)]

mod error;
mod fail_points;
mod file;
mod name;
mod read;
mod scan;
mod write;

#[cfg(stratawal_faults)]
#[doc(hidden)]
pub use fail_points::FailPoint;

pub use error::{Error, ErrorKind};
pub use file::{Finished, FooterSummary, SegmentFile};
pub use name::{SegmentId, TEMPORARY_PREFIX, is_temporary};
pub use read::{
    BLOCK_LEN_MAX, CursorStep, FoundEntry, FrameCursor, FrameEntry, FrameLayout, FrameRef, MapPromise, OwnedFrame,
    SegmentData, SpanState,
};
pub use scan::{Attestations, Chain, FoundFrame, FoundSeal, FrameSearch};
pub use stratawal_storage::Access;
pub use write::{CONTROL_RESERVE, ControlContext, CreateError, Preallocation, SegmentWriter, active_len, create};

/// The result of an operation on a segment file.
pub type Result<T> = std::result::Result<T, Error>;
