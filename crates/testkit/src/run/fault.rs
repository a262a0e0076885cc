//! Faults at every operation of a storage.

use super::{Failure, LogUnderTest, Outcome, Refusal, Run, Wrong};
use crate::model::{Change, Level, Mismatch, StreamModel};
use crate::rng::Rng;
use crate::sim::{Crash, Fault, Faults, SimStorage};
use crate::workload::{How, Shape, Step, Workload};

/// Runs the workload of `seed` many times. In each run a different operation fails, either once or
/// from then on, or the disk has a different capacity. The run recovers as a program would,
/// compares the log with the model, continues, and loses power at the end.
///
/// # Errors
/// A report of how the log differs from the model.
pub fn fault_everywhere<L: LogUnderTest>(
    under_test: &L,
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
        // A capacity counts bytes of files. Its stride is smaller than a preallocation.
        let stride = if fault == Fault::Capacity { stride * 5000 } else { stride };
        let mut after = seed * 777 % stride;
        loop {
            let faults = Faults { after, fault, forever };
            let mut rng = Rng::new(seed ^ after << 8);
            let failed = faulty_run(under_test, &workload, faults, &mut rng).map_err(|what| Failure {
                seed,
                at: format!("{faults:?}"),
                what,
            })?;
            // The workload has no more operations to fail.
            if failed == 0 {
                break;
            }
            outcome.faults += failed;
            after += stride;
        }
    }
    Ok(())
}

/// Runs the workload with these faults. Returns how many operations failed.
fn faulty_run<L: LogUnderTest>(
    under_test: &L,
    workload: &Workload,
    faults: Faults,
    rng: &mut Rng,
) -> Result<u64, Wrong> {
    let models = vec![StreamModel::default(); workload.streams.len()];
    let sim = SimStorage::new(rng.next_u64());
    let mut run = Run::new(under_test, sim.clone(), &workload.streams, models);
    sim.set_faults(Some(faults));
    let mut failed = 0;
    // A lasting fault ends after this many more refusals.
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
                // A write-back fails for many files at once, and each file reports it at its next
                // sync. Each stream reports the failure of a journal. A buffered batch that was
                // submitted is written after its ticket is complete.
                let has_submitted = workload.steps[..=i].iter().any(submits);
                let is_shared = (under_test.shares_journal() || has_submitted) && refusal.unknown;
                let reported_late = (faults.fault == Fault::WriteBack || is_shared) && failed > 0;
                if sim.failed() == 0 && !reported_late {
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
        let mut again = Run::new(under_test, after, &workload.streams, models);
        again.recover().map_err(|what| format!("{crash:?} at the end: {what}"))?;
    }
    Ok(failed)
}

const fn submits(step: &Step) -> bool {
    matches!(step, Step::Append { how: How::Submitted, .. })
}

impl<L: LogUnderTest> Run<'_, L> {
    /// Opens the log, first with faults, then without.
    fn reopen_log(&mut self, failed: &mut u64) -> Result<Option<Refusal>, Wrong> {
        if let Ok(log) = self.under_test.open(self.sim.clone()) {
            self.log = Some(log);
        } else {
            *failed += self.sim.failed();
            self.sim.set_faults(None);
            match self.under_test.open(self.sim.clone()) {
                Ok(log) => self.log = Some(log),
                Err(refusal) => return Ok(Some(refusal)),
            }
        }
        for stream in 0..self.streams.len() {
            self.read_again(stream, failed)?;
        }
        Ok(None)
    }

    /// Reads a stream that was just recovered, first with faults, then without. Accepted entries
    /// that were not written stay pending.
    fn read_again(&mut self, stream: usize, failed: &mut u64) -> Result<(), Wrong> {
        let name = &self.streams[stream];
        let read = || {
            let stable = self.under_test.read(self.log(), name, false)?;
            Ok((stable, self.under_test.read(self.log(), name, true)?))
        };
        let (stable, accepted) = match read() {
            Ok(found) => found,
            Err(_) => {
                *failed += self.sim.failed();
                self.sim.set_faults(None);
                read().map_err(|r: Refusal| format!("{name}: does not open: {}", r.message))?
            }
        };
        let checked = self.models[stream].check_reopened(&stable, &accepted);
        checked.map_err(|Mismatch(what)| format!("{name}: {what}"))
    }

    /// Runs a step like [`step`](Self::step), but closing and opening may fail.
    fn step_or_close(&mut self, step: &Step) -> Result<Option<(usize, Refusal)>, Wrong> {
        if *step != Step::Restart {
            return self.step(step);
        }
        let log = self.log.take().expect("a run has its log open between steps");
        if self.under_test.close(log).is_ok() {
            self.models.iter_mut().for_each(|model| model.acknowledged(Level::Synced));
        }
        Ok(None)
    }

    /// Checks that the stable entries can be read after a refusal, unless reads also fail.
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

    /// Recovers a stream that refused an operation, first with faults, then without.
    fn mend(&mut self, stream: usize, refusal: &Refusal, failed: &mut u64) -> Result<(), Wrong> {
        if !refusal.unknown {
            return Ok(());
        }
        let name = &self.streams[stream];
        if self.models[stream].pending() == Some(&Change::Delete) {
            if self.under_test.delete(self.log(), name).is_err() {
                *failed += self.sim.failed();
                self.sim.set_faults(None);
                let again = self.under_test.delete(self.log(), name);
                again.map_err(|r| format!("{name}: is not deleted: {}", r.message))?;
            }
            self.model(stream, |model| model.done(Level::Buffered));
            return Ok(());
        }
        if self.under_test.reopen(self.log(), name).is_err() {
            *failed += self.sim.failed();
            self.sim.set_faults(None);
            let again = self.under_test.reopen(self.log(), name);
            again.map_err(|r| format!("{name}: does not recover: {}", r.message))?;
        }
        self.read_again(stream, failed)
    }

    /// Recovers a stream that was poisoned by a flush or sync within another step.
    fn mend_if_poisoned(&mut self, stream: usize) -> Result<(), Wrong> {
        let name = &self.streams[stream];
        if self.under_test.sync(self.log(), name).is_ok() {
            self.models[stream].acknowledged(Level::Synced);
            return Ok(());
        }
        let reopened = self.under_test.reopen(self.log(), name);
        reopened.map_err(|r| format!("{name}: does not recover: {}", r.message))?;
        self.read_again(stream, &mut 0)
    }
}
