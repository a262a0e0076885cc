//! The promises that mappings need. All unsafe code of the comparison is in this file.
//!
//! The files are in a directory that this process created for its own run, so no other program uses
//! them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut};

/// Maps a file for reading.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file is not shortened or changed while it is mapped: only this process uses it,
    // and its writers are done.
    unsafe { Mmap::map(file) }
}

/// Maps a file for writing.
pub(crate) fn map_mut(file: &File) -> io::Result<MmapMut> {
    // SAFETY: only this process uses the file, and it does not shorten it.
    unsafe { MmapMut::map_mut(file) }
}

/// Makes stratawal read through mappings.
pub(crate) fn map_reads(options: stratawal::Options) -> stratawal::Options {
    // SAFETY: only the library itself changes the log's files while it is open.
    unsafe { options.map_reads() }
}
