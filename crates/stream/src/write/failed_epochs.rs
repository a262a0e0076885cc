//! The outcomes of the epochs in which threads waited.

use std::collections::VecDeque;

use stratawal_sync::fail_point;

use crate::error::{Error, Result};

/// How many failed epochs a stream remembers. A thread that waits is woken when its epoch ends, so
/// it misses more only if it is kept from running for as long.
pub(crate) const FAILED_EPOCHS_MAX: usize = if cfg!(stratawal_loom) { 1 } else { 64 };

/// The epochs that ended in a failure, for the threads that waited in them. Any other epoch ended
/// with all its entries durable, unless its outcome is forgotten.
#[derive(Debug, Default)]
pub(super) struct FailedEpochs {
    /// Newest first.
    failed: VecDeque<(u64, Error)>,
    /// The outcome of epochs up to this one may be forgotten.
    forgotten: Option<u64>,
}

impl FailedEpochs {
    /// Records that `epoch` ends in `failure`.
    pub(super) fn push(&mut self, epoch: u64, failure: Error) {
        self.remove(epoch);
        if self.failed.len() >= FAILED_EPOCHS_MAX {
            self.forgotten = self.failed.pop_back().map(|(oldest, _)| oldest);
        }
        self.failed.push_front((epoch, failure));
    }

    /// Takes the record of `epoch` back: the epoch has not ended.
    pub(super) fn remove(&mut self, epoch: u64) {
        self.failed.retain(|failed| failed.0 != epoch);
    }

    /// The outcome of an epoch that is over, for a thread that waited in it. `name` is the name of
    /// the stream in errors.
    pub(super) fn outcome_of(&self, epoch: u64, name: &str) -> Result<()> {
        if let Some((_, error)) = self.failed.iter().find(|failed| failed.0 == epoch) {
            return Err(error.clone().after_acceptance());
        }
        match self.forgotten {
            Some(forgotten) if epoch <= forgotten && !fail_point!(OutcomeForgotten) => {
                Err(Error::outcome_unknown(name))
            }
            _ => Ok(()),
        }
    }
}
