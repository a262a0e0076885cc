//! Step 1: the files in the stream's directory, and the headers of its segments.

use std::collections::BTreeMap;
use std::ffi::OsString;

use stratawal_frame::{SegmentHeader, StreamId};
use stratawal_segment::{SegmentFile, SegmentId};

use super::files::StreamFiles;
use super::found::{FoundSegment, RememberedSegment, SegmentHandle};
use super::lost_range;
use crate::error::{DamageKind, Error, Result};
use crate::layout::OwnFile;

/// The log's files in the stream's directory.
#[derive(Debug)]
pub(super) struct Listing {
    /// The segments in order of generation.
    pub(super) segments: Vec<SegmentId>,
    /// Files that were being created when their process died.
    pub(super) temporaries: Vec<OsString>,
}

/// Lists the stream's directory. A stream without segments is damaged.
pub(super) fn list(files: &StreamFiles<'_>) -> Result<Listing> {
    let entries = files.storage().list(&files.dir()).map_err(|e| Error::directory(files.location, e))?;
    let mut segments = Vec::new();
    let mut temporaries = Vec::new();
    for entry in entries {
        match OwnFile::of_name(entry.name) {
            Some(OwnFile::Segment(id)) => segments.push(id),
            Some(OwnFile::Temporary(name)) => temporaries.push(name),
            None => {}
        }
    }
    if segments.is_empty() {
        return Err(Error::damage_at(files.location, DamageKind::NoSegment, None, None));
    }
    segments.sort_by_key(|id| id.generation);
    Ok(Listing { segments, temporaries })
}

/// Lists the segments in order of generation. There may be none.
pub(crate) fn list_segments(files: &StreamFiles<'_>) -> Result<Vec<SegmentId>> {
    match list(files) {
        Ok(listing) => Ok(listing.segments),
        Err(error) if error.damage() == Some(DamageKind::NoSegment) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Reads the headers of the segments `all`, in order of generation. Each header must be valid and
/// must match its file name and the stream of the others. Headers in `remembered` are not read
/// again, and the newest file may already be open.
pub(super) fn read_headers(
    files: &StreamFiles<'_>,
    all: &[SegmentId],
    remembered: &mut BTreeMap<SegmentId, RememberedSegment>,
    mut newest: Option<SegmentFile>,
) -> Result<Vec<FoundSegment>> {
    let mut found = Vec::with_capacity(all.len());
    // The newest segment is read first: it determines which stream this is.
    let mut stream_id = None;
    for (i, &id) in all.iter().enumerate().rev() {
        let known = remembered.remove(&id);
        let handle = match (newest.take(), &known) {
            (Some(file), _) => SegmentHandle::Open(file),
            (None, Some(known)) => SegmentHandle::Closed(known.header),
            (None, None) => {
                let file = files.open(id).map_err(|e| lost_range::unreadable(files, all, id, e))?;
                SegmentHandle::Open(file)
            }
        };
        let header = *handle.header();
        if let Some(error) = misplaced(files, &header, &mut stream_id, all.get(i + 1)) {
            if error.damage() == Some(DamageKind::History) {
                return Err(error);
            }
            return Err(lost_range::by_name(files, all, id, error));
        }
        let is_newest = i + 1 == all.len();
        let footer = match (&known, &handle) {
            _ if is_newest => None,
            // Once a file ends in a SEAL, it stays that way.
            (Some(RememberedSegment { footer: Some(footer), .. }), _) => Some(*footer),
            (_, SegmentHandle::Open(file)) => file.peek_footer().map_err(|e| files.failed(e))?,
            (_, SegmentHandle::Closed(header)) => {
                files.open_again(header)?.peek_footer().map_err(|e| files.failed(e))?
            }
        };
        let handle = if is_newest { handle } else { SegmentHandle::Closed(header) };
        let mut segment = FoundSegment::new(handle, footer);
        if let Some(known) = known {
            segment.is_sealed = known.is_sealed;
            segment.earlier_scan = known.scan;
        }
        found.push(segment);
    }
    found.reverse();
    Ok(found)
}

/// Returns an error if the segment with this valid header does not belong in this directory, or
/// does not belong before `next`, the next segment in order of generation. `stream_id` is that of
/// newer segments.
pub(super) fn misplaced(
    files: &StreamFiles<'_>,
    header: &SegmentHeader,
    stream_id: &mut Option<StreamId>,
    next: Option<&SegmentId>,
) -> Option<Error> {
    let why = if header.wal_id != files.context.id() {
        "it belongs to another log"
    } else if header.name_crc != SegmentHeader::name_checksum(files.location.dir_name()) {
        "it belongs to a stream with another name"
    } else if *stream_id.get_or_insert(header.stream_id) != header.stream_id {
        "it belongs to another stream that had this name"
    } else {
        // Generations are never used twice.
        let twice = next.filter(|next| next.generation == header.generation);
        return twice.map(|&next| Error::history(files.location, SegmentId::of(header), next));
    };
    Some(Error::misplaced(files.location, SegmentId::of(header), why))
}
