//! What must hold for any bytes: one call for a fuzz target, and for the property tests beside it.

use crate::codec::{self, Bounds};
use crate::index::Index;

/// Decoding answers for any bytes, and takes only what encoding makes.
///
/// The bytes are tried as a block, and as what stands in a block between version and checksum,
/// which no mutation gets past otherwise.
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
    assert_eq!(index.encode(), block, "a block that encoding does not make");
    Index::from_points(index.points().to_vec()).expect("invariant: decoded points follow the rules");
}
