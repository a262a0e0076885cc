//! Creates segments: the first one of a stream, with its directory, and every later one.
//!
//! If the log has a commit journal, the first entries of a stream are accepted without a directory.
//! Their records have the id of the stream, and the directory gets the same id: a crash may leave
//! both, and recovery joins them by the id.

use std::path::Path;
use std::sync::Arc;

use stratawal_frame::{Generation, Salt, SegmentHeader, SeqNo, StreamId};
use stratawal_segment::{CreateError, Preallocation, SegmentWriter, create};
use stratawal_sync::fail_point;

use crate::context::LogContext;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Renamed, rename_dir};
use crate::history::Predecessor;
use crate::layout;
use crate::location::Location;
use crate::read::snapshot::{PublishedSegment, SegmentState, Snapshot};
use crate::shared::Shared;
use crate::write::active::ActiveSegment;
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Reservation, Tail};
use crate::write::writer::{OpenSegments, Writer};

impl Writer {
    /// Creates the stream's directory if entries were accepted without one. After an error other
    /// than `Poisoned` nothing has changed.
    pub(super) fn create_for_pending(&mut self, tail: &mut Tail, reserve: ReserveUse) -> Result<()> {
        match self {
            Self::NoSegment(shared) if tail.pending_len() > 0 => {
                // The journal alone may have a START.
                let start = shared.watermarks.start_in_files();
                self.create_stream(tail, start, reserve)
            }
            _ => Ok(()),
        }
    }

    /// Durably creates a stream: its directory with the first segment in it, which begins at
    /// `start`. The stream has the id that its records in the commit journal have, if there are
    /// any. The segment has space for the entries that are pending.
    pub(super) fn create_stream(&mut self, tail: &mut Tail, start: u64, reserve: ReserveUse) -> Result<()> {
        let shared = Arc::clone(self.shared());
        let location = &shared.location;
        let of_journal = tail.journaled.as_ref().and_then(|journaled| journaled.known_stream());
        let other_id = fail_point!(CreatedWithOtherId);
        let id = of_journal.filter(|_| !other_id).unwrap_or_else(|| new_stream_id(&shared.context));
        let header = SegmentHeader {
            durable: SeqNo(start),
            start: SeqNo(start),
            ..shared.new_header(id, Generation(1), Predecessor::NONE, start)
        };
        shared.context.prepare_parent_sync(location).map_err(|e| Error::io(location, e))?;
        let is_full = |error: &Error| error.kind() == ErrorKind::Full;
        let waiting = tail.pending_reserved();
        let (writer, preallocation) =
            shared.context.with_reserve(reserve, is_full, || create_dir(&shared, &header, waiting))?;
        if !fail_point!(DirSyncSkipped) {
            shared.context.sync_parent(location).map_err(|e| Error::io(location, e).poisoned())?;
        }
        let is_empty = tail.pending_len() == 0;
        if is_empty {
            shared.watermarks.set_start(start);
        }
        let active = shared.publish_active(writer, &[]);
        let mut segments = OpenSegments::new(Arc::clone(&shared), active, header.last_timestamp);
        segments.preallocated = preallocation.preallocated();
        let mut reservation = Reservation::new(&segments.active.writer, preallocation);
        reservation.end += waiting;
        tail.continue_in(reservation);
        *self = Self::Open(Box::new(segments));
        if let Some(journaled) = &mut tail.journaled {
            journaled.has_directory(id);
            if is_empty {
                journaled.restart_at(start);
            }
            if of_journal.is_some() {
                journaled.record_directory();
            }
        }
        if is_empty {
            shared.watermarks.reset_all(start);
        }
        Ok(())
    }
}

/// Creates the directory of a stream with its first segment, whose header is `header`, and space
/// for `waiting` bytes. Both are built under a temporary name and synced. Then the directory is
/// renamed. The caller syncs its parent.
fn create_dir(shared: &Shared, header: &SegmentHeader, waiting: u64) -> Result<(SegmentWriter, Preallocation)> {
    let storage = shared.context.storage();
    let location = &shared.location;
    let temporary = layout::new_dir(location, storage.random_u64());
    let io = |e| Error::io(location, e);
    storage.create_dir(&temporary).map_err(|e| {
        // The directory may exist although the system reported an error. Nothing else has this
        // name.
        let _ = storage.remove_dir(&temporary);
        io(e)
    })?;
    let undo = |error: Error| {
        // The next opening of the log removes leftovers.
        if let Ok(entries) = storage.list(&temporary) {
            for entry in entries {
                let _ = storage.remove_file(&temporary.join(entry.name));
            }
        }
        let _ = storage.remove_dir(&temporary);
        error
    };
    let created = create_segment(&shared.context, &temporary, header, FIRST_LEN, ReserveUse::Never);
    let (writer, mut preallocation) = match created {
        Ok(created) => created,
        Err(CreateError::Undone(e) | CreateError::Indeterminate(e)) => return Err(undo(shared.segment_error(e))),
    };
    let ensured = preallocation.ensure(&writer.next_position().offset, waiting);
    ensured.map_err(|e| undo(shared.segment_error(e)))?;
    match rename_dir(&**storage, &temporary, &location.dir()) {
        Renamed::Done => Ok((writer, preallocation)),
        Renamed::Undone(e) => Err(undo(io(e))),
        // The stream may exist, either now or after a crash. Recovery finds out.
        Renamed::Absent(e) | Renamed::DoneDespite(e) | Renamed::Unknown(e) => Err(io(e).poisoned()),
    }
}

/// A random id for a new stream. 0 stands for no stream.
pub(super) fn new_stream_id(context: &LogContext) -> StreamId {
    StreamId(context.storage().random_u64().max(1))
}

impl OpenSegments {
    /// Creates a segment by rule H, with a file of `len` bytes if there is space. Once the file is
    /// renamed, a failure forbids all writes to older segments. If the process has no descriptor
    /// left, the finished segments are settled, which closes them, and the creation is tried once
    /// more.
    pub(super) fn create(
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
            CreateError::Undone(e) => self.shared.segment_error(e),
            CreateError::Indeterminate(e) => self.shared.segment_error(e).poisoned(),
        })
    }

    /// The header of the next generation. If times restart, they begin at `restart`.
    pub(super) fn next_header(
        &self,
        predecessor: Predecessor,
        base: u64,
        restart: Option<u64>,
    ) -> Result<SegmentHeader> {
        let newest = self.active.writer.header();
        let Some(generation) = newest.generation.0.checked_add(1).map(Generation) else {
            let text = "the stream has used up its 2^32 generations";
            return Err(Error::text(ErrorKind::Io, &self.shared.location, text));
        };
        let mut header = self.shared.new_header(newest.stream_id, generation, predecessor, base);
        header.last_timestamp = restart.unwrap_or(self.timestamp);
        if fail_point!(SaltKept) {
            header.salt = newest.salt;
        }
        Ok(header)
    }

    /// Makes a new segment the active one, and shows it to readers after the segments `before`.
    /// Returns the previously active segment, and the reservation of the new one.
    pub(super) fn activate(
        &mut self,
        writer: SegmentWriter,
        preallocation: Preallocation,
        before: &[Arc<PublishedSegment>],
    ) -> (ActiveSegment, Reservation) {
        self.preallocated = preallocation.preallocated();
        self.timestamp = writer.header().last_timestamp;
        let active = self.shared.publish_active(writer, before);
        let reservation = Reservation::new(&active.writer, preallocation);
        (std::mem::replace(&mut self.active, active), reservation)
    }
}

impl Shared {
    fn new_header(
        &self,
        stream_id: StreamId,
        generation: Generation,
        predecessor: Predecessor,
        base: u64,
    ) -> SegmentHeader {
        SegmentHeader {
            stream_id,
            generation,
            base: SeqNo(base),
            durable: SeqNo(self.watermarks.attested()),
            start: SeqNo(self.watermarks.start_in_files()),
            created: self.context.storage().now_micros(),
            ..identity(&self.context, &self.location, predecessor)
        }
    }

    /// Shows readers a new segment after the segments `before`.
    fn publish_active(&self, writer: SegmentWriter, before: &[Arc<PublishedSegment>]) -> ActiveSegment {
        let active = ActiveSegment::new(writer, &self.context, &self.location, &self.options);
        let header = *active.writer.header();
        let mut segments = Vec::with_capacity(before.len() + 1);
        segments.extend_from_slice(before);
        segments.push(Arc::new(PublishedSegment { header, state: SegmentState::Live(Arc::clone(&active.live)) }));
        self.snapshot.store(Arc::new(Snapshot::new(segments)));
        active
    }
}

/// The part of a new segment's header that ties the segment to its log, directory and predecessor,
/// with a fresh salt. The other fields are empty.
pub(crate) fn identity(context: &LogContext, location: &Location, predecessor: Predecessor) -> SegmentHeader {
    SegmentHeader {
        wal_id: context.id(),
        predecessor: predecessor.generation,
        predecessor_salt: predecessor.salt,
        predecessor_frame_crc: predecessor.frame_crc,
        salt: Salt(context.storage().random_u64()),
        name_crc: SegmentHeader::name_checksum(location.dir_name()),
        ..SegmentHeader::EMPTY
    }
}

/// The initial file length of a new segment in bytes, unless more is wanted. The file grows in
/// steps from there.
pub(crate) const FIRST_LEN: u64 = 16 << 10;

/// Creates a segment whose file has `wanted` bytes. If the disk is full, the file has [`FIRST_LEN`]
/// bytes, and the emergency reserve is used if `reserve` allows that.
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
