//! Rule H of the format: a segment is written under a temporary name, its header is synced, the
//! file is renamed, and the directory is synced. Only then is any frame written to it.
//!
//! So an invalid header in a file with the name of a segment is damage, never a torn creation. A
//! creation that fails before the rename is undone. Once the rename has begun, the outcome of a
//! failure is not known: the name may reappear after a crash and void entries of older segments. So
//! nothing may be written to those until recovery has run.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_frame::{SEGMENT_HEADER_LEN, SegmentHeader};
use stratawal_storage::{Access, DirToSync, File, Storage};
use stratawal_sync::fail_point;
use thiserror::Error;

use super::preallocation::{Preallocation, active_len};
use super::writer::SegmentWriter;
use crate::{Error, SegmentId, TEMPORARY_PREFIX};

/// Why a segment was not created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// Nothing has changed; the stream can continue.
    #[error("{0}")]
    Undone(#[source] Error),
    /// The name may or may not exist after a crash: recovery must run before anything is written to
    /// an older segment.
    #[error("{0}")]
    Indeterminate(#[source] Error),
}

/// Creates a segment with `header` in the directory `dir`, and preallocates `len` bytes, rounded up
/// by the rule of Length.
///
/// Once this returns, the file, its header and its name are durable.
///
/// # Errors
/// [`CreateError`], which distinguishes whether anything may have changed.
pub fn create(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    header: &SegmentHeader,
    len: u64,
) -> Result<(SegmentWriter, Preallocation), CreateError> {
    let id = SegmentId::of(header);
    let path = dir.join(id.to_string());
    // A rename would replace an existing file with this name. No generation is used twice, so only
    // another writer can have created the file; recovery finds out.
    match storage.open(&path, Access::Read).map(drop) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) if e.kind() != io::ErrorKind::InvalidInput => {
            return Err(CreateError::Undone(Error::io(id, "create")(e)));
        }
        Ok(()) | Err(_) => {
            let source = io::ErrorKind::AlreadyExists.into();
            return Err(CreateError::Indeterminate(Error::io(id, "create")(source)));
        }
    }
    // Opened before the rename, so that a process without free descriptors fails while nothing has
    // changed.
    let dir_to_sync = DirToSync::new(storage, dir)
        .map_err(|source| CreateError::Undone(Error::io(id, "open the directory")(source)))?;
    let len = active_len(len.max(SEGMENT_HEADER_LEN as u64));
    let (temporary, file) =
        create_temporary(storage, dir, id).map_err(|source| CreateError::Undone(Error::io(id, "create")(source)))?;
    write_header(&*file, header, len).map_err(|(operation, source)| {
        // If the file cannot be removed now, recovery removes it. No reader opens a file with a
        // temporary name.
        let _ = storage.remove_file(&temporary);
        CreateError::Undone(Error::io(id, operation)(source))
    })?;
    if let Err(source) = storage.rename(&temporary, &path) {
        let error = Error::io(id, "rename")(source);
        let absent = matches!(storage.open(&path, Access::Read), Err(e) if e.kind() == io::ErrorKind::NotFound);
        if absent && storage.remove_file(&temporary).is_ok() {
            return Err(CreateError::Undone(error));
        }
        return Err(CreateError::Indeterminate(error));
    }
    if !fail_point!(DirSyncSkipped) {
        dir_to_sync.sync().map_err(|source| CreateError::Indeterminate(Error::io(id, "sync the directory")(source)))?;
    }
    let preallocation = Preallocation::new(id, Arc::clone(&file), len);
    Ok((SegmentWriter::new(*header, file), preallocation))
}

/// Creates an empty file under a temporary name.
fn create_temporary(storage: &Arc<dyn Storage>, dir: &Path, id: SegmentId) -> io::Result<(PathBuf, Arc<dyn File>)> {
    let path = dir.join(format!("{TEMPORARY_PREFIX}{id}"));
    match storage.create_new(&path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Ok(file) => return Ok((path, file)),
        Err(e) => {
            // The file may exist although the system reported an error.
            let _ = storage.remove_file(&path);
            return Err(e);
        }
    }
    // An earlier creation failed and could not be undone. If its file cannot be removed, a
    // different name is used, so that the stream is not blocked forever.
    let path = match storage.remove_file(&path) {
        Ok(()) => path,
        Err(_) => dir.join(format!("{TEMPORARY_PREFIX}{id}-{:016x}", storage.random_u64())),
    };
    storage.create_new(&path).map(|file| (path, file))
}

fn write_header(file: &dyn File, header: &SegmentHeader, len: u64) -> Result<(), (&'static str, io::Error)> {
    file.preallocate(len).map_err(|e| ("reserve space", e))?;
    file.write_all_at(&header.encode(), 0).map_err(|e| ("write the header", e))?;
    file.sync_all().map_err(|e| ("sync the header", e))
}
