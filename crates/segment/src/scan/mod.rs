//! Scans a file that may end anywhere and hold anything.
//!
//! A scan decides which frames a file has, so an invalid frame ends a chain and is not an error.
//! Recovery decides the meaning of the frames, and whether their end is damage.

mod attestation;
mod chain;
mod end;
mod search;
mod window;

use std::sync::Arc;

pub use attestation::Attestations;
pub use chain::Chain;
pub use end::FoundSeal;
pub use search::{FoundFrame, FrameSearch};

use self::window::Window;
use crate::file::SegmentFile;

impl SegmentFile {
    fn window(&self) -> Window {
        Window::new(Arc::clone(self.shared_file()), self.len())
    }
}
