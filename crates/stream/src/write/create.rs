//! Creates segments: the first one of a stream, with its directory, and every later one.

use std::sync::Arc;

use stratawal_frame::{Generation, SEGMENT_HEADER_LEN, Salt, SegmentHeader, SeqNo, StreamId};
use stratawal_index::ActiveIndex;
use stratawal_segment::{CreateError, Preallocation, SegmentData, SegmentWriter};
use stratawal_sync::fail_point;

use crate::context::LogContext;
use crate::error::{Error, ErrorKind, Result};
use crate::history::Predecessor;
use crate::layout;
use crate::read::snapshot::{LiveSegment, PublishedSegment, SegmentState, Snapshot};
use crate::removal::{Renamed, rename_dir};
use crate::write::active::{Active, Closes};
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Reservation, Tail};
use crate::write::writer::Writer;
use std::path::Path;
use stratawal_segment::create;

impl Writer {
    /// The first segment of a stream that is not there yet, and its folder, durably: built under a
    /// temporary name with the segment in it, both synced, then renamed, then the parent synced.
    pub(crate) fn create_stream(&mut self, tail: &mut Tail, start: u64) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (storage, location) = (shared.context.storage(), &shared.location);
        let temporary = layout::new_dir(location, storage.random_u64());
        let io = |e| Error::io(location, e);
        shared.context.ready_to_sync_streams(location).map_err(io)?;
        storage.create_dir(&temporary).map_err(|e| {
            // It may be there although the system reported an error; nothing else has this name.
            let _ = storage.remove_dir(&temporary);
            io(e)
        })?;
        let header = SegmentHeader {
            durable: SeqNo(start),
            start: SeqNo(start),
            ..self.header(StreamId(storage.random_u64()), Generation(1), Predecessor::NONE, start, None)
        };
        let undo = |error: Error| {
            // Leftovers are nobody's, and removed at the next open.
            if let Ok(entries) = storage.list(&temporary) {
                for entry in entries {
                    let _ = storage.remove_file(&temporary.join(entry.name));
                }
            }
            let _ = storage.remove_dir(&temporary);
            error
        };
        let (writer, preallocation) =
            match create_segment(&shared.context, &temporary, &header, FIRST_LEN, ReserveUse::Never) {
                Ok(created) => created,
                Err(CreateError::Undone(e) | CreateError::Indeterminate(e)) => return Err(undo(self.failed(e))),
            };
        match rename_dir(&**storage, &temporary, &location.dir()) {
            Renamed::Done => {}
            Renamed::Undone(e) => return Err(undo(io(e))),
            // The stream may be there, now or after a crash: recovery finds out.
            Renamed::Absent(e) | Renamed::DoneDespite(e) | Renamed::Unknown(e) => return Err(io(e).poisoned()),
        }
        if !fail_point!(DirSyncSkipped) {
            shared.context.sync_streams(location).map_err(|e| io(e).poisoned())?;
        }
        shared.watermarks.set_start(start);
        self.activate_segment(tail, writer, preallocation, &[]);
        shared.watermarks.reset_all(start);
        Ok(())
    }

    /// Creates a segment by rule H, its file `len` bytes long if there is room; from its rename on,
    /// a failure lets nobody write to older ones. Where no descriptor is left, the finished
    /// segments are settled, which closes them, and the creation is tried once more.
    pub(crate) fn create(
        &mut self,
        header: &SegmentHeader,
        len: u64,
        reserve: ReserveUse,
    ) -> Result<(SegmentWriter, Preallocation)> {
        let shared = Arc::clone(&self.shared);
        let create = || create_segment(&shared.context, &shared.location.dir(), header, len, reserve);
        let mut created = create();
        let lacks_file = matches!(&created, Err(CreateError::Undone(e)) if e.is_out_of_files());
        if lacks_file && !self.unsynced.is_empty() {
            self.settle_finished().map_err(Error::poisoned)?;
            created = create();
        }
        created.map_err(|e| match e {
            CreateError::Undone(e) => self.failed(e),
            CreateError::Indeterminate(e) => self.failed(e).poisoned(),
        })
    }

    pub(crate) fn used_up(&self) -> Error {
        Error::text(ErrorKind::Io, &self.shared.location, "the stream has used up its 2^32 generations")
    }

    pub(crate) fn header(
        &self,
        stream_id: StreamId,
        generation: Generation,
        predecessor: Predecessor,
        base: u64,
        restart: Option<u64>,
    ) -> SegmentHeader {
        let storage = self.shared.context.storage();
        let kept = self.active.as_ref().filter(|_| fail_point!(SaltKept));
        SegmentHeader {
            wal_id: self.shared.context.id(),
            stream_id,
            generation,
            predecessor: predecessor.generation,
            predecessor_salt: predecessor.salt,
            predecessor_frame_crc: predecessor.frame_crc,
            base: SeqNo(base),
            salt: kept.map_or_else(|| Salt(storage.random_u64()), |active| active.writer.header().salt),
            durable: SeqNo(self.shared.watermarks.durable()),
            start: SeqNo(self.shared.watermarks.start()),
            last_timestamp: restart.unwrap_or(self.timestamp),
            created: storage.now_micros(),
            name_crc: SegmentHeader::name_checksum(self.shared.location.dir_name()),
            ..SegmentHeader::EMPTY
        }
    }

    /// Writes to the new segment from here on, and shows it to readers.
    pub(crate) fn activate_segment(
        &mut self,
        tail: &mut Tail,
        writer: SegmentWriter,
        preallocation: Preallocation,
        before: &[Arc<PublishedSegment>],
    ) {
        let header = *writer.header();
        let live = Arc::new(LiveSegment::new(
            SegmentData::read_shared(header, Arc::clone(writer.file())),
            Arc::new(ActiveIndex::new(self.shared.options.index_every)),
            SEGMENT_HEADER_LEN as u64,
        ));
        let mut segments = Vec::with_capacity(before.len() + 1);
        segments.extend_from_slice(before);
        segments.push(Arc::new(PublishedSegment { header, state: SegmentState::Live(Arc::clone(&live)) }));
        self.shared.snapshot.store(Arc::new(Snapshot::new(segments)));
        self.preallocated = preallocation.preallocated();
        if tail.restart.take().is_some() {
            (self.timestamp, tail.last_timestamp) = (header.last_timestamp, header.last_timestamp);
        }
        tail.reservation = Some(Reservation { preallocation, base: header.base.0, end: SEGMENT_HEADER_LEN as u64 });
        self.active = Some(Active { writer, live, end_seq: header.base.0, times: None, closes: Closes::default() });
    }
}

/// The length in bytes that a new segment's file begins with, unless more is wanted; it grows in
/// steps from there.
pub(crate) const FIRST_LEN: u64 = 16 << 10;

/// Creates a segment whose file has `wanted` bytes; on a full disk [`FIRST_LEN`], and then those
/// out of the emergency reserve where `reserve` allows it.
pub(crate) fn create_segment(
    context: &LogContext,
    dir: &Path,
    header: &SegmentHeader,
    wanted: u64,
    reserve: ReserveUse,
) -> std::result::Result<(SegmentWriter, Preallocation), CreateError> {
    let is_full = |error: &CreateError| matches!(error, CreateError::Undone(e) if e.is_full());
    let create = |len| create(context.storage(), dir, header, len);
    let mut created = create(wanted);
    if wanted > FIRST_LEN && created.as_ref().is_err_and(is_full) {
        created = create(FIRST_LEN);
    }
    let mut first = Some(created);
    context.with_reserve(reserve, is_full, || first.take().unwrap_or_else(|| create(FIRST_LEN)))
}
