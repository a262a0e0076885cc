//! Drops entries at the beginning or the end of a stream.
//!
//! Entries at the beginning are dropped by a START frame. In a log with a commit journal, a record
//! drops them first, see [`journal_start`](super::journal_start); the frame follows once it frees a
//! file. Entries at the end are dropped by a new generation, and so are all entries of a stream
//! that restarts beyond its end. The commit point is the directory entry of the new segment.
//! Nothing is shortened or rewritten, and the old entries stay void whether or not their files
//! reappear.
//!
//! Before a new generation everything is settled, so waiting threads get the outcome of their own
//! appends. Files are removed after the lead is released, see [`removal`](crate::removal).

use std::sync::Arc;

use stratawal_frame::{ByteOffset, SegmentHeader, SeqNo};
use stratawal_storage::DirToSync;
use stratawal_sync::fail_point;

use crate::error::{Error, ErrorKind, Result};
use crate::history::Predecessor;
use crate::inner::Inner;
use crate::read::snapshot::{PublishedSegment, Snapshot};
use crate::removal::{Dead, Removals};
use crate::shared::Shared;
use crate::write::create::FIRST_LEN;
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Reservation, Tail};
use crate::write::writer::{OpenSegments, Writer};

impl Inner {
    /// See [`StreamLog::truncate_before`](crate::StreamLog::truncate_before).
    pub(crate) fn truncate_before(self: &Arc<Self>, first: u64) -> Result<()> {
        self.lock_for_truncate().map(drop)?;
        self.make_journal_room_for_control(ReserveUse::Allowed);
        if self.drop_in_journal(first)? {
            return self.free_dropped();
        }
        self.drop_in_files(first)
    }

    /// Has the files record that the stream begins at `first`, and removes those that hold only
    /// entries before it.
    pub(super) fn drop_in_files(&self, first: u64) -> Result<()> {
        let mut removals = self.removals.lock();
        let mut removed = self.drop_below(&mut removals, first, true);
        let is_full = removed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Full);
        if is_full && self.shared.snapshot.load().segments.len() > 1 {
            // Older files are removed first, which may free space for a new one.
            removed = self.drop_below(&mut removals, first, false);
            if removed.is_ok() {
                // The entries are dropped. If there is still no space, the active segment stays.
                let freed = self.reset_at_end(&mut removals, first);
                removed = freed.or_else(|e| if e.kind() == ErrorKind::Full { Ok(()) } else { Err(e) });
            }
        }
        fail_point!(StartShownLate, self.shared.watermarks.set_start(first));
        self.forget_start_in_files();
        self.shared.context.make_reserve();
        removed
    }

    /// See [`StreamLog::truncate_from`](crate::StreamLog::truncate_from).
    pub(crate) fn truncate_from(&self, next_seq: u64) -> Result<()> {
        self.lock_for_truncate().map(drop)?;
        self.make_journal_room_for_control(ReserveUse::Allowed);
        let mut removals = self.removals.lock();
        let dead = self.group.exclusively(|state, writer| {
            self.check(state)?;
            let first_seq = self.shared.watermarks.start();
            let end_seq = state.tail.next_seq;
            if next_seq == end_seq {
                return Ok(None);
            }
            if next_seq < first_seq || next_seq > end_seq {
                let kind = ErrorKind::OutOfRange { first_seq, next_seq: end_seq };
                return Err(Error::new(kind, &self.shared.location));
            }
            writer.truncate_from(&mut state.tail, next_seq, first_seq, ReserveUse::Allowed).map(Some)
        });
        let removed = dead.and_then(|dead| self.remove_dead(&mut removals, dead));
        self.shared.context.make_reserve();
        removed
    }

    fn remove_dead(&self, removals: &mut Removals, dead: Option<Dead>) -> Result<()> {
        dead.map_or(Ok(()), |dead| removals.remove_dead(&self.shared.context, &self.shared.location, dead))
    }

    /// Drops the entries below `first`, or below the first live seq if that is greater, and removes
    /// their files. If those are all the entries and
    /// `may_reset` is set, also drops an active segment that holds much space.
    fn drop_below(&self, removals: &mut Removals, first: u64, may_reset: bool) -> Result<()> {
        let dropped = self.group.exclusively_then(
            |state, writer| {
                self.check(state)?;
                let first = first.max(self.shared.watermarks.start());
                if first <= self.shared.watermarks.start_in_files() {
                    return Ok(None);
                }
                writer.begin_drop(&mut state.tail, first, may_reset).map(|begun| Some((first, begun)))
            },
            |writer, (first, begun)| match begun {
                DropStep::Done(dead) => Ok(dead),
                DropStep::Written(mut dead) => {
                    dead.segments.extend(writer.drop_before(first)?);
                    Ok(dead)
                }
            },
        );
        dropped.and_then(|dead| self.remove_dead(removals, dead))
    }

    /// After all entries were dropped, drops the active segment if it holds much space, unless
    /// there are new entries by now.
    fn reset_at_end(&self, removals: &mut Removals, first: u64) -> Result<()> {
        let dead = self.group.exclusively(|state, writer| {
            self.check(state)?;
            if is_worth_reset(&state.tail, first) {
                return writer.reset_to(&mut state.tail, first).map(Some);
            }
            Ok(None)
        })?;
        self.remove_dead(removals, dead)
    }
}

/// Whether a stream that begins at `first` has no entries and its active segment holds much more
/// space than a new one takes. Otherwise a START is cheaper than a new file.
pub(super) fn is_worth_reset(tail: &Tail, first: u64) -> bool {
    const HELD_MAX: u64 = 64 << 10;
    first == tail.next_seq
        && tail.reservation.as_ref().is_some_and(|reservation| reservation.preallocation.preallocated() > HELD_MAX)
}

/// The progress of dropping the oldest entries while the lock was held, with the segments dropped
/// so far.
enum DropStep {
    /// The stream was reset. Everything is done and durable.
    Done(Dead),
    /// The files record the new first entry, which has yet to be made durable and shown to readers.
    Written(Dead),
}

impl Writer {
    /// Does the part of dropping the entries below `first` that runs under the lock.
    fn begin_drop(&mut self, tail: &mut Tail, first: u64, may_reset: bool) -> Result<DropStep> {
        self.create_for_pending(tail, ReserveUse::Allowed)?;
        let is_beyond = first > tail.next_seq || matches!(self, Self::NoSegment(_));
        if is_beyond || (may_reset && is_worth_reset(tail, first)) {
            return self.reset_to(tail, first).map(DropStep::Done);
        }
        if tail.journaled.is_none() || first > self.shared().watermarks.drained() {
            self.drain_all_with(tail, ReserveUse::Allowed)?;
        }
        match self.write_start(tail, first) {
            // The room kept for control frames is used up. A new generation, with the emergency
            // reserve, records the first live seq in its header.
            Err(error) if error.kind() == ErrorKind::Full => {
                let next_seq = tail.next_seq;
                self.truncate_from(tail, next_seq, first, ReserveUse::Allowed).map(DropStep::Written)
            }
            written => written.map(|()| DropStep::Written(Dead::default())),
        }
    }

    /// Makes the stream begin at `first`, which is at or beyond its end. Returns its old segments.
    fn reset_to(&mut self, tail: &mut Tail, first: u64) -> Result<Dead> {
        if let Self::NoSegment(_) = self {
            let before = std::mem::replace(&mut tail.next_seq, first);
            self.create_stream(tail, first, ReserveUse::Allowed).inspect_err(|_| tail.next_seq = before)?;
            return Ok(Dead::default());
        }
        self.settle_and_void(tail, ReserveUse::Allowed)?;
        let (segments, reservation) = self.open_in(tail)?;
        let (dead, next) = segments.reset_to(reservation, first)?;
        tail.continue_at(first, next);
        Ok(dead)
    }

    /// Writes START, which drops the entries below `first` once it is durable.
    fn write_start(&mut self, tail: &mut Tail, first: u64) -> Result<()> {
        let (segments, reservation) = self.open_in(tail)?;
        segments.write_start(reservation, first)
    }

    /// Makes the START of `first` durable, and hides the segments entirely below it from readers.
    /// Returns those segments.
    fn drop_before(&mut self, first: u64) -> Result<Vec<Arc<PublishedSegment>>> {
        match self {
            Self::Open(segments) => segments.drop_before(first),
            Self::NoSegment(_) => Ok(Vec::new()),
        }
    }

    /// Begins a new generation at `next_seq`, which drops that entry and all later ones. The header
    /// of the new generation has the first live seq `start`. Returns the segments that hold only
    /// dropped entries.
    pub(super) fn truncate_from(
        &mut self,
        tail: &mut Tail,
        next_seq: u64,
        start: u64,
        reserve: ReserveUse,
    ) -> Result<Dead> {
        self.create_for_pending(tail, reserve)?;
        self.settle_and_void(tail, reserve)?;
        let (segments, reservation) = self.open_in(tail)?;
        let (dead, next) = segments.truncate_from(reservation, next_seq, start, reserve)?;
        tail.continue_at(next_seq, next);
        Ok(dead)
    }

    /// Makes a stream that ends before `first` begin there, and returns its old segments. The
    /// stream's records in the commit journal may hold entries from `first` on, so they are made
    /// void only once those entries are settled.
    pub(crate) fn begin_at(&mut self, tail: &mut Tail, first: u64) -> Result<Dead> {
        if fail_point!(VoidBeforeJoined) {
            return self.reset_to(tail, first);
        }
        self.drain_all(tail)?;
        let (segments, reservation) = self.open_in(tail)?;
        segments.settle_all().map_err(Error::poisoned)?;
        let (dead, next) = segments.reset_to(reservation, first)?;
        tail.continue_at(first, next);
        if let Some(journaled) = &mut tail.journaled {
            journaled.must_be_void();
        }
        Ok(dead)
    }

    /// Settles what recovery found in memory and in the commit journal. Makes the stream's records
    /// void if some of them do not continue the stream: later entries will have their seqs.
    pub(crate) fn settle_recovered(&mut self, tail: &mut Tail) -> Result<()> {
        let end = tail.next_seq;
        let is_void = tail.journaled.as_ref().is_some_and(|journaled| journaled.has_void_records());
        self.shared().watermarks.set_accepted(end);
        if is_void && !fail_point!(DroppedNotVoided) {
            self.settle_and_void(tail, ReserveUse::Never)?;
        } else {
            self.drain_all(tail)?;
            let (segments, _) = self.open_in(tail)?;
            segments.settle_all().map_err(Error::poisoned)?;
        }
        if let Some(journaled) = &mut tail.journaled {
            journaled.restart_at(end);
        }
        Ok(())
    }

    /// Settles everything, and makes the stream's records in the commit journal void, before its
    /// end moves. Otherwise a record of a dropped entry could later be taken for the entry that has
    /// its seq then. On a full disk this may use the emergency reserve if `reserve` allows that.
    fn settle_and_void(&mut self, tail: &mut Tail, reserve: ReserveUse) -> Result<()> {
        self.drain_all_with(tail, reserve)?;
        let (segments, _) = self.open_in(tail)?;
        if !fail_point!(VoidNotSettled) {
            segments.settle_all().map_err(Error::poisoned)?;
        }
        let end = tail.next_seq;
        if let Some(journaled) = &mut tail.journaled {
            journaled.make_void(end).map_err(|error| {
                let failed = journaled.is_failure(&error);
                let error = Error::journal(&self.shared().location, error);
                if failed { error.poisoned() } else { error }
            })?;
            journaled.restart_at(end);
        }
        Ok(())
    }
}

impl OpenSegments {
    fn write_start(&mut self, reservation: &mut Reservation, first: u64) -> Result<()> {
        let writer = &self.active.writer;
        // The entries that wait in the tail move by the length of the frame.
        let (end, reserved_end) = (self.active.end_offset(), ByteOffset(reservation.end));
        let preallocation = &mut reservation.preallocation;
        self.shared.with_room(ReserveUse::Allowed, || writer.preallocate_start(preallocation, &reserved_end))?;
        // The START may be in the file from here on, so a disk that is full only now is a failed
        // write.
        let context = self.control_context();
        let written = self.active.writer.write_start(&mut reservation.preallocation, &context, SeqNo(first));
        written.map_err(|e| self.shared.segment_error(e).poisoned())?;
        self.preallocated = reservation.preallocation.preallocated();
        reservation.end = reserved_end.0 + (self.active.end_offset() - end);
        self.active.live.set_end(self.active.end_offset());
        Ok(())
    }

    fn drop_before(&mut self, first: u64) -> Result<Vec<Arc<PublishedSegment>>> {
        fail_point!(FrameTakenForSynced, self.shared.watermarks.set_start(first));
        if !fail_point!(StartAfterUnlink) {
            self.settle_all()?;
        }
        // A reader that finds a segment gone reloads the start.
        if !fail_point!(StartShownLate) {
            self.shared.watermarks.set_start(first);
        }
        let snapshot = self.shared.snapshot.load();
        let dead = (0..snapshot.segments.len() - 1).take_while(|&i| snapshot.limit(i) <= first).count();
        self.shared.snapshot.store(Arc::new(Snapshot::new(snapshot.segments[dead..].to_vec())));
        Ok(snapshot.segments[..dead].to_vec())
    }

    /// Restarts the stream at `first`, which is at or beyond the end. Everything is settled.
    fn reset_to(&mut self, reservation: &Reservation, first: u64) -> Result<(Dead, Reservation)> {
        let header = self.generation_header(Predecessor::NONE, first, first, reservation)?;
        let (writer, preallocation) = self.create(&header, FIRST_LEN, ReserveUse::Allowed)?;
        let shared = Arc::clone(&self.shared);
        let old = shared.snapshot.load();
        shared.watermarks.set_start(first);
        let (_, next) = self.activate(writer, preallocation, &[]);
        shared.watermarks.reset_all(first);
        Ok((Dead { segments: old.segments.clone(), dir_to_sync: None }, next))
    }

    /// The header of a generation that begins at `base`, up to which everything is durable.
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

    /// Begins a new generation at `next_seq`. Everything is settled. Returns the segments that hold
    /// only dropped entries, and the reservation of the new one.
    fn truncate_from(
        &mut self,
        reservation: &mut Reservation,
        next_seq: u64,
        start: u64,
        reserve: ReserveUse,
    ) -> Result<(Dead, Reservation)> {
        let shared = Arc::clone(&self.shared);
        let old = shared.snapshot.load();
        let kept = old.segments.partition_point(|segment| segment.header.base.0 < next_seq);
        let active_is_kept = kept == old.segments.len();
        if active_is_kept {
            self.reserve_seal(reservation, reserve)?;
        }
        let predecessor = self.predecessor(kept.checked_sub(1).map(|i| &old.segments[i]), next_seq);
        // The steps after the commit point must not run out of descriptors.
        let dir = shared.location.dir();
        let dir_to_sync = DirToSync::new(shared.context.storage(), &dir).map_err(|e| Error::io(&shared.location, e))?;
        let header = self.generation_header(predecessor, next_seq, start, reservation)?;
        let (writer, preallocation) = self.create(&header, FIRST_LEN, reserve)?;

        // The commit point has been passed. If the active segment is kept, it gets the SEAL that
        // names its successor.
        if active_is_kept {
            self.seal(reservation, &header).map_err(Error::poisoned)?;
            let sealed = &self.active.writer;
            let done = sealed.sync().and_then(|()| sealed.trim_to_trailer());
            done.map_err(|e| shared.segment_error(e).poisoned())?;
        }
        // Everything in this epoch is settled, so the threads waiting in it need no record of its
        // outcome.
        shared.truncations.record(shared.watermarks.epoch(), next_seq);
        let before: Vec<_> = old.segments[..kept].iter().map(PublishedSegment::sealed).collect();
        let (_, next) = shared.watermarks.change(|watermarks| {
            let activated = self.activate(writer, preallocation, &before);
            watermarks.reset(watermarks.start(), next_seq);
            activated
        });
        Ok((Dead { segments: old.segments[kept..].to_vec(), dir_to_sync: Some(dir_to_sync) }, next))
    }

    /// The predecessor to record in the header of a segment that begins at `next_seq`.
    fn predecessor(&self, before: Option<&Arc<PublishedSegment>>, next_seq: u64) -> Predecessor {
        let Some(segment) = before else { return Predecessor::NONE };
        let Shared { context, location, options, .. } = &*self.shared;
        // Damage to entries before `next_seq` must not prevent the caller from dropping the entries
        // after it.
        let reader = segment.open_alone(context, location, options);
        reader.map_or_else(|_| Predecessor::unread(&segment.header), |reader| reader.predecessor_of(next_seq))
    }
}
