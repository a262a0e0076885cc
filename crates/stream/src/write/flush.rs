//! Drains the tail: writes its pending entries to the active segment.

use stratawal_frame::{DataFrame, SeqNo};
use stratawal_index::IndexPoint;
use stratawal_sync::fail_point;

use crate::error::{Error, Result};
use crate::options::Durability;
use crate::write::buffer_pool::OWN_BUFFER_LEN_MAX;
use crate::write::commit::CommitLeader;
use crate::write::pending::{LargeBatch, PendingFrame, PendingFrames};
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;
use crate::write::writer::{OpenSegments, Writer};

impl Writer {
    /// Drains everything pending in `tail`. Called under the lock. After an error other than
    /// `Poisoned` nothing has changed.
    pub(super) fn drain_all(&mut self, tail: &mut Tail) -> Result<()> {
        self.drain_all_with(tail, ReserveUse::Never)
    }

    /// Like [`drain_all`](Self::drain_all). On a full disk this may use the emergency reserve if
    /// `reserve` allows that.
    pub(super) fn drain_all_with(&mut self, tail: &mut Tail, reserve: ReserveUse) -> Result<()> {
        self.prepare_with(tail, reserve)?;
        let work = self.take(tail);
        self.run(&work, Durability::Flushed).map_err(Error::poisoned)?;
        self.put_back(tail, work);
        Ok(())
    }

    /// Writes a large batch from the caller's memory, and has `tail` accept it. Call this under the
    /// lock, with the space reserved and nothing pending in the tail. If it fails, the batch is not
    /// accepted, and recovery decides whether the file has it.
    pub(super) fn write_large(&mut self, tail: &mut Tail, large: &LargeBatch<'_>) -> Result<()> {
        let (segments, reservation) = self.open_in(tail)?;
        segments.preallocated = reservation.preallocation.preallocated();
        let end = segments.write_large(large)?;
        tail.accept_written(large, end);
        Ok(())
    }
}

impl OpenSegments {
    /// Writes the entries taken from the tail after the last frame of the active segment, with one
    /// call.
    pub(super) fn drain(&mut self, work: &PendingFrames) -> Result<()> {
        let Some(end_seq) = work.end_seq() else { return Ok(()) };
        fail_point!(WatermarkFirst, self.shared.watermarks.set_drained(end_seq));
        let len = self.write(work.frames(), work.data(), work.len())?;
        debug_assert!(len <= work.reserved, "a frame takes at most what was reserved for it");
        self.drained_to(end_seq);
        Ok(())
    }

    /// Writes a large batch after the last frame of the active segment. Returns the new end offset
    /// of the frames.
    fn write_large(&mut self, large: &LargeBatch<'_>) -> Result<u64> {
        let end_seq = large.seqs().end;
        fail_point!(WatermarkFirst, self.shared.watermarks.set_drained(end_seq));
        let len = self.write(large.frames(), large.data(), large.table_len())?;
        debug_assert!(len <= large.reserved, "a frame takes at most what was reserved for it");
        self.shared.watermarks.set_accepted(end_seq);
        self.drained_to(end_seq);
        Ok(self.active.end_offset())
    }

    /// Shows readers that the entries below `end_seq` are in the file.
    fn drained_to(&mut self, end_seq: u64) {
        let meters = &self.shared.meters;
        meters.writes.add(1);
        meters.written_entries.add(end_seq - self.active.end_seq);
        self.active.end_seq = end_seq;
        self.active.live.set_end(self.active.end_offset());
        self.shared.watermarks.set_drained(end_seq);
    }

    /// Writes the frames `pending` with one call, and adds them to the index. The bytes of their
    /// entries are in `data`. Returns how many bytes were written.
    ///
    /// `encoded_len` is about the number of bytes to encode, not counting the entries of large
    /// frames.
    fn write<'a>(
        &mut self,
        pending: impl Iterator<Item = (&'a PendingFrame, &'a [u32], &'a [u8])>,
        data: &[u8],
        encoded_len: usize,
    ) -> Result<u64> {
        let active = &mut self.active;
        let pool = &self.shared.context.encoders;
        let mut long = (encoded_len > OWN_BUFFER_LEN_MAX).then(|| pool.take(usize::MAX).unwrap_or_default());
        let frames = long.as_mut().unwrap_or(&mut self.encoder);
        frames.clear();
        let mut position = active.writer.next_position();
        for (waiting, ends, data) in pending {
            let frame = DataFrame {
                first_seq: SeqNo(waiting.first_seq),
                timestamp: waiting.timestamp,
                durable: Some(SeqNo(self.shared.watermarks.attested())),
                ends,
                data,
            };
            position.offset = position.offset + frames.push(&position, &frame, waiting.data_start);
        }
        let written = frames.len();
        let result = frames.write(data, &mut active.writer);
        result.map_err(|e| self.shared.segment_error(e))?;
        for &IndexPoint { seq, offset, timestamp } in frames.points() {
            // Seqs and offsets rise. So do timestamps, except after those of a file written by
            // another program. Such a frame gets no point and is found from the previous one.
            let _ = active.live.index.push(seq, offset, timestamp);
            active.times = Some((active.times.map_or(timestamp, |times| times.0), timestamp));
            self.timestamp = timestamp;
        }
        if let Some(long) = long {
            let len = long.capacity();
            pool.put(long, len);
        }
        Ok(written)
    }
}
