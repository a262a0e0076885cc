//! Whether a file has changed since a reader last looked at it.
//!
//! Two changes within one tick of the file system's clock may leave the same [`ChangeStamp`]. So a
//! stamp is trusted only once it has stayed the same for longer than a tick, by this process's own
//! clock, because a file server's clock may differ.

use stratawal_segment::SegmentFile;
use stratawal_storage::ChangeStamp;

use super::files::StreamFiles;

/// The change stamp of a file, observed before the file is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObservedStamp {
    /// `None` if the storage has no stamps.
    pub(super) stamp: Option<ChangeStamp>,
    /// When a look first saw this stamp, measured by
    /// [`elapsed_micros`](stratawal_storage::Storage::elapsed_micros).
    since_micros: u64,
    /// Whether the stamp has stayed the same long enough that any further change must alter it.
    pub(super) is_settled: bool,
}

impl ObservedStamp {
    /// Observes `file` before it is read. `before` is the observation of the last look.
    pub(super) fn now(
        files: &StreamFiles<'_>,
        file: &SegmentFile,
        before: Option<&Self>,
    ) -> stratawal_segment::Result<Self> {
        let stamp = file.change_stamp()?;
        // The clock is read after the stamp and before the bytes, so the bytes read include any
        // change in between.
        let now = files.storage().elapsed_micros();
        let since_micros = before.filter(|before| before.stamp == stamp).map_or(now, |before| before.since_micros);
        let seen_micros = now.saturating_sub(since_micros);
        let is_settled = stamp.is_some_and(|stamp| seen_micros >= stamp.settles_micros());
        Ok(Self { stamp, since_micros, is_settled })
    }

    /// Whether the file has not changed since it was read after `before`.
    pub(super) fn is_unchanged_since(&self, before: &Self) -> bool {
        before.is_settled && self.stamp == before.stamp
    }
}
