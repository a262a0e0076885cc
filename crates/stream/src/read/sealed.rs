//! A sealed segment in the cache: loaded once from its file, and shared by all readers.
//!
//! The index comes from the segment's SEAL. A SEAL may lack its index, and a reader that runs
//! alongside a writer may open a segment whose SEAL is not yet written. In both cases the frames
//! are scanned.

use std::io;
use std::sync::Arc;

use stratawal_frame::{ByteOffset, SEGMENT_HEADER_LEN, SegmentHeader};
use stratawal_index::{Bounds, Index, IndexBuilder, PackedIndex};
use stratawal_segment::{
    Access, Finished, FrameLayout, FrameSearch, MapPromise, SegmentData, SegmentFile, SegmentId, SpanState,
};
use stratawal_storage::Storage;
use stratawal_sync::AtomicBitSet;

use super::snapshot::first_point;
use crate::error::{Error, Result};
use crate::history::{contradicts_frame, last_frame_crc};
use crate::location::Location;
use crate::options::StreamOptions;

/// An open sealed segment: its bytes and its index.
#[derive(Debug)]
pub(crate) struct SealedSegment {
    pub(super) data: SegmentData,
    pub(super) index: PackedIndex,
    /// The offset at which its entries end in the file.
    pub(super) end: u64,
    pub(super) span_states: SpanStates,
}

impl SealedSegment {
    /// Loads the segment with this header. Also returns how many bytes of memory it takes.
    ///
    /// The file is mapped if `map` allows it. `next` is the header of the following segment, if
    /// known; the last frame of this segment must then be the one that `next` records. If that
    /// frame cannot be read, this call does not fail: reading its entries reports why.
    ///
    /// # Errors
    /// I/O; damage; `NotFound` if the name now belongs to a segment of another stream.
    pub(super) fn load(
        storage: &Arc<dyn Storage>,
        map: Option<MapPromise>,
        location: &Location,
        options: &StreamOptions,
        header: &SegmentHeader,
        next: Option<&SegmentHeader>,
    ) -> Result<(Self, usize)> {
        let failed = |e| Error::segment_error(location, e);
        let id = SegmentId::of(header);
        let file = SegmentFile::open(storage, &location.dir(), id, Access::Read).map_err(failed)?;
        if file.header() != header {
            return Err(Error::io(location, io::ErrorKind::NotFound.into()));
        }
        let finished = file.finished().map_err(failed)?;
        let sealed_at = finished.as_ref().map(|finished| finished.offset);
        let (index, end) = match finished.and_then(|finished| index_of_seal(id, &finished)) {
            Some(found) => found,
            None => index_by_scan(&file, options, sealed_at).map_err(failed)?,
        };
        if let Some(next) = next {
            check_last_frame(&file, &index, next, location)?;
        }
        let data = match map {
            // Without a SEAL, the end of the file may still be rewritten, and the bytes of a
            // mapping must not change.
            Some(promise) if sealed_at.is_some() => {
                // If the process is at a limit or the file system has no mappings, reads still
                // work. Reads also report damage.
                SegmentData::map(&file, end.0, promise).unwrap_or_else(|_| SegmentData::read(&file))
            }
            _ => SegmentData::read(&file),
        };
        let index = PackedIndex::new(&index);
        let span_states = SpanStates::new(index.len());
        let weight = index.weight() + index.len() / 4 + size_of::<Self>();
        Ok((Self { data, index, end: end.0, span_states }, weight))
    }
}

/// For each span of an index, whether its frames were verified and how they are laid out; see
/// [`SpanState`]. Both bits of a span are clear until the span is read.
#[derive(Debug)]
pub(super) struct SpanStates {
    uniform: AtomicBitSet,
    varied: AtomicBitSet,
}

impl SpanStates {
    fn new(spans: usize) -> Self {
        Self { uniform: AtomicBitSet::new(spans), varied: AtomicBitSet::new(spans) }
    }

    pub(super) fn state(&self, i: usize) -> SpanState {
        if self.uniform.get(i) {
            SpanState::Verified(FrameLayout::Uniform)
        } else if self.varied.get(i) {
            SpanState::Verified(FrameLayout::Varied)
        } else {
            SpanState::Unread
        }
    }

    pub(super) fn set(&self, i: usize, layout: FrameLayout) {
        match layout {
            FrameLayout::Uniform => self.uniform.set(i),
            FrameLayout::Varied => self.varied.set(i),
        }
    }
}

/// Returns the index in the SEAL of segment `id` and the offset of the SEAL, or `None` if the index
/// is missing or invalid.
fn index_of_seal(id: SegmentId, finished: &Finished) -> Option<(Index, ByteOffset)> {
    let bounds = Bounds {
        seq: id.base.0..finished.frame.first_seq.0.max(id.base.0),
        offset: SEGMENT_HEADER_LEN as u64..finished.offset.0,
    };
    let index = Index::decode(&finished.footer.index, &bounds).ok()?;
    // A SEAL written on a full disk has no index, even if the segment has entries.
    (!index.is_empty() || finished.footer.entries == 0).then_some((index, finished.offset))
}

/// Builds the index of a segment from its frames. Also returns the offset at which its entries end.
///
/// `sealed_at` is the offset of its SEAL. If the chain breaks before the SEAL, the frames after the
/// damage are found by their headers and indexed, so that their entries can be read. Reading the
/// damaged entries reports the damage.
fn index_by_scan(
    file: &SegmentFile,
    options: &StreamOptions,
    sealed_at: Option<ByteOffset>,
) -> stratawal_segment::Result<(Index, ByteOffset)> {
    let mut builder = IndexBuilder::new(options.index_interval_bytes);
    let chain = file.scan_chain(&mut |offset, frame| {
        if !frame.is_control() {
            // In a hostile file, times may go backwards. Such a frame gets no point and is found
            // from the point before it.
            let _ = builder.push(frame.first_seq.0, offset.0, frame.timestamp);
        }
    })?;
    let Some(sealed_at) = sealed_at.filter(|&at| at > chain.end) else { return Ok((builder.finish(), chain.end)) };
    let mut search = FrameSearch::new(file, chain.end);
    let mut next_seq = chain.end_seq;
    while let Some(found) = search.next_frame()?
        && found.offset < sealed_at
    {
        if found.is_whole && !found.header.is_control() && found.header.first_seq >= next_seq {
            let _ = builder.push(found.header.first_seq.0, found.offset.0, found.header.timestamp);
            next_seq = found.header.end_seq();
        }
    }
    Ok((builder.finish(), sealed_at))
}

/// Checks that the last frame of `file` is the one that `next`, the header of the following
/// segment, records.
///
/// # Errors
/// [`DamageKind::History`](crate::DamageKind::History) if it is a different frame.
fn check_last_frame(file: &SegmentFile, index: &Index, next: &SegmentHeader, location: &Location) -> Result<()> {
    let last = next.base.0.saturating_sub(1);
    let point = index.floor(last).map_or_else(|| first_point(file.header()), |span| span.point);
    let crc = last_frame_crc(&SegmentData::read(file), point, next.base.0);
    if crc.is_some_and(|crc| contradicts_frame(crc, next)) {
        return Err(Error::history(location, file.id(), SegmentId::of(next)));
    }
    Ok(())
}
