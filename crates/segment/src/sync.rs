//! The one place of this crate that names the synchronisation primitives.

pub(crate) use std::sync::Arc;
