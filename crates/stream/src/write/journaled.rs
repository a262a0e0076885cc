//! The records that a stream has in the commit journal, as long as its own files do not durably
//! hold their entries.
//!
//! Entries wait in the tail until they are drained. Those that are in the journal stay in memory
//! after that, until they are settled or their records are released. So if the stream or the
//! journal fails, nothing that was acknowledged depends on the one that failed.
//!
//! An entry is *firm* if a promise of durability rests on it, otherwise *loose*. An entry that was
//! drained without having been in the journal, or whose record was released before it was settled,
//! is *file-only*.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{BATCH_END, SeqNo, StreamId};
use stratawal_journal::{Error, ErrorKind, LocatedPart, Lsn, NeededStream, PartRef, Position, Record, Result};
use stratawal_sync::fail_point;

use crate::journal_user::Claim;
use crate::log_journal::LogJournal;
use crate::options::Durability;
use crate::watermarks::Watermarks;
use crate::write::buffer_pool::BufferPool;
use crate::write::pending::{FrameSlice, PendingFrames};

/// A stream puts at most this many bytes into the journal at once. More are written to the segment
/// without the journal, so that they are written once.
pub(crate) const JOURNALED_LEN_MAX: usize = 64 << 10;

/// The records of a stream are remembered in stretches of about this many bytes of the journal.
const STRETCH_LEN: u64 = 64 << 10;

/// The records of a stream that its files do not replace yet.
#[derive(Debug)]
pub(crate) struct Journaled {
    pub(crate) log: Arc<LogJournal>,
    name: Arc<str>,
    /// 0 until the stream has a record or a directory.
    stream: StreamId,
    /// Whether the stream has a directory, whose name is durable. Before that every part carries
    /// the stream's name, because nothing else has it.
    is_in_directory: bool,
    /// The journal had no room for the record that the stream has a directory.
    is_directory_unrecorded: bool,
    /// Entries below this seq are in the journal or in the files.
    end: u64,
    /// A leader is writing entries that are not in the journal.
    is_draining_others: bool,
    /// Some records do not continue the stream, because entries before them are lost. They must be
    /// made void before the stream accepts entries.
    has_void_records: bool,
    /// A promise of durability rests on the entries below this seq.
    firm_end: u64,
    /// The last entry that is file-only is below this seq. It is unsynced if this is above the
    /// settled watermark.
    file_only_end: u64,
    /// The last record.
    position: Option<Position>,
    /// The last record that has the stream's name.
    named_at: Option<Lsn>,
    /// The START record, as long as the stream's files do not hold a START that is as great. Boxed,
    /// because few streams have one.
    start: Option<Box<StartRecord>>,
    /// The maintenance thread is to write the START to the files.
    is_start_due: bool,
    /// The part of the journal that the stream needs, for the thread that releases space.
    claim: Arc<Claim>,
    /// The records that are needed, oldest first. Their seqs rise.
    stretches: VecDeque<Stretch>,
    /// Drained entries that are not settled, oldest first.
    retained: VecDeque<Arc<PendingFrames>>,
    buffer_pool: Arc<BufferPool<PendingFrames>>,
    scratch: Vec<u8>,
}

/// Consecutive records of the stream.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// Where the first of them begins.
    lsn: Lsn,
    first_seq: u64,
    end_seq: u64,
}

/// The START of a stream in the journal. Only the greatest counts.
#[derive(Clone, Copy, Debug)]
struct StartRecord {
    seq: u64,
    /// The journal is needed from here on: where the newest record begins that is known to be
    /// durable, or else the oldest record.
    lsn: Lsn,
    /// The newest record, until it is known to be durable.
    newest: Option<Position>,
}

/// How an append is acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Put {
    /// It already is.
    Done,
    /// The entries are in the journal, up to this position.
    InJournal(Position),
    /// They have to be written to the stream's files.
    ThroughFiles,
}

impl Journaled {
    /// The state of a stream whose entries, which end at `end`, are all durable in its files.
    pub(crate) fn new(
        log: Arc<LogJournal>,
        name: Arc<str>,
        end: u64,
        buffer_pool: Arc<BufferPool<PendingFrames>>,
    ) -> Self {
        Self {
            log,
            name,
            stream: StreamId(0),
            is_in_directory: false,
            is_directory_unrecorded: false,
            end,
            is_draining_others: false,
            has_void_records: false,
            firm_end: end,
            file_only_end: end,
            position: None,
            named_at: None,
            start: None,
            is_start_due: false,
            claim: Arc::new(Claim::new()),
            stretches: VecDeque::new(),
            retained: VecDeque::new(),
            buffer_pool,
            scratch: Vec::new(),
        }
    }

    /// Sets the id that the stream's records have.
    pub(crate) fn set_stream(&mut self, stream: StreamId) {
        self.stream = stream;
        self.claim.set_stream(stream);
    }

    /// The stream has a directory, whose files have this id.
    pub(crate) fn has_directory(&mut self, stream: StreamId) {
        self.set_stream(stream);
        self.is_in_directory = true;
    }

    /// Puts the record that the stream, which has records from before, has a directory. They may
    /// hold the stream from its beginning. So without this record, a stream whose directory is lost
    /// would look like one that had none, although the files may have had more entries.
    pub(crate) fn record_directory(&mut self) {
        if !fail_point!(DirectoryNotRecorded) {
            let record = Record::Firm { stream: self.stream, seq: SeqNo(0) };
            // The next record of the stream tries again. As long as there is no room, only such
            // damage stays unnoticed. If the journal has failed, the next call that needs it
            // reports that.
            let journal = &self.log.journal;
            let put = journal.put(&record).or_else(|error| match *error.kind() {
                // Leaves the last file for the records that free space.
                ErrorKind::NoRoom { len } => journal.reserve_len(len).and_then(|()| journal.put(&record)),
                _ => Err(error),
            });
            self.is_directory_unrecorded = put.is_err();
        }
    }

    /// Entries below this seq are in the journal or in the files.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    pub(crate) const fn is_in_directory(&self) -> bool {
        self.is_in_directory
    }

    /// The id of the stream, if it has one.
    pub(crate) fn known_stream(&self) -> Option<StreamId> {
        Some(self.stream).filter(|stream| *stream != StreamId(0))
    }

    pub(crate) const fn claim(&self) -> &Arc<Claim> {
        &self.claim
    }

    /// Continues at `end`. Everything is settled, and earlier records are void.
    pub(crate) fn restart_at(&mut self, end: u64) {
        self.end = end;
        self.is_draining_others = false;
        self.firm_end = end;
        self.file_only_end = end;
        self.position = None;
        self.stretches.clear();
        self.retained.clear();
        self.update_claim();
    }

    fn update_claim(&self) {
        self.claim.set(self.needed_lsn());
    }

    /// The LSN from which on the journal is needed, as far as it is known.
    fn needed_lsn(&self) -> Option<Lsn> {
        let of_entries = self.stretches.front().map(|stretch| stretch.lsn);
        let of_start = self.start.as_ref().filter(|_| !fail_point!(StartNotClaimed)).map(|start| start.lsn);
        of_entries.into_iter().chain(of_start).min()
    }

    /// Puts the record that drops the entries below `seq`, which must be greater than those of
    /// earlier records.
    pub(crate) fn put_start(&mut self, seq: u64) -> Result<()> {
        self.note_durable_start();
        if self.needed_lsn().is_none() {
            // Claimed before the record exists, as in `put_frame`.
            self.claim.set(Some(self.log.journal.end()));
        }
        let put = self.log.journal.put(&self.start_record(seq));
        if let Ok(position) = &put {
            let lsn = self.start.as_ref().map_or(position.lsn, |before| before.lsn);
            self.start = Some(Box::new(StartRecord { seq, lsn, newest: Some(*position) }));
            self.log.wake_if_due(*position);
        }
        self.update_claim();
        put.map(drop)
    }

    /// Whether the journal may have the START `first`. In a stream without a directory, the entries
    /// below it have to be there as well: they show that it never had one.
    pub(crate) fn may_have_start(&self, first: u64) -> bool {
        self.is_in_directory || !self.stretches.is_empty() && first <= self.end
    }

    fn start_record(&self, seq: u64) -> Record {
        let name = Bytes::copy_from_slice(self.name.as_bytes());
        Record::Start { stream: self.stream, seq: SeqNo(seq), name: Some(name) }
    }

    /// The last START record, if it is not known to be durable.
    pub(crate) fn undurable_start(&mut self) -> Option<Position> {
        self.note_durable_start();
        self.start.as_ref().and_then(|start| start.newest)
    }

    /// Once the newest START record is durable, the journal is needed only from there on.
    fn note_durable_start(&mut self) {
        let Some(start) = &mut self.start else { return };
        let journal = &self.log.journal;
        let is_durable = |position: &Position| position.epoch == journal.epoch() && position.end <= journal.durable();
        if let Some(newest) = start.newest.filter(is_durable) {
            **start = StartRecord { lsn: newest.lsn, newest: None, ..**start };
        }
    }

    /// The journal has entries of an earlier process up to `end`, and all of them are durable. So
    /// they must not be released before they are settled.
    pub(crate) fn join(&mut self, end: u64) {
        self.end = end;
        if !fail_point!(JoinedLoose) {
            self.firm_end = end;
        }
    }

    /// Claims those of the records `needed`, of an earlier process, that the stream still needs:
    /// its files durably hold the entries below `settled`, and record the first live seq
    /// `start_in_files`. All of the records are durable.
    pub(crate) fn adopt(&mut self, needed: &NeededStream, settled: u64, start_in_files: u64) {
        if fail_point!(JoinedNotClaimed) {
            return;
        }
        let seqs = settled..self.end;
        let parts = needed.parts.iter().map(|located| (located.lsn, located.part.first.0, located.part.end().0));
        let mut parts: Vec<_> = parts.filter(|(_, first, end)| *end > seqs.start && *first < seqs.end).collect();
        // A stretch needs the journal from its first record on, and a copy may be after records
        // that follow it.
        let mut oldest = Lsn(u64::MAX);
        for part in parts.iter_mut().rev() {
            oldest = oldest.min(part.0);
            part.0 = oldest;
        }
        self.stretches.clear();
        for (lsn, first, end) in parts {
            self.remember(lsn, first.max(seqs.start), end.min(seqs.end));
        }
        let start = needed.start.filter(|start| start.0 > start_in_files);
        self.start = start.map(|start| Box::new(StartRecord { seq: start.0, lsn: needed.start_lsn, newest: None }));
        self.update_claim();
    }

    /// The records that the stream still needs, all of whose entries are in memory: `rest` has
    /// those that are not drained. `None` if it needs none.
    pub(crate) fn still_needed(&self, rest: &[&PendingFrames]) -> Option<(StreamId, NeededStream)> {
        let lsn = self.needed_lsn()?;
        let mut needed =
            NeededStream { name: Some(Bytes::copy_from_slice(self.name.as_bytes())), ..NeededStream::default() };
        for record in self.records(rest) {
            match record {
                Record::Start { seq, .. } => {
                    needed.start = Some(seq);
                    needed.start_lsn = lsn;
                }
                Record::Firm { .. } => needed.has_directory = true,
                _ => {}
            }
            let parts = record.parts().iter().cloned();
            needed.parts.extend(parts.map(|part| LocatedPart { part, lsn, end: lsn }));
        }
        Some((self.stream, needed))
    }

    /// The stream's files durably record the first live seq `in_files`.
    pub(crate) fn start_is_in_files(&mut self, in_files: u64) {
        if self.start.as_ref().is_some_and(|start| start.seq <= in_files) {
            self.start = None;
            self.update_claim();
        }
    }

    /// Whether the maintenance thread is to write the START to the files.
    pub(crate) const fn is_start_due(&self) -> bool {
        self.is_start_due
    }

    pub(crate) const fn set_start_due(&mut self, is_due: bool) {
        self.is_start_due = is_due;
    }

    /// Puts the START again at the end of the journal if its record begins before `target`. It
    /// counts there once the journal is synced, which a release does first. Returns whether there
    /// was one.
    pub(crate) fn copy_start(&mut self, target: Lsn) -> Result<bool> {
        self.note_durable_start();
        let Some(start) = self.start.as_deref().copied().filter(|start| start.lsn < target) else { return Ok(false) };
        if fail_point!(StartNotCopied) {
            self.start = None;
        } else {
            let position = self.log.journal.put(&self.start_record(start.seq))?;
            self.start = Some(Box::new(StartRecord { lsn: position.lsn, newest: Some(position), ..start }));
        }
        self.update_claim();
        Ok(true)
    }

    /// Has the entries of `pending`, which are the rest of the stream up to `next_seq`,
    /// acknowledged at `durability`. An error of the kind `NoRoom` leaves some of them in the
    /// journal; the call may be repeated.
    pub(crate) fn put(
        &mut self,
        pending: &PendingFrames,
        next_seq: u64,
        durability: Durability,
        watermarks: &Watermarks,
    ) -> Result<Put> {
        if watermarks.reached(durability) >= next_seq {
            return Ok(Put::Done);
        }
        if self.is_directory_unrecorded {
            self.record_directory();
        }
        let firm = durability == Durability::Synced;
        let has_unsynced = firm && self.file_only_end > watermarks.settled() && !fail_point!(FirmAboveFileOnly);
        debug_assert!(self.stream != StreamId(0), "the caller has chosen an id");
        if has_unsynced || self.is_draining_others && !fail_point!(DrainOvertaken) {
            return Ok(Put::ThroughFiles);
        }
        if self.end < next_seq {
            if pending.len_from(self.end) > JOURNALED_LEN_MAX {
                return Ok(Put::ThroughFiles);
            }
            let put = pending.slices_from(self.end).try_for_each(|frame| self.put_frame(&frame, firm));
            // After an error too: a thread that syncs earlier entries may find that the frames that
            // were put are durable.
            if put.is_ok() || !fail_point!(FlushedLeftBehind) {
                watermarks.raise_flushed(self.end);
            }
            put?;
        } else if firm && self.firm_end < next_seq && !fail_point!(FirmNotWritten) {
            let record = Record::Firm { stream: self.stream, seq: SeqNo(next_seq) };
            self.position = Some(self.log.journal.put(&record)?);
            self.firm_end = next_seq;
        }
        // Without a record of this epoch of the journal, the files have to make them durable.
        let is_present = |position: &Position| position.epoch == self.log.journal.epoch();
        Ok(self.position.filter(is_present).map_or(Put::ThroughFiles, Put::InJournal))
    }

    fn put_frame(&mut self, frame: &FrameSlice<'_>, firm: bool) -> Result<()> {
        let is_unclaimed = self.needed_lsn().is_none();
        let Self { scratch, name, stream, .. } = self;
        let part = part_of(frame, scratch, *stream, name, firm);
        if is_unclaimed {
            // Claimed before the record exists. A thread that releases space reads the end of the
            // journal first and the claims after it, so it sees this claim if its end is past the
            // record.
            self.claim.set(Some(self.log.journal.end()));
        }
        let named_at = self.named_at.filter(|_| self.is_in_directory || fail_point!(NamedOnce));
        let put = self.log.journal.put_part(&part, named_at);
        if put.is_err() {
            self.update_claim();
        }
        let (position, has_name) = put?;
        if has_name {
            self.named_at = Some(position.lsn);
        }
        self.position = Some(position);
        self.end = frame.end_seq();
        if firm {
            self.firm_end = self.end;
        }
        self.remember(position.lsn, frame.first_seq, self.end);
        self.log.wake_if_due(position);
        Ok(())
    }

    fn remember(&mut self, lsn: Lsn, first_seq: u64, end_seq: u64) {
        match self.stretches.back_mut() {
            Some(last) if last.lsn + STRETCH_LEN > lsn => last.end_seq = end_seq,
            _ => {
                // An idle stream has one, and a log may have very many idle streams.
                if self.stretches.capacity() == 0 {
                    self.stretches.reserve_exact(1);
                }
                self.stretches.push_back(Stretch { lsn, first_seq, end_seq });
            }
        }
        if self.stretches.len() == 1 {
            self.update_claim();
        }
    }

    /// A leader takes everything pending, up to `end`, to write it to the files.
    pub(crate) fn drain_begins(&mut self, end: Option<u64>) {
        self.is_draining_others = end.is_some_and(|end| end > self.end);
    }

    /// Everything below `end` is in the files, and everything below `settled` is durable there.
    pub(crate) fn drained_to(&mut self, end: Option<u64>, settled: u64) {
        self.is_draining_others = false;
        if let Some(end) = end.filter(|&end| end > self.end) {
            self.end = end;
            self.file_only_end = end;
        }
        self.settled_to(settled);
    }

    /// Forgets the records of entries that are settled.
    fn settled_to(&mut self, settled: u64) {
        while self.stretches.front().is_some_and(|stretch| stretch.end_seq <= settled) {
            self.stretches.pop_front();
        }
        self.trim_retained();
    }

    /// Forgets the drained entries whose records are not needed.
    fn trim_retained(&mut self) {
        self.update_claim();
        let needed_from = self.first_needed_seq();
        while let Some(work) = self.retained.front()
            && work.end_seq().is_none_or(|end| end <= needed_from)
        {
            if let Some(buffer) = self.retained.pop_front().and_then(Arc::into_inner) {
                buffer.recycle(&self.buffer_pool);
            }
        }
    }

    /// The first entry whose record is needed, or the largest seq if none is.
    fn first_needed_seq(&self) -> u64 {
        self.stretches.front().map_or(u64::MAX, |stretch| stretch.first_seq)
    }

    /// Whether the record of any entry of `seqs` is needed, so that the entries have to stay in
    /// memory.
    pub(crate) fn needs(&self, seqs: &Range<u64>) -> bool {
        let last = self.stretches.back().map_or(0, |stretch| stretch.end_seq);
        self.first_needed_seq() < seqs.end && seqs.start < last
    }

    /// Keeps drained entries in memory.
    pub(crate) fn retain(&mut self, work: Arc<PendingFrames>) {
        if !fail_point!(RetainedForgotten) {
            self.retained.push_back(work);
        }
    }

    /// Drained entries that are still in memory, oldest first.
    pub(crate) fn retained(&self) -> impl Iterator<Item = &PendingFrames> {
        self.retained.iter().map(|work| &**work)
    }

    /// The LSN from which on the journal is needed. First forgets the records of settled entries,
    /// and of loose entries that are drained: those become file-only. On a stream whose readers
    /// take every entry for durable (`all_firm`), no entry is loose.
    pub(crate) fn needed_from(&mut self, watermarks: &Watermarks, all_firm: bool) -> Option<Lsn> {
        self.start_is_in_files(watermarks.start_in_files());
        self.note_durable_start();
        let settled = watermarks.settled();
        self.settled_to(settled);
        if self.is_loose(watermarks, all_firm) {
            let drained = watermarks.drained();
            while let Some(stretch) = self.stretches.front().filter(|stretch| stretch.end_seq <= drained) {
                if !fail_point!(ReleasedForgotten) {
                    self.file_only_end = self.file_only_end.max(stretch.end_seq);
                }
                self.stretches.pop_front();
            }
            self.trim_retained();
        }
        self.needed_lsn()
    }

    /// Whether draining the entries is enough for their records to be released.
    pub(crate) fn is_loose(&self, watermarks: &Watermarks, all_firm: bool) -> bool {
        !all_firm && (self.firm_end <= watermarks.settled() || fail_point!(FirmReleased))
    }

    /// The needed entries, which are in memory: `rest` has those that are not drained.
    fn needed<'a>(&'a self, rest: &[&'a PendingFrames]) -> Vec<FrameSlice<'a>> {
        slices_between(&self.retained, rest, self.first_needed_seq(), self.end)
    }

    /// The number of bytes that [`copy_forward`](Self::copy_forward) would write, about.
    pub(crate) fn needed_len(&self, rest: &[&PendingFrames]) -> usize {
        self.needed(rest).iter().map(|slice| slice.data.len() + 4 * slice.ends.len() + 64).sum()
    }

    /// Puts the needed records again at the end of the journal. They count there once the journal
    /// is synced, which a release does first.
    pub(crate) fn copy_forward(&mut self, rest: &[&PendingFrames]) -> Result<()> {
        let mut stretches = VecDeque::new();
        let rest = if fail_point!(TailNotCopied) { &[] } else { rest };
        for slice in slices_between(&self.retained, rest, self.first_needed_seq(), self.end) {
            let firm = slice.first_seq < self.firm_end && !fail_point!(CopyBecomesLoose);
            let part = part_of(&slice, &mut self.scratch, self.stream, &self.name, firm);
            let position = self.log.journal.put_copy(&part)?;
            stretches.push_back(Stretch { lsn: position.lsn, first_seq: slice.first_seq, end_seq: slice.end_seq() });
            self.position = Some(position);
        }
        self.stretches = stretches;
        self.update_claim();
        if self.is_in_directory {
            self.record_directory();
        }
        Ok(())
    }

    /// The records that a restart of the journal writes for this stream.
    pub(crate) fn records(&self, rest: &[&PendingFrames]) -> Vec<Record> {
        let mut scratch = Vec::new();
        let start = self.start.as_ref().filter(|_| !fail_point!(StartNotRestarted));
        let start = start.map(|start| self.start_record(start.seq));
        let record = |slice: &FrameSlice<'_>| {
            let part = part_of(slice, &mut scratch, self.stream, &self.name, slice.first_seq < self.firm_end);
            Record::Copy(vec![part.to_part()])
        };
        let mut records: Vec<Record> = start.into_iter().chain(self.needed(rest).iter().map(record)).collect();
        if self.is_in_directory && !records.is_empty() {
            records.push(Record::Firm { stream: self.stream, seq: SeqNo(0) });
        }
        records
    }

    /// After a restart of the journal: the needed records are at or after `lsn`.
    pub(crate) fn moved_to(&mut self, lsn: Lsn) {
        let first_seq = self.first_needed_seq();
        let end_seq = self.end;
        self.position = None;
        self.named_at = None;
        if !self.stretches.is_empty() {
            self.stretches = VecDeque::from([Stretch { lsn, first_seq, end_seq }]);
        }
        if let Some(start) = &mut self.start {
            // A newer record may have been put since the restart.
            let epoch = self.log.journal.epoch();
            let newest = start.newest.filter(|newest| newest.epoch == epoch);
            **start = StartRecord { lsn, newest, ..**start };
        }
        self.update_claim();
    }

    /// One past the last entry in the journal, if its last record is before `durable`. Everything
    /// below it is durable then, unless it is file-only.
    pub(crate) fn durable_end(&self, durable: Lsn) -> Option<u64> {
        let is_current = |position: &Position| position.epoch == self.log.journal.epoch() && position.end <= durable;
        self.position.filter(is_current).filter(|_| self.firm_end == self.end).map(|_| self.end)
    }

    /// Has the next recovery make the records void, even if this one fails.
    pub(crate) fn must_be_void(&mut self) {
        self.has_void_records = true;
    }

    pub(crate) const fn has_void_records(&self) -> bool {
        self.has_void_records
    }

    /// Makes the earlier records of the stream void: all its entries, up to `end`, are settled. The
    /// journal is durable when this returns.
    pub(crate) fn make_void(&mut self, end: u64) -> Result<()> {
        if self.known_stream().is_none() || fail_point!(SettledSkipped) {
            return Ok(());
        }
        // From here on no copy of an earlier record may be put, because it would be valid.
        self.log.carried_is_settled(self.stream, true);
        let settled = Record::Settled { stream: self.stream, seq: SeqNo(end) };
        let position = self.log.journal.append(&settled).inspect_err(|error| {
            if !self.is_failure(error) {
                // The record was refused, so the others are carried on.
                self.log.carried_is_settled(self.stream, false);
            }
        })?;
        if !fail_point!(SettledNotSynced) {
            self.log.journal.sync_to(position)?;
        }
        self.has_void_records = false;
        Ok(())
    }

    /// Whether `error` means that the journal has failed. After any other error nothing has
    /// changed, and the entries can be written to the files instead.
    pub(crate) fn is_failure(&self, error: &Error) -> bool {
        let refused =
            matches!(error.kind(), ErrorKind::Full { .. } | ErrorKind::NoRoom { .. } | ErrorKind::TooLarge { .. });
        !refused && self.log.journal.failure().is_some()
    }
}

/// The entries from `from` to `end`: those of `drained`, then those of `rest`.
fn slices_between<'a>(
    drained: &'a VecDeque<Arc<PendingFrames>>,
    rest: &[&'a PendingFrames],
    from: u64,
    end: u64,
) -> Vec<FrameSlice<'a>> {
    let all = drained.iter().map(|work| &**work).chain(rest.iter().copied());
    all.flat_map(|frames| frames.slices_from(from)).filter_map(|slice| slice.below(end)).collect()
}

/// The part that holds the entries of `frame`. `scratch` holds their end offsets.
fn part_of<'a>(
    frame: &FrameSlice<'a>,
    scratch: &'a mut Vec<u8>,
    stream: StreamId,
    name: &'a str,
    firm: bool,
) -> PartRef<'a> {
    scratch.clear();
    // As in a frame, a single entry has no table of ends. Appends are put whole, so it ends a
    // batch.
    if frame.ends.len() > 1 {
        for &end in frame.ends {
            let end = ((end & !BATCH_END) - frame.before) | (end & BATCH_END);
            scratch.extend_from_slice(&end.to_le_bytes());
        }
    }
    PartRef {
        stream,
        name: name.as_bytes(),
        first: SeqNo(frame.first_seq),
        count: u32::try_from(frame.ends.len()).expect("invariant: a frame has fewer than 2^32 entries"),
        timestamp: frame.timestamp,
        firm,
        body: [scratch, frame.data],
    }
}
