//! Step 2: a segment voids the entries at or above its base in older segments.

use stratawal_frame::SeqNo;

/// A segment in step 2: either its header was read, or only its name is known.
pub(super) trait SeqBounds {
    /// The seq of its first entry.
    fn base(&self) -> SeqNo;
    /// Sets the upper bound of the segment's entries, at which a newer segment voids them.
    fn set_limit(&mut self, limit: SeqNo);
}

/// Runs step 2 on segments in order of generation: a segment with base *b* voids every entry at or
/// above *b* in older ones. A segment that cannot be read voids the same entries as one that can.
pub(super) fn drop_void<S: SeqBounds>(segments: Vec<S>) -> Vec<S> {
    let mut stack: Vec<S> = Vec::with_capacity(segments.len());
    for newer in segments {
        let base = newer.base();
        while stack.last().is_some_and(|older| older.base() >= base) {
            stack.pop();
        }
        if let Some(older) = stack.last_mut() {
            older.set_limit(base);
        }
        stack.push(newer);
    }
    stack
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment represented by its base and limit.
    #[derive(Debug, PartialEq, Eq)]
    struct Bounds(u64, u64);

    impl SeqBounds for Bounds {
        fn base(&self) -> SeqNo {
            SeqNo(self.0)
        }

        fn set_limit(&mut self, limit: SeqNo) {
            self.1 = limit.0;
        }
    }

    fn kept(bases: &[u64]) -> Vec<Bounds> {
        drop_void(bases.iter().map(|&base| Bounds(base, u64::MAX)).collect())
    }

    #[test]
    fn the_base_of_a_segment_limits_the_one_before() {
        assert_eq!(kept(&[0, 10, 25]), [Bounds(0, 10), Bounds(10, 25), Bounds(25, u64::MAX)]);
        assert_eq!(kept(&[7]), [Bounds(7, u64::MAX)]);
        assert_eq!(kept(&[]), []);
    }

    #[test]
    fn older_segments_at_or_above_a_base_are_void() {
        assert_eq!(kept(&[0, 10, 25, 10]), [Bounds(0, 10), Bounds(10, u64::MAX)]);
        assert_eq!(kept(&[5, 10, 0]), [Bounds(0, u64::MAX)]);
    }

    #[test]
    fn a_segment_below_a_void_one_gets_the_newer_limit() {
        assert_eq!(kept(&[0, 10, 4, 30]), [Bounds(0, 4), Bounds(4, 30), Bounds(30, u64::MAX)]);
    }
}
