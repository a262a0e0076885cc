//! Removing a journal that is no longer needed.

use std::io;
use std::path::Path;

use stratawal_storage::Storage;

use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::layout;

impl Journal {
    /// Removes the files of a journal, and the directory `dir` if nothing else is in it. Does
    /// nothing if there is no such directory. Only the process that writes the log may call this,
    /// once no record is needed. The removal is durable once `dir` and its parent are synced, which
    /// [`create`](Self::create) does.
    ///
    /// # Errors
    /// I/O; some of the files may be removed. That the directory stays is not an error.
    pub fn remove(storage: &dyn Storage, dir: &Path) -> Result<()> {
        let entries = match storage.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("list the directory"))?,
        };
        for entry in entries.iter().filter(|entry| layout::parse(&entry.name).is_some()) {
            storage.remove_file(&dir.join(&entry.name)).map_err(Error::io("remove a file"))?;
        }
        // Files with other names keep the directory. It means nothing without files of a journal.
        let _ = storage.remove_dir(dir);
        Ok(())
    }
}
