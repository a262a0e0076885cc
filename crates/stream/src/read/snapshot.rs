//! What readers see: an immutable list of segments, published whole, and how each is read.
//!
//! A reader loads the watermark first and the snapshot after it. The writer publishes a snapshot before it
//! lets the watermark pass into a new segment, and stores the end of the active one before the
//! watermark, so what a watermark promises is found through any snapshot loaded after it.

use std::io;

use stratawal_frame::{ByteOffset, SEGMENT_HEADER_LEN, SegmentHeader, SeqNo};
use stratawal_index::{ActiveIndex, Bounds, CacheKey, Index, IndexBuilder, IndexPoint, PackedIndex, Span};
use stratawal_segment::{Access, FoundEntry, FrameLayout, FrameSearch, SegmentData, SegmentFile, SegmentId, SpanState};

use crate::context::{Location, LogContext};
use crate::error::{Error, Result};
use crate::history::{contradicts_frame, last_frame_crc};
use crate::options::StreamOptions;
use crate::sync::{Arc, Bits, Mark};

/// The segments of a stream in order.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) segments: Vec<Arc<PublishedSegment>>,
    /// Their bases side by side: a search through a long stream touches these, and no header.
    bases: Box<[u64]>,
    /// For each, the earliest time that it or a later one begins with: these rise, though times may
    /// begin anew.
    times: Box<[u64]>,
}

impl Snapshot {
    pub(crate) fn new(segments: Vec<Arc<PublishedSegment>>) -> Self {
        let bases = segments.iter().map(|segment| segment.header.base.0).collect();
        let mut times: Box<[u64]> = segments.iter().map(|segment| segment.header.last_timestamp).collect();
        for i in (1..times.len()).rev() {
            times[i - 1] = times[i - 1].min(times[i]);
        }
        Self { segments, bases, times }
    }

    /// The number of the segment that holds `seq`, if it is not before the first.
    pub(crate) fn find(&self, seq: u64) -> Option<usize> {
        self.bases.partition_point(|&base| base <= seq).checked_sub(1)
    }

    /// The number of the newest segment that begins before `timestamp`, if there is one.
    pub(crate) fn find_time(&self, timestamp: u64) -> Option<usize> {
        self.times.partition_point(|&time| time < timestamp).checked_sub(1)
    }

    /// Where the entries of segment `i` end: where the next begins.
    pub(crate) fn limit(&self, i: usize) -> u64 {
        self.bases.get(i + 1).copied().unwrap_or(u64::MAX)
    }
}

impl Snapshot {
    /// From where on the entries of this snapshot, which ended at `end`, may not be those of `newer`, a
    /// later one of the same stream that begins at `start`. Entries that are below that now were
    /// dropped, for all that can be told.
    pub(crate) fn diverges_at(&self, end: u64, newer: &Self, start: u64) -> Option<u64> {
        let cut_of = |(i, segment): (usize, &Arc<PublishedSegment>)| {
            let same = newer.find(segment.header.base.0).filter(|&at| newer.segments[at].header == segment.header);
            match same.map(|at| newer.limit(at)) {
                Some(limit) => (limit < self.limit(i)).then_some(limit),
                // Dropped from the beginning, or void. Where it is both, what was dropped counts as
                // that.
                None => (self.limit(i).min(end) > start).then_some(segment.header.base.0.max(start)),
            }
        };
        self.segments.iter().enumerate().filter_map(cut_of).min()
    }
}

/// One segment, as readers see it.
#[derive(Debug)]
pub(crate) struct PublishedSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) state: SegmentState,
}

#[derive(Debug)]
pub(crate) enum SegmentState {
    /// Being written, or not yet settled, or (for a reader beside a writer) scanned: its index is
    /// in memory.
    Live(Arc<LiveSegment>),
    /// Whole and durable: opened when it is read, through the cache.
    Sealed,
}

/// A segment whose index is in memory.
#[derive(Debug)]
pub(crate) struct LiveSegment {
    pub(crate) data: SegmentData,
    /// It may have points after the end: a reader that looks again adds to the index that it has.
    pub(crate) index: Arc<ActiveIndex>,
    /// Where its entries end in the file.
    end: Mark,
}

impl LiveSegment {
    pub(crate) fn new(data: SegmentData, index: Arc<ActiveIndex>, end: u64) -> Self {
        Self { data, index, end: Mark::new(end) }
    }

    /// Behind the bytes and the index points.
    pub(crate) fn set_end(&self, end: u64) {
        self.end.store(end);
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load()
    }
}

/// A sealed segment in the cache: its file and its index.
#[derive(Debug)]
pub(crate) struct SealedSegment {
    data: SegmentData,
    index: PackedIndex,
    end: u64,
    span_states: SpanStates,
}

/// Of which points of an index the span was gone through, see [`SpanState`].
#[derive(Debug)]
struct SpanStates {
    uniform: Bits,
    varied: Bits,
}

impl SpanStates {
    fn new(points: usize) -> Self {
        Self { uniform: Bits::new(points), varied: Bits::new(points) }
    }

    fn state(&self, i: usize) -> SpanState {
        if self.uniform.get(i) {
            SpanState::Verified(FrameLayout::Uniform)
        } else if self.varied.get(i) {
            SpanState::Verified(FrameLayout::Varied)
        } else {
            SpanState::Unread
        }
    }

    fn set(&self, i: usize, layout: FrameLayout) {
        match layout {
            FrameLayout::Uniform => self.uniform.set(i),
            FrameLayout::Varied => self.varied.set(i),
        }
    }
}

/// A segment that is open for reading.
#[derive(Clone, Debug)]
pub(crate) enum SegmentReader {
    Live(Arc<LiveSegment>),
    Sealed(Arc<SealedSegment>),
}

impl SegmentReader {
    pub(crate) fn data(&self) -> &SegmentData {
        match self {
            Self::Live(live) => &live.data,
            Self::Sealed(loaded) => &loaded.data,
        }
    }

    /// Where its entries end in the file, now.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Live(live) => live.end(),
            Self::Sealed(loaded) => loaded.end,
        }
    }

    /// Entry `seq`, where one short read finds it; see [`SegmentData::entry`]. A sealed segment
    /// remembers what was gone through.
    pub(crate) fn entry(&self, seq: u64, len_max: u64) -> stratawal_segment::Result<Option<FoundEntry>> {
        let known = match self {
            Self::Sealed(loaded) => loaded.index.position_of(seq).map(|i| (loaded, i)),
            Self::Live(_) => None,
        };
        let (point, span) = match known {
            Some((loaded, i)) => self.bounded(loaded.index.span_at(i)),
            None => self.span(seq),
        };
        let state = match known {
            Some((loaded, i)) => loaded.span_states.state(i),
            None => SpanState::Growing,
        };
        let found = self.data().entry(span, SeqNo(point.seq), SeqNo(seq), len_max, state)?;
        if let (Some((loaded, i)), SpanState::Unread, Some(FoundEntry { layout: Some(layout), .. })) =
            (known, state, &found)
        {
            loaded.span_states.set(i, *layout);
        }
        Ok(found)
    }

    /// The bytes to read for `seq`: from a frame at or before it to the next point or the end.
    pub(crate) fn span(&self, seq: u64) -> (IndexPoint, std::ops::Range<u64>) {
        let span = match self {
            Self::Live(live) => live.index.floor(seq),
            Self::Sealed(loaded) => loaded.index.floor(seq),
        };
        self.bounded(span)
    }

    /// The point of the index behind the one that `seq` is looked for from: there reading begins
    /// anew.
    pub(crate) fn next_point(&self, seq: u64) -> Option<IndexPoint> {
        match self {
            Self::Live(live) => live.index.floor(seq),
            Self::Sealed(loaded) => loaded.index.floor(seq),
        }
        .and_then(|span| span.next)
    }

    /// The same for the first entry at or after a time.
    pub(crate) fn span_at(&self, timestamp: u64) -> (IndexPoint, std::ops::Range<u64>) {
        let span = match self {
            Self::Live(live) => live.index.floor_time(timestamp),
            Self::Sealed(loaded) => loaded.index.floor_time(timestamp),
        };
        self.bounded(span)
    }

    fn bounded(&self, span: Option<Span>) -> (IndexPoint, std::ops::Range<u64>) {
        let point = span.map_or_else(|| first_point(self.data().header()), |span| span.point);
        // A point may be there before the end has passed it.
        let end = span.and_then(|span| span.next).map_or(u64::MAX, |next| next.offset).min(self.end());
        (point, point.offset..end)
    }
}

/// Where reading begins in a segment whose index has no point before.
pub(crate) const fn first_point(header: &SegmentHeader) -> IndexPoint {
    IndexPoint { seq: header.base.0, offset: SEGMENT_HEADER_LEN as u64, timestamp: header.last_timestamp }
}

impl PublishedSegment {
    pub(crate) fn id(&self) -> SegmentId {
        SegmentId::of(&self.header)
    }

    /// Opens it for reading; from the cache where it is there. `next` is the header of the segment
    /// after it.
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
                context
                    .cache
                    .get_or_load(key, || load(context, location, options, &self.header, next))
                    .map(SegmentReader::Sealed)
            }
        }
    }

    /// Opens it for reading, whatever comes after it. The cache does not keep it.
    pub(crate) fn open_alone(
        &self,
        context: &LogContext,
        location: &Location,
        options: &StreamOptions,
    ) -> Result<SegmentReader> {
        match &self.state {
            SegmentState::Live(live) => Ok(SegmentReader::Live(Arc::clone(live))),
            SegmentState::Sealed => {
                let (loaded, _) = load(context, location, options, &self.header, None)?;
                Ok(SegmentReader::Sealed(Arc::new(loaded)))
            }
        }
    }
}

/// Opens a segment that is whole: its index from its SEAL, or by a scan where it has none. A reader
/// beside a writer may open one that is not finished yet.
///
/// Its last frame must be the one that `next`, the header of the segment after it, states. Where
/// that frame cannot be read, reading its entries reports why.
fn load(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    header: &SegmentHeader,
    next: Option<&SegmentHeader>,
) -> Result<(SealedSegment, usize)> {
    let failed = |e| Error::segment_error(location, e);
    let id = SegmentId::of(header);
    let file = SegmentFile::open(context.storage(), &location.dir(), id, Access::Read).map_err(failed)?;
    if file.header() != header {
        // Another stream has the name by now, and with it the names of its files.
        return Err(Error::io(location, io::ErrorKind::NotFound.into()));
    }
    let finished = file.finished().map_err(failed)?;
    let sealed_at = finished.as_ref().map(|finished| finished.offset);
    let indexed = finished.and_then(|finished| {
        let bounds = Bounds {
            seq: id.base.0..finished.frame.first_seq.0.max(id.base.0),
            offset: SEGMENT_HEADER_LEN as u64..finished.offset.0,
        };
        let index = Index::decode(&finished.footer.index, &bounds).ok()?;
        // A SEAL drops its index on a full disk; one without points says nothing of entries that
        // are there.
        (!index.is_empty() || finished.footer.entries == 0).then_some((index, finished.offset))
    });
    let (index, end) = match indexed {
        Some(found) => found,
        None => index_by_scan(&file, options, sealed_at).map_err(failed)?,
    };
    if let Some(next) = next {
        let last = next.base.0.saturating_sub(1);
        let point = index.floor(last).map_or_else(|| first_point(header), |span| span.point);
        let crc = last_frame_crc(&SegmentData::read(&file), point, next.base.0);
        if crc.is_some_and(|crc| contradicts_frame(crc, next)) {
            return Err(Error::history(location, id, SegmentId::of(next)));
        }
    }
    let data = match options.map {
        // The end of a file that is not finished may still be written again, and a mapping must not
        // change.
        Some(promise) if sealed_at.is_some() => {
            // Whatever forbids the mapping (a limit, a file system without them) need not forbid
            // reading. Reads report damage, too.
            SegmentData::map(&file, end.0, promise).unwrap_or_else(|_| SegmentData::read(&file))
        }
        _ => SegmentData::read(&file),
    };
    let index = PackedIndex::new(&index);
    let span_states = SpanStates::new(index.len());
    let weight = index.weight() + index.len() / 4 + std::mem::size_of::<SealedSegment>();
    Ok((SealedSegment { data, index, end: end.0, span_states }, weight))
}

/// The index of a segment and where its entries end, from its frames. `sealed_at` is the offset of
/// its SEAL. Where the chain breaks before that, the frames after the damage are found by their
/// headers; they can be read, and reading the damage reports which entries are lost.
fn index_by_scan(
    file: &SegmentFile,
    options: &StreamOptions,
    sealed_at: Option<ByteOffset>,
) -> stratawal_segment::Result<(Index, ByteOffset)> {
    let mut builder = IndexBuilder::new(options.index_every);
    let chain = file.scan_chain(&mut |offset, frame| {
        if !frame.is_control() {
            // Timestamps of a hostile file may fall; then the frame is found from the point before.
            let _ = builder.push(frame.first_seq.0, offset.0, frame.timestamp);
        }
    })?;
    let Some(sealed_at) = sealed_at.filter(|&at| at > chain.end) else { return Ok((builder.finish(), chain.end)) };
    let (mut search, mut next) = (FrameSearch::new(file, chain.end), chain.end_seq);
    while let Some(found) = search.next_frame()?
        && found.offset < sealed_at
    {
        if found.is_whole && !found.header.is_control() && found.header.first_seq >= next {
            let _ = builder.push(found.header.first_seq.0, found.offset.0, found.header.timestamp);
            next = found.header.end_seq();
        }
    }
    Ok((builder.finish(), sealed_at))
}
