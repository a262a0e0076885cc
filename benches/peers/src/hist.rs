//! Durations in buckets. Millions of them take so little memory that it does not show in a
//! measurement of memory.

use std::time::Duration;

/// The number of buckets for each doubling. With this many, a percentile is at most 3 % too large.
const PARTS: u64 = 32;

#[derive(Clone)]
pub(crate) struct Hist {
    buckets: Vec<u32>,
    count: u64,
}

impl Hist {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; 60 * PARTS as usize], count: 0 }
    }

    pub(crate) fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = Self::bucket(nanos).min(self.buckets.len() - 1);
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the duration, in nanoseconds, that the fraction `part` of all durations did not
    /// exceed.
    pub(crate) fn at(&self, part: f64) -> u64 {
        let rank = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= rank {
                return Self::top(bucket);
            }
        }
        0
    }

    fn bucket(nanos: u64) -> usize {
        if nanos < PARTS {
            return nanos as usize;
        }
        let shift = nanos.ilog2() - PARTS.ilog2();
        (u64::from(shift + 1) * PARTS + (nanos >> shift) - PARTS) as usize
    }

    /// Returns the largest value of a bucket.
    fn top(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < PARTS {
            return bucket;
        }
        let shift = bucket / PARTS - 1;
        ((bucket % PARTS + PARTS + 1) << shift) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_bucket() {
        for nanos in (0..5000).chain([1 << 20, (1 << 20) + 12345, 10_000_000_000]) {
            let top = Hist::top(Hist::bucket(nanos));
            assert!(top >= nanos && top as f64 <= nanos as f64 * 1.04, "{nanos} {top}");
        }
    }

    #[test]
    fn percentiles_are_ranks() {
        let mut hist = Hist::new();
        (1..=30).for_each(|n| hist.add(Duration::from_nanos(n)));
        assert_eq!((hist.at(0.5), hist.at(0.99), hist.at(0.0)), (15, 30, 1));
    }
}
