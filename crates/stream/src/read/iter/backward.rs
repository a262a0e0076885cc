//! The back of an iterator.
//!
//! Frames can only be found forwards. So the back reads the span of an index point from its
//! beginning, keeps the frames in memory, and returns their entries in reverse, starting with the
//! last.

use std::collections::VecDeque;

use stratawal_segment::{BLOCK_LEN_MAX, OwnedFrame};

use super::Iter;
use super::forward::{BLOCK_LEN_MIN, Forward};
use crate::batch::Entry;
use crate::error::{Error, Result};
use crate::read::locate::entry_of;

/// How many bytes of frames are kept from one span, in addition to the frame being read. A span is
/// longer than this only in a file that has lost its index points.
const HELD_LEN_MAX: u64 = 4 << 20;

/// The position of the back: the frames of one span that are still to be returned, in order.
pub(super) struct Backward {
    frames: VecDeque<OwnedFrame>,
    /// The seq at which the entries of the frames' segment end.
    limit: u64,
}

impl Backward {
    /// Returns entry `seq` if it is in these frames. Drops the frames after it.
    fn entry(&mut self, seq: u64) -> Option<Entry> {
        while let Some(frame) = self.frames.back() {
            if let Some(entry) = entry_of(frame, seq, self.limit) {
                return Some(entry);
            }
            if frame.header().end_seq().0 <= seq {
                return None;
            }
            self.frames.pop_back();
        }
        None
    }
}

impl Iter {
    /// Reads the entry at the back.
    pub(super) fn read_back(&mut self) -> Result<Entry> {
        let seq = self.back - 1;
        let front = self.front;
        loop {
            if let Some(entry) = self.backward.as_mut().and_then(|backward| backward.entry(seq)) {
                return Ok(entry);
            }
            if let Some(entry) = self.read_tail(seq, |inner| inner.tail_run_to(seq, front))? {
                return Ok(entry);
            }
            self.backward = Some(self.read_span_up_to(seq)?);
        }
    }

    /// Reads the span that holds `seq`, up to the frame of `seq`. Keeps the unbroken run of
    /// undamaged frames that ends with that frame, and at most [`HELD_LEN_MAX`] bytes of it.
    fn read_span_up_to(&mut self, seq: u64) -> Result<Backward> {
        let mut forward = self.enter(seq)?;
        let (point, range) = forward.segment.reader.span(seq);
        // The span of a new segment may be empty at this point, but may have grown by the time its
        // end is reloaded.
        forward.block_len = (range.end - range.start).clamp(BLOCK_LEN_MIN, BLOCK_LEN_MAX);
        let mut frames: VecDeque<OwnedFrame> = VecDeque::new();
        let mut held = 0;
        // Entries below the front have already been returned.
        let mut next = point.seq.max(self.front);
        loop {
            if let Err(error) = forward.advance(&self.inner, next) {
                // The entries after the damage are returned first; the damage is reported when the
                // back reaches it.
                next = self.pass_damage(&mut forward, next, seq, error)?;
                frames.clear();
                held = 0;
                continue;
            }
            // If there is no frame, `advance` has read the next block instead.
            let Some(frame) = forward.frame.take() else { continue };
            let frame = forward.cursor.detach(&frame);
            next = frame.header().end_seq().0;
            held += frame.header().frame_len();
            frames.push_back(frame);
            if next > seq {
                return Ok(Backward { frames, limit: forward.segment.limit });
            }
            while held > HELD_LEN_MAX
                && let Some(first) = frames.pop_front()
            {
                held -= first.header().frame_len();
            }
        }
    }

    /// Moves `forward` to the first frame after the damage that it met at `next`. Returns the first
    /// seq that can be read after the damage.
    ///
    /// # Errors
    /// `error` if no frame at or below `seq` follows.
    fn pass_damage(&self, forward: &mut Forward, next: u64, seq: u64, error: Error) -> Result<u64> {
        // If the header of the damaged frame is valid, the cursor is after that frame.
        if let Some(frame) = forward.cursor.failed_frame() {
            return Some(frame.end_seq().0).filter(|&end| end <= seq).ok_or(error);
        }
        let first = self.inner.frames_after_damage(&forward.segment, &forward.cursor);
        let first = first.and_then(|mut frames| frames.next());
        let first = first.filter(|frame| error.is_damage() && frame.first_seq.0 <= seq).ok_or(error)?;
        forward.resume_at(&self.inner, first);
        Ok(next.max(first.first_seq.0))
    }
}
