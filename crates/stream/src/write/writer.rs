//! What the leader does to the files of a stream: drain, settle, rotate, close.
//!
//! Invariants: there is one `Writer`, and whoever has it has the lead. A descriptor with unsynced
//! writes is never closed (the error of their write-back would be forgotten with it), so finished
//! segments stay open until settled. The watermark passes only when everything below it is settled.
//! After any error but a full disk before a write, nothing more is written: the group fails, and
//! recovery decides.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{
    ByteOffset, DataFrame, End, EndKind, Generation, INDEX_BLOCK_LEN_MAX, Place, SEGMENT_HEADER_LEN, Salt,
    SegmentHeader, SeqNo, StreamId, TRAILER_LEN, encode_data, encode_data_head,
};
use stratawal_index::{ActiveIndex, IndexPoint, encode_points_within};
use stratawal_segment::{CONTROL_RESERVE, ControlContext, CreateError, Preallocation, SegmentData, SegmentWriter};
use stratawal_sync::{Published, fail_point};

use crate::context::LogContext;
use crate::error::{Error, ErrorKind, Result};
use crate::history::Predecessor;
use crate::layout;
use crate::location::Location;
use crate::options::{Durability, StreamOptions};
use crate::read::segment_reader::SegmentReader;
use crate::read::snapshot::{LiveSegment, PublishedSegment, SegmentState, Snapshot};
use crate::removal::{Renamed, rename_dir};
use crate::truncation_log::TruncationLog;
use crate::unsynced_files::UnsyncedFile;
use crate::watermarks::Watermarks;
use crate::write::buffer_pool::{OWN_BUFFER_LEN_MAX, push_exact};
use crate::write::commit::CommitLeader;
use crate::write::reserve::{FIRST_LEN, ReserveUse, create_segment};
use crate::write::tail::{Draft, Large, Pending, Reservation, Tail};
use crate::write::truncate::sealed;

/// The length that the file of a successor begins with, if a segment is not shorter. A stream that
/// has filled one segment will fill another, and each step of growth costs the sync after it a
/// commit of the file system's journal and the file another extent: with segments of 64 KiB,
/// milliseconds where a sync takes 0.04. No more than this, because a stream whose entries were all
/// dropped holds it, too.
const SUCCESSOR_LEN: u64 = 1 << 20;

/// Every so many CLOSE frames in one segment, the index points of all of them are written again, so
/// that opening reads a bounded number of them.
const CLOSES_MAX: u32 = 32;

/// What the writer shares with readers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) context: Arc<LogContext>,
    pub(crate) location: Location,
    pub(crate) options: StreamOptions,
    pub(crate) watermarks: Arc<Watermarks>,
    pub(crate) snapshot: Published<Snapshot>,
    pub(crate) truncations: TruncationLog,
}

/// The lead over the files of a stream.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    /// `None` before the stream's first append.
    pub(crate) active: Option<Active>,
    unsynced: VecDeque<UnsyncedSegment>,
    /// Timestamp of the last frame in the file.
    timestamp: u64,
    /// How long the active file was when it was last looked at; it only grows.
    pub(crate) preallocated: u64,
    /// Short ones; what is longer is encoded in memory of the pool.
    encoder: FrameEncoder,
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) writer: SegmentWriter,
    pub(crate) live: Arc<LiveSegment>,
    /// One past the last entry in the file.
    pub(crate) end_seq: u64,
    /// Timestamps of the first and last frame of entries.
    pub(crate) times: Option<(u64, u64)>,
    pub(crate) closes: Closes,
}

/// The CLOSE frames in the active segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Closes {
    /// The last one.
    pub(crate) last: Option<ByteOffset>,
    /// How many name one another.
    pub(crate) depth: u32,
    /// Index points that they hold together.
    pub(crate) points: usize,
}

/// A finished segment that may have unsynced bytes.
#[derive(Debug)]
struct UnsyncedSegment {
    writer: SegmentWriter,
    end_seq: u64,
    len: u64,
    _counted: UnsyncedFile,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, active: Option<Active>, timestamp: u64) -> Self {
        Self { shared, active, unsynced: VecDeque::new(), timestamp, preallocated: 0, encoder: FrameEncoder::default() }
    }

    pub(crate) fn failed(&self, error: stratawal_segment::Error) -> Error {
        Error::segment_error(&self.shared.location, error)
    }

    pub(crate) fn control_context(&self, next_seq: u64) -> ControlContext {
        ControlContext {
            next_seq: SeqNo(next_seq),
            timestamp: self.timestamp,
            durable: SeqNo(self.shared.watermarks.durable()),
        }
    }

    // ---- draining

    /// Writes the entries that were taken after the tail of the active segment, with one call.
    pub(crate) fn drain(&mut self, work: &Pending) -> Result<()> {
        let Some(end_seq) = work.end_seq() else { return Ok(()) };
        if fail_point!(WatermarkFirst) {
            self.shared.watermarks.set_flushed(end_seq);
        }
        let len = self.write(work.drafts(), work.data(), work.len())?;
        debug_assert!(len <= work.reserved, "a frame takes at most what was reserved for it");
        self.drained_to(end_seq);
        Ok(())
    }

    /// Writes a large batch from the caller's memory, and has `tail` accept it. Under the lock,
    /// with its space made sure of and nothing waiting in the tail. Where it fails, the batch is
    /// not accepted, and recovery decides whether the file has it.
    pub(crate) fn write_large(&mut self, tail: &mut Tail, large: &Large<'_>) -> Result<()> {
        let end_seq = large.seqs().end;
        if fail_point!(WatermarkFirst) {
            self.shared.watermarks.set_flushed(end_seq);
        }
        self.preallocated = tail.reservation.as_ref().map_or(0, |reservation| reservation.preallocation.preallocated());
        let len = self.write(large.drafts(), large.data(), large.table_len())?;
        debug_assert!(len <= large.reserved, "a frame takes at most what was reserved for it");
        tail.accept_written(large, self.active.as_ref().map_or(0, |active| active.writer.next_position().offset.0));
        self.shared.watermarks.set_accepted(end_seq);
        self.drained_to(end_seq);
        Ok(())
    }

    /// Shows readers that the entries below `end_seq` are in the file.
    fn drained_to(&mut self, end_seq: u64) {
        let active = self.active.as_mut().expect("invariant: what was written is in a segment");
        active.end_seq = end_seq;
        active.live.set_end(active.writer.next_position().offset.0);
        self.shared.watermarks.set_flushed(end_seq);
    }

    /// Writes `drafts`, whose entries' bytes are in `data`, as frames after the tail of the active
    /// segment, with one call; returns how many bytes. About `encoded_len` bytes besides those of
    /// large frames' entries are encoded for it.
    fn write<'a>(
        &mut self,
        drafts: impl Iterator<Item = (&'a Draft, &'a [u32], &'a [u8])>,
        data: &[u8],
        encoded_len: usize,
    ) -> Result<u64> {
        let active = self.active.as_mut().expect("invariant: entries are accepted only once there is a segment");
        let pool = &self.shared.context.encoders;
        let mut long = (encoded_len > OWN_BUFFER_LEN_MAX).then(|| pool.take(usize::MAX).unwrap_or_default());
        let frames = long.as_mut().unwrap_or(&mut self.encoder);
        frames.clear();
        let mut position = active.writer.next_position();
        for (draft, ends, data) in drafts {
            let frame = DataFrame {
                first_seq: SeqNo(draft.first_seq),
                timestamp: draft.timestamp,
                durable: Some(SeqNo(self.shared.watermarks.durable())),
                ends,
                data,
            };
            let point = IndexPoint { seq: draft.first_seq, offset: position.offset.0, timestamp: draft.timestamp };
            push_exact(&mut frames.points, point);
            position.offset = position.offset + frames.push(&position, &frame, draft.data_start);
        }
        let written = frames.len;
        let result = frames.write(data, &mut active.writer);
        result.map_err(|e| Error::segment_error(&self.shared.location, e))?;
        for &IndexPoint { seq, offset, timestamp } in &frames.points {
            // Seqs and offsets rise, and so do timestamps but behind those of a file that somebody
            // else wrote; then the frame has no point, and is found from the one before.
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

    // ---- settling

    /// Makes everything drained durable, oldest first, lets the watermark pass, and marks it.
    pub(crate) fn settle(&mut self) -> Result<()> {
        while !self.unsynced.is_empty() && !fail_point!(UnsyncedPassed) {
            self.settle_oldest()?;
        }
        let Some(active) = &self.active else { return Ok(()) };
        let end_seq = if fail_point!(LateArrivalCovered) { self.shared.watermarks.accepted() } else { active.end_seq };
        if end_seq <= self.shared.watermarks.durable() {
            return Ok(());
        }
        if fail_point!(AttestedBeforeSync) {
            self.advance_durable(end_seq)?;
        }
        if !fail_point!(AcknowledgedBeforeSync) {
            let active = self.active.as_ref().expect("invariant: it was there above");
            active.writer.sync().map_err(|e| self.failed(e))?;
        }
        self.advance_durable(end_seq)
    }

    /// The same, and whatever else stands in the active segment: a START moves no watermark.
    pub(crate) fn settle_all(&mut self) -> Result<()> {
        self.settle_finished()?;
        let Some(active) = &self.active else { return Ok(()) };
        active.writer.sync().map_err(|e| self.failed(e))?;
        self.advance_durable(active.end_seq)
    }

    /// Makes the finished segments durable, oldest first.
    fn settle_finished(&mut self) -> Result<()> {
        while !self.unsynced.is_empty() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    /// Syncs the oldest finished segment and shortens it to its SEAL; the watermark passes to its
    /// end.
    fn settle_oldest(&mut self) -> Result<()> {
        let Some(oldest) = self.unsynced.front() else { return Ok(()) };
        if fail_point!(DescriptorClosed) {
            self.sync_by_another_descriptor(oldest)?;
        } else {
            oldest.writer.sync().map_err(|e| self.failed(e))?;
        }
        oldest.writer.trim_to_trailer().map_err(|e| self.failed(e))?;
        let (id, end_seq) = (oldest.writer.id(), oldest.end_seq);
        // Published before the descriptor goes: readers open the segment anew from here on.
        let snapshot = self.shared.snapshot.load();
        let segments = snapshot
            .segments
            .iter()
            .map(|segment| if segment.id() == id { sealed(segment) } else { Arc::clone(segment) });
        self.shared.snapshot.store(Arc::new(Snapshot::new(segments.collect())));
        self.unsynced.pop_front();
        if end_seq > self.shared.watermarks.durable() { self.advance_durable(end_seq) } else { Ok(()) }
    }

    /// What [`FailPoint::DescriptorClosed`] does, whose file may not even be there any more.
    fn sync_by_another_descriptor(&self, finished: &UnsyncedSegment) -> Result<()> {
        let Shared { context, location, .. } = &*self.shared;
        let path = layout::segment_path(&location.dir(), finished.writer.id());
        let file = context.storage().open(&path, stratawal_segment::Access::ReadWrite);
        file.and_then(|file| file.sync_all()).map_err(|e| Error::io(location, e))
    }

    /// The MARK, and then the watermark: a process killed here would leave the last group
    /// unattested otherwise.
    fn advance_durable(&mut self, durable: u64) -> Result<()> {
        if let Some(active) = &mut self.active {
            let tail =
                ControlContext { next_seq: SeqNo(active.end_seq), timestamp: self.timestamp, durable: SeqNo(durable) };
            let marked = active.writer.write_mark(&tail, self.preallocated);
            marked.map_err(|e| Error::segment_error(&self.shared.location, e))?;
        }
        self.shared.watermarks.set_durable(durable);
        Ok(())
    }

    /// Whether finished segments hold more unsynced bytes than they may.
    pub(crate) fn is_past_bound(&self) -> bool {
        let options = &self.shared.options;
        let len: u64 = self.unsynced.iter().map(|unsynced| unsynced.len).sum();
        let too_many = || !self.unsynced.is_empty() && self.shared.context.unsynced_files.are_too_many();
        self.unsynced.len() > options.unsettled_segments_max || len > options.unsettled_len_max || too_many()
    }

    /// Past the bound, settles the oldest.
    pub(crate) fn settle_past_bound(&mut self) -> Result<()> {
        while self.is_past_bound() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    // ---- creating, rotating, closing; under the lock, with nothing waiting in the tail

    /// Creates the segment that the next entry goes into: the first one, or the successor of the
    /// active one.
    pub(crate) fn begin_segment(&mut self, tail: &mut Tail) -> Result<()> {
        if self.active.is_none() { self.create_stream(tail, tail.next_seq) } else { self.rotate(tail) }
    }

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

    /// The successor by rule H, then the SEAL that names it. No data of the predecessor is synced.
    pub(crate) fn rotate(&mut self, tail: &mut Tail) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let active = self.active.as_ref().expect("invariant: only a stream with a segment rotates");
        let predecessor = *active.writer.header();
        let last = SegmentReader::Live(Arc::clone(&active.live));
        let Some(generation) = predecessor.generation.0.checked_add(1).map(Generation) else {
            return Err(self.used_up());
        };
        let header = self.header(
            predecessor.stream_id,
            generation,
            last.predecessor_of(tail.next_seq),
            tail.next_seq,
            tail.restart,
        );
        assert!(predecessor.base < header.base, "a segment without entries has no successor but voids it");
        self.reserve_seal(tail, ReserveUse::Never)?;
        let len = SUCCESSOR_LEN.min(shared.options.segment_len.saturating_add(CONTROL_RESERVE));
        let (writer, preallocation) = self.create(&header, len, ReserveUse::Never)?;
        let reservation = tail.reservation.as_mut().expect("invariant: a stream with a segment takes reservations");
        self.seal(&mut reservation.preallocation, &header).map_err(Error::poisoned)?;
        let sealed = self.active.take().expect("invariant: it was there above");
        let len = reservation.preallocation.preallocated();
        self.unsynced.push_back(UnsyncedSegment {
            writer: sealed.writer,
            end_seq: sealed.end_seq,
            len,
            _counted: UnsyncedFile::new(&shared.context.unsynced_files),
        });
        let snapshot = shared.snapshot.load();
        self.activate_segment(tail, writer, preallocation, &snapshot.segments);
        // After a full disk, or where it was removed, it comes back here.
        shared.context.make_reserve();
        Ok(())
    }

    /// Makes sure of the room for a SEAL without index in the active file, before a successor is
    /// created: a full disk is no failure until then. A file that was closed has to grow for it.
    pub(crate) fn reserve_seal(&self, tail: &mut Tail, reserve: ReserveUse) -> Result<()> {
        let active = self.active.as_ref().expect("invariant: only a stream with a segment seals it");
        let reservation = tail.reservation.as_mut().expect("invariant: a stream with a segment takes reservations");
        let len = End::frame_len_max(0) + TRAILER_LEN as u64;
        self.with_room(reserve, || reservation.preallocation.ensure_control(&active.writer.next_position().offset, len))
    }

    /// Does `act`, which needs space in the active file; on a full disk, out of the emergency
    /// reserve where `reserve` allows it. Nothing has changed where it fails with any error but
    /// `Poisoned`.
    pub(crate) fn with_room<T>(
        &self,
        reserve: ReserveUse,
        act: impl FnMut() -> stratawal_segment::Result<T>,
    ) -> Result<T> {
        let is_full = |error: &stratawal_segment::Error| error.is_refusal() && error.is_full();
        let done = self.shared.context.with_reserve(reserve, is_full, act);
        done.map_err(|error| {
            let nothing_written = error.is_refusal();
            let error = self.failed(error);
            if nothing_written { error } else { error.poisoned() }
        })
    }

    pub(crate) fn used_up(&self) -> Error {
        Error::text(ErrorKind::Io, &self.shared.location, "the stream has used up its 2^32 generations")
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

    /// One past the last entry in the files.
    pub(crate) fn end_seq(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.end_seq)
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
        let before = self.active.as_ref().filter(|_| fail_point!(SaltKept)).map(|active| active.writer.header().salt);
        SegmentHeader {
            wal_id: self.shared.context.id(),
            stream_id,
            generation,
            predecessor: predecessor.generation,
            predecessor_salt: predecessor.salt,
            predecessor_frame_crc: predecessor.frame_crc,
            base: SeqNo(base),
            salt: before.unwrap_or_else(|| Salt(storage.random_u64())),
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

    /// Writes the SEAL that names `next`, the segment that follows. It counts the entries below the
    /// base of that one, so that the base is known even if the file of that segment is lost.
    pub(crate) fn seal(&mut self, preallocation: &mut Preallocation, next: &SegmentHeader) -> Result<()> {
        let active = self.active.as_ref().expect("invariant: only a stream with a segment seals it");
        let points = active.live.index.points_from(0);
        let kind = match fail_point!(SealNamesNone) {
            true => EndKind::Close { previous: None },
            false => EndKind::Seal { successor: next.generation, salt: next.salt },
        };
        let end = self.end(kind, active, &points);
        let entries = end.entries.min(next.base - active.writer.header().base);
        self.finish(preallocation, End { entries, ..end })
    }

    /// Writes CLOSE, so that the next open needs no scan. Everything is drained, nobody appends.
    /// Where it fails with any error but `Poisoned`, everything is durable, and no CLOSE was
    /// written.
    pub(crate) fn close(&mut self, preallocation: &mut Preallocation) -> Result<()> {
        self.settle().map_err(Error::poisoned)?;
        let Some(active) = &self.active else { return Ok(()) };
        if preallocation.is_after_close() {
            return Ok(());
        }
        assert!(self.unsynced.is_empty() && active.end_seq == self.shared.watermarks.durable(), "all is settled");
        let all = active.closes.depth >= CLOSES_MAX;
        let previous = if all { None } else { active.closes.last };
        let points = active.live.index.points_from(if all { 0 } else { active.closes.points });
        let end = self.end(EndKind::Close { previous }, active, &points);
        let (at, len) = (active.writer.next_position().offset, End::frame_len_max(0) + TRAILER_LEN as u64);
        self.with_room(ReserveUse::Allowed, || preallocation.ensure_control(&at, len))?;
        self.finish(preallocation, end).map_err(Error::poisoned)?;
        let writer = &self.active.as_ref().expect("invariant: it was there above").writer;
        // The cut may come only when the CLOSE is durable, and closing is done only when the cut
        // is.
        let ended = writer.sync().and_then(|()| writer.trim_to_trailer()).and_then(|()| writer.sync());
        ended.map_err(|e| self.failed(e).poisoned())
    }

    fn end(&self, kind: EndKind, active: &Active, points: &[IndexPoint]) -> End {
        let block = encode_points_within(points, INDEX_BLOCK_LEN_MAX).expect("invariant: points of an index rise");
        End {
            kind,
            start: SeqNo(self.shared.watermarks.start()),
            entries: active.end_seq - active.writer.header().base.0,
            times: active.times.unwrap_or_default(),
            index: Bytes::from(block),
        }
    }

    fn finish(&mut self, preallocation: &mut Preallocation, end: End) -> Result<()> {
        let active = self.active.as_mut().expect("invariant: only a stream with a segment finishes it");
        let tail = ControlContext {
            next_seq: SeqNo(active.end_seq),
            timestamp: self.timestamp,
            durable: SeqNo(self.shared.watermarks.durable()),
        };
        let result = active.writer.finish(preallocation, &tail, end);
        result.map_err(|e| Error::segment_error(&self.shared.location, e))
    }
}

impl CommitLeader for Writer {
    type Tail = Tail;
    type Work = Arc<Pending>;

    fn take(&mut self, tail: &mut Tail) -> Arc<Pending> {
        // Appends may make it longer meanwhile. What is booked leaves room for a MARK behind it.
        self.preallocated = tail.reservation.as_ref().map_or(0, |reservation| reservation.preallocation.preallocated());
        tail.take()
    }

    fn run(&mut self, work: &Arc<Pending>, durability: Durability) -> Result<()> {
        self.drain(work)?;
        if durability == Durability::Synced { self.settle() } else { Ok(()) }
    }

    fn put_back(&mut self, tail: &mut Tail, work: Arc<Pending>) {
        let end = self.active.as_ref().map_or(0, |active| active.writer.next_position().offset.0);
        tail.put_back(work, end);
    }
}

/// Frames to be written with one call: small ones encoded side by side, the bytes of large ones
/// where they are. Its memory is used again and again.
#[derive(Debug, Default)]
pub(crate) struct FrameEncoder {
    points: Vec<IndexPoint>,
    encoded: Vec<u8>,
    pieces: Vec<Piece>,
    len: u64,
}

/// A range of the bytes that were encoded, or of those of the entries.
#[derive(Debug)]
enum Piece {
    Encoded(Range<usize>),
    Data(Range<usize>),
}

/// From this length on an entry's bytes are not copied once more.
const BORROWED_LEN_MIN: usize = 8 << 10;

impl FrameEncoder {
    fn clear(&mut self) {
        self.points.clear();
        self.encoded.clear();
        self.pieces.clear();
        self.len = 0;
    }

    /// The bytes that its memory takes.
    fn capacity(&self) -> usize {
        let Self { points, encoded, pieces, len: _ } = self;
        encoded.capacity() + points.capacity() * size_of::<IndexPoint>() + pieces.capacity() * size_of::<Piece>()
    }

    /// Encodes a frame, whose entries' bytes begin at `data_start` among those of all; answers its
    /// length.
    fn push(&mut self, position: &Place, frame: &DataFrame<'_>, data_start: usize) -> u64 {
        let (before, from) = (self.len, self.encoded.len());
        if frame.data.len() < BORROWED_LEN_MIN {
            encode_data(&mut self.encoded, position, frame);
            self.push_encoded(from);
        } else {
            let zeros = encode_data_head(&mut self.encoded, position, frame);
            self.push_encoded(from);
            self.pieces.push(Piece::Data(data_start..data_start + frame.data.len()));
            self.len += frame.data.len() as u64;
            let from = self.encoded.len();
            self.encoded.resize(from + zeros, 0);
            self.push_encoded(from);
        }
        self.len - before
    }

    fn push_encoded(&mut self, from: usize) {
        let to = self.encoded.len();
        self.len += (to - from) as u64;
        match self.pieces.last_mut() {
            Some(Piece::Encoded(range)) => range.end = to,
            _ => push_exact(&mut self.pieces, Piece::Encoded(from..to)),
        }
    }

    fn write(&self, data: &[u8], writer: &mut SegmentWriter) -> stratawal_segment::Result<()> {
        match &self.pieces[..] {
            [Piece::Encoded(range)] => writer.append(&self.encoded[range.clone()]),
            pieces => {
                let slice = |piece: &Piece| match piece {
                    Piece::Encoded(range) => IoSlice::new(&self.encoded[range.clone()]),
                    Piece::Data(range) => IoSlice::new(&data[range.clone()]),
                };
                // A frame of its own, or a few, need no memory for the list.
                let mut few = [IoSlice::new(&[]); 8];
                match few.get_mut(..pieces.len()) {
                    Some(few) => {
                        few.iter_mut().zip(pieces).for_each(|(to, piece)| *to = slice(piece));
                        writer.append_pieces(few, self.len)
                    }
                    None => writer.append_pieces(&pieces.iter().map(slice).collect::<Vec<_>>(), self.len),
                }
            }
        }
    }
}
