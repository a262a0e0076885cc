//! How much a stream holds.

use std::sync::Arc;

use stratawal_segment::Access;
use stratawal_sync::fence;

use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::layout::segment_path;
use crate::read::snapshot::Snapshot;

/// How much a stream holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// The number of segment files with live entries, plus the active one.
    pub segments: u64,
    /// The bytes of those files, including preallocated space.
    pub disk_bytes: u64,
    /// How many appends since the stream was opened got a timestamp other than the clock's, because
    /// the clock had advanced over an hour more than the time elapsed since the last append. After
    /// a real correction of that size (a machine without a battery-backed clock, or a paused
    /// virtual machine), timestamps lag until the stream is reopened.
    pub clock_jumps: u64,
}

impl Inner {
    /// See [`StreamLog::stats`](crate::StreamLog::stats).
    pub(crate) fn stats(&self) -> Result<StreamStats> {
        self.check_process()?;
        let shared = &self.shared;
        loop {
            let snapshot = shared.snapshot.load();
            let stats = self.measure(&snapshot)?;
            let is_complete = stats.segments == snapshot.segments.len() as u64;
            fence();
            // A deletion renames the directory and then publishes its snapshot, both under this
            // lock.
            let clock_jumps = self.group.lock().tail.clock.jumps();
            // If a file was missing and the snapshot is unchanged, another process has removed it.
            if is_complete || Arc::ptr_eq(&snapshot, &shared.snapshot.load()) {
                return Ok(StreamStats { clock_jumps, ..stats });
            }
        }
    }

    /// Counts the files of `snapshot` that exist.
    fn measure(&self, snapshot: &Snapshot) -> Result<StreamStats> {
        let shared = &self.shared;
        let mut stats = StreamStats::default();
        for segment in &snapshot.segments {
            let path = segment_path(&shared.location.dir(), segment.id());
            let file = shared.context.storage().open(&path, Access::Read);
            match file.and_then(|file| file.len()) {
                Ok(len) => {
                    stats.segments += 1;
                    stats.disk_bytes += len;
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(&shared.location, e)),
            }
        }
        Ok(stats)
    }
}
