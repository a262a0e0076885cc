//! Fail points: a test switches one on to break this crate, to prove that the simulation finds the
//! bug.

stratawal_sync::fail_points! {
    /// A bug that a test can switch on in the shipped code.
    enum FailPoint {
        /// Frames are written into a segment whose name may not be durable.
        DirSyncSkipped,
    }
}
