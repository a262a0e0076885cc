//! A segment open for reading: its bytes, and the search in its index.

use std::ops::Range;
use std::sync::Arc;

use stratawal_frame::{SegmentHeader, SeqNo};
use stratawal_index::{CacheKey, IndexPoint, Span};
use stratawal_segment::{FoundEntry, SegmentData, SpanState};

use super::sealed::SealedSegment;
use super::snapshot::{LiveSegment, PublishedSegment, SegmentState, first_point};
use crate::context::LogContext;
use crate::error::Result;
use crate::history::Predecessor;
use crate::location::Location;
use crate::options::StreamOptions;

/// A segment open for reading.
#[derive(Clone, Debug)]
pub(crate) enum SegmentReader {
    Live(Arc<LiveSegment>),
    Sealed(Arc<SealedSegment>),
}

impl PublishedSegment {
    /// Opens the segment for reading. A sealed segment comes from the cache, or is loaded into it.
    /// `next` is the header of the following segment.
    pub(crate) fn open(
        &self,
        context: &LogContext,
        location: &Location,
        options: &StreamOptions,
        next: Option<&SegmentHeader>,
    ) -> Result<SegmentReader> {
        match &self.state {
            SegmentState::Live(live) => Ok(SegmentReader::Live(Arc::clone(live))),
            SegmentState::Sealed => {
                let key = CacheKey { stream_id: self.header.stream_id.0, generation: self.header.generation.0 };
                let load = || self.load_sealed(context, location, options, next);
                context.cache.get_or_load(key, load).map(SegmentReader::Sealed)
            }
        }
    }

    /// Opens the segment for reading without checking which segment follows it. Does not use the
    /// cache.
    pub(crate) fn open_alone(
        &self,
        context: &LogContext,
        location: &Location,
        options: &StreamOptions,
    ) -> Result<SegmentReader> {
        match &self.state {
            SegmentState::Live(live) => Ok(SegmentReader::Live(Arc::clone(live))),
            SegmentState::Sealed => {
                let (sealed, _) = self.load_sealed(context, location, options, None)?;
                Ok(SegmentReader::Sealed(Arc::new(sealed)))
            }
        }
    }

    fn load_sealed(
        &self,
        context: &LogContext,
        location: &Location,
        options: &StreamOptions,
        next: Option<&SegmentHeader>,
    ) -> Result<(SealedSegment, usize)> {
        SealedSegment::load(context.storage(), context.map_promise(), location, options, &self.header, next)
    }
}

impl SegmentReader {
    pub(crate) fn data(&self) -> &SegmentData {
        match self {
            Self::Live(live) => &live.data,
            Self::Sealed(sealed) => &sealed.data,
        }
    }

    /// The offset at which the segment's entries currently end in the file.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Live(live) => live.end(),
            Self::Sealed(sealed) => sealed.end,
        }
    }

    /// Returns entry `seq` if one short read finds it; see [`SegmentData::entry`]. A sealed segment
    /// remembers which spans were verified.
    pub(crate) fn entry(&self, seq: u64, len_max: u64) -> stratawal_segment::Result<Option<FoundEntry>> {
        let known = match self {
            Self::Sealed(sealed) => sealed.index.position_of(seq).map(|i| (sealed, i)),
            Self::Live(_) => None,
        };
        let (point, span) = match known {
            Some((sealed, i)) => self.bounded(sealed.index.span_at(i)),
            None => self.span(seq),
        };
        let state = match known {
            Some((sealed, i)) => sealed.span_states.state(i),
            None => SpanState::Growing,
        };
        let found = self.data().entry(span, SeqNo(point.seq), SeqNo(seq), len_max, state)?;
        if let (Some((sealed, i)), SpanState::Unread, Some(FoundEntry { layout: Some(layout), .. })) =
            (known, state, &found)
        {
            sealed.span_states.set(i, *layout);
        }
        Ok(found)
    }

    /// The bytes to read for `seq`: from a frame at or before it up to the next index point or the
    /// end. Also returns the index point of that frame.
    pub(crate) fn span(&self, seq: u64) -> (IndexPoint, Range<u64>) {
        self.bounded(self.floor(seq))
    }

    /// Like [`span`](Self::span), for the first entry at or after `timestamp`.
    pub(crate) fn span_at(&self, timestamp: u64) -> (IndexPoint, Range<u64>) {
        self.bounded(match self {
            Self::Live(live) => live.index.floor_time(timestamp),
            Self::Sealed(sealed) => sealed.index.floor_time(timestamp),
        })
    }

    /// The index point after the one from which the search for `seq` begins. Reading can begin
    /// there without the frames before it.
    pub(crate) fn next_point(&self, seq: u64) -> Option<IndexPoint> {
        self.floor(seq).and_then(|span| span.next)
    }

    /// The length in bytes of the longest run of frames between two points of the index, which no
    /// frame exceeds.
    pub(crate) fn span_len_max(&self) -> u64 {
        let span_at = |i| match self {
            Self::Live(live) => live.index.span_at(i),
            Self::Sealed(sealed) => sealed.index.span_at(i),
        };
        let spans = (0..).map_while(span_at).map(|span| self.bounded(Some(span)).1);
        spans.map(|span| span.end.saturating_sub(span.start)).max().unwrap_or_else(|| self.end())
    }

    /// This segment as the predecessor of a segment that begins at `base`.
    pub(crate) fn predecessor_of(&self, base: u64) -> Predecessor {
        let (point, _) = self.span(base.saturating_sub(1));
        Predecessor::from_point(self.data(), point, base)
    }

    fn floor(&self, seq: u64) -> Option<Span> {
        match self {
            Self::Live(live) => live.index.floor(seq),
            Self::Sealed(sealed) => sealed.index.floor(seq),
        }
    }

    fn bounded(&self, span: Option<Span>) -> (IndexPoint, Range<u64>) {
        let point = span.map_or_else(|| first_point(self.data().header()), |span| span.point);
        // The index may already have a point beyond the current end.
        let end = span.and_then(|span| span.next).map_or(u64::MAX, |next| next.offset).min(self.end());
        (point, point.offset..end)
    }
}
