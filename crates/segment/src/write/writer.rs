//! Writing to the segment that is active: frames at the tail, marks behind them, and how it ends.
//!
//! Invariants: everything is written at the tail; bytes below the tail never change; after a failed
//! write or sync nothing more is written here (the caller sees to it, since only recovery may write
//! those bytes again).

use std::io::IoSlice;
use std::sync::Arc;

use stratawal_frame::{
    ByteOffset, Control, Footer, FramePosition, SEGMENT_HEADER_LEN, SegmentHeader, SeqNo, TRAILER_LEN, Trailer,
    encode_control,
};
use stratawal_storage::File;

use super::preallocation::Preallocation;
use crate::file::SegmentFile;
use crate::{Error, Result, SegmentId};

/// What every control frame says besides its content.
#[derive(Clone, Copy, Debug)]
pub struct ControlContext {
    /// The seq of the entry that comes next.
    pub next_seq: SeqNo,
    /// The timestamp of the last frame, in microseconds since 1970.
    pub timestamp: u64,
    /// The durable watermark.
    pub durable: SeqNo,
}

/// The one writer of a segment.
#[derive(Debug)]
pub struct SegmentWriter {
    header: SegmentHeader,
    file: Arc<dyn File>,
    tail: ByteOffset,
    /// Where the trailer of the SEAL or CLOSE ends, once there is one.
    finished_len: Option<u64>,
    /// Where a MARK is encoded, one for each sync.
    mark: Vec<u8>,
}

impl SegmentWriter {
    pub(crate) const fn new(header: SegmentHeader, file: Arc<dyn File>) -> Self {
        Self { header, file, tail: ByteOffset(SEGMENT_HEADER_LEN as u64), finished_len: None, mark: Vec::new() }
    }

    /// Goes on at `tail` in a file that was opened for writing.
    #[must_use]
    pub fn resume(file: &SegmentFile, tail: ByteOffset) -> (Self, Preallocation) {
        let writer = Self { tail, ..Self::new(*file.header(), Arc::clone(file.shared_file())) };
        (writer, Preallocation::new(file.id(), Arc::clone(file.shared_file()), file.len()))
    }

    /// Goes on behind the CLOSE that `file` ends with. Nothing is written yet: the first booking
    /// makes the file longer, writes the CLOSE again, and syncs.
    ///
    /// # Errors
    /// I/O.
    pub fn resume_after_close(file: &SegmentFile, close: ByteOffset) -> Result<(Self, Preallocation)> {
        let end = file.len() - TRAILER_LEN as u64;
        let len = usize::try_from(end - close.0).expect("invariant: a frame is under 2 GiB");
        let mut frame = vec![0; len];
        file.read_exact(&mut frame, close.0)?;
        let (writer, preallocation) = Self::resume(file, ByteOffset(end));
        Ok((writer, preallocation.behind_close(close, frame)))
    }

    /// The name of the segment.
    #[must_use]
    pub const fn id(&self) -> SegmentId {
        SegmentId::of(&self.header)
    }

    /// The header of the segment.
    #[must_use]
    pub const fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The file.
    #[must_use]
    pub const fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Where the next frame goes.
    #[must_use]
    pub const fn next_position(&self) -> FramePosition {
        FramePosition { salt: self.header.salt, offset: self.tail }
    }

    /// Writes whole frames, encoded for the tail and what follows it, with one call, and moves the
    /// tail.
    ///
    /// # Errors
    /// I/O; then the tail has not moved, and what stands behind it is not known.
    pub fn append(&mut self, frames: &[u8]) -> Result<()> {
        self.file.write_all_at(frames, self.tail.0).map_err(Error::io(self.id(), "write"))?;
        self.tail = self.tail + frames.len() as u64;
        Ok(())
    }

    /// The same from several pieces, `len` bytes together.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_pieces(&mut self, pieces: &[IoSlice<'_>], len: u64) -> Result<()> {
        debug_assert_eq!(pieces.iter().map(|piece| piece.len() as u64).sum::<u64>(), len);
        self.file.write_all_vectored_at(pieces, self.tail.0).map_err(Error::io(self.id(), "write"))?;
        self.tail = self.tail + len;
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// I/O; then it is not known what is durable, and asking again would not tell.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(self.id(), "sync"))
    }

    /// Writes a MARK behind the tail, which the next frame overwrites. Left out where it would pass
    /// `reserved`.
    ///
    /// # Errors
    /// I/O.
    pub fn write_mark(&mut self, context: &ControlContext, reserved: u64) -> Result<()> {
        let place = self.next_position();
        self.mark.clear();
        encode_control(
            &mut self.mark,
            &place,
            context.next_seq,
            context.timestamp,
            Some(context.durable),
            &Control::Mark,
        );
        if self.finished_len.is_some() || self.tail.0 + self.mark.len() as u64 > reserved {
            return Ok(());
        }
        self.file.write_all_at(&self.mark, self.tail.0).map_err(Error::io(self.id(), "write"))
    }

    /// Makes sure of the room for a START, with that for a SEAL or CLOSE behind it.
    ///
    /// # Errors
    /// As [`Preallocation::ensure_control`].
    pub fn preallocate_start(&self, preallocation: &mut Preallocation) -> Result<()> {
        let len = Control::START_FRAME_LEN + Footer::frame_len_max(0) + TRAILER_LEN as u64;
        preallocation.ensure_control(&self.tail, len)
    }

    /// Writes a START, whose room is made sure of first as by [`preallocate_start`](Self::preallocate_start).
    ///
    /// # Errors
    /// I/O. Behind a `preallocate_start` that succeeded, only of the write itself; then it may be there or
    /// not.
    pub fn write_start(
        &mut self,
        preallocation: &mut Preallocation,
        context: &ControlContext,
        start: SeqNo,
    ) -> Result<()> {
        let bytes = self.control(context, &Control::Start { start });
        debug_assert_eq!(bytes.len() as u64, Control::START_FRAME_LEN);
        self.preallocate_start(preallocation)?;
        self.append(&bytes)
    }

    /// Writes a SEAL or CLOSE and its trailer; its index is dropped if there is no room for it.
    ///
    /// # Errors
    /// I/O. [`ErrorKind::Preallocate`](crate::ErrorKind::Preallocate) where there is no room without the
    /// index: nothing was written.
    pub fn finish(&mut self, preallocation: &mut Preallocation, context: &ControlContext, end: Footer) -> Result<()> {
        let place = self.next_position();
        let mut bytes = self.control(context, &Control::Footer(end.clone()));
        let len = |bytes: &[u8]| (bytes.len() + TRAILER_LEN) as u64;
        if let Err(e) = preallocation.ensure_control(&self.tail, len(&bytes)) {
            if !e.is_refusal() || end.index.is_empty() {
                return Err(e);
            }
            bytes = self.control(context, &Control::Footer(Footer { index: bytes::Bytes::new(), ..end }));
            preallocation.ensure_control(&self.tail, len(&bytes))?;
        }
        bytes.extend_from_slice(&Trailer { footer_offset: place.offset }.encode(place.salt));
        self.file.write_all_at(&bytes, place.offset.0).map_err(Error::io(self.id(), "write"))?;
        self.finished_len = Some(place.offset.0 + bytes.len() as u64);
        Ok(())
    }

    /// Where the SEAL or CLOSE and its trailer end, once they are written.
    #[must_use]
    pub const fn finished_len(&self) -> Option<u64> {
        self.finished_len
    }

    /// Shortens the file to the end of its trailer. Only once the SEAL or CLOSE is durable.
    ///
    /// # Errors
    /// I/O.
    pub fn trim_to_trailer(&self) -> Result<()> {
        match self.finished_len {
            Some(len) => self.file.set_len(len).map_err(Error::io(self.id(), "shorten")),
            None => Ok(()),
        }
    }

    /// Writes `frames`, the very bytes that stand there, again: recovery's way to make sure of
    /// them.
    ///
    /// # Errors
    /// I/O.
    pub fn rewrite(&self, offset: ByteOffset, frames: &[u8]) -> Result<()> {
        debug_assert!(offset.0 + frames.len() as u64 <= self.tail.0);
        self.file.write_all_at(frames, offset.0).map_err(Error::io(self.id(), "write"))
    }

    fn control(&self, context: &ControlContext, control: &Control) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_control(
            &mut bytes,
            &self.next_position(),
            context.next_seq,
            context.timestamp,
            Some(context.durable),
            control,
        );
        bytes
    }
}
