//! Creates segments: the first one of a stream, with its directory, and every later one.
//!
//! If the log has a commit journal, the first entries of a stream are accepted without a directory.
//! Their records have the id of the stream, and the directory gets the same id: a crash may leave
//! both, and recovery joins them by the id.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_frame::{ByteOffset, Generation, SEGMENT_HEADER_LEN, Salt, SegmentHeader, SeqNo, StreamId};
use stratawal_segment::{CreateError, Preallocation, SegmentWriter, UnsyncedSegment, create, create_unsynced};
use stratawal_storage::Storage;
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
use crate::write::commit::{Group, HeldLead};
use crate::write::dir_sync::copy_of;
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
        let header = shared.first_header(id, start);
        shared.context.prepare_parent_sync(location).map_err(|e| Error::io(location, e))?;
        let is_full = |error: &Error| error.kind() == ErrorKind::Full;
        let waiting = tail.pending_reserved();
        let create = || NewDirectory::build(&shared, &header, waiting)?.synced()?.rename();
        let created = shared.context.with_reserve(reserve, is_full, create)?;
        if !fail_point!(DirSyncSkipped) {
            shared.context.sync_parent(location).map_err(|e| Error::io(location, e).poisoned())?;
        }
        let is_empty = tail.pending_len() == 0;
        if is_empty {
            shared.watermarks.set_start(start);
        }
        self.continue_in_directory(tail, created, waiting, of_journal.is_some());
        if is_empty {
            if let Some(journaled) = &mut tail.journaled {
                journaled.restart_at(start);
            }
            shared.watermarks.reset_all(start);
        }
        Ok(())
    }

    /// Continues in the segment of a directory that was created and is durable. The segment has
    /// space for `reserved` bytes. If the stream has records in the commit journal (`has_records`),
    /// another one states that it has a directory.
    fn continue_in_directory(
        &mut self,
        tail: &mut Tail,
        (writer, preallocation): (SegmentWriter, Preallocation),
        reserved: u64,
        has_records: bool,
    ) {
        let shared = Arc::clone(self.shared());
        let header = *writer.header();
        let active = shared.publish_active(writer, &[]);
        let mut segments = OpenSegments::new(Arc::clone(&shared), active, header.last_timestamp);
        segments.preallocated = preallocation.preallocated();
        let mut reservation = Reservation::new(&segments.active.writer, preallocation);
        reservation.end += reserved;
        tail.continue_in(reservation);
        // The others get their space before they are drained.
        tail.leave_unreserved(tail.pending_reserved().saturating_sub(reserved));
        *self = Self::Open(Box::new(segments));
        if let Some(journaled) = &mut tail.journaled {
            journaled.has_directory(header.stream_id);
            if has_records {
                journaled.record_directory();
            }
        }
    }
}

/// The directory of a new stream with its first segment, under a temporary name. The segment is
/// synced before the directory is renamed, and the caller syncs the parent after that.
#[derive(Debug)]
struct NewDirectory {
    shared: Arc<Shared>,
    temporary: PathBuf,
    segment: UnsyncedSegment,
}

impl NewDirectory {
    /// Builds the directory, with a segment whose header is `header` and that has space for
    /// `waiting` bytes. After an error nothing has changed.
    fn build(shared: &Arc<Shared>, header: &SegmentHeader, waiting: u64) -> Result<Self> {
        let storage = shared.context.storage();
        let location = &shared.location;
        let temporary = layout::new_dir(location, storage.random_u64());
        storage.create_dir(&temporary).map_err(|e| {
            // The directory may exist although the system reported an error. Nothing else has this
            // name.
            let _ = storage.remove_dir(&temporary);
            Error::io(location, e)
        })?;
        let created = create_unsynced(storage, &temporary, header, FIRST_LEN).and_then(|mut segment| {
            let first = ByteOffset(SEGMENT_HEADER_LEN as u64);
            segment.preallocation().ensure(&first, waiting)?;
            Ok(segment)
        });
        match created {
            Ok(segment) => Ok(Self { shared: Arc::clone(shared), temporary, segment }),
            Err(error) => {
                remove_temporary(&**storage, &temporary);
                Err(shared.segment_error(error))
            }
        }
    }

    /// Makes everything in the directory durable. After an error nothing has changed.
    fn synced(self) -> Result<Self> {
        match self.segment.sync() {
            Ok(()) => Ok(self),
            Err(error) => {
                remove_temporary(&**self.shared.context.storage(), &self.temporary);
                Err(self.shared.segment_error(error))
            }
        }
    }

    /// Gives the directory its name, which is not durable yet. After an error other than `Poisoned`
    /// nothing has changed.
    fn rename(self) -> Result<(SegmentWriter, Preallocation)> {
        let Self { shared, temporary, segment } = self;
        let storage = shared.context.storage();
        let io = |e| Error::io(&shared.location, e);
        match rename_dir(&**storage, &temporary, &shared.location.dir()) {
            Renamed::Done => Ok(segment.into_writer()),
            Renamed::Undone(e) => {
                remove_temporary(&**storage, &temporary);
                Err(io(e))
            }
            // The stream may exist, either now or after a crash. Recovery finds out.
            Renamed::Absent(e) | Renamed::DoneDespite(e) | Renamed::Unknown(e) => Err(io(e).poisoned()),
        }
    }
}

/// A directory that is being created for a stream, by a thread that has the stream's lead and not
/// its lock. So appends do not wait for the syncs, and many streams share them.
///
/// The steps are taken for all streams of a batch before the next step: [`begin`](Self::begin),
/// [`sync`](Self::sync), [`rename`](Self::rename), [`sync_parent`](Self::sync_parent) once, and
/// [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct BegunDirectory<'a> {
    lead: HeldLead<'a, Writer>,
    reserved: u64,
    state: CreationState,
}

#[derive(Debug)]
enum CreationState {
    /// Under a temporary name.
    New(NewDirectory),
    /// It has its name, which may not be durable.
    Renamed(SegmentWriter, Preallocation),
    Failed(Error),
}

impl<'a> BegunDirectory<'a> {
    /// Builds the directory of a stream that only the commit journal has, unless another thread has
    /// its lead. Returns `None` after an error too: the thread that drains the stream meets it
    /// again, and reports it.
    pub(crate) fn begin(group: &'a Group<Writer>) -> Option<Self> {
        let mut state = group.lock();
        let is_new = |tail: &Tail| !tail.closed && tail.pending_len() > 0;
        let journaled = state.tail.journaled.as_ref().filter(|journaled| !journaled.is_in_directory())?;
        let id = journaled.known_stream().filter(|_| is_new(&state.tail))?;
        let id = if fail_point!(CreatedWithOtherId) { StreamId(id.0 ^ 1) } else { id };
        let reserved = state.tail.pending_reserved();
        let lead = group.hold_lead_if_free(&mut state)?;
        drop(state);
        let Writer::NoSegment(shared) = lead.get() else { return None };
        shared.context.prepare_parent_sync(&shared.location).ok()?;
        let header = shared.first_header(id, shared.watermarks.start_in_files());
        let state = CreationState::New(NewDirectory::build(shared, &header, reserved).ok()?);
        Some(Self { lead, reserved, state })
    }

    /// Makes the directory durable under its temporary name. Returns `None`, and has changed
    /// nothing, if that fails.
    pub(crate) fn sync(self) -> Option<Self> {
        let CreationState::New(new) = self.state else { return Some(self) };
        Some(Self { state: CreationState::New(new.synced().ok()?), ..self })
    }

    /// Gives the directory its name. Returns `None`, and has changed nothing, if that fails.
    pub(crate) fn rename(self) -> Option<Self> {
        let CreationState::New(new) = self.state else { return Some(self) };
        let state = match new.rename() {
            Ok((writer, preallocation)) => CreationState::Renamed(writer, preallocation),
            Err(error) if error.kind() == ErrorKind::Poisoned => CreationState::Failed(error),
            Err(_) => return None,
        };
        Some(Self { state, ..self })
    }

    /// Makes the names of all directories durable that were renamed before this call.
    pub(crate) fn sync_parent(&self) -> io::Result<()> {
        let Shared { context, location, .. } = &**self.lead.get().shared();
        if fail_point!(DirSyncSkipped) { Ok(()) } else { context.sync_parent(location) }
    }

    /// Has the stream continue in its directory. `synced` is the outcome of the sync of the parent.
    pub(crate) fn finish(self, synced: &io::Result<()>) {
        let Self { mut lead, reserved, state: created } = self;
        let location = lead.get().shared().location.clone();
        let created = match (created, synced) {
            (CreationState::Renamed(writer, preallocation), Ok(())) => Ok((writer, preallocation)),
            (CreationState::Renamed(..), Err(error)) => Err(Error::io(&location, copy_of(error)).poisoned()),
            (CreationState::Failed(error), _) => Err(error),
            (CreationState::New(_), _) => return,
        };
        lead.under_lock(|state, writer| match created {
            // An append has failed the stream since. Its recovery finds the directory.
            _ if state.failure().is_some() => {}
            Ok(created) => writer.continue_in_directory(&mut state.tail, created, reserved, true),
            Err(error) => state.fail(&error),
        });
    }
}

/// Removes a directory that did not get its name. The next opening of the log removes leftovers.
fn remove_temporary(storage: &dyn Storage, temporary: &Path) {
    if let Ok(entries) = storage.list(temporary) {
        for entry in entries {
            let _ = storage.remove_file(&temporary.join(entry.name));
        }
    }
    let _ = storage.remove_dir(temporary);
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
    /// The header of the first segment of a stream.
    fn first_header(&self, id: StreamId, start: u64) -> SegmentHeader {
        SegmentHeader {
            durable: SeqNo(start),
            start: SeqNo(start),
            ..self.new_header(id, Generation(1), Predecessor::NONE, start)
        }
    }

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

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use stratawal_frame::WalId;
    use stratawal_journal::JournalOptions;
    use stratawal_testkit::{HookedStorage, Operation, SimStorage};

    use super::*;
    use crate::log_journal::LogJournal;
    use crate::{Durability, StreamLog, StreamOptions, Visibility};

    const COUNT: usize = 12;
    /// A stream with so much in the journal is settled rather than copied.
    const ENTRY_LEN: usize = 20_000;
    const STREAMS: &str = "/streams";

    /// New streams, each with a synced entry that the journal alone has.
    fn streams(storage: &HookedStorage) -> (Arc<LogContext>, Vec<StreamLog>) {
        let storage: Arc<dyn Storage> = Arc::new(storage.clone());
        storage.create_dir(Path::new(STREAMS)).unwrap();
        let options = JournalOptions::default().bytes(1 << 20);
        let journal = LogJournal::create(&storage, Path::new("/journal"), WalId(0), options).unwrap();
        let context = Arc::new(LogContext::new(storage).journal(Arc::new(journal)));
        let options = StreamOptions::new().durability(Durability::Synced);
        let open = |i: usize| {
            let location = Location::new(STREAMS, i.to_string());
            let stream = StreamLog::open(Arc::clone(&context), location, options.clone()).unwrap();
            stream.append(&[7; ENTRY_LEN], Durability::Synced).unwrap();
            stream
        };
        let streams = (0..COUNT).map(open).collect();
        (context, streams)
    }

    fn release(context: &LogContext) {
        context.log_journal().unwrap().release(0).unwrap();
    }

    fn have_directories(storage: &SimStorage) -> usize {
        storage.list(Path::new(STREAMS)).unwrap().len()
    }

    fn assert_entries(streams: &[StreamLog]) {
        for stream in streams {
            assert_eq!(stream.get(0, Visibility::Stable).unwrap().unwrap().data[..], [7; ENTRY_LEN]);
            assert_eq!(stream.append(b"next", Durability::Synced).unwrap(), 1);
        }
    }

    /// Counts the calls of an operation on the directory of the streams.
    fn count_parent_syncs(storage: &HookedStorage) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        storage.set(move |operation, path| {
            let is_sync = matches!(operation, Operation::SyncDir | Operation::Sync) && path == Path::new(STREAMS);
            counted.fetch_add(u64::from(is_sync), Ordering::Relaxed);
            Ok(())
        });
        count
    }

    #[test]
    fn new_directories_share_the_sync_of_their_parent() {
        let sim = SimStorage::new(1);
        let storage = HookedStorage::new(sim.clone());
        let (context, streams) = streams(&storage);
        let syncs = count_parent_syncs(&storage);
        release(&context);
        assert_eq!((have_directories(&sim), syncs.load(Ordering::Relaxed)), (COUNT, 1));
        assert_entries(&streams);
    }

    #[test]
    fn directory_that_is_not_synced_is_not_renamed() {
        let sim = SimStorage::new(1);
        let storage = HookedStorage::new(sim.clone());
        let (context, streams) = streams(&storage);
        storage.set(|operation, path| {
            let fails = operation == Operation::Sync && path.starts_with(STREAMS);
            if fails { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        });
        release(&context);
        assert_eq!(have_directories(&sim), 0, "what was built is removed");
        storage.clear();
        assert_entries(&streams);
        release(&context);
        assert_eq!(have_directories(&sim), COUNT);
    }

    #[test]
    fn failed_sync_of_the_parent_fails_the_new_streams() {
        let sim = SimStorage::new(1);
        let storage = HookedStorage::new(sim.clone());
        let (context, streams) = streams(&storage);
        storage.set(|operation, path| {
            let fails = matches!(operation, Operation::SyncDir | Operation::Sync) && path == Path::new(STREAMS);
            if fails { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        });
        release(&context);
        storage.clear();
        for stream in &streams {
            let refused = stream.append(b"refused", Durability::Synced).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Poisoned);
            stream.reopen().unwrap();
        }
        assert_entries(&streams);
    }
}
