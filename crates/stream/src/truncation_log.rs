//! Where the end of a stream was taken back, for readers that were made before.
//!
//! An entry that was read is whole and was there; but a reader that stands at or behind a cut would
//! go on in entries that are not those it began with. So it notes the epoch it was made in, and
//! asks here once that has passed.

use std::sync::Arc;

use stratawal_sync::Published;

/// The cuts of a stream: in which epoch, and at which seq. Of those that matter: a cut at or above
/// a later one is covered by it, for every reader; so the seqs rise.
#[derive(Debug)]
pub(crate) struct TruncationLog(Published<Vec<(u64, u64)>>);

/// Past so many the oldest two become one, which is then said to have been the lower of both.
const TRUNCATIONS_MAX: usize = 1024;

impl TruncationLog {
    pub(crate) fn new() -> Self {
        Self(Published::new(Vec::new()))
    }

    /// Epoch `epoch` ends with a cut at `at`. Before anything that belongs to the next epoch shows;
    /// under the lock.
    pub(crate) fn record(&self, epoch: u64, at: u64) {
        let before = self.0.load();
        let mut truncations = Vec::with_capacity(before.len() + 1);
        truncations.extend(before.iter().filter(|cut| cut.1 < at));
        truncations.push((epoch, at));
        if truncations.len() > TRUNCATIONS_MAX {
            let (epoch, _) = truncations[1];
            truncations[0].0 = epoch;
            truncations.remove(1);
        }
        self.0.store(Arc::new(truncations));
    }

    /// The lowest cut in `epoch` or later.
    pub(crate) fn since(&self, epoch: u64) -> Option<u64> {
        let truncations = self.0.load();
        truncations.iter().find(|cut| cut.0 >= epoch).map(|cut| cut.1)
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_the_lowest_cut_since_it_was_made() {
        let truncations = TruncationLog::new();
        assert_eq!(truncations.since(0), None);
        for (epoch, at) in [(0, 50), (1, 30), (2, 40), (3, 45), (4, 40)] {
            truncations.record(epoch, at);
        }
        let seen: Vec<_> = (0..6).map(|epoch| truncations.since(epoch)).collect();
        assert_eq!(seen, [Some(30), Some(30), Some(40), Some(40), Some(40), None]);
    }

    #[test]
    fn memory_is_bounded_and_errs_to_the_lower_cut() {
        let truncations = TruncationLog::new();
        for i in 0..5000 {
            truncations.record(i, i * 10);
        }
        assert!(truncations.0.load().len() <= TRUNCATIONS_MAX);
        assert_eq!(truncations.since(4999), Some(49_990));
        assert_eq!(truncations.since(0), Some(0));
        assert!(truncations.since(2000).is_some_and(|at| at <= 20_000));
    }
}
