//! Crashes at every change of a recovery, and at every change of the recovery from that crash.

use super::{Failure, Image, LogUnderTest, Outcome, Run, Wrong};
use crate::model::StreamModel;
use crate::rng::Rng;
use crate::sim::{Crash, SimStorage};
use crate::workload::{Shape, Workload};

/// Runs the workload of `seed`, tries the recoveries of some of its disk images, and picks the
/// image whose recovery makes the most changes. Crashes that recovery at each change. Each crash
/// leaves a disk whose recovery is crashed in the same way, `deep` levels deep: by both a process
/// death and a power loss, and at the deepest level by one of the two. Every recovery must agree
/// with the model, and must keep the entries that an earlier recovery has shown.
///
/// # Errors
/// A report of how the log differs from the model.
pub fn interrupt_recovery<L: LogUnderTest>(
    under_test: &L,
    seed: u64,
    shape: &Shape,
    deep: u32,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    const AMONG: usize = 24;
    let workload = Workload::generate(seed, shape);
    let mut rng = Rng::new(!seed);
    let within = Within { under_test, streams: &workload.streams };
    let fail = |at: &str| {
        let at = at.to_owned();
        move |what: Wrong| Failure { seed, at, what }
    };
    let images = within.work(&workload, seed).map_err(fail("the workload"))?;
    let mut dirtiest: Option<(Image, Vec<Image>)> = None;
    for _ in 0..AMONG {
        let image = &images[rng.index(images.len())];
        let crash = Crash::any(&mut rng);
        let image = within.crashed(image, if rng.chance(128) { Crash::Kill } else { crash }, &mut rng);
        let changes = within.recover(&image, true, &mut rng).map_err(fail(&image.step))?;
        if dirtiest.as_ref().is_none_or(|(_, most)| most.len() < changes.len()) {
            dirtiest = Some((image, changes));
        }
    }
    outcome.workloads += 1;
    if let Some((image, changes)) = dirtiest {
        within.interrupt(&changes, deep, &mut rng, outcome).map_err(fail(&image.step))?;
    }
    Ok(())
}

struct Within<'s, L> {
    under_test: &'s L,
    streams: &'s [String],
}

impl<L: LogUnderTest> Within<'_, L> {
    /// Returns the disk after every change of a workload.
    fn work(&self, workload: &Workload, seed: u64) -> Result<Vec<Image>, Wrong> {
        let sim = SimStorage::new(seed);
        let models = vec![StreamModel::default(); self.streams.len()];
        let mut run = Run::new(self.under_test, sim.clone(), self.streams, models);
        run.images.watch(&sim);
        run.recover()?;
        workload.steps.iter().try_for_each(|step| run.step_without_refusal(step))?;
        sim.unwatch();
        Ok(run.images.take())
    }

    /// Returns the image after a crash.
    fn crashed(&self, image: &Image, crash: Crash, rng: &mut Rng) -> Image {
        let mut models = image.models.to_vec();
        models.iter_mut().for_each(|model| model.crashed(crash.is_power_loss()));
        let step = format!("{}: {crash:?}", image.step);
        Image { disk: image.disk.crash(crash, rng), models: models.into(), step: step.into() }
    }

    /// Recovers the log. If `watched`, returns the disk after every change of the recovery.
    fn recover(&self, image: &Image, watched: bool, rng: &mut Rng) -> Result<Vec<Image>, Wrong> {
        let sim = SimStorage::on(image.disk.clone(), rng.next_u64());
        let mut run = Run::new(self.under_test, sim.clone(), self.streams, image.models.to_vec());
        run.images.set_step(&image.step);
        if watched {
            run.images.watch(&sim);
        }
        run.recover()?;
        sim.unwatch();
        Ok(run.images.take())
    }

    fn interrupt(&self, changes: &[Image], deep: u32, rng: &mut Rng, outcome: &mut Outcome) -> Result<(), Wrong> {
        for (i, image) in changes.iter().enumerate() {
            outcome.places += 1;
            let kill_first = rng.chance(128);
            for kill in [kill_first, !kill_first].into_iter().take(if deep > 1 { 2 } else { 1 }) {
                let crash = if kill { Crash::Kill } else { Crash::any(rng) };
                let left = self.crashed(image, crash, rng);
                outcome.crashes += 1;
                let at = |what: Wrong| format!("change {i} of recovery: {crash:?}: {what}");
                let changes = self.recover(&left, deep > 1, rng).map_err(at)?;
                if deep > 1 {
                    self.interrupt(&changes, deep - 1, rng, outcome).map_err(at)?;
                }
            }
        }
        Ok(())
    }
}
