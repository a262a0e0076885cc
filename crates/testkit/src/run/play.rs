//! Steps and crashes chosen by bytes, for a fuzzer, which learns where a crash is worth trying.

use super::{Failure, Image, LogUnderTest, Run, Wrong};
use crate::model::StreamModel;
use crate::rng::{Choices, Choose, Rng};
use crate::sim::{Crash, SimStorage};
use crate::workload::{Shape, step};

/// Runs the steps that `bytes` choose on a log. Between steps the log may crash, at a change of its
/// disk within the previous step. The log must agree with the model after each step and crash.
///
/// # Errors
/// A report of how the log differs from the model.
pub fn play<L: LogUnderTest>(under_test: &L, bytes: &[u8], shape: &Shape) -> Result<(), Failure> {
    let mut choices = Choices::new(bytes);
    let streams: Vec<String> = (0..shape.streams_max).map(|i| format!("stream/{i}")).collect();
    let models = vec![StreamModel::default(); streams.len()];
    let fail = |at: u64| move |what: Wrong| Failure { seed: 0, at: format!("turn {at}"), what };
    let (mut run, mut sim) = begin(under_test, SimStorage::new(1), &streams, models).map_err(fail(0))?;
    for turn in 1..=shape.steps_max {
        if choices.is_empty() {
            break;
        }
        if choices.chance(64) {
            let mut images = run.images.take();
            // The last image is the disk after the whole step.
            images.push(Image { disk: sim.disk(), models: run.models.clone().into(), step: "nothing".into() });
            let image = images.swap_remove(choices.index(images.len()));
            let mut rng = Rng::new(choices.below(256));
            let crash = if choices.chance(64) { Crash::Kill } else { Crash::any(&mut rng) };
            let mut models = image.models.to_vec();
            models.iter_mut().for_each(|model| model.crashed(crash.is_power_loss()));
            let disk = image.disk.crash(crash, &mut rng);
            let what = |wrong: Wrong| format!("within {}: {crash:?}: {wrong}", image.step);
            (run, sim) =
                begin(under_test, SimStorage::on(disk, turn), &streams, models).map_err(what).map_err(fail(turn))?;
        } else {
            run.images.take();
            run.step_without_refusal(&step(&mut choices, streams.len(), 128, shape)).map_err(fail(turn))?;
        }
    }
    run.check_readers_durably().map_err(fail(shape.steps_max))
}

/// Recovers the log on `sim`. Its disk is watched from before the recovery.
fn begin<'s, L: LogUnderTest>(
    under_test: &'s L,
    sim: SimStorage,
    streams: &'s [String],
    models: Vec<StreamModel>,
) -> Result<(Run<'s, L>, SimStorage), Wrong> {
    let mut run = Run::new(under_test, sim.clone(), streams, models);
    run.images.watch(&sim);
    run.images.set_step("recovery");
    run.recover()?;
    Ok((run, sim))
}
