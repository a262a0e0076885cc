//! Deletes an open stream. The work on its directory is in `deletion.rs`.

use std::sync::Arc;

use crate::deletion::{DeleteError, move_away, remove_moved};
use crate::error::{Error, ErrorKind};
use crate::inner::Inner;
use crate::read::snapshot::Snapshot;
use crate::write::tail::Tail;

impl Inner {
    /// See [`StreamLog::delete`](crate::StreamLog::delete).
    pub(crate) fn delete(&self) -> std::result::Result<bool, DeleteError> {
        let shared = &self.shared;
        self.check_process().map_err(DeleteError::Undone)?;
        if shared.context.is_read_only() {
            return Err(DeleteError::Undone(Error::new(ErrorKind::ReadOnly, &shared.location)));
        }
        // Locked before the group. A truncation removes files by their paths, which may belong to
        // another stream once this one is deleted.
        let mut removals = self.removals.lock();
        let mut moved = Ok(None);
        let shut_down = self.group.shut_down(Error::new(ErrorKind::Missing, &shared.location), |state| {
            moved = move_away(&shared.context, &shared.location);
            if let Err(DeleteError::Undone(error)) = &moved {
                return Err(error.clone());
            }
            let snapshot = shared.snapshot.load();
            if let Some(segment) = snapshot.segments.first() {
                shared.context.cache.remove_stream(segment.header.stream_id.0);
            }
            shared.truncations.record(shared.watermarks.epoch(), 0);
            shared.watermarks.change(|watermarks| {
                shared.snapshot.store(Arc::new(Snapshot::default()));
                watermarks.reset(0, 0);
            });
            state.tail = Tail::new(0, 0, None, Arc::clone(&shared.context.pending));
            Ok(())
        });
        shut_down.map_err(DeleteError::Undone)?;
        removals.clear();
        remove_moved(&shared.context, &shared.location, moved?)
    }
}
