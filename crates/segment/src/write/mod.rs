//! Creates segments and writes to them.

mod create;
mod preallocation;
mod writer;

pub use create::{CreateError, create};
pub use preallocation::{CONTROL_RESERVE, Preallocation, active_len};
pub use writer::{ControlContext, SegmentWriter};
