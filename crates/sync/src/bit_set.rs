//! Bits that threads set without a lock.

use crate::atomic::{AtomicU64, Ordering};

/// A fixed number of bits that are set and never cleared.
///
/// Each bit is independent: seeing a bit set orders no other memory access.
#[derive(Debug, Default)]
pub struct AtomicBitSet(Box<[AtomicU64]>);

impl AtomicBitSet {
    /// Creates a set of at least `count` bits, none of them set.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether bit `i` is seen as set. A bit beyond the last is never set.
    #[must_use]
    pub fn get(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (i % 64) != 0)
    }

    /// Sets bit `i`, if it exists.
    pub fn set(&self, i: usize) {
        if let Some(word) = self.0.get(i / 64) {
            word.fetch_or(1 << (i % 64), Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::AtomicBitSet;

    #[test]
    fn a_bit_is_set_alone() {
        let bits = AtomicBitSet::new(100);
        bits.set(64);
        let set: Vec<usize> = (0..200).filter(|i| bits.get(*i)).collect();
        assert_eq!(set, [64]);
        bits.set(1000);
        assert!(!bits.get(1000), "a bit beyond the last is never set");
    }
}
