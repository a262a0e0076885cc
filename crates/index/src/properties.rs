//! The property of decoding that must hold for any bytes, for the fuzz target and the tests.

use crate::codec::{self, Bounds};
use crate::index::Index;

/// Checks that decoding does not panic, and that it accepts only a block that encoding returns.
///
/// The bytes are decoded twice: as a block, and as the part of a block between version and
/// checksum, because a mutated block hardly ever has the right checksum.
pub fn decoding_is_total_and_canonical(bytes: &[u8]) {
    check(bytes);
    let mut block = codec::VERSIONED_MAGIC.to_vec();
    block.extend_from_slice(bytes);
    block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
    check(&block);
}

fn check(block: &[u8]) {
    let bounds = Bounds { seq: 0..u64::MAX, offset: 0..u64::MAX };
    let Ok(index) = Index::decode(block, &bounds) else {
        return;
    };
    assert_eq!(index.encode(), block, "encoding does not return this block");
    Index::from_points(index.points().to_vec()).expect("invariant: decoded points follow the rules");
}
