//! The location of a stream on disk, and its name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_storage::Storage;

/// The location of a stream, and its name.
#[derive(Clone, Debug)]
pub struct Location {
    parent: PathBuf,
    dir_name: Arc<str>,
    name: Arc<str>,
}

impl Location {
    /// The stream in the directory `dir_name` of `parent`. The parent directory must exist; the
    /// stream's own directory need not.
    #[must_use]
    pub fn new(parent: impl Into<PathBuf>, dir_name: impl AsRef<str>) -> Self {
        let dir_name = Arc::<str>::from(dir_name.as_ref());
        Self { parent: parent.into(), name: dir_name.clone(), dir_name }
    }

    /// Sets the name of the stream in errors. Needed if the directory's name is an escaped form of
    /// it.
    #[must_use]
    pub fn named(mut self, name: impl AsRef<str>) -> Self {
        if *self.name != *name.as_ref() {
            self.name = Arc::<str>::from(name.as_ref());
        }
        self
    }

    /// The name of the stream in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    pub(crate) fn parent(&self) -> &Path {
        &self.parent
    }

    pub(crate) fn dir_name(&self) -> &str {
        &self.dir_name
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.parent.join(&*self.dir_name)
    }

    /// Whether the stream's directory exists.
    pub(crate) fn exists(&self, storage: &dyn Storage) -> io::Result<bool> {
        match storage.list(&self.dir()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
