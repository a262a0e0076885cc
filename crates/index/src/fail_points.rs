//! Fail points: a test switches one on to break this crate, to prove that the models find the bug.

stratawal_sync::fail_points! {
    /// A bug that a test can switch on in the shipped code.
    enum FailPoint {
        /// The active index raises a chunk's length before it writes the new point's words.
        LengthBeforePoint,
        /// The active index raises a chunk's length without releasing the new point's words.
        LengthRelaxed,
        /// The cache keeps an entry whose load began before the entry's removal.
        EntryAfterRemoval,
        /// The cache lets two callers load one key at the same time.
        LoadNotExclusive,
        /// The cache does not wake the threads that are waiting for a load.
        WaiterNotWoken,
        /// The search for a seq that has its own point finds the previous point.
        FloorOffByOne,
    }
}
