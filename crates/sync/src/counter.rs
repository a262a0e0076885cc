//! Numbers that describe the past, and on which nothing depends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number for statistics. It orders nothing, so the model checker does not see it, and does not
/// try the interleavings of its changes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Wraps at 2^64.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes `n` away, which was added before.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Raises the number to `n` if it is less.
    #[inline]
    pub fn raise(&self, n: u64) {
        self.0.fetch_max(n, Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The number of classes of [`Durations`].
pub const DURATION_CLASSES: usize = 40;

/// Durations, counted by their length.
#[derive(Debug)]
pub struct Durations {
    classes: [Counter; DURATION_CLASSES],
    sum_nanos: Counter,
    max_nanos: Counter,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            classes: std::array::from_fn(|_| Counter::default()),
            sum_nanos: Counter::default(),
            max_nanos: Counter::default(),
        }
    }
}

impl Durations {
    /// Counts `duration`.
    pub fn add(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.classes[Self::class_of(nanos)].add(1);
        self.sum_nanos.add(nanos);
        self.max_nanos.raise(nanos);
    }

    /// How many durations were in each class: class `i` has those of less than
    /// [`bound`](Self::bound)`(i)`, and not of an earlier class. The last class has all others.
    #[must_use]
    pub fn classes(&self) -> [u64; DURATION_CLASSES] {
        std::array::from_fn(|i| self.classes[i].get())
    }

    /// The sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos.get())
    }

    /// The longest duration.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_nanos.get())
    }

    /// Where class `i` ends: 1.4, 2, 2.8, 4, … µs. Two classes are a factor of 2.
    #[must_use]
    pub const fn bound(i: usize) -> Duration {
        let whole = 2000_u64 << (i / 2);
        // The square root of 2 is about 1.41421.
        Duration::from_nanos(if i % 2 == 1 {
            whole
        } else {
            whole / 100_000 * 70_711 + whole % 100_000 * 70_711 / 100_000
        })
    }

    fn class_of(nanos: u64) -> usize {
        (0..DURATION_CLASSES - 1)
            .find(|&i| Duration::from_nanos(nanos) < Self::bound(i))
            .unwrap_or(DURATION_CLASSES - 1)
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;

    #[test]
    fn classes_rise_by_the_square_root_of_two() {
        let bounds: Vec<Duration> = (0..DURATION_CLASSES).map(Durations::bound).collect();
        assert_eq!(bounds[..4], [1414, 2000, 2828, 4000].map(Duration::from_nanos));
        for pair in bounds.windows(2) {
            let ratio = pair[1].as_secs_f64() / pair[0].as_secs_f64();
            assert!((1.41..1.42).contains(&ratio), "{pair:?}");
        }
    }

    #[test]
    fn each_duration_is_in_one_class() {
        let durations = Durations::default();
        let micros = [0, 1, 2, 3, 100, 5000, 60_000_000];
        micros.iter().for_each(|&micros| durations.add(Duration::from_micros(micros)));
        let classes = durations.classes();
        assert_eq!(classes.iter().sum::<u64>(), micros.len() as u64);
        assert_eq!((classes[0], classes[2], classes[DURATION_CLASSES - 1]), (2, 1, 1));
        assert_eq!(durations.max(), Duration::from_mins(1));
        assert_eq!(durations.sum(), Duration::from_micros(micros.iter().sum()));
    }
}
