//! The files of one stream, as recovery reads and writes them.

use std::io;
use std::path::PathBuf;

use stratawal_frame::SegmentHeader;
use stratawal_segment::{Access, SegmentFile, SegmentId};
use stratawal_storage::Storage;

use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::location::Location;
use crate::options::StreamOptions;
use std::sync::Arc;

/// How many times a reader lists and reads the files while a writer keeps changing them.
pub(super) const LOOKS_MAX: usize = 200;

/// The files of the stream at `location`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamFiles<'a> {
    pub(super) context: &'a LogContext,
    pub(super) location: &'a Location,
    pub(super) options: &'a StreamOptions,
}

impl<'a> StreamFiles<'a> {
    pub(crate) const fn new(context: &'a LogContext, location: &'a Location, options: &'a StreamOptions) -> Self {
        Self { context, location, options }
    }

    pub(super) const fn storage(&self) -> &'a Arc<dyn Storage> {
        self.context.storage()
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.location.dir()
    }

    /// Whether the stream's directory exists.
    pub(crate) fn exist(&self) -> Result<bool> {
        self.location.exists(&**self.storage()).map_err(|e| Error::directory(self.location, e))
    }

    /// Opens a segment for reading. If its file is damaged, the error describes the damage.
    pub(crate) fn open(&self, id: SegmentId) -> stratawal_segment::Result<SegmentFile> {
        SegmentFile::open(self.storage(), &self.dir(), id, Access::Read)
    }

    pub(super) fn open_to_write(&self, id: SegmentId) -> Result<SegmentFile> {
        SegmentFile::open(self.storage(), &self.dir(), id, Access::ReadWrite).map_err(|e| self.failed(e))
    }

    /// Reopens the segment that had this header when it was listed.
    pub(super) fn open_again(&self, header: &SegmentHeader) -> Result<SegmentFile> {
        let file = self.open(SegmentId::of(header)).map_err(|e| self.failed(e))?;
        if file.header() == header {
            Ok(file)
        } else {
            // By now another stream has this name, and its files have the same names.
            Err(Error::io(self.location, io::ErrorKind::NotFound.into()))
        }
    }

    /// The error of an operation on a segment.
    pub(crate) fn failed(&self, error: stratawal_segment::Error) -> Error {
        Error::segment_error(self.location, error)
    }

    /// The damage of a segment that ends at `offset`, although it must have more entries.
    pub(crate) fn lost_at(&self, id: SegmentId, offset: u64) -> Error {
        Error::damage_at(self.location, DamageKind::Lost, Some(id), Some(offset))
    }

    /// The error of a reader that has tried [`LOOKS_MAX`] times.
    pub(crate) fn change_too_fast(&self) -> Error {
        let text = "the stream changes faster than it can be read; try again";
        Error::text(ErrorKind::Io, self.location, text)
    }
}
