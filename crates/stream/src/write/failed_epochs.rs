//! The outcomes of the epochs in which threads waited.

use std::collections::VecDeque;

use stratawal_sync::fail_point;

use crate::error::{Error, Result};

/// How many failed epochs a stream remembers. A waiting thread is woken when its epoch ends, so it
/// misses its outcome only if it cannot run while this many more epochs fail.
pub(crate) const FAILED_EPOCHS_MAX: usize = if cfg!(stratawal_loom) { 1 } else { 64 };

/// The epochs that ended in a failure, for the threads that waited in them. Any other epoch ended
/// with all its entries durable, unless its outcome is forgotten.
#[derive(Debug, Default)]
pub(super) struct FailedEpochs(Option<Box<Remembered>>);

/// Most streams never fail, so they do not hold this.
#[derive(Debug, Default)]
struct Remembered {
    /// Newest first.
    failed: VecDeque<(u64, Error)>,
    /// The outcome of epochs up to this one may be forgotten.
    forgotten: Option<u64>,
}

impl FailedEpochs {
    /// Records that `epoch` ends in `failure`.
    pub(super) fn push(&mut self, epoch: u64, failure: Error) {
        self.remove(epoch);
        let Remembered { failed, forgotten } = &mut **self.0.get_or_insert_default();
        if failed.len() >= FAILED_EPOCHS_MAX {
            *forgotten = failed.pop_back().map(|(oldest, _)| oldest);
        }
        failed.push_front((epoch, failure));
    }

    /// Removes the record of `epoch`, which has not ended after all.
    pub(super) fn remove(&mut self, epoch: u64) {
        if let Some(remembered) = &mut self.0 {
            remembered.failed.retain(|failed| failed.0 != epoch);
        }
    }

    /// The outcome of an epoch that is over, for a thread that waited in it. `name` is the name of
    /// the stream in errors.
    pub(super) fn outcome_of(&self, epoch: u64, name: &str) -> Result<()> {
        let Some(Remembered { failed, forgotten }) = self.0.as_deref() else { return Ok(()) };
        if let Some((_, error)) = failed.iter().find(|failed| failed.0 == epoch) {
            return Err(error.clone().after_acceptance());
        }
        match *forgotten {
            Some(forgotten) if epoch <= forgotten && !fail_point!(OutcomeForgotten) => {
                Err(Error::outcome_unknown(name))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::location::Location;

    fn failure() -> Error {
        Error::new(ErrorKind::Io, &Location::new("streams", "orders"))
    }

    #[test]
    fn an_epoch_without_a_record_was_successful() {
        let mut epochs = FailedEpochs::default();
        epochs.push(2, failure());
        assert!(epochs.outcome_of(0, "orders").is_ok());
        assert_eq!(epochs.outcome_of(2, "orders").map_err(|error| error.kind()), Err(ErrorKind::Io));
        assert!(epochs.outcome_of(4, "orders").is_ok());
        epochs.remove(2);
        assert!(epochs.outcome_of(2, "orders").is_ok());
    }

    #[test]
    fn a_forgotten_outcome_is_not_a_success() {
        let mut epochs = FailedEpochs::default();
        let count = FAILED_EPOCHS_MAX as u64 + 1;
        (1..=count).for_each(|i| epochs.push(2 * i, failure()));
        // The oldest record is gone, and an epoch before it may also have had one.
        for epoch in [0, 2] {
            assert_eq!(epochs.outcome_of(epoch, "orders").map_err(|error| error.kind()), Err(ErrorKind::Poisoned));
        }
        assert_eq!(epochs.outcome_of(4, "orders").map_err(|error| error.kind()), Err(ErrorKind::Io));
        assert!(epochs.outcome_of(3, "orders").is_ok());
    }
}
