//! Runs workloads on a log, with crashes at every change of its disk and faults at every operation.

mod crash;
mod fault;
mod play;
mod recovery;

pub use crash::crash_everywhere;
pub use fault::fault_everywhere;
pub use play::play;
pub use recovery::interrupt_recovery;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{Change, Found, Level, Mismatch, Snapshot, StreamModel};
use crate::rng::Rng;
use crate::sim::{Crash, Disk, Lie, SimStorage};
use crate::workload::{How, Step, entry, place_before, place_from};

/// An error: the log refused an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether the operation may have happened anyway, so that the stream must be recovered.
    pub unknown: bool,
    /// The text of the error.
    pub message: String,
}

/// The log on which a simulation runs.
pub trait LogUnderTest {
    /// An open log.
    type Log;

    /// Opens or creates the log.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn open(&self, storage: SimStorage) -> Result<Self::Log, Refusal>;

    /// Appends a batch.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn append(&self, log: &Self::Log, stream: &str, entries: &[Vec<u8>], level: Level) -> Result<Range<u64>, Refusal>;

    /// Appends a batch if its first entry gets the seq `expected_next_seq`.
    ///
    /// # Errors
    /// Any error that the log reports, among them that the next seq is another one.
    fn append_if(
        &self,
        log: &Self::Log,
        stream: &str,
        expected_next_seq: u64,
        entries: &[Vec<u8>],
        level: Level,
    ) -> Result<Range<u64>, Refusal>;

    /// Appends a batch without waiting for this level.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn submit(&self, log: &Self::Log, stream: &str, entries: &[Vec<u8>], level: Level) -> Result<Range<u64>, Refusal>;

    /// Waits for all batches that were submitted.
    ///
    /// # Errors
    /// The first error that the log reports.
    fn await_submitted(&self, log: &Self::Log) -> Result<(), Refusal>;

    /// Flushes a stream.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn flush(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Syncs a stream.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn sync(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Drops the entries below `first_seq`.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn truncate_before(&self, log: &Self::Log, stream: &str, first_seq: u64) -> Result<(), Refusal>;

    /// Drops the entries from `next_seq` on.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn truncate_from(&self, log: &Self::Log, stream: &str, next_seq: u64) -> Result<(), Refusal>;

    /// Deletes a stream. Succeeds if the stream does not exist. A refused deletion can be repeated.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn delete(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Closes a stream. The next call on it opens it again. A stream that refuses this stays open.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn close_stream(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Recovers a poisoned stream.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn reopen(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Reads all entries of a stream: the stable ones, or with `accepted` also those that are only
    /// accepted.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn read(&self, log: &Self::Log, stream: &str, accepted: bool) -> Result<Found, Refusal>;

    /// The stable entries of a stream as a follower has returned them, which began when the log was
    /// opened. `None` if the log has no followers.
    ///
    /// # Errors
    /// Any error that the log reports, and an event that the follower should not have returned.
    fn follow(&self, log: &Self::Log, stream: &str) -> Result<Option<Found>, Refusal> {
        let _ = (log, stream);
        Ok(None)
    }

    /// The level at which an entry becomes stable: flushed or synced.
    fn stable_level(&self, log: &Self::Log) -> Level;

    /// Whether all streams are acknowledged by one journal. Then each stream reports if the journal
    /// fails.
    fn shares_journal(&self) -> bool {
        false
    }

    /// Reads the stream as another process sees it, which is only the entries on stable storage.
    /// Returns `None` if the log itself does not exist yet.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn read_only(&self, storage: SimStorage, stream: &str) -> Result<Option<Found>, Refusal>;

    /// Closes the log cleanly.
    ///
    /// # Errors
    /// Any error that the log reports.
    fn close(&self, log: Self::Log) -> Result<(), Refusal>;
}

/// How much of each workload is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The number of power losses tried at each change of the disk, in addition to one process
    /// death.
    pub losses: u64,
    /// How many crashes in a row a log goes through.
    pub depth: u32,
    /// The number of crashes tried within each recovery and the steps after it, until the depth is
    /// used up.
    pub nested: usize,
    /// Whether, and about what, the disk lies, to show that the harness notices.
    pub lie: Option<Lie>,
}

/// The amount of work done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Workloads.
    pub workloads: u64,
    /// The changes of a disk at which it was crashed.
    pub places: u64,
    /// Crashes, each with a recovery and a check.
    pub crashes: u64,
    /// Operations that were made to fail.
    pub faults: u64,
}

impl std::ops::Add for Outcome {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            workloads: self.workloads + other.workloads,
            places: self.places + other.places,
            crashes: self.crashes + other.crashes,
            faults: self.faults + other.faults,
        }
    }
}

/// A finding, and how to reproduce it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the workload.
    pub seed: u64,
    /// The crash or fault in that workload.
    pub at: String,
    /// How the log differs from the model.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {}: {}", self.seed, self.at, self.what)
    }
}

/// How the log differs from the model, before the seed is added.
type Wrong = String;

/// Images of a disk after each of its changes.
#[derive(Clone, Default)]
struct Images(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    now: Arc<Snapshot>,
    step: Arc<str>,
    images: Vec<Image>,
}

/// A disk at one moment, with the models of its streams and the step that was running.
#[derive(Clone)]
struct Image {
    disk: Disk,
    models: Arc<Snapshot>,
    step: Arc<str>,
}

impl Images {
    fn watch(&self, sim: &SimStorage) {
        let images = self.clone();
        sim.watch(move |disk| {
            let mut recorded = images.0.lock().unwrap_or_else(PoisonError::into_inner);
            let models = Arc::clone(&recorded.now);
            let step = Arc::clone(&recorded.step);
            recorded.images.push(Image { disk: disk.clone(), models, step });
        });
    }

    fn set_models(&self, models: &Snapshot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now = Arc::new(models.clone());
    }

    fn set_step(&self, step: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).step = step.into();
    }

    fn take(&self) -> Vec<Image> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).images)
    }
}

/// A workload running on a log.
struct Run<'s, L: LogUnderTest> {
    under_test: &'s L,
    sim: SimStorage,
    streams: &'s [String],
    log: Option<L::Log>,
    models: Snapshot,
    images: Images,
}

impl<'s, L: LogUnderTest> Run<'s, L> {
    fn new(under_test: &'s L, sim: SimStorage, streams: &'s [String], models: Snapshot) -> Self {
        let run = Self { under_test, sim, streams, log: None, models, images: Images::default() };
        run.images.set_models(&run.models);
        run
    }

    /// Opens the log, which must succeed, and compares every stream with its model.
    fn recover(&mut self) -> Result<(), Wrong> {
        let log = self.under_test.open(self.sim.clone()).map_err(|r| format!("does not open: {}", r.message))?;
        for (stream, name) in self.streams.iter().enumerate() {
            let found =
                self.under_test.read(&log, name, false).map_err(|r| format!("{name} does not open: {}", r.message))?;
            self.models[stream].check_recovered(&found).map_err(|Mismatch(what)| format!("{name}: {what}"))?;
            self.images.set_models(&self.models);
        }
        self.log = Some(log);
        Ok(())
    }

    fn log(&self) -> &L::Log {
        self.log.as_ref().expect("a run has its log open between steps")
    }

    fn model(&mut self, stream: usize, change: impl FnOnce(&mut StreamModel)) {
        change(&mut self.models[stream]);
        self.images.set_models(&self.models);
    }

    /// Runs one step. Returns the refusal if the log refused it.
    fn step(&mut self, step: &Step) -> Result<Option<(usize, Refusal)>, Wrong> {
        self.images.set_step(&format!("{step:.60?}"));
        let name = |stream: usize| &self.streams[stream];
        match step {
            Step::Append { stream, level, entries, how } => return self.append(*stream, *level, entries, *how),
            Step::Flush(stream) => match self.under_test.flush(self.log(), name(*stream)) {
                Ok(()) => self.model(*stream, |model| model.acknowledged(Level::Flushed)),
                Err(refusal) => return Ok(Some((*stream, refusal))),
            },
            Step::Sync(stream) => match self.under_test.sync(self.log(), name(*stream)) {
                Ok(()) => self.model(*stream, |model| model.acknowledged(Level::Synced)),
                Err(refusal) => return Ok(Some((*stream, refusal))),
            },
            Step::Close(stream) => match self.under_test.close_stream(self.log(), name(*stream)) {
                Ok(()) => self.model(*stream, |model| model.acknowledged(Level::Synced)),
                Err(refusal) => return Ok(Some((*stream, refusal))),
            },
            Step::TruncateBefore(stream, pick) => {
                let stream = *stream;
                let model = &self.models[stream];
                let first_seq = place_before(model.first_seq(), model.next_seq(), *pick);
                self.model(stream, |model| model.begin(Change::TruncateBefore(first_seq)));
                let result = self.under_test.truncate_before(self.log(), &self.streams[stream], first_seq);
                return Ok(self.finish(stream, result));
            }
            Step::TruncateFrom(stream, pick) => return self.truncate_from(*stream, *pick),
            Step::Delete(stream) => {
                self.model(*stream, |model| model.begin(Change::Delete));
                let result = self.under_test.delete(self.log(), &self.streams[*stream]);
                return Ok(self.finish(*stream, result));
            }
            Step::Restart => {
                let log = self.log.take().expect("a run has its log open between steps");
                let closed = self.under_test.close(log);
                if closed.is_ok() {
                    (0..self.streams.len()).for_each(|s| self.models[s].acknowledged(Level::Synced));
                    self.images.set_models(&self.models);
                }
                self.recover()?;
            }
        }
        Ok(None)
    }

    fn append(
        &mut self,
        stream: usize,
        level: Level,
        entries: &[(u64, usize)],
        how: How,
    ) -> Result<Option<(usize, Refusal)>, Wrong> {
        if how == How::Submitted {
            return self.submit(stream, level, entries);
        }
        let before = self.models[stream].next_seq();
        let bytes: Vec<Vec<u8>> = entries.iter().map(|&(tag, len)| entry(tag, len)).collect();
        let name = &self.streams[stream];
        if how == How::Conditional {
            match self.under_test.append_if(self.log(), name, before + 1, &bytes, level) {
                Ok(seqs) => return Err(format!("{name}: appended as {seqs:?}, and not from {} on", before + 1)),
                Err(refusal) if refusal.unknown => return Ok(Some((stream, refusal))),
                Err(_) => {}
            }
        }
        self.model(stream, |model| model.begin(Change::Append(entries.to_vec())));
        let appended = match how {
            How::Conditional => self.under_test.append_if(self.log(), name, before, &bytes, level),
            How::Waiting | How::Submitted => self.under_test.append(self.log(), name, &bytes, level),
        };
        match appended {
            Ok(seqs) => {
                let expected = before..self.models[stream].next_seq();
                if seqs != expected {
                    return Err(format!("{}: appended as {seqs:?}, not {expected:?}", self.streams[stream]));
                }
                self.model(stream, |model| model.done(level));
                Ok(None)
            }
            Err(refusal) => Ok(self.finish(stream, Err(refusal))),
        }
    }

    fn submit(
        &mut self,
        stream: usize,
        level: Level,
        entries: &[(u64, usize)],
    ) -> Result<Option<(usize, Refusal)>, Wrong> {
        let mut refused = None;
        let mut is_submitted = false;
        for some in entries.chunks(entries.len().div_ceil(2)) {
            let before = self.models[stream].next_seq();
            let bytes: Vec<Vec<u8>> = some.iter().map(|&(tag, len)| entry(tag, len)).collect();
            self.model(stream, |model| model.begin(Change::Append(some.to_vec())));
            match self.under_test.submit(self.log(), &self.streams[stream], &bytes, level) {
                Ok(seqs) if seqs != (before..self.models[stream].next_seq()) => {
                    return Err(format!("{}: submitted as {seqs:?}, not from {before} on", self.streams[stream]));
                }
                Ok(_) => {
                    is_submitted = true;
                    self.model(stream, |model| model.done(Level::Buffered));
                }
                Err(refusal) => {
                    refused = self.finish(stream, Err(refusal));
                    break;
                }
            }
        }
        match self.under_test.await_submitted(self.log()) {
            // After an unknown outcome, recovery decides.
            Ok(()) if refused.as_ref().is_some_and(|(_, refusal)| refusal.unknown) => {}
            // Without a ticket, nothing is acknowledged.
            Ok(()) if !is_submitted => {}
            Ok(()) => self.model(stream, |model| model.acknowledged(level)),
            Err(refusal) => refused = refused.or(Some((stream, refusal))),
        }
        Ok(refused)
    }

    fn truncate_from(&mut self, stream: usize, pick: u64) -> Result<Option<(usize, Refusal)>, Wrong> {
        let model = &self.models[stream];
        let end = model.next_seq();
        let next_seq = place_from(model.first_seq(), end, pick);
        if next_seq > end {
            return match self.under_test.truncate_from(self.log(), &self.streams[stream], next_seq) {
                Ok(()) => Err(format!("{}: cut at {next_seq}, beyond {end}", self.streams[stream])),
                Err(refusal) if refusal.unknown => Ok(Some((stream, refusal))),
                Err(_) => Ok(None),
            };
        }
        self.model(stream, |model| model.begin(Change::TruncateFrom(next_seq)));
        let result = self.under_test.truncate_from(self.log(), &self.streams[stream], next_seq);
        Ok(self.finish(stream, result))
    }

    /// Records the result of the change that a stream has begun: done, refused, or unknown.
    fn finish(&mut self, stream: usize, result: Result<(), Refusal>) -> Option<(usize, Refusal)> {
        match result {
            Ok(()) => {
                self.model(stream, |model| model.done(Level::Buffered));
                None
            }
            Err(refusal) => {
                if !refusal.unknown {
                    self.model(stream, StreamModel::refused);
                }
                Some((stream, refusal))
            }
        }
    }

    /// Runs one step that must succeed.
    fn step_without_refusal(&mut self, step: &Step) -> Result<(), Wrong> {
        match self.step(step)? {
            None => Ok(()),
            Some((stream, refusal)) => Err(format!("{}: refused: {}", self.streams[stream], refusal.message)),
        }
    }

    /// Compares the entries that readers of the running log see with the model.
    fn check_readers(&self) -> Result<Vec<Found>, Wrong> {
        let check = |(model, name): (&StreamModel, &String)| {
            let found =
                self.under_test.read(self.log(), name, false).map_err(|r| format!("{name}: read: {}", r.message))?;
            model.check_readers(&found, true).map_err(|Mismatch(what)| format!("{name}: read: {what}"))?;
            let followed = self.under_test.follow(self.log(), name);
            let followed = followed.map_err(|r| format!("{name}: followed: {}", r.message))?;
            if followed.is_some_and(|followed| followed != found) {
                return Err(format!("{name}: a follower has not seen the same entries"));
            }
            Ok(found)
        };
        self.models.iter().zip(self.streams).map(check).collect()
    }

    /// Compares the entries that readers and followers of the running log see with the model. From
    /// now on they must survive the death of the process. If stable entries count as durable, they
    /// must survive a power loss.
    fn check_readers_durably(&mut self) -> Result<(), Wrong> {
        let shown = self.check_readers()?;
        if self.under_test.stable_level(self.log()) < Level::Synced {
            for (model, found) in self.models.iter_mut().zip(&shown) {
                model.shown_flushed(found.next_seq());
            }
            self.images.set_models(&self.models);
            return Ok(());
        }
        check_lasts(self.under_test, &self.sim.disk(), self.streams, &self.models, &shown)
            .map_err(|what| format!("read: {what}"))?;
        for (model, found) in self.models.iter_mut().zip(&shown) {
            model.shown_durable(found.next_seq());
        }
        self.images.set_models(&self.models);
        Ok(())
    }
}

/// Checks that the entries that readers of `disk` saw survive a power loss at this moment.
fn check_lasts<L: LogUnderTest>(
    under_test: &L,
    disk: &Disk,
    streams: &[String],
    models: &Snapshot,
    shown: &[Found],
) -> Result<(), Wrong> {
    // Nothing here is random: the disk alone determines the loss. So any seed will do.
    let lost = SimStorage::on(disk.crash(Crash::Lost, &mut Rng::new(0)), 0);
    let fail = |name: &str, what: &str| format!("{name}: after a power loss just then: {what}");
    let log = under_test.open(lost).map_err(|r| fail("the log", &r.message))?;
    for ((name, model), shown) in streams.iter().zip(models).zip(shown) {
        let found = under_test.read(&log, name, false).map_err(|r| fail(name, &r.message))?;
        shown.is_still_in(&found).map_err(|Mismatch(what)| fail(name, &what))?;
        let mut model = model.clone();
        model.crashed(true);
        model.check_recovered(&found).map_err(|Mismatch(what)| fail(name, &what))?;
    }
    Ok(())
}
