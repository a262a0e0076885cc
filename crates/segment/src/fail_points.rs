//! Where a test can make this crate wrong, to prove that the simulation finds it.

stratawal_sync::fail_points! {
    /// A place where a test can make the shipped code wrong.
    enum FailPoint {
        /// Frames are written into a segment whose name may not be durable.
        DirSyncSkipped,
    }
}
