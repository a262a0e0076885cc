//! Where a test can make this crate wrong, to prove that the models find it.

stratawal_sync::fail_points! {
    /// A place where a test can make the shipped code wrong.
    enum FailPoint {
        /// The active index raises a chunk's length before it writes the new point's words.
        LengthBeforePoint,
        /// The active index raises a chunk's length without releasing the new point's words.
        LengthRelaxed,
        /// The cache keeps an entry whose load began before the entry's removal.
        EntryAfterRemoval,
        /// The cache lets two callers load one key at the same time.
        LoadNotExclusive,
        /// The cache does not wake the threads that wait for a load.
        WaiterNotWoken,
        /// The search for a seq that has a point of its own finds the point before it.
        FloorOffByOne,
    }
}
