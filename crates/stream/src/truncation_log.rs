//! The truncations of a stream's end, kept for readers created before them.
//!
//! Every entry that a reader returns was in the stream. But a reader at or after a truncation would
//! continue with different entries from those it began with. So a reader remembers the epoch in
//! which it was created, and consults this log once that epoch is over.

use std::sync::Arc;

use stratawal_sync::Published;

/// The truncations that matter, oldest first. A truncation at or above a later truncation is left
/// out, because the later one covers it for every reader. So the seqs rise.
#[derive(Debug)]
pub(crate) struct TruncationLog(Published<Vec<Truncation>>);

/// At the end of `epoch`, the end of the stream was moved back to `at`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truncation {
    epoch: u64,
    at: u64,
}

/// The maximum number kept. Beyond that, the oldest two are merged, with the later epoch and the
/// lower seq.
const TRUNCATIONS_MAX: usize = 1024;

impl TruncationLog {
    /// A log of no truncations. Very many streams share `none`, which is empty.
    pub(crate) fn new(none: &Arc<Vec<Truncation>>) -> Self {
        Self(Published::new(Arc::clone(none)))
    }

    /// Records that `epoch` ends with a truncation at `at`. Call this under the lock, before
    /// anything from the next epoch becomes visible.
    pub(crate) fn record(&self, epoch: u64, at: u64) {
        let before = self.0.load();
        let mut truncations = Vec::with_capacity(before.len() + 1);
        truncations.extend(before.iter().filter(|earlier| earlier.at < at));
        truncations.push(Truncation { epoch, at });
        if truncations.len() > TRUNCATIONS_MAX {
            truncations[0].epoch = truncations[1].epoch;
            truncations.remove(1);
        }
        self.0.store(Arc::new(truncations));
    }

    /// The lowest seq at which the stream was truncated in `epoch` or later.
    pub(crate) fn since(&self, epoch: u64) -> Option<u64> {
        let truncations = self.0.load();
        truncations.iter().find(|truncation| truncation.epoch >= epoch).map(|truncation| truncation.at)
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_truncation_since_an_epoch_counts() {
        let truncations = TruncationLog::new(&Arc::default());
        assert_eq!(truncations.since(0), None);
        for (epoch, at) in [(0, 50), (1, 30), (2, 40), (3, 45), (4, 40)] {
            truncations.record(epoch, at);
        }
        let seen: Vec<_> = (0..6).map(|epoch| truncations.since(epoch)).collect();
        assert_eq!(seen, [Some(30), Some(30), Some(40), Some(40), Some(40), None]);
    }

    #[test]
    fn memory_is_bounded_and_errs_to_the_lower_seq() {
        let truncations = TruncationLog::new(&Arc::default());
        for i in 0..5000 {
            truncations.record(i, i * 10);
        }
        assert!(truncations.0.load().len() <= TRUNCATIONS_MAX);
        assert_eq!(truncations.since(4999), Some(49_990));
        assert_eq!(truncations.since(0), Some(0));
        assert!(truncations.since(2000).is_some_and(|at| at <= 20_000));
    }
}
