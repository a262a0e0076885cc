//! The index of the segment being written: one writer adds points, any number of readers search,
//! none of them waits.
//!
//! Invariant: a reader sees the first *n* points, whole, for an *n* that never falls from one call
//! to its next. It does not know when a frame counts as written: a point may be there before the
//! layer above shows its frame to readers.

use std::array;
use std::fmt;
use std::sync::Arc;

use stratawal_sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use stratawal_sync::{Mutex, Published, fail_point};

use crate::builder::{POINTS_MAX, Spacing, check_points};
use crate::error::PointsError;
use crate::index::Index;
use crate::point::{IndexPoint, Span};
use crate::search::Points;

/// The index of the segment being written.
///
/// Readers take no lock and wait for nobody; each call answers from one snapshot.
/// [`push`](Self::push) is the writer's; calls of several threads at once are safe, but their
/// frames must still come in order.
pub struct ActiveIndex {
    chunks: Published<Chunks>,
    writer: Mutex<Writer>,
}

impl ActiveIndex {
    /// An index without points. With `every_bytes` 0 every frame becomes a point.
    pub fn new(every_bytes: u64) -> Self {
        Self { chunks: Published::new(Chunks::new()), writer: Mutex::new(Writer::new(Spacing::new(every_bytes))) }
    }

    /// An index that goes on behind `points`; the next frame becomes one.
    ///
    /// # Errors
    /// [`PointsError`] if a point breaks the rules of [`IndexPoint`].
    pub fn from_points(every_bytes: u64, points: &[IndexPoint]) -> Result<Self, PointsError> {
        check_points(points, POINTS_MAX)?;
        let index = Self::new(every_bytes);
        let mut writer = index.writer.lock();
        writer.spacing = Spacing::behind(every_bytes, points);
        for &point in points {
            writer.append(point, &index.chunks);
        }
        drop(writer);
        Ok(index)
    }

    /// Takes the next frame, and says whether it became a point: its first seq, its offset in
    /// bytes, its timestamp in microseconds since 1970. A frame without entries (a control frame)
    /// is not pushed. Allocates once a chunk: after 4 points, then ever more rarely, from 508 on
    /// every 512.
    ///
    /// # Errors
    /// [`PointsError`] for a frame that does not come behind the one before it. The index is as before the call.
    pub fn push(&self, first_seq: u64, offset: u64, timestamp: u64) -> Result<bool, PointsError> {
        let frame = IndexPoint { seq: first_seq, offset, timestamp };
        // Held until the point is in: it is what makes a second writer safe, and free where there
        // is one.
        let mut writer = self.writer.lock();
        let is_point = writer.spacing.admit(frame)?;
        if is_point {
            writer.append(frame, &self.chunks);
        }
        Ok(is_point)
    }

    /// The number of points; never fewer than an earlier call in the same thread said.
    pub fn len(&self) -> usize {
        self.view().count()
    }

    /// Whether there are no points.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The span in which `seq` lies, if it lies in the segment at all: that of the last point at or
    /// below it. `None` if there is no such point.
    ///
    /// Its `next` is `None` for the last point *now*; the same span may have an end in a later
    /// call.
    pub fn floor(&self, seq: u64) -> Option<Span> {
        let view = self.view();
        view.position_of(seq).and_then(|position| view.span_at(position))
    }

    /// The span in which the search for the first frame with a timestamp of `timestamp` or later
    /// begins: that of the last point before it, or the first. The frame may turn out to be the
    /// first of the span after it. `None` only without points.
    pub fn floor_time(&self, timestamp: u64) -> Option<Span> {
        let view = self.view();
        view.span_at(view.position_of_time(timestamp))
    }

    /// The position of the point that begins the span of `seq`, to step on from with
    /// [`span_at`](Self::span_at). A point keeps its position for ever.
    pub fn position_of(&self, seq: u64) -> Option<usize> {
        self.view().position_of(seq)
    }

    /// The span that begins with the point at `position`.
    pub fn span_at(&self, position: usize) -> Option<Span> {
        self.view().span_at(position)
    }

    /// The points from `position` on; none if there are not that many.
    pub fn points_from(&self, position: usize) -> Vec<IndexPoint> {
        let view = self.view();
        (position..view.count()).map(|position| view.at(position)).collect()
    }

    /// The points there are now, as an immutable index.
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

/// The writer's own account: it never reads what it shares with readers.
struct Writer {
    spacing: Spacing,
    /// What was published last.
    chunks: Arc<Chunks>,
    /// The points in the last chunk.
    last_len: usize,
}

impl Writer {
    fn new(spacing: Spacing) -> Self {
        Self { spacing, chunks: Arc::new(Chunks::new()), last_len: 0 }
    }

    /// Adds a point: to the last chunk, or where that is full to a new one.
    fn append(&mut self, point: IndexPoint, published: &Published<Chunks>) {
        if let Some(last) = self.chunks.last()
            && self.last_len < last.slots.len()
        {
            last.put(self.last_len, point);
            self.last_len += 1;
            return;
        }
        // The point goes in before the chunk is published, so that no reader meets an empty chunk.
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

/// What one call of a reader sees: the list of chunks, and how many points of it.
struct View {
    chunks: Arc<Chunks>,
    count: usize,
}

impl Points for View {
    fn count(&self) -> usize {
        self.count
    }

    fn at(&self, position: usize) -> IndexPoint {
        assert!(position < self.count, "a position below the count is the caller's promise");
        let (chunk, slot) = locate(position);
        self.chunks[chunk].slots[slot].load()
    }
}

/// Room for a fixed number of points, filled from the front.
struct Chunk {
    len: AtomicUsize,
    slots: Box<[Slot]>,
}

impl Chunk {
    fn new(len: usize) -> Self {
        Self { len: AtomicUsize::new(0), slots: (0..len).map(|_| Slot::new()).collect() }
    }

    /// Writes the point at `slot`, which is the first free one. Called by one thread at a time.
    fn put(&self, slot: usize, point: IndexPoint) {
        fail_point!(LengthBeforePoint, self.len.store(slot + 1, Ordering::Release));
        self.slots[slot].store(point);
        // Release; pairs with the Acquire in `ActiveIndex::view`: whoever sees the length sees the
        // point's words.
        self.len.store(slot + 1, if fail_point!(LengthRelaxed) { Ordering::Relaxed } else { Ordering::Release });
    }
}

/// One point: seq, offset, timestamp. Written once, before the length that covers it.
struct Slot([AtomicU64; 3]);

impl Slot {
    fn new() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }

    // Relaxed, both: ordered by the Release and Acquire of `Chunk::len`.
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

// Chunks double up to a largest size: 4, 8, .. 512, 512, .. points. All of one size was rejected:
// 512 points are 12 KiB, and ten thousand streams with a few frames each would take 120 MiB (at 32
// points still 8 MiB, at 4 it is one); but the list is copied for each chunk, and a list of small
// chunks grows long. Doubling without end would put a pause into the push that allocates megabytes.
const CHUNK_LEN_FIRST: usize = if cfg!(stratawal_loom) { 1 } else { 4 };
const CHUNK_LEN_MAX: usize = if cfg!(stratawal_loom) { 2 } else { 512 };
/// How many chunks are shorter than the largest, and how many points they hold.
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
    fn every_position_has_its_own_slot_and_chunks_are_full_before_the_next() {
        let (mut chunk, mut slot) = (0, 0);
        for position in 0..4 * CHUNK_LEN_MAX + RAMP_POINTS {
            if slot == chunk_len(chunk) {
                (chunk, slot) = (chunk + 1, 0);
                assert_eq!(first_position(chunk), position);
            }
            assert_eq!(locate(position), (chunk, slot), "position {position}");
            slot += 1;
        }
    }
}
