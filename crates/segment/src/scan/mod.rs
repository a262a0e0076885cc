//! Scanning a file whose frames are not known yet.

mod attestation;
mod chain;
mod end;
mod search;
mod window;

use std::sync::Arc;

use stratawal_frame::{ByteOffset, FramePosition, Limits};

pub use attestation::Attestations;
pub use chain::Chain;
pub use end::FoundSeal;
pub use search::{FoundFrame, FrameSearch};
pub(crate) use window::Window;

use crate::file::SegmentFile;

impl SegmentFile {
    pub(crate) fn place(&self, offset: ByteOffset) -> FramePosition {
        FramePosition { salt: self.header().salt, offset }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { base: self.header().base, end: ByteOffset(self.len()) }
    }

    pub(crate) fn window(&self) -> Window {
        Window::new(Arc::clone(self.shared_file()), self.len())
    }
}
