//! The promises that mappings ask for; all the unsafe code there is.
//!
//! The files lie in a folder that this process has made for its own run, and nobody else knows its
//! name.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut};

/// A file mapped for reading.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: nobody shortens or changes the file while it is mapped: only this process knows it,
    // and its writers are done.
    unsafe { Mmap::map(file) }
}

/// A file mapped for writing.
pub(crate) fn map_mut(file: &File) -> io::Result<MmapMut> {
    // SAFETY: only this process knows the file, and it is not shortened.
    unsafe { MmapMut::map_mut(file) }
}

/// stratawal's reads by mapping.
pub(crate) fn map_reads(options: stratawal::Options) -> stratawal::Options {
    // SAFETY: nobody but the library itself touches the log's files while it is open.
    unsafe { options.map_reads() }
}
