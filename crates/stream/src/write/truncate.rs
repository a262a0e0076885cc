//! Dropping entries: from the beginning, from the end, and the whole stream.
//!
//! Dropping from the beginning is a START frame; dropping from the end, or up to beyond the end, is
//! a new generation, whose directory entry is the commit point: nothing is shortened or rewritten, and
//! what is left over stays void whether or not it comes back. Everything is settled first, so
//! whoever waits is told what was so. Files are removed after the lead was given back, see
//! [`removal`](crate::removal).

use std::sync::Arc;

use stratawal_frame::{SegmentHeader, SeqNo};
use stratawal_storage::DirToSync;
use stratawal_sync::fail_point;

use crate::deletion::{DeleteError, move_away, remove_moved};
use crate::error::{Error, ErrorKind, Result};
use crate::history::Predecessor;
use crate::inner::Inner;
use crate::read::snapshot::{PublishedSegment, Snapshot};
use crate::removal::{Dead, Removals};
use crate::shared::Shared;
use crate::write::create::FIRST_LEN;
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Reservation, Tail};
use crate::write::writer::{OpenSegments, Writer, sealed};

impl Inner {
    /// See [`StreamLog::truncate_before`](crate::StreamLog::truncate_before).
    pub(crate) fn truncate_before(&self, first: u64) -> Result<()> {
        self.lock_for_truncate().map(drop)?;
        let mut removals = self.removals.lock();
        let mut removed = self.drop_below(&mut removals, first, true);
        let is_full = removed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Full);
        if is_full && self.shared.snapshot.load().segments.len() > 1 {
            // Room for a new file comes with the end of the older ones.
            removed = self.drop_below(&mut removals, first, false);
            if removed.is_ok() {
                // The entries are dropped. Where there is still no room, the segment being written
                // stays.
                let freed = self.begin_at_end(&mut removals, first);
                removed = freed.or_else(|e| if e.kind() == ErrorKind::Full { Ok(()) } else { Err(e) });
            }
        }
        fail_point!(StartShownLate, self.shared.watermarks.set_start(first));
        self.shared.context.make_reserve();
        removed
    }

    /// See [`StreamLog::truncate_from`](crate::StreamLog::truncate_from).
    pub(crate) fn truncate_from(&self, next: u64) -> Result<()> {
        self.lock_for_truncate().map(drop)?;
        let mut removals = self.removals.lock();
        let dead = self.group.exclusively(|state, writer| {
            self.check(state)?;
            let (first, end) = (self.shared.watermarks.start(), state.tail.next_seq);
            if next == end {
                return Ok(None);
            }
            if next < first || next > end {
                return Err(Error::new(
                    ErrorKind::OutOfRange { first_seq: first, next_seq: end },
                    &self.shared.location,
                ));
            }
            writer.cut_from(&mut state.tail, next, first, ReserveUse::Allowed).map(Some)
        });
        let removed = dead.and_then(|dead| {
            dead.map_or(Ok(()), |dead| removals.remove_dead(&self.shared.context, &self.shared.location, dead))
        });
        self.shared.context.make_reserve();
        removed
    }

    /// See [`StreamLog::delete`](crate::StreamLog::delete).
    pub(crate) fn delete(&self) -> std::result::Result<bool, DeleteError> {
        let shared = &self.shared;
        self.check_process().map_err(DeleteError::Undone)?;
        if shared.context.is_read_only() {
            return Err(DeleteError::Undone(Error::new(ErrorKind::ReadOnly, &shared.location)));
        }
        // Before the group: a truncation removes files by paths that may be another stream's once
        // this one is gone.
        let mut removals = self.removals.lock();
        let mut moved = Ok(None);
        let retired = self.group.shut_down(Error::new(ErrorKind::Missing, &shared.location), |state| {
            moved = move_away(&shared.context, &shared.location);
            if let Err(DeleteError::Undone(error)) = &moved {
                return Err(error.clone());
            }
            let snapshot = shared.snapshot.load();
            if let Some(segment) = snapshot.segments.first() {
                shared.context.cache.remove_stream(segment.header.stream_id.0);
            }
            shared.truncations.cut(shared.watermarks.epoch(), 0);
            shared.watermarks.change(|watermarks| {
                shared.snapshot.store(Arc::new(Snapshot::default()));
                watermarks.reset(0, 0);
            });
            state.tail = Tail::new(0, 0, None, Arc::clone(&shared.context.pending));
            Ok(())
        });
        retired.map_err(DeleteError::Undone)?;
        removals.clear();
        remove_moved(&shared.context, &shared.location, moved?)
    }
}

impl Inner {
    /// Drops the entries below `first`, and removes their files. Where that is all entries, and
    /// `anew`, the segment being written goes with them if it holds much.
    fn drop_below(&self, removals: &mut Removals, first: u64, anew: bool) -> Result<()> {
        let dropped = self.group.exclusively_then(
            |state, writer| {
                self.check(state)?;
                if first <= self.shared.watermarks.start() {
                    return Ok(None);
                }
                let beyond = first > state.tail.next_seq || matches!(writer, Writer::NoSegment(_));
                if beyond || (anew && is_worth_anew(&state.tail, first)) {
                    return Ok(Some((None, writer.begin_at(&mut state.tail, first)?)));
                }
                writer.drain_all(&mut state.tail)?;
                let dead = match writer.write_start(&mut state.tail, first) {
                    // The room that is kept for it is used up. The header of a new generation has
                    // the same effect, out of the emergency reserve.
                    Err(error) if error.kind() == ErrorKind::Full => {
                        let end = state.tail.next_seq;
                        writer.cut_from(&mut state.tail, end, first, ReserveUse::Allowed)?
                    }
                    written => written.map(|()| Dead::default())?,
                };
                Ok(Some((Some(first), dead)))
            },
            |writer, (start, mut dead)| {
                if let Some(first) = start {
                    dead.segments.extend(writer.drop_before(first)?);
                }
                Ok(dead)
            },
        );
        dropped.and_then(|dead| {
            dead.map_or(Ok(()), |dead| removals.remove_dead(&self.shared.context, &self.shared.location, dead))
        })
    }

    /// All entries were dropped: the segment being written goes, too, if it holds much, unless
    /// there are new ones.
    fn begin_at_end(&self, removals: &mut Removals, first: u64) -> Result<()> {
        let dead = self.group.exclusively(|state, writer| {
            self.check(state)?;
            if is_worth_anew(&state.tail, first) {
                return writer.begin_at(&mut state.tail, first).map(Some);
            }
            Ok(None)
        })?;
        dead.map_or(Ok(()), |dead| removals.remove_dead(&self.shared.context, &self.shared.location, dead))
    }
}

/// Whether a stream that begins at `first` needs nothing of the segment being written, and that
/// holds much more than a fresh one takes. A START is cheaper than a new file.
fn is_worth_anew(tail: &Tail, first: u64) -> bool {
    const HELD_MAX: u64 = 64 << 10;
    first == tail.next_seq
        && tail.reservation.as_ref().is_some_and(|reservation| reservation.preallocation.preallocated() > HELD_MAX)
}

impl Writer {
    /// Makes the stream begin at `first`, at its end or beyond; returns what it held before.
    fn begin_at(&mut self, tail: &mut Tail, first: u64) -> Result<Dead> {
        if let Self::NoSegment(_) = self {
            let before = std::mem::replace(&mut tail.next_seq, first);
            self.create_stream(tail, first).inspect_err(|_| tail.next_seq = before)?;
            return Ok(Dead::default());
        }
        self.drain_all(tail)?;
        let (segments, reservation) = self.open_in(tail)?;
        segments.settle_all().map_err(Error::poisoned)?;
        let (dead, begun) = segments.begin_at(reservation, first)?;
        tail.next_seq = first;
        tail.continue_in(begun);
        Ok(dead)
    }

    /// Writes START, which drops the entries below `first` once it is durable.
    fn write_start(&mut self, tail: &mut Tail, first: u64) -> Result<()> {
        let (segments, reservation) = self.open_in(tail)?;
        segments.write_start(reservation, first)
    }

    /// The START is written: makes it durable, and shows readers only what does not lie wholly
    /// below it. Returns the segments that do.
    fn drop_before(&mut self, first: u64) -> Result<Vec<Arc<PublishedSegment>>> {
        match self {
            Self::Open(segments) => segments.drop_before(first),
            Self::NoSegment(_) => Ok(Vec::new()),
        }
    }

    /// Begins a new generation at `next`, whose header has the first live seq `start`. Returns the
    /// segments that hold nothing else than what is dropped.
    pub(super) fn cut_from(&mut self, tail: &mut Tail, next: u64, start: u64, reserve: ReserveUse) -> Result<Dead> {
        self.drain_all(tail)?;
        let (segments, reservation) = self.open_in(tail)?;
        segments.settle_all().map_err(Error::poisoned)?;
        let (dead, begun) = segments.cut_from(reservation, next, start, reserve)?;
        tail.next_seq = next;
        tail.continue_in(begun);
        Ok(dead)
    }
}

impl OpenSegments {
    fn write_start(&mut self, reservation: &mut Reservation, first: u64) -> Result<()> {
        let writer = &self.active.writer;
        self.shared.with_room(ReserveUse::Allowed, || writer.preallocate_start(&mut reservation.preallocation))?;
        // From here on it may be there: a disk that is full only now is a failed write.
        let context = self.control_context();
        let written = self.active.writer.write_start(&mut reservation.preallocation, &context, SeqNo(first));
        written.map_err(|e| self.shared.segment_error(e).poisoned())?;
        self.preallocated = reservation.preallocation.preallocated();
        reservation.end = self.active.end_offset();
        self.active.live.set_end(reservation.end);
        Ok(())
    }

    fn drop_before(&mut self, first: u64) -> Result<Vec<Arc<PublishedSegment>>> {
        if !fail_point!(StartAfterUnlink) {
            self.settle_all()?;
        }
        // Readers that find a segment gone look at the start again.
        if !fail_point!(StartShownLate) {
            self.shared.watermarks.set_start(first);
        }
        let snapshot = self.shared.snapshot.load();
        let dead = (0..snapshot.segments.len() - 1).take_while(|&i| snapshot.limit(i) <= first).count();
        self.shared.snapshot.store(Arc::new(Snapshot::new(snapshot.segments[dead..].to_vec())));
        Ok(snapshot.segments[..dead].to_vec())
    }

    /// Everything is settled: begins anew at `first`, at the end or beyond.
    fn begin_at(&mut self, reservation: &Reservation, first: u64) -> Result<(Dead, Reservation)> {
        let header = self.generation_header(Predecessor::NONE, first, first, reservation)?;
        let (writer, preallocation) = self.create(&header, FIRST_LEN, ReserveUse::Allowed)?;
        let shared = Arc::clone(&self.shared);
        let old = shared.snapshot.load();
        shared.watermarks.set_start(first);
        let (_, begun) = self.activate(writer, preallocation, &[]);
        shared.watermarks.reset_all(first);
        Ok((Dead { segments: old.segments.clone(), dir_to_sync: None }, begun))
    }

    /// The header of a generation that begins at `base`, where everything is durable.
    fn generation_header(
        &self,
        predecessor: Predecessor,
        base: u64,
        start: u64,
        reservation: &Reservation,
    ) -> Result<SegmentHeader> {
        let header = self.next_header(predecessor, base, reservation.restart)?;
        Ok(SegmentHeader { durable: SeqNo(base), start: SeqNo(start), ..header })
    }

    /// Everything is settled: begins a new generation at `next`.
    fn cut_from(
        &mut self,
        reservation: &mut Reservation,
        next: u64,
        start: u64,
        reserve: ReserveUse,
    ) -> Result<(Dead, Reservation)> {
        let shared = Arc::clone(&self.shared);
        let old = shared.snapshot.load();
        let kept = old.segments.partition_point(|segment| segment.header.base.0 < next);
        let active_is_kept = kept == old.segments.len();
        if active_is_kept {
            self.reserve_seal(reservation, reserve)?;
        }
        let predecessor = self.predecessor(kept.checked_sub(1).map(|i| &old.segments[i]), next);
        // What comes after the commit point must not lack a descriptor.
        let dir = shared.location.dir();
        let dir_to_sync = DirToSync::new(shared.context.storage(), &dir).map_err(|e| Error::io(&shared.location, e))?;
        let header = self.generation_header(predecessor, next, start, reservation)?;
        let (writer, preallocation) = self.create(&header, FIRST_LEN, reserve)?;

        // The commit point is passed. The active segment, if it is kept, gets the SEAL that names
        // what follows it.
        if active_is_kept {
            self.seal(reservation, &header).map_err(Error::poisoned)?;
            let sealed = &self.active.writer;
            let done = sealed.sync().and_then(|()| sealed.trim_to_trailer());
            done.map_err(|e| shared.segment_error(e).poisoned())?;
        }
        // Everything in this epoch is settled, so threads that wait in it need no record of how it
        // ends.
        shared.truncations.cut(shared.watermarks.epoch(), next);
        let before: Vec<_> = old.segments[..kept].iter().map(sealed).collect();
        let (_, begun) = shared.watermarks.change(|watermarks| {
            let activated = self.activate(writer, preallocation, &before);
            watermarks.reset(watermarks.start(), next);
            activated
        });
        Ok((Dead { segments: old.segments[kept..].to_vec(), dir_to_sync: Some(dir_to_sync) }, begun))
    }

    /// What the header of a segment that begins at `next` states of the segment before it.
    fn predecessor(&self, before: Option<&Arc<PublishedSegment>>, next: u64) -> Predecessor {
        let Some(segment) = before else { return Predecessor::NONE };
        let Shared { context, location, options, .. } = &*self.shared;
        // Entries before `next` that are damaged must not keep the caller from dropping those after
        // it.
        let reader = segment.open_alone(context, location, options);
        reader.map_or_else(|_| Predecessor::unread(&segment.header), |reader| reader.predecessor_of(next))
    }
}
