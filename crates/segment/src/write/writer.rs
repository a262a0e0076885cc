//! Writes to the active segment: frames at its end, MARKs after them, and the footer.
//!
//! Invariants: everything is written at the end of the frames; bytes before that never change.
//! After a failed write or sync the caller writes nothing more here, since only recovery may
//! rewrite those bytes.

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

/// The fields that every control frame has in addition to its content.
#[derive(Clone, Copy, Debug)]
pub struct ControlContext {
    /// The seq of the entry that comes next.
    pub next_seq: SeqNo,
    /// The timestamp of the last frame, in microseconds since 1970.
    pub timestamp: u64,
    /// The durable watermark.
    pub durable: SeqNo,
}

/// The only writer of a segment.
#[derive(Debug)]
pub struct SegmentWriter {
    header: SegmentHeader,
    file: Arc<dyn File>,
    /// The offset at which the frames end.
    tail: ByteOffset,
    /// The offset at which the trailer of the SEAL or CLOSE ends, once it is written.
    finished_len: Option<u64>,
    /// A reusable buffer for the MARK that every sync encodes.
    mark: Vec<u8>,
}

impl SegmentWriter {
    pub(crate) const fn new(header: SegmentHeader, file: Arc<dyn File>) -> Self {
        Self { header, file, tail: ByteOffset(SEGMENT_HEADER_LEN as u64), finished_len: None, mark: Vec::new() }
    }

    /// A writer that continues at `tail` in a file opened for writing.
    #[must_use]
    pub fn resume(file: &SegmentFile, tail: ByteOffset) -> (Self, Preallocation) {
        let writer = Self { tail, ..Self::new(*file.header(), Arc::clone(file.shared_file())) };
        (writer, Preallocation::new(file.id(), Arc::clone(file.shared_file()), file.len()))
    }

    /// A writer that continues after the CLOSE at the end of `file`. Writes nothing yet: the first
    /// call of [`Preallocation::ensure`] extends the file, rewrites the CLOSE, and syncs.
    ///
    /// # Errors
    /// I/O.
    pub fn resume_after_close(file: &SegmentFile, close: ByteOffset) -> Result<(Self, Preallocation)> {
        let end = file.len() - TRAILER_LEN as u64;
        let len = usize::try_from(end - close.0).expect("invariant: a frame is under 2 GiB");
        let mut frame = vec![0; len];
        file.read_exact(&mut frame, close.0)?;
        let (writer, preallocation) = Self::resume(file, ByteOffset(end));
        Ok((writer, preallocation.with_close(close, frame)))
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

    /// The file of the segment.
    #[must_use]
    pub const fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The same writer, which uses the segment's file through `file`.
    #[must_use]
    pub fn with_file(self, file: Arc<dyn File>) -> Self {
        Self { file, ..self }
    }

    /// The position of the next frame.
    #[must_use]
    pub const fn next_position(&self) -> FramePosition {
        FramePosition { salt: self.header.salt, offset: self.tail }
    }

    /// Writes whole frames with one call. The frames must be encoded for
    /// [`next_position`](Self::next_position) and the positions that follow it.
    ///
    /// # Errors
    /// I/O. After an error the next position is unchanged, and the bytes at and after it are not
    /// known.
    pub fn append(&mut self, frames: &[u8]) -> Result<()> {
        self.file.write_all_at(frames, self.tail.0).map_err(Error::io(self.id(), "write"))?;
        self.tail = self.tail + frames.len() as u64;
        Ok(())
    }

    /// Like [`append`](Self::append), for frames in several pieces of `len` bytes in total.
    ///
    /// # Errors
    /// Returns the same errors as [`append`](Self::append).
    pub fn append_pieces(&mut self, pieces: &[IoSlice<'_>], len: u64) -> Result<()> {
        debug_assert_eq!(pieces.iter().map(|piece| piece.len() as u64).sum::<u64>(), len);
        self.file.write_all_vectored_at(pieces, self.tail.0).map_err(Error::io(self.id(), "write"))?;
        self.tail = self.tail + len;
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// I/O. After an error it is not known which part of the file is durable, and a later sync does
    /// not report the failure again.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(self.id(), "sync"))
    }

    /// Writes a MARK after the frames; the next frame overwrites it. Writes nothing if the MARK
    /// would not fit into the first `preallocated` bytes of the file, or if the segment is
    /// finished.
    ///
    /// # Errors
    /// I/O.
    pub fn write_mark(&mut self, context: &ControlContext, preallocated: u64) -> Result<()> {
        let position = self.next_position();
        self.mark.clear();
        // A vector that grows as it is filled would keep more, and a log may have many streams.
        self.mark.reserve_exact(Control::MARK_FRAME_LEN as usize);
        encode_control(
            &mut self.mark,
            &position,
            context.next_seq,
            context.timestamp,
            Some(context.durable),
            &Control::Mark,
        );
        if self.finished_len.is_some() || self.tail.0 + self.mark.len() as u64 > preallocated {
            return Ok(());
        }
        self.file.write_all_at(&self.mark, self.tail.0).map_err(Error::io(self.id(), "write"))
    }

    /// Ensures room for a START at `end`, and for a SEAL or CLOSE after it. `end` is at or after
    /// the next position: frames that were promised room may follow the START.
    ///
    /// # Errors
    /// Returns the same errors as [`Preallocation::ensure_control`].
    pub fn preallocate_start(&self, preallocation: &mut Preallocation, end: &ByteOffset) -> Result<()> {
        let len = Control::START_FRAME_LEN + Footer::frame_len_max(0) + TRAILER_LEN as u64;
        preallocation.ensure_control(end, len)
    }

    /// Ensures room for a START like [`preallocate_start`](Self::preallocate_start), and then
    /// writes it.
    ///
    /// # Errors
    /// I/O. After a successful `preallocate_start`, only the write itself can fail; the START may
    /// or may not be in the file then.
    pub fn write_start(
        &mut self,
        preallocation: &mut Preallocation,
        context: &ControlContext,
        start: SeqNo,
    ) -> Result<()> {
        let bytes = self.control(context, &Control::Start { start });
        debug_assert_eq!(bytes.len() as u64, Control::START_FRAME_LEN);
        let end = self.tail;
        self.preallocate_start(preallocation, &end)?;
        self.append(&bytes)
    }

    /// Writes a SEAL or CLOSE and its trailer. If its index does not fit, it is written without the
    /// index.
    ///
    /// # Errors
    /// I/O. [`ErrorKind::Preallocate`](crate::ErrorKind::Preallocate) if the frame does not fit
    /// even without the index; nothing was written in that case.
    pub fn finish(
        &mut self,
        preallocation: &mut Preallocation,
        context: &ControlContext,
        footer: Footer,
    ) -> Result<()> {
        let position = self.next_position();
        let mut bytes = self.control(context, &Control::Footer(footer.clone()));
        let len = |bytes: &[u8]| (bytes.len() + TRAILER_LEN) as u64;
        if let Err(e) = preallocation.ensure_control(&self.tail, len(&bytes)) {
            if !e.is_refusal() || footer.index.is_empty() {
                return Err(e);
            }
            bytes = self.control(context, &Control::Footer(Footer { index: bytes::Bytes::new(), ..footer }));
            preallocation.ensure_control(&self.tail, len(&bytes))?;
        }
        bytes.extend_from_slice(&Trailer { footer_offset: position.offset }.encode(position.salt));
        self.file.write_all_at(&bytes, position.offset.0).map_err(Error::io(self.id(), "write"))?;
        self.finished_len = Some(position.offset.0 + bytes.len() as u64);
        Ok(())
    }

    /// The offset at which the trailer of the SEAL or CLOSE ends, once both are written.
    #[must_use]
    pub const fn finished_len(&self) -> Option<u64> {
        self.finished_len
    }

    /// Shortens the file to the end of its trailer. Call this only once the SEAL or CLOSE is
    /// durable. Does nothing to a file without a trailer.
    ///
    /// # Errors
    /// I/O.
    pub fn trim_to_trailer(&self) -> Result<()> {
        match self.finished_len {
            Some(len) => self.file.set_len(len).map_err(Error::io(self.id(), "shorten")),
            None => Ok(()),
        }
    }

    /// Rewrites `frames`, which are the bytes at `offset`. Recovery does this because the disk may
    /// not hold the bytes that the page cache shows.
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
