//! Step 2: a segment voids the entries of older ones from its base on.

use stratawal_frame::SeqNo;

/// A segment as far as step 2 goes: one whose header was read, or of which only the name is known.
pub(super) trait SeqBounds {
    /// The seq of its first entry.
    fn base(&self) -> SeqNo;
    /// Where its entries end at the latest: from there on a newer segment voids them.
    fn set_limit(&mut self, limit: SeqNo);
}

/// Step 2, of segments in order of generation: one with base *b* voids every entry at or above *b*
/// in older ones. A segment that cannot be read voids the same entries as one that can.
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
