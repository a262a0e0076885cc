//! An existing segment file: its header, its length, and the footer at its end.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{
    ByteOffset, Control, Decoded, FOOTER_HEAD_LEN, FRAME_ALIGN, FRAME_HEADER_LEN, Footer, FooterKind, FrameHeader,
    FramePosition, HeaderError, Limits, SEGMENT_HEADER_LEN, SegmentHeader, SeqNo, TRAILER_LEN, Trailer, decode_header,
    decode_payload,
};
use stratawal_storage::{Access, ChangeStamp, File, Storage};

use crate::{Error, ErrorKind, Result, SegmentId};

/// An open segment file. Its length is read once, before its bytes.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    id: SegmentId,
    header: SegmentHeader,
    file: Arc<dyn File>,
    len: u64,
}

/// The footer of a finished file. The file ends with a valid trailer, which names this valid SEAL
/// or CLOSE and directly follows it.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Where the SEAL or CLOSE begins. The entries end there.
    pub offset: ByteOffset,
    /// The header of the footer's frame. Its first seq is one past the last entry.
    pub frame: FrameHeader,
    /// Its content.
    pub footer: Footer,
}

impl Finished {
    /// The fields that [`SegmentFile::peek_footer`] returns without checking the payload.
    #[must_use]
    pub const fn summary(&self) -> FooterSummary {
        FooterSummary { end_seq: self.frame.first_seq, kind: self.footer.kind }
    }
}

/// The SEAL or CLOSE at the end of a file, as read by [`SegmentFile::peek_footer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterSummary {
    /// One past the last entry of the segment.
    pub end_seq: SeqNo,
    /// The kind of control frame, with the segment or CLOSE that it names.
    pub kind: FooterKind,
}

impl SegmentFile {
    /// Opens segment `id` in the directory `dir` and reads its header.
    ///
    /// # Errors
    /// I/O; a header that is not valid or is that of another segment.
    pub fn open(storage: &Arc<dyn Storage>, dir: &Path, id: SegmentId, access: Access) -> Result<Self> {
        let file = storage.open(&dir.join(id.to_string()), access).map_err(|source| {
            let kind = match source.kind() {
                io::ErrorKind::InvalidInput => ErrorKind::NotAFile(source),
                _ => ErrorKind::Io { operation: "open", source },
            };
            Error::new(id, None, kind)
        })?;
        let len = file.len().map_err(Error::io(id, "read the length"))?;
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        let read = file.read_at(&mut bytes, 0).map_err(Error::io(id, "read"))?;
        let header = SegmentHeader::decode(&bytes[..read])
            .map_err(|why: HeaderError| Error::new(id, Some(ByteOffset(0)), ErrorKind::Header(why)))?;
        let named = SegmentId::of(&header);
        if named != id {
            return Err(Error::new(id, Some(ByteOffset(0)), ErrorKind::NameMismatch(named)));
        }
        Ok(Self { id, header, file, len })
    }

    /// The name of the segment.
    #[must_use]
    pub const fn id(&self) -> SegmentId {
        self.id
    }

    /// The header of the segment.
    #[must_use]
    pub const fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The length of the file in bytes when it was opened.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is empty. A segment never is: it has a header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the file has the length of an active segment: a multiple of 4 KiB plus 8.
    #[must_use]
    pub const fn has_active_len(&self) -> bool {
        self.len % 4096 == 8
    }

    pub(crate) fn file(&self) -> &dyn File {
        &*self.file
    }

    /// The file itself.
    #[must_use]
    pub const fn shared_file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Makes all written bytes of the file durable. The file may be open for reading only.
    ///
    /// # Errors
    /// I/O. After an error, only bytes that were durable before can be trusted.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(self.id, "sync"))
    }

    /// Returns the current state of the file. A caller that then reads the file can compare a later
    /// state with it, to learn whether the file has changed. Returns `None` if the state is not
    /// known, or if the file no longer has the length that it had when it was opened.
    ///
    /// # Errors
    /// I/O.
    pub fn change_stamp(&self) -> Result<Option<ChangeStamp>> {
        let stamp = self.file.change_stamp().map_err(Error::io(self.id, "read the metadata"))?;
        Ok(stamp.filter(|stamp| stamp.len == self.len))
    }

    /// Returns the SEAL or CLOSE at the end of the file, or `None` if the file does not end with a
    /// valid SEAL or CLOSE and its valid trailer.
    ///
    /// # Errors
    /// I/O, and frames of a newer version.
    pub fn finished(&self) -> Result<Option<Finished>> {
        let Some((offset, trailer_at)) = self.trailer()? else { return Ok(None) };
        self.footer_at(offset, Some(trailer_at))
    }

    /// Reads the fixed fields of the SEAL or CLOSE at the end of the file, in two short reads.
    /// Checks the trailer and the frame's header but, unlike [`finished`](Self::finished), not the
    /// payload. Returns `None` if the file does not end with such a frame and its trailer.
    ///
    /// # Errors
    /// I/O.
    pub fn peek_footer(&self) -> Result<Option<FooterSummary>> {
        let Some((offset, trailer_at)) = self.trailer()? else { return Ok(None) };
        const LEN: usize = FRAME_HEADER_LEN + FOOTER_HEAD_LEN;
        if trailer_at - offset.0 < LEN as u64 {
            return Ok(None);
        }
        let mut bytes = [0; LEN];
        self.read_exact(&mut bytes, offset.0)?;
        let (header, payload) = bytes.split_at(FRAME_HEADER_LEN);
        Ok(match decode_header(header, &self.position(offset), &self.limits()) {
            Decoded::Frame(frame) if frame.is_control() && offset.0 + frame.frame_len() == trailer_at => {
                FooterKind::peek(payload).map(|kind| FooterSummary { end_seq: frame.first_seq, kind })
            }
            _ => None,
        })
    }

    /// Returns the offset of the footer named by the valid trailer at the end of the file, and the
    /// offset of that trailer.
    fn trailer(&self) -> Result<Option<(ByteOffset, u64)>> {
        let first_end = (SEGMENT_HEADER_LEN + FRAME_HEADER_LEN + TRAILER_LEN) as u64;
        if self.len < first_end || self.has_active_len() {
            return Ok(None);
        }
        let trailer_at = self.len - TRAILER_LEN as u64;
        let mut trailer = [0; TRAILER_LEN];
        self.read_exact(&mut trailer, trailer_at)?;
        let Some(Trailer { footer_offset }) = Trailer::decode(&trailer, self.header.salt) else {
            return Ok(None);
        };
        let fits = (SEGMENT_HEADER_LEN as u64..=trailer_at - FRAME_HEADER_LEN as u64).contains(&footer_offset.0);
        if !fits || !footer_offset.0.is_multiple_of(FRAME_ALIGN) {
            return Ok(None);
        }
        Ok(Some((footer_offset, trailer_at)))
    }

    /// Returns the CLOSE at `offset`, which a later CLOSE names, if it is valid.
    ///
    /// # Errors
    /// I/O, and frames of a newer version.
    pub fn close_at(&self, offset: ByteOffset) -> Result<Option<Finished>> {
        let last = self.len.saturating_sub(FRAME_HEADER_LEN as u64);
        let fits = (SEGMENT_HEADER_LEN as u64..=last).contains(&offset.0);
        if !fits || !offset.0.is_multiple_of(FRAME_ALIGN) {
            return Ok(None);
        }
        let found = self.footer_at(offset, None)?;
        Ok(found.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. })))
    }

    /// Returns the SEAL or CLOSE at `offset` if it is valid and, when `end` is given, ends there.
    fn footer_at(&self, offset: ByteOffset, end: Option<u64>) -> Result<Option<Finished>> {
        let newer = |what| Err(Error::new(self.id, Some(offset), ErrorKind::Newer(what)));
        let mut bytes = [0; FRAME_HEADER_LEN];
        self.read_exact(&mut bytes, offset.0)?;
        let frame = match decode_header(&bytes, &self.position(offset), &self.limits()) {
            Decoded::Frame(frame) => frame,
            Decoded::Newer(what) => return newer(what),
            Decoded::Incomplete { .. } | Decoded::Blank | Decoded::Invalid(_) => return Ok(None),
        };
        let ends_there = end.is_none_or(|end| offset.0 + frame.frame_len() == end);
        if !frame.is_control() || !ends_there {
            return Ok(None);
        }
        // The header is valid, the frame lies within the file, and a control payload is at most
        // 64 MiB.
        let mut payload = vec![0; frame.payload_len as usize];
        self.read_exact(&mut payload, offset.0 + FRAME_HEADER_LEN as u64)?;
        match decode_payload(frame, Bytes::from(payload)) {
            Decoded::Frame(whole) => Ok(match whole.control() {
                Some(Control::Footer(footer)) => Some(Finished { offset, frame, footer: footer.clone() }),
                _ => None,
            }),
            Decoded::Newer(what) => newer(what),
            Decoded::Incomplete { .. } | Decoded::Blank | Decoded::Invalid(_) => Ok(None),
        }
    }

    pub(crate) fn position(&self, offset: ByteOffset) -> FramePosition {
        FramePosition { salt: self.header.salt, offset }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { base: self.header.base, end: ByteOffset(self.len) }
    }

    pub(crate) fn read_exact(&self, buf: &mut [u8], at: u64) -> Result<()> {
        self.file
            .read_exact_at(buf, at)
            .map_err(|source| Error::new(self.id, Some(ByteOffset(at)), ErrorKind::Io { operation: "read", source }))
    }

    /// Returns the stored header checksum of the frame at `offset`.
    ///
    /// # Errors
    /// I/O.
    pub fn header_crc_at(&self, offset: ByteOffset) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read_exact(&mut bytes, offset.0)?;
        Ok(u32::from_le_bytes(bytes))
    }
}
