//! Locates an entry: in the tail buffer, or in a frame of a segment.

use bytes::Bytes;
use stratawal_frame::{ByteOffset, SeqNo};
use stratawal_segment::{BLOCK_LEN_MAX, CursorStep, FrameCursor, FrameEntry, OwnedFrame};

use super::segment_reader::SegmentReader;
use super::snapshot::Snapshot;
use crate::batch::Entry;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::inner::Inner;

/// Where an entry is read from.
pub(super) enum EntrySource {
    /// The entry was only in the tail buffer; this is a copy.
    Tail(Entry),
    Segment(OpenSegment),
}

/// A segment of a snapshot, open for reading.
pub(super) struct OpenSegment {
    pub(super) reader: SegmentReader,
    /// The seq at which the segment's entries end. Entries at or above it in the file were
    /// truncated.
    pub(super) limit: u64,
}

impl OpenSegment {
    /// Whether entry `seq` is the last of its batch. `in_frame` is whether the frame's table marks
    /// it as the last: a truncation may have dropped the end of the batch.
    #[inline]
    pub(super) fn ends_batch(&self, seq: u64, in_frame: bool) -> bool {
        in_frame || seq + 1 == self.limit
    }
}

/// The result of [`Inner::locate`].
#[derive(Debug)]
pub(super) enum Located {
    Frame(LocatedFrame),
    Tail(Entry),
}

/// A frame in memory.
#[derive(Debug)]
pub(super) struct LocatedFrame {
    pub(super) frame: OwnedFrame,
    /// The seq at which the frame's entries end. Those at or above it were truncated.
    pub(super) limit: u64,
    is_mapped: bool,
}

impl LocatedFrame {
    /// Returns entry `seq` if this frame holds it. A short entry is copied, so that it does not
    /// keep the whole block in memory.
    pub(super) fn detached_entry(&self, seq: u64) -> Option<Entry> {
        const COPIED_LEN_MAX: usize = 1 << 10;
        let mut entry = entry_of(&self.frame, seq, self.limit)?;
        if !self.is_mapped && entry.data.len() < COPIED_LEN_MAX {
            entry.data = Bytes::copy_from_slice(&entry.data);
        }
        Some(entry)
    }
}

impl Inner {
    /// Finds the frame of entry `seq`, which must be below a watermark. If the entry is only in the
    /// tail buffer, copies it.
    pub(super) fn locate(&self, seq: u64) -> Result<Located> {
        match self.find_source(seq)? {
            EntrySource::Tail(entry) => Ok(Located::Tail(entry)),
            EntrySource::Segment(segment) => {
                let frame = self.locate_in(&segment, seq)?;
                let is_mapped = segment.reader.data().is_mapped();
                Ok(Located::Frame(LocatedFrame { frame, limit: segment.limit, is_mapped }))
            }
        }
    }

    /// Finds where entry `seq` is to be read from.
    pub(super) fn find_source(&self, seq: u64) -> Result<EntrySource> {
        let shared = &self.shared;
        let truncated = |start| Error::new(ErrorKind::Truncated { first_seq: start }, &shared.location);
        loop {
            let start = shared.watermarks.start();
            if seq < start {
                return Err(truncated(start));
            }
            // The watermark is loaded before the snapshot, so the snapshot has every entry below
            // it.
            if seq < shared.watermarks.drained() {
                break;
            }
            if let Some(entry) = self.tail_entry(seq)? {
                return Ok(EntrySource::Tail(entry));
            }
            if seq >= shared.watermarks.accepted() {
                // Recovery has dropped the entry since the caller saw it accepted.
                return Err(Error::new(ErrorKind::Cut { next_seq: shared.watermarks.accepted() }, &shared.location));
            }
        }
        let snapshot = shared.snapshot.load();
        let i = snapshot.find(seq).ok_or_else(|| truncated(shared.watermarks.start()))?;
        self.open_segment(&snapshot, i).map(EntrySource::Segment)
    }

    /// Copies entry `seq` from the tail buffer. Returns `None` if it is in the file by now, or was
    /// never accepted. Takes the stream's lock. A reader in another process has no tail buffer: it
    /// reads the commit journal.
    pub(super) fn tail_entry(&self, seq: u64) -> Result<Option<Entry>> {
        if self.shared.context.reader_of_journal().is_some() {
            return self.journal_entry(seq);
        }
        Ok(self.group.lock().tail.read(seq))
    }

    /// Opens segment `i` of `snapshot`.
    pub(super) fn open_segment(&self, snapshot: &Snapshot, i: usize) -> Result<OpenSegment> {
        let shared = &self.shared;
        let segment = &snapshot.segments[i];
        let limit = snapshot.limit(i);
        let next = snapshot.segments.get(i + 1).map(|next| &next.header);
        match segment.open(&shared.context, &shared.location, &shared.options, next) {
            Ok(reader) => Ok(OpenSegment { reader, limit }),
            // It is not known which of the two segments is the wrong one, so no loss is reported.
            Err(error) if error.damage() == Some(DamageKind::History) => Err(error),
            // No entry of the segment can be read.
            Err(error) => Err(error.with_lost(self.live_part(segment.header.base.0..u64::MAX, limit))),
        }
    }

    /// Finds the frame that holds entry `seq` in `segment`.
    pub(super) fn locate_in(&self, segment: &OpenSegment, seq: u64) -> Result<OwnedFrame> {
        let failed = |e, lost| Error::segment_error(&self.shared.location, e).with_lost(lost);
        let reader = &segment.reader;
        let (point, range) = reader.span(seq);
        let max = self.shared.options.frame_len_max();
        let mut offset = range.start;
        let mut expected = point.seq;
        // One read suffices for a span of the usual length. The index of a hostile file may give
        // any length.
        let mut len = (range.end - range.start).min(BLOCK_LEN_MAX);
        loop {
            let block = reader.data().block(offset..offset + len);
            let block = block.map_err(|e| failed(e, self.lost_from(segment, expected)))?;
            let mut cursor = FrameCursor::new(reader.data(), block, ByteOffset(offset), SeqNo(expected), max);
            let needed = match cursor.seek(SeqNo(seq)) {
                Ok(CursorStep::Frame(frame)) => return Ok(cursor.detach(&frame)),
                Ok(CursorStep::Incomplete { len, .. }) => len,
                Ok(CursorStep::BlockEnd) => 1,
                Err(e) => match self.last_after_damage(segment, &cursor, seq) {
                    Some(frame) if e.is_damage() => {
                        offset = frame.offset.0;
                        expected = frame.first_seq.0;
                        len = BLOCK_LEN_MAX.min(reader.end().saturating_sub(offset));
                        continue;
                    }
                    _ => return Err(failed(e, self.lost_at(segment, &cursor))),
                },
            };
            offset = cursor.offset().0;
            expected = cursor.next_seq().0;
            let end = reader.end();
            if offset + needed > end {
                return Err(self.ends_early(segment, offset, expected));
            }
            len = BLOCK_LEN_MAX.max(needed).min(end - offset);
        }
    }
}

/// Returns entry `seq` if `frame` holds it. `limit` is the seq at which the entries of the segment
/// end.
pub(super) fn entry_of(frame: &OwnedFrame, seq: u64, limit: u64) -> Option<Entry> {
    let FrameEntry { data, ends_batch } = frame.entry(SeqNo(seq))?;
    let ends_batch = ends_batch || seq + 1 == limit;
    Some(Entry { seq, timestamp: frame.header().timestamp, data, ends_batch })
}
