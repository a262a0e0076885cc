//! Dropping entries: from the beginning, from the end, and the whole stream.
//!
//! Dropping from the beginning is a START frame; dropping from the end, or up to beyond the end, is
//! a new generation, whose folder entry is the commit point: nothing is shortened or rewritten, and
//! what is left over stays void whether or not it comes back. Everything is settled first, so
//! whoever waits is told what was so. Files are removed after the lead was given back, see
//! [`removal`](crate::removal).

use std::sync::Arc;

use stratawal_frame::{Generation, SegmentHeader, SeqNo};
use stratawal_storage::FolderToSync;
use stratawal_sync::fail_point;

use crate::deletion::{DeleteError, move_away, remove_moved};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::history::Predecessor;
use crate::inner::Inner;
use crate::log::StreamLog;
use crate::read::snapshot::{PublishedSegment, Snapshot};
use crate::removal::{Dead, Removals};
use crate::write::commit::State;
use crate::write::create::FIRST_LEN;
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;
use crate::write::writer::{Writer, sealed};

impl StreamLog {
    /// Drops the entries below `first`, durably: none of them comes back after any crash. The disk
    /// space of segments that lie wholly below is freed. Below or at the first entry it does
    /// nothing. Beyond the end the stream is empty afterwards, and its next entry is `first`; so it
    /// is for a stream that is not there yet, which is created.
    ///
    /// At the end of the stream the disk space of the segment being written is freed, too, where
    /// that is more than 64 KiB.
    ///
    /// Works on a full disk up to the end of the stream. Reads below `first` fail with
    /// [`ErrorKind::Truncated`] from then on. Appends wait until that is durable, and not for the
    /// removal of files. Truncations of one stream run one after the other.
    ///
    /// # Errors
    /// [`ErrorKind::Full`]: nothing was dropped. [`ErrorKind::Poisoned`]: a write or sync failed, and the entries are
    /// dropped or not, which recovery decides. [`ErrorKind::Io`]: where
    /// [`first_seq`](Self::first_seq) is `first`, the entries are dropped, durably, and a file
    /// could not be removed, so that its space is not free yet (the error names the file; a later
    /// truncation or the next opening tries again); otherwise nothing was dropped. As an append
    /// otherwise.
    pub fn truncate_before(&self, first: u64) -> Result<()> {
        let inner = &*self.inner;
        inner.lock_for_truncate().map(drop).map_err(|error| error.of_call(Call::Truncate))?;
        let mut removals = inner.removals.lock();
        let mut removed = inner.drop_below(&mut removals, first, true);
        let is_full = removed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Full);
        if is_full && inner.shared.snapshot.load().segments.len() > 1 {
            // Room for a new file comes with the end of the older ones.
            removed = inner.drop_below(&mut removals, first, false);
            if removed.is_ok() {
                // The entries are dropped. Where there is still no room, the segment being written
                // stays.
                let freed = inner.begin_at_end(&mut removals, first);
                removed = freed.or_else(|e| if e.kind() == ErrorKind::Full { Ok(()) } else { Err(e) });
            }
        }
        fail_point!(StartShownLate, inner.shared.watermarks.set_start(first));
        inner.shared.context.make_reserve();
        removed.map_err(|error| error.of_call(Call::Truncate))
    }

    /// Drops the entry `next` and all behind it, durably; the stream's next entry is `next` then.
    /// May cut a batch in two. At the end of the stream it does nothing.
    ///
    /// Appends wait until that is durable, and not for the removal of files. Truncations of one
    /// stream run one after the other. Iterators made before that reach `next`, or stand behind it,
    /// end with [`ErrorKind::Cut`].
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] below the first entry or beyond the end. [`ErrorKind::Full`]: nothing was dropped.
    /// [`ErrorKind::Poisoned`]: a write or sync failed, and the entries are dropped or not, which recovery decides.
    /// [`ErrorKind::Io`] with "the entries are dropped" in its text: they are, durably, and a file could not be removed, so
    /// that its space is not free yet (the error names the file; a later truncation or the next
    /// opening tries again). As an append otherwise.
    pub fn truncate_from(&self, next: u64) -> Result<()> {
        let inner = &*self.inner;
        inner.lock_for_truncate().map(drop).map_err(|error| error.of_call(Call::Truncate))?;
        let mut removals = inner.removals.lock();
        let dead = inner.group.exclusively(|state, writer| {
            inner.check(state)?;
            let (first, end) = (inner.shared.watermarks.start(), state.tail.next_seq);
            if next == end {
                return Ok(None);
            }
            if next < first || next > end {
                return Err(Error::new(ErrorKind::OutOfRange { first, next: end }, &inner.shared.location));
            }
            writer.cut_from(state, next, first, ReserveUse::Allowed).map(Some)
        });
        let removed = dead.and_then(|dead| {
            dead.map_or(Ok(()), |dead| removals.remove_dead(&inner.shared.context, &inner.shared.location, dead))
        });
        inner.shared.context.make_reserve();
        removed.map_err(|error| error.of_call(Call::Truncate))
    }

    /// Deletes the stream, durably: it does not come back after any crash, and one that is created
    /// by its name later shares nothing with it. Also of a stream that is poisoned. Every later
    /// call on this stream, an append that waits among them, fails with [`ErrorKind::Deleted`];
    /// readers see nothing more of it. Answers whether there was one.
    ///
    /// # Errors
    /// [`DeleteError`].
    pub fn delete(&self) -> std::result::Result<bool, DeleteError> {
        self.delete_shared().map_err(DeleteError::of_call)
    }

    fn delete_shared(&self) -> std::result::Result<bool, DeleteError> {
        let shared = &self.inner.shared;
        self.inner.check_process().map_err(DeleteError::Undone)?;
        if shared.context.is_read_only() {
            return Err(DeleteError::Undone(Error::new(ErrorKind::ReadOnly, &shared.location)));
        }
        // Before the group: a truncation removes files by paths that may be another stream's once
        // this one is gone.
        let mut removals = self.inner.removals.lock();
        let mut moved = Ok(None);
        let retired = self.inner.group.shut_down(Error::new(ErrorKind::Deleted, &shared.location), |state| {
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
                let beyond = first > state.tail.next_seq || writer.active.is_none();
                if beyond || (anew && is_worth_anew(&state.tail, first)) {
                    return Ok(Some((None, begin_at(writer, &mut state.tail, first)?)));
                }
                writer.drain_all(&mut state.tail)?;
                let dead = match writer.write_start(&mut state.tail, first) {
                    // The room that is kept for it is used up. The header of a new generation has
                    // the same effect, out of the emergency reserve.
                    Err(error) if error.kind() == ErrorKind::Full => {
                        let end = state.tail.next_seq;
                        writer.cut_from(state, end, first, ReserveUse::Allowed)?
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
                return begin_at(writer, &mut state.tail, first).map(Some);
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

/// Makes the stream begin at `first`, at its end or beyond; returns what it held before.
fn begin_at(writer: &mut Writer, tail: &mut Tail, first: u64) -> Result<Dead> {
    if writer.active.is_none() {
        let before = std::mem::replace(&mut tail.next_seq, first);
        writer.create_stream(tail, first).inspect_err(|_| tail.next_seq = before)?;
        return Ok(Dead::default());
    }
    writer.drain_all(tail)?;
    writer.settle_all().map_err(Error::poisoned)?;
    writer.begin_at(tail, first)
}

impl Writer {
    fn write_start(&mut self, tail: &mut Tail, first: u64) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let reservation = tail.reservation.as_mut().expect("invariant: a stream with a segment takes reservations");
        let control = self.control_context(self.end_seq());
        let writer = &self.active.as_ref().expect("invariant: the caller looked").writer;
        self.with_room(ReserveUse::Allowed, || writer.preallocate_start(&mut reservation.preallocation))?;
        let active = self.active.as_mut().expect("invariant: the caller looked");
        // From here on it may be there: a disk that is full only now is a failed write.
        let written = active.writer.write_start(&mut reservation.preallocation, &control, SeqNo(first));
        written.map_err(|error| Error::segment_error(&shared.location, error).poisoned())?;
        self.preallocated = reservation.preallocation.preallocated();
        reservation.end = active.writer.next_position().offset.0;
        active.live.set_end(reservation.end);
        Ok(())
    }

    /// The START is written: makes it durable, and shows readers only what does not lie wholly
    /// below it. Returns the segments that do.
    fn drop_before(&mut self, first: u64) -> Result<Vec<Arc<PublishedSegment>>> {
        if !fail_point!(StartAfterUnlink) {
            self.settle_all()?;
        }
        let shared = Arc::clone(&self.shared);
        // Readers that find a segment gone look at the start again.
        if !fail_point!(StartShownLate) {
            shared.watermarks.set_start(first);
        }
        let snapshot = shared.snapshot.load();
        let dead = (0..snapshot.segments.len() - 1).take_while(|&i| snapshot.limit(i) <= first).count();
        shared.snapshot.store(Arc::new(Snapshot::new(snapshot.segments[dead..].to_vec())));
        Ok(snapshot.segments[..dead].to_vec())
    }

    /// A new generation at `base`, durably; what it voids is settled.
    fn new_generation(
        &mut self,
        predecessor: Predecessor,
        base: u64,
        start: u64,
        restart: Option<u64>,
        reserve: ReserveUse,
    ) -> Result<(SegmentHeader, Begun)> {
        let active = self.active.as_ref().expect("invariant: only a stream with a segment is cut");
        let newest = active.writer.header();
        let Some(generation) = newest.generation.0.checked_add(1).map(Generation) else {
            return Err(self.used_up());
        };
        let header = SegmentHeader {
            durable: SeqNo(base),
            start: SeqNo(start),
            ..self.header(newest.stream_id, generation, predecessor, base, restart)
        };
        Ok((header, self.create(&header, FIRST_LEN, reserve)?))
    }

    /// Everything is settled: begins anew at `first`, at the end or beyond.
    fn begin_at(&mut self, tail: &mut Tail, first: u64) -> Result<Dead> {
        let (_, (writer, preallocation)) =
            self.new_generation(Predecessor::NONE, first, first, tail.restart, ReserveUse::Allowed)?;
        let shared = Arc::clone(&self.shared);
        let old = shared.snapshot.load();
        shared.watermarks.set_start(first);
        tail.next_seq = first;
        self.activate_segment(tail, writer, preallocation, &[]);
        shared.watermarks.reset_all(first);
        Ok(Dead { segments: old.segments.clone(), folder: None })
    }

    /// A new generation at `next`, in whose header stands that the stream begins at `start`.
    /// Returns the segments that hold nothing else than what is dropped.
    pub(crate) fn cut_from(
        &mut self,
        state: &mut State<Self>,
        next: u64,
        start: u64,
        reserve: ReserveUse,
    ) -> Result<Dead> {
        self.drain_all(&mut state.tail)?;
        self.settle_all().map_err(Error::poisoned)?;
        let shared = Arc::clone(&self.shared);
        let old = shared.snapshot.load();
        let kept = old.segments.partition_point(|segment| segment.header.base.0 < next);
        if kept == old.segments.len() {
            self.reserve_seal(&mut state.tail, reserve)?;
        }
        let predecessor = kept.checked_sub(1).map_or(Predecessor::NONE, |i| {
            let segment = &old.segments[i];
            // Entries before `next` that are damaged must not keep the caller from dropping those
            // after it.
            let reader = segment.open_alone(&shared.context, &shared.location, &shared.options);
            reader.map_or_else(|_| Predecessor::unread(&segment.header), |reader| reader.predecessor_of(next))
        });
        // What comes behind the commit point must not lack a descriptor.
        let dir = shared.location.dir();
        let folder = FolderToSync::new(shared.context.storage(), &dir).map_err(|e| Error::io(&shared.location, e))?;
        let (header, (writer, preallocation)) =
            self.new_generation(predecessor, next, start, state.tail.restart, reserve)?;

        // The commit point is passed. The active segment, if it is kept, gets the SEAL that names
        // what follows it.
        let tail = &mut state.tail;
        let reservation = tail.reservation.as_mut().expect("invariant: a stream with a segment takes reservations");
        if kept == old.segments.len() {
            self.seal(&mut reservation.preallocation, &header).map_err(Error::poisoned)?;
            let sealed = self.active.take().expect("invariant: it was sealed");
            let done = sealed.writer.sync().and_then(|()| sealed.writer.trim_to_trailer());
            done.map_err(|e| self.failed(e).poisoned())?;
        }
        // Everything in this epoch is settled, so threads that wait in it need no record of how it
        // ends.
        shared.truncations.cut(shared.watermarks.epoch(), next);
        let before: Vec<_> = old.segments[..kept].iter().map(sealed).collect();
        state.tail.next_seq = next;
        shared.watermarks.change(|watermarks| {
            self.activate_segment(&mut state.tail, writer, preallocation, &before);
            watermarks.reset(watermarks.start(), next);
        });
        Ok(Dead { segments: old.segments[kept..].to_vec(), folder: Some(folder) })
    }
}

type Begun = (stratawal_segment::SegmentWriter, stratawal_segment::Preallocation);
