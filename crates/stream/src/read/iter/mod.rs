//! Iterating, both ways.
//!
//! Invariants: an iterator owns what it needs; its end was fixed when it was made; after an error
//! it is done; it holds open only the segments that its two ends stand in.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{ByteOffset, FrameHeader, SeqNo, entry_range};
use stratawal_segment::{BLOCK_LEN_MAX, CursorStep, FrameCursor, FrameRef};

use crate::batch::{Entry, Run};
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::log::StreamLog;
use crate::options::Visibility;
use crate::read::get::{FrameStart, frame_len_max};
use crate::read::segment_reader::SegmentReader;
use crate::read::snapshot::Snapshot;
use crate::write::tail::TailProvider;

/// The first block that an iterator reads, in bytes; each further one is twice as long.
const BLOCK_LEN_MIN: u64 = 16 << 10;

/// A run of small frames ends with the first that makes it as long as this: it is gone through
/// twice, and so from the processor's nearest cache the second time.
const RUN_LEN: usize = 16 << 10;

/// How much of a span is held while going backwards through it, but for the frame that is read.
const HELD_LEN_MAX: u64 = 4 << 20;

/// The entries of a stream in a range, from both ends. See [`StreamLog::iter`].
pub struct Iter {
    inner: Arc<Inner>,
    /// The epoch that it last saw, and the lowest cut from the one it was made in up to that.
    epoch: u64,
    cut: Option<u64>,
    /// The snapshot in which it last looked for a segment.
    entered: Option<Arc<Snapshot>>,
    /// The next entry from the front.
    front: u64,
    /// One past the next entry from the back.
    back: u64,
    forward: Option<Forward>,
    backward: Option<Backward>,
    failed: Option<Error>,
}

/// Where the front stands: in a segment, within a block of it, within a frame.
struct Forward {
    reader: SegmentReader,
    limit: u64,
    cursor: FrameCursor,
    frame: Option<FrameRef>,
    block_len: u64,
}

/// Where the back stands: the frames of one span that are still to come, in order.
struct Backward {
    frames: VecDeque<Whole>,
}

/// A frame with memory of its own.
struct Whole {
    header: FrameHeader,
    payload: Bytes,
}

impl Forward {
    /// Continues at a frame after damage.
    fn go_to(&mut self, inner: &Inner, frame: FrameStart) {
        let len_max = frame_len_max(&inner.shared.options);
        self.frame = None;
        self.cursor = FrameCursor::new(self.reader.data(), Bytes::new(), frame.offset, frame.first_seq, len_max);
    }

    #[inline]
    fn entry(&self, seq: u64) -> Option<Entry> {
        let frame = self.frame.as_ref().filter(|_| seq < self.limit)?;
        let data = self.cursor.entry_in(frame, SeqNo(seq))?;
        Some(Entry { seq, timestamp: frame.header().timestamp, data })
    }

    /// What is left from `seq` on of the frame at hand, and of those behind it that are in the
    /// block at hand and of its timestamp, up to entry `back`.
    #[inline]
    fn run(&mut self, seq: u64, back: u64) -> Option<Run> {
        let first = self.frame.take()?;
        let (timestamp, back) = (first.header().timestamp, back.min(self.limit));
        let mut last = first.clone();
        // The frame at hand is the last of them, or the one behind it.
        self.frame = loop {
            let end = last.header().end_seq();
            if end.0 >= back || last.bytes_from(&first) >= RUN_LEN {
                break Some(last.clone());
            }
            match self.cursor.try_next(end) {
                Some(next) if next.header().timestamp == timestamp => last = next,
                Some(next) => break Some(next),
                None => break Some(last.clone()),
            }
        };
        let end = last.header().end_seq().0.min(back);
        Run::of_frames(first.header(), self.cursor.frames_of(&first, &last), seq..end)
    }
}

impl Whole {
    fn entry(&self, seq: u64) -> Option<Entry> {
        let i = u32::try_from(seq.checked_sub(self.header.first_seq.0)?).ok()?;
        let data = self.payload.slice(entry_range(self.header.count, &self.payload, i)?);
        Some(Entry { seq, timestamp: self.header.timestamp, data })
    }
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("front", &self.front).field("back", &self.back).finish_non_exhaustive()
    }
}

impl StreamLog {
    /// The entries in `seqs` that `visibility` shows now. A range that begins below the first live
    /// entry is an error ([`ErrorKind::Truncated`]) unless it has no lower bound; one that reaches
    /// beyond the end ends there. A stream that has nothing, or is not there, is empty, and nothing
    /// is created.
    ///
    /// After an error the iterator is done. Entries of one frame share its memory.
    #[must_use]
    pub fn iter(&self, seqs: impl RangeBounds<u64>, visibility: Visibility) -> Iter {
        let watermarks = &self.inner.shared.watermarks;
        if let Err(error) = self.inner.check_process() {
            return Iter::failed(&self.inner, error);
        }
        let (epoch, start, end) = watermarks.in_one_epoch(|epoch| (epoch, self.first_seq(), self.end_seq(visibility)));
        let back = match seqs.end_bound() {
            Bound::Included(&last) => last.saturating_add(1).min(end),
            Bound::Excluded(&bound) => bound.min(end),
            Bound::Unbounded => end,
        };
        let front = match seqs.start_bound() {
            Bound::Included(&first) => first,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => start,
        };
        let failed = (front < start && front < back)
            .then(|| Error::new(ErrorKind::Truncated { start }, &self.inner.shared.location));
        let inner = Arc::clone(&self.inner);
        let (cut, entered, forward, backward) = (None, None, None, None);
        Iter { inner, epoch, cut, entered, front, back: back.max(front), forward, backward, failed }
    }
}

impl Iter {
    /// One that yields this error, and nothing else.
    fn failed(inner: &Arc<Inner>, error: Error) -> Self {
        let (inner, failed) = (Arc::clone(inner), Some(error));
        let (cut, entered, forward, backward) = (None, None, None, None);
        Self { inner, epoch: 0, cut, entered, front: 0, back: 0, forward, backward, failed }
    }

    fn fail(&mut self, error: Error) -> Option<Result<Entry>> {
        self.front = self.back;
        self.forward = None;
        self.backward = None;
        Some(Err(error))
    }

    fn drained(&self, seq: u64) -> bool {
        seq < self.inner.shared.watermarks.drained()
    }

    /// What `read` answers about `seq`, unless the stream was cut at or below it since this was
    /// made.
    fn stable(&mut self, seq: u64, read: fn(&mut Self) -> Result<Entry>) -> Result<Entry> {
        self.inner.check_process()?;
        loop {
            if let Some(at) = self.cut.filter(|&at| at <= seq) {
                return Err(Error::new(ErrorKind::Cut { at }, &self.inner.shared.location));
            }
            let answer = read(self);
            // Behind the reading: what that saw of a later epoch shows the epoch here.
            let epoch = self.inner.shared.watermarks.stable_epoch();
            if epoch != self.epoch {
                let at = self.inner.shared.truncations.since(self.epoch);
                self.cut = self.cut.into_iter().chain(at).min();
                self.epoch = epoch;
                // Where things stand has changed: what waited may be in another segment, and a
                // frame at hand end at a cut.
                (self.forward, self.backward) = (None, None);
                if answer.is_err() || self.cut.is_some_and(|at| at <= seq) {
                    continue;
                }
            }
            match (answer, &self.entered) {
                (Err(error), Some(snapshot)) if self.inner.segment_removed(&error, &(seq..=seq), snapshot)? => {
                    (self.forward, self.backward) = (None, None);
                }
                (answer, _) => return answer,
            }
        }
    }

    // ---- forward

    fn forward(&mut self) -> Result<Entry> {
        loop {
            let seq = self.front;
            if let Some(entry) = self.forward.as_ref().and_then(|forward| forward.entry(seq)) {
                return Ok(entry);
            }
            if !self.drained(seq) {
                if let Some(entry) = self.inner.read(SeqNo(seq)) {
                    self.forward = None;
                    return Ok(entry);
                }
                if !self.drained(seq) {
                    // Accepted when this was made, and taken back by recovery since.
                    let at = self.inner.shared.watermarks.accepted();
                    return Err(Error::new(ErrorKind::Cut { at }, &self.inner.shared.location));
                }
            }
            match &mut self.forward {
                Some(forward) if seq < forward.limit => match advance(&self.inner, forward, seq) {
                    Ok(()) => {}
                    // Between the last frame of entries and the next one, which the index knows: no
                    // entry is lost.
                    Err(error) if error.is_damage() && passes_over(forward, seq) => {
                        self.forward = Some(self.enter(seq)?);
                    }
                    // The damage is before the frame of this entry, to entries before the first one
                    // or to a control frame.
                    Err(error) if error.is_damage() => {
                        let last = self.inner.last_after(&forward.reader, &forward.cursor, seq);
                        forward.go_to(&self.inner, last.ok_or(error)?);
                    }
                    Err(error) => return Err(error),
                },
                _ => self.forward = Some(self.enter(seq)?),
            }
        }
    }

    /// Opens the segment that holds `seq`.
    fn enter(&mut self, seq: u64) -> Result<Forward> {
        let shared = Arc::clone(&self.inner.shared);
        let start = shared.watermarks.start();
        let snapshot = shared.snapshot.load();
        self.entered = Some(Arc::clone(&snapshot));
        let i = snapshot.find(seq).filter(|_| seq >= start);
        let i = i.ok_or_else(|| Error::new(ErrorKind::Truncated { start }, &shared.location))?;
        let (reader, limit) = self.inner.open(&snapshot, i)?;
        let (point, _) = reader.span(seq);
        let offset = ByteOffset(point.offset);
        let len_max = frame_len_max(&shared.options);
        let cursor = FrameCursor::new(reader.data(), Bytes::new(), offset, SeqNo(point.seq), len_max);
        Ok(Forward { reader, limit, cursor, frame: None, block_len: BLOCK_LEN_MIN })
    }

    // ---- backward

    fn backward(&mut self) -> Result<Entry> {
        let seq = self.back - 1;
        loop {
            if let Some(backward) = &mut self.backward {
                while let Some(frame) = backward.frames.back() {
                    if let Some(entry) = frame.entry(seq) {
                        return Ok(entry);
                    }
                    if frame.header.end_seq().0 <= seq {
                        break;
                    }
                    backward.frames.pop_back();
                }
            }
            if !self.drained(seq) {
                if let Some(entry) = self.inner.read(SeqNo(seq)) {
                    return Ok(entry);
                }
                if !self.drained(seq) {
                    let at = self.inner.shared.watermarks.accepted();
                    return Err(Error::new(ErrorKind::Cut { at }, &self.inner.shared.location));
                }
            }
            self.backward = Some(self.span_before(seq)?);
        }
    }

    /// The frames of the span that holds `seq`, up to the one that does; of a span that is longer
    /// than any should be, or has a damaged frame before that one, the last of them.
    fn span_before(&mut self, seq: u64) -> Result<Backward> {
        let mut forward = self.enter(seq)?;
        let (point, range) = forward.reader.span(seq);
        // A segment that has just begun has an empty span, and may have grown by the time its end
        // is read again.
        forward.block_len = (range.end - range.start).clamp(BLOCK_LEN_MIN, BLOCK_LEN_MAX);
        let mut found: VecDeque<Whole> = VecDeque::new();
        // What the front will not come to is not looked at.
        let (mut next, mut held) = (point.seq.max(self.front), 0);
        loop {
            if let Err(error) = advance(&self.inner, &mut forward, next) {
                // The entries after the damage are read first. Where its header is valid, the next
                // frame begins after it.
                if let Some(frame) = forward.cursor.failed() {
                    next = Some(frame.end_seq().0).filter(|&end| end <= seq).ok_or(error)?;
                } else {
                    let first =
                        self.inner.frames_after(&forward.reader, &forward.cursor).and_then(|mut frames| frames.next());
                    let first = first.filter(|frame| error.is_damage() && frame.first_seq.0 <= seq).ok_or(error)?;
                    next = next.max(first.first_seq.0);
                    forward.go_to(&self.inner, first);
                }
                found.clear();
                held = 0;
                continue;
            }
            // Without a frame it has read a block.
            let Some(frame) = forward.frame.take() else { continue };
            let frame = Whole { header: *frame.header(), payload: forward.cursor.payload_of(&frame) };
            next = frame.header.end_seq().0;
            held += frame.header.frame_len();
            found.push_back(frame);
            if next > seq {
                return Ok(Backward { frames: found });
            }
            while held > HELD_LEN_MAX
                && let Some(first) = found.pop_front()
            {
                held -= first.header.frame_len();
            }
        }
    }
}

/// The next frame that reaches `seq`, reading on where the block ends. After an error at a payload
/// it can be called again, for what stands behind.
fn advance(inner: &Inner, forward: &mut Forward, seq: u64) -> Result<()> {
    let location = &inner.shared.location;
    let failed = |e, lost| Error::segment_error(location, e).with_lost(lost);
    let (at, needed) = match forward.cursor.seek_ref(SeqNo(seq)) {
        Ok(CursorStep::Frame(frame)) => {
            forward.frame = Some(frame);
            return Ok(());
        }
        Ok(CursorStep::Incomplete { at, len }) => (at.0, len),
        Ok(CursorStep::BlockEnd) => (forward.cursor.offset().0, 0),
        Err(e) => return Err(failed(e, inner.lost_at(&forward.reader, &forward.cursor, forward.limit))),
    };
    let expected = forward.cursor.expected();
    let lost = || inner.lost_from(&forward.reader, expected.0, forward.limit);
    // The end is read anew: the active segment may have grown, and what is below a watermark is
    // below its end.
    let end = forward.reader.end();
    if at + needed.max(1) > end {
        let id = Some(forward.reader.data().id());
        return Err(Error::damage(location, DamageKind::Lost, id, Some(at), None).with_lost(lost()));
    }
    let len = forward.block_len.max(needed).min(end - at);
    // A mapping costs nothing to slice, so its blocks are long from the start.
    let mapped = forward.reader.data().is_mapped();
    // Unless somebody keeps an entry of the last block, its memory is at hand and warm.
    forward.frame = None;
    let (used, data) = (forward.cursor.take_block(), forward.reader.data());
    let block = data.block_over(at..at + len, used).map_err(|e| failed(e, lost()))?;
    forward.block_len = if mapped { u64::MAX } else { (forward.block_len * 2).min(BLOCK_LEN_MAX) };
    forward.cursor = FrameCursor::new(data, block, ByteOffset(at), expected, frame_len_max(&inner.shared.options));
    Ok(())
}

/// Whether `forward` failed at what is no frame of entries: the index has a point for `seq`, the
/// next entry, behind it.
fn passes_over(forward: &Forward, seq: u64) -> bool {
    let (point, _) = forward.reader.span(seq);
    forward.cursor.failed().is_none() && point.seq == seq && point.offset > forward.cursor.offset().0
}

impl Iter {
    /// The next entry from the front, where it is in the frame at hand, or the one behind it in the
    /// block at hand, and nothing has happened to the stream.
    #[inline]
    fn next_at_hand(&mut self) -> Option<Entry> {
        let seq = self.front;
        let entry = self.forward_at_hand()?.entry(seq)?;
        // Behind the reading, as in `stable`.
        if self.inner.shared.watermarks.epoch() != self.epoch {
            return None;
        }
        self.front += 1;
        Some(entry)
    }

    /// The front, with a frame that holds the next entry, if that is in the block at hand.
    #[inline]
    fn forward_at_hand(&mut self) -> Option<&mut Forward> {
        let seq = self.front;
        let forward = self.forward.as_mut().filter(|_| self.cut.is_none() && seq < self.back)?;
        if seq >= forward.limit {
            return None;
        }
        if forward.frame.as_ref().is_none_or(|frame| frame.header().end_seq().0 <= seq) {
            if seq >= self.inner.shared.watermarks.drained() {
                return None;
            }
            forward.frame = Some(forward.cursor.try_next(SeqNo(seq))?);
        }
        Some(forward)
    }

    /// The next run, as [`next_at_hand`](Self::next_at_hand).
    #[inline]
    fn run_at_hand(&mut self) -> Option<Run> {
        // What is drained is in its frame for good, unless the epoch changes.
        let (seq, back) = (self.front, self.back.min(self.inner.shared.watermarks.drained()));
        let run = self.forward_at_hand()?.run(seq, back)?;
        if self.inner.shared.watermarks.epoch() != self.epoch {
            // The front has not moved, and where this stands is behind it.
            self.forward = None;
            return None;
        }
        self.front = run.seqs().end;
        Some(run)
    }

    /// The next entry from the front, wherever it is; it stays the next.
    fn peek_anywhere(&mut self) -> Option<Result<Entry>> {
        if let Some(error) = self.failed.take() {
            return self.fail(error);
        }
        if self.front >= self.back {
            return None;
        }
        match self.stable(self.front, Self::forward) {
            Ok(entry) => Some(Ok(entry)),
            Err(error) => self.fail(error),
        }
    }

    /// The next entries from the front, together: those of one tick of the clock, as far as they
    /// have been read, until they take 16 KiB or more. All of them are checked before. As
    /// [`next`](Iterator::next) otherwise; the two may be mixed.
    #[inline]
    pub fn next_run(&mut self) -> Option<Result<Run>> {
        self.run_at_hand().map(Ok).or_else(|| self.run_anywhere())
    }

    fn run_anywhere(&mut self) -> Option<Result<Run>> {
        let entry = match self.peek_anywhere()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        // Now its frame is at hand, unless it was in the tail buffer, or something has happened to
        // the stream since.
        Some(Ok(self.run_at_hand().unwrap_or_else(|| {
            self.front += 1;
            Run::of_one(entry)
        })))
    }
}

impl Iterator for Iter {
    type Item = Result<Entry>;

    #[inline]
    fn next(&mut self) -> Option<Result<Entry>> {
        if let Some(entry) = self.next_at_hand() {
            return Some(Ok(entry));
        }
        let next = self.peek_anywhere()?;
        self.front += u64::from(next.is_ok());
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.back - self.front).unwrap_or(usize::MAX);
        // An error ends it early.
        (usize::from(left > 0), Some(left.max(usize::from(self.failed.is_some()))))
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Result<Entry>> {
        if let Some(error) = self.failed.take() {
            return self.fail(error);
        }
        if self.front >= self.back {
            return None;
        }
        match self.stable(self.back - 1, Self::backward) {
            Ok(entry) => {
                self.back -= 1;
                Some(Ok(entry))
            }
            Err(error) => self.fail(error),
        }
    }
}

impl std::iter::FusedIterator for Iter {}
