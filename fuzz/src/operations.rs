//! Operations on a log with crashes between them, compared with the model.

use stratawal_testkit::{Shape, play};

use super::log::{LOGS, SHAPE};

/// A log agrees with the model after any operations and crashes. The last byte chooses the kind of
/// log.
pub(crate) fn log_operations(bytes: &[u8]) {
    let shape = Shape { steps_max: 60, ..SHAPE };
    let Some((kind, operations)) = bytes.split_last() else { return };
    let log = &LOGS[usize::from(*kind) % LOGS.len()];
    if let Err(failure) = play(log, operations, &shape) {
        panic!("{log:?}: {failure}");
    }
}
