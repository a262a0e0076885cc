//! The index of the active segment: one writer adds points while any number of readers search, and
//! no reader waits.
//!
//! Invariant: a reader sees the first *n* points, all complete, and *n* never falls from one of its
//! calls to the next. The index does not know which frames readers may see: a point may be in the
//! index before the layer above shows its frame.

use std::array;
use std::fmt;
use std::sync::Arc;

use stratawal_sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use stratawal_sync::{Mutex, Published, fail_point};

use crate::builder::Spacing;
use crate::error::PointsError;
use crate::index::Index;
use crate::order::{POINTS_MAX, check_points};
use crate::point::{IndexPoint, Span};
use crate::search::Points;

/// The index of the active segment.
///
/// Readers take no lock and never wait; each call reads one snapshot. Only the writer calls
/// [`push`](Self::push). Concurrent calls from several threads are safe, but their frames must
/// arrive in order.
pub struct ActiveIndex {
    chunks: Published<Chunks>,
    writer: Mutex<Writer>,
}

impl ActiveIndex {
    /// An index without points. If `interval_bytes` is 0, every frame becomes a point.
    #[must_use]
    pub fn new(interval_bytes: u64) -> Self {
        Self { chunks: Published::new(Chunks::new()), writer: Mutex::new(Writer::new(Spacing::new(interval_bytes))) }
    }

    /// An index that holds `points` and continues after them. The next frame becomes a point.
    ///
    /// # Errors
    /// [`PointsError`] if a point breaks the rules of [`IndexPoint`].
    pub fn from_points(interval_bytes: u64, points: &[IndexPoint]) -> Result<Self, PointsError> {
        check_points(points, POINTS_MAX)?;
        let index = Self::new(interval_bytes);
        let mut writer = index.writer.lock();
        writer.spacing = Spacing::after(interval_bytes, points);
        for &point in points {
            writer.append(point, &index.chunks);
        }
        drop(writer);
        Ok(index)
    }

    /// Adds the next frame of entries: its first seq, its offset in bytes, its timestamp in
    /// microseconds since 1970. Returns whether it became a point. Control frames are not added.
    /// This allocates once for each chunk: for the first point, then less and less often, and after
    /// 508 points once every 512 points.
    ///
    /// # Errors
    /// [`PointsError`] for a frame that does not follow the one before. The index has not changed
    /// in that case.
    pub fn push(&self, first_seq: u64, offset: u64, timestamp: u64) -> Result<bool, PointsError> {
        let frame = IndexPoint { seq: first_seq, offset, timestamp };
        // Held until the point is added. This makes a second writer safe and costs a single writer
        // nothing.
        let mut writer = self.writer.lock();
        let is_point = writer.spacing.admit(frame)?;
        if is_point {
            writer.append(frame, &self.chunks);
        }
        Ok(is_point)
    }

    /// The number of points. It never falls between two calls from one thread.
    #[must_use]
    pub fn len(&self) -> usize {
        self.view().count()
    }

    /// Whether the index is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the span of the last point at or below `seq`, or `None` if all points are above
    /// `seq`. If the segment holds `seq`, this span does.
    ///
    /// The `next` of the last span is `None`. A later call may return the same span with a `next`.
    #[must_use]
    pub fn floor(&self, seq: u64) -> Option<Span> {
        let view = self.view();
        view.position_of(seq).and_then(|position| view.span_at(position))
    }

    /// Returns the span in which a search for the first frame at or after `timestamp` begins: the
    /// span of the last point before that time, or else the first span. The frame may also be the
    /// first of the next span. Returns `None` only if the index has no points.
    #[must_use]
    pub fn floor_time(&self, timestamp: u64) -> Option<Span> {
        let view = self.view();
        view.span_at(view.position_of_time(timestamp))
    }

    /// The position of the last point at or below `seq`, for [`span_at`](Self::span_at). The
    /// position of a point never changes.
    #[must_use]
    pub fn position_of(&self, seq: u64) -> Option<usize> {
        self.view().position_of(seq)
    }

    /// The span that begins with the point at `position`.
    #[must_use]
    pub fn span_at(&self, position: usize) -> Option<Span> {
        self.view().span_at(position)
    }

    /// The points from `position` on. Empty if the index has no more points than that.
    #[must_use]
    pub fn points_from(&self, position: usize) -> Vec<IndexPoint> {
        let view = self.view();
        (position..view.count()).map(|position| view.at(position)).collect()
    }

    /// The points that the index has now, as an immutable index.
    #[must_use]
    pub fn to_index(&self) -> Index {
        Index::from_checked(self.points_from(0))
    }

    fn view(&self) -> View {
        let chunks = self.chunks.load();
        let count = chunks.last().map_or(0, |last| {
            // All chunks but the last are full.
            let first = first_position(chunks.len() - 1);
            // Acquire; pairs with the Release in `Chunk::put`.
            first + last.len.load(Ordering::Acquire)
        });
        View { chunks, count }
    }
}

impl fmt::Debug for ActiveIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.view();
        f.debug_struct("ActiveIndex")
            .field("len", &view.count())
            .field("first", &view.span_at(0).map(|span| span.point))
            .field("last", &view.count().checked_sub(1).map(|last| view.at(last)))
            .finish()
    }
}

type Chunks = Vec<Arc<Chunk>>;

/// The writer's own state. The writer never reads the state that it shares with readers.
struct Writer {
    spacing: Spacing,
    /// The list published last.
    chunks: Arc<Chunks>,
    /// The number of points in the last chunk.
    last_len: usize,
}

impl Writer {
    fn new(spacing: Spacing) -> Self {
        Self { spacing, chunks: Arc::new(Chunks::new()), last_len: 0 }
    }

    /// Adds a point to the last chunk, or to a new chunk if the last one is full.
    fn append(&mut self, point: IndexPoint, published: &Published<Chunks>) {
        if let Some(last) = self.chunks.last()
            && self.last_len < last.slots.len()
        {
            last.put(self.last_len, point);
            self.last_len += 1;
            return;
        }
        // The point is added before the chunk is published, so that no reader meets an empty chunk.
        let chunk = Arc::new(Chunk::new(chunk_len(self.chunks.len())));
        chunk.put(0, point);
        let mut longer = Chunks::with_capacity(self.chunks.len() + 1);
        longer.extend(self.chunks.iter().cloned());
        longer.push(chunk);
        self.chunks = Arc::new(longer);
        self.last_len = 1;
        published.store(Arc::clone(&self.chunks));
    }
}

/// The snapshot that one call of a reader uses: the list of chunks, and the number of points in it.
struct View {
    chunks: Arc<Chunks>,
    count: usize,
}

impl Points for View {
    fn count(&self) -> usize {
        self.count
    }

    fn at(&self, position: usize) -> IndexPoint {
        assert!(position < self.count, "the position is below the count");
        let (chunk, slot) = locate(position);
        self.chunks[chunk].slots[slot].load()
    }
}

/// Slots for a fixed number of points, filled in order.
struct Chunk {
    len: AtomicUsize,
    slots: Box<[Slot]>,
}

impl Chunk {
    fn new(len: usize) -> Self {
        Self { len: AtomicUsize::new(0), slots: (0..len).map(|_| Slot::new()).collect() }
    }

    /// Writes the point at `slot`, the first free slot. Called by one thread at a time.
    fn put(&self, slot: usize, point: IndexPoint) {
        fail_point!(LengthBeforePoint, self.len.store(slot + 1, Ordering::Release));
        self.slots[slot].store(point);
        // Release; pairs with the Acquire in `ActiveIndex::view`: a reader that sees the length
        // sees the words of the point.
        self.len.store(slot + 1, if fail_point!(LengthRelaxed) { Ordering::Relaxed } else { Ordering::Release });
    }
}

/// One point: seq, offset, timestamp. It is written once, before the length that includes it.
struct Slot([AtomicU64; 3]);

impl Slot {
    fn new() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }

    // Both are Relaxed: the Release and Acquire of `Chunk::len` order them.
    fn store(&self, point: IndexPoint) {
        self.0[0].store(point.seq, Ordering::Relaxed);
        self.0[1].store(point.offset, Ordering::Relaxed);
        self.0[2].store(point.timestamp, Ordering::Relaxed);
    }

    fn load(&self) -> IndexPoint {
        let [seq, offset, timestamp] = array::from_fn(|word| self.0[word].load(Ordering::Relaxed));
        IndexPoint { seq, offset, timestamp }
    }
}

// The chunks double up to a maximum size: 4, 8, .. 512, 512, .. points. Chunks of one size were
// rejected: with 512 points (12 KiB) each, ten thousand streams of a few frames would take 120 MiB,
// against 8 MiB with 32 points and 1 MiB with 4 points. But the list is copied for each new chunk,
// so a long list of small chunks is expensive. Doubling without a limit was also rejected: a push
// that allocates megabytes would pause.
const CHUNK_LEN_FIRST: usize = if cfg!(stratawal_loom) { 1 } else { 4 };
const CHUNK_LEN_MAX: usize = if cfg!(stratawal_loom) { 2 } else { 512 };
/// The number of chunks below the maximum size, and the number of points in them.
const RAMP_CHUNKS: usize = (CHUNK_LEN_MAX / CHUNK_LEN_FIRST).ilog2() as usize;
const RAMP_POINTS: usize = CHUNK_LEN_MAX - CHUNK_LEN_FIRST;
const _: () = assert!(CHUNK_LEN_FIRST << RAMP_CHUNKS == CHUNK_LEN_MAX);

fn chunk_len(chunk: usize) -> usize {
    CHUNK_LEN_FIRST << chunk.min(RAMP_CHUNKS)
}

/// The position of a chunk's first point.
fn first_position(chunk: usize) -> usize {
    match chunk.checked_sub(RAMP_CHUNKS) {
        None => (CHUNK_LEN_FIRST << chunk) - CHUNK_LEN_FIRST,
        Some(full) => RAMP_POINTS + full * CHUNK_LEN_MAX,
    }
}

/// The chunk and the slot of the point at `position`.
fn locate(position: usize) -> (usize, usize) {
    let chunk = match position.checked_sub(RAMP_POINTS) {
        None => (position / CHUNK_LEN_FIRST + 1).ilog2() as usize,
        Some(beyond) => RAMP_CHUNKS + beyond / CHUNK_LEN_MAX,
    };
    (chunk, position - first_position(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_fill_the_chunks_one_after_another() {
        let mut chunk = 0;
        let mut slot = 0;
        for position in 0..4 * CHUNK_LEN_MAX + RAMP_POINTS {
            if slot == chunk_len(chunk) {
                chunk += 1;
                slot = 0;
                assert_eq!(first_position(chunk), position);
            }
            assert_eq!(locate(position), (chunk, slot), "position {position}");
            slot += 1;
        }
    }
}
