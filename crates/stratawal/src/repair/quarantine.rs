//! Copies the files that a repair may change.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_storage::{Access, FileType, Storage};

use crate::error::{ErrorKind, Result, io_error, log_error};

/// How many bytes are copied at a time.
const PIECE_LEN: usize = 1 << 20;

/// Copies `files` and every plain file in `dirs`, which are relative to the log, into the new
/// directory `to`. A directory that does not exist is left out. The copy is durable, and has its
/// name, when this returns.
pub(super) fn copy(
    system: &dyn Storage,
    log: &Arc<dyn Storage>,
    log_path: &Path,
    to: &Path,
    files: &[PathBuf],
    dirs: &[PathBuf],
) -> Result<()> {
    let mut partial = to.file_name().unwrap_or_default().to_owned();
    partial.push(".partial");
    let partial = to.with_file_name(partial);
    let failed = |e| {
        let text = format!(
            "nothing was changed, because the quarantine {} cannot be written; remove {}, if it exists, before the next try",
            to.display(),
            partial.display()
        );
        io_error(text, e)
    };
    if to.starts_with(log_path) {
        let text = format!("the quarantine {} must be outside of the log", to.display());
        return Err(log_error(ErrorKind::InvalidOption, text));
    }
    let Some(name) = to.file_name() else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    // A link that leads nowhere also has the name.
    let above = system.at(parent_of(to)).and_then(|above| above.list(Path::new(""))).map_err(failed)?;
    let exists = |name: Option<&OsStr>| above.iter().any(|entry| Some(&*entry.name) == name);
    let taken = |text: String| Err(log_error(ErrorKind::Io, format!("nothing was changed, because {text}")));
    if exists(Some(name)) {
        let text = "already exists; give another name for it, or try again in a second";
        return taken(format!("the quarantine {} {text}", to.display()));
    }
    if exists(partial.file_name()) {
        let text = "exists, from a repair that was interrupted; remove it, or give another name for the quarantine";
        return taken(format!("{} {text}", partial.display()));
    }
    copy_all(system, log, &partial, files, dirs).map_err(failed)?;
    system.rename(&partial, to).and_then(|()| system.sync_dir(parent_of(to))).map_err(failed)
}

fn copy_all(
    system: &dyn Storage,
    log: &Arc<dyn Storage>,
    to: &Path,
    files: &[PathBuf],
    dirs: &[PathBuf],
) -> io::Result<()> {
    let exists = |dir: &&PathBuf| !log.list(dir).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    let dirs: Vec<&PathBuf> = dirs.iter().filter(exists).collect();
    system.create_dir(to)?;
    let target = system.at(to)?;
    for dir in &dirs {
        for (i, ancestor) in ancestors(dir).iter().enumerate() {
            let is_last = i + 1 == dir.components().count();
            match target.create_dir(ancestor) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !is_last => {}
                created => created?,
            }
        }
        for entry in log.list(dir)? {
            // A link or a directory is not a file of the log. It is not followed, and only an empty
            // directory is ever removed.
            if entry.file_type == FileType::File {
                copy_file(log, &*target, &dir.join(&entry.name))?;
            }
        }
        target.sync_dir(dir)?;
    }
    for file in files {
        match copy_file(log, &*target, file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            copied => copied?,
        }
    }
    for dir in dirs {
        for ancestor in ancestors(dir) {
            target.sync_dir(&ancestor)?;
        }
    }
    target.sync_dir(Path::new(""))?;
    system.sync_dir(parent_of(to))
}

/// The directories of a relative path, outermost first, itself included.
fn ancestors(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        dir.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()).map(Path::to_owned).collect();
    all.reverse();
    all
}

fn copy_file(from: &Arc<dyn Storage>, to: &dyn Storage, path: &Path) -> io::Result<()> {
    let source = from.open(path, Access::Read)?;
    let target = to.create_new(path)?;
    let mut piece = vec![0; PIECE_LEN];
    let mut at = 0;
    loop {
        let len = match source.read_at(&mut piece, at) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if len == 0 {
            return target.sync_all();
        }
        target.write_all_at(&piece[..len], at)?;
        at += len as u64;
    }
}

/// The directory that a path is in.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
