//! Deletes streams, and removes the directories left by earlier deletions and creations.
//!
//! The rename of the stream's directory is the commit point. As long as the directory has its old
//! name, the stream is not deleted. A directory with the new name is removed, either at once or by
//! the next open of the log.
//!
//! In a log with a commit journal, a DROP record in it is the commit point, and the rename only
//! frees the name at once. If the directory cannot be renamed, its files are removed where they
//! are. Until it is gone, the record is needed, the name is refused, and each look-up tries again.
//! The segment that shows the stream's id is removed last, so that a crash in between leaves a
//! directory that is recognized as that of the deleted stream.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_frame::{SegmentHeader, StreamId, WalId};
use stratawal_journal::Error as JournalError;
use stratawal_segment::{Access, SegmentFile, SegmentId};
use stratawal_storage::{Storage, is_full};
use stratawal_sync::fail_point;

use crate::context::LogContext;
use crate::error::{Call, Error, ErrorKind};
use crate::fs::{Renamed, dir_exists, remove_file, rename_dir};
use crate::layout::{self, OwnFile};
use crate::location::Location;
use crate::write::reserve::ReserveUse;

/// Why a stream was not deleted, or not completely.
#[derive(Debug)]
pub enum DeleteError {
    /// Nothing has changed.
    Undone(Error),
    /// The stream may or may not still exist, or may reappear after a power loss.
    Indeterminate(Error),
    /// The stream is durably deleted, but its directory or some of its files could not be removed.
    /// The error names the first remaining path. The next open of the log tries again.
    Left(Error),
}

impl DeleteError {
    fn into_error(self) -> Error {
        match self {
            Self::Undone(error) | Self::Indeterminate(error) | Self::Left(error) => error,
        }
    }

    pub(crate) fn of_call(self) -> Self {
        match self {
            Self::Undone(error) => Self::Undone(error.of_call(Call::Delete)),
            Self::Indeterminate(error) => Self::Indeterminate(error.of_call(Call::Delete)),
            Self::Left(error) => Self::Left(error),
        }
    }
}

/// Deletes the stream at `location`, which must not be open. Returns whether it existed.
///
/// First renames the stream's directory, which is the commit point, then removes it with its files.
/// If the log has a commit journal, a record in it is the commit point, and the stream may have no
/// directory.
/// After a crash in between, [`is_leftover_dir`](crate::is_leftover_dir) recognizes the directory.
/// Files that the log did not create are not removed.
///
/// # Errors
/// Every failure is a [`DeleteError`].
pub fn delete(context: &LogContext, location: &Location) -> std::result::Result<bool, DeleteError> {
    delete_closed(context, location).map_err(DeleteError::of_call)
}

fn delete_closed(context: &LogContext, location: &Location) -> std::result::Result<bool, DeleteError> {
    make_room(context, location, ReserveUse::Allowed).map_err(DeleteError::Undone)?;
    let streams = streams_named(context, location).map_err(DeleteError::Undone)?;
    let mut is_decided = false;
    for stream in streams {
        is_decided |= commit_in_journal(context, location, stream).map_err(|error| match error {
            DeleteError::Undone(error) if is_decided => DeleteError::Indeterminate(error),
            error => error,
        })?;
    }
    let is_decided = is_decided || has_unfinished(context, location);
    let directory = move_away(context, location, is_decided)?;
    context.notify();
    remove_directory(context, location, directory).map(|existed| existed || is_decided)
}

/// The ids of the streams at `location`, which is not open, that the journal may have records of.
///
/// # Errors
/// I/O, or damage of the journal.
fn streams_named(context: &LogContext, location: &Location) -> crate::error::Result<Vec<StreamId>> {
    let Some(log) = context.log_journal() else { return Ok(Vec::new()) };
    // A damaged stream is only known by its records.
    let mut streams = log.carried_named(location.name());
    match stream_id(context.storage(), context.id(), location) {
        Found::Missing => {}
        Found::Stream(id) => streams.push(id),
        // The stream may be settled. Its records are still in the journal, and without a DROP the
        // next opening would miss the directory that they belong to.
        Found::Unreadable if fail_point!(UnreadableNotDropped) => {}
        Found::Unreadable => {
            streams.extend(log.remaining_named(location.name()).map_err(|error| Error::journal(location, error))?);
        }
    }
    streams.sort_unstable();
    streams.dedup();
    Ok(streams)
}

/// Whether the journal has a deletion of a stream of this name that is not finished.
fn has_unfinished(context: &LogContext, location: &Location) -> bool {
    context.log_journal().is_some_and(|log| !log.dropped(location.name()).is_empty())
}

/// The stream that a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The directory does not exist.
    Missing,
    /// No header of a segment of this stream can be read.
    Unreadable,
    /// A stream with this id.
    Stream(StreamId),
}

/// Reads the id of the stream at `location`, in the log `wal_id`, from the header of its newest
/// readable segment. Ignores segments that were moved there from elsewhere.
#[must_use]
pub fn stream_id(storage: &Arc<dyn Storage>, wal_id: WalId, location: &Location) -> Found {
    match newest_readable(storage, wal_id, location) {
        Some((_, id)) => Found::Stream(id),
        None if location.exists(&**storage).is_ok_and(|exists| !exists) => Found::Missing,
        None => Found::Unreadable,
    }
}

/// The newest segment at `location` whose header can be read, and the id of the stream in it.
fn newest_readable(storage: &Arc<dyn Storage>, wal_id: WalId, location: &Location) -> Option<(SegmentId, StreamId)> {
    let entries = storage.list(&location.dir()).ok()?;
    let mut segments: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| match OwnFile::of_name(entry.name) {
            Some(OwnFile::Segment(id)) => Some(id),
            _ => None,
        })
        .collect();
    segments.sort_by_key(|id| std::cmp::Reverse(id.generation));
    let name_crc = SegmentHeader::name_checksum(location.dir_name());
    let id_in = |segment| {
        let file = SegmentFile::open(storage, &location.dir(), segment, Access::Read).ok()?;
        let header = file.header();
        (header.wal_id == wal_id && header.name_crc == name_crc).then_some((segment, header.stream_id))
    };
    segments.into_iter().find_map(id_in)
}

/// Commits the deletion in the journal, if the log has one. Returns whether it did.
///
/// # Errors
/// [`DeleteError::Indeterminate`] if the record may be found by the next opening. Then the stream
/// must not be used any more.
pub(crate) fn commit_in_journal(
    context: &LogContext,
    location: &Location,
    stream: StreamId,
) -> std::result::Result<bool, DeleteError> {
    let Some(log) = context.log_journal() else { return Ok(false) };
    let failed = |error| Error::journal(location, error);
    let position = log.put_drop(stream, location.name()).map_err(|error| match log.failure() {
        Some(_) => DeleteError::Indeterminate(failed(error)),
        None => DeleteError::Undone(failed(error)),
    })?;
    if !fail_point!(DropNotSynced) {
        log.journal.sync_to(position).map_err(|error| DeleteError::Indeterminate(failed(error)))?;
    }
    Ok(true)
}

/// The directory of the deleted stream has durably lost its name.
fn finish_in_journal(context: &LogContext, location: &Location) {
    if let Some(log) = context.log_journal() {
        log.finish_drops(location.name());
    }
}

/// Restarts the commit journal if it has failed.
pub(crate) fn restart_journal(context: &LogContext, location: &Location) -> crate::error::Result<()> {
    let Some(log) = context.log_journal() else { return Ok(()) };
    log.restart().map_err(|error| Error::journal(location, error))?;
    // Readers do not find the new file of the journal by the end of the old one.
    context.notify();
    Ok(())
}

/// Finishes the deletion of an earlier stream of this name, if the journal has one that is not
/// finished. If the journal has failed, it is restarted first, because the deletion must be durable
/// before the directory loses its name.
///
/// # Errors
/// I/O; the call may be repeated.
pub fn finish_deletion(context: &LogContext, location: &Location) -> crate::error::Result<()> {
    let Some(log) = context.log_journal() else { return Ok(()) };
    let dropped = log.dropped(location.name());
    if dropped.is_empty() {
        return Ok(());
    }
    restart_journal(context, location)?;
    match stream_id(context.storage(), context.id(), location) {
        Found::Stream(id) if !dropped.contains(&id) => {}
        Found::Unreadable => {
            let text = "a stream of this name was deleted, and its directory is still there but cannot be read; delete it again";
            return Err(Error::text(ErrorKind::Io, location, text));
        }
        Found::Stream(_) | Found::Missing => {
            let directory = move_away(context, location, true).map_err(DeleteError::into_error)?;
            let has_name = matches!(directory, Directory::Stays);
            match remove_directory(context, location, directory) {
                Err(error) if has_name => return Err(error.into_error()),
                // The next open of the log removes the rest.
                _ => return Ok(()),
            }
        }
    }
    log.finish_drops(location.name());
    Ok(())
}

/// Makes the commit journal ready for the records of a truncation or a deletion: restarts it if it
/// has failed, and makes room. The caller holds no lock.
pub(crate) fn make_room(context: &LogContext, location: &Location, reserve: ReserveUse) -> crate::error::Result<()> {
    restart_journal(context, location)?;
    let Some(log) = context.log_journal() else { return Ok(()) };
    // A journal that has reached its limit is no reason to give up the reserve.
    let is_disk_full = |error: &JournalError| error.is_full() && error.io_kind().is_some();
    let made = context.with_reserve(reserve, is_disk_full, || log.make_control_room(location.name()));
    made.map_err(|error| Error::journal(location, error))
}

/// What became of the directory of a deleted stream.
#[derive(Debug)]
pub(crate) enum Directory {
    /// There was none.
    Absent,
    /// It was durably renamed to this path.
    Moved(PathBuf),
    /// It could not be renamed. The journal has the deletion.
    Stays,
}

/// Durably renames the stream's directory, which is the commit point of a deletion unless it
/// `is_decided` by a record in the journal. Then an error is no [`DeleteError::Undone`].
pub(crate) fn move_away(
    context: &LogContext,
    location: &Location,
    is_decided: bool,
) -> std::result::Result<Directory, DeleteError> {
    let undone = |error| if is_decided { DeleteError::Indeterminate(error) } else { DeleteError::Undone(error) };
    let storage = &**context.storage();
    // A link or a file of this name does not belong to the log and is not removed.
    location.exists(storage).map_err(|e| undone(Error::directory(location, e)))?;
    let gone = layout::deleted_dir(location, storage.random_u64());
    context.prepare_parent_sync(location).map_err(|e| undone(Error::io(location, e)))?;
    // The parent directory may need another block for the new name.
    let renamed =
        context.with_reserve(ReserveUse::Allowed, is_full, || match rename_dir(storage, &location.dir(), &gone) {
            Renamed::Undone(e) => Err(e),
            renamed => Ok(renamed),
        });
    let existed = match renamed {
        Ok(Renamed::Done | Renamed::DoneDespite(_)) => true,
        Ok(Renamed::Absent(_)) => false,
        // The error is not reported: removing the files where they are may succeed.
        Ok(Renamed::Undone(_)) | Err(_) if is_decided => return Ok(Directory::Stays),
        Ok(Renamed::Undone(e)) | Err(e) => return Err(DeleteError::Undone(not_moved(location, e))),
        Ok(Renamed::Unknown(e)) => return Err(DeleteError::Indeterminate(Error::undecided(location, e))),
    };
    // This is needed even if there was no such directory: an earlier deletion may not have been
    // durable.
    context.sync_parent(location).map_err(|e| DeleteError::Indeterminate(Error::undecided(location, e)))?;
    Ok(if existed { Directory::Moved(gone) } else { Directory::Absent })
}

/// The error if the rename failed and the directory has kept its name.
fn not_moved(location: &Location, error: io::Error) -> Error {
    let text = match error.kind() {
        io::ErrorKind::CrossesDevices => {
            "nothing was deleted: an overlay file system cannot rename a directory of its lower layer; copy the log to a new \
             directory, which lies in the upper layer, and delete the stream there"
        }
        io::ErrorKind::ResourceBusy => {
            "nothing was deleted: the stream's directory is in use, as a mount point is; unmount it, and delete the stream \
             again"
        }
        _ => return Error::io(location, error),
    };
    Error::io_about(location, text, &location.dir(), error)
}

/// Removes the directory of a deleted stream, and finishes the deletion in the journal once the
/// directory has durably lost its name. Returns whether there was a directory.
pub(crate) fn remove_directory(
    context: &LogContext,
    location: &Location,
    directory: Directory,
) -> std::result::Result<bool, DeleteError> {
    let removed = match directory {
        Directory::Absent => {
            finish_in_journal(context, location);
            return Ok(false);
        }
        Directory::Moved(gone) => {
            finish_in_journal(context, location);
            remove_own(&**context.storage(), &gone, None)
        }
        Directory::Stays => remove_in_place(context, location),
    };
    context.make_reserve();
    removed.map(|()| true).map_err(|(path, error)| {
        let text = "the stream is deleted, but not everything in its directory could be removed";
        DeleteError::Left(Error::io_about(location, text, &path, error))
    })
}

/// Removes a directory that still has its name. The record in the journal is needed until this has
/// succeeded.
///
/// # Errors
/// The first path that could not be removed, and why.
fn remove_in_place(context: &LogContext, location: &Location) -> std::result::Result<(), (PathBuf, io::Error)> {
    fail_point!(DropFinishedEarly, finish_in_journal(context, location));
    let last = newest_readable(context.storage(), context.id(), location).map(|(segment, _)| segment);
    remove_own(&**context.storage(), &location.dir(), last)?;
    context.sync_parent(location).map_err(|error| (location.parent().to_owned(), error))?;
    finish_in_journal(context, location);
    Ok(())
}

/// Removes a directory that [`is_leftover_dir`](crate::is_leftover_dir) recognizes, with the files
/// of the log in it: segments and temporary files.
///
/// # Errors
/// The error of the first path that could not be removed. All others that can be removed are.
pub fn remove_leftover_dir(storage: &dyn Storage, dir: &Path) -> io::Result<()> {
    remove_own(storage, dir, None).map_err(|(_, error)| error)
}

/// Removes a directory and the log's files in it, as many as possible. Files with other names are
/// not removed. The segment `last` is removed only once everything else is.
///
/// # Errors
/// The first path that could not be removed, and why.
fn remove_own(
    storage: &dyn Storage,
    dir: &Path,
    last: Option<SegmentId>,
) -> std::result::Result<(), (PathBuf, io::Error)> {
    let entries = match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|error| (dir.to_owned(), error))?,
    };
    let mut first_left = None;
    let is_last =
        |name: &OsString| last.is_some_and(|last| OwnFile::of_name(name.clone()) == Some(OwnFile::Segment(last)));
    let (names_last, names): (Vec<_>, Vec<_>) = entries.into_iter().map(|entry| entry.name).partition(is_last);
    for name in names.into_iter().chain(names_last) {
        if first_left.is_some() && is_last(&name) {
            break;
        }
        let path = dir.join(&name);
        let removed = if OwnFile::of_name(name).is_some() {
            remove_file(storage, &path)
        } else {
            Err(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "this is not a file of the log; move it away or remove it by hand",
            ))
        };
        if let (Err(error), None) = (removed, &first_left) {
            first_left = Some((path, error));
        }
    }
    if let Some(left) = first_left {
        return Err(left);
    }
    match storage.remove_dir(dir) {
        Err(error) if dir_exists(storage, dir) != Some(false) => Err((dir.to_owned(), error)),
        _ => Ok(()),
    }
}
