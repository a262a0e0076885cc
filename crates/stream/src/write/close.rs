//! Closes a stream: writes CLOSE, so that the next opening scans nothing, or leaves its entries in
//! the commit journal.

use std::sync::Arc;

use stratawal_frame::{Footer, FooterKind, SeqNo, TRAILER_LEN};
use stratawal_segment::Preallocation;
use stratawal_sync::{fail_point, model};

use crate::error::{Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::journal_user::JournalUser;
use crate::options::Durability;
use crate::read::snapshot::SegmentState;
use crate::watermarks::Watermarks;
use crate::write::commit::GroupState;
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;
use crate::write::writer::{OpenSegments, Writer};

/// A CLOSE frame has the index points since the previous CLOSE, which it names. After this many in
/// one segment, a CLOSE has all points again, so that opening reads a bounded number of CLOSE
/// frames.
const CLOSES_MAX: u32 = 32;

impl Inner {
    /// See [`StreamLog::close`](crate::StreamLog::close). Whatever this returns, no thread of this
    /// stream uses the files afterwards, because they may then belong to another process.
    pub(crate) fn close(&self) -> Result<()> {
        self.check_process()?;
        let was_closed = self.group.lock().tail.closed;
        let closed = self.end_cleanly();
        self.group.wait_until_free();
        if !fail_point!(RemovalsNotAwaited) {
            // A truncation removes files after it has released the lead, so this waits for it. A
            // truncation that begins later finds the stream closed.
            drop(self.removals.lock());
        }
        // Closing has shortened a file, so there may be space. If the stream was closed before, the
        // log may belong to another process.
        if !was_closed {
            self.shared.context.make_reserve_again();
        }
        self.group.close_followers();
        closed
    }

    /// See [`StreamLog::stop_appends`](crate::StreamLog::stop_appends).
    pub(crate) fn stop_appends(&self) -> Result<()> {
        self.check_process()?;
        // Recovers a stream that a full disk has stopped. If this fails, the stream stays failed,
        // and its close reports that.
        drop(self.lock_for_truncate());
        self.group.lock().tail.closed = true;
        Ok(())
    }

    /// See [`StreamLog::close_fast`](crate::StreamLog::close_fast). Even after an error, no thread of
    /// this stream uses the files afterwards.
    pub(crate) fn close_fast(&self) -> Result<()> {
        self.check_process()?;
        self.group.lock().tail.closed = true;
        let synced = match self.begin_sync() {
            Ok(Some(begun)) => self.finish_sync(begun),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        // Entries may wait in the tail. A thread that was about to write them to the files finds
        // this error instead.
        let closed = Error::new(ErrorKind::Closed, &self.shared.location);
        let shut_down = if fail_point!(FastCloseLeavesLead) {
            Ok(())
        } else {
            self.group.shut_down(closed, |state| {
                // Without it, dropping the last handle does not close the stream again.
                state.tail.reservation = None;
                Ok(())
            })
        };
        // A truncation may be removing files.
        drop(self.removals.lock());
        self.group.close_followers();
        synced.and(shut_down)
    }

    /// See [`StreamLog::close_for_good`](crate::StreamLog::close_for_good).
    pub(crate) fn close_for_good(&self) -> Result<()> {
        self.check_process()?;
        if !self.shared.context.is_read_only() {
            // Everything is durable also if no CLOSE was written: the next opening then recovers
            // the stream.
            if let Err(error) = self.end_durably() {
                self.group.lock().tail.closed = false;
                return Err(error);
            }
            self.group.wait_until_free();
            drop(self.removals.lock());
            self.shared.context.make_reserve_again();
        }
        self.free();
        Ok(())
    }

    /// Frees the memory and the descriptors of a stream whose entries are all durable. Readers find
    /// nothing from here on.
    fn free(&self) {
        let shared = &self.shared;
        let context = &shared.context;
        let lead = self.group.end(Error::new(ErrorKind::Closed, &shared.location), |state| {
            self.give_back_records(state);
            if let Some(stream) = shared.stream_id() {
                context.cache.remove_stream(stream.0);
            }
            shared.watermarks.end(|| shared.snapshot.store(Arc::clone(&context.no_segments)));
            let Tail { next_seq, last_timestamp, .. } = state.tail;
            state.tail = Tail::new(next_seq, last_timestamp, None, Arc::clone(&context.pending));
            state.tail.closed = true;
        });
        // Its files are closed without a lock.
        drop(lead);
        *self.reader_state.lock() = None;
        self.group.close_followers();
    }

    /// Whether the stream was closed for good.
    pub(crate) fn is_over(&self) -> bool {
        Watermarks::is_over(self.shared.watermarks.stable_epoch())
    }

    fn end_cleanly(&self) -> Result<()> {
        self.end_durably().and_then(|refused| refused.map_or(Ok(()), Err))
    }

    /// Makes everything durable and writes CLOSE. Returns the error if only the CLOSE could not be
    /// written.
    fn end_durably(&self) -> Result<Option<Error>> {
        // If this fails, the stream stays failed, and the check below finds that.
        drop(self.lock_for_truncate());
        self.write_start_if_it_frees();
        {
            let mut state = self.group.lock();
            // Closed from here on, even if the rest fails: another process may write to it.
            let before = std::mem::replace(&mut state.tail.closed, !fail_point!(CloseLetsIn));
            if let Some(error) = state.failure() {
                return Err(error.clone());
            }
            if before && state.tail.reservation.is_none() {
                return Ok(None);
            }
        }
        if self.shared.context.log_journal().is_some() {
            self.settle_files()?;
        } else {
            self.wait_for(Durability::Synced)?;
        }
        let (mut state, writer) = self.group.acquire()?;
        let reservation = state.tail.reservation.take();
        drop(state);
        let Some(mut reservation) = reservation else {
            self.group.release_lead(self.group.lock(), Some(writer));
            return Ok(None);
        };
        let mut refused = None;
        self.group.lead(writer, |writer| match writer.close(&mut reservation.preallocation) {
            // Everything is durable, but no CLOSE was written. The next opening recovers the stream
            // as after a crash.
            Err(error) if error.kind() != ErrorKind::Poisoned => {
                refused = Some(error);
                Ok(())
            }
            closed => closed,
        })?;
        self.forget_start_in_files();
        Ok(refused)
    }
}

impl Inner {
    /// Closes the stream. If that fails, ends the use of its files, and gives the records that it
    /// still needs back to the journal, so that the next look-up finds them. The last handle may be
    /// dropped much later: a thread that frees space may have a share of the stream.
    pub(crate) fn close_and_give_back(&self) -> Result<()> {
        self.check_process()?;
        let closed = self.close();
        if closed.is_err() {
            // Entries may wait in the tail. A thread that was about to write them to the files
            // finds this error instead.
            let error = Error::new(ErrorKind::Closed, &self.shared.location);
            self.group.shut_down(error, |state| {
                state.tail.reservation = None;
                self.give_back_records(state);
                Ok(())
            })?;
        }
        closed
    }

    /// Gives the records that the stream still needs back to the journal. The stream is closed, or
    /// its last handle is dropped.
    fn give_back_records(&self, state: &mut GroupState<Writer>) {
        let Some(log) = self.shared.context.log_journal() else { return };
        let all_firm = self.all_firm() || state.failure().is_some();
        let Some((journaled, rest)) = state.tail.journaled_and_rest() else { return };
        journaled.needed_from(&self.shared.watermarks, all_firm);
        if let Some((stream, needed)) = journaled.still_needed(&rest) {
            log.carry_again(stream, needed, Arc::clone(journaled.claim()));
        }
        state.tail.journaled = None;
    }
}

impl Writer {
    fn close(&mut self, preallocation: &mut Preallocation) -> Result<()> {
        match self {
            Self::Open(segments) => segments.close(preallocation),
            Self::NoSegment(_) => Ok(()),
        }
    }
}

impl OpenSegments {
    /// Writes CLOSE. The caller has drained everything, and no thread appends. After any error
    /// other than `Poisoned`, everything is durable, but no CLOSE was written.
    fn close(&mut self, preallocation: &mut Preallocation) -> Result<()> {
        self.settle().map_err(Error::poisoned)?;
        // Everything is settled, so the CLOSE can record a START that only the commit journal has.
        let start = self.shared.watermarks.start();
        if preallocation.is_after_close() && start <= self.shared.watermarks.start_in_files() {
            return Ok(());
        }
        let active = &self.active;
        assert!(self.unsynced.is_empty() && active.end_seq == self.shared.watermarks.settled(), "all is settled");
        let all = active.closes.depth >= CLOSES_MAX;
        let previous = if all { None } else { active.closes.last };
        let points = active.live.index.points_from(if all { 0 } else { active.closes.points });
        let end = Footer { start: SeqNo(start), ..self.end(FooterKind::Close { previous }, &points) };
        let at = active.writer.next_position().offset;
        let len = Footer::frame_len_max(0) + TRAILER_LEN as u64;
        self.shared.with_room(ReserveUse::Allowed, || preallocation.ensure_control(&at, len))?;
        self.finish(preallocation, end).map_err(Error::poisoned)?;
        // The file may be trimmed only once the CLOSE is durable, and the stream is closed only
        // once the new length is durable.
        let writer = &self.active.writer;
        let ended = writer.sync().and_then(|()| writer.trim_to_trailer()).and_then(|()| writer.sync());
        ended.map_err(|e| self.shared.segment_error(e).poisoned())?;
        self.shared.watermarks.set_start(start);
        Ok(())
    }
}

impl Drop for Inner {
    /// Closes on a best-effort basis. A program that does not close a stream loses only entries
    /// that were acknowledged as `Buffered`, but the next opening has to scan. This drops errors;
    /// [`StreamLog::close`](crate::StreamLog::close) returns them. In a forked child it only
    /// releases memory, because the stream belongs to the parent.
    fn drop(&mut self) {
        if model::is_over() || self.check_process().is_err() {
            return;
        }
        let snapshot = self.shared.snapshot.load();
        let live = snapshot.segments.iter().any(|s| matches!(s.state, SegmentState::Live(_)));
        // The next handle on a stream without a directory would not find its entries.
        let is_new = snapshot.segments.is_empty() && self.exists();
        if (live || is_new) && !self.is_over() && !self.shared.context.is_read_only() {
            let _ = self.close();
        }
        self.give_back_records(&mut self.group.lock());
    }
}
