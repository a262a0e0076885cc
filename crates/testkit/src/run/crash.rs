//! Crashes at every change of a disk, and within the recovery from them.

use super::{Failure, Image, LogUnderTest, Outcome, Run, Volume, Wrong, check_lasts};
use crate::model::{Mismatch, Snapshot, StreamModel};
use crate::rng::Rng;
use crate::sim::{Crash, Disk, SimStorage};
use crate::workload::{Shape, Workload};

/// Runs the workload of `seed` and crashes it at every change of its disk, both by a process death
/// and by power losses of all kinds. Compares each recovered log with the model, continues from
/// there, and crashes that run too.
///
/// # Errors
/// A report of how the log differs from the model.
pub fn crash_everywhere<L: LogUnderTest>(
    under_test: &L,
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
    let mut run = Run::new(under_test, sim.clone(), &workload.streams, models);
    run.images.watch(&sim);
    run.recover().map_err(fail("at the start".to_owned()))?;
    for (i, step) in workload.steps.iter().enumerate() {
        let stepped = run.step_without_refusal(step).and_then(|()| run.check_readers_durably());
        stepped.map_err(fail(format!("step {i}")))?;
    }
    sim.unwatch();
    outcome.workloads += 1;
    for (i, image) in run.images.take().into_iter().enumerate() {
        outcome.places += 1;
        for crash in 0..=volume.losses {
            let mut rng = Rng::new(seed ^ (i as u64) << 20 ^ crash << 52);
            let crash = if crash == 0 { Crash::Kill } else { Crash::any(&mut rng) };
            let after = After { under_test, streams: &workload.streams, shape, volume };
            let wrong = after.crash(&image, crash, volume.depth, &mut rng, outcome);
            wrong.map_err(fail(format!("change {i}")))?;
        }
    }
    Ok(())
}

struct After<'s, L> {
    under_test: &'s L,
    streams: &'s [String],
    shape: &'s Shape,
    volume: &'s Volume,
}

impl<L: LogUnderTest> After<'_, L> {
    /// Crashes the disk of `image`, recovers the log and compares it, continues from there, and
    /// crashes that run too.
    fn crash(
        &self,
        image: &Image,
        crash: Crash,
        depth: u32,
        rng: &mut Rng,
        outcome: &mut Outcome,
    ) -> Result<(), Wrong> {
        outcome.crashes += 1;
        let at = |what: Wrong| format!("within {}: {crash:?}: {what}", image.step);
        let sim = SimStorage::on(image.disk.crash(crash, rng), rng.next_u64());
        sim.set_lie(self.volume.lie);
        let mut models = image.models.to_vec();
        models.iter_mut().for_each(|model| model.crashed(crash.is_power_loss()));
        // After a power loss, everything that is left is durable; after a process death it is not.
        if rng.chance(if crash == Crash::Kill { 192 } else { 48 }) {
            self.look(&sim, &models, crash).map_err(at)?;
        }
        let mut run = Run::new(self.under_test, sim.clone(), self.streams, models);
        if depth > 1 {
            run.images.watch(&sim);
        }
        run.images.set_step("recovery");
        run.recover().map_err(at)?;
        let steps = if depth > 1 { 3 } else { 1 };
        for step in Workload::more(rng, self.streams.len(), steps, self.shape) {
            run.step_without_refusal(&step).map_err(|what| at(format!("then {what}")))?;
            if rng.chance(8) {
                run.check_readers_durably().map_err(|what| at(format!("then {what}")))?;
            }
        }
        sim.unwatch();
        let mut images = run.images.take();
        for _ in 0..self.volume.nested.min(images.len()) {
            // Recovery makes few changes compared with the steps after it, so half of the crashes
            // are aimed at the first changes.
            let among = if rng.chance(128) { images.len() } else { images.len().min(16) };
            let image = images.swap_remove(rng.index(among));
            let next = if rng.chance(64) { Crash::Kill } else { Crash::any(rng) };
            self.crash(&image, next, depth - 1, rng, outcome).map_err(at)?;
        }
        Ok(())
    }

    /// Checks that a reader in another process sees the acknowledged entries, changes no file, and
    /// sees no entry that a power loss would take away.
    fn look(&self, sim: &SimStorage, models: &Snapshot, crash: Crash) -> Result<(), Wrong> {
        let before = contents(&sim.disk());
        let mut shown = Vec::with_capacity(models.len());
        // A reader may sync files, so this compares their contents, not their durable state.
        for (model, name) in models.iter().zip(self.streams) {
            let found = self.under_test.read_only(sim.clone(), name);
            let found = found.map_err(|r| format!("{name}: another process: {}", r.message))?.unwrap_or_default();
            model.check_readers(&found, false).map_err(|Mismatch(what)| format!("{name}: another process: {what}"))?;
            shown.push(found);
        }
        if contents(&sim.disk()) != before {
            return Err("reading changed files".to_owned());
        }
        if crash.is_power_loss() {
            return Ok(());
        }
        check_lasts(self.under_test, &sim.disk(), self.streams, models, &shown)
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
