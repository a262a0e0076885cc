//! Steps and crashes that bytes choose, for a fuzzer: it learns by itself where a crash is worth
//! trying.

use super::{Failure, Image, Run, Subject, Wrong};
use crate::model::StreamModel;
use crate::rng::{Choices, Choose, Rng};
use crate::sim::{Crash, SimStorage};
use crate::workload::{Shape, step};

/// Does with a log what `bytes` say: steps, and between them crashes at a change of the disk within
/// the last one. The log has to be what the model says after each.
///
/// # Errors
/// What the model does not allow.
pub fn play<S: Subject>(subject: &S, bytes: &[u8], shape: &Shape) -> Result<(), Failure> {
    let mut choices = Choices::new(bytes);
    let streams: Vec<String> = (0..shape.streams_max).map(|i| format!("stream/{i}")).collect();
    let models = vec![StreamModel::default(); streams.len()];
    let fail = |at: u64| move |what: Wrong| Failure { seed: 0, at: format!("turn {at}"), what };
    let (mut run, mut sim) = begin(subject, SimStorage::new(1), &streams, models).map_err(fail(0))?;
    for turn in 1..=shape.steps_max {
        if choices.is_empty() {
            break;
        }
        if choices.chance(64) {
            let mut images = run.images.take();
            // Or after all of them.
            images.push(Image { disk: sim.disk(), models: run.models.clone().into(), doing: "nothing".into() });
            let image = images.swap_remove(choices.index(images.len()));
            let mut rng = Rng::new(choices.below(256));
            let crash = if choices.chance(64) { Crash::Kill } else { Crash::any(&mut rng) };
            let mut models = image.models.to_vec();
            models.iter_mut().for_each(|model| model.crashed(crash.is_power_loss()));
            let disk = image.disk.crash(crash, &mut rng);
            let what = |wrong: Wrong| format!("within {}: {crash:?}: {wrong}", image.doing);
            (run, sim) =
                begin(subject, SimStorage::on(disk, turn), &streams, models).map_err(what).map_err(fail(turn))?;
        } else {
            run.images.take();
            run.step_well(&step(&mut choices, streams.len(), 128, shape)).map_err(fail(turn))?;
        }
    }
    run.check_readers_durably().map_err(fail(shape.steps_max))
}

/// A log that has been recovered on `sim`, and is watched since before that.
fn begin<'s, S: Subject>(
    subject: &'s S,
    sim: SimStorage,
    streams: &'s [String],
    models: Vec<StreamModel>,
) -> Result<(Run<'s, S>, SimStorage), Wrong> {
    let mut run = Run::new(subject, sim.clone(), streams, models);
    run.images.watch(&sim);
    run.images.doing("recovery");
    run.recover()?;
    Ok((run, sim))
}
