//! Opens a log for writing, or creates one.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use stratawal::{ErrorKind, Options, Wal, inspect};

use crate::Common;
use crate::failure::Failure;
use crate::terminal::note;

/// Opens a log for writing. Fails if it does not exist.
pub(crate) fn open_existing(common: &Common) -> Result<Wal, Failure> {
    drop(common.result(Options::new().open_read_only(&common.dir))?);
    open_with_its_journal(common)
}

/// Opens a log for writing, or creates it, with a commit journal. A log is created only where
/// nothing else is: in a new or an empty directory, outside of other logs.
pub(crate) fn open_or_create(common: &Common) -> Result<Wal, Failure> {
    match Options::new().open_read_only(&common.dir) {
        Err(error) if error.kind() == ErrorKind::Missing => {
            // A directory of another log is not free, but that error has a better remedy.
            if inspect::enclosing_log(&common.dir).is_none() {
                check_is_free(&common.dir)?;
            }
            common.result(Options::new().open(&common.dir))
        }
        _ => open_with_its_journal(common),
    }
}

/// Opens a log that exists. It stays with or without a journal, because a program that uses the log
/// may have chosen that.
fn open_with_its_journal(common: &Common) -> Result<Wal, Failure> {
    let has_journal = common.result(inspect::has_journal(&common.dir))?;
    common.result(Options::new().journal(has_journal).open(&common.dir))
}

/// Handles the result of closing the log after a command that has changed stream `name`. Damage to
/// another stream is only a note, because the command has done its work: the log and all other
/// streams are closed, and what the journal has of the damaged stream stays there.
pub(crate) fn closed(common: &Common, result: stratawal::Result<()>, name: &str) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == ErrorKind::Damaged && error.stream().is_some_and(|other| other != name) => {
            note(&format!(
                "not settled, so do not copy the log yet: {}",
                Failure::of_log(&common.dir, &error).message()
            ));
            Ok(())
        }
        result => common.result(result),
    }
}

/// Checks that a directory, if it exists, has no files of others.
fn check_is_free(dir: &Path) -> Result<(), Failure> {
    let Some(other) = other_file(dir) else { return Ok(()) };
    Err(Failure::not_a_log(dir, &other, "give the directory of a log, or a new or an empty one"))
}

/// Returns the name of a file because of which no log is created in the directory.
pub(crate) fn other_file(dir: &Path) -> Option<OsString> {
    // A directory that cannot be listed cannot be opened either, and that error has the remedy.
    let names = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
    names.into_iter().find(|name| !is_of_creation(dir, name))
}

/// Returns whether a file may be of a log whose creation was interrupted, or belongs to the file
/// system itself.
fn is_of_creation(dir: &Path, name: &OsStr) -> bool {
    match name.to_str() {
        Some("LOCK" | "lost+found") => true,
        Some("streams") => fs::read_dir(dir.join(name)).is_ok_and(|mut entries| entries.next().is_none()),
        Some(name) => name.starts_with(".tmp-FORMAT-"),
        None => false,
    }
}
