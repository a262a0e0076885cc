//! Crashes within recovery, and within the recovery of that, at every change and not at some of
//! them.

use super::{Failure, Image, Outcome, Run, Subject, Wrong};
use crate::model::StreamModel;
use crate::rng::Rng;
use crate::sim::{Crash, SimStorage};
use crate::workload::{Shape, Workload};

/// Runs the workload of `seed`, takes the image of its disk whose recovery has most to do among
/// some, and crashes that recovery at each of its changes; the recovery of what each of those
/// leaves at each of its own changes; and so on, as `deep` as is asked: by the death of the process
/// and by a power loss, and deepest by one or the other. Whatever was interrupted, the next has to
/// come to what the model allows, which is bound to what an earlier one has shown.
///
/// # Errors
/// What the model does not allow.
pub fn interrupt_recovery<S: Subject>(
    subject: &S,
    seed: u64,
    shape: &Shape,
    deep: u32,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    const AMONG: usize = 24;
    let workload = Workload::generate(seed, shape);
    let mut rng = Rng::new(!seed);
    let within = Within { subject, streams: &workload.streams };
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
        let changes = within.recover(&image, true, &mut rng).map_err(fail(&image.doing))?;
        if dirtiest.as_ref().is_none_or(|(_, most)| most.len() < changes.len()) {
            dirtiest = Some((image, changes));
        }
    }
    outcome.workloads += 1;
    if let Some((image, changes)) = dirtiest {
        within.interrupt(&changes, deep, &mut rng, outcome).map_err(fail(&image.doing))?;
    }
    Ok(())
}

struct Within<'s, S> {
    subject: &'s S,
    streams: &'s [String],
}

impl<S: Subject> Within<'_, S> {
    /// The disk at every change of a workload.
    fn work(&self, workload: &Workload, seed: u64) -> Result<Vec<Image>, Wrong> {
        let sim = SimStorage::new(seed);
        let models = vec![StreamModel::default(); self.streams.len()];
        let mut run = Run::new(self.subject, sim.clone(), self.streams, models);
        run.images.watch(&sim);
        run.recover()?;
        workload.steps.iter().try_for_each(|step| run.step_well(step))?;
        sim.unwatch();
        Ok(run.images.take())
    }

    /// What a crash leaves, and what is known of it.
    fn crashed(&self, image: &Image, crash: Crash, rng: &mut Rng) -> Image {
        let mut models = image.models.to_vec();
        models.iter_mut().for_each(|model| model.crashed(crash.is_power_loss()));
        let doing = format!("{}: {crash:?}", image.doing);
        Image { disk: image.disk.crash(crash, rng), models: models.into(), doing: doing.into() }
    }

    /// Recovers it; answers the disk at every change that this makes, if it is watched.
    fn recover(&self, image: &Image, watched: bool, rng: &mut Rng) -> Result<Vec<Image>, Wrong> {
        let sim = SimStorage::on(image.disk.clone(), rng.next_u64());
        let mut run = Run::new(self.subject, sim.clone(), self.streams, image.models.to_vec());
        run.images.doing(&image.doing);
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
