//! Operations on a log with crashes between them, compared with the model.

use stratawal_testkit::{Shape, play};

use super::log::{LOG, SHAPE};

/// A log agrees with the model after any operations and crashes.
pub(crate) fn log_operations(bytes: &[u8]) {
    let shape = Shape { steps_max: 60, ..SHAPE };
    if let Err(failure) = play(&LOG, bytes, &shape) {
        panic!("{failure}");
    }
}
