//! Appends entries: reserves their space, accepts them in the tail, and waits for their
//! acknowledgement.

use std::ops::Range;

use stratawal_sync::{MutexGuard, fail_point};

use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::options::Durability;
use crate::write::commit::GroupState;
use crate::write::pending::{COPIED_LEN_MAX, Entries, LargeBatch};
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;
use crate::write::waiter::CommitTarget;
use crate::write::writer::Writer;

impl Inner {
    /// See [`StreamLog::append`](crate::StreamLog::append).
    pub(crate) fn append_one(&self, entry: &[u8], durability: Durability) -> Result<u64> {
        self.append(&Entries::One(entry), None, durability).map(|seqs| seqs.start)
    }

    /// See [`StreamLog::append_batch`](crate::StreamLog::append_batch).
    pub(crate) fn append_batch(&self, batch: &Batch, durability: Durability) -> Result<Range<u64>> {
        self.append_batch_if(None, batch, durability)
    }

    /// See [`StreamLog::append_if`](crate::StreamLog::append_if). Without an expected seq, appends
    /// in any case.
    pub(crate) fn append_batch_if(
        &self,
        expected: Option<u64>,
        batch: &Batch,
        durability: Durability,
    ) -> Result<Range<u64>> {
        if batch.is_empty() {
            let state = self.writable()?;
            self.check(&state)?;
            self.check_expected(&state.tail, expected)?;
            return Ok(state.tail.next_seq..state.tail.next_seq);
        }
        self.append(&Entries::Batch(batch), expected, durability)
    }

    fn append(&self, entries: &Entries<'_>, expected: Option<u64>, durability: Durability) -> Result<Range<u64>> {
        let reserved = self.reserved_len(entries)?;
        if entries.tail_len() > COPIED_LEN_MAX {
            return self.append_large(entries, reserved, expected, durability);
        }
        let (mut state, seqs) = self.accept(entries, reserved, expected)?;
        let accepted = self.group.take_due(&mut state);
        self.acknowledge(state, durability)?;
        drop(accepted);
        Ok(seqs)
    }

    /// Puts the entries into the tail, once `reserved` bytes are reserved for them in the active
    /// segment. Returns the lock and the seqs of the entries.
    #[inline]
    pub(super) fn accept(
        &self,
        entries: &Entries<'_>,
        reserved: u64,
        expected: Option<u64>,
    ) -> Result<(MutexGuard<'_, GroupState<Writer>>, Range<u64>)> {
        match self.accept_if_room(entries, reserved, expected) {
            Err(full) if full.kind() == ErrorKind::Full && self.free_dropped_files() => {
                self.accept_if_room(entries, reserved, expected)
            }
            accepted => accepted,
        }
    }

    /// [`accept`](Self::accept), which fails on a full disk even if files hold only dropped entries.
    fn accept_if_room(
        &self,
        entries: &Entries<'_>,
        reserved: u64,
        expected: Option<u64>,
    ) -> Result<(MutexGuard<'_, GroupState<Writer>>, Range<u64>)> {
        let expected = if fail_point!(ExpectedEarly) {
            self.check_expected(&self.writable()?.tail, expected)?;
            None
        } else {
            expected
        };
        let mut state = self.writable()?;
        if state.tail.lacks_directory() {
            // An append that is refused creates nothing.
            self.check(&state)?;
            self.check_expected(&state.tail, expected)?;
            state = self.ensure_room_without_directory(state, reserved)?;
        } else if state.tail.may_wait_after_close(reserved, &self.shared.options) {
            state = self.make_room_after_close(state, reserved);
        }
        loop {
            self.check(&state)?;
            // Each time, because the creation of a segment releases the lock.
            self.check_expected(&state.tail, expected)?;
            self.check_seqs(&state.tail, entries)?;
            match self.reserve(&mut state.tail, reserved) {
                Ok(Room::Available) => break,
                Ok(Room::NeedsSegment) => {
                    drop(state);
                    state = self.rotate(reserved)?;
                }
                Ok(Room::NeedsReplacement) => {
                    drop(state);
                    state = self.replace_empty()?;
                }
                Err(error) => {
                    if error.kind() == ErrorKind::Poisoned {
                        state.fail(&error);
                    }
                    return Err(error);
                }
            }
        }
        let tail = &mut state.tail;
        let now = tail.clock.time(self.shared.context.system(), tail.last_timestamp);
        let first_seq = tail.push(entries, now, reserved, self.shared.options.frame_bytes);
        let next_seq = tail.next_seq;
        self.shared.watermarks.set_accepted(next_seq);
        Ok((state, first_seq..next_seq))
    }

    /// Makes room in the commit journal for `reserved` bytes of entries of a stream without a
    /// directory. Creates the directory if that is not possible, so that nothing is accepted if
    /// neither has room.
    fn ensure_room_without_directory<'a>(
        &'a self,
        state: MutexGuard<'a, GroupState<Writer>>,
        reserved: u64,
    ) -> Result<MutexGuard<'a, GroupState<Writer>>> {
        let Some(log) = self.shared.context.log_journal() else { return Ok(state) };
        let len = self.journal_len(&state.tail, reserved);
        if log.journal.has_room(len) {
            return Ok(state);
        }
        drop(state);
        let made = self.make_journal_room(len);
        // The append reports a failure of the journal.
        if made.is_ok() || log.journal.is_failed() {
            return Ok(self.group.lock());
        }
        self.group.exclusively(|state, writer| {
            self.check(state)?;
            if !state.tail.lacks_directory() { Ok(()) } else { writer.begin_segment(&mut state.tail) }
        })?;
        Ok(self.group.lock())
    }

    /// Makes room in the commit journal for `reserved` bytes of entries of a stream whose file is
    /// still as its close left it. If there is none, the entries get space in the file instead.
    fn make_room_after_close<'a>(
        &'a self,
        state: MutexGuard<'a, GroupState<Writer>>,
        reserved: u64,
    ) -> MutexGuard<'a, GroupState<Writer>> {
        if self.is_room_in_journal(&state.tail, reserved) {
            return state;
        }
        let len = self.journal_len(&state.tail, reserved);
        drop(state);
        // Without room the file is continued. The append reports a failure of the journal.
        let _ = self.make_journal_room(len);
        self.group.lock()
    }

    /// Whether the commit journal has room for `len` bytes of entries, and for those that are not
    /// in it yet.
    fn is_room_in_journal(&self, tail: &Tail, len: u64) -> bool {
        let log = self.shared.context.log_journal();
        log.is_some_and(|log| log.journal.has_room(self.journal_len(tail, len)))
    }

    /// The length of the record of `len` bytes of entries and of those that are not in the commit
    /// journal yet.
    fn journal_len(&self, tail: &Tail, len: u64) -> u64 {
        // The headers of a record and of a part take 56 bytes, and a record is aligned.
        (tail.unput_len() + self.shared.location.name().len() + 72) as u64 + len
    }

    /// Waits until everything accepted is acknowledged at `durability`.
    #[inline]
    fn acknowledge(&self, state: MutexGuard<'_, GroupState<Writer>>, durability: Durability) -> Result<()> {
        if durability != Durability::Buffered {
            if fail_point!(AcknowledgedBeforeWrite) {
                return Ok(());
            }
            if state.tail.journaled.is_some() {
                return self.acknowledge_in_journal(state, durability);
            }
            let target = self.group.target(&state);
            return self.group.wait_for_locked(state, durability, target);
        }
        let pending_len = state.tail.pending_len();
        if pending_len < self.shared.options.buffer_bytes && !self.holds_too_much() {
            return Ok(());
        }
        let target = self.group.target(&state);
        drop(state);
        self.bound_memory(pending_len, target)
    }

    /// Writes the tail to the file once it has reached its length, unless another thread leads. If
    /// the tail is four times that length, or all tails of the log are too long, waits for that
    /// leader.
    pub(super) fn bound_memory(&self, pending_len: usize, target: CommitTarget) -> Result<()> {
        const BUFFERS_MAX: usize = 4;
        let is_too_long = pending_len >= BUFFERS_MAX * self.shared.options.buffer_bytes || self.holds_too_much();
        if is_too_long || self.group.is_free() {
            self.group.wait_for(Durability::Flushed, target)?;
            self.bound_files();
        }
        Ok(())
    }

    /// Whether the entries that wait in all streams take more memory than they may. Then each
    /// append writes those of its own stream.
    #[inline]
    pub(super) fn holds_too_much(&self) -> bool {
        self.shared.context.pending.is_full()
    }

    /// Appends a batch over [`COPIED_LEN_MAX`]. It is written from the caller's memory before this
    /// returns, whatever the durability.
    fn append_large(
        &self,
        entries: &Entries<'_>,
        reserved: u64,
        expected: Option<u64>,
        durability: Durability,
    ) -> Result<Range<u64>> {
        let accepted = |state: &GroupState<Writer>, seqs| (self.group.target(state), seqs);
        let (target, seqs) = self.write_large_with(entries, reserved, expected, accepted)?;
        self.group.wait_for(durability, target)?;
        self.bound_files();
        Ok(seqs)
    }

    /// Writes a batch over [`COPIED_LEN_MAX`], and calls `accepted` under the lock with its seqs.
    pub(super) fn write_large_with<T>(
        &self,
        entries: &Entries<'_>,
        reserved: u64,
        expected: Option<u64>,
        accepted: impl Fn(&GroupState<Writer>, Range<u64>) -> T,
    ) -> Result<T> {
        let mut large = LargeBatch::new(entries, reserved);
        let mut may_free = true;
        loop {
            drop(self.writable()?);
            let written = self.group.exclusively_then(
                |state, writer| {
                    self.check(state)?;
                    self.check_expected(&state.tail, expected)?;
                    self.check_seqs(&state.tail, entries)?;
                    let written = self.write_large(state, writer, &mut large)?;
                    Ok(written.then(|| accepted(state, large.seqs())))
                },
                |writer, accepted| writer.settle_past_bound().map(|()| accepted),
            );
            match written {
                Err(full) if full.kind() == ErrorKind::Full && may_free && self.free_dropped_files() => {
                    may_free = false;
                }
                Err(error) => return Err(error),
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => drop(self.replace_empty()?),
            }
        }
    }

    /// Writes the pending entries and then `large`, in a new segment if it needs one. Returns false
    /// if the active segment has to be replaced first.
    ///
    /// The lock is held while the batch is written, and other appends wait. Copying the batch would
    /// also hold the lock, and this keeps seqs and bytes in one order without more state. The
    /// segment is created here rather than earlier, because a batch longer than a segment needs a
    /// segment of its own, which no other append may enter.
    fn write_large(
        &self,
        state: &mut GroupState<Writer>,
        writer: &mut Writer,
        large: &mut LargeBatch<'_>,
    ) -> Result<bool> {
        let tail = &mut state.tail;
        writer.drain_all(tail)?;
        let mut room = self.reserve(tail, large.reserved)?;
        if room == Room::NeedsSegment {
            writer.begin_segment(tail)?;
            room = self.reserve(tail, large.reserved)?;
        }
        if room != Room::Available {
            return Ok(false);
        }
        let now = tail.clock.time(self.shared.context.system(), tail.last_timestamp);
        large.assign(tail.next_seq, tail.last_timestamp.max(now));
        writer.write_large(tail, large).map_err(Error::poisoned)?;
        Ok(true)
    }

    /// Whether the next entry gets the seq that the call expects, if it expects one.
    #[inline]
    fn check_expected(&self, tail: &Tail, expected: Option<u64>) -> Result<()> {
        match expected {
            Some(expected_next_seq) if expected_next_seq != tail.next_seq => {
                let kind = ErrorKind::Conflict { expected_next_seq, next_seq: tail.next_seq };
                Err(Error::new(kind, &self.shared.location))
            }
            _ => Ok(()),
        }
    }

    /// Whether the stream has seqs left for `entries`.
    #[inline]
    fn check_seqs(&self, tail: &Tail, entries: &Entries<'_>) -> Result<()> {
        let end = tail.next_seq.checked_add(entries.len() as u64);
        let used_up = || Error::text(ErrorKind::Io, &self.shared.location, "the stream has used up its 2^64 seqs");
        end.map(drop).ok_or_else(used_up)
    }

    /// Reserves `len` bytes in the active segment if it has room for them. A segment that was
    /// closed is left as it is until entries are drained to it, as long as the commit journal has
    /// room for them: continuing it takes a sync. After an error of the kind `Poisoned` the caller
    /// fails the group. After any other error nothing has changed.
    #[inline]
    fn reserve(&self, tail: &mut Tail, len: u64) -> Result<Room> {
        let room = self.room_for(tail, len);
        if room != Room::Available {
            return Ok(room);
        }
        if tail.may_wait_after_close(len, &self.shared.options) && self.is_room_in_journal(tail, len) {
            tail.leave_unreserved(len);
        } else if tail.reservation.is_some() {
            tail.reserve(len).map_err(|error| self.shared.not_reserved(error))?;
        }
        Ok(room)
    }

    /// Whether the active segment has room for `len` more bytes. A batch longer than a segment gets
    /// a segment of its own. A stream without a directory needs none for its first entries if the
    /// log has a commit journal.
    #[inline]
    fn room_for(&self, tail: &Tail, len: u64) -> Room {
        let Some(reservation) = &tail.reservation else {
            let may_wait = tail.may_wait_without_directory(len, &self.shared.options);
            return if may_wait { Room::Available } else { Room::NeedsSegment };
        };
        let is_empty = reservation.base == tail.next_seq;
        let reserved_end = reservation.end.saturating_add(tail.unreserved());
        let is_full = reserved_end.saturating_add(len) > self.shared.options.segment_bytes;
        match reservation.restart {
            Some(_) if is_empty => Room::NeedsReplacement,
            Some(_) => Room::NeedsSegment,
            None if is_full && !is_empty => Room::NeedsSegment,
            None => Room::Available,
        }
    }

    /// An upper bound on the bytes that these entries take in the file.
    pub(super) fn reserved_len(&self, entries: &Entries<'_>) -> Result<u64> {
        let len = entries.tail_len() as u64;
        let max = self.shared.options.batch_bytes_max;
        if len > max {
            return Err(Error::new(ErrorKind::TooLarge { len, max }, &self.shared.location));
        }
        Ok(stratawal_frame::data_frame_len_max(entries.len() as u64 + 1, entries.data().len() as u64))
    }

    /// Creates the segment that an append of `reserved` bytes needs, if it still needs one.
    fn rotate(&self, reserved: u64) -> Result<MutexGuard<'_, GroupState<Writer>>> {
        self.group.exclusively(|state, writer| {
            self.check(state)?;
            let tail = &mut state.tail;
            if self.room_for(tail, reserved) != Room::NeedsSegment {
                return Ok(());
            }
            writer.begin_segment(tail)
        })?;
        self.settle_past_bound()?;
        Ok(self.group.lock())
    }

    /// Replaces the active segment, which has no entries, with a segment that begins at the present
    /// time, if that is still needed.
    fn replace_empty(&self) -> Result<MutexGuard<'_, GroupState<Writer>>> {
        self.make_journal_room_for_control(ReserveUse::Never);
        let mut removals = self.removals.lock();
        let dead = self.group.exclusively(|state, writer| {
            self.check(state)?;
            if self.room_for(&state.tail, 0) != Room::NeedsReplacement {
                return Ok(None);
            }
            let next = state.tail.next_seq;
            let start = self.shared.watermarks.start();
            writer.truncate_from(&mut state.tail, next, start, ReserveUse::Never).map(Some)
        })?;
        if let Some(dead) = dead {
            // The append does not fail if a file remains: it is void, and the next opening removes
            // it.
            let _ = removals.remove_dead(&self.shared.context, &self.shared.location, dead);
        }
        drop(removals);
        Ok(self.group.lock())
    }

    /// Syncs the oldest finished segments while there are more unsynced bytes than allowed. Called
    /// by the append that exceeds the bound.
    fn settle_past_bound(&self) -> Result<()> {
        let (state, writer) = self.group.acquire()?;
        if !writer.is_past_bound() {
            self.group.release_lead(state, Some(writer));
            return Ok(());
        }
        drop(state);
        self.group.lead(writer, |writer| writer.settle_past_bound())
    }

    /// Waits until everything accepted so far is acknowledged at `durability`.
    pub(crate) fn wait_for(&self, durability: Durability) -> Result<()> {
        let state = self.writable()?;
        if let Some(error) = state.failure() {
            return Err(error.clone());
        }
        if state.tail.journaled.is_some() {
            return self.acknowledge_in_journal(state, durability);
        }
        let target = self.group.target(&state);
        self.group.wait_for_locked(state, durability, target)
    }
}

/// Whether the active segment has room for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Available,
    /// The append needs a new segment: the stream has none and too many entries wait for it, the
    /// active one would exceed its length, or times restart.
    NeedsSegment,
    /// Times restart, but the active segment has no entries, so no segment can follow it. It has to
    /// be replaced.
    NeedsReplacement,
}
