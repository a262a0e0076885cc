//! Removes the files of segments that are no longer part of the stream.
//!
//! Such a file has no effect while it exists, and recovery removes it. So it may stay for any
//! length of time, and appends do not wait for its removal, which happens after the lead is
//! released.
//!
//! Order of locks: the lock of [`Removals`] is taken before the lock of the group, and before
//! waiting for the lead, never after. A truncation holds it from its start until its last file is
//! removed. Deletion and recovery also hold it, and a close waits for it. So once one of these has
//! returned, no thread removes files of this stream. That matters because by then the stream may
//! belong to another process, and the path of a dead segment may name a new one.

use std::sync::Arc;

use stratawal_index::CacheKey;
use stratawal_segment::SegmentId;
use stratawal_storage::DirToSync;
use stratawal_sync::thread::yield_now;
use stratawal_sync::{fail_point, fence};

use crate::context::LogContext;
use crate::error::{Error, Result};
use crate::fs::remove_file;
use crate::layout::segment_path;
use crate::location::Location;
use crate::read::snapshot::PublishedSegment;
use crate::report::OpenReport;

/// Files of a stream that could not be removed when their segments were dropped.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    left: Vec<SegmentId>,
}

/// Segments that readers no longer see.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    pub(crate) segments: Vec<Arc<PublishedSegment>>,
    /// The segments' directory, if their removal has to be made durable.
    pub(crate) dir_to_sync: Option<DirToSync>,
}

impl Removals {
    /// Removes the files of `dead`, which recovery found. A file that cannot be removed is taken
    /// out of `report`. That does not make the recovery fail: the next truncation and the next
    /// recovery try again.
    pub(crate) fn remove_found(
        &mut self,
        context: &LogContext,
        location: &Location,
        dead: Vec<SegmentId>,
        report: &mut OpenReport,
    ) {
        fence();
        let storage = &**context.storage();
        let dir = location.dir();
        let any = !dead.is_empty();
        let is_left = |id: &SegmentId| remove_file(storage, &segment_path(&dir, *id)).is_err();
        // Recovery saw all files, including those that earlier removals left.
        self.left = dead.into_iter().filter(is_left).collect();
        report.removed_segments.retain(|name| self.left.iter().all(|id| id.to_string() != *name));
        if any {
            // Nothing depends on this sync: if a power loss brings a file back, the next recovery
            // finds it.
            let _ = storage.sync_dir(&dir);
        }
    }

    /// Durably removes the files of `dead` from a damaged stream. If a power loss brought an
    /// unreadable file back, the stream could not be opened.
    ///
    /// # Errors
    /// The error of the first file that could not be removed, or of the directory's sync.
    pub(crate) fn remove_damaged(context: &LogContext, location: &Location, dead: &[SegmentId]) -> Result<()> {
        fence();
        let storage = &**context.storage();
        let dir = location.dir();
        let text = "the entries are dropped, but a damaged file may still prevent the stream from opening; truncate \
                    again once it can be removed";
        for &id in dead {
            let path = segment_path(&dir, id);
            // A directory may have the name of a segment.
            let removed = remove_file(storage, &path).or_else(|error| storage.remove_dir(&path).map_err(|_| error));
            removed.map_err(|error| Error::io_about(location, text, &path, error))?;
        }
        storage.sync_dir(&dir).map_err(|error| Error::io_about(location, text, &dir, error))
    }

    /// Removes the files of `dead`, and the files that earlier removals left. The caller does not
    /// hold the lead.
    ///
    /// # Errors
    /// The error of the first file that could not be removed. The next truncation and the next
    /// recovery try again.
    pub(crate) fn remove_dead(&mut self, context: &LogContext, location: &Location, dead: Dead) -> Result<()> {
        // A reader that finds a file removed reloads the snapshot, which was stored before this
        // point.
        fence();
        let dir = location.dir();
        let mut first_error = None;
        let left = std::mem::take(&mut self.left);
        let stream_id = dead.segments.first().map(|segment| segment.header.stream_id.0);
        for id in dead.segments.iter().map(|segment| segment.id()).chain(left) {
            let path = segment_path(&dir, id);
            // The model checker does not see storage operations, so it does not switch threads at
            // them.
            fail_point!(RemovalsNotAwaited, yield_now());
            if let Err(error) = remove_file(&**context.storage(), &path) {
                self.left.push(id);
                let text = "the entries are dropped, but a file still takes up space, until a later truncation or the next \
                            opening removes it";
                first_error.get_or_insert_with(|| Error::io_about(location, text, &path, error));
            }
            if let Some(stream_id) = stream_id {
                context.cache.remove(CacheKey { stream_id, generation: id.generation.0 });
            }
        }
        let synced = dead.dir_to_sync.map_or(Ok(()), |dir| dir.sync());
        let synced = synced.map_err(|error| {
            let text = "the entries are dropped, but after a power loss their files may take up space again, until the next \
                        opening removes them";
            Error::io_about(location, text, &dir, error)
        });
        first_error.map_or(synced, Err)
    }

    /// Forgets the remaining files, because they are deleted with the stream.
    pub(crate) fn clear(&mut self) {
        self.left.clear();
    }
}
