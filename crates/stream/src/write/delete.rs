//! Deletes an open stream. The work on its directory is in `deletion.rs`.

use std::sync::Arc;

use stratawal_frame::StreamId;

use crate::context::LogContext;
use crate::deletion::{DeleteError, Directory, commit_in_journal, make_room, move_away, remove_directory};
use crate::error::{Error, ErrorKind};
use crate::inner::Inner;
use crate::location::Location;
use crate::read::snapshot::Snapshot;
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;

impl Inner {
    /// See [`StreamLog::delete`](crate::StreamLog::delete).
    pub(crate) fn delete(&self) -> std::result::Result<bool, DeleteError> {
        let shared = &self.shared;
        self.check_process().map_err(DeleteError::Undone)?;
        if shared.context.is_read_only() {
            return Err(DeleteError::Undone(Error::new(ErrorKind::ReadOnly, &shared.location)));
        }
        make_room(&shared.context, &shared.location, ReserveUse::Allowed).map_err(DeleteError::Undone)?;
        // Locked before the group. A truncation removes files by their paths, which may belong to
        // another stream once this one is deleted.
        let mut removals = self.removals.lock();
        let mut moved = Ok(Directory::Absent);
        // A stream that only the commit journal has is deleted by the record alone.
        let existed = self.exists();
        let shut_down = self.group.shut_down(Error::new(ErrorKind::Missing, &shared.location), |state| {
            let stream = state.tail.journaled.as_ref().and_then(|journaled| journaled.known_stream());
            moved = move_away_decided(&shared.context, &shared.location, stream);
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
            if let Some(journaled) = &mut state.tail.journaled {
                journaled.restart_at(0);
                journaled.start_is_in_files(u64::MAX);
            }
            state.tail = Tail::new(0, 0, None, Arc::clone(&shared.context.pending));
            Ok(())
        });
        shut_down.map_err(DeleteError::Undone)?;
        removals.clear();
        let moved = moved?;
        remove_directory(&shared.context, &shared.location, moved).map(|removed| removed || existed)
    }
}

/// Commits the deletion in the journal, if the log has one and the stream exists, and moves the
/// directory away. Once the journal has the record, the stream is deleted even if its directory
/// stays.
fn move_away_decided(
    context: &LogContext,
    location: &Location,
    stream: Option<StreamId>,
) -> std::result::Result<Directory, DeleteError> {
    let is_decided = match stream {
        Some(stream) => commit_in_journal(context, location, stream)?,
        None => false,
    };
    move_away(context, location, is_decided)
}
