//! Recovers an open stream that has failed, or refreshes a stream opened for reading.

use std::sync::Arc;

use stratawal_segment::SegmentId;

use super::files::StreamFiles;
use super::install::{Ends, install};
use super::open::recover_or_read;
use super::recovered::{Recovered, Refreshed};
use super::refresh::refresh;
use crate::deletion::restart_journal;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::events;
use crate::inner::Inner;
use crate::read::snapshot::Snapshot;
use crate::shared::Shared;
use crate::write::journaled::Journaled;
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;
use crate::write::writer::Writer;

/// Whether recovery may lose entries that were written but not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnLoss {
    /// Recovery continues without them: the caller asked for recovery, whose report has the new
    /// end.
    Continue,
    /// Recovery fails, so that their seqs are not reused before the caller knows of the loss.
    Fail,
}

impl Inner {
    /// See [`StreamLog::reopen`](crate::StreamLog::reopen).
    pub(crate) fn reopen(&self) -> Result<()> {
        if self.shared.context.is_read_only() {
            self.refresh()
        } else {
            if self.is_over() {
                return Err(Error::new(ErrorKind::Closed, &self.shared.location));
            }
            self.restart_journal()?;
            self.recover(OnLoss::Continue, ReserveUse::Never)
        }
    }

    /// Restarts the commit journal if it has failed.
    pub(crate) fn restart_journal(&self) -> Result<()> {
        self.check_process()?;
        restart_journal(&self.shared.context, &self.shared.location)
    }

    fn refresh(&self) -> Result<()> {
        self.check_process()?;
        let Self { shared, group, report, reader_state, last_look, .. } = self;
        // The lock lets only one thread refresh at a time, so an older look never replaces a newer
        // one.
        let mut state = group.lock();
        if self.is_over() {
            return Err(Error::new(ErrorKind::Closed, &shared.location));
        }
        if self.is_noticed_unchanged() {
            report.store(Arc::new(report.load().of_nothing_new()));
            return Ok(());
        }
        // The counter is read before the look, so that it notices a change during the look.
        let notified = shared.context.notified_by();
        let mut look = notified.and_then(|reader| reader.begin_look(shared.context.system()));
        *last_look.lock() = None;
        let before = reader_state.lock().take();
        let shown = shared.snapshot.load();
        let files = StreamFiles::new(&shared.context, &shared.location, &shared.options);
        let outcome = match refresh(&files, before, &shown, &report.load()) {
            Ok(Refreshed::Unchanged { reader_state: same, report: now, sighting }) => {
                *reader_state.lock() = Some(same);
                if let Some(look) = &mut look {
                    look.sighting = sighting;
                }
                *last_look.lock() = look.map(Box::new);
                // Nothing changes for readers, so the epoch continues.
                let now = now.unwrap_or_else(|| report.load().of_nothing_new());
                report.store(Arc::new(now));
                return Ok(());
            }
            Ok(Refreshed::Changed(recovered)) => Ok(Some(*recovered)),
            Ok(Refreshed::Missing) => Ok(None),
            Err(error) => Err(error),
        };
        events::opened(&shared.location, &outcome);
        let mut recovered = outcome?.map_or(Ok(None), |recovered| self.with_cut(&files, &shown, recovered))?;
        *reader_state.lock() = recovered.as_mut().and_then(|recovered| recovered.reader_state.take());
        if let (Some(look), Some(recovered)) = (&mut look, &recovered) {
            look.sighting = recovered.snapshot.journal().complete;
        }
        *last_look.lock() = look.map(Box::new);
        install(shared, report, &mut state.tail, recovered, None);
        Ok(())
    }

    /// Sets the cut of a look, if `shown` has entries of the journal that the stream no longer has.
    /// Looks again if the stream was cut since the look, which then has entries that were dropped.
    /// Returns `None` if the stream is gone.
    fn with_cut(&self, files: &StreamFiles<'_>, shown: &Snapshot, look: Recovered) -> Result<Option<Recovered>> {
        // After that, readers may see the cut twice.
        const TRIES_MAX: usize = 20;
        let parts = &shown.journal().parts;
        let mut recovered = look;
        for tries in 1.. {
            // A stream of this name that was created since has another id.
            let is_other = parts.first().is_some_and(|part| Some(part.stream) != recovered.stream());
            if !is_other && !recovered.snapshot.journal().may_be_cut {
                break;
            }
            let Some((cut, now)) = self.first_changed(parts)? else { break };
            if tries == TRIES_MAX || recovered.snapshot.has_same_segments(&now.shared.snapshot.load()) {
                recovered.cut = Some(cut);
                break;
            }
            match refresh(files, None, shown, &self.report.load())? {
                Refreshed::Changed(later) => recovered = *later,
                Refreshed::Missing => return Ok(None),
                // Only a look that continues another one finds nothing new.
                Refreshed::Unchanged { .. } => {}
            }
        }
        Ok(Some(recovered))
    }

    /// Whether nothing has changed since the last look of a reader, as far as the counter of the
    /// log and the end of its journal show.
    fn is_noticed_unchanged(&self) -> bool {
        let last_look = self.last_look.lock();
        let Some(reader) = self.shared.context.notified_by() else { return false };
        let Some(look) = last_look.as_ref().filter(|look| reader.is_current(look)) else { return false };
        let journal = self.shared.context.reader_of_journal();
        journal.is_none_or(|journal| journal.is_unchanged_since(look.sighting))
    }

    /// Recovers a stream that has failed, unless that loses entries. For calls other than
    /// [`reopen`](Self::reopen).
    pub(crate) fn recover_without_loss(&self, reserve: ReserveUse) -> Result<()> {
        self.recover(OnLoss::Fail, reserve)
    }

    /// Recovers a stream that has failed. Entries pending in the tail stay pending.
    fn recover(&self, on_loss: OnLoss, reserve: ReserveUse) -> Result<()> {
        self.check_process()?;
        let Self { shared, group, report, removals, .. } = self;
        // Locked before the group: a truncation may still be removing files, and recovery must not
        // find half of them.
        let mut removals = removals.lock();
        let mut dead = None;
        let result = group.recover(|tail, failed| {
            if tail.closed {
                return Err(Error::new(ErrorKind::Closed, &shared.location));
            }
            // The descriptors of the failed writer may have unsynced writes, so they are closed
            // only after recovery, which rewrites and syncs those frames that it finds.
            let recovered =
                recover_or_read(&StreamFiles::new(&shared.context, &shared.location, &shared.options), reserve);
            drop(failed);
            let mut recovered = recovered?;
            let found = recovered.as_mut().map(|recovered| std::mem::take(&mut recovered.dead));
            if recovered.is_none() && !shared.snapshot.load().segments.is_empty() {
                // The directory existed, and so did acknowledged entries.
                return Err(Error::damage_at(&shared.location, DamageKind::NoSegment, None, None));
            }
            let exists = recovered.is_some();
            let in_files = recovered.as_ref().map_or(0, |recovered| recovered.next_seq);
            let (waiting, is_lost) = tail.pending_from(in_files);
            if is_lost && on_loss == OnLoss::Fail {
                let text = "entries that were handed to the operating system, and not synced, are lost";
                return Err(Error::text(ErrorKind::Poisoned, &shared.location, text));
            }
            let reserved = waiting.reserved;
            let has_journal = tail.journaled.is_some();
            let end = waiting.end_seq().or_else(|| has_journal.then_some(in_files));
            let ends = end.map(|end| ends(shared, in_files, end, has_journal));
            let start = ends.map_or(0, |ends| ends.start);
            let journaled = tail.journaled.take();
            let mut writer = install(shared, report, tail, recovered, ends);
            tail.journaled = journaled.map(|journaled| recovered_journaled(shared, journaled, is_lost));
            // Readers no longer see these segments, so they are removed after the lock is released.
            dead = found;
            tail.adopt_pending(waiting);
            if let Some(reservation) = tail.reservation.as_mut().filter(|_| reserved > 0) {
                shared.with_room(reserve, || reservation.reserve_exactly(reserved))?;
            }
            if tail.journaled.is_some() && (exists || tail.pending_len() > 0) {
                dead.get_or_insert_default().extend(restart_below(&mut writer, tail, start)?);
                // Some entries may be in the journal and others in memory alone. From here on all
                // are in the files. A stream without a directory gets one.
                writer.settle_recovered(tail)?;
            }
            Ok(writer)
        });
        if let Some(dead) = dead {
            let mut amended = (*report.load()).clone();
            removals.remove_found(&shared.context, &shared.location, dead, &mut amended);
            report.store(Arc::new(amended));
        }
        result
    }
}

/// Makes a stream that has lost entries below its first live seq, `start`, begin there. Returns its
/// old segments.
fn restart_below(writer: &mut Writer, tail: &mut Tail, start: u64) -> Result<Vec<SegmentId>> {
    if tail.next_seq >= start {
        return Ok(Vec::new());
    }
    let dead = writer.begin_at(tail, start)?;
    Ok(dead.segments.iter().map(|segment| segment.id()).collect())
}

/// The journal's state of a stream that was recovered. `is_lost` is whether accepted entries are
/// lost.
fn recovered_journaled(shared: &Shared, mut journaled: Box<Journaled>, is_lost: bool) -> Box<Journaled> {
    if is_lost {
        journaled.must_be_void();
    }
    // The directory of a stream whose creation failed may exist.
    if let Some(stream) = shared.stream_id() {
        journaled.has_directory(stream);
    }
    journaled
}

/// The ends of a stream whose entries up to `accepted` are in its files or in the tail. Those
/// that the commit journal holds stay flushed and durable.
fn ends(shared: &Shared, in_files: u64, accepted: u64, has_journal: bool) -> Ends {
    let Some(watermarks) = Some(&shared.watermarks).filter(|_| has_journal) else {
        return Ends { start: 0, accepted, flushed: in_files, durable: in_files };
    };
    // The first live seq may be in the journal alone.
    let start = watermarks.start();
    Ends { start, accepted, flushed: watermarks.flushed().min(accepted), durable: watermarks.durable().min(accepted) }
}
