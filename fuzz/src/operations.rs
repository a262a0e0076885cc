//! Whole-log operations, and crashes among them, against the model.

use stratawal_testkit::{Shape, play};

use super::subject::{LOG, SHAPE};

/// Whatever is done to a log, and wherever it is crashed: it is what the model says.
pub(crate) fn log_operations(bytes: &[u8]) {
    let shape = Shape { steps_max: 60, ..SHAPE };
    if let Err(failure) = play(&LOG, bytes, &shape) {
        panic!("{failure}");
    }
}
