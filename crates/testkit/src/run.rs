//! Workloads on a log: crashes at every change of its disk, faults at every operation.

mod play;
mod recovery;

pub use play::play;
pub use recovery::interrupt_recovery;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{Found, Level, Mismatch, Pending, Snapshot, StreamModel};
use crate::rng::Rng;
use crate::sim::{Crash, Disk, Fault, Faults, Lie, SimStorage};
use crate::workload::{Shape, Step, Workload, entry, place_before, place_from};

/// Why a log refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether what was asked for may be there all the same, so that the stream has to be
    /// recovered.
    pub unknown: bool,
    /// What it said.
    pub message: String,
}

/// What a log is to a simulation.
pub trait Subject {
    /// An open log.
    type Log;

    /// Opens or creates it.
    ///
    /// # Errors
    /// As the log says.
    fn open(&self, storage: SimStorage) -> Result<Self::Log, Refusal>;

    /// Appends a batch.
    ///
    /// # Errors
    /// As the log says.
    fn append(&self, log: &Self::Log, stream: &str, entries: &[Vec<u8>], level: Level) -> Result<Range<u64>, Refusal>;

    /// Flushes a stream.
    ///
    /// # Errors
    /// As the log says.
    fn flush(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Syncs a stream.
    ///
    /// # Errors
    /// As the log says.
    fn sync(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Drops the entries below `first`.
    ///
    /// # Errors
    /// As the log says.
    fn truncate_before(&self, log: &Self::Log, stream: &str, first: u64) -> Result<(), Refusal>;

    /// Drops the entries from `next` on.
    ///
    /// # Errors
    /// As the log says.
    fn truncate_from(&self, log: &Self::Log, stream: &str, next: u64) -> Result<(), Refusal>;

    /// Deletes a stream; one that is not there is deleted. Any refusal may be asked again.
    ///
    /// # Errors
    /// As the log says.
    fn delete(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Recovers a stream that is poisoned.
    ///
    /// # Errors
    /// As the log says.
    fn reopen(&self, log: &Self::Log, stream: &str) -> Result<(), Refusal>;

    /// Everything that a reader sees of a stream: what is settled, or also what is only accepted.
    ///
    /// # Errors
    /// As the log says.
    fn read(&self, log: &Self::Log, stream: &str, accepted: bool) -> Result<Found, Refusal>;

    /// What a reader is shown who does not ask for more: what is flushed, or what is synced.
    fn settled(&self, log: &Self::Log) -> Level;

    /// The same as another process sees it, which is shown only what is on stable storage. `None`
    /// where the log itself is not there yet.
    ///
    /// # Errors
    /// As the log says.
    fn read_only(&self, storage: SimStorage, stream: &str) -> Result<Option<Found>, Refusal>;

    /// Closes it cleanly.
    ///
    /// # Errors
    /// As the log says.
    fn close(&self, log: Self::Log) -> Result<(), Refusal>;
}

/// How much is tried of each workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Power losses tried at each change of the disk; a death of the process is tried besides.
    pub losses: u64,
    /// In a row: after this many crashes a log is left in peace.
    pub depth: u32,
    /// Crashes tried within each recovery, and the steps after it, while the depth lasts.
    pub nested: usize,
    /// Whether the disk lies, to show that it would be seen.
    pub lie: Option<Lie>,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Workloads.
    pub workloads: u64,
    /// Changes of a disk at which it was crashed.
    pub places: u64,
    /// Crashes, with a recovery and a check each.
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

/// What was found, and how to see it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the workload.
    pub seed: u64,
    /// Which crash or fault of it.
    pub at: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {}: {}", self.seed, self.at, self.what)
    }
}

/// What is wrong, before it is known where.
type Wrong = String;

/// Images of a disk at each of its changes.
#[derive(Clone, Default)]
struct Images(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    now: Arc<Snapshot>,
    doing: Arc<str>,
    images: Vec<Image>,
}

/// A disk, with what was known of the streams at that time, and what was being done.
#[derive(Clone)]
struct Image {
    disk: Disk,
    models: Arc<Snapshot>,
    doing: Arc<str>,
}

impl Images {
    fn watch(&self, sim: &SimStorage) {
        let images = self.clone();
        sim.watch(move |disk| {
            let mut recorded = images.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (models, doing) = (Arc::clone(&recorded.now), Arc::clone(&recorded.doing));
            recorded.images.push(Image { disk: disk.clone(), models, doing });
        });
    }

    fn know(&self, models: &Snapshot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now = Arc::new(models.clone());
    }

    fn doing(&self, what: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).doing = what.into();
    }

    fn take(&self) -> Vec<Image> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).images)
    }
}

/// A workload at work on a log.
pub struct Run<'s, S: Subject> {
    subject: &'s S,
    sim: SimStorage,
    streams: &'s [String],
    log: Option<S::Log>,
    models: Snapshot,
    images: Images,
}

impl<S: Subject> fmt::Debug for Run<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("streams", &self.streams).field("models", &self.models).finish_non_exhaustive()
    }
}

impl<'s, S: Subject> Run<'s, S> {
    fn new(subject: &'s S, sim: SimStorage, streams: &'s [String], models: Snapshot) -> Self {
        let run = Self { subject, sim, streams, log: None, models, images: Images::default() };
        run.images.know(&run.models);
        run
    }

    /// Opens the log, which has to open, and holds every stream against its model.
    fn recover(&mut self) -> Result<(), Wrong> {
        let log = self.subject.open(self.sim.clone()).map_err(|r| format!("does not open: {}", r.message))?;
        for (stream, name) in self.streams.iter().enumerate() {
            let found =
                self.subject.read(&log, name, false).map_err(|r| format!("{name} does not open: {}", r.message))?;
            self.models[stream].check_recovered(&found).map_err(|Mismatch(what)| format!("{name}: {what}"))?;
            self.images.know(&self.models);
        }
        self.log = Some(log);
        Ok(())
    }

    fn log(&self) -> &S::Log {
        self.log.as_ref().expect("a run has its log open between steps")
    }

    fn model(&mut self, stream: usize, change: impl FnOnce(&mut StreamModel)) {
        change(&mut self.models[stream]);
        self.images.know(&self.models);
    }

    /// One step; the refusal where the log answered one.
    fn step(&mut self, step: &Step) -> Result<Option<(usize, Refusal)>, Wrong> {
        self.images.doing(&format!("{step:.60?}"));
        let name = |stream: usize| &self.streams[stream];
        match step {
            Step::Append { stream, level, entries } => {
                let (stream, before) = (*stream, self.models[*stream].end());
                let bytes: Vec<Vec<u8>> = entries.iter().map(|&(tag, len)| entry(tag, len)).collect();
                self.model(stream, |model| model.begin(entries));
                match self.subject.append(self.log(), &self.streams[stream], &bytes, *level) {
                    Ok(seqs) => {
                        let expected = before..self.models[stream].end();
                        if seqs != expected {
                            return Err(format!("{}: appended as {seqs:?}, not {expected:?}", self.streams[stream]));
                        }
                        self.model(stream, |model| model.acknowledged(*level));
                    }
                    Err(refusal) => {
                        if !refusal.unknown {
                            self.model(stream, |model| model.refused(entries.len()));
                        }
                        return Ok(Some((stream, refusal)));
                    }
                }
            }
            Step::Flush(stream) => match self.subject.flush(self.log(), name(*stream)) {
                Ok(()) => self.model(*stream, |model| model.acknowledged(Level::Flushed)),
                Err(refusal) => return Ok(Some((*stream, refusal))),
            },
            Step::Sync(stream) => match self.subject.sync(self.log(), name(*stream)) {
                Ok(()) => self.model(*stream, |model| model.acknowledged(Level::Synced)),
                Err(refusal) => return Ok(Some((*stream, refusal))),
            },
            Step::TruncateBefore(stream, pick) => {
                let (stream, model) = (*stream, &self.models[*stream]);
                let first = place_before(model.start(), model.end(), *pick);
                self.model(stream, |model| model.ask(Pending::Before(first)));
                let answer = self.subject.truncate_before(self.log(), &self.streams[stream], first);
                return Ok(self.answered(stream, answer));
            }
            Step::TruncateFrom(stream, pick) => {
                let (stream, model) = (*stream, &self.models[*stream]);
                let (end, next) = (model.end(), place_from(model.start(), model.end(), *pick));
                if next > end {
                    return match self.subject.truncate_from(self.log(), &self.streams[stream], next) {
                        Ok(()) => Err(format!("{}: cut at {next}, beyond {end}", self.streams[stream])),
                        Err(refusal) if refusal.unknown => Ok(Some((stream, refusal))),
                        Err(_) => Ok(None),
                    };
                }
                self.model(stream, |model| model.ask(Pending::From(next)));
                let answer = self.subject.truncate_from(self.log(), &self.streams[stream], next);
                return Ok(self.answered(stream, answer));
            }
            Step::Delete(stream) => {
                self.model(*stream, |model| model.ask(Pending::Delete));
                let answer = self.subject.delete(self.log(), name(*stream));
                return Ok(self.answered(*stream, answer));
            }
            Step::Restart => {
                let log = self.log.take().expect("a run has its log open between steps");
                let closed = self.subject.close(log);
                if closed.is_ok() {
                    (0..self.streams.len()).for_each(|s| self.models[s].acknowledged(Level::Synced));
                    self.images.know(&self.models);
                }
                self.recover()?;
            }
        }
        Ok(None)
    }

    /// What was asked of a stream is done, refused, or unknown.
    fn answered(&mut self, stream: usize, answer: Result<(), Refusal>) -> Option<(usize, Refusal)> {
        match answer {
            Ok(()) => {
                self.model(stream, StreamModel::done);
                None
            }
            Err(refusal) => {
                if !refusal.unknown {
                    self.model(stream, StreamModel::unasked);
                }
                Some((stream, refusal))
            }
        }
    }

    /// One step that has no reason to fail.
    fn step_well(&mut self, step: &Step) -> Result<(), Wrong> {
        match self.step(step)? {
            None => Ok(()),
            Some((stream, refusal)) => Err(format!("{}: refused: {}", self.streams[stream], refusal.message)),
        }
    }

    /// What readers see of the running log.
    fn check_readers(&self) -> Result<Vec<Found>, Wrong> {
        let check = |(model, name): (&StreamModel, &String)| {
            let found =
                self.subject.read(self.log(), name, false).map_err(|r| format!("{name}: read: {}", r.message))?;
            model.check_readers(&found, true).map_err(|Mismatch(what)| format!("{name}: read: {what}"))?;
            Ok(found)
        };
        self.models.iter().zip(self.streams).map(check).collect()
    }

    /// The same, and that nothing is shown as durable which is not.
    fn check_readers_durably(&mut self) -> Result<(), Wrong> {
        let shown = self.check_readers()?;
        if self.subject.settled(self.log()) < Level::Synced {
            return Ok(());
        }
        check_lasts(self.subject, &self.sim.disk(), self.streams, &self.models, &shown)
            .map_err(|what| format!("read: {what}"))?;
        for (model, found) in self.models.iter_mut().zip(&shown) {
            model.shown_durable(found.end());
        }
        self.images.know(&self.models);
        Ok(())
    }
}

/// That what readers of `disk` were shown is still there when the power goes just then.
fn check_lasts<S: Subject>(
    subject: &S,
    disk: &Disk,
    streams: &[String],
    models: &Snapshot,
    shown: &[Found],
) -> Result<(), Wrong> {
    // The disk alone decides what it loses and the log nothing at random, so any seed does.
    let lost = SimStorage::on(disk.crash(Crash::Lost, &mut Rng::new(0)), 0);
    let fail = |name: &str, what: &str| format!("{name}: after a power loss just then: {what}");
    let log = subject.open(lost).map_err(|r| fail("the log", &r.message))?;
    for ((name, model), shown) in streams.iter().zip(models).zip(shown) {
        let found = subject.read(&log, name, false).map_err(|r| fail(name, &r.message))?;
        shown.is_still_in(&found).map_err(|Mismatch(what)| fail(name, &what))?;
        let mut model = model.clone();
        model.crashed(true);
        model.check_recovered(&found).map_err(|Mismatch(what)| fail(name, &what))?;
    }
    Ok(())
}

/// Runs the workload of `seed` and crashes it at every change of its disk: by the death of the
/// process, and by power losses of all kinds; checks what recovery makes of each, goes on from
/// there, and crashes that, too.
///
/// # Errors
/// What the model does not allow.
pub fn crash_everywhere<S: Subject>(
    subject: &S,
    seed: u64,
    shape: &Shape,
    volume: &Volume,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let workload = Workload::generate(seed, shape);
    let fail = |at: String| move |what: Wrong| Failure { seed, at, what };
    let models = vec![StreamModel::default(); workload.streams.len()];
    let sim = SimStorage::new(seed);
    sim.set_lie(volume.lie);
    let mut run = Run::new(subject, sim.clone(), &workload.streams, models);
    run.images.watch(&sim);
    run.recover().map_err(fail("at the start".to_owned()))?;
    for (i, step) in workload.steps.iter().enumerate() {
        let stepped = run.step_well(step).and_then(|()| run.check_readers_durably());
        stepped.map_err(fail(format!("step {i}")))?;
    }
    sim.unwatch();
    outcome.workloads += 1;
    for (i, image) in run.images.take().into_iter().enumerate() {
        outcome.places += 1;
        for crash in 0..=volume.losses {
            let mut rng = Rng::new(seed ^ (i as u64) << 20 ^ crash << 52);
            let crash = if crash == 0 { Crash::Kill } else { Crash::any(&mut rng) };
            let after = After { subject, streams: &workload.streams, shape, volume };
            let wrong = after.crash(&image, crash, volume.depth, &mut rng, outcome);
            wrong.map_err(fail(format!("change {i}")))?;
        }
    }
    Ok(())
}

struct After<'s, S> {
    subject: &'s S,
    streams: &'s [String],
    shape: &'s Shape,
    volume: &'s Volume,
}

impl<S: Subject> After<'_, S> {
    /// Crashes `disk`, recovers, checks, goes on, and crashes within that.
    fn crash(
        &self,
        image: &Image,
        crash: Crash,
        depth: u32,
        rng: &mut Rng,
        outcome: &mut Outcome,
    ) -> Result<(), Wrong> {
        outcome.crashes += 1;
        let at = |what: Wrong| format!("within {}: {crash:?}: {what}", image.doing);
        let sim = SimStorage::on(image.disk.crash(crash, rng), rng.next_u64());
        sim.set_lie(self.volume.lie);
        let mut models = image.models.to_vec();
        models.iter_mut().for_each(|model| model.crashed(crash.is_power_loss()));
        // After a power loss all that is there is durable; what a process leaves that died is not.
        if rng.chance(if crash == Crash::Kill { 192 } else { 48 }) {
            self.look(&sim, &models, crash).map_err(at)?;
        }
        let mut run = Run::new(self.subject, sim.clone(), self.streams, models);
        if depth > 1 {
            run.images.watch(&sim);
        }
        run.images.doing("recovery");
        run.recover().map_err(at)?;
        let steps = if depth > 1 { 3 } else { 1 };
        for step in Workload::more(rng, self.streams.len(), steps, self.shape) {
            run.step_well(&step).map_err(|what| at(format!("then {what}")))?;
            if rng.chance(8) {
                run.check_readers_durably().map_err(|what| at(format!("then {what}")))?;
            }
        }
        sim.unwatch();
        let mut images = run.images.take();
        for _ in 0..self.volume.nested.min(images.len()) {
            // Recovery is short beside the steps behind it: half of the crashes fall on its first
            // changes.
            let among = if rng.chance(128) { images.len() } else { images.len().min(16) };
            let image = images.swap_remove(rng.index(among));
            let next = if rng.chance(64) { Crash::Kill } else { Crash::any(rng) };
            self.crash(&image, next, depth - 1, rng, outcome).map_err(at)?;
        }
        Ok(())
    }

    /// A reader in another process sees what must be there, changes nothing, and sees nothing that
    /// a power loss takes.
    fn look(&self, sim: &SimStorage, models: &Snapshot, crash: Crash) -> Result<(), Wrong> {
        let before = contents(&sim.disk());
        let mut shown = Vec::with_capacity(models.len());
        // Syncs are changes of what is durable, and allowed; so what is compared is what the files
        // hold.
        for (model, name) in models.iter().zip(self.streams) {
            let found = self.subject.read_only(sim.clone(), name);
            let found = found.map_err(|r| format!("{name}: another process: {}", r.message))?.unwrap_or_default();
            let checked = model.check_readers(&found, false);
            checked.map_err(|Mismatch(what)| format!("{name}: another process: {what}"))?;
            shown.push(found);
        }
        if contents(&sim.disk()) != before {
            return Err("reading changed files".to_owned());
        }
        if crash.is_power_loss() {
            return Ok(());
        }
        check_lasts(self.subject, &sim.disk(), self.streams, models, &shown)
            .map_err(|what| format!("another process: {what}"))
    }
}

fn contents(disk: &Disk) -> Vec<(String, Vec<u8>)> {
    let read = |(path, _): (String, u64)| {
        let bytes = disk.bytes(path.as_ref()).unwrap_or_default();
        (path, bytes)
    };
    disk.files().into_iter().map(read).collect()
}

/// Runs the workload of `seed` again and again, each time with another operation made to fail, once
/// or from there on, or with another room on the disk; recovers as a program would, checks, goes
/// on, and loses power at the end.
///
/// # Errors
/// What the model does not allow.
pub fn fault_everywhere<S: Subject>(
    subject: &S,
    seed: u64,
    shape: &Shape,
    stride: u64,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let workload = Workload::generate(seed, shape);
    outcome.workloads += 1;
    for (fault, forever) in [
        (Fault::Io, false),
        (Fault::Io, true),
        (Fault::Full, false),
        (Fault::Full, true),
        (Fault::TooManyFiles, false),
        (Fault::TooManyFiles, true),
        (Fault::WriteBack, false),
        (Fault::Capacity, true),
        (Fault::IoAfterEffect, false),
        (Fault::IoAfterEffect, true),
    ] {
        // Bytes of files, that is; in steps of less than a segment is reserved ahead by.
        let stride = if fault == Fault::Capacity { stride * 5000 } else { stride };
        let mut after = seed * 777 % stride;
        loop {
            let faults = Faults { after, fault, forever };
            let mut rng = Rng::new(seed ^ after << 8);
            let failed = faulty_run(subject, &workload, faults, &mut rng).map_err(|what| Failure {
                seed,
                at: format!("{faults:?}"),
                what,
            })?;
            // There were not so many operations.
            if failed == 0 {
                break;
            }
            outcome.faults += failed;
            after += stride;
        }
    }
    Ok(())
}

/// Answers how many operations failed.
fn faulty_run<S: Subject>(subject: &S, workload: &Workload, faults: Faults, rng: &mut Rng) -> Result<u64, Wrong> {
    let models = vec![StreamModel::default(); workload.streams.len()];
    let sim = SimStorage::new(rng.next_u64());
    let mut run = Run::new(subject, sim.clone(), &workload.streams, models);
    sim.set_faults(Some(faults));
    let mut failed = 0;
    // After the first refusal of a fault that lasts, so many more steps, then there is room again.
    let mut patience = rng.below(4);
    for (i, step) in workload.steps.iter().enumerate() {
        let at = |what: Wrong| format!("step {i}: {what}");
        let refusal = if run.log.is_none() { run.reopen_log(&mut failed).map_err(at)? } else { None };
        if let Some(refusal) = refusal {
            return Err(at(format!("does not open without faults: {}", refusal.message)));
        }
        match run.step_or_close(step).map_err(at)? {
            None => {}
            Some((stream, refusal)) => {
                // A write-back fails for many files at a time, and each tells it at its next sync.
                let told_late = faults.fault == Fault::WriteBack && failed > 0;
                if sim.failed() == 0 && !told_late {
                    return Err(at(format!("refused without a fault: {}", refusal.message)));
                }
                run.check_readers_in_need(&mut failed).map_err(at)?;
                if patience > 0 && faults.forever {
                    patience -= 1;
                } else {
                    failed += sim.failed();
                    sim.set_faults(None);
                }
                run.mend(stream, &refusal, &mut failed).map_err(at)?;
            }
        }
    }
    failed += sim.failed();
    sim.set_faults(None);
    if run.log.is_none() {
        run.recover()?;
    }
    for stream in 0..workload.streams.len() {
        run.mend_if_poisoned(stream)?;
    }
    run.check_readers().map_err(|what| format!("at the end: {what}"))?;
    for (crash, seed) in [(Crash::Kill, 1), (Crash::Lost, 2), (Crash::Mixed(128), 3)] {
        let mut models = run.models.clone();
        models.iter_mut().for_each(|model| model.crashed(crash.is_power_loss()));
        let after = SimStorage::on(sim.disk().crash(crash, rng), seed);
        let mut again = Run::new(subject, after, &workload.streams, models);
        again.recover().map_err(|what| format!("{crash:?} at the end: {what}"))?;
    }
    Ok(failed)
}

impl<S: Subject> Run<'_, S> {
    /// Opens the log, first as things are, then without faults.
    fn reopen_log(&mut self, failed: &mut u64) -> Result<Option<Refusal>, Wrong> {
        if let Ok(log) = self.subject.open(self.sim.clone()) {
            self.log = Some(log);
        } else {
            *failed += self.sim.failed();
            self.sim.set_faults(None);
            match self.subject.open(self.sim.clone()) {
                Ok(log) => self.log = Some(log),
                Err(refusal) => return Ok(Some(refusal)),
            }
        }
        for stream in 0..self.streams.len() {
            self.read_again(stream, failed)?;
        }
        Ok(None)
    }

    /// Reads a stream that was just recovered, first as things are, then without faults. What waits
    /// goes on waiting.
    fn read_again(&mut self, stream: usize, failed: &mut u64) -> Result<(), Wrong> {
        let name = &self.streams[stream];
        let read = || {
            let settled = self.subject.read(self.log(), name, false)?;
            Ok((settled, self.subject.read(self.log(), name, true)?))
        };
        let (settled, accepted) = match read() {
            Ok(found) => found,
            Err(_) => {
                *failed += self.sim.failed();
                self.sim.set_faults(None);
                read().map_err(|r: Refusal| format!("{name}: does not open: {}", r.message))?
            }
        };
        let checked = self.models[stream].check_reopened(&settled, &accepted);
        checked.map_err(|Mismatch(what)| format!("{name}: {what}"))
    }

    /// As [`step`](Self::step), where closing and opening may fail.
    fn step_or_close(&mut self, step: &Step) -> Result<Option<(usize, Refusal)>, Wrong> {
        if *step != Step::Restart {
            return self.step(step);
        }
        let log = self.log.take().expect("a run has its log open between steps");
        if self.subject.close(log).is_ok() {
            self.models.iter_mut().for_each(|model| model.acknowledged(Level::Synced));
        }
        Ok(None)
    }

    /// After a refusal: what is settled can still be read, unless reading is what fails.
    fn check_readers_in_need(&mut self, failed: &mut u64) -> Result<(), Wrong> {
        let before = self.sim.failed();
        match self.check_readers() {
            Ok(_) => Ok(()),
            Err(_) if self.sim.failed() > before => {
                *failed += self.sim.failed();
                self.sim.set_faults(None);
                self.check_readers().map(drop)
            }
            Err(wrong) => Err(wrong),
        }
    }

    /// Recovers a stream that refused, first as things are, then without faults.
    fn mend(&mut self, stream: usize, refusal: &Refusal, failed: &mut u64) -> Result<(), Wrong> {
        if !refusal.unknown {
            return Ok(());
        }
        let name = &self.streams[stream];
        if self.models[stream].pending() == Some(Pending::Delete) {
            if self.subject.delete(self.log(), name).is_err() {
                *failed += self.sim.failed();
                self.sim.set_faults(None);
                let again = self.subject.delete(self.log(), name);
                again.map_err(|r| format!("{name}: is not deleted: {}", r.message))?;
            }
            self.model(stream, StreamModel::done);
            return Ok(());
        }
        if self.subject.reopen(self.log(), name).is_err() {
            *failed += self.sim.failed();
            self.sim.set_faults(None);
            let again = self.subject.reopen(self.log(), name);
            again.map_err(|r| format!("{name}: does not recover: {}", r.message))?;
        }
        self.read_again(stream, failed)
    }

    /// A stream that a flush or a sync within another step has poisoned.
    fn mend_if_poisoned(&mut self, stream: usize) -> Result<(), Wrong> {
        let name = &self.streams[stream];
        if self.subject.sync(self.log(), name).is_ok() {
            self.models[stream].acknowledged(Level::Synced);
            return Ok(());
        }
        let reopened = self.subject.reopen(self.log(), name);
        reopened.map_err(|r| format!("{name}: does not recover: {}", r.message))?;
        self.read_again(stream, &mut 0)
    }
}
